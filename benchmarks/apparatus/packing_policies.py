"""The policies that packing is held against, as kernels: FGD, BestFit, DotProd, as their published code scores.

Scores are integers 0 to 100, here as floats. They know nothing of the planner but its arrays (`kernels/room.py`).
Random needs no score. Deliberately not here: our own policy, which is the planner's (`kernels/score.py`), and the loop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from federation.scheduling.kernels.jit import lean
from federation.scheduling.kernels.room import DEVICE_MILLI, Float64, Int64, Nodes, Shapes, UInt64

CPU_MILLI_MOST = 128_000
GPU_MILLI_MOST = 8_000
"""What the published simulator divides by: its largest node."""


class Typical(NamedTuple):
    """FGD's typical pods, commonest first; (T,) each."""

    cpu: Int64
    milli: Int64
    devices: Int64
    kinds: UInt64
    frequency: Float64


def typical_pods(sorts: Sequence[tuple[tuple[int, int, int, int], int]]) -> Typical:
    """From ((cpu, milli, devices, kinds), count)."""
    total = sum(count for _, count in sorts)
    columns = np.array([sort[:3] for sort, _ in sorts], np.int64).reshape(-1, 3)
    kinds = np.array([sort[3] for sort, _ in sorts], np.uint64)
    frequency = np.array([count / total for _, count in sorts], np.float64)
    return Typical(columns[:, 0].copy(), columns[:, 1].copy(), columns[:, 2].copy(), kinds, frequency)


@lean
def fragmented_milli(typical: Typical, nodes: Nodes, node: int, cpu: int, levels: Int64) -> float:
    """F: expected milli that a typical pod cannot use on `node` with so much CPU and `levels` int64 (D,) free."""
    first = nodes.device_first[node]
    idle = 0
    for level in levels:
        idle += level
    expected = 0.0
    for at in range(typical.cpu.shape[0]):
        milli = typical.milli[at]
        able, stuck = 0, 0
        for device in range(levels.shape[0]):
            if levels[device] < milli:
                stuck += levels[device]
            elif (typical.kinds[at] >> np.uint64(nodes.device_kind[first + device])) & np.uint64(1):
                able += 1
        if milli == 0 or typical.cpu[at] > cpu or able < typical.devices[at]:
            stuck = idle
        expected += typical.frequency[at] * stuck
    return expected


@lean
def fgd_before(typical: Typical, nodes: Nodes, node: int) -> float:
    """F of `node` as it is."""
    levels = nodes.device_free[nodes.device_first[node] : nodes.device_first[node + 1]]
    return fragmented_milli(typical, nodes, node, nodes.free[node, 0], levels)


@lean
def fgd(
    typical: Typical, nodes: Nodes, shapes: Shapes, shape: int, node: int, before: float, scratch: Int64
) -> tuple[float, int]:
    """The best score, and the first device (a row) that has it; -1 where it is not a share.

    `scratch` int64 has room for the node's devices.
    """
    first, last = nodes.device_first[node], nodes.device_first[node + 1]
    levels = scratch[: last - first]
    for at in range(last - first):
        levels[at] = nodes.device_free[first + at]
    cpu = nodes.free[node, 0] - shapes.need[shape, 0]
    milli, wanted = shapes.milli[shape], shapes.devices[shape]
    best, chosen = -1.0, -1
    for device in range(levels.shape[0]):
        if milli == 0 or wanted == 0 or levels[device] < milli:
            continue
        if not (shapes.kinds[shape] >> np.uint64(nodes.device_kind[first + device])) & np.uint64(1):
            continue
        levels[device] -= milli
        if milli == DEVICE_MILLI:
            wanted -= 1
            continue
        score = _hundredths(before - fragmented_milli(typical, nodes, node, cpu, levels))
        levels[device] += milli
        if score > best:
            best, chosen = score, int(first) + device
    if chosen < 0:
        best = _hundredths(before - fragmented_milli(typical, nodes, node, cpu, levels))
    return best, chosen


@lean
def _hundredths(milli: float) -> float:
    """A sigmoid of GPUs, 0 to 100, rounded down."""
    return float(math.floor(100.0 / (1.0 + math.exp(-milli / 1000.0))))


@lean
def best_fit(nodes: Nodes, shapes: Shapes, shape: int, node: int) -> float:
    """The less is left the better. The published code then stretches the scores to 0..100: the best stays the best."""
    cpu = (nodes.free[node, 0] - shapes.need[shape, 0]) / CPU_MILLI_MOST
    gpu = (_gpu_milli(nodes, node) - shapes.milli[shape] * shapes.devices[shape]) / GPU_MILLI_MOST
    return float(math.trunc(100.0 * (1.0 - 0.5 * cpu - 0.5 * gpu)))


@lean
def dot_prod(nodes: Nodes, shapes: Shapes, shape: int, node: int) -> float:
    """The less what is free and what is asked for look alike the better."""
    cpu = nodes.free[node, 0] * shapes.need[shape, 0] / (CPU_MILLI_MOST * CPU_MILLI_MOST)
    gpu = _gpu_milli(nodes, node) * shapes.milli[shape] * shapes.devices[shape] / (GPU_MILLI_MOST * GPU_MILLI_MOST)
    return float(math.trunc(100.0 * (1.0 - (cpu + gpu) / 2.0)))


@lean
def _gpu_milli(nodes: Nodes, node: int) -> int:
    free = 0
    for device in range(nodes.device_first[node], nodes.device_first[node + 1]):
        free += nodes.device_free[device]
    return free
