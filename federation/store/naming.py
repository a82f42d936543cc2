"""A store's name: a number made once with the store, which its backups carry, so that a hub knows whose its runs are.

A store of before there were names gets one from its first fact, when it is first opened: its backups of then get the same.
Deliberately not here: what a hub does that meets another store (`service/sync.py`, `hub_node/conversation.py`).
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from typing import Any

NAME = "store_id"
"""In `meta`."""
FIRST_FACT = "SELECT at_ms, entity, entity_id, type FROM events ORDER BY seq LIMIT 1"
ASKED = f"SELECT value FROM meta WHERE name = '{NAME}'"  # noqa: S608 - ours
_BITS = 62
"""It lies in a column of signed 64-bit integers."""


def drawn(first_fact: Sequence[Any] | None) -> int:
    """A name for a store that has none; `first_fact`: a row of FIRST_FACT, None where nothing has happened yet."""
    if first_fact is None:
        return secrets.randbits(_BITS)
    text = "/".join(str(column) for column in first_fact)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> (64 - _BITS)


def shown(number: int) -> str:
    """As it is said on the wire: 16 hexadecimal digits."""
    return f"{number:016x}"
