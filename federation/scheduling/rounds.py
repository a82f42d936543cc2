"""The door: `plan_round`. It checks and applies what changed, fills the room in order, and says why the rest waits."""

from __future__ import annotations

from collections import Counter

import numpy as np

from federation.domain.plan import ReasonCode
from federation.scheduling.demand import DemandClass
from federation.scheduling.grid import sums_by_agent, tasks_that_fit
from federation.scheduling.order import Shares, fill
from federation.scheduling.placing import Room
from federation.scheduling.plan import STEP, DemandKey, Placement, Plan, Waiting
from federation.scheduling.policy import Policy
from federation.scheduling.rows import Delta
from federation.scheduling.state import PlannerState


def plan_round(state: PlannerState, delta: Delta, policy: Policy, now_ms: int) -> tuple[PlannerState, Plan]:
    """Which waiting jobs start where, given what changed since the last round, and why each of the others waits.

    `state` is consumed: go on with the returned one. The plan never places more than is free; the same state and delta
    give the same plan, whatever the order of the delta's rows. Its placements take effect when their leases come back
    in a later delta; until then a further round decides on the same jobs anew.

    Errors: INVALID_ARGUMENT or LIMIT_EXCEEDED with the field and index of a bad row; then `state` is as it was, and
    may still be used.
    """
    state.apply(delta)
    grid = state.grid
    room = Room(grid)
    placements: list[Placement] = []
    dead = set(state.stuck)

    def place(key: DemandKey, job_id: str) -> bool:
        terms = state.classes[key].terms(state.feasibility)
        job = state.jobs[job_id]
        found = room.place(terms, key.replicas, state.feasibility.liking(job.home_hub, job.hubs_prefer))
        if found is None:
            if not placements:
                state.stuck.add(key)  # it does not fit what is free in fact, so it need not be tried until that grows
            return False
        nodes = tuple(grid.node_names[row] for row in found.rows)
        placements.append(Placement(job_id, grid.keys[found.agent], nodes))
        return True

    fill(state, Shares(state, policy), dead, place, policy.placements_max)
    plan = Plan(now_ms, tuple(placements), grid.hub_ids, _waiting(state, placements))
    state.last_plan = plan
    return state, plan


def _waiting(state: PlannerState, placements: list[Placement]) -> tuple[Waiting, ...]:
    placed = Counter(state.class_of(entry.job_id) for entry in placements)
    waiting = []
    for key in sorted(state.classes):
        known = state.classes[key]
        jobs = known.jobs - placed[key]
        if jobs > 0:
            waiting.append(_why(state, known, jobs, first=bool(placements) and key not in state.stuck))
    return tuple(waiting)


def _why(state: PlannerState, known: DemandClass, jobs: int, *, first: bool) -> Waiting:
    """Why `jobs` of a sort wait; `first`: others were placed before, so there may have been room."""
    terms, grid = known.terms(state.feasibility), state.grid
    if not first or not terms.open_agents.size:
        return Waiting(known.key, jobs, terms.hub_steps, terms.overall)
    tasks = sums_by_agent(tasks_that_fit(grid.free, terms.shape, known.key.replicas), grid.first)
    full = np.where(terms.steps == 0, np.uint8(STEP[ReasonCode.CAPACITY]), terms.steps)
    full[(terms.steps == 0) & (tasks >= known.key.replicas)] = STEP[ReasonCode.FAIRNESS_TURN]
    steps = state.feasibility.by_hub(full)
    return Waiting(known.key, jobs, steps.tobytes(), state.feasibility.overall(known.key, steps))
