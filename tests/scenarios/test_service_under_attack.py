"""What broke a promise once, each as a story: hubs that say nonsense, late words, cancels in doubt, disks that fill.

Found by `tests/property/test_service_machine.py`, or by reading with ill will.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from federation.domain.hub import AGENTS_PER_HUB_MAX, LinkState
from federation.domain.ids import LeaseId
from federation.domain.job import JobState, OnPartition, Owner, Reason
from federation.domain.lease import KILL_GRACE_MS, SKEW_BOUND_MS, LeaseState
from federation.domain.quantities import AMOUNT_MAX, KINDS_MAX, resources
from federation.errors import Code, FederationError
from federation.lifecycle.job import Trigger
from federation.service import sync
from federation.service.jobs import cancel, find
from federation.service.rounds import Rounds
from federation.service.world import Unit
from federation.service.writer import Writer
from tests.support.builders import a_node, an_agent, some_resources
from tests.support.eventually import eventually
from tests.support.world import ControlUnderTest, FailingStore


@pytest.fixture
def control() -> Iterator[ControlUnderTest]:
    """A control plane; when the test ends, every promise must hold."""
    under_test = ControlUnderTest()
    yield under_test
    under_test.check()


def asked_to_end(control: ControlUnderTest, job_id: str) -> JobState:
    """Cancel the job; its state afterwards."""
    return control.run(lambda unit: cancel(unit, find(unit, control.store, job_id), "enough", "test")).state


def let_it_run_out(control: ControlUnderTest, job_id: str) -> None:
    """To the moment at which the job's run is over for certain."""
    lease = control.world.lease_for(control.job(job_id).id)
    assert lease is not None
    control.pass_time(lease.expires_ms + KILL_GRACE_MS + SKEW_BOUND_MS - control.clock.at_ms)


def in_doubt_after_a_cancel(control: ControlUnderTest, **spec: Any) -> str:
    """A job that was asked to end, whose hub then fell silent until the lease was over."""
    control.join()
    job_id = control.submit(**spec)
    control.round()
    assert asked_to_end(control, job_id) is JobState.CANCELLING
    let_it_run_out(control, job_id)
    return job_id


@pytest.mark.parametrize(
    ("trigger", "expected"),
    [
        (Trigger.RUN_STOPPED, JobState.CANCELLED),
        (Trigger.RUN_REFUSED, JobState.CANCELLED),
        (Trigger.RUN_SUCCEEDED, JobState.SUCCEEDED),
        (Trigger.RUN_STARTED, JobState.CANCELLING),
    ],
)
def test_doubt_does_not_undo_a_cancel(control: ControlUnderTest, trigger: Trigger, expected: JobState) -> None:
    """Cancelled, then UNKNOWN: what its hub says on return ends it, and never queues it again."""
    job_id = in_doubt_after_a_cancel(control)
    assert control.job(job_id).state is JobState.UNKNOWN
    control.sync(control.report(job_id, trigger))
    assert control.job(job_id).state is expected


def test_a_job_in_doubt_that_its_hub_no_longer_knows_is_cancelled(control: ControlUnderTest) -> None:
    """Cancelled, then UNKNOWN, then absent from the full list: it must not stay UNKNOWN without a lease for ever."""
    job_id = in_doubt_after_a_cancel(control)
    control.sync(full=True)
    assert control.job(job_id).state is JobState.CANCELLED


def test_a_cancelled_job_that_may_run_twice_does_not_run_twice(control: ControlUnderTest) -> None:
    """An idempotent job whose hub never answered the cancel is cancelled at its lease's end, not started again."""
    job_id = in_doubt_after_a_cancel(control, idempotent=True)
    for _ in range(3):
        control.pass_time(1_000)
    assert control.job(job_id).state is JobState.CANCELLED
    assert control.round() == 0


def test_cancelling_what_has_ended_leaves_its_reason(control: ControlUnderTest) -> None:
    """Why a job failed is still there after somebody cancels it, and nothing is written."""
    control.join()
    job_id = control.submit()
    control.round()
    why = Reason("EXIT", "exit status 3", "cairo")
    control.sync(control.report(job_id, Trigger.RUN_FAILED, reason=why, exit_code=3))
    before = control.job(job_id)
    asked_to_end(control, job_id)
    assert control.job(job_id) == before


def test_a_restart_makes_no_silent_hub_alive(control: ControlUnderTest) -> None:
    """After a start from the store a hub gets work when it has spoken, not because a second went by."""
    control.join()
    control.pass_time(700_000)
    control.boot()
    control.submit()
    control.pass_time(1_000)
    assert control.world.agents[an_agent().key].link is LinkState.SUSPECT
    assert control.round() == 0
    control.join()
    assert control.round() == 1


def test_a_hub_that_was_cut_off_may_run_the_job_again(control: ControlUnderTest) -> None:
    """A lease that ran out is no refusal: when the only hub comes back, its job starts there."""
    control.join()
    job_id = control.submit(on_partition=OnPartition.RERUN, idempotent=True)
    control.round()
    let_it_run_out(control, job_id)
    assert control.job(job_id).state is JobState.QUEUED
    control.join()
    assert control.round() == 1


def test_a_refusal_without_a_word_is_a_refusal(control: ControlUnderTest) -> None:
    """A hub that says no and not why is not asked again at once, for ever."""
    control.join()
    job_id = control.submit()
    control.round()
    control.sync(control.report(job_id, Trigger.RUN_REFUSED))
    assert control.round() == 0
    assert control.job(job_id).reason == Reason("REFUSED", "the hub refused it and did not say why", "cairo")


def test_a_late_full_list_makes_no_run_absent(control: ControlUnderTest) -> None:
    """Two calls of one session turned round by the network: what the older one lacks began after it was sent."""
    control.join()
    job_id = control.submit()
    control.round()
    session_id = an_agent().session_id
    started = control.report(job_id, Trigger.RUN_STARTED, started_ms=1)

    def hear(seq: int, *runs: sync.RunReport, full: bool) -> sync.Orders:
        beat = sync.Heartbeat(session_id, runs, "", full=full, sync_seq=seq)
        return control.run(lambda unit: sync.sync(unit, control.store, beat))

    assert hear(6, started, full=False).superseded is False
    late = hear(5, full=True)
    assert (late.superseded, late.starts, late.revokes) == (True, [], [])
    assert control.job(job_id).state is JobState.RUNNING
    assert hear(7, full=True).superseded is False
    assert control.job(job_id).state is JobState.UNKNOWN


def test_a_woken_call_brings_its_hub_back_for_the_planner_too(control: ControlUnderTest) -> None:
    """The clock was put forward while a call was held: when it wakes, its hub gets work again."""
    control.join()
    control.round()
    control.pass_time(61_000)
    control.round()
    control.run(lambda unit: sync.orders_of(unit, an_agent().session_id))
    control.submit()
    assert control.round() == 1
    (stored,) = control.store.load().agents
    assert stored.link is LinkState.ONLINE


@pytest.mark.parametrize("said_ms", [-5, 2**62])
def test_absurd_times_of_a_run_stop_nobodys_work(control: ControlUnderTest, said_ms: int) -> None:
    """A hub's broken clock is brought within reason; other people's jobs are placed in the same round."""
    control.join()
    first = control.submit("r1", on_partition=OnPartition.STOP)
    control.round()
    control.sync(control.report(first, Trigger.RUN_STARTED, started_ms=said_ms))
    control.submit("r2")
    assert control.round() == 1
    assert 0 <= control.job(first).started_ms <= control.clock.at_ms


def test_a_row_that_the_planner_refuses_is_left_out_alone(control: ControlUnderTest) -> None:
    """An agent with two nodes of one name gets nothing; everybody else's queue and hubs go on."""
    control.join(an_agent("shenzhen", nodes=(a_node(), a_node())))
    control.join()
    job_id = control.submit()
    assert control.round() == 1
    assert control.job(job_id).hub_id == "cairo"
    control.boot()
    control.join()
    control.submit("r2")
    assert control.round() == 1


def test_a_job_of_the_federations_own_operators_is_placed(control: ControlUnderTest) -> None:
    """Whoever is of no hub may submit, and stops nobody's work by it."""
    control.join()
    control.submit("r1", Owner("", "default", "local", "root"))
    control.submit("r2")
    assert control.round() == 2


def test_a_resource_vector_has_limits() -> None:
    """At them accepted, past them refused at the door and not in the planner."""
    kinds = [("gpu", f"maker/{number}", 1) for number in range(KINDS_MAX)]
    assert len(resources(*kinds)) == KINDS_MAX
    with pytest.raises(FederationError) as caught:
        resources(*kinds, ("cpu", "", 1))
    assert caught.value.code is Code.LIMIT_EXCEEDED
    assert resources(("gpu", "a", AMOUNT_MAX - 1), ("gpu", "b", 1))
    with pytest.raises(FederationError, match="out of range"):
        resources(("gpu", "a", AMOUNT_MAX), ("gpu", "b", 1))


def test_a_hub_has_so_many_agents_and_no_more(control: ControlUnderTest) -> None:
    """Agents are never forgotten, so their number has a limit; those that are known come and go as before."""
    for number in range(AGENTS_PER_HUB_MAX):
        control.join(an_agent("cairo", f"a{number}", nodes=()))
    with pytest.raises(FederationError) as caught:
        control.join(an_agent("cairo", "one-more", nodes=()))
    assert caught.value.code is Code.LIMIT_EXCEEDED
    control.join(an_agent("cairo", "a7", nodes=()))
    control.join(an_agent("shenzhen"))


def test_use_that_cannot_have_been_is_not_posted(control: ControlUnderTest) -> None:
    """Longer than the lease is old, backwards, or before time began: acknowledged, so that it is not sent for ever."""
    control.join()
    job_id = control.submit()
    control.round()
    control.pass_time(10_000)
    now_ms = control.clock.at_ms
    absurd = ((0, 0, now_ms), (1, 20, 10), (2, -5, 5), (3, now_ms - 9_000, now_ms))
    report = control.report(job_id, Trigger.RUN_STARTED, usage=absurd)
    assert control.sync(report).usage_stored == {report.lease_id: 3}
    assert [one.index for one in control.store.usage_of(report.lease_id)] == [3]


def test_the_last_stretch_comes_after_the_lease_ended_once(control: ControlUnderTest) -> None:
    """The end first, its usage in the next call, and that call twice."""
    control.join()
    job_id = control.submit()
    control.round()
    end = control.report(job_id, Trigger.RUN_SUCCEEDED)
    control.sync(end)
    for _ in range(2):
        control.sync(replace(end, usage=((0, 5, 9),)))
    assert [one.index for one in control.store.usage_of(end.lease_id)] == [0]


def test_a_hub_cannot_speak_of_anothers_lease(control: ControlUnderTest) -> None:
    """It ends nothing, posts no use, and is only told to forget the run."""
    control.join()
    control.join(an_agent("shenzhen"))
    job_id = control.submit(hubs_allow=("cairo",))
    control.round()
    claim = control.report(job_id, Trigger.RUN_SUCCEEDED, usage=((0, 1, 2),))
    orders = control.sync(claim, agent=an_agent("shenzhen"))
    assert (orders.releases, orders.usage_stored) == ([(claim.lease_id, claim.epoch)], {})
    assert control.job(job_id).state is JobState.LEASED
    assert control.store.usage_of(claim.lease_id) == ()


def test_a_node_that_shrinks_under_running_work_gets_nothing_more(control: ControlUnderTest) -> None:
    """Room taken back is not given out twice, and comes back when the work has ended."""
    control.join()
    first = control.submit("r1", per_task=some_resources(cpus=3))
    control.round()
    lease = control.world.lease_for(control.job(first).id)
    assert lease is not None
    shrunk = an_agent(nodes=(a_node(cpus=2),), session_id="session-2")
    control.join(shrunk, (control.report(first, Trigger.RUN_STARTED),))
    control.submit("r2")
    assert control.round() == 0
    control.sync(control.report(first, Trigger.RUN_SUCCEEDED), agent=shrunk)
    assert control.round() == 1


def test_explain_before_there_is_any_hub_says_so(control: ControlUnderTest) -> None:
    """No hub, no round yet: an answer, not a failure."""
    job_id = control.submit(per_task=resources(("cpu", "", AMOUNT_MAX)), replicas=1_000)
    assert [one.code for one in control.rounds.explain(control.job(job_id)).reasons] == ["NO_AGENT"]
    control.join()
    control.round()
    assert [one.code for one in control.rounds.explain(control.job(job_id)).reasons] == ["SHAPE_NEVER_FITS"]


def test_a_listener_that_fails_does_not_end_the_writer() -> None:
    """What was saved is answered, and so is everything after it."""
    control = ControlUnderTest()
    writer = Writer(control.store, control.world, control.clock, control.switchboard)

    def fails(_: Unit) -> None:
        raise RuntimeError("the loop is closed")

    heard = threading.Event()
    writer.after_commit(fails)
    writer.after_commit(lambda _: heard.set())
    writer.start()
    try:
        for number in range(2):
            arriving = an_agent(session_id=f"session-{number}")
            writer.call(lambda unit, one=arriving: sync.open_session(unit, control.store, one, "", ())).result(10)  # type: ignore[misc]
        assert heard.is_set()
    finally:
        writer.stop()


def test_a_round_whose_commit_failed_is_held_again() -> None:
    """On an idle federation nothing else would wake the rounds, and the job would wait for ever."""
    store = FailingStore()
    control = ControlUnderTest(store)
    writer = Writer(store, control.world, control.clock, control.switchboard)
    rounds = Rounds(writer, control.clock, control.ids)
    rounds.take_in(control.world)
    rounds.start()
    writer.start()
    try:
        control.writer = writer  # type: ignore[assignment]
        control.join()
        store.fail_at = "put_leases"
        job_id = control.submit()
        eventually(lambda: (job := store.get_job(job_id)) is not None and job.state is JobState.LEASED, 15)
        assert store.fail_at == ""
    finally:
        rounds.stop()
        writer.stop()
    control.check()


def test_an_agent_that_returns_with_an_older_attempt_is_told_to_end_it(control: ControlUnderTest) -> None:
    """The job was rerun elsewhere; the first hub's word neither ends nor feeds the new attempt."""
    control.join()
    job_id = control.submit(on_partition=OnPartition.RERUN, idempotent=True)
    control.round()
    old = control.report(job_id, Trigger.RUN_STARTED)
    let_it_run_out(control, job_id)
    control.join(an_agent("shenzhen"))
    assert control.round() == 1
    orders = control.sync(replace(old, trigger=Trigger.RUN_STARTED))
    assert [one.lease_id for one in orders.revokes] == [old.lease_id]
    control.sync(replace(old, trigger=Trigger.RUN_SUCCEEDED))
    job = control.job(job_id)
    assert (job.state, job.hub_id, job.result_epoch) == (JobState.LEASED, "shenzhen", None)
    lease = control.world.leases[LeaseId(control.world.lease_of_job[job.id])]
    assert lease.state is LeaseState.GRANTED
