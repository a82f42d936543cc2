"""`PlannerState`: what the planner remembers between rounds, and how a `Delta` changes it.

Three parts: the rows by id; arrays of what each node offers and has free, in a `Grid`; and tallies (the queue by owner
and sort of job, what each owner holds and has used). A state is consumed by `plan_round` and comes back changed: keep
only the returned one, and ask it (`explain`) from the thread that runs the rounds. It never holds decisions: what a
plan placed counts once its lease is in a delta. Deliberately not here: any order or placement.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field

from federation.domain.ids import AgentKey
from federation.scheduling.checks import check_delta, held_of
from federation.scheduling.demand import DemandClass, Feasibility
from federation.scheduling.grid import Grid
from federation.scheduling.plan import DemandKey, Plan, demand_key
from federation.scheduling.rows import AgentRow, Delta, LeaseRow, OwnerKey, QueuedJob, UsageRow

Tally = dict[str, int]
"""Amount by resource name, kinds together."""
Level = tuple[str, ...]
"""(hub,), (hub, project) or (hub, project, user)."""
LEVELS = 3
Line = list[tuple[int, str]]
"""One owner's waiting jobs of one sort: (seq, job id) ascending."""


@dataclass(slots=True)
class PlannerState:
    """See the module. Fields are read by the other modules of this room; only `apply` writes them."""

    agents: dict[AgentKey, AgentRow] = field(default_factory=dict)
    jobs: dict[str, QueuedJob] = field(default_factory=dict)
    leases: dict[str, LeaseRow] = field(default_factory=dict)
    lease_of_job: dict[str, str] = field(default_factory=dict)
    queue: dict[int, dict[OwnerKey, dict[DemandKey, Line]]] = field(default_factory=dict)
    """By priority, owner and sort; empty branches are cut."""
    held: dict[Level, Tally] = field(default_factory=dict)
    """What live leases hold, at each level of the hierarchy."""
    used: dict[Level, Tally] = field(default_factory=dict)
    """Closed use so far, amount x ms, at each level."""
    offered_totals: Tally = field(default_factory=dict)
    held_totals: Tally = field(default_factory=dict)
    grid: Grid = field(default_factory=Grid)
    feasibility: Feasibility = field(default_factory=Feasibility)
    classes: dict[DemandKey, DemandClass] = field(default_factory=dict)
    stuck: set[DemandKey] = field(default_factory=set)
    """Sorts known not to fit what is free now; emptied whenever something becomes free."""
    last_plan: Plan = field(default_factory=lambda: Plan(at_ms=0))

    def apply(self, delta: Delta) -> None:
        """Bring the state up to date. Errors: a bad row, with its index; then nothing has changed."""
        check_delta(self, delta)
        for lease_id in delta.leases_ended:
            self._end_lease(lease_id)
        for job_id in delta.dequeued:
            self._dequeue(job_id)
        self._change_agents(delta)
        for lease in delta.leases_started:
            self._start_lease(lease)
        for job in delta.queued:
            self._dequeue(job.job_id)
            self._enqueue(job)
        for usage in delta.usage:
            self._add_usage(usage)

    def full(self) -> Delta:
        """Everything as one delta: applied to an empty state it gives an equal one."""
        return Delta(
            agents=tuple(self.agents[key] for key in sorted(self.agents)),
            queued=tuple(self.jobs[key] for key in sorted(self.jobs)),
            leases_started=tuple(self.leases[key] for key in sorted(self.leases)),
            usage=tuple(
                UsageRow(level[0], level[1], level[2], tuple(sorted(tally.items())))
                for level, tally in sorted(self.used.items())
                if len(level) == LEVELS
            ),
        )

    def class_of(self, job_id: str) -> DemandKey:
        """The sort of a waiting job."""
        return demand_key(self.jobs[job_id])

    # -- the queue ----------------------------------------------------------------------------------------------------
    def _enqueue(self, job: QueuedJob) -> None:
        self.jobs[job.job_id] = job
        key = demand_key(job)
        known = self.classes.get(key)
        if known is None:
            known = self.classes[key] = DemandClass(key)
        known.jobs += 1
        line = self.queue.setdefault(job.priority, {}).setdefault(job.owner, {}).setdefault(known.key, [])
        bisect.insort(line, (job.seq, job.job_id))

    def _dequeue(self, job_id: str) -> None:
        job = self.jobs.pop(job_id, None)
        if job is None:
            return
        key = demand_key(job)
        owners = self.queue[job.priority]
        lines = owners[job.owner]
        line = lines[key]
        del line[bisect.bisect_left(line, (job.seq, job_id))]
        if not line:
            del lines[key]
            if not lines:
                del owners[job.owner]
                if not owners:
                    del self.queue[job.priority]
        known = self.classes[key]
        known.jobs -= 1
        if not known.jobs:
            del self.classes[key]
            self.stuck.discard(key)

    # -- agents -------------------------------------------------------------------------------------------------------
    def _change_agents(self, delta: Delta) -> None:
        changed = False
        for key in delta.agents_removed:
            row = self.agents.pop(key, None)
            if row is not None:
                self._count_offered(row, -1)
                changed = True
        for row in delta.agents:
            before = self.agents.get(row.key)
            self.agents[row.key] = row
            if before is not None and before.matters == row.matters:
                continue
            if before is not None:
                self._count_offered(before, -1)
            self._count_offered(row, 1)
            changed = True
        if changed:
            self.grid = Grid.build(self.agents, self.leases.values())
            self.feasibility = Feasibility(self.agents, self.grid)
            self.stuck.clear()

    def _count_offered(self, row: AgentRow, sign: int) -> None:
        for node in row.nodes:
            for entry in node.offered:
                _add(self.offered_totals, entry.name, sign * entry.amount)

    # -- leases and use -----------------------------------------------------------------------------------------------
    def _start_lease(self, lease: LeaseRow) -> None:
        before = self.leases.get(lease.lease_id)
        if before is not None:
            if (before.key, before.nodes, before.per_task, before.owner) == (
                lease.key,
                lease.nodes,
                lease.per_task,
                lease.owner,
            ):
                self.leases[lease.lease_id] = lease  # only its end moved
                return
            self._end_lease(lease.lease_id)
        self._dequeue(lease.job_id)
        self.leases[lease.lease_id] = lease
        self.lease_of_job[lease.job_id] = lease.lease_id
        self._count_held(lease, 1)
        self.grid.hold(lease, 1)

    def _end_lease(self, lease_id: str) -> None:
        lease = self.leases.pop(lease_id, None)
        if lease is None:
            return
        del self.lease_of_job[lease.job_id]
        self._count_held(lease, -1)
        self.grid.hold(lease, -1)
        self.stuck.clear()

    def _count_held(self, lease: LeaseRow, sign: int) -> None:
        for name, amount in held_of(lease):
            _add(self.held_totals, name, sign * amount)
            for level in levels_of(lease.owner):
                tally = self.held.setdefault(level, {})
                _add(tally, name, sign * amount)
                if not tally:
                    del self.held[level]

    def _add_usage(self, usage: UsageRow) -> None:
        for name, amount_ms in usage.used:
            for level in levels_of(usage.owner):
                if amount_ms:
                    _add(self.used.setdefault(level, {}), name, amount_ms)


def levels_of(owner: OwnerKey) -> tuple[Level, Level, Level]:
    """The hub, the project and the user of `owner`, as keys of the tallies."""
    return (owner[:1], owner[:2], owner)


def _add(tally: Tally, name: str, amount: int) -> None:
    total = tally.get(name, 0) + amount
    if total:
        tally[name] = total
    else:
        tally.pop(name, None)
