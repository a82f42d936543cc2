"""The lifecycle's tables, by name: for the tests that walk them, for the coverage of the machine, for the diagrams."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from federation.domain.hub import HubState, LinkState
from federation.domain.job import JobState
from federation.domain.lease import LeaseState
from federation.lifecycle.agent import LINK_TABLE, SESSION_TABLE, LinkTrigger, SessionState, SessionTrigger
from federation.lifecycle.hub import HUB_TABLE, HubTrigger
from federation.lifecycle.job import JOB_TABLE, LEASE_TABLE, Trigger

Cell = tuple[str, str]
"""(state, event)."""


@dataclass(frozen=True)
class Machine:
    """One table, and where its thing begins."""

    name: str
    module: str
    attribute: str
    table: Mapping[Any, Mapping[Any, Any]]
    states: type[enum.StrEnum]
    events: tuple[enum.StrEnum, ...]
    """Those that can happen to such a thing at all."""
    first: enum.StrEnum
    begins: str
    """The event that makes one."""

    @property
    def cells(self) -> set[Cell]:
        """Every (state, event) that the table lists."""
        return {(state, event) for state, row in self.table.items() for event in row}


_OF_NO_LEASE = (Trigger.LEASE_GRANTED, Trigger.RETRY_REQUESTED, Trigger.CLAIM_MADE, Trigger.CLAIM_DROPPED)
_JOB, _AGENT, _HUB = "federation.lifecycle.job", "federation.lifecycle.agent", "federation.lifecycle.hub"

MACHINES = (
    Machine("job", _JOB, "JOB_TABLE", JOB_TABLE, JobState, tuple(Trigger), JobState.QUEUED, "JobSubmitted"),
    Machine(
        "lease",
        _JOB,
        "LEASE_TABLE",
        LEASE_TABLE,
        LeaseState,
        tuple(trigger for trigger in Trigger if trigger not in _OF_NO_LEASE),
        LeaseState.GRANTED,
        "LeaseGranted",
    ),
    Machine("hub", _HUB, "HUB_TABLE", HUB_TABLE, HubState, tuple(HubTrigger), HubState.ACTIVE, "HubJoined"),
    Machine("link", _AGENT, "LINK_TABLE", LINK_TABLE, LinkState, tuple(LinkTrigger), LinkState.ONLINE, "SessionOpened"),
    Machine(
        "session",
        _AGENT,
        "SESSION_TABLE",
        SESSION_TABLE,
        SessionState,
        tuple(SessionTrigger),
        SessionState.NONE,
        "AgentArrived",
    ),
)


class _Row(dict[Any, Any]):
    """A row that notes which of its cells are looked up."""

    def __init__(self, state: str, row: Mapping[Any, Any], used: set[Cell]) -> None:
        super().__init__(row)
        self._state, self._used = state, used

    def __getitem__(self, event: Any) -> Any:
        self._used.add((self._state, event))
        return super().__getitem__(event)


@contextlib.contextmanager
def used_cells() -> Iterator[Mapping[str, set[Cell]]]:
    """By table: the cells that the code has stepped by since."""
    used: dict[str, set[Cell]] = {machine.name: set() for machine in MACHINES}
    with pytest.MonkeyPatch.context() as patch:
        for machine in MACHINES:
            noting = {state: _Row(state, row, used[machine.name]) for state, row in machine.table.items()}
            patch.setattr(f"{machine.module}.{machine.attribute}", noting)
        yield used
