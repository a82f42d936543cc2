"""What must hold of the whole state after every step. Cheap enough to run at the end of every test and in production."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from federation.domain.hub import Agent
from federation.domain.ids import AgentKey
from federation.domain.job import Job, JobState
from federation.domain.lease import Lease
from federation.domain.quantities import Resources
from federation.lifecycle.commit import fits

_HOLDS = frozenset({JobState.LEASED, JobState.STAGING, JobState.RUNNING, JobState.CANCELLING, JobState.UNKNOWN})


def broken(jobs: Iterable[Job], leases: Iterable[Lease], agents: Mapping[AgentKey, Agent]) -> list[str]:
    """Every broken promise, one sentence each; empty when all hold.

    At most one live lease a job; a job in a running state has one and a job in no such state has none; the lease's epoch
    is the job's; no node holds more than it offers. Leave out of `agents` those that took room back under running
    work: that is their hub's to mend.
    """
    found: list[str] = []
    by_job: dict[str, Lease] = {}
    tasks: dict[tuple[AgentKey, str], list[Resources]] = {}
    for lease in leases:
        if not lease.live:
            continue
        if lease.job_id in by_job:
            found.append(f"job {lease.job_id} has two live leases")
        by_job[lease.job_id] = lease
        for node in lease.nodes:
            tasks.setdefault((lease.agent_key, node), []).append(lease.per_task)
    for job in jobs:
        held = by_job.pop(job.id, None)
        if (held is not None) != (job.state in _HOLDS):
            found.append(f"job {job.id} is {job.state} and has {'a' if held else 'no'} live lease")
        elif held is not None and held.epoch != job.epoch:
            found.append(f"job {job.id} is at attempt {job.epoch}, its lease at {held.epoch}")
    found.extend(f"lease {lease.id} is live and its job {job_id} is not" for job_id, lease in by_job.items())
    for (key, name), held_tasks in tasks.items():
        agent = agents.get(key)
        offered = next((node.offered for node in agent.nodes if node.name == name), None) if agent else None
        if offered is not None and not fits(offered, held_tasks):
            found.append(f"node {name} of agent {'/'.join(key)} holds more than it offers")
    return found
