"""How kernels are compiled, in one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def kernel(function: F) -> F:
    """Compile on first use, keep the machine code on disk, run without the GIL. Errors are Python's: no checks inside."""
    return cast("F", numba.njit(cache=True, nogil=True, error_model="numpy")(function))


def inline(function: F) -> F:
    """A kernel that is part of its callers' loops."""
    return cast("F", numba.njit(cache=True, nogil=True, error_model="numpy", inline="always")(function))
