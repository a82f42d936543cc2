"""Plain values of a history's lines, taken apart strictly: each has its type and its range, or an error names it.

Any text gives a value or a FederationError, never another exception. Deliberately not here: what the keys mean
(`history.py`), and how amounts are written (`federation/client/quantity.py`).
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from federation.client.quantity import parse_bytes, parse_duration_ms, parse_milli
from federation.domain.quantities import Resources, resources
from federation.errors import Code, FederationError, invalid
from federation.simulation.writing import EPOCH, duration

TEXT_MAX = 256
LIST_MAX = 10_000
MOMENT_MS_MAX = 253_402_300_799_999
"""The end of the year 9999, which is as far as RFC 3339 goes."""
_MOMENT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:[.][0-9]{1,3})?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)


def wrong(where: str, why: str, code: Code = Code.INVALID_ARGUMENT, hint: str = "") -> FederationError:
    """An error in a value, naming its key."""
    hint = hint or "The README's section on replays says what a history holds."
    return invalid(f"{where} {why}", code=code, hint=hint, field=where)


def json_object(line: str) -> Mapping[str, Any]:
    """The object in a line of JSON; no key twice, no NaN."""
    try:
        value = json.loads(line, object_pairs_hook=_pairs, parse_constant=_constant)
    except (ValueError, RecursionError) as problem:
        raise wrong("it", f"is not a JSON object ({str(problem)[:120]})") from None
    return mapping(value, "it")


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {double[:80]!r} is there twice")
    return made


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def only_keys(value: Mapping[str, Any], known: Sequence[str], where: str = "it") -> None:
    """Refuse what is not known, by name."""
    for key in value:
        if key not in known:
            hint = f"Known here: {', '.join(known)}."
            raise wrong(where, f"has the key {key[:80]!r}, which is unknown", Code.UNKNOWN_KEY, hint)


def mapping(value: object, where: str) -> Mapping[str, Any]:
    """An object."""
    if not isinstance(value, dict):
        raise wrong(where, "must be an object, such as {...}")
    return value


def listed(value: object, where: str) -> list[Any]:
    """A list of a sensible length."""
    if not isinstance(value, list) or len(value) > LIST_MAX:
        raise wrong(where, f"must be a list of at most {LIST_MAX} entries")
    return value


def text(value: object, where: str, *, empty: bool = False) -> str:
    """A name that can be printed; `empty`: also none."""
    if not isinstance(value, str) or len(value) > TEXT_MAX or not value.isprintable() or not (value or empty):
        raise wrong(where, f"must be text of {0 if empty else 1} to {TEXT_MAX} printable characters")
    return value


def texts(value: object, where: str) -> tuple[str, ...]:
    """A list of names."""
    return tuple(text(entry, where) for entry in listed(value, where))


def flag(value: object, where: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise wrong(where, "must be true or false")
    return value


def whole(value: object, where: str, low: int, high: int) -> int:
    """A whole number within bounds."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise wrong(where, f"must be {low}" if low == high else f"must be a whole number from {low} to {high}")
    return value


def duration_ms(value: object, where: str, low_ms: int, high_ms: int = MOMENT_MS_MAX) -> int:
    """A time such as "1h30m", or a whole number of seconds, within bounds."""
    if value is None:
        raise wrong(where, "is missing", hint="Write 90s, 10m or 1h30m.")
    found = parse_duration_ms(value, where)
    if not low_ms <= found <= high_ms:
        raise wrong(where, f"must be from {duration(low_ms)} to {duration(high_ms)}")
    return found


def when_ms(value: object, where: str, begins_ms: int) -> int:
    """A moment, or a time since the history begins."""
    if isinstance(value, str) and "-" in value:
        return moment_ms(value, where)
    if value is None:
        raise wrong(where, "is missing", hint='Write "2026-10-01T08:00:00Z", or "1h30m" since the history begins.')
    return begins_ms + parse_duration_ms(value, where)


def moment_ms(value: object, where: str) -> int:
    """RFC 3339, from 1970 on, to the millisecond."""
    found_ms = -1
    if isinstance(value, str) and _MOMENT.fullmatch(value):
        try:
            found_ms = (dt.datetime.fromisoformat(value.upper()) - EPOCH) // dt.timedelta(milliseconds=1)
        except (ValueError, OverflowError):
            found_ms = -1  # February the 30th, or a year that no clock shows
    if not 0 <= found_ms <= MOMENT_MS_MAX:
        raise wrong(where, 'must be a moment from 1970 on, such as "2026-10-01T08:00:00Z"')
    return found_ms


def amounts(value: Mapping[str, Any], within: str = "") -> Resources:
    """What `cpus`, `memory`, `disk` and `gpus` say; `gpus` is a number, or numbers by model."""
    found = [
        ("cpu", "", parse_milli(value.get("cpus", 0), f"{within}cpus")),
        ("memory", "", parse_bytes(value.get("memory", 0), f"{within}memory")),
        ("disk", "", parse_bytes(value.get("disk", 0), f"{within}disk")),
    ]
    gpus = value.get("gpus", 0)
    by_model = gpus if isinstance(gpus, dict) else {"": gpus}
    for model, count in by_model.items():
        found.append(("gpu", text(model, f"{within}gpus", empty=True), parse_milli(count, f"{within}gpus")))
    return resources(*found)
