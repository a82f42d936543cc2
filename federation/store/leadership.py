"""Who of several control planes leads: one row in PostgreSQL, and PostgreSQL decides. There is no election of ours.

The row holds the leader, its epoch, and when it was last renewed, by the database's clock. Every write transaction looks
at it and locks it against a change, so that all writes of one leader come before the first of the next. The leader
renews it each second; one whose last renewal began more than `SILENT_S_MAX` ago ends its process, and a standby takes
over once it has seen the row stay as it is for the longer `TAKEOVER_S`: at no moment do two answer. Both lengths are
measured where they count, by clocks that nobody sets. So whoever starts after a leader has died waits that long too, unless
that one released the row, or was a process of the same machine.

A transaction also leaves its name behind, in a row of its own: where a commit was not answered, that row says what came
of it. (PostgreSQL's own numbers cannot: after a crash it may give the number of a transaction that it forgot to another.)

The tables are no part of the schema: leadership is settled before the schema is looked at, because only a leader may
change that. Not here: what is written (`sql.py`), connections and their errors (`postgres.py`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from federation.errors import FederationError
from federation.store import faults
from federation.store.faults import DurabilityLost

RENEW_S = 1.0
SILENT_S_MAX = 5.0
"""A leader that could not renew for this long answers nothing any more and ends."""
TAKEOVER_S = 6.0
"""A standby takes over after this long without a renewal: past the leader's own end, clocks that run unevenly included."""
LOOK_S = 0.25
EXIT_STATUS = 70
_TABLE_LOCK = 0x62726875
_TABLE = (
    f"SELECT pg_advisory_xact_lock({_TABLE_LOCK})",
    """
    CREATE TABLE IF NOT EXISTS leader (
        one boolean PRIMARY KEY DEFAULT true CHECK (one),
        epoch bigint NOT NULL, holder text NOT NULL, renewed_ms bigint NOT NULL, ahead_ms bigint NOT NULL
    )""",
    "INSERT INTO leader (epoch, holder, renewed_ms, ahead_ms) VALUES (0, '', 0, 0) ON CONFLICT DO NOTHING",
    "CREATE TABLE IF NOT EXISTS last_write (one boolean PRIMARY KEY DEFAULT true CHECK (one), name text NOT NULL)",
    "INSERT INTO last_write (name) VALUES ('') ON CONFLICT DO NOTHING",
)
TABLES = ("leader", "last_write")
"""Ours beside the schema."""
_LOOK = """
    SELECT epoch, holder, renewed_ms, ahead_ms, (extract(epoch FROM clock_timestamp()) * 1000)::bigint FROM leader"""
_TAKE = """
    UPDATE leader SET epoch = epoch + 1, holder = %s, ahead_ms = %s,
    renewed_ms = (extract(epoch FROM clock_timestamp()) * 1000)::bigint RETURNING epoch"""
_RENEW = """
    UPDATE leader SET renewed_ms = now_ms, ahead_ms = %s - now_ms
    FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms) AS clock
    WHERE epoch = %s AND holder = %s"""
_RELEASE = "UPDATE leader SET holder = '' WHERE epoch = %s AND holder = %s"
log = logging.getLogger(__name__)
Connect = Callable[[], "psycopg.Connection[Any]"]


class LeadershipLost(DurabilityLost):
    """Another control plane leads, or may by now: this one must end and answer nothing."""


def end_process(why: str) -> None:
    """No flush, no farewell, no reply."""
    log.critical("%s; ending at once: another control plane may lead", why)
    os._exit(EXIT_STATUS)


@dataclass(frozen=True, slots=True)
class Row:
    """What is said of the leader. `holder` is empty where nobody leads."""

    epoch: int
    holder: str
    renewed_ms: int
    ahead_ms: int
    """By how much the leader's clock was ahead of the database's."""
    now_ms: int
    """The database's clock."""


class Leadership:
    """One control plane's part in it: `take`, then `begin` for each write, `still` before each answer."""

    def __init__(self, connect: Connect, where: str, ended: Callable[[str], None] | None = None) -> None:
        """`ended` is called, from any thread, when this one may not lead any more; else the process ends."""
        self.holder = _this_process()
        self.epoch = 0
        self.clock_gain_ms = 0
        """By how much our clock is ahead of the former leader's."""
        self._connect = connect
        self._where = where
        self._ended = ended or end_process
        self._writes = 0
        self._renewed_s = 0.0
        self._leading = False
        self._ending = threading.Event()
        self._connection: psycopg.Connection[Any] | None = None
        self._threads = [
            threading.Thread(target=self._renew_on, name="leader", daemon=True),
            threading.Thread(target=self._watch, name="leader-watch", daemon=True),
        ]

    # ---- taking it ----------------------------------------------------------------------------------------------------
    def take(self, waiting: Callable[[str], None] | None = None) -> None:
        """Lead. With `waiting`, for as long as it takes: it is told once who leads.

        Error: STORE_UNAVAILABLE, without `waiting`, where another control plane is seen to lead: it renews.
        """
        with self._connect() as connection, connection.transaction():
            for statement in _TABLE:
                connection.execute(statement)
        watch = _Watch()
        while not self._tried(watch, waiting):
            self._ending.wait(LOOK_S)
        for thread in self._threads:
            thread.start()

    def _tried(self, watch: _Watch, waiting: Callable[[str], None] | None) -> bool:
        """Look once; whether we lead."""
        try:
            connection = self._renewing()
            row = _look(connection)
            if watch.over(row) and self._taken(connection, row):
                return True
        except psycopg.OperationalError as error:
            if waiting is None:
                raise
            log.warning("the standby cannot see who leads: %s", str(error).strip())
            return False
        if waiting is None:
            if not watch.renewed:
                return False
            raise faults.unavailable(
                f"a control plane has this store open already: {_host(row.holder)}",
                "End that one first, or let `brhub serve` wait for it as its standby.",
                self._where,
            )
        if watch.told != row.holder:
            watch.told = row.holder
            waiting(_host(row.holder))
        return False

    def _taken(self, connection: psycopg.Connection[Any], seen: Row) -> bool:
        """Take over from what was `seen`, unless somebody was quicker. Waits for the former leader's last transaction."""
        with connection.transaction():
            connection.execute("SELECT 1 FROM leader FOR UPDATE")
            began_s = _now_s()
            row = _look(connection)
            if (row.epoch, row.holder, row.renewed_ms) != (seen.epoch, seen.holder, seen.renewed_ms):
                return False
            ahead_ms = time.time_ns() // 1_000_000 - row.now_ms
            ((self.epoch,),) = connection.execute(_TAKE, (self.holder, ahead_ms)).fetchall()
        self.clock_gain_ms = max(0, ahead_ms - row.ahead_ms) if row.epoch else 0
        self._renewed_s, self._leading = began_s, True
        return True

    # ---- holding it ---------------------------------------------------------------------------------------------------
    def begin(self, connection: psycopg.Connection[Any]) -> None:
        """Begin a write transaction there. LeadershipLost: somebody else leads, and nothing may be written.

        The lock on the leader's row lets renewals pass and holds a takeover off until the transaction is over.
        """
        self._writes += 1
        cursor = connection.execute(
            f"BEGIN; UPDATE last_write SET name = '{self._write}'; "  # noqa: S608 - both texts are ours
            f"SELECT 1 FROM leader WHERE epoch = {self.epoch:d} AND holder = '{self.holder}' FOR KEY SHARE",
            prepare=False,
        )
        while cursor.nextset():
            pass
        if cursor.fetchone() is None:
            raise self._deposed()

    def was_committed(self) -> bool:
        """What came of the last transaction whose connection was lost. Waits for its end, where it has none yet."""
        with self._connect() as connection:
            found = connection.execute("SELECT name, epoch FROM last_write, leader FOR UPDATE OF last_write")
            ((name, epoch),) = found.fetchall()
        if epoch != self.epoch:
            raise self._deposed()
        return bool(name == self._write)

    @property
    def _write(self) -> str:
        return f"{self.epoch}.{self._writes}"

    def _deposed(self) -> LeadershipLost:
        return LeadershipLost(f"{self._where}: another control plane has taken over from epoch {self.epoch}")

    def still(self) -> None:
        """Return if we lead for certain; end otherwise. Before every answer, from any thread."""
        silent_s = _now_s() - self._renewed_s
        if self._leading and silent_s > SILENT_S_MAX:
            self._lost(f"the leadership was last renewed {silent_s:.1f} s ago")

    def release(self) -> None:
        """Let another lead at once."""
        self._ending.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        leading, self._leading = self._leading, False
        if leading:
            with contextlib.suppress(psycopg.Error, FederationError):  # a standby then waits a little longer
                self._renewing().execute(_RELEASE, (self.epoch, self.holder))
        if self._connection is not None:
            self._connection.close()

    def _renew_on(self) -> None:
        while not self._ending.wait(RENEW_S):
            try:
                self._renew()
            except (psycopg.Error, FederationError) as error:
                log.warning("the leadership could not be renewed: %s", str(error).strip())
                self._ending.wait(LOOK_S)

    def _renew(self) -> None:
        began_s, clock_ms = _now_s(), time.time_ns() // 1_000_000
        if self._renewing().execute(_RENEW, (clock_ms, self.epoch, self.holder)).rowcount == 1:
            self._renewed_s = began_s
        else:
            self._lost("another control plane has taken over")

    def _renewing(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = self._connect()
        return self._connection

    def _watch(self) -> None:
        """A thread of its own: a database that does not answer holds the one that renews."""
        while not self._ending.wait(LOOK_S):
            self.still()

    def _lost(self, why: str) -> None:
        self._leading = False
        self._ending.set()
        self._ended(why)


class _Watch:
    """What a standby has seen of the leader so far, by its own clock: what the row says of the time may be set."""

    def __init__(self) -> None:
        self.told = ""
        self.renewed = False
        """Whether it was seen to renew."""
        self._last: tuple[int, int] | None = None
        self._since_s = 0.0

    def over(self, row: Row) -> bool:
        """Whether whoever leads does so no more."""
        if (row.epoch, row.renewed_ms) != self._last:
            self.renewed = self._last is not None
            self._last, self._since_s = (row.epoch, row.renewed_ms), _now_s()
        return not row.holder or _now_s() - self._since_s >= TAKEOVER_S or _has_ended(row.holder)


def _look(connection: psycopg.Connection[Any]) -> Row:
    (row,) = connection.execute(_LOOK).fetchall()
    return Row(*row)


def _now_s() -> float:
    """A clock that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


# ---- a leader's name ------------------------------------------------------------------------------------------------
def _this_process() -> str:
    """Host, boot, process namespace, process and its start; and a word that nobody else has."""
    host = "".join(letter for letter in socket.gethostname() if letter.isalnum() or letter in "-.") or "unnamed"
    pid = os.getpid()
    return f"{host} {_machine()} {pid} {_started(pid) or ''} {uuid.uuid4().hex}"


def _host(holder: str) -> str:
    return holder.partition(" ")[0] or "nobody"


def _has_ended(holder: str) -> bool:
    """Whether it was a process of this very machine that is gone: then nobody needs to wait for it. Else unknown.

    /proc may hide the processes of other users, or fail to open: only a signal's ESRCH says that there is none.
    """
    words = holder.split(" ")
    if len(words) != 5 or words[1] != _machine():
        return False
    pid, started = int(words[2]), words[3]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # another user's
    return bool(started) and _started(pid) not in (started, None)


def _machine() -> str:
    """This boot of this machine, as far as its processes see each other."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return uuid.uuid4().hex  # not a Linux: nobody's neighbour


def _started(pid: int) -> str | None:
    """When the process began, in ticks since the boot; empty when it has ended and its parent has not asked; None: unknown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return None
    return "" if fields[0] in "ZX" else fields[19]
