"""Builders that read as words: domain values with defaults, for tests that care about one field."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from federation.domain.hub import Agent, Hub, LinkState, Node
from federation.domain.ids import AgentId, HubId, JobId, LeaseId
from federation.domain.job import Claim, Epoch, Job, JobSpec, JobState, OnPartition, Owner
from federation.domain.lease import Lease, LeaseState
from federation.domain.quantities import Resources, resources

NOON_MS = 1_760_000_000_000
FIRST_EPOCH = Epoch(1, 1)
AISHA = Owner("kuala-lumpur", "default", "local", "aisha")


def some_resources(cpus: float = 1, memory_gib: float = 1, gpus: float = 0, gpu_kind: str = "") -> Resources:
    """A resource vector."""
    return resources(
        ("cpu", "", int(cpus * 1000)), ("memory", "", int(memory_gib * 2**30)), ("gpu", gpu_kind, int(gpus * 1000))
    )


def a_spec(**changes: Any) -> JobSpec:
    """A command job of one small task."""
    spec = JobSpec(name="a-job", project="default", engine="command", entrypoint="run.py", per_task=some_resources())
    return replace(spec, **changes)


def a_job(job_id: str = "job-1", state: JobState = JobState.QUEUED, owner: Owner = AISHA, **changes: Any) -> Job:
    """A job; what is not a field of Job goes into its spec."""
    of_job = {key: changes.pop(key) for key in list(changes) if key in Job.__slots__}
    return Job(
        JobId(job_id),
        owner,
        a_spec(**changes),
        b"",
        state=state,
        **{"created_ms": NOON_MS, "state_since_ms": NOON_MS, "queue_seq": 1, **of_job},
    )


def a_lease(job: Job, state: LeaseState = LeaseState.GRANTED, epoch: Epoch = FIRST_EPOCH, **changes: Any) -> Lease:
    """A lease of `job` at cairo/main on its only node."""
    lease = Lease(
        LeaseId(f"lease-{job.id}"),
        job.id,
        epoch,
        HubId("cairo"),
        AgentId("main"),
        ("n1",) * job.spec.replicas,
        job.spec.per_task,
        state,
        OnPartition.KEEP,
        NOON_MS,
        NOON_MS + 2_400_000,
    )
    return replace(lease, **changes)


def a_claim(**changes: Any) -> Claim:
    """A claim on cairo/main's only node, made at noon for the end of one lease."""
    at = {"hub_id": HubId("cairo"), "agent_id": AgentId("main"), "nodes": ("n1",), "devices": ()}
    when = {"made_ms": NOON_MS, "until_ms": NOON_MS + 150_000}
    return Claim(**{**at, **when, "victims": (LeaseId("lease-of-a-guest"),), "lost_ms": 5_000, **changes})


def a_node(name: str = "n1", cpus: float = 4, memory_gib: float = 8, gpus: float = 0, gpu_kind: str = "") -> Node:
    """A machine that offers all it has."""
    has = some_resources(cpus, memory_gib, gpus, gpu_kind)
    return Node(name, has, has)


def an_agent(hub_id: str = "cairo", agent_id: str = "main", **changes: Any) -> Agent:
    """An agent that is online, with one node of 4 cpus and 8 GiB."""
    agent = Agent(
        HubId(hub_id),
        AgentId(agent_id),
        "instance-1",
        f"session-{hub_id}-{agent_id}",
        "0.1.0",
        LinkState.ONLINE,
        NOON_MS,
        (a_node(),),
        ("command", "fake", "ray", "spark"),
    )
    return replace(agent, **changes)


def a_hub(hub_id: str = "cairo", **changes: Any) -> Hub:
    """A hub that takes work."""
    return replace(Hub(HubId(hub_id), hub_id.title()), **changes)
