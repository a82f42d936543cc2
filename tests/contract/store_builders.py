"""Words for the store's tests: a job, a lease, a fact, with only what the test is about spelled out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from federation.domain.hub import Agent, Dataset, Hub, HubState, LinkState, Node
from federation.domain.ids import AgentId, HubId, JobId, LeaseId
from federation.domain.job import Claim, Epoch, Input, Job, JobSpec, OnPartition, OutputFile, Owner, Priority, Reason
from federation.domain.lease import Lease, LeaseState
from federation.domain.quantities import Resources, resources
from federation.domain.usage import UsageInterval
from federation.ports import EventRow, RequestRow, Store
from federation.store import open_store
from federation.store.sql import SqlStore
from federation.store.sqlite import SqliteFile
from tests.support.apsw_driver import connector
from tests.support.faulty_disk import FaultyDisk

SMALL: Resources = resources(("cpu", "", 1000), ("memory", "", 2**30))
AISHA = Owner("kuala-lumpur", "default", "https://id.kl.example", "aisha")


@dataclasses.dataclass(slots=True)
class StoreHome:
    """A place where one kind of store can be opened, also again after it was closed."""

    url: str
    path: Path | None = None
    opened: list[Store] = dataclasses.field(default_factory=list)
    disk: FaultyDisk | None = None
    """What lies under the file, where it is not the system's disk."""

    def open(self, busy_timeout_ms: int = 5_000) -> Store:
        """The store; closed by the fixture at the latest."""
        if self.disk is None:
            self.opened.append(open_store(self.url, busy_timeout_ms=busy_timeout_ms))
        else:
            assert self.path is not None
            connect, write_again = connector(self.disk.name), self.disk.write_again
            self.opened.append(SqlStore(SqliteFile(self.path, busy_timeout_ms, connect, write_again)))
        return self.opened[-1]

    def close(self) -> None:
        """Close whatever the test left open."""
        for store in self.opened:
            store.close()


def job(n: int, **changes: Any) -> Job:
    """The n-th job, waiting; `changes` are fields of Job, and `name` of its spec."""
    spec = JobSpec(changes.pop("name", f"job-{n}"), "default", "command", "run.py", SMALL)
    plain = Job(JobId(f"job-{n:08d}"), AISHA, spec, f"bytes of {n}".encode(), created_ms=n, queue_seq=n)
    return dataclasses.replace(plain, **changes)


def full_job(n: int) -> Job:
    """A job in which no field has its default."""
    spec = JobSpec(
        name="delays",
        project="aviation",
        engine="spark",
        entrypoint="src/delays.py",
        per_task=resources(("cpu", "", 1500), ("gpu", "nvidia/A100", 500), ("memory", "", 2**31)),
        replicas=3,
        package_digest="ab" * 32,
        arguments=("--top", "10", "", "with blank"),
        requirements="numpy==2.4\n",
        variables=(("A", "1"), ("B", "")),
        secret_variables=(("TOKEN", "s3cret"),),
        inputs=(Input("flights-jfk", "v1", "flights"), Input("weather", "", "weather")),
        runtime_limit_ms=3_600_000,
        priority=Priority.INTERACTIVE,
        preemptible=True,
        idempotent=True,
        on_partition=OnPartition.RERUN,
        tracking=True,
        hubs_allow=("cairo", "shenzhen"),
        hubs_deny=("hub-4",),
        hubs_prefer=("cairo",),
        spread=True,
    )
    return Job(
        id=JobId(f"job-{n:08d}"),
        owner=Owner("cairo", "aviation", "https://id.cairo.example", "omar"),
        spec=spec,
        spec_bytes=bytes(range(256)),
        reason=Reason("CAPACITY", "no room", "cairo", (("free", "0"), ("asked", "3"))),
        created_ms=11,
        state_since_ms=12,
        queue_seq=n,
        attempts=2,
        epoch=Epoch(1, 7),
        hub_id=HubId("cairo"),
        agent_id=AgentId("a1"),
        nodes=("n1", "n1", "n2"),
        started_ms=13,
        ended_ms=14,
        exit_code=-9,
        progress="staging 3 of 7 MB",
        url="http://127.0.0.1:8888/lab",
        tracking_run_id="run-1",
        parent_job_id="job-parent",
        result_epoch=Epoch(1, 6),
        outputs=(OutputFile("part/0.csv", 12, "cd" * 32), OutputFile("log", 0, "ef" * 32)),
        revision=1,
        claim=Claim(
            HubId("cairo"), AgentId("a1"), ("n1", "n1", "n2"), ((0,), (1,), (0,)), (LeaseId("lease-9"),), 15, 16, 17
        ),
    )


def lease(n: int, of: Job, **changes: Any) -> Lease:
    """The n-th lease, granted to cairo's first agent."""
    plain = Lease(
        id=LeaseId(f"lease-{n:08d}"),
        job_id=of.id,
        epoch=Epoch(1, n),
        hub_id=HubId("cairo"),
        agent_id=AgentId("a1"),
        nodes=("n1",),
        per_task=SMALL,
        state=LeaseState.GRANTED,
        on_partition=OnPartition.KEEP,
        granted_ms=100,
        expires_ms=700_100,
        devices=((0, 2),),
    )
    return dataclasses.replace(plain, **changes)


def hub(hub_id: str = "cairo", **changes: Any) -> Hub:
    """A member."""
    return dataclasses.replace(Hub(HubId(hub_id), "Cairo University", HubState.ACTIVE, "note"), **changes)


def agent(hub_id: str = "cairo", agent_id: str = "a1", **changes: Any) -> Agent:
    """An agent with two nodes and a dataset."""
    node = Node("n1", SMALL, resources(("cpu", "", 8000), ("gpu", "nvidia/A100", 2000)), 250, 2**33)
    data = Dataset("flights-jfk", "v1", 123, "hubs", "Flights", ("cairo", "shenzhen"))
    plain = Agent(
        hub_id=HubId(hub_id),
        agent_id=AgentId(agent_id),
        instance_id="i-1",
        session_id="s-1",
        version="0.1.0",
        link=LinkState.ONLINE,
        last_sync_ms=99,
        nodes=(node, dataclasses.replace(node, name="n2")),
        engines=("spark", "command"),
        datasets=(data, dataclasses.replace(data, name="weather", readers=())),
        features=("logs",),
        round_trip_ms=180,
        reclaim_ms=5_000,
    )
    return dataclasses.replace(plain, **changes)


def fact(entity_id: str, type_: str = "JobSubmitted", **changes: Any) -> EventRow:
    """Something that happened to a job."""
    plain = EventRow(5, "job", entity_id, type_, "req-1", "user:https://id.kl.example/aisha", '{"n":1}')
    return dataclasses.replace(plain, **changes)


def request(request_id: str, of: Job, principal: str = "aisha") -> RequestRow:
    """A submission that was answered."""
    return RequestRow(principal, request_id, "digest of " + request_id, of.id, 5)


def interval(index: int, lease_id: str = "lease-00000001", start_ms: int = 0, end_ms: int = 10) -> UsageInterval:
    """A stretch of use."""
    return UsageInterval(LeaseId(lease_id), index, start_ms, end_ms)


def keep(store: Store, *jobs: Job, facts: Iterable[EventRow] = ()) -> int:
    """Commit `jobs` and `facts`; the first seq."""
    with store.begin() as transaction:
        first = transaction.append_events(list(facts))
        transaction.put_jobs(jobs)
        transaction.commit()
    return first
