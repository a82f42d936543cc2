"""Have the planner's rounds compiled by another process meanwhile: on two cores an empty cache costs half the time.

Numba compiles one function at a time in a process, and keeps the machine code on disk, where this process then finds
it. Where nothing can be kept it is compiled here, later. Deliberately not here: what is compiled (`federation/app/kernels.py`).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def rounds_compiled_meanwhile() -> Iterator[None]:
    """While the body runs. Raises: CalledProcessError where the rounds do not compile."""
    words = [sys.executable, "-c", "from federation.app.kernels import warm_up; warm_up()"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as other:
        try:
            yield
        except BaseException:
            other.kill()
            raise
    if other.returncode:
        raise subprocess.CalledProcessError(other.returncode, words)
