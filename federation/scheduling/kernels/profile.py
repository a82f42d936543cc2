"""Room over time: what each agent has free from each instant on, as a step function; when a gang fits; reservations.

A profile is what backfill plans on (Mu'alem and Feitelson, "Utilization, predictability, workloads, and user runtime
estimates in scheduling the IBM SP2 with backfilling", IEEE TPDS 2001, where it is the list of free nodes over time):
it begins with what is free now, grows where something that runs is expected to end, and shrinks inside reservations.
Amounts are an agent's totals, summed over its nodes: an upper bound of what a gang finds there, so a start that a
profile calls possible is still tried node by node when its moment comes.

Rows lie one after the other, and a search looks at each of them once: 0.2 us in a profile of 100 rows, 2 us in one of
1,100; searching and reserving in turn, with the last answer as a hint, 0.4 us and 0.6 to 1.2 us (four resources, one
core of two at 2.x GHz). Rows in blocks that know their most and least were no faster: in a crowded profile nearly every
block has both. Deliberately not here: who reserves, in which order, and on which node (`room.py`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from federation.scheduling.kernels.jit import lean

Int64 = npt.NDArray[np.int64]

NEVER_MS = 2**62
"""The answer of `earliest` when the need does not fit at any time. Later than every instant, with room to add to."""


class Profiles(NamedTuple):
    """All agents' profiles. Agent a's breakpoints are rows first[a] to first[a] + length[a] - 1, ascending in time."""

    first: Int64
    """(A + 1,) where each agent's rows begin; first[a + 1] - first[a] is how many it may have."""
    length: Int64
    """(A,) how many it has; 1 or more once built."""
    times: Int64
    """(P,) ms; the first is now, and the last row holds for ever."""
    free: Int64
    """(P, T) free of each resource from that instant until the next; below zero where more is held than is offered."""


def profiles_for(rows: Int64, resources: int) -> Profiles:
    """Profiles not yet built, for agents with at most `rows` int64 (A,) breakpoints each, of `resources` resources.

    A profile needs 1 row, one for each different end of what runs, and two for each reservation.
    """
    first = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(rows, out=first[1:])
    room = int(first[-1])
    return Profiles(
        first, np.zeros(len(rows), np.int64), np.zeros(room, np.int64), np.zeros((room, resources), np.int64)
    )


@lean
def build(profiles: Profiles, agent: int, now_ms: int, free_now: Int64, ends_ms: Int64, amounts: Int64) -> bool:
    """Begin a profile anew: `free_now` int64 (T,), and what runs gives back `amounts` int64 (E, T) at `ends_ms` (E,).

    The ends ascend. What should have ended by now still holds its room: it is expected a millisecond from now. False,
    with the later ends left out, when the agent has too few rows.
    """
    begin = profiles.first[agent]
    most = profiles.first[agent + 1] - begin
    if most < 1:
        return False
    last = begin
    profiles.times[last] = now_ms
    for resource in range(profiles.free.shape[1]):
        profiles.free[last, resource] = free_now[resource]
    profiles.length[agent] = 1
    for ending in range(len(ends_ms)):
        end_ms = max(ends_ms[ending], now_ms + 1)
        if profiles.times[last] != end_ms:
            if profiles.length[agent] == most:
                return False
            for resource in range(profiles.free.shape[1]):
                profiles.free[last + 1, resource] = profiles.free[last, resource]
            last += 1
            profiles.times[last] = end_ms
            profiles.length[agent] += 1
        for resource in range(profiles.free.shape[1]):
            profiles.free[last, resource] += amounts[ending, resource]
    return True


@lean
def row_at(profiles: Profiles, agent: int, at_ms: int) -> int:
    """The row that holds at `at_ms`; the first when that is before now."""
    low: int = profiles.first[agent]
    high = low + profiles.length[agent]
    while high - low > 1:
        middle = (low + high) >> 1
        if profiles.times[middle] <= at_ms:
            low = middle
        else:
            high = middle
    return low


@lean
def earliest(profiles: Profiles, agent: int, need: Int64, duration_ms: int, not_before_ms: int) -> int:
    """The first instant, not before `not_before_ms` nor now, from which `need` int64 (T,) fits for `duration_ms`.

    NEVER_MS when there is none. A resource of which nothing is needed does not matter, however over-held. Each row is
    looked at once: where one is too small the search goes on behind it. While a pass only reserves, the answer for the
    same need never grows earlier: give the last one as `not_before_ms`, and the search begins there.
    """
    row = row_at(profiles, agent, not_before_ms)
    end = profiles.first[agent] + profiles.length[agent]
    start_ms: int = max(not_before_ms, profiles.times[row])
    resources = len(need)
    while True:
        fits = True
        for resource in range(resources):
            if need[resource] > 0 and profiles.free[row, resource] < need[resource]:
                fits = False
                break
        row += 1
        if fits:
            if row == end or profiles.times[row] - start_ms >= duration_ms:
                return start_ms
        elif row == end:
            return NEVER_MS
        else:
            start_ms = profiles.times[row]


@lean
def fits_at(profiles: Profiles, agent: int, need: Int64, duration_ms: int, start_ms: int) -> bool:
    """Whether `need` int64 (T,) fits from `start_ms` (now, when that is earlier) for `duration_ms`."""
    row = row_at(profiles, agent, start_ms)
    end = profiles.first[agent] + profiles.length[agent]
    until_ms = max(start_ms, profiles.times[row]) + duration_ms
    while True:
        for resource in range(len(need)):
            if need[resource] > 0 and profiles.free[row, resource] < need[resource]:
                return False
        row += 1
        if row == end or profiles.times[row] >= until_ms:
            return True


@lean
def fits_now(profiles: Profiles, agent: int, need: Int64, duration_ms: int) -> bool:
    """Whether `need` int64 (T,) fits from now for `duration_ms`: a start that delays no reservation."""
    return fits_at(profiles, agent, need, duration_ms, profiles.times[profiles.first[agent]])


@lean
def reserve(profiles: Profiles, agent: int, start_ms: int, end_ms: int, need: Int64) -> bool:
    """Take `need` int64 (T,) from `start_ms` (now, when that is earlier) until `end_ms`, whether or not it is free.

    False, and nothing is taken, when the agent has too few rows left. An empty stretch takes nothing.
    """
    return _change(profiles, agent, (start_ms, end_ms), need, -1)


@lean
def _change(profiles: Profiles, agent: int, stretch: tuple[int, int], need: Int64, sign: int) -> bool:
    """Add `sign` x `need` over a stretch; see `reserve`."""
    start_ms, end_ms = stretch
    start_ms = max(start_ms, profiles.times[profiles.first[agent]])
    if end_ms <= start_ms:
        return True
    begin = row_at(profiles, agent, start_ms)
    until = row_at(profiles, agent, end_ms)
    split_begin = profiles.times[begin] != start_ms
    split_until = profiles.times[until] != end_ms
    more = int(split_begin) + int(split_until)
    old_end = profiles.first[agent] + profiles.length[agent]
    if old_end + more > profiles.first[agent + 1]:
        return False
    # One pass from the back: rows behind the stretch move by `more`, rows inside it by one when its start is new.
    if more > 0:
        for row in range(old_end - 1, until, -1):
            _copy_row(profiles, row, row + more)
        if split_until:
            _copy_row(profiles, until, until + more)
            profiles.times[until + more] = end_ms
        if split_begin:
            for row in range(until, begin, -1):
                _copy_row(profiles, row, row + 1)
            _copy_row(profiles, begin, begin + 1)
            profiles.times[begin + 1] = start_ms
        profiles.length[agent] += more
    taken_from = begin + int(split_begin)
    taken_to = until + int(split_begin) + int(split_until)
    for row in range(taken_from, taken_to):
        for resource in range(len(need)):
            profiles.free[row, resource] += sign * need[resource]
    return True


@lean
def release(profiles: Profiles, agent: int, start_ms: int, end_ms: int, need: Int64) -> bool:
    """Give back what `reserve` took, or a part of its stretch; rows that say the same as the one before go.

    False, and nothing is given, when the agent has too few rows left: only for a stretch that was not reserved so.
    """
    if not _change(profiles, agent, (start_ms, end_ms), need, 1):
        return False
    begin = profiles.first[agent]
    end = begin + profiles.length[agent]
    kept = begin
    for row in range(begin + 1, end):
        same = True
        for resource in range(profiles.free.shape[1]):
            if profiles.free[row, resource] != profiles.free[kept, resource]:
                same = False
                break
        if not same:
            kept += 1
            if kept != row:
                _copy_row(profiles, row, kept)
    profiles.length[agent] = kept + 1 - begin
    return True


@lean
def _copy_row(profiles: Profiles, source: int, target: int) -> None:
    """One row over another."""
    profiles.times[target] = profiles.times[source]
    for resource in range(profiles.free.shape[1]):
        profiles.free[target, resource] = profiles.free[source, resource]
