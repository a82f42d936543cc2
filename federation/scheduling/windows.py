"""Capacity promised to classes: which windows there are, and what they hold of an agent's machines, now and later.

A window holds, while it lasts, what its seats need on their machines, less what its own leases use there: neither more
starts on top of it, nor does it matter whether a seat is taken. What runs longer than until a window's start has to
leave its room from now on. Where a class fits is in `offering.py`, how its jobs take their seats in `seating.py`.
Deliberately not here: timetables, which are instants already when they come.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from federation.domain.ids import AgentKey
from federation.domain.quantities import Resources
from federation.scheduling.fleet import COLUMNS, SCALARS, Fleet
from federation.scheduling.kernels.room import Int64, Nodes
from federation.scheduling.rows import LeaseRow, WindowRow

if TYPE_CHECKING:
    from federation.scheduling.state import PlannerState

FOREVER_MS = 2**62
NOBODY: Mapping[str, LeaseRow] = {}


class WindowTable:
    """Windows by id, and the leases at their agents."""

    def __init__(self) -> None:
        self.rows: dict[str, WindowRow] = {}
        self._at: dict[AgentKey, dict[str, LeaseRow]] = {}
        """What runs at the agents that have windows, by lease."""

    def put(self, row: WindowRow, leases: Iterable[LeaseRow]) -> None:
        """A window is new or changed; `leases` is all that runs anywhere."""
        before = self.rows.get(row.window_id)
        if before is not None:
            row = replace(row, taken=max(row.taken, before.taken))
            self.end(row.window_id)
        self.rows[row.window_id] = row
        if row.key not in self._at:
            self._at[row.key] = {lease.lease_id: lease for lease in leases if lease.key == row.key}

    def end(self, window_id: str) -> None:
        """A window is over, or called off."""
        row = self.rows.pop(window_id, None)
        if row is not None and not any(other.key == row.key for other in self.rows.values()):
            del self._at[row.key]

    def lease_put(self, lease: LeaseRow) -> None:
        """A lease began, or its end moved."""
        if lease.key in self._at:
            self._at[lease.key][lease.lease_id] = lease

    def lease_ended(self, lease: LeaseRow) -> None:
        """It holds nothing any more."""
        if lease.key in self._at:
            self._at[lease.key].pop(lease.lease_id, None)

    def leases_at(self, key: AgentKey) -> Mapping[str, LeaseRow]:
        """What runs at an agent that has windows."""
        return self._at.get(key, NOBODY)

    def live(self, fleet: Fleet, now_ms: int) -> dict[int, list[WindowRow]]:
        """By agent, the windows that are not over, by start, then by id."""
        found: dict[int, list[WindowRow]] = {}
        for row in self.rows.values():
            agent = fleet.index.get(row.key)
            if agent is not None and now_ms < row.end_ms:
                found.setdefault(agent, []).append(row)
        for rows in found.values():
            rows.sort(key=lambda row: (row.start_ms, row.window_id))
        return found

    def note_taken(self, fleet: Fleet, now_ms: int) -> None:
        """Remember of every window that has begun how many of its seats are taken."""
        for rows in self.live(fleet, now_ms).values():
            for row in rows:
                there = fleet.node_row[fleet.index[row.key]]
                running = tasks_in(row, self.leases_at(row.key).values(), there).total()
                if row.start_ms <= now_ms and running > row.taken:
                    self.rows[row.window_id] = replace(row, taken=min(running, row.seats))

    def next_ms(self, fleet: Fleet, now_ms: int) -> int | None:
        """When a window begins, ends, or gives up seats next; None when none does."""
        instants = [
            at_ms
            for rows in self.live(fleet, now_ms).values()
            for row in rows
            for at_ms in (row.start_ms, row.no_show_ms, row.end_ms)
            if at_ms > now_ms
        ]
        return min(instants, default=None)


def tasks_in(row: WindowRow, leases: Iterable[LeaseRow], there: Mapping[str, int]) -> Counter[str]:
    """By machine, how many tasks with this window run on the machines that it has seats on, of those that are `there`."""
    seats = there.keys() & set(row.nodes)
    own = (lease.nodes for lease in leases if lease.window == row.window_id and lease.key == row.key)
    return Counter(name for nodes in own for name in nodes if name in seats)


def kept_seats(row: WindowRow, tasks: Mapping[str, int], now_ms: int) -> list[int]:
    """The seats that are held: all; after the no-show those where tasks run, and as many as were ever taken, the first."""
    if now_ms < row.no_show_ms or row.no_show_ms == row.end_ms:
        return list(range(row.seats))
    left, kept = dict(tasks), []
    for seat, name in enumerate(row.nodes):
        if left.get(name, 0):
            left[name] -= 1
            kept.append(seat)
    most = min(row.seats, max(row.taken, sum(tasks.values())))
    others = [seat for seat in range(row.seats) if seat not in set(kept)]
    return sorted(kept + others[: most - len(kept)])


class Running(NamedTuple):
    """What holds room until `end_ms` at the latest."""

    end_ms: int
    nodes: tuple[str, ...]
    per_task: Resources
    devices: tuple[tuple[int, ...], ...]
    window: str
    lease_id: str = ""


def running(lease: LeaseRow) -> Running:
    """A lease as that."""
    return Running(lease.expires_ms, lease.nodes, lease.per_task, lease.devices, lease.window, lease.lease_id)


class Course:
    """One agent's machines over time: what is free, and what windows hold.

    Room is a vector int64 (nodes x R + devices,): what each machine has of each scalar, then the milli of each device.
    """

    def __init__(
        self, fleet: Fleet, agent: int, windows: Sequence[WindowRow], runs: Sequence[Running], now_ms: int
    ) -> None:
        """`runs` are the leases there: what they hold is off the fleet's room already."""
        self._fleet, self.agent, self.now_ms, self.runs = fleet, agent, now_ms, list(runs)
        self.key = fleet.keys[agent]
        self.windows = list(windows)
        self.begin, self.end = int(fleet.first[agent]), int(fleet.first[agent + 1])
        self._devices = (int(fleet.device_first[self.begin]), int(fleet.device_first[self.end]))
        self.free = self.vector_of(fleet.nodes)
        self._seats = {row.window_id: self._seats_of(row) for row in self.windows}

    def copy(self) -> Course:
        """Another that changes by itself."""
        other = copy(self)
        other.runs, other.free = list(self.runs), self.free.copy()
        return other

    def vector_of(self, room: Nodes) -> Int64:
        """The agent's part of a room."""
        first, last = self._devices
        return np.concatenate((room.free[self.begin : self.end].ravel(), room.device_free[first:last]))

    def write(self, vector: Int64, room: Nodes) -> None:
        """Make the agent's part of a room this."""
        first, last = self._devices
        nodes = self.end - self.begin
        room.free[self.begin : self.end] = vector[: nodes * SCALARS].reshape(nodes, SCALARS)
        room.device_free[first:last] = vector[nodes * SCALARS :]

    def start(self, run: Running) -> None:
        """Something more runs, from now on."""
        self.runs.append(run)
        self._use(self.free, run, -1)

    def stop(self, run: Running) -> None:
        """Something runs no more, from now on."""
        self.runs.remove(run)
        self._use(self.free, run, 1)

    def free_at(self, at_ms: int) -> Int64:
        """What nothing runs on then; what is late is expected a millisecond from now."""
        free = self.free.copy()
        for run in self.runs:
            if self._over(run, at_ms):
                self._use(free, run, 1)
        return free

    def inside(self, row: WindowRow, at_ms: int) -> Int64:
        """What a window holds at an instant at which it lasts: its seats' room less what its own leases use there."""
        own = np.zeros_like(self.free)
        for run in self.runs:
            if run.window == row.window_id and not self._over(run, at_ms):
                self._use(own, run, 1)
        left: Int64 = np.maximum(self._seats[row.window_id] - own, 0)
        return left

    def open_at(self, at_ms: int) -> Int64:
        """What is free and held by no window; below zero where what a window holds is not there."""
        return next(self._open_at_each([at_ms]))

    def open(self, from_ms: int, until_ms: int = FOREVER_MS) -> Int64:
        """What a run may use that goes from `from_ms`, now or later, until `until_ms` at the latest."""
        instants = [from_ms, *(at_ms for at_ms in self.starts(from_ms) if at_ms < until_ms)]
        return reduce(np.minimum, self._open_at_each(instants))

    def seated(self, row: WindowRow, from_ms: int, until_ms: int) -> Int64:
        """The same for a run with a seat: while its window lasts it uses the room that this holds, and no other."""
        inside = self.inside(row, max(row.start_ms, from_ms))
        room = inside.copy()
        instants = [at_ms for at_ms in (from_ms, *self.starts(from_ms)) if at_ms < until_ms]
        for at_ms, is_open in zip(instants, self._open_at_each(instants), strict=True):
            covered = row.start_ms <= at_ms < row.end_ms
            np.minimum(room, is_open + (inside if covered else 0), out=room)
        return room

    def _open_at_each(self, instants: Sequence[int]) -> Iterator[Int64]:
        """`open_at` at instants that ascend, one after the other: what runs is gone through once."""
        free, ending, over = self.free.copy(), sorted(self.runs, key=lambda run: run.end_ms), 0
        for at_ms in instants:
            while over < len(ending) and self._over(ending[over], at_ms):
                self._use(free, ending[over], 1)
                over += 1
            room = free.copy()
            for row in self.windows:
                if row.start_ms <= at_ms < row.end_ms:
                    room -= self.inside(row, at_ms)
            yield room

    @property
    def changes(self) -> int:
        """What windows hold in sum is written down in so many instants at most."""
        return 2 * (len(self.windows) + sum(bool(run.window) for run in self.runs))

    def starts(self, after_ms: int) -> list[int]:
        """When windows begin after an instant, each once, ascending."""
        return sorted({row.start_ms for row in self.windows if row.start_ms > after_ms})

    def next_start(self, row: WindowRow) -> int:
        """When the first window begins after one is over: until then its own jobs have nothing else to leave room for."""
        return min((at_ms for at_ms in self.starts(self.now_ms) if at_ms >= row.end_ms), default=FOREVER_MS)

    def held(self, row: WindowRow) -> list[tuple[int, int, Int64]]:
        """(from, until, amounts (T,)): what a window holds in sum, more wherever a lease of its own ends."""
        from_ms = max(row.start_ms, self.now_ms)
        ends = {max(run.end_ms, self.now_ms + 1) for run in self.runs if run.window == row.window_id}
        held, before = [], np.zeros(len(COLUMNS), np.int64)
        for at_ms in (from_ms, *sorted(end_ms for end_ms in ends if from_ms < end_ms < row.end_ms)):
            amounts = self.totals(self.inside(row, at_ms))
            if (amounts > before).any():
                held.append((at_ms, row.end_ms, amounts - before))
            before = amounts
        return held

    def totals(self, vector: Int64) -> Int64:
        """(T,) of a vector, all machines together."""
        nodes = (self.end - self.begin) * SCALARS
        found = np.zeros(len(COLUMNS), np.int64)
        found[0] = vector[nodes:].sum()
        found[1:] = vector[:nodes].reshape(-1, SCALARS).sum(axis=0)
        return found

    def _over(self, run: Running, at_ms: int) -> bool:
        return max(run.end_ms, self.now_ms + 1) <= at_ms

    def _seats_of(self, row: WindowRow) -> Int64:
        leases = [run for run in self.runs if run.window == row.window_id]
        there = self._fleet.node_row[self.agent]
        tasks = Counter(name for run in leases for name in run.nodes if name in row.nodes and name in there)
        kept = kept_seats(row, tasks, self.now_ms)
        nodes = tuple(row.nodes[seat] for seat in kept)
        devices = tuple(row.devices[seat] for seat in kept) if row.devices else ()
        seats = np.zeros_like(self.free)
        self._use(seats, Running(row.end_ms, nodes, row.per_task, devices, ""), 1)
        return seats

    def _use(self, vector: Int64, run: Running, sign: int) -> None:
        """Add what a run holds; machines that are not there hold nothing."""
        fleet, shape = self._fleet, self._fleet.shapes.id_of(run.per_task)
        rows, shapes = fleet.node_row[self.agent], fleet.shapes.arrays
        base = (self.end - self.begin) * SCALARS - self._devices[0]
        for at, name in enumerate(run.nodes):
            node = rows.get(name)
            if node is None:
                continue
            local = (node - self.begin) * SCALARS
            vector[local : local + SCALARS] += sign * shapes.need[shape]
            if shapes.milli[shape]:
                for device in fleet.held_devices(node, run.per_task, run.devices[at] if run.devices else None):
                    vector[base + device] += sign * shapes.milli[shape]


def courses(state: PlannerState, now_ms: int, started: bool = False) -> dict[int, Course]:
    """Of every agent that has windows. `started`: with what the last plan starts and is not a lease yet."""
    found = {}
    for agent, rows in sorted(state.windows.live(state.fleet, now_ms).items()):
        runs = [running(lease) for lease in state.windows.leases_at(state.fleet.keys[agent]).values()]
        found[agent] = Course(state.fleet, agent, rows, runs, now_ms)
    for entry in state.last_plan.placements if started and found else ():
        agent = state.fleet.index.get(entry.key, -1)
        if agent in found and entry.job_id in state.queue and entry.job_id not in state.claims:
            job = state.job(entry.job_id)
            until_ms = now_ms + job.runtime_limit_ms + entry.transfer_ms
            found[agent].start(Running(until_ms, entry.nodes, job.per_task, entry.devices, job.window))
    return found


def open_room(state: PlannerState, found: Mapping[int, Course]) -> Nodes:
    """What is free for whatever runs however long: what no window holds at any time."""
    if not found:
        return state.fleet.nodes
    room = state.fleet.room()
    for course in found.values():
        course.write(course.open(course.now_ms), room)
    return room
