"""What a run's thread tells the state thread: past tense, frozen."""

from __future__ import annotations

from dataclasses import dataclass

from hub_node.records import Outcome, OutputFile, Reason


@dataclass(frozen=True, slots=True)
class Progressed:
    """Preparation goes on, or the result is on its way."""

    lease_id: str
    progress: str


@dataclass(frozen=True, slots=True)
class Started:
    """The engine has it."""

    lease_id: str
    started_ms: int
    runner_state: str
    boot_id: str
    tracking_run_id: str = ""


@dataclass(frozen=True, slots=True)
class Moved:
    """Where it can be looked at, or what its runner must remember, is new."""

    lease_id: str
    runner_state: str
    url: str


@dataclass(frozen=True, slots=True)
class ProgramEnded:
    """The program ended well; its result is still to be sent."""

    lease_id: str
    outcome: Outcome
    ended_ms: int
    outputs: tuple[OutputFile, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """The run is over, with its result stored where there is one."""

    lease_id: str
    outcome: Outcome
    reason: Reason | None
    exit_code: int
    ended_ms: int


Fact = Progressed | Started | Moved | ProgramEnded | Ended
