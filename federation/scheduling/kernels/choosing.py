"""Where a job starts now: the agent that is chosen, what has to be left there for others, and taking the room.

Deliberately not here: whose turn it is (`fill.py`), who waits and until when (`promising.py`), and which of an agent's
nodes is best (`gangs.py`).
"""

from __future__ import annotations

import numpy as np

from federation.scheduling.kernels.gangs import TASKS_MAX, place_packed, place_spread, tasks_at
from federation.scheduling.kernels.jit import inline, part
from federation.scheduling.kernels.profile import fits_now, reserve
from federation.scheduling.kernels.room import Int64, Nodes, Shapes
from federation.scheduling.kernels.round import Counted, Round


@part
def tasks_now(counted: Counted, room: Nodes, shapes: Shapes, shape: int, agent: int) -> int:
    """How many tasks fit at an agent now, 0 to `TASKS_MAX`."""
    if counted.tasks_of[shape, agent] != counted.version[agent]:
        begin, end = counted.first[agent], counted.first[agent + 1]
        counted.tasks[shape, agent] = tasks_at(room, shapes, shape, begin, end, TASKS_MAX)
        counted.tasks_of[shape, agent] = counted.version[agent]
    return int(counted.tasks[shape, agent])


@inline
def weigh(need: Int64, totals: Int64, shape: int, replicas: int) -> None:
    """Into `need` int64 (T,) what a gang takes in all."""
    for column in range(len(need)):
        need[column] = totals[shape, column] * replicas


@inline
def welcome(of: Round, liking: int, duration: int, agent: int) -> bool:
    """Whether a job may run so long at an agent: its own users always, guests within its limit or if they can be preempted."""
    limit = of.agents.guest_limit[agent]
    return (
        limit < 0 or duration <= limit or not of.sorts.stays[liking] or of.sorts.home[liking] == of.agents.hub_of[agent]
    )


@part
def choose(of: Round, sort: int, liking: int, duration: int, first: int, last: int) -> int:
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
                or not welcome(of, liking, duration, agent)
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
        weigh(work.need, of.totals, shape, replicas)
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
def start(of: Round, at: int, sort: int, agent: int, duration: int) -> bool:
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
    weigh(need, of.totals, shape, replicas)
    load = 0.0
    for column in range(len(need)):
        work.used[agent, column] += need[column]
        if of.agents.offered[agent, column] > 0:
            load = max(load, float(work.used[agent, column]) / float(of.agents.offered[agent, column]))
    work.load[agent] = load
    if work.reserved[agent] > 0:
        reserve(work.profiles, agent, of.limits.now_ms, of.limits.now_ms + duration, need)
    return True
