"""How long do jobs wait for what they take, and how long does the unluckiest wait?

Mean bounded slowdown, max(1, (wait + run) / max(run, 10 s)), and the longest wait, on logs of parallel machines: windows
of 1,024 jobs as RLScheduler draws them (Zhang et al., SC'20), or whole logs in one run. Ours is the shipped planner:
every job goes through `plan_round`, in virtual time, on one machine. Held against FCFS, SJF and F1 (Carastan-Santos and
de Camargo, SC'17) in the published loop, which binds itself to the job it picked, and in the one that decides anew at
every event against the best orders known for it. What is low in a window may be starvation that its end hides, so the
longest wait stands beside every slowdown, and `--plot` draws the one against the other.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.apparatus.backfill_loops import Float64, Int64, Jumping, Rule, serve, serve_published
from benchmarks.apparatus.plot import Chart, Series, write_chart
from benchmarks.apparatus.swf import LENGTH, SOURCES, Log, longer_requests, read, starts, synthetic
from benchmarks.figures import Baseline, Figure, Value, emit, say
from federation.domain.hub import HubState, LinkState, Node
from federation.domain.ids import AgentId, HubId
from federation.domain.quantities import resources
from federation.errors import invalid
from federation.scheduling.ageing import line_position
from federation.scheduling.policy import HEADROOM, SHORT_MS, Order, Policy
from federation.scheduling.prediction import Runtimes
from federation.scheduling.rows import AgentRow, QueuedJob
from federation.simulation.replay import HistoricJob, Predictor, Replay

HOUR_S = 3_600
SHORTEST_S = 10
TRACE = "lublin_256"
JOBS_SYNTHETIC, LOAD_SYNTHETIC = 10_000, 1.06
STARTS, STARTS_QUICK = 10, 4
F1_WEIGHT = 870.0
WIDE_PROCS, TOGETHER_H = 32, 48
SWEEP_H = (1.0, 2.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 14.0, 16.0, 20.0, 25.0, 32.0, 64.0)
"""Hours in line for each doubling of a job, for the chart."""
PUBLISHED = {
    "fcfs_no_backfill": 7273.77, "sjf_no_backfill": 277.35, "f1_no_backfill": 258.37,
    "fcfs": 235.82, "sjf": 73.31, "f1": 75.07,
}  # fmt: skip
LEARNED = 58.64
PAPER = "RLScheduler (Zhang et al., SC'20)"
Server = Callable[[Log, int], Int64]
"""(log, processors) -> (J,) s when each job starts."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a policy came to."""

    slowdown: float
    longest_s: int
    mean_s: float
    seconds: float
    """How long it took to find out."""


# -- orders: smaller goes first ---------------------------------------------------------------------------------------
def first_come(log: Log) -> Int64:
    """By submit time."""
    return log.submit


def area(log: Log) -> Int64:
    """What a job asks for, processors x time."""
    return log.request * log.procs


def log_ageing(log: Log, doubling_h: float = 15 * math.log(2)) -> Int64:
    """Submit time and so many hours for each doubling of the area, in milliseconds."""
    shift_h = doubling_h * np.log2(np.maximum(log.request, SHORTEST_S) * log.procs)
    return np.round(1_000 * (log.submit + HOUR_S * shift_h)).astype(np.int64)


def ours_line(log: Log) -> Int64:
    """The shipped order."""
    asked = zip(log.submit.tolist(), log.request.tolist(), log.procs.tolist(), strict=True)
    places = [
        line_position(Order.SHORT_FIRST, at * 1_000, time_s * 1_000, procs * 1_000) for at, time_s, procs in asked
    ]
    return np.array(places, np.int64)


def aligned(log: Log, doubling_h: float) -> Int64:
    """The shipped order with another constant: `log_ageing`, wide jobs together."""
    small = 1_000 * HOUR_S * doubling_h * math.log2(SHORTEST_S)
    place = log_ageing(log, doubling_h) - round(small)
    slot = TOGETHER_H * HOUR_S * 1_000
    return np.where(log.procs >= WIDE_PROCS, -(-place // slot) * slot, place)


def run_time(log: Log) -> Int64:
    """By what is asked for."""
    return log.request


def f1(log: Log) -> Float64:
    """log10(run time) x processors + 870 log10(submit time)."""
    score: Float64 = np.log10(np.maximum(log.request, 1)) * log.procs + F1_WEIGHT * np.log10(np.maximum(log.submit, 1))
    return score


# -- policies ---------------------------------------------------------------------------------------------------------
def in_published_loop(jumping: Jumping, score: Callable[[Log], Int64 | Float64]) -> Server:
    """The loop that binds itself to the job it picked."""
    return lambda log, procs: serve_published(log, score(log).astype(np.float64), procs, jumping)


def decided_anew(
    line: Callable[[Log], Int64], others: Callable[[Log], Int64], reservations: int = 1, *, headroom: bool = False
) -> Server:
    """The loop that decides at every event."""

    def served(log: Log, procs: int) -> Int64:
        rule = Rule(reservations, -(-procs // HEADROOM) if headroom else 0, SHORT_MS // 1_000)
        return serve(log, line(log), others(log), procs, rule)

    return served


def ours(log: Log, procs: int, predictor: Callable[[], Predictor] | None = None) -> Int64:
    """The shipped planner: one machine of `procs` processors, in virtual time.

    Everybody is one user, so that the line is what is measured and not fairness; with a `predictor`, that user has a
    sort of job for each user of the log.
    """
    machine = resources(("cpu", "", procs * 1_000))
    engines = tuple(f"of-{user}" for user in sorted(set(log.user.tolist()))) if predictor else ("command",)
    agent = AgentRow(
        key=(HubId("machine"), AgentId("main")),
        hub_state=HubState.ACTIVE,
        link=LinkState.ONLINE,
        nodes=(Node("machine", machine, machine),),
        engines=engines,
    )
    history = [
        HistoricJob(
            QueuedJob(
                job_id=f"job-{at:07d}",
                seq=at,
                home_hub="machine",
                project="log",
                user="everybody",
                engine=f"of-{log.user[at]}" if predictor else "command",
                per_task=resources(("cpu", "", int(log.procs[at]) * 1_000)),
                runtime_limit_ms=max(1, int(log.request[at]) * 1_000),
                submitted_ms=int(log.submit[at]) * 1_000,
            ),
            max(1, int(log.run[at]) * 1_000),
        )
        for at in range(len(log.run))
    ]
    outcome = Replay([agent], Policy(order=Order.SHORT_FIRST), predictor=predictor).run(history)
    begun = [job.start_ms for job in outcome.jobs]
    assert None not in begun, "the planner left a job of the log waiting for ever"
    return np.array(begun, np.int64) // 1_000


NOBODY, STRICT, EASY = Jumping(False, False), Jumping(True, False), Jumping(True, True)
POLICIES: dict[str, Server] = {
    "fcfs_no_backfill": in_published_loop(NOBODY, first_come),
    "sjf_no_backfill": in_published_loop(NOBODY, run_time),
    "f1_no_backfill": in_published_loop(NOBODY, f1),
    "fcfs": in_published_loop(STRICT, first_come),
    "sjf": in_published_loop(STRICT, run_time),
    "f1": in_published_loop(STRICT, f1),
    "fcfs_easy": in_published_loop(EASY, first_come),
    "sjf_easy": in_published_loop(EASY, run_time),
    "f1_easy": in_published_loop(EASY, f1),
    "fcfs_anew": decided_anew(first_come, first_come),
    "fcfs_conservative": decided_anew(first_come, first_come, LENGTH),
    "shortest_area": decided_anew(area, area),
    "log_ageing": decided_anew(log_ageing, area),
    "ours_loop": decided_anew(ours_line, ours_line, headroom=True),
    "ours": ours,
    "ours_predicting": partial(ours, predictor=Runtimes),
}
LOOPS = {"fcfs": "published", "sjf": "published", "f1": "published"}


def options(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("--swf", type=Path, help="a log, plain or .gz (default: lublin_256 in the traces' folder)")
    parser.add_argument("--procs", type=int, default=256, help="processors of the machine (default 256)")
    parser.add_argument("--protocol", choices=("rlscheduler", "whole"), default="rlscheduler")
    parser.add_argument("--starts-seed", type=int, default=1, help="1: as published; 2, 3: others")
    parser.add_argument("--starts-count", type=int, default=STARTS, help="windows (default 10, as published)")
    parser.add_argument("--policy", default="all", help=f"one or several, by commas, of {', '.join(POLICIES)}, or all")
    parser.add_argument(
        "--request-factor", default="", help="ask for so many times the run time: 1, 5, or 2-20 for one by job"
    )
    parser.add_argument("--traces", type=Path, default=Path("../shared/traces"), help="folder with swf/*.swf.gz")
    parser.add_argument("--plot", type=Path, help="draw slowdown against longest wait into this SVG file")


def measure(chosen: argparse.Namespace) -> None:
    """Print the figures, the table, and the chart."""
    log = longer_requests(_log(chosen), chosen.request_factor)
    windows = [log]
    if chosen.protocol == "rlscheduler":
        count = min(chosen.starts_count, STARTS_QUICK) if chosen.quick else chosen.starts_count
        windows = [log.window(start) for start in starts(len(log.run), chosen.starts_seed, count)]
    names = list(POLICIES) if chosen.policy == "all" else chosen.policy.split(",")
    if chosen.policy == "all" and (log.user < 0).all():
        names.remove("ours_predicting")  # it needs to know whose jobs they are
    unknown = [name for name in names if name not in POLICIES]
    if unknown:
        raise invalid(f"no policy {unknown[0]!r}", hint=f"Use {', '.join(POLICIES)}, or all.", field="policy")
    config: dict[str, Value] = {
        "trace": log.name,
        "procs": chosen.procs,
        "protocol": chosen.protocol,
        "request_factor": chosen.request_factor or "as in the log",
    }
    if chosen.protocol == "rlscheduler":
        config |= {"starts_seed": chosen.starts_seed, "starts": len(windows)}
    as_published = log.name == TRACE and config.get("starts") == STARTS and chosen.starts_seed == 1
    as_published = as_published and chosen.request_factor in ("", "1")
    yardstick = outcome_of(POLICIES["sjf"], windows, chosen.procs)
    found: dict[str, Outcome] = {}
    for name in names:
        found[name] = yardstick if name == "sjf" else outcome_of(POLICIES[name], windows, chosen.procs)
        paper = PUBLISHED.get(name) if as_published else None
        for figure in figures(name, found[name], yardstick, config, paper):
            emit(figure)
    _say(found, as_published)
    if chosen.plot:
        write_chart(chosen.plot, chart(windows, chosen.procs, found))
        say(f"drawn into {chosen.plot}")


def _log(chosen: argparse.Namespace) -> Log:
    """The log asked for; the one in the traces' folder; or a stand-in, and a word about it."""
    if chosen.swf is not None:
        return read(chosen.swf, chosen.procs)
    for name in (f"{TRACE}.swf.gz", f"{TRACE}.swf"):
        path = chosen.traces / "swf" / name
        if path.exists():
            return read(path, chosen.procs)
    say(f"no {TRACE}.swf in {chosen.traces}/swf: a drawn log of the same kind stands in. What to get: {SOURCES}.")
    return synthetic(JOBS_SYNTHETIC, chosen.procs, LOAD_SYNTHETIC, seed=1)


def outcome_of(server: Server, windows: list[Log], procs: int) -> Outcome:
    """Mean over jobs, then over windows; the longest wait of all."""
    began_s = time.monotonic()
    slowdowns, longest, means = [], 0, []
    for log in windows:
        wait = server(log, procs) - log.submit
        slowdowns.append(float(np.maximum(1.0, (wait + log.run) / np.maximum(log.run, SHORTEST_S)).mean()))
        longest = max(longest, int(wait.max()))
        means.append(float(wait.mean()))
    return Outcome(float(np.mean(slowdowns)), longest, float(np.mean(means)), time.monotonic() - began_s)


def figures(
    name: str, found: Outcome, yardstick: Outcome, config: dict[str, Value], paper: float | None
) -> tuple[Figure, Figure]:
    """Both figures of a policy: against what was published of it, else against SJF in the published loop."""
    about = {**config, "policy": name}
    named = Baseline("SJF, published loop", yardstick.slowdown)
    if paper is not None:
        named = Baseline(PAPER, paper, "published")
    return (
        Figure("backfill", "mean_bounded_slowdown", found.slowdown, "1", "lower", named, found.seconds, about),
        Figure(
            "backfill", "longest_wait_s", found.longest_s, "s", "lower",
            Baseline("SJF, published loop", yardstick.longest_s), found.seconds, about,
        ),
    )  # fmt: skip


def _say(found: dict[str, Outcome], as_published: bool) -> None:
    say(f"{'policy':<18}{'slowdown':>10}{'published':>11}{'longest wait':>14}{'mean wait':>11}{'took':>9}")
    for name, outcome in found.items():
        paper = f"{PUBLISHED[name]:.2f}" if as_published and name in PUBLISHED else ""
        say(
            f"{name:<18}{outcome.slowdown:>10.2f}{paper:>11}{outcome.longest_s / HOUR_S:>12.1f} h"
            f"{outcome.mean_s / HOUR_S:>9.1f} h{outcome.seconds:>7.1f} s"
        )
    if as_published:
        say(f"learned (RLScheduler, published){LEARNED:>8.2f}")


def chart(windows: list[Log], procs: int, found: dict[str, Outcome]) -> Chart:
    """Curves over the hours in line for each doubling, and what was measured as dots."""

    def point(outcome: Outcome) -> tuple[float, float]:
        return (outcome.longest_s / HOUR_S, outcome.slowdown)

    def curve(name: str, server: Callable[[float], Server]) -> Series:
        points = [point(outcome_of(server(hours), windows, procs)) for hours in SWEEP_H]
        return Series(name, tuple(sorted(points)))

    def shipped(hours: float, reservations: int = 1) -> Server:
        line = partial(aligned, doubling_h=hours)
        return decided_anew(line, line, reservations, headroom=True)

    def plain(hours: float) -> Server:
        return decided_anew(partial(log_ageing, doubling_h=hours), area)

    series = [
        curve("ours, other hours a doubling", shipped),
        curve("log ageing alone", plain),
        curve("ours, all reserved", partial(shipped, reservations=LENGTH)),
    ]
    published = [point(found[name]) for name in LOOPS if name in found]
    known = [point(found[name]) for name in ("fcfs_anew", "shortest_area", "log_ageing") if name in found]
    mine = [point(found[name]) for name in ("ours", "ours_loop") if name in found][:1]
    for name, points in (("published FCFS, SJF, F1", published), ("known orders", known), ("ours, shipped", mine)):
        if points:
            series.append(Series(name, tuple(points), dots=True))
    over = "whole log" if len(windows) == 1 else f"{len(windows)} windows"
    title = f"Slowdown against longest wait, {windows[0].name.partition('@')[0]}, {over}"
    return Chart(title, "longest wait, hours", "mean bounded slowdown", tuple(series), y_log=True)
