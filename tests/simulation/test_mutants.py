"""The simulation notices when a rule is broken: seeded bugs, each found within a few seeds.

Those of `SMOKE` run with every suite, at a seed that is known to show them; all of them, from the first seed on, on
demand. A bug that no seed shows would mean that nobody watches the rule.
"""

from __future__ import annotations

import pytest

from federation.simulation.federated import Scenario, simulate
from tests.simulation import mutants

SEEDS = 200
SMOKE: dict[str, int] = {
    "dedup-off": 1,
    "fsync-skipped": 1,
    "silence-frees-leases": 1,
    "absence-is-an-end": 2,
    "epoch-not-raised": 2,
    "no-rollback": 1,
    "leases-forgotten-at-start": 1,
    "released-before-it-was-stored": 1,
    "absence-is-a-revoke": 1,
    "begun-before-it-was-written": 1,
    "forgotten-before-it-was-heard": 1,
}


def test_there_are_twenty_and_each_has_one_name() -> None:
    """As many as were promised; what the smoke set names is there."""
    assert len(mutants.ALL) >= 20
    assert set(SMOKE) <= set(mutants.ALL)


@pytest.mark.parametrize("name", SMOKE)
def test_a_seeded_bug_is_noticed(name: str) -> None:
    """With it a promise breaks, without it the same seed keeps them all."""
    scenario = Scenario(SMOKE[name])
    with mutants.ALL[name]():
        broken = simulate(scenario).broken
    assert broken
    assert simulate(scenario).broken == ""


@pytest.mark.long
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("name", mutants.ALL)
def test_every_seeded_bug_is_noticed(name: str) -> None:
    """Within so many seeds of the small world."""
    for seed in range(1, SEEDS + 1):
        with mutants.ALL[name]():
            if simulate(Scenario(seed)).broken:
                return
    pytest.fail(f"no seed up to {SEEDS} shows {name}")
