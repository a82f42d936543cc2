"""A job and its one live lease, stepped by facts: `step(record, fact, now_ms) -> Transition`.

A job has at most one live lease, so the two move together and nothing else needs to be looked at. `JOB_TABLE` and
`LEASE_TABLE` are the whole truth on what may follow what; a fact that they do not list is an ILLEGAL_TRANSITION and
changes nothing. Facts about an older lease are STALE_EPOCH: late words are never taken for news.

A job that makes room for another keeps its state while it ends: its lease is REVOKING for PREEMPTED, and when its run
ends by that it waits again, without blame. A cancel meanwhile is the stronger wish.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from federation.domain.job import Claim, Epoch, Job, JobState, OnPartition, OutputFile, Reason
from federation.domain.lease import (
    ANOTHER_MACHINE,
    CANCEL_REQUESTED,
    LEASE_RAN_OUT,
    PREEMPTED,
    RELEASED,
    Lease,
    LeaseState,
)
from federation.errors import Code, Fault, FederationError


class Trigger(enum.StrEnum):
    """What can happen to a job, past tense."""

    LEASE_GRANTED = "LeaseGranted"
    RUN_ACCEPTED = "RunAccepted"
    RUN_STAGING = "RunStaging"
    RUN_STARTED = "RunStarted"
    RUN_STOPPING = "RunStopping"
    RUN_SUCCEEDED = "RunSucceeded"
    RUN_FAILED = "RunFailed"
    RUN_STOPPED = "RunStopped"
    RUN_REFUSED = "RunRefused"
    RUN_ABSENT = "RunAbsent"
    """The agent's full list lacks a run that it had."""
    LEASE_ADOPTED = "LeaseAdopted"
    """Its hub runs a later attempt than a restored store knows of: that attempt is the job's from now on."""
    LEASE_RENEWED = "LeaseRenewed"
    LEASE_EXPIRED = "LeaseExpired"
    LEASE_RESTARTED = "LeaseRestarted"
    """A control plane that was away counts it anew, at full length: what its clock did meanwhile nobody knows."""
    CANCEL_REQUESTED = "CancelRequested"
    RETRY_REQUESTED = "RetryRequested"
    CLAIM_MADE = "ClaimMade"
    """Others were told to end, and their room is kept for it."""
    CLAIM_DROPPED = "ClaimDropped"
    """It will not get that room after all."""
    PREEMPT_REQUESTED = "PreemptRequested"
    """It is to end, for somebody with a better right, and to wait again."""
    RELEASE_FORCED = "ReleaseForced"
    """An operator gives an attempt up that nobody can be asked about. Its program may go on; nothing it says counts."""


J, L, T = JobState, LeaseState, Trigger

_SAME = {T.RUN_ACCEPTED: None, T.RUN_STOPPING: None, T.LEASE_RESTARTED: None}
_ENDS = {T.RUN_SUCCEEDED: J.SUCCEEDED, T.RUN_FAILED: J.FAILED, T.RUN_STOPPED: J.FAILED, T.RUN_REFUSED: J.QUEUED}
_RUNS = {T.RUN_STAGING: J.STAGING, T.RUN_STARTED: J.RUNNING}
_ADOPTED = {T.LEASE_ADOPTED: J.LEASED}
_LEASED = {
    **_ADOPTED,
    **_SAME,
    **_RUNS,
    **_ENDS,
    T.CANCEL_REQUESTED: J.CANCELLING,
    T.LEASE_EXPIRED: J.UNKNOWN,
    T.RUN_ABSENT: J.UNKNOWN,
    T.RELEASE_FORCED: J.FAILED,
}
_KNOWN = {**_LEASED, T.LEASE_RENEWED: None, T.PREEMPT_REQUESTED: None}

JOB_TABLE: Mapping[JobState, Mapping[Trigger, JobState | None]] = {
    J.QUEUED: {
        **_ADOPTED,
        T.LEASE_GRANTED: J.LEASED,
        T.CANCEL_REQUESTED: J.CANCELLED,
        T.CLAIM_MADE: None,
        T.CLAIM_DROPPED: None,
    },
    J.LEASED: _KNOWN,
    J.STAGING: _KNOWN,
    # A restarted agent may prepare again what had already run: the later word of the same epoch counts.
    J.RUNNING: _KNOWN,
    J.CANCELLING: {
        **_ADOPTED,
        **_SAME,
        T.RUN_STAGING: None,
        T.RUN_STARTED: None,
        T.CANCEL_REQUESTED: None,
        T.RUN_SUCCEEDED: J.SUCCEEDED,
        T.RUN_FAILED: J.FAILED,
        T.RUN_STOPPED: J.CANCELLED,
        T.RUN_REFUSED: J.CANCELLED,
        T.RUN_ABSENT: J.CANCELLED,
        T.LEASE_EXPIRED: J.UNKNOWN,
        T.RELEASE_FORCED: J.CANCELLED,
    },
    J.UNKNOWN: {**_LEASED, T.LEASE_EXPIRED: None, T.RUN_ABSENT: None},
    J.SUCCEEDED: {**_ADOPTED, T.RETRY_REQUESTED: J.QUEUED, T.CANCEL_REQUESTED: None},
    J.FAILED: {**_ADOPTED, T.RETRY_REQUESTED: J.QUEUED, T.CANCEL_REQUESTED: None},
    J.CANCELLED: {**_ADOPTED, T.RETRY_REQUESTED: J.QUEUED, T.CANCEL_REQUESTED: None},
}
"""Job state and trigger -> next state; None: it stays as it is. What is not listed is illegal.

What depends on the job's own word is decided in `_target`: an expired or released lease, a cancel that finds the lease long over,
and the end of a run that was preempted, or whose lease ran out at its hub. A job that is UNKNOWN and was asked to end is
read in the row of CANCELLING (`row_of`); a silent run is not preempted, because nobody can say when it ends, and not
renewed, so that it ends at all.
"""

_LEASE_LIVE = {
    T.RUN_ACCEPTED: L.ACTIVE,
    T.RUN_STAGING: L.ACTIVE,
    T.RUN_STARTED: L.ACTIVE,
    T.RUN_STOPPING: L.ACTIVE,
    T.RUN_SUCCEEDED: L.ENDED,
    T.RUN_FAILED: L.ENDED,
    T.RUN_STOPPED: L.ENDED,
    T.RUN_REFUSED: L.ENDED,
    T.RUN_ABSENT: L.ACTIVE,  # it may run where nobody can look: it is not to be begun again
    T.LEASE_ADOPTED: L.ENDED,
    T.LEASE_EXPIRED: None,
    T.LEASE_RESTARTED: None,
    T.CANCEL_REQUESTED: L.REVOKING,
    T.PREEMPT_REQUESTED: L.REVOKING,
    T.RELEASE_FORCED: L.ENDED,
}

LEASE_TABLE: Mapping[LeaseState, Mapping[Trigger, LeaseState | None]] = {
    L.GRANTED: _LEASE_LIVE,
    L.ACTIVE: {**_LEASE_LIVE, T.LEASE_RENEWED: None},
    L.REVOKING: {
        **_LEASE_LIVE,
        T.RUN_ACCEPTED: None,
        T.RUN_STAGING: None,
        T.RUN_STARTED: None,
        T.RUN_STOPPING: None,
        T.RUN_ABSENT: None,
        T.CANCEL_REQUESTED: None,
        T.PREEMPT_REQUESTED: None,
    },
    L.ENDED: {},
}
"""Lease state and trigger -> next state; None: it stays. What is not listed is illegal, whatever the job's row says.

A lease also ends when its job's attempt does (`_step_lease`). Only what its hub has taken is renewed, and not what it is
to end.
"""


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job and its live lease; `lease` is None while nobody holds one."""

    job: Job
    lease: Lease | None = None


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that happened. Fields that its trigger does not use keep their defaults."""

    trigger: Trigger
    epoch: Epoch | None = None
    """Which lease it speaks of; None for what a person asked."""
    lease: Lease | None = None
    """LEASE_GRANTED, LEASE_ADOPTED: the new lease."""
    reason: Reason | None = None
    exit_code: int = 0
    started_ms: int = 0
    ended_ms: int = 0
    progress: str = ""
    url: str = ""
    tracking_run_id: str = ""
    outputs: tuple[OutputFile, ...] = ()
    expires_ms: int = 0
    """LEASE_RENEWED, LEASE_RESTARTED: the new end."""
    claim: Claim | None = None
    """CLAIM_MADE: what is kept for the job."""


@dataclass(frozen=True, slots=True)
class Transition:
    """What follows: the records to save, whether anything changed, and whether the agent has new orders."""

    record: JobRecord
    ended_lease: Lease | None = None
    """The lease as it ended in this step; `record.lease` is None then, or the one that took its place."""
    changed: bool = True
    orders: bool = False


def step(record: JobRecord, fact: Fact, now_ms: int) -> Transition:
    """The state after `fact`. Pure; raises ILLEGAL_TRANSITION or STALE_EPOCH and then nothing has changed."""
    job, lease = record.job, record.lease
    _refuse_stale(record, fact)
    if fact.trigger not in JOB_TABLE[row_of(record)] or (lease and fact.trigger not in LEASE_TABLE[lease.state]):
        raise FederationError(
            Code.ILLEGAL_TRANSITION,
            f"job {job.id} is {job.state} and {_CANNOT.get(fact.trigger, f'{fact.trigger} cannot follow')}",
            fault=Fault.CALLER,
            hint=_HINTS.get((fact.trigger, job.state.terminal), ""),
            metadata={"job_id": job.id, "state": job.state, "event": fact.trigger},
        )
    _refuse_unfit(job, fact)
    target = _target(record, fact, now_ms)
    new_lease, ended = _step_lease(record, fact, target)
    apply = _APPLY.get(fact.trigger, _keep)
    if _ends_preempted(record, fact):
        apply = _made_room
    elif _ends_to_rerun(record, fact):
        apply = _waits_again
    new_job = apply(job, fact)
    if target is not job.state:
        new_job = replace(new_job, state=target, state_since_ms=now_ms)
        if target.terminal:
            new_job = replace(new_job, ended_ms=fact.ended_ms or now_ms, progress="", url="")
        elif target is J.QUEUED:
            new_job = replace(new_job, progress="", url="")
    if target is not J.QUEUED and new_job.claim is not None:
        new_job = replace(new_job, claim=None)
    changed = new_job != job or new_lease != lease
    if changed:
        new_job = replace(new_job, revision=job.revision + 1)
    orders = changed and fact.trigger in _ORDERS and new_lease is not None
    return Transition(JobRecord(new_job, new_lease), ended, changed, orders)


_ORDERS = frozenset({T.LEASE_GRANTED, T.CANCEL_REQUESTED, T.PREEMPT_REQUESTED})
_CANNOT = {
    T.RETRY_REQUESTED: "cannot be retried yet",
    T.CANCEL_REQUESTED: "cannot be cancelled",
    T.LEASE_GRANTED: "cannot be given a lease",
    T.CLAIM_MADE: "cannot be given a claim",
    T.PREEMPT_REQUESTED: "cannot be preempted",
    T.RELEASE_FORCED: "holds no lease that could be released",
}
"""What people and planners ask, in their words; what a hub reports keeps its event's name."""
_HINTS = {
    (T.RETRY_REQUESTED, False): "Wait until it has ended, or cancel it first.",
}


def _refuse_stale(record: JobRecord, fact: Fact) -> None:
    if fact.epoch is None or fact.trigger is T.LEASE_GRANTED:
        return
    if fact.trigger is T.LEASE_ADOPTED:
        known = record.job.epoch
        stale = known is not None and not known < fact.epoch
    else:
        stale = record.lease is None or record.lease.epoch != fact.epoch
    if stale:
        raise FederationError(
            Code.STALE_EPOCH,
            f"{fact.trigger} speaks of attempt {fact.epoch} of job {record.job.id}, whose lease is over",
            fault=Fault.HUB,
            hint="The run may be forgotten at the hub.",
            metadata={"job_id": record.job.id, "epoch": str(fact.epoch)},
        )


def _refuse_unfit(job: Job, fact: Fact) -> None:
    """What the state allows and the job does not: a second claim, or preempting what may not be."""
    if fact.trigger is T.CLAIM_MADE:
        assert fact.claim is not None, "a claim is made with what it holds"
        why_not = "has a claim already" if job.claim is not None else ""
    else:
        forbidden = fact.trigger is T.PREEMPT_REQUESTED and not job.spec.preemptible
        why_not = "did not say that it may be preempted" if forbidden else ""
    if why_not:
        raise FederationError(
            Code.ILLEGAL_TRANSITION,
            f"job {job.id} {why_not}",
            fault=Fault.CALLER,
            metadata={"job_id": job.id, "state": job.state, "event": fact.trigger},
        )


_ENDS_BY_PREEMPTION = frozenset({T.RUN_STOPPED, T.RUN_FAILED})


def _ends_preempted(record: JobRecord, fact: Fact) -> bool:
    """Whether a run has ended that was told to make room. One that its hub never heard of has ended too.

    After a restore only its hub knows that it was told so; where it was told anything else since, that is the stronger wish.
    """
    if record.lease is None:
        return False
    said = _says(fact, PREEMPTED) and record.job.spec.preemptible
    if not record.lease.preempted and (not said or record.lease.state is L.REVOKING):
        return False
    absent = fact.trigger is T.RUN_ABSENT and not _speaks_for_another(fact.reason)
    never_began = absent and record.job.state is J.LEASED
    return fact.trigger in _ENDS_BY_PREEMPTION or never_began


def _ran_out_to_rerun(record: JobRecord, fact: Fact) -> bool:
    """Whether a hub ended a run because its lease ran out, and the job said that it may then run again.

    The hub may say so before the server would have counted the lease as over: what the job asked for is the same.
    """
    ran_out = fact.trigger is T.RUN_FAILED and _says(fact, LEASE_RAN_OUT)
    return ran_out and record.job.spec.on_partition is OnPartition.RERUN


def _ends_to_rerun(record: JobRecord, fact: Fact) -> bool:
    """Whether such a run is wanted again."""
    return _ran_out_to_rerun(record, fact) and row_of(record) is not J.CANCELLING


def _ends_cancelled(record: JobRecord, fact: Fact) -> bool:
    """Whether what its hub calls a failure is what somebody asked for; after a restore only the hub may know of that."""
    asked = fact.trigger is T.RUN_STOPPED and _says(fact, CANCEL_REQUESTED)
    return asked or (_ran_out_to_rerun(record, fact) and row_of(record) is J.CANCELLING)


def _target(record: JobRecord, fact: Fact, now_ms: int) -> JobState:
    """The job's next state: the table's word, but for what depends on what the job itself said."""
    job, lease = record.job, record.lease
    row = row_of(record)
    target = JOB_TABLE[row][fact.trigger]
    if _ends_preempted(record, fact) or _ends_to_rerun(record, fact):
        return J.QUEUED
    again = job.spec.on_partition is OnPartition.RERUN or job.spec.idempotent
    if fact.trigger is T.RELEASE_FORCED and again and row is not J.CANCELLING:
        return J.QUEUED
    if target is J.FAILED and _ends_cancelled(record, fact):
        return J.CANCELLED
    if fact.trigger is T.LEASE_EXPIRED:
        if row is J.CANCELLING and (again or job.spec.on_partition is OnPartition.STOP):
            return J.CANCELLED  # it might have run a second time, so it may as well not
        if row is not J.CANCELLING and job.spec.on_partition is OnPartition.STOP:
            return J.FAILED
        if row is not J.CANCELLING and again:
            return J.QUEUED
    if fact.trigger is T.RUN_ABSENT and (_speaks_for_another(fact.reason) or _doubted(job)):
        return J.UNKNOWN  # who had the run is silent: a wish to end it changes nothing of that
    if fact.trigger is T.CANCEL_REQUESTED and job.state is J.UNKNOWN and lease is not None and over(lease, now_ms):
        return J.CANCELLED  # its guard has ended it by now: a person may close the file without the hub's word
    if fact.trigger is T.CANCEL_REQUESTED and _doubted(job):
        return J.UNKNOWN
    if target is None:
        return row if fact.trigger in _HEARD else job.state
    return target


_HEARD = frozenset({T.RUN_ACCEPTED, T.RUN_STAGING, T.RUN_STARTED, T.RUN_STOPPING})


def row_of(record: JobRecord) -> JobState:
    """Where in the table a record stands: doubt about a run does not undo the wish that it end."""
    lease = record.lease
    asked_to_end = lease is not None and lease.state is L.REVOKING and not lease.preempted
    return J.CANCELLING if record.job.state is J.UNKNOWN and asked_to_end else record.job.state


def over(lease: Lease, now_ms: int) -> bool:
    """Whether a run under `lease` has ended for certain."""
    return now_ms >= lease.over_ms


def found_over(job: Job) -> bool:
    """Whether a control plane that lived through a lease's whole length has written down that nobody spoke in time.

    That time has passed for good: a later start does not give it back, so that a person may still close the file.
    """
    return job.state is J.UNKNOWN and job.reason is not None and job.reason.code == LEASE_RAN_OUT


def _says(fact: Fact, code: str) -> bool:
    return fact.reason is not None and fact.reason.code == code


def _speaks_for_another(reason: Reason | None) -> bool:
    return reason is not None and reason.code == ANOTHER_MACHINE


def _doubted(job: Job) -> bool:
    """Whether another machine took the place of the one that has the run: what it lacks says nothing."""
    return job.state is J.UNKNOWN and _speaks_for_another(job.reason)


_WISHES = {
    T.CANCEL_REQUESTED: Reason("CANCEL_REQUESTED", "asked to end"),
    T.RELEASE_FORCED: Reason(RELEASED, "released by force"),
    T.PREEMPT_REQUESTED: Reason(PREEMPTED, "being ended for its hub's own users; it will be queued again"),
}


def _step_lease(record: JobRecord, fact: Fact, target: JobState) -> tuple[Lease | None, Lease | None]:
    """(the live lease afterwards, the lease that ended in this step)."""
    lease = record.lease
    if fact.trigger is T.LEASE_GRANTED:
        assert fact.lease is not None, "a grant comes with its lease"
        assert lease is None, "a grant goes to a job that has none"
        return fact.lease, None
    if fact.trigger is T.LEASE_ADOPTED:
        assert fact.lease is not None, "an attempt is adopted with its lease"
        return fact.lease, None if lease is None else replace(lease, state=L.ENDED)
    if lease is None:
        return None, None
    next_state = LEASE_TABLE[lease.state][fact.trigger]
    if target.terminal or target is J.QUEUED:
        next_state = L.ENDED  # whatever ended the job's attempt ended its right too
    if fact.trigger is T.LEASE_RENEWED:
        lease = replace(lease, expires_ms=max(lease.expires_ms, fact.expires_ms))
    elif fact.trigger is T.LEASE_RESTARTED:
        lease = replace(lease, expires_ms=fact.expires_ms)  # no hub holds it longer than a full length from now
    stronger = fact.trigger is T.RELEASE_FORCED or (fact.trigger is T.CANCEL_REQUESTED and lease.preempted)
    if stronger or (next_state is L.REVOKING and lease.state is not L.REVOKING):
        reason = fact.reason or _WISHES[fact.trigger]
        lease = replace(lease, revoke_code=reason.code, revoke_message=reason.message)
    if next_state is not None and next_state is not lease.state:
        lease = replace(lease, state=next_state)
    return (None, lease) if lease.state is L.ENDED else (lease, None)


def _keep(job: Job, _fact: Fact) -> Job:
    return job


def _granted(job: Job, fact: Fact) -> Job:
    lease = fact.lease
    assert lease is not None
    return replace(
        job,
        reason=None,
        epoch=lease.epoch,
        attempts=job.attempts + 1,
        hub_id=lease.hub_id,
        agent_id=lease.agent_id,
        nodes=lease.nodes,
        started_ms=0,
        ended_ms=0,
        exit_code=0,
        progress="",
        url="",
        tracking_run_id="",
    )


def _adopted(job: Job, fact: Fact) -> Job:
    """What was known of it is of an earlier attempt, whatever became of that."""
    return _granted(_requeued(job, fact), fact)


def _progressed(job: Job, fact: Fact) -> Job:
    return replace(
        job,
        started_ms=fact.started_ms or job.started_ms,
        progress=fact.progress,
        url=fact.url or job.url,
        tracking_run_id=fact.tracking_run_id or job.tracking_run_id,
        reason=None if job.state is J.UNKNOWN else job.reason,
    )


def _ended(job: Job, fact: Fact) -> Job:
    job = replace(
        job,
        exit_code=fact.exit_code,
        started_ms=fact.started_ms or job.started_ms,
        reason=fact.reason,
        tracking_run_id=fact.tracking_run_id or job.tracking_run_id,
    )
    if fact.trigger is T.RUN_SUCCEEDED and job.result_epoch is None:
        job = replace(job, result_epoch=job.epoch, outputs=fact.outputs)  # compare-and-swap: the first result stays
    return job


def _reasoned(job: Job, fact: Fact) -> Job:
    return replace(job, reason=fact.reason or job.reason)


def _absent(job: Job, fact: Fact) -> Job:
    return job if _doubted(job) else _reasoned(job, fact)


def _cancelled(job: Job, fact: Fact) -> Job:
    return job if job.state.terminal or _doubted(job) else _reasoned(job, fact)  # why it ended stays what it was


def _preempted(job: Job, fact: Fact) -> Job:
    return replace(job, reason=fact.reason or _WISHES[T.PREEMPT_REQUESTED])


def _made_room(job: Job, _fact: Fact) -> Job:
    """It keeps its place in the line, and its hub's name: nobody is to blame."""
    message = f"made room for {job.hub_id}'s own users; waits to run again"
    reason = Reason(PREEMPTED, message, job.hub_id)
    return replace(job, reason=reason, started_ms=0, exit_code=0, tracking_run_id="")


def _waits_again(job: Job, fact: Fact) -> Job:
    return replace(job, reason=fact.reason, started_ms=0, exit_code=0, tracking_run_id="")


def _claimed(job: Job, fact: Fact) -> Job:
    return replace(job, claim=fact.claim)


def _requeued(job: Job, _fact: Fact) -> Job:
    """Its last hub's name stays: that hub has the log of the attempt that ended."""
    return replace(
        job,
        reason=None,
        result_epoch=None,
        outputs=(),
        nodes=(),
        started_ms=0,
        ended_ms=0,
        exit_code=0,
        tracking_run_id="",
    )


_APPLY: Mapping[Trigger, Callable[[Job, Fact], Job]] = {
    T.LEASE_GRANTED: _granted,
    T.LEASE_ADOPTED: _adopted,
    T.RUN_STAGING: _progressed,
    T.RUN_STARTED: _progressed,
    T.RUN_SUCCEEDED: _ended,
    T.RUN_FAILED: _ended,
    T.RUN_STOPPED: _ended,
    T.RUN_REFUSED: _reasoned,
    T.RUN_ABSENT: _absent,
    T.LEASE_EXPIRED: _reasoned,
    T.CANCEL_REQUESTED: _cancelled,
    T.RETRY_REQUESTED: _requeued,
    T.CLAIM_MADE: _claimed,
    T.CLAIM_DROPPED: _claimed,
    T.PREEMPT_REQUESTED: _preempted,
    T.RELEASE_FORCED: _reasoned,
}
