"""The throughput benchmark: its fleets are what they say, its loops keep the load, its check catches a wrong answer."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import growth, passes, throughput
from benchmarks.apparatus import decisions as de
from benchmarks.apparatus import fleets, live
from federation.scheduling.kernels import index as ix

SMALL = {"nodes": 120, "hubs": 6, "classes": 8, "seed": 5}


def a_case(*, homes: bool = False) -> throughput.Case:
    """A small fleet, filled."""
    return throughput.filled_case(argparse.Namespace(**SMALL, homes=homes), 400)


def test_a_fleet_has_the_nodes_hubs_and_models_it_was_asked_for() -> None:
    """Every node in one hub, no hub empty, models in the stated shares, and a seed gives the same again."""
    made, again = fleets.fleet(1_000, 20, 3), fleets.fleet(1_000, 20, 3)
    assert (made.agent_first[0], made.agent_first[-1], len(made.agent_first)) == (0, 1_000, 21)
    assert np.diff(made.agent_first).min() >= 1
    gpus = np.diff(made.nodes.device_first)
    assert {int(count): int((gpus == count).sum()) for count in (0, 1, 2, 4, 8)} == {
        0: 210,
        1: 20,
        2: 340,
        4: 20,
        8: 410,
    }
    assert np.array_equal(made.nodes.free, again.nodes.free)
    assert np.array_equal(made.nodes.device_kind, again.nodes.device_kind)


@pytest.mark.parametrize("hubs", [0, 11])
def test_hubs_without_machines_are_refused(hubs: int) -> None:
    """Ten nodes make one to ten hubs."""
    with pytest.raises(ValueError, match="cannot make"):
        fleets.fleet(10, hubs, 1)


def test_shapes_are_of_every_sort_and_their_weights_sum_to_one() -> None:
    """Without GPUs, on a share, on one, on several; a share is of one device."""
    made = fleets.demand(64, 1)
    milli, devices = made.shapes.milli, made.shapes.devices
    assert math.isclose(made.weights.sum(), 1.0)
    assert all(found.any() for found in (milli == 0, (milli > 0) & (milli < 1_000), devices == 1, devices > 1))
    assert (devices[milli == 0] == 0).all()
    assert (devices[(milli > 0) & (milli < 1_000)] == 1).all()
    with pytest.raises(ValueError, match="too few"):
        fleets.demand(7, 1)


@pytest.mark.parametrize("homes", [False, True])
def test_every_decision_of_the_planner_is_that_of_a_plain_scan(homes: bool) -> None:
    """Two fleets, one decided by the planner's kernels and one scanned, run the same tasks on the same devices at the end."""
    case = a_case(homes=homes)
    (start, running), (slow, scanned) = de.copied(case.world, case.running), de.copied(case.world, case.running)
    live.stand(case.live, start)
    live.decide(case.live, running, case.work)
    de.decide_by_scan(ix.SHIPPED, slow, scanned, case.work)
    assert all(np.array_equal(one, other) for one, other in zip(running, scanned, strict=True))
    assert np.array_equal(case.live.of.work.room.free, slow.nodes.free)
    assert np.array_equal(case.live.of.work.room.device_free, slow.nodes.device_free)


def test_through_the_index_every_best_fit_is_that_of_a_plain_scan() -> None:
    """As the planner's."""
    case = a_case()
    (fast, running), (slow, scanned) = de.copied(case.world, case.running), de.copied(case.world, case.running)
    de.decide(de.memory(fast).index, fast, running, case.work)
    de.decide_by_scan(ix.BEST_FIT, slow, scanned, case.work)
    assert all(np.array_equal(one, other) for one, other in zip(running, scanned, strict=True))
    assert np.array_equal(fast.nodes.free, slow.nodes.free)
    assert np.array_equal(fast.nodes.device_free, slow.nodes.device_free)


def test_a_filled_fleet_stays_filled() -> None:
    """About three quarters of the GPUs are taken, before and after; nothing is over-committed; the loads are true."""
    case = a_case()
    world, running = de.copied(case.world, case.running)
    live.stand(case.live, world)
    live.decide(case.live, running, case.work)
    room = case.live.of.work.room
    taken = 1 - room.device_free.sum() / room.device_size.sum()
    assert 0.7 <= case.filled <= 0.8
    assert 0.6 <= taken <= 0.9
    assert room.free.min() >= 0
    assert room.device_free.min() >= 0
    now = world._replace(nodes=room)
    assert case.live.of.work.load.tolist() == [de.load_of(now, agent) for agent in range(len(world.agents))]


def test_a_fleet_without_some_model_is_refused() -> None:
    """The planner numbers the models that there are."""
    fleet, demand = fleets.fleet(5, 1, 1), fleets.demand(8, 1)
    with pytest.raises(ValueError, match="too few"):
        live.live(de.world(fleet, demand), fleet, demand, homes=False)


def test_an_index_that_was_not_told_of_a_change_is_caught() -> None:
    """The sample that is checked while the clock stands still fails the benchmark."""
    case = a_case()
    world, _ = de.copied(case.world, case.running)
    index = de.memory(world).index
    world.nodes.free[de.ask(index, world, 0)] = 0
    with pytest.raises(AssertionError, match="a plain scan"):
        throughput.check(de.ask(index, world, 0), de.scan_best_fit(world, 0), 0, -1)


def test_the_bare_index_finds_the_least_free_cpu_that_is_enough() -> None:
    """As the smallest of all nodes that have it; none where nobody has."""
    world, _ = de.copied(*a_case()[1:3])
    buckets = de.buckets(world)
    for need in (100, 4_000, 31_900, 96_000):
        enough = world.nodes.free[:, fleets.CPU][world.nodes.free[:, fleets.CPU] >= need]
        node = de.least_with(buckets, need)
        assert (buckets.free[node] if node >= 0 else -1) == (enough.min() if enough.size else -1)
    assert de.least_with(buckets, 1_000_000) == -1


def test_figures_are_of_the_promised_policies(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Four lines of JSON, one a policy, above zero; the published rates only for people; a chart where asked."""
    throughput.measure(argparse.Namespace(**SMALL, jobs=200, quick=True, homes=False, plot=tmp_path / "rates.svg"))
    assert "best_fit" in (tmp_path / "rates.svg").read_text()
    told = capsys.readouterr()
    lines = [json.loads(line) for line in told.out.splitlines()]
    assert [line["config"]["policy"] for line in lines] == ["ours", "best_fit", "scan", "index"]
    assert {line["metric"] for line in lines} == {"decisions_per_s"}
    assert all(line["value"] > 0 for line in lines)
    assert "includes more than scheduling" in told.err


def test_the_slope_of_a_power_law_is_its_exponent() -> None:
    """Least squares on logarithms."""
    assert math.isclose(growth.slope([1, 10, 100], [2, 2 * 10**0.5, 20]), 0.5)


def test_a_round_is_measured_at_every_length_of_the_queue() -> None:
    """The steady one and the first one apart, and the plain pass that they are held against; the line is drawn through 1."""
    found = growth.waited((300, 900), passes.Crowd.of(nodes=40, hubs=4, seed=7), 2)
    assert [one.queued for one in found] == [300, 900]
    assert all(min(one.steady, one.first, one.plain) > 0 for one in found)
    assert growth.drawn("a line", (300, 900), (2.0, 3.0), 900).points == ((1 / 3, 2 / 3), (1.0, 1.0))


def test_a_sweep_meets_the_middle_where_the_others_stand() -> None:
    """Otherwise no line of the chart could be held against another."""
    for sweeps in (growth.SWEEPS, growth.SWEEPS_QUICK):
        assert all(growth.middle(what) in sizes for what, sizes in sweeps.items())
    assert growth.middle(growth.QUEUE) in set(growth.QUEUES) & set(growth.QUEUES_QUICK)
