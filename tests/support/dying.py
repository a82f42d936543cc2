"""Work that is killed at its first step, then, begun again, at its next, and so on until it comes to its end.

The program of a test says what the work and its steps are (`work_killed_at_each`); the test looks after each try (`each_try`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]

Hook = Callable[[Callable[..., None]], None]
"""Has the given function called at every step of the work."""


def each_try(program: str, *words: str) -> Iterator[int]:
    """The status of each try in `program` (0 or SIGKILL); the next one begins when it is asked for."""
    with subprocess.Popen(
        [sys.executable, "-c", program, *words],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        for line in process.stdout:
            yield int(line)
            process.stdin.write("\n")
            process.stdin.flush()
    assert process.returncode == 0


def work_killed_at_each(work: Callable[[], object], hook: Hook, every: int = 1) -> None:
    """Try the work until it is done, killed at one in `every` of its steps; after each try say how, and wait for a line."""
    number, status = 0, int(signal.SIGKILL)
    while status:
        number += every
        child = os.fork()
        if child == 0:
            try:
                hook(_death_at(number))
                work()
            finally:
                os._exit(1 if sys.exc_info()[0] else 0)
        status = os.waitpid(child, 0)[1]
        assert status in (0, signal.SIGKILL), f"step {number}: {status}"
        print(status, flush=True)
        sys.stdin.readline()


def calls(*places: tuple[Any, str]) -> Hook:
    """The steps are the calls of these: (owner, name)."""

    def hook(step: Callable[..., None]) -> None:
        for owner, name in places:
            setattr(owner, name, _after(step, getattr(owner, name)))

    return hook


def _after(step: Callable[..., None], method: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        step()
        return method(*arguments, **named)

    return call


def _death_at(number: int) -> Callable[..., None]:
    left = number

    def step(*_: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return step
