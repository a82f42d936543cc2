"""What the agent asks of an engine (Runner; adapters in `runners/`) and of its memory (RunJournal). Floor 2 of hub_node."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from hub_node.records import Run, Seen

RUNS_MAX = 10_000
"""A control plane that never releases anything must not fill a hub's disk."""
RELEASED_MAX = 10_000
"""Runs whose end is kept after their release: a control plane that is restored from a backup asks for it again."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """Everything a runner needs to start one run. All folders exist; inputs, package and environment are in place."""

    run: Run
    folder: Path
    """The attempt's own folder: log, guard files, scratch."""
    package: Path
    """The unpacked package, the program's working directory (writable, the attempt's own copy)."""
    output: Path
    checkpoint: Path
    log: Path
    """Standard output and error of the program, appended; the hub serves it by offset."""
    python: Path
    """The interpreter of the job's environment (the hub's own when it asked for nothing)."""
    variables: Mapping[str, str] = field(repr=False)
    """The program's whole environment, BRHUB_* included."""
    deadline_ms: int = 0
    """Wall-clock time at which the run is ended whatever else happens."""
    grace_ms: int = 10_000


class Phase(enum.StrEnum):
    """What a runner says when it is asked."""

    RUNNING = "RUNNING"
    ENDED = "ENDED"
    UNKNOWN = "UNKNOWN"
    """It could not be asked. Not an answer: ask again; unknown is not dead."""


@dataclass(frozen=True, slots=True)
class Status:
    """A runner's answer. `exit_code` and `message` mean something when ENDED; 0 is success."""

    phase: Phase
    exit_code: int = 0
    code: str = ""
    """A reason of ours, when it is one: RUNTIME_LIMIT, LEASE_RAN_OUT, OUT_OF_MEMORY, ENGINE_UNAVAILABLE, REBOOTED."""
    message: str = ""
    url: str = ""


class Runner(Protocol):
    """One run of one engine. `start` returns once the engine has it; nothing here blocks for the length of the run.

    `start` raises FederationError when the engine cannot take it. `stop` asks (SIGTERM, then after the attempt's grace
    SIGKILL) and returns at once; `poll` says when it is over. `save_state` returns JSON text from which a new process of the
    agent can `load_state` and go on polling and stopping.
    """

    def start(self, attempt: Attempt) -> None:
        """Begin."""

    def poll(self) -> Status:
        """What it is doing. Never raises for an engine that is silent: UNKNOWN."""

    def stop(self, grace_ms: int) -> None:
        """Ask it to end. Repeating is harmless."""

    def save_state(self) -> str:
        """JSON text."""

    def load_state(self, text: str) -> None:
        """Take up a run that an earlier process of the agent started."""

    def take_up(self, run: Run, folder: Path) -> bool:
        """The same where that process died before it could write its state down; False: it had begun nothing."""


@runtime_checkable
class Extendable(Protocol):
    """A runner whose engine holds the deadline itself (a guard), and so must hear of a renewed lease."""

    def extend(self, deadline_ms: int, lease_until_ms: int) -> None:
        """New wall-clock deadlines: of the runtime limit, which only comes nearer, and of the lease (0 for none)."""


class RunJournal(Protocol):
    """The agent's memory, which survives its crash: runs, and the newest orders that were carried out into it."""

    def load(self) -> dict[str, Run]:
        """All runs, by lease id."""

    def seen(self) -> Seen:
        """The newest orders carried out."""

    def released(self) -> tuple[Run, ...]:
        """Runs that were forgotten lately, newest first, without what they ran: how each ended."""

    def save(self, changed: Iterable[Run] = (), removed: Iterable[Run] = (), seen: Seen | None = None) -> None:
        """One transaction, on the disk when it returns. Raises: FederationError STORE_FULL, STORE_UNAVAILABLE."""
