"""Reading facts in their order, from a cursor on: for whoever keeps a copy of them before retention removes them.

A cursor is the seq of the last fact that was read. Where facts after it are gone, the reader is told so instead of being
given a list with a hole. Deliberately not here: what is removed (`federation/service/retention.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from federation.errors import Code, Fault, FederationError
from federation.ports import EventRow
from federation.store import codec
from federation.store.statements import Statements

LIMIT_MAX = 10_000
Ask = Callable[[str, Sequence[Any]], Sequence[Any]]
"""SQL and its parameters -> rows."""


def facts_after(ask: Ask, sql: Statements, after: int | None, limit: int) -> tuple[EventRow, ...]:
    """At most `limit` facts that follow the cursor `after`, oldest first; None: the oldest that are kept.

    Error: OFFSET_OUT_OF_RANGE where some of those that follow were removed.
    """
    rows = codec.decoded(codec.event_of, ask(sql.events_after, (after or 0, limit)))
    removed_to = removed_up_to(ask, sql)  # after the rows: what is removed meanwhile is told, never left out silently
    if after is not None and after < removed_to:
        raise FederationError(
            Code.OFFSET_OUT_OF_RANGE,
            f"events after {after} were removed, the last of them {removed_to}",
            fault=Fault.CALLER,
            hint="Begin anew without a cursor: that gives what is kept. "
            "Read more often than [store] keep_events_days, or raise that.",
            metadata={"after": str(after), "removed_to": str(removed_to)},
        )
    return rows


def removed_up_to(ask: Ask, sql: Statements) -> int:
    """The highest seq that was ever removed; 0: none."""
    rows = ask(sql.removed_to, ())
    return int(rows[0][0]) if rows else 0
