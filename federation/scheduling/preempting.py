"""Taking machines back: for a hub's own jobs that have no room at home, which guests end, where, and at what price.

Only guests that may be preempted; those whose end loses least work first, and no more than are needed. What is lost is
the time since they started, times the dominant share of the agent that they hold: they are requeued and begin again. Of
the hub's agents that could give the room the cheapest does, equals in their order. At each agent one such claim a round,
so that each is decided on what the one before left. Deliberately not here: who found no room (`kernels/blocked.py`), and
the grace that victims get (their hub's reclaim time, `federation/service`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from federation.domain.ids import AgentKey
from federation.scheduling.kernels.gangs import place_packed, place_spread, tasks_at
from federation.scheduling.kernels.room import Int64, Nodes
from federation.scheduling.kernels.round import PLACED, Round
from federation.scheduling.plan import Placement, Preemption
from federation.scheduling.quotas import count_in, within
from federation.scheduling.rows import LeaseRow, QueuedJob
from federation.scheduling.state import PlannerState
from federation.scheduling.windows import Course, Running, running

PREEMPTIONS_MAX = 100
"""Claims made in one round."""
VICTIMS_MAX = 1_000
"""Guests looked at for one claim, those that lose least."""


class _Guest(NamedTuple):
    lost_ms: int
    lease_id: str
    row: LeaseRow


def preemptions(
    state: PlannerState, of: Round, held: Mapping[int, Course], placements: tuple[Placement, ...]
) -> tuple[Preemption, ...]:
    """The claims of a round; `of` is as the kernels left it, `placements` is what it starts, `held` what windows hold."""
    hubs = np.flatnonzero(of.work.blocked.max(axis=1, initial=-1) >= 0).tolist() if state.preemptible else []
    ending = {victim for claim in state.claims.values() for victim in claim.victims} if hubs else set()
    made: list[Preemption] = []
    site: _Site | None = None
    for hub in hubs:
        guests = _guests_of_hub(state, hub, ending, of.limits.now_ms)
        if not guests:
            continue
        site = site or _Site(state, of, held, placements)
        for at, reach in zip(of.work.blocked[hub].tolist(), of.work.blocked_reach[hub].tolist(), strict=True):
            if at < 0 or of.out.status[at] == PLACED or len(made) == PREEMPTIONS_MAX:
                continue
            user, need = _asked(of, at)
            found = _cheapest(site, at, reach, guests) if within(of.quotas, of.levels.parent, user, need) else None
            if found is not None:
                count_in(of.quotas, of.levels.parent, user, need)
                made.append(found)
                del guests[state.fleet.index[found.key]]
    return tuple(made)


def _asked(of: Round, at: int) -> tuple[int, Int64]:
    """(the level of the user, (T,) what the gang takes) of the job at place `at`."""
    slot = of.line.order[at]
    sort = of.sorts.pair_sort[of.line.pair[slot]]
    need: Int64 = of.totals[of.sorts.shape[sort]] * of.sorts.replicas[sort]
    return int(of.line.owner[slot]), need


def _cheapest(site: _Site, at: int, reach: int, guests: dict[int, list[_Guest]]) -> Preemption | None:
    """The claim that loses least for the job at place `at`, over the agents where it may run; None when there is none.

    Its data may come from `reach` ms away.
    """
    state, of = site.state, site.of
    slot = int(of.line.order[at])
    sort = int(of.sorts.pair_sort[of.line.pair[slot]])
    job, moves = state.job(state.queue.id_at(slot)), of.sorts.moves
    best: Preemption | None = None
    for agent, of_agent in sorted(guests.items()):
        far = moves.route[sort] >= 0 and moves.transfer[moves.route[sort], agent] > reach
        claim = None if of.sorts.steps[sort, agent] or far else _claim(site, job, agent, of_agent)
        if claim is not None and (best is None or claim.lost_ms < best.lost_ms):
            best = claim
    return best


def _guests_of_hub(state: PlannerState, hub: int, ending: set[str], now_ms: int) -> dict[int, list[_Guest]]:
    """By agent, the guests that may be preempted and were not told to end yet; least lost work first, then by id."""
    fleet, hub_id = state.fleet, state.fleet.hub_ids[hub]
    guests: dict[int, list[_Guest]] = {}
    for agent in range(int(fleet.hub_first[hub]), int(fleet.hub_first[hub + 1])):
        there = [
            _Guest(_lost_ms(state, agent, row, now_ms), row.lease_id, row)
            for row in state.preemptible.get(fleet.keys[agent], {}).values()
            if row.home_hub != hub_id and row.lease_id not in ending
        ]
        if there:
            guests[agent] = sorted(there)[:VICTIMS_MAX]
    return guests


def _lost_ms(state: PlannerState, agent: int, row: LeaseRow, now_ms: int) -> int:
    """What ending a run loses: ms since it started, times the dominant share of its agent; rounded up."""
    if not row.started_ms:
        return 0
    offered, shapes = state.fleet.agent_offered[agent], state.fleet.shapes
    held = shapes.totals[shapes.id_of(row.per_task)] * len(row.nodes)
    shares = [int(amount) / int(there) for amount, there in zip(held, offered, strict=True) if there]
    return math.ceil(max(0, now_ms - row.started_ms) * max([0.0, *shares]))


class _Site:
    """What the round leaves. Not the kernels' own room: there nodes may be kept free for the very job that claims."""

    def __init__(
        self, state: PlannerState, of: Round, held: Mapping[int, Course], placements: tuple[Placement, ...]
    ) -> None:
        self.state, self.of = state, of
        self.room = state.fleet.room()
        self.bare = state.fleet.room()
        """The same when all guests have gone, where that was asked for."""
        self._held, self._bare_held = dict(held), {agent: course.copy() for agent, course in held.items()}
        self._stale = {(bare, agent) for bare in (False, True) for agent in held}
        """Of rooms of agents that have windows (whether bare, agent): what moved there is not in them yet."""
        self._bared: set[int] = set()
        self._started: dict[AgentKey, list[Placement]] = {}
        for entry in placements:
            self._started.setdefault(entry.key, []).append(entry)

    def look_at(self, agent: int, guests: Iterable[_Guest]) -> None:
        """Bring an agent's room up to date, the first time that it is looked at."""
        if agent in self._bared:
            return
        self._bared.add(agent)
        state, key = self.state, self.state.fleet.keys[agent]
        for entry in self._started.get(key, ()):
            job = state.job(entry.job_id)
            until_ms = self.of.limits.now_ms + job.runtime_limit_ms + entry.transfer_ms
            run = Running(until_ms, entry.nodes, job.per_task, entry.devices, job.window)
            for room in (self.room, self.bare):
                self._hold(room, key, run, 1)
        for guest in guests:
            self.hold(self.bare, guest, -1)

    def hold(self, room: Nodes, guest: _Guest, sign: int) -> None:
        """A guest holds its room (1), or has gone (-1)."""
        self._hold(room, guest.row.key, running(guest.row), sign)

    def _hold(self, room: Nodes, key: AgentKey, run: Running, sign: int) -> None:
        agent = self.state.fleet.index[key]
        if agent not in self._held:
            self.state.fleet.hold_in(room, key, run.nodes, run.per_task, run.devices or None, sign)
            return
        course = (self._bare_held if room is self.bare else self._held)[agent]
        if sign > 0:
            course.start(run)
        else:
            course.stop(run)
        self._stale.add((room is self.bare, agent))

    def show(self, room: Nodes, agent: int) -> None:
        """Make the room of an agent that has windows what no window holds: looked at when it is asked for.

        Many guests go and come between two questions, and each answer goes through all that runs there.
        """
        stale = (room is self.bare, agent)
        if stale in self._stale:
            self._stale.remove(stale)
            course = (self._bare_held if room is self.bare else self._held)[agent]
            course.write(course.open(course.now_ms), room)

    def come_back(self, agent: int, guests: Iterable[_Guest]) -> None:
        """Guests that had left the room are there again; the room itself is as it was before."""
        if agent in self._held:
            for guest in guests:
                self.hold(self.room, guest, 1)

    def fits(self, room: Nodes, job: QueuedJob, agent: int) -> bool:
        """Whether there is room for a job."""
        self.show(room, agent)
        fleet = self.state.fleet
        begin, end = int(fleet.first[agent]), int(fleet.first[agent + 1])
        shape = fleet.shapes.id_of(job.per_task)
        return bool(tasks_at(room, fleet.shapes.arrays, shape, begin, end, job.replicas) >= job.replicas)


def _claim(site: _Site, job: QueuedJob, agent: int, guests: list[_Guest]) -> Preemption | None:
    """The fewest guests, cheapest first, whose room with what is free is enough; None when all of it is not."""
    site.look_at(agent, guests)
    if not site.fits(site.bare, job, agent) or site.fits(site.room, job, agent):
        return None
    fleet, room = site.state.fleet, site.room
    span = (int(fleet.first[agent]), int(fleet.first[agent + 1]))
    devices = (int(fleet.device_first[span[0]]), int(fleet.device_first[span[1]]))
    before = room.free[span[0] : span[1]].copy(), room.device_free[devices[0] : devices[1]].copy()
    victims = _victims(site, job, agent, guests)
    site.show(room, agent)
    nodes, places = _placed(site.of, room, fleet.shapes.id_of(job.per_task), span, job)
    room.free[span[0] : span[1]], room.device_free[devices[0] : devices[1]] = before
    site.come_back(agent, victims)
    return Preemption(
        job.job_id,
        fleet.keys[agent],
        tuple(fleet.node_names[node] for node in nodes),
        tuple(guest.lease_id for guest in victims),
        sum(guest.lost_ms for guest in victims),
        tuple(
            tuple(device - int(fleet.device_first[node]) for device in held)
            for node, held in zip(nodes, places, strict=True)
            if held
        ),
    )


def _victims(site: _Site, job: QueuedJob, agent: int, guests: list[_Guest]) -> list[_Guest]:
    """The first guests that are enough, less those that are not needed beside the others; they have left the room."""
    room, gone, enough = site.room, 0, len(guests)
    few = 0  # so many are too few: every guest that goes leaves more room, so the least that is enough can be searched
    while enough - few > 1:
        middle = (few + enough) // 2
        for guest in guests[min(gone, middle) : max(gone, middle)]:
            site.hold(room, guest, -1 if middle > gone else 1)
        gone = middle
        few, enough = (few, middle) if site.fits(room, job, agent) else (middle, enough)
    for guest in guests[min(gone, enough) : max(gone, enough)]:
        site.hold(room, guest, -1 if enough > gone else 1)
    victims = guests[:enough]
    for guest in victims[::-1]:
        site.hold(room, guest, 1)
        if site.fits(room, job, agent):
            victims.remove(guest)
        else:
            site.hold(room, guest, -1)
    return victims


def _placed(
    of: Round, room: Nodes, shape: int, span: tuple[int, int], job: QueuedJob
) -> tuple[list[int], list[list[int]]]:
    """Where the tasks will go: node rows, and device rows of each."""
    wanted = int(of.shapes.devices[shape])
    nodes, devices = np.zeros(job.replicas, np.int64), np.zeros(job.replicas * wanted, np.int64)
    place = place_spread if job.spread else place_packed
    place(room, of.shapes, of.taste, shape, span, nodes, devices)
    return nodes.tolist(), devices.reshape(job.replicas, wanted).tolist()
