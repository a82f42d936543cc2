"""Copies of an agent's journal, and the way back: `brhub db backup --agent` and `restore --agent`.

An old journal may not start anything: what it has as accepted or staging may have run since, under an agent that it knows
nothing of. Such runs are left out when it is put back. The control plane then finds them absent, and waits until their
leases must be over: unknown is not dead. What it has as running is asked after at its runner, as after every start of an
agent. What runs and is not in it ends by its guard's deadline at the latest. The instance is in the copy, so that the agent
is the same to the control plane.
"""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from federation.errors import Code, Fault, FederationError
from hub_node.journal import INSTANCE_FILE, SHAPE, take_lock, to_disk

_UNDECIDED = "state IN ('ACCEPTED', 'STAGING') OR (state = 'STOPPING' AND json_extract(body, '$.runner_state') = '')"


@dataclass(frozen=True, slots=True)
class JournalSummary:
    """What a journal's file holds."""

    path: Path
    instance_id: str
    runs: int
    released: int
    left_out: tuple[str, ...] = ()
    """Jobs whose runs a restore left out."""
    aside: Path | None = None
    """Where a restore put the journal of before."""


def back_up(state_dir: Path, to: Path) -> JournalSummary:
    """A checked copy at `to` of the journal in `state_dir`, which an agent may be using.

    Raises: FederationError CONFIGURATION_INVALID where `to` exists or there is no journal; STORE_UNAVAILABLE for a damaged one.
    """
    source = state_dir / "journal.db"
    if not source.is_file():
        raise _refused(f"There is no agent's journal in {str(state_dir)!r}.", "Name the agent's state_dir.", state_dir)
    if to.exists():
        raise _refused(f"{str(to)!r} is there already.", "Name a new file; backups are not overwritten.", to)
    partial = Path(f"{to}.partial")
    try:
        instance_id = str(json.loads((state_dir / INSTANCE_FILE).read_text(encoding="utf-8"))["instance_id"])
        _copy(source, partial, instance_id)
        found = summary_of(partial)
        to_disk(partial)
        partial.rename(to)
    except (sqlite3.Error, OSError, ValueError, KeyError) as problem:
        raise _damaged(source, problem) from problem
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    return replace(found, path=to)


def restore(state_dir: Path, file: Path, now_ms: int) -> JournalSummary:
    """Put the backup `file` in the journal's place; the one of before is kept aside.

    Raises: FederationError CONFIGURATION_INVALID while an agent has the folder, for no file, and for a backup of a newer agent;
    STORE_UNAVAILABLE for one that is damaged or no journal. Nothing is touched then.
    """
    if not file.is_file():
        raise _refused(f"There is no backup {str(file)!r}.", "Name a file that is there; nothing was changed.", file)
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = take_lock(state_dir)
    building = state_dir / "journal.restoring"
    try:
        found = summary_of(file)
        building.unlink(missing_ok=True)
        _copy(file, building, found.instance_id)
        left_out = _without_undecided(building)
        to_disk(building)
        present = state_dir / "journal.db"
        aside = _set_aside(present, now_ms)
        instance = (state_dir / INSTANCE_FILE).with_suffix(".partial")
        instance.write_text(json.dumps({"instance_id": found.instance_id}), encoding="utf-8")
        to_disk(instance)
        building.rename(present)
        instance.replace(state_dir / INSTANCE_FILE)
        to_disk(state_dir)
    except (sqlite3.Error, OSError) as problem:
        raise _damaged(file, problem) from problem
    finally:
        os.close(lock)
    return replace(found, path=present, runs=found.runs - len(left_out), left_out=left_out, aside=aside)


def summary_of(file: Path) -> JournalSummary:
    """What a backup holds, after all of it was checked. Raises: FederationError, naming what is wrong."""
    try:
        db = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=5)
        try:
            (verdict,) = db.execute("PRAGMA integrity_check(1)").fetchone()
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
            meta = dict(db.execute("SELECT name, value FROM meta WHERE name IN ('shape', 'instance')"))
            (runs,) = db.execute("SELECT count(*) FROM runs").fetchone()
            (released,) = db.execute("SELECT count(*) FROM released").fetchone()
        finally:
            db.close()
        shape, instance_id = int(meta["shape"]), meta["instance"]
    except (sqlite3.Error, ValueError, KeyError) as problem:
        raise _damaged(file, problem) from problem
    if shape > SHAPE:
        raise _refused(
            f"The journal {str(file)!r} was written by a newer agent.", "Use that version to put it back.", file
        )
    return JournalSummary(file, instance_id, int(runs), int(released))


def _copy(source: Path, to: Path, instance_id: str) -> None:
    os.close(os.open(to, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    read = sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=5)
    try:
        write = sqlite3.connect(to, isolation_level=None)
        try:
            read.backup(write)
            write.execute("PRAGMA journal_mode = DELETE")  # the file is all there is of it
            write.execute("INSERT OR REPLACE INTO meta VALUES ('instance', ?)", (instance_id,))
        finally:
            write.close()
    finally:
        read.close()


def _without_undecided(building: Path) -> tuple[str, ...]:
    """Take out what may have run since; the jobs."""
    db = sqlite3.connect(building, isolation_level=None)
    try:
        jobs = tuple(job_id for (job_id,) in db.execute(f"SELECT job_id FROM runs WHERE {_UNDECIDED} ORDER BY rowid"))  # noqa: S608
        db.execute(f"DELETE FROM runs WHERE {_UNDECIDED}")  # noqa: S608  # a constant of ours, twice
    finally:
        db.close()
    return jobs


def _set_aside(present: Path, now_ms: int) -> Path | None:
    """The journal of before under another name, with a log that it may still have; None where there is none.

    The file goes first: no agent starts without it, while one without its log would have forgotten what it had accepted.
    """
    aside, log = present.with_name(f"{present.name}.before-{now_ms}"), Path(f"{present}-wal")
    if present.exists():
        try:
            with closing(sqlite3.connect(present, isolation_level=None)) as db:
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error:
            pass  # it is damaged: it is kept as it is
        present.rename(aside)
        to_disk(present.parent)
    if log.exists():  # with another file it would be poison
        log.rename(f"{aside}-wal")
        to_disk(present.parent)
    Path(f"{present}-shm").unlink(missing_ok=True)
    return aside if aside.exists() else None


def _damaged(file: Path, problem: Exception) -> FederationError:
    return FederationError(
        Code.STORE_UNAVAILABLE,
        f"{str(file)!r} is damaged, or no journal of an agent: {problem}.",
        fault=Fault.HUB,
        hint="Take another backup; nothing was changed.",
        metadata={"path": str(file)},
    )


def _refused(message: str, hint: str, path: Path) -> FederationError:
    return FederationError(
        Code.CONFIGURATION_INVALID, message, fault=Fault.CALLER, hint=hint, metadata={"path": str(path)}
    )
