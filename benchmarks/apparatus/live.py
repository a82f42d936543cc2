"""The planner that is shipped, on a synthetic fleet: its rows, and decisions one by one through the kernels of a round.

A round decides on thousands of jobs and gives its room up at its end; here room comes back after every decision, so
that a loop can go on for ever. Choosing the agent and taking the place are the round's own (`kernels/choosing.py`), on
arrays that the planner made itself. Deliberately not here: clocks and figures.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from benchmarks.apparatus import fleets
from benchmarks.apparatus.decisions import ASK, DECIDE, FILL, HEAD, REFUSED, TASKS, Ring, Work, World, ring
from federation.domain.hub import HubState, LinkState, Node
from federation.domain.ids import AgentId, AgentKey, HubId
from federation.domain.quantities import Resources, resources
from federation.scheduling import Delta, PlannerState, Policy
from federation.scheduling.kernels.choosing import choose, memo_row, take_place
from federation.scheduling.kernels.index import best_node, touch
from federation.scheduling.kernels.jit import inline, lean
from federation.scheduling.kernels.room import Int64, give_back
from federation.scheduling.kernels.round import Round
from federation.scheduling.rounds import round_of
from federation.scheduling.rows import AgentRow, QueuedJob

NOBODY = "nobody"
"""The home hub of jobs that like all hubs alike."""


class Live(NamedTuple):
    """A round of the planner that never ends."""

    of: Round
    sort: Int64
    """(S,) a shape's sort of job."""
    pair: Int64
    """(S, A + 1) its pair of sort and liking, by home hub; the last: none. (S, 1) where nobody has a home."""


def live(world: World, fleet: fleets.Fleet, demand: fleets.Demand, *, homes: bool) -> Live:
    """The planner on `fleet`, idle until `stand` is called, with the tables of `world`.

    Errors: ValueError where a fleet so small lacks one of the models, for then the planner numbers them otherwise.
    """
    names, shapes = hub_names(len(world.agents)), shapes_of(demand)
    homes_of_jobs = [*names, NOBODY] if homes else [NOBODY]
    jobs = [_job(per_task, home, shape) for shape, per_task in enumerate(shapes) for home in homes_of_jobs]
    state = PlannerState()
    state.apply(Delta(agents=agents_of(fleet, names), queued=tuple(jobs)))
    if [state.fleet.kinds.get(model(kind)) for kind in range(len(state.fleet.kinds))] != list(
        state.fleet.kinds.values()
    ):
        raise ValueError(f"{len(world.offered)} nodes are too few to have every model")
    of = round_of(state, Policy(), 0)
    pair = np.asarray([state.queue.pair_at(state.queue.slots[job.job_id]) for job in jobs], np.int64)
    pair = pair.reshape(len(shapes), len(homes_of_jobs))
    taste = of.taste._replace(tables=world.tables)
    return Live(of._replace(taste=taste), of.sorts.pair_sort[pair[:, -1]].astype(np.int64), pair)


def stand(found: Live, world: World) -> None:
    """Begin where `world` stands: the same room, nothing remembered of any shape but where it was looked for."""
    work = found.of.work
    work.room.free[:], work.room.device_free[:] = world.nodes.free, world.nodes.device_free
    for node in range(len(world.offered)):
        touch(found.of.known, work.room, node)
    work.used[:] = 0
    by_node = np.column_stack(
        (_by_node(world, world.nodes.device_size - world.nodes.device_free), world.offered - world.nodes.free)
    )
    np.add.at(work.used, np.repeat(world.agents, np.diff(world.agent_first)), by_node)
    for agent in range(len(world.agents)):
        weigh_load(found.of, agent)


def _by_node(world: World, of_devices: Int64) -> Int64:
    sums = np.concatenate(([0], np.cumsum(of_devices)))
    found: Int64 = sums[world.nodes.device_first[1:]] - sums[world.nodes.device_first[:-1]]
    return found


# -- decisions --------------------------------------------------------------------------------------------------------
@lean
def weigh_load(of: Round, agent: int) -> None:
    """The agent's dominant load, from what is used."""
    load = 0.0
    for column in range(of.work.used.shape[1]):
        if of.agents.offered[agent, column] > 0:
            load = max(load, float(of.work.used[agent, column]) / float(of.agents.offered[agent, column]))
    of.work.load[agent] = load


@inline
def _ask(found: Live, shape: int, home: int) -> int:
    """The agent that the planner chooses for one task, -1 for none. What it found shut may open again here."""
    agent = choose(found.of, found.pair[shape, home], 1, 0, 0, len(found.of.agents.offered))
    if agent < 0:
        found.of.work.memo.shut[memo_row(found.of.work.memo, found.sort[shape]), :] = 2**62
    return agent


@inline
def _place(found: Live, running: Ring, shape: int, agent: int, slot: int) -> None:
    """One task more at an agent that has room, written down in the ring."""
    of, sort = found.of, found.sort[shape]
    devices = of.shapes.devices[of.sorts.shape[sort]]
    take_place(of, sort, agent, running.node[slot : slot + 1], running.taken[slot, :devices])
    running.shape[slot] = shape


@inline
def _release(found: Live, running: Ring, slot: int) -> None:
    """A task ends."""
    of, node = found.of, running.node[slot]
    shape = of.sorts.shape[found.sort[running.shape[slot]]]
    give_back(of.work.room, of.shapes, shape, node, running.taken[slot])
    touch(of.known, of.work.room, node)
    agent = of.known.layout.agent_of[node]
    for column in range(of.work.used.shape[1]):
        of.work.used[agent, column] -= of.totals[shape, column]
    weigh_load(of, agent)


@lean
def _drive(found: Live, running: Ring, work: Work, how: int, until_milli: int) -> int:
    """All three of below in one kernel: compiling the planner's into each would take three times as long."""
    of, taken, state = found.of, 0, running.state
    for at in range(len(work.shape)):
        if how == FILL and (taken >= until_milli or state[TASKS] == len(running.shape)):
            return at
        shape = work.shape[at]
        agent = _ask(found, shape, work.home[at])
        if how == ASK:
            row = of.sorts.shape[found.sort[shape]]
            return (
                int(best_node(of.known, of.work.room, of.shapes, of.taste.tables, row, agent).node)
                if agent >= 0
                else -1
            )
        if agent < 0:
            state[REFUSED] += how == DECIDE
            continue
        slot = state[HEAD] if how == DECIDE else state[TASKS]
        if how == DECIDE:
            _release(found, running, slot)
            state[HEAD] = (slot + 1) % state[TASKS]
        else:
            taken += of.totals[of.sorts.shape[found.sort[shape]], 0]
            state[TASKS] += 1
        _place(found, running, shape, agent, slot)
    return len(work.shape)


def node_of(found: Live, shape: int, home: int) -> int:
    """The node where a task would go, -1 for none."""
    return _drive(found, ring(0), Work(np.asarray([shape]), np.asarray([home])), ASK, 0)


def fill(found: Live, running: Ring, work: Work, until_milli: int) -> int:
    """Place tasks until so many GPU milli are taken, or the ring or the work is at its end; the tasks that came."""
    return _drive(found, running, work, FILL, until_milli)


def decide(found: Live, running: Ring, work: Work) -> None:
    """For each task that comes: a place for it, and the oldest task's room given back."""
    _drive(found, running, work, DECIDE, 0)


# -- rows -------------------------------------------------------------------------------------------------------------
def hub_names(hubs: int) -> list[str]:
    """Ascending."""
    return [f"hub-{at:03d}" for at in range(hubs)]


def _job(per_task: Resources, home: str, shape: int) -> QueuedJob:
    name, user = f"job-{shape}-{home}", f"user-{shape}"
    return QueuedJob(name, 1, home, "p", user, "command", per_task)


def shapes_of(demand: fleets.Demand) -> list[Resources]:
    """The shapes as the door takes them; their kinds are in the model's name."""
    shapes, found = demand.shapes, []
    for row in range(len(shapes.milli)):
        cpu, memory, disk = shapes.need[row].tolist()
        mask = int(shapes.kinds[row])
        kinds = "" if mask == int(fleets.ANY_KIND) else "|".join(model(kind) for kind in range(64) if mask >> kind & 1)
        gpus = int(shapes.milli[row] * shapes.devices[row])
        found.append(resources(("cpu", "", cpu), ("memory", "", memory), ("disk", "", disk), ("gpu", kinds, gpus)))
    return found


def agents_of(fleet: fleets.Fleet, names: list[str]) -> tuple[AgentRow, ...]:
    """One agent a hub, in front of all its machines."""
    rows = []
    for at, name in enumerate(names):
        machines = []
        for node in range(int(fleet.agent_first[at]), int(fleet.agent_first[at + 1])):
            cpu, memory, disk = fleet.offered[node].tolist()
            first, last = int(fleet.nodes.device_first[node]), int(fleet.nodes.device_first[node + 1])
            kind = model(int(fleet.nodes.device_kind[first])) if last > first else ""
            offered = resources(
                ("cpu", "", cpu), ("memory", "", memory), ("disk", "", disk), ("gpu", kind, 1_000 * (last - first))
            )
            machines.append(Node(f"n{node}", offered, offered))
        key: AgentKey = (HubId(name), AgentId("main"))
        rows.append(AgentRow(key, HubState.ACTIVE, LinkState.ONLINE, tuple(machines), ("command",)))
    return tuple(rows)


def model(kind: int) -> str:
    """A model's name."""
    return f"vendor/m{kind}"
