"""A store in PostgreSQL as a file, and back: `brhub db backup` and `restore` there.

The file is the same as of an embedded store (`backup.py`): checked in the same way, and it may be put in the place of
either kind, so that this is also the way from a file to PostgreSQL. A copy is one snapshot, taken while a control plane
serves. A restore is built as a file first, and then takes the place of all rows in one transaction, by the right of the
leader (`leadership.py`): a control plane that serves holds it off, one that stands by waits for its end.

Deliberately not here: copies by PostgreSQL's own tools, which suit a store of many gigabytes better (after those,
`raised` says to the hubs what happened), and who adopts what (`service/restoring.py`).
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import Table

from federation.errors import FederationError
from federation.ports import EventRow
from federation.store import backup, codec, faults, migrations, raising, schema, sqlite
from federation.store.backup import Restored, Summary
from federation.store.facts import Ask, facts_after
from federation.store.faults import DurabilityLost
from federation.store.postgres import (
    PostgresDatabase,
    connect_plainly,
    readable,
    revision_of,
    statements,
    storable,
    without_password,
)

_PIECE = 1_000
_ANYTHING = (schema.events, schema.jobs, schema.hubs)
_SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


def back_up(url: str, to: Path) -> Summary:
    """A checked copy at `to` of the store at `url`, which may be at work. What is committed when it begins is in it.

    Errors: CONFIGURATION_INVALID where `to` exists; STORE_UNAVAILABLE for a database that is out of reach, no store of
    ours, or of a newer version; STORE_FULL. A copy that is not whole does not stay behind.
    """
    where = without_password(url)
    with backup.new_file(to) as partial, backup.errors_of(to, to), _named(where), _snapshot(url) as source:
        revision = revision_of(source, where)
        if not revision:
            raise faults.unavailable("there is no store in the database", "Check [store] url.", where)
        if revision not in migrations.known():
            raise migrations.newer(where, revision)
        sqlite.make_empty(partial, str(to), revision)
        target = sqlite.connect(partial)
        try:
            target.execute("PRAGMA synchronous=OFF")  # `new_file` flushes it when it is whole
            target.execute("BEGIN IMMEDIATE")
            for table in _tables(target):
                _take_out(source, target, table)
            target.execute("COMMIT")
        finally:
            target.close()
        summary = backup.summary_of(partial)
    return replace(summary, where=str(to))


def restore(url: str, file: Path, folder: Path, now_ms: int, *, agents_complete: bool = False) -> Restored:
    """Put the backup `file` in the place of what the database at `url` holds, under a higher incarnation.

    What was there is kept as a file in `folder`, which `restore` takes again. Errors and `agents_complete`: as of
    `backup.restore`. Nothing in the database is changed then.
    """
    found, where = backup.checked(file, now_ms), without_password(url)
    with _named(where), _led(url) as database:
        aside = sqlite.aside_of(folder / "federation.db", now_ms)
        building = Path(f"{aside}.restoring")
        try:
            kept = aside if _has_rows(url) else None
            if kept is not None:
                back_up(url, kept)
            with backup.errors_of(file, building):
                summary, complete = backup.build(file, found, building, aside, now_ms, agents_complete)
                _put_in(database, building, summary)
        finally:
            for left in (building, Path(f"{building}-journal")):
                left.unlink(missing_ok=True)
    return Restored(replace(summary, where=where), kept, complete)


def raised(url: str, now_ms: int, *, agents_complete: bool = False) -> Restored:
    """Raise the incarnation of a store that was put back by other means: pg_restore, or a disk's snapshot."""
    found = summary_of(url)
    backup.check_clock(found, now_ms)
    with _named(found.where), _led(url) as database:
        incarnation, last_seq = raising.incarnation_after(found.incarnation, now_ms), found.last_seq
        fact = raising.fact_of(
            incarnation, now_ms, source="in place", last_seq=last_seq, agents_complete=agents_complete
        )
        with _transaction(database, 1):
            database.many("UPDATE meta SET value = %s WHERE name = 'incarnation'", [(incarnation,)])
            database.many(database.statements.insert_event, [codec.event_row(fact, last_seq + 1, incarnation)])
    return Restored(summary_of(url), None, agents_complete)


def summary_of(url: str) -> Summary:
    """What the store at `url` holds, in one snapshot. Errors: STORE_UNAVAILABLE."""
    where = without_password(url)
    with _named(where), _snapshot(url) as source:
        revision = revision_of(source, where)
        if not revision:
            raise faults.unavailable("there is no store in the database", "Check [store] url.", where)
        ((incarnation,),) = source.execute("SELECT value FROM meta WHERE name = 'incarnation'").fetchall()
        kept = backup.kept_of(_asking(source), statements())
        ((size_bytes,),) = source.execute("SELECT pg_database_size(current_database())").fetchall()
        rows = {name: source.execute(count).fetchall()[0][0] for name, count in backup.COUNTS.items()}
    return Summary(where, revision, int(incarnation), *kept, rows, int(size_bytes))


def events(url: str, after: int | None, limit: int) -> tuple[EventRow, ...]:
    """Facts of the store at `url`, which may be at work: see `facts.facts_after`."""
    where = without_password(url)
    with _named(where), _snapshot(url) as source:
        if not revision_of(source, where):
            raise faults.unavailable("there is no store in the database", "Check [store] url.", where)
        return facts_after(_asking(source), statements(), after, limit)


def _asking(source: psycopg.Connection[Any]) -> Ask:
    return lambda query, given: readable(source.execute(query, given or None).fetchall())


# ---- the steps -------------------------------------------------------------------------------------------------------
def _take_out(source: psycopg.Connection[Any], target: sqlite3.Connection, table: Table) -> None:
    """All rows of a table. The file has the database's schema, so its columns are what there is."""
    columns = [row[1] for row in target.execute(f"PRAGMA table_info({table.name})")]
    by = [column.name for column in table.primary_key]
    target.execute(f"DELETE FROM {table.name}")  # noqa: S608 - ours; a new store says its incarnation
    into = f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608
    query = sql.SQL("SELECT {} FROM {} ORDER BY {}").format(_list(columns), sql.Identifier(table.name), _list(by))
    with source.cursor(name="brhub_copy") as rows:  # a cursor of the server's: a table may be larger than this memory
        rows.execute(query)
        while piece := rows.fetchmany(_PIECE):
            target.executemany(into, readable(piece))


def _put_in(database: PostgresDatabase, file: Path, summary: Summary) -> None:
    """The file's rows in the place of all there are, in one transaction of the leader's."""
    if summary.revision != (at := database.revision()):
        raise faults.unavailable(
            f"the backup has schema {summary.revision}, the database {at}",
            "Bring the database to the same with `brhub db upgrade --finish`, or name an empty database.",
            database.where,
        )
    source = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
    try:
        tables = _tables(source)
        with _transaction(database, summary.rows["events"]):
            database.writer.execute(sql.SQL("TRUNCATE {}").format(_list([table.name for table in tables])))
            for table in tables:
                _put_in_rows(database, source, table)
    finally:
        source.close()


def _put_in_rows(database: PostgresDatabase, source: sqlite3.Connection, table: Table) -> None:
    columns = [row[1] for row in source.execute(f"PRAGMA table_info({table.name})")]
    rows = source.execute(f"SELECT {', '.join(columns)} FROM {table.name}")  # noqa: S608 - ours
    into = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table.name), _list(columns))
    written = 0
    with database.writer.cursor() as cursor:
        with cursor.copy(into) as copy:
            while piece := rows.fetchmany(_PIECE):
                for row in storable(piece):
                    copy.write_row(row)
                written += len(piece)
        assert cursor.rowcount == written, f"{cursor.rowcount} of {written} rows of {table.name} arrived"


def _tables(file: sqlite3.Connection) -> list[Table]:
    """Ours that the file has, parents first."""
    there = {name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return [table for table in schema.metadata.sorted_tables if table.name in there]


def _has_rows(url: str) -> bool:
    with _snapshot(url) as source:
        return any(
            source.execute(sql.SQL("SELECT 1 FROM {} LIMIT 1").format(sql.Identifier(table.name))).fetchall()
            for table in _ANYTHING
        )


def _list(names: list[str]) -> sql.Composed:
    return sql.SQL(", ").join([sql.Identifier(name) for name in names])


@contextlib.contextmanager
def _snapshot(url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection that sees one moment, with our tables held against a restore or a change of them."""
    connection = connect_plainly(url)
    try:
        connection.autocommit = True
        found = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()").fetchall()
        there = [table.name for table in schema.metadata.sorted_tables if (table.name,) in found]
        connection.execute(_SNAPSHOT)
        if there:  # before the first question, which takes the snapshot: TRUNCATE does not look at snapshots
            connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(_list(there)))
        yield connection
        connection.execute("COMMIT")
    finally:
        connection.close()


@contextlib.contextmanager
def _led(url: str) -> Iterator[PostgresDatabase]:
    try:
        database = PostgresDatabase(url)
    except FederationError as error:
        if "has this store open already" in error.message:
            error.hint = "End every control plane of this store, those that stand by first. Nothing was changed."
        raise
    try:
        yield database
    finally:
        database.close()


@contextlib.contextmanager
def _transaction(database: PostgresDatabase, rows: int) -> Iterator[None]:
    """A fenced write, durable at the end, or nothing."""
    database.begin()
    try:
        yield
        database.commit(rows)
    except DurabilityLost as lost:
        raise faults.unavailable(str(lost), "Run it again: a second time does no harm.", database.where) from lost
    finally:
        database.roll_back()


@contextlib.contextmanager
def _named(where: str) -> Iterator[None]:
    """Errors of PostgreSQL by our names."""
    try:
        yield
    except psycopg.Error as error:
        raise faults.from_postgres(error.sqlstate or "", str(error), where) from error
