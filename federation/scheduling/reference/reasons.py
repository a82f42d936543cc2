"""The twin's reasons: why each sort of job waits at each hub, once the round is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from federation.domain.plan import ReasonCode
from federation.scheduling.plan import LADDER, STEP, DemandKey, Waiting, demand_key
from federation.scheduling.rows import QueuedJob

if TYPE_CHECKING:
    from federation.scheduling.reference.world import World

NEVER_MS = 2**62


def waiting(after: World, before: World, hub_ids: tuple[str, ...], jobs: list[QueuedJob]) -> tuple[Waiting, ...]:
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
    found = []
    claimed = {job.job_id for job, _ in before.claims}
    for key in sorted(sorts):
        job = sorts[key][0]
        over = [other for other in sorts[key] if other.job_id not in claimed and after.quotas.over(other)]
        reach = max((before.reach(other) for other in sorts[key] if other.job_id not in claimed), default=NEVER_MS)
        steps: dict[str, int] = {}
        for agent, left in zip(before.agents, after.agents, strict=True):
            step, fits_bare = before.lasting_step(agent, job), False
            if not any(before.welcome(agent, other) for other in sorts[key]):
                step = max(step, STEP[ReasonCode.TAKES_BACK])
            if len(over) == len(sorts[key]):
                step = max(step, STEP[ReasonCode.QUOTA])
            if agent.windows:
                agent.windows.show_bare()
                fits_bare = agent.room(job.per_task) >= job.replicas
                agent.windows.show()
            if step == 0 and left.room(job.per_task) >= job.replicas:
                far = before.moving.transfer_ms(agent.row, job) > reach
                code = ReasonCode.DATA_TO_MOVE if far else ReasonCode.RESERVATION_AHEAD
                step = STEP[ReasonCode.FAIRNESS_TURN if not after.whole else code]
            elif step == 0:
                fits = agent.room(job.per_task) >= job.replicas
                held = ReasonCode.RESERVATION_AHEAD if fits_bare else ReasonCode.CAPACITY
                step = STEP[ReasonCode.FAIRNESS_TURN if fits else held]
            hub_id = agent.row.key[0]
            steps[hub_id] = min(step, steps.get(hub_id, step))
        if not hub_ids:
            overall = ReasonCode.NO_AGENT
        elif any(wanted not in announced for wanted in key.inputs):
            overall = ReasonCode.UNKNOWN_DATASET
        else:
            overall = LADDER[min(steps.values())]
        codes = bytes(steps[hub_id] for hub_id in hub_ids)
        found.append(Waiting(key, len(sorts[key]), codes, overall, len(over)))
    return tuple(found)
