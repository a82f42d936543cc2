"""Engines that run nothing, each named by its failure: for tests and benchmarks, only where a hub's file says `fake = true`.

The entrypoint chooses one: `succeeds`, `exits-3`, `never-ends`, `fails-to-start`, `hangs-on-stop`, `dies-silently`,
`succeeds-after-N` (milliseconds). BRHUB_FAKE_TRACE names a file that gets one JSON line as `start` is entered.
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

from federation.errors import Code, Fault, FederationError, invalid
from hub_node.ports import Attempt, Phase, Status
from hub_node.records import Run

TRACE = "BRHUB_FAKE_TRACE"
_RUNNING = Status(Phase.RUNNING)


class SucceedsRunner:
    """Over as soon as it is asked."""

    def __init__(self) -> None:
        self._stopped = False

    def start(self, attempt: Attempt) -> None:
        """Tell the trace, and be done."""
        start_ns = time.monotonic_ns()
        if path := os.environ.get(TRACE):
            line = json.dumps({"job_id": attempt.run.lease.job_id, "start_ns": start_ns}) + "\n"
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)

    def poll(self) -> Status:
        """How it is going."""
        return Status(Phase.ENDED, 143, "STOPPED", "It was asked to end.") if self._stopped else self.unstopped()

    def unstopped(self) -> Status:
        """How it is going while nobody has asked it to end."""
        return Status(Phase.ENDED)

    def stop(self, grace_ms: int) -> None:
        """End at once, whatever the grace."""
        self._stopped = grace_ms >= 0

    def save_state(self) -> str:
        """Nothing outlives this process but the fact."""
        return json.dumps({"fake": type(self).__name__})

    def load_state(self, text: str) -> None:
        """A fake does not survive its agent: it is as it was made."""
        json.loads(text)

    def take_up(self, run: Run, folder: Path) -> bool:
        """For the same reason there is nothing to find."""
        del run, folder
        return False


class ExitsThreeRunner(SucceedsRunner):
    """Fails with a status of its own."""

    def unstopped(self) -> Status:
        """Exit status 3."""
        return Status(Phase.ENDED, 3)


class NeverEndsRunner(SucceedsRunner):
    """Runs until it is stopped."""

    def unstopped(self) -> Status:
        """Running."""
        return _RUNNING


class FailsToStartRunner(SucceedsRunner):
    """The engine does not take it."""

    def start(self, attempt: Attempt) -> None:
        """Refuse."""
        super().start(attempt)
        raise FederationError(
            Code.ENGINE_UNAVAILABLE,
            "The fake engine takes nothing.",
            fault=Fault.HUB,
            hint="Choose another entrypoint.",
        )


class HangsOnStopRunner(NeverEndsRunner):
    """Does not hear that it should end, until it is told twice."""

    def __init__(self) -> None:
        super().__init__()
        self._asked = 0

    def stop(self, grace_ms: int) -> None:
        """Only the second request counts."""
        self._asked += 1
        if self._asked > 1:
            super().stop(grace_ms)


class DiesSilentlyRunner(SucceedsRunner):
    """Gives no answer three times; then it turns out that its engine is gone."""

    def __init__(self) -> None:
        super().__init__()
        self._asked = 0

    def unstopped(self) -> Status:
        """UNKNOWN, then ended by nobody knows what."""
        self._asked += 1
        if self._asked <= 3:
            return Status(Phase.UNKNOWN)
        return Status(Phase.ENDED, 1, "ENGINE_UNAVAILABLE", "Its engine went away.")


class SucceedsAfterRunner(SucceedsRunner):
    """Over after a time."""

    def __init__(self, after_ms: int) -> None:
        super().__init__()
        self._after_ms = after_ms
        self._until_ns = 0

    def start(self, attempt: Attempt) -> None:
        """Start the clock."""
        super().start(attempt)
        self._until_ns = time.monotonic_ns() + self._after_ms * 1_000_000

    def unstopped(self) -> Status:
        """Running until the time is over."""
        return _RUNNING if time.monotonic_ns() < self._until_ns else Status(Phase.ENDED)


_VARIANTS: dict[str, type[SucceedsRunner]] = {
    "succeeds": SucceedsRunner,
    "exits-3": ExitsThreeRunner,
    "never-ends": NeverEndsRunner,
    "fails-to-start": FailsToStartRunner,
    "hangs-on-stop": HangsOnStopRunner,
    "dies-silently": DiesSilentlyRunner,
}


def fake_runner(entrypoint: str) -> SucceedsRunner:
    """The fake that an entrypoint names. Raises: FederationError INVALID_ARGUMENT."""
    if found := re.fullmatch(r"succeeds-after-([0-9]{1,7})", entrypoint):
        return SucceedsAfterRunner(int(found[1]))
    if entrypoint not in _VARIANTS:
        raise invalid(
            f"There is no fake {entrypoint[:80]!r}.",
            hint=f"Use one of {', '.join(sorted(_VARIANTS))} or succeeds-after-MILLISECONDS.",
            entrypoint=entrypoint[:80],
        )
    return _VARIANTS[entrypoint]()
