"""Bid prices: the LP by column generation against the LP over every pattern, and prices that can be worked out by hand."""

from __future__ import annotations

from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from benchmarks.apparatus.openb import read_trace
from benchmarks.packing import found
from federation.errors import FederationError
from federation.scheduling.bids import SIZES_MAX, UNITS, best_values, bids, prices_of

LISTS = Path(__file__).parents[4] / "shared" / "traces" / "openb"


def fewest_devices(demand: dict[int, float]) -> float:
    """The LP's optimum with every pattern written down."""
    from scipy.optimize import linprog

    sizes = sorted(demand)
    patterns = [
        counts
        for counts in product(*(range(1_000 // size + 1) for size in sizes))
        if 0 < sum(count * size for count, size in zip(counts, sizes, strict=True)) <= 1_000
    ]
    solved = linprog(
        np.ones(len(patterns)),
        A_ub=-np.array(patterns).T,
        b_ub=[-demand[size] for size in sizes],
        method="highs",
    )
    return float(solved.fun)


@pytest.mark.parametrize(
    "demand",
    [
        {500: 7.0},
        {400: 3.0, 600: 2.0},
        {810: 14.0, 470: 10.0, 320: 5.0, 190: 2.0},
        {700: 1.0, 300: 9.0, 260: 4.0, 210: 4.0},
        {333: 5.0, 334: 5.0, 500: 1.0},
    ],
)
def test_the_prices_pay_for_the_fewest_devices(demand: dict[int, float]) -> None:
    """By duality demand at its prices costs the optimum, found here by writing down every pattern; no device is overpriced."""
    sizes = np.array(sorted(demand), np.int64)
    prices = prices_of(sizes, np.array([demand[size] for size in sizes.tolist()], np.float64))
    paid = sum(demand[size] * price for size, price in zip(sizes.tolist(), prices.tolist(), strict=True))
    assert paid == pytest.approx(fewest_devices(demand), abs=1e-9)
    assert best_values(sizes, prices)[0][1_000] <= 1 + 1e-9


def test_halves_and_thirds() -> None:
    """A task of a half is worth half a device, one of a third a third, and room for neither nothing."""
    worth = bids({500: 1.0, 333: 1.0})
    assert [worth[free] for free in (0, 332, 333, 499, 500, 666, 999, 1_000)] == [
        0.0, 0.0, 1 / 3, 1 / 3, 0.5, 2 / 3, 1.0, 1.0,
    ]  # fmt: skip


def test_what_nothing_can_share_with_is_worth_a_device() -> None:
    """Where most tasks take 800 alone, small ones ride along for nothing."""
    worth = bids({800: 10.0, 150: 3.0})
    assert (worth[800], worth[799], worth[200], worth[150]) == (1.0, 0.0, 0.0, 0.0)


def test_without_shares_only_whole_devices_are_worth_something() -> None:
    """No LP is solved."""
    assert np.flatnonzero(bids({})).tolist() == [1_000]


def test_prices_do_not_depend_on_the_unit_of_demand() -> None:
    """Counts, shares or millions: the same grid points."""
    demand = {810: 14.0, 650: 3.0, 470: 10.0, 320: 5.0, 230: 2.0}
    scaled = {size: amount / 34 for size, amount in demand.items()}
    assert np.array_equal(bids(demand), bids(scaled))


def test_sizes_up_to_the_limit_and_one_more() -> None:
    """64 sizes are priced; of 65 the one with the least volume is not, and bids what smaller ones leave."""
    sizes = {100 + at: 5.0 for at in range(SIZES_MAX)}
    assert bids(sizes)[100] > 0
    assert np.array_equal(bids(sizes | {90: 0.1}), bids(sizes))


@pytest.mark.parametrize(
    "demand", [{0: 1.0}, {1_000: 1.0}, {500: 0.0}, {500: -1.0}, {500: float("nan")}, {500: float("inf")}]
)
def test_what_is_no_share_is_refused(demand: dict[int, float]) -> None:
    """Sizes are 1 to 999 milli, amounts above 0 and finite."""
    with pytest.raises(FederationError, match="cannot be priced"):
        bids(demand)


def test_openbs_default_list_has_the_prices_that_were_found_before() -> None:
    """810 a device, 550 to 650 two thirds, 460 to 480 a half, 320 to 440 a third, 230 to 290 a quarter, 160 nothing."""
    path = found(LISTS / "openb_pod_list_default.csv")
    if path is None:
        pytest.skip("openb's GPU lists are not beside the repository")
    trace = read_trace(path)
    demand = Counter[int]()
    for pod, count in zip(trace.pods, np.bincount(trace.which).tolist(), strict=True):
        if 0 < pod.milli < 1_000:
            demand[pod.milli] += count
    worth = bids({milli: float(count) for milli, count in demand.items()})
    expected = {
        810: 1,
        550: 2 / 3,
        650: 2 / 3,
        460: 1 / 2,
        480: 1 / 2,
        320: 1 / 3,
        440: 1 / 3,
        230: 1 / 4,
        290: 1 / 4,
        160: 0,
    }
    assert {free: worth[free] for free in expected} == {
        free: round(price * UNITS) / UNITS for free, price in expected.items()
    }
