"""The capacity profile against its slow obvious twin: lists of what is given and taken, summed anew at every instant."""

from __future__ import annotations

from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.scheduling.kernels.profile import (
    NEVER_MS,
    Profiles,
    build,
    earliest,
    fits_at,
    fits_now,
    profiles_for,
    release,
    reserve,
)

ROWS, RESOURCES = 220, 2
Amounts = tuple[int, ...]

instants = st.integers(0, 40)
needs = st.tuples(st.integers(0, 6), st.integers(0, 6))
ends = st.lists(st.tuples(instants, needs), max_size=6)
stretches = st.lists(st.tuples(instants, instants, needs), max_size=12)
questions = st.lists(st.tuples(needs, st.integers(0, 30), instants), min_size=1, max_size=6)
crowds = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400), needs), min_size=30, max_size=60)
frees = st.tuples(st.integers(-4, 12), st.integers(-4, 12))


class SlowProfile:
    """One agent's room: what is free now, and everything that changes it, from when on."""

    def __init__(self, now_ms: int, free: Amounts, ends: list[tuple[int, Amounts]]) -> None:
        self.now_ms = now_ms
        self.changes: list[tuple[int, Amounts, int]] = [(now_ms, free, 1)]
        self.changes += [(max(end_ms, now_ms + 1), amounts, 1) for end_ms, amounts in ends]

    def take(self, start_ms: int, end_ms: int, need: Amounts, sign: int = -1) -> None:
        start_ms = max(start_ms, self.now_ms)
        if start_ms < end_ms:
            self.changes += [(start_ms, need, sign), (end_ms, need, -sign)]

    def free(self, at_ms: int) -> Amounts:
        return tuple(
            sum(sign * amounts[resource] for since_ms, amounts, sign in self.changes if since_ms <= at_ms)
            for resource in range(RESOURCES)
        )

    def fits(self, need: Amounts, duration_ms: int, start_ms: int) -> bool:
        """At the start, and at every change before the end."""
        start_ms = max(start_ms, self.now_ms)
        looked_at = [start_ms]
        looked_at += [since_ms for since_ms, _, _ in self.changes if start_ms < since_ms < start_ms + duration_ms]
        return all(
            wanted == 0 or there >= wanted
            for at_ms in looked_at
            for wanted, there in zip(need, self.free(at_ms), strict=True)
        )

    def earliest(self, need: Amounts, duration_ms: int, not_before_ms: int) -> int:
        """Room only grows at changes, so the first start is one of them, or as soon as asked."""
        soonest = max(not_before_ms, self.now_ms)
        starts = {soonest} | {since_ms for since_ms, _, _ in self.changes if since_ms > soonest}
        return min((start for start in starts if self.fits(need, duration_ms, start)), default=NEVER_MS)


def both(now_ms: int, free: Amounts, ends: list[tuple[int, Amounts]]) -> tuple[Profiles, SlowProfile]:
    """The fast and the slow one; the fast one has a neighbour on each side."""
    profiles = profiles_for(np.array([1, ROWS, 1], np.int64), RESOURCES)
    ends = sorted(ends)
    given_back = np.array([amounts for _, amounts in ends], np.int64).reshape(len(ends), RESOURCES)
    assert build(profiles, 1, now_ms, np.array(free), np.array([end for end, _ in ends], np.int64), given_back)
    return profiles, SlowProfile(now_ms, free, ends)


def same(profiles: Profiles, slow: SlowProfile) -> None:
    """Rows ascend, begin now, and say what is free at every instant."""
    begin, rows = int(profiles.first[1]), int(profiles.length[1])
    steps = [(int(profiles.times[row]), tuple(profiles.free[row].tolist())) for row in range(begin, begin + rows)]
    times = [at_ms for at_ms, _ in steps]
    assert times[0] == slow.now_ms
    assert times == sorted(set(times))
    for at_ms in {slow.now_ms, *times, *(since_ms for since_ms, _, _ in slow.changes)}:
        assert next(free for since_ms, free in reversed(steps) if since_ms <= at_ms) == slow.free(at_ms)


@settings(max_examples=300, deadline=None)
@given(instants, frees, ends, stretches, questions)
def test_the_kernel_gives_the_twins_answers(
    now_ms: int,
    free: Amounts,
    ends: list[tuple[int, Amounts]],
    taken: list[tuple[int, int, Amounts]],
    asked: list[tuple[Amounts, int, int]],
) -> None:
    """After any reservations, free or not: the room at every instant, earliest starts, and what fits."""
    profiles, slow = both(now_ms, free, ends)
    for start_ms, end_ms, need in taken:
        assert reserve(profiles, 1, start_ms, end_ms, np.array(need))
        slow.take(start_ms, end_ms, need)
    same(profiles, slow)
    for need, duration_ms, at_ms in asked:
        wanted = np.array(need)
        assert earliest(profiles, 1, wanted, duration_ms, at_ms) == slow.earliest(need, duration_ms, at_ms)
        assert fits_at(profiles, 1, wanted, duration_ms, at_ms) == slow.fits(need, duration_ms, at_ms)
        assert fits_now(profiles, 1, wanted, duration_ms) == slow.fits(need, duration_ms, now_ms)


@settings(max_examples=40, deadline=None)
@given(instants, frees, ends, crowds, questions, st.randoms(use_true_random=False))
def test_a_crowded_profile_gives_the_twins_answers(
    now_ms: int,
    free: Amounts,
    ends: list[tuple[int, Amounts]],
    taken: list[tuple[int, int, Amounts]],
    asked: list[tuple[Amounts, int, int]],
    dice: Random,
) -> None:
    """Hundreds of rows, half of them joined again: the same answers."""
    profiles, slow = both(now_ms, tuple(60 * amount for amount in free), ends)
    for start_ms, end_ms, need in taken:
        assert reserve(profiles, 1, start_ms, end_ms, np.array(need))
        slow.take(start_ms, end_ms, need)
    same(profiles, slow)
    for start_ms, end_ms, need in dice.sample(taken, len(taken) // 2):
        assert release(profiles, 1, start_ms, end_ms, np.array(need))
        slow.take(start_ms, end_ms, need, 1)
    same(profiles, slow)
    for need, duration_ms, at_ms in asked:
        wanted = tuple(20 * amount for amount in need)
        found = earliest(profiles, 1, np.array(wanted), 5 * duration_ms, 10 * at_ms)
        assert found == slow.earliest(wanted, 5 * duration_ms, 10 * at_ms)
        assert fits_at(profiles, 1, np.array(wanted), 5 * duration_ms, 10 * at_ms) == (found == max(now_ms, 10 * at_ms))


@settings(max_examples=200, deadline=None)
@given(instants, frees, ends, questions)
def test_a_pass_reserves_what_it_finds(
    now_ms: int, free: Amounts, ends: list[tuple[int, Amounts]], asked: list[tuple[Amounts, int, int]]
) -> None:
    """Reserving at the earliest start, again and again, never takes what is not there; asking again is never earlier."""
    profiles, slow = both(now_ms, free, ends)
    for need, duration_ms, not_before_ms in asked:
        wanted = np.array(need)
        start_ms = earliest(profiles, 1, wanted, duration_ms, not_before_ms)
        assert start_ms == slow.earliest(need, duration_ms, not_before_ms)
        if start_ms < NEVER_MS:
            assert slow.fits(need, duration_ms, start_ms)
            assert reserve(profiles, 1, start_ms, start_ms + duration_ms, wanted)
            slow.take(start_ms, start_ms + duration_ms, need)
            assert earliest(profiles, 1, wanted, duration_ms, not_before_ms) >= start_ms
    same(profiles, slow)


@settings(max_examples=200, deadline=None)
@given(instants, frees, ends, stretches, st.randoms(use_true_random=False))
def test_what_is_given_back_was_never_taken(
    now_ms: int,
    free: Amounts,
    ends: list[tuple[int, Amounts]],
    taken: list[tuple[int, int, Amounts]],
    dice: Random,
) -> None:
    """Reservations released in any order leave no more rows than there were, and the room of before."""
    profiles, slow = both(now_ms, free, ends)
    rows = int(profiles.length[1])
    for start_ms, end_ms, need in taken:
        assert reserve(profiles, 1, start_ms, end_ms, np.array(need))
    dice.shuffle(taken)
    for start_ms, end_ms, need in taken:
        assert release(profiles, 1, start_ms, end_ms, np.array(need))
    assert int(profiles.length[1]) <= rows
    same(profiles, slow)
