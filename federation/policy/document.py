"""Policy files, TOML or YAML, taken apart strictly: every key is known, every value has its type, or an error names it.

Any text gives a mapping of plain values or a FederationError, never another exception. Not here: what the keys mean.
Amounts are written as in `federation/client/quantity.py`, which a room of the ground may not import.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Hashable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml

from federation.errors import Code, Fault, FederationError

POLICY_BYTES_MAX = 64 * 1024
LIST_LENGTH_MAX = 1_000
TEXT_LENGTH_MAX = 256
AMOUNT_MAX = 2**53
_DURATION = re.compile(r"(?:[0-9]{1,9}(?:ms|s|m|h|d)){1,6}")
_DURATION_PART = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)")
_DURATION_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_BYTES = re.compile(r"([0-9]{1,16})(|k|M|G|T|Ki|Mi|Gi|Ti)")
_BYTES_FACTOR = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}
_PERCENT = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3})?%")


class _StrictLoader(yaml.SafeLoader):
    """YAML's safe values; a key that is given twice is an error, where plain YAML silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value.__class__ is str and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is given twice", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def read_policy_file(path: Path) -> Mapping[str, Any]:
    """The mapping in a `.toml`, `.yaml` or `.yml` file. Raises: FederationError CONFIGURATION_INVALID."""
    try:
        with path.open("rb") as file:
            data = file.read(POLICY_BYTES_MAX + 1)
    except OSError as problem:
        raise bad("the file", f"cannot be read ({problem.strerror})", path=str(path)) from problem
    try:
        return parse_text(data.decode("utf-8"), toml=path.suffix == ".toml")
    except UnicodeDecodeError:
        raise bad("the file", "is not UTF-8", path=str(path)) from None


def parse_text(text: str, *, toml: bool) -> Mapping[str, Any]:
    """The mapping in a text; an empty text is an empty mapping. Raises: FederationError CONFIGURATION_INVALID."""
    if len(text) > POLICY_BYTES_MAX:
        raise bad("the file", f"is larger than {POLICY_BYTES_MAX:,} bytes")
    try:
        document = tomllib.loads(text) if toml else yaml.load(text, _StrictLoader)  # noqa: S506  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError, TypeError, AttributeError, KeyError) as problem:
        # PyYAML lets some of Python's own errors through, for example for a date that is none.
        raise bad("the file", f"is not {'TOML' if toml else 'YAML'} ({str(problem)[:300]})") from problem
    return section(document if document is not None else {}, "the file")


def section(value: object, where: str) -> Mapping[str, Any]:
    """A mapping with text keys."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise bad(where, "must be a table of names and values")
    return value


def only_keys(mapping: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    """Refuse what is not known, by name. Raises: FederationError UNKNOWN_KEY."""
    for key in mapping:
        if key not in known:
            raise FederationError(
                Code.UNKNOWN_KEY,
                f"The policy does not know the key {key[:80]!r} in {where}.",
                fault=Fault.CALLER,
                hint=f"Known here: {', '.join(known)}.",
                metadata={"key": key[:80], "where": where},
            )


def names(value: object, where: str, known: Sequence[str] = ()) -> frozenset[str]:
    """A list of names, of a closed set where `known` is given."""
    if not isinstance(value, list) or len(value) > LIST_LENGTH_MAX:
        raise bad(where, f"must be a list of at most {LIST_LENGTH_MAX} names")
    for item in value:
        if not isinstance(item, str) or not 0 < len(item) <= TEXT_LENGTH_MAX:
            raise bad(where, f"must hold names of 1 to {TEXT_LENGTH_MAX} characters only")
        if known and item not in known:
            raise bad(where, f"does not know {item[:80]!r}; it can be {', '.join(known)}")
    return frozenset(value)


def flag(value: object, where: str) -> bool:
    """True or false, nothing that merely looks like it."""
    if not isinstance(value, bool):
        raise bad(where, "must be true or false")
    return value


def whole(value: object, where: str, low: int, high: int) -> int:
    """A whole number within bounds."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise bad(where, f"must be a whole number from {low} to {high}")
    return value


def duration_ms(value: object, where: str, low_ms: int, high_ms: int) -> int:
    """`90s`, `10m`, `1h30m`, `7d` in milliseconds, within bounds."""
    found = -1
    if isinstance(value, str) and _DURATION.fullmatch(value):
        found = sum(int(count) * _DURATION_MS[unit] for count, unit in _DURATION_PART.findall(value))
    if not low_ms <= found <= high_ms:
        raise bad(where, f"must be a time such as 90s, 10m or 12h, from {_time(low_ms)} to {_time(high_ms)}")
    return found


def _time(ms: int) -> str:
    """In the largest unit in which it is whole."""
    unit, length_ms = max((each for each in _DURATION_MS.items() if not ms % each[1]), key=lambda each: each[1])
    return f"{ms // length_ms}{unit}" if ms else "0s"


def share(value: object, where: str, unit: int, *, is_bytes: bool = False) -> Fraction | int:
    """A part of what there is, or an amount of it.

    `"75%"` is a part (0 to 1, exact). A number is an amount in units of `unit` base units (1.5 cpus are 1,500
    millicores); bytes are written `48Gi`, or as a whole number.
    """
    if isinstance(value, str) and _PERCENT.fullmatch(value):
        part = Fraction(value[:-1]) / 100
        if part <= 1:
            return part
    elif is_bytes and isinstance(value, str) and (match := _BYTES.fullmatch(value)):
        amount = int(match[1]) * _BYTES_FACTOR[match[2]]
        if amount <= AMOUNT_MAX:
            return amount
    elif isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= AMOUNT_MAX:
        exact = Fraction(str(value)) * unit
        if exact <= AMOUNT_MAX and exact.denominator == 1:
            return int(exact)
    kind = 'bytes such as "48Gi"' if is_bytes else f"an amount of at most {len(str(unit)) - 1} decimals"
    raise bad(where, f'must be a part such as "75%", or {kind}, and not negative')


def bad(where: str, why: str, **metadata: str) -> FederationError:
    """An error in a policy, naming the place."""
    return FederationError(
        Code.CONFIGURATION_INVALID,
        f"The policy is wrong: {where} {why}.",
        fault=Fault.CALLER,
        hint="Correct the policy file; the one before stays in force until then.",
        metadata={"where": where, **metadata},
    )
