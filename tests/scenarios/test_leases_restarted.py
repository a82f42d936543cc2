"""A control plane that was away, or whose clock was set: what passed meanwhile frees nothing, and no lease lasts for ever."""

from __future__ import annotations

from typing import Any

import pytest

from federation.domain.hub import LinkState
from federation.domain.job import JobState, OnPartition
from federation.domain.lease import KILL_GRACE_MS, LEASE_MS_BATCH, LEASE_MS_LAB, SKEW_BOUND_MS
from federation.errors import Code, FederationError
from federation.lifecycle.commit import STAGING_MS
from federation.lifecycle.job import Trigger
from federation.service import expiry
from federation.service.desk import Desk, Outside
from federation.service.jobs import cancel, find
from tests.support.builders import an_agent
from tests.support.world import ControlUnderTest, CountingIds, FailingStore, SetClock

HOUR_MS = 3_600_000
OVER_MS = KILL_GRACE_MS + SKEW_BOUND_MS
RERUN: dict[str, Any] = {"on_partition": OnPartition.RERUN, "idempotent": True}


@pytest.fixture
def control() -> ControlUnderTest:
    """A control plane with one agent."""
    made = ControlUnderTest()
    made.join()
    return made


def running(control: ControlUnderTest, **spec: Any) -> str:
    """A job that runs."""
    job_id = control.submit(**spec)
    control.round()
    control.sync(control.report(job_id, Trigger.RUN_STARTED, started_ms=1))
    return job_id


@pytest.mark.parametrize("jump_ms", [10 * HOUR_MS, -10 * HOUR_MS, 0])
def test_a_clock_that_jumped_while_nobody_was_there_frees_nothing(control: ControlUnderTest, jump_ms: int) -> None:
    """The run goes on at its hub, so its job is not begun elsewhere; a full length later it is, and not hours later."""
    job_id = running(control, **RERUN)
    control.clock.at_ms += jump_ms
    control.boot()
    control.pass_time(1_000)
    assert control.job(job_id).state is JobState.RUNNING
    control.pass_time(LEASE_MS_BATCH + OVER_MS - 1_001)
    assert control.job(job_id).state is JobState.RUNNING
    control.pass_time(1)
    assert control.job(job_id).state is JobState.QUEUED
    control.check()


def test_a_hub_that_returns_after_the_jump_goes_on(control: ControlUnderTest) -> None:
    """It says what it has, under the epoch that it has, and its word counts."""
    job_id = running(control, **RERUN)
    before = control.lease_of(job_id)
    control.clock.at_ms += 10 * HOUR_MS
    control.boot()
    orders = control.join(runs=(control.report(job_id, Trigger.RUN_STARTED, started_ms=1),))
    assert not orders.revokes
    control.sync(control.report(job_id, Trigger.RUN_SUCCEEDED))
    assert (control.job(job_id).state, control.job(job_id).epoch) == (JobState.SUCCEEDED, before.epoch)


@pytest.mark.parametrize(
    ("spec", "length_ms"),
    [
        (RERUN, LEASE_MS_BATCH),
        ({"on_partition": OnPartition.STOP}, LEASE_MS_BATCH),
        ({"on_partition": OnPartition.STOP, "engine": "lab"}, LEASE_MS_LAB),
        ({"runtime_limit_ms": 2 * HOUR_MS}, 2 * HOUR_MS + STAGING_MS),
    ],
)
def test_a_start_counts_every_lease_anew_and_saves_it(
    control: ControlUnderTest, spec: dict[str, Any], length_ms: int
) -> None:
    """Whatever the job said of partitions: its own length, from the start on, in the store with an event."""
    control.join(an_agent(engines=("command", "lab")))
    job_id = running(control, **spec)
    lease = control.lease_of(job_id)
    control.clock.at_ms += 60_000
    control.boot()
    saved = control.store.get_lease(lease.id)
    assert saved is not None
    assert saved.expires_ms == control.clock.at_ms + length_ms
    last = control.store.events_of("job", job_id, 100)[-1]
    assert (last.type, last.cause) == (Trigger.LEASE_RESTARTED, "start")
    control.check()


def test_time_that_was_seen_to_pass_has_passed(control: ControlUnderTest) -> None:
    """A silent run that was found to be over for certain stays so: its owner may close the file after a start too."""
    job_id = running(control)
    lease = control.lease_of(job_id)
    control.pass_time(lease.expires_ms + OVER_MS - control.clock.at_ms)
    assert control.job(job_id).state is JobState.UNKNOWN
    control.boot()
    assert control.lease_of(job_id).expires_ms == lease.expires_ms
    control.run(lambda unit: cancel(unit, find(unit, control.store, job_id), "", "test"))
    assert control.job(job_id).state is JobState.CANCELLED


def test_a_run_in_doubt_that_is_not_over_is_counted_anew(control: ControlUnderTest) -> None:
    """Its hub does not know it, and it may run all the same: only its guard's time ends the doubt."""
    job_id = running(control)
    control.join(an_agent(session_id="session-2"))
    assert control.job(job_id).state is JobState.UNKNOWN
    before_ms = control.lease_of(job_id).expires_ms
    control.clock.at_ms += 60_000
    control.boot()
    assert control.lease_of(job_id).expires_ms == before_ms + 60_000


# ---- the clock of a control plane that runs -------------------------------------------------------------------------------
@pytest.mark.parametrize("jump_ms", [SKEW_BOUND_MS + 1, 10 * HOUR_MS, -SKEW_BOUND_MS - 1, -10 * HOUR_MS])
def test_a_clock_that_is_set_frees_nothing_and_silences_nobody(control: ControlUnderTest, jump_ms: int) -> None:
    """A second that was longer than the skew bound, or went backwards, is not counted: leases and silences begin anew."""
    job_id = running(control, **RERUN)
    watch = expiry.Watch(control.clock.at_ms)
    control.clock.at_ms += jump_ms
    watch.looked(control.run(watch.look))
    assert control.job(job_id).state is JobState.RUNNING
    assert control.lease_of(job_id).expires_ms == control.clock.at_ms + LEASE_MS_BATCH
    assert control.world.agents[an_agent().key].link is LinkState.ONLINE


def test_seconds_that_pass_as_they_should_are_counted(control: ControlUnderTest) -> None:
    """Up to the skew bound a look may be late; the lease then runs out as ever, and the silence is one."""
    job_id = running(control, **RERUN)
    expires_ms = control.lease_of(job_id).expires_ms
    watch = expiry.Watch(control.clock.at_ms)
    while control.clock.at_ms < expires_ms + OVER_MS:
        control.clock.at_ms += SKEW_BOUND_MS
        watch.looked(control.run(watch.look))
    assert control.job(job_id).state is JobState.QUEUED
    assert control.world.agents[an_agent().key].link is LinkState.LOST


def test_a_look_that_was_not_saved_is_taken_again() -> None:
    """The disk was full when the clock was set: with room again the leases are counted anew, and nothing was freed."""
    store = FailingStore()
    control = ControlUnderTest(store)
    control.join()
    job_id = running(control, **RERUN)
    watch = expiry.Watch(control.clock.at_ms)
    control.clock.at_ms += 10 * HOUR_MS
    store.fail_at = "commit"
    with pytest.raises(FederationError):
        control.run(watch.look)
    control.clock.at_ms += 1_000
    watch.looked(control.run(watch.look))
    assert control.job(job_id).state is JobState.RUNNING
    control.check()


# ---- the start itself -----------------------------------------------------------------------------------------------------
def test_nothing_is_answered_before_the_leases_are_saved() -> None:
    """A store that cannot save them: the start fails with its word, and neither writer nor rounds have begun."""
    store = FailingStore()
    control = ControlUnderTest(store)
    control.join()
    job_id = running(control, **RERUN)
    before = control.lease_of(job_id)
    clock = SetClock(control.clock.at_ms + 10 * HOUR_MS)
    desk = Desk(Outside(store, clock, CountingIds(1_000), None, None))
    store.fail_at = "commit"
    with pytest.raises(FederationError) as caught:
        desk.start()
    assert caught.value.code is Code.STORE_FULL
    assert store.get_lease(before.id) == before
    desk.start()
    try:
        saved = store.get_lease(before.id)
        assert saved is not None
        assert saved.expires_ms == clock.at_ms + LEASE_MS_BATCH
    finally:
        desk.stop()
