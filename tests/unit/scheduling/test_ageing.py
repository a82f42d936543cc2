"""Where a job stands in its line."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from federation.scheduling.ageing import (
    DOUBLING_MS,
    HOUR_MS,
    TOGETHER_MS,
    WIDE_MILLI,
    line_position,
    line_position_of,
    passed_for_ms,
    size_milli,
)
from federation.scheduling.policy import Order
from tests.unit.scheduling.builders import cpus, job

MINUTE_MS, DAY_MS = 60_000, 24 * HOUR_MS
times = st.integers(0, 2**50)
runtimes = st.integers(0, 10 * 365 * DAY_MS)
sizes = st.integers(0, 10**12)
orders: st.SearchStrategy[Order] = st.sampled_from(list(Order))


def test_by_age_a_job_stands_where_it_came() -> None:
    """Neither runtime nor size matters."""
    assert line_position(Order.AGE, 5, DAY_MS, 10**9) == 5


def test_twice_the_job_stands_ten_hours_later() -> None:
    """Twice the runtime or twice the processors: the same."""
    one = line_position(Order.SHORT_FIRST, 0, MINUTE_MS, 2_000)
    assert line_position(Order.SHORT_FIRST, 0, 2 * MINUTE_MS, 2_000) == one + DOUBLING_MS
    assert line_position(Order.SHORT_FIRST, 0, MINUTE_MS, 4_000) == one + DOUBLING_MS


def test_the_smallest_stand_where_they_came() -> None:
    """Nothing is smaller than ten seconds on one processor."""
    assert line_position(Order.SHORT_FIRST, 9, 0, 0) == 9
    assert line_position(Order.SHORT_FIRST, 9, 10_000, 1_000) == 9
    assert line_position(Order.SHORT_FIRST, 9, 10_001, 1_000) > 9


def test_wide_jobs_stand_together() -> None:
    """Two wide jobs of one afternoon have one position; one that is just not wide has its own."""
    first, second = (line_position(Order.SHORT_FIRST, at * HOUR_MS, 3 * HOUR_MS, WIDE_MILLI) for at in (1, 2))
    assert first == second
    assert first % TOGETHER_MS == 0
    assert line_position(Order.SHORT_FIRST, HOUR_MS, 3 * HOUR_MS, WIDE_MILLI - 1) % TOGETHER_MS != 0


def test_a_job_is_as_large_as_what_it_takes_most_of() -> None:
    """Processors of all tasks, or its GPUs at eight processors each; memory does not count."""
    assert size_milli(cpus(2, gib=64), 3) == 6_000
    assert size_milli(cpus(2, gpus=1.5), 1) == 12_000


def test_a_job_stands_by_what_it_is_expected_to_run_or_else_may_run() -> None:
    """A prediction counts; without one, the limit."""
    known = job("known", cpus(2), runtime_limit_ms=HOUR_MS, expected_ms=MINUTE_MS, submitted_ms=5)
    unknown = job("unknown", cpus(2), runtime_limit_ms=HOUR_MS, submitted_ms=5)
    assert line_position_of(Order.SHORT_FIRST, known) == line_position(Order.SHORT_FIRST, 5, MINUTE_MS, 2_000)
    assert line_position_of(Order.SHORT_FIRST, unknown) == line_position(Order.SHORT_FIRST, 5, HOUR_MS, 2_000)


@given(times, runtimes, sizes, orders, runtimes, sizes)
def test_no_later_job_passes_for_ever(
    at_ms: int, expected_ms: int, size: int, order: Order, other_ms: int, other_size: int
) -> None:
    """What is submitted after a job's bound stands behind it, whatever it is; and nothing stands before its submit."""
    position = line_position(order, at_ms, expected_ms, size)
    assert at_ms <= position <= at_ms + passed_for_ms(expected_ms, size)
    assert line_position(order, at_ms + passed_for_ms(expected_ms, size) + 1, other_ms, other_size) > position


@given(times, runtimes, runtimes, sizes, sizes)
def test_more_of_a_job_never_stands_earlier(at_ms: int, shorter: int, longer: int, small: int, large: int) -> None:
    """Longer, wider or both, at the same moment: never before."""
    (shorter, longer), (small, large) = sorted((shorter, longer)), sorted((small, large))
    assert line_position(Order.SHORT_FIRST, at_ms, shorter, small) <= line_position(
        Order.SHORT_FIRST, at_ms, longer, large
    )


@given(times, runtimes, sizes)
def test_the_position_is_the_formula_to_the_millisecond(at_ms: int, expected_ms: int, size: int) -> None:
    """Written down again, with logarithms of the parts: rounding cannot move it by more than one."""
    taken = math.log2(max(expected_ms, 10_000) / 10_000) + math.log2(max(size, 1_000) / 1_000)
    position = at_ms + 10 * HOUR_MS * taken
    if size >= WIDE_MILLI:
        slot = line_position(Order.SHORT_FIRST, at_ms, expected_ms, size) / TOGETHER_MS
        assert slot == int(slot)
        assert -1 <= slot * TOGETHER_MS - position <= TOGETHER_MS + 1
    else:
        assert abs(line_position(Order.SHORT_FIRST, at_ms, expected_ms, size) - position) <= 1
