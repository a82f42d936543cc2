"""Quotas in the service: however rounds, commits, claims and restarts follow each other, nobody holds more than they may."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from federation.domain.job import Owner, Priority
from federation.domain.quantities import CPU, amount_of
from federation.lifecycle.job import Trigger
from federation.scheduling.policy import Policy
from federation.service.jobs import cancel, find
from federation.service.rounds import Rounds
from federation.service.world import Unit
from federation.service.writer import Writer
from tests.support.builders import a_node, an_agent, some_resources
from tests.support.eventually import eventually
from tests.support.world import ControlUnderTest

AISHA_MAX = 3_000
POLICY = Policy(quotas={("kuala-lumpur", "default", "aisha"): {CPU: AISHA_MAX}})


@pytest.fixture
def control() -> Iterator[ControlUnderTest]:
    """A hub of sixteen cpus; aisha may hold three at once."""
    under_test = ControlUnderTest(policy=POLICY)
    under_test.join(an_agent(nodes=(a_node(cpus=16, memory_gib=64),)))
    yield under_test
    under_test.check()


def held(control: ControlUnderTest) -> int:
    """Millicores that aisha holds."""
    leases = control.world.leases.values()
    mine = [lease for lease in leases if control.world.jobs[lease.job_id].owner.subject == "aisha"]
    return sum(amount_of(lease.per_task, CPU) * len(lease.nodes) for lease in mine)


def asked(control: ControlUnderTest, name: str, cpus: float = 1, **changes: Any) -> str:
    """A job of aisha's."""
    return control.submit(name, per_task=some_resources(cpus), **changes)


def test_a_round_goes_up_to_a_quota_and_goes_on_when_something_ends(control: ControlUnderTest) -> None:
    """Three of five start; nobody else is held up; when one has ended the next does."""
    jobs = [asked(control, f"r{at}") for at in range(5)]
    other = control.submit("other", Owner("kuala-lumpur", "default", "local", "bo"), name="another")
    assert [control.round(), held(control)] == [4, AISHA_MAX]
    assert control.world.lease_for(control.job(other).id) is not None
    assert [one.code for one in control.rounds.explain(control.job(jobs[4])).reasons] == ["QUOTA", "QUOTA"]
    control.sync(control.report(jobs[0], Trigger.RUN_STARTED))
    control.sync(control.report(jobs[0], Trigger.RUN_SUCCEEDED))
    assert [control.round(), held(control), control.round()] == [1, AISHA_MAX, 0]


def test_what_was_started_before_a_restart_counts(control: ControlUnderTest) -> None:
    """A quota is of what is held, not of what this process has started."""
    for at in range(5):
        asked(control, f"r{at}")
    assert control.round() == 3
    control.boot()
    control.join(an_agent(nodes=(a_node(cpus=16, memory_gib=64),)))
    assert [control.round(), held(control)] == [0, AISHA_MAX]


def test_a_better_job_that_comes_between_two_rounds_does_not_pass_it(control: ControlUnderTest) -> None:
    """The second round would rather start that one: it knows what the commit of the first has begun."""
    asked(control, "r1", 3)
    assert control.round() == 1
    better = asked(control, "r2", 3, priority=Priority.INTERACTIVE)
    assert [control.round(), held(control), control.job(better).attempts] == [0, AISHA_MAX, 0]


def test_a_cancelled_start_makes_room_only_when_its_lease_has_ended(control: ControlUnderTest) -> None:
    """What is told to end still holds."""
    first = asked(control, "r1", 3)
    control.round()
    asked(control, "r2", 3)
    control.sync(control.report(first, Trigger.RUN_STARTED))
    control.run(lambda unit: cancelled(control, first, unit))
    assert [control.round(), held(control)] == [0, AISHA_MAX]
    control.sync(control.report(first, Trigger.RUN_STOPPED))
    assert [control.round(), held(control)] == [1, AISHA_MAX]


def cancelled(control: ControlUnderTest, job_id: str, unit: Unit) -> None:
    """A person ends it."""
    cancel(unit, find(unit, control.store, job_id), "", "test")


def test_rounds_that_follow_each_other_on_their_own_thread_pass_nothing() -> None:
    """Jobs come one by one while rounds run as in life: what a commit began is in the next round's delta."""
    control = ControlUnderTest(policy=POLICY)
    control.join(an_agent(nodes=(a_node(cpus=64, memory_gib=256),)))
    writer = Writer(control.store, control.world, control.clock, control.switchboard)
    rounds = Rounds(writer, control.clock, control.ids, POLICY)
    most: list[int] = []
    writer.after_commit(lambda _: most.append(held(control)))
    rounds.take_in(control.world)
    rounds.start()
    writer.start()
    try:
        control.writer = writer  # type: ignore[assignment]
        for at in range(40):
            asked(control, f"r{at}", priority=Priority.INTERACTIVE if at % 3 else Priority.BATCH)
        last = control.submit("last", Owner("kuala-lumpur", "default", "local", "bo"), name="last")
        eventually(lambda: writer.run(partial(has_lease, last)), 30)
    finally:
        rounds.stop()
        writer.stop()
    assert max(most) == AISHA_MAX


def has_lease(job_id: str, unit: Unit) -> bool:
    """Whether it holds room."""
    return any(lease.job_id == job_id for lease in unit.world.leases.values())
