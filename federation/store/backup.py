"""Copies of a store that is at work, and the way back: what `brhub db backup` and `restore` do, one function each.

A backup is a file of the same kind as the store, whole in itself: checked after writing, readable by its owner only. A
restore never touches the present store before the copy that takes its place is whole; the present one is kept aside, and
the **incarnation** is raised, so that agents drop what was ordered before (`service/restoring.py` says what follows).

While `FILE.restoring` lies beside a store, a start is refused: a restore that lost power half-way is done again or given
up by hand, and never taken for an empty store; until then nothing of the present store is moved. Its next name is
`FILE.restored`: then it is whole, and whoever comes next puts it in the store's place (`sqlite.take_in`).

Not here: a store in PostgreSQL (`portable.py`), who adopts what (`service/restoring.py`), words for people
(`cli/database.py`).
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import func, select

from federation.errors import Code, Fault, FederationError
from federation.ports import EventRow
from federation.store import codec, faults, migrations, raising, schema, sqlite
from federation.store.facts import Ask, facts_after, removed_up_to
from federation.store.statements import Statements

COUNTS = {
    table.name: str(select(func.count()).select_from(table))
    for table in schema.metadata.sorted_tables
    if table not in (schema.meta, schema.specs)
}


@dataclass(frozen=True, slots=True)
class Summary:
    """What a store holds."""

    where: str
    """Its file, or its database without the password."""
    revision: str
    """Of its schema."""
    incarnation: int
    last_seq: int
    last_event_ms: int
    """When the newest event was written; 0 without events."""
    first_event_ms: int
    """When the oldest that is kept was."""
    removed_to: int
    """The highest seq of an event that retention removed; 0: none."""
    rows: Mapping[str, int]
    """By table."""
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did."""

    summary: Summary
    """Of the store as it is now."""
    aside: Path | None
    """Where the store of before lies; None: there was none."""
    agents_complete: bool
    """Whether every agent that ever joined is in it, so that nobody else needs to be waited for."""


def back_up(path: Path, to: Path) -> Summary:
    """A checked copy at `to` of the store at `path`, which may be at work. What is committed when it begins is in it.

    Errors: CONFIGURATION_INVALID where `to` exists; STORE_UNAVAILABLE for a store that is damaged or no store of ours;
    STORE_FULL. A copy that is not whole does not stay behind.
    """
    if not path.exists():
        raise _no_store(path)
    sqlite.check_header(path)
    with new_file(to) as partial, errors_of(path, to):
        source = _reading(path)
        try:
            _copy(source, partial)
        finally:
            source.close()
        summary = summary_of(partial)
    return replace(summary, where=str(to))


def summary_of(path: Path) -> Summary:
    """What the file at `path` holds, after all of it was checked. Errors: STORE_UNAVAILABLE, naming what is wrong."""
    try:
        sqlite.check_header(path)
    except OSError as error:
        raise faults.unavailable(
            f"{str(path)!r} cannot be read: {error.strerror}", "Check the path and its rights.", str(path)
        ) from error
    with errors_of(path, path):
        connection = _reading(path)
        try:
            revision = sqlite.revision_of(connection, path)
            (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            if verdict != "ok":
                raise faults.damaged(str(path), verdict)
            orphan = connection.execute("PRAGMA foreign_key_check").fetchone()
            if orphan is not None:
                raise faults.damaged(str(path), f"rows of {orphan[0]} point to rows that are gone")
            (incarnation,) = connection.execute("SELECT value FROM meta WHERE name = 'incarnation'").fetchone()
            kept = kept_of(lambda sql, given: connection.execute(sql, given).fetchall(), sqlite.statements())
            rows = {name: connection.execute(sql).fetchone()[0] for name, sql in COUNTS.items()}
        finally:
            connection.close()
    return Summary(str(path), revision, int(incarnation), *kept, rows, path.stat().st_size)


def kept_of(ask: Ask, sql: Statements) -> tuple[int, int, int, int]:
    """Of the events: the newest's seq and moment, the oldest's moment, and up to where they were removed."""
    newest = ask("SELECT seq, at_ms FROM events ORDER BY seq DESC LIMIT 1", ())  # a clock may have gone ahead before it
    oldest = ask("SELECT at_ms FROM events ORDER BY seq LIMIT 1", ())
    last_seq, last_ms = newest[0] if newest else (0, 0)
    return int(last_seq), int(last_ms), int(oldest[0][0]) if oldest else 0, removed_up_to(ask, sql)


def events(path: Path, after: int | None, limit: int) -> tuple[EventRow, ...]:
    """Facts of the store at `path`, which may be at work: see `facts.facts_after`."""
    if not path.exists():
        raise _no_store(path)
    sqlite.check_header(path)
    with errors_of(path, path):
        connection = _reading(path)
        try:
            ask = lambda sql, given: connection.execute(sql, given).fetchall()  # noqa: E731 - two words of SQLite's
            return facts_after(ask, sqlite.statements(), after, limit)
        finally:
            connection.close()


def restore(path: Path, file: Path, now_ms: int, *, agents_complete: bool = False) -> Restored:
    """Put the backup `file` in the place of the store at `path`, under a higher incarnation.

    `agents_complete`: the operator says that no agent has joined since the backup; else that is so where the present
    store can be read, goes on from the backup, and tells them all. Errors: STORE_UNAVAILABLE where a control plane has
    the store or another program reads it, and for a file that is damaged, no store, or of a newer version;
    CONFIGURATION_INVALID for a file that is not there, and a clock that stands before the backup's newest event. The present store is not touched then.
    """
    if file.exists() and path.exists() and file.samefile(path):
        raise _refused(f"{str(path)!r} is the store itself", "Name a backup of it.", path)
    lock = sqlite.lock(path)
    try:
        sqlite.take_in(path)
        found = checked(file, now_ms)
        _fold_log(path)
        building = sqlite.restoring(path)
        with errors_of(file, path):
            summary, complete = build(file, found, building, path, now_ms, agents_complete)
        building.rename(sqlite.restored(path))
        sqlite.sync_folder(path)
        aside = sqlite.take_in(path)
        return Restored(replace(summary, where=str(path)), aside, complete)
    finally:
        lock.close()


def raised(path: Path, now_ms: int, *, agents_complete: bool = False) -> Restored:
    """Raise the incarnation of a store that was put back by other means: copied by hand, or a disk's snapshot."""
    if not path.exists():
        raise _no_store(path)
    lock = sqlite.lock(path)
    try:
        connection = sqlite.prepare(path)  # checks it, and folds in what a crash left in its log
        connection.close()
        found = summary_of(path)
        check_clock(found, now_ms)
        with errors_of(path, path):
            _raise(path, found.incarnation, now_ms, agents_complete, "in place")
        return Restored(summary_of(path), None, agents_complete)
    finally:
        lock.close()


# ---- the steps -------------------------------------------------------------------------------------------------------
def checked(file: Path, now_ms: int) -> Summary:
    """What a backup holds that may be restored at that moment. Errors: as of `restore`."""
    if not file.is_file():
        raise _refused(f"there is no backup {str(file)!r}", "Name a file that is there. Nothing was changed.", file)
    try:
        found = summary_of(file)
    except FederationError as error:  # whose words are of the present store, which is not the one that was looked at
        what = error.message.replace("the store is damaged", "it is damaged")
        raise faults.unavailable(
            f"the backup {str(file)!r} cannot be restored: {what}", "Name another one. Nothing was changed.", str(file)
        ) from error
    if found.revision not in migrations.known():
        raise migrations.newer(str(file), found.revision)
    check_clock(found, now_ms)
    return found


def build(
    file: Path, found: Summary, building: Path, present: Path, now_ms: int, agents_complete: bool
) -> tuple[Summary, bool]:
    """What takes the store's place, whole at `building`; and whether it tells all agents. `present` may be missing."""
    for half_made in (building, Path(f"{building}-journal")):
        half_made.unlink(missing_ok=True)
    _build(file, building)
    before = _present(present, building)
    complete = agents_complete or before.tells_all
    _raise(building, max(found.incarnation, before.incarnation), now_ms, complete, file.name)
    summary = summary_of(building)
    _synced(building)
    return summary, complete


def _copy(source: sqlite3.Connection, to: Path) -> None:
    """All pages in one step: a snapshot. Writers go on meanwhile, their pages stay in the log until it is done."""
    target = sqlite.connect(to)
    try:
        source.backup(target)
        target.execute("PRAGMA journal_mode=DELETE")  # the file is all there is of it
    finally:
        target.close()


def _build(file: Path, building: Path) -> None:
    """The backup's rows at today's schema."""
    os.close(os.open(building, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    source = _reading(file)
    try:
        _copy(source, building)
    finally:
        source.close()
    connection = sqlite.connect(building)
    try:
        migrations.upgrade_sqlite(connection, str(building))
    finally:
        connection.close()


def _fold_log(path: Path) -> None:
    """All of the present store into its one file, as far as it can be opened; one that cannot goes aside with its log.

    Error: STORE_UNAVAILABLE while another program uses it, for which part of it stays in the log.
    """
    busy = 0
    try:
        if path.exists():
            sqlite.check_header(path)
            with closing(sqlite.connect(path)) as connection:
                busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except FederationError:
        return
    except sqlite3.Error as error:
        busy = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
    if busy:
        raise faults.unavailable(
            f"another program has {str(path)!r} open",
            "End it (a copy that is being taken, a reader of the database), then restore again. Nothing was changed.",
            str(path),
        )


@dataclass(frozen=True, slots=True)
class _Present:
    """What the store of before still tells."""

    incarnation: int = 0
    tells_all: bool = False


def _present(path: Path, building: Path) -> _Present:
    """The incarnation of the store of before; the agents that joined there since are told to the one that follows.

    Only of one that goes on from the backup: it has the backup's newest event. One that is damaged tells nothing.
    """
    try:
        if not path.exists():
            return _Present()
        sqlite.check_header(path)
        connection = sqlite.connect(path)
    except (FederationError, sqlite3.Error):
        return _Present()
    try:
        at_head = sqlite.revision_of(connection, path) == schema.HEAD
        (incarnation,) = connection.execute("SELECT value FROM meta WHERE name = 'incarnation'").fetchone()
        goes_on = at_head and _tell_agents(connection, building)
        return _Present(int(incarnation), goes_on)
    except (FederationError, sqlite3.Error):
        return _Present()
    finally:
        connection.close()


def _tell_agents(connection: sqlite3.Connection, building: Path) -> bool:
    """Whether the open store goes on from the one at `building`, and knows all agents; those that joined since are told to it."""
    connection.execute("ATTACH ? AS later", (str(building),))
    same = bool(
        connection.execute(
            "SELECT count(*) FROM later.events AS b JOIN main.events AS p USING (seq, at_ms, entity_id, type, incarnation)"
            " WHERE b.seq = (SELECT max(seq) FROM later.events)"
        ).fetchone()
        == (1,)
    )
    # two machines spoke for one agent: each has runs of its own, and only one of them is told
    several = connection.execute(
        "SELECT name FROM (SELECT hub_id || '/' || agent_id AS name, instance_id AS instance FROM later.agents"
        " UNION SELECT entity_id, json_extract(payload, '$.instance') FROM main.events"
        " WHERE type = 'SessionOpened' AND seq > (SELECT max(seq) FROM later.events))"
        " GROUP BY name HAVING count(DISTINCT instance) > 1"
    ).fetchall()
    if same:
        connection.execute("INSERT OR IGNORE INTO later.hubs SELECT * FROM main.hubs")
        connection.execute("INSERT OR REPLACE INTO later.agents SELECT * FROM main.agents")
    connection.execute("DETACH later")
    return same and not several


def _raise(path: Path, highest: int, now_ms: int, complete: bool, source: str) -> None:
    """Write the new incarnation, and the fact that says so."""
    incarnation = raising.incarnation_after(highest, now_ms)
    connection = sqlite.connect(path)
    try:
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN IMMEDIATE")
        (last_seq,) = connection.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()
        fact = raising.fact_of(incarnation, now_ms, source=source, last_seq=last_seq, agents_complete=complete)
        row = codec.event_row(fact, last_seq + 1, incarnation)
        connection.execute("UPDATE meta SET value = ? WHERE name = 'incarnation'", (incarnation,))
        connection.execute(sqlite.statements().insert_event, row)
        connection.execute("COMMIT")
    finally:
        connection.close()


# ---- checks, names and files ----------------------------------------------------------------------------------------
def check_clock(found: Summary, now_ms: int) -> None:
    """Error: CONFIGURATION_INVALID for a clock that stands before the newest event of what is put back."""
    if now_ms < found.last_event_ms:
        raise _refused(
            "this machine's clock stands before the newest event of the backup",
            "Set the clock first: leases are counted from the moment of the restore.",
            Path(found.where),
        )


def _reading(path: Path) -> sqlite3.Connection:
    """A connection that cannot write: one that can would fold the log in when it closes, and keep quiet about a failure."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30, isolation_level=None)


@contextmanager
def new_file(to: Path) -> Iterator[Path]:
    """A new file for its owner only, at its name when it is whole and on the disk, gone when it is not."""
    if to.exists():
        raise _refused(f"{str(to)!r} is there already", "Name a new file; backups are not overwritten.", to)
    partial = Path(f"{to}.partial")
    try:
        partial.unlink(missing_ok=True)
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except OSError as error:
        raise _refused(
            f"{str(to)!r} cannot be written: {error.strerror}", "Check the path and its rights.", to
        ) from error
    try:
        yield partial
        _synced(partial)
        partial.rename(to)
        sqlite.sync_folder(to)
    except BaseException:
        for left in (partial, Path(f"{partial}-journal")):
            with suppress(OSError):  # the error that led here is the one to tell
                left.unlink(missing_ok=True)
        raise


@contextmanager
def errors_of(reading: Path, writing: Path) -> Iterator[None]:
    """Errors of SQLite and of the disk as ours. A failed fsync here is a refusal: nobody was told that it is done."""
    try:
        yield
    except sqlite3.Error as error:
        found = faults.from_sqlite(error, str(reading), no_room=sqlite.no_room(writing))
        if not isinstance(found, FederationError):
            found = faults.unavailable(f"the disk failed: {error}", "Use another disk.", str(writing))
        raise found from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise faults.full(str(writing)) from error
        raise


def _synced(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _no_store(path: Path) -> FederationError:
    return _refused(f"there is no store at {str(path)!r}", "Name the settings of the control plane that has one.", path)


def _refused(message: str, hint: str, path: Path) -> FederationError:
    return FederationError(
        Code.CONFIGURATION_INVALID, message, fault=Fault.CALLER, hint=hint, metadata={"path": str(path)}
    )
