"""One job's facts, applied: the only door through which the service steps a job. Also cancel, retry, release and look."""

from __future__ import annotations

from dataclasses import replace

from federation.domain.hub import LinkState
from federation.domain.ids import JobId
from federation.domain.job import Job, JobState, Reason
from federation.domain.lease import RELEASED, Lease
from federation.errors import Code, Fault, FederationError, invalid, not_found
from federation.lifecycle.job import Fact, JobRecord, Transition, Trigger, over, step
from federation.ports import Store
from federation.service.world import Unit


def apply(unit: Unit, job: Job, fact: Fact, *, cause: str, actor: str) -> Transition:
    """Step `job` by `fact` and save what follows: job, lease, event; wake the agent when it has orders."""
    lease = unit.world.lease_for(job.id)
    transition = step(JobRecord(job, lease), fact, unit.now_ms)
    if not transition.changed:
        return transition
    after = transition.record
    unit.put_job(after.job)
    if transition.ended_lease is not None:
        unit.put_lease(transition.ended_lease)
    if after.lease is not None and after.lease is not lease:
        unit.put_lease(after.lease)
    if transition.orders and after.lease is not None:
        unit.wake(after.lease.agent_key)
    payload = _told(job, fact, transition)
    unit.event("job", job.id, fact.trigger, cause=cause, actor=actor, payload=payload)
    return transition


def _told(job: Job, fact: Fact, transition: Transition) -> dict[str, object]:
    """What the event says of a step of `job`."""
    after = transition.record
    payload: dict[str, object] = {"from": job.state, "to": after.job.state}
    if after.job.epoch is not None:
        payload["attempt"] = str(after.job.epoch)
    if fact.reason is not None:
        payload["code"] = fact.reason.code
    if after.job.started_ms and after.job.started_ms != job.started_ms:
        payload["started_ms"] = after.job.started_ms
    if fact.ended_ms:
        payload["ended_ms"] = fact.ended_ms
    if fact.trigger in (Trigger.LEASE_GRANTED, Trigger.LEASE_ADOPTED) and after.lease is not None:
        payload |= {"lease_id": after.lease.id, "hub_id": after.lease.hub_id, "nodes": after.lease.nodes}
        if after.lease.devices:
            payload["devices"] = after.lease.devices
    if fact.trigger is Trigger.RELEASE_FORCED and fact.reason is not None and transition.ended_lease is not None:
        lease = transition.ended_lease
        payload |= {"why": fact.reason.message, "hub_id": lease.hub_id, "lease_id": lease.id}
    if fact.claim is not None:
        claim = fact.claim
        payload |= {"hub_id": claim.hub_id, "agent_id": claim.agent_id, "nodes": claim.nodes, "devices": claim.devices}
        payload |= {"victims": claim.victims, "until_ms": claim.until_ms, "lost_ms": claim.lost_ms}
    return payload


def find(unit: Unit, store: Store, job_id: str) -> Job:
    """A job, live or ended; JOB_NOT_FOUND."""
    job = unit.world.jobs.get(JobId(job_id)) or unit.jobs.get(JobId(job_id)) or store.get_job(job_id)
    if job is None:
        raise not_found(Code.JOB_NOT_FOUND, "job", job_id[:80], hint="`brhub job list` shows your jobs.")
    return job


def cancel(unit: Unit, job: Job, note: str, actor: str) -> Job:
    """Ask for a job's end. Repeating it changes nothing."""
    reason = Reason("CANCEL_REQUESTED", note or "cancelled on request")
    return apply(unit, job, Fact(Trigger.CANCEL_REQUESTED, reason=reason), cause="CancelJob", actor=actor).record.job


def retry(unit: Unit, job: Job, actor: str, ended_ms: int = 0) -> Job:
    """Queue an ended job again, at the end of the line; its request id still answers with this job.

    `ended_ms` is the end that the caller saw, 0 where they did not say: a job that has gone on from it stays as it is.
    Raises: FederationError ILLEGAL_TRANSITION.
    """
    if ended_ms and job.ended_ms != ended_ms:
        return job
    again = replace(job, queue_seq=unit.next_seq())
    return apply(unit, again, Fact(Trigger.RETRY_REQUESTED), cause="RetryJob", actor=actor).record.job


def release(unit: Unit, job: Job, why: str, actor: str, force: bool, attempt: str = "") -> Job:
    """Give up an attempt that nobody can be asked about, on an operator's word; repeating it changes nothing.

    `attempt` is the one that the operator saw, "" where they did not say: a job that has another by now stays as it is.
    The job is queued again where it said that it may run twice, else it has failed; one that was being cancelled is
    cancelled. What its program does from now on is fenced: it holds no lease, nothing that it reports or brings is taken,
    and its agent is told to end it when it is heard again.
    Raises: FederationError ILLEGAL_TRANSITION where somebody can be asked, INVALID_ARGUMENT without `force`.
    """
    if (job.reason is not None and job.reason.code == RELEASED) or (attempt and attempt != str(job.epoch)):
        return job
    lease = unit.world.lease_for(job.id)
    if lease is not None and job.state is not JobState.UNKNOWN:
        _refuse_while_heard(unit, job, lease)
    risk = "" if lease is None else _risk(unit, lease)
    if lease is not None and not force:
        raise invalid(
            f"releasing job {job.id} needs force: {risk}",
            hint="If you know that the program is gone, or may run beside a new attempt: --force.",
            field="force",
        )
    epoch = None if lease is None else lease.epoch
    said = Reason(RELEASED, f"released by force by {actor}: {why}; {risk}", job.hub_id)
    return apply(
        unit, job, Fact(Trigger.RELEASE_FORCED, epoch, reason=said), cause="ReleaseJob", actor=actor
    ).record.job


def _refuse_while_heard(unit: Unit, job: Job, lease: Lease) -> None:
    agent = unit.world.agents.get(lease.agent_key)
    if agent is not None and agent.link is not LinkState.LOST:
        raise FederationError(
            Code.ILLEGAL_TRANSITION,
            f"job {job.id} is {job.state} at hub {lease.hub_id}, which was heard lately",
            fault=Fault.CALLER,
            hint="Cancel it: its hub ends it. Only what is UNKNOWN, or at a hub that is LOST, as one is after ten minutes of "
            "silence, is released by force.",
            metadata={"job_id": job.id, "state": job.state, "hub_id": lease.hub_id},
        )


def _risk(unit: Unit, lease: Lease) -> str:
    """What may still happen at the hub."""
    from federation.scheduling.words import clock  # loads the planner, for which nobody waits at a start

    if over(lease, unit.now_ms):
        return f"its lease is long over, and its guard at hub {lease.hub_id} should have ended it"
    until = clock(lease.over_ms)
    return f"its program may run at hub {lease.hub_id} until {until}, and what it does there is lost"


def drop_claim(unit: Unit, job: Job, code: str, message: str, *, cause: str, actor: str) -> None:
    """A waiting job will not get the room that was being made for it: it is planned anew. The victims end all the same."""
    assert job.claim is not None, "there is a claim to drop"
    reason = Reason(code, message, job.claim.hub_id)
    apply(unit, job, Fact(Trigger.CLAIM_DROPPED, reason=reason), cause=cause, actor=actor)
