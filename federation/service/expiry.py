"""What time alone brings about: agents fall silent, leases run out. One command, given once a second.

And what its being unreliable brings about: where nobody looked for a while, because no control plane was there or because
its clock was set, what passed meanwhile counts for nothing. Every live lease is counted anew.
"""

from __future__ import annotations

from dataclasses import replace

from federation.domain.job import Reason
from federation.domain.lease import LEASE_RAN_OUT, SKEW_BOUND_MS
from federation.lifecycle.agent import aged
from federation.lifecycle.commit import lease_ms
from federation.lifecycle.job import Fact, Trigger, found_over, over
from federation.service.jobs import apply, drop_claim
from federation.service.restoring import counted_again, counted_anew
from federation.service.world import ACTOR_CONTROL, Unit

TICK_MS = 1_000


def restart(unit: Unit) -> None:
    """Count every live lease anew, at full length from now. The first command of a control plane that starts.

    A hub that holds a lease has it for a full length at most from when it last asked. So whatever our clock did while we
    were not there, no lease is over here before it is over at its hub. The price: what a dead hub held waits longer.
    """
    counted_again(unit.world, unit.now_ms)
    for lease in list(unit.world.leases.values()):
        job = unit.world.jobs[lease.job_id]
        if found_over(job):
            continue
        fact = Fact(Trigger.LEASE_RESTARTED, lease.epoch, expires_ms=unit.now_ms + lease_ms(job))
        apply(unit, job, fact, cause="start", actor=ACTOR_CONTROL)


class Watch:
    """Looks once a second. After a second that was longer, or was set back, it begins anew instead of counting it."""

    def __init__(self, now_ms: int) -> None:
        self._seen_ms = now_ms

    def look(self, unit: Unit) -> int:
        """The command; its answer goes to `looked`."""
        if abs(unit.now_ms - self._seen_ms) > SKEW_BOUND_MS:
            for agent in list(unit.world.agents.values()):
                unit.put_agent(replace(agent, last_sync_ms=unit.now_ms), save=False)
            restart(unit)
        expire(unit)
        return unit.now_ms

    def looked(self, now_ms: int) -> None:
        """The look of that moment was saved. One that was not is taken again with the next."""
        self._seen_ms = now_ms


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
        reason = Reason(LEASE_RAN_OUT, f"hub {lease.hub_id} did not say how the run ended", lease.hub_id)
        apply(unit, job, Fact(Trigger.LEASE_EXPIRED, lease.epoch, reason=reason), cause="time", actor=ACTOR_CONTROL)
    for job in unit.world.claiming():
        if job.claim is not None and unit.now_ms >= job.claim.until_ms:
            message = f"room at hub {job.claim.hub_id} did not become free in time"
            drop_claim(unit, job, "CLAIM_RAN_OUT", message, cause="time", actor=ACTOR_CONTROL)
