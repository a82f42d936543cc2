"""A history out of what a federation tells on the wire."""

from __future__ import annotations

from typing import Any

from federation.domain.hub import LinkState
from federation.domain.quantities import resources
from federation.simulation.history import parse_history
from federation.simulation.recording import pseudonym, record
from federation.simulation.replay import Recorded
from federation.simulation.writing import format_history
from federation.v1 import common_pb2, hub_pb2, job_pb2

NOW_MS = 1_790_000_000_000
KEY = b"of this operator"


def amount(name: str, much: int, kind: str = "") -> common_pb2.Resource:
    """An amount on the wire."""
    return common_pb2.Resource(name=name, kind=kind, amount=much)


def a_hub() -> hub_pb2.Hub:
    """Cairo, with one agent in front of one machine, which nobody has heard of for a while."""
    node = hub_pb2.Node(
        name="rack",
        offered=[amount("cpu", 2_000)],
        capacity=[amount("cpu", 4_000), amount("gpu", 1_000, "nvidia/T4"), amount("floppy", 3)],
    )
    agent = hub_pb2.Agent(
        agent_id="main", link=hub_pb2.LINK_STATE_LOST, nodes=[node], engines=["command"], reclaim_ms=7_000
    )
    dataset = hub_pb2.Dataset(name="flights", version="1", size_bytes=5, policy="open")
    return hub_pb2.Hub(id="cairo", agents=[agent], datasets=[dataset])


def a_job(job_id: str, created_ms: int, started_ms: int = 0, ended_ms: int = 0, **changes: Any) -> job_pb2.Job:
    """A job of Cairo's Aisha, at Cairo once it has started."""
    spec = job_pb2.JobSpec(
        engine="command",
        demand=job_pb2.Demand(replicas=2, per_task=[amount("cpu", 500)]),
        runtime_limit_ms=60_000,
        priority=common_pb2.PRIORITY_CLASS_INTERACTIVE,
        inputs=[job_pb2.Input(dataset="flights")],
        hubs=job_pb2.HubConstraint(deny=["shenzhen"]),
    )
    owner = common_pb2.Owner(home_hub="cairo", project="vision", issuer="local", subject="aisha")
    return job_pb2.Job(
        id=job_id, spec=spec, owner=owner, created_ms=created_ms, started_ms=started_ms, ended_ms=ended_ms,
        hub_id="cairo" if started_ms else "", **changes,
    )  # fmt: skip


def test_a_job_that_ran_is_in_it_as_it_was() -> None:
    """What was asked for, how long it ran, and where and when it did."""
    made = record([a_hub()], [a_job("j1", NOW_MS - 9_000, NOW_MS - 8_000, NOW_MS - 3_000)], NOW_MS)
    (job,) = made.history.jobs
    assert (job.runtime_ms, job.recorded) == (5_000, Recorded("cairo", NOW_MS - 8_000, NOW_MS - 3_000))
    row = job.row
    assert (row.home_hub, row.project, row.user, row.submitted_ms) == ("cairo", "vision", "aisha", NOW_MS - 9_000)
    assert (row.per_task, row.replicas, row.priority, row.runtime_limit_ms) == (
        resources(("cpu", "", 500)), 2, 2, 60_000,
    )  # fmt: skip
    assert (row.inputs, row.hubs_deny) == ((("flights", ""),), ("shenzhen",))
    assert (made.history.begins_ms, made.history.ends_ms) == (NOW_MS - 9_000, NOW_MS)


def test_machines_are_as_offered_now_and_in_touch() -> None:
    """Resources that nobody can ask for are left out."""
    (row,) = record([a_hub()], [], NOW_MS).history.agents
    (node,) = row.nodes
    assert node.offered == resources(("cpu", "", 2_000))
    assert node.capacity == resources(("cpu", "", 4_000), ("gpu", "nvidia/T4", 1_000))
    assert (row.link, row.reclaim_ms, [entry.name for entry in row.datasets]) == (LinkState.ONLINE, 7_000, ["flights"])


def test_what_cannot_be_replayed_is_counted() -> None:
    """Jobs that never ran are left out; one that still runs counts with what it has run; old ones are not asked for."""
    jobs = [
        a_job("waits", NOW_MS - 5_000),
        a_job("cancelled", NOW_MS - 5_000, ended_ms=NOW_MS - 1_000),
        a_job("runs", NOW_MS - 5_000, NOW_MS - 4_000),
        a_job("old", NOW_MS - 99_000, NOW_MS - 98_000, NOW_MS - 97_000),
    ]
    made = record([], jobs, NOW_MS, since_ms=NOW_MS - 50_000)
    assert [(job.row.job_id, job.runtime_ms) for job in made.history.jobs] == [("runs", 4_000)]
    assert (made.never_ran, made.still_running) == (2, 1)


def test_clocks_that_differ_do_no_harm() -> None:
    """A start before its submission, an end before its start, a run longer than its limit."""
    jobs = [
        a_job("a", NOW_MS - 5_000, NOW_MS - 9_000, NOW_MS - 10_000),
        a_job("b", NOW_MS - 200_000, NOW_MS - 190_000, NOW_MS - 100_000),
    ]
    late, early = sorted(record([], jobs, NOW_MS).history.jobs, key=lambda job: job.row.job_id)
    assert (late.runtime_ms, late.recorded) == (1, Recorded("cairo", NOW_MS - 5_000, NOW_MS - 4_999))
    assert early.runtime_ms == early.row.runtime_limit_ms == 90_000


def test_people_are_pseudonyms_that_stay_the_same() -> None:
    """The same person the same name, another hub's namesake another; without the key nobody can make it."""
    jobs = [a_job("a", NOW_MS - 9, NOW_MS - 8, NOW_MS - 7), a_job("b", NOW_MS - 9, NOW_MS - 8, NOW_MS - 7)]
    made = record([a_hub()], jobs, NOW_MS, pseudonym_key=KEY).history
    users = {job.row.user for job in made.jobs}
    assert users == {pseudonym(KEY, "cairo", "aisha")}
    assert pseudonym(KEY, "shenzhen", "aisha") not in users
    assert pseudonym(b"another", "cairo", "aisha") not in users
    assert "aisha" not in "".join(format_history(made))


def test_a_recording_reads_back() -> None:
    """What is exported can be replayed, whatever a person is called."""
    job = a_job("a", NOW_MS - 9_000, NOW_MS - 8_000, NOW_MS - 7_000)
    job.owner.subject = "ai\tsha"
    made = record([a_hub()], [job], NOW_MS, policy={"version": 1}).history
    read = parse_history(format_history(made))
    assert (read.jobs, read.policy, read.jobs[0].row.user) == (made.jobs, {"version": 1}, "ai?sha")
