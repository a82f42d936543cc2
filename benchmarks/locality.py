"""How many bytes move, and how long do jobs wait, when each job's data lies at some hub?

Philly's arrivals and openb's shapes, as in `completion`; each job reads one of a few hundred datasets, half of them at
the job's own home. A job that runs elsewhere holds its room while its data is staged over the link between the two hubs
(`benchmarks/apparatus/links.py`); its wait is the time from submission to the end of staging. Nothing is cached. Ours is
`plan_round`, told of datasets, of links as they were measured, and that every agent fetches; it decides what moves. Held against: a random hub with room for it when idle;
only the hub where the data lies; and the planner's rule on its own, without fair shares, promises and nodes, to see what there is to be had: go where
there is room as soon as the job has waited for as long as its transfer to there takes (rent, then buy: at most twice the
cost of knowing the future; Karlin et al., "Competitive Snoopy Caching", Algorithmica 1988). These three have each hub's
room in one piece, which no planner has; the rule is run once more on the machines, which ours has too.
"""

from __future__ import annotations

import argparse
import heapq
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.apparatus.links import Links, links, measured
from benchmarks.apparatus.philly import (
    MINUTE_MS,
    Setting,
    Workload,
    machines_of,
    missing,
    options,
    tasks_by_hub,
    workload,
)
from benchmarks.figures import Baseline, Figure, Value, emit, say
from federation.domain.hub import Dataset
from federation.domain.quantities import amount_of
from federation.scheduling import PlannerState, Policy, plan_round
from federation.scheduling.kernels.room import Float64, Int64
from federation.scheduling.plan import Placement
from federation.scheduling.rows import AgentRow, DeltaCollector, LeaseRow, LinkRow
from federation.simulation.clock import Agenda, VirtualClock
from federation.simulation.replay import HistoricJob

__all__ = ["measure", "options"]

NAMES = ("cpu", "memory", "gpu")
WHOLE = Setting(hubs=200, machines=300, jobs=5_000, load=0.9)
QUICK = Setting(hubs=20, machines=30, jobs=1_000, load=0.7)
SEEDS, SEEDS_QUICK = (1, 2, 3), (1,)
DATASETS_PER_HUB = 2
SIZE_BYTES_MEDIAN, SIZE_SPREAD = 4e9, 1.3
POPULARITY = 0.8
"""The k-th dataset is read in proportion to k to the minus this."""
OWN_DATA_SHARE = 0.5
"""Of jobs that read a dataset of their own hub, where there is one and the job fits there."""
OURS, RANDOM, HOME, RULE = "ours", "random hub", "home only", "move once waited as long"
RULE_BY_MACHINE = "the same, machine by machine"
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class DataJob:
    """A job and the data that it reads."""

    job: HistoricJob
    dataset: int
    home: int
    """The row of the hub where the data lies."""
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Course:
    """What became of each job (J,), in order of arrival."""

    wait_ms: Float64
    moved_bytes: Float64

    @property
    def mean_wait_s(self) -> float:
        """From submission to the end of staging."""
        return float(self.wait_ms.mean()) / 1_000

    @property
    def moved_tb(self) -> float:
        """10^12 bytes, all jobs together."""
        return float(self.moved_bytes.sum()) / 1e12


@dataclass(frozen=True, slots=True)
class World:
    """A federation with data and links."""

    agents: tuple[AgentRow, ...]
    jobs: tuple[DataJob, ...]
    true: Links
    measured: Links
    capacity: Int64
    """(H, R)"""
    need: Int64
    """(J, R) of whole gangs."""
    machines: Int64
    """(N, R) what each machine offers, hub by hub."""
    first: Int64
    """(H,) each hub's first machine."""
    possible: Mask
    """(J, H) whether the gang fits the idle hub."""


def measure(chosen: argparse.Namespace) -> None:
    """Print the figures and the table."""
    note = missing(chosen.traces)
    if note and chosen.trace is None:
        say(note)
    setting = QUICK if chosen.quick else WHOLE
    found: dict[str, Course] = {}
    for seed in chosen.seeds or (SEEDS_QUICK if chosen.quick else SEEDS):
        began_s = time.monotonic()
        setting = setting._replace(seed=seed)
        work = workload(chosen.traces, setting, chosen.trace)
        found = courses(world_of(work, seed), seed)
        for name, course in found.items():
            say(f"seed {seed}: {name:24} {course.moved_tb:9.2f} TB moved, mean wait {course.mean_wait_s:9.0f} s")
        for figure in figures(found, setting, work.trace, time.monotonic() - began_s):
            emit(figure)
    if chosen.plot and found:
        plot(chosen.plot, found)


def courses(world: World, seed: int) -> dict[str, Course]:
    """Every policy on one world."""
    dice = np.random.default_rng((seed, 19))
    anywhere = np.asarray([dice.choice(np.flatnonzero(row)) for row in world.possible], np.int64)
    home = np.asarray([of.home for of in world.jobs], np.int64)
    return {
        RANDOM: replayed(world, Pooled(world), anywhere),
        HOME: replayed(world, Pooled(world), home),
        RULE: replayed(world, Pooled(world)),
        RULE_BY_MACHINE: replayed(world, ByMachine(world)),
        OURS: planned(world),
    }


def world_of(work: Workload, seed: int) -> World:
    """Data and links for a workload: datasets lie more often where there are more machines."""
    rng = np.random.default_rng((seed, 23))
    hubs = len(work.agents)
    offered = machines_of(work.agents)
    capacity = np.asarray([[offered[row.key[0]].get(name, 0) for name in NAMES] for row in work.agents], np.int64)
    sizes = np.maximum(1e6, SIZE_BYTES_MEDIAN * rng.lognormal(0.0, SIZE_SPREAD, DATASETS_PER_HUB * hubs)).astype(
        np.int64
    )
    lies = rng.choice(hubs, len(sizes), p=capacity[:, 0] / capacity[:, 0].sum())
    wanted = 1.0 / np.arange(1, len(sizes) + 1) ** POPULARITY
    row_of: dict[str, int] = {row.key[0]: at for at, row in enumerate(work.agents)}
    room = tasks_by_hub(work.agents)
    jobs, possible = [], []
    for job in sorted(work.jobs, key=lambda job: job.row.submitted_ms):
        fits = room(job.row.per_task) >= job.row.replicas
        chances = wanted * fits[lies]
        own = chances * (lies == row_of[job.row.home_hub])
        chances = own if own.any() and rng.random() < OWN_DATA_SHARE else chances
        if not chances.any():
            continue  # no data lies where it would fit: it is not asked for
        dataset = int(rng.choice(len(sizes), p=chances / chances.sum()))
        row = replace(job.row, inputs=((f"data-{dataset}", "1"),))
        jobs.append(DataJob(HistoricJob(row, job.runtime_ms), dataset, int(lies[dataset]), int(sizes[dataset])))
        possible.append(fits)
    agents = tuple(
        replace(
            row,
            fetches=True,
            datasets=tuple(
                Dataset(f"data-{entry}", "1", int(sizes[entry]), "open")
                for entry in np.flatnonzero(lies == at).tolist()
            ),
        )
        for at, row in enumerate(work.agents)
    )
    need = np.asarray([[amount_of(of.job.row.per_task, name) * of.job.row.replicas for name in NAMES] for of in jobs])
    true = links(hubs, seed)
    machines = [[amount_of(node.offered, name) for name in NAMES] for row in agents for node in row.nodes]
    first = np.cumsum([0, *(len(row.nodes) for row in agents)])[:-1]
    return World(
        agents, tuple(jobs), true, measured(true, seed), capacity, need, np.asarray(machines, np.int64), first,
        np.asarray(possible),
    )  # fmt: skip


# -- plain policies ---------------------------------------------------------------------------------------------------
class Pooled:
    """Each hub's room in one piece."""

    def __init__(self, world: World) -> None:
        self._need, self._free = world.need, world.capacity.copy()

    def hubs(self, at: int) -> Mask:
        """(H,) where job `at` fits now."""
        fits: Mask = (self._free >= self._need[at]).all(axis=1)
        return fits

    def take(self, at: int, hub: int) -> None:
        self._free[hub] -= self._need[at]

    def give_back(self, at: int, hub: int) -> None:
        self._free[hub] += self._need[at]


class ByMachine:
    """Tasks on machines, a gang on those that it fills best; GPUs of one machine in one piece."""

    def __init__(self, world: World) -> None:
        self._world, self._free = world, world.machines.copy()
        self._held: dict[int, list[tuple[int, int]]] = {}
        self._replicas = np.asarray([of.job.row.replicas for of in world.jobs])
        self._task = world.need // self._replicas[:, None]

    def hubs(self, at: int) -> Mask:
        """(H,) where job `at` fits now."""
        fits: Mask = np.add.reduceat(self._tasks(at), self._world.first) >= self._replicas[at]
        return fits

    def take(self, at: int, hub: int) -> None:
        tasks, left, held = self._tasks(at), int(self._replicas[at]), []
        ends = [*self._world.first[1:].tolist(), len(tasks)]
        rows = [row for row in range(int(self._world.first[hub]), ends[hub]) if tasks[row]]
        for row in sorted(rows, key=lambda row: int(tasks[row])):
            count = min(left, int(tasks[row]))
            held.append((row, count))
            left -= count
        self._held[at] = held
        self._change(at, -1)

    def give_back(self, at: int, _: int) -> None:
        self._change(at, 1)
        del self._held[at]

    def _change(self, at: int, sign: int) -> None:
        for row, count in self._held[at]:
            self._free[row] += sign * count * self._task[at]

    def _tasks(self, at: int) -> Int64:
        """(N,) how many tasks each machine has room for."""
        wanted = self._task[at] > 0
        tasks: Int64 = (self._free[:, wanted] // self._task[at][wanted]).min(axis=1)
        return tasks


def replayed(world: World, room: Pooled | ByMachine, bound: Int64 | None = None) -> Course:
    """First come, passing over what does not fit, minute by minute.

    `bound` int64 (J,) says at which hub each job runs; without it each goes where it finds room with the shortest
    transfer, as soon as it has waited for as long as that takes.
    """
    jobs = world.jobs
    wait, moved = np.zeros(len(jobs)), np.zeros(len(jobs))
    ends: list[tuple[int, int, int]] = []
    waiting: list[int] = []
    arrived, now_ms = 0, 0
    while arrived < len(jobs) or waiting:
        changed: set[int] = set()
        while ends and ends[0][0] <= now_ms:
            _, at, hub = heapq.heappop(ends)
            room.give_back(at, hub)
            changed.add(hub)
        newest = arrived
        while arrived < len(jobs) and jobs[arrived].job.row.submitted_ms <= now_ms:
            waiting.append(arrived)
            arrived += 1
        still = []
        for at in waiting:
            if bound is not None and at < newest and int(bound[at]) not in changed:
                still.append(at)  # nothing has ended there since it was looked at
                continue
            of = jobs[at]
            hub = _where(world, at, now_ms - of.job.row.submitted_ms, room.hubs(at), bound)
            if hub < 0:
                still.append(at)
                continue
            room.take(at, hub)
            staged_ms = now_ms + float(world.true.transfer_ms(of.size_bytes, of.home)[hub])
            wait[at], moved[at] = staged_ms - of.job.row.submitted_ms, of.size_bytes if hub != of.home else 0
            heapq.heappush(ends, (_minute(staged_ms + of.job.runtime_ms), at, hub))
        waiting = still
        now_ms += MINUTE_MS
    return Course(wait, moved)


def _where(world: World, at: int, waited_ms: int, fits: Mask, bound: Int64 | None) -> int:
    """The hub where job `at`, which `fits` (H,) now, starts; -1 when it goes on waiting."""
    if bound is not None:
        hub = int(bound[at])
        return hub if fits[hub] else -1
    transfers = world.measured.transfer_ms(world.jobs[at].size_bytes, world.jobs[at].home)
    there = world.possible[at] & (transfers <= waited_ms) & fits
    return int(np.argmin(np.where(there, transfers, np.inf))) if there.any() else -1


def _minute(at_ms: float) -> int:
    """The next whole minute: what happens in between is seen then."""
    return -int(-at_ms // MINUTE_MS) * MINUTE_MS


# -- ours -------------------------------------------------------------------------------------------------------------
def planned(world: World) -> Course:
    """Our planner in virtual time; what it places away from the data is staged first, holding its room."""
    return _Planned(world).run()


class _Planned:
    """One run. Arrivals are on the agenda as places in `world.jobs`, ends as lease ids."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._place = {of.job.row.job_id: at for at, of in enumerate(world.jobs)}
        self._hub: dict[str, int] = {row.key[0]: at for at, row in enumerate(world.agents)}
        self._agenda = Agenda[int | str](VirtualClock())
        self._gathered = DeltaCollector()
        self._wait: Float64 = np.zeros(len(world.jobs))
        self._moved: Float64 = np.zeros(len(world.jobs))
        self._waiting = 0

    def run(self) -> Course:
        state, wake_ms = PlannerState(), None
        for row in self._world.agents:
            self._gathered.agent(row)
        for link in self._links():
            self._gathered.link(link)
        for at, of in enumerate(self._world.jobs):
            self._agenda.put(of.job.row.submitted_ms, at)
        while self._next(wake_ms):
            due = wake_ms is not None
            while self._waiting and (self._gathered or due):
                state, plan = plan_round(state, self._gathered.take(), Policy(), self._agenda.clock.now_ms())
                wake_ms, due = plan.wake_ms, False
                for placement in plan.placements:
                    self._start(placement)
            if not self._waiting:
                wake_ms = None
        assert not self._waiting, "every job fits where its data lies"
        return Course(self._wait, self._moved)

    def _next(self, wake_ms: int | None) -> bool:
        """Go on to the next instant at which something happens, or the planner decides anew; False: to none."""
        event_ms = self._agenda.next_ms()
        if wake_ms is not None and (event_ms is None or wake_ms < event_ms):
            self._agenda.clock.advance(wake_ms)
            return True
        for event in self._agenda.take():
            if isinstance(event, str):
                self._gathered.lease_ended(event)
            else:
                self._gathered.queued(self._world.jobs[event].job.row)
                self._waiting += 1
        return event_ms is not None

    def _links(self) -> Iterator[LinkRow]:
        """What is measured of all pairs of hubs."""
        hub_ids = [row.key[0] for row in self._world.agents]
        rates = self._world.measured.bytes_per_s
        for source, target in permutations(range(len(hub_ids)), 2):
            yield LinkRow(hub_ids[source], hub_ids[target], max(1, int(rates[source, target])))

    def _start(self, placement: Placement) -> None:
        now_ms, at = self._agenda.clock.now_ms(), self._place[placement.job_id]
        of, hub = self._world.jobs[at], self._hub[placement.key[0]]
        row = of.job.row
        staging_ms = float(self._world.true.transfer_ms(of.size_bytes, of.home)[hub])
        self._wait[at] = now_ms + staging_ms - row.submitted_ms
        self._moved[at] = 0 if hub == of.home else of.size_bytes
        self._waiting -= 1
        self._gathered.dequeued(row.job_id)
        self._gathered.lease_started(
            LeaseRow(
                lease_id=f"lease-{at}", job_id=row.job_id, key=placement.key, nodes=placement.nodes,
                per_task=row.per_task, home_hub=row.home_hub, project=row.project, user=row.user,
                expires_ms=now_ms + int(staging_ms) + row.runtime_limit_ms, started_ms=now_ms,
                devices=placement.devices, priority=row.priority,
            )
        )  # fmt: skip
        self._agenda.put(_minute(now_ms + staging_ms + of.job.runtime_ms), f"lease-{at}")


# -- figures ----------------------------------------------------------------------------------------------------------
def figures(of: dict[str, Course], setting: Setting, trace: str, seconds: float) -> list[Figure]:
    """Bytes against a random hub's, wait against each of the others; `best` marks the best of these."""
    config: dict[str, Value] = {
        "trace": trace, "hubs": setting.hubs, "jobs": len(of[OURS].wait_ms), "load": setting.load,
        "seed": setting.seed, "policy": OURS,
    }  # fmt: skip
    best = min((RANDOM, HOME, RULE, RULE_BY_MACHINE), key=lambda name: of[name].mean_wait_s)
    found = [
        Figure(
            "locality", "moved_tb", of[OURS].moved_tb, "TB", "lower", Baseline(name, of[name].moved_tb), seconds, config
        )
        for name in (RANDOM, RULE, RULE_BY_MACHINE)
    ]
    found += [
        Figure(
            "locality", "mean_wait_s", of[OURS].mean_wait_s, "s", "lower", Baseline(name, of[name].mean_wait_s), seconds,
            {**config, "best": name == best},
        )
        for name in (RANDOM, HOME, RULE, RULE_BY_MACHINE)
    ]  # fmt: skip
    return found


def plot(path: Path, of: dict[str, Course]) -> None:
    """How long jobs waited, by policy."""
    from benchmarks.apparatus.plot import Chart, Series, write_chart

    percents = np.arange(2, 100, 2)
    series = [Series(f"{name}, {course.moved_tb:.1f} TB", _points(course, percents)) for name, course in of.items()]
    write_chart(
        path,
        Chart(
            "Waiting for room and data", "minutes from submission to the start", "% of jobs", tuple(series), x_log=True
        ),
    )


def _points(course: Course, percents: Sequence[int] | Int64) -> tuple[tuple[float, float], ...]:
    waits = np.maximum(np.percentile(course.wait_ms, percents) / MINUTE_MS, 0.5)
    return tuple((float(wait), float(percent)) for wait, percent in zip(waits, percents, strict=True))
