"""The store in PostgreSQL: connections, the outcome of a commit whose connection was lost, and texts with zero bytes.

A store belongs to one leader (`leadership.py`); every write transaction begins by making sure that it still leads. A
connection that was lost is made anew at the next transaction. Where one is lost during a commit, PostgreSQL is asked what
came of it; while nobody can tell, the process ends instead of saying "nothing was written".

Not here: rows and transactions (`sql.py`), revisions (`migrations/`), names of errors (`faults.py`).
"""

from __future__ import annotations

import contextlib
import functools
import select
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg
import psycopg.sql
from psycopg.adapt import AdaptersMap
from psycopg.pq import TransactionStatus
from psycopg.types.numeric import Int8Dumper
from sqlalchemy import Dialect, Table
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.pool import QueuePool

from federation.store import faults, migrations, schema
from federation.store.leadership import SILENT_S_MAX, TABLES, Leadership
from federation.store.statements import STAGE, Statements

READERS_MAX = 16
CONNECT_S_MAX = 4
LOCK_MS_MAX = 5_000
VERSION_MIN = 130_000
"""PostgreSQL 13, the oldest that is looked after."""
BULK_ROWS_MIN = 10
"""Fewer are sent one by one: a COPY and a statement are a few round trips more."""
_LOOK_S = 0.05
_SESSION = (
    "SET synchronous_commit = on",  # an acknowledged commit is on the disk
    "SET idle_in_transaction_session_timeout = '4s'",  # a leader that was stopped may not hold its successor off
    "SET client_encoding = 'UTF8'",
)
_ZERO, _MARK = "\0", "\ufdd0"
"""PostgreSQL's text cannot hold a zero byte; it is kept as a mark, which Unicode gives to nobody, and a letter."""
_ESCAPES = ((_MARK, _MARK + "m"), (_ZERO, _MARK + "0"))
_PIECE = 500
"""Rows that are taken in at once."""
Row = tuple[Any, ...]


class PostgresDatabase:
    """One store's database, led by this process until `close`."""

    errors: tuple[type[Exception], ...] = (psycopg.Error,)
    snapshot_sql = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

    def __init__(
        self,
        url: str,
        lock_timeout_ms: int = 5_000,
        waiting: Callable[[str], None] | None = None,
        ended: Callable[[str], None] | None = None,
    ) -> None:
        """Leads when it returns: see `Leadership.take`, also on `waiting` and `ended`."""
        self.where = without_password(url)
        self.statements = statements()
        self._bulk = self._in_bulk()
        self._url = url
        self._lock_timeout_ms = lock_timeout_ms
        self._closed = False
        self.leadership = Leadership(self._connect, self.where, ended)
        try:
            _check_server(url, self.where)
            self.leadership.take(waiting)
            _prepare(url, self.where)
            self.writer = self._connect_writer()
            self._readers = QueuePool(
                self._connect_reader, pool_size=4, max_overflow=READERS_MAX - 4, timeout=30, reset_on_return=None
            )
        except psycopg.Error as error:
            self.leadership.release()
            raise self.error_of(error) from error
        except BaseException:
            self.leadership.release()
            raise

    # ---- writing ------------------------------------------------------------------------------------------------------
    def begin(self) -> None:
        """Begin the one transaction, if this process still leads."""
        if self._closed:
            raise faults.closed(self.where)
        if _is_lost(self.writer):
            self.writer.close()
            self.writer = self._connect_writer()
        self.leadership.begin(self.writer)

    def many(self, sql: str, rows: Sequence[Row]) -> int:
        """Run `sql` for each of `rows`; how many rows it touched."""
        rows = storable(rows)
        with self.writer.cursor() as cursor:
            copy, from_stage = self._bulk.get(sql, ("", "")) if len(rows) >= BULK_ROWS_MIN else ("", "")
            twice = bool(from_stage) and len({row[0] for row in rows}) < len(rows)  # no statement writes a row twice
            if not copy or twice:
                cursor.executemany(sql, rows)
                return cursor.rowcount
            with cursor.copy(copy) as into:
                for row in rows:
                    into.write_row(row)
            if from_stage:
                cursor.execute(from_stage)
            return cursor.rowcount

    def commit(self, rows: int) -> None:  # noqa: ARG002 - of interest to a database whose log is ours to look after
        """End the transaction: it is durable on return, and nothing was written after any FederationError.

        DurabilityLost: the connection was lost and PostgreSQL cannot be asked what came of it.
        """
        try:
            self.writer.execute("COMMIT")
        except psycopg.OperationalError as error:
            if not self.writer.closed:
                raise
            if not self._was_committed(error):
                raise faults.connection_lost(self.where) from error

    def _was_committed(self, error: Exception) -> bool:
        """What came of a commit that was not answered."""
        until_s = time.monotonic() + SILENT_S_MAX
        pause = threading.Event()
        while time.monotonic() < until_s:
            try:
                return self.leadership.was_committed()
            except psycopg.OperationalError:
                pause.wait(_LOOK_S)
        raise faults.DurabilityLost(f"{self.where}: nobody can say what came of a commit: {error}") from error

    def roll_back(self) -> None:
        """Forget the open transaction; one whose connection was lost PostgreSQL forgets by itself."""
        if not self.writer.closed and self.writer.info.transaction_status != TransactionStatus.IDLE:
            with contextlib.suppress(
                psycopg.Error
            ):  # the connection is lost; the error that led here is the one to tell
                self.writer.execute("ROLLBACK")

    # ---- reading ------------------------------------------------------------------------------------------------------
    @contextlib.contextmanager
    def reading(self) -> Iterator[_Reader]:
        """A connection that sees what is committed."""
        if self._closed:
            raise faults.closed(self.where)
        borrowed = self._readers.connect()
        while _is_lost(borrowed.driver_connection):
            borrowed.invalidate()
            borrowed = self._readers.connect()
        connection: Any = borrowed.driver_connection
        try:
            yield _Reader(connection)
        finally:
            if connection.closed:
                borrowed.invalidate()
            borrowed.close()

    def revision(self) -> str:
        """Of its schema."""
        return revision_of(self.writer, self.where)

    def finish_upgrade(self) -> None:
        """The post part of an upgrade."""
        migrations.upgrade_postgres(lambda: connect_plainly(self._url), self.where, finish=True)

    def error_of(self, error: Exception) -> BaseException:
        """`error` as ours; see `faults`."""
        assert isinstance(error, psycopg.Error), f"{error!r} is not of this driver"
        return faults.from_postgres(error.sqlstate or "", str(error), self.where)

    def close(self) -> None:
        """Give back connections, and let another control plane lead."""
        if not self._closed:
            self._closed = True
            self._readers.dispose()
            self.writer.close()
            self.leadership.release()

    # ---- connections --------------------------------------------------------------------------------------------------
    def _connect(self) -> psycopg.Connection[Any]:
        connection: psycopg.Connection[Any] = psycopg.connect(
            self._url,
            autocommit=True,
            connect_timeout=CONNECT_S_MAX,
            prepare_threshold=1,
            context=_adapters(),
            application_name="brhub",
        )
        for statement in (*_SESSION, f"SET lock_timeout = {self._lock_timeout_ms:d}"):
            connection.execute(statement, prepare=False)
        return connection

    def _connect_writer(self) -> psycopg.Connection[Any]:
        connection = self._connect()
        for table in (schema.jobs, schema.specs):
            connection.execute(
                # with defaults: a newer version's columns, which this one does not name, may not be NULL
                psycopg.sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {} INCLUDING DEFAULTS) ON COMMIT DELETE ROWS").format(
                    psycopg.sql.Identifier(STAGE + table.name), psycopg.sql.Identifier(table.name)
                )
            )
        return connection

    def _in_bulk(self) -> dict[str, tuple[str, str]]:
        """Inserts of new rows, which come by the hundred, and what does the same at once: a COPY, and then a statement."""
        sql = self.statements
        stages = {sql.put_job: schema.jobs, sql.insert_spec: schema.specs}
        return {
            sql.insert_event: (_copy(schema.events), ""),
            sql.insert_request: (_copy(schema.requests), ""),
            **{one: (_copy(table, STAGE), sql.from_stage(one, table)) for one, table in stages.items()},
        }

    def _connect_reader(self) -> Any:
        connection = self._connect()
        connection.execute("SET default_transaction_read_only = on")
        return connection


def statements() -> Statements:
    """What is asked of a database and written to it, as PostgreSQL reads it."""
    return Statements(_dialect())


def prepare(url: str) -> None:
    """Bring the database at `url` to today's schema, making it where there is nothing; also while somebody leads.

    Errors: as in `open_store`.
    """
    where = without_password(url)
    try:
        _check_server(url, where)
        _prepare(url, where)
    except psycopg.Error as error:
        raise faults.from_postgres(error.sqlstate or "", str(error), where) from error


def connect_plainly(url: str) -> psycopg.Connection[Any]:
    """A connection for what is no writing of the service's: an upgrade, a copy."""
    connection: psycopg.Connection[Any] = psycopg.connect(
        url, connect_timeout=CONNECT_S_MAX, application_name="brhub", autocommit=True
    )
    connection.execute(f"SET lock_timeout = {LOCK_MS_MAX:d}")
    connection.execute("SET client_encoding = 'UTF8'")
    connection.autocommit = False
    return connection


def _check_server(url: str, where: str) -> None:
    """Refuse a server that cannot keep what we promise."""
    with connect_plainly(url) as connection:
        ((version, fsync, encoding, replica),) = connection.execute(
            "SELECT current_setting('server_version_num')::int, current_setting('fsync'), "
            "current_setting('server_encoding'), pg_is_in_recovery()"
        ).fetchall()
    if version < VERSION_MIN:
        raise faults.unavailable(f"PostgreSQL is too old ({version})", "Use PostgreSQL 13 or newer.", where)
    if fsync != "on":
        raise faults.unavailable(
            "PostgreSQL runs without fsync: what it acknowledges may be lost", "Set fsync = on.", where
        )
    if encoding != "UTF8":
        raise faults.unavailable(f"the database's encoding is {encoding}", "Create it with ENCODING 'UTF8'.", where)
    if replica:
        raise faults.unavailable(
            "PostgreSQL is a replica there", "Name the primary, or several with target_session_attrs.", where
        )


def _prepare(url: str, where: str) -> None:
    """Bring the database to today's schema; make it where there is nothing."""
    with connect_plainly(url) as connection:
        revision = revision_of(connection, where)
        if not revision:
            ((strangers,),) = connection.execute(
                "SELECT count(*) FROM pg_tables WHERE schemaname = current_schema() AND tablename <> ALL (%s)",
                (list(TABLES),),
            ).fetchall()
            if strangers:
                raise faults.unavailable(
                    "the database has tables, but is not a store of ours",
                    "Name an empty database; this one was not touched.",
                    where,
                )
    if revision != schema.HEAD:
        migrations.upgrade_postgres(lambda: connect_plainly(url), where)


def revision_of(connection: psycopg.Connection[Any], where: str) -> str:
    """The schema's revision; empty where there is none. STORE_UNAVAILABLE where there is, and it does not say."""
    if connection.execute("SELECT to_regclass('alembic_version')::text").fetchall() == [(None,)]:
        return ""
    rows = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    if len(rows) != 1:
        raise faults.damaged(where, "it does not say which version wrote it")
    return str(rows[0][0])


def _is_lost(connection: Any) -> bool:
    """Whether PostgreSQL has closed an idle connection, which nothing but an end has anything to say on. Asks nobody."""
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


class _Reader:
    """A connection for reading, with our texts."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> _Rows:
        """Ask."""
        (asked,) = storable([tuple(parameters)])
        return _Rows(self._connection.execute(sql, asked))


class _Rows:
    def __init__(self, cursor: psycopg.Cursor[Any]) -> None:
        self._cursor = cursor

    def fetchall(self) -> list[Row]:
        """All rows."""
        rows: list[Row] = []
        while piece := self._cursor.fetchmany(_PIECE):  # taking in a million at once would hold up all threads
            rows += readable(piece)
        return rows


def _has(rows: Sequence[Row], *letters: str) -> bool:
    texts = "".join([value for row in rows for value in row if type(value) is str])
    return any(letter in texts for letter in letters)


def storable(rows: Sequence[Row]) -> Sequence[Row]:
    """The rows with no zero byte in any text."""
    if not _has(rows, _ZERO, _MARK):
        return rows
    return [tuple(_replaced(value, _ESCAPES) if isinstance(value, str) else value for value in row) for row in rows]


def readable(rows: Sequence[Row]) -> Sequence[Row]:
    """The reverse of `storable`."""
    if not _has(rows, _MARK):
        return rows
    backwards = [(written, letter) for letter, written in reversed(_ESCAPES)]
    return [tuple(_replaced(value, backwards) if isinstance(value, str) else value for value in row) for row in rows]


def _replaced(text: str, pairs: Sequence[tuple[str, str]]) -> str:
    for before, after in pairs:
        text = text.replace(before, after)
    return text


@functools.cache
def _adapters() -> AdaptersMap:
    """One type for every whole number: by default it goes by size, and each mix of sizes would be a statement anew."""
    adapters = AdaptersMap(psycopg.adapters)
    adapters.register_dumper(int, Int8Dumper)
    return adapters


def _copy(table: Table, stage: str = "") -> str:
    return f"COPY {stage}{table.name} ({', '.join(column.name for column in table.columns)}) FROM STDIN"


def _dialect() -> Dialect:
    dialect: Callable[..., Dialect] = PGDialect  # its constructor has no types
    return dialect(paramstyle="format")


def without_password(url: str) -> str:
    """The url, fit to be shown: without user, password and options."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"[:200]
