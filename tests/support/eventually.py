"""Waiting in tests: ask again until it is so, or say what was seen last.

Nothing sleeps in a test; this is the one place that waits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_S = 0.05


def eventually(check: Callable[[], T], timeout_s: float = 30.0) -> T:
    """The first true answer of `check`, asked until `timeout_s` is over; an AssertionError with the last answer after."""
    deadline = time.monotonic() + timeout_s
    while not (answer := check()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not so within {timeout_s} s; the last answer was {answer!r}")
        threading.Event().wait(POLL_S)
    return answer
