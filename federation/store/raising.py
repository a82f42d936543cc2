"""The incarnation that follows a restore, and the fact that says so: one law for every kind of store.

Deliberately not here: how a backup takes a store's place (`backup.py`), what follows from it (`service/restoring.py`).
"""

from __future__ import annotations

import json

from federation.ports import RESTORED, STORE_ENTITY, EventRow

AGENTS_COMPLETE = "agents_complete"


def incarnation_after(highest: int, now_ms: int) -> int:
    """The incarnation of a store that is restored now; `highest`: of the backup, and of what it replaces where that is known.

    It is the moment of the restore, in Unix seconds: two restores of one backup, the store between them lost, would
    otherwise both be the next number, and agents would take the orders of one for those of the other.
    """
    return max(highest + 1, now_ms // 1000)


def fact_of(incarnation: int, now_ms: int, *, source: str, last_seq: int, agents_complete: bool) -> EventRow:
    """What is written down of it. `last_seq`: of the backup; `source`: its name."""
    payload = json.dumps({"from": source, "last_seq": last_seq, AGENTS_COMPLETE: agents_complete})
    return EventRow(now_ms, STORE_ENTITY, str(incarnation), RESTORED, "restore", "operator", payload)
