"""Attacks on the rounds: noes without end, claims in vain, use that comes late, twice or from the future."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from federation.domain.hub import HUB_AMOUNT_MAX, Agent, Node
from federation.domain.job import JobState, Reason
from federation.domain.quantities import resources
from federation.errors import Code, FederationError
from federation.lifecycle.job import Trigger
from federation.scheduling.plan import Placement
from federation.service import hubs
from federation.service.jobs import cancel, find
from federation.service.world import Unit
from tests.support.builders import a_node, an_agent, some_resources
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


def huge(hub: str, agent_id: str = "main", **changes: Any) -> Agent:
    """An agent with two machines, each of which offers as much as a hub may."""
    most = resources(("cpu", "", 4_000), ("memory", "", HUB_AMOUNT_MAX))
    nodes = tuple(Node(name, most, most) for name in ("n1", "n2"))
    return an_agent(hub, agent_id, session_id=f"session-{hub}-{agent_id}", **({"nodes": nodes} | changes))


def test_a_hub_that_offers_too_much_is_left_out_and_nobody_else(control: ControlUnderTest) -> None:
    """Before, between and after it others join and work; it gets none, until what it offers makes sense."""
    greedy = huge("shenzhen")
    control.join(greedy)
    control.join(an_agent("tunis", session_id="session-tunis", nodes=(a_node("n1"),)))
    jobs = [control.submit(f"r{at}", per_task=some_resources(cpus=4)) for at in range(3)]
    assert control.round() == 2
    assert {control.lease_of(job_id).hub_id for job_id in jobs[:2]} == {"cairo", "tunis"}
    control.join(replace(greedy, nodes=greedy.nodes[:1]))
    assert control.round() == 1
    assert control.lease_of(jobs[2]).hub_id == "shenzhen"


def test_what_a_hub_offered_before_does_not_stand(control: ControlUnderTest) -> None:
    """Its machines are others now, and too much: nobody's job is sent to those of before, again and again."""
    before = huge("shenzhen", nodes=(a_node("old"),))
    control.join(before)
    assert control.round() == 0
    jobs = [control.submit(f"r{at}", per_task=some_resources(cpus=4)) for at in range(2)]
    control.join(replace(before, nodes=huge("shenzhen").nodes))
    assert [control.round() for _ in range(3)] == [1, 0, 0]
    assert (control.lease_of(jobs[0]).hub_id, control.rounds.figures.rejections) == ("cairo", 0)


def test_a_hundred_greedy_agents_cost_one_look_more(
    control: ControlUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    """However many rows are refused, the delta is looked at twice."""
    for at in range(100):
        control.join(huge("shenzhen", f"agent-{at}"))
    job_id = control.submit()
    assert control.round() == 1
    assert control.lease_of(job_id).hub_id == "cairo"
    assert [record.message.split(":")[0] for record in caplog.records] == ["100 of agents left out of planning"]


def test_there_are_so_many_hubs_and_no_more(control: ControlUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may offer its part of what fits: one past the limit is told so, and those that are there come and go."""
    monkeypatch.setattr(hubs, "HUBS_MAX", 2)
    control.join(an_agent("tunis", session_id="session-tunis"))
    with pytest.raises(FederationError, match="one too many") as caught:
        control.join(an_agent("shenzhen", session_id="session-shenzhen"))
    assert (caught.value.code, sorted(control.world.hubs)) == (Code.LIMIT_EXCEEDED, ["cairo", "tunis"])
    control.join(an_agent("tunis", session_id="session-again"))
