"""Room over time: built, searched, reserved and given back by hand-made cases."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

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

Int64 = npt.NDArray[np.int64]


def amounts(*values: int) -> Int64:
    """One row of amounts."""
    return np.array(values, np.int64)


def a_profile(free: Int64, *ends: tuple[int, Int64], now_ms: int = 100, rows: int = 12) -> Profiles:
    """The profile of one agent, number 1 of 2."""
    profiles = profiles_for(np.array([3, rows], np.int64), len(free))
    given = np.array([row for _, row in ends], np.int64).reshape(len(ends), len(free))
    assert build(profiles, 1, now_ms, free, np.array([end_ms for end_ms, _ in ends], np.int64), given)
    return profiles


def steps(profiles: Profiles, agent: int = 1) -> list[tuple[int, ...]]:
    """(ms, free of each resource) of each row."""
    begin = int(profiles.first[agent])
    rows = range(begin, begin + int(profiles.length[agent]))
    return [(int(profiles.times[row]), *profiles.free[row].tolist()) for row in rows]


def test_room_grows_where_something_ends() -> None:
    """Equal ends are one step; what should have ended still holds its room for a millisecond."""
    profiles = a_profile(
        amounts(1, 5), (40, amounts(1, 0)), (100, amounts(1, 1)), (300, amounts(2, 0)), (300, amounts(0, 4))
    )
    assert steps(profiles) == [(100, 1, 5), (101, 3, 6), (300, 5, 10)]


def test_the_earliest_start_holds_for_the_whole_duration() -> None:
    """A gap that is too short is no start; one that is just long enough is."""
    profiles = a_profile(amounts(4))
    assert reserve(profiles, 1, 200, 300, amounts(3))
    assert earliest(profiles, 1, amounts(2), 100, 0) == 100
    assert earliest(profiles, 1, amounts(2), 101, 0) == 300
    assert earliest(profiles, 1, amounts(2), 50, 151) == 300
    assert earliest(profiles, 1, amounts(1), 10**9, 0) == 100


def test_what_never_fits_never_starts() -> None:
    """More than there will ever be, and room that somebody keeps for ever."""
    profiles = a_profile(amounts(4), (300, amounts(2)))
    assert earliest(profiles, 1, amounts(7), 0, 0) == NEVER_MS
    assert earliest(profiles, 1, amounts(6), 0, 0) == 300
    assert reserve(profiles, 1, 0, NEVER_MS, amounts(1))
    assert earliest(profiles, 1, amounts(6), 0, 0) == NEVER_MS


def test_a_start_may_be_asked_for_later() -> None:
    """Not before an instant between two steps."""
    profiles = a_profile(amounts(4), (300, amounts(2)))
    assert earliest(profiles, 1, amounts(4), 10, 250) == 250
    assert earliest(profiles, 1, amounts(5), 10, 250) == 300
    assert earliest(profiles, 1, amounts(5), 10, 999) == 999


def test_no_time_at_all_needs_room_all_the_same() -> None:
    """A job of no duration starts where it fits, and reserving nothing takes nothing."""
    profiles = a_profile(amounts(1), (300, amounts(2)))
    assert earliest(profiles, 1, amounts(2), 0, 0) == 300
    assert reserve(profiles, 1, 200, 200, amounts(1))
    assert steps(profiles) == [(100, 1), (300, 3)]


def test_only_what_is_needed_matters() -> None:
    """A resource of which more is held than offered stops nobody who needs none of it."""
    profiles = a_profile(amounts(-3, 2), (300, amounts(5, 0)))
    assert fits_now(profiles, 1, amounts(0, 2), 10**9)
    assert not fits_now(profiles, 1, amounts(1, 2), 10)
    assert earliest(profiles, 1, amounts(1, 2), 10, 0) == 300


def test_a_job_may_jump_the_line_when_it_delays_no_reservation() -> None:
    """It ends by the reserved start, or it fits beside it."""
    profiles = a_profile(amounts(2), (300, amounts(2)))
    assert reserve(profiles, 1, 300, 500, amounts(3))
    assert fits_now(profiles, 1, amounts(2), 200)
    assert not fits_now(profiles, 1, amounts(2), 201)
    assert fits_now(profiles, 1, amounts(1), 10**9)
    assert fits_at(profiles, 1, amounts(4), 10, 500)
    assert not fits_at(profiles, 1, amounts(4), 10, 499)


def test_a_reservation_splits_steps_and_release_joins_them() -> None:
    """Begin and end between steps; afterwards it is as it was, and the neighbour was never touched."""
    profiles = a_profile(amounts(4), (300, amounts(2)))
    assert build(profiles, 0, 7, amounts(9), amounts(), np.zeros((0, 1), np.int64))
    before = steps(profiles)
    assert reserve(profiles, 1, 150, 350, amounts(3))
    assert steps(profiles) == [(100, 4), (150, 1), (300, 3), (350, 6)]
    assert release(profiles, 1, 150, 350, amounts(3))
    assert steps(profiles) == before
    assert steps(profiles, 0) == [(7, 9)]


def test_a_full_profile_refuses_and_is_as_before() -> None:
    """The last row is used, one more is refused, and one that needs no new row still fits in."""
    profiles = a_profile(amounts(4), (300, amounts(2)), rows=4)
    assert reserve(profiles, 1, 150, 350, amounts(1))
    before = steps(profiles)
    assert not reserve(profiles, 1, 150, 360, amounts(1))
    assert not reserve(profiles, 1, 160, 350, amounts(1))
    assert steps(profiles) == before
    assert reserve(profiles, 1, 150, 350, amounts(1))
    assert not build(profiles, 1, 0, amounts(0), np.arange(1, 5), np.ones((4, 1), np.int64))
    assert steps(profiles) == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_no_rows_no_profile() -> None:
    """An agent without rows cannot be built."""
    profiles = profiles_for(np.array([0], np.int64), 1)
    assert not build(profiles, 0, 0, amounts(1), amounts(), np.zeros((0, 1), np.int64))


def test_a_long_profile_is_searched_like_a_short_one() -> None:
    """Hundreds of rows: a gap between any two, the end, and after everything was given back."""
    ends = tuple((1_000 * at, amounts(0)) for at in range(1, 201))
    profiles = a_profile(amounts(10), *ends, rows=700)
    for at in range(200):
        assert reserve(profiles, 1, 1_000 * at + 200, 1_000 * at + 1_000, amounts(5 if at % 2 else 7))
    assert earliest(profiles, 1, amounts(5), 900, 150_000) == 151_000
    assert earliest(profiles, 1, amounts(6), 200, 150_100) == 151_000
    assert earliest(profiles, 1, amounts(6), 201, 150_000) == 200_000
    assert earliest(profiles, 1, amounts(4), 900, 0) == 1_000
    assert fits_at(profiles, 1, amounts(3), 10**9, 100)
    assert fits_at(profiles, 1, amounts(5), 1_000, 199_000)
    assert not fits_at(profiles, 1, amounts(6), 1_000, 199_000)
    for at in range(200):
        assert release(profiles, 1, 1_000 * at + 200, 1_000 * at + 1_000, amounts(5 if at % 2 else 7))
    assert steps(profiles) == [(100, 10)]
