"""Links between hubs, and jobs that go to their data or have it come to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.apparatus.links import Links, links, measured
from benchmarks.apparatus.philly import Setting, workload
from benchmarks.locality import (
    HOME,
    OURS,
    RANDOM,
    RULE,
    RULE_BY_MACHINE,
    Course,
    Pooled,
    World,
    courses,
    figures,
    planned,
    replayed,
    world_of,
)

SMALL = Setting(hubs=4, machines=8, jobs=60, load=0.8)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A small federation of generated machines, jobs and data."""
    return world_of(workload(tmp_path, SMALL), seed=1)


def test_what_lies_there_need_not_move() -> None:
    """A transfer to the hub itself takes nothing; to every other it takes time, and twice as much twice as long."""
    true = links(20, 1)
    once, twice = true.transfer_ms(10**9, 3), true.transfer_ms(2 * 10**9, 3)
    assert once[3] == 0.0
    assert all(once[at] > 0 for at in range(20) if at != 3)
    assert np.allclose(twice, 2 * once, rtol=1e-3)


def test_links_are_those_of_campuses() -> None:
    """Between a megabit and a gigabit a second, and the same for a seed."""
    true = links(200, 1)
    mbit = true.bytes_per_s[~np.eye(200, dtype=bool)] * 8 / 1e6
    assert 1 < mbit.min() < 20 < np.median(mbit) < 200
    assert mbit.max() <= 1_000
    assert np.array_equal(true.bytes_per_s, links(200, 1).bytes_per_s)


def test_what_is_measured_is_near_the_truth() -> None:
    """Within a factor of two nearly always, and without bias."""
    true = links(50, 1)
    off = measured(true, 1).bytes_per_s / np.where(np.isinf(true.bytes_per_s), np.nan, true.bytes_per_s)
    logs = np.log2(off[~np.isnan(off) & ~np.isinf(off)])
    assert abs(logs.mean()) < 0.05
    assert (np.abs(logs) < 1).mean() > 0.98


def test_every_job_fits_where_its_data_lies(world: World) -> None:
    """So that home only can run it, and data is announced where it lies."""
    assert len(world.jobs) > 40
    assert all(world.possible[at, of.home] for at, of in enumerate(world.jobs))
    for of in world.jobs:
        ((name, _),) = of.job.row.inputs
        assert name in {entry.name for entry in world.agents[of.home].datasets}


def test_home_only_moves_nothing(world: World) -> None:
    """A job bound to the hub of its data waits for room there."""
    at_home = replayed(world, Pooled(world), np.asarray([of.home for of in world.jobs]))
    assert at_home.moved_bytes.sum() == 0.0
    assert (at_home.wait_ms >= 0).all()


def test_our_planner_runs_every_job(world: World) -> None:
    """Each is started once; what it moves is the whole dataset or nothing."""
    ours = planned(world)
    sizes = np.asarray([of.size_bytes for of in world.jobs], np.float64)
    assert (ours.wait_ms >= 0).all()
    assert ((ours.moved_bytes == 0) | (ours.moved_bytes == sizes)).all()


def test_a_job_moves_once_it_has_waited_as_long_as_the_transfer_takes(world: World) -> None:
    """The rule starts whatever finds room at home at once, and moves only what waited."""
    found = courses(world, seed=1)
    moved = found[RULE].moved_bytes > 0
    assert not (moved & (found[RULE].wait_ms == 0)).any()
    assert found[RULE].moved_tb <= found[RANDOM].moved_tb
    assert set(found) == {RANDOM, HOME, RULE, RULE_BY_MACHINE, OURS}
    ours = found[OURS]
    assert 0 < ours.moved_tb < found[RANDOM].moved_tb


def test_a_slow_link_is_not_used() -> None:
    """Where the transfer takes longer than any wait, nothing moves."""
    slow = Links(np.asarray([[np.inf, 1.0], [1.0, np.inf]]))
    assert slow.transfer_ms(10**9, 0).tolist() == [0.0, 1e12]


def test_the_figures_name_the_best_of_the_others() -> None:
    """The wait that counts is the least of any."""
    course = {name: Course(np.asarray([wait]), np.asarray([1e12])) for name, wait in
              ((RANDOM, 9e3), (HOME, 7e3), (RULE, 1e3), (RULE_BY_MACHINE, 2e3), (OURS, 8e3))}  # fmt: skip
    rows = figures(course, SMALL, "t", 1.0)
    assert [row.baseline.name for row in rows if row.config.get("best")] == [RULE]
