"""Taking machines back: for the first of a hub's own jobs that has no room at home, which guests end, and at what price.

Only guests that may be preempted; those whose end loses least work first, and no more than are needed. What is lost is
the time since they started, times the dominant share of the agent that they hold: they are requeued and begin again.
At each agent one such claim a round, so that each is decided on what the one before left. Deliberately not here: who
is first (`kernels/fill.py`), and the grace that victims get (their hub's reclaim time, `federation/service`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from federation.domain.ids import AgentKey
from federation.scheduling.kernels.gangs import place_packed, place_spread, tasks_at
from federation.scheduling.kernels.room import Nodes
from federation.scheduling.kernels.round import PLACED, Round
from federation.scheduling.plan import Placement, Preemption
from federation.scheduling.rows import LeaseRow, QueuedJob
from federation.scheduling.state import PlannerState

PREEMPTIONS_MAX = 100
"""Claims made in one round."""
VICTIMS_MAX = 1_000
"""Guests looked at for one claim, those that lose least."""


class _Guest(NamedTuple):
    lost_ms: int
    lease_id: str
    row: LeaseRow


def preemptions(state: PlannerState, of: Round, placements: tuple[Placement, ...]) -> tuple[Preemption, ...]:
    """The claims of a round; `of` is as the kernels left it, `placements` is what it starts."""
    guests = _guests(state, of.limits.now_ms)
    made: list[Preemption] = []
    for agent in sorted(guests):
        at = int(of.work.blocked[agent])
        if at < 0 or of.out.status[at] == PLACED:
            continue
        job = state.job(state.queue.id_at(int(of.line.order[at])))
        room = _left(state, state.fleet.keys[agent], placements)
        claim = _claim(state, of, job, room, agent, guests[agent])
        if claim is not None:
            made.append(claim)
        if len(made) == PREEMPTIONS_MAX:
            break
    return tuple(made)


def _guests(state: PlannerState, now_ms: int) -> dict[int, list[_Guest]]:
    """By agent, the guests that may be preempted and were not told to end yet; least lost work first, then by id."""
    ending = {victim for claim in state.claims.values() for victim in claim.victims}
    guests: dict[int, list[_Guest]] = {}
    for row in state.preemptible.values():
        agent = state.fleet.index.get(row.key)
        if agent is not None and row.home_hub != row.key[0] and row.lease_id not in ending:
            guests.setdefault(agent, []).append(_Guest(_lost_ms(state, agent, row, now_ms), row.lease_id, row))
    return {agent: sorted(of_agent)[:VICTIMS_MAX] for agent, of_agent in guests.items()}


def _lost_ms(state: PlannerState, agent: int, row: LeaseRow, now_ms: int) -> int:
    """What ending a run loses: ms since it started, times the dominant share of its agent; rounded up."""
    if not row.started_ms:
        return 0
    offered, shapes = state.fleet.agent_offered[agent], state.fleet.shapes
    held = shapes.totals[shapes.id_of(row.per_task)] * len(row.nodes)
    shares = [int(amount) / int(there) for amount, there in zip(held, offered, strict=True) if there]
    return math.ceil(max(0, now_ms - row.started_ms) * max([0.0, *shares]))


def _left(state: PlannerState, key: AgentKey, placements: tuple[Placement, ...]) -> Nodes:
    """What the round leaves at an agent. Not the kernels' own room: there nodes may be kept free for this very job."""
    room = state.fleet.room()
    for entry in placements:
        if entry.key == key and entry.job_id not in state.claims:
            state.fleet.hold_in(room, key, entry.nodes, state.job(entry.job_id).per_task, entry.devices or None, 1)
    return room


def _claim(
    state: PlannerState, of: Round, job: QueuedJob, room: Nodes, agent: int, guests: list[_Guest]
) -> Preemption | None:
    """The fewest guests, cheapest first, whose room with what is free is enough; None when all of it is not."""
    fleet = state.fleet
    key, shape = fleet.keys[agent], fleet.shapes.id_of(job.per_task)
    span = (int(fleet.first[agent]), int(fleet.first[agent + 1]))

    def hold(guest: _Guest, sign: int) -> None:
        fleet.hold_in(room, key, guest.row.nodes, guest.row.per_task, guest.row.devices or None, sign)

    def enough() -> bool:
        return bool(tasks_at(room, fleet.shapes.arrays, shape, *span, job.replicas) >= job.replicas)

    victims: list[_Guest] = []
    for guest in guests:
        if enough():
            break
        hold(guest, -1)
        victims.append(guest)
    if not victims or not enough():
        return None
    for guest in reversed(victims[:]):
        hold(guest, 1)
        if enough():
            victims.remove(guest)
        else:
            hold(guest, -1)
    nodes, devices = _placed(of, room, shape, span, job)
    names = tuple(fleet.node_names[node] for node in nodes)
    places = tuple(
        tuple(device - int(fleet.device_first[node]) for device in held)
        for node, held in zip(nodes, devices, strict=True)
        if held
    )
    lost_ms = sum(guest.lost_ms for guest in victims)
    return Preemption(job.job_id, key, names, tuple(guest.lease_id for guest in victims), lost_ms, places)


def _placed(
    of: Round, room: Nodes, shape: int, span: tuple[int, int], job: QueuedJob
) -> tuple[list[int], list[list[int]]]:
    """Where the tasks will go: node rows, and device rows of each."""
    wanted = int(of.shapes.devices[shape])
    nodes, devices = np.zeros(job.replicas, np.int64), np.zeros(job.replicas * wanted, np.int64)
    place = place_spread if job.spread else place_packed
    place(room, of.shapes, of.taste, shape, span, nodes, devices)
    return nodes.tolist(), devices.reshape(job.replicas, wanted).tolist()
