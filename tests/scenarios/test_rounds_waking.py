"""The service holds a round at the instant for which a plan asked, although nothing happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from federation.app.outside import SystemClock
from federation.domain.job import JobState, OnPartition
from federation.lifecycle.job import Trigger
from federation.ports import Clock
from federation.scheduling import Policy
from federation.service.rounds import Rounds
from federation.service.writer import Writer
from tests.support.builders import a_node, an_agent, some_resources
from tests.support.eventually import eventually
from tests.support.world import ControlUnderTest

ALL = some_resources(cpus=4)
LIMIT_MS = 600_000


@contextmanager
def live(control: ControlUnderTest, clock: Clock) -> Iterator[Rounds]:
    """The writer and the rounds of `control` on their own threads, and a hub of four cpus."""
    writer = Writer(control.store, control.world, clock, control.switchboard)
    rounds = Rounds(writer, clock, control.ids, Policy(promise_after_ms=0))
    rounds.take_in(control.world)
    rounds.start()
    writer.start()
    control.writer = writer  # type: ignore[assignment]
    try:
        control.join(replace(an_agent(), nodes=(a_node(cpus=4),)))
        yield rounds
    finally:
        rounds.stop()
        writer.stop()


def one_runs_and_one_waits(control: ControlUnderTest, rounds: Rounds, limit_ms: int) -> None:
    """The second is promised the end of the first, which is its limit: a lease that is kept would last longer."""
    first, second = (
        control.submit(name, name=name, per_task=ALL, runtime_limit_ms=limit_ms, on_partition=OnPartition.STOP)
        for name in ("first", "second")
    )
    eventually(lambda: control.job(first).state is JobState.LEASED)
    eventually(lambda: rounds.explain(control.job(second)).earliest_start_ms > control.clock.now_ms())


def test_a_promised_start_brings_a_round() -> None:
    """Time passes, the expiry ticks, and nothing else happens: the rounds decide anew."""
    control = ControlUnderTest()
    with live(control, control.clock) as rounds:
        one_runs_and_one_waits(control, rounds, LIMIT_MS)
        before = rounds.figures.rounds
        control.clock.at_ms += LIMIT_MS
        control.run(rounds.ask_again)
        eventually(lambda: rounds.figures.rounds > before)


def test_the_loop_wakes_by_itself() -> None:
    """Without any tick: two seconds from now is soon enough to wait for."""
    control = ControlUnderTest()
    control.clock = SystemClock()  # type: ignore[assignment]
    with live(control, control.clock) as rounds:
        one_runs_and_one_waits(control, rounds, 2_000)
        before = rounds.figures.rounds
        eventually(lambda: rounds.figures.rounds > before)


def test_what_makes_no_room_wakes_nobody() -> None:
    """A job that waits brings a round; one that begins does not, nor one that ends where nobody waits: the tick does."""
    control = ControlUnderTest()
    wake = control.rounds._wake

    def woken() -> bool:
        was_set = wake.is_set()
        wake.clear()
        return was_set

    control.join(replace(an_agent(), nodes=(a_node(cpus=4),)))
    assert woken()
    first = control.submit("first", per_task=ALL)
    assert woken()
    control.round()
    assert control.job(first).state is JobState.LEASED
    control.sync(control.report(first, Trigger.RUN_STARTED))
    assert not woken()
    control.run(control.rounds.ask_again)
    assert woken()
    control.submit("second", per_task=ALL)
    control.round()
    woken()
    control.sync(control.report(first, Trigger.RUN_SUCCEEDED))
    assert woken()
    control.round()
    woken()
    second = next(iter(control.world.jobs))
    control.sync(control.report(second, Trigger.RUN_SUCCEEDED))
    assert not woken()
    assert control.rounds.due
