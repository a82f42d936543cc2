"""Hubs, projects and users by number: what each holds and has used, as the arrays that turns are taken by.

Numbers are given in order of appearance and kept; places of names break ties, so numbers never decide anything.
Deliberately not here: how use fades (`fairness.py`), and taking turns (`kernels/turns.py`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from federation.scheduling.fairness import UseLedger, contributed_share, contribution_weight, dominant_share
from federation.scheduling.fleet import COLUMNS, Fleet, grown
from federation.scheduling.kernels.room import Float64, Int32, Int64
from federation.scheduling.kernels.turns import Levels, Tree
from federation.scheduling.policy import Policy
from federation.scheduling.quotas import cap_row
from federation.scheduling.rows import OwnerKey

Level = tuple[str, ...]
"""(hub,), (hub, project) or (hub, project, user)."""


def levels_of(owner: OwnerKey) -> tuple[Level, Level, Level]:
    """The hub, the project and the user of `owner`."""
    return (owner[:1], owner[:2], owner)


class _Past(NamedTuple):
    """What use of late makes of the levels, remembered."""

    bucket: tuple[int, int]
    """(half-life, which bucket it is)."""
    fleet: Fleet
    policy: Policy
    used: Float64
    weight: Float64
    use: Float64


class LevelTable:
    """Levels (L) by number, and what they hold (L, T)."""

    def __init__(self) -> None:
        self.ids: dict[Level, int] = {}
        self.held: Int64 = np.zeros((0, len(COLUMNS)), np.int64)
        self._parent: Int32 = np.zeros(0, np.int32)
        self._names = NamePlaces()
        self._name: Int64 = np.zeros(0, np.int64)
        self._named = 0
        self._hubs: Int32 = np.zeros(0, np.int32)
        self._hubs_of: Fleet | None = None
        self._past: _Past | None = None
        self._changed: set[Level] = set()
        """For whom use was posted since."""
        self._paths: list[Level] = []
        self._caps: Int64 = np.zeros((0, len(COLUMNS)), np.int64)
        self._caps_of: Policy | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def id_of(self, level: Level) -> int:
        """The number of a level; its parents get theirs first."""
        known = self.ids.get(level)
        if known is not None:
            return known
        parent = self.id_of(level[:-1]) if len(level) > 1 else -1
        known = self.ids[level] = len(self.ids)
        if known >= len(self.held):
            room = max(64, 2 * len(self.held))
            self.held = grown(self.held, room)
            self._parent = grown(self._parent, room)
        self._parent[known] = parent
        self._paths.append(level)
        return known

    def owner_of(self, level: int) -> OwnerKey:
        """The path of a user's number."""
        hub, project, user = self._paths[level]
        return (hub, project, user)

    @property
    def parents(self) -> Int32:
        """(L,) each level's parent, -1 for a hub."""
        return self._parent[: len(self)]

    def caps(self, policy: Policy) -> Int64:
        """(L, T) how much each level may hold at once; computed for new levels only."""
        before = len(self._caps) if self._caps_of is policy else 0
        if before < len(self) or self._caps_of is not policy:
            self._caps, self._caps_of = grown(self._caps[:before], len(self)), policy
            for at in range(before, len(self)):
                self._caps[at] = cap_row(policy, self._paths[at])
        return self._caps

    def hold(self, owner: OwnerKey, totals: Int64) -> None:
        """`totals` int64 (T,) more is held; negative: less."""
        level = self.id_of(owner)
        while level >= 0:
            self.held[level] += totals
            level = int(self._parent[level])

    def arrays(self, fleet: Fleet, ledger: UseLedger, policy: Policy, now_ms: int) -> Levels:
        """Where everybody stands at `now_ms`: the largest of (held + used of late) / offered, over the weight."""
        past = self._past_at(fleet, ledger, policy, now_ms)
        offered = fleet.offered_totals
        share = np.zeros(past.used.shape)
        np.divide(self.held[: len(self)] + past.used, offered, out=share, where=offered > 0)
        return Levels(
            share=share,
            weight=past.weight,
            use=past.use,
            name=self._name_places(),
            parent=self._parent[: len(self)],
            rank=share.max(axis=1, initial=0.0) / past.weight,
        )

    def use_posted(self, owner: OwnerKey, host_hub: str) -> None:
        """A stretch of `owner`'s use of the machines of `host_hub` was posted."""
        self._changed.update(levels_of(owner))
        self._changed.add((host_hub,))

    def _past_at(self, fleet: Fleet, ledger: UseLedger, policy: Policy, now_ms: int) -> _Past:
        """What use of late makes of everybody: computed again for whom use was posted, for all when its decay moved on."""
        bucket, known = (ledger.half_life_ms, now_ms // ledger.bucket_ms), self._past
        if known is None or known.bucket != bucket or known.fleet is not fleet or known.policy is not policy:
            nobody = np.zeros(0)
            known = _Past(bucket, fleet, policy, np.zeros((0, len(COLUMNS))), nobody, nobody)
        elif not self._changed and len(known.weight) == len(self):
            return known
        count, before = len(self), len(known.weight)
        past = _Past(
            bucket, fleet, policy, grown(known.used, count), grown(known.weight, count), grown(known.use, count)
        )
        offered, hubs = fleet.offered_by_name(), len(fleet.hub_ids)
        changed = {at for level in self._changed if (at := self.ids.get(level)) is not None}
        for at in sorted(changed | set(range(before, count))):
            level = self._paths[at]
            means = ledger.decayed(level, now_ms)
            past.used[at] = [means.get(name, 0.0) for name in COLUMNS]
            past.weight[at] = self._weight(level, ledger, policy, now_ms, (offered, hubs))
            past.use[at] = dominant_share({}, means, offered, 1.0) / past.weight[at]
        self._changed.clear()
        self._past = past
        return past

    def share_of(self, level: Level, fleet: Fleet, ledger: UseLedger, policy: Policy, now_ms: int) -> float:
        """The weighted dominant share of a level, held and in use of late; 0 for one that nobody knows."""
        at = self.ids.get(level)
        return 0.0 if at is None else float(self.arrays(fleet, ledger, policy, now_ms).rank[at])

    def hub_rows(self, fleet: Fleet) -> Int32:
        """(L,) each level's home hub in the fleet, -1 where it has no agents."""
        before = len(self._hubs) if self._hubs_of is fleet else 0
        if before < len(self) or self._hubs_of is not fleet:
            new = [fleet.hub_row.get(level[0], -1) for level in self._paths[before:]]
            self._hubs = np.concatenate((self._hubs[:before], np.asarray(new, np.int32)))
            self._hubs_of = fleet
        return self._hubs

    def _weight(
        self, level: Level, ledger: UseLedger, policy: Policy, now_ms: int, there: tuple[dict[str, int], int]
    ) -> float:
        """The weight of a level; `there` is what is offered by name, and by how many hubs."""
        if len(level) == 1:
            base = policy.hub_weights.get(level[0], 1.0)
            given = ledger.contributed(level[0], now_ms)
            share = contributed_share(given, *there) if given else 0.0
            return contribution_weight(base, share, policy.fairness)
        if len(level) == 2:
            return policy.project_weights.get((level[0], level[1]), 1.0)
        return policy.user_weights.get((level[0], level[1], level[2]), 1.0)

    def _name_places(self) -> Int64:
        """(L,) places of the levels' names."""
        before, count = self._named, len(self)
        if before < count:
            if self._names.add({level[-1] for level in self._paths[before:]}):
                before = 0
            if count > len(self._name):
                self._name = grown(self._name, 2 * count)
            of = self._names.places
            self._name[before:count] = [of[level[-1]] for level in self._paths[before:]]
            self._named = count
        return self._name[:count]


class NamePlaces:
    """Names by numbers that ascend as they do, with gaps: a new name takes one in between, and the others keep theirs."""

    END = 2**62
    FEW = 8
    """More than one new name in so many: all get places anew, which is quicker."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}
        self._sorted: list[str] = []

    def add(self, names: Iterable[str]) -> bool:
        """Some names more, or the same; whether those that were there have other places now."""
        new = sorted(name for name in names if name not in self.places)
        if len(new) * self.FEW > len(self._sorted):
            return self._spread_out(new)
        for at, name in enumerate(new):
            after = bisect_left(self._sorted, name)
            low = self.places[self._sorted[after - 1]] if after else 0
            high = self.places[self._sorted[after]] if after < len(self._sorted) else self.END
            if high - low < 2:
                return self._spread_out(new[at:])
            self._sorted.insert(after, name)
            self.places[name] = (low + high) // 2
        return False

    def _spread_out(self, new: list[str]) -> bool:
        """All names at equal distances."""
        if not new:
            return False
        self._sorted = sorted([*self._sorted, *new])
        step = self.END // (len(self._sorted) + 1)
        self.places = {name: place * step for place, name in enumerate(self._sorted, 1)}
        return True


def tree_for(levels: int) -> Tree:
    """Room for the heaps of so many levels."""
    return Tree(np.zeros(levels + 1, np.int32), np.zeros(levels + 2, np.int32), np.zeros(levels + 1, np.int32))
