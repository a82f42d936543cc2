"""Why one job waits, hub by hub, and when it could start at the earliest: `explain`, asked by people, not by rounds.

It looks at what is free in fact and at what is left after the last plan: a hub whose room others take first says
FAIRNESS_TURN. It also answers for a job that was not submitted. The words are in `words.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from federation.domain.job import Reason
from federation.domain.plan import ReasonCode
from federation.domain.quantities import Amount, Resources
from federation.scheduling import words
from federation.scheduling.kernels.gangs import TASKS_MAX, tasks_at, tasks_by_agent
from federation.scheduling.kernels.room import Int64, Nodes
from federation.scheduling.plan import LADDER, STEP, DemandKey, demand_key
from federation.scheduling.policy import Policy
from federation.scheduling.quotas import over_quota
from federation.scheduling.rows import QueuedJob
from federation.scheduling.state import PlannerState
from federation.scheduling.transfers import OPEN_OR_SILENT, Steps
from federation.scheduling.windows import Course, courses, open_room


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
    planned = next((entry for entry in state.last_plan.placements if entry.job_id == job.job_id), None)
    quota = None if planned else over_quota(state, policy, job)
    lasting = lasting_steps(state, job)
    if quota is not None:
        lasting = np.maximum(lasting, np.uint8(STEP[ReasonCode.QUOTA]))
    transfer_ms, reach_ms = _data_of(state, job, lasting, now_ms)
    before, held = open_room(state, courses(state, now_ms)), courses(state, now_ms, started=planned is None)
    left = before if planned else _left_by_plan(state, held)
    found = _Asked(state, key, lasting, before, left, transfer_ms, reach_ms, held)
    steps = found.steps(placed=planned is not None)
    if planned is not None:
        steps[state.fleet.index[planned.key]] = STEP[ReasonCode.WOULD_RUN]
    reasons = _hub_reasons(found, steps, now_ms)
    reasons += [
        words.reason(ReasonCode.NO_AGENT, "no agent of this hub has reported yet", hub_id)
        for hub_id in set(hub_ids) | set(key.hubs_allow)
        if hub_id not in state.fleet.hub_ids
    ]
    reasons.sort(key=lambda entry: entry.hub_id)
    overall = _overall(found, policy, job, steps, now_ms)
    if quota is not None and not overall:
        overall = [words.over_quota(quota)]
    if planned is not None:
        return Explanation((*overall, *reasons), now_ms + planned.transfer_ms, planned.key[0])
    promised = _promised(found, job.job_id, now_ms)
    if promised is not None:
        return Explanation((*overall, *reasons), *promised)
    earliest_ms, hub_id = _earliest(found, job, now_ms)
    return Explanation((*overall, *reasons), earliest_ms, hub_id)


def lasting_steps(state: PlannerState, job: QueuedJob) -> Steps:
    """(A,) what lasts, for this very job: also how long it may run, where hubs take their machines back."""
    steps = state.demands.feasibility.steps(demand_key(job)).copy()
    transfer_ms = state.demands.feasibility.transfer_ms(demand_key(job))
    for agent, (hub_id, _) in enumerate(state.fleet.keys):
        limit = int(state.guest_limits[agent])
        held_ms = job.runtime_limit_ms + int(transfer_ms[agent])
        if 0 <= limit < held_ms and not job.preemptible and hub_id != job.home_hub:
            steps[agent] = max(int(steps[agent]), STEP[ReasonCode.TAKES_BACK])
    return steps


def _data_of(state: PlannerState, job: QueuedJob, lasting: Steps, now_ms: int) -> tuple[Int64, int]:
    """How long it takes to bring its data to each agent, (A,) ms, and how far it may come from now (`kernels/moving.py`)."""
    transfer_ms = state.demands.feasibility.transfer_ms(demand_key(job))
    near = transfer_ms[np.isin(lasting, OPEN_OR_SILENT)]
    return transfer_ms, int(near.min() if near.size else 0) + max(0, now_ms - job.submitted_ms)


@dataclass(frozen=True, slots=True)
class _Asked:
    """One question: a sort of job, where it may run at all (steps (A,)), what is left after the last plan, and its data."""

    state: PlannerState
    key: DemandKey
    lasting: Steps
    before: Nodes
    left: Nodes
    transfer_ms: Int64
    """(A,)"""
    reach_ms: int
    courses: Mapping[int, Course]
    """Of the agents that have windows."""

    @property
    def shape(self) -> int:
        return self.state.fleet.shapes.id_of(self.key.per_task)

    @property
    def open(self) -> list[int]:
        """Agents where only room decides."""
        agents: list[int] = np.flatnonzero(self.lasting == 0).tolist()
        return agents

    def tasks(self, room: Nodes) -> Int64:
        """(A,) how many tasks `room` has room for."""
        fleet, tasks = self.state.fleet, np.zeros(len(self.state.fleet.keys), np.int64)
        if fleet.possible(self.key.per_task):
            shape = self.shape
            tasks_by_agent(room, fleet.shapes.arrays, shape, fleet.first, tasks)
        return tasks

    def steps(self, *, placed: bool) -> Steps:
        """(A,) each agent's step, room included; `placed`: the last plan found it a place."""
        steps = self.lasting.copy()
        before, left = self.tasks(self.before), self.tasks(self.left)
        bare = self.tasks(self.state.fleet.nodes) if self.courses else before
        waits = None if placed else self.state.last_plan.waiting_of(self.key)
        for agent in self.open:
            if left[agent] >= self.key.replicas and self.transfer_ms[agent] > self.reach_ms:
                steps[agent] = STEP[ReasonCode.DATA_TO_MOVE]
            elif left[agent] >= self.key.replicas:
                steps[agent] = STEP[ReasonCode.WOULD_RUN]
                at = waits.steps[int(self.state.fleet.hub_of_agent[agent])] if waits is not None else 0
                if STEP[ReasonCode.FAIRNESS_TURN] <= at <= STEP[ReasonCode.RESERVATION_AHEAD]:
                    steps[agent] = at  # the round saw that room, and did not give it
            elif before[agent] >= self.key.replicas:
                steps[agent] = STEP[ReasonCode.FAIRNESS_TURN]
            elif bare[agent] >= self.key.replicas:
                steps[agent] = STEP[ReasonCode.RESERVATION_AHEAD]
            else:
                steps[agent] = STEP[ReasonCode.CAPACITY]
        return steps


def _left_by_plan(state: PlannerState, held: Mapping[int, Course]) -> Nodes:
    """What is free when all that the last plan placed has started; `held` knows it of agents that have windows."""
    left = open_room(state, held) if held else state.fleet.room()
    for entry in state.last_plan.placements:
        if entry.job_id in state.queue and state.fleet.index.get(entry.key) not in held:
            per_task = state.job(entry.job_id).per_task
            state.fleet.hold_in(left, entry.key, entry.nodes, per_task, entry.devices or None, 1)
    return left


def _hub_reasons(found: _Asked, steps: Steps, now_ms: int) -> list[Reason]:
    state, key, reasons = found.state, found.key, []
    fleet = state.fleet
    tasks = found.tasks(fleet.nodes)
    for hub_id, (begin, end) in zip(fleet.hub_ids, pairwise(fleet.hub_first.tolist()), strict=True):
        step = int(steps[begin:end].min())
        code, best = LADDER[step], [at for at in range(begin, end) if steps[at] == step]
        rows = [state.agents[fleet.keys[at]] for at in best]
        if code is ReasonCode.WOULD_RUN or code is ReasonCode.DATA_TO_MOVE:
            agent = min(best, key=lambda at: int(found.transfer_ms[at]))
            fetches = state.demands.feasibility.fetches(key, agent)
            ahead_ms = max(0, int(found.transfer_ms[agent]) - found.reach_ms)
            reasons.append(words.would_start(code, hub_id, fetches, ahead_ms))
        elif code is ReasonCode.FAIRNESS_TURN:
            reasons.append(words.reason(code, "it would fit here now, but others are first", hub_id))
        elif code is ReasonCode.RESERVATION_AHEAD:
            reasons.append(_reserved(found, hub_id, best, now_ms))
        elif code is ReasonCode.QUOTA:
            reasons.append(words.reason(code, "a quota keeps it from starting here, whatever is free", hub_id))
        elif code is ReasonCode.CAPACITY:
            reasons.append(_no_room(found, hub_id, best, tasks))
        elif code is ReasonCode.SHAPE_NEVER_FITS:
            reasons.append(words.never_fits(rows, key))
        elif code is ReasonCode.TAKES_BACK:
            limit_s = rows[0].reclaim_ms // 1000
            message = f"its own users get their machines back within {limit_s} s: a guest that may run longer must be preemptible"
            reasons.append(words.reason(code, message, hub_id, reclaim_s=limit_s))
        else:
            reasons.append(words.obstacle(code, rows[0], key))
    return reasons


def _reserved(found: _Asked, hub_id: str, agents: list[int], now_ms: int) -> Reason:
    """Whose start is in the way at this hub: a class's, or that of a job before it."""
    left = found.tasks(found.left)
    for agent in agents:
        windows = found.courses[agent].windows if agent in found.courses else []
        if windows and left[agent] < found.key.replicas:
            return words.reserved(hub_id, windows[0], now_ms, len(windows))
    message = "it would fit here now, but would delay a start that was promised to a job before it"
    return words.reason(ReasonCode.RESERVATION_AHEAD, message, hub_id)


def _no_room(found: _Asked, hub_id: str, agents: list[int], tasks: Int64) -> Reason:
    """What is shortest at the agent of this hub that comes nearest to taking the job; `tasks` (A,) fit now."""
    fleet = found.state.fleet
    agent = max(agents, key=lambda at: (int(tasks[at]), -at))
    begin, end = int(fleet.first[agent]), int(fleet.first[agent + 1])

    def most_free(entry: Amount) -> int:
        return max(fleet.free_of(node, entry) for node in range(begin, end))

    def missing(entry: Amount) -> float:
        return (entry.amount - most_free(entry)) / entry.amount

    shortest = max(found.key.per_task, key=missing)
    return words.no_room_now(hub_id, found.key, shortest, most_free(shortest), int(tasks[agent]))


def _overall(found: _Asked, policy: Policy, job: QueuedJob, steps: Steps, now_ms: int) -> list[Reason]:
    """The reasons that hold for the whole federation."""
    state = found.state
    missing = state.demands.feasibility.missing_datasets(found.key)
    if not state.fleet.keys:
        return [words.reason(ReasonCode.NO_AGENT, "no hub has an agent yet")]
    if missing:
        named = ", ".join(f"{name} {version}".strip() for name, version in missing)
        message = f"no hub announces {named}: check its name and version"
        return [words.reason(ReasonCode.UNKNOWN_DATASET, message, datasets=named)]
    if found.open and int(steps.min()) == STEP[ReasonCode.FAIRNESS_TURN]:
        share, own = (
            state.levels.share_of(level, state.fleet, state.ledger, policy, now_ms)
            for level in ((job.home_hub,), job.owner)
        )
        message = (
            f"others with a smaller share, or before it, take the room first; {job.home_hub} holds {share:.1%} of it"
        )
        return [words.reason(ReasonCode.FAIRNESS_TURN, message, hub_share=f"{share:.6f}", user_share=f"{own:.6f}")]
    return []


def _promised(found: _Asked, job_id: str, now_ms: int) -> tuple[int, str] | None:
    """The start that the last round promised this job, once its data is there."""
    state = found.state
    promised, slot = state.last_plan.promised, state.queue.slots.get(job_id)
    if promised is None or slot is None:
        return None
    at = np.flatnonzero(promised.slots == slot)
    if not at.size:
        return None
    agent = int(promised.agents[at[0]])
    start_ms = max(now_ms, int(promised.starts_ms[at[0]])) + int(found.transfer_ms[agent])
    return start_ms, state.fleet.keys[agent][0]


def _earliest(found: _Asked, job: QueuedJob, now_ms: int) -> tuple[int, str]:
    """When it could start soonest: some open agent has room, when leases run to their ends, and its data is there.

    (0, "") when none is open.
    An optimistic bound: of those that wait before it, it knows only what the last plan starts.
    """
    if not found.open:
        return (0, "")
    state = found.state
    liking = state.demands.feasibility.liking(job.home_hub, job.hubs_prefer)
    endings = _endings(state, now_ms)

    def start_ms(agent: int) -> int:
        transfer_ms = int(found.transfer_ms[agent])
        allowed_ms = now_ms + max(0, transfer_ms - found.reach_ms)
        if agent in found.courses:
            fits_ms = _earliest_around(found, found.courses[agent], job)
        else:
            fits_ms = _earliest_at(found, agent, endings.get(agent, []))
        return max(fits_ms, allowed_ms) + transfer_ms

    at_ms, _, agent = min((start_ms(agent), int(liking[agent]), agent) for agent in found.open)
    return (at_ms, state.fleet.keys[agent][0])


def _earliest_around(found: _Asked, course: Course, job: QueuedJob) -> int:
    """When the gang fits at an agent that has windows, beside all of them or in its own; the last change at the latest."""
    fleet, room = found.state.fleet, found.state.fleet.room()
    own = next((row for row in course.windows if row.window_id == job.window), None)
    ends = {run.end_ms for run in course.runs} | {row.end_ms for row in course.windows}
    instants = sorted({course.now_ms, *(at for at in ends if at > course.now_ms), *([own.start_ms] if own else [])})
    at_ms = course.now_ms
    for at_ms in (at for at in instants if at >= course.now_ms):
        until_ms = at_ms + job.runtime_limit_ms
        rooms = [course.open(at_ms, until_ms)]
        if own is not None and own.start_ms < until_ms and at_ms < own.end_ms:
            rooms.append(course.seated(own, at_ms, until_ms))
        for vector in rooms:
            course.write(vector, room)
            if tasks_at(room, fleet.shapes.arrays, found.shape, course.begin, course.end, TASKS_MAX) >= job.replicas:
                return at_ms
    return at_ms


class _Ending(NamedTuple):
    end_ms: int
    nodes: tuple[str, ...]
    per_task: Resources
    devices: tuple[tuple[int, ...], ...]


def _endings(state: PlannerState, now_ms: int) -> dict[int, list[_Ending]]:
    """By agent, what runs, what claims start when their victims have ended, and what the last plan starts, by end."""
    endings: dict[int, list[_Ending]] = {}
    for lease in state.leases.values():
        agent = state.fleet.index.get(lease.key)
        if agent is not None:
            ending = _Ending(lease.expires_ms, lease.nodes, lease.per_task, lease.devices)
            endings.setdefault(agent, []).append(ending)
    for claim in state.claims.values():
        agent, job = state.fleet.index.get(claim.key), state.job(claim.job_id)
        if agent is not None:
            begins_ms = max([now_ms, *(state.leases[one].expires_ms for one in claim.victims if one in state.leases)])
            ending = _Ending(begins_ms + job.runtime_limit_ms, claim.nodes, job.per_task, claim.devices)
            endings.setdefault(agent, []).append(ending)
    for entry in state.last_plan.placements:
        if entry.job_id in state.queue and entry.job_id not in state.claims:
            job = state.job(entry.job_id)
            end_ms = now_ms + entry.transfer_ms + job.runtime_limit_ms
            ending = _Ending(end_ms, entry.nodes, job.per_task, entry.devices)
            endings.setdefault(state.fleet.index[entry.key], []).append(ending)
    for of_agent in endings.values():
        of_agent.sort()
    return endings


def _earliest_at(found: _Asked, agent: int, endings: list[_Ending]) -> int:
    """When the gang fits at this agent; 0 when it fits now. It fits at the latest when all has ended."""
    fleet = found.state.fleet
    begin, end = int(fleet.first[agent]), int(fleet.first[agent + 1])
    room = found.left._replace(free=found.left.free.copy(), device_free=found.left.device_free.copy())
    at_ms, shape = 0, found.shape
    for ending in endings:
        if tasks_at(room, fleet.shapes.arrays, shape, begin, end, TASKS_MAX) >= found.key.replicas:
            return at_ms
        fleet.hold_in(room, fleet.keys[agent], ending.nodes, ending.per_task, ending.devices or None, -1)
        at_ms = ending.end_ms
    return at_ms
