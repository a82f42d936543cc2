"""What keeps a job's inputs from an agent, and how long it takes to bring there what does not lie there.

An input that lies at an agent, readable, costs nothing. To one that fetches, any other comes from where it comes soonest:
bytes / measured bandwidth + round trip, from an agent that is in touch, over a link that was measured, where the policy
lets the bytes leave (`policy/data.may_stage`) and their size is known. Whole milliseconds, rounded up; inputs come one
after the other. Deliberately not here: how long a job waits before its data is moved (`kernels/moving.py`), two transfers
that share a link, and what was brought before and still lies there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from federation.domain.hub import Dataset, LinkState
from federation.domain.plan import ReasonCode
from federation.policy.data import DataAccess, DataPolicy, may_read, may_stage
from federation.scheduling.fleet import Fleet
from federation.scheduling.kernels.room import Int64
from federation.scheduling.plan import STEP, Fetch
from federation.scheduling.rows import AgentRow, LinkRow

Steps = npt.NDArray[np.uint8]
Inputs = tuple[tuple[str, str], ...]
Links = Mapping[tuple[str, str], LinkRow]

TRANSFER_MS_MAX = 2**53
"""Of one input; what takes longer is said to take so long."""
INPUTS_REMEMBERED_MAX = 10_000
OPEN_OR_SILENT = (0, STEP[ReasonCode.HUB_SUSPECT])
"""Who is silent for a minute is not gone: a job may be better off waiting for it."""
_POLICIES = frozenset(DataAccess)


class Distances(NamedTuple):
    """One set of inputs, for the jobs of one hub."""

    steps: Steps
    """(A,) why they cannot be there; 0: they lie there or can come."""
    transfer_ms: Int64
    """(A,) how long it takes to bring them where the step is 0."""


class _Holder(NamedTuple):
    agent: int
    hub: int
    dataset: Dataset


def readable(dataset: Dataset, data_hub: str, job_hub: str) -> bool:
    """Whether a job of `job_hub` may read `dataset` where it lies; a policy nobody knows lets only its own hub."""
    if dataset.policy not in _POLICIES:
        return job_hub == data_hub
    policy = DataPolicy(DataAccess(dataset.policy), frozenset(dataset.readers))
    return may_read(policy, dataset_hub=data_hub, job_hub=job_hub, run_hub=data_hub).ok


def movable(dataset: Dataset, data_hub: str, job_hub: str, run_hub: str) -> bool:
    """Whether the bytes may come to `run_hub` for a job of `job_hub`; with a policy nobody knows they do not leave."""
    if dataset.policy not in _POLICIES:
        return data_hub == job_hub == run_hub
    policy = DataPolicy(DataAccess(dataset.policy), frozenset(dataset.readers))
    return may_stage(policy, dataset_hub=data_hub, job_hub=job_hub, run_hub=run_hub).ok


def takes_ms(size_bytes: int, link: LinkRow) -> int:
    """How long `size_bytes` take over a link: 1 to TRANSFER_MS_MAX."""
    return min(-(-size_bytes * 1_000 // link.bytes_per_s) + link.round_trip_ms, TRANSFER_MS_MAX)


class Transfers:
    """Over one set of agents and links."""

    def __init__(self, rows: Sequence[AgentRow] = (), fleet: Fleet | None = None, links: Links | None = None) -> None:
        self._rows = rows
        self._fleet = fleet or Fleet()
        self._fetching = np.asarray([row.fetches for row in rows], bool)
        self.any = bool(self._fetching.any())
        """Whether anybody fetches: otherwise a job runs only where its data lies."""
        self._links = links or {}
        self._rate, self._trip = self._measured()
        self._holders: dict[str, list[_Holder]] = {}
        self._lying: dict[str, dict[int, list[Dataset]]] = {}
        for agent, row in enumerate(rows):
            for entry in row.datasets:
                self._lying.setdefault(entry.name, {}).setdefault(agent, []).append(entry)
                if self.any and row.link is LinkState.ONLINE and entry.size_bytes:
                    holder = _Holder(agent, int(self._fleet.hub_of_agent[agent]), entry)
                    self._holders.setdefault(entry.name, []).append(holder)
        self._known: dict[tuple[str, Inputs], Distances] = {}
        self._allowed: dict[tuple[str, tuple[str, ...], int, str], npt.NDArray[np.bool_]] = {}

    def distances(self, job_hub: str, inputs: Inputs) -> Distances:
        """Where the inputs of a job of `job_hub` are, or can come; of several versions that will do one is enough."""
        known = self._known.get((job_hub, inputs))
        if known is None:
            if len(self._known) >= INPUTS_REMEMBERED_MAX:
                self._known.clear()
            steps, transfer_ms = np.zeros(len(self._rows), np.uint8), np.zeros(len(self._rows), np.int64)
            for name, version in inputs:
                of_input = self._distances_of(job_hub, name, version)
                steps = np.maximum(steps, of_input.steps)
                transfer_ms += of_input.transfer_ms
            known = self._known[job_hub, inputs] = Distances(steps, transfer_ms)
        return known

    def fetches(self, job_hub: str, inputs: Inputs, agent: int) -> tuple[Fetch, ...]:
        """What must come to an agent before such a job can run there, where `distances` says that it can."""
        found = []
        for name, version in inputs:
            lying = self._lying.get(name, {}).get(agent, ())
            if any(
                version in ("", entry.version) and readable(entry, self._rows[agent].key[0], job_hub) for entry in lying
            ):
                continue
            run_hub = self._rows[agent].key[0]
            soonest: list[tuple[int, str, str, int]] = []
            for holder in self._holders.get(name, ()):
                entry, data_hub = holder.dataset, self._rows[holder.agent].key[0]
                link = self._links.get((data_hub, run_hub))
                if link and version in ("", entry.version) and movable(entry, data_hub, job_hub, run_hub):
                    soonest.append((takes_ms(entry.size_bytes, link), data_hub, entry.version, entry.size_bytes))
            if soonest:
                transfer_ms, from_hub, brought, size_bytes = min(soonest)
                found.append(Fetch(name, brought, from_hub, size_bytes, transfer_ms))
        return tuple(found)

    def _distances_of(self, job_hub: str, name: str, version: str) -> Distances:
        """One input."""
        steps = np.full(len(self._rows), STEP[ReasonCode.DATA_ELSEWHERE], np.uint8)
        for agent, entries in self._lying.get(name, {}).items():
            lying = [entry for entry in entries if version in ("", entry.version)]
            if any(readable(entry, self._rows[agent].key[0], job_hub) for entry in lying):
                steps[agent] = 0
            elif lying:
                steps[agent] = STEP[ReasonCode.DATA_POLICY]
        soonest = np.full(len(self._fleet.hub_ids), TRANSFER_MS_MAX + 1, np.int64)
        for holder in self._holders.get(name, ()):
            if version in ("", holder.dataset.version):
                can = (self._rate[holder.hub] > 0) & self._may_come(holder, job_hub)
                soonest = np.where(can, np.minimum(soonest, self._times(holder)), soonest)
        times = soonest[self._fleet.hub_of_agent]
        comes = (steps != 0) & self._fetching & (times <= TRANSFER_MS_MAX)
        steps[comes] = 0
        return Distances(steps, np.where(comes, times, 0))

    def _times(self, holder: _Holder) -> Int64:
        """(H,) as `takes_ms`, from one holder to every hub; no value overflows (sizes and rates are 2**53 at most)."""
        size, rate = holder.dataset.size_bytes, np.maximum(self._rate[holder.hub], 1)
        whole = size // rate * 1_000
        rest = (size % rate * 1_000 + rate - 1) // rate
        times: Int64 = np.minimum(np.minimum(whole, TRANSFER_MS_MAX) + rest + self._trip[holder.hub], TRANSFER_MS_MAX)
        return times

    def _may_come(self, holder: _Holder, job_hub: str) -> npt.NDArray[np.bool_]:
        """(H,) the hubs that the policy lets the bytes come to."""
        policy = (holder.dataset.policy, holder.dataset.readers, holder.hub, job_hub)
        known = self._allowed.get(policy)
        if known is None:
            data_hub = self._fleet.hub_ids[holder.hub]
            allowed = [movable(holder.dataset, data_hub, job_hub, run_hub) for run_hub in self._fleet.hub_ids]
            known = self._allowed[policy] = np.asarray(allowed, bool)
        return known

    def _measured(self) -> tuple[Int64, Int64]:
        """Bytes a second and round trips (H, H), from row to column; 0 bytes a second: not measured."""
        hubs = self._fleet.hub_row
        shape = (len(hubs), len(hubs)) if self.any else (0, 0)
        rate, trip = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for (from_hub, to_hub), row in self._links.items() if self.any else ():
            if from_hub in hubs and to_hub in hubs:
                rate[hubs[from_hub], hubs[to_hub]] = row.bytes_per_s
                trip[hubs[from_hub], hubs[to_hub]] = row.round_trip_ms
        return rate, trip
