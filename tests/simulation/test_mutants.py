"""The simulation notices when a rule is broken: seeded bugs, each found within a few seeds.

Those of `SMOKE` run with every suite, for a few seeds; all of them, for many, on demand. A bug that no seed shows would mean
that nobody watches the rule.
"""

from __future__ import annotations

import pytest

from federation.simulation.federated import FAILED, Scenario, simulate
from tests.simulation import mutants

SEEDS = 200
SMOKE = (
    "dedup-off",
    "fsync-skipped",
    "silence-frees-leases",
    "absence-is-an-end",
    "epoch-not-raised",
    "plan-not-verified",
    "decisions-fail",
    "claim-skipped",
    "no-rollback",
    "leases-forgotten-at-start",
    "released-before-it-was-stored",
    "cancelled-without-a-word",
    "preempts-anybody",
    "incarnation-not-raised",
    "absence-is-a-revoke",
    "lease-counted-from-receipt",
    "begun-before-it-was-written",
    "forgotten-before-it-was-heard",
    "guard-off",
    "admission-believes",
    "ends-unsaid",
    "no-grace",
    "use-not-kept",
    "successes-fail",
    "preempted-jobs-fail",
    "everybody-may-run-twice",
    "silence-unnoticed",
)
SMOKE_SEEDS = 12


def test_there_are_twenty_and_each_has_one_name() -> None:
    """As many as were promised; what the smoke set names is there."""
    assert len(mutants.ALL) >= 20
    assert set(SMOKE) <= set(mutants.ALL)


def noticed(name: str, seeds: int) -> bool:
    """Whether one of the first so many seeds breaks a promise with this bug; without it they keep them all."""
    for seed in range(1, seeds + 1):
        with mutants.ALL[name]():
            broken = simulate(Scenario(seed)).broken
        assert FAILED not in broken  # that notices nothing
        if broken:
            return True
    return False


@pytest.mark.parametrize("name", SMOKE)
def test_a_seeded_bug_is_noticed(name: str) -> None:
    """Within a few seeds."""
    assert noticed(name, SMOKE_SEEDS)


@pytest.mark.long
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("name", mutants.ALL)
def test_every_seeded_bug_is_noticed(name: str) -> None:
    """Within so many seeds of the small world."""
    assert noticed(name, SEEDS)
