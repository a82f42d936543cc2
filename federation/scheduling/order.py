"""Whose turn it is: class first, then dominant-resource fairness hub -> project -> user, then first come.

Progressive filling (Ghodsi et al., Dominant Resource Fairness, NSDI'11, with the hierarchy of Bhattacharya et al.,
SoCC'13): again and again the hub with the smallest dominant share, in it the project, in it the user, and of that
user's jobs the first that can be placed. A job that cannot be placed now holds up nobody, not even the same user's
later jobs. Equal shares: who has used less so far, then by name. Room only shrinks within a round, so a sort of job
that did not fit is not tried again. Deliberately not here: where a gang goes (`placing.py`).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from federation.scheduling.plan import DemandKey
from federation.scheduling.policy import Policy
from federation.scheduling.rows import OwnerKey
from federation.scheduling.state import Level, PlannerState, Tally, levels_of

Rank = tuple[float, float, str]
"""(dominant share, dominant use so far, name); the smallest goes next."""
Place = Callable[[DemandKey, str], bool]
"""Try to place a job of this sort with this id."""


def dominant_share(held: Mapping[str, int], offered: Mapping[str, int], weight: float) -> float:
    """The largest of held / offered over resources, divided by `weight`. What nobody offers does not count.

    >>> dominant_share({"cpu": 1, "memory": 4}, {"cpu": 9, "memory": 18}, 1.0) == 4 / 18
    True
    """
    largest = 0.0
    for name, amount in held.items():
        total = offered.get(name, 0)
        if total > 0:
            largest = max(largest, float(amount) / float(total))
    return largest / weight


class Shares:
    """Shares while a round goes on: what leases hold, and what the round has placed so far."""

    def __init__(self, state: PlannerState, policy: Policy) -> None:
        self._state = state
        self._policy = policy
        self._placed: dict[Level, Tally] = {}

    def rank(self, level: Level) -> Rank:
        """Where `level` stands among its siblings."""
        state, weight = self._state, self._weight(level)
        held = self._placed.get(level) or state.held.get(level, {})
        used = state.used.get(level, {})
        return (
            dominant_share(held, state.offered_totals, weight),
            dominant_share(used, state.offered_totals, weight),
            level[-1],
        )

    def add(self, owner: OwnerKey, key: DemandKey) -> None:
        """A gang of this sort was placed for `owner`."""
        for level in levels_of(owner):
            tally = self._placed.get(level)
            if tally is None:
                tally = self._placed[level] = dict(self._state.held.get(level, {}))
            for entry in key.per_task:
                tally[entry.name] = tally.get(entry.name, 0) + entry.amount * key.replicas

    def _weight(self, level: Level) -> float:
        if len(level) == 1:
            return self._policy.hub_weights.get(level[0], 1.0)
        if len(level) == 2:
            return self._policy.project_weights.get((level[0], level[1]), 1.0)
        return self._policy.user_weights.get((level[0], level[1], level[2]), 1.0)


@dataclass(slots=True)
class _Branch:
    """A hub or a project with somebody in it who has jobs left: a heap of its children by rank."""

    level: Level
    children: list[tuple[Rank, _Branch | _User]] = field(default_factory=list)


@dataclass(slots=True)
class _User:
    """A user with jobs left: a heap of (seq, job id, sort, place in its line)."""

    level: OwnerKey
    heads: list[tuple[int, str, DemandKey, int]]


def fill(state: PlannerState, shares: Shares, dead: set[DemandKey], place: Place, most: int) -> None:
    """Call `place` for one job after the other in the order of this module, until `most` are placed or none is left.

    `dead` are sorts known not to fit; those that `place` refuses are added to it.
    """
    placed = 0
    for priority in sorted(state.queue):
        hubs = _tree(state, shares, priority, dead)
        while hubs and placed < most:
            _, hub = heapq.heappop(hubs)
            assert isinstance(hub, _Branch)
            _, project = heapq.heappop(hub.children)
            assert isinstance(project, _Branch)
            _, user = heapq.heappop(project.children)
            assert isinstance(user, _User)
            sort = _place_first(state, priority, user, dead, place)
            if sort is not None:
                placed += 1
                shares.add(user.level, sort)
            if user.heads:
                heapq.heappush(project.children, (shares.rank(user.level), user))
            if project.children:
                heapq.heappush(hub.children, (shares.rank(project.level), project))
            if hub.children:
                heapq.heappush(hubs, (shares.rank(hub.level), hub))


def _tree(
    state: PlannerState, shares: Shares, priority: int, dead: set[DemandKey]
) -> list[tuple[Rank, _Branch | _User]]:
    """The heap of hubs whose jobs of this class may still fit."""
    branches: dict[Level, _Branch] = {}
    for owner, lines in state.queue[priority].items():
        heads = [(*line[0], key, 0) for key, line in lines.items() if key not in dead]
        if not heads:
            continue
        heapq.heapify(heads)
        hub_level, project_level, _ = levels_of(owner)
        project = branches.get(project_level)
        if project is None:
            project = branches[project_level] = _Branch(project_level)
            branches.setdefault(hub_level, _Branch(hub_level)).children.append((shares.rank(project_level), project))
        project.children.append((shares.rank(owner), _User(owner, heads)))
    for branch in branches.values():
        heapq.heapify(branch.children)
    hubs: list[tuple[Rank, _Branch | _User]] = [
        (shares.rank(level), branch) for level, branch in branches.items() if len(level) == 1
    ]
    heapq.heapify(hubs)
    return hubs


def _place_first(
    state: PlannerState, priority: int, user: _User, dead: set[DemandKey], place: Place
) -> DemandKey | None:
    """Place the first of the user's jobs that can be; its sort, or None when none can."""
    while user.heads:
        _, job_id, key, at = heapq.heappop(user.heads)
        if key in dead:
            continue
        if not place(key, job_id):
            dead.add(key)
            continue
        line = state.queue[priority][user.level][key]
        if at + 1 < len(line):
            heapq.heappush(user.heads, (*line[at + 1], key, at + 1))
        return key
    return None
