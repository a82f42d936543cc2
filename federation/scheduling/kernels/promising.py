"""Who cannot start is promised a start: the earliest at its best agent, and nodes kept free for the first gang there.

Deliberately not here: room over time (`profile.py`), and which agent has room now (`choosing.py`).
"""

from __future__ import annotations

import math

import numpy as np

from federation.scheduling.kernels.choosing import memo_row, weigh
from federation.scheduling.kernels.index import touch
from federation.scheduling.kernels.jit import inline, part
from federation.scheduling.kernels.moving import transfer_of, welcome
from federation.scheduling.kernels.profile import NEVER_MS, build, earliest, reserve
from federation.scheduling.kernels.room import Int64, lacking, tasks_on_node
from federation.scheduling.kernels.round import PLACEMENTS, Round


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
def _best_when_idle(of: Round, pair: int, duration: int, span: tuple[int, int]) -> int:
    """A job's best agent, as if all had room: nearest to its data, best liked, least promised, first; -1: none may run it."""
    sorts, work = of.sorts, of.work
    if work.only[pair] >= 0:
        return int(work.only[pair])
    sort, liking = int(sorts.pair_sort[pair]), int(sorts.pair_liking[pair])
    likes = sorts.liking[liking]
    best, least, alone = int(np.int64(-1)), 0, True
    for agent in range(span[0], span[1]):
        if sorts.steps[sort, agent] != 0:
            continue
        transfer = transfer_of(sorts.moves, sort, agent)
        if not welcome(of, liking, duration + transfer, agent):
            continue
        if best < 0 or transfer < least or (transfer == least and likes[agent] < likes[best]):
            best, least, alone = agent, transfer, True
        elif transfer == least and likes[agent] == likes[best]:
            alone = False
            if work.backlog[agent] < work.backlog[best]:
                best = agent
    alone = alone and not (of.limits.guests_limited and sorts.stays[liking])
    if best >= 0 and alone and (sorts.moves.route[sort] < 0 or span[1] - span[0] == len(of.agents.offered)):
        work.only[pair] = best  # also of all agents, when it was looked for at home: who looks there likes home best
    return best


@inline
def promise(of: Round, at: int, pair: int, reach: int, span: tuple[int, int], how: tuple[bool, bool]) -> bool:
    """Reserve the earliest start at the job's best agent, as if all had room: nearest, best liked, least promised, first.

    `how` is (owners at home only, whether it has waited long enough); its data may come from `reach` ms away.
    """
    home_only, patient = how
    sorts, work, out = of.sorts, of.work, of.out
    sort = int(sorts.pair_sort[pair])
    liking = int(sorts.pair_liking[pair])
    duration = of.line.duration[of.line.order[at]]
    best = _best_when_idle(of, pair, duration, span)
    transfer = transfer_of(sorts.moves, sort, best) if best >= 0 else 0
    ahead_ms = max(0, transfer - reach)
    if not patient or (home_only and transfer > 0):  # in everybody's turn it is promised a start nearer to its data
        return False
    duration += transfer
    if best < 0 or work.reserved[best] >= of.limits.reservations:
        if not home_only and not (of.limits.guests_limited and sorts.stays[liking]):
            work.capped[pair] = 1  # promises only grow, so it stays its best agent, and full
        return False
    if work.reserved[best] == 0:
        _begin_profile(of, best)
    need, shape, replicas = work.need, int(sorts.shape[sort]), int(sorts.replicas[sort])
    weigh(need, of.totals, shape, replicas)
    after_ms = of.limits.now_ms + max(1, ahead_ms)
    memo, row = work.memo, memo_row(work.memo, sort)
    if memo.hint_duration[row, best] <= duration:
        after_ms = max(after_ms, memo.hint_ms[row, best])
    start_ms = earliest(work.profiles, best, need, duration, after_ms)
    if start_ms == NEVER_MS or not reserve(work.profiles, best, start_ms, start_ms + duration, need):
        return False
    if ahead_ms <= 1:
        memo.hint_ms[row, best], memo.hint_duration[row, best] = start_ms, duration
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
    begin, end = of.known.layout.agent_first[agent], of.known.layout.agent_first[agent + 1]
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
        touch(of.known, work.room, best)


@part
def _begin_profile(of: Round, agent: int) -> None:
    """An agent's room over time: what its leases give back, and what this round has started there."""
    work, agents, now_ms = of.work, of.agents, of.limits.now_ms
    for column in range(len(work.free_now)):
        work.free_now[column] = agents.offered[agent, column] - agents.used[agent, column]
    begin, end = agents.lease_first[agent], agents.lease_first[agent + 1]
    amounts = agents.lease_amounts[begin:end]
    build(work.profiles, agent, now_ms, work.free_now, agents.lease_ends[begin:end], amounts)
    for decided in range(of.out.counters[PLACEMENTS]):
        if of.out.agent[of.out.placed[decided]] == agent:
            slot = int(of.line.order[of.out.placed[decided]])
            sort = int(of.sorts.pair_sort[of.line.pair[slot]])
            weigh(work.need, of.totals, int(of.sorts.shape[sort]), int(of.sorts.replicas[sort]))
            until_ms = now_ms + of.line.duration[slot] + transfer_of(of.sorts.moves, sort, agent)
            reserve(work.profiles, agent, now_ms, until_ms, work.need)
