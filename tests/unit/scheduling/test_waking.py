"""When a plan asks for another round although nothing happens: `Plan.wake_ms`."""

from __future__ import annotations

from federation.scheduling import Delta, PlannerState, Policy, plan_round
from tests.unit.scheduling.builders import agent, cpus, job, lease, world

HELD = lease("old", cpus(2), "cairo", "n0", expires_ms=600)
WIDE = job("wide", cpus(4), seq=1, runtime_limit_ms=600)
NEXT = job("next", cpus(4), seq=2, runtime_limit_ms=600)


def test_a_plan_asks_for_a_round_at_the_first_promised_start() -> None:
    """Two starts are promised, at 600 and 1,200 ms: the first is the next instant, then the second."""
    state, plan = world(agent("cairo", cpus(4)), jobs=(WIDE, NEXT), leases=(HELD,))
    assert plan.wake_ms == 600
    _, plan = plan_round(state, Delta(), Policy(promise_after_ms=0), 600)
    assert plan.wake_ms == 1200


def test_a_promise_that_was_put_off_is_asked_for_once() -> None:
    """A run that is late moves a promise on by a millisecond in every round: that is no reason for a round in each."""
    state, _ = world(agent("cairo", cpus(4)), jobs=(WIDE,), leases=(HELD,))
    for now_ms in (600, 601, 10_000):
        state, plan = plan_round(state, Delta(), Policy(promise_after_ms=0), now_ms)
        assert plan.placements == ()
        assert plan.wake_ms is None


def test_where_nothing_is_promised_nothing_but_an_event_asks_for_a_round() -> None:
    """Nobody waits; somebody waits and is promised nothing; who was promised a start has gone."""
    assert world(agent("cairo", cpus(4)), leases=(HELD,))[1].wake_ms is None
    assert world(agent("cairo", cpus(4)), jobs=(WIDE,), leases=(HELD,), reservations=0)[1].wake_ms is None
    state, plan = world(agent("cairo", cpus(4)), jobs=(WIDE,), leases=(HELD,))
    assert plan.wake_ms == 600
    _, plan = plan_round(state, Delta(dequeued=("wide",)), Policy(), 1)
    assert plan.wake_ms is None
    assert plan_round(PlannerState(), Delta(), Policy(), 1)[1].wake_ms is None
