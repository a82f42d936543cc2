"""One job's facts, applied: the only door through which the service steps a job. Also cancel, retry and look."""

from __future__ import annotations

from dataclasses import replace

from federation.domain.ids import JobId
from federation.domain.job import Job, Reason
from federation.errors import Code, not_found
from federation.lifecycle.job import Fact, JobRecord, Transition, Trigger, step
from federation.ports import Store
from federation.service.world import Unit


def apply(unit: Unit, job: Job, fact: Fact, *, cause: str, actor: str) -> Transition:
    """Step `job` by `fact` and save what follows: job, lease, event; wake the agent when it has orders."""
    lease = unit.world.lease_for(job.id)
    transition = step(JobRecord(job, lease), fact, unit.now_ms)
    if not transition.changed:
        return transition
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
    if fact.claim is not None:
        claim = fact.claim
        payload |= {"hub_id": claim.hub_id, "agent_id": claim.agent_id, "nodes": claim.nodes, "devices": claim.devices}
        payload |= {"victims": claim.victims, "until_ms": claim.until_ms, "lost_ms": claim.lost_ms}
    unit.put_job(after.job)
    if transition.ended_lease is not None:
        unit.put_lease(transition.ended_lease)
    if after.lease is not None and after.lease is not lease:
        unit.put_lease(after.lease)
    if transition.orders and after.lease is not None:
        unit.wake(after.lease.agent_key)
    unit.event("job", job.id, fact.trigger, cause=cause, actor=actor, payload=payload)
    return transition


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


def retry(unit: Unit, job: Job, actor: str) -> Job:
    """Queue an ended job again, at the end of the line; its request id still answers with this job."""
    again = replace(job, queue_seq=unit.next_seq())
    return apply(unit, again, Fact(Trigger.RETRY_REQUESTED), cause="RetryJob", actor=actor).record.job


def drop_claim(unit: Unit, job: Job, code: str, message: str, *, cause: str, actor: str) -> None:
    """A waiting job will not get the room that was being made for it: it is planned anew. The victims end all the same."""
    assert job.claim is not None, "there is a claim to drop"
    reason = Reason(code, message, job.claim.hub_id)
    apply(unit, job, Fact(Trigger.CLAIM_DROPPED, reason=reason), cause=cause, actor=actor)
