"""The twin's round: everybody's turns, one job at a time, over a world that is made anew each time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from federation.domain.hub import HubState, LinkState
from federation.domain.ids import AgentKey
from federation.domain.plan import ReasonCode
from federation.domain.quantities import Resources, need_of
from federation.scheduling.ageing import line_position_of
from federation.scheduling.fairness import UseLedger, contributed_share, contribution_weight
from federation.scheduling.kernels.score import Tables
from federation.scheduling.plan import STEP, DemandKey, Placement, Plan, Preemption, demand_key
from federation.scheduling.policy import DEVICES_MAX, PROMISES_MAX, SHORT_MS, TASKS_MAX, Order, Policy
from federation.scheduling.reference.moving import Moving
from federation.scheduling.reference.quotas import Ledger
from federation.scheduling.reference.reasons import waiting
from federation.scheduling.reference.room import NAMES, Agent, Node, Score, amount
from federation.scheduling.reference.seating import Seating
from federation.scheduling.reference.windows import Windows
from federation.scheduling.rows import ClaimRow, Delta, LeaseRow, QueuedJob, WindowRow

Level = tuple[str, ...]
ORDER_COST = 0.2
BLOCKED_MAX = 8
NEVER_MS = 2**62


@dataclass
class _User:
    """One user's jobs of one class, in line."""

    owner: tuple[str, str, str]
    line: list[QueuedJob]


@dataclass
class World(Seating):
    """Everything that a round looks at."""

    full: Delta
    policy: Policy
    now_ms: int
    tables: Tables
    agents: list[Agent] = field(default_factory=list)
    share: dict[Level, dict[str, float]] = field(default_factory=dict)
    placed: dict[str, Placement] = field(default_factory=dict)
    promised: dict[str, tuple[AgentKey, int]] = field(default_factory=dict)
    blocked: dict[str, list[QueuedJob]] = field(default_factory=dict)
    """By home hub, its own jobs that found no room there: the first of each sort and liking."""
    seats: dict[AgentKey, WindowRow] | None = None
    """While seats are taken, the window of each agent whose turn it is."""
    passing: bool = False
    """Seats are taken, or gaps are filled: nobody is promised anything."""
    whole: bool = True
    """Nobody who could start was left for the next round because this one was full."""
    tasks: int = 0
    devices: int = 0
    due: Mapping[str, int] = field(default_factory=dict)
    """Promised starts that have come, by job."""

    def __post_init__(self) -> None:
        self.agents = [Agent(row) for row in sorted(self.full.agents, key=lambda row: row.key)]
        self.by_key = {agent.row.key: agent for agent in self.agents}
        self.windows = {row.window_id: row for row in self.full.windows if row.key in self.by_key}
        for agent in self.agents:
            rows = [row for row in self.windows.values() if row.key == agent.row.key and self.now_ms < row.end_ms]
            agent.windows = Windows(agent, rows, self.now_ms) if rows else None
        kinds = sorted({device.kind for agent in self.agents for node in agent.nodes for device in node.devices})
        self.score = Score(self.tables, {kind: bit for bit, kind in enumerate(kinds)})
        self.moving = Moving(self.full)
        self.lasting: dict[tuple[AgentKey, DemandKey], int] = {}
        self.ledger = UseLedger.of(self.full.usage, self.policy.fairness.half_life_ms)
        self.offered = {name: sum(agent.offered[name] for agent in self.agents) for name in NAMES}
        self.held: dict[Level, dict[str, int]] = {}
        for lease in self.full.leases_started:
            need = {name: amount(lease.per_task, name) * len(lease.nodes) for name in NAMES}
            for level in _levels(lease.owner):
                before = self.held.get(level, dict.fromkeys(NAMES, 0))
                self.held[level] = {name: before[name] + need[name] for name in NAMES}
            self.hold(lease.key, lease.nodes, lease.per_task, lease.devices, lease.expires_ms, lease.window)
        claimed = {claim.job_id: claim for claim in self.full.claims_made}
        self.claims = [(job, claimed[job.job_id]) for job in self.full.queued if job.job_id in claimed]
        self.running, self.quotas = Ledger(self.policy), Ledger(self.policy)
        """What leases hold; what they, claims, and what the round starts hold."""
        for lease in self.full.leases_started:
            self.running.hold(lease.owner, lease.per_task, len(lease.nodes))
            self.quotas.hold(lease.owner, lease.per_task, len(lease.nodes))
        for job, claim in self.claims:
            self.hold(claim.key, claim.nodes, job.per_task, claim.devices, None)
            self.quotas.hold(job.owner, job.per_task, len(claim.nodes))
        for agent in self.agents:
            if agent.windows:
                agent.windows.settle()
        limit = max(1, PROMISES_MAX // max(1, len(self.agents)))
        self.promises_max = min(self.policy.promises_max, limit)

    def hold(
        self,
        key: AgentKey,
        nodes: tuple[str, ...],
        task: Resources,
        devices: tuple[tuple[int, ...], ...],
        end_ms: int | None,
        window: str = "",
    ) -> None:
        """What runs, or (`end_ms` None) was claimed, takes its room."""
        agent = self.by_key.get(key)
        if agent is None:
            return
        there = 0
        if agent.windows:
            agent.windows.run(nodes, task, devices, end_ms, window)
        for at, name in enumerate(nodes):
            for node in agent.nodes:
                if node.name == name:
                    node.hold(task, devices[at] if devices else None)
                    there += 1
        need = {name: amount(task, name) * there for name in NAMES}
        for name in NAMES:
            agent.used[name] += need[name]
        if end_ms is not None:
            agent.endings.append((end_ms, need))
            agent.backlog += agent.work(need, max(1, end_ms - self.now_ms))

    # -- who may run where --------------------------------------------------------------------------------------------
    def lasting_step(self, agent: Agent, job: QueuedJob) -> int:
        """What keeps jobs of its sort from an agent, whatever is free."""
        asked = agent.row.key, demand_key(job)
        if asked not in self.lasting:
            self.lasting[asked] = self._lasting_step(agent, job)
        return self.lasting[asked]

    def _lasting_step(self, agent: Agent, job: QueuedJob) -> int:
        row, hub_id = agent.row, agent.row.key[0]
        codes = [ReasonCode.WOULD_RUN]
        if row.link is not LinkState.ONLINE:
            codes.append(ReasonCode.HUB_SUSPECT)
        if row.hub_state is not HubState.ACTIVE:
            codes.append(ReasonCode.HUB_DRAINING)
        if job.engine not in row.engines:
            codes.append(ReasonCode.ENGINE_MISSING)
        if hub_id in job.hubs_deny or (job.hubs_allow and hub_id not in job.hubs_allow):
            codes.append(ReasonCode.HUB_EXCLUDED)
        if hub_id in job.hubs_refused:
            codes.append(ReasonCode.SHARE_POLICY)
        for name, version in job.inputs:
            codes.append(self.moving.code(row, job, name, version))
        if Agent(row).room(job.per_task) < job.replicas:
            codes.append(ReasonCode.SHAPE_NEVER_FITS)
        return max(STEP[code] for code in codes)

    def liking(self, agent: Agent, job: QueuedJob) -> int:
        """How much a job likes an agent: smaller is better."""
        hub_id, window = agent.row.key[0], self.windows.get(job.window)
        if window is not None and window.key == agent.row.key:
            return -1
        if hub_id in job.hubs_prefer:
            return job.hubs_prefer.index(hub_id)
        return len(job.hubs_prefer) + (0 if hub_id == job.home_hub else 1)

    def open_agents(self, job: QueuedJob, home_only: bool) -> list[Agent]:
        """Where a job may run, whatever is free."""
        return [
            agent
            for agent in self.agents
            if self.lasting_step(agent, job) == 0
            and (not home_only or agent.row.key[0] == job.home_hub)
            and self.welcome(agent, job)
            and self.may_sit(agent, job)
        ]

    def welcome(self, agent: Agent, job: QueuedJob) -> bool:
        """Whether its hub can have its machines back from this job in time."""
        owner = agent.row.key[0] == job.home_hub
        return owner or job.preemptible or not agent.row.takes_back or self.held_ms(agent, job) <= agent.row.reclaim_ms

    def held_ms(self, agent: Agent, job: QueuedJob) -> int:
        """How long it may hold its room: while its data comes, and while it runs."""
        return self.moving.transfer_ms(agent.row, job) + job.runtime_limit_ms

    def reach(self, job: QueuedJob) -> int:
        """How far its data may come from: as long as it has waited, and the nearest that it can do with."""
        passing = (0, STEP[ReasonCode.HUB_SUSPECT])
        near = [
            self.moving.transfer_ms(agent.row, job)
            for agent in self.agents
            if self.lasting_step(agent, job) in passing and self.welcome(agent, job)
        ]
        return min(near, default=NEVER_MS) + max(0, self.now_ms - job.submitted_ms)

    # -- one job ------------------------------------------------------------------------------------------------------
    def chosen(self, job: QueuedJob, home_only: bool) -> Agent | None:
        """Where a job starts now: the nearest to its data within reach, best liked, least loaded, first."""
        need = {name: amount(job.per_task, name) * job.replicas for name in NAMES}
        fitting = [
            agent
            for agent in self.within_reach(job, home_only)
            if agent.room(job.per_task) >= job.replicas and self.may_jump(agent, need, job)
        ]
        return min(
            fitting, key=lambda agent: (self.moving.transfer_ms(agent.row, job), self.choice(agent, job)), default=None
        )

    def start(self, agent: Agent, job: QueuedJob) -> None:
        """A job starts at an agent that has room."""
        need = {name: amount(job.per_task, name) * job.replicas for name in NAMES}
        chosen = self.gang(agent, job)
        names = tuple(node.name for node, _ in chosen)
        devices = tuple(places for _, places in chosen) if need_of(job.per_task).devices else ()
        self.tasks += job.replicas
        self.devices += sum(map(len, devices))
        agent.count(need, self.now_ms + self.held_ms(agent, job))
        fetches = self.moving.fetches(agent.row, job)
        self.placed[job.job_id] = Placement(job.job_id, agent.row.key, names, devices, fetches)

    def choice(self, agent: Agent, job: QueuedJob) -> tuple[int, float, float, AgentKey]:
        """Smaller is better: as liked; a job with GPUs where a first task scores best; least loaded; first."""
        score = 0.0
        if need_of(job.per_task).devices:
            at = agent.nodes.index(self.best_node(agent, job.per_task, []))
            score = self.score.best(agent.nodes[at], job.per_task)[0] - ORDER_COST * at / len(agent.nodes)
        return self.liking(agent, job), -score, agent.load(), agent.row.key

    def may_jump(self, agent: Agent, need: dict[str, int], job: QueuedJob) -> bool:
        """Whether a start now delays no promise made there before, and leaves the headroom that it has to."""
        if not agent.promises:
            return True
        parts = self.policy.headroom
        if parts and self.held_ms(agent, job) > SHORT_MS:
            for name, wanted in need.items():
                if wanted and agent.offered[name] - agent.used[name] - wanted < agent.offered[name] // parts:
                    return False
        return agent.keeps_promises(need, self.now_ms, self.held_ms(agent, job), self.now_ms)

    def gang(self, agent: Agent, job: QueuedJob) -> list[tuple[Node, tuple[int, ...]]]:
        """Where each task of a gang goes, one after the other; their room is taken."""
        chosen: list[tuple[Node, tuple[int, ...]]] = []
        task, here = job.per_task, None
        while len(chosen) < job.replicas:
            if here is None or job.spread or not here.room(task):
                here = self.best_node(agent, task, chosen if job.spread else [])
            _, places = self.score.best(here, task)
            here.hold(task, places)
            chosen.append((here, places))
        return chosen

    def best_node(self, agent: Agent, task: Resources, chosen: list[tuple[Node, tuple[int, ...]]]) -> Node:
        """Where the next task goes: with `chosen`, on as many nodes as there are."""
        best: tuple[float, float, int] | None = None
        for at, node in enumerate(agent.nodes):
            if node.room(task):
                score = self.score.best(node, task)[0] - ORDER_COST * at / len(agent.nodes)
                tasks = sum(other is node for other, _ in chosen)
                if best is None or (tasks, -score) < best[:2]:
                    best = (tasks, -score, at)
        assert best is not None, "there is room"
        return agent.nodes[best[2]]

    def try_promise(self, job: QueuedJob, home_only: bool) -> None:
        """Promise a job the earliest start at its best agent, if it is its time."""
        need = {name: amount(job.per_task, name) * job.replicas for name in NAMES}
        there = self.open_agents(job, home_only)
        if not there:
            return

        def place(agent: Agent) -> tuple[int, int, int, AgentKey]:
            return self.moving.transfer_ms(agent.row, job), self.liking(agent, job), agent.backlog, agent.row.key

        agent = min(there, key=place)
        transfer_ms, held_ms = self.moving.transfer_ms(agent.row, job), self.held_ms(agent, job)
        if home_only and transfer_ms:
            return
        ahead_ms = max(1, transfer_ms - self.reach(job))
        waited_ms = self.now_ms - job.submitted_ms
        if waited_ms < self.policy.patience_ms or len(agent.promises) >= self.promises_max:
            return
        start_ms = agent.earliest(need, held_ms, self.now_ms, ahead_ms)
        if start_ms is None:
            return
        if start_ms == self.now_ms + 1 and len(agent.nodes) > 1 and not agent.draining:
            self.drain_for(agent, job)
        agent.promises.append((start_ms, start_ms + held_ms, need))
        agent.backlog += agent.work(need, held_ms)
        self.promised[job.job_id] = (agent.row.key, start_ms)

    def run(self) -> None:
        """Who has a seat, then everybody, then who fits in gaps."""
        self.take_seats()
        before = set(self.placed)
        self.everybody()
        self.fill_gaps(before)

    def everybody(self) -> bool:
        """All turns, owners at home first."""
        aside = {job.job_id for job, _ in self.claims}
        jobs = [job for job in self.full.queued if job.job_id not in aside]
        homes = {agent.row.key[0] for agent in self.agents}
        owners = [job for job in jobs if job.home_hub in homes]
        return bool(self.agents) and all(
            self.turns([job for job in those if job.priority == priority], home_only)
            for home_only, those in ((True, owners), (False, jobs))
            for priority in sorted({job.priority for job in jobs})
        )

    def drain_for(self, agent: Agent, job: QueuedJob) -> None:
        """Keep the nodes free that lack least, until they would hold the gang when they are idle."""
        agent.draining = True
        idle = {id(node): fresh for node, fresh in zip(agent.nodes, Agent(agent.row).nodes, strict=True)}
        held, kept = 0, set[int]()
        while held < job.replicas:
            able = [node for node in agent.nodes if id(node) not in kept and idle[id(node)].room(job.per_task)]
            if not able:
                return
            node = min(able, key=lambda node: node.lacking(job.per_task))
            held += min(job.replicas, idle[id(node)].room(job.per_task))
            kept.add(id(node))
            node.free = {name: min(free, 0) for name, free in node.free.items()}
            node.left = [min(left, 0) for left in node.left]
            if agent.windows:
                agent.windows.drained.add(next(at for at, one in enumerate(agent.nodes) if one is node))

    # -- turns --------------------------------------------------------------------------------------------------------
    def rank(self, level: Level) -> tuple[float, float, str]:
        """Whose turn it is: the smallest goes next."""
        share, used = self.shares(level), self.ledger.decayed(level, self.now_ms)
        past = [used.get(name, 0.0) / float(there) for name, there in self.offered.items() if there]
        weight = self.weight(level)
        return max([0.0, *share.values()]) / weight, max([0.0, *past]) / weight, level[-1]

    def shares(self, level: Level) -> dict[str, float]:
        """What a level holds and has used of late, of all that is offered, by resource."""
        if level not in self.share:
            held, used = self.held.get(level, {}), self.ledger.decayed(level, self.now_ms)
            self.share[level] = {
                name: (float(held.get(name, 0)) + used.get(name, 0.0)) / float(there)
                for name, there in self.offered.items()
                if there
            }
        return self.share[level]

    def count_share(self, job: QueuedJob) -> None:
        """A job that starts uses up a turn of its user, project and hub."""
        for level in _levels(job.owner):
            share = self.shares(level)
            for name in share:
                if amount(job.per_task, name):
                    share[name] += float(amount(job.per_task, name) * job.replicas) / float(self.offered[name])

    def weight(self, level: Level) -> float:
        """The weight of a level."""
        if len(level) == 1:
            base = self.policy.hub_weights.get(level[0], 1.0)
            given = self.ledger.contributed(level[0], self.now_ms)
            hubs = len({agent.row.key[0] for agent in self.agents})
            share = contributed_share(given, self.offered, hubs) if given else 0.0
            return contribution_weight(base, share, self.policy.fairness)
        if len(level) == 2:
            return self.policy.project_weights.get((level[0], level[1]), 1.0)
        return self.policy.user_weights.get((level[0], level[1], level[2]), 1.0)

    def place_in_line(self, job: QueuedJob) -> tuple[int, int, str]:
        """The place of a job among its user's."""
        if self.policy.order is Order.AGE:
            return (0, job.seq, job.job_id)
        return (line_position_of(self.policy.order, job), job.seq, job.job_id)

    def turns(self, jobs: list[QueuedJob], home_only: bool) -> bool:
        """Serve the jobs of one class; False when the round is full."""
        users: dict[tuple[str, str, str], _User] = {}
        for job in sorted(jobs, key=self.place_in_line):
            users.setdefault(job.owner, _User(job.owner, [])).line.append(job)
        for job in sorted(jobs, key=lambda job: (self.due.get(job.job_id, 0), job.owner, *self.place_in_line(job))):
            if job.job_id in self.due and not self.serve(job, home_only):
                return False
        waiting = list(users.values())
        while waiting:
            user = min(waiting, key=lambda user: [self.rank(level) for level in _levels(user.owner)])
            served = False
            while user.line and not served:
                job = user.line.pop(0)
                before = len(self.placed)
                if not self.serve(job, home_only):
                    return False
                served = len(self.placed) > before
            waiting = [user for user in waiting if user.line]
        return True

    def serve(self, job: QueuedJob, home_only: bool) -> bool:
        """Start a job, or perhaps promise it a start; False when it could start, but the round is full."""
        row = self.windows.get(job.window)
        elsewhere = job.hubs_prefer[:1] not in ((), (job.home_hub,)) or (row and row.key[0] != job.home_hub)
        if job.job_id in self.placed or (home_only and elsewhere):
            return True
        if self.quotas.over(job):
            return True
        agent = self.chosen(job, home_only)
        if agent and home_only and agent is not self.chosen(job, False):
            return True  # it starts nearer to its data when everybody's turn comes
        if agent and self.is_full(job):
            self.whole = False
            return False
        if agent:
            self.start(agent, job)
            self.count_share(job)
            self.quotas.hold(job.owner, job.per_task, job.replicas)
        else:
            if home_only and not self.passing and self.within_reach(job, home_only):
                self.note_blocked(job)
            if not self.passing and job.job_id not in self.promised:
                self.try_promise(job, home_only)
        return True

    def is_full(self, job: QueuedJob) -> bool:
        """Whether a round cannot take a job more."""
        return (
            len(self.placed) == self.policy.placements_max
            or self.tasks + job.replicas > TASKS_MAX
            or self.devices + job.replicas * need_of(job.per_task).devices > DEVICES_MAX
        )

    def note_blocked(self, job: QueuedJob) -> None:
        """A job found no room at home: noted, so that machines can be taken back for it."""
        noted = self.blocked.setdefault(job.home_hub, [])
        alike = [other for other in noted if _alike(other) == _alike(job)]
        if not alike and len(noted) < BLOCKED_MAX:
            noted.append(job)

    def within_reach(self, job: QueuedJob, home_only: bool) -> list[Agent]:
        """Agents to which its data may come now."""
        reach = self.reach(job)
        there = self.open_agents(job, home_only)
        return [agent for agent in there if self.moving.transfer_ms(agent.row, job) <= reach]

    # -- taking back --------------------------------------------------------------------------------------------------
    def preemptions(self) -> tuple[Preemption, ...]:
        """For its own jobs that wait at each home, the guests that end: at the agent where that loses least."""
        made: list[Preemption] = []
        for _, jobs in sorted(self.blocked.items()):
            for job in jobs:
                claims = [
                    claim
                    for agent in self.within_reach(job, home_only=True)
                    if job.job_id not in self.placed
                    and not self.quotas.over(job)
                    and agent.row.key not in [other.key for other in made]
                    for claim in self.claims_at(agent.row.key, job)
                ]
                if claims:
                    made.append(min(claims, key=lambda claim: (claim.lost_ms, claim.key)))
                    self.quotas.hold(job.owner, job.per_task, job.replicas)
        return tuple(made)

    def claims_at(self, key: AgentKey, job: QueuedJob) -> list[Preemption]:
        """The claim of a job at an agent, if guests that end there give it room, and it has none without."""
        by_id = {job.job_id: job for job in self.full.queued}
        agent = World(self.full, self.policy, self.now_ms, self.tables).by_key[key]
        for entry in self.placed.values():
            if entry.key == key:
                job_there = by_id[entry.job_id]
                end_ms = self.now_ms + job_there.runtime_limit_ms + entry.transfer_ms
                self.hold_tasks(agent, job_there.per_task, entry.nodes, entry.devices, 1)
                if agent.windows:
                    agent.windows.run(entry.nodes, job_there.per_task, entry.devices, end_ms, job_there.window)
                    agent.windows.show()
        victims: list[tuple[int, str]] = []
        rows = {lease.lease_id: lease for lease in self.full.leases_started}
        for guest in self.guests(key):
            if agent.room(job.per_task) < job.replicas:
                victims.append(guest)
                self.hold_guest(agent, rows[guest[1]], -1)
        if not victims or agent.room(job.per_task) < job.replicas:
            return []
        for guest in victims[::-1]:
            self.hold_guest(agent, rows[guest[1]], 1)
            if agent.room(job.per_task) >= job.replicas:
                victims.remove(guest)
            else:
                self.hold_guest(agent, rows[guest[1]], -1)
        chosen = self.gang(agent, job)
        nodes, places = tuple(node.name for node, _ in chosen), tuple(held for _, held in chosen)
        devices = places if need_of(job.per_task).devices else ()
        lost_ms = sum(lost for lost, _ in victims)
        return [Preemption(job.job_id, key, nodes, tuple(lease_id for _, lease_id in victims), lost_ms, devices)]

    def guests(self, key: AgentKey) -> list[tuple[int, str]]:
        """(work lost, lease id) of those at an agent that may be told to end, cheapest first."""
        ending = {victim for _, claim in self.claims for victim in claim.victims}
        found = []
        for lease in self.full.leases_started:
            if lease.key == key and lease.preemptible and lease.home_hub != key[0] and lease.lease_id not in ending:
                offered = self.by_key[key].offered
                shares = [
                    amount(lease.per_task, name) * len(lease.nodes) / there for name, there in offered.items() if there
                ]
                elapsed_ms = max(0, self.now_ms - lease.started_ms) if lease.started_ms else 0
                found.append((math.ceil(elapsed_ms * max([0.0, *shares])), lease.lease_id))
        return sorted(found)

    def hold_guest(self, agent: Agent, lease: LeaseRow, sign: int) -> None:
        """A guest holds its room again, or (-1) has ended."""
        self.hold_tasks(agent, lease.per_task, lease.nodes, lease.devices, sign)
        if agent.windows:
            agent.windows.run(lease.nodes, lease.per_task, lease.devices, lease.expires_ms, lease.window, sign)
            agent.windows.show()

    def hold_tasks(
        self, agent: Agent, task: Resources, names: tuple[str, ...], devices: tuple[tuple[int, ...], ...], sign: int
    ) -> None:
        """Tasks take room on an agent's nodes, or (-1) give it back."""
        for at, name in enumerate(names):
            for node in agent.nodes:
                if node.name == name:
                    node.hold(task, devices[at] if devices else None, sign)

    def ready(self, job: QueuedJob, claim: ClaimRow) -> bool:
        """Whether nothing is in the way of a claim any more."""
        if self.running.over(job):
            return False
        live = {lease.lease_id for lease in self.full.leases_started}
        agent = self.by_key.get(claim.key)
        if agent is None or live & set(claim.victims) or self.lasting_step(agent, job):
            return False
        if agent.windows:
            agent.windows.show_bare()  # its own claim was made where no window held anything
        nodes = {node.name: node for node in agent.nodes}
        wanted = need_of(job.per_task).devices
        if len(claim.nodes) != job.replicas or len(claim.devices) != (job.replicas if wanted else 0):
            return False
        for name, places in zip(claim.nodes, claim.devices, strict=False):
            if len(places) != wanted or name not in nodes or max(places) >= len(nodes[name].devices):
                return False
        return all(
            name in nodes and min([0, *nodes[name].free.values(), *nodes[name].left]) >= 0 for name in claim.nodes
        )


def plan_slowly(
    full: Delta, policy: Policy, now_ms: int, tables: Tables, promised: Mapping[str, int] | None = None
) -> Plan:
    """The plan of a round over everything that `full` holds.

    `tables` are what the score knows of the workload, `promised` the first starts that were promised before, by job.
    """
    kept = (promised or {}) if policy.order is Order.AGE else {}
    due = {job_id: start_ms for job_id, start_ms in kept.items() if start_ms <= now_ms}
    world = World(full, policy, now_ms, tables, due=due)
    claims = []
    for job, claim in sorted(world.claims, key=lambda found: found[0].job_id):
        if world.ready(job, claim):
            fetches = world.moving.fetches(world.by_key[claim.key].row, job)
            claims.append(Placement(job.job_id, claim.key, claim.nodes, claim.devices, fetches))
            world.running.hold(job.owner, job.per_task, len(claim.nodes))
    for agent in world.agents:
        if agent.windows:
            agent.windows.show()
    world.run()
    hub_ids = tuple(sorted({agent.row.key[0] for agent in world.agents}))
    started = {*world.placed, *(entry.job_id for entry in claims)}
    left = [job for job in full.queued if job.job_id not in started]
    why = waiting(world, World(full, policy, now_ms, tables), hub_ids, left)
    placements = (*claims, *world.placed.values())
    wake_ms = world.wake_ms(promised or {})
    return Plan(now_ms, placements, hub_ids, why, world.preemptions(), wake_ms=wake_ms)


def promised_slowly(full: Delta, policy: Policy, now_ms: int, tables: Tables) -> dict[str, tuple[AgentKey, int]]:
    """The starts that the round promises, by job: (agent, when)."""
    world = World(full, policy, now_ms, tables)
    world.run()
    return {job_id: found for job_id, found in world.promised.items() if job_id not in world.placed}


def _alike(job: QueuedJob) -> tuple[object, ...]:
    """What two jobs have in common that can run in the same places and like the same."""
    return demand_key(job), job.home_hub, job.hubs_prefer, job.preemptible


def _levels(owner: tuple[str, str, str]) -> tuple[Level, Level, Level]:
    return (owner[:1], owner[:2], owner)
