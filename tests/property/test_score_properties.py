"""The score and what it is made of against slow obvious twins in plain Python: exactly equal, to the last bit."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from federation.domain.quantities import Resources, resources
from federation.scheduling.bids import UNITS, best_values, bids
from federation.scheduling.fleet import Fleet
from federation.scheduling.fragmentation import Sort, drift, tables_of, typical
from federation.scheduling.kernels.room import Nodes, Shapes, fits
from federation.scheduling.kernels.score import Tables, gain, phi
from federation.scheduling.lore import Lore
from tests.unit.scheduling.builders import agent, cpus

ANY = (1 << 64) - 1
KINDS = st.sampled_from((ANY, 1, 2, 3, 0))
CPU = st.integers(0, 20_000)
SHARE = st.builds(Sort, CPU, st.integers(1, 999), st.just(1), KINDS)
WHOLE = st.builds(Sort, CPU, st.just(1_000), st.integers(1, 4), KINDS)
BARE = st.builds(Sort, CPU, st.just(0), st.just(0), st.just(ANY))
SORT = st.one_of(SHARE, WHOLE, BARE)
TASK = st.builds(
    lambda cpu, kind, milli: resources(("cpu", "", cpu), ("gpu", kind, milli)),
    CPU,
    st.sampled_from(("", "a", "a|b", "nobody's")),
    st.sampled_from((0, 1, 250, 500, 999, 1_000, 3_000)),
)
COUNTS = st.dictionaries(SORT, st.integers(1, 50), max_size=8)
FREE = st.sampled_from((1_000, 1_000, 700, 530, 500, 190, 0, -40)) | st.integers(-100, 1_000)
DEVICES = st.lists(st.tuples(FREE, st.integers(0, 1)), max_size=5)
NODE = st.tuples(st.integers(-500, 40_000), st.integers(0, 64), DEVICES)


def a_fleet() -> Fleet:
    """One hub with a machine of each of two models."""
    row = agent("cairo", cpus(8, gpus=2, model="a"), cpus(8, gpus=2, model="b"))
    return Fleet({row.key: row})


def nodes_of(cpu: int, memory: int, devices: list[tuple[int, int]]) -> Nodes:
    """One node."""
    return Nodes(
        np.array([[cpu, memory]], np.int64),
        np.array([0, len(devices)], np.int32),
        np.array([free for free, _ in devices], np.int64),
        np.full(len(devices), 1_000, np.int64),
        np.array([kind for _, kind in devices], np.int32),
    )


def shapes_of(sort: Sort, memory: int) -> Shapes:
    """One shape."""
    return Shapes(
        np.array([[sort.cpu, memory]], np.int64),
        np.array([sort.milli], np.int64),
        np.array([sort.devices], np.int64),
        np.array([sort.kinds], np.uint64),
    )


def slow_phi(tables: Tables, cpu: int, devices: list[tuple[int, int]]) -> float:
    """Phi as `kernels/score.py` describes it."""
    if not devices:
        return 0.0
    idle = sum(max(free, 0) for free, _ in devices)
    fragments = tables.frequency_bare * idle
    worth = 0.0
    for free, _ in devices:
        if free > 0:
            worth += float(tables.bids[free])
    for row in range(len(tables.milli)):
        milli, kinds = int(tables.milli[row]), int(tables.kinds[row])
        serving = [free for free, kind in devices if free >= milli and kinds >> kind & 1]
        runs = int(tables.cpu[row]) <= cpu and int(tables.devices[row]) <= len(serving)
        fragments += float(tables.frequency[row]) * (idle - sum(serving) if runs else idle)
    stranded = 0.0
    for need, volume in zip(tables.cpu_per_gpu.tolist(), tables.volume.tolist(), strict=True):
        lacking = idle / 1000.0 - float(max(cpu, 0)) / need
        if lacking > 0.0:
            stranded += volume * lacking
    return fragments / 1000.0 + stranded - tables.bid_weight * worth


def slow_gain(
    tables: Tables, node: tuple[int, int, list[tuple[int, int]]], sort: Sort, memory: int
) -> tuple[float, int]:
    """The best over every device that may be taken."""
    cpu, free_memory, devices = node
    if not devices:
        taken = [need / free for need, free in ((sort.cpu, cpu), (memory, free_memory)) if need > 0]
        return (sum(taken) / len(taken) if taken else 1.0), -1
    able = [
        at for at, (free, kind) in enumerate(devices) if sort.milli and free >= sort.milli and sort.kinds >> kind & 1
    ]
    share = 0 < sort.milli < 1_000
    ways = [[at] for at in able] if share else [able[: sort.devices]]
    costs = []
    for way in ways:
        left = [(free - sort.milli * (at in way), kind) for at, (free, kind) in enumerate(devices)]
        costs.append(slow_phi(tables, cpu - sort.cpu, left))
    steps = math.floor((slow_phi(tables, cpu, devices) - min(costs)) / tables.step)
    return steps * tables.step, ways[costs.index(min(costs))][0] if share else -1


@given(COUNTS, NODE)
def test_phi_is_what_its_twin_says(counts: dict[Sort, int], node: tuple[int, int, list[tuple[int, int]]]) -> None:
    """Any typical sorts, any node, also one that leases hold more of than it has."""
    tables = tables_of(typical(counts))
    assert phi(nodes_of(*node), tables, 0) == slow_phi(tables, node[0], node[2])


@given(COUNTS, NODE, SORT, st.integers(0, 64))
def test_the_gain_is_what_its_twin_says(
    counts: dict[Sort, int], node: tuple[int, int, list[tuple[int, int]]], sort: Sort, memory: int
) -> None:
    """Score and device are equal wherever the task fits; compiled and not."""
    tables, nodes, shapes = tables_of(typical(counts)), nodes_of(*node), shapes_of(sort, memory)
    if fits(nodes, shapes, 0, 0):
        before = phi(nodes, tables, 0)
        assert gain(nodes, shapes, tables, 0, 0, before) == slow_gain(tables, node, sort, memory)


@given(COUNTS, NODE, SORT)
def test_a_score_changes_nothing(
    counts: dict[Sort, int], node: tuple[int, int, list[tuple[int, int]]], sort: Sort
) -> None:
    """Room is only looked at."""
    tables, nodes, shapes = tables_of(typical(counts)), nodes_of(*node), shapes_of(sort, 0)
    before = [part.tolist() for part in nodes]
    gain(nodes, shapes, tables, 0, 0, phi(nodes, tables, 0))
    assert [part.tolist() for part in nodes] == before


@given(st.dictionaries(st.integers(1, 999), st.floats(0.1, 1e6), max_size=8))
def test_bids_are_prices(demand: dict[int, float]) -> None:
    """They ascend with what is free, from nothing to a whole device, in whole units, and no device bids over one."""
    worth = bids(demand)
    assert (worth[0], worth[1_000]) == (0.0, 1.0)
    assert bool((np.diff(worth) >= 0).all())
    assert np.array_equal(np.rint(worth * UNITS) / UNITS, worth)


@given(
    st.lists(st.tuples(st.integers(1, 999), st.integers(0, 100)), min_size=1, max_size=4, unique_by=lambda one: one[0])
)
def test_the_knapsack_is_the_best_of_all_fillings(items: list[tuple[int, int]]) -> None:
    """Against filling with one more task until no more fits, all ways."""
    sizes = np.array([size for size, _ in items], np.int64)
    values, _ = best_values(sizes, np.array([price for _, price in items], np.float64))
    best = [0] * 1_001
    for room in range(1, 1_001):
        best[room] = max([0, *(best[room - size] + price for size, price in items if size <= room)])
    assert values.tolist() == best


@given(st.lists(st.tuples(TASK, st.integers(1, 9), st.booleans()), max_size=20), st.data())
def test_what_is_learned_is_what_is_there(seen: list[tuple[Resources, int, bool]], data: st.DataObject) -> None:
    """In whatever order it all came, and part of it went: the tables are those of what stayed, learned at once."""
    fleet, lore, at_once = a_fleet(), Lore(), Lore()
    for task, tasks, _ in seen:
        lore.count(task, tasks)
    for task, tasks, stays in data.draw(st.permutations(seen)) if seen else []:
        if not stays:
            lore.count(task, -tasks)
    for task, tasks, stays in seen:
        if stays:
            at_once.count(task, tasks)
    lore.settle(fleet)
    at_once.settle(fleet)
    assert list(map(repr, lore.tables)) == list(map(repr, at_once.tables))


@given(COUNTS, COUNTS, COUNTS)
def test_drift_is_a_distance(one: dict[Sort, int], other: dict[Sort, int], third: dict[Sort, int]) -> None:
    """0 to 1, alike both ways, none to itself at any scale, and no longer by a detour."""
    doubled = {sort: 2 * count for sort, count in one.items()}
    assert drift(one, other) == drift(other, one)
    assert (drift(one, doubled), 0 <= drift(one, other) <= 1) == (0.0, True)
    assert drift(one, third) <= drift(one, other) + drift(other, third) + 1e-12
