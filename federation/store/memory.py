"""State and facts in plain dictionaries: for the simulator and for tests, under the same contract as the SQL store.

Nothing survives the process, and nothing here pretends to: there is no file, no fsync and no full disk. Everything
else (rollback, uniqueness, gapless seqs, paging) is the same, held to it by `tests/contract/test_store.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from federation.domain.hub import Agent, Hub
from federation.domain.ids import AgentKey, HubId, JobId, LeaseId
from federation.domain.job import Job, JobState
from federation.domain.lease import Lease
from federation.domain.usage import UsageInterval
from federation.errors import Code, Fault, FederationError
from federation.ports import (
    DAY_MS,
    STORE_ENTITY,
    EventMark,
    EventRow,
    JobFilter,
    Loaded,
    Page,
    RequestRow,
    Transaction,
    UsedRow,
)
from federation.store import faults

R = TypeVar("R", Job, Lease)


@dataclasses.dataclass(slots=True)
class Tables:
    """What is committed, or what one transaction wants to add to it."""

    jobs: dict[str, Job] = dataclasses.field(default_factory=dict)
    leases: dict[str, Lease] = dataclasses.field(default_factory=dict)
    hubs: dict[HubId, Hub] = dataclasses.field(default_factory=dict)
    agents: dict[AgentKey, Agent] = dataclasses.field(default_factory=dict)
    requests: dict[tuple[str, str], RequestRow] = dataclasses.field(default_factory=dict)
    usage: dict[str, dict[int, UsageInterval]] = dataclasses.field(default_factory=dict)
    events: list[EventRow] = dataclasses.field(default_factory=list)
    incarnation: int = 1
    store_id: str = "memory"
    removed_events: frozenset[int] = frozenset()
    """By one transaction."""
    live_jobs: dict[str, Job] = dataclasses.field(default_factory=dict)
    live_leases: dict[str, Lease] = dataclasses.field(default_factory=dict)
    """Of those above, what is not over."""
    events_by: dict[tuple[str, str], list[EventRow]] = dataclasses.field(default_factory=dict)
    """The first `indexed` events by what they are about: as far as somebody has asked."""
    indexed: int = 0

    @property
    def last_seq(self) -> int:
        """Of the newest fact, which is never removed."""
        return self.events[-1].seq if self.events else 0

    def copied(self) -> Tables:
        """The same rows, to be changed by themselves."""
        return Tables(
            dict(self.jobs),
            dict(self.leases),
            dict(self.hubs),
            dict(self.agents),
            dict(self.requests),
            dict(self.usage),  # each lease's stretches are replaced as a whole
            list(self.events),
            self.incarnation,
            self.store_id,
            live_jobs=dict(self.live_jobs),
            live_leases=dict(self.live_leases),
        )

    def events_of(self, entity: str, entity_id: str) -> Sequence[EventRow]:
        """The facts of one thing, oldest first."""
        for row in self.events[self.indexed :]:
            self.events_by.setdefault((row.entity, row.entity_id), []).append(row)
        self.indexed = len(self.events)
        return self.events_by.get((entity, entity_id), ())


class MemoryTransaction:
    """Writes of one commit; see `ports.Transaction`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._committed = store.tables
        self._new = Tables()
        self._over: FederationError | None = None
        self.done = False

    def append_events(self, rows: Sequence[EventRow]) -> int:
        """Add facts; their first seq."""
        self._check()
        first = (self._new.last_seq or self._committed.last_seq) + 1
        self._new.events += [
            dataclasses.replace(row, seq=seq, incarnation=self._committed.incarnation)
            for seq, row in enumerate(rows, first)
        ]
        return first

    def put_jobs(self, jobs: Sequence[Job]) -> None:
        """Insert or replace by id. A job's owner, spec and spec bytes are those of its first row."""
        self._check()
        for job in jobs:
            first = self._new.jobs.get(job.id) or self._committed.jobs.get(job.id)
            self._new.jobs[job.id] = job if first is None else _with_fixed_parts(job, first)

    def put_leases(self, leases: Sequence[Lease]) -> None:
        """Insert or replace by id."""
        self._check()
        self._new.leases.update((lease.id, lease) for lease in leases)

    def put_hubs(self, hubs: Sequence[Hub]) -> None:
        """Insert or replace by id."""
        self._check()
        self._new.hubs.update((hub.id, hub) for hub in hubs)

    def put_agents(self, agents: Sequence[Agent]) -> None:
        """Insert or replace by (hub, agent)."""
        self._check()
        self._new.agents.update((agent.key, agent) for agent in agents)

    def put_requests(self, rows: Sequence[RequestRow]) -> None:
        """Insert. Error: REQUEST_ID_REUSED for a (principal, request_id) that is there."""
        self._check()
        for row in rows:
            key = (row.principal, row.request_id)
            if key in self._committed.requests or key in self._new.requests:
                raise self._end(faults.request_reused())
            self._new.requests[key] = row

    def put_usage(self, intervals: Sequence[UsageInterval]) -> None:
        """Insert; a (lease, index) that is there already is left alone."""
        self._check()
        for interval in intervals:
            self._new.usage.setdefault(interval.lease_id, {}).setdefault(interval.index, interval)

    def remove_events(self, seqs: Sequence[int]) -> None:
        """Remove facts for good, never the newest."""
        self._check()
        assert not seqs or max(seqs) < (self._new.last_seq or self._committed.last_seq), "the newest fact stays"
        self._new.removed_events |= frozenset(seqs)

    def commit(self) -> None:
        """Visible when this returns."""
        self._check()
        for lease in self._new.leases.values():
            if lease.job_id not in self._committed.jobs and lease.job_id not in self._new.jobs:
                raise self._end(
                    FederationError(
                        Code.INTERNAL,
                        f"the store refused a row that breaks its own rules: lease {lease.id} has no job",
                        fault=Fault.FEDERATION,
                        hint="This is a mistake in the control plane; please report it.",
                    )
                )
        self._store.apply(self._new)
        self.done = True

    def _end(self, error: FederationError) -> FederationError:
        self._over = error
        return error

    def _check(self) -> None:
        assert not self.done, "a committed transaction takes no more writes"
        if self._over is not None:
            raise self._over


def _with_fixed_parts(job: Job, first: Job) -> Job:
    if job.spec is first.spec and job.spec_bytes is first.spec_bytes and job.owner is first.owner:
        return job
    return dataclasses.replace(
        job,
        owner=first.owner,
        spec=first.spec,
        spec_bytes=first.spec_bytes,
        created_ms=first.created_ms,
        parent_job_id=first.parent_job_id,
    )


class MemoryStore:
    """A store in this process's memory; see `ports.Store`."""

    def __init__(self) -> None:
        self.tables = Tables()
        """What is committed."""
        self._lock = threading.Lock()
        self._writing = False

    def load(self, *, waiting: bool = True) -> Loaded:
        """Everything live, or all but the jobs that wait and have no claim."""
        with self._lock:
            tables = self.tables
            jobs = list(tables.live_jobs.values())
            jobs = [job for job in jobs if waiting or job.state is not JobState.QUEUED or job.claim is not None]
            return Loaded(
                incarnation=tables.incarnation,
                last_seq=tables.last_seq,
                jobs=tuple(sorted(jobs, key=lambda job: (job.queue_seq, job.id))),
                leases=tuple(sorted(tables.live_leases.values(), key=lambda lease: lease.id)),
                hubs=tuple(tables.hubs[hub_id] for hub_id in sorted(tables.hubs)),
                agents=tuple(tables.agents[key] for key in sorted(tables.agents)),
                store_id=tables.store_id,
                restored=_restored(tables),
            )

    @contextlib.contextmanager
    def begin(self) -> Iterator[Transaction]:
        """A transaction; leaving the block without `commit` forgets it."""
        with self.writing():
            yield MemoryTransaction(self)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction at a time."""
        assert not self._writing, "one transaction at a time"
        self._writing = True
        try:
            yield
        finally:
            self._writing = False

    def apply(self, new: Tables) -> None:
        """Make a transaction's writes visible, all at once."""
        with self._lock:
            tables = self.tables
            tables.jobs.update(new.jobs)
            tables.leases.update(new.leases)
            for job in new.jobs.values():
                _keep_live(tables.live_jobs, job, not job.state.terminal)
            for lease in new.leases.values():
                _keep_live(tables.live_leases, lease, lease.live)
            tables.hubs.update(new.hubs)
            tables.agents.update(new.agents)
            tables.requests.update(new.requests)
            for lease_id, intervals in new.usage.items():
                tables.usage[lease_id] = {**intervals, **tables.usage.get(lease_id, {})}
            tables.events.extend(new.events)
            if new.removed_events:
                tables.events = [row for row in tables.events if row.seq not in new.removed_events]
                tables.events_by, tables.indexed = {}, 0

    def find_requests(self, keys: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], RequestRow]:
        """Those of the (principal, request_id) that were answered."""
        with self._lock:
            return {key: self.tables.requests[key] for key in keys if key in self.tables.requests}

    def get_job(self, job_id: str) -> Job | None:
        """One job, also a terminal one."""
        with self._lock:
            return self.tables.jobs.get(JobId(job_id))

    def get_lease(self, lease_id: LeaseId) -> Lease | None:
        """One lease, also an ended one."""
        with self._lock:
            return self.tables.leases.get(lease_id)

    def list_jobs(self, where: JobFilter, before_seq: int, limit: int) -> Page:
        """Jobs with queue_seq below `before_seq` (0: from the newest)."""
        assert limit > 0, "a page shows at least one job"
        with self._lock:
            every = list(self.tables.jobs.values())
        shown = [job for job in every if (not before_seq or job.queue_seq < before_seq) and _matches(job, where)]
        shown.sort(key=lambda job: (job.queue_seq, job.id), reverse=True)
        return Page(tuple(shown[:limit]), shown[limit - 1].queue_seq if len(shown) > limit else 0)

    def count_jobs(self) -> Mapping[JobState, int]:
        """How many in each state; states without a job are left out."""
        with self._lock:
            return dict(Counter(job.state for job in self.tables.jobs.values()))

    def events_of(self, entity: str, entity_id: str, limit: int) -> tuple[EventRow, ...]:
        """The facts of one thing, oldest first."""
        with self._lock:
            return tuple(self.tables.events_of(entity, entity_id)[:limit])

    def event_marks(self, after_seq: int, limit: int) -> Sequence[EventMark]:
        """Of the facts after that seq, in order."""
        with self._lock:
            found = [row for row in self.tables.events if row.seq > after_seq][:limit]
            return tuple(self._mark(row) for row in found)

    def _mark(self, row: EventRow) -> EventMark:
        job_id = row.entity_id if row.entity == "job" else ""
        lease = self.tables.leases.get(row.entity_id) if row.entity == "lease" else None
        job = self.tables.jobs.get(lease.job_id if lease is not None else JobId(job_id))
        if job is None:
            return EventMark(row.seq, row.at_ms, row.entity, row.type)
        return EventMark(row.seq, row.at_ms, row.entity, row.type, job.id, job.state, job.state_since_ms)

    def usage_of(self, lease_id: LeaseId) -> tuple[UsageInterval, ...]:
        """The stretches of one lease, by index."""
        with self._lock:
            intervals = self.tables.usage.get(lease_id, {})
            return tuple(intervals[index] for index in sorted(intervals))

    def used_since(self, moment_ms: int) -> Sequence[UsedRow]:
        """What was used in stretches that ended since then, by lease and day."""
        found: dict[tuple[str, int], tuple[int, int]] = {}
        with self._lock:
            tables = self.tables
            for lease_id, intervals in tables.usage.items():
                if lease_id not in tables.leases:
                    continue
                for one in intervals.values():
                    if one.end_ms >= moment_ms:
                        key = (lease_id, one.end_ms // DAY_MS)
                        used_ms, end_ms = found.get(key, (0, 0))
                        found[key] = (used_ms + one.end_ms - one.start_ms, max(one.end_ms, end_ms))
            rows = []
            for lease_id, day in sorted(found):
                lease = tables.leases[lease_id]
                rows.append(UsedRow(lease, tables.jobs[lease.job_id].owner, *found[lease_id, day]))
            return tuple(rows)

    def close(self) -> None:
        """Nothing to give back; what was stored stays readable as long as somebody holds this object."""


def _keep_live(live: dict[str, R], row: R, lives: bool) -> None:
    if lives:
        live[row.id] = row
    else:
        live.pop(row.id, None)


def _restored(tables: Tables) -> EventRow | None:
    """The fact that began this incarnation; the first one has none."""
    if tables.incarnation == 1:
        return None
    return next(iter(tables.events_of(STORE_ENTITY, str(tables.incarnation))), None)


def _matches(job: Job, where: JobFilter) -> bool:
    return (
        (not where.states or job.state in where.states)
        and (not where.project or job.owner.project == where.project)
        and (not where.hub_id or job.hub_id == where.hub_id)
        and (where.owner is None or (job.owner.issuer, job.owner.subject) == where.owner)
        and (not where.job_ids or job.id in where.job_ids)
    )
