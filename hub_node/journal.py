"""The agent's memory: a local SQLite of runs, written before anything begins and before anything is said.

One writer (a lock beside it), WAL with FULL sync: what `save` returned from survives a crash. The file is 0600, for runs
hold their jobs' secret variables. A file that is damaged, or gone from a state folder that had one, is an error and never
a silent start from nothing: runs may be going on. Deliberately not here: deciding (`reconcile.py`), logs and outputs
(files in the attempt's folder).
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import sqlite3
import uuid
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from federation.errors import Code, Fault, FederationError
from hub_node.ports import RELEASED_MAX
from hub_node.records import Epoch, LeaseOrder, Outcome, OutputFile, Reason, Run, RunState, Seen, Work

SHAPE = 1
INSTANCE_FILE = "instance.json"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS runs (
    lease_id TEXT NOT NULL, incarnation INTEGER NOT NULL, n INTEGER NOT NULL, job_id TEXT NOT NULL,
    state TEXT NOT NULL, outcome TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (lease_id, incarnation, n)
) STRICT;
CREATE TABLE IF NOT EXISTS released (lease_id TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT;
"""


class Journal:
    """Runs by lease id. Used from one thread."""

    def __init__(self, state_dir: Path) -> None:
        """Open or make the journal in `state_dir`.

        Raises: FederationError CONFIGURATION_INVALID (another agent has the folder, a newer program wrote it),
        STORE_UNAVAILABLE (damaged, gone, unreadable), STORE_FULL.
        """
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = state_dir / "journal.db"
        self._lock = take_lock(state_dir)
        try:
            self.instance_id = self._instance(state_dir)
            self._db = self._open()
        except BaseException:
            os.close(self._lock)
            raise

    def load(self) -> dict[str, Run]:
        """All runs, by lease id."""
        try:
            rows = self._db.execute("SELECT body FROM runs ORDER BY rowid").fetchall()
            runs = [_decoded(json.loads(body)) for (body,) in rows]
        except (sqlite3.Error, ValueError, KeyError, TypeError) as problem:
            raise self._damaged(problem) from problem
        return {run.lease_id: run for run in runs}

    def seen(self) -> Seen:
        """The newest orders carried out."""
        try:
            row = self._db.execute("SELECT value FROM meta WHERE name = 'seen'").fetchone()
            if row is None:
                return Seen()
            incarnation, revision, *store_id = json.loads(row[0])  # the store's name came later
            return Seen(int(incarnation), int(revision), *map(str, store_id))
        except (sqlite3.Error, ValueError, TypeError) as problem:
            raise self._damaged(problem) from problem

    def released(self) -> tuple[Run, ...]:
        """Runs that were forgotten lately, newest first, without what they ran: how each ended."""
        try:
            rows = self._db.execute("SELECT body FROM released ORDER BY rowid DESC").fetchall()
            return tuple(_decoded(json.loads(body)) for (body,) in rows)
        except (sqlite3.Error, ValueError, KeyError, TypeError) as problem:
            raise self._damaged(problem) from problem

    def save(self, changed: Iterable[Run] = (), removed: Iterable[Run] = (), seen: Seen | None = None) -> None:
        """One transaction, on the disk when it returns. Raises: FederationError STORE_FULL, STORE_UNAVAILABLE."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._forget(tuple(removed))
                self._db.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?)", map(_row, changed))
                if seen is not None:
                    self._set("seen", json.dumps([seen.incarnation, seen.revision, seen.store_id]))
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as problem:
            raise self._failed(problem) from problem

    def _forget(self, removed: tuple[Run, ...]) -> None:
        """How they ended stays, for a control plane that is restored from a backup; secrets and arguments go."""
        if not removed:
            return
        self._db.executemany("DELETE FROM runs WHERE lease_id = ?", [(run.lease_id,) for run in removed])
        ended = [(run.lease_id, _body(_bare(run))) for run in removed]
        self._db.executemany("INSERT OR REPLACE INTO released VALUES (?, ?)", ended)
        self._db.execute("DELETE FROM released WHERE rowid <= (SELECT max(rowid) FROM released) - ?", (RELEASED_MAX,))

    def close(self) -> None:
        """Let go of the file and the lock."""
        self._db.close()
        os.close(self._lock)

    # ---- opening ----------------------------------------------------------------------------------------------------
    def _instance(self, state_dir: Path) -> str:
        """Made once with the state folder. It outlives the journal file, so that a lost journal is noticed."""
        file = state_dir / INSTANCE_FILE
        if file.exists():
            if not self.path.exists() or self.path.stat().st_size == 0:
                raise self._damaged(FileNotFoundError("the file is gone"))
            try:
                return str(json.loads(file.read_text(encoding="utf-8"))["instance_id"])
            except (OSError, ValueError, KeyError, TypeError) as problem:
                raise self._damaged(problem) from problem
        return uuid.uuid4().hex

    def _open(self) -> sqlite3.Connection:
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self.path.chmod(0o600)
            db = sqlite3.connect(self.path, isolation_level=None, timeout=5, cached_statements=32)
        except (OSError, sqlite3.Error) as problem:
            raise self._failed(problem) from problem
        self._db = db
        try:
            self._check_whole(db)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.executescript(_SCHEMA)
            self._check_shape(db)
            self._keep_instance()
        except (sqlite3.Error, ValueError) as problem:
            db.close()
            raise self._failed(problem) from problem
        except BaseException:
            db.close()
            raise
        return db

    @staticmethod
    def _check_whole(db: sqlite3.Connection) -> None:
        found = db.execute("PRAGMA quick_check(1)").fetchone()
        if found != ("ok",):
            raise sqlite3.DatabaseError(str(found))

    def _check_shape(self, db: sqlite3.Connection) -> None:
        shape = db.execute("SELECT value FROM meta WHERE name = 'shape'").fetchone()
        if shape is None:
            self._set("shape", str(SHAPE))
        elif int(shape[0]) > SHAPE:
            raise FederationError(
                Code.CONFIGURATION_INVALID,
                f"The journal {str(self.path)!r} was written by a newer agent.",
                fault=Fault.CALLER,
                hint="Start that version again; this one would not understand its runs.",
                metadata={"path": str(self.path), "shape": str(shape[0])},
            )

    def _keep_instance(self) -> None:
        file = self.path.parent / INSTANCE_FILE
        if file.exists():
            return
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps({"instance_id": self.instance_id}), encoding="utf-8")
        to_disk(partial)
        partial.replace(file)
        to_disk(file.parent)

    def _set(self, name: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    # ---- errors -----------------------------------------------------------------------------------------------------
    def _failed(self, problem: Exception) -> FederationError:
        code = getattr(problem, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL or (isinstance(problem, OSError) and problem.errno == 28):
            return FederationError(
                Code.STORE_FULL,
                "The disk of this agent's journal is full; it starts nothing new.",
                fault=Fault.HUB,
                hint=f"Free space on the disk of {str(self.path.parent)!r}.",
                metadata={"path": str(self.path)},
            )
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or type(problem) in (
            sqlite3.DatabaseError,
            ValueError,
        ):
            return self._damaged(problem)
        return FederationError(
            Code.STORE_UNAVAILABLE,
            f"The agent's journal cannot be used: {problem}.",
            fault=Fault.HUB,
            hint=f"Look at {str(self.path)!r}: its disk, its owner, its permissions.",
            metadata={"path": str(self.path)},
        )

    def _damaged(self, problem: Exception) -> FederationError:
        return FederationError(
            Code.STORE_UNAVAILABLE,
            f"The agent's journal {str(self.path)!r} is damaged or gone: {problem}.",
            fault=Fault.HUB,
            hint=(
                "Put the file back from a backup; or end what still runs here and move the whole state folder away: "
                "the federation then takes its runs for lost."
            ),
            metadata={"path": str(self.path)},
        )


def take_lock(state_dir: Path) -> int:
    """The right to a state folder, as a descriptor. Raises: FederationError while an agent has it."""
    lock = os.open(state_dir / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise FederationError(
            Code.CONFIGURATION_INVALID,
            f"Another agent runs on the state folder {str(state_dir)!r}.",
            fault=Fault.CALLER,
            hint="Stop it, or give this agent a state_dir and an agent_id of its own.",
            metadata={"state_dir": str(state_dir)},
        ) from None
    return lock


def to_disk(path: Path) -> None:
    """What a file holds, or which names a folder has, survives a power cut. Raises: OSError."""
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _row(run: Run) -> tuple[object, ...]:
    lease = run.lease
    return (lease.lease_id, lease.epoch.incarnation, lease.epoch.n, lease.job_id, run.state, run.outcome, _body(run))


def _body(run: Run) -> str:
    return json.dumps(_encoded(run), separators=(",", ":"))


def _bare(run: Run) -> Run:
    work = replace(run.lease.work, arguments=(), requirements="", variables={}, secret_variables={})
    return replace(run, lease=replace(run.lease, work=work, spec_bytes=b"", package_url=""), runner_state="")


def _encoded(run: Run) -> dict[str, Any]:
    content = asdict(replace(run, lease=replace(run.lease, spec_bytes=b"")))
    content["lease"]["spec_bytes"] = base64.b64encode(run.lease.spec_bytes).decode()
    return content


def _decoded(content: dict[str, Any]) -> Run:
    lease = dict(content["lease"])
    work = dict(lease["work"])
    work["arguments"] = tuple(work["arguments"])
    work["inputs"] = tuple((one[0], one[1], one[2]) for one in work["inputs"])
    lease["work"] = Work(**work)
    lease["epoch"] = Epoch(**lease["epoch"])
    lease["nodes"] = tuple(lease["nodes"])
    lease["devices"] = tuple(tuple(of_task) for of_task in lease.get("devices", ()))
    lease["spec_bytes"] = base64.b64decode(lease["spec_bytes"])
    return Run(
        **{
            **content,
            "lease": LeaseOrder(**lease),
            "state": RunState(content["state"]),
            "outcome": Outcome(content["outcome"]),
            "reason": Reason(**content["reason"]) if content["reason"] else None,
            "outputs": tuple(OutputFile(**one) for one in content["outputs"]),
            "devices": tuple(content.get("devices", ())),
        }
    )
