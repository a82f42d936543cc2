"""The crowd that `passes` measures: full, of the length asked for, in motion, and the same for the same seed."""

from __future__ import annotations

import pytest

from benchmarks.passes import CHURN, LARGE, STEP_MS, Crowd, rounds_for
from federation.scheduling import Plan, Policy, plan_round


def in_motion(seed: int) -> tuple[Crowd, Plan]:
    """One round of a small one."""
    crowd = Crowd.of(nodes=40, hubs=4, seed=seed)
    crowd.fill(6_000)
    crowd.state, plan = plan_round(crowd.state, crowd.step(), Policy(), crowd.now_ms)
    crowd.start(plan)
    return crowd, plan


def test_a_crowd_waits_and_runs() -> None:
    """So many wait as were asked for, and those that came in the last step; what ended made room for others."""
    crowd, plan = in_motion(7)
    assert len(crowd.state.queue) == pytest.approx(6_000 + CHURN, abs=CHURN)
    assert crowd.running
    assert plan.placements
    assert plan.waiting


def test_a_crowd_is_its_seeds() -> None:
    """The same seed gives the same plan; time goes on by whole steps."""
    one, plan = in_motion(7)
    other, again = in_motion(7)
    assert plan == again
    assert one.now_ms == other.now_ms
    assert one.now_ms % STEP_MS == 0


def test_quick_measures_fewer_rounds() -> None:
    """Of a million even fewer."""
    assert rounds_for(LARGE, quick=True) < rounds_for(1_000, quick=True) < rounds_for(1_000, quick=False)


def test_a_crowd_is_brought_to_any_length() -> None:
    """Longer or shorter: exactly so many wait then."""
    crowd, _ = in_motion(7)
    for length in (6_500, 40):
        crowd.wait(length)
        assert len(crowd.state.queue) == length
