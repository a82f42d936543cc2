"""A control plane that starts answers before its queue is back in memory: what holds meanwhile, and afterwards."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest

from federation.domain.job import JobState
from federation.errors import Code, FederationError
from federation.lifecycle.job import Trigger
from federation.ports import Page
from federation.service import submit
from federation.service.desk import Desk, Outside
from federation.service.jobs import cancel, find
from federation.store import faults
from federation.store.memory import MemoryStore
from tests.support.world import ControlUnderTest, CountingIds, FailingStore, SetClock, a_submission

WHO = "local/aisha@kuala-lumpur"


def waiting(control: ControlUnderTest, jobs: int) -> list[str]:
    """So many jobs in the line, and a control plane that has begun again and read none of them."""
    ids = [control.submit(f"r{n}") for n in range(jobs)]
    control.boot(read=False)
    assert not control.world.jobs
    return ids


def test_the_queue_comes_back_as_it_was() -> None:
    """All jobs, and the planner knows each; the count of what is missing goes down to nothing."""
    control = ControlUnderTest()
    ids = waiting(control, 5)
    assert control.world.unread == 5
    control.read_page()
    assert control.world.unread == 3
    control.check()
    control.read_queue()
    assert set(control.world.jobs) == set(ids)
    assert control.world.unread == 0
    control.join()
    control.round()
    assert sum(control.job(job_id).state is JobState.LEASED for job_id in ids) > 0
    control.check()


def test_a_request_id_is_known_before_its_job_is_read() -> None:
    """The same answer, and no second job; a new one gets a place behind all that wait."""
    control = ControlUnderTest()
    ids = waiting(control, 3)
    assert control.submit("r1") == ids[1]
    new = control.submit("new")
    control.read_queue()
    assert max(control.world.jobs.values(), key=lambda job: job.queue_seq).id == new
    assert len(control.world.jobs) == 4
    control.check()


def test_what_is_cancelled_before_it_is_read_does_not_come_back() -> None:
    """Its page finds it ended."""
    control = ControlUnderTest()
    ids = waiting(control, 3)
    control.run(lambda unit: cancel(unit, find(unit, control.store, ids[0]), "", "test"))
    control.read_queue()
    assert set(control.world.jobs) == {ids[1], ids[2]}
    control.check()


def test_what_could_not_be_cancelled_is_still_there() -> None:
    """The commit failed and memory was rolled back: the job is read like the others."""
    store = FailingStore()
    control = ControlUnderTest(store)
    ids = waiting(control, 2)
    store.fail_at = "commit"
    with pytest.raises(FederationError):
        control.run(lambda unit: cancel(unit, find(unit, store, ids[0]), "", "test"))
    control.read_queue()
    assert set(control.world.jobs) == set(ids)
    control.check()


def test_what_ran_and_waits_again_is_as_memory_has_it() -> None:
    """A job that its hub refused meanwhile is not overwritten by its page."""
    control = ControlUnderTest()
    control.join()
    job_id = control.submit()
    control.round()
    control.boot(read=False)
    control.join()
    control.sync(control.report(job_id, Trigger.RUN_REFUSED))
    before = control.world.jobs[control.job(job_id).id]
    assert before.state is JobState.QUEUED
    control.read_queue()
    assert control.world.jobs[before.id] is before
    control.check()


def test_the_queues_limit_counts_what_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five in the store and none in memory are five."""
    control = ControlUnderTest()
    waiting(control, 5)
    monkeypatch.setattr(submit, "LIVE_JOBS_MAX", 6)
    control.submit("sixth")
    (answer,) = control.submit_all(a_submission("seventh"))
    assert answer.problem is not None
    assert answer.problem.code is Code.OVERLOADED


async def test_a_desk_takes_jobs_before_it_has_read_its_queue() -> None:
    """A submit is answered after `start`; who wants to see everything waits for `rebuild`, and then all is planned."""
    store = MemoryStore()
    before = ControlUnderTest(store)
    ids = [before.submit(f"r{n}") for n in range(3)]
    desk = Desk(Outside(store, SetClock(before.clock.at_ms), CountingIds(1_000), None, None))
    desk.start()
    try:
        (again, new) = await desk.submit(WHO, [a_submission("r1"), a_submission("new")])
        assert again.job_id == ids[1]
        whole = asyncio.ensure_future(desk.whole())
        assert not whole.done()
        await asyncio.to_thread(desk.rebuild)
        await whole
        assert set(desk.world.jobs) == {*ids, new.job_id}
        job = next(iter(desk.world.jobs.values()))
        assert (await asyncio.to_thread(desk.explained, job)).reasons
    finally:
        await asyncio.to_thread(desk.stop)


async def test_a_queue_that_cannot_be_read_ends_the_start() -> None:
    """With the store's word, to whoever waits as well."""

    class UnreadableStore(MemoryStore):
        def list_jobs(self, *_: Any) -> Page:
            raise faults.unavailable("its disk is gone", "Look after it.", "memory:")

    store = UnreadableStore()
    desk = Desk(Outside(store, SetClock(), CountingIds(), None, None))
    desk.start()
    try:
        with pytest.raises(FederationError):
            await asyncio.to_thread(desk.rebuild)
        with pytest.raises(FederationError):
            await desk.whole()
    finally:
        await asyncio.to_thread(desk.stop)


def test_the_door_opens_without_the_planner() -> None:
    """What answers the first calls loads neither numba nor the planner: they take as long as all the rest."""
    code = "import federation.app.serving, sys; print(sorted({'numba', 'scipy', 'federation.scheduling'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
