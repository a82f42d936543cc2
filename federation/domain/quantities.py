"""Amounts of things: resource vectors as sorted tuples of (name, kind, amount), and how people write them.

Amounts are integers in base units (cpu millicores, memory and disk bytes, gpu thousandths of a device): what must add
up is never a float. Deliberately not here: which node has what (`hub.py`) and arithmetic on arrays (`scheduling`).
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

from federation.errors import Code, invalid

CPU, MEMORY, DISK, GPU = "cpu", "memory", "disk", "gpu"
AMOUNT_MAX = 2**53
"""No single amount is larger: 8 PiB of memory, and exact in every language's numbers."""

_SUFFIX = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_BYTES = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)(|k|M|G|T|Ki|Mi|Gi|Ti)")
_DURATION_PART = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)")
_DURATION_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


class Amount(NamedTuple):
    """So much of one resource. `kind` tells sorts apart ("nvidia/A100"); empty means any or not applicable."""

    name: str
    kind: str
    amount: int


Resources = tuple[Amount, ...]
"""Sorted by (name, kind), each pair at most once, amounts above zero."""


def resources(*amounts: tuple[str, str, int]) -> Resources:
    """A checked resource vector; zero amounts are left out. Errors: negative, absurd or doubled amounts."""
    kept: dict[tuple[str, str], int] = {}
    for name, kind, amount in amounts:
        if not name or len(name) > 63 or len(kind) > 128:
            raise invalid(f"resource name {name[:80]!r} is empty or too long", field="resources")
        if not 0 <= amount <= AMOUNT_MAX:
            raise invalid(
                f"{name} of {amount} is out of range", hint=f"Amounts go from 0 to {AMOUNT_MAX}.", field="resources"
            )
        if (name, kind) in kept:
            raise invalid(f"{name} is asked for twice", field="resources")
        kept[name, kind] = amount
    return tuple(Amount(name, kind, amount) for (name, kind), amount in sorted(kept.items()) if amount)


def amount_of(of: Resources, name: str) -> int:
    """The sum of all kinds of `name`."""
    return sum(entry.amount for entry in of if entry.name == name)


def parse_bytes(text: str | int, field: str) -> int:
    """Bytes from "2Gi", "500M" or a plain number. Errors name `field`."""
    if isinstance(text, bool) or not isinstance(text, str | int):
        raise invalid(f"{field} must be a size such as 2Gi", field=field)
    found = _BYTES.fullmatch(str(text).strip())
    if not found:
        raise invalid(f"{field} {str(text)[:40]!r} is not a size", hint="Write 512Mi, 2Gi or a number of bytes.", field=field)
    value = int(Decimal(found[1]) * _SUFFIX[found[2]])
    if value > AMOUNT_MAX:
        raise invalid(f"{field} of {value} bytes is absurd", code=Code.LIMIT_EXCEEDED, field=field)
    return value


def parse_milli(value: str | float, field: str, most: int = 10**9) -> int:
    """Thousandths from 2, 0.5 or "0.5". Errors name `field`: negative, not finite, finer than 1/1000, above `most`."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise invalid(f"{field} must be a number", field=field)
    try:
        milli = Decimal(str(value)) * 1000
    except InvalidOperation:
        raise invalid(f"{field} {str(value)[:40]!r} is not a number", field=field) from None
    if not milli.is_finite() or not 0 <= milli <= most or milli != milli.to_integral_value():
        raise invalid(f"{field} of {str(value)[:40]} is out of range or finer than 1/1000", field=field)
    return int(milli)


def parse_duration_ms(text: str | int, field: str) -> int:
    """Milliseconds from "90s", "1h30m", "2d", or a number of seconds. Errors name `field`."""
    if isinstance(text, int) and not isinstance(text, bool):
        if not 0 <= text <= 10**9:
            raise invalid(f"{field} of {text} s is out of range", field=field)
        return text * 1000
    if isinstance(text, str) and len(text) < 64:
        parts = _DURATION_PART.findall(text)
        if parts and "".join(number + unit for number, unit in parts) == text.strip():
            return sum(int(number) * _DURATION_MS[unit] for number, unit in parts)
    raise invalid(f"{field} {str(text)[:40]!r} is not a duration", hint="Write 90s, 10m, 1h30m or 2d.", field=field)
