"""Builders that read as words, for the tests of the scheduling room."""

from __future__ import annotations

from typing import Any

from federation.domain.hub import Dataset, HubState, LinkState, Node
from federation.domain.ids import AgentId, AgentKey, HubId
from federation.domain.quantities import Resources, resources
from federation.scheduling import Delta, Plan, PlannerState, Policy, plan_round
from federation.scheduling.rows import AgentRow, LeaseRow, QueuedJob

GIB = 2**30


def cpus(count: float, gib: float = 0, gpus: float = 0, model: str = "") -> Resources:
    """So many cpus, GiB of memory and gpus."""
    return resources(
        ("cpu", "", round(count * 1000)), ("memory", "", round(gib * GIB)), ("gpu", model, round(gpus * 1000))
    )


def key_of(hub: str, agent: str = "main") -> AgentKey:
    """An agent's name in the federation."""
    return (HubId(hub), AgentId(agent))


def node(name: str, offered: Resources) -> Node:
    """A machine that offers all it has."""
    return Node(name, offered, offered)


def agent(hub: str, *offered: Resources, name: str = "main", **changes: Any) -> AgentRow:
    """An agent of `hub` in front of machines n0, n1, ... that runs commands and takes work."""
    values: dict[str, Any] = {
        "hub_state": HubState.ACTIVE,
        "link": LinkState.ONLINE,
        "engines": ("command",),
        "datasets": (),
    }
    nodes = tuple(node(f"n{at}", of) for at, of in enumerate(offered))
    return AgentRow(key=key_of(hub, name), nodes=nodes, **(values | changes))


def dataset(name: str, policy: str = "open", version: str = "1", readers: tuple[str, ...] = ()) -> Dataset:
    """A dataset of a gigabyte."""
    return Dataset(name, version, 10**9, policy, readers=readers)


def job(name: str, per_task: Resources, home: str = "cairo", *, seq: int = 0, **changes: Any) -> QueuedJob:
    """A waiting job of one task of `home`'s user ada; `seq` is its place in arrival order."""
    values: dict[str, Any] = {"project": "default", "user": "ada", "engine": "command"}
    return QueuedJob(job_id=name, seq=seq, home_hub=home, per_task=per_task, **(values | changes))


def lease(name: str, per_task: Resources, at: str, *nodes: str, **changes: Any) -> LeaseRow:
    """A lease of job `job-<name>` of cairo's ada, on `nodes` of hub `at`, that ends at 1,000 ms."""
    values: dict[str, Any] = {
        "key": key_of(at),
        "job_id": f"job-{name}",
        "home_hub": "cairo",
        "project": "default",
        "user": "ada",
        "expires_ms": 1000,
    }
    return LeaseRow(lease_id=name, nodes=nodes or ("n0",), per_task=per_task, **(values | changes))


def planned(*agents: AgentRow, jobs: tuple[QueuedJob, ...], leases: tuple[LeaseRow, ...] = (), **policy: Any) -> Plan:
    """The plan of one round on an empty federation."""
    return world(*agents, jobs=jobs, leases=leases, **policy)[1]


def world(
    *agents: AgentRow, jobs: tuple[QueuedJob, ...] = (), leases: tuple[LeaseRow, ...] = (), **policy: Any
) -> tuple[PlannerState, Plan]:
    """State and plan after one round on an empty federation."""
    delta = Delta(agents=agents, queued=jobs, leases_started=leases)
    policy = {"promise_after_ms": 0} | policy
    return plan_round(PlannerState(), delta, Policy(**policy), now_ms=0)


def where(plan: Plan) -> dict[str, str]:
    """Job id to hub id."""
    return {entry.job_id: entry.key[0] for entry in plan.placements}
