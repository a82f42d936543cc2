"""How does the cost of a decision grow with nodes, hubs and shapes?

One thing is varied at a time, the others stay at 10,000 nodes, 200 hubs and 64 shapes; everything else is as in
`throughput`: the shipped rule and exact best fit through the index, one core, CPU time. Told is the slope of a straight
line through (log size, log cost) by least squares: 0 means that size costs nothing, 1 that twice the size costs twice.
The baseline is the slope of a plain scan of all nodes over the same sizes. Queue length is `passes`' question: a
decision knows nothing of who waits.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import throughput
from benchmarks.apparatus import decisions as de
from benchmarks.apparatus.plot import Chart, Series, write_chart
from benchmarks.figures import Baseline, Figure, emit, median, say
from federation.scheduling.kernels import index as ix

NODES, HUBS, CLASSES = 10_000, 200, 64
SWEEPS: dict[str, tuple[int, ...]] = {
    "nodes": (1_250, 2_500, 5_000, 10_000, 20_000),
    "hubs": (50, 100, 200, 400, 800),
    "classes": (16, 32, 64, 128, 256),
}
SWEEPS_QUICK: dict[str, tuple[int, ...]] = {
    "nodes": (1_250, 5_000, 20_000),
    "hubs": (50, 200, 800),
    "classes": (16, 64, 256),
}
JOBS, JOBS_QUICK = 20_000, 8_000
ROUNDS, ROUNDS_QUICK = 2, 1
SCANS = 40
POLICIES = {"ours": ix.SHIPPED, "best_fit": ix.BEST_FIT}


class Cost(NamedTuple):
    """Microseconds a decision."""

    size: int
    ours: float
    best_fit: float
    scan: float


def options(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("--seed", type=int, default=throughput.SEED)
    parser.add_argument("--only", choices=tuple(SWEEPS), help="vary one thing")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw cost against size")


def measure(chosen: argparse.Namespace) -> None:
    """Print two slopes for each thing that is varied."""
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
            lines.append(
                Series(f"{policy}, {what}", tuple(zip([size / middle(what) for size in sizes], values, strict=True)))
            )
            emit(
                Figure(
                    "growth", "log_log_slope", slope(sizes, values), "1", "lower",
                    Baseline("plain scan, best fit", of_scan), time.monotonic() - began_s,
                    {"policy": policy, "against": what, "from": sizes[0], "to": sizes[-1], "points": len(sizes),
                     "us_at_smallest": round(values[0], 2), "us_at_largest": round(values[-1], 2),
                     "jobs": jobs, "seed": chosen.seed, "clock": "thread CPU time"},
                )
            )  # fmt: skip
    if chosen.plot:
        write_chart(
            chosen.plot,
            Chart(
                "Cost of a decision, one thing varied at a time",
                f"times the middle ({NODES:,} nodes, {HUBS} hubs, {CLASSES} shapes)",
                "microseconds",
                tuple(lines),
                x_log=True,
                y_log=True,
            ),
        )


def middle(what: str) -> int:
    """Where the others stand."""
    return {"nodes": NODES, "hubs": HUBS, "classes": CLASSES}[what]


def cost(what: str, size: int, seed: int, jobs: int, rounds: int) -> Cost:
    """All three at one size; they take turns."""
    sizes = {"nodes": NODES, "hubs": HUBS, "classes": CLASSES, what: size}
    case = throughput.filled_case(argparse.Namespace(**sizes, seed=seed, homes=False), jobs)
    turns = {name: throughput.by_index(rule) for name, rule in POLICIES.items()}
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
