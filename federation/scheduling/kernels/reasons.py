"""Why a sort of job waits at each hub, after a round: the lowest step of the hub's agents.

Deliberately not here: what hinders one job of a sort and not the others (`explaining.py`).
"""

from __future__ import annotations

from typing import NamedTuple

from federation.scheduling.kernels.gangs import TASKS_MAX, tasks_at
from federation.scheduling.kernels.index import Index, room_of
from federation.scheduling.kernels.jit import lean
from federation.scheduling.kernels.moving import transfer_of
from federation.scheduling.kernels.profile import NEVER_MS
from federation.scheduling.kernels.quotas import over_quota
from federation.scheduling.kernels.room import Int64, Nodes, Shapes
from federation.scheduling.kernels.round import PLACED, Round, Sorts, UInt8


class Asked(NamedTuple):
    """Whose reasons are asked for."""

    sorts: Int64
    """Numbers in `of`."""
    reach: Int64
    """(all sorts,) the furthest that the data of a job of each may come from, -1: nobody has asked."""
    of: Sorts
    shapes: Shapes
    hub_first: Int64
    """(H + 1,) agents of each hub."""
    clock: Int64
    """(A,) the index's clock when the round began: who did not move has the room it had."""


class Shared(NamedTuple):
    """What the waiting jobs of each sort (S) have in common."""

    over: Int64
    """(S,) how many would pass a quota."""
    shortest: Int64
    """(S,) the shortest time that one may run; -NEVER_MS when any can be preempted."""
    at_home: UInt8
    """(S, H) whether any is of that hub."""


@lean
def shared_obstacles(of: Round, left_out: UInt8, shared: Shared) -> None:
    """Into `shared`, of the jobs that wait after a round, those with `left_out` uint8 (Q,) set excepted."""
    line, sorts = of.line, of.sorts
    for at in range(len(line.order)):
        if left_out[at] or of.out.status[at] == PLACED:
            continue
        slot = int(line.order[at])
        sort, liking = int(sorts.pair_sort[line.pair[slot]]), int(sorts.pair_liking[line.pair[slot]])
        if not line.aside[slot] and over_quota(of, int(line.owner[slot]), sort):
            shared.over[sort] += 1
        duration = int(line.duration[slot]) if sorts.stays[liking] else -NEVER_MS
        shared.shortest[sort] = min(shared.shortest[sort], duration)
        if sorts.home[liking] >= 0:
            shared.at_home[sort, sorts.home[liking]] = 1


@lean
def reasons(asked: Asked, before: Nodes, after: Nodes, index: Index, codes: UInt8, full: bool, steps: UInt8) -> None:
    """Into `steps` uint8 (len(asked.sorts), H) the obstacle of each sort at each hub.

    `before` is the room that the round began with, `after` what it left; `codes` are the steps for: others were first, a
    promised start is in the way, no room, its data is too far. `full`: the round ended before everybody had a turn.
    """
    for row in range(len(asked.sorts)):
        sort = int(asked.sorts[row])
        shape, replicas = int(asked.of.shape[sort]), int(asked.of.replicas[sort])
        for hub in range(steps.shape[1]):
            lowest = 255
            for agent in range(asked.hub_first[hub], asked.hub_first[hub + 1]):
                step = int(asked.of.steps[sort, agent])
                if step == 0:
                    begin, end = index.layout.agent_first[agent], index.layout.agent_first[agent + 1]
                    moved = index.touched.clock[agent] != asked.clock[agent]
                    if room_of(index, after, asked.shapes, shape, agent, replicas) >= replicas:
                        step = int(codes[0] if full else codes[1])
                        if not full and 0 <= asked.reach[sort] < transfer_of(asked.of.moves, sort, agent):
                            step = int(codes[3])
                    elif moved and tasks_at(before, asked.shapes, shape, begin, end, TASKS_MAX) >= replicas:
                        step = int(codes[0])
                    else:
                        step = int(codes[2])
                lowest = min(lowest, step)
            steps[row, hub] = lowest
