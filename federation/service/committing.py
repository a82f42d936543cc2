"""A plan takes effect: each decision is verified on the latest state, and what no longer holds is left as it is.

A command for the writer. Placements come first, in the plan's order, then preemptions. Deliberately not here: planning
(`rounds.py`, `federation/scheduling`) and what holds (`federation/lifecycle/commit.py`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from federation.domain.hub import Agent, Hub
from federation.domain.ids import AgentKey, JobId, LeaseId
from federation.domain.job import Job, Reason
from federation.domain.lease import ENDS_BY, PREEMPTED
from federation.lifecycle import commit as lifecycle_commit
from federation.lifecycle.commit import Held, Place
from federation.lifecycle.job import Fact, JobRecord, Trigger
from federation.ports import IdSource
from federation.scheduling.plan import Placement, Plan, Preemption
from federation.scheduling.words import clock
from federation.service.jobs import apply
from federation.service.world import ACTOR_CONTROL, Unit

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Accepted:
    """How many decisions of a plan took effect. A preemption that has become needless counts as a placement."""

    placements: int = 0
    preemptions: int = 0
    failures: list[str] = field(default_factory=list)
    """What went wrong with decisions that were left out for a reason of ours; a mistake in this program."""


def commit_plan(unit: Unit, plan: Plan, ids: IdSource) -> Accepted:
    """Grant leases and make claims, as far as they still hold; one decision that fails takes no other with it."""
    accepted = Accepted()
    decisions: tuple[Placement | Preemption, ...] = (*plan.placements, *plan.preemptions)
    for decision in decisions:
        savepoint = unit.savepoint()
        try:
            if _placed(unit, JobId(decision.job_id), decision.key, _place_of(decision), ids):
                accepted.placements += 1  # also of a preemption: the room became free meanwhile, nobody needs to end
            elif isinstance(decision, Preemption):
                accepted.preemptions += _preempted(unit, decision)
        except Exception as error:
            accepted.failures.append(f"job {decision.job_id}: {error!r}")
            log.exception("the decision about job %s failed for a reason of ours; the others go on", decision.job_id)
            unit.rollback(savepoint)
    return accepted


def _place_of(decision: Placement | Preemption) -> Place:
    return Place(decision.nodes, decision.devices)


def _placed(unit: Unit, job_id: JobId, key: AgentKey, place: Place, ids: IdSource) -> bool:
    """Verify one placement and grant its lease; False when it no longer holds."""
    job, agent, hub = _parties(unit, job_id, key)
    if job is None or agent is None:
        return False
    verdict = lifecycle_commit.verify(job, agent, hub, place, _held(unit, key, place))
    if verdict.why_not:
        return False
    lease_id = LeaseId(ids.new_id("lease"))
    taken = Place(place.nodes, verdict.devices)
    lease = lifecycle_commit.granted(job, agent, taken, lease_id, unit.world.incarnation, unit.now_ms)
    apply(unit, job, Fact(Trigger.LEASE_GRANTED, lease.epoch, lease=lease), cause="round", actor=ACTOR_CONTROL)
    return True


def _preempted(unit: Unit, preemption: Preemption) -> bool:
    """Verify one preemption, make its claim, and tell its victims to end; False when it no longer holds.

    Victims that have ended since the plan was made are left out: their room is what was wanted.
    """
    job, agent, hub = _parties(unit, JobId(preemption.job_id), preemption.key)
    if job is None or agent is None:
        return False
    leases = [unit.world.leases.get(LeaseId(lease_id)) for lease_id in dict.fromkeys(preemption.victims)]
    victims = [JobRecord(unit.world.jobs[lease.job_id], lease) for lease in leases if lease is not None]
    place = _place_of(preemption)
    held = _held(unit, preemption.key, place)
    verdict = lifecycle_commit.verify_preemption(job, agent, hub, place, victims, held)
    if verdict.why_not:
        return False
    ended = tuple(victim.lease.id for victim in victims if victim.lease is not None)
    taken = Place(place.nodes, verdict.devices)
    claim = lifecycle_commit.claimed(agent, taken, ended, preemption.lost_ms, unit.now_ms)
    apply(unit, job, Fact(Trigger.CLAIM_MADE, claim=claim), cause="round", actor=ACTOR_CONTROL)
    for victim in victims:
        fact = Fact(Trigger.PREEMPT_REQUESTED, reason=_told_to_end(agent, unit.now_ms))
        apply(unit, victim.job, fact, cause="round", actor=ACTOR_CONTROL)
    return True


def _told_to_end(agent: Agent, now_ms: int) -> Reason:
    """What a guest is told: until when, for whom, and what becomes of it. Not whose job it is that gets the room."""
    ends_by_ms = now_ms + agent.reclaim_ms
    message = (
        f"being ended by {clock(ends_by_ms)} so that {agent.hub_id}'s own users get their machines back; "
        "it will be queued again"
    )
    return Reason(PREEMPTED, message, agent.hub_id, ((ENDS_BY, str(ends_by_ms)),))


def _parties(unit: Unit, job_id: JobId, key: AgentKey) -> tuple[Job | None, Agent | None, Hub | None]:
    agent = unit.world.agents.get(key)
    return unit.world.jobs.get(job_id), agent, unit.world.hubs.get(agent.hub_id) if agent else None


def _held(unit: Unit, key: AgentKey, place: Place) -> Held:
    return Held(unit.world.held_on(key, place.nodes), unit.world.claimed_at(key))
