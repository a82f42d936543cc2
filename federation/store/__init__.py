"""Where state and facts are kept: one schema, SQLite through SQLAlchemy Core and Alembic, and memory; one contract.

`open_store` is the door; `ports.Store` and `ports.Transaction` are what comes out of it. Deliberately not here:
decisions (`lifecycle`, `service`), the wire (a spec's bytes pass through unread), and clocks: times are given.
Read `ports.py` first, then `sql.py`; `schema.py` says what lies where, `faults.py` what may go wrong.
"""

from __future__ import annotations

from pathlib import Path

from federation.errors import Code, Fault, FederationError
from federation.ports import Store
from federation.store.faults import DurabilityLost

__all__ = ["DurabilityLost", "open_store"]

_SQLITE = "sqlite:///"


def open_store(url: str, *, busy_timeout_ms: int = 5_000) -> Store:
    """The store at `url`: "memory:", or "sqlite:///relative/path", "sqlite:////absolute/path", made if there is none.

    `busy_timeout_ms` is how long a write waits for another program's lock on the file. Errors: CONFIGURATION_INVALID
    for another kind of url; STORE_UNAVAILABLE for a file that is damaged, in use, or of a newer version.
    """
    if url == "memory:":
        from federation.store.memory import MemoryStore

        return MemoryStore()
    if url.startswith(_SQLITE) and len(url) > len(_SQLITE) and ":memory:" not in url:
        from federation.store.sql import SqlStore
        from federation.store.sqlite import SqliteFile

        return SqlStore(SqliteFile(Path(url.removeprefix(_SQLITE)), busy_timeout_ms))
    raise FederationError(
        Code.CONFIGURATION_INVALID,
        f"the store {_without_password(url)!r} is of no kind that is known",
        fault=Fault.CALLER,
        hint="Use sqlite:///path/to/file or memory:.",
        metadata={"store": _without_password(url)},
    )


def _without_password(url: str) -> str:
    scheme, found, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"[:200] if found else url[:200]
