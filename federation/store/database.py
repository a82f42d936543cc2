"""What `sql.py` needs of a database: a writer for one transaction at a time, readers, and its errors by our names.

Rows and statements are the same everywhere; what differs lies behind this: `sqlite.py` and `postgres.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from federation.store.statements import Statements


class Database(Protocol):
    """One store's database. The writing half is one thread's; `reading` is anybody's."""

    where: str
    """Names it in errors; without its password."""
    statements: Statements
    errors: tuple[type[Exception], ...]
    """What its driver raises; `error_of` says what that means."""
    snapshot_sql: str
    """Begins a transaction of a reader that sees one moment."""

    def begin(self) -> None:
        """Begin the one transaction."""

    def many(self, sql: str, rows: Sequence[tuple[Any, ...]]) -> int:
        """Run `sql` for each of `rows`, at least one; how many rows it touched."""

    def commit(self, rows: int) -> None:
        """End the transaction, durably, after `rows` were written. DurabilityLost: nobody can say that it is."""

    def roll_back(self) -> None:
        """Forget the open transaction, if there is one. Raises nothing."""

    def reading(self) -> AbstractContextManager[Any]:
        """A connection that sees what is committed: `execute(sql, parameters).fetchall()`."""

    def finish_upgrade(self) -> None:
        """Take away what programs of the version before still needed: see `migrations`. Only when none of them is left."""

    def error_of(self, error: Exception) -> BaseException:
        """One of `errors` as ours; see `faults`."""

    def close(self) -> None:
        """Give everything back. A second time is harmless."""
