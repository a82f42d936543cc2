"""Where a job stands in its line."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import FederationError
from federation.scheduling.ageing import (
    DOUBLING_MS,
    HOUR_MS,
    TOGETHER_MS,
    WIDE_MILLI,
    LineOrder,
    line_position,
    passed_for_ms,
)

MINUTE_MS, DAY_MS = 60_000, 24 * HOUR_MS
times = st.integers(0, 2**50)
runtimes = st.integers(0, 10 * 365 * DAY_MS)
sizes = st.integers(0, 10**12)
orders: st.SearchStrategy[LineOrder] = st.sampled_from(["age", "short_first"])


def test_by_age_a_job_stands_where_it_came() -> None:
    """Neither runtime nor size matters."""
    assert line_position("age", 5, DAY_MS, 10**9) == 5


def test_twice_the_job_stands_ten_hours_later() -> None:
    """Twice the runtime or twice the processors: the same."""
    one = line_position("short_first", 0, MINUTE_MS, 2_000)
    assert line_position("short_first", 0, 2 * MINUTE_MS, 2_000) == one + DOUBLING_MS
    assert line_position("short_first", 0, MINUTE_MS, 4_000) == one + DOUBLING_MS


def test_the_smallest_stand_where_they_came() -> None:
    """Nothing is smaller than ten seconds on one processor."""
    assert line_position("short_first", 9, 0, 0) == 9
    assert line_position("short_first", 9, 10_000, 1_000) == 9
    assert line_position("short_first", 9, 10_001, 1_000) > 9


def test_wide_jobs_stand_together() -> None:
    """Two wide jobs of one afternoon have one position; one that is just not wide has its own."""
    first, second = (line_position("short_first", at * HOUR_MS, 3 * HOUR_MS, WIDE_MILLI) for at in (1, 2))
    assert first == second
    assert first % TOGETHER_MS == 0
    assert line_position("short_first", HOUR_MS, 3 * HOUR_MS, WIDE_MILLI - 1) % TOGETHER_MS != 0


def test_an_order_that_there_is_not_is_refused() -> None:
    """With what to use instead."""
    with pytest.raises(FederationError, match="long_first"):
        line_position("long_first", 0, 1, 1)  # type: ignore[arg-type]


@given(times, runtimes, sizes, orders, runtimes, sizes)
def test_no_later_job_passes_for_ever(
    at_ms: int, expected_ms: int, size: int, order: LineOrder, other_ms: int, other_size: int
) -> None:
    """What is submitted after a job's bound stands behind it, whatever it is; and nothing stands before its submit."""
    position = line_position(order, at_ms, expected_ms, size)
    assert at_ms <= position <= at_ms + passed_for_ms(expected_ms, size)
    assert line_position(order, at_ms + passed_for_ms(expected_ms, size) + 1, other_ms, other_size) > position


@given(times, runtimes, runtimes, sizes, sizes)
def test_more_of_a_job_never_stands_earlier(at_ms: int, shorter: int, longer: int, small: int, large: int) -> None:
    """Longer, wider or both, at the same moment: never before."""
    (shorter, longer), (small, large) = sorted((shorter, longer)), sorted((small, large))
    assert line_position("short_first", at_ms, shorter, small) <= line_position("short_first", at_ms, longer, large)


@given(times, runtimes, sizes)
def test_the_position_is_the_formula_to_the_millisecond(at_ms: int, expected_ms: int, size: int) -> None:
    """Written down again, with logarithms of the parts: rounding cannot move it by more than one."""
    taken = math.log2(max(expected_ms, 10_000) / 10_000) + math.log2(max(size, 1_000) / 1_000)
    position = at_ms + 10 * HOUR_MS * taken
    if size >= WIDE_MILLI:
        slot = line_position("short_first", at_ms, expected_ms, size) / TOGETHER_MS
        assert slot == int(slot)
        assert -1 <= slot * TOGETHER_MS - position <= TOGETHER_MS + 1
    else:
        assert abs(line_position("short_first", at_ms, expected_ms, size) - position) <= 1
