"""What is typical, the tables made of it, and how far two mixes are apart."""

from __future__ import annotations

import pytest

from federation.errors import FederationError
from federation.scheduling.fragmentation import (
    FRAGMENT_WEIGHT,
    ORDER,
    STRANDED_WEIGHT,
    TYPICAL_MAX,
    Sort,
    drift,
    standings,
    tables_of,
    typical,
)

ANY = (1 << 64) - 1
BARE = Sort(4_000, 0, 0, ANY)
HALF = Sort(6_000, 500, 1, ANY)
WHOLE = Sort(8_000, 1_000, 1, 0b10)
EIGHT = Sort(64_000, 1_000, 8, ANY)


def test_the_commonest_sorts_until_they_are_nineteen_of_twenty() -> None:
    """The last one needed is kept, those after it are not."""
    assert typical({BARE: 50, HALF: 44, WHOLE: 5, EIGHT: 1}) == ((BARE, 50), (HALF, 44), (WHOLE, 5))


def test_exactly_the_share_is_enough() -> None:
    """95 of 100 need no sixth in the hundred."""
    assert typical({BARE: 60, HALF: 35, WHOLE: 5}) == ((BARE, 60), (HALF, 35))


def test_equals_come_in_their_own_order() -> None:
    """Not in the order in which they were counted."""
    assert typical({WHOLE: 1, HALF: 1, BARE: 1}) == typical({BARE: 1, HALF: 1, WHOLE: 1})


def test_the_tables_have_a_limit() -> None:
    """However many sorts there are, 128 are typical at most."""
    many = {Sort(cpu, 0, 0, ANY): 1 for cpu in range(TYPICAL_MAX + 1)}
    assert len(typical(many, covered=1.0)) == TYPICAL_MAX


def test_tables_hold_shares_of_tasks_and_of_gpu_volume() -> None:
    """Frequencies are of all tasks, volumes of GPU milli, by CPU per whole GPU from the most; rows ascend by milli."""
    tables = tables_of([(EIGHT, 1), (WHOLE, 2), (HALF, 4), (BARE, 3)])
    assert tables.milli.tolist() == [500, 1_000, 1_000]
    assert tables.kinds.tolist() == [ANY, 0b10, ANY]
    assert tables.frequency.tolist() == [FRAGMENT_WEIGHT * count / 10 for count in (4, 2, 1)]
    assert tables.frequency_bare == FRAGMENT_WEIGHT * 3 / 10
    assert tables.cpu_per_gpu.tolist() == [12_000.0, 8_000.0]
    assert tables.volume.tolist() == [STRANDED_WEIGHT * 2_000 / 12_000, STRANDED_WEIGHT * 10_000 / 12_000]
    assert tables.bids[500] == 0.5


def test_nothing_typical_makes_tables_that_say_nothing() -> None:
    """A planner that has seen no demand scores by whole devices and the order alone."""
    tables = tables_of(())
    assert (len(tables.milli), len(tables.cpu_per_gpu), tables.frequency_bare) == (0, 0, 0.0)


@pytest.mark.parametrize(
    "sort",
    [
        Sort(-1, 0, 0, ANY), Sort(1, 1_001, 1, ANY), Sort(1, 500, 2, ANY), Sort(1, 500, 0, ANY), Sort(1, 0, 1, ANY),
        Sort(1, -5, 1, ANY), Sort(1, 1_000, 1, -1), Sort(1, 1_000, 1, 1 << 64),
    ],
)  # fmt: skip
def test_a_sort_that_no_task_can_be_of_is_refused(sort: Sort) -> None:
    """Whoever says so."""
    with pytest.raises(FederationError, match="cannot be typical"):
        tables_of([(sort, 1)])


def test_standings_let_the_first_node_be_filled_first() -> None:
    """From nothing up, the last just below the order's weight."""
    assert standings(4).tolist() == [0.0, ORDER * 1 / 4, ORDER * 2 / 4, ORDER * 3 / 4]
    assert standings(0).shape == (0,)


def test_drift_from_nothing() -> None:
    """Nothing is as far from something as can be, and next to nothing."""
    assert (drift({}, {}), drift({BARE: 1}, {}), drift({BARE: 1}, {HALF: 1})) == (0.0, 1.0, 1.0)
