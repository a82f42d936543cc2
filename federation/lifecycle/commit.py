"""Verifies a Plan on the latest state, decision by decision: planned on a snapshot, so a rejection is normal.

Two moments count. *Now*: all live leases hold their room, also those that were told to end. *Afterwards*: leases that
are being revoked have gone, and every claim has become a lease. A placement must fit in both, so that nobody is given
the room that a claim waits for; a preemption must fit afterwards. A job's own claim never stands in its way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from federation.domain.hub import Agent, Hub, HubState, LinkState
from federation.domain.ids import LeaseId
from federation.domain.job import Claim, Epoch, Job, JobState, OnPartition
from federation.domain.lease import (
    KILL_GRACE_MS,
    LEASE_MS_BATCH,
    LEASE_MS_LAB,
    SKEW_BOUND_MS,
    Lease,
    LeaseState,
)
from federation.domain.plan import ReasonCode
from federation.domain.quantities import DevicesByTask, Resources
from federation.lifecycle.job import JobRecord
from federation.lifecycle.room import Hold, Left, chosen, left_on, need_of, proper

_RUNS = frozenset({JobState.LEASED, JobState.STAGING, JobState.RUNNING})
STAGING_MS = 30 * 60_000
"""A `keep` lease adds this to the runtime limit: staging counts against the lease, not against the program."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a gang goes within one agent: the node of each task, and the devices of each where the plan names them."""

    nodes: tuple[str, ...]
    devices: DevicesByTask = ()


@dataclass(frozen=True, slots=True)
class Held:
    """What holds room at one agent: at least its live leases on the nodes in question, and all its claims' jobs."""

    leases: Sequence[Lease] = ()
    claims: Sequence[Job] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a decision holds. `devices` are then those of each task: as planned, or chosen here."""

    why_not: str
    """A code; empty when it holds."""
    devices: DevicesByTask = ()


def verify(job: Job, agent: Agent | None, hub: Hub | None, place: Place, held: Held) -> Verdict:
    """Whether the placement of `job` at `place` of `agent` still holds: on every node, now and afterwards.

    Capacity is checked node by node, scalars in sum, GPUs one by one. Where the plan names no devices they are chosen
    here: those of the job's own claim, or the tightest.
    """
    why_not = _cannot_take(job, agent, hub, place)
    if why_not or agent is None:
        return Verdict(why_not)
    claims = [other for other in held.claims if other.id != job.id]
    later = [lease for lease in held.leases if lease.state is not LeaseState.REVOKING]
    own = job.claim
    if not place.devices and own is not None and (own.agent_key, own.nodes) == (agent.key, place.nodes):
        verdict = _laid(job, agent, Place(place.nodes, own.devices), (held.leases, later), claims)
        if not verdict.why_not:
            return verdict
    return _laid(job, agent, place, (held.leases, later), claims)


def verify_preemption(
    job: Job, agent: Agent | None, hub: Hub | None, place: Place, victims: Sequence[JobRecord], held: Held
) -> Verdict:
    """Whether `job` may hold a claim on `place` of `agent` while the `victims` end.

    Every victim holds a live lease at this agent, is preemptible and runs (what is silent cannot be ended); and when they
    and all that was told to end before have gone, the claim fits beside all other claims.
    """
    why_not = _cannot_take(job, agent, hub, place)
    if why_not or agent is None:
        return Verdict(why_not)
    if job.claim is not None:
        return Verdict("HAS_A_CLAIM")
    if not victims or not all(
        victim.lease is not None and victim.lease.agent_key == agent.key and may_be_preempted(victim)
        for victim in victims
    ):
        return Verdict("NO_VICTIM")
    ending = {victim.lease.id for victim in victims if victim.lease is not None}
    later = [lease for lease in held.leases if lease.state is not LeaseState.REVOKING and lease.id not in ending]
    return _laid(job, agent, place, (later,), held.claims)


def may_be_preempted(record: JobRecord) -> bool:
    """Whether a job said that it may be ended, and is where it can be: it runs, or is ending for that reason already."""
    job, lease = record.job, record.lease
    if lease is None or not job.spec.preemptible or job.state not in _RUNS:
        return False
    return lease.preempted or lease.state in (LeaseState.GRANTED, LeaseState.ACTIVE)


def _cannot_take(job: Job, agent: Agent | None, hub: Hub | None, place: Place) -> str:
    if job.state is not JobState.QUEUED:
        return "NOT_QUEUED"
    if agent is None or hub is None or agent.link is not LinkState.ONLINE:
        return ReasonCode.HUB_SUSPECT
    if hub.state is not HubState.ACTIVE:
        return ReasonCode.HUB_DRAINING
    fits = len(place.nodes) == job.spec.replicas and len(place.devices) in (0, len(place.nodes))
    return "" if fits else ReasonCode.CAPACITY


def _laid(job: Job, agent: Agent, place: Place, moments: Sequence[Iterable[Lease]], claims: Sequence[Job]) -> Verdict:
    """The tasks of `job` laid one by one beside what is held; the last of `moments` counts with the claims."""
    wanted_nodes = set(place.nodes)
    offered = {node.name: node.offered for node in agent.nodes if node.name in wanted_nodes}
    if len(offered) < len(wanted_nodes):
        return Verdict(ReasonCode.CAPACITY)
    several: list[Mapping[str, Left]] = []
    for at, leases in enumerate(moments):
        there = [lease for lease in leases if not wanted_nodes.isdisjoint(lease.nodes)]
        holds = holds_by_node(there, claims if at == len(moments) - 1 else ())
        several.append({node: left_on(of_node, holds.get(node, ())) for node, of_node in offered.items()})
    devices = []
    per_task, need = job.spec.per_task, need_of(job.spec.per_task)
    for node, planned in zip_longest(place.nodes, place.devices, fillvalue=()):
        lefts = [moment[str(node)] for moment in several]
        free = [min(left) for left in zip(*(left.free for left in lefts), strict=True)]
        wanted = tuple(planned) or chosen(lefts[0].devices, free, need) if need.devices else ()
        if not (
            all(left.has_scalars(per_task) for left in lefts)
            and proper(lefts[0].devices, wanted, need)
            and all(free[at] >= need.milli for at in wanted)
        ):
            return Verdict(ReasonCode.CAPACITY)
        for left in lefts:
            left.take(Hold(per_task, wanted))
        devices.append(wanted)
    return Verdict("", tuple(devices) if need.devices else ())


def holds_by_node(leases: Iterable[Lease], claims: Iterable[Job]) -> dict[str, list[Hold]]:
    """What is held on each node of one agent, task by task."""
    holds: dict[str, list[Hold]] = {}

    def hold(nodes: tuple[str, ...], per_task: Resources, devices: DevicesByTask) -> None:
        for node, of_task in zip_longest(nodes, devices, fillvalue=()):
            holds.setdefault(str(node), []).append(Hold(per_task, tuple(of_task)))

    for lease in leases:
        hold(lease.nodes, lease.per_task, lease.devices)
    for job in claims:
        if job.claim is not None:
            hold(job.claim.nodes, job.spec.per_task, job.claim.devices)
    return holds


def granted(job: Job, agent: Agent, place: Place, lease_id: LeaseId, incarnation: int, now_ms: int) -> Lease:
    """The lease of an accepted placement: epoch one above the job's last, length by what the job said of partitions."""
    n = job.epoch.n + 1 if job.epoch is not None and job.epoch.incarnation == incarnation else 1
    return Lease(
        id=lease_id,
        job_id=job.id,
        epoch=Epoch(incarnation, n),
        hub_id=agent.hub_id,
        agent_id=agent.agent_id,
        nodes=place.nodes,
        per_task=job.spec.per_task,
        state=LeaseState.GRANTED,
        on_partition=job.spec.on_partition,
        granted_ms=now_ms,
        expires_ms=now_ms + lease_ms(job),
        devices=place.devices,
    )


def claimed(agent: Agent, place: Place, victims: tuple[LeaseId, ...], lost_ms: int, now_ms: int) -> Claim:
    """The claim of an accepted preemption: it is given up when its victims should have ended, grace and skew included."""
    return Claim(
        hub_id=agent.hub_id,
        agent_id=agent.agent_id,
        nodes=place.nodes,
        devices=place.devices,
        victims=victims,
        made_ms=now_ms,
        until_ms=now_ms + agent.reclaim_ms + KILL_GRACE_MS + SKEW_BOUND_MS,
        lost_ms=lost_ms,
    )


def lease_ms(job: Job) -> int:
    """How long a lease of `job` holds without renewal, ms."""
    if job.spec.on_partition is OnPartition.KEEP:
        return job.spec.runtime_limit_ms + STAGING_MS
    return LEASE_MS_LAB if job.spec.engine == "lab" else LEASE_MS_BATCH
