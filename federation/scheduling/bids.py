"""What is a device with g milli free worth to the tasks that share devices? Bid prices W(g) from a small LP.

Pack all sharing tasks of the workload into as few devices as possible: with one variable for each pattern p (how many
tasks of each size lie together on one device),

    minimise sum x_p   with   sum_p a_ps x_p >= demand_s for each size s,   x >= 0.

There are far too many patterns to write down, so they are generated: solve with a few, take the dual price of each
size, ask a knapsack (dynamic programming over 1,000 milli) for the pattern that those prices make worth most, and add
it, until none is worth more than the device it costs (Gilmore and Gomory, "A linear programming approach to the
cutting-stock problem", Operations Research 9, 1961). The final price of a size is the part of a device that one task of
it saves; W(g) is the best that fits into g: bid prices as in revenue management (Talluri and van Ryzin, "An analysis
of bid-price controls", Management Science 44, 1998).

HiGHS solves the LPs, through scipy, which is imported when the first is solved. Prices are rounded to a grid, so that
solvers that differ in the last digits decide alike. Deliberately not here: which tasks are typical (`fragmentation.py`)
and how a bid counts in a score (`kernels/score.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from federation.errors import Code, invalid
from federation.scheduling.kernels.jit import kernel
from federation.scheduling.kernels.room import DEVICE_MILLI, Float64, Int64

UNITS = 2_520
"""Prices are whole 2,520ths of a device: every fraction with a denominator up to 10 is exact."""
SIZES_MAX = 64
"""Distinct sizes in one LP; of more, those with most volume are priced, the others bid nothing of their own."""
PATTERNS_MAX = 2_000
"""Rounds of pricing; the openb lists need fewer than 40."""
BETTER_BY = 1e-9
"""A pattern worth less than a device and this is not worth adding."""


def bids(demand: Mapping[int, float]) -> Float64:
    """W: float64 (1,001), worth in devices by free milli; ascending, W(0) = 0, W(1,000) = 1, multiples of 1 / 2,520.

    `demand`: by milli (1 to 999), how many tasks of this size there are, above 0, in any unit. Empty: only a whole
    device is worth something. Raises: FederationError for a size or an amount out of range.

    Example: tasks of a half and of a third alone (`{500: 1, 333: 1}`) make 500 worth 1/2 and 333 worth 1/3.
    """
    for milli, amount in demand.items():
        if not 0 < milli < DEVICE_MILLI or not 0 < amount < float("inf"):
            raise invalid(
                f"a share of {milli} milli, demanded {amount} times, cannot be priced",
                hint=f"Sizes are 1 to {DEVICE_MILLI - 1} milli, amounts above 0 and finite.",
                code=Code.INVALID_ARGUMENT,
            )
    kept = sorted(demand, key=lambda milli: (-milli * demand[milli], milli))[:SIZES_MAX]
    sizes = np.array(sorted(kept), np.int64)
    worth = np.zeros(DEVICE_MILLI + 1, np.int64)
    if len(sizes):
        amounts = np.array([demand[int(milli)] for milli in sizes], np.float64)
        prices = np.rint(prices_of(sizes, amounts / amounts.sum()) * UNITS)
        worth[:] = best_values(sizes, prices)[0].astype(np.int64)
    worth[DEVICE_MILLI] = UNITS
    return np.minimum(worth, UNITS) / float(UNITS)


def prices_of(sizes: Int64, amounts: Float64) -> Float64:
    """The LP's dual price of each size, float64 (S,), in devices, 0 to 1; `sizes` (S,) ascending, `amounts` (S,) above 0.

    Raises: FederationError(INTERNAL) where HiGHS finds no optimum, which an LP of this kind always has.
    """
    patterns = np.diag(DEVICE_MILLI // sizes)
    prices = _duals(patterns, amounts)
    for _ in range(PATTERNS_MAX):
        values, last = best_values(sizes, prices)
        if values[DEVICE_MILLI] <= 1.0 + BETTER_BY:
            break
        patterns = np.column_stack((patterns, _pattern(sizes, last)))
        prices = _duals(patterns, amounts)
    return prices


@kernel
def best_values(sizes: Int64, prices: Float64) -> tuple[Float64, Int64]:
    """The knapsack, any number of each: (values, last), by the room there is, 0 to 1,000 milli.

    `values` float64 (1,001): the best sum of prices that fits; `last` int64 (1,001): the size (its index) that completes
    it, -1 where it is as good with one milli less. Ties: the smaller size.
    """
    values = np.zeros(DEVICE_MILLI + 1, np.float64)
    last = np.full(DEVICE_MILLI + 1, -1, np.int64)
    for room in range(1, DEVICE_MILLI + 1):
        values[room] = values[room - 1]
        for at in range(sizes.shape[0]):
            if sizes[at] <= room and values[room - sizes[at]] + prices[at] > values[room]:
                values[room] = values[room - sizes[at]] + prices[at]
                last[room] = at
    return values, last


def _pattern(sizes: Int64, last: Int64) -> Int64:
    """int64 (S,): how many of each size the best full device holds."""
    counts = np.zeros(len(sizes), np.int64)
    room = DEVICE_MILLI
    while room > 0:
        at = int(last[room])
        if at < 0:
            room -= 1
        else:
            counts[at] += 1
            room -= int(sizes[at])
    return counts


def _duals(patterns: Int64, amounts: Float64) -> Float64:
    """The prices that the LP over `patterns` int64 (S, P) gives the sizes."""
    from scipy.optimize import linprog  # costs 0.4 s and 30 MB: only who solves an LP pays

    solved = linprog(np.ones(patterns.shape[1]), A_ub=-patterns, b_ub=-amounts, bounds=(0, None), method="highs-ds")
    if not solved.success:
        raise invalid(f"HiGHS found no prices: {solved.message}", code=Code.INTERNAL)
    return np.clip(-np.asarray(solved.ineqlin.marginals, np.float64), 0.0, 1.0)
