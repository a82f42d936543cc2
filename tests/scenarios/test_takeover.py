"""A new leader restarts what was leased, on its own clock."""

from __future__ import annotations

import pytest

from federation.domain.job import OnPartition
from federation.domain.lease import LEASE_MS_BATCH
from federation.lifecycle.job import Trigger
from federation.service.takeover import restart_leases
from tests.support.world import ControlUnderTest


@pytest.mark.parametrize("on_partition", [OnPartition.STOP, OnPartition.RERUN])
def test_a_lease_that_is_renewed_gets_its_full_length(on_partition: OnPartition) -> None:
    """However little was left of it: while nobody led, its hub could not renew. It is stored before anybody hears of it."""
    control = ControlUnderTest()
    control.join()
    job_id = control.submit(on_partition=on_partition, idempotent=True, runtime_limit_ms=86_400_000)
    control.round()
    control.sync(control.report(job_id, Trigger.RUN_STARTED, started_ms=1))
    control.clock.at_ms += LEASE_MS_BATCH - 1_000
    control.boot()
    assert control.run(lambda unit: restart_leases(unit, 0)) == 1
    assert control.lease_of(job_id).expires_ms == control.clock.at_ms + LEASE_MS_BATCH
    control.boot()
    assert control.lease_of(job_id).expires_ms == control.clock.at_ms + LEASE_MS_BATCH
    control.check()


@pytest.mark.parametrize(("gain_ms", "later_ms"), [(0, 0), (999, 0), (1_000, 1_000), (600_000, 600_000)])
def test_a_lease_to_a_fixed_moment_is_moved_by_how_far_the_clocks_differ(gain_ms: int, later_ms: int) -> None:
    """A leader whose clock is ten minutes ahead must not take a run for over ten minutes before it is."""
    control = ControlUnderTest()
    control.join()
    job_id = control.submit(on_partition=OnPartition.KEEP)
    control.round()
    before_ms = control.lease_of(job_id).expires_ms
    control.boot()
    assert control.run(lambda unit: restart_leases(unit, gain_ms)) == (1 if later_ms else 0)
    assert control.lease_of(job_id).expires_ms == before_ms + later_ms
    control.check()


def test_nothing_is_restarted_twice() -> None:
    """A leader that takes over twice in one moment writes once."""
    control = ControlUnderTest()
    control.join()
    job_id = control.submit(on_partition=OnPartition.STOP)
    control.round()
    control.boot()
    control.clock.at_ms += 1
    assert [control.run(lambda unit: restart_leases(unit, 0)) for _ in range(2)] == [1, 0]
    assert control.lease_of(job_id).expires_ms == control.clock.at_ms + LEASE_MS_BATCH
