"""Who is next in fairness: decayed use, weights that grow with what a hub gives, and ranks of dominant shares.

A share is the largest part of any resource that somebody holds now and has used of late, divided by a weight: dominant
resource fairness (Ghodsi et al., NSDI'11), asked at each level of hub -> project -> user (Bhattacharya et al.,
SoCC'13). Use of the past fades with a half-life, as in the fair-share schedulers of computing centres; it is counted as
the mean amount held over that window, so that it can be added to what is held now: who held 10 GPUs all week and gave
them back stands where somebody stands who holds 10 GPUs.

All sums of use are integers in buckets of an eighth of the half-life, so that neither the order of the rows nor the
round in which they came matters, and what was added row by row equals what is rebuilt. `rank` is the plain rule and
`ranks` the same for many at once, with bit-identical results. Deliberately not here: what anybody holds now
(`state.py`), and the queue (`order.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from federation.errors import invalid
from federation.scheduling.rows import OwnerKey, UsageRow

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Level = tuple[str, ...]
"""(hub,), (hub, project) or (hub, project, user)."""
History = dict[str, dict[int, int]]
"""By resource name and bucket: amount x ms."""

DAY_MS = 86_400_000
HALF_LIFE_MS = 7 * DAY_MS
HALF_LIFE_MS_MIN = 1_000
HALF_LIFE_MS_MAX = 366 * DAY_MS
BUCKETS_PER_HALF_LIFE = 8
HALF_LIVES_KEPT = 12
"""What is older counts less than a four-thousandth, and is forgotten."""
BUCKETS_KEPT = BUCKETS_PER_HALF_LIFE * HALF_LIVES_KEPT
GAIN_MAX = 1_000.0

_EIGHTHS = tuple(
    float.fromhex(text)
    for text in (
        "0x1.0000000000000p+0", "0x1.d5818dcfba487p-1", "0x1.ae89f995ad3adp-1", "0x1.8ace5422aa0dbp-1",
        "0x1.6a09e667f3bcdp-1", "0x1.4bfdad5362a27p-1", "0x1.306fe0a31b715p-1", "0x1.172b83c7d517bp-1",
    )
)  # fmt: skip
"""2^(-k/8), written out: a library's `pow` may differ in the last bit from machine to machine."""
DECAY = tuple(
    math.ldexp(_EIGHTHS[age % BUCKETS_PER_HALF_LIFE], -(age // BUCKETS_PER_HALF_LIFE)) for age in range(BUCKETS_KEPT)
)
"""By age in buckets: what is left of use, 2^(-age/8)."""
_LN_2 = float.fromhex("0x1.62e42fefa39efp-1")


@dataclass(frozen=True, slots=True)
class FairnessTerms:
    """An operator's settings of fairness. Errors: out of range."""

    half_life_ms: int = HALF_LIFE_MS
    """After this long use counts half."""
    gain: float = 1.0
    """How much weight a hub gains by giving: with 1, who gives as much as an average hub offers has twice the weight."""
    cap: float = 1.0
    """More than so many average hubs' offers, given, gain nothing more."""

    def __post_init__(self) -> None:
        if type(self.half_life_ms) is not int or not HALF_LIFE_MS_MIN <= self.half_life_ms <= HALF_LIFE_MS_MAX:
            raise invalid(
                f"half_life_ms of {self.half_life_ms} is out of range",
                hint=f"Use {HALF_LIFE_MS_MIN} to {HALF_LIFE_MS_MAX} milliseconds.",
                field="half_life_ms",
            )
        for what in ("gain", "cap"):
            value = getattr(self, what)
            if not (math.isfinite(value) and 0 <= value <= GAIN_MAX):
                raise invalid(f"{what} of {value} is out of range", hint=f"Use 0 to {GAIN_MAX:g}.", field=what)


class Rank(NamedTuple):
    """Where somebody stands among their siblings; the smallest goes next."""

    share: float
    """Weighted dominant share of what is held now and the mean that was held of late."""
    used_share: float
    """Of the latter alone: of equals, who used less goes first."""
    name: str


def dominant_share(
    held: Mapping[str, int], used: Mapping[str, float], offered: Mapping[str, int], weight: float
) -> float:
    """The largest over resources of (held + used) / offered, divided by `weight`; what nobody offers does not count.

    `held` and `offered` are amounts in base units, `used` means of amounts over the window of the decay, `weight` is
    above 0. The order of operations is that of `ranks`, and of any kernel: float(held) + used, / float(offered), the
    largest, / weight.

    >>> dominant_share({"cpu": 1, "memory": 4}, {}, {"cpu": 9, "memory": 18}, 1.0) == 4 / 18
    True
    """
    largest = 0.0
    for name, total in offered.items():
        if total > 0:
            largest = max(largest, (float(held.get(name, 0)) + used.get(name, 0.0)) / float(total))
    return largest / weight


def rank(
    held: Mapping[str, int], used: Mapping[str, float], offered: Mapping[str, int], weight: float, name: str
) -> Rank:
    """Where one level stands: see `dominant_share` for the arguments. `name` is its own, the last of its path."""
    return Rank(dominant_share(held, used, offered, weight), dominant_share({}, used, offered, weight), name)


def ranks(held: Int64, used: Float64, offered: Int64, weights: Float64) -> tuple[Float64, Float64]:
    """`rank` of many levels at once: (shares, used shares), both float64 (L,); ties go on by name.

    `held` int64 (L, R) amounts held now; `used` float64 (L, R) means over the window, 0 or more; `offered` int64 (R,)
    what the federation offers, columns with 0 or less do not count; `weights` float64 (L,) above 0. Every value is
    bit-identical to the scalar rule's.
    """
    there = offered > 0
    total = offered[there].astype(np.float64)
    past = used[:, there]
    shares = ((held[:, there].astype(np.float64) + past) / total).max(axis=1, initial=0.0) / weights
    used_shares = (past / total).max(axis=1, initial=0.0) / weights
    return shares, used_shares


def contributed_share(contributed: Mapping[str, float], offered: Mapping[str, int], hubs: int) -> float:
    """What a hub gives, in average hubs: the dominant share of it in what the federation offers, times `hubs`.

    `contributed` is the mean amount that others held of the hub's machines (`UseLedger.contributed`). 1 means that
    others held as much of it, all week, as an average one of the `hubs` members offers.
    """
    return dominant_share({}, contributed, offered, 1.0) * hubs


def contribution_weight(base: float, contributed: float, terms: FairnessTerms) -> float:
    """A hub's weight: base x (1 + gain x min(cap, contributed)): never below `base`, and it never falls when a hub gives more.

    `base` is the operator's own weight for the hub, above 0; `contributed` is `contributed_share`, 0 or more. With
    the default terms a weight grows up to the double.

    >>> contribution_weight(2.0, 0.5, FairnessTerms())
    3.0
    """
    return base * (1.0 + terms.gain * min(terms.cap, contributed))


class UseLedger:
    """What each hub, project and user has used, and what each hub gave to others, fading with a half-life.

    Use counts from the bucket in which its stretch ended; what ends after now counts as if it ended now. Memory: at
    most `BUCKETS_KEPT` numbers for each resource of each (user, host hub) that is known, and of each project and hub;
    `forget` drops what is older. Amounts are whole and 0 or more (checked at the door).
    """

    __slots__ = ("_contributed", "_forgot", "_known", "_levels", "_users", "half_life_ms")

    def __init__(self, half_life_ms: int = HALF_LIFE_MS) -> None:
        self.half_life_ms = half_life_ms
        self._users: dict[OwnerKey, dict[str, History]] = {}
        """By the hub on whose machines it was."""
        self._levels: dict[Level, History] = {}
        """Hubs and projects."""
        self._contributed: dict[str, History] = {}
        """By host hub: what others used there."""
        self._known: dict[tuple[str, ...], tuple[int, dict[str, float]]] = {}
        """Means computed before, with the bucket of their now."""
        self._forgot = -1

    @property
    def bucket_ms(self) -> int:
        """How long a bucket is."""
        return self.half_life_ms // BUCKETS_PER_HALF_LIFE

    def add(self, row: UsageRow) -> None:
        """Count one closed stretch of use. Late or early, the sums are the same."""
        owner, host = row.owner, row.host_hub
        hub, project = owner[:1], owner[:2]
        bucket = row.end_ms // self.bucket_ms
        for name, amount_ms in row.used:
            if amount_ms:
                _add(self._users.setdefault(owner, {}).setdefault(host, {}), name, bucket, amount_ms)
                _add(self._levels.setdefault(project, {}), name, bucket, amount_ms)
                _add(self._levels.setdefault(hub, {}), name, bucket, amount_ms)
                if host and host != row.home_hub:
                    _add(self._contributed.setdefault(host, {}), name, bucket, amount_ms)
        for level in (hub, project, owner, ("", host, "", "")):
            self._known.pop(level, None)

    def decayed(self, level: Level, now_ms: int) -> dict[str, float]:
        """The mean amount of each resource that `level` held over the window that the decay looks at.

        sum over buckets, oldest first, of amount_ms x 2^(-age/8), divided by the mean age half_life / ln 2. Somebody
        who held 4,000 millicores all the time has used close to 4,000. Names ascend; what is 0 is left out. The
        answer is remembered: do not change it.
        """
        known = self._known.get(level)  # asked before the history is put together: most levels have not moved
        if known is not None and known[0] == now_ms // self.bucket_ms:
            return known[1]
        return self._mean(level, self._history(level), now_ms)

    def contributed(self, hub_id: str, now_ms: int) -> dict[str, float]:
        """The mean amount of each resource that others held of the machines of `hub_id`, as in `decayed`."""
        return self._mean(("", hub_id, "", ""), self._contributed.get(hub_id, {}), now_ms)

    def levels(self) -> tuple[Level, ...]:
        """All that have used anything that is not forgotten, ascending."""
        return tuple(sorted([*self._levels, *self._users]))

    def forget(self, now_ms: int) -> None:
        """Drop what counts no more at `now_ms`. Answers do not change; cheap when the bucket is the same as before."""
        oldest = now_ms // self.bucket_ms - BUCKETS_KEPT + 1
        if oldest == self._forgot:
            return
        self._forgot = oldest
        for owner, hosts in list(self._users.items()):
            _drop(hosts, oldest)
            if not hosts:
                del self._users[owner]
        _drop(self._levels, oldest)
        _drop(self._contributed, oldest)
        self._known.clear()

    def rows(self) -> tuple[UsageRow, ...]:
        """Few rows that give an equal ledger of the same half-life, ascending by owner, host and time."""
        found = []
        for owner, hosts in sorted(self._users.items()):
            for host, history in sorted(hosts.items()):
                for bucket in sorted({bucket for amounts in history.values() for bucket in amounts}):
                    used = tuple((name, history[name][bucket]) for name in sorted(history) if bucket in history[name])
                    found.append(UsageRow(*owner, used, bucket * self.bucket_ms, host))
        return tuple(found)

    def with_half_life(self, half_life_ms: int) -> UseLedger:
        """This ledger, or one with another half-life; times are known to a bucket of the former one."""
        if half_life_ms == self.half_life_ms:
            return self
        return UseLedger.of(self.rows(), half_life_ms)

    @classmethod
    def of(cls, rows: Iterable[UsageRow], half_life_ms: int = HALF_LIFE_MS) -> UseLedger:
        """The ledger of `rows`, in whatever order."""
        ledger = cls(half_life_ms)
        for row in rows:
            ledger.add(row)
        return ledger

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, UseLedger):
            return NotImplemented
        return (self.half_life_ms, self._users) == (other.half_life_ms, other._users)

    __hash__ = None  # type: ignore[assignment]

    def _history(self, level: Level) -> History:
        if len(level) < 3:
            return self._levels.get(level, {})
        hosts = self._users.get((level[0], level[1], level[2]), {})
        if len(hosts) == 1:
            return next(iter(hosts.values()))
        total: History = {}
        for history in hosts.values():
            for name, amounts in history.items():
                for bucket, amount_ms in amounts.items():
                    _add(total, name, bucket, amount_ms)
        return total

    def _mean(self, of: tuple[str, ...], history: History, now_ms: int) -> dict[str, float]:
        now = now_ms // self.bucket_ms
        known = self._known.get(of)
        if known is not None and known[0] == now:
            return known[1]
        window_ms = float(self.bucket_ms * BUCKETS_PER_HALF_LIFE) / _LN_2
        means: dict[str, float] = {}
        for name, amounts in sorted(history.items()):
            weighed = 0.0
            for bucket, amount_ms in sorted(amounts.items()):
                age = max(0, now - bucket)
                if age < BUCKETS_KEPT:
                    weighed += float(amount_ms) * DECAY[age]
            if weighed > 0.0:
                means[name] = weighed / window_ms
        if history:
            self._known[of] = (now, means)
        return means


def _add(history: History, name: str, bucket: int, amount_ms: int) -> None:
    amounts = history.setdefault(name, {})
    amounts[bucket] = amounts.get(bucket, 0) + amount_ms


def _drop(histories: dict[str, History] | dict[Level, History], oldest: int) -> None:
    """Take out buckets before `oldest`, and what is empty then."""
    for key, history in list(histories.items()):
        for name, amounts in list(history.items()):
            for bucket in [bucket for bucket in amounts if bucket < oldest]:
                del amounts[bucket]
            if not amounts:
                del history[name]
        if not history:
            del histories[key]  # type: ignore[arg-type]
