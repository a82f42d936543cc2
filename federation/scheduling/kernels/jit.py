"""How kernels are compiled, in one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])
njit = cast("Callable[..., Callable[[object], object]]", numba.njit)
"""Its types do not know of all its options."""


def kernel(function: F) -> F:
    """Compile on first use, keep the machine code on disk, run without the GIL. Errors are Python's: no checks inside."""
    return cast("F", njit(cache=True, nogil=True, error_model="numpy", _nrt=True)(function))


def lean(function: F) -> F:
    """A kernel that makes no array, not even a copy: numba then counts no references to those it is given.

    Counting is an atomic operation for every array of every tuple that is passed on or looked into; small kernels on
    tuples of many arrays spend three quarters of their time on it (measured on the index: 30 against 7 us).
    """
    return cast("F", njit(cache=True, nogil=True, error_model="numpy", _nrt=False)(function))


def part(function: F) -> F:
    """A lean kernel that only other kernels call: no way in from Python.

    The way in unpacks every array of every tuple, which for a tuple of eighty is more code than most kernels are.
    """
    only_code = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return cast("F", njit(cache=True, nogil=True, error_model="numpy", _nrt=False, **only_code)(function))


def inline(function: F) -> F:
    """A kernel that is written into its caller: what is called in one place only is compiled once so, not twice.

    Every kernel's code is optimised again as a part of each that calls it.
    """
    return cast("F", njit(cache=True, nogil=True, error_model="numpy", inline="always")(function))
