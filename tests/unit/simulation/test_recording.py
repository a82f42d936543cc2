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


def attempt(queued_s: int, started_s: int = 0, ended_s: int = 0, *, asked: bool = False) -> job_pb2.Attempt:
    """At Cairo once it has started; moments in seconds after NOW - 100."""
    begins_ms = NOW_MS - 100_000
    started_ms, ended_ms = (begins_ms + at * 1_000 if at else 0 for at in (started_s, ended_s))
    return job_pb2.Attempt(
        attempt="1-1", hub_id="cairo" if started_s else "", queued_ms=begins_ms + queued_s * 1_000,
        started_ms=started_ms, ended_ms=ended_ms, asked=asked,
    )  # fmt: skip


def waits_s(*attempts: job_pb2.Attempt) -> dict[str, tuple[int, ...]]:
    """(queued after, waited, ran), in seconds, by the names under which a job with these attempts is in the history."""
    made = record([], [a_job("j", attempts[0].queued_ms, each_attempt=attempts)], NOW_MS).history
    found = {}
    for one in made.jobs:
        ran, submit_ms = one.recorded, one.row.submitted_ms
        assert ran is not None
        times = (submit_ms - (NOW_MS - 100_000), ran.start_ms - submit_ms - ran.lost_ms, one.runtime_ms)
        found[one.row.job_id] = tuple(at // 1_000 for at in times)
    assert parse_history(format_history(made)).jobs == made.jobs
    return found


def test_a_retry_waits_from_the_retry_on() -> None:
    """Each time that a job was asked for is a job; what lies between two of them is nobody's wait."""
    assert waits_s(attempt(1, 3, 10, asked=True), attempt(60, 61, 62, asked=True), attempt(70, 75, 80, asked=True)) == {
        "j": (1, 2, 7),
        "j#2": (60, 1, 1),
        "j#3": (70, 5, 5),
    }


def test_a_preempted_job_waits_twice_and_its_lost_run_is_no_wait() -> None:
    """From submission to its first start, and from when it was queued again to the next; lost or preempted, as often as it was."""
    assert waits_s(attempt(0, 2, 30, asked=True), attempt(31, 34, 50)) == {"j": (0, 5, 16)}
    assert waits_s(attempt(0, 2, 30, asked=True), attempt(31, 34, 50), attempt(50, 60, 61)) == {"j": (0, 15, 1)}


def test_a_request_that_never_started_is_left_out_and_the_next_counts() -> None:
    """Cancelled while it waited and then retried: the wait is the retry's; one that waits again after all is left out."""
    assert waits_s(attempt(0, 0, 20, asked=True), attempt(40, 42, 50, asked=True)) == {"j#2": (40, 2, 8)}
    assert waits_s(attempt(0, 5, 20, asked=True), attempt(20)) == {}


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
