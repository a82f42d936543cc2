"""Verifies one placement of a Plan on the latest state: planned on a snapshot, so a rejection is normal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from federation.domain.hub import Agent, Hub, HubState, LinkState
from federation.domain.ids import LeaseId
from federation.domain.job import Epoch, Job, JobState, OnPartition
from federation.domain.lease import LEASE_MS_BATCH, LEASE_MS_LAB, Lease, LeaseState
from federation.domain.plan import ReasonCode
from federation.domain.quantities import Resources


def rejection(job: Job, agent: Agent | None, hub: Hub | None, nodes: tuple[str, ...], held: Iterable[Lease]) -> str:
    """Why the placement of `job` on `nodes` of `agent` does not hold any more; empty when it does.

    `held` are the agent's live leases. Capacity is checked node by node, kind by kind; a demand of kind "" may use
    any kind, so it is checked against the sum.
    """
    if job.state is not JobState.QUEUED:
        return "NOT_QUEUED"
    if agent is None or hub is None or agent.link is not LinkState.ONLINE:
        return ReasonCode.HUB_SUSPECT
    if hub.state is not HubState.ACTIVE:
        return ReasonCode.HUB_DRAINING
    if len(nodes) != job.spec.replicas:
        return ReasonCode.CAPACITY
    offered = {node.name: node.offered for node in agent.nodes}
    tasks: dict[str, list[Resources]] = {}
    for lease in held:
        for node in lease.nodes:
            tasks.setdefault(node, []).append(lease.per_task)
    for node in nodes:
        if node not in offered:
            return ReasonCode.CAPACITY
        tasks.setdefault(node, []).append(job.spec.per_task)
    return "" if all(fits(offered[node], tasks[node]) for node in set(nodes)) else ReasonCode.CAPACITY


def fits(offered: Resources, tasks: Iterable[Resources]) -> bool:
    """Whether `tasks` together stay within `offered`, each kind by itself and all kinds of a name in sum."""
    by_kind: Counter[tuple[str, str]] = Counter()
    by_name: Counter[str] = Counter()
    for task in tasks:
        for name, kind, amount in task:
            by_name[name] += amount
            if kind:
                by_kind[name, kind] += amount
    offered_by_name: Counter[str] = Counter()
    offered_by_kind: Counter[tuple[str, str]] = Counter()
    for name, kind, amount in offered:
        offered_by_name[name] += amount
        offered_by_kind[name, kind] += amount
    return all(amount <= offered_by_name[name] for name, amount in by_name.items()) and all(
        amount <= offered_by_kind[key] for key, amount in by_kind.items()
    )


def granted(job: Job, agent: Agent, nodes: tuple[str, ...], lease_id: LeaseId, incarnation: int, now_ms: int) -> Lease:
    """The lease of an accepted placement: epoch one above the job's last, length by what the job said of partitions."""
    n = job.epoch.n + 1 if job.epoch is not None and job.epoch.incarnation == incarnation else 1
    return Lease(
        id=lease_id,
        job_id=job.id,
        epoch=Epoch(incarnation, n),
        hub_id=agent.hub_id,
        agent_id=agent.agent_id,
        nodes=nodes,
        per_task=job.spec.per_task,
        state=LeaseState.GRANTED,
        on_partition=job.spec.on_partition,
        granted_ms=now_ms,
        expires_ms=now_ms + lease_ms(job),
    )


STAGING_MS = 30 * 60_000
"""A `keep` lease adds this to the runtime limit: staging counts against the lease, not against the program."""


def lease_ms(job: Job) -> int:
    """How long a lease of `job` holds without renewal, ms."""
    if job.spec.on_partition is OnPartition.KEEP:
        return job.spec.runtime_limit_ms + STAGING_MS
    return LEASE_MS_LAB if job.spec.engine == "lab" else LEASE_MS_BATCH
