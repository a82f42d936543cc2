"""Shares that fade, weights that grow with giving, and ranks: one at a time and many at once."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from federation.errors import FederationError
from federation.scheduling import fairness
from federation.scheduling.fairness import (
    BUCKETS_KEPT,
    DAY_MS,
    HALF_LIFE_MS,
    FairnessTerms,
    Rank,
    UseLedger,
    contributed_share,
    contribution_weight,
    dominant_share,
    rank,
    ranks,
)
from federation.scheduling.rows import UsageRow

BUCKET_MS = HALF_LIFE_MS // 8
CAIRO, MINYA, SHENZHEN = "cairo", "minya", "shenzhen"


def use(end_ms: int, cpu_ms: int, home: str = CAIRO, host: str = "", user: str = "ada") -> UsageRow:
    """So much cpu time of a user of `home`, on machines of `host`."""
    return UsageRow(home, "default", user, (("cpu", cpu_ms),), end_ms, host)


def held_all_along(amount: int, until_ms: int, **changes: str) -> list[UsageRow]:
    """Rows of a day each, of somebody who has held `amount` for a year."""
    return [use(end, amount * DAY_MS, **changes) for end in range(until_ms - 365 * DAY_MS, until_ms + 1, DAY_MS)]


def test_the_examples_in_the_docstrings_hold() -> None:
    """What is shown to readers is what the functions return."""
    assert doctest.testmod(fairness).failed == 0


def test_use_counts_half_after_the_half_life() -> None:
    """An eighth of the half-life takes 2^(-1/8), eight of them half, and twelve half-lives everything."""
    ledger = UseLedger.of([use(0, 10**9)])
    at = [
        ledger.decayed((CAIRO,), age * BUCKET_MS).get("cpu", 0.0) for age in (0, 1, 8, BUCKETS_KEPT - 1, BUCKETS_KEPT)
    ]
    assert at[1] == pytest.approx(at[0] * 2 ** (-1 / 8))
    assert at[2] == at[0] / 2
    assert at[3] > 0
    assert at[4] == 0.0


def test_who_held_it_all_along_has_used_what_he_holds() -> None:
    """The mean over the window is in the unit of amounts held: 4,000 millicores for a year are 4,000, within a step."""
    now_ms = 400 * DAY_MS
    ledger = UseLedger.of(held_all_along(4_000, now_ms))
    assert ledger.decayed((CAIRO,), now_ms)["cpu"] == pytest.approx(4_000, rel=0.06)


def test_use_counts_at_all_three_levels() -> None:
    """A hub's use is its users', and a project's too; another hub's is not."""
    ledger = UseLedger.of([use(0, 800), use(0, 200, user="bo"), use(0, 50, home=MINYA)])
    levels = [(CAIRO,), (CAIRO, "default"), (CAIRO, "default", "ada"), (CAIRO, "default", "bo"), (MINYA,)]
    means = [ledger.decayed(level, 0)["cpu"] for level in levels]
    assert [round(mean / means[0], 9) for mean in means] == [1.0, 1.0, 0.8, 0.2, 0.05]


def test_a_users_use_on_several_hubs_is_one_sum() -> None:
    """On whose machines it was makes no difference to the user's share."""
    apart = UseLedger.of([use(0, 300, host=CAIRO), use(0, 700, host=SHENZHEN), use(BUCKET_MS, 5, host=MINYA)])
    together = UseLedger.of([use(0, 1_000), use(BUCKET_MS, 5)])
    level = (CAIRO, "default", "ada")
    assert apart.decayed(level, BUCKET_MS) == together.decayed(level, BUCKET_MS)


def test_what_others_use_of_a_hub_is_its_contribution() -> None:
    """Own use at home gives nothing away; use by another hub, or by the federation's operators, does."""
    ledger = UseLedger.of(
        [use(0, 500, host=CAIRO), use(0, 300, home=MINYA, host=CAIRO), use(0, 40, home="", host=CAIRO), use(0, 7)]
    )
    given, used = ledger.contributed(CAIRO, 0)["cpu"], ledger.decayed((CAIRO,), 0)["cpu"]
    assert given / used == pytest.approx(340 / 507)
    assert ledger.contributed(MINYA, 0) == {}


def test_what_ended_after_now_counts_as_if_it_ended_now() -> None:
    """A hub whose clock is ahead gains and loses nothing by it."""
    assert UseLedger.of([use(3 * BUCKET_MS, 9)]).decayed((CAIRO,), 0) == UseLedger.of([use(0, 9)]).decayed((CAIRO,), 0)


def test_forgetting_changes_no_answer_and_frees_memory() -> None:
    """What is older than twelve half-lives is dropped; the answers before and after are the same."""
    now_ms = (BUCKETS_KEPT + 5) * BUCKET_MS
    ledger = UseLedger.of([use(0, 9, user="gone", host=MINYA), use(now_ms, 4, host=SHENZHEN)])
    before = [ledger.decayed((CAIRO,), now_ms), ledger.contributed(SHENZHEN, now_ms), ledger.contributed(MINYA, now_ms)]
    ledger.forget(now_ms)
    after = [ledger.decayed((CAIRO,), now_ms), ledger.contributed(SHENZHEN, now_ms), ledger.contributed(MINYA, now_ms)]
    assert after == before
    assert ledger.levels() == ((CAIRO,), (CAIRO, "default"), (CAIRO, "default", "ada"))
    assert ledger == UseLedger.of([use(now_ms, 4, host=SHENZHEN)])


def test_the_rows_of_a_ledger_give_it_back() -> None:
    """What the planner remembers can be handed on and rebuilt, contributions with it."""
    ledger = UseLedger.of([use(5, 9, host=MINYA), use(BUCKET_MS + 1, 4), use(7, 1, host=MINYA), use(7, 0)])
    assert UseLedger.of(ledger.rows()) == ledger
    assert ledger.rows() == (
        UsageRow(CAIRO, "default", "ada", (("cpu", 4),), BUCKET_MS, ""),
        UsageRow(CAIRO, "default", "ada", (("cpu", 10),), 0, MINYA),
    )


def test_another_half_life_is_another_ledger_of_the_same_use() -> None:
    """A changed setting takes effect on what is known; the same setting costs nothing."""
    ledger = UseLedger.of([use(0, 1_000)])
    faster = ledger.with_half_life(HALF_LIFE_MS // 2)
    assert ledger.with_half_life(HALF_LIFE_MS) is ledger
    assert faster.decayed((CAIRO,), 0)["cpu"] == 2 * ledger.decayed((CAIRO,), 0)["cpu"]


def test_a_share_is_what_is_held_and_was_used() -> None:
    """The dominant resource of the sum counts; what nobody offers does not."""
    offered = {"cpu": 10, "memory": 100, "gpu": 0}
    assert dominant_share({"cpu": 1, "memory": 40, "gpu": 7}, {"cpu": 3.5}, offered, 1.0) == 0.45
    assert dominant_share({"cpu": 1}, {}, offered, 2.0) == 0.05


def test_ties_go_to_who_used_less_and_then_by_name() -> None:
    """Two with equal sums: the one that holds it now goes before the one that used it."""
    offered = {"cpu": 10}
    holder, user = rank({"cpu": 4}, {}, offered, 1.0, "z"), rank({}, {"cpu": 4.0}, offered, 1.0, "a")
    assert sorted([user, holder]) == [holder, user]
    assert min(Rank(0.5, 0.1, "b"), Rank(0.5, 0.1, "a")).name == "a"


def test_many_ranks_at_once_are_the_plain_ones() -> None:
    """Arrays of levels x resources give the scalar rule's numbers, also with nobody and with nothing offered."""
    held, used = np.asarray([[1, 2, 3], [0, 9, 1]]), np.asarray([[0.1, 0.7, 2.5], [0.0, 0.0, 0.3]])
    offered, weights = np.asarray([7, 11, 0]), np.asarray([3.0, 0.7])
    shares, used_shares = ranks(held, used, offered, weights)
    names = ("cpu", "disk", "gpu")
    for at in range(2):
        plain = rank(
            dict(zip(names, held[at].tolist(), strict=True)), dict(zip(names, used[at].tolist(), strict=True)),
            dict(zip(names, offered.tolist(), strict=True)), float(weights[at]), "",
        )  # fmt: skip
        assert (shares[at], used_shares[at]) == (plain.share, plain.used_share)
    empty = ranks(np.zeros((0, 3), np.int64), np.zeros((0, 3)), offered, np.zeros(0))
    assert [of.shape for of in empty] == [(0,), (0,)]


def test_a_hub_that_gives_as_much_as_an_average_one_offers_has_twice_the_weight() -> None:
    """With the default terms; more gives nothing more, and who gives nothing keeps the operator's weight."""
    offered = {"cpu": 1_000}
    weights = [
        contribution_weight(3.0, contributed_share({"cpu": given}, offered, hubs=10), FairnessTerms())
        for given in (0.0, 50.0, 100.0, 400.0)
    ]
    assert weights == [3.0, 4.5, 6.0, 6.0]


@pytest.mark.parametrize(
    ("field", "value"),
    [("half_life_ms", 999), ("half_life_ms", 367 * DAY_MS), ("gain", -0.1), ("gain", float("nan")), ("cap", 1001.0)],
)
def test_settings_out_of_range_are_refused(field: str, value: float) -> None:
    """The error names the setting."""
    with pytest.raises(FederationError) as refused:
        FairnessTerms(**{field: value})  # type: ignore[arg-type]
    assert refused.value.metadata["field"] == field
