"""The slow obvious twin of `plan_round`: dictionaries and loops, one job at a time, no memory between rounds.

It takes everything as one full `Delta` and gives the same `Plan`, exactly; the property tests hold the fast core to
it. It shares the row and plan types with the core and none of its decisions. Nothing else may import it.
"""

from __future__ import annotations

from federation.domain.hub import HubState, LinkState
from federation.domain.plan import ReasonCode
from federation.domain.quantities import Resources
from federation.scheduling.plan import LADDER, STEP, DemandKey, Placement, Plan, Waiting, demand_key
from federation.scheduling.policy import Policy
from federation.scheduling.rows import AgentRow, Delta, QueuedJob

Level = tuple[str, ...]
Rank = tuple[float, float, str]


class _Node:
    """A machine and the tasks on it."""

    def __init__(self, name: str, offered: Resources) -> None:
        self.name = name
        self.offered = offered
        self.tasks: list[Resources] = []

    def offers(self, name: str, kind: str = "") -> int:
        return sum(entry.amount for entry in self.offered if entry.name == name and kind in ("", entry.kind))

    def free(self, name: str, kind: str = "") -> int:
        """What is surely free: a task that took any kind may have taken this one."""
        asked = [entry for task in self.tasks for entry in task if entry.name == name]
        if kind:
            asked = [entry for entry in asked if entry.kind in ("", kind)]
        return self.offers(name, kind) - sum(entry.amount for entry in asked)

    def fits(self, task: Resources) -> bool:
        for name in {entry.name for entry in task}:
            if self.free(name) < sum(entry.amount for entry in task if entry.name == name):
                return False
        return all(self.free(entry.name, entry.kind) >= entry.amount for entry in task if entry.kind)

    def left_after(self, task: Resources) -> tuple[bool, float]:
        """How good a fit is; smaller is better: (has devices the task does not ask for, largest share left free)."""
        self.tasks.append(task)
        asked = {(entry.name, kind) for entry in task for kind in ("", entry.kind)}
        left = max(self.free(name, kind) / self.offers(name, kind) for name, kind in asked)
        self.tasks.pop()
        stranded = self.offers("gpu") > 0 and not any(entry.name == "gpu" for entry in task)
        return stranded, left


class _Agent:
    """An agent and its machines."""

    def __init__(self, row: AgentRow) -> None:
        self.row = row
        self.nodes = [_Node(node.name, node.offered) for node in row.nodes]

    def load(self) -> float:
        names = {entry.name for node in self.nodes for entry in node.offered}
        loads = [0.0]
        for name in names:
            offered = sum(node.offers(name) for node in self.nodes)
            used = offered - sum(node.free(name) for node in self.nodes)
            loads.append(float(used) / float(offered))
        return max(loads)

    def try_gang(self, task: Resources, replicas: int) -> list[_Node] | None:
        """The node of each task, or None; nothing is taken for good."""
        chosen: list[_Node] = []
        while len(chosen) < replicas:
            fitting = [node for node in self.nodes if node.fits(task)]
            if not fitting:
                break
            best = min(fitting, key=lambda node: node.left_after(task))
            best.tasks.append(task)
            chosen.append(best)
        for node in chosen:
            node.tasks.pop()
        return chosen if len(chosen) == replicas else None


class _World:
    """Everything that a round looks at."""

    def __init__(self, full: Delta, policy: Policy) -> None:
        self.policy = policy
        self.agents = [_Agent(row) for row in sorted(full.agents, key=lambda row: row.key)]
        self.used = full.usage
        self.holdings = [
            (lease.owner, [(entry.name, entry.amount * len(lease.nodes)) for entry in lease.per_task])
            for lease in full.leases_started
        ]
        for lease in full.leases_started:
            for agent in self.agents:
                if agent.row.key == lease.key:
                    for name in lease.nodes:
                        for node in agent.nodes:
                            if node.name == name:
                                node.tasks.append(lease.per_task)

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
        idle = _Agent(row)
        if idle.try_gang(job.per_task, job.replicas) is None:
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

    def place(self, job: QueuedJob) -> Placement | None:
        candidates = []
        for agent in self.agents:
            if self.lasting_step(agent, job) == 0:
                nodes = agent.try_gang(job.per_task, job.replicas)
                if nodes is not None:
                    hub_id = agent.row.key[0]
                    candidates.append((self.liking(hub_id, job), agent.load(), agent.row.key, nodes))
        if not candidates:
            return None
        _, _, key, nodes = min(candidates, key=lambda found: found[:3])
        for node in nodes:
            node.tasks.append(job.per_task)
        self.holdings.append((job.owner, [(entry.name, entry.amount * job.replicas) for entry in job.per_task]))
        return Placement(job.job_id, key, tuple(node.name for node in nodes))

    def rank(self, level: Level) -> Rank:
        held = [entry for owner, amounts in self.holdings if owner[: len(level)] == level for entry in amounts]
        used = [entry for row in self.used if row.owner[: len(level)] == level for entry in row.used]
        weight = self.weight(level)
        return self.dominant(held) / weight, self.dominant(used) / weight, level[-1]

    def weight(self, level: Level) -> float:
        if len(level) == 1:
            return self.policy.hub_weights.get(level[0], 1.0)
        if len(level) == 2:
            return self.policy.project_weights.get((level[0], level[1]), 1.0)
        return self.policy.user_weights.get((level[0], level[1], level[2]), 1.0)

    def dominant(self, amounts: list[tuple[str, int]]) -> float:
        sums: dict[str, int] = {}
        for name, amount in amounts:
            sums[name] = sums.get(name, 0) + amount
        ratios = [0.0]
        for name, amount in sums.items():
            offered = sum(node.offers(name) for agent in self.agents for node in agent.nodes)
            if offered:
                ratios.append(float(amount) / float(offered))
        return max(ratios)


def plan_slowly(full: Delta, policy: Policy, now_ms: int) -> Plan:
    """The plan of a round over everything that `full` holds."""
    world = _World(full, policy)
    placements: list[Placement] = []
    waiting = {job.job_id: job for job in full.queued}
    for priority in sorted({job.priority for job in full.queued}):
        candidates = [job for job in full.queued if job.priority == priority]
        while candidates and len(placements) < policy.placements_max:
            ranks: dict[Level, Rank] = {
                level: world.rank(level) for job in candidates for level in (job.owner[:1], job.owner[:2], job.owner)
            }
            job = min(candidates, key=lambda job: (*_ranks(ranks, job), job.seq, job.job_id))
            candidates.remove(job)
            placement = world.place(job)
            if placement is not None:
                placements.append(placement)
                del waiting[job.job_id]
    hub_ids = tuple(sorted({row.key[0] for row in full.agents}))
    return Plan(now_ms, tuple(placements), hub_ids, _waiting(full, policy, hub_ids, list(waiting.values())))


def _ranks(ranks: dict[Level, Rank], job: QueuedJob) -> tuple[object, ...]:
    return (ranks[job.owner[:1]], ranks[job.owner[:2]], ranks[job.owner])


def _waiting(full: Delta, policy: Policy, hub_ids: tuple[str, ...], jobs: list[QueuedJob]) -> tuple[Waiting, ...]:
    """Why, on the capacity that the round began with."""
    before = _World(full, policy)
    announced = {
        (entry.name, version) for row in full.agents for entry in row.datasets for version in ("", entry.version)
    }
    sorts: dict[DemandKey, list[QueuedJob]] = {}
    for job in jobs:
        sorts.setdefault(demand_key(job), []).append(job)
    waiting = []
    for key in sorted(sorts):
        job = sorts[key][0]
        steps: dict[str, int] = {}
        for agent in before.agents:
            step = before.lasting_step(agent, job)
            if step == 0:
                fits = agent.try_gang(job.per_task, job.replicas) is not None
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
