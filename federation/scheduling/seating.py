"""Seats first, gaps last: two more passes of a round where capacity is promised to classes.

A round's room is what no window holds at any time. Before anybody's turn a class's own jobs start in the room that its
window holds: that is nobody else's, so they are in nobody's way. After everybody's turn, who found no room and is over
before an agent's next window begins may use what it holds until then. Both are the round's own kernel, with the machines
laid open to those jobs alone. Deliberately not here: what windows hold (`windows.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from federation.scheduling.fleet import COLUMNS
from federation.scheduling.kernels.fill import fill
from federation.scheduling.kernels.index import follow
from federation.scheduling.kernels.room import Int32, Int64
from federation.scheduling.kernels.round import NO_ROW, NO_SEAT, PLACEMENTS, Agents, Round
from federation.scheduling.plan import Placement
from federation.scheduling.rows import WindowRow
from federation.scheduling.state import PlannerState
from federation.scheduling.windows import FOREVER_MS, Course, Running, open_room

Decided = Callable[[PlannerState, Round], tuple[Placement, ...]]


def seat_first(state: PlannerState, of: Round, courses: Mapping[int, Course], decided: Decided) -> Round:
    """Start who has a seat; the round for everybody else. `courses` know afterwards what started.

    `decided` puts what the kernels decided so far into words.
    """
    now_ms, done = of.limits.now_ms, 0
    sorts: dict[str, list[int]] = {}
    for key, sort, _ in state.demands.waiting():
        sorts.setdefault(key.window, []).append(sort)
    wanted = {agent: [row for row in of_agent.windows if row.window_id in sorts] for agent, of_agent in courses.items()}
    for turn in range(max(map(len, wanted.values()), default=0)):
        batch = {agent: rows[turn] for agent, rows in wanted.items() if turn < len(rows)}
        open_ms, seats = np.zeros_like(of.work.memo.open), np.full_like(of.work.memo.row, NO_SEAT)
        room = open_room(state, courses)
        for agent, row in batch.items():
            until_ms = courses[agent].next_start(row)
            courses[agent].write(courses[agent].seated(row, now_ms, until_ms), room)
            open_ms[agent] = min(until_ms - now_ms + 1, FOREVER_MS)
            small = [sort for sort in sorts[row.window_id] if _is_small(state, of, sort, row)]
            seats[small] = agent
        follow(of.known, of.work.room, room)
        fill(_pass(of, open_ms, seats))
        done = _note(state, of, courses, decided(state, of), done)
    follow(of.known, of.work.room, open_room(state, courses))
    return of._replace(agents=_with_holds(of.agents, courses))


def fill_gaps(state: PlannerState, of: Round, courses: Mapping[int, Course], decided: Decided, seated: int) -> None:
    """Start who is over before windows begin, where they will be; `seated` is how many had a seat."""
    now_ms = of.limits.now_ms
    _note(state, of, courses, decided(state, of), seated)
    open_ms = np.zeros_like(of.work.memo.open)
    rooms: dict[int, Int64] = {}
    for agent, course in courses.items():
        rooms[agent] = course.open_at(now_ms)
        starts = course.starts(now_ms)
        open_ms[agent] = starts[0] - now_ms + 1 if starts else 0
    done = int(of.out.counters[PLACEMENTS])
    if open_ms.any():
        _lay_open(of, courses, rooms)
        fill(_pass(of, open_ms, of.work.memo.seat))
        _note(state, of, courses, decided(state, of), done)
    _lay_open(of, courses, {agent: course.open(now_ms) for agent, course in courses.items()})


def _note(
    state: PlannerState, of: Round, courses: Mapping[int, Course], placements: tuple[Placement, ...], done: int
) -> int:
    """What started since so many were decided runs from now on; how many are decided now."""
    for entry in placements[done:]:
        job, agent = state.job(entry.job_id), state.fleet.index[entry.key]
        if agent in courses:
            until_ms = of.limits.now_ms + job.runtime_limit_ms + entry.transfer_ms
            courses[agent].start(Running(until_ms, entry.nodes, job.per_task, entry.devices, job.window))
    return len(placements)


def _lay_open(of: Round, courses: Mapping[int, Course], rooms: Mapping[int, Int64]) -> None:
    """Make the room of agents this; nodes that are kept free stay so."""
    before = of.work.room
    room = before._replace(free=before.free.copy(), device_free=before.device_free.copy())
    for agent, vector in rooms.items():
        courses[agent].write(vector, room)
        for node in range(courses[agent].begin, courses[agent].end):
            if of.work.kept[node]:
                devices = slice(room.device_first[node], room.device_first[node + 1])
                room.free[node] = np.minimum(room.free[node], 0)
                room.device_free[devices] = np.minimum(room.device_free[devices], 0)
    follow(of.known, before, room)


def _is_small(state: PlannerState, of: Round, sort: int, row: WindowRow) -> bool:
    """Whether a task of a sort needs no more than a seat is."""
    shapes = state.fleet.shapes
    seat = shapes.totals[shapes.id_of(row.per_task)]
    return bool((shapes.totals[of.sorts.shape[sort]] <= seat).all())


def _pass(of: Round, open_ms: Int64, seats: Int32) -> Round:
    """The round as one pass sees it: nobody is promised anything, and what found no room is tried again afterwards."""
    work, memo = of.work, of.work.memo
    return of._replace(
        line=of.line._replace(due=np.zeros(0, np.int32)),
        limits=of.limits._replace(reservations=0, promise_after_ms=FOREVER_MS),
        work=work._replace(
            memo=memo._replace(
                row=np.full_like(memo.row, NO_ROW),
                sort=np.full_like(memo.sort, NO_ROW),
                next=np.zeros_like(memo.next),
                open=open_ms,
                seat=seats,
            ),
            dead=np.full_like(work.dead, FOREVER_MS),
            dead_reach=np.zeros_like(work.dead_reach),
            reach=work.reach.copy(),
            only=work.only.copy(),
            capped=work.capped.copy(),
            blocked=work.blocked.copy(),
            blocked_reach=work.blocked_reach.copy(),
            backlog=work.backlog.copy(),
        ),
    )


def _with_holds(agents: Agents, courses: Mapping[int, Course]) -> Agents:
    """What windows hold in sum, as something that takes room when it begins, and gives it back."""
    used = agents.used.copy()
    who, ends, amounts = [], [], []
    for agent, course in courses.items():
        for row in course.windows:
            for from_ms, until_ms, held in course.held(row):
                if from_ms == course.now_ms:
                    used[agent] += held
                else:
                    who.append(agent)
                    ends.append(from_ms)
                    amounts.append(-held)
                who.append(agent)
                ends.append(until_ms)
                amounts.append(held)
    counts = np.diff(agents.lease_first)
    all_of = np.concatenate((np.repeat(np.arange(len(counts)), counts), np.asarray(who, np.int64)))
    all_ends = np.concatenate((agents.lease_ends, np.asarray(ends, np.int64)))
    all_amounts = np.concatenate((agents.lease_amounts, np.asarray(amounts, np.int64).reshape(-1, len(COLUMNS))))
    order = np.lexsort((all_ends, all_of))
    first = np.searchsorted(all_of[order], np.arange(len(counts) + 1)).astype(np.int64)
    return agents._replace(
        used=used, lease_first=first, lease_ends=all_ends[order], lease_amounts=np.ascontiguousarray(all_amounts[order])
    )
