"""The SQLite store on a disk that fails: every acknowledged transaction is there afterwards, and no half of another.

A script of drawn transactions runs once undisturbed, to count what it does to the disk. Then it runs once for each of those
calls, and that call is the last: the power fails in it. A store in plain memory says what must be there.
"""

from __future__ import annotations

import dataclasses
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from federation.domain.job import JobState
from federation.domain.lease import LeaseState
from federation.errors import Code, FederationError
from federation.ports import JobFilter, Store
from federation.store import DurabilityLost, sqlite
from federation.store.memory import MemoryStore
from tests.contract.store_builders import StoreHome, fact, interval, job, keep, lease, request
from tests.support.faulty_disk import FaultyDisk, Fsync

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""A connection that is closed after its process has ended finds a dead disk, and apsw has nobody to tell."""
Write = Callable[[Store], None]


def drawn(chance: random.Random, transactions: int = 9) -> list[Write]:
    """So many transactions: submissions in batches, steps of jobs that are there, leases and use."""
    script: list[Write] = []
    known = 0
    for number in range(transactions):
        new = range(known + 1, known + 1 + chance.choice((1, 1, 2, 12)))  # none is without rows
        known += len(new)
        old = chance.sample(range(1, known + 1), min(known, chance.randrange(6)))
        script.append(_write(number, tuple(new), tuple(sorted(set(old) - set(new)))))
    return script


def _write(number: int, new: Sequence[int], old: Sequence[int]) -> Write:
    def write(store: Store) -> None:
        with store.begin() as transaction:
            transaction.append_events([fact(f"job-{n:08d}", cause=f"t{number}") for n in (*new, *old)])
            transaction.put_jobs([job(n) for n in new])
            moved = [job(n, state=JobState.RUNNING, revision=2 + number, progress="p" * n) for n in old]
            transaction.put_jobs(moved)
            transaction.put_leases([lease(n, job(n), state=LeaseState.ACTIVE, usage_stored=number) for n in old])
            transaction.put_requests([request(f"r{n}", job(n)) for n in new])
            transaction.put_usage([interval(number, f"lease-{n:08d}") for n in old])
            transaction.commit()

    return write


def seen(store: Store) -> tuple[Any, ...]:
    """Everything that can be asked of it."""
    loaded = dataclasses.replace(store.load(), restored=None)
    jobs = store.list_jobs(JobFilter(), 0, 10_000).jobs
    return (
        loaded,
        jobs,
        [store.events_of("job", each.id, 1_000) for each in jobs],
        [store.usage_of(each.id) for each in loaded.leases],
        store.find_requests([("aisha", f"r{n}") for n in range(200)]),
    )


@pytest.fixture(scope="module")
def script() -> list[Write]:
    """What is written."""
    return drawn(random.Random(7))


@pytest.fixture(scope="module")
def expected(script: list[Write]) -> list[tuple[Any, ...]]:
    """What there is after none of it, after the first, and so on."""
    twin = MemoryStore()
    states = [seen(twin)]
    for write in script:
        write(twin)
        states.append(seen(twin))
    return states


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store's file without anything in it."""
    home = _home(tmp_path_factory.mktemp("empty"), 0)
    home.open().close()
    assert home.path is not None
    return home.path


def _home(folder: Path, seed: int) -> StoreHome:
    path = folder / "federation.db"
    return StoreHome(f"sqlite:///{path}", path, disk=FaultyDisk(random.Random(seed)))


@pytest.fixture
def copies(empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], StoreHome]:
    """Empty stores, each on a disk of its own, that fold their logs in often."""
    monkeypatch.setattr(sqlite, "CHECKPOINT_PAGES", 25)

    def copy(number: int) -> StoreHome:
        folder = tmp_path / str(number)
        folder.mkdir()
        shutil.copy(empty, folder / empty.name)
        return _home(folder, number)

    return copy


def _written(store: Store, script: Sequence[Write]) -> int:
    """How many transactions were acknowledged until something failed."""
    for acknowledged, write in enumerate(script):
        try:
            write(store)
        except (FederationError, DurabilityLost):
            return acknowledged
    return len(script)


def _calls(home: StoreHome, script: Sequence[Write]) -> int:
    """What an undisturbed run does to the disk, from its start to its end."""
    assert home.disk is not None
    store = home.open()
    assert _written(store, script) == len(script)
    store.close()
    return home.disk.calls


@pytest.mark.timeout(300)
def test_power_may_fail_at_any_moment(
    copies: Callable[[int], StoreHome], script: list[Write], expected: list[tuple[Any, ...]]
) -> None:
    """In each write, sync, cut and removal: what was acknowledged is there, the transaction at hand whole or not at all."""
    calls = _calls(copies(0), script)
    assert calls > 100
    at_hand = set()
    for call in range(1, calls + 1):
        home = copies(call)
        assert home.disk is not None
        home.disk.dies_at = call
        acknowledged = 0
        try:
            store = home.open()
            acknowledged = _written(store, script)
            store.close()
        except (FederationError, DurabilityLost):
            pass  # it ended while it started
        home.disk.lose_power()
        again = home.open()
        found = seen(again)
        at_hand.add(found == expected[min(acknowledged + 1, len(script))])
        assert found in expected[acknowledged : acknowledged + 2], f"call {call}: {acknowledged} were acknowledged"
        reached = expected.index(found)
        assert _written(again, script[reached : reached + 1]) == len(script[reached : reached + 1])
        again.close()
    assert at_hand == {True, False}, "the last transaction was sometimes there and sometimes not"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fsync", [Fsync.FAILS_KEPT, Fsync.FAILS_LOST])
def test_a_failed_fsync_ends_the_process_and_loses_nothing(
    copies: Callable[[int], StoreHome], script: list[Write], expected: list[tuple[Any, ...]], fsync: Fsync
) -> None:
    """Whichever transaction it befalls; also when the next process goes on from the cache and the power fails later."""
    for number in range(len(script)):
        home = copies(number)
        assert home.disk is not None
        store = home.open()
        assert _written(store, script[:number]) == number
        home.disk.fsync = fsync
        with pytest.raises(DurabilityLost):
            script[number](store)
        home.disk.dead = True
        store.close()
        home.disk.end_process()
        again = home.open()
        reached = expected.index(seen(again))
        assert reached in (number, number + 1)
        more = _written(again, script[reached : reached + 2])
        home.disk.dead = True
        again.close()
        home.disk.lose_power()
        last = home.open()
        assert seen(last) == expected[reached + more], f"transaction {number}"
        last.close()


def test_power_may_fail_while_a_start_mends_what_a_failed_fsync_left(
    copies: Callable[[int], StoreHome], script: list[Write], expected: list[tuple[Any, ...]]
) -> None:
    """In each call of that start: what was acknowledged is there, and the transaction whose fsync failed whole or not at all."""
    number = len(script) // 2
    for call in range(1, 60):
        home = copies(call)
        assert home.disk is not None
        store = home.open()
        assert _written(store, script[:number]) == number
        home.disk.fsync = Fsync.FAILS_LOST
        with pytest.raises(DurabilityLost):
            script[number](store)
        home.disk.dead = True
        store.close()
        home.disk.end_process()
        home.disk.dies_at = home.disk.calls + call
        try:
            home.open().close()
        except (FederationError, DurabilityLost):
            pass  # it ended in that call
        ended = home.disk.dead
        home.disk.lose_power()
        last = home.open()
        assert seen(last) in expected[number : number + 2], f"call {call}"
        last.close()
        if not ended:
            return
    pytest.fail("a start has no end")


def test_a_full_disk_refuses_and_keeps_what_there_is(watched_home: StoreHome) -> None:
    """STORE_FULL, nothing of it is there; with room again it works."""
    store, disk = watched_home.open(), watched_home.disk
    assert disk is not None
    keep(store, job(1), facts=[fact("job-1")])
    disk.full = True
    with pytest.raises(FederationError) as refused:
        keep(store, *[job(n) for n in range(2, 200)])
    assert refused.value.code is Code.STORE_FULL
    assert store.load().jobs == (job(1),)
    disk.full = False
    keep(store, job(2))
    disk.dead = True
    watched_home.close()
    disk.lose_power()
    assert watched_home.open().load().jobs == (job(1), job(2))


def test_a_disk_that_cannot_be_read_is_told(watched_home: StoreHome) -> None:
    """A refusal and no wrong answer; when it can be read again, everything is there."""
    keep(watched_home.open(), *[job(n) for n in range(1, 400)])
    watched_home.close()
    store, disk = watched_home.open(), watched_home.disk
    assert disk is not None
    disk.unreadable = True
    with pytest.raises(FederationError) as refused:
        store.load()
    assert refused.value.code is Code.STORE_UNAVAILABLE
    disk.unreadable = False
    assert len(store.load().jobs) == 399


def test_a_store_is_made_whole_or_not_at_all(tmp_path: Path) -> None:
    """The power fails while the first file is made: the next start has an empty store."""
    calls = _calls(_home(tmp_path, 0), [])
    for call in range(1, calls + 1):
        folder = tmp_path / str(call)
        folder.mkdir()
        home = _home(folder, call)
        assert home.disk is not None
        home.disk.dies_at = call
        try:
            home.open().close()
        except (FederationError, DurabilityLost):
            pass  # it ended while it was made
        home.disk.lose_power()
        assert home.open().load().jobs == ()
        home.close()
