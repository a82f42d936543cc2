"""The slow obvious twin of `plan_round`: dictionaries and loops, one job at a time, no memory between rounds.

It takes everything as one full `Delta` and gives the same `Plan`, exactly; the property tests hold the fast core to
it. It shares the row and plan types with the core, what a use of the past counts (`fairness.py`), and none of its
decisions. Nothing else may import it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from federation.domain.hub import HubState, LinkState
from federation.domain.ids import AgentKey
from federation.domain.plan import ReasonCode
from federation.domain.quantities import CPU, DEVICE_MILLI, DISK, GPU, MEMORY, Resources, devices_of, need_of
from federation.scheduling.fairness import UseLedger, contributed_share, contribution_weight
from federation.scheduling.kernels.score import Tables
from federation.scheduling.plan import LADDER, STEP, DemandKey, Placement, Plan, Preemption, Waiting, demand_key
from federation.scheduling.policy import PROMISES_MAX, SHORT_MS, Order, Policy
from federation.scheduling.rows import AgentRow, ClaimRow, Delta, LeaseRow, QueuedJob

Level = tuple[str, ...]
NAMES = (GPU, CPU, MEMORY, DISK)
TASKS_COUNTED_MAX = 1_000
ORDER_COST = 0.2


def amount(of: Resources, name: str) -> int:
    """What a task takes of `name`, kinds together; GPUs as whole devices or a share of one."""
    if name == GPU:
        need = need_of(of)
        return need.devices * need.milli
    return sum(entry.amount for entry in of if entry.name == name)


class _Node:
    """A machine, what is free on it, and its devices one by one."""

    def __init__(self, name: str, offered: Resources) -> None:
        self.name = name
        self.offered = {name: sum(entry.amount for entry in offered if entry.name == name) for name in NAMES}
        self.devices = devices_of(offered)
        self.free = {name: self.offered[name] for name in (CPU, MEMORY, DISK)}
        self.left = [device.milli for device in self.devices]

    def hold(self, task: Resources, places: tuple[int, ...] | None, sign: int = 1) -> None:
        """One task more, or (-1) less; `places` None: nobody knows which devices it has."""
        need = need_of(task)
        for name in self.free:
            self.free[name] -= sign * amount(task, name)
        if need.devices:
            for place, device in enumerate(self.devices):
                if place in places if places is not None else need.takes(device.kind):
                    self.left[place] -= sign * need.milli

    def room(self, task: Resources) -> int:
        """How many tasks fit."""
        if any(entry.name not in NAMES for entry in task):
            return 0
        fitting = TASKS_COUNTED_MAX
        for name, free in self.free.items():
            if amount(task, name):
                fitting = min(fitting, max(free, 0) // amount(task, name))
        need = need_of(task)
        if need.devices:
            usable = [left for left, device in zip(self.left, self.devices, strict=True) if need.takes(device.kind)]
            fitting = min(fitting, sum(max(left, 0) // need.milli for left in usable) // need.devices)
        return fitting

    def lacking(self, task: Resources) -> float:
        """The largest part of any need that is not free."""
        need = need_of(task)
        parts = [0.0]
        for name, free in self.free.items():
            wanted = amount(task, name)
            if wanted > max(free, 0):
                parts.append(float(wanted - max(free, 0)) / float(wanted))
        if need.devices:
            able = sum(
                need.takes(device.kind) and left >= need.milli
                for left, device in zip(self.left, self.devices, strict=True)
            )
            parts.append(float(max(0, need.devices - able)) / float(need.devices))
        return max(parts)

    def choices(self, task: Resources) -> list[tuple[int, ...]]:
        """The places that one task may take: one choice, or for a share one for each device with room."""
        need = need_of(task)
        able = [
            place
            for place, device in enumerate(self.devices)
            if need.devices and need.takes(device.kind) and self.left[place] >= need.milli
        ]
        if need.devices and need.milli < DEVICE_MILLI:
            return [(place,) for place in able]
        return [tuple(able[: need.devices])]


@dataclass
class _Score:
    """The placement score, as `kernels/score.py` describes it."""

    tables: Tables
    kinds: dict[str, int]

    def phi(self, node: _Node) -> float:
        tables, levels = self.tables, node.left
        if not levels:
            return 0.0
        bits = [self.kinds[device.kind] for device in node.devices]
        idle, worth = 0, 0.0
        for left in levels:
            if left > 0:
                idle += left
                worth += float(tables.bids[left])
        fragments = tables.frequency_bare * idle
        for row in range(len(tables.milli)):
            milli, kinds = int(tables.milli[row]), int(tables.kinds[row])
            serves = [left >= milli and bool(kinds >> bit & 1) for left, bit in zip(levels, bits, strict=True)]
            stuck = sum(left for left, able in zip(levels, serves, strict=True) if not able and left > 0)
            lost = int(tables.cpu[row]) > node.free[CPU] or int(tables.devices[row]) > sum(serves)
            fragments += float(tables.frequency[row]) * (idle if lost else stuck)
        gpus, cores = idle / 1000.0, float(max(node.free[CPU], 0))
        stranded = 0.0
        for row in range(len(tables.cpu_per_gpu)):
            lacking = gpus - cores / float(tables.cpu_per_gpu[row])
            if lacking <= 0.0:
                break
            stranded += float(tables.volume[row]) * lacking
        return fragments / 1000.0 + stranded - tables.bid_weight * worth

    def best(self, node: _Node, task: Resources) -> tuple[float, tuple[int, ...]]:
        """(score of one task there, its places)."""
        if not node.devices:
            parts = [amount(task, name) / free for name, free in node.free.items() if amount(task, name)]
            taken = 0.0
            for part in parts:
                taken += part
            return (taken / len(parts) if parts else 1.0), ()
        before, least = self.phi(node), math.inf
        chosen: tuple[int, ...] = ()
        for places in node.choices(task):
            node.hold(task, places)
            after = self.phi(node)
            node.hold(task, places, -1)
            if after < least:
                least, chosen = after, places
        return math.floor((before - least) / self.tables.step) * self.tables.step, chosen


class _Agent:
    """An agent, its machines, and its room over time."""

    def __init__(self, row: AgentRow) -> None:
        self.row = row
        self.nodes = [_Node(node.name, node.offered) for node in row.nodes]
        self.offered = {name: sum(node.offered[name] for node in self.nodes) for name in NAMES}
        self.used = dict.fromkeys(NAMES, 0)
        self.endings: list[tuple[int, dict[str, int]]] = []
        """(when, what): what runs or was started gives its room back."""
        self.promises: list[tuple[int, int, dict[str, int]]] = []
        """(from, until, what)."""
        self.backlog = 0
        self.draining = False

    def load(self) -> float:
        return max([0.0, *(float(self.used[name]) / float(there) for name, there in self.offered.items() if there)])

    def work(self, need: dict[str, int], duration_ms: int) -> int:
        shares = [float(need[name]) / float(there) for name, there in self.offered.items() if there]
        return int(max([0.0, *shares]) * 1024.0) * min(duration_ms, 2**32)

    def room(self, task: Resources) -> int:
        return min(TASKS_COUNTED_MAX, sum(node.room(task) for node in self.nodes))

    def count(self, need: dict[str, int], end_ms: int) -> None:
        for name in NAMES:
            self.used[name] += need[name]
        self.endings.append((end_ms, need))

    def free_at(self, at_ms: int, now_ms: int) -> dict[str, int]:
        free = {name: self.offered[name] - self.used[name] for name in NAMES}
        for end_ms, need in self.endings:
            if max(end_ms, now_ms + 1) <= at_ms:
                free = {name: free[name] + need[name] for name in NAMES}
        for from_ms, until_ms, need in self.promises:
            if from_ms <= at_ms < until_ms:
                free = {name: free[name] - need[name] for name in NAMES}
        return free

    def keeps_promises(self, need: dict[str, int], from_ms: int, duration_ms: int, now_ms: int) -> bool:
        """Whether `need` is free from `from_ms` on for so long."""
        changes = {max(end_ms, now_ms + 1) for end_ms, _ in self.endings}
        changes |= {at for promise in self.promises for at in promise[:2]}
        instants = [from_ms, *(at for at in changes if from_ms < at < from_ms + duration_ms)]
        return all(
            need[name] <= free[name] or not need[name]
            for free in (self.free_at(at, now_ms) for at in instants)
            for name in NAMES
        )

    def earliest(self, need: dict[str, int], duration_ms: int, now_ms: int) -> int | None:
        """When a gang that does not start now can start."""
        changes = {max(end_ms, now_ms + 1) for end_ms, _ in self.endings}
        changes |= {at for promise in self.promises for at in promise[:2]}
        for at in sorted({now_ms + 1} | {at for at in changes if at > now_ms}):
            if self.keeps_promises(need, at, duration_ms, now_ms):
                return at
        return None


@dataclass
class _User:
    """One user's jobs of one class, in line."""

    owner: tuple[str, str, str]
    line: list[QueuedJob]


@dataclass
class _World:
    """Everything that a round looks at."""

    full: Delta
    policy: Policy
    now_ms: int
    tables: Tables
    agents: list[_Agent] = field(default_factory=list)
    share: dict[Level, dict[str, float]] = field(default_factory=dict)
    placed: dict[str, Placement] = field(default_factory=dict)
    promised: dict[str, tuple[AgentKey, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.agents = [_Agent(row) for row in sorted(self.full.agents, key=lambda row: row.key)]
        self.by_key = {agent.row.key: agent for agent in self.agents}
        kinds = sorted({device.kind for agent in self.agents for node in agent.nodes for device in node.devices})
        self.score = _Score(self.tables, {kind: bit for bit, kind in enumerate(kinds)})
        self.ledger = UseLedger.of(self.full.usage, self.policy.fairness.half_life_ms)
        self.offered = {name: sum(agent.offered[name] for agent in self.agents) for name in NAMES}
        self.held: dict[Level, dict[str, int]] = {}
        for lease in self.full.leases_started:
            need = {name: amount(lease.per_task, name) * len(lease.nodes) for name in NAMES}
            for level in _levels(lease.owner):
                before = self.held.get(level, dict.fromkeys(NAMES, 0))
                self.held[level] = {name: before[name] + need[name] for name in NAMES}
            self.hold(lease.key, lease.nodes, lease.per_task, lease.devices, lease.expires_ms)
        claimed = {claim.job_id: claim for claim in self.full.claims_made}
        self.claims = [(job, claimed[job.job_id]) for job in self.full.queued if job.job_id in claimed]
        for job, claim in self.claims:
            self.hold(claim.key, claim.nodes, job.per_task, claim.devices, None)
        limit = max(1, PROMISES_MAX // max(1, len(self.agents)))
        self.promises_max = min(self.policy.promises_max, limit)

    def hold(
        self,
        key: AgentKey,
        nodes: tuple[str, ...],
        task: Resources,
        devices: tuple[tuple[int, ...], ...],
        end_ms: int | None,
    ) -> None:
        """What runs, or (`end_ms` None) was claimed, takes its room."""
        agent = self.by_key.get(key)
        if agent is None:
            return
        there = 0
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
    def lasting_step(self, agent: _Agent, job: QueuedJob) -> int:
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
            codes.append(self.data_code(row, name, version, job.home_hub))
        if _Agent(row).room(job.per_task) < job.replicas:
            codes.append(ReasonCode.SHAPE_NEVER_FITS)
        return max(STEP[code] for code in codes)

    def data_code(self, row: AgentRow, name: str, version: str, home_hub: str) -> ReasonCode:
        found = False
        for entry in row.datasets:
            if entry.name == name and version in ("", entry.version):
                found = True
                if entry.policy in ("open", "members") or row.key[0] == home_hub:
                    return ReasonCode.WOULD_RUN
                if entry.policy == "hubs" and home_hub in entry.readers:
                    return ReasonCode.WOULD_RUN
        return ReasonCode.DATA_POLICY if found else ReasonCode.DATA_ELSEWHERE

    def liking(self, hub_id: str, job: QueuedJob) -> int:
        if hub_id in job.hubs_prefer:
            return job.hubs_prefer.index(hub_id)
        return len(job.hubs_prefer) + (0 if hub_id == job.home_hub else 1)

    def open_agents(self, job: QueuedJob, home_only: bool) -> list[_Agent]:
        return [
            agent
            for agent in self.agents
            if self.lasting_step(agent, job) == 0
            and (not home_only or agent.row.key[0] == job.home_hub)
            and self.welcome(agent, job)
        ]

    def welcome(self, agent: _Agent, job: QueuedJob) -> bool:
        """Whether its hub can have its machines back from this job in time."""
        owner = agent.row.key[0] == job.home_hub
        return owner or job.preemptible or not agent.row.takes_back or job.runtime_limit_ms <= agent.row.reclaim_ms

    # -- one job ------------------------------------------------------------------------------------------------------
    def try_start(self, job: QueuedJob, home_only: bool) -> bool:
        need = {name: amount(job.per_task, name) * job.replicas for name in NAMES}
        fitting = [
            agent
            for agent in self.open_agents(job, home_only)
            if agent.room(job.per_task) >= job.replicas and self.may_jump(agent, need, job)
        ]
        if not fitting:
            return False
        agent = min(fitting, key=lambda agent: (self.liking(agent.row.key[0], job), agent.load(), agent.row.key))
        chosen = self.gang(agent, job)
        names = tuple(node.name for node, _ in chosen)
        devices = tuple(places for _, places in chosen) if need_of(job.per_task).devices else ()
        agent.count(need, self.now_ms + job.runtime_limit_ms)
        self.placed[job.job_id] = Placement(job.job_id, agent.row.key, names, devices)
        return True

    def may_jump(self, agent: _Agent, need: dict[str, int], job: QueuedJob) -> bool:
        """Whether a start now delays no promise made there before, and leaves the headroom that it has to."""
        if not agent.promises:
            return True
        parts = self.policy.headroom
        if parts and job.runtime_limit_ms > SHORT_MS:
            for name, wanted in need.items():
                if wanted and agent.offered[name] - agent.used[name] - wanted < agent.offered[name] // parts:
                    return False
        return agent.keeps_promises(need, self.now_ms, job.runtime_limit_ms, self.now_ms)

    def gang(self, agent: _Agent, job: QueuedJob) -> list[tuple[_Node, tuple[int, ...]]]:
        chosen: list[tuple[_Node, tuple[int, ...]]] = []
        task, here = job.per_task, None
        while len(chosen) < job.replicas:
            if here is None or job.spread or not here.room(task):
                here = self.best_node(agent, task, chosen if job.spread else [])
            _, places = self.score.best(here, task)
            here.hold(task, places)
            chosen.append((here, places))
        return chosen

    def best_node(self, agent: _Agent, task: Resources, chosen: list[tuple[_Node, tuple[int, ...]]]) -> _Node:
        best: tuple[float, float, int] | None = None
        for at, node in enumerate(agent.nodes):
            if node.room(task):
                score = self.score.best(node, task)[0] - ORDER_COST * at / len(agent.nodes)
                tasks = sum(other is node for other, _ in chosen)
                if best is None or (tasks, -score) < best[:2]:
                    best = (tasks, -score, at)
        assert best is not None, "there is room"
        return agent.nodes[best[2]]

    def try_promise(self, job: QueuedJob, home_only: bool) -> bool:
        need = {name: amount(job.per_task, name) * job.replicas for name in NAMES}
        there = self.open_agents(job, home_only)
        if not there:
            return False
        agent = min(there, key=lambda agent: (self.liking(agent.row.key[0], job), agent.backlog, agent.row.key))
        if len(agent.promises) >= self.promises_max:
            return False
        start_ms = agent.earliest(need, job.runtime_limit_ms, self.now_ms)
        if start_ms is None:
            return False
        if start_ms == self.now_ms + 1 and len(agent.nodes) > 1 and not agent.draining:
            self.drain_for(agent, job)
        agent.promises.append((start_ms, start_ms + job.runtime_limit_ms, need))
        agent.backlog += agent.work(need, job.runtime_limit_ms)
        self.promised[job.job_id] = (agent.row.key, start_ms)
        return True

    def run(self) -> bool:
        """Everybody's turns, owners at home first; False when the round was full before all had theirs."""
        aside = {job.job_id for job, _ in self.claims}
        jobs = [job for job in self.full.queued if job.job_id not in aside]
        homes = {agent.row.key[0] for agent in self.agents}
        owners = [job for job in jobs if job.home_hub in homes]
        return bool(self.agents) and all(
            self.turns([job for job in those if job.priority == priority], home_only)
            for home_only, those in ((True, owners), (False, jobs))
            for priority in sorted({job.priority for job in jobs})
        )

    def drain_for(self, agent: _Agent, job: QueuedJob) -> None:
        """Keep the nodes free that lack least, until they would hold the gang when they are idle."""
        agent.draining = True
        idle = {id(node): fresh for node, fresh in zip(agent.nodes, _Agent(agent.row).nodes, strict=True)}
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

    # -- turns --------------------------------------------------------------------------------------------------------
    def rank(self, level: Level) -> tuple[float, float, str]:
        share, used = self.shares(level), self.ledger.decayed(level, self.now_ms)
        past = [used.get(name, 0.0) / float(there) for name, there in self.offered.items() if there]
        weight = self.weight(level)
        return max([0.0, *share.values()]) / weight, max([0.0, *past]) / weight, level[-1]

    def shares(self, level: Level) -> dict[str, float]:
        if level not in self.share:
            held, used = self.held.get(level, {}), self.ledger.decayed(level, self.now_ms)
            self.share[level] = {
                name: (float(held.get(name, 0)) + used.get(name, 0.0)) / float(there)
                for name, there in self.offered.items()
                if there
            }
        return self.share[level]

    def count_share(self, job: QueuedJob) -> None:
        for level in _levels(job.owner):
            share = self.shares(level)
            for name in share:
                if amount(job.per_task, name):
                    share[name] += float(amount(job.per_task, name) * job.replicas) / float(self.offered[name])

    def weight(self, level: Level) -> float:
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
        if self.policy.order is Order.AGE:
            return (0, job.seq, job.job_id)
        from federation.scheduling.ageing import line_position_of

        return (line_position_of(self.policy.order, job), job.seq, job.job_id)

    def turns(self, jobs: list[QueuedJob], home_only: bool) -> bool:
        """Serve the jobs of one class; False when the round is full."""
        users: dict[tuple[str, str, str], _User] = {}
        for job in sorted(jobs, key=self.place_in_line):
            users.setdefault(job.owner, _User(job.owner, [])).line.append(job)
        waiting = list(users.values())
        while waiting:
            user = min(waiting, key=lambda user: [self.rank(level) for level in _levels(user.owner)])
            served = False
            while user.line and not served:
                job = user.line.pop(0)
                if job.job_id in self.placed or (home_only and job.hubs_prefer[:1] not in ((), (job.home_hub,))):
                    continue
                if len(self.placed) == self.policy.placements_max and self.could_start(job, home_only):
                    return False
                if self.try_start(job, home_only):
                    if job.job_id not in self.promised:
                        self.count_share(job)
                    served = True
                elif job.job_id not in self.promised and self.try_promise(job, home_only):
                    self.count_share(job)
                    served = True
            waiting = [user for user in waiting if user.line]
        return True

    def could_start(self, job: QueuedJob, home_only: bool) -> bool:
        need = {name: amount(job.per_task, name) * job.replicas for name in NAMES}
        return any(
            agent.room(job.per_task) >= job.replicas and self.may_jump(agent, need, job)
            for agent in self.open_agents(job, home_only)
        )

    # -- taking back --------------------------------------------------------------------------------------------------
    def preemptions(self) -> tuple[Preemption, ...]:
        """For the first promised job at each home, the guests that end."""
        by_id = {job.job_id: job for job in self.full.queued}
        seen: set[AgentKey] = set()
        made: list[Preemption] = []
        for job_id, (key, _) in self.promised.items():
            job = by_id[job_id]
            guests = self.guests(key)
            if job_id in self.placed or key in seen or key[0] != job.home_hub or not guests:
                continue
            seen.add(key)
            agent = _World(self.full, self.policy, self.now_ms, self.tables).by_key[key]
            for entry in self.placed.values():
                if entry.key == key:
                    self.hold_tasks(agent, by_id[entry.job_id].per_task, entry.nodes, entry.devices, 1)
            victims: list[tuple[int, str]] = []
            rows = {lease.lease_id: lease for lease in self.full.leases_started}
            for guest in guests:
                if agent.room(job.per_task) < job.replicas:
                    victims.append(guest)
                    self.hold_guest(agent, rows[guest[1]], -1)
            if not victims or agent.room(job.per_task) < job.replicas:
                continue
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
            made.append(Preemption(job_id, key, nodes, tuple(lease_id for _, lease_id in victims), lost_ms, devices))
        return tuple(made)

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

    def hold_guest(self, agent: _Agent, lease: LeaseRow, sign: int) -> None:
        self.hold_tasks(agent, lease.per_task, lease.nodes, lease.devices, sign)

    def hold_tasks(
        self, agent: _Agent, task: Resources, names: tuple[str, ...], devices: tuple[tuple[int, ...], ...], sign: int
    ) -> None:
        for at, name in enumerate(names):
            for node in agent.nodes:
                if node.name == name:
                    node.hold(task, devices[at] if devices else None, sign)

    def ready(self, job: QueuedJob, claim: ClaimRow) -> bool:
        """Whether nothing is in the way of a claim any more."""
        live = {lease.lease_id for lease in self.full.leases_started}
        agent = self.by_key.get(claim.key)
        if agent is None or live & set(claim.victims) or self.lasting_step(agent, job):
            return False
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


def plan_slowly(full: Delta, policy: Policy, now_ms: int, tables: Tables) -> Plan:
    """The plan of a round over everything that `full` holds; `tables` are what the score knows of the workload."""
    world = _World(full, policy, now_ms, tables)
    claims = [
        Placement(job.job_id, claim.key, claim.nodes, claim.devices)
        for job, claim in sorted(world.claims, key=lambda found: found[0].job_id)
        if world.ready(job, claim)
    ]
    whole = world.run()
    hub_ids = tuple(sorted({agent.row.key[0] for agent in world.agents}))
    started = {*world.placed, *(entry.job_id for entry in claims)}
    left = [job for job in full.queued if job.job_id not in started]
    full_up = len(world.placed) == policy.placements_max or not whole
    waiting = _waiting(world, _World(full, policy, now_ms, tables), hub_ids, left, full_up)
    return Plan(now_ms, (*claims, *world.placed.values()), hub_ids, waiting, world.preemptions())


def promised_slowly(full: Delta, policy: Policy, now_ms: int, tables: Tables) -> dict[str, tuple[AgentKey, int]]:
    """The starts that the round promises, by job: (agent, when)."""
    world = _World(full, policy, now_ms, tables)
    world.run()
    return {job_id: found for job_id, found in world.promised.items() if job_id not in world.placed}


def _levels(owner: tuple[str, str, str]) -> tuple[Level, Level, Level]:
    return (owner[:1], owner[:2], owner)


def _waiting(
    after: _World, before: _World, hub_ids: tuple[str, ...], jobs: list[QueuedJob], full_up: bool
) -> tuple[Waiting, ...]:
    """Why: on the capacity that the round began with, and on what it left."""
    announced = {
        (entry.name, version)
        for agent in before.agents
        for entry in agent.row.datasets
        for version in ("", entry.version)
    }
    sorts: dict[DemandKey, list[QueuedJob]] = {}
    for job in jobs:
        sorts.setdefault(demand_key(job), []).append(job)
    waiting = []
    for key in sorted(sorts):
        job = sorts[key][0]
        steps: dict[str, int] = {}
        for agent, left in zip(before.agents, after.agents, strict=True):
            step = before.lasting_step(agent, job)
            if step == 0 and left.room(job.per_task) >= job.replicas:
                step = STEP[ReasonCode.FAIRNESS_TURN if full_up else ReasonCode.RESERVATION_AHEAD]
            elif step == 0:
                fits = agent.room(job.per_task) >= job.replicas
                step = STEP[ReasonCode.FAIRNESS_TURN if fits else ReasonCode.CAPACITY]
            hub_id = agent.row.key[0]
            steps[hub_id] = min(step, steps.get(hub_id, step))
        if not hub_ids:
            overall = ReasonCode.NO_AGENT
        elif any(wanted not in announced for wanted in key.inputs):
            overall = ReasonCode.UNKNOWN_DATASET
        else:
            overall = LADDER[min(steps.values())]
        waiting.append(Waiting(key, len(sorts[key]), bytes(steps[hub_id] for hub_id in hub_ids), overall))
    return tuple(waiting)
