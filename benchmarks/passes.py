"""How long does a whole round of the planner take, and what does a waiting job cost in memory?

A federation of 200 hubs that is full: jobs of 64 shapes run on every machine, and 100,000 others wait, of 2,000 users
with five sorts of job each, in three classes, one sort in three a gang, one in five with a hub of its choice, limits
from ten minutes to three days.
Every round some hundred jobs come, some hundred end and post their use, and what the round before placed has started: then everything is
decided anew, order, gangs, promised starts and backfill, and the reasons of every sort. A round is `plan_round`, the
door that the live federation uses, from the delta to the Plan; its time is CPU time of its thread, so that a shared
machine does not count (the wall clock is told beside it).

The baseline is the same round by a planner that remembers nothing: everything is handed over as one delta and decided
with the same kernels. That is what a scheduler without incremental state does every cycle; a plain sorted scan would
decide less (no gangs, promises or reasons), so beating it would say nothing. Memory is counted by `tracemalloc` while
the jobs are queued, with the index by id and all columns, without the text of the ids, which the caller holds anyway.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import time
import tracemalloc
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.apparatus import fleets, live
from benchmarks.apparatus.compiling import rounds_compiled_meanwhile
from benchmarks.apparatus.plot import Chart, Series, write_chart
from benchmarks.figures import Baseline, Figure, emit, median, percentile, say
from federation.app.collecting import spare_the_collector
from federation.domain.quantities import Resources
from federation.scheduling import Delta, Plan, PlannerState, Policy, plan_round
from federation.scheduling.checks import QUEUED_MAX
from federation.scheduling.rows import DeltaCollector, LeaseRow, QueuedJob, UsageRow

HUBS, CLASSES = 200, 64
USERS_PER_HUB, HABITS = 10, 5
USUAL, LARGE = 100_000, 1_000_000
ROUNDS, ROUNDS_QUICK = 60, 12
ROUNDS_LARGE, ROUNDS_LARGE_QUICK = 20, 3
REBUILDS = 1
CHURN = 300
"""Jobs that come, and runs that end, between two rounds."""
STEP_MS = 10_000
SEED = 42
MINUTE_MS = 60_000
LIMITS_MS = tuple(minutes * MINUTE_MS for minutes in (10, 30, 60, 240, 1_440, 4_320))
GANGS = (1, 1, 1, 1, 1, 1, 2, 4, 8)
WAITED_MS = 24 * 3_600_000
BEGIN_MS = 1_000_000_000
PUBLISHED = (
    ("Firmament, 12,500 machines, sub-second placement (OSDI'16)", 1.0),
    ("Armada, cycle of its scheduler", 1.0),
    ("Borg, online scheduling pass (EuroSys'15)", 0.5),
)


def options(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument(
        "--queued", type=int, help="jobs that wait; when left out, 100,000 and, unless --quick, then 1,000,000"
    )
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--hubs", type=int, default=HUBS)
    parser.add_argument("--rounds", type=int, help="rounds that are measured")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw each round's time")


class Measured(NamedTuple):
    """Seconds of CPU and of the clock, round by round; bytes of a queued job; seconds of a rebuild."""

    cpu_s: list[float]
    wall_s: list[float]
    bytes_each: float
    rebuilt_s: float
    placed: int


def measure(chosen: argparse.Namespace) -> None:
    """Print three figures for each length of the queue."""
    lengths = [chosen.queued] if chosen.queued else [USUAL] if chosen.quick else [USUAL, LARGE]
    series = []
    for queued in lengths:
        began_s = time.monotonic()
        rounds = chosen.rounds or rounds_for(queued, quick=chosen.quick)
        found = measured(queued, chosen.nodes, chosen.hubs, rounds, chosen.seed)
        seconds = time.monotonic() - began_s
        config: dict[str, str | int | float | bool] = {
            "queued": queued, "nodes": chosen.nodes, "hubs": chosen.hubs, "shapes": CLASSES, "rounds": rounds,
            "churn": CHURN, "placed": found.placed, "seed": chosen.seed, "clock": "thread CPU time",
            "wall_p50_s": round(median(found.wall_s), 4),
        }  # fmt: skip
        rebuilt = Baseline("the same round from nothing (no incremental state)", found.rebuilt_s)
        p50, p99 = median(found.cpu_s), percentile(found.cpu_s, 99)
        emit(Figure("passes", "round_p50_s", p50, "s", "lower", rebuilt, seconds, config))
        emit(Figure("passes", "round_p99_s", p99, "s", "lower", rebuilt, seconds, config))
        row = Baseline("a row of the queue as Python objects", row_bytes(chosen.seed))
        emit(Figure("passes", "bytes_per_queued_job", found.bytes_each, "B", "lower", row, seconds, config))
        say(
            f"{queued:,} wait on {chosen.nodes:,} nodes: p50 {p50:.3f} s, p99 {p99:.3f} s, from nothing {found.rebuilt_s:.1f} s"
        )
        series.append(Series(f"{queued:,} wait", tuple((float(at), value) for at, value in enumerate(found.cpu_s))))
    for name, value_s in PUBLISHED:
        say(f"published, not measured here: {name}: {value_s} s")
    if chosen.plot:
        write_chart(chosen.plot, Chart("A round of the planner", "round", "seconds of CPU", tuple(series), y_log=True))


def rounds_for(queued: int, *, quick: bool) -> int:
    """How many rounds are measured."""
    if queued > QUEUED_MAX // 4:
        return ROUNDS_LARGE_QUICK if quick else ROUNDS_LARGE
    return ROUNDS_QUICK if quick else ROUNDS


def measured(queued: int, nodes: int, hubs: int, rounds: int, seed: int) -> Measured:
    """A full federation with so many waiting, then so many rounds of churn, then everything once from nothing."""
    with rounds_compiled_meanwhile():
        taken = bytes_each(queued, nodes, hubs, seed)
    crowd = Crowd.of(nodes, hubs, seed)
    crowd.fill(queued)
    spare_the_collector()  # as the control plane does once its world is loaded
    policy = Policy()
    cpu_s: list[float] = []
    wall_s: list[float] = []
    for _ in range(rounds + 2):
        delta = crowd.step()
        began_s, began_cpu_s = time.perf_counter(), time.thread_time()
        crowd.state, plan = plan_round(crowd.state, delta, policy, crowd.now_ms)
        cpu_s.append(time.thread_time() - began_cpu_s)
        wall_s.append(time.perf_counter() - began_s)
        crowd.start(plan)
    full = crowd.state.full()
    rebuilt_s = []
    for _ in range(REBUILDS):
        began_cpu_s = time.thread_time()
        plan_round(PlannerState(), full, policy, crowd.now_ms)
        rebuilt_s.append(time.thread_time() - began_cpu_s)
    return Measured(cpu_s[2:], wall_s[2:], taken, median(rebuilt_s), crowd.placed)


class Habit(NamedTuple):
    """A sort of job that a user submits again and again."""

    per_task: Resources
    replicas: int
    preemptible: bool
    prefers: int
    """A hub, -1: none."""


@dataclass(slots=True)
class Crowd:
    """A federation in motion."""

    rng: np.random.Generator
    hubs: list[str]
    habits: dict[int, list[Habit]]
    """Each user's, by number."""
    state: PlannerState = field(default_factory=PlannerState)
    running: dict[str, LeaseRow] = field(default_factory=dict)
    coming: DeltaCollector = field(default_factory=DeltaCollector)
    now_ms: int = BEGIN_MS
    jobs: int = 0
    full: bool = False
    """From then on jobs come as time goes on; those that wait by then came during the last day."""
    placed: int = 0

    @classmethod
    def of(cls, nodes: int, hubs: int, seed: int) -> Crowd:
        """An idle federation that the planner knows."""
        rng = np.random.default_rng((seed, nodes, hubs))
        fleet, demand = fleets.fleet(nodes, hubs, seed), fleets.demand(CLASSES, seed)
        names = live.hub_names(hubs)
        shapes = live.shapes_of(demand)
        crowd = cls(rng, names, {user: habits_of(rng, shapes, demand, hubs) for user in range(hubs * USERS_PER_HUB)})
        crowd.state, _ = plan_round(crowd.state, Delta(agents=live.agents_of(fleet, names)), Policy(), crowd.now_ms)
        return crowd

    def fill(self, queued: int) -> None:
        """Start jobs until the federation is full, then have so many wait."""
        for _ in range(20):
            self.arrive(5_000)
            self.state, plan = plan_round(self.state, self.coming.take(), Policy(), self.now_ms)
            self.start(plan)
            if len(plan.placements) < CHURN:
                break
        self.wait(queued)
        self.full = True

    def wait(self, queued: int) -> None:
        """So many wait from now on: more came during the last day, or those that are too many went away."""
        self.state.apply(self.coming.take())
        more = queued - len(self.state.queue)
        was_full, self.full = self.full, False
        came = tuple(self.job() for _ in range(more))
        self.full = was_full
        went = tuple(itertools.islice(self.state.queue.ids(), max(0, -more)))
        self.state.apply(Delta(queued=came, dequeued=went))

    def step(self, churn: int = CHURN) -> Delta:
        """What happened until the next round: so many jobs came, and as many ended."""
        self.now_ms += STEP_MS
        self.arrive(min(churn, QUEUED_MAX - len(self.state.queue)))
        ids = list(self.running)
        for at in self.rng.choice(len(ids), min(churn, len(ids)), replace=False).tolist():
            row = self.running.pop(ids[at])
            self.coming.lease_ended(row.lease_id)
            held_ms = self.now_ms - row.started_ms
            used = tuple((entry.name, entry.amount * len(row.nodes) * held_ms) for entry in row.per_task)
            self.coming.used(UsageRow(row.home_hub, row.project, row.user, used, self.now_ms, row.key[0]))
        return self.coming.take()

    def arrive(self, count: int) -> None:
        """New jobs."""
        for _ in range(count):
            self.coming.queued(self.job())

    def job(self) -> QueuedJob:
        """One more."""
        self.jobs += 1
        user, habit, limit, urgent = self.rng.integers(0, 1 << 30, 4).tolist()
        user %= len(self.habits)
        home, wanted = self.hubs[user // USERS_PER_HUB], self.habits[user][habit % HABITS]
        return QueuedJob(
            job_id=f"job-{self.jobs:09d}",
            seq=self.jobs,
            home_hub=home,
            project=f"project-{user % 3}",
            user=f"user-{user}",
            engine="command",
            per_task=wanted.per_task,
            replicas=wanted.replicas,
            priority=(2, 3, 3, 3, 4)[urgent % 5],
            hubs_prefer=(self.hubs[wanted.prefers],) if wanted.prefers >= 0 else (),
            runtime_limit_ms=LIMITS_MS[limit % len(LIMITS_MS)],
            submitted_ms=self.now_ms - (0 if self.full else int(self.rng.integers(0, WAITED_MS))),
            preemptible=wanted.preemptible,
        )

    def start(self, plan: Plan) -> None:
        """What a plan placed runs before the next round."""
        self.placed += len(plan.placements)
        for entry in plan.placements:
            job = self.state.job(entry.job_id)
            row = LeaseRow(
                lease_id=f"lease-{entry.job_id}",
                job_id=entry.job_id,
                key=entry.key,
                nodes=entry.nodes,
                per_task=job.per_task,
                home_hub=job.home_hub,
                project=job.project,
                user=job.user,
                expires_ms=self.now_ms + job.runtime_limit_ms,
                started_ms=self.now_ms,
                devices=entry.devices,
            )
            self.running[row.lease_id] = row
            self.coming.lease_started(row)


def habits_of(rng: np.random.Generator, shapes: list[Resources], demand: fleets.Demand, hubs: int) -> list[Habit]:
    """What one user submits: shapes as often as the federation asks for them."""
    return [
        Habit(
            shapes[int(rng.choice(len(shapes), p=demand.weights))],
            int(rng.choice(GANGS)),
            bool(rng.random() < 0.25),
            int(rng.integers(0, hubs)) if rng.random() < 0.2 else -1,
        )
        for _ in range(HABITS)
    ]


def bytes_each(queued: int, nodes: int, hubs: int, seed: int) -> float:
    """What a federation that knows its machines takes more for each job, when so many begin to wait."""
    warm = Crowd.of(HUBS, HUBS, seed)  # modules that the first job loads are no job's memory
    warm.state.apply(Delta(queued=tuple(warm.job() for _ in range(HUBS))))
    crowd = Crowd.of(nodes, hubs, seed)
    rows = tuple(crowd.job() for _ in range(queued))
    gc.collect()
    tracemalloc.start()
    crowd.state.apply(Delta(queued=rows))
    gc.collect()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return taken / queued


def row_bytes(seed: int) -> float:
    """What a queue of rows as Python objects takes for each, by the same count: 20,000 of them, by id."""
    crowd = Crowd.of(HUBS, HUBS, seed)
    gc.collect()
    tracemalloc.start()
    kept = {job.job_id: job for job in (crowd.job() for _ in range(20_000))}
    gc.collect()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return taken / len(kept)
