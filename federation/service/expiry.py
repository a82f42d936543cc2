"""What time alone brings about: agents fall silent, leases run out. One command, given once a second."""

from __future__ import annotations

from federation.domain.job import Reason
from federation.lifecycle.agent import aged
from federation.lifecycle.job import Fact, Trigger, over
from federation.service.jobs import apply, drop_claim
from federation.service.restoring import counted_anew
from federation.service.world import ACTOR_CONTROL, Unit

TICK_MS = 1_000


def expire(unit: Unit) -> None:
    """Age every link, end every lease whose run is over for certain though nobody said so, give up claims in vain."""
    for agent in list(unit.world.agents.values()):
        older = aged(agent, unit.now_ms)
        if older is not agent:
            unit.put_agent(older)
            unit.event(
                "agent",
                "/".join(agent.key),
                "AgentFellSilent",
                cause="time",
                actor=ACTOR_CONTROL,
                payload={"from": agent.link, "to": older.link},
            )
    for lease in list(unit.world.leases.values()):
        job = unit.world.jobs[lease.job_id]
        if not over(lease, unit.now_ms) or counted_anew(unit.world, lease, job, unit.now_ms):
            continue
        reason = Reason("LEASE_RAN_OUT", f"hub {lease.hub_id} did not say how the run ended", lease.hub_id)
        apply(unit, job, Fact(Trigger.LEASE_EXPIRED, lease.epoch, reason=reason), cause="time", actor=ACTOR_CONTROL)
    for job in unit.world.claiming():
        if job.claim is not None and unit.now_ms >= job.claim.until_ms:
            message = f"room at hub {job.claim.hub_id} did not become free in time"
            drop_claim(unit, job, "CLAIM_RAN_OUT", message, cause="time", actor=ACTOR_CONTROL)
