"""One round: everybody's jobs in their turn, each started where there is room, or promised a start.

First the owners: jobs of a hub's own users on that hub's machines, so that no guest comes before them there. Then
everybody everywhere. Within each, class by class; within a class first those whose promised start has come, then by
weighted dominant share (`turns.py`); of one user by line position. A job that cannot start gets a reservation at its best agent while that has fewer than the limit:
from then on nothing starts there that would delay it (conservative backfill), once it has waited for a while.
Reservations are made anew in every round. Room only shrinks while a round goes on, so what did not fit is not tried
again. Deliberately not here: what is checked at the door, and words.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from federation.scheduling.kernels.gangs import TASKS_MAX, Taste, place_packed, place_spread, tasks_at
from federation.scheduling.kernels.jit import inline, lean, part
from federation.scheduling.kernels.profile import NEVER_MS, Profiles, build, earliest, fits_now, reserve
from federation.scheduling.kernels.room import Float64, Int32, Int64, Nodes, Shapes, lacking, tasks_on_node
from federation.scheduling.kernels.turns import Levels, Tree, drop_top, grow, plant, sink

UInt8 = npt.NDArray[np.uint8]
Int16 = npt.NDArray[np.int16]
NEXT, SERVED, FULL = 0, 1, 2
WAITS, PLACED, RESERVED = 0, 1, 2


class Agents(NamedTuple):
    """What does not change while a round goes on."""

    hub_first: Int64
    """(H + 1,) agents of each hub."""
    hub_of: Int64
    """(A,)"""
    guest_limit: Int64
    """(A,) ms that a guest may run that cannot be preempted; -1: as long as it asks for."""
    offered: Int64
    """(A, T)"""
    used: Int64
    """(A, T) when the round begins."""
    lease_first: Int64
    """(A + 1,) leases of each agent, by end."""
    lease_ends: Int64
    """(E,) ms"""
    lease_amounts: Int64
    """(E, T)"""
    offered_totals: Int64
    """(T,)"""


class Sorts(NamedTuple):
    """Sorts of jobs (S), likings (K) and pairs of the two (C)."""

    shape: Int64
    replicas: Int64
    spread: UInt8
    steps: UInt8
    """(S, A) 0 where only room decides."""
    pair_sort: Int32
    pair_liking: Int32
    liking: Int16
    """(K, A) smaller is better."""
    home_first: UInt8
    """(K,) whether nothing is liked better than home."""
    home: Int32
    """(K,) the hub that is home, -1 where it has no agents."""
    stays: UInt8
    """(K,) whether it cannot be preempted."""


class Line(NamedTuple):
    """Jobs that wait, by slot, and their order."""

    order: Int32
    """(Q,) slots by (class, owner, line position)."""
    pair: Int32
    owner: Int32
    duration: Int64
    """ms it may run."""
    priority: UInt8
    aside: UInt8
    """1: not in this round, because a claim holds its room already."""
    submitted: Int64
    """ms"""
    due: Int32
    """Places in the order of those whose promised start has come, the earliest first."""


class Counted(NamedTuple):
    """Room counted in tasks, for each shape and agent; counted again only after an agent's room has changed."""

    tasks: Int64
    """(shapes, A) ..."""
    tasks_of: Int64
    """... at this version of the agent's room."""
    version: Int64
    """(A,) changes with every change of room."""
    first: Int64
    """(A + 1,) nodes of each agent."""


class Work(NamedTuple):
    """What a round changes."""

    room: Nodes
    counted: Counted
    used: Int64
    load: Float64
    dead: Int64
    """(C,) the shortest duration that found no place."""
    capped: UInt8
    """(C,) its best agent makes no more promises."""
    profiles: Profiles
    blocked: Int32
    """(A,) place in the order of the first of its own hub's jobs that found no room there, -1: none."""
    reserved: Int64
    """(A,) promises made."""
    draining: UInt8
    """(A,) whether nodes are kept free for the first whose room there is in sum, but not together."""
    backlog: Int64
    """(A,) work that runs or is promised, see `work_of`."""
    hint_ms: Int64
    """(S, A) a sort's last start there, and for how long."""
    hint_duration: Int64
    kept: UInt8
    """(N,) nodes that are kept free."""
    excluded: Int64
    cursor: Int32
    until: Int32
    users: Int32
    need: Int64
    """(T,) of the gang at hand."""
    free_now: Int64
    level_hub: Int32
    """(L,) the row of a user's home hub, -1 where it has no agents."""


class Out(NamedTuple):
    """What a round decides. Counters in `counters`: placements, tasks, devices, tickets, versions."""

    counters: Int64
    status: UInt8
    """(Q,) by place in the order."""
    agent: Int32
    """(Q,) where it was placed, or promised."""
    start_ms: Int64
    """(Q,) of promises."""
    placed: Int32
    """(placements,) places in the order, as decided."""
    nodes: Int64
    devices: Int64


class Limits(NamedTuple):
    """How much a round does."""

    now_ms: int
    placements: int
    reservations: int
    """For each agent."""
    headroom: int
    """Who jumps the line leaves one part in so many free, 0: nobody need ..."""
    short_ms: int
    """... unless it may run no longer than this."""
    promise_after_ms: int
    """Who has waited so long is promised a start."""
    guests_limited: bool
    """Whether any agent limits its guests."""


class Round(NamedTuple):
    """Everything a round looks at."""

    shapes: Shapes
    totals: Int64
    idle: Nodes
    """The nodes as if nothing ran."""
    taste: Taste
    agents: Agents
    sorts: Sorts
    line: Line
    levels: Levels
    tree: Tree
    work: Work
    out: Out
    limits: Limits


@lean
def fill(of: Round) -> None:
    """Decide on everybody in `of.line`; the answer is in `of.out`."""
    total = len(of.line.order)
    agents = of.agents
    for agent in range(len(agents.offered)):
        for lease in range(agents.lease_first[agent], agents.lease_first[agent + 1]):
            left_ms = max(1, agents.lease_ends[lease] - of.limits.now_ms)
            of.work.backlog[agent] += work_of(agents.lease_amounts[lease], agents.offered[agent], left_ms)
    for turn in range(2):
        home_only = turn == 0
        begin = int(np.int64(0))
        while begin < total:
            end = begin + 1
            priority = of.line.priority[of.line.order[begin]]
            while end < total and of.line.priority[of.line.order[end]] == priority:
                end += 1
            if not _turns(of, begin, end, home_only):
                return
            begin = end


@inline
def _turns(of: Round, begin: int, end: int, home_only: bool) -> bool:
    """Serve the jobs at `begin` to `end` of the order; False when the round is full."""
    levels, tree, work = of.levels, of.tree, of.work
    count = 0
    previous = -1
    for at in range(begin, end):
        owner = int(of.line.owner[of.line.order[at]])
        if owner != previous:
            if previous >= 0:
                work.until[previous] = at
            previous = owner
            if not home_only or work.level_hub[owner] >= 0:
                work.users[count] = owner
                count += 1
            work.cursor[owner] = at
    work.until[previous] = end
    for first_due in range(len(of.line.due)):
        at = int(of.line.due[first_due])
        owner = int(of.line.owner[of.line.order[at]])
        here = begin <= at < end and (not home_only or work.level_hub[owner] >= 0)
        if here and _try(of, at, owner, home_only) == FULL:
            return False
    plant(levels, tree, work.users[:count])
    root = len(levels.parent)
    while tree.size[root] > 0:
        hub = int(tree.members[tree.first[root]])
        project = int(tree.members[tree.first[hub]])
        user = int(tree.members[tree.first[project]])
        if _serve(of, user, home_only) == FULL:
            return False
        if work.cursor[user] == work.until[user]:
            drop_top(levels, tree, project)
        else:
            sink(levels, tree, project, 0)
        if tree.size[project] == 0:
            drop_top(levels, tree, hub)
        else:
            sink(levels, tree, hub, 0)
        if tree.size[hub] == 0:
            drop_top(levels, tree, root)
        else:
            sink(levels, tree, root, 0)
    return True


@inline
def _serve(of: Round, user: int, home_only: bool) -> int:
    """The user's next job that starts: SERVED; NEXT when none is left; FULL. Who cannot start is promised a start."""
    work = of.work
    while work.cursor[user] < work.until[user]:
        at = int(work.cursor[user])
        work.cursor[user] += 1
        tried = _try(of, at, user, home_only)
        if tried != NEXT:
            return tried
    return NEXT


@part
def _try(of: Round, at: int, user: int, home_only: bool) -> int:
    """Start a job: SERVED; NEXT when it cannot start now, and is perhaps promised a start; FULL."""
    line, sorts, work, out = of.line, of.sorts, of.work, of.out
    first, last = 0, len(of.agents.offered)
    if home_only:
        hub = int(work.level_hub[user])
        first, last = of.agents.hub_first[hub], of.agents.hub_first[hub + 1]
    slot = int(line.order[at])
    pair = int(line.pair[slot])
    sort, liking = int(sorts.pair_sort[pair]), int(sorts.pair_liking[pair])
    if out.status[at] == PLACED or line.aside[slot] or (home_only and not sorts.home_first[liking]):
        return NEXT
    duration = line.duration[slot]
    if home_only or duration < work.dead[pair]:
        agent = _choose(of, sort, liking, duration, first, last)
        if agent >= 0:
            if not _start(of, at, sort, agent, duration):
                return FULL
            _count_share(of.levels, user, work.need, of.agents.offered_totals)
            out.status[at] = PLACED
            return SERVED
        if not home_only:
            work.dead[pair] = duration
    patient = of.limits.now_ms - line.submitted[slot] >= of.limits.promise_after_ms
    if out.status[at] != WAITS or (not home_only and (work.capped[pair] or not patient)):
        return NEXT
    if _promise(of, at, pair, (first, last), (home_only, patient)):
        out.status[at] = RESERVED
    return NEXT


@part
def work_of(need: Int64, offered: Int64, duration_ms: int) -> int:
    """How much work `need` int64 (T,) is at an agent that offers `offered`: dominant share, 1 at most, in 1/1,024, x ms.

    Whole numbers, so that sums do not depend on their order; of more than 2^32 ms (49 days) only these count.
    """
    largest = 0.0
    for column in range(len(need)):
        if offered[column] > 0:
            largest = max(largest, float(need[column]) / float(offered[column]))
    return int(min(largest, 1.0) * 1024.0) * min(duration_ms, 2**32)


@inline
def _weigh(need: Int64, totals: Int64, shape: int, replicas: int) -> None:
    """Into `need` int64 (T,) what a gang takes in all."""
    for column in range(len(need)):
        need[column] = totals[shape, column] * replicas


@inline
def _count_share(levels: Levels, user: int, need: Int64, offered: Int64) -> None:
    """A gang that takes `need` uses up a turn of the user, the project and the hub."""
    level = user
    while level >= 0:
        grow(levels, level, need, offered)
        level = int(levels.parent[level])


@part
def tasks_now(counted: Counted, room: Nodes, shapes: Shapes, shape: int, agent: int) -> int:
    """How many tasks fit at an agent now, 0 to `TASKS_MAX`."""
    if counted.tasks_of[shape, agent] != counted.version[agent]:
        begin, end = counted.first[agent], counted.first[agent + 1]
        counted.tasks[shape, agent] = tasks_at(room, shapes, shape, begin, end, TASKS_MAX)
        counted.tasks_of[shape, agent] = counted.version[agent]
    return int(counted.tasks[shape, agent])


@inline
def _welcome(of: Round, liking: int, duration: int, agent: int) -> bool:
    """Whether a job may run so long at an agent: its own users always, guests within its limit or if they can be preempted."""
    limit = of.agents.guest_limit[agent]
    return (
        limit < 0 or duration <= limit or not of.sorts.stays[liking] or of.sorts.home[liking] == of.agents.hub_of[agent]
    )


@part
def _choose(of: Round, sort: int, liking: int, duration: int, first: int, last: int) -> int:
    """The agent where a job starts now: best liked, then least loaded, then first; -1 when none has room for it."""
    sorts, work = of.sorts, of.work
    shape, replicas = int(sorts.shape[sort]), int(sorts.replicas[sort])
    likes = sorts.liking[liking]
    of.out.counters[3] += 1
    ticket = of.out.counters[3]
    while True:
        best = int(np.int64(-1))
        for agent in range(first, last):
            if (
                sorts.steps[sort, agent] != 0
                or work.excluded[agent] == ticket
                or not _welcome(of, liking, duration, agent)
            ):
                continue
            if best >= 0 and (
                likes[agent] > likes[best] or (likes[agent] == likes[best] and work.load[agent] >= work.load[best])
            ):
                continue
            if tasks_now(work.counted, work.room, of.shapes, shape, agent) >= replicas:
                best = agent
        if best < 0 or work.reserved[best] == 0:
            return best
        _weigh(work.need, of.totals, shape, replicas)
        roomy = of.limits.headroom == 0 or duration <= of.limits.short_ms or _leaves_headroom(of, best)
        if roomy and fits_now(work.profiles, best, work.need, duration):
            return best
        work.excluded[best] = ticket


@inline
def _leaves_headroom(of: Round, agent: int) -> bool:
    """Whether `work.need` may be taken at an agent, and enough is left for short jobs."""
    for column in range(len(of.work.need)):
        need, there = of.work.need[column], of.agents.offered[agent, column]
        if need > 0 and there - of.work.used[agent, column] - need < there // of.limits.headroom:
            return False
    return True


@part
def _start(of: Round, at: int, sort: int, agent: int, duration: int) -> bool:
    """Start a job at an agent that has room; False when the round's answer is full."""
    sorts, work, out = of.sorts, of.work, of.out
    shape, replicas = int(sorts.shape[sort]), int(sorts.replicas[sort])
    wanted = of.shapes.devices[shape]
    placed, tasks, devices = out.counters[0], out.counters[1], out.counters[2]
    if placed == of.limits.placements or tasks + replicas > len(out.nodes):
        return False
    if devices + replicas * wanted > len(out.devices):
        return False
    span = (work.counted.first[agent], work.counted.first[agent + 1])
    nodes = out.nodes[tasks : tasks + replicas]
    on = out.devices[devices : devices + replicas * wanted]
    if sorts.spread[sort]:
        place_spread(work.room, of.shapes, of.taste, shape, span, nodes, on)
    else:
        place_packed(work.room, of.shapes, of.taste, shape, span, nodes, on)
    out.placed[placed] = at
    out.agent[at] = agent
    out.counters[0] += 1
    out.counters[1] += replicas
    out.counters[2] += replicas * wanted
    out.counters[4] += 1
    work.counted.version[agent] = out.counters[4]
    need = work.need
    _weigh(need, of.totals, shape, replicas)
    load = 0.0
    for column in range(len(need)):
        work.used[agent, column] += need[column]
        if of.agents.offered[agent, column] > 0:
            load = max(load, float(work.used[agent, column]) / float(of.agents.offered[agent, column]))
    work.load[agent] = load
    if work.reserved[agent] > 0:
        reserve(work.profiles, agent, of.limits.now_ms, of.limits.now_ms + duration, need)
    return True


@part
def _best_when_idle(of: Round, sort: int, liking: int, duration: int, span: tuple[int, int]) -> int:
    """A job's best agent, as if all had room: best liked, least promised, first; -1 when none may ever run it."""
    sorts, work = of.sorts, of.work
    likes = sorts.liking[liking]
    best = int(np.int64(-1))
    for agent in range(span[0], span[1]):
        if (
            sorts.steps[sort, agent] == 0
            and _welcome(of, liking, duration, agent)
            and (
                best < 0
                or likes[agent] < likes[best]
                or (likes[agent] == likes[best] and work.backlog[agent] < work.backlog[best])
            )
        ):
            best = agent
    return best


@part
def _promise(of: Round, at: int, pair: int, span: tuple[int, int], how: tuple[bool, bool]) -> bool:
    """Reserve the earliest start at the job's best agent, as if all had room: best liked, least promised, first.

    `how` is (owners at home only, whether it has waited long enough): of owners, who is first to wait is noted anyway.
    """
    home_only, patient = how
    sorts, work, out = of.sorts, of.work, of.out
    sort = int(sorts.pair_sort[pair])
    liking = int(sorts.pair_liking[pair])
    duration = of.line.duration[of.line.order[at]]
    best = _best_when_idle(of, sort, liking, duration, span)
    if home_only and best >= 0 and work.blocked[best] < 0:
        work.blocked[best] = at
    if not patient:
        return False
    if best < 0 or work.reserved[best] >= of.limits.reservations:
        if not home_only and not (of.limits.guests_limited and sorts.stays[liking]):
            work.capped[pair] = 1  # promises only grow, so it stays its best agent, and full
        return False
    if work.reserved[best] == 0:
        for column in range(len(work.free_now)):
            work.free_now[column] = of.agents.offered[best, column] - of.agents.used[best, column]
        _begin_profile(work.profiles, of.agents, best, of.limits.now_ms, work.free_now)
        for decided in range(out.counters[0]):
            if out.agent[out.placed[decided]] == best:
                slot = int(of.line.order[out.placed[decided]])
                started = int(sorts.pair_sort[of.line.pair[slot]])
                _weigh(work.need, of.totals, int(sorts.shape[started]), int(sorts.replicas[started]))
                until_ms = of.limits.now_ms + of.line.duration[slot]
                reserve(work.profiles, best, of.limits.now_ms, until_ms, work.need)
    need, shape, replicas = work.need, int(sorts.shape[sort]), int(sorts.replicas[sort])
    _weigh(need, of.totals, shape, replicas)
    after_ms = of.limits.now_ms + 1
    if work.hint_duration[sort, best] <= duration:
        after_ms = max(after_ms, work.hint_ms[sort, best])
    start_ms = earliest(work.profiles, best, need, duration, after_ms)
    if start_ms == NEVER_MS or not reserve(work.profiles, best, start_ms, start_ms + duration, need):
        return False
    work.hint_ms[sort, best], work.hint_duration[sort, best] = start_ms, duration
    if work.reserved[best] == 0 or not work.draining[best]:
        _drain_for(of, best, shape, replicas, start_ms)
    work.reserved[best] += 1
    work.backlog[best] += work_of(need, of.agents.offered[best], duration)
    out.agent[at], out.start_ms[at] = best, start_ms
    return True


@part
def _drain_for(of: Round, agent: int, shape: int, replicas: int, start_ms: int) -> None:
    """Keep nodes free for a gang that lacks no room in sum, but room in one place: else small jobs could fill it for ever.

    The nodes that lack least, until they would hold it when they are idle. Nothing more starts on them in this round;
    in the next the same lack least, because only ends happened there.
    """
    work = of.work
    begin, end = work.counted.first[agent], work.counted.first[agent + 1]
    if start_ms > of.limits.now_ms + 1 or end - begin < 2:
        return
    work.draining[agent] = 1
    held = 0
    while held < replicas:
        best, least = int(np.int64(-1)), math.inf
        for node in range(begin, end):
            if work.kept[node] or tasks_on_node(of.idle, of.shapes, shape, node, 1) == 0:
                continue
            lacks = lacking(work.room, of.shapes, shape, node)
            if lacks < least:
                best, least = node, lacks
        if best < 0:
            return
        held += tasks_on_node(of.idle, of.shapes, shape, best, replicas)
        work.kept[best] = 1
        for column in range(work.room.free.shape[1]):
            work.room.free[best, column] = min(work.room.free[best, column], 0)
        for device in range(work.room.device_first[best], work.room.device_first[best + 1]):
            work.room.device_free[device] = min(work.room.device_free[device], 0)
    of.out.counters[4] += 1
    work.counted.version[agent] = of.out.counters[4]


@inline
def _begin_profile(profiles: Profiles, agents: Agents, agent: int, now_ms: int, free_now: Int64) -> None:
    """An agent's room over time: what its leases give back."""
    begin, end = agents.lease_first[agent], agents.lease_first[agent + 1]
    build(profiles, agent, now_ms, free_now, agents.lease_ends[begin:end], agents.lease_amounts[begin:end])
