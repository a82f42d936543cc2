"""The shape of what `python -m benchmarks` prints: others read it."""

from __future__ import annotations

import io
import json
import math

import pytest

from benchmarks.figures import Baseline, Figure, emit, median, percentile


def a_figure(value: float = 4.6, baseline: float = 4.61) -> Figure:
    """As in the contract."""
    return Figure(
        "packing", "unallocated_gpu_pct", value, "%", "lower", Baseline("FGD", baseline), 12.34, {"policy": "ours"}
    )


def test_a_figure_is_one_line_of_the_promised_shape() -> None:
    """Every key of the contract, ratio = value / baseline, one line."""
    out = io.StringIO()
    emit(a_figure(), out)
    (line,) = out.getvalue().splitlines()
    assert json.loads(line) == {
        "bench": "packing", "metric": "unallocated_gpu_pct", "value": 4.6, "unit": "%", "better": "lower",
        "baseline": {"name": "FGD", "value": 4.61, "source": "measured in this run"}, "ratio": 0.9978,
        "config": {"policy": "ours"}, "seconds": 12.3,
    }  # fmt: skip


def test_nothing_measured_is_no_figure() -> None:
    """A value that is no number is an error, not a line that nobody can read."""
    with pytest.raises(ValueError, match="no figure"):
        a_figure(math.nan).line()


def test_a_baseline_of_nothing_has_no_ratio() -> None:
    """Division by zero is said as null."""
    assert json.loads(a_figure(baseline=0.0).line())["ratio"] is None


def test_percentiles_are_nearest_ranks() -> None:
    """p50 and p99 of 1..100, and of a single value; the median of an even number is between two."""
    values = [float(number) for number in range(100, 0, -1)]
    assert (percentile(values, 50), percentile(values, 99), percentile([7.0], 99)) == (50.0, 99.0, 7.0)
    assert (median(values), median([3.0, 1.0, 2.0])) == (50.5, 2.0)
