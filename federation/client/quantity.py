"""How people write amounts: "2Gi", "0.5", "1h30m" become integers in base units.

The one place for it, in the ground, so that job files, agent files and policies read alike. Deliberately not here:
what may be asked for (`federation/domain/job.py`) and how amounts are shown (`federation/cli/show.py`).
"""

from __future__ import annotations

import re
from decimal import Decimal, DecimalException

from federation.errors import Code, invalid

AMOUNT_MAX = 2**53
"""As in `federation/domain/quantities.py`: exact in every language's numbers."""

_SUFFIX = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_BYTES = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)(|k|M|G|T|Ki|Mi|Gi|Ti)")
_DURATION = re.compile(r"(?:[0-9]{1,9}(?:ms|s|m|h|d))+")
_DURATION_PART = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)")
_DURATION_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION_MS_MAX = 10**12


def parse_bytes(value: object, field: str) -> int:
    """Bytes from "2Gi", "500M" or a plain number of bytes.

    Raises: FederationError naming `field`: not a size, or above 8 PiB.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise invalid(f"{field} must be a size such as 2Gi", hint="Write 512Mi, 2Gi or a number of bytes.", field=field)
    if isinstance(value, int) and not 0 <= value <= AMOUNT_MAX:
        raise invalid(f"{field} is out of range", hint=f"Sizes go from 0 to {AMOUNT_MAX} bytes.", field=field)
    found = _BYTES.fullmatch(str(value).strip())
    if not found:
        raise invalid(
            f"{field} {str(value)[:40]!r} is not a size", hint="Write 512Mi, 2Gi or a number of bytes.", field=field
        )
    size = int(Decimal(found[1]) * _SUFFIX[found[2]])
    if size > AMOUNT_MAX:
        raise invalid(
            f"{field} of {size} bytes is absurd",
            code=Code.LIMIT_EXCEEDED,
            hint=f"Sizes go from 0 to {AMOUNT_MAX} bytes.",
            field=field,
        )
    return size


def parse_milli(value: object, field: str, most: int = 10**9) -> int:
    """Thousandths from 2, 0.5 or "0.5"; `most` is in thousandths.

    Raises: FederationError naming `field`: negative, not finite, finer than 1/1000, or above `most`.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise invalid(f"{field} must be a number", hint="Write 2 or 0.5.", field=field)
    if isinstance(value, int) and not 0 <= value <= most:
        raise invalid(f"{field} is out of range", hint=f"It goes from 0 to {most / 1000:g}.", field=field)
    try:
        milli = Decimal(str(value).strip()) * 1000
        fits = milli.is_finite() and 0 <= milli <= most and milli == milli.to_integral_value()
    except DecimalException:
        raise invalid(f"{field} {str(value)[:40]!r} is not a number", hint="Write 2 or 0.5.", field=field) from None
    if not fits:
        raise invalid(
            f"{field} of {str(value)[:40]} is out of range or finer than 1/1000",
            hint=f"It goes from 0 to {most / 1000:g} in steps of 0.001.",
            field=field,
        )
    return int(milli)


def parse_duration_ms(value: object, field: str) -> int:
    """Milliseconds from "90s", "1h30m", "2d", or a whole number of seconds.

    Raises: FederationError naming `field`: not a duration, or above 10^12 ms (31 years).
    """
    if isinstance(value, int) and not isinstance(value, bool):
        total_ms = value * 1000
    elif isinstance(value, str) and len(value) < 64 and _DURATION.fullmatch(value.strip()):
        total_ms = sum(int(number) * _DURATION_MS[unit] for number, unit in _DURATION_PART.findall(value))
    else:
        raise invalid(
            f"{field} {str(value)[:40]!r} is not a duration", hint="Write 90s, 10m, 1h30m or 2d.", field=field
        )
    if not 0 <= total_ms <= _DURATION_MS_MAX:
        raise invalid(f"{field} is out of range", hint="Write 90s, 10m, 1h30m or 2d.", field=field)
    return total_ms
