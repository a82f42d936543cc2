"""Live leases as columns: whose agent gives how much room back, and when."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from federation.scheduling.fleet import COLUMNS, Fleet, grown
from federation.scheduling.kernels.room import Int64
from federation.scheduling.rows import LeaseRow

NOWHERE = -1


class Endings(NamedTuple):
    """Leases (E) by agent, then by end, then in no order that matters."""

    first: Int64
    """(A + 1,) each agent's first."""
    ends_ms: Int64
    amounts: Int64
    """(E, T)"""


class LeaseTable:
    """Leases by slot; slots are reused. A lease at an agent that is not there gives nothing back."""

    def __init__(self) -> None:
        self._slots: dict[str, int] = {}
        self._spare: list[int] = []
        self._agent: Int64 = np.zeros(0, np.int64)
        self._ends_ms: Int64 = np.zeros(0, np.int64)
        self._amounts: Int64 = np.zeros((0, len(COLUMNS)), np.int64)
        self._endings: Endings | None = None

    def put(self, lease: LeaseRow, fleet: Fleet) -> None:
        """It holds room, or its end moved."""
        slot = self._slots.get(lease.lease_id)
        if slot is None:
            slot = self._spare.pop() if self._spare else len(self._slots)
            self._slots[lease.lease_id] = slot
            if slot >= len(self._agent):
                room = max(1024, 2 * slot)
                self._agent, self._ends_ms = grown(self._agent, room), grown(self._ends_ms, room)
                self._amounts = grown(self._amounts, room)
        self._write(slot, lease, fleet)
        self._endings = None

    def remove(self, lease_id: str) -> None:
        """It holds nothing any more."""
        slot = self._slots.pop(lease_id)
        self._agent[slot] = NOWHERE
        self._spare.append(slot)
        self._endings = None

    def look_at(self, leases: Iterable[LeaseRow], fleet: Fleet) -> None:
        """Agents changed."""
        for lease in leases:
            self._write(self._slots[lease.lease_id], lease, fleet)
        self._endings = None

    def endings(self, fleet: Fleet) -> Endings:
        """By agent and end."""
        if self._endings is None:
            live = np.flatnonzero(self._agent[: len(self._slots) + len(self._spare)] != NOWHERE)
            order = live[np.lexsort((self._ends_ms[live], self._agent[live]))]
            first = np.searchsorted(self._agent[order], np.arange(len(fleet.keys) + 1)).astype(np.int64)
            self._endings = Endings(first, self._ends_ms[order], self._amounts[order])
        return self._endings

    def _write(self, slot: int, lease: LeaseRow, fleet: Fleet) -> None:
        agent = fleet.index.get(lease.key, NOWHERE)
        self._agent[slot], self._ends_ms[slot] = agent, lease.expires_ms
        if agent != NOWHERE:
            there = sum(name in fleet.node_row[agent] for name in lease.nodes)
            shape = fleet.shapes.id_of(lease.per_task)
            self._amounts[slot] = fleet.shapes.totals[shape] * there
