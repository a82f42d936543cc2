"""How many decisions a second does one core make, with thousands of nodes and dozens of shapes?

A decision is one task placed and one released. A seeded fleet (`apparatus/fleets.py`) is filled until 75 % of its GPU
milli are taken; then tasks come, and for each the oldest running one ends, so that the load stays. No job prefers a
hub, unless `--homes` is given: then each comes from some hub and likes that best. Policies:

- `ours`: the planner as it is shipped, the kernels of its rounds: the agent is chosen and the place is taken;
- `best_fit`: exact best fit over all nodes, through the index;
- `scan`: the same best fit by a plain compiled scan of all nodes;
- `index`: nodes in buckets by free CPU and nothing else: one resource, no rule.

They take turns, each from the same filled fleet; the index has met every shape before its clock runs. Told are medians
of the turns, in CPU time of their one thread. Between stretches, a sample of the index's answers is held to plain scans
of the same state; one that differs fails the benchmark. What others publish includes more than scheduling (API calls,
storing, several threads), so it is no measure of a rule.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.apparatus import decisions as de
from benchmarks.apparatus import fleets, live
from benchmarks.apparatus.plot import Chart, Series, write_chart
from benchmarks.figures import Baseline, Figure, emit, median, say
from federation.scheduling.kernels import index as ix

SEED = 1
FILLED = 0.75
JOBS, JOBS_QUICK = 300_000, 90_000
ROUNDS = 3
STRETCHES = 10
"""Of a turn; a sample is checked after each."""
CHECKED = 5
"""Answers after each stretch."""
SCANS = 300
"""A turn of the plain scan; of the shipped rule's, a tenth."""
PUBLISHED = (
    ("kube-scheduler, CI floor, 5,000 nodes", 810),
    ("Godel, 30,000 nodes", 1_000),
    ("Slurm 22.05, 10,000 nodes", 16),
)
PUBLISHED_SOURCE = "published; includes more than scheduling"
Turn = Callable[[de.World, de.Ring, de.Work], float]
"""Decisions a second."""


class Case(NamedTuple):
    """A filled fleet and what comes next."""

    live: live.Live
    world: de.World
    running: de.Ring
    work: de.Work
    filled: float
    """Of GPU milli."""


def options(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--hubs", type=int, default=200)
    parser.add_argument("--classes", type=int, default=64, help="shapes of tasks, 8 or more")
    parser.add_argument("--jobs", type=int, help=f"decisions a turn (default {JOBS:,}; quick {JOBS_QUICK:,})")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw microseconds a decision in every turn")
    parser.add_argument("--homes", action="store_true", help="each job likes its own hub best")


def measure(chosen: argparse.Namespace) -> None:
    """Print four figures, and a table."""
    jobs = chosen.jobs or (JOBS_QUICK if chosen.quick else JOBS)
    began_s = time.monotonic()
    case = filled_case(chosen, jobs)
    say(f"{chosen.nodes:,} nodes, {chosen.hubs:,} hubs, {chosen.classes} shapes, "
        f"{case.running.state[de.TASKS]:,} tasks run, {case.filled:.0%} of GPUs taken")  # fmt: skip
    turns: dict[str, Turn] = {
        "ours": by_planner(case.live),
        "best_fit": by_index,
        "scan": by_scan(ix.BEST_FIT, SCANS),
        "scan of ours": by_scan(ix.SHIPPED, SCANS // 10),
        "index": bare,
    }
    rates: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(ROUNDS + 1):
        for name, turn in turns.items():
            world, running = de.copied(case.world, case.running)
            work = first_of(case.work, 100) if number == 0 else case.work  # round 0 compiles
            rate = turn(world, running, work)
            if number:
                rates[name].append(rate)
    medians = {name: median(found) for name, found in rates.items()}
    table(medians, rates)
    if chosen.plot:
        draw(chosen.plot, rates)
    seconds = time.monotonic() - began_s
    config = {
        "nodes": chosen.nodes, "hubs": chosen.hubs, "classes": chosen.classes, "jobs": jobs, "seed": chosen.seed,
        "liking": "home" if chosen.homes else "none", "filled_pct": round(100 * case.filled, 1), "cores": 1,
        "clock": "thread CPU time", "rounds": ROUNDS,
    }  # fmt: skip
    floor = Baseline(PUBLISHED[0][0], PUBLISHED[0][1], PUBLISHED_SOURCE)
    baselines = {
        "ours": Baseline("plain scan, the same rule", medians["scan of ours"]),
        "best_fit": Baseline("plain scan, the same rule", medians["scan"]),
        "scan": floor,
        "index": Baseline("exact best fit through the index", medians["best_fit"]),
    }
    for policy, baseline in baselines.items():
        emit(Figure("throughput", "decisions_per_s", medians[policy], "1/s", "higher", baseline, seconds,
                    {"policy": policy, **config}))  # fmt: skip


def filled_case(chosen: argparse.Namespace, jobs: int) -> Case:
    """The fleet, filled by the shipped rule, and the jobs that follow."""
    fleet, demand = fleets.fleet(chosen.nodes, chosen.hubs, chosen.seed), fleets.demand(chosen.classes, chosen.seed)
    world = de.world(fleet, demand)
    planner = live.live(world, fleet, demand, homes=chosen.homes)
    total = int(fleet.nodes.device_free.sum())
    most = 10 * chosen.nodes
    running = de.ring(most)
    coming = work_of(fleet, demand, most, chosen.seed, homes=chosen.homes)
    live.stand(planner, world)
    live.fill(planner, running, coming, int(FILLED * total))
    room = planner.of.work.room
    world.nodes.free[:], world.nodes.device_free[:] = room.free, room.device_free
    # Tasks end in an order of their own, not node by node as they were placed.
    tasks = int(running.state[de.TASKS])
    order = np.random.default_rng((chosen.seed, tasks)).permutation(tasks)
    for array in running[:3]:
        array[:tasks] = array[order]
    coming = work_of(fleet, demand, jobs, chosen.seed + 1, homes=chosen.homes)
    return Case(planner, world, running, coming, 1 - float(world.nodes.device_free.sum()) / total)


def work_of(fleet: fleets.Fleet, demand: fleets.Demand, count: int, seed: int, *, homes: bool) -> de.Work:
    """`count` jobs, by seed."""
    liked = fleets.homes(fleet, count, seed) if homes else np.full(count, -1, np.int64)
    return de.Work(fleets.draws(demand, count, seed), liked)


def first_of(work: de.Work, count: int) -> de.Work:
    """The first jobs."""
    return de.Work(work.shape[:count], work.home[:count])


def stretches(work: de.Work, count: int) -> Iterator[de.Work]:
    """The jobs in so many parts."""
    for part in np.array_split(np.arange(len(work.shape)), count):
        yield de.Work(work.shape[part], work.home[part])


def by_planner(planner: live.Live) -> Turn:
    """Decisions by the kernels of a round, which were asked for every shape before: what they remember outlives it."""

    def turn(world: de.World, running: de.Ring, work: de.Work) -> float:
        live.stand(planner, world)
        for shape in range(len(world.shapes.milli)):
            live.node_of(planner, shape, -1)
        spent_s = 0.0
        for stretch in stretches(work, STRETCHES):
            began_s = time.thread_time()
            live.decide(planner, running, stretch)
            spent_s += time.thread_time() - began_s
            now = world._replace(nodes=planner.of.work.room)
            for shape, home in zip(stretch.shape[:CHECKED].tolist(), stretch.home[:CHECKED].tolist(), strict=True):
                check(live.node_of(planner, shape, home), scanned(now, shape, home), shape, home)
        return len(work.shape) / spent_s

    return turn


def scanned(world: de.World, shape: int, home: int) -> int:
    """The node of the shipped policy, by looking at all; -1 for none."""
    agent = de.scan_shipped(world, shape, home)
    return int(de.scan_agent(world, shape, agent)[1]) if agent >= 0 else -1


def by_index(world: de.World, running: de.Ring, work: de.Work) -> float:
    """Best fit through an index that was asked for every shape before."""
    index = de.memory(world).index
    for shape in range(len(world.shapes.milli)):
        de.ask(index, world, shape)
    spent_s = 0.0
    for stretch in stretches(work, STRETCHES):
        began_s = time.thread_time()
        de.decide(index, world, running, stretch)
        spent_s += time.thread_time() - began_s
        for shape in stretch.shape[:CHECKED].tolist():
            check(de.ask(index, world, shape), de.scan_best_fit(world, shape), shape, -1)
    return len(work.shape) / spent_s


def check(found: int, scanned: int, shape: int, home: int) -> None:
    """Hold an answer to a look at every node. Raises: AssertionError where they differ."""
    assert found == scanned, f"shape {shape} from {home}: the answer is node {found}, a plain scan's {scanned}"


def by_scan(rule: int, decisions: int) -> Turn:
    """Decisions by looking at every node; so few of them that it ends."""

    def turn(world: de.World, running: de.Ring, work: de.Work) -> float:
        some = first_of(work, min(decisions, len(work.shape)))
        began_s = time.thread_time()
        de.decide_by_scan(rule, world, running, some)
        return len(some.shape) / (time.thread_time() - began_s)

    return turn


def bare(world: de.World, running: de.Ring, work: de.Work) -> float:
    """The bare index."""
    buckets = de.buckets(world)
    began_s = time.thread_time()
    de.decide_bare(buckets, world.shapes, running, work)
    return len(work.shape) / (time.thread_time() - began_s)


def table(medians: dict[str, float], rates: dict[str, list[float]]) -> None:
    """For people."""
    say(f"{'policy':40} {'decisions/s':>12}  turns")
    for name, value in medians.items():
        say(f"{name:40} {value:12,.0f}  {', '.join(f'{rate:,.0f}' for rate in rates[name])}")
    for name, rate in PUBLISHED:
        say(f"{name:40} {rate:12,}  {PUBLISHED_SOURCE}")


def draw(file: Path, rates: dict[str, list[float]]) -> None:
    """Every turn of every policy; what was published as a line of its own."""
    turns = range(1, ROUNDS + 1)
    lines = [
        Series(name, tuple((float(turn), 1e6 / rate) for turn, rate in zip(turns, found, strict=True)))
        for name, found in rates.items()
    ]
    name, rate = PUBLISHED[0]
    lines.append(
        Series(f"{name} (published, more than scheduling)", tuple((float(turn), 1e6 / rate) for turn in turns))
    )
    write_chart(file, Chart("A decision on one core", "turn", "microseconds", tuple(lines), y_log=True))
