"""Where a job starts now: the agent that is chosen, what has to be left there for others, and taking the room.

Deliberately not here: whose turn it is (`fill.py`), who waits and until when (`promising.py`), and what is remembered of
the nodes (`index.py`).
"""

from __future__ import annotations

import numpy as np

from federation.scheduling.kernels.gangs import place_spread, score_of
from federation.scheduling.kernels.index import NEVER, best_agent, best_node, room_of, touch
from federation.scheduling.kernels.jit import inline, part
from federation.scheduling.kernels.moving import transfer_of, welcome
from federation.scheduling.kernels.profile import NEVER_MS, fits_now, reserve
from federation.scheduling.kernels.room import DEVICE_MILLI, Int64, take, tasks_on_node
from federation.scheduling.kernels.round import DEVICES, NO_ROW, PLACEMENTS, TASKS, Memo, Round


@inline
def weigh(need: Int64, totals: Int64, shape: int, replicas: int) -> None:
    """Into `need` int64 (T,) what a gang takes in all."""
    for column in range(len(need)):
        need[column] = totals[shape, column] * replicas


@part
def memo_row(memo: Memo, sort: int) -> int:
    """The row of a sort, in which nothing was found out yet where it had none."""
    row = int(memo.row[sort])
    if row == NO_ROW:
        row = int(memo.next[0])
        memo.next[0] = (row + 1) % len(memo.sort)
        if memo.sort[row] != NO_ROW:
            memo.row[memo.sort[row]] = NO_ROW
        memo.row[sort], memo.sort[row] = row, sort
        for agent in range(len(memo.open)):
            may_start = len(memo.seat) == 0 or memo.seat[sort] == agent
            memo.shut[row, agent] = memo.open[agent] if may_start else 0
            memo.hint_duration[row, agent] = NEVER_MS
    return row


@part
def choose(of: Round, pair: int, duration: int, reach: int, first: int, last: int) -> int:
    """The agent of `first` to `last` where a job starts now, -1 when none has room for it.

    The nearest to its data, which may come from `reach` ms away; then the best liked; then, for jobs with GPUs, where the
    score of a first task is highest; then the least loaded; then the first. A start that would delay a promise made there
    is none.
    """
    sorts, work = of.sorts, of.work
    sort, liking = int(sorts.pair_sort[pair]), int(sorts.pair_liking[pair])
    shape, replicas, far = int(sorts.shape[sort]), int(sorts.replicas[sort]), sorts.moves.route[sort] >= 0
    among = (sorts.liking[liking], work.load)
    shut = work.memo.shut[memo_row(work.memo, sort)]
    count, least = 0, int(np.int64(NEVER_MS))
    for agent in range(first, last):
        transfer = transfer_of(sorts.moves, sort, agent)
        held_ms = duration + transfer
        if sorts.steps[sort, agent] != 0 or transfer > min(reach, least) or held_ms >= shut[agent]:
            continue
        if not welcome(of, liking, held_ms, agent):
            continue
        if work.reserved[agent] > 0 and not _keeps_promises(of, agent, (shape, replicas), held_ms):
            shut[agent] = held_ms
            continue
        if far and room_of(of.known, work.room, of.shapes, shape, agent, replicas) < replicas:
            shut[agent] = 0
            continue
        if transfer < least:
            count, least = 0, transfer
        work.opened[count] = agent
        count += 1
    best = best_agent(of.known, work.room, of.shapes, of.taste.tables, (shape, replicas), work.opened[:count], among)
    if best == NEVER:
        for at in range(count):
            shut[work.opened[at]] = 0
    return best


@inline
def _keeps_promises(of: Round, agent: int, gang: tuple[int, int], held_ms: int) -> bool:
    """Whether a `gang` (shape, replicas) may hold room so long at an agent that has promised some, and leaves headroom."""
    work, limits = of.work, of.limits
    weigh(work.need, of.totals, gang[0], gang[1])
    roomy = limits.headroom == 0 or held_ms <= limits.short_ms or leaves_headroom(of, agent)
    return roomy and fits_now(work.profiles, agent, work.need, held_ms)


@inline
def leaves_headroom(of: Round, agent: int) -> bool:
    """Whether `work.need` may be taken at an agent, and enough is left for short jobs."""
    for column in range(len(of.work.need)):
        need, there = of.work.need[column], of.agents.offered[agent, column]
        if need > 0 and there - of.work.used[agent, column] - need < there // of.limits.headroom:
            return False
    return True


@part
def take_place(of: Round, sort: int, agent: int, nodes: Int64, devices: Int64) -> None:
    """Take room for a gang at an agent that has it.

    `nodes` int64 (replicas,) and `devices` int64 (replicas x devices of the shape,) get where each task went.
    """
    work, shapes, shape = of.work, of.shapes, int(of.sorts.shape[sort])
    if of.sorts.spread[sort]:
        span = (of.known.layout.agent_first[agent], of.known.layout.agent_first[agent + 1])
        place_spread(work.room, shapes, of.taste, shape, span, nodes, devices)
        for task in range(len(nodes)):
            touch(of.known, work.room, nodes[task])
    else:
        done, wanted = 0, shapes.devices[shape]
        while done < len(nodes):
            _, _, node, device = best_node(of.known, work.room, shapes, of.taste.tables, shape, agent)
            for task in range(tasks_on_node(work.room, shapes, shape, node, len(nodes) - done)):
                if task > 0 and 0 < shapes.milli[shape] < DEVICE_MILLI:
                    _, device = score_of(work.room, shapes, of.taste, shape, node)
                take(work.room, shapes, shape, node, device, devices[done * wanted : (done + 1) * wanted])
                nodes[done] = node
                done += 1
            touch(of.known, work.room, node)
    need = work.need
    weigh(need, of.totals, shape, len(nodes))
    load = 0.0
    for column in range(len(need)):
        work.used[agent, column] += need[column]
        if of.agents.offered[agent, column] > 0:
            load = max(load, float(work.used[agent, column]) / float(of.agents.offered[agent, column]))
    work.load[agent] = load


@inline
def start(of: Round, at: int, sort: int, agent: int, duration: int) -> bool:
    """Start a job at an agent that has room; False when the round's answer is full."""
    work, out = of.work, of.out
    replicas, wanted = int(of.sorts.replicas[sort]), of.shapes.devices[of.sorts.shape[sort]]
    placed, tasks, devices = out.counters[PLACEMENTS], out.counters[TASKS], out.counters[DEVICES]
    if placed == of.limits.placements or tasks + replicas > len(out.nodes):
        return False
    if devices + replicas * wanted > len(out.devices):
        return False
    taken = out.devices[devices : devices + replicas * wanted]
    take_place(of, sort, agent, out.nodes[tasks : tasks + replicas], taken)
    out.placed[placed] = at
    out.agent[at] = agent
    out.counters[PLACEMENTS] += 1
    out.counters[TASKS] += replicas
    out.counters[DEVICES] += replicas * wanted
    if work.reserved[agent] > 0:
        reserve(work.profiles, agent, of.limits.now_ms, of.limits.now_ms + duration, work.need)
    return True
