"""Where state and facts are kept: one schema, SQLite or PostgreSQL, and memory; one contract.

`open_store` is the door; `ports.Store` and `ports.Transaction` are what comes out of it. Deliberately not here:
decisions (`lifecycle`, `service`), the wire (a spec's bytes pass through unread), and clocks: times are given.
Read `ports.py` first, then `sql.py`, which writes through a `database.py`; `schema.py` says what lies where, `faults.py`
what may go wrong, `leadership.py` who may write.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from federation.errors import Code, Fault, FederationError
from federation.ports import Store
from federation.store import naming
from federation.store.faults import DurabilityLost

if TYPE_CHECKING:
    from federation.store.leadership import Leadership  # loads a driver that not everybody has

__all__ = ["DurabilityLost", "leadership_of", "open_store", "upgrade_store"]

_SQLITE = "sqlite:///"
_POSTGRES = ("postgresql://", "postgres://")


def open_store(url: str, *, busy_timeout_ms: int = 5_000, waiting: Callable[[str], None] | None = None) -> Store:
    """The store at `url`, made if there is none.

    "sqlite:///relative/path", "sqlite:////absolute/path", "postgresql://user:password@host/database", or "memory:".
    `busy_timeout_ms` is how long a write waits for another program's lock. A store has one control plane. With
    `waiting`, one in PostgreSQL is waited for until whoever leads has ended, and `waiting` is told once who that is.
    Errors: CONFIGURATION_INVALID for another kind of url; STORE_UNAVAILABLE for a store that is damaged, out of reach,
    of a newer version, or in use.
    """
    if url == "memory:":
        from federation.store.memory import MemoryStore

        store = MemoryStore()
        store.tables.store_id = naming.shown(naming.drawn(None))
        return store
    if url.startswith(_SQLITE) and len(url) > len(_SQLITE) and ":memory:" not in url:
        from federation.store.sql import SqlStore
        from federation.store.sqlite import SqliteFile

        return SqlStore(SqliteFile(Path(url.removeprefix(_SQLITE)), busy_timeout_ms))
    if url.startswith(_POSTGRES):
        from federation.store.postgres import PostgresDatabase
        from federation.store.sql import SqlStore

        return SqlStore(PostgresDatabase(url, busy_timeout_ms, waiting))
    raise FederationError(
        Code.CONFIGURATION_INVALID,
        f"the store {_without_password(url)!r} is of no kind that is known",
        fault=Fault.CALLER,
        hint="Use sqlite:///path/to/file, postgresql://user@host/database, or memory:.",
        metadata={"store": _without_password(url)},
    )


def upgrade_store(url: str, *, finish: bool = False) -> None:
    """Bring the store at `url` to today's schema, making it if there is none; `finish`: with the post part.

    In PostgreSQL the pre part may run while a control plane of the version before leads; everything else asks that nobody
    has the store. Errors as in `open_store`; CONFIGURATION_INVALID where an older upgrade must be finished first.
    """
    from federation.store.sql import SqlStore

    if url.startswith(_POSTGRES) and not finish:
        from federation.store.postgres import prepare

        prepare(url)
        return
    store = open_store(url)  # refused while a control plane has it
    try:
        if finish and isinstance(store, SqlStore):
            store.database.finish_upgrade()
    finally:
        store.close()


def leadership_of(store: Store) -> Leadership | None:
    """By what right `store` is written, where other control planes may take over; None: nobody else can."""
    leadership: Leadership | None = getattr(getattr(store, "database", None), "leadership", None)
    return leadership


def _without_password(url: str) -> str:
    scheme, found, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"[:200] if found else url[:200]
