"""The event loop's way to the writer: what travels together, what a caller may do meanwhile, and the limit."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from federation.errors import Code, FederationError
from federation.service import writer as writer_module
from federation.service.asking import LoopDoor
from federation.service.submit import SubmitJobs, request_keys
from federation.service.world import World
from federation.service.writer import Entry, SilentNotifier, Writer
from federation.store.memory import MemoryStore
from tests.support.world import ControlUnderTest, CountingIds, SetClock, a_submission


@pytest.fixture
def writer() -> Iterator[Writer]:
    """A writer on an empty store, not yet started."""
    store = MemoryStore()
    made = Writer(store, World.rebuilt(store.load(), 0), SetClock(), SilentNotifier())
    yield made
    if made._thread.is_alive():
        made.stop()


@pytest.fixture
async def door(writer: Writer) -> LoopDoor:
    """This loop's door."""
    return LoopDoor(writer, asyncio.get_running_loop())


@pytest.mark.asyncio
async def test_commands_of_one_turn_are_one_batch(writer: Writer, door: LoopDoor) -> None:
    """Ten callers that ask in one turn of the loop share one commit, and each gets its own answer."""
    asked = [door.ask(lambda unit, number=number: number) for number in range(10)]  # type: ignore[misc]
    writer.start()
    assert await asyncio.gather(*asked) == list(range(10))
    assert (writer.figures.commands, sum(writer.figures.batches.values())) == (10, 1)


@pytest.mark.asyncio
async def test_a_caller_who_leaves_stops_nobody(writer: Writer, door: LoopDoor) -> None:
    """A call that is cancelled while it waits is carried out all the same, and the writer goes on."""
    done: list[int] = []
    leaving = door.ask(lambda unit: done.append(unit.now_ms))
    leaving.cancel()
    writer.start()
    assert await door.ask(lambda unit: "next") == "next"
    assert len(done) == 1


def test_a_thread_that_leaves_stops_nobody(writer: Writer) -> None:
    """The same for a concurrent Future."""
    leaving = writer.call(lambda unit: "nobody hears this")
    assert leaving.cancel()
    writer.start()
    assert writer.run(lambda unit: "next") == "next"


@pytest.mark.asyncio
async def test_past_the_limit_everybody_is_told(
    writer: Writer, door: LoopDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn that does not fit into the queue is refused whole; what was accepted before is carried out."""
    monkeypatch.setattr(writer_module, "QUEUE_MAX", 3)
    fits = [door.ask(lambda unit: "done") for _ in range(3)]
    await asyncio.sleep(0)
    late = [door.ask(lambda unit: "done") for _ in range(2)]
    for future in late:
        with pytest.raises(FederationError) as caught:
            await future
        assert caught.value.code is Code.OVERLOADED
    writer.start()
    assert await asyncio.gather(*fits) == ["done"] * 3


def test_one_request_in_two_calls_of_a_batch_is_one_job() -> None:
    """Two calls with one request id that share a batch get one answer; a third with another body is refused."""
    control = ControlUnderTest()
    submit = SubmitJobs(control.store, CountingIds())
    members = [a_submission("r1"), a_submission("r1"), a_submission("r1", digest="0" * 64)]
    batch = [
        Entry(lambda unit, one=member: submit(unit, "p", [one]), Future(), request_keys=request_keys("p", [member]))  # type: ignore[misc]
        for member in members
    ]
    control.writer.process(batch)
    (first,), (second,), (third,) = (entry.asked.result() for entry in batch)
    assert first.job_id
    assert (first.job_id, first.problem) == (second.job_id, None)
    assert third.problem.code is Code.REQUEST_ID_REUSED
    assert len(control.world.jobs) == 1
    again = Entry(lambda unit: submit(unit, "p", members[:1]), Future(), request_keys=request_keys("p", members[:1]))
    control.writer.process([again])
    assert again.asked.result()[0].job_id == first.job_id


def test_a_large_submit_does_not_drag_others_into_its_batch(writer: Writer) -> None:
    """A batch is full by weight, not by commands: 600 jobs in two calls are two commits."""
    keys = [("p", f"r{number}") for number in range(300)]
    entries = [Entry(lambda unit: unit.now_ms, Future(), request_keys=keys) for _ in range(2)]
    writer.post(entries)
    writer.start()
    assert [entry.asked.result(30) for entry in entries]
    assert sum(writer.figures.batches.values()) == 2
