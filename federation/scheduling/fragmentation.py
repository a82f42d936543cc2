"""What the workload typically asks for, and the tables that the score of a placement is computed with.

`typical` keeps the commonest sorts of task until they are 95 % of all (FGD: Weng et al., USENIX ATC'23); `tables_of`
turns them into what `kernels/score.py` reads; `standings` says which of equal nodes comes first; `drift` says how far
one mix of sorts is from another. Deliberately not here: scoring (`kernels/score.py`), the LP (`bids.py`), and what is
learned from demand as it comes and goes (`lore.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from federation.errors import invalid
from federation.scheduling.bids import bids
from federation.scheduling.kernels.room import DEVICE_MILLI, Float64, Int64
from federation.scheduling.kernels.score import Tables

COVERED = 0.95
"""The typical sorts are at least this share of all tasks."""
TYPICAL_MAX = 128
"""Sorts in the tables: a score's cost grows with them. openb's default list has 35."""
ORDER = 0.2
"""How much better the last node in the order must score than the first to be taken before it. The weights below are
relative to it: found on openb's six lists and sixteen altered ones, the same for all of them."""
FRAGMENT_WEIGHT = 0.02
"""What a GPU of expected fragmentation costs."""
STRANDED_WEIGHT = 0.13
"""What a GPU without CPU costs."""
BID_WEIGHT = 2.0
"""What a device's worth of bids is worth."""
STEP = 0.0025
"""Scores are whole steps."""
DRIFT_MAX = 0.05
"""Total variation, 0 to 1, from which on the tables no longer describe the demand."""


class Sort(NamedTuple):
    """What decides where a task fits, as far as the score looks: memory and disk are filters, not costs."""

    cpu: int
    """In the unit of the nodes' CPU column."""
    milli: int
    """Of each device; 0: it needs none."""
    devices: int
    kinds: int
    """Bit k is set where model k will do."""


Counts = Mapping[Sort, int]


def typical(counts: Counts, covered: float = COVERED) -> tuple[tuple[Sort, int], ...]:
    """The commonest sorts, most tasks first, ties by sort, until they are at least `covered` of all tasks."""
    ranked = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    enough, seen = covered * sum(counts.values()), 0
    kept: list[tuple[Sort, int]] = []
    for sort, count in ranked[:TYPICAL_MAX]:
        if seen >= enough:
            break
        kept.append((sort, count))
        seen += count
    return tuple(kept)


def tables_of(sorts: Sequence[tuple[Sort, int]], cpu_column: int = 0) -> Tables:
    """The score's tables for typical `sorts` with their counts, above 0. None at all: every placement scores the same.

    Raises: FederationError for a sort that no task can be of (negative, a share of several devices, over 1,000 milli).
    """
    for sort, count in sorts:
        _check(sort, count)
    tasks = sum(count for _, count in sorts)
    on_gpus = sorted(((sort, count) for sort, count in sorts if sort.milli), key=_by_milli)
    volume = sum(count * sort.devices * sort.milli for sort, count in on_gpus)
    by_need: dict[float, int] = {}
    demand: dict[int, float] = {}
    for sort, count in on_gpus:
        asked = sort.devices * sort.milli
        if sort.cpu > 0:
            need = sort.cpu * DEVICE_MILLI / asked
            by_need[need] = by_need.get(need, 0) + count * asked
        if sort.milli < DEVICE_MILLI:
            demand[sort.milli] = demand.get(sort.milli, 0.0) + count
    needs = sorted(by_need, reverse=True)
    return Tables(
        cpu=_int64(sort.cpu for sort, _ in on_gpus),
        milli=_int64(sort.milli for sort, _ in on_gpus),
        devices=_int64(sort.devices for sort, _ in on_gpus),
        kinds=np.array([sort.kinds for sort, _ in on_gpus], np.uint64),
        frequency=np.array([FRAGMENT_WEIGHT * count / tasks for _, count in on_gpus], np.float64),
        frequency_bare=FRAGMENT_WEIGHT * sum(count for sort, count in sorts if not sort.milli) / max(tasks, 1),
        cpu_per_gpu=np.array(needs, np.float64),
        volume=np.array([STRANDED_WEIGHT * by_need[need] / volume for need in needs], np.float64),
        bids=bids(demand),
        cpu_column=cpu_column,
        bid_weight=BID_WEIGHT,
        step=STEP,
    )


def standings(nodes: int) -> Float64:
    """float64 (N,): what each node's place in the order is taken off its score, so that one is filled after another."""
    return np.array([ORDER * place / nodes for place in range(nodes)], np.float64)


def drift(now: Counts, then: Counts) -> float:
    """The total variation between two mixes, 0 to 1: the share of tasks that would have to change their sort.

    Of nothing against something it is 1, of nothing against nothing 0.
    """
    of_now, of_then = sum(now.values()), sum(then.values())
    if not of_now or not of_then:
        return 0.0 if of_now == of_then else 1.0
    moved = sum(abs(now.get(sort, 0) * of_then - then.get(sort, 0) * of_now) for sort in now.keys() | then.keys())
    return moved / (2 * of_now * of_then)


def _by_milli(entry: tuple[Sort, int]) -> tuple[int, int, int, int]:
    sort = entry[0]
    return (sort.milli, sort.kinds, sort.cpu, sort.devices)


def _int64(values: Iterable[int]) -> Int64:
    return np.fromiter(values, np.int64)


def _check(sort: Sort, count: int) -> None:
    whole = sort.devices >= 1 and sort.milli == DEVICE_MILLI
    share = sort.devices == 1 and 0 < sort.milli < DEVICE_MILLI
    bare = sort.devices == 0 and sort.milli == 0
    if count < 1 or sort.cpu < 0 or not 0 <= sort.kinds < 1 << 64 or not (whole or share or bare):
        raise invalid(
            f"{count} tasks of {sort} cannot be typical",
            hint="Counts are 1 or more; a task asks for no GPU, for 1 to 999 milli of one, or for whole ones.",
        )
