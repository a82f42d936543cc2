"""apsw spoken to as Python's own sqlite3: what `federation/store` and SQLAlchemy's SQLite dialect ask of a driver.

So the shipped store runs on another VFS. Errors are sqlite3's, with SQLite's own extended codes. Deliberately not here:
what neither of the two asks for.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apsw

_KINDS: dict[int, type[sqlite3.Error]] = {
    apsw.SQLITE_CONSTRAINT: sqlite3.IntegrityError,
    apsw.SQLITE_MISMATCH: sqlite3.IntegrityError,
    apsw.SQLITE_CORRUPT: sqlite3.DatabaseError,
    apsw.SQLITE_NOTADB: sqlite3.DatabaseError,
    apsw.SQLITE_TOOBIG: sqlite3.DataError,
}


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except apsw.ConnectionClosedError as error:
        raise sqlite3.ProgrammingError("Cannot operate on a closed database.") from error
    except apsw.Error as error:
        code = int(getattr(error, "extendedresult", 0) or getattr(error, "result", 0) or apsw.SQLITE_ERROR)
        named = _KINDS.get(code & 0xFF, sqlite3.OperationalError)(str(error))
        named.sqlite_errorcode = code
        raise named from error


class Cursor:
    """One statement at work."""

    arraysize = 1
    lastrowid: int | None = None

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._cursor = connection.raw.cursor()
        self.rowcount = -1
        self.description: tuple[Any, ...] | None = None

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Cursor:
        """Begin `sql`."""
        self.description = None
        self._cursor.exec_trace = self._described  # apsw knows the columns of an empty answer only before it begins
        try:
            return self._run(lambda: self._cursor.execute(sql, tuple(parameters)))
        finally:
            self._cursor.exec_trace = None

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> Cursor:
        """`sql` for each of `rows`."""
        self.description = None
        return self._run(lambda: self._cursor.executemany(sql, [tuple(row) for row in rows]))

    def _run(self, statement: Callable[[], object]) -> Cursor:
        with _errors():
            before = self._connection.raw.total_changes()
            statement()
            self.rowcount = self._connection.raw.total_changes() - before
        return self

    def _described(self, cursor: apsw.Cursor, *_: object) -> bool:
        columns = cursor.get_description()
        self.description = tuple((name, None, None, None, None, None, None) for name, _ in columns) or None
        return True

    def fetchone(self) -> Any:
        """The next row; None: that was all."""
        with _errors():
            return self._cursor.fetchone()

    def fetchall(self) -> list[Any]:
        """All rows that are left."""
        with _errors():
            return self._cursor.fetchall()

    def fetchmany(self, size: int = 1) -> list[Any]:
        """Some of them."""
        rows = [self.fetchone() for _ in range(size)]
        return [row for row in rows if row is not None]

    def __iter__(self) -> Iterator[Any]:
        """All rows that are left."""
        return iter(self.fetchall())

    def close(self) -> None:
        """Give the statement up."""
        self._cursor.close(force=True)


class Connection:
    """One connection, without implicit transactions."""

    isolation_level = None
    row_factory = None

    def __init__(self, path: Path, busy_timeout_ms: int, vfs: str | None) -> None:
        with _errors():
            self.raw = apsw.Connection(str(path.absolute()), flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
            self.raw.set_busy_timeout(busy_timeout_ms)

    @property
    def in_transaction(self) -> bool:
        """Whether one is open."""
        with _errors():
            return not self.raw.get_autocommit()

    def cursor(self, *_: object) -> Cursor:
        """For one statement at a time."""
        with _errors():
            return Cursor(self)

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Cursor:
        """Begin `sql`."""
        return self.cursor().execute(sql, parameters)

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> Cursor:
        """`sql` for each of `rows`."""
        return self.cursor().executemany(sql, rows)

    def create_function(self, name: str, narg: int, func: Any, *, deterministic: bool = False) -> None:
        """A function for SQL."""
        self.raw.create_scalar_function(name, func, narg, deterministic=deterministic)

    def commit(self) -> None:
        """End the open transaction, if there is one."""
        if self.in_transaction:
            self.execute("COMMIT")

    def rollback(self) -> None:
        """Forget it."""
        if self.in_transaction:
            self.execute("ROLLBACK")

    def close(self) -> None:
        """A second time is harmless. What fails meanwhile is told by nobody, as with sqlite3."""
        with contextlib.suppress(apsw.Error):
            self.raw.close(force=True)


def connector(vfs: str | None) -> Callable[[Path, int], Any]:
    """What `SqliteFile` opens its connections by; `vfs` names a registered one, None is the system's."""

    def connect(path: Path, busy_timeout_ms: int) -> Any:
        connection = Connection(path, busy_timeout_ms, vfs)
        connection.execute("PRAGMA trusted_schema=OFF")
        return connection

    return connect
