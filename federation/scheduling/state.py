"""`PlannerState`: what the planner remembers between rounds, and how a `Delta` changes it.

Rows by id where there are few (agents, leases, claims); columns where there are many (`waiting.py`); arrays of what each
node has free (`fleet.py`); what everybody holds and has used (`levels.py`, `fairness.py`). A state is consumed by
`plan_round` and comes back changed: keep only the returned one, and ask it (`explain`) from the thread that runs the
rounds. It never holds decisions: what a plan placed counts once its lease is in a delta. Deliberately not here: any
order or placement.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from federation.domain.ids import AgentKey
from federation.domain.quantities import need_of
from federation.scheduling.checks import Holdings, check_delta
from federation.scheduling.demand import Demands
from federation.scheduling.fairness import UseLedger
from federation.scheduling.fleet import Fleet
from federation.scheduling.indexing import Memory
from federation.scheduling.kernels.room import Int64
from federation.scheduling.leases import LeaseTable
from federation.scheduling.levels import LevelTable
from federation.scheduling.lore import Lore
from federation.scheduling.plan import Plan, demand_key
from federation.scheduling.policy import Policy
from federation.scheduling.rows import AgentRow, ClaimRow, Delta, LeaseRow, LinkRow, QueuedJob
from federation.scheduling.waiting import Queue
from federation.scheduling.windows import WindowTable

SHAPES_KEPT = 4_096


@dataclass(slots=True)
class PlannerState:
    """See the module. Fields are read by the other modules of this room; only `apply` writes them."""

    agents: dict[AgentKey, AgentRow] = field(default_factory=dict)
    links: dict[tuple[str, str], LinkRow] = field(default_factory=dict)
    """By (from hub, to hub)."""
    leases: dict[str, LeaseRow] = field(default_factory=dict)
    lease_table: LeaseTable = field(default_factory=LeaseTable)
    lease_of_job: dict[str, str] = field(default_factory=dict)
    preemptible: dict[AgentKey, dict[str, LeaseRow]] = field(default_factory=dict)
    """Those of the leases that may be told to end, by where they are."""
    claims: dict[str, ClaimRow] = field(default_factory=dict)
    """By the job that waits for its victims to end."""
    holdings: Holdings = field(default_factory=Holdings)
    queue: Queue = field(default_factory=Queue)
    demands: Demands = field(default_factory=Demands)
    fleet: Fleet = field(default_factory=Fleet)
    levels: LevelTable = field(default_factory=LevelTable)
    ledger: UseLedger = field(default_factory=UseLedger)
    memory: Memory = field(default_factory=Memory)
    """What rounds remember of the nodes' room and scores."""
    shapes_max: int = SHAPES_KEPT
    """When the fleet knows more shapes of tasks it is built anew, with those that are left."""
    guest_limits: Int64 = field(default_factory=lambda: np.zeros(0, np.int64))
    """(A,) how long a guest may run that cannot be preempted; -1: as long as it asks for."""
    windows: WindowTable = field(default_factory=WindowTable)
    """Capacity that is promised to classes."""
    lore: Lore = field(default_factory=Lore)
    """What the placement score knows of the workload."""
    last_plan: Plan = field(default_factory=lambda: Plan(at_ms=0))

    def apply(self, delta: Delta, policy: Policy | None = None) -> None:
        """Bring the state up to date. Errors: a bad row, with its index; then nothing has changed."""
        check_delta(self, delta)
        for job_id in delta.claims_ended:
            self._end_claim(job_id)
        for lease_id in delta.leases_ended:
            self._end_lease(lease_id)
        if delta.windows or delta.windows_ended:
            self._change_windows(delta)
        for job_id in delta.dequeued:
            self._end_claim(job_id)
            self._dequeue(job_id)
        self._change_agents(delta)
        for lease in delta.leases_started:
            self._start_lease(lease)
        for job in delta.queued:
            self._put(job)
        for claim in delta.claims_made:
            self._make_claim(claim)
        for usage in delta.usage:
            self.ledger.add(usage)
            self.levels.use_posted(usage.owner, usage.host_hub)
        wanted = (policy or Policy()).fairness.half_life_ms
        self.ledger = self.ledger.with_half_life(wanted)
        self.lore.settle(self.fleet)
        self.queue.settle((policy or Policy()).order, self.demands, self.levels)

    def full(self) -> Delta:
        """Everything as one delta: applied to an empty state it gives an equal one."""
        return Delta(
            agents=tuple(self.agents[key] for key in sorted(self.agents)),
            queued=tuple(self.job(job_id) for job_id in sorted(self.queue.ids())),
            leases_started=tuple(self.leases[key] for key in sorted(self.leases)),
            usage=self.ledger.rows(),
            claims_made=tuple(self.claims[key] for key in sorted(self.claims)),
            links=tuple(self.links[ends] for ends in sorted(self.links)),
            windows=tuple(self.windows.rows[key] for key in sorted(self.windows.rows)),
        )

    def job(self, job_id: str) -> QueuedJob:
        """A waiting job."""
        return self.queue.row(job_id, self.demands, self.levels)

    def claim_fits(self, claim: ClaimRow) -> bool:
        """Whether a claim's job may run there, and its room is there in fact: nodes and devices, and nothing over-held."""
        agent = self.fleet.index.get(claim.key)
        job = self.job(claim.job_id)
        wanted = need_of(job.per_task).devices
        if agent is None or len(claim.nodes) != job.replicas or any(len(held) != wanted for held in claim.devices):
            return False
        if bool(wanted) != bool(claim.devices) or self.demands.feasibility.steps(demand_key(job))[agent]:
            return False
        rows, nodes = self.fleet.node_row[agent], self.fleet.nodes
        for at, name in enumerate(claim.nodes):
            if name not in rows or (nodes.free[rows[name]] < 0).any():
                return False
            begin, end = nodes.device_first[rows[name]], nodes.device_first[rows[name] + 1]
            if (nodes.device_free[begin:end] < 0).any():
                return False
            if claim.devices and max(claim.devices[at], default=0) >= end - begin:
                return False
        return True

    # -- the queue ----------------------------------------------------------------------------------------------------
    def _put(self, job: QueuedJob) -> None:
        """A job waits; one that waited already keeps its claim and its promise while it asks for the same room."""
        promised_ms = 0
        if job.job_id in self.queue:
            before = self.job(job.job_id)
            if (before.per_task, before.replicas) != (job.per_task, job.replicas):
                self._end_claim(job.job_id)
            elif before.runtime_limit_ms == job.runtime_limit_ms:
                promised_ms = self.queue.promised_ms(job.job_id)
            self._dequeue(job.job_id)
        pair = self.demands.count_in(demand_key(job), (job.home_hub, job.hubs_prefer, job.preemptible, job.window))
        self.queue.add(job, pair, self.levels.id_of(job.owner), promised_ms)
        self.lore.count(job.per_task, job.replicas)
        if job.job_id in self.claims:
            self.queue.set_aside(job.job_id, aside=True)

    def _dequeue(self, job_id: str) -> None:
        if job_id in self.queue:
            pair = self.queue.remove(job_id)
            key = self.demands.key_of_pair(pair)
            self.lore.count(key.per_task, -key.replicas)
            self.demands.count_out(pair)

    # -- agents -------------------------------------------------------------------------------------------------------
    def _change_agents(self, delta: Delta) -> None:
        rules, room = self._change_links(delta), False
        for key in delta.agents_removed:
            row = self.agents.pop(key, None)
            if row is not None:
                self.holdings.offer(row, -1)
                room = True
        for row in delta.agents:
            before = self.agents.get(row.key)
            self.agents[row.key] = row
            if before is not None and before.matters == row.matters:
                continue
            rules = True
            if before is None or before.nodes != row.nodes:
                room = room or before is None or before.offers != row.offers
            if before is not None:
                self.holdings.offer(before, -1)
            self.holdings.offer(row, 1)
        if len(self.fleet.shapes.demands) > self.shapes_max:
            room = True  # most of them are of jobs long gone
        if room:
            self._build_fleet()
        if room or rules:
            self.guest_limits = np.asarray([self.agents[key].guest_limit_ms for key in self.fleet.keys], np.int64)
            self.demands.look_at(self.agents, self.fleet, self.links)

    def _change_links(self, delta: Delta) -> bool:
        """Whether anything changed that matters while somebody fetches."""
        changed = False
        for ends in delta.links_removed:
            changed |= self.links.pop(ends, None) is not None
        for row in delta.links:
            changed |= self.links.get(row.ends) != row
            self.links[row.ends] = row
        return changed and self.demands.feasibility.transfers.any

    def _build_fleet(self) -> None:
        self.fleet = Fleet(self.agents)
        self.lease_table.look_at(self.leases.values(), self.fleet)
        for lease in self.leases.values():
            self.fleet.hold(lease.key, lease.nodes, lease.per_task, lease.devices or None, 1)
        for claim in self.claims.values():
            self._hold_claim(claim, 1)
        self.shapes_max = max(SHAPES_KEPT, 2 * len(self.fleet.shapes.demands))

    # -- windows ------------------------------------------------------------------------------------------------------
    def _change_windows(self, delta: Delta) -> None:
        for window_id in delta.windows_ended:
            self.windows.end(window_id)
        for row in delta.windows:
            self.windows.put(row, self.leases.values())
        where = {window_id: row.key for window_id, row in self.windows.rows.items()}
        self.demands.windows_changed(where, {*delta.windows_ended, *(row.window_id for row in delta.windows)})

    # -- leases and claims --------------------------------------------------------------------------------------------
    def _start_lease(self, lease: LeaseRow) -> None:
        before = self.leases.get(lease.lease_id)
        if before is not None:
            if before.holds == lease.holds:
                self.leases[lease.lease_id] = lease  # only its times moved
                if lease.preemptible:
                    self.preemptible[lease.key][lease.lease_id] = lease
                self.lease_table.put(lease, self.fleet)
                self.windows.lease_put(lease)
                return
            self._end_lease(lease.lease_id)
        self._end_claim(lease.job_id)
        self._dequeue(lease.job_id)
        self.leases[lease.lease_id] = lease
        if lease.preemptible:
            self.preemptible.setdefault(lease.key, {})[lease.lease_id] = lease
        self.lease_table.put(lease, self.fleet)
        self.windows.lease_put(lease)
        self.lease_of_job[lease.job_id] = lease.lease_id
        self._count_held(lease, 1)
        self.fleet.hold(lease.key, lease.nodes, lease.per_task, lease.devices or None, 1)

    def _end_lease(self, lease_id: str) -> None:
        lease = self.leases.pop(lease_id, None)
        if lease is None:
            return
        self.lease_table.remove(lease_id)
        self.windows.lease_ended(lease)
        if lease.preemptible:
            there = self.preemptible[lease.key]
            del there[lease_id]
            if not there:
                del self.preemptible[lease.key]
        del self.lease_of_job[lease.job_id]
        self._count_held(lease, -1)
        self.fleet.hold(lease.key, lease.nodes, lease.per_task, lease.devices or None, -1)

    def _count_held(self, lease: LeaseRow, sign: int) -> None:
        self.holdings.hold(lease, sign)
        self.lore.count(lease.per_task, sign * len(lease.nodes))
        shape = self.fleet.shapes.id_of(lease.per_task)
        self.levels.hold(lease.owner, sign * len(lease.nodes) * self.fleet.shapes.totals[shape])

    def _make_claim(self, claim: ClaimRow) -> None:
        self._end_claim(claim.job_id)
        if claim.job_id in self.queue:
            self.claims[claim.job_id] = claim
            self.queue.set_aside(claim.job_id, aside=True)
            self.holdings.claim(claim, self.job(claim.job_id).per_task, 1)
            self._hold_claim(claim, 1)

    def _end_claim(self, job_id: str) -> None:
        claim = self.claims.pop(job_id, None)
        if claim is not None:
            self.holdings.claim(claim, self.job(job_id).per_task, -1)
            self._hold_claim(claim, -1)
            self.queue.set_aside(job_id, aside=False)

    def _hold_claim(self, claim: ClaimRow, sign: int) -> None:
        per_task = self.job(claim.job_id).per_task
        self.fleet.hold(claim.key, claim.nodes, per_task, claim.devices or None, sign)
