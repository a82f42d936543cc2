"""What must hold: of the whole state after every step, and of what was written down of one job or lease when it is over.

Cheap enough to run at the end of every test and in production.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise

from federation.domain.hub import Agent
from federation.domain.ids import AgentKey, LeaseId
from federation.domain.job import Job, JobState
from federation.domain.lease import Lease, LeaseState
from federation.domain.usage import UsageInterval
from federation.lifecycle.commit import holds_by_node
from federation.lifecycle.room import left_on

_HOLDS = frozenset({JobState.LEASED, JobState.STAGING, JobState.RUNNING, JobState.CANCELLING, JobState.UNKNOWN})


def broken(jobs: Iterable[Job], leases: Iterable[Lease], agents: Mapping[AgentKey, Agent]) -> list[str]:
    """Every broken promise, one sentence each; empty when all hold.

    At most one live lease a job; a job in a running state has one and a job in no such state has none; the lease's epoch
    is the job's; no node holds more than it offers, device by device, nor will when all claims have become leases and
    all that was told to end has gone; only waiting jobs have claims, and only preemptible ones make room for them. Leave
    out of `agents` those that took room back under running work: that is their hub's to mend.
    """
    found: list[str] = []
    by_job: dict[str, Lease] = {}
    for lease in leases:
        if not lease.live:
            continue
        if lease.job_id in by_job:
            found.append(f"job {lease.job_id} has two live leases")
        by_job[lease.job_id] = lease
    live = {lease.id: lease for lease in by_job.values()}
    preemptible: dict[LeaseId, bool] = {}
    claims: dict[AgentKey, list[Job]] = {}
    for job in jobs:
        held = by_job.pop(job.id, None)
        if (held is not None) != (job.state in _HOLDS):
            found.append(f"job {job.id} is {job.state} and has {'a' if held else 'no'} live lease")
        elif held is not None and held.epoch != job.epoch:
            found.append(f"job {job.id} is at attempt {job.epoch}, its lease at {held.epoch}")
        if held is not None:
            preemptible[held.id] = job.spec.preemptible
            if held.preempted and not job.spec.preemptible:
                found.append(f"job {job.id} is preempted and never said that it may be")
        if job.claim is not None:
            claims.setdefault(job.claim.agent_key, []).append(job)
    found.extend(f"lease {lease.id} is live and its job {job_id} is not" for job_id, lease in by_job.items())
    for waiting in claims.values():
        for job in waiting:
            found.extend(_broken_claim(job, live, preemptible))
    found.extend(_over_full(live.values(), claims, agents))
    return found


def broken_history(job_id: str, facts: Iterable[tuple[str, Mapping[str, object]]]) -> list[str]:
    """What is wrong with one job's facts (type, payload), oldest first; empty when they make one life.

    The first ones may have been forgotten. Each begins in the state in which the one before left the job; what has ended
    is begun anew only by its owner, or because its hub proves a later attempt; every attempt is later than all before it.
    """
    found: list[str] = []
    state, latest = "", (0, 0)
    for kind, payload in facts:
        if "from" not in payload:
            continue
        before, after = str(payload["from"]), str(payload["to"])
        if before != (state or before):
            found.append(f"job {job_id} was {state}, and {kind} found it {before}")
        if JobState(before).terminal and after != before and kind not in _BEGINS_ANEW:
            found.append(f"job {job_id} had ended as {before}, and {kind} made it {after}")
        if kind in _GIVES_AN_ATTEMPT:
            incarnation, _, n = str(payload["attempt"]).partition("-")
            if (int(incarnation), int(n)) <= latest:
                found.append(f"job {job_id} went from attempt {latest[0]}-{latest[1]} to {payload['attempt']}")
            latest = (int(incarnation), int(n))
        state = after
    return found


_BEGINS_ANEW = frozenset({"RetryRequested", "LeaseAdopted"})
_GIVES_AN_ATTEMPT = frozenset({"LeaseGranted", "LeaseAdopted"})


def miscounted(lease_id: str, stretches: Iterable[UsageInterval]) -> list[str]:
    """What is wrong with the use of one lease: a stretch is missing, or two of them count the same moment."""
    ordered = sorted(stretches, key=lambda one: one.index)
    indexes = [one.index for one in ordered]
    found = [] if indexes == list(range(len(indexes))) else [f"lease {lease_id} has use {indexes}"]
    found.extend(
        f"lease {lease_id} has use {one.index} until {one.end_ms} and {two.index} from {two.start_ms}"
        for one, two in pairwise(ordered)
        if two.start_ms < one.end_ms
    )
    return found


def _broken_claim(job: Job, live: Mapping[LeaseId, Lease], preemptible: Mapping[LeaseId, bool]) -> list[str]:
    """A claim's own promises."""
    claim = job.claim
    assert claim is not None
    found = []
    if job.state is not JobState.QUEUED:
        found.append(f"job {job.id} is {job.state} and holds a claim")
    for lease_id in claim.victims:
        lease = live.get(lease_id)
        if lease is None:
            continue  # it has ended
        if not preemptible.get(lease_id, True) or lease.agent_key != claim.agent_key:
            found.append(f"lease {lease_id} is no victim for the claim of job {job.id}")
        if lease.state is not LeaseState.REVOKING:
            found.append(f"lease {lease_id} goes on and is a victim of the claim of job {job.id}")
    return found


def _over_full(
    live: Iterable[Lease], claims: Mapping[AgentKey, list[Job]], agents: Mapping[AgentKey, Agent]
) -> list[str]:
    by_agent: dict[AgentKey, list[Lease]] = {key: [] for key in claims}
    for lease in live:
        by_agent.setdefault(lease.agent_key, []).append(lease)
    found = []
    for key, held in by_agent.items():
        agent = agents.get(key)
        if agent is None:
            continue
        later = [lease for lease in held if lease.state is not LeaseState.REVOKING]
        offered = {node.name: node.offered for node in agent.nodes}
        for holds, word in (
            (holds_by_node(held, ()), "holds more"),
            (holds_by_node(later, claims.get(key, ())), "holds more, with its claims,"),
        ):
            for node, of_node in holds.items():
                if node in offered and left_on(offered[node], of_node).over_full:
                    found.append(f"node {node} of agent {'/'.join(key)} {word} than it offers")
    return found
