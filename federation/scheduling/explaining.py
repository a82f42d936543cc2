"""Why one job waits, hub by hub, and when it could start at the earliest: `explain`, asked by people, not by rounds.

It looks at what is free in fact and at what is left after the last plan: a hub whose room others take first says
FAIRNESS_TURN. It also answers for a job that was not submitted. The words are in `words.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from federation.domain.job import Reason
from federation.domain.plan import ReasonCode
from federation.domain.quantities import Amount, Resources
from federation.scheduling import words
from federation.scheduling.demand import DemandClass, Steps, Terms
from federation.scheduling.grid import Grid, Int64, sums_by_agent, tasks_that_fit
from federation.scheduling.order import Shares
from federation.scheduling.plan import LADDER, STEP, DemandKey, demand_key
from federation.scheduling.policy import Policy
from federation.scheduling.rows import QueuedJob
from federation.scheduling.state import PlannerState


@dataclass(frozen=True, slots=True)
class Explanation:
    """One reason a hub, by hub id; before them, where useful, one for the whole federation."""

    reasons: tuple[Reason, ...]
    earliest_start_ms: int = 0
    """When it could start if nobody came before it, from the ends of what runs; 0 when nobody can say."""
    earliest_hub_id: str = ""


def explain(
    state: PlannerState, policy: Policy, job: QueuedJob, now_ms: int, hub_ids: tuple[str, ...] = ()
) -> Explanation:
    """Why `job` does not run yet. `hub_ids`: further hubs to speak of, members without an agent.

    `state` is only read. Ask on the thread that runs the rounds, after a round: the answer speaks of that round.
    """
    lease = state.leases.get(state.lease_of_job.get(job.job_id, ""))
    if lease is not None:
        running = words.reason(ReasonCode.RUNNING, "it holds its room here", lease.key[0], agent=lease.key[1])
        return Explanation((running,), lease.started_ms or now_ms, lease.key[0])
    key = demand_key(job)
    terms = DemandClass(key).terms(state.feasibility)
    planned = next((entry for entry in state.last_plan.placements if entry.job_id == job.job_id), None)
    left = state.grid.free if planned else _left_by_plan(state)
    steps = _steps(state.grid, terms, key, left)
    reasons = _hub_reasons(state, key, terms, steps)
    reasons += [
        words.reason(ReasonCode.NO_AGENT, "no agent of this hub has reported yet", hub_id)
        for hub_id in set(hub_ids) | set(key.hubs_allow)
        if hub_id not in state.grid.hub_ids
    ]
    reasons.sort(key=lambda entry: entry.hub_id)
    overall = _overall(state, policy, job, terms, steps)
    if planned is not None:
        return Explanation((*overall, *reasons), now_ms, planned.key[0])
    earliest_ms, hub_id = _earliest(state, terms, job, left, now_ms)
    return Explanation((*overall, *reasons), earliest_ms, hub_id)


def _left_by_plan(state: PlannerState) -> Int64:
    """(N, R) what is free when all that the last plan placed has started."""
    grid = state.grid
    left = grid.free.copy()
    for entry in state.last_plan.placements:
        shape = grid.shape(state.jobs[entry.job_id].per_task)
        for node in entry.nodes:
            left[grid.node_row[entry.key][node], shape.take_columns] -= shape.take
    return left


def _steps(grid: Grid, terms: Terms, key: DemandKey, left: Int64) -> Steps:
    """(A,) each agent's step, room included."""
    steps = terms.steps.copy()
    for free, step in (
        (None, STEP[ReasonCode.CAPACITY]),
        (grid.free, STEP[ReasonCode.FAIRNESS_TURN]),
        (left, STEP[ReasonCode.WOULD_RUN]),
    ):
        if not terms.open_agents.size:
            break
        if free is None:
            steps[terms.open_agents] = step
        else:
            tasks = sums_by_agent(tasks_that_fit(free, terms.shape, key.replicas), grid.first)
            steps[terms.open_agents[tasks[terms.open_agents] >= key.replicas]] = step
    return steps


def _hub_reasons(state: PlannerState, key: DemandKey, terms: Terms, steps: Steps) -> list[Reason]:
    grid, reasons = state.grid, []
    starts = [*grid.hub_first.tolist(), len(grid.keys)]
    for hub_id, (begin, end) in zip(grid.hub_ids, pairwise(starts), strict=True):
        step = int(steps[begin:end].min())
        code, best = LADDER[step], [at for at in range(begin, end) if steps[at] == step]
        rows = [state.agents[grid.keys[at]] for at in best]
        if code is ReasonCode.WOULD_RUN:
            reasons.append(words.reason(code, "it fits here now and waits only for its start", hub_id))
        elif code is ReasonCode.FAIRNESS_TURN:
            reasons.append(words.reason(code, "it would fit here now, but others are first", hub_id))
        elif code is ReasonCode.CAPACITY:
            reasons.append(_no_room(state, key, terms, hub_id, best))
        elif code is ReasonCode.SHAPE_NEVER_FITS:
            reasons.append(words.never_fits(rows, key))
        else:
            reasons.append(words.obstacle(code, rows[0], key))
    return reasons


def _no_room(state: PlannerState, key: DemandKey, terms: Terms, hub_id: str, agents: list[int]) -> Reason:
    """What is shortest at the agent of this hub that comes nearest to taking the job."""
    grid = state.grid
    tasks = sums_by_agent(tasks_that_fit(grid.free, terms.shape, key.replicas), grid.first)
    agent = max(agents, key=lambda at: (int(tasks[at]), -at))
    free = grid.free[grid.first[agent] : grid.first[agent + 1]]

    def missing(entry: Amount) -> float:
        return (entry.amount - int(free[:, grid.columns[entry.name, entry.kind]].max())) / entry.amount

    shortest = max(key.per_task, key=missing)
    most = int(free[:, grid.columns[shortest.name, shortest.kind]].max())
    return words.no_room_now(hub_id, key, shortest, most, int(tasks[agent]))


def _overall(state: PlannerState, policy: Policy, job: QueuedJob, terms: Terms, steps: Steps) -> list[Reason]:
    """The reasons that hold for the whole federation."""
    missing = state.feasibility.missing_datasets(demand_key(job))
    if not state.grid.keys:
        return [words.reason(ReasonCode.NO_AGENT, "no hub has an agent yet")]
    if missing:
        named = ", ".join(f"{name} {version}".strip() for name, version in missing)
        message = f"no hub announces {named}: check its name and version"
        return [words.reason(ReasonCode.UNKNOWN_DATASET, message, datasets=named)]
    if terms.open_agents.size and int(steps.min()) == STEP[ReasonCode.FAIRNESS_TURN]:
        shares = Shares(state, policy)
        share = shares.rank((job.home_hub,))[0]
        own = shares.rank(job.owner)[0]
        message = (
            f"others with a smaller share, or before it, take the room first; {job.home_hub} holds {share:.1%} of it"
        )
        return [words.reason(ReasonCode.FAIRNESS_TURN, message, hub_share=f"{share:.6f}", user_share=f"{own:.6f}")]
    return []


def _earliest(state: PlannerState, terms: Terms, job: QueuedJob, left: Int64, now_ms: int) -> tuple[int, str]:
    """The first moment at which some open agent has room, when leases run to their ends; (0, "") when none is open."""
    grid = state.grid
    if not terms.open_agents.size:
        return (0, "")
    liking, endings = state.feasibility.liking(job.home_hub, job.hubs_prefer), _endings(state, now_ms)
    at_ms, _, agent = min(
        (
            max(_earliest_at(grid, agent, terms, job.replicas, left, endings.get(agent, [])), now_ms),
            int(liking[agent]),
            agent,
        )
        for agent in terms.open_agents.tolist()
    )
    return (at_ms, grid.keys[agent][0])


Ending = tuple[int, tuple[str, ...], Resources]


def _endings(state: PlannerState, now_ms: int) -> dict[int, list[Ending]]:
    """By agent: (end, node of each task, per task), of what runs and of what the last plan starts."""
    endings: dict[int, list[Ending]] = {}
    for lease in state.leases.values():
        agent = state.grid.index.get(lease.key)
        if agent is not None:
            endings.setdefault(agent, []).append((lease.expires_ms, lease.nodes, lease.per_task))
    for entry in state.last_plan.placements:
        job = state.jobs[entry.job_id]
        ends_ms = now_ms + job.runtime_limit_ms
        endings.setdefault(state.grid.index[entry.key], []).append((ends_ms, entry.nodes, job.per_task))
    for of_agent in endings.values():
        of_agent.sort()
    return endings


def _earliest_at(grid: Grid, agent: int, terms: Terms, replicas: int, left: Int64, endings: list[Ending]) -> int:
    """When the gang fits at this agent; 0 when it fits now. It fits at the latest when all has ended."""
    begin, end = int(grid.first[agent]), int(grid.first[agent + 1])
    free = left[begin:end].copy()
    at_ms, rows = 0, grid.node_row[grid.keys[agent]]
    for ends_ms, nodes, per_task in endings:
        if int(tasks_that_fit(free, terms.shape, replicas).sum()) >= replicas:
            return at_ms
        shape = grid.shape(per_task)
        for node in nodes:
            if node in rows:
                np.add.at(free[rows[node] - begin], shape.take_columns, shape.take)
        at_ms = ends_ms
    return at_ms
