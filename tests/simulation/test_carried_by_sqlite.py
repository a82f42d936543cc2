"""The simulated federation on the shipped SQLite store, on a disk that fails: fewer seeds, for it is slower.

Here a crash of the control plane forgets what was not synced, a torn write is torn, and a restore is the shipped one. Who
leads is PostgreSQL's to say: those kinds of fault are left out.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import pytest

from federation.errors import FederationError
from federation.simulation.faults import FaultKind
from federation.simulation.federated import Report, Scenario, simulate
from federation.store.sqlite import SqliteFile
from tests.support.carried_store import CarriedStore

KINDS = tuple(kind for kind in FaultKind if kind not in (FaultKind.STANDBY_TAKEOVER, FaultKind.LEADER_CUT))
OF_THE_STORE = (
    FaultKind.PLANE_CRASH,
    FaultKind.PLANE_CRASH_BEFORE_COMMIT,
    FaultKind.PLANE_CRASH_AFTER_COMMIT,
    FaultKind.FSYNC_FAILED,
    FaultKind.STORE_FULL,
    FaultKind.STORE_AWAY,
    FaultKind.RESTORE,
)
SEEDS = 40
Play = Callable[[Scenario], Report]
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""A connection that is closed after its process has ended finds a dead disk, and apsw has nobody to tell."""


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Play a scenario in a folder of its own."""
    played = 0

    def one(scenario: Scenario) -> Report:
        nonlocal played
        played += 1
        folder = tmp_path / str(played)
        folder.mkdir()
        return simulate(scenario, disk=partial(CarriedStore, folder, random.Random(scenario.seed)))

    return one


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_promise_holds_on_a_disk_that_fails(play: Play, seed: int) -> None:
    """All that can befall a store of one machine, and nothing else, for an hour."""
    report = play(Scenario(seed, hours=1, kinds=OF_THE_STORE))
    assert report.broken == ""
    assert sum(report.faults.values()) == 30


def test_the_same_seed_tells_the_same_story(play: Play) -> None:
    """Byte for byte, wherever the file lies."""
    first, second = (play(Scenario(5, hours=0.5, kinds=KINDS)) for _ in range(2))
    assert (first.broken, first.digest) == ("", second.digest)


def test_a_store_that_does_not_sync_is_noticed(play: Play) -> None:
    """With SQLite's syncs switched off some seed loses what was acknowledged."""
    configured = SqliteFile._configured

    def careless(self: SqliteFile, connection: object) -> object:
        writer = configured(self, connection)  # type: ignore[arg-type]
        writer.execute("PRAGMA synchronous=OFF")
        return writer

    def noticed(seed: int) -> bool:
        try:
            return bool(play(Scenario(seed, hours=1, kinds=OF_THE_STORE)).broken)
        except FederationError:
            return True  # what is left of the file is refused

    with mock.patch.object(SqliteFile, "_configured", careless):
        assert any(noticed(seed) for seed in range(1, 7))


@pytest.mark.long
@pytest.mark.timeout(3_600)
def test_many_seeds_hold_on_a_disk_that_fails(play: Play) -> None:
    """Three hubs for two hours, every kind of fault but those of two control planes."""
    assert [seed for seed in range(1, SEEDS + 1) if play(Scenario(seed, kinds=KINDS)).broken] == []
