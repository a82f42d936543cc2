"""The shipped SQLite store under a simulated federation, on a disk that fails: what befalls it is done by the disk.

`simulate(scenario, disk=partial(CarriedStore, folder, chance))`. A process that ends leaves the system's cache behind, or
the power fails with it; the next one opens the same file. Backups are made and restored by the shipped `store/backup.py`.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from federation.errors import FederationError
from federation.ports import Transaction
from federation.simulation.mishaps import Mishap, ProcessEndedError
from federation.store import backup as backups
from federation.store.sql import SqlStore
from federation.store.sqlite import SqliteFile
from tests.support.apsw_driver import connector
from tests.support.faulty_disk import FaultyDisk, Fsync

CALLS_MAX = 8
"""Within so many calls of the disk a process dies that is to die in its commit; most commits are one write or two and a sync."""


class CarriedStore(SqlStore):
    """A `federation.simulation.mishaps.FaultyDisk`."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.mishap = self.out_of_order = Mishap.NONE
        self.fence: Callable[[], None] = lambda: None
        self.disk = FaultyDisk(chance)
        self._chance = chance
        self._path = folder / "federation.db"
        self._copies = 0
        self._open()

    def _open(self) -> None:
        super().__init__(SqliteFile(self._path, 5_000, connector(self.disk.name), self.disk.write_again))

    @contextlib.contextmanager
    def begin(self) -> Iterator[Transaction]:
        """A transaction that may end badly."""
        self.fence()
        mishap, self.mishap = self.mishap or self.out_of_order, Mishap.NONE
        disk = self.disk
        match mishap:
            case Mishap.CRASH_BEFORE:
                disk.dies_at = disk.calls + self._chance.randint(1, CALLS_MAX)
            case Mishap.FSYNC_KEPT:
                disk.fsync = Fsync.FAILS_KEPT
            case Mishap.FSYNC_LOST:
                disk.fsync = Fsync.FAILS_LOST
            case Mishap.FULL:
                disk.full = True
            case Mishap.AWAY:
                disk.broken = True
            case _:
                pass
        try:
            with super().begin() as transaction:
                yield transaction
        except FederationError:
            if disk.dead:
                raise ProcessEndedError from None
            raise
        finally:
            disk.full = disk.broken = False
            disk.fsync, disk.dies_at = Fsync.WORKS, 0
        if disk.dead or mishap is Mishap.CRASH_AFTER:
            raise ProcessEndedError

    def process_ended(self) -> None:
        """The next one finds what the system's cache had, or where the power failed, what the disk had."""
        self.disk.dead = True
        self.close()
        if self._chance.random() < 0.5:
            self.disk.lose_power()
        else:
            self.disk.end_process()
        self._open()

    def back_up(self) -> object:
        """By the shipped code; nobody else has the file open meanwhile, for SQLite's locks are those of a process."""
        self._copies += 1
        copy = self._path.with_name(f"backup-{self._copies}.db")
        self.close()
        backups.back_up(self._path, copy)
        self._open()
        return copy

    def restore(self, backup: object, now_ms: int, *, lost: bool) -> bool:
        """By the shipped code."""
        assert isinstance(backup, Path)
        self.close()
        kept = self._path.with_name("kept.db")
        if lost:
            self._path.rename(kept)
        try:
            backups.restore(self._path, backup, now_ms)
        except FederationError:
            if lost:
                kept.rename(self._path)
            return False
        finally:
            self.disk.taken_in()
            self._open()
        return True
