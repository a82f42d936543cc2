"""What can go wrong under a store, as errors that a caller can act on, and the one thing nobody may act on.

A full, locked or read-only store is a refusal: nothing was written, and the store works again once the cause is gone.
A failed fsync is not: the kernel may have dropped the pages and report success at the next try, so whatever this
process believes about its disk may be false. `DurabilityLost` therefore is no `Exception`: no handler for errors
swallows it. The service's writer thread is the one place that meets it, and ends the process there with `os._exit`
(no flush, no farewell, no reply); the next start recovers from the file and its log, and nothing that was not
acknowledged is missed by anybody.
"""

from __future__ import annotations

import sqlite3

from federation.errors import Code, Fault, FederationError


class DurabilityLost(BaseException):
    """This process can no longer know what its store holds, and must end. Never catch and go on."""


_FSYNC_FAILED = frozenset({sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC})
_BROKEN = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_NO_SUCH = ("no such table", "no such column")
_PRIMARY = 0xFF  # an extended result code carries its primary code in the low byte


def full(where: str) -> FederationError:
    """The disk, or the file's own limit, has no room. Nothing was written."""
    return FederationError(
        Code.STORE_FULL,
        "the store has no room left; nothing was written",
        fault=Fault.FEDERATION,
        hint="Free space on the store's disk; what was accepted before is safe.",
        metadata={"store": where},
    )


def unavailable(message: str, hint: str, where: str) -> FederationError:
    """The store cannot be used now. Nothing was written."""
    return FederationError(
        Code.STORE_UNAVAILABLE, message, fault=Fault.FEDERATION, hint=hint, metadata={"store": where}
    )


def damaged(where: str, what: str) -> FederationError:
    """The store's file is not whole. It is left as it is: starting from nothing would forget accepted work."""
    return unavailable(
        f"the store is damaged: {what}",
        "Restore it from a backup; the file was left untouched, and starting without it would lose accepted jobs.",
        where,
    )


def closed(where: str) -> FederationError:
    """It was closed by us."""
    return unavailable("the store is closed", "The control plane is ending; try again after its next start.", where)


def connection_lost(where: str) -> FederationError:
    """The connection was lost, and what was to be written was not."""
    return unavailable("the connection to the store was lost; nothing was written", "Try again.", where)


def broken_rule(where: str, error: Exception | str) -> FederationError:
    """A row that the schema forbids."""
    return FederationError(
        Code.INTERNAL,
        f"the store refused a row that breaks its own rules: {error}",
        fault=Fault.FEDERATION,
        hint="This is a mistake in the control plane; please report it.",
        metadata={"store": where},
    )


def request_reused() -> FederationError:
    """The service looks before it inserts, so only two submissions at once can meet this."""
    return FederationError(
        Code.REQUEST_ID_REUSED,
        "a request id was used twice",
        fault=Fault.CALLER,
        hint="Use a new request id for each job.",
    )


def unstorable(error: Exception | str) -> FederationError:
    """A text that is no Unicode, or a number beyond 64 bits: the wire lets neither in, a program's mistake may."""
    return FederationError(
        Code.INVALID_ARGUMENT,
        f"a value cannot be stored: {error}",
        fault=Fault.CALLER,
        hint="Use valid Unicode and numbers of at most 64 bits.",
    )


def from_sqlite(error: sqlite3.Error, where: str, *, no_room: bool) -> BaseException:
    """`error` as ours: a FederationError, or DurabilityLost. `no_room`: the disk is known to be full right now."""
    extended = int(getattr(error, "sqlite_errorcode", None) or 0)
    primary = extended & _PRIMARY
    if extended in _FSYNC_FAILED:
        return DurabilityLost(f"{where}: {error}")
    if primary == sqlite3.SQLITE_FULL or (primary == sqlite3.SQLITE_IOERR and no_room):
        return full(where)
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return unavailable("the store is locked by another program", "End that program, then try again.", where)
    if primary == sqlite3.SQLITE_READONLY:
        return unavailable("the store is read-only", "Make its file and folder writable for this user.", where)
    if primary in _BROKEN:
        return damaged(where, str(error))
    if primary == sqlite3.SQLITE_ERROR and str(error).startswith(_NO_SUCH):
        return damaged(where, f"its schema is not what it says: {error}")
    if primary == sqlite3.SQLITE_CANTOPEN:
        return unavailable("the store cannot be opened", "Check that its folder exists and is writable.", where)
    if primary == sqlite3.SQLITE_CONSTRAINT:
        return broken_rule(where, error)
    if isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error):
        return closed(where)
    return unavailable(f"the store failed: {error}", "Try again; look at the disk if it stays.", where)


def from_postgres(sqlstate: str, message: str, where: str) -> FederationError:
    """PostgreSQL's error as ours, by its SQLSTATE; empty where the connection itself failed. Nothing was written."""
    said = message.strip().partition("\n")[0]
    if sqlstate == "53100":
        return full(where)
    if sqlstate.startswith("23"):
        return broken_rule(where, said)
    if sqlstate.startswith("22"):
        return unstorable(said)
    if sqlstate.startswith("XX00"):
        return damaged(where, said)
    if sqlstate in ("42703", "42P01"):
        return damaged(where, f"its schema is not what it says: {said}")
    for states, message_of, hint in _POSTGRES:
        if sqlstate.startswith(states):
            return unavailable(message_of.format(said=said), hint, where)
    return unavailable(f"the store failed: {said}", "Try again; look at PostgreSQL's log if it stays.", where)


_POSTGRES = (
    (("55P03",), "the store is locked by another program", "End that program, then try again."),
    (("25006",), "the store is read-only: PostgreSQL is a replica there", "Name the primary in [store] url."),
    (("28", "42501"), "PostgreSQL refuses our login: {said}", "Check user, password and rights in [store] url."),
    (("3D",), "PostgreSQL has no such database: {said}", "Create it, then start again."),
    (("40",), "the store was busy with a conflicting write: {said}", "Try again."),
    (("53",), "PostgreSQL has no resources left: {said}", "Try again; raise its limits if it stays."),
    (("57P", "57014"), "PostgreSQL is ending or starting: {said}", "Try again in a few seconds."),
)
