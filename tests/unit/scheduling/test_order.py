"""Whose turn it is: class, then fairness at three levels, then first come."""

from __future__ import annotations

import pytest

from federation.errors import FederationError
from federation.scheduling import Delta, PlannerState, Policy, plan_round
from federation.scheduling.rows import QueuedJob, UsageRow
from tests.unit.scheduling.builders import agent, cpus, job, lease, planned, where


def many(count: int, name: str, *shape: float, **changes: object) -> tuple[QueuedJob, ...]:
    """`count` equal jobs, in arrival order."""
    return tuple(job(f"{name}-{at}", cpus(*shape), seq=at, **changes) for at in range(count))  # type: ignore[arg-type]


def started(plan_jobs: dict[str, str]) -> dict[str, int]:
    """How many of each name started."""
    counts: dict[str, int] = {}
    for job_id in plan_jobs:
        name = job_id.rpartition("-")[0]
        counts[name] = counts.get(name, 0) + 1
    return counts


@pytest.mark.parametrize("level", ["home", "project", "user"])
def test_the_example_of_the_paper(level: str) -> None:
    """9 CPU and 18 GB; A's tasks need <1, 4>, B's <3, 1>: three of A and two of B run, at each level of the hierarchy."""
    jobs = many(9, "a", 1, 4, **{level: "a"}) + many(9, "b", 3, 1, **{level: "b"})
    assert started(where(planned(agent("cairo", cpus(9, 18)), jobs=jobs))) == {"a": 3, "b": 2}


def test_twice_the_weight_gives_twice_the_share() -> None:
    """Of 9 cpus a hub of weight 2 gets 6."""
    jobs = many(9, "a", 1, home="a") + many(9, "b", 1, home="b")
    plan = planned(agent("cairo", cpus(9)), jobs=jobs, hub_weights={"a": 2.0})
    assert started(where(plan)) == {"a": 6, "b": 3}


def test_a_hub_with_many_users_gets_no_more_than_one_with_one() -> None:
    """Hubs come first: three users of a share what the one user of b gets alone."""
    jobs = tuple(one for at in range(3) for one in many(6, f"a{at}", 1, home="a", user=f"u{at}"))
    plan = planned(agent("cairo", cpus(6)), jobs=jobs + many(6, "b", 1, home="b"))
    assert started(where(plan)) == {"a0": 1, "a1": 1, "a2": 1, "b": 3}


def test_what_runs_counts() -> None:
    """Who holds room already waits until the others hold as much."""
    held = lease("old", cpus(2), "cairo", "n0", home_hub="a")
    jobs = many(9, "a", 1, home="a") + many(9, "b", 1, home="b")
    plan = planned(agent("cairo", cpus(6)), jobs=jobs, leases=(held,))
    assert started(where(plan)) == {"a": 1, "b": 3}


def test_equal_shares_go_to_who_used_less() -> None:
    """Nothing runs; a used the machines yesterday, so b goes first although a sorts first."""
    used = UsageRow("a", "default", "ada", (("cpu", 10**9),))
    delta = Delta(
        agents=(agent("cairo", cpus(1)),),
        queued=many(1, "a", 1, home="a") + many(1, "b", 1, home="b"),
        usage=(used,),
    )
    _, plan = plan_round(PlannerState(), delta, Policy(), now_ms=0)
    assert started(where(plan)) == {"b": 1}


def test_a_higher_class_goes_first_whoever_holds_more() -> None:
    """A class lab of a hub that holds much comes before batch work of one that holds nothing."""
    held = lease("old", cpus(2), "cairo", "n0", home_hub="a")
    jobs = (job("batch", cpus(1), "b", seq=0, priority=3), job("lab", cpus(1), "a", seq=9, priority=1))
    assert where(planned(agent("cairo", cpus(3)), jobs=jobs, leases=(held,))) == {"lab": "cairo"}


def test_within_a_user_first_come() -> None:
    """Arrival order decides, not the id."""
    jobs = (job("a", cpus(1), seq=2), job("z", cpus(1), seq=1))
    assert where(planned(agent("cairo", cpus(1)), jobs=jobs)) == {"z": "cairo"}


def test_a_head_that_does_not_fit_now_holds_up_nobody() -> None:
    """The same user's smaller, later job passes it."""
    jobs = (job("wide", cpus(3), seq=1), job("narrow", cpus(1), seq=2))
    held = lease("old", cpus(2), "cairo", "n0")
    assert where(planned(agent("cairo", cpus(4)), jobs=jobs, leases=(held,))) == {"narrow": "cairo"}


def test_a_round_decides_on_no_more_than_its_limit() -> None:
    """At the limit the rest waits, and is told that it is others' turn; the next round goes on."""
    agents, jobs = (agent("cairo", cpus(9)),), many(3, "a", 1)
    plan = planned(*agents, jobs=jobs, placements_max=2)
    assert list(where(plan)) == ["a-0", "a-1"]
    assert [(entry.jobs, entry.overall) for entry in plan.waiting] == [(1, "FAIRNESS_TURN")]


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf"), 2e6])
def test_weights_out_of_range_are_refused(weight: float) -> None:
    """A weight is a number above zero."""
    with pytest.raises(FederationError, match="hub_weights of cairo"):
        Policy(hub_weights={"cairo": weight})


@pytest.mark.parametrize("most", [0, 10_001])
def test_a_rounds_size_has_a_limit(most: int) -> None:
    """One past the largest, and one below the smallest, are refused."""
    with pytest.raises(FederationError, match="placements_max"):
        Policy(placements_max=most)
