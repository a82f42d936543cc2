"""The oracle that fairness is held against, on cases that can be worked out by hand."""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path

import pytest

from benchmarks.apparatus.oracle import Sharer, Want, fill, share_of
from benchmarks.apparatus.philly import Setting, workload
from benchmarks.fairness import figures, look


def user(name: str, *wants: tuple[tuple[int, ...], int], weight: int = 1) -> Sharer:
    """Somebody who wants so many tasks of these needs, in this order."""
    return Sharer(name, weight, wants=[Want(need, tasks) for need, tasks in wants])


def hub(name: str, *users: Sharer, weight: int = 1) -> Sharer:
    """A hub of one project."""
    return Sharer(name, weight, [Sharer("p", children=list(users))])


def test_the_papers_example() -> None:
    """9 CPU and 18 GB, A <1, 4>, B <3, 1>: 3 and 2 tasks, and 4 GB left."""
    a, b = user("a", ((1, 4), 99)), user("b", ((3, 1), 99))
    assert fill([a, b], [9, 18]) == [0, 4]
    assert (a.held, b.held) == ([3, 12], [6, 2])


def test_hubs_come_before_users() -> None:
    """Three users of one hub share what the one user of the other gets alone."""
    many, one = hub("a", *(user(f"u{at}", ((1,), 99)) for at in range(3))), hub("b", user("u", ((1,), 99)))
    fill([many, one], [12])
    assert [of.held for of in many.children[0].children] == [[2], [2], [2]]
    assert one.held == [6]


def test_weights_and_small_demands() -> None:
    """Who wants little gets it all; the others share the rest by weight."""
    sharers = [user("a", ((1,), 2)), user("b", ((1,), 99), weight=3), user("c", ((1,), 99))]
    fill(sharers, [14])
    assert [of.held for of in sharers] == [[2], [9], [3]]


def test_past_use_is_a_head_start_that_takes_no_room() -> None:
    """Who held 4 of late waits until the others hold 4; then both rise."""
    a, b = user("a", ((1,), 99)), user("b", ((1,), 99))
    a.used = (4,)
    fill([a, b], [10])
    assert (a.held, b.held) == ([3], [7])


def test_owners_come_first_on_their_own_machines() -> None:
    """Both want everything: each keeps its own; where one wants less, the rest of its machines is shared."""
    own = {"a": [8], "b": [2], "c": [5]}
    busy = [hub("a", user("u", ((1,), 99))), hub("b", user("u", ((1,), 99)))]
    assert fill(busy, [15], own) == [0]
    assert [of.held for of in busy] == [[8], [7]]
    idle = [hub("a", user("u", ((1,), 1))), hub("b", user("u", ((1,), 99)))]
    fill(idle, [15], own)
    assert [of.held for of in idle] == [[1], [14]]


def test_who_needs_nothing_that_is_full_goes_on() -> None:
    """When the GPUs are gone, the work without GPUs takes the rest of the processors, also a user's own later work."""
    a, b = user("a", ((1, 1), 99), ((1, 0), 99)), user("b", ((1, 1), 99))
    assert fill([a, b], [10, 4]) == [0, 0]
    assert (a.held, b.held) == ([8, 2], [2, 2])


def test_what_costs_no_share_comes_first() -> None:
    """Somebody ruled by GPUs gets processors for nothing until they rule the share."""
    a, b = user("a", ((0, 1), 2), ((1, 0), 99)), user("b", ((1, 1), 99))
    fill([a, b], [100, 8])
    assert a.held[1] == 2
    assert share_of(a, [100, 8]) >= share_of(b, [100, 8])


def a_federation(seed: int) -> list[Sharer]:
    """Ten hubs of a few projects and users, each with a few jobs."""
    dice = random.Random(seed)

    def some_user(at: int) -> Sharer:
        jobs = [
            ((dice.randint(1, 9_000), dice.randint(1, 2**34), 1_000 * dice.choice((0, 0, 1, 4))), dice.randint(1, 20))
            for _ in range(dice.randint(0, 6))
        ]
        return user(f"u{at}", *jobs, weight=dice.choice((1, 2)))

    return [
        Sharer(
            f"h{at}", dice.choice((1, 2)),
            [Sharer(f"p{p}", children=[some_user(u) for u in range(dice.randint(1, 3))]) for p in range(2)],
        )
        for at in range(10)
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
def test_floats_tell_what_fractions_tell(seed: int) -> None:
    """The quick way agrees to a billionth; nothing is made up, and levels add up to their children."""
    own = {f"h{at}": [60_000, 50 << 30, 8_000] for at in range(10)}
    offered = [sum(of[at] for of in own.values()) for at in range(3)]
    exactly, quickly = a_federation(seed), a_federation(seed)
    left = fill(exactly, offered, own)
    fill(quickly, offered, own, exact=False)
    for one, other in zip(exactly, quickly, strict=True):
        assert share_of(other, offered) == pytest.approx(float(share_of(one, offered)), abs=1e-9)
        assert one.held == [sum((of.held[at] for of in one.children), Fraction(0)) for at in range(3)]
    assert [sum((of.held[at] for of in exactly), Fraction(0)) + left[at] for at in range(3)] == offered


def test_a_moment_compares_every_hub_that_asks(tmp_path: Path) -> None:
    """Of a federation that is asked for too much, all distances are there, in gangs, and nobody gets what is not there."""
    work = workload(tmp_path, Setting(hubs=4, machines=12, jobs=300, load=6.0))
    moment = look(work, work.jobs[-1].row.submitted_ms // 2)
    assert moment is not None
    hubs = {job.row.home_hub for job in work.jobs}
    assert moment.ours.keys() == moment.fcfs.keys() == moment.alone.keys() == moment.part.keys() <= hubs
    assert 50 < sum(ours for _, ours, _ in moment.shares) <= 300
    assert {row.config.get("room") for row in figures([moment], {}, 1.0)} == {"given out", "all machines", None}


def test_where_everything_fits_there_is_nothing_to_be_fair_about(tmp_path: Path) -> None:
    """A moment at which nobody had to be chosen is none."""
    work = workload(tmp_path, Setting(hubs=4, machines=12, jobs=10, load=0.1))
    assert look(work, work.jobs[0].row.submitted_ms) is None
    assert figures([], {}, 1.0) == []
