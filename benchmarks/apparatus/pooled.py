"""Baselines of completion on pooled hubs: a line that is never interrupted, and shortest remaining time.

Each hub is one machine with all the hub's room, so that nothing is lost to what does not fit on a node or a device:
that helps the baselines, never us. A gang runs within one hub, the first that has room. Time goes in ticks. A line is
first come, first served, or whatever else its places say: shortest first, with runtimes known or by limit. Shortest
remaining time (SRTF; Schrage, "A Proof of the Optimality of the Shortest Remaining Processing Time Discipline",
Operations Research 1968) knows every runtime, stops and moves whatever it likes at no cost, and gives the federation
anew to the shortest at every tick: an oracle, not a scheduler. Deliberately not here: fairness, owners, the planner.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from federation.scheduling.kernels.jit import kernel
from federation.scheduling.kernels.room import Int64

FAILED_MAX = 64
"""Needs that did not fit in this tick and are remembered, so that no larger one is tried."""
Bool = npt.NDArray[np.bool_]


@kernel
def _first_with_room(free: Int64, need: Int64, hubs: Int64) -> int:
    """The first hub with room, -1 for none; `hubs` are those to look at."""
    for hub in hubs:
        fits = True
        for at in range(len(need)):
            if need[at] > free[hub, at]:
                fits = False
                break
        if fits:
            return int(hub)
    return -1


@kernel
def _hopeless(need: Int64, failed: Int64, count: int) -> bool:
    """Whether something that asked for no more failed already."""
    for row in range(count):
        more = True
        for at in range(len(need)):
            if need[at] < failed[row, at]:
                more = False
                break
        if more:
            return True
    return False


def first_come(submit: Int64, run: Int64, need: Int64, capacity: Int64, strict: bool) -> Int64:
    """`in_line`, in order of arrival."""
    ends: Int64 = in_line(submit, run, submit, need, capacity, strict)
    return ends


@kernel
def in_line(submit: Int64, run: Int64, place: Int64, need: Int64, capacity: Int64, strict: bool) -> Int64:
    """int64 (J,): the tick at which each job ends, by place in line and never interrupted.

    `submit` int64 (J,) ascending ticks, `run` int64 (J,) ticks of 1 or more, `place` int64 (J,) the smaller the earlier,
    ties by arrival, `need` int64 (J, R) of a whole gang, `capacity` int64 (H, R). `strict`: who does not fit holds up
    everybody behind; else it is passed over. Each job must fit an idle hub.
    """
    jobs, free = len(submit), capacity.copy()
    ends = np.full(jobs, -1, np.int64)
    host = np.full(jobs, -1, np.int64)
    failed = np.zeros((FAILED_MAX, need.shape[1]), np.int64)
    hubs = np.arange(len(capacity))
    queue = np.zeros(jobs, np.int64)
    running = np.zeros(jobs, np.int64)
    queued, live, arrived, done, tick = 0, 0, 0, 0, 0
    while done < jobs:
        kept = 0
        for at in range(live):
            job = running[at]
            if ends[job] <= tick:
                free[host[job]] += need[job]
                done += 1
            else:
                running[kept] = job
                kept += 1
        live = kept
        before = queued
        while arrived < jobs and submit[arrived] <= tick:
            queue[queued] = arrived
            queued += 1
            arrived += 1
        if queued > before:
            waiting = np.sort(queue[:queued])
            queue[:queued] = waiting[np.argsort(place[waiting], kind="mergesort")]
        kept, count = 0, 0
        for at in range(queued):
            job = queue[at]
            hub = -1
            if not (strict and kept > 0) and not _hopeless(need[job], failed, count):
                hub = _first_with_room(free, need[job], hubs)
                if hub < 0 and count < FAILED_MAX:
                    failed[count] = need[job]
                    count += 1
            if hub < 0:
                queue[kept] = job
                kept += 1
                continue
            free[hub] -= need[job]
            host[job], ends[job] = hub, tick + run[job]
            running[live] = job
            live += 1
        queued = kept
        tick += 1
    return ends


@kernel
def shortest_remaining(submit: Int64, run: Int64, need: Int64, capacity: Int64) -> Int64:
    """int64 (J,): the tick at which each job ends when the shortest remaining go first, at every tick anew."""
    jobs = len(submit)
    ends = np.full(jobs, -1, np.int64)
    left = run.copy()
    failed = np.zeros((FAILED_MAX, need.shape[1]), np.int64)
    hubs = np.arange(len(capacity))
    waiting = np.zeros(jobs, np.int64)
    live, arrived, done, tick = 0, 0, 0, 0
    while done < jobs:
        while arrived < jobs and submit[arrived] <= tick:
            waiting[live] = arrived
            live += 1
            arrived += 1
        order = np.argsort(left[waiting[:live]], kind="mergesort")
        ordered = waiting[:live][order]
        free = capacity.copy()
        kept, count = 0, 0
        for at in range(live):
            job = ordered[at]
            hub = -1
            if not _hopeless(need[job], failed, count):
                hub = _first_with_room(free, need[job], hubs)
                if hub < 0 and count < FAILED_MAX:
                    failed[count] = need[job]
                    count += 1
            if hub >= 0:
                free[hub] -= need[job]
                left[job] -= 1
                if left[job] == 0:
                    ends[job] = tick + 1
                    done += 1
                    continue
            waiting[kept] = job
            kept += 1
        live = kept
        tick += 1
    return ends
