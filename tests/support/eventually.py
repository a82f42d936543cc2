"""Waiting in tests without sleeping blindly: poll a condition until it holds or a deadline passes.

Not here: starting or stopping what is waited for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
POLL_S = 0.02


def eventually(check: Callable[[], T], timeout_s: float = 30.0, what: str = "") -> T:
    """Call `check` until it returns something truthy, and return that.

    `check` may raise AssertionError or LookupError to say "not yet"; other exceptions end the waiting at once.

    Args:
        check: asked again every 20 ms.
        timeout_s: how long to wait at most.
        what: what is waited for, in words, for the failure message.

    Raises:
        AssertionError: the deadline passed; with the last answer or the last complaint.
    """
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while True:
        last: object
        complaint: Exception | None = None
        try:
            answer = check()
            if answer:
                return answer
            last = repr(answer)
        except (AssertionError, LookupError) as error:
            complaint = error
            last = f"{type(error).__name__}: {error}"
        if time.monotonic() >= deadline:
            name = what or getattr(check, "__name__", "the condition")
            raise AssertionError(f"after {timeout_s:g} s still waiting for {name}; last answer: {last}") from complaint
        pause.wait(POLL_S)
