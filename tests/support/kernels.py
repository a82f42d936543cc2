"""Kernels that only other kernels can call, made callable. Compiled anew in each run: their callees change."""

from __future__ import annotations

import numba

from federation.scheduling.kernels import index as ix
from federation.scheduling.kernels.room import Float64, Int64, Nodes, Shapes
from federation.scheduling.kernels.score import Tables


@numba.njit(error_model="numpy")
def best_agent(
    index: ix.Index, nodes: Nodes, shapes: Shapes, tables: Tables, gang: tuple[int, int], opened: Int64,
    among: tuple[Int64, Float64],
) -> int:  # fmt: skip
    """`index.best_agent`, which is written into the kernel that asks."""
    return ix.best_agent(index, nodes, shapes, tables, gang, opened, among)
