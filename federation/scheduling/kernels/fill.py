"""One round: everybody's jobs in their turn, each started where there is room, or promised a start.

First the owners: jobs of a hub's own users on that hub's machines, so that no guest comes before them there. Then
everybody everywhere. Within each, class by class; within a class first those whose promised start has come, then by
weighted dominant share (`turns.py`); of one user by line position. A job that cannot start gets a reservation at its best agent while that has fewer than the limit:
from then on nothing starts there that would delay it (conservative backfill), once it has waited for a while.
Reservations are made anew in every round. Room only shrinks while a round goes on, so what did not fit is not tried
again. Deliberately not here: what is checked at the door, and words.
"""

from __future__ import annotations

import numpy as np

from federation.scheduling.kernels.blocked import note_blocked
from federation.scheduling.kernels.choosing import choose, start
from federation.scheduling.kernels.jit import inline, lean
from federation.scheduling.kernels.moving import reach_of, transfer_of
from federation.scheduling.kernels.promising import promise, work_of
from federation.scheduling.kernels.quotas import count_held, over_quota
from federation.scheduling.kernels.room import Int64
from federation.scheduling.kernels.round import ENDED_EARLY, PLACED, RESERVED, WAITS, Round
from federation.scheduling.kernels.turns import Levels, Tree, drop_top, grow, plant, sink

NEXT, SERVED, FULL = 0, 1, 2
ELSEWHERE = -2


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
                of.out.counters[ENDED_EARLY] = 1
                return
            begin = end


@inline
def _turns(of: Round, begin: int, end: int, home_only: bool) -> bool:
    """Serve the jobs at `begin` to `end` of the order; False when the round is full."""
    levels, tree, work = of.levels, of.tree, of.work
    count = _line_up(of, begin, end, home_only)
    served_due, planted, user = 0, False, -1
    root = len(levels.parent)
    while True:
        by_turn = served_due == len(of.line.due)
        if by_turn:
            if not planted:
                plant(levels, tree, work.users[:count])
                planted = True
            if user < 0:
                if tree.size[root] == 0:
                    return True
                user = _whose_turn(tree, root)
            owner, at = user, int(work.cursor[user])
            work.cursor[user] += 1
        else:
            at = int(of.line.due[served_due])
            served_due += 1
            owner = int(of.line.owner[of.line.order[at]])
            if not begin <= at < end or (home_only and work.level_hub[owner] < 0):
                continue
        tried = _try(of, at, owner, home_only)
        if tried == FULL:
            return False
        if by_turn and (tried == SERVED or work.cursor[user] == work.until[user]):
            _turn_over(of, root, user, work.cursor[user] == work.until[user])
            user = -1


@inline
def _line_up(of: Round, begin: int, end: int, home_only: bool) -> int:
    """Into `work.users` whoever has jobs there, with where each one's line begins and ends; how many they are."""
    work, count, previous = of.work, 0, -1
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
    return count


@inline
def _whose_turn(tree: Tree, root: int) -> int:
    """The first user of the first project of the first hub."""
    hub = int(tree.members[tree.first[root]])
    project = int(tree.members[tree.first[hub]])
    return int(tree.members[tree.first[project]])


@inline
def _turn_over(of: Round, root: int, user: int, over: bool) -> None:
    """The first user had a turn, and goes to its place; `over`: has nothing left."""
    level = user
    while level != root:
        parent = int(of.levels.parent[level])
        above = root if parent < 0 else parent
        if over:
            drop_top(of.levels, of.tree, above)
        else:
            sink(of.levels, of.tree, above, 0)
        level, over = above, of.tree.size[above] == 0


@inline
def _try(of: Round, at: int, user: int, home_only: bool) -> int:
    """Start a job: SERVED; NEXT when it cannot start now, and is perhaps promised a start; FULL."""
    line, sorts, work, out = of.line, of.sorts, of.work, of.out
    first, last, hub = 0, len(of.agents.offered), int(work.level_hub[user])
    if home_only:
        first, last = of.agents.hub_first[hub], of.agents.hub_first[hub + 1]
    slot = int(line.order[at])
    pair = int(line.pair[slot])
    sort, liking = int(sorts.pair_sort[pair]), int(sorts.pair_liking[pair])
    if out.status[at] == PLACED or line.aside[slot] or (home_only and not sorts.home_first[liking]):
        return NEXT
    duration = line.duration[slot]
    reach = reach_of(of, pair, duration, line.submitted[slot])
    if over_quota(of, user, sort):
        if not home_only:
            work.reach[sort] = max(work.reach[sort], reach)
        return NEXT
    where = int(home_only)
    if duration < work.dead[where, pair] or reach > work.dead_reach[where, pair]:
        agent = _chosen(of, pair, duration, reach, (first, last), home_only)
        if agent == ELSEWHERE:
            return NEXT
        if agent >= 0:
            if not start(of, at, sort, agent, duration + transfer_of(sorts.moves, sort, agent)):
                return FULL
            _count_share(of.levels, user, work.need, of.agents.offered_totals)
            count_held(of, user)
            out.status[at] = PLACED
            return SERVED
        work.dead[where, pair], work.dead_reach[where, pair] = duration, reach
        if home_only:
            note_blocked(of, at, pair, hub, reach)
        else:
            work.reach[sort] = max(work.reach[sort], reach)
    patient = of.limits.now_ms - line.submitted[slot] >= of.limits.promise_after_ms
    if out.status[at] != WAITS or (not home_only and (work.capped[pair] or not patient)):
        return NEXT
    if promise(of, at, pair, reach, (first, last), (home_only, patient)):
        out.status[at] = RESERVED
    return NEXT


@inline
def _chosen(of: Round, pair: int, duration: int, reach: int, home: tuple[int, int], home_only: bool) -> int:
    """The agent where a job starts now; -1 for none, ELSEWHERE when it starts nearer to its data in everybody's turn."""
    agent, sort = int(np.int64(-1)), int(of.sorts.pair_sort[pair])
    for everywhere in range(2):  # so that `choose` is compiled once
        span = (0, len(of.agents.offered)) if everywhere else home
        found = choose(of, pair, duration, reach, span[0], span[1])
        agent = found if not everywhere or found == agent else ELSEWHERE
        if not home_only or agent < 0 or transfer_of(of.sorts.moves, sort, agent) == 0:
            break
    return agent


@inline
def _count_share(levels: Levels, user: int, need: Int64, offered: Int64) -> None:
    """A gang that takes `need` uses up a turn of the user, the project and the hub."""
    level = user
    while level >= 0:
        grow(levels, level, need, offered)
        level = int(levels.parent[level])
