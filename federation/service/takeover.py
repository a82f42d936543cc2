"""A new leader's first command: every live lease is restarted, before anything is answered.

While nobody led no hub could renew, and the new leader's clock is another one. A lease that is renewed by sync gets its
full length again. One that runs to a fixed moment keeps it: no hub was told of another; only where our clock is ahead of
the former leader's is it moved by as much, so that we do not take it for over too early. Not here: who leads (`store`).
"""

from __future__ import annotations

from federation.domain.job import OnPartition
from federation.lifecycle.commit import lease_ms
from federation.lifecycle.job import Fact, Trigger
from federation.service.jobs import apply
from federation.service.world import ACTOR_CONTROL, Unit

CLOCK_GAIN_MS_MIN = 1_000
"""Less than this is how long asking takes."""


def restart_leases(unit: Unit, clock_gain_ms: int) -> int:
    """Restart all live leases; how many. `clock_gain_ms`: how far our clock is ahead of the former leader's, >= 0."""
    restarted = 0
    for lease in list(unit.world.leases.values()):
        job = unit.world.jobs[lease.job_id]
        if lease.on_partition is not OnPartition.KEEP:
            expires_ms = unit.now_ms + lease_ms(job)
        elif clock_gain_ms >= CLOCK_GAIN_MS_MIN:
            expires_ms = lease.expires_ms + clock_gain_ms
        else:
            continue
        fact = Fact(Trigger.LEASE_RENEWED, lease.epoch, expires_ms=expires_ms)
        restarted += apply(unit, job, fact, cause="takeover", actor=ACTOR_CONTROL).changed
    return restarted
