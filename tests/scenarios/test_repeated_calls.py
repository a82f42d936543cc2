"""A call whose answer was lost is made again: a retry and a release that were carried out are not carried out twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from federation.client import AsyncClient, Client, Patience, Settings
from federation.domain.job import Job, JobState, OutputFile
from federation.errors import Code, FederationError
from federation.lifecycle.job import Trigger
from federation.service.jobs import cancel, find, release, retry
from federation.v1 import common_pb2, job_pb2
from tests.support.plane import AISHA, Plane, a_plane, a_submit, a_wire_spec
from tests.support.proxy import Manners, Middlebox
from tests.support.world import ControlUnderTest

PATIENCE = Patience(call_s=5.0, retry_s=30.0, pause_s=0.01, pause_max_s=0.05)
Play = Callable[[ControlUnderTest, str], None]


@pytest.fixture
def control() -> Iterator[ControlUnderTest]:
    """A control plane with one hub; when the test ends, every promise must hold."""
    under_test = ControlUnderTest()
    under_test.join()
    yield under_test
    under_test.check()


def ended(control: ControlUnderTest, trigger: Trigger = Trigger.RUN_FAILED) -> Job:
    """A job whose first attempt is over."""
    job_id = control.submit(idempotent=True)
    runs(control, job_id)
    control.sync(control.report(job_id, trigger))
    return control.job(job_id)


def retried(control: ControlUnderTest, seen: Job, ended_ms: int) -> Job:
    """The job, after somebody asked for another attempt; one second later."""
    control.pass_time(1_000)
    return control.run(lambda unit: retry(unit, find(unit, control.store, seen.id), "test", ended_ms))


def times(control: ControlUnderTest, job_id: str, trigger: Trigger) -> int:
    """How often it happened to the job."""
    return [event.type for event in control.store.events_of("job", job_id, 100)].count(trigger)


def waits(control: ControlUnderTest, job_id: str) -> None:
    """Nothing has happened since."""


def leased(control: ControlUnderTest, job_id: str) -> None:
    """It has a place, and its hub has not spoken."""
    assert control.round() == 1


def runs(control: ControlUnderTest, job_id: str) -> None:
    """Its hub runs it."""
    control.round()
    control.sync(control.report(job_id, Trigger.RUN_STARTED, started_ms=control.clock.at_ms))


def lost(control: ControlUnderTest, job_id: str) -> None:
    """Its hub has lost its memory of the attempt: it is UNKNOWN."""
    runs(control, job_id)
    control.sync(full=True)
    assert control.job(job_id).state is JobState.UNKNOWN


def succeeds(control: ControlUnderTest, job_id: str) -> None:
    """It has run, and left a result."""
    runs(control, job_id)
    outputs = (OutputFile("a.csv", 1, "a" * 64),)
    control.sync(control.report(job_id, Trigger.RUN_SUCCEEDED, outputs=outputs, ended_ms=control.clock.at_ms))


def cancelled(control: ControlUnderTest, job_id: str) -> None:
    """It was cancelled before it had a place."""
    control.run(lambda unit: cancel(unit, find(unit, control.store, job_id), "", "test"))
    assert control.job(job_id).state is JobState.CANCELLED


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("play", [waits, leased, runs, lost, succeeds, cancelled])
def test_a_repeated_retry_answers_with_the_job_as_it_is(control: ControlUnderTest, play: Play, restarted: bool) -> None:
    """Wherever its new attempt has got to by then, and whether the control plane was restarted meanwhile or not."""
    seen = ended(control)
    assert retried(control, seen, seen.ended_ms).state is JobState.QUEUED
    play(control, seen.id)
    if restarted:
        control.boot()
    now = control.job(seen.id)
    again = retried(control, seen, seen.ended_ms)
    assert (again, times(control, seen.id, Trigger.RETRY_REQUESTED)) == (now, 1)


def test_a_retry_on_purpose_follows_each_end(control: ControlUnderTest) -> None:
    """Whoever has seen the second end may have a third attempt; its result makes room for that one's."""
    first = ended(control)
    retried(control, first, first.ended_ms)
    succeeds(control, first.id)
    second = control.job(first.id)
    third = retried(control, second, second.ended_ms)
    assert (third.state, third.result_epoch, times(control, first.id, Trigger.RETRY_REQUESTED)) == (
        JobState.QUEUED,
        None,
        2,
    )


def test_who_does_not_say_what_they_saw_is_answered_as_before(control: ControlUnderTest) -> None:
    """An older client: refused while the job waits or runs, and it queues again whatever has ended."""
    seen = ended(control)
    retried(control, seen, 0)
    for play in (waits, runs):
        play(control, seen.id)
        with pytest.raises(FederationError) as caught:
            retried(control, seen, 0)
        assert caught.value.code is Code.ILLEGAL_TRANSITION
    control.sync(control.report(seen.id, Trigger.RUN_SUCCEEDED))
    assert retried(control, seen, 0).state is JobState.QUEUED


@pytest.mark.parametrize("play", [waits, leased, runs, lost, succeeds])
def test_a_repeated_release_leaves_a_later_attempt_alone(control: ControlUnderTest, play: Play) -> None:
    """The job was queued again by it: what runs by then is not what nobody could be asked about, even where it is lost too."""
    job_id = control.submit(idempotent=True)
    lost(control, job_id)
    seen = control.job(job_id)

    def released() -> Job:
        return control.run(
            lambda unit: release(unit, find(unit, control.store, job_id), "it burnt", "root", True, str(seen.epoch))
        )

    assert released().state is JobState.QUEUED
    play(control, job_id)
    now = control.job(job_id)
    assert (released(), times(control, job_id, Trigger.RELEASE_FORCED)) == (now, 1)


def test_a_repeated_cancel_changes_nothing(control: ControlUnderTest) -> None:
    """While its hub ends it, after its end, and after an end of its own."""
    job_id = control.submit()
    runs(control, job_id)
    states = []
    for trigger in (None, None, Trigger.RUN_STOPPED, None):
        if trigger:
            control.sync(control.report(job_id, trigger))
        now = control.run(lambda unit: cancel(unit, find(unit, control.store, job_id), "", "test"))
        states.append((now.state, now.revision))
    assert [state for state, _ in states] == [JobState.CANCELLING] * 2 + [JobState.CANCELLED] * 2
    assert (states[0], states[2]) == (states[1], states[3])
    other = control.submit("r2")
    succeeds(control, other)
    before = control.job(other)
    assert control.run(lambda unit: cancel(unit, find(unit, control.store, other), "", "test")) == before


async def submitted(plane: Plane) -> str:
    """A job that was cancelled while it waited."""
    aisha = plane.voice(AISHA)
    job_id = str((await aisha.job("SubmitJobs", a_submit(a_wire_spec()))).results[0].job_id)
    await aisha.job("CancelJob", job_pb2.CancelJobRequest(job_id=job_id))
    return job_id


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("moved_on", [True, False])
async def test_a_client_that_loses_the_answer_has_one_more_attempt(
    tmp_path: Path, blocking: bool, moved_on: bool
) -> None:
    """The link is cut between the commit and its answer; the job waits, or was cancelled again, when the repeat arrives."""
    async with a_plane(tmp_path) as plane:
        job_id = await submitted(plane)
        loop, queued = asyncio.get_running_loop(), asyncio.Event()
        with Middlebox(Manners(), to=("127.0.0.1", plane.plane.ports["grpc"])) as box:
            settings = Settings(box.address, plane.plane.tokens.issue(AISHA))

            def cut(job: Job) -> None:  # on the writer's thread: the answer leaves after this
                if job.state is JobState.QUEUED:
                    box.behave(cuts=True)
                    box.cut()
                    loop.call_soon_threadsafe(queued.set)

            async def asks() -> job_pb2.Job:
                if blocking:
                    with Client(settings, PATIENCE) as client:
                        return await asyncio.to_thread(client.retry, job_id)
                async with AsyncClient(settings, PATIENCE) as client:
                    return await client.retry(job_id)

            end = plane.plane.desk.switchboard.watch_jobs(cut)
            asking = asyncio.create_task(asks())
            await asyncio.wait_for(queued.wait(), 30)
            end()
            if moved_on:
                await plane.voice(AISHA).job("CancelJob", job_pb2.CancelJobRequest(job_id=job_id))
            box.behave(cuts=False)
            job = await asyncio.wait_for(asking, 30)
            expected = common_pb2.JOB_STATE_CANCELLED if moved_on else common_pb2.JOB_STATE_QUEUED
            assert (job.state, box.counts["opened"] >= 2) == (expected, True)
            events = plane.plane.desk.store.events_of("job", job_id, 100)
            assert [event.type for event in events].count("RetryRequested") == 1
            if moved_on:  # on purpose, after that end
                async with AsyncClient(settings, PATIENCE) as client:
                    assert (await client.retry(job_id)).state == common_pb2.JOB_STATE_QUEUED
