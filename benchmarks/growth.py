"""How does the cost of a decision grow with nodes, hubs and shapes, and that of a round with who waits?

One thing is varied at a time, the others stay at 10,000 nodes, 200 hubs and 64 shapes; everything else is as in
`throughput`: the shipped rule and exact best fit through the index, one core, CPU time. Told is the slope of a straight
line through (log size, log cost) by least squares: 0 means that size costs nothing, 1 that twice the size costs twice.
The baseline is the slope of a plain scan of all nodes over the same sizes.

A decision knows nothing of who waits; a round does. The fourth sweep is of `plan_round` on the federation of `passes`,
always the same and full, with more and more waiting: rounds in which a few jobs come and end, and apart from them the
first round of a planner that was just started and is handed everything. Their baseline is what any planner without a
memory does at least: look at everybody who waits, in order.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import passes, throughput
from benchmarks.apparatus import decisions as de
from benchmarks.apparatus.compiling import rounds_compiled_meanwhile
from benchmarks.apparatus.plot import Chart, Series, write_chart
from benchmarks.figures import Baseline, Figure, emit, median, say
from federation.scheduling import PlannerState, Policy, plan_round
from federation.scheduling.kernels import index as ix

NODES, HUBS, CLASSES = 10_000, 200, 64
SWEEPS: dict[str, tuple[int, ...]] = {
    "nodes": (1_250, 2_500, 5_000, 10_000, 20_000),
    "hubs": (50, 100, 200, 400, 800),
    "classes": (16, 32, 64, 128, 256),
}
SWEEPS_QUICK: dict[str, tuple[int, ...]] = {
    "nodes": (1_250, 10_000, 20_000),
    "hubs": (50, 200, 800),
    "classes": (16, 64, 256),
}
JOBS, JOBS_QUICK = 20_000, 8_000
ROUNDS, ROUNDS_QUICK = 2, 1
SCANS = 40
QUEUE = "queue"
QUEUES = (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
QUEUES_QUICK = (1_000, 10_000, 100_000)
QUEUE_FLEET, QUEUE_FLEET_QUICK = (NODES, HUBS), (2_500, 50)
"""Nodes and hubs of the federation that they wait for."""
FEW = 30
"""Jobs that come, and runs that end, between two rounds."""
PLANS, PLANS_QUICK = 9, 5
"""Rounds at each length, after one that is not measured."""
FIRSTS = 2
POLICIES = ("ours", "best_fit")


class Waited(NamedTuple):
    """Milliseconds a round, by how many wait."""

    queued: int
    steady: float
    first: float
    plain: float
    """Of a plain pass over all who wait, sorted."""


class Cost(NamedTuple):
    """Microseconds a decision."""

    size: int
    ours: float
    best_fit: float
    scan: float


def options(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("--seed", type=int, default=throughput.SEED)
    parser.add_argument("--only", choices=(*SWEEPS, QUEUE), help="vary one thing")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw cost against size")


def measure(chosen: argparse.Namespace) -> None:
    """Print two slopes for each thing that is varied."""
    lines: list[Series] = []
    with rounds_compiled_meanwhile():
        if chosen.quick:
            lines += of_decisions(chosen)
        else:  # nothing runs beside what is measured, but in quick
            cost("nodes", SWEEPS["nodes"][0], chosen.seed, 100, 1)
    if not chosen.quick:
        lines += of_decisions(chosen)
    if chosen.only in (None, QUEUE):
        lines += of_queue(chosen)
    if chosen.plot:
        write_chart(
            chosen.plot,
            Chart(
                "Cost of a decision and of a round, one thing varied at a time",
                f"times the middle ({NODES:,} nodes, {HUBS} hubs, {CLASSES} shapes, {middle(QUEUE):,} waiting)",
                "times the cost there",
                tuple(lines),
                x_log=True,
                y_log=True,
            ),
        )


def of_decisions(chosen: argparse.Namespace) -> list[Series]:
    """Print the slopes of a decision's cost; their lines."""
    sweeps = SWEEPS_QUICK if chosen.quick else SWEEPS
    jobs, rounds = (JOBS_QUICK, ROUNDS_QUICK) if chosen.quick else (JOBS, ROUNDS)
    lines: list[Series] = []
    for what, sizes in sweeps.items():
        if chosen.only not in (None, what):
            continue
        began_s = time.monotonic()
        costs = [cost(what, size, chosen.seed, jobs, rounds) for size in sizes]
        say(f"{what:>10}  ours us  best fit us  plain scan us")
        for found in costs:
            say(f"{found.size:10,}  {found.ours:7.2f}  {found.best_fit:11.2f}  {found.scan:13.1f}")
        of_scan = slope(sizes, [found.scan for found in costs])
        for policy in POLICIES:
            values = [float(getattr(found, policy)) for found in costs]
            lines.append(drawn(f"{policy}, {what}", sizes, values, middle(what)))
            emit(
                Figure(
                    "growth", "log_log_slope", slope(sizes, values), "1", "lower",
                    Baseline("plain scan, best fit", of_scan), time.monotonic() - began_s,
                    {"policy": policy, "against": what, "from": sizes[0], "to": sizes[-1], "points": len(sizes),
                     "us_at_smallest": round(values[0], 2), "us_at_largest": round(values[-1], 2),
                     "jobs": jobs, "seed": chosen.seed, "clock": "thread CPU time"},
                )
            )  # fmt: skip
    return lines


def of_queue(chosen: argparse.Namespace) -> list[Series]:
    """Print the slopes of a round's cost against who waits; their lines."""
    sizes, plans = (QUEUES_QUICK, PLANS_QUICK) if chosen.quick else (QUEUES, PLANS)
    nodes, hubs = QUEUE_FLEET_QUICK if chosen.quick else QUEUE_FLEET
    began_s = time.monotonic()
    costs = waited(sizes, passes.Crowd.of(nodes, hubs, chosen.seed), plans)
    say(f"{QUEUE:>10}  steady round ms  first round ms  plain pass ms")
    for found in costs:
        say(f"{found.queued:10,}  {found.steady:15.1f}  {found.first:14.1f}  {found.plain:13.1f}")
    plain = Baseline("a plain pass over all who wait, in order", slope(sizes, [found.plain for found in costs]))
    lines = []
    for which in ("steady", "first"):
        values = [float(getattr(found, which)) for found in costs]
        lines.append(drawn(f"{which} round, {QUEUE}", sizes, values, middle(QUEUE)))
        emit(
            Figure(
                "growth", "log_log_slope", slope(sizes, values), "1", "lower", plain, time.monotonic() - began_s,
                {"policy": "ours", "against": QUEUE, "round": which, "from": sizes[0], "to": sizes[-1],
                 "points": len(sizes), "ms_at_smallest": round(values[0], 1), "ms_at_largest": round(values[-1], 1),
                 "slope_at_the_end": round(slope(sizes[-2:], values[-2:]), 3), "churn": FEW, "nodes": nodes,
                 "hubs": hubs, "classes": passes.CLASSES, "seed": chosen.seed, "clock": "thread CPU time"},
            )
        )  # fmt: skip
    return lines


def waited(sizes: Sequence[int], crowd: passes.Crowd, plans: int) -> list[Waited]:
    """One federation, which is filled here, with ever more waiting; so many rounds at each of `sizes`, ascending."""
    policy, found = Policy(), []
    crowd.fill(sizes[0])
    for size in sizes:
        crowd.wait(size)
        steady_s = []
        for _ in range(plans + 1):
            delta = crowd.step(FEW)
            began_s = time.thread_time()
            crowd.state, plan = plan_round(crowd.state, delta, policy, crowd.now_ms)
            steady_s.append(time.thread_time() - began_s)
            crowd.start(plan)
        full, first_s, plain_s = crowd.state.full(), [], []
        for _ in range(FIRSTS):
            began_s = time.thread_time()
            plan_round(PlannerState(), full, policy, crowd.now_ms)
            first_s.append(time.thread_time() - began_s)
            began_s = time.thread_time()
            sorted(full.queued, key=lambda job: (job.priority, job.owner, job.seq))
            plain_s.append(time.thread_time() - began_s)
        found.append(Waited(size, 1e3 * median(steady_s[1:]), 1e3 * median(first_s), 1e3 * median(plain_s)))
    return found


def drawn(name: str, sizes: Sequence[int], values: Sequence[float], at: int) -> Series:
    """A line of the chart: both axes in parts of where the others stand, so that slopes can be compared."""
    there = values[list(sizes).index(at)]
    return Series(name, tuple((size / at, value / there) for size, value in zip(sizes, values, strict=True)))


def middle(what: str) -> int:
    """Where the others stand."""
    return {"nodes": NODES, "hubs": HUBS, "classes": CLASSES, QUEUE: passes.USUAL}[what]


def cost(what: str, size: int, seed: int, jobs: int, rounds: int) -> Cost:
    """All three at one size; they take turns."""
    sizes = {"nodes": NODES, "hubs": HUBS, "classes": CLASSES, what: size}
    case = throughput.filled_case(argparse.Namespace(**sizes, seed=seed, homes=False), jobs)
    turns: dict[str, throughput.Turn] = {"ours": throughput.by_planner(case.live), "best_fit": throughput.by_index}
    turns["scan"] = throughput.by_scan(ix.BEST_FIT, SCANS)
    found: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds + 1):
        for name, turn in turns.items():
            world, running = de.copied(case.world, case.running)
            rate = turn(world, running, throughput.first_of(case.work, 50) if number == 0 else case.work)
            if number:
                found[name].append(1e6 / rate)
    return Cost(size, median(found["ours"]), median(found["best_fit"]), median(found["scan"]))


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Of log value on log size, by least squares; both above 0, two sizes or more."""
    x, y = [math.log(size) for size in sizes], [math.log(value) for value in values]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return covariance / sum((a - mean_x) ** 2 for a in x)
