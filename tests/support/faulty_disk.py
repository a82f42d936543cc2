"""A disk under a real SQLite that fails as disks do: a VFS of apsw that knows what was synced, and what was not yet.

Files lie where they always do, so that whatever opens them by name finds them. A write is in the system's cache until its
file is synced. When the power fails, what was synced is there, and of the rest whichever sectors were drawn. When only the
process ends, the cache stays. Not here: names of files (a rename or a removal holds at once), and SQLite's locks and shared
memory, which are the real ones.
"""

from __future__ import annotations

import contextlib
import enum
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

from federation.store.faults import unavailable

SECTOR_BYTES = 512
_numbers = itertools.count(1)


class Fsync(enum.Enum):
    """What the next sync does."""

    WORKS = enum.auto()
    FAILS_KEPT = enum.auto()
    """It says that it failed, and all of it is on the disk."""
    FAILS_LOST = enum.auto()
    """It says so, once; the system forgets what it could not write, and later syncs of it succeed."""


@dataclass(slots=True)
class _File:
    durable: bytearray
    cached: list[tuple[int, bytes | None]] = field(default_factory=list)
    """(offset, bytes) that were written since, in order; without bytes: cut off there."""


class FaultyDisk(apsw.VFS):
    """See the module. What is set here befalls the files below until it is set otherwise."""

    def __init__(self, chance: random.Random) -> None:
        self.name = f"faulty-{next(_numbers)}"
        super().__init__(self.name, base="")
        self.calls = 0
        """Writes, syncs, cuts and removals so far."""
        self.dies_at = 0
        """The call in which whoever writes ends; 0: none."""
        self.dead = False
        self.fsync = Fsync.WORKS
        self.full = False
        self.unreadable = False
        self.broken = False
        """Nothing can be read, written or synced."""
        self._chance = chance
        self._files: dict[str, _File] = {}

    def lose_power(self) -> None:
        """Only what was synced is there, and some sectors of what was not."""
        kept = self._chance.choice((0.0, 0.5, 0.5, 1.0))
        for name, file in self._files.items():
            for offset, data in file.cached:
                self._settle(file.durable, offset, data, kept)
            file.cached.clear()
            if Path(name).exists():
                Path(name).write_bytes(file.durable)
            shared = Path(f"{name}-shm")
            shared.unlink(missing_ok=True)
        self._go_on()

    def end_process(self) -> None:
        """Whoever wrote is gone; the system's cache is not."""
        self._go_on()

    def write_again(self, path: Path) -> None:
        """What `store/sqlite.py` does with a log that it finds, on this disk. STORE_UNAVAILABLE."""
        name = str(path.absolute())
        self._files.setdefault(name, _File(bytearray(path.read_bytes())))
        try:
            with self.changing():
                self._files[name].cached.append((0, path.read_bytes()))
            with self.changing():
                self.synced(name)
        except apsw.Error as error:
            raise unavailable("the log cannot be written again", "Look at the disk.", name) from error

    def taken_in(self) -> None:
        """Somebody put other files in the place of these, and synced them."""
        self._files.clear()

    def _go_on(self) -> None:
        self.dead, self.dies_at = False, 0
        self.fsync = Fsync.WORKS

    def _settle(self, durable: bytearray, offset: int, data: bytes | None, kept: float) -> None:
        if data is None:
            if self._chance.random() < kept:
                _cut(durable, offset)
            return
        start = offset
        while start < offset + len(data):
            end = min((start // SECTOR_BYTES + 1) * SECTOR_BYTES, offset + len(data))
            if self._chance.random() < kept:
                _put(durable, start, data[start - offset : end - offset])
            start = end

    # ---- what SQLite calls ------------------------------------------------------------------------------------------
    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> Any:  # noqa: N802 - apsw's name
        """Files of the database are watched; temporary ones are not."""
        path = name if isinstance(name, str) or name is None else name.filename()
        if path is None:
            return super().xOpen(name, flags)
        if path not in self._files:
            self._files[path] = _File(bytearray(Path(path).read_bytes() if Path(path).exists() else b""))
        return _Handle(self, path, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802 - apsw's name
        """Gone at once."""
        with self.changing():
            super().xDelete(filename, syncdir)
            self._files.pop(filename, None)

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """One call that changes the disk; the last one of a process may have begun."""
        self.check()
        self.calls += 1
        dies = self.calls == self.dies_at
        if dies and self._chance.random() < 0.5:
            self.dead = True
            raise apsw.exception_for(apsw.SQLITE_IOERR_WRITE)
        yield
        if dies:
            self.dead = True
            raise apsw.exception_for(apsw.SQLITE_IOERR_WRITE)

    def check(self) -> None:
        """Nothing more happens by whoever has ended, or on a disk that is broken."""
        if self.dead or self.broken:
            raise apsw.exception_for(apsw.SQLITE_IOERR)

    def file(self, path: str) -> _File:
        """What is known of it."""
        return self._files[path]

    def synced(self, path: str) -> None:
        """Everything of it is on the disk; or the system says that it is not."""
        file, fsync = self._files[path], self.fsync
        self.fsync = Fsync.WORKS
        if fsync is not Fsync.FAILS_LOST:
            for offset, data in file.cached:
                if data is None:
                    _cut(file.durable, offset)
                else:
                    _put(file.durable, offset, data)
        file.cached.clear()
        if fsync is not Fsync.WORKS:
            raise apsw.exception_for(apsw.SQLITE_IOERR_FSYNC)


class _Handle(apsw.VFSFile):
    """One opening of a watched file."""

    def __init__(self, disk: FaultyDisk, path: str, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._disk = disk
        self._path = path

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802 - apsw's name
        """From the cache."""
        self._disk.check()
        if self._disk.unreadable:
            raise apsw.exception_for(apsw.SQLITE_IOERR_READ)
        return super().xRead(amount, offset)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802 - apsw's name
        """Into the cache."""
        with self._disk.changing():
            if self._disk.full and offset + len(data) > super().xFileSize():
                raise apsw.exception_for(apsw.SQLITE_FULL)
            super().xWrite(data, offset)
            self._disk.file(self._path).cached.append((offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - apsw's name
        """In the cache."""
        with self._disk.changing():
            super().xTruncate(newsize)
            self._disk.file(self._path).cached.append((newsize, None))

    def xSync(self, flags: int) -> None:  # noqa: N802 - apsw's name; the disk below is not what is tried
        """The cache is on the disk."""
        with self._disk.changing():
            self._disk.synced(self._path)


def _put(image: bytearray, offset: int, data: bytes) -> None:
    if len(image) < offset:
        image.extend(bytes(offset - len(image)))
    image[offset : offset + len(data)] = data


def _cut(image: bytearray, size: int) -> None:
    del image[size:]
