"""The job's table, walked whole: every state, every trigger."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from federation.domain.ids import LeaseId
from federation.domain.job import Epoch, JobState, OnPartition, OutputFile, Reason
from federation.domain.lease import ANOTHER_MACHINE, KILL_GRACE_MS, PREEMPTED, SKEW_BOUND_MS, LeaseState
from federation.errors import Code, FederationError
from federation.lifecycle.invariants import broken
from federation.lifecycle.job import JOB_TABLE, LEASE_TABLE, Fact, JobRecord, Trigger, over, step
from tests.support.builders import NOON_MS, a_claim, a_job, a_lease, an_agent

LEASED = (JobState.LEASED, JobState.STAGING, JobState.RUNNING, JobState.CANCELLING, JobState.UNKNOWN)
LEASE_STATES = {
    JobState.LEASED: LeaseState.GRANTED,
    JobState.STAGING: LeaseState.ACTIVE,
    JobState.RUNNING: LeaseState.ACTIVE,
    JobState.CANCELLING: LeaseState.REVOKING,
    JobState.UNKNOWN: LeaseState.ACTIVE,
}


WAYS = (
    *((state, "") for state in JobState),
    *((state, "preempted") for state in LEASED if state is not JobState.CANCELLING),
    (JobState.QUEUED, "claiming"),
)
"""Every state, also of a job that is ending to make room, and of one for which others are."""


def a_record(state: JobState, way: str = "", **spec: Any) -> JobRecord:
    """A job in `state`, with the lease that such a job has."""
    spec = {"preemptible": True, **spec}
    job = a_job(state=state, epoch=Epoch(1, 1) if state in LEASED else None, **spec)
    if way == "claiming":
        job = replace(job, claim=a_claim())
    lease = a_lease(job, LEASE_STATES[state]) if state in LEASED else None
    if way == "preempted" and lease is not None:
        lease = replace(lease, state=LeaseState.REVOKING, revoke_code=PREEMPTED)
    return JobRecord(job, lease)


def a_fact(trigger: Trigger, record: JobRecord) -> Fact:
    """The plainest fact of its kind."""
    if trigger is Trigger.LEASE_GRANTED:
        return Fact(trigger, Epoch(1, 1), lease=a_lease(record.job))
    if trigger is Trigger.LEASE_ADOPTED:
        later = a_lease(record.job, LeaseState.ACTIVE, Epoch(1, 2))
        return Fact(trigger, Epoch(1, 2), lease=replace(later, id=LeaseId("lease-later")))
    if trigger is Trigger.CLAIM_MADE:
        return Fact(trigger, claim=a_claim())
    if trigger in (Trigger.CANCEL_REQUESTED, Trigger.RETRY_REQUESTED, Trigger.CLAIM_DROPPED):
        return Fact(trigger, reason=Reason("CANCEL_REQUESTED", "enough"))
    if trigger is Trigger.PREEMPT_REQUESTED:
        return Fact(trigger, reason=Reason(PREEMPTED, "others are first"))
    return Fact(trigger, Epoch(1, 1), reason=Reason("SAID", "so"), expires_ms=NOON_MS + 9_000_000)


@pytest.mark.parametrize("trigger", Trigger)
@pytest.mark.parametrize(("state", "way"), WAYS)
def test_every_state_meets_every_trigger(state: JobState, way: str, trigger: Trigger) -> None:
    """What the table lists leads to a state that keeps every promise; what it does not list is refused, unchanged."""
    record = a_record(state, way)
    fact = a_fact(trigger, record)
    brings_lease = trigger in (Trigger.LEASE_GRANTED, Trigger.LEASE_ADOPTED)
    stale = record.lease is None and fact.epoch is not None and not brings_lease
    second = trigger is Trigger.CLAIM_MADE and way == "claiming"
    of_lease = record.lease is None or trigger in LEASE_TABLE[record.lease.state]
    if stale or second or trigger not in JOB_TABLE[state] or not of_lease:
        with pytest.raises(FederationError) as caught:
            step(record, fact, NOON_MS + 1)
        assert caught.value.code is (Code.STALE_EPOCH if stale else Code.ILLEGAL_TRANSITION)
        return
    after = step(record, fact, NOON_MS + 1).record
    leases = [after.lease] if after.lease else []
    assert broken([] if after.job.state.terminal else [after.job], leases, {an_agent().key: an_agent()}) == []
    assert after.job.claim is None or after.job.state is JobState.QUEUED


@pytest.mark.parametrize("epoch", [Epoch(1, 1), Epoch(1, 0), Epoch(0, 9)])
def test_only_a_later_attempt_is_adopted(epoch: Epoch) -> None:
    """The attempt that is known, and every earlier one, is no news."""
    record = a_record(JobState.RUNNING)
    with pytest.raises(FederationError) as caught:
        step(record, Fact(Trigger.LEASE_ADOPTED, epoch, lease=a_lease(record.job, epoch=epoch)), NOON_MS)
    assert caught.value.code is Code.STALE_EPOCH


def test_an_adopted_attempt_takes_the_place_of_the_one_before() -> None:
    """Its lease ends, its result is not the job's any more, and what was asked of it is over with it."""
    record = a_record(JobState.CANCELLING)
    transition = step(record, a_fact(Trigger.LEASE_ADOPTED, record), NOON_MS)
    job, lease, ended = transition.record.job, transition.record.lease, transition.ended_lease
    assert lease is not None
    assert ended is not None
    assert (job.state, job.epoch, lease.state, ended.state) == (
        JobState.LEASED,
        Epoch(1, 2),
        LeaseState.ACTIVE,
        LeaseState.ENDED,
    )
    assert ended.id != lease.id


ENDS = {
    Trigger.RUN_SUCCEEDED: JobState.SUCCEEDED,
    Trigger.RUN_FAILED: JobState.QUEUED,
    Trigger.RUN_STOPPED: JobState.QUEUED,
    Trigger.RUN_REFUSED: JobState.QUEUED,
}


@pytest.mark.parametrize("trigger", ENDS)
@pytest.mark.parametrize("state", [JobState.LEASED, JobState.STAGING, JobState.RUNNING, JobState.UNKNOWN])
def test_a_run_that_made_room_waits_again_unless_it_ended_well(state: JobState, trigger: Trigger) -> None:
    """Stopped, or failed while it was told to stop: queued again, its attempt counted; a result stays a result."""
    record = a_record(state, "preempted")
    record = replace(record, job=replace(record.job, attempts=1, started_ms=5))
    transition = step(record, a_fact(trigger, record), NOON_MS + 1)
    job = transition.record.job
    assert (job.state, job.attempts, transition.record.lease) == (ENDS[trigger], 1, None)
    if trigger in (Trigger.RUN_FAILED, Trigger.RUN_STOPPED):
        assert job.reason is not None
        assert (job.reason.code, job.started_ms, job.queue_seq) == (PREEMPTED, 0, record.job.queue_seq)


def test_preempting_keeps_the_job_where_it_is_and_orders_its_end() -> None:
    """The lease is being revoked for PREEMPTED; what the run says meanwhile is heard; a second request changes nothing."""
    record = a_record(JobState.STAGING)
    first = step(record, a_fact(Trigger.PREEMPT_REQUESTED, record), NOON_MS)
    assert first.orders
    assert first.record.lease is not None
    assert (first.record.job.state, first.record.lease.preempted) == (JobState.STAGING, True)
    assert not step(first.record, a_fact(Trigger.PREEMPT_REQUESTED, record), NOON_MS).changed
    second = step(first.record, a_fact(Trigger.RUN_STARTED, record), NOON_MS).record
    assert second.lease is not None
    assert (second.job.state, second.lease.preempted) == (JobState.RUNNING, True)


def test_only_what_may_be_preempted_is() -> None:
    """A job that did not say so is not ended for others, whoever asks."""
    record = a_record(JobState.RUNNING, preemptible=False)
    with pytest.raises(FederationError) as caught:
        step(record, a_fact(Trigger.PREEMPT_REQUESTED, record), NOON_MS)
    assert caught.value.code is Code.ILLEGAL_TRANSITION
    assert "did not say" in caught.value.message


@pytest.mark.parametrize("state", [JobState.LEASED, JobState.RUNNING, JobState.UNKNOWN])
@pytest.mark.parametrize("reason", [None, Reason("CANCEL_REQUESTED", "enough")])
def test_a_cancel_while_it_makes_room_wins(state: JobState, reason: Reason | None) -> None:
    """It ends CANCELLED, not queued again, and the hub is told the stronger wish."""
    record = a_record(state, "preempted")
    cancelled = step(record, Fact(Trigger.CANCEL_REQUESTED, reason=reason), NOON_MS)
    assert cancelled.orders
    assert cancelled.record.lease is not None
    assert (cancelled.record.job.state, cancelled.record.lease.revoke_code) == (JobState.CANCELLING, "CANCEL_REQUESTED")
    assert step(cancelled.record, a_fact(Trigger.RUN_STOPPED, record), NOON_MS).record.job.state is JobState.CANCELLED


@pytest.mark.parametrize(
    ("state", "expected"), [(JobState.LEASED, JobState.QUEUED), (JobState.RUNNING, JobState.UNKNOWN)]
)
def test_a_preempted_run_that_its_hub_does_not_know(state: JobState, expected: JobState) -> None:
    """The order to start it never arrived: it waits again. What ran and was forgotten may still run."""
    record = a_record(state, "preempted")
    after = step(record, a_fact(Trigger.RUN_ABSENT, record), NOON_MS).record
    assert (after.job.state, after.lease is None) == (expected, expected is JobState.QUEUED)


@pytest.mark.parametrize(("hours", "bound_ms"), [(1, 30_000), (20, 30_000), (21, 30_240), (720, 1_036_800)])
def test_the_clocks_of_a_long_lease_part_further(hours: int, bound_ms: int) -> None:
    """400 ppm of a `keep` lease's length, and never less than the skew bound; a renewed one is counted anew each time."""
    length_ms = hours * 3_600_000
    lease = a_record(JobState.RUNNING).lease
    assert lease is not None
    for on_partition, expected_ms in ((OnPartition.KEEP, bound_ms), (OnPartition.RERUN, SKEW_BOUND_MS)):
        long = replace(lease, granted_ms=NOON_MS, expires_ms=NOON_MS + length_ms, on_partition=on_partition)
        over_ms = NOON_MS + length_ms + KILL_GRACE_MS + expected_ms
        assert (over(long, over_ms - 1), over(long, over_ms)) == (False, True)


@pytest.mark.parametrize("state", [JobState.LEASED, JobState.STAGING, JobState.RUNNING, JobState.CANCELLING])
def test_another_machine_that_lacks_a_run_ends_nothing(state: JobState) -> None:
    """Who has the run is silent: it is UNKNOWN, whatever the other machine says, and whoever wants its end."""
    record = a_record(state)
    doubt = replace(a_fact(Trigger.RUN_ABSENT, record), reason=Reason(ANOTHER_MACHINE, "it does not know it"))
    doubted = step(record, doubt, NOON_MS).record
    assert doubted.job.state is JobState.UNKNOWN
    for trigger in (Trigger.RUN_ABSENT, Trigger.CANCEL_REQUESTED, Trigger.RUN_ABSENT):
        doubted = step(doubted, a_fact(trigger, doubted), NOON_MS).record
        assert (doubted.job.state, doubted.lease is not None) == (JobState.UNKNOWN, True)
    ended = step(doubted, a_fact(Trigger.RUN_STOPPED, doubted), NOON_MS).record
    assert (ended.job.state, ended.lease) == (JobState.CANCELLED, None)


def test_a_preemption_that_only_the_hub_remembers() -> None:
    """After a restore the store does not know that the run was told to make room: its hub's word counts."""
    record = a_record(JobState.RUNNING)
    stopped = replace(a_fact(Trigger.RUN_STOPPED, record), reason=Reason(PREEMPTED, "made room"))
    assert step(record, stopped, NOON_MS).record.job.state is JobState.QUEUED
    never = a_record(JobState.RUNNING, preemptible=False)
    assert step(never, stopped, NOON_MS).record.job.state is JobState.FAILED


def test_a_claim_lasts_while_its_job_waits() -> None:
    """It is made once, dropped, made again, and gone with the lease that it became."""
    record = a_record(JobState.QUEUED)
    made = step(record, a_fact(Trigger.CLAIM_MADE, record), NOON_MS).record
    assert made.job.claim == a_claim()
    dropped = step(made, a_fact(Trigger.CLAIM_DROPPED, record), NOON_MS)
    assert (dropped.changed, dropped.record.job.claim) == (True, None)
    assert not step(dropped.record, a_fact(Trigger.CLAIM_DROPPED, record), NOON_MS).changed
    leased = step(made, a_fact(Trigger.LEASE_GRANTED, record), NOON_MS).record
    assert (leased.job.state, leased.job.claim) == (JobState.LEASED, None)


def test_the_tables_name_every_state() -> None:
    """A state without a row would be a job that nothing can happen to."""
    assert set(JOB_TABLE) == set(JobState)
    assert set(LEASE_TABLE) == set(LeaseState)


def test_a_run_goes_through_its_life() -> None:
    """Granted, staged, started, done: the lease is acknowledged, then ended, and the result is set."""
    outputs = (OutputFile("table.csv", 3, "a" * 64),)
    record = a_record(JobState.QUEUED)
    states: list[tuple[JobState, LeaseState | None]] = []
    ended = None
    for trigger in (Trigger.LEASE_GRANTED, Trigger.RUN_STAGING, Trigger.RUN_STARTED, Trigger.RUN_SUCCEEDED):
        fact = a_fact(trigger, record)
        if trigger is Trigger.RUN_SUCCEEDED:
            fact = Fact(trigger, Epoch(1, 1), outputs=outputs)
        transition = step(record, fact, NOON_MS + 5)
        record, ended = transition.record, transition.ended_lease
        states.append((record.job.state, record.lease.state if record.lease else None))
    assert states == [
        (JobState.LEASED, LeaseState.GRANTED),
        (JobState.STAGING, LeaseState.ACTIVE),
        (JobState.RUNNING, LeaseState.ACTIVE),
        (JobState.SUCCEEDED, None),
    ]
    assert (record.job.result_epoch, record.job.outputs) == (Epoch(1, 1), outputs)
    assert ended is not None
    assert ended.state is LeaseState.ENDED


def test_a_late_word_of_an_older_attempt_is_refused() -> None:
    """An attempt whose lease is over cannot set a result any more."""
    record = a_record(JobState.RUNNING)
    with pytest.raises(FederationError) as caught:
        step(record, Fact(Trigger.RUN_SUCCEEDED, Epoch(0, 7)), NOON_MS)
    assert caught.value.code is Code.STALE_EPOCH


@pytest.mark.parametrize(
    ("on_partition", "idempotent", "expected"),
    [
        (OnPartition.KEEP, False, JobState.UNKNOWN),
        (OnPartition.KEEP, True, JobState.QUEUED),
        (OnPartition.STOP, False, JobState.FAILED),
        (OnPartition.RERUN, True, JobState.QUEUED),
    ],
)
def test_an_expired_lease_does_what_the_job_said(
    on_partition: OnPartition, idempotent: bool, expected: JobState
) -> None:
    """Unknown is not dead: only a job that may run twice, or asked to be stopped, leaves its silent hub."""
    record = a_record(JobState.RUNNING, on_partition=on_partition, idempotent=idempotent)
    after = step(record, Fact(Trigger.LEASE_EXPIRED, Epoch(1, 1)), NOON_MS).record
    assert after.job.state is expected
    assert (after.lease is None) == (expected is not JobState.UNKNOWN)


@pytest.mark.parametrize("state", [JobState.LEASED, JobState.STAGING, JobState.RUNNING, JobState.UNKNOWN])
@pytest.mark.parametrize(
    ("said", "code", "expected"),
    [
        (OnPartition.RERUN, "LEASE_RAN_OUT", JobState.QUEUED),
        (OnPartition.RERUN, "EXIT_STATUS", JobState.FAILED),
        (OnPartition.STOP, "LEASE_RAN_OUT", JobState.FAILED),
        (OnPartition.KEEP, "LEASE_RAN_OUT", JobState.FAILED),
    ],
)
def test_a_hub_that_ended_a_run_for_its_lease_is_heard_as_the_job_said(
    state: JobState, said: OnPartition, code: str, expected: JobState
) -> None:
    """Told before the server would have given the lease up: `rerun` waits again, as it would have then."""
    record = a_record(state, on_partition=said, idempotent=True)
    record = replace(record, job=replace(record.job, started_ms=NOON_MS, exit_code=7))
    fact = Fact(Trigger.RUN_FAILED, Epoch(1, 1), reason=Reason(code, "so"), exit_code=143)
    after = step(record, fact, NOON_MS)
    job = after.record.job
    assert (job.state, after.record.lease, job.reason) == (expected, None, fact.reason)
    assert after.ended_lease is not None
    if expected is JobState.QUEUED:
        assert (job.started_ms, job.exit_code) == (0, 0)


def test_a_cancelled_run_whose_lease_ran_out_does_not_run_again() -> None:
    """The wish that it end is the stronger one, and whoever has it is not told that the job failed."""
    record = a_record(JobState.CANCELLING, on_partition=OnPartition.RERUN, idempotent=True)
    fact = Fact(Trigger.RUN_FAILED, Epoch(1, 1), reason=Reason("LEASE_RAN_OUT", "so"))
    assert step(record, fact, NOON_MS).record.job.state is JobState.CANCELLED


def test_an_unknown_job_can_be_closed_once_its_run_is_over_for_certain() -> None:
    """Before the guard's deadline, grace and skew a cancel waits for the hub; after them a person may close the file."""
    record = a_record(JobState.UNKNOWN)
    assert record.lease is not None
    over_ms = record.lease.expires_ms + KILL_GRACE_MS + SKEW_BOUND_MS
    cancel = Fact(Trigger.CANCEL_REQUESTED)
    assert step(record, cancel, over_ms - 1).record.job.state is JobState.CANCELLING
    assert step(record, cancel, over_ms).record.job.state is JobState.CANCELLED


def test_a_retry_is_a_new_attempt_with_a_higher_epoch() -> None:
    """The old result is gone, the epoch is not: a word of the first attempt stays stale."""
    failed = a_job(state=JobState.FAILED, epoch=Epoch(1, 1), attempts=1, exit_code=3)
    again = step(JobRecord(failed), Fact(Trigger.RETRY_REQUESTED), NOON_MS).record.job
    assert (again.state, again.exit_code, again.epoch) == (JobState.QUEUED, 0, Epoch(1, 1))


def test_what_a_person_asks_too_early_is_refused_in_words() -> None:
    """The sentence speaks of a retry; the event's own name is for programs."""
    record = a_record(JobState.RUNNING)
    with pytest.raises(FederationError) as caught:
        step(record, a_fact(Trigger.RETRY_REQUESTED, record), NOON_MS)
    assert caught.value.message == f"job {record.job.id} is RUNNING and cannot be retried yet"
    assert caught.value.code is Code.ILLEGAL_TRANSITION
    assert (caught.value.metadata["event"], caught.value.metadata["state"]) == ("RetryRequested", "RUNNING")


def test_repeating_a_report_changes_nothing() -> None:
    """The same word twice is no news: no new revision, nothing to save."""
    record = a_record(JobState.RUNNING)
    first = step(record, Fact(Trigger.RUN_STARTED, Epoch(1, 1), started_ms=5), NOON_MS)
    second = step(first.record, Fact(Trigger.RUN_STARTED, Epoch(1, 1), started_ms=5), NOON_MS + 9)
    assert (first.changed, second.changed) == (True, False)
