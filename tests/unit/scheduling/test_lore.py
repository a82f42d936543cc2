"""What the planner learns of the workload, and when it looks again."""

from __future__ import annotations

import pytest

from federation.scheduling.fleet import COLUMNS, Fleet
from federation.scheduling.fragmentation import Sort, tables_of
from federation.scheduling.kernels.score import Tables
from federation.scheduling.lore import CPU_SCALAR, Lore
from tests.unit.scheduling.builders import agent, cpus

BARE, HALF, OF_B = cpus(4), cpus(6, gpus=0.5), cpus(8, gpus=1, model="b")
ANY = (1 << 64) - 1
SORTS = {BARE: Sort(4_000, 0, 0, ANY), HALF: Sort(6_000, 500, 1, ANY), OF_B: Sort(8_000, 1_000, 1, 0b10)}


def fleet() -> Fleet:
    """Two models with devices: a is the first bit, b the second."""
    row = agent("cairo", cpus(8, gpus=2, model="a"), cpus(8, gpus=2, model="b"))
    return Fleet({row.key: row})


def same(one: Tables, other: Tables) -> bool:
    """Whether two tables say the same."""
    return list(map(repr, one)) == list(map(repr, other))


def test_its_tables_are_those_of_what_waits_and_runs() -> None:
    """Each demand as the score sees it: CPU, its share of a device, the bits of its models."""
    lore = Lore()
    for task, tasks in ((HALF, 90), (OF_B, 10)):
        lore.count(task, tasks)
    lore.settle(fleet())
    assert same(lore.tables, tables_of([(SORTS[HALF], 90), (SORTS[OF_B], 10)], COLUMNS["cpu"] - 1))
    assert COLUMNS["cpu"] - 1 == CPU_SCALAR


def test_what_has_ended_is_forgotten() -> None:
    """As if it had never come."""
    lore, at = Lore(), fleet()
    lore.count(HALF, 3)
    lore.count(BARE, 2)
    lore.count(HALF, -3)
    lore.settle(at)
    assert same(lore.tables, tables_of([(SORTS[BARE], 2)], CPU_SCALAR))


@pytest.mark.parametrize(("more", "anew"), [(124, False), (180, True)])
def test_it_looks_when_an_eighth_has_moved(more: int, anew: bool) -> None:
    """Not for less, however much it would find: looking at every demand in every round would cost more than it tells."""
    lore, at = Lore(), fleet()
    lore.count(HALF, 1_000)
    lore.settle(at)
    before = lore.tables
    lore.count(OF_B, more)
    lore.settle(at)
    assert (lore.tables is not before) == anew


def test_more_of_the_same_teaches_nothing() -> None:
    """It looks, and finds no drift; on other machines it learns anew, because models may have other bits."""
    lore, at = Lore(), fleet()
    lore.count(HALF, 1_000)
    lore.settle(at)
    before = lore.tables
    lore.count(HALF, 9_000)
    lore.settle(at)
    assert lore.tables is before
    lore.settle(fleet())
    assert lore.tables is not before
