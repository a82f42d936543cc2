"""Exact progressive filling: what everybody would get if work could be cut as finely as one likes.

Dominant resource fairness over divisible tasks (Ghodsi et al., NSDI'11), hierarchical (Bhattacharya et al., SoCC'13),
with weights, with past use as a head start that takes no room, and with owners first on their own machines. At each
level the children with the smallest weighted dominant share rise together; whoever needs a resource that is full stops,
and goes on with what does not need it. Rates are constant between events (a job is used up, a sibling is caught up
with, another resource becomes dominant, a resource is full), so every event is computed, none is stepped towards.

With `exact` all numbers are fractions; otherwise floats, which agree to a billionth and are quick enough for hundreds
of hubs. Deliberately not here: machines (room is pooled, nothing is lost to what does not fit), and the planner, of
which nothing is shared.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

Number = Fraction | float
TOLERANCE = 1e-12
"""Two float levels this close, relatively, are one level; fractions are compared exactly."""


@dataclass(slots=True)
class Want:
    """`tasks` equal tasks, each of `need` by resource; used up from the front of its user's list."""

    need: tuple[int, ...]
    tasks: Number


@dataclass(slots=True)
class Sharer:
    """A hub, project or user: children that share what it gets, or what it wants itself."""

    name: str
    weight: Number = 1
    children: list[Sharer] = field(default_factory=list)
    wants: list[Want] = field(default_factory=list)
    used: tuple[Number, ...] = ()
    """By resource, what it held of late, in mean; counts in its share, takes no room."""
    held: list[Number] = field(default_factory=list)
    """By resource, what it got; filled in here."""


@dataclass(slots=True)
class _Pace:
    """How a sharer moves until something happens: along `direction`, at most `most` of its own unit."""

    direction: list[Number]
    most: Number
    movers: list[tuple[Sharer, _Pace]]
    want: Want | None = None
    rise: Number = 0
    """Of its level, a unit; 0: it gets this much for nothing, because another resource rules its share."""
    level: Number = 0
    """Its weighted dominant share when it sets out."""


def fill(
    hubs: Sequence[Sharer],
    offered: Sequence[int],
    own: Mapping[str, Sequence[int]] | None = None,
    *,
    exact: bool = True,
) -> list[Number]:
    """Share out `offered` among `hubs`, in place (`held` at every level); returns what is left of each resource.

    `own` says what the machines of each hub offer, their sum being `offered`; given, each hub's own work goes first
    there, and what is left of all is shared by everybody. `held` must be empty or hold amounts that were taken already.
    """
    filling = _Filling(offered, exact)
    for hub in hubs:
        filling.prepare(hub)
    if own is None:
        return filling.among(hubs, [filling.number(amount) for amount in offered])
    left = [filling.number(0) for _ in offered]
    for hub in hubs:
        for at, amount in enumerate(filling.among([hub], [filling.number(amount) for amount in own[hub.name]])):
            left[at] += amount
    for name in own.keys() - {hub.name for hub in hubs}:
        left = [before + amount for before, amount in zip(left, own[name], strict=True)]
    return filling.among(hubs, left)


def share_of(sharer: Sharer, offered: Sequence[int]) -> Number:
    """Its dominant share of what it got, weight and past use apart."""
    return max((held / total for held, total in zip(sharer.held, offered, strict=True) if total), default=0)


class _Filling:
    """One sharing-out: the totals that shares are parts of, and the kind of number."""

    def __init__(self, offered: Sequence[int], exact: bool) -> None:
        self.exact = exact
        self.offered = [self.number(amount) for amount in offered]
        self.close = 0 if exact else TOLERANCE
        self.full: set[int] = set()

    def number(self, of: Number | int) -> Number:
        """`of` as this filling counts."""
        return Fraction(of) if self.exact else float(of)

    def prepare(self, sharer: Sharer) -> None:
        """Numbers of this filling's kind, everywhere."""
        sharer.weight = self.number(sharer.weight)
        sharer.held = [self.number(amount) for amount in sharer.held or [0] * len(self.offered)]
        sharer.used = tuple(self.number(amount) for amount in sharer.used or [0] * len(self.offered))
        for want in sharer.wants:
            want.tasks = self.number(want.tasks)
        for child in sharer.children:
            self.prepare(child)

    def among(self, hubs: Sequence[Sharer], left: list[Number]) -> list[Number]:
        """Fill `left` until nobody can take any more of it."""
        self.full = {at for at, amount in enumerate(left) if amount <= 0}
        while self._until_full(hubs, left):
            pass
        return left

    def _until_full(self, hubs: Sequence[Sharer], left: list[Number]) -> bool:
        """Let the lowest hubs rise until a resource is full (True), or nobody moves any more (False).

        Hubs do not meet but in what is left, so each is moved only at its own events.
        """
        paces = {at: pace for at, hub in enumerate(hubs) if (pace := self.pace(hub)) is not None}
        waiting = [(pace.level, at) for at, pace in paces.items()]
        heapq.heapify(waiting)
        ends: list[tuple[Number, int]] = []
        since: dict[int, Number] = {}
        total = [self.number(0) for _ in left]
        level = self.number(0)
        while waiting or ends:
            if waiting and (not ends or waiting[0][0] <= ends[0][0]):
                to, at = heapq.heappop(waiting)
                to = max(to, level)
                begins = True
            else:
                to, at = heapq.heappop(ends)
                begins = False
            room = self._room(left, total, to - level)
            if room is not None:
                for mover, start in since.items():
                    self._rise_to(hubs[mover], paces[mover], level + room - start)
                return True
            level = to
            if not begins:
                pace = paces[at]
                self.advance(hubs[at], pace, pace.most)
                _add(total, pace.direction, -1 / pace.rise)
                del since[at]
                following = self.pace(hubs[at])
                if following is None:
                    continue
                paces[at] = following
            blocked = self._jumps(hubs[at], paces, at, left)
            if blocked:
                for mover, start in since.items():
                    self._rise_to(hubs[mover], paces[mover], level - start)
                return True
            if at in paces:
                since[at] = level
                _add(total, paces[at].direction, 1 / paces[at].rise)
                heapq.heappush(ends, (level + paces[at].most * paces[at].rise, at))
        return False

    def _jumps(self, hub: Sharer, paces: dict[int, _Pace], at: int, left: list[Number]) -> bool:
        """Take at once what costs `hub` no share; True when that filled a resource."""
        while paces[at].rise == 0:
            pace = paces[at]
            most, filled = pace.most, -1
            for resource, rate in enumerate(pace.direction):
                if rate > 0 and rate * most >= left[resource]:
                    most, filled = left[resource] / rate, resource
            self.advance(hub, pace, most)
            _add(left, pace.direction, -most)
            if filled >= 0:
                left[filled] = self.number(0)
                self.full.add(filled)
                return True
            following = self.pace(hub)
            if following is None:
                del paces[at]
                return False
            paces[at] = following
        return False

    def _room(self, left: list[Number], total: list[Number], rise: Number) -> Number | None:
        """Take `rise` levels of `total` from `left`; how far it goes when that fills a resource, else None."""
        far, filled = rise, -1
        for at, rate in enumerate(total):
            if rate > 0 and at not in self.full and rate * far >= left[at]:
                far, filled = left[at] / rate, at
        _add(left, total, -far)
        if filled < 0:
            return None
        left[filled] = self.number(0)
        self.full.add(filled)
        return far

    def _rise_to(self, hub: Sharer, pace: _Pace, levels: Number) -> None:
        self.advance(hub, pace, min(pace.most, levels / pace.rise))

    def _shares(self, sharer: Sharer) -> list[Number]:
        return [
            (held + used) / total if total else held * 0
            for held, used, total in zip(sharer.held, sharer.used, self.offered, strict=True)
        ]

    def pace(self, sharer: Sharer) -> _Pace | None:
        """How it moves next; None when it wants nothing that is not full."""
        if not sharer.children:
            for want in sharer.wants:
                if want.tasks > 0 and not self._blocked(want):
                    return self._limited(sharer, _Pace([self.number(need) for need in want.need], want.tasks, [], want))
            return None
        moving = [(child, pace) for child in sharer.children if (pace := self.pace(child)) is not None]
        if not moving:
            return None
        lowest = min([pace.level for _, pace in moving])
        near = lowest + lowest * self.close
        movers = [mover for mover in moving if mover[1].level <= near]
        for mover in movers:
            pace = mover[1]
            if pace.rise == 0:
                whole = _Pace([rate * pace.most for rate in pace.direction], self.number(1), [mover])
                return self._limited(sharer, whole)
        together = [self.number(0) for _ in self.offered]
        for _, pace in movers:
            _add(together, pace.direction, 1 / pace.rise)
        most = min([pace.most * pace.rise for _, pace in movers])
        ahead = [pace.level for _, pace in moving if pace.level > near]
        if ahead:
            most = min(most, min(ahead) - lowest)
        return self._limited(sharer, _Pace(together, most, movers))

    def _blocked(self, want: Want) -> bool:
        return bool(self.full) and any(want.need[at] for at in self.full)

    def _limited(self, sharer: Sharer, pace: _Pace) -> _Pace:
        """`pace` with its level and rise, and cut where another resource becomes the dominant one."""
        shares = self._shares(sharer)
        top = max(shares)
        near = top - top * self.close
        rates = [rate / total if total else rate * 0 for rate, total in zip(pace.direction, self.offered, strict=True)]
        slope = max([rate for rate, share in zip(rates, shares, strict=True) if share >= near])
        for rate, share in zip(rates, shares, strict=True):
            if share < near and rate > slope:
                pace.most = min(pace.most, (top - share) / (rate - slope))
        pace.rise = slope / sharer.weight
        pace.level = top / sharer.weight
        return pace

    def advance(self, sharer: Sharer, pace: _Pace, by: Number) -> None:
        """Move it, and all below it, by so many units of its pace."""
        _add(sharer.held, pace.direction, by)
        if pace.want is not None:
            done = pace.want.tasks - by
            pace.want.tasks = done if done > self.close * pace.want.tasks else self.number(0)
        for child, below in pace.movers:
            self.advance(child, below, by / below.rise if below.rise else by * below.most)


def _add(to: list[Number], vector: Sequence[Number], times: Number) -> None:
    for at, rate in enumerate(vector):
        if rate:
            to[at] += rate * times
