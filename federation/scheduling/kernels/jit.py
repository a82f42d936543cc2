"""How kernels are compiled, in one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def kernel(function: F) -> F:
    """Compile on first use, keep the machine code on disk, run without the GIL. Errors are Python's: no checks inside."""
    return cast("F", numba.njit(cache=True, nogil=True, error_model="numpy", _nrt=True)(function))


def lean(function: F) -> F:
    """A kernel that makes no array, not even a copy: numba then counts no references to those it is given.

    Counting is an atomic operation for every array of every tuple that is passed on or looked into; small kernels on
    tuples of many arrays spend three quarters of their time on it (measured on the index: 30 against 7 us).
    """
    return cast("F", numba.njit(cache=True, nogil=True, error_model="numpy", _nrt=False)(function))


def inline(function: F) -> F:
    """A kernel that is part of its callers' loops."""
    return cast("F", numba.njit(cache=True, nogil=True, error_model="numpy", inline="always")(function))
