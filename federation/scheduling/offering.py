"""Where a class fits at a time to come, and whether it may stay longer: pure answers for whoever keeps a timetable.

An offer is a promise only once it is a window of the planner's: put it into the next delta, before the next round. What
runs is expected to run until its limit. Nobody's promised start is in a class's way: in the next round it is
promised anew, around the window. Deliberately not here: timetables, who may reserve, and what a window holds (`windows.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from federation.domain.ids import AgentKey
from federation.domain.job import REPLICAS_MAX, Reason
from federation.domain.plan import ReasonCode
from federation.errors import invalid
from federation.scheduling import words
from federation.scheduling.explaining import lasting_steps
from federation.scheduling.kernels.gangs import place_packed, place_spread, tasks_at
from federation.scheduling.kernels.room import Int64
from federation.scheduling.plan import LADDER, demand_key
from federation.scheduling.rows import QueuedJob, WindowRow
from federation.scheduling.state import PlannerState
from federation.scheduling.windows import Course, Running, running


class Seating(NamedTuple):
    """Seats at one agent: the machine, and the places of the GPUs, of each."""

    key: AgentKey
    nodes: tuple[str, ...]
    devices: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Offer:
    """Where a class fits, best first: as its people like it, then the least loaded, then by name. Else why nowhere."""

    places: tuple[Seating, ...]
    reasons: tuple[Reason, ...] = ()
    """Of agents where it does not fit, by agent."""
    earliest_ms: int = 0
    """Where it fits nowhere: when it does, for as long, after the start that was asked for; 0: nobody can say."""
    earliest_hub_id: str = ""


@dataclass(frozen=True, slots=True)
class Extension:
    """`row` is the window as it may be from now on; None: it may not, for `reasons`."""

    row: WindowRow | None
    until_ms: int
    """Until when it may last at most, of what was asked for."""
    reasons: tuple[Reason, ...] = ()


def offer(state: PlannerState, demand: QueuedJob, seats: int, start_ms: int, end_ms: int, now_ms: int) -> Offer:
    """Where `seats` tasks as in `demand` have room at one agent, all of them, from `start_ms` until `end_ms`.

    `demand` is one student's job: where it may run at all, what it likes, and how long it may run count as for any
    job. Errors: INVALID_ARGUMENT for times that end before they begin or before now, and seats out of range.
    """
    if not max(start_ms, now_ms) < end_ms:
        raise invalid("the class ends before it begins, or is over", hint="Give an end that is still to come.")
    if not 1 <= seats <= REPLICAS_MAX:
        raise invalid(f"{seats} seats are out of range", hint=f"Use 1 to {REPLICAS_MAX}.", field="seats")
    asked = _Asked(state, replace(demand, replicas=1), seats, max(start_ms, now_ms), end_ms, _courses(state, now_ms))
    lasting = lasting_steps(state, asked.demand)
    liking = state.demands.feasibility.liking(demand.home_hub, demand.hubs_prefer)
    loads = state.fleet.loads()
    found: list[tuple[int, float, AgentKey, Seating]] = []
    reasons: list[Reason] = []
    for agent, key in enumerate(state.fleet.keys):
        course = asked.courses[agent]
        room = course.open(asked.start_ms, end_ms)
        if lasting[agent]:
            reasons.append(_lasting_reason(asked, agent, LADDER[int(lasting[agent])]))
        elif asked.fits(course, room) >= seats:
            found.append((int(liking[agent]), float(loads[agent]), key, asked.seating(course, room)))
        else:
            reasons.append(_in_the_way(asked, course, asked.fits(course, room)))
    if found:
        return Offer(tuple(place for *_, place in sorted(found)), tuple(reasons))
    later = [(at_ms, agent) for agent in np.flatnonzero(lasting == 0).tolist() if (at_ms := asked.earliest(agent))]
    if not later:
        return Offer((), tuple(reasons))
    at_ms, agent = min(later)
    return Offer((), tuple(reasons), at_ms, state.fleet.keys[agent][0])


def extend(state: PlannerState, window_id: str, end_ms: int, now_ms: int) -> Extension:
    """Whether a window may last until `end_ms`, on the same machines. Errors: INVALID_ARGUMENT: it is over."""
    row = state.windows.rows.get(window_id)
    if row is None:
        raise invalid(f"there is no window {window_id!r}", hint="Ask for a new one.", window=window_id)
    if row.end_ms <= now_ms or end_ms <= row.start_ms:
        raise invalid(f"window {window_id!r} is over, or would end before it begins", hint="Ask for a new one.")
    if end_ms <= row.end_ms or row.key not in state.fleet.index:
        return Extension(replace(row, end_ms=end_ms, no_show_ms=min(row.no_show_ms, end_ms)), end_ms)
    agent = state.fleet.index[row.key]
    longer = replace(row, end_ms=end_ms, no_show_ms=end_ms if row.no_show_ms == row.end_ms else row.no_show_ms)
    course = _courses(state, now_ms, {window_id: longer})[agent]
    for at_ms in (row.end_ms, *(at for at in course.starts(row.end_ms) if at < end_ms)):
        if (course.open_at(at_ms)[course.inside(longer, at_ms) > 0] < 0).any():
            others = [one for one in course.windows if one.window_id != window_id]
            return Extension(None, at_ms, tuple(_blockers(course, others, at_ms, end_ms, frozenset(row.nodes))))
    return Extension(longer, end_ms)


class _Asked(NamedTuple):
    """One question, and all agents' machines over time."""

    state: PlannerState
    demand: QueuedJob
    seats: int
    start_ms: int
    end_ms: int
    courses: list[Course]

    def fits(self, course: Course, room: Int64) -> int:
        """How many seats a room has room for, up to as many as were asked for."""
        fleet = self.state.fleet
        if not fleet.possible(self.demand.per_task):
            return 0
        nodes, shape = fleet.room(), fleet.shapes.id_of(self.demand.per_task)
        course.write(room, nodes)
        return int(tasks_at(nodes, fleet.shapes.arrays, shape, course.begin, course.end, self.seats))

    def seating(self, course: Course, room: Int64) -> Seating:
        """The seats' places in a room that is large enough."""
        fleet = self.state.fleet
        nodes, shape = fleet.room(), fleet.shapes.id_of(self.demand.per_task)
        course.write(room, nodes)
        wanted = int(fleet.shapes.arrays.devices[shape])
        rows, devices = np.zeros(self.seats, np.int64), np.zeros(self.seats * wanted, np.int64)
        place = place_spread if self.demand.spread else place_packed
        taste = fleet.taste(self.state.lore.tables)
        place(nodes, fleet.shapes.arrays, taste, shape, (course.begin, course.end), rows, devices)
        places = [
            tuple(device - int(fleet.device_first[node]) for device in held)
            for node, held in zip(rows.tolist(), devices.reshape(self.seats, wanted).tolist(), strict=True)
        ]
        names = tuple(fleet.node_names[node] for node in rows.tolist())
        return Seating(fleet.keys[course.agent], names, tuple(places) if wanted else ())

    def earliest(self, agent: int) -> int:
        """When all seats fit for as long, not before the start that was asked for; 0: never."""
        course, length_ms = self.courses[agent], self.end_ms - self.start_ms
        ends = {run.end_ms for run in course.runs} | {row.end_ms for row in course.windows}
        for at_ms in (self.start_ms, *sorted(end for end in ends if end > self.start_ms)):
            if self.fits(course, course.open(at_ms, at_ms + length_ms)) >= self.seats:
                return at_ms
        return 0


def _courses(state: PlannerState, now_ms: int, instead: dict[str, WindowRow] | None = None) -> list[Course]:
    """All agents' machines over time, with what the last plan starts; `instead`: windows as they might be."""
    runs: dict[AgentKey, list[Running]] = defaultdict(list)
    for lease in state.leases.values():
        runs[lease.key].append(running(lease))
    live = state.windows.live(state.fleet, now_ms)
    found = []
    for agent, key in enumerate(state.fleet.keys):
        rows = [(instead or {}).get(row.window_id, row) for row in live.get(agent, [])]
        found.append(Course(state.fleet, agent, rows, runs[key], now_ms))
    for entry in state.last_plan.placements:
        if entry.key in state.fleet.index and entry.job_id in state.queue and entry.job_id not in state.claims:
            job = state.job(entry.job_id)
            until_ms = now_ms + job.runtime_limit_ms + entry.transfer_ms
            run = Running(until_ms, entry.nodes, job.per_task, entry.devices, job.window)
            found[state.fleet.index[entry.key]].start(run)
    return found


def _lasting_reason(asked: _Asked, agent: int, code: ReasonCode) -> Reason:
    row = asked.state.agents[asked.state.fleet.keys[agent]]
    if code is ReasonCode.SHAPE_NEVER_FITS:
        return words.never_fits([row], demand_key(asked.demand))
    if code is ReasonCode.TAKES_BACK:
        message = "its own users get their machines back sooner than a student's job ends, and it is not preemptible"
        return words.reason(code, message, row.key[0], reclaim_s=row.reclaim_ms // 1000)
    return words.obstacle(code, row, demand_key(asked.demand))


def _in_the_way(asked: _Asked, course: Course, fitting: int) -> Reason:
    """Why an agent that may have the class has not enough room for it: its size, other windows, or what runs."""
    fleet, seats = asked.state.fleet, asked.seats
    hub_id = fleet.keys[course.agent][0]
    idle = asked.fits(course, course.vector_of(fleet.idle))
    if idle < seats:
        message = f"{seats} seats were asked for; there is room for {idle} here when nothing runs"
        return words.reason(ReasonCode.SHAPE_NEVER_FITS, message, hub_id, seats=seats, fit=idle, short_by=seats - idle)
    bare = asked.fits(course, course.free_at(asked.start_ms))
    nodes = frozenset(fleet.node_names[course.begin : course.end])
    if bare < seats:
        late = [run for run in course.runs if run.end_ms > asked.start_ms]
        return _runs_past(hub_id, late, asked.start_ms, f"there is room for {bare} of {seats} seats then")
    in_the_way = _blockers(course, course.windows, asked.start_ms, asked.end_ms, nodes)
    message = f"{in_the_way[0].message}; there is room for {fitting} of {seats} seats beside it"
    return replace(in_the_way[0], message=message)


def _blockers(
    course: Course, windows: Iterable[WindowRow], from_ms: int, until_ms: int, nodes: frozenset[str]
) -> list[Reason]:
    """What holds room on some machines in a stretch of time: windows, each by itself, then all that runs."""
    hub_id = course.key[0]
    found = [
        words.reserved(hub_id, row, course.now_ms)
        for row in windows
        if row.start_ms < until_ms and from_ms < row.end_ms and nodes & set(row.nodes)
    ]
    late = [run for run in course.runs if run.end_ms > from_ms and nodes & set(run.nodes)]
    return [*found, _runs_past(hub_id, late, from_ms, "their room is not free then")] if late else found


def _runs_past(hub_id: str, late: list[Running], at_ms: int, consequence: str) -> Reason:
    last_ms = max((run.end_ms for run in late), default=at_ms)
    message = f"{len(late)} jobs may run past {words.moment(at_ms)} here, the last until {words.moment(last_ms)}: {consequence}"
    leases = ", ".join(sorted(run.lease_id for run in late if run.lease_id)[:10])
    return words.reason(ReasonCode.CAPACITY, message, hub_id, jobs=len(late), until_ms=last_ms, leases=leases)
