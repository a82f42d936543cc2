"""The federation's policy file: the order of the queue, and what hubs offer. TOML or YAML, every key known.

```yaml
version: 1
order:
  weights:                            # who is not named has 1; twice the weight means twice the share
    hubs: {cairo: 2}
    projects: {cairo: {vision: 1.5}}  # by home hub
    users: {cairo: {vision: {amina: 2}}}
  half_life: 7d                       # after this long, use counts half
  contribution: {gain: 1, cap: 1}     # how much weight a hub gains by giving, and up to how many average hubs' offers
  within_user: age                    # age | short_first: which of one user's jobs goes first
  backfill: conservative              # conservative | easy | none: who may not be delayed by those that come later
  promise_after: 4h                   # who has waited so long is promised a start; 0s: at once
  placements_max: 10000               # jobs decided on in one round
quotas:                               # how much may be held at once; "*": whoever is not named; default: no end
  hubs: {cairo: {gpus: 16, memory: 4Ti}}
  projects: {cairo: {vision: {gpus: 8}, "*": {gpus: 2}}}
  users: {cairo: {vision: {amina: {gpus: 4}}}, "*": {"*": {"*": {cpus: 64}}}}
hubs:                                 # by hub, each as in its own share policy file (federation/policy/share.py)
  cairo: {offer: {cpus: "75%"}, accept: {max_runtime: 12h}, reclaim_s: 60}
```
`brhub simulate` tries a file on a history, and the control plane takes the same file (`[scheduling] policy`). There only
`order` and `quotas` have effect: what a hub offers is its own word, so its part of `hubs` goes into that hub's share policy file.
Deliberately not here: what the order means (`federation/scheduling/policy.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

from federation.domain.hub import HUBS_MAX
from federation.domain.quantities import CPU, DEVICE_MILLI, DISK, GPU, MEMORY
from federation.errors import Code, Fault, FederationError
from federation.policy.document import (
    TEXT_LENGTH_MAX,
    bad,
    duration_ms,
    only_keys,
    read_policy_file,
    section,
    share,
    whole,
)
from federation.policy.share import SharePolicy, share_policy
from federation.scheduling import Policy, fairness
from federation.scheduling.fairness import FairnessTerms
from federation.scheduling.policy import (
    ANYBODY,
    PLACEMENTS_MAX,
    PROMISE_AFTER_MS_MAX,
    RESERVATIONS_MAX,
    WEIGHT_MAX,
    Order,
)

VERSION = 1
DAY_MS = 86_400_000
_WEIGHTS = {"hubs": ("hub_weights", 1), "projects": ("project_weights", 2), "users": ("user_weights", 3)}
"""By key: the field of `Policy`, and how many names lead to a weight."""
_QUOTAS = {"hubs": 1, "projects": 2, "users": 3}
_AMOUNTS = {"cpus": (CPU, 1_000), "memory": (MEMORY, 1), "disk": (DISK, 1), "gpus": (GPU, DEVICE_MILLI)}
_NAMES = {"hubs": "hub", "projects": "hub -> project", "users": "hub -> project -> user"}
"""What leads to a weight or to amounts, by key; the hub of a project or a user is its home."""
T = TypeVar("T")
_KEYS = ("weights", "half_life", "contribution", "within_user", "backfill", "promise_after", "placements_max")
BACKFILL = {"conservative": RESERVATIONS_MAX, "easy": 1, "none": 0}
"""At each agent: how many starts are promised that later jobs may not delay."""


@dataclass(frozen=True, slots=True)
class FederationPolicy:
    """What a policy file says."""

    order: Policy = field(default_factory=Policy)
    hubs: Mapping[str, SharePolicy] = field(default_factory=dict)
    """By hub; of those that the file does not name it says nothing."""


def load_policy(path: Path) -> FederationPolicy:
    """The policy in a file. Raises: FederationError CONFIGURATION_INVALID or UNKNOWN_KEY, naming the place."""
    document = policy_document(path)
    try:
        return federation_policy(document)
    except FederationError as error:
        raise _in(repr(str(path)), error, path=str(path)) from error


def policy_document(path: Path) -> Mapping[str, Any]:
    """What is written in a policy file, its keys unchecked. Raises: FederationError CONFIGURATION_INVALID."""
    try:
        return read_policy_file(path)
    except FederationError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise _in(repr(str(path)), error, path=str(path)) from error
        raise FederationError(
            Code.CONFIGURATION_INVALID,
            f"No such file: {str(path)!r}",
            fault=Fault.CALLER,
            hint="To write one, copy infra/policy.example.yaml.",
            metadata=error.metadata,
        ) from None


def federation_policy(document: Mapping[str, Any]) -> FederationPolicy:
    """The policy in a mapping. Raises: as `load_policy`."""
    only_keys(document, ("version", "order", "quotas", "hubs"), "the file")
    whole(document.get("version", VERSION), "version", VERSION, VERSION)
    hubs = section(document.get("hubs", {}), "hubs")
    if len(hubs) > HUBS_MAX:
        raise bad("hubs", f"names more than {HUBS_MAX} hubs")
    return FederationPolicy(
        _order(section(document.get("order", {}), "order"), _quotas(section(document.get("quotas", {}), "quotas"))),
        {_name(hub_id, "hubs"): _of_hub(hub_id, value) for hub_id, value in hubs.items()},
    )


def _of_hub(hub_id: str, value: object) -> SharePolicy:
    try:
        return share_policy(section(value, "it"))
    except FederationError as error:
        raise _in(f"hubs.{hub_id[:80]}", error, hub_id=hub_id[:80]) from None


def _in(place: str, error: FederationError, **metadata: str) -> FederationError:
    """The same error, with where it is."""
    metadata = {**error.metadata, **metadata}
    hint = error.hint if error.code is Code.UNKNOWN_KEY else "Correct the file."
    return FederationError(error.code, f"{place}: {error.message}", fault=error.fault, hint=hint, metadata=metadata)


def _order(document: Mapping[str, Any], quotas: Mapping[tuple[str, ...], Mapping[str, int]]) -> Policy:
    only_keys(document, _KEYS, "order")
    given: dict[str, Any] = {}
    weights = section(document.get("weights", {}), "order.weights")
    only_keys(weights, tuple(_WEIGHTS), "order.weights")
    for key, (name, depth) in _WEIGHTS.items():
        if key in weights:
            found = _by_level(weights[key], depth, (f"order.weights.{key}",), _weight)
            given[name] = {level if depth > 1 else level[0]: weight for level, weight in found.items()}
    if "within_user" in document:
        given["order"] = Order(_chosen(document["within_user"], "order.within_user", tuple(Order)))
    if "backfill" in document:
        given["reservations"] = BACKFILL[_chosen(document["backfill"], "order.backfill", tuple(BACKFILL))]
    if "promise_after" in document:
        given["promise_after_ms"] = duration_ms(
            document["promise_after"], "order.promise_after", 0, PROMISE_AFTER_MS_MAX
        )
    if "placements_max" in document:
        given["placements_max"] = whole(document["placements_max"], "order.placements_max", 1, PLACEMENTS_MAX)
    return Policy(fairness=_fairness(document), quotas=quotas, **given)


def _quotas(document: Mapping[str, Any]) -> dict[tuple[str, ...], dict[str, int]]:
    """By level, amounts by resource name."""
    only_keys(document, tuple(_QUOTAS), "quotas")
    quotas: dict[tuple[str, ...], dict[str, int]] = {}
    for key, depth in _QUOTAS.items():
        found = _by_level(document.get(key, {}), depth, (f"quotas.{key}",), _quota)
        for level in found:
            if ANYBODY in level[:-1] and set(level) != {ANYBODY}:
                raise bad(f"quotas.{key}.{'.'.join(level)}", f'has a "{ANYBODY}" that is neither last nor everywhere')
        quotas |= found
    return quotas


def _quota(value: object, where: str) -> dict[str, int]:
    amounts = _table(value, where)
    only_keys(amounts, tuple(_AMOUNTS), where)
    return {_AMOUNTS[key][0]: _amount(of, f"{where}.{key}", _AMOUNTS[key][1]) for key, of in amounts.items()}


def _amount(value: object, where: str, unit: int) -> int:
    """An amount as in `share`; a part is refused, for there is no telling of what."""
    found: Fraction | int | None = None
    with contextlib.suppress(FederationError):  # what an amount must be is said below
        found = share(value, where, unit, is_bytes=unit == 1)
    if not isinstance(found, int):
        kind = 'bytes such as "48Gi"' if unit == 1 else f"an amount of at most {len(str(unit)) - 1} decimals"
        raise bad(where, f"must be {kind}, not a part, and not negative")
    return found


def _fairness(document: Mapping[str, Any]) -> FairnessTerms:
    terms: dict[str, Any] = {}
    if "half_life" in document:
        low_ms, high_ms = fairness.HALF_LIFE_MS_MIN, fairness.HALF_LIFE_MS_MAX
        terms["half_life_ms"] = duration_ms(document["half_life"], "order.half_life", low_ms, high_ms)
    contribution = section(document.get("contribution", {}), "order.contribution")
    only_keys(contribution, ("gain", "cap"), "order.contribution")
    for key, value in contribution.items():
        terms[key] = _number(value, f"order.contribution.{key}", fairness.GAIN_MAX)
    return FairnessTerms(**terms)


def _chosen(value: object, where: str, choices: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise bad(where, f"must be one of {', '.join(choices)}")
    return value


def _number(value: object, where: str, most: float, *, above_zero: bool = False) -> float:
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not 0 <= value <= most
        or (above_zero and not value)
    ):
        low = "above 0, up" if above_zero else "from 0"
        raise bad(where, f"must be a number {low} to {most:,.0f}")
    return float(value)


def _weight(value: object, where: str) -> float:
    return _number(value, where, WEIGHT_MAX, above_zero=True)


def _by_level(
    value: object, depth: int, path: tuple[str, ...], read: Callable[[object, str], T]
) -> dict[tuple[str, ...], T]:
    """What is written below as many names as it is deep, by these; `path` is where it stands, then the names so far."""
    found: dict[tuple[str, ...], T] = {}
    for name, inner in _table(value, ".".join(path)).items():
        here = (*path, _name(name, ".".join(path)))
        found |= {here[1:]: read(inner, ".".join(here))} if depth == 1 else _by_level(inner, depth - 1, here, read)
    return found


def _table(value: object, where: str) -> Mapping[str, Any]:
    """A section of weights or quotas; that a name was left out is the usual mistake, so the error says which lead there."""
    if isinstance(value, Mapping):
        return section(value, where)
    kind = next(each for each in where.split(".") if each in _NAMES)
    leaf = "amounts" if where.startswith("quotas.") else "weight"
    raise bad(where, f"must be a table: {kind} are {_NAMES[kind]} -> {leaf}")


def _name(name: str, where: str) -> str:
    if not 0 < len(name) <= TEXT_LENGTH_MAX or not name.isprintable():
        raise bad(where, f"names {name[:80]!r}; a name has 1 to {TEXT_LENGTH_MAX} printable characters")
    return name
