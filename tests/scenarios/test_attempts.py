"""What a job's events tell of its attempts: when each wait began, and which run ended it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from federation.domain.ids import AgentId, AgentKey, HubId
from federation.domain.job import Epoch, Reason
from federation.domain.lease import PREEMPTED
from federation.lifecycle.job import Trigger
from federation.scheduling.plan import Placement, Preemption
from federation.service.attempts import Attempt, attempts_of, read_attempts
from federation.service.jobs import cancel, find, retry
from tests.support.builders import NOON_MS, a_node, an_agent, some_resources
from tests.support.world import ControlUnderTest

CAIRO: AgentKey = (HubId("cairo"), AgentId("main"))
SECOND = 1_000


@pytest.fixture
def control() -> Iterator[ControlUnderTest]:
    """A control plane with one hub of one machine; when the test ends, every promise must hold."""
    under_test = ControlUnderTest()
    under_test.join(replace(an_agent(), nodes=(a_node(cpus=4),)))
    yield under_test
    under_test.check()


def at(control: ControlUnderTest, second: int) -> int:
    """Go on to so many seconds after noon, where the hub says that it is still there."""
    control.pass_time(NOON_MS + second * SECOND - control.clock.at_ms)
    control.sync()
    return control.clock.at_ms


def lease(control: ControlUnderTest, job_id: str) -> None:
    """A plan starts it at Cairo."""
    assert control.commit(Placement(job_id, CAIRO, ("n1",))).placements == 1


def told(control: ControlUnderTest, job_id: str) -> list[tuple[str, int, int, int, str]]:
    """(attempt, queued, started, ended, who asked), in seconds after noon; 0 where that has not been."""

    def second(moment_ms: int) -> int:
        return (moment_ms - NOON_MS) // SECOND if moment_ms else 0

    made = read_attempts(control.store, control.job(job_id))
    who = {True: "person", False: "federation"}
    return [
        (one.attempt, second(one.queued_ms), second(one.started_ms), second(one.ended_ms), who[one.asked])
        for one in made
    ]


def preempt(control: ControlUnderTest, guest: str) -> None:
    """Its hub ends it for a job that comes now."""
    owner = control.submit(f"owner-{control.clock.at_ms}", per_task=some_resources(cpus=4))
    control.commit(Preemption(owner, CAIRO, nodes=("n1",), victims=(control.lease_of(guest).id,), lost_ms=1))
    control.sync(control.report(guest, Trigger.RUN_STOPPED, reason=Reason(PREEMPTED, "room", "cairo"), exit_code=143))
    control.run(lambda unit: cancel(unit, find(unit, control.store, owner), "", "test"))


def test_each_wait_ends_with_the_start_that_followed(control: ControlUnderTest) -> None:
    """Refused once, started, preempted, started again: two waits and two runs; the refused lease is part of the first wait."""
    at(control, 0)
    job_id = control.submit("r", preemptible=True, per_task=some_resources(cpus=4))
    at(control, 2)
    lease(control, job_id)
    control.sync(control.report(job_id, Trigger.RUN_REFUSED, reason=Reason("SHARE_POLICY", "no", "cairo")))
    assert told(control, job_id) == [("", 0, 0, 0, "person")]
    at(control, 5)
    lease(control, job_id)
    control.sync(control.report(job_id, Trigger.RUN_STAGING))
    started_ms = at(control, 7)
    at(control, 9)  # when it is heard of
    control.sync(control.report(job_id, Trigger.RUN_STARTED, started_ms=started_ms))
    assert told(control, job_id) == [("1-2", 0, 7, 0, "person")]
    at(control, 20)
    preempt(control, job_id)
    assert told(control, job_id) == [("1-2", 0, 7, 20, "person"), ("", 20, 0, 0, "federation")]
    at(control, 30)
    lease(control, job_id)
    started_ms = at(control, 31)
    ended_ms = at(control, 40)
    # nothing was heard between its start and its end
    control.sync(control.report(job_id, Trigger.RUN_SUCCEEDED, started_ms=started_ms, ended_ms=ended_ms))
    assert told(control, job_id) == [("1-2", 0, 7, 20, "person"), ("1-3", 20, 31, 40, "federation")]


def test_a_retry_waits_from_when_it_was_asked_for(control: ControlUnderTest) -> None:
    """Not since the first submission; one that is cancelled before it starts is a wait without a run."""
    at(control, 0)
    job_id = control.submit("r")
    lease(control, job_id)
    control.sync(control.report(job_id, Trigger.RUN_STARTED, started_ms=at(control, 1)))
    control.sync(control.report(job_id, Trigger.RUN_FAILED, exit_code=1, ended_ms=at(control, 4)))
    at(control, 60)
    control.run(lambda unit: retry(unit, find(unit, control.store, job_id), "test"))
    at(control, 61)
    control.run(lambda unit: cancel(unit, find(unit, control.store, job_id), "", "test"))
    at(control, 90)
    control.run(lambda unit: retry(unit, find(unit, control.store, job_id), "test"))
    first = ("1-1", 0, 1, 4, "person")
    assert told(control, job_id) == [first, ("", 60, 0, 61, "person"), ("", 90, 0, 0, "person")]
    lease(control, job_id)
    control.sync(control.report(job_id, Trigger.RUN_STARTED, started_ms=at(control, 95)))
    assert told(control, job_id)[2:] == [("1-2", 90, 95, 0, "person")]


def test_events_of_before_tell_as_much_as_they_can(control: ControlUnderTest) -> None:
    """Events that do not say when a run began: when that was heard of stands in; the last is in the job itself."""
    at(control, 0)
    job_id = control.submit("r", preemptible=True, per_task=some_resources(cpus=4))
    for queued_s in (0, 20):
        lease(control, job_id)
        started_ms = at(control, queued_s + 5)
        at(control, queued_s + 8)
        control.sync(control.report(job_id, Trigger.RUN_STARTED, started_ms=started_ms))
        if not queued_s:
            at(control, 20)
            preempt(control, job_id)
    old = []
    for event in control.store.events_of("job", job_id, 100):
        payload = {key: value for key, value in json.loads(event.payload).items() if not key.endswith("_ms")}
        old.append(replace(event, payload=json.dumps(payload)))
    found = attempts_of(control.job(job_id), old)
    assert [(one.started_ms - NOON_MS) // SECOND for one in found] == [8, 25]


def test_a_job_without_events_is_one_attempt(control: ControlUnderTest) -> None:
    """Its row says what it can."""
    job = replace(control.job(control.submit("r")), started_ms=NOON_MS + 3, hub_id=HubId("cairo"), epoch=Epoch(1, 2))
    waits = attempts_of(job, ())
    assert [one.started_ms for one in waits] == [0], "it waits"
    running = replace(job, state=type(job.state).RUNNING)
    assert attempts_of(running, ()) == (Attempt(True, job.created_ms, NOON_MS + 3, 0, "1-2", "cairo"),)
