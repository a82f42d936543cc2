"""Machines that serve a log of parallel jobs: the published loop, and one that decides anew at every event.

`published` is the loop of RLScheduler (Zhang et al., SC'20), from its description: it picks the best job that waits and
binds itself to it; until that job fits, others may jump ahead, first come first, that end strictly before the moment
at which it could start. Events are taken one by one, arrivals before ends of the same second. `redecided` takes all
events of a second, and then goes down the line: the first jobs that do not fit get reservations, and those behind them
start where they delay none. Times are seconds, whole numbers. Deliberately not here: orders, and what is measured.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.apparatus.swf import Log
from federation.scheduling.kernels.jit import kernel
from federation.scheduling.kernels.profile import Profiles, build, earliest, fits_now, profiles_for, reserve

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


class Jobs(NamedTuple):
    """A log for the kernels: int64 (J,) each, by arrival."""

    submit: Int64
    run: Int64
    request: Int64
    procs: Int64


class Jumping(NamedTuple):
    """Who may jump the line in the published loop."""

    anybody: bool
    """Or nobody: no backfill."""
    spare: bool
    """Also those who fit beside the job that was picked, however long they run: EASY as it was published."""


class Rule(NamedTuple):
    """How `redecided` goes down the line."""

    reservations: int
    """For the first so many that do not fit; 1 is EASY."""
    headroom: int
    """Who jumps the line leaves so many processors free ..."""
    short_s: int
    """... unless asking for no more than this."""


def serve_published(log: Log, score: Float64, procs: int, jumping: Jumping) -> Int64:
    """(J,) s when each job starts; `score` float64 (J,), the smallest is picked, equals by arrival."""
    jobs = Jobs(log.submit, log.run, log.request, log.procs)
    return published(jobs, score, procs, jumping.anybody, jumping.spare)


def serve(log: Log, line: Int64, others: Int64, procs: int, rule: Rule) -> Int64:
    """(J,) s when each job starts; `line` and `others` int64 (J,) are the order and that of the candidates behind it."""
    jobs = Jobs(log.submit, log.run, log.request, log.procs)
    profiles = profiles_for(np.array([4 * len(log.run) + 4], np.int64), 1)
    return redecided(jobs, _places(line), _places(others), profiles, procs, rule)


def _places(key: Int64) -> Int64:
    """(J,) the place of each job in the order of `key`, equals by arrival."""
    places = np.empty(len(key), np.int64)
    places[np.argsort(key, kind="stable")] = np.arange(len(key))
    return places


class Machine(NamedTuple):
    """What runs: `running` by expected end; `state` is (how many run, free processors)."""

    running: Int64
    state: Int64
    start: Int64


@kernel
def _begin(machine: Machine, jobs: Jobs, job: int, at_s: int) -> None:
    """Start a job."""
    machine.start[job] = at_s
    machine.state[1] -= jobs.procs[job]
    place = machine.state[0]
    ends = at_s + jobs.request[job]
    while place > 0:
        before = machine.running[place - 1]
        if machine.start[before] + jobs.request[before] <= ends:
            break
        machine.running[place] = before
        place -= 1
    machine.running[place] = job
    machine.state[0] += 1


@kernel
def _next_end(machine: Machine, jobs: Jobs) -> tuple[int, int]:
    """(place in `running`, second) of what ends first; (-1, huge) when nothing runs."""
    found, ends = -1, 2**62
    for place in range(machine.state[0]):
        job = machine.running[place]
        if machine.start[job] + jobs.run[job] < ends:
            found, ends = place, machine.start[job] + jobs.run[job]
    return found, ends


@kernel
def _end(machine: Machine, jobs: Jobs, place: int) -> None:
    """What runs at `place` of `running` has ended."""
    machine.state[1] += jobs.procs[machine.running[place]]
    for later in range(place + 1, machine.state[0]):
        machine.running[later - 1] = machine.running[later]
    machine.state[0] -= 1


@kernel
def _shadow(machine: Machine, jobs: Jobs, picked: int) -> tuple[int, int]:
    """(second from which the picked job fits, processors that are left beside it then), by what was asked for."""
    free, place, shadow = int(machine.state[1]), 0, 0
    while place < machine.state[0]:
        job = machine.running[place]
        ends = int(machine.start[job] + jobs.request[job])
        if free >= jobs.procs[picked] and ends > shadow:
            break
        free += int(jobs.procs[job])
        shadow = max(shadow, ends)
        place += 1
    return shadow, free - int(jobs.procs[picked])


@kernel
def published(jobs: Jobs, score: Float64, procs: int, anybody: bool, spare: bool) -> Int64:
    """(J,) s when each job starts in the published loop."""
    count = len(jobs.submit)
    machine = Machine(np.empty(count, np.int64), np.array([0, procs]), np.full(count, -1, np.int64))
    arrived, now, begun = 0, jobs.submit[0], 0
    while begun < count:
        picked = -1
        for job in range(arrived):
            if machine.start[job] < 0 and (picked < 0 or score[job] < score[picked]):
                picked = job
        while picked < 0 or jobs.procs[picked] > machine.state[1]:
            if anybody and picked >= 0:
                begun += _jump(machine, jobs, (picked, arrived, now), spare)
            place, ends = _next_end(machine, jobs)
            if arrived < count and jobs.submit[arrived] <= ends:
                now = max(now, jobs.submit[arrived])
                arrived += 1
                if picked < 0:
                    picked = arrived - 1
            else:
                now = max(now, ends)
                _end(machine, jobs, place)
        _begin(machine, jobs, picked, now)
        begun += 1
    return machine.start


@kernel
def _jump(machine: Machine, jobs: Jobs, at: tuple[int, int, int], spare: bool) -> int:
    """Start those who may go before the picked job, first come first; how many."""
    picked, arrived, now = at
    shadow, beside = _shadow(machine, jobs, picked)
    begun = 0
    for job in range(arrived):
        if machine.start[job] >= 0 or job == picked or jobs.procs[job] > machine.state[1]:
            continue
        if now + jobs.request[job] < shadow:
            _begin(machine, jobs, job, now)
            begun += 1
        elif spare and jobs.procs[job] <= beside:
            beside -= jobs.procs[job]
            _begin(machine, jobs, job, now)
            begun += 1
    return begun


@kernel
def redecided(jobs: Jobs, line: Int64, others: Int64, profiles: Profiles, procs: int, rule: Rule) -> Int64:
    """(J,) s when each job starts when the order is decided anew at every event."""
    count = len(jobs.submit)
    machine = Machine(np.empty(count, np.int64), np.array([0, procs]), np.full(count, -1, np.int64))
    by_line, by_others = np.empty(count, np.int64), np.empty(count, np.int64)
    waiting, arrived, ended = 0, 0, 0
    while ended < count:
        place, now = _next_end(machine, jobs)
        if arrived < count:
            now = min(now, jobs.submit[arrived])
        while place >= 0 and machine.start[machine.running[place]] + jobs.run[machine.running[place]] <= now:
            _end(machine, jobs, place)
            ended += 1
            place, _ = _next_end(machine, jobs)
        while arrived < count and jobs.submit[arrived] <= now:
            _insert(by_line, waiting, arrived, line)
            _insert(by_others, waiting, arrived, others)
            arrived += 1
            waiting += 1
        if waiting > 0 and machine.state[1] > 0:
            _decide(machine, jobs, by_line[:waiting], by_others[:waiting], (now, rule, profiles))
            _without_begun(machine, by_others, waiting)
            waiting = _without_begun(machine, by_line, waiting)
    return machine.start


@kernel
def _insert(ordered: Int64, count: int, job: int, places: Int64) -> None:
    """Put a job into its place."""
    while count > 0 and places[ordered[count - 1]] > places[job]:
        ordered[count] = ordered[count - 1]
        count -= 1
    ordered[count] = job


@kernel
def _without_begun(machine: Machine, ordered: Int64, count: int) -> int:
    """Take out those that were started; how many are left."""
    kept = 0
    for place in range(count):
        if machine.start[ordered[place]] < 0:
            ordered[kept] = ordered[place]
            kept += 1
    return kept


@kernel
def _decide(machine: Machine, jobs: Jobs, line: Int64, others: Int64, at: tuple[int, Rule, Profiles]) -> None:
    """One decision: down the line until all reservations are made, then the others in their order."""
    now, rule, profiles = at
    need = np.empty(1, np.int64)
    ends, amounts = np.empty(machine.state[0], np.int64), np.empty((machine.state[0], 1), np.int64)
    for place in range(machine.state[0]):
        job = machine.running[place]
        ends[place], amounts[place, 0] = machine.start[job] + jobs.request[job], jobs.procs[job]
    need[0] = machine.state[1]
    build(profiles, 0, now, need, ends, amounts)
    reserved = 0
    for job in line:
        if reserved == rule.reservations:
            break
        need[0] = jobs.procs[job]
        start = earliest(profiles, 0, need, jobs.request[job], now)
        reserve(profiles, 0, start, start + jobs.request[job], need)
        if start == now:
            _begin(machine, jobs, job, now)
        else:
            reserved += 1
    for job in others:
        free = machine.state[1]
        if free == 0:
            break
        need[0] = jobs.procs[job]
        if machine.start[job] >= 0 or need[0] > free:
            continue
        if jobs.request[job] > rule.short_s and need[0] + rule.headroom > free:
            continue
        if fits_now(profiles, 0, need, jobs.request[job]):
            reserve(profiles, 0, now, now + jobs.request[job], need)
            _begin(machine, jobs, job, now)
