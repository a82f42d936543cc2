"""Use and ranks on numbers that nobody would choose: exact sums in any order, arrays that equal the plain rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.apparatus.oracle import Number, Sharer, Want, fill
from federation.domain.quantities import resources
from federation.scheduling import Delta, PlannerState, Policy, plan_round
from federation.scheduling.fairness import (
    BUCKETS_KEPT,
    BUCKETS_PER_HALF_LIFE,
    FairnessTerms,
    UseLedger,
    contribution_weight,
    rank,
    ranks,
)
from federation.scheduling.rows import UsageRow
from tests.unit.scheduling.builders import agent, job

NAMES = ("cpu", "disk", "gpu", "memory")
HALF_LIFE_MS = 8_000
BUCKET_MS = HALF_LIFE_MS // BUCKETS_PER_HALF_LIFE
hubs = st.sampled_from(["cairo", "minya", "shenzhen"])
amounts_ms = st.integers(0, 2**80)
rows = st.builds(
    UsageRow,
    home_hub=hubs,
    project=st.sampled_from("pq"),
    user=st.sampled_from(["ada", "bo"]),
    used=st.dictionaries(st.sampled_from(NAMES), amounts_ms, max_size=3).map(lambda of: tuple(sorted(of.items()))),
    end_ms=st.integers(0, 3 * BUCKETS_KEPT * BUCKET_MS),
    host_hub=st.sampled_from(["", "cairo", "minya"]),
)


def answers(ledger: UseLedger, now_ms: int) -> dict[object, object]:
    """Everything a ledger says at a moment."""
    levels = {level: ledger.decayed(level, now_ms) for level in ledger.levels()}
    given_away = {("host", hub): ledger.contributed(hub, now_ms) for hub in ("cairo", "minya", "shenzhen")}
    return {key: means for key, means in (levels | given_away).items() if means}


def plainly(of: list[UsageRow], now_ms: int, hub: str) -> dict[str, float]:
    """The mean of a hub's use, by the definition: all rows, powers, one sum."""
    window_ms = HALF_LIFE_MS / np.log(2)
    means: dict[str, float] = {}
    for row in of:
        age = max(0, now_ms // BUCKET_MS - row.end_ms // BUCKET_MS)
        if row.home_hub == hub and age < BUCKETS_KEPT:
            for name, amount_ms in row.used:
                means[name] = means.get(name, 0.0) + amount_ms * 2.0 ** (-age / BUCKETS_PER_HALF_LIFE) / window_ms
    return {name: mean for name, mean in means.items() if mean}


@given(st.lists(rows, max_size=12), st.randoms(use_true_random=False), st.integers(0, 4 * BUCKETS_KEPT))
def test_the_order_of_use_does_not_matter(of: list[UsageRow], dice: object, bucket: int) -> None:
    """Late, early or shuffled, with or without answers asked in between: the same bits."""
    now_ms = bucket * BUCKET_MS
    shuffled = list(of)
    dice.shuffle(shuffled)  # type: ignore[attr-defined]
    asked = UseLedger(HALF_LIFE_MS)
    for row in shuffled:
        asked.add(row)
        asked.decayed(row.owner[:1], now_ms)
        asked.decayed(row.owner, now_ms)
        asked.contributed(row.host_hub, now_ms)
    assert answers(asked, now_ms) == answers(UseLedger.of(of, HALF_LIFE_MS), now_ms)


@given(st.lists(rows, max_size=12), st.lists(st.integers(0, 4 * BUCKETS_KEPT), min_size=1, max_size=5))
def test_a_ledger_kept_for_long_is_one_rebuilt(of: list[UsageRow], buckets: list[int]) -> None:
    """Rows that come while time goes on, with forgetting in between, leave what a fresh start from them all leaves."""
    kept = UseLedger(HALF_LIFE_MS)
    share = -(-len(of) // len(buckets))
    for at, bucket in enumerate(sorted(buckets)):
        for row in of[at * share : (at + 1) * share]:
            kept.add(row)
        now_ms = bucket * BUCKET_MS
        kept.forget(now_ms)
        assert UseLedger.of(kept.rows(), HALF_LIFE_MS) == kept
        assert answers(UseLedger.of(kept.rows(), HALF_LIFE_MS), now_ms) == answers(kept, now_ms)
    at_last = max(buckets) * BUCKET_MS
    assert answers(kept, at_last) == answers(UseLedger.of(of, HALF_LIFE_MS), at_last)


@given(st.lists(rows, max_size=12), st.integers(0, 4 * BUCKETS_KEPT))
def test_decayed_use_is_what_its_definition_says(of: list[UsageRow], bucket: int) -> None:
    """To rounding, the mean is the sum over all rows of amount x 2^(-age/8), divided by half-life / ln 2."""
    now_ms = bucket * BUCKET_MS
    means = UseLedger.of(of, HALF_LIFE_MS).decayed(("cairo",), now_ms)
    plain = plainly(of, now_ms, "cairo")
    assert means.keys() == plain.keys()
    assert all(abs(means[name] - plain[name]) <= 1e-12 * plain[name] for name in plain)


@given(st.lists(rows, max_size=30), st.integers(0, 4 * BUCKETS_KEPT))
def test_a_ledger_has_no_more_than_its_buckets(of: list[UsageRow], bucket: int) -> None:
    """After forgetting, what is kept of the past is bounded, however much came."""
    ledger = UseLedger.of(of, HALF_LIFE_MS)
    ledger.forget(bucket * BUCKET_MS)
    assert all(row.end_ms // BUCKET_MS > bucket - BUCKETS_KEPT for row in ledger.rows())


@settings(max_examples=300)
@given(st.data(), st.integers(0, 6), st.integers(1, 4))
def test_ranks_at_once_are_bit_identical(data: st.DataObject, levels: int, width: int) -> None:
    """The arrays' numbers are the scalar rule's, to the last bit."""
    names = NAMES[:width]
    held = data.draw(
        st.lists(st.lists(st.integers(0, 2**62), min_size=width, max_size=width), min_size=levels, max_size=levels)
    )
    used = data.draw(
        st.lists(st.lists(st.floats(0, 2.0**62), min_size=width, max_size=width), min_size=levels, max_size=levels)
    )
    offered = data.draw(st.lists(st.integers(0, 2**62), min_size=width, max_size=width))
    weights = data.draw(st.lists(st.floats(1e-6, 1e6), min_size=levels, max_size=levels))
    shares, used_shares = ranks(
        np.asarray(held, np.int64).reshape(levels, width), np.asarray(used, np.float64).reshape(levels, width),
        np.asarray(offered, np.int64), np.asarray(weights, np.float64),
    )  # fmt: skip
    for at in range(levels):
        plain = rank(
            dict(zip(names, held[at], strict=True)), dict(zip(names, used[at], strict=True)),
            dict(zip(names, offered, strict=True)), weights[at], "",
        )  # fmt: skip
        assert (float(shares[at]), float(used_shares[at])) == (plain.share, plain.used_share)


@given(st.floats(1e-6, 1e6), st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1000), st.floats(0, 1000))
def test_giving_more_never_costs_weight(base: float, less: float, more: float, gain: float, cap: float) -> None:
    """The weight is monotone in what a hub gives, and never below the operator's own."""
    terms = FairnessTerms(gain=gain, cap=cap)
    less, more = sorted((less, more))
    assert base <= contribution_weight(base, less, terms) <= contribution_weight(base, more, terms)


# -- the four properties of dominant resource fairness, on the exact oracle -----------------------------------------------
capacities = st.tuples(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60))
needs = st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 6)).filter(any)
asking = st.lists(st.tuples(needs, st.integers(1, 3)), min_size=1, max_size=5)
ENDLESS = 10**6
Asked = tuple[tuple[int, ...], int]
"""(need of one task by resource, weight)."""


def shared(of: Sequence[Asked], capacity: tuple[int, ...]) -> tuple[list[Sharer], list[Number]]:
    """Each of these (need, weight) with work without end, and what is left."""
    sharers = [Sharer(str(at), weight=weight, wants=[Want(need, ENDLESS)]) for at, (need, weight) in enumerate(of)]
    return sharers, fill(sharers, capacity)


def tasks(bundle: Sequence[Number], need: tuple[int, ...]) -> Number:
    """How much of its work somebody can do with a bundle."""
    return min(amount / wanted for amount, wanted in zip(bundle, need, strict=True) if wanted)


@given(asking, capacities)
def test_nobody_would_rather_have_a_part_of_its_own(of: Sequence[Asked], capacity: tuple[int, ...]) -> None:
    """Sharing incentive: each gets at least what its weight's part of every resource would do."""
    sharers, _ = shared(of, capacity)
    total = sum(weight for _, weight in of)
    for sharer, (need, weight) in zip(sharers, of, strict=True):
        part = [Fraction(amount * weight, total) for amount in capacity]
        assert tasks(sharer.held, need) >= tasks(part, need)


@given(asking, capacities)
def test_nobody_would_rather_have_anothers_bundle(of: Sequence[Asked], capacity: tuple[int, ...]) -> None:
    """Envy-freeness: another's bundle, scaled by the weights, does no more of one's own work."""
    sharers, _ = shared(of, capacity)
    for mine, (need, weight) in zip(sharers, of, strict=True):
        for theirs, (_, other) in zip(sharers, of, strict=True):
            scaled = [amount * weight / other for amount in theirs.held]
            assert tasks(scaled, need) <= tasks(mine.held, need)


@given(asking, capacities)
def test_nothing_useful_is_left(of: Sequence[Asked], capacity: tuple[int, ...]) -> None:
    """Pareto efficiency: whoever wants more lacks something that is gone, and nothing was made up."""
    sharers, left = shared(of, capacity)
    for need, _ in of:
        assert any(wanted and not remains for wanted, remains in zip(need, left, strict=True))
    for at, amount in enumerate(capacity):
        assert sum(sharer.held[at] for sharer in sharers) + left[at] == amount


@given(asking, capacities, needs)
def test_a_lie_does_not_pay(of: Sequence[Asked], capacity: tuple[int, ...], lie: tuple[int, ...]) -> None:
    """Strategy-proofness: who asks for something else than it needs gets no more of its own work done."""
    honest, _ = shared(of, capacity)
    lying, _ = shared([(lie, of[0][1]), *of[1:]], capacity)
    assert tasks(lying[0].held, of[0][0]) <= tasks(honest[0].held, of[0][0])


# -- the planner, held to the oracle ----------------------------------------------------------------------------------
def planned_tasks(of: Sequence[Asked], capacity: tuple[int, ...]) -> list[int]:
    """How many one-task jobs of each hub a round starts on one machine of a hub that asks for nothing."""
    machine = resources(*((name, "", amount) for name, amount in zip(NAMES, capacity, strict=False)))
    jobs = []
    for at, (need, _) in enumerate(of):
        most = min(amount // wanted for amount, wanted in zip(capacity, need, strict=True) if wanted)
        per_task = resources(*((name, "", amount) for name, amount in zip(NAMES, need, strict=False)))
        jobs += [job(f"{at}-{number}", per_task, f"hub-{at}", seq=number) for number in range(most)]
    weights = {f"hub-{at}": float(weight) for at, (_, weight) in enumerate(of)}
    delta = Delta(agents=(agent("owner", machine),), queued=tuple(jobs))
    _, plan = plan_round(PlannerState(), delta, Policy(hub_weights=weights), now_ms=0)
    started = Counter(entry.job_id.partition("-")[0] for entry in plan.placements)
    return [started[str(at)] for at in range(len(of))]


def test_the_papers_example_is_exact() -> None:
    """9 CPU and 18 GB, A <1, 4>, B <3, 1>: 3 and 2 tasks, by the planner and by the oracle."""
    of = [((1, 4, 0), 1), ((3, 1, 0), 1)]
    assert planned_tasks(of, (9, 18, 1)) == [3, 2]
    sharers, _ = shared(of, (9, 18, 1))
    assert [tasks(sharer.held, need) for sharer, (need, _) in zip(sharers, of, strict=True)] == [3, 2]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)), st.integers(1, 3)),
        min_size=1,
        max_size=5,
    ),
    st.tuples(st.integers(9, 150), st.integers(9, 150), st.integers(9, 150)),
)
def test_the_planner_gives_each_hub_its_exact_share_within_one_task(
    of: Sequence[Asked], capacity: tuple[int, ...]
) -> None:
    """No weighted share is below the oracle's by a task, and nothing that still waits fits what is left.

    Whole tasks cannot do better: when the first hub is stopped nobody is more than a task above it, so if it were a
    task below the oracle's level everybody would be below, and its next task would have fitted.
    """
    got = planned_tasks(of, capacity)
    sharers, _ = shared(of, capacity)
    sizes = [max(Fraction(wanted, there) for wanted, there in zip(need, capacity, strict=True)) for need, _ in of]
    a_task = max(size / weight for size, (_, weight) in zip(sizes, of, strict=True))
    for count, sharer, size, (need, weight) in zip(got, sharers, sizes, of, strict=True):
        assert (tasks(sharer.held, need) - count) * size / weight < a_task
    left = [
        amount - sum(count * need[at] for count, (need, _) in zip(got, of, strict=True))
        for at, amount in enumerate(capacity)
    ]
    assert all(amount >= 0 for amount in left)
    assert not any(all(wanted <= amount for wanted, amount in zip(need, left, strict=True)) for need, _ in of)
