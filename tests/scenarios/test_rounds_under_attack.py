"""Attacks on the rounds: noes without end, claims in vain, use that comes late, twice or from the future."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from federation.domain.job import JobState, Reason
from federation.lifecycle.job import Trigger
from federation.scheduling.plan import Placement
from federation.service.jobs import cancel, find
from federation.service.world import Unit
from tests.support.builders import some_resources
from tests.support.world import ControlUnderTest


@pytest.fixture
def control() -> Iterator[ControlUnderTest]:
    """A control plane with one hub of four cpus; when the test ends, every promise must hold."""
    under_test = ControlUnderTest()
    under_test.join()
    yield under_test
    under_test.check()


def test_a_hub_that_refuses_is_not_asked_again_without_end(control: ControlUnderTest) -> None:
    """A no is remembered; one that passes is asked for again when its pause is over, not at every round."""
    job_id = control.submit()
    control.round()
    control.sync(control.report(job_id, Trigger.RUN_REFUSED, reason=Reason("ROOM_TAKEN", "full", "cairo")))
    assert [control.round() for _ in range(20)] == [0] * 20
    control.pass_time(6_000)
    assert [control.round() for _ in range(2)] == [1, 0]
    control.sync(control.report(job_id, Trigger.RUN_REFUSED, reason=Reason("NOT_HERE", "never", "cairo")))
    control.pass_time(3_600_000)
    control.sync()
    assert [control.round() for _ in range(20)] == [0] * 20
    assert control.job(job_id).attempts == 2


def test_a_plan_that_never_holds_wakes_nobody(control: ControlUnderTest) -> None:
    """What a commit rejects changes nothing, so that no round follows from it."""
    job_id = control.submit(per_task=some_resources(cpus=4))
    lost = Placement(job_id, next(iter(control.world.agents)), ("no-such-node",))
    control.rounds._gathered.take()
    before = control.world.last_seq
    assert [control.commit(lost).placements for _ in range(20)] == [0] * 20
    assert (control.world.last_seq, bool(control.rounds._gathered)) == (before, False)
    assert control.rounds.figures.rejections == 20


def test_a_job_that_is_over_leaves_no_memory_of_its_noes(control: ControlUnderTest) -> None:
    """Refused, then cancelled, a hundred times: the rounds remember none of them."""
    for at in range(100):
        job_id = control.submit(f"request-{at}", name=f"job-{at}")
        control.round()
        control.sync(control.report(job_id, Trigger.RUN_REFUSED, reason=Reason("NOT_HERE", "never", "cairo")))
        control.run(partial(cancelled, control, job_id))
        control.round()
        assert control.job(job_id).state is JobState.CANCELLED
    assert (control.rounds._refusals, control.rounds._claims, len(control.rounds._state.queue)) == ({}, set(), 0)


def cancelled(control: ControlUnderTest, job_id: str, unit: Unit) -> None:
    """A person ends it."""
    cancel(unit, find(unit, control.store, job_id), "", "test")


@pytest.mark.parametrize("code", ["PREEMPTED", "LEASE_RAN_OUT"])
def test_a_no_under_a_code_of_ours_is_a_no(control: ControlUnderTest, code: str) -> None:
    """Else it would not be remembered, and the job would be sent there without end."""
    job_id = control.submit()
    control.round()
    control.sync(control.report(job_id, Trigger.RUN_REFUSED, reason=Reason(code, "no", "cairo")))
    assert [control.round() for _ in range(5)] == [0] * 5
