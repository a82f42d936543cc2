"""Room over time: what each agent has free from each instant on, as a step function; when a gang fits; reservations.

A profile is what backfill plans on (Mu'alem and Feitelson, "Utilization, predictability, workloads, and user runtime
estimates in scheduling the IBM SP2 with backfilling", IEEE TPDS 2001, where it is the list of free nodes over time):
it begins with what is free now, grows where something that runs is expected to end, and shrinks inside reservations.
Amounts are an agent's totals, summed over its nodes: an upper bound of what a gang finds there, so a start that a
profile calls possible is still tried node by node when its moment comes.

A round asks a profile of a thousand reservations a thousand times. So its rows lie in blocks of `BLOCK`, and a block
knows the most and the least that is free in it: a search steps over blocks in which nothing fits, or everything; a new
row moves only those of its block; a full block is halved. Deliberately not here: who reserves, in which order, and on
which node (`room.py`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from federation.scheduling.kernels.jit import lean

Int64 = npt.NDArray[np.int64]

NEVER_MS = 2**62
"""The answer of `earliest` when the need does not fit at any time. Later than every instant, with room to add to."""
BLOCK = 32
FILLED = 24
"""How many rows `build` puts into a block, so that there is room for more between them."""


class Profiles(NamedTuple):
    """All agents' profiles. Agent a's rows lie in its blocks chain[first[a]] to chain[first[a] + blocks[a] - 1].

    Block b has rows b x BLOCK to b x BLOCK + filled[b] - 1. In this order they ascend in time.
    """

    first: Int64
    """(A + 1,) each agent's first place in the chain."""
    blocks: Int64
    """(A,) how many blocks it uses; 1 or more once built. Behind them in the chain are those that it may yet use."""
    rows_max: Int64
    """(A,) how many rows it may have ..."""
    length: Int64
    """(A,) ... and has."""
    chain: Int64
    """(B,) an agent's blocks in the order of their times."""
    filled: Int64
    """(B,)"""
    most: Int64
    """(B, T) the most that is free in any row of the block ..."""
    least: Int64
    """(B, T) ... and the least."""
    times: Int64
    """(B x BLOCK,) ms; an agent's first is now, and its last row holds for ever."""
    free: Int64
    """(B x BLOCK, T) free of each resource from that instant until the next; below zero where more is held than is offered."""


def profiles_for(rows: Int64, resources: int) -> Profiles:
    """Profiles not yet built, for agents with at most `rows` int64 (A,) rows each, of `resources` resources.

    A profile needs 1 row, one for each different end of what runs, and two for each reservation.
    """
    agents = len(rows)
    first = np.zeros(agents + 1, np.int64)
    np.cumsum(np.where(rows > 0, rows // (BLOCK // 2) + 2, 0), out=first[1:])
    blocks = int(first[-1])
    return Profiles(
        first=first,
        blocks=np.zeros(agents, np.int64),
        rows_max=rows.astype(np.int64),
        length=np.zeros(agents, np.int64),
        chain=np.arange(blocks),
        filled=np.zeros(blocks, np.int64),
        most=np.zeros((blocks, resources), np.int64),
        least=np.zeros((blocks, resources), np.int64),
        times=np.zeros(blocks * BLOCK, np.int64),
        free=np.zeros((blocks * BLOCK, resources), np.int64),
    )


def steps_of(profiles: Profiles, agent: int) -> list[tuple[int, tuple[int, ...]]]:
    """An agent's rows as (ms, free of each resource), for people and tests."""
    begin = int(profiles.first[agent])
    found: list[tuple[int, tuple[int, ...]]] = []
    for block in profiles.chain[begin : begin + profiles.blocks[agent]].tolist():
        rows = slice(block * BLOCK, block * BLOCK + int(profiles.filled[block]))
        found += zip(profiles.times[rows].tolist(), map(tuple, profiles.free[rows].tolist()), strict=True)
    return found


@lean
def build(profiles: Profiles, agent: int, now_ms: int, free_now: Int64, ends_ms: Int64, amounts: Int64) -> bool:
    """Begin a profile anew: `free_now` int64 (T,), and what runs gives back `amounts` int64 (E, T) at `ends_ms` (E,).

    The ends ascend. What should have ended by now still holds its room: it is expected a millisecond from now. False,
    with the later ends left out, when the agent has too few rows.
    """
    profiles.blocks[agent], profiles.length[agent] = 0, 0
    if profiles.rows_max[agent] < 1:
        return False
    last = _append(profiles, agent, now_ms, -1, FILLED)
    for resource in range(len(free_now)):
        profiles.free[last, resource] = free_now[resource]
    whole = True
    for ending in range(len(ends_ms)):
        end_ms = max(ends_ms[ending], now_ms + 1)
        if profiles.times[last] != end_ms:
            if profiles.length[agent] == profiles.rows_max[agent]:
                whole = False
                break
            last = _append(profiles, agent, end_ms, last, FILLED)
        for resource in range(len(free_now)):
            profiles.free[last, resource] += amounts[ending, resource]
    begin = profiles.first[agent]
    for place in range(begin, begin + profiles.blocks[agent]):
        _sum_up(profiles, profiles.chain[place])
    return whole


@lean
def _append(profiles: Profiles, agent: int, at_ms: int, like: int, full: int) -> int:
    """The number of a row at the end, like row `like` (-1: none), in a new block after `full`. Sums are not kept up."""
    place = profiles.first[agent] + profiles.blocks[agent] - 1
    if profiles.blocks[agent] == 0 or profiles.filled[profiles.chain[place]] >= full:
        profiles.blocks[agent] += 1
        place += 1
        profiles.filled[profiles.chain[place]] = 0
    block = profiles.chain[place]
    row: int = block * BLOCK + profiles.filled[block]
    profiles.filled[block] += 1
    profiles.length[agent] += 1
    if like >= 0:
        _copy_row(profiles, like, row)
    profiles.times[row] = at_ms
    return row


@lean
def _sum_up(profiles: Profiles, block: int) -> None:
    """The most and the least of a block."""
    begin = block * BLOCK
    for resource in range(profiles.free.shape[1]):
        most = least = profiles.free[begin, resource]
        for row in range(begin + 1, begin + profiles.filled[block]):
            most = max(most, profiles.free[row, resource])
            least = min(least, profiles.free[row, resource])
        profiles.most[block, resource], profiles.least[block, resource] = most, least


@lean
def _copy_row(profiles: Profiles, source: int, target: int) -> None:
    """One row over another."""
    profiles.times[target] = profiles.times[source]
    for resource in range(profiles.free.shape[1]):
        profiles.free[target, resource] = profiles.free[source, resource]


@lean
def _place_at(profiles: Profiles, agent: int, at_ms: int) -> int:
    """The place in the chain of the block that holds at `at_ms`; the first when that is before now."""
    low: int = profiles.first[agent]
    high = low + profiles.blocks[agent]
    while high - low > 1:
        middle = (low + high) >> 1
        if profiles.times[profiles.chain[middle] * BLOCK] <= at_ms:
            low = middle
        else:
            high = middle
    return low


@lean
def _row_at(profiles: Profiles, block: int, at_ms: int) -> int:
    """The row of a block that holds at `at_ms`; its first when that is before it."""
    low: int = block * BLOCK
    high = low + profiles.filled[block]
    while high - low > 1:
        middle = (low + high) >> 1
        if profiles.times[middle] <= at_ms:
            low = middle
        else:
            high = middle
    return low


@lean
def _enough(free: Int64, row: int, need: Int64) -> bool:
    """Whether `need` int64 (T,) is there in a row of `free` int64 (., T); what is not needed does not matter."""
    for resource in range(len(need)):  # noqa: SIM110  # compiled
        if need[resource] > 0 and free[row, resource] < need[resource]:
            return False
    return True


@lean
def earliest(profiles: Profiles, agent: int, need: Int64, duration_ms: int, not_before_ms: int) -> int:
    """The first instant, not before `not_before_ms` nor now, from which `need` int64 (T,) fits for `duration_ms`.

    NEVER_MS when there is none. A resource of which nothing is needed does not matter, however over-held. Nothing is
    looked at twice: where too little is free the search goes on behind it. While a pass only reserves, the answer for
    the same need never grows earlier: give the last one as `not_before_ms`, and the search begins there.
    """
    place = _place_at(profiles, agent, not_before_ms)
    end = profiles.first[agent] + profiles.blocks[agent]
    block = profiles.chain[place]
    row = _row_at(profiles, block, not_before_ms)
    start_ms: int = max(not_before_ms, profiles.times[row])
    while True:
        holds = _enough(profiles.most, block, need)
        if holds and not _enough(profiles.least, block, need):
            last = block * BLOCK + profiles.filled[block]
            while row < last:
                if holds and profiles.times[row] > start_ms and profiles.times[row] - start_ms >= duration_ms:
                    return start_ms
                fits = _enough(profiles.free, row, need)
                if fits and not holds:
                    start_ms = profiles.times[row]
                holds = fits
                row += 1
        place += 1
        if place == end:
            return start_ms if holds else NEVER_MS
        block = profiles.chain[place]
        row = block * BLOCK
        if not holds:
            start_ms = profiles.times[row]
        elif profiles.times[row] - start_ms >= duration_ms:
            return start_ms


@lean
def fits_at(profiles: Profiles, agent: int, need: Int64, duration_ms: int, start_ms: int) -> bool:
    """Whether `need` int64 (T,) fits from `start_ms` (now, when that is earlier) for `duration_ms`."""
    place = _place_at(profiles, agent, start_ms)
    end = profiles.first[agent] + profiles.blocks[agent]
    block = profiles.chain[place]
    row = _row_at(profiles, block, start_ms)
    until_ms = max(start_ms, profiles.times[row]) + duration_ms
    if not _enough(profiles.free, row, need):
        return False
    while True:
        if not _enough(profiles.least, block, need):
            last = block * BLOCK + profiles.filled[block]
            while row + 1 < last:
                row += 1
                if profiles.times[row] >= until_ms:
                    return True
                if not _enough(profiles.free, row, need):
                    return False
        place += 1
        if place == end:
            return True
        block = profiles.chain[place]
        row = block * BLOCK
        if profiles.times[row] >= until_ms:
            return True
        if not _enough(profiles.free, row, need):
            return False


@lean
def fits_now(profiles: Profiles, agent: int, need: Int64, duration_ms: int) -> bool:
    """Whether `need` int64 (T,) fits from now for `duration_ms`: a start that delays no reservation."""
    now_ms = profiles.times[profiles.chain[profiles.first[agent]] * BLOCK]
    return fits_at(profiles, agent, need, duration_ms, now_ms)


@lean
def reserve(profiles: Profiles, agent: int, start_ms: int, end_ms: int, need: Int64) -> bool:
    """Take `need` int64 (T,) from `start_ms` (now, when that is earlier) until `end_ms`, whether or not it is free.

    False, and nothing is taken, when the agent has too few rows left. An empty stretch takes nothing.
    """
    return _change(profiles, agent, (start_ms, end_ms), need, -1)


@lean
def release(profiles: Profiles, agent: int, start_ms: int, end_ms: int, need: Int64) -> bool:
    """Give back what `reserve` took, or a part of its stretch; rows that say the same as the one before go.

    False, and nothing is given, when the agent has too few rows left: only for a stretch that was not reserved so.
    """
    if not _change(profiles, agent, (start_ms, end_ms), need, 1):
        return False
    _join_equals(profiles, agent)
    return True


@lean
def _change(profiles: Profiles, agent: int, stretch: tuple[int, int], need: Int64, sign: int) -> bool:
    """Add `sign` x `need` over a stretch; see `reserve`."""
    start_ms, end_ms = stretch
    start_ms = max(start_ms, profiles.times[profiles.chain[profiles.first[agent]] * BLOCK])
    if end_ms <= start_ms:
        return True
    more = 0
    for at_ms in (start_ms, end_ms):
        block = profiles.chain[_place_at(profiles, agent, at_ms)]
        more += int(profiles.times[_row_at(profiles, block, at_ms)] != at_ms)
    if profiles.length[agent] + more > profiles.rows_max[agent]:
        return False
    _split_at(profiles, agent, start_ms)
    _split_at(profiles, agent, end_ms)
    place = _place_at(profiles, agent, start_ms)
    end = profiles.first[agent] + profiles.blocks[agent]
    while place < end:
        block = profiles.chain[place]
        begin, last = block * BLOCK, block * BLOCK + profiles.filled[block]
        if profiles.times[begin] >= end_ms:
            break
        row = begin if profiles.times[begin] >= start_ms else _row_at(profiles, block, start_ms)
        whole = row == begin
        while row < last and profiles.times[row] < end_ms:
            for resource in range(len(need)):
                profiles.free[row, resource] += sign * need[resource]
            row += 1
        if whole and row == last:
            for resource in range(len(need)):
                profiles.most[block, resource] += sign * need[resource]
                profiles.least[block, resource] += sign * need[resource]
        else:
            _sum_up(profiles, block)
        place += 1
    return True


@lean
def _split_at(profiles: Profiles, agent: int, at_ms: int) -> None:
    """Have a row begin at `at_ms`, which says what is said there already."""
    place = _place_at(profiles, agent, at_ms)
    block = profiles.chain[place]
    row = _row_at(profiles, block, at_ms)
    if profiles.times[row] == at_ms:
        return
    if profiles.filled[block] == BLOCK:
        _halve(profiles, agent, place)
        if row >= block * BLOCK + BLOCK // 2:
            row += (profiles.chain[place + 1] - block) * BLOCK - BLOCK // 2
            block = profiles.chain[place + 1]
    for behind in range(block * BLOCK + profiles.filled[block] - 1, row - 1, -1):
        _copy_row(profiles, behind, behind + 1)
    profiles.times[row + 1] = at_ms
    profiles.filled[block] += 1
    profiles.length[agent] += 1


@lean
def _halve(profiles: Profiles, agent: int, place: int) -> None:
    """Move the later half of a full block to the next block that is unused."""
    last = profiles.first[agent] + profiles.blocks[agent]
    block, unused = profiles.chain[place], profiles.chain[last]
    for behind in range(last, place + 1, -1):
        profiles.chain[behind] = profiles.chain[behind - 1]
    profiles.chain[place + 1] = unused
    profiles.blocks[agent] += 1
    half = BLOCK // 2
    for at in range(half):
        _copy_row(profiles, block * BLOCK + half + at, unused * BLOCK + at)
    profiles.filled[block], profiles.filled[unused] = half, half
    _sum_up(profiles, block)
    _sum_up(profiles, unused)


@lean
def _join_equals(profiles: Profiles, agent: int) -> None:
    """Leave out rows that say the same as the one before, and close the ranks."""
    begin, end = profiles.first[agent], profiles.first[agent] + profiles.blocks[agent]
    profiles.blocks[agent], profiles.length[agent] = 0, 0
    last = -1
    for place in range(begin, end):
        block = profiles.chain[place]
        rows = profiles.filled[block]
        for row in range(block * BLOCK, block * BLOCK + rows):
            same = last >= 0
            for resource in range(profiles.free.shape[1]):
                if not same or profiles.free[row, resource] != profiles.free[last, resource]:
                    same = False
                    break
            if not same:
                last = _append(profiles, agent, profiles.times[row], row, BLOCK)
    for place in range(begin, begin + profiles.blocks[agent]):
        _sum_up(profiles, profiles.chain[place])
