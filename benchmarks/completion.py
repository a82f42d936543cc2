"""How much of what a scheduler that knows the future gains in mean completion time over first come first served do we gain?

Philly's arrivals with openb's machines and shapes, gangs of 1 to 32, spread over hubs with users and projects, asked for
more than there is while they come. Ours: `plan_round` in virtual time (`federation/simulation`), which knows limits, not
runtimes, tracks nodes and GPUs one by one, keeps owners first and hubs fair, and ends no job for another's sake unless it
is preemptible. Held against first come first served, strict and with passing over what does not fit, and against an
oracle: shortest remaining time with every runtime known, any job stopped and moved at no cost. The baselines have each
hub's room in one piece. Gain = (first come - ours) / (first come - oracle); completion is from submission to the end.

Where the distance from the oracle comes from is told for the first seed, as prices that sum up to it: each is the
difference between two runs that differ in one thing alone, from the oracle through lines that stop nothing, know no
runtimes and go by arrival, to ours with everybody alike, with fair shares, and with owners who take machines back.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.apparatus.philly import MINUTE_MS, Setting, Workload, machines_of, missing, options, workload
from benchmarks.apparatus.pooled import first_come, in_line, shortest_remaining
from benchmarks.figures import Baseline, Figure, Value, emit, say
from federation.domain.quantities import amount_of
from federation.scheduling import Policy
from federation.scheduling.kernels.room import Float64, Int64
from federation.scheduling.policy import Order
from federation.scheduling.prediction import Runtimes
from federation.simulation.replay import HistoricJob, Replay

__all__ = ["measure", "options"]

NAMES = ("cpu", "memory", "gpu")
HOUR_MS = 3_600_000
WHOLE = Setting(hubs=200, machines=300, jobs=10_000, load=2.0)
QUICK = Setting(hubs=20, machines=30, jobs=1_500, load=1.3)
SEEDS, SEEDS_QUICK = (1, 2, 3), (1,)
STRICT, PASSING, ORACLE = "first come, strict", "first come, passing over", "SRTF that knows the future"
OURS, OURS_SHORT = "ours", "ours, short first"
SHORTEST, BY_LIMIT = "shortest first, runtimes known", "shortest limit first"
ALIKE, KEPT = "ours, everybody alike", "ours, nobody preempted"
PRICES = (
    ("stopping nothing that runs", SHORTEST, ORACLE),
    ("knowing limits instead of runtimes", BY_LIMIT, SHORTEST),
    ("first come instead of shortest", PASSING, BY_LIMIT),
    ("machines one by one, and promised starts", ALIKE, PASSING),
    ("fair shares and owners first", KEPT, ALIKE),
    ("machines taken back, work lost", OURS, KEPT),
)
"""What each costs: the first policy has it, the second has not."""
ORDERS = {OURS: Policy().order, OURS_SHORT: Order.SHORT_FIRST}


@dataclass(frozen=True, slots=True)
class Completions:
    """Hours from submission to the end, by policy: float64 (J,) in the same order of jobs."""

    hours: dict[str, Float64]

    def mean(self, policy: str) -> float:
        """In hours."""
        return float(self.hours[policy].mean())

    def gain(self, policy: str, over: str) -> float:
        """What `policy` gains over one of the two ways of first come, in the oracle's gain; 0 where that gains nothing."""
        possible = self.mean(over) - self.mean(ORACLE)
        return (self.mean(over) - self.mean(policy)) / possible if possible > 0 else 0.0


def measure(chosen: argparse.Namespace) -> None:
    """Print the figures and the table."""
    note = missing(chosen.traces)
    if note and chosen.trace is None:
        say(note)
    setting = QUICK if chosen.quick else WHOLE
    found: list[Completions] = []
    for seed in chosen.seeds or (SEEDS_QUICK if chosen.quick else SEEDS):
        began_s = time.monotonic()
        setting = setting._replace(seed=seed)
        work = workload(chosen.traces, setting, chosen.trace)
        one = completions(work, explained=not found)
        found.append(one)
        say(
            f"seed {seed}: mean completion in hours: " + "; ".join(f"{name} {one.mean(name):.3f}" for name in one.hours)
        )
        for figure in figures(one, setting, work.trace, time.monotonic() - began_s):
            emit(figure)
        if one is found[0]:
            for price in prices(one, setting, work.trace, time.monotonic() - began_s):
                say(f"  {price.config['price_of']:42} {price.value:+.3f} h")
                emit(price)
    if chosen.plot:
        plot(chosen.plot, found[-1])


def completions(work: Workload, *, explained: bool = False) -> Completions:
    """All policies on one workload; `explained`: with those in between that tell what costs how much."""
    jobs = sorted(work.jobs, key=lambda job: job.row.submitted_ms)
    submit: Int64 = np.asarray([job.row.submitted_ms // MINUTE_MS for job in jobs], np.int64)
    run: Int64 = np.asarray([-(-job.runtime_ms // MINUTE_MS) for job in jobs], np.int64)
    need: Int64 = np.asarray([[amount_of(job.row.per_task, name) * job.row.replicas for name in NAMES] for job in jobs])
    capacity: Int64 = np.asarray(
        [[of.get(name, 0) for name in NAMES] for _, of in sorted(machines_of(work.agents).items())]
    )
    if not all((amounts <= capacity).all(axis=1).any() for amounts in need):
        raise RuntimeError("a gang fits no hub, however idle")
    hours = {
        STRICT: (first_come(submit, run, need, capacity, True) - submit) / 60,
        PASSING: (first_come(submit, run, need, capacity, False) - submit) / 60,
        ORACLE: (shortest_remaining(submit, run, need, capacity) - submit) / 60,
        **{name: in_virtual_time(work, jobs, order) for name, order in ORDERS.items()},
    }
    if explained:
        limit: Int64 = np.asarray([job.row.runtime_limit_ms for job in jobs], np.int64)
        alike = [HistoricJob(replace(job.row, home_hub="", project="all", user="all"), job.runtime_ms) for job in jobs]
        kept = [HistoricJob(replace(job.row, preemptible=False), job.runtime_ms) for job in jobs]
        hours |= {
            SHORTEST: (in_line(submit, run, run, need, capacity, False) - submit) / 60,
            BY_LIMIT: (in_line(submit, run, limit, need, capacity, False) - submit) / 60,
            ALIKE: in_virtual_time(work, alike, ORDERS[OURS]),
            KEPT: in_virtual_time(work, kept, ORDERS[OURS]),
        }
    return Completions(hours)


def in_virtual_time(work: Workload, jobs: Sequence[HistoricJob], order: Order) -> Float64:
    """Ours, hours by job: the shipped policy with one of its orders, runtimes expected as the live federation does."""
    outcome = Replay(work.agents, Policy(order=order), predictor=Runtimes).run(jobs)
    found = [job.end_ms - job.submit_ms for job in outcome.jobs if job.end_ms is not None]
    if len(found) < len(jobs):
        raise RuntimeError(f"{len(jobs) - len(found)} jobs never ended: they fit no hub")
    hours: Float64 = np.asarray(found) / HOUR_MS
    return hours


def figures(of: Completions, setting: Setting, trace: str, seconds: float) -> list[Figure]:
    """Ours against each baseline, and the part of the oracle's gain."""
    found = []
    for policy, order in ORDERS.items():
        config: dict[str, Value] = {
            "trace": trace, "hubs": setting.hubs, "jobs": setting.jobs, "load": setting.load, "seed": setting.seed,
            "policy": "ours", "order": str(order),
        }  # fmt: skip
        found += [
            Figure(
                "completion", "mean_completion_h", of.mean(policy), "h", "lower", Baseline(name, of.mean(name)), seconds,
                config,
            )
            for name in (STRICT, PASSING, ORACLE)
        ]  # fmt: skip
        found += [
            Figure(
                "completion", "share_of_oracles_gain", of.gain(policy, over), "1", "higher", Baseline(ORACLE, 1.0),
                seconds, {**config, "over": over},
            )
            for over in (STRICT, PASSING)
        ]  # fmt: skip
    return found


def prices(of: Completions, setting: Setting, trace: str, seconds: float) -> list[Figure]:
    """What lies between the oracle and ours, in hours of the mean; below 0: it gains."""
    distance = Baseline("ours less the oracle", of.mean(OURS) - of.mean(ORACLE))
    return [
        Figure(
            "completion", "price_h", of.mean(worse) - of.mean(better), "h", "lower", distance, seconds,
            {"trace": trace, "hubs": setting.hubs, "jobs": setting.jobs, "load": setting.load, "seed": setting.seed,
             "price_of": what, "with": worse, "without": better},
        )
        for what, worse, better in PRICES
    ]  # fmt: skip


def plot(path: Path, of: Completions) -> None:
    """How many jobs had ended after so long, by policy."""
    from benchmarks.apparatus.plot import Chart, Series, write_chart

    percents = np.arange(2, 100, 2)
    series = [
        Series(name, tuple(_points(np.percentile(of.hours[name], percents), percents)))
        for name in (STRICT, PASSING, ORACLE, *ORDERS)
    ]
    write_chart(
        path,
        Chart("Jobs that have ended", "hours since submission", "% of jobs", tuple(series), x_log=True),
    )


def _points(hours: Float64, percents: Int64) -> list[tuple[float, float]]:
    return [(max(float(at), 1 / 60), float(percent)) for at, percent in zip(hours, percents, strict=True)]
