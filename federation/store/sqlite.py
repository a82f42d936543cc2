"""The embedded database's file: making it, checking it before it is trusted, connections, checkpoints.

A new store is built under another name and renamed when it is whole, so that a file at the store's path is either a
complete store or a damaged one, and a damaged or emptied one is refused instead of being filled from nothing.
Checkpoints are ours: SQLite's automatic one keeps quiet about a failed fsync of the main file.

The main file is never opened here by anything but SQLite while a connection is open: closing such a descriptor would
drop SQLite's POSIX locks. Not here: rows and transactions (`sql.py`), revisions (`migrations/`).
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import fcntl
import os
import sqlite3
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy.dialects.sqlite.pysqlite import dialect as PysqliteDialect  # noqa: N812
from sqlalchemy.pool import QueuePool

from federation.store import faults, migrations, schema
from federation.store.statements import Statements

APPLICATION_ID = 0x42524842
"""In the file's header: "BRHB". A database of somebody else is not touched."""
BUSY_TIMEOUT_MS = 5_000
CHECKPOINT_PAGES = 1_000
"""About 4 MiB of write-ahead log; then its pages move into the main file."""
QUICK_CHECK_BYTES_MAX = 64 * 2**20
"""Larger files are checked by their header only: a start may not take a minute. `PRAGMA quick_check` reads it all."""
READERS_MAX = 16
_FREE_BYTES_MIN = 256 * 1024
_HEADER_BYTES = 100
_MAGIC = b"SQLite format 3\0"
_CHECKPOINT = "PRAGMA wal_checkpoint({})"


Connect = Callable[[Path, int], Any]
"""A connection to the file there, which exists, that waits so long for locks, ms; as `connect`."""


def connect(path: Path, busy_timeout_ms: int = BUSY_TIMEOUT_MS) -> sqlite3.Connection:
    """A connection without implicit transactions, usable from any thread, one at a time. The file must exist."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=busy_timeout_ms / 1000,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.execute("PRAGMA trusted_schema=OFF")
    return connection


def write_again(log: Path) -> None:
    """Put what a crash left in the log onto the disk once more, before anything is promised on top of it. STORE_UNAVAILABLE.

    An fsync may have failed in it: then parts of it are in the system's cache only, a later fsync says nothing of them, and
    what follows them in the log would be lost with them. The same bytes, written again, are written for certain or refused.
    """
    try:
        with log.open("r+b") as file:
            content = file.read()
            file.seek(0)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EROFS):
            return  # nothing can be promised there: the store says so itself
        raise faults.unavailable(
            f"its log cannot be written again after a crash: {error.strerror}", "Look at the disk.", str(log)
        ) from error


class SqliteFile:
    """One store's file, locked against a second control plane until `close`."""

    errors: tuple[type[Exception], ...] = (sqlite3.Error,)
    snapshot_sql = "BEGIN"

    def __init__(
        self,
        path: Path,
        busy_timeout_ms: int = BUSY_TIMEOUT_MS,
        connect: Connect = connect,
        write_again: Callable[[Path], None] = write_again,
    ) -> None:
        """`connect` and `write_again`: the system's disk by Python's own driver, or another by one that speaks like it."""
        self.path = path
        self._connect = connect
        self.where = str(path)
        self.statements = statements()
        self._busy_timeout_ms = busy_timeout_ms
        self._rows_since_checkpoint = 0
        self._pages_per_row = 2.0
        self._lock = lock(path)
        try:
            if _log_has_pages(path):
                write_again(Path(f"{path}-wal"))
            self.writer = self._configured(prepare(path, connect))
            self._readers = QueuePool(
                self._connect_reader, pool_size=4, max_overflow=READERS_MAX - 4, timeout=30, reset_on_return=None
            )
        except sqlite3.Error as error:
            self._lock.close()
            raise self.error_of(error) from error
        except BaseException:
            self._lock.close()
            raise

    def begin(self) -> None:
        """Begin the one transaction, with the file's write lock."""
        self.writer.execute("BEGIN IMMEDIATE")

    def many(self, sql: str, rows: Sequence[tuple[Any, ...]]) -> int:
        """Run `sql` for each of `rows`; how many rows it touched."""
        return self.writer.executemany(sql, rows).rowcount

    def commit(self, rows: int) -> None:
        """End the transaction, and move the log's pages home when there are enough of them.

        What was committed is safe in the log, so a checkpoint that finds no room is tried again later; only a failed
        fsync is not survivable.
        """
        self.writer.execute("COMMIT")
        self._rows_since_checkpoint += rows
        if self._rows_since_checkpoint * self._pages_per_row >= CHECKPOINT_PAGES:
            self._checkpoint("PASSIVE")

    def roll_back(self) -> None:
        """Forget the open transaction; after some errors SQLite has done so by itself."""
        with contextlib.suppress(sqlite3.ProgrammingError):  # closed, and forgotten with that
            if self.writer.in_transaction:
                self.writer.execute("ROLLBACK")

    @contextlib.contextmanager
    def reading(self) -> Iterator[Any]:
        """A connection that sees what is committed."""
        borrowed = self._readers.connect()
        try:
            yield borrowed.driver_connection
        finally:
            borrowed.close()

    def finish_upgrade(self) -> None:
        """The post part of an upgrade."""
        migrations.upgrade_sqlite(self.writer, self.where, finish=True)
        self.writer.execute("PRAGMA foreign_keys=ON")

    def error_of(self, error: Exception) -> BaseException:
        """`error` as ours; see `faults`."""
        assert isinstance(error, sqlite3.Error), f"{error!r} is not of this driver"
        return faults.from_sqlite(error, self.where, no_room=no_room(self.path))

    def _checkpoint(self, mode: str) -> None:
        try:
            _, pages, _ = self.writer.execute(_CHECKPOINT.format(mode)).fetchone()
        except sqlite3.Error as error:
            found = self.error_of(error)
            if isinstance(found, faults.DurabilityLost):
                raise found from error
            pages = 0
        # how many pages a row costs differs a hundredfold between batches and single steps: learn it
        if self._rows_since_checkpoint and pages > 0:
            self._pages_per_row = min(10.0, max(0.5, pages / self._rows_since_checkpoint))
        self._rows_since_checkpoint = 0

    def close(self) -> None:
        """Give back connections; the log is folded into the main file where nothing stands against it."""
        self._readers.dispose()
        try:
            self._checkpoint("TRUNCATE")
            self.writer.close()
        except sqlite3.ProgrammingError:
            pass  # closed twice: the second time there is nothing to give back
        finally:
            self._lock.close()

    def _configured(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        connection.execute(f"PRAGMA busy_timeout={self._busy_timeout_ms}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.execute("PRAGMA temp_store=MEMORY")
        connection.execute("PRAGMA cache_size=-16000")
        return connection

    def _connect_reader(self) -> Any:
        connection = self._connect(self.path, self._busy_timeout_ms)
        connection.execute("PRAGMA query_only=ON")
        connection.execute("PRAGMA cache_size=-4000")
        return connection


def statements() -> Statements:
    """What is asked of a file and written to it, as SQLite reads it."""
    return Statements(PysqliteDialect(paramstyle="qmark"))


def prepare(path: Path, connect: Connect = connect) -> sqlite3.Connection:
    """A connection to the store's file: made if there is none, else checked, and brought to today's schema.

    It stays open from the check on: the last one to close would checkpoint, and keep quiet about a failed fsync.
    Errors: STORE_UNAVAILABLE for a file that is empty, cut short, damaged, somebody else's, or of a newer version.
    """
    try:
        take_in(path)
        if restoring(path).exists():
            raise faults.unavailable(
                "a restore of this store was interrupted",
                f"Run `brhub db restore` again; or remove {str(restoring(path))!r} to go on with what was there before.",
                str(path),
            )
        if not path.exists():
            _create(path, connect)
        check_header(path)
        path.chmod(0o600)  # specs carry secret variables
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise faults.full(str(path)) from error
        raise faults.unavailable(
            f"the store's file cannot be used: {error.strerror}", "Check the path and its rights.", str(path)
        ) from error
    connection: sqlite3.Connection = connect(path, BUSY_TIMEOUT_MS)
    try:
        revision = revision_of(connection, path)
        if path.stat().st_size <= QUICK_CHECK_BYTES_MAX:
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise faults.damaged(str(path), verdict)
        if revision != schema.HEAD:
            migrations.upgrade_sqlite(connection, str(path))
    except BaseException:
        connection.close()
        raise
    return connection


def _create(path: Path, connect: Connect) -> None:
    """A whole store or none: built beside its place, fsynced, then renamed."""
    for leftover in (f"{path}-wal", f"{path}-journal"):
        if Path(leftover).exists():
            raise faults.damaged(str(path), f"its file is missing, but {Path(leftover).name} is there")
    building = Path(f"{path}.creating")
    for half_made in (building, Path(f"{building}-journal")):
        half_made.unlink(missing_ok=True)
    os.close(os.open(building, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    make_empty(building, str(path), connect=connect)
    building.rename(path)
    sync_folder(path)


def sync_folder(path: Path) -> None:
    """What was renamed and removed beside `path` is on the disk."""
    folder = os.open(path.absolute().parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def make_empty(path: Path, where: str, revision: str = "", connect: Connect = connect) -> None:
    """A store without anything in it, out of the empty file at `path`; at that revision, else the newest."""
    connection = connect(path, BUSY_TIMEOUT_MS)
    try:
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute("PRAGMA synchronous=FULL")
        migrations.upgrade_sqlite(connection, where, to=revision)
    finally:
        connection.close()


def check_header(path: Path) -> None:
    """Refuse what cannot be a whole store of ours by its first bytes; no connection may be open here. STORE_UNAVAILABLE."""
    size_bytes = path.stat().st_size
    with path.open("rb") as file:  # nothing has it open yet: see the module's docstring
        header = file.read(_HEADER_BYTES)
    if not header:
        raise faults.damaged(str(path), "its file is empty")
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        raise faults.damaged(str(path), "its file is not a database")
    (page_bytes,) = struct.unpack_from(">H", header, 16)
    (pages,) = struct.unpack_from(">I", header, 28)
    (application_id,) = struct.unpack_from(">I", header, 68)
    if application_id != APPLICATION_ID:
        raise faults.unavailable(
            "the file is a database, but not a store of ours", "Name another file; this one was not touched.", str(path)
        )
    expected_bytes = pages * (65_536 if page_bytes == 1 else page_bytes)
    if size_bytes < expected_bytes and not _log_has_pages(path):
        raise faults.damaged(str(path), f"its file has {size_bytes} of {expected_bytes} bytes")


def _log_has_pages(path: Path) -> bool:
    """While the log still holds pages the main file may rightly be shorter than its header says."""
    log = Path(f"{path}-wal")
    return log.exists() and log.stat().st_size > 0


def revision_of(connection: sqlite3.Connection, path: Path) -> str:
    """The schema's revision. STORE_UNAVAILABLE when the file does not say."""
    found = connection.execute("SELECT name FROM sqlite_master WHERE name = 'alembic_version'").fetchone()
    rows = connection.execute("SELECT version_num FROM alembic_version").fetchall() if found else []
    if len(rows) != 1:
        raise faults.damaged(str(path), "it does not say which version wrote it")
    return str(rows[0][0])


def restoring(path: Path) -> Path:
    """Where a restore builds what takes the place of the store at `path`; while it is there nobody starts."""
    return Path(f"{path}.restoring")


def restored(path: Path) -> Path:
    """What a restore built, once it is whole: from here on it takes the place of the store at `path`, whatever happens."""
    return Path(f"{path}.restored")


def take_in(path: Path) -> Path | None:
    """Put what a restore built in the store's place, also one that lost power in this; where the store of before lies now.

    None: there was none, or nothing to put. The former log goes first, because beside another file it would be poison, and
    the former file without it is no way back: so what was begun is ended, by whoever comes next.
    """
    whole = restored(path)
    if not whole.exists():
        return None
    aside = aside_of(path, whole.stat().st_mtime_ns // 1_000_000)  # the same for whoever ends it
    for suffix in ("-wal", "-journal"):
        log = Path(f"{path}{suffix}")
        if log.exists():
            log.rename(f"{aside}{suffix}")
    Path(f"{path}-shm").unlink(missing_ok=True)
    if path.exists() and not aside.exists():
        os.link(path, aside)  # its own name keeps standing for it
    sync_folder(path)
    whole.rename(path)
    sync_folder(path)
    return aside if aside.exists() else None


def aside_of(path: Path, moment_ms: int) -> Path:
    """A name for the store of before, beside `path`: free, or given to it already."""
    moment = dt.datetime.fromtimestamp(moment_ms / 1000, dt.UTC).strftime("%Y%m%dT%H%M%SZ")
    aside, number = Path(f"{path}.before-{moment}"), 1
    while aside.exists() and not (path.exists() and aside.samefile(path)):
        number += 1
        aside = Path(f"{path}.before-{moment}-{number}")
    return aside


def lock(path: Path) -> Lock:
    """The right to the store at `path`. STORE_UNAVAILABLE while somebody else has it."""
    return Lock(Path(f"{path}.lock"))


class Lock:
    """Holds a file beside the store: two control planes on one store would each believe to be the only writer."""

    def __init__(self, path: Path) -> None:
        try:
            self._descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            raise faults.unavailable(
                f"the store's folder cannot be used: {error.strerror}", "Check the path and its rights.", str(path)
            ) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise faults.unavailable(
                "a control plane has this store open already", "End that one first, or name another store.", str(path)
            ) from error
        self._held = True

    def close(self) -> None:
        """Let the next one in."""
        if self._held:
            self._held = False
            os.close(self._descriptor)


def no_room(path: Path) -> bool:
    """Whether the disk of the file at `path` is known to be full right now."""
    try:
        disk = os.statvfs(path.parent)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < _FREE_BYTES_MIN
