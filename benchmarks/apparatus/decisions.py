"""Loops of decisions: one task placed, the oldest one released: best fit through the index, plain scans, a bare index.

The plain scans look at every node with nothing remembered; they are what the index is held to, and what it is compared
with. The bare index knows one resource only: nodes in buckets by free CPU. Deliberately not here: the shipped policy
(`live.py`), clocks and figures.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from benchmarks.apparatus.fleets import CPU, Demand, Fleet
from federation.scheduling.fragmentation import Sort, standings, tables_of, typical
from federation.scheduling.indexing import Memory
from federation.scheduling.kernels import index as ix
from federation.scheduling.kernels import room
from federation.scheduling.kernels.jit import kernel, lean
from federation.scheduling.kernels.room import DEVICE_MILLI, Float64, Int64, Nodes, Shapes, UInt64
from federation.scheduling.kernels.score import Tables, gain, phi

DEVICES_MAX = 8
"""Of one task."""
BUCKET_MILLI = 100
HEAD, TASKS, REFUSED = 0, 1, 2
"""Places in `Ring.state`."""
ASK, FILL, DECIDE = 0, 1, 2


class Ring(NamedTuple):
    """Running tasks, the oldest at `state[HEAD]`."""

    shape: Int64
    """(K,)"""
    node: Int64
    """(K,)"""
    taken: Int64
    """(K, DEVICES_MAX) rows of the devices that it holds."""
    state: Int64
    """(3,) the oldest's place, how many there are, how many tasks found no room."""


class Work(NamedTuple):
    """What comes, one after the other."""

    shape: Int64
    """(D,)"""
    home: Int64
    """(D,) the agent that the job likes best, -1: all alike."""


class World(NamedTuple):
    """Everything a decision looks at."""

    nodes: Nodes
    shapes: Shapes
    tables: Tables
    agent_first: Int64
    offered: Int64
    standing: Float64
    agents: Int64
    """(A,)"""


def world(fleet: Fleet, demand: Demand) -> World:
    """A copy of `fleet`, with the score's tables for `demand`."""
    nodes = copy_of(fleet.nodes)
    sizes = np.diff(fleet.agent_first)
    agents = np.arange(len(sizes))
    return World(
        nodes,
        demand.shapes,
        tables(demand),
        fleet.agent_first,
        fleet.offered,
        np.concatenate([standings(int(size)) for size in sizes]),
        agents,
    )


def tables(demand: Demand) -> Tables:
    """The score's tables, from the demand as it is."""
    shapes = demand.shapes
    counts = {
        Sort(int(cpu), int(milli), int(devices), int(kinds)): round(1e6 * weight)
        for cpu, milli, devices, kinds, weight in zip(
            shapes.need[:, CPU], shapes.milli, shapes.devices, shapes.kinds, demand.weights, strict=True
        )
    }
    return tables_of(typical(counts), CPU)


def memory(of: World) -> Memory:
    """An index of the world as it is now, for best fit."""
    made = Memory(ix.BEST_FIT)
    made.reset(of.nodes, of.offered, of.agent_first, of.standing, len(of.shapes.milli))
    return made


def ring(tasks_max: int) -> Ring:
    """Nothing runs."""
    return Ring(
        np.zeros(tasks_max, np.int64),
        np.zeros(tasks_max, np.int64),
        np.zeros((tasks_max, DEVICES_MAX), np.int64),
        np.zeros(3, np.int64),
    )


def copy_of(nodes: Nodes) -> Nodes:
    """Room that may be taken without the original noticing."""
    return nodes._replace(free=nodes.free.copy(), device_free=nodes.device_free.copy())


def copied(of: World, running: Ring) -> tuple[World, Ring]:
    """Both, to go on with on its own."""
    return of._replace(nodes=copy_of(of.nodes)), Ring(*(array.copy() for array in running))


# -- best fit through the index ---------------------------------------------------------------------------------------
@lean
def _drive(index: ix.Index, of: World, running: Ring, work: Work, how: int) -> int:
    """Both of below in one kernel: compiling the index into each would take twice as long."""
    for at in range(len(work.shape)):
        shape, slot = work.shape[at], running.state[HEAD]
        choice = ix.best_of_all(index, of.nodes, of.shapes, of.tables, shape)
        if how == ASK:
            return choice.node
        if choice.node < 0:
            running.state[REFUSED] += 1
            continue
        ix.give_back_at(index, of.nodes, of.shapes, running.shape[slot], running.node[slot], running.taken[slot])
        device = choice.device
        if device >= 0:  # a tighter one may be free now
            device = room.tightest_device(of.nodes, of.shapes, shape, choice.node)
        placed = ix.Choice(choice.score, choice.agent, choice.node, device)
        ix.take_at(index, of.nodes, of.shapes, shape, placed, running.taken[slot])
        running.shape[slot], running.node[slot] = shape, choice.node
        running.state[HEAD] = (slot + 1) % running.state[TASKS]
    return len(work.shape)


def ask(index: ix.Index, of: World, shape: int) -> int:
    """The best fit of all nodes, -1 where there is no room."""
    return _drive(index, of, ring(0), Work(np.asarray([shape]), np.asarray([-1])), ASK)


def decide(index: ix.Index, of: World, running: Ring, work: Work) -> None:
    """For each task that comes: a place for it, and the oldest task's room given back."""
    _drive(index, of, running, work, DECIDE)


# -- plain scans ------------------------------------------------------------------------------------------------------
@lean
def has_room(nodes: Nodes, shapes: Shapes, shape: int, node: int) -> bool:
    """`room.fits`, without its divisions: a plain scan as quick as it can be."""
    for column in range(nodes.free.shape[1]):
        if shapes.need[shape, column] > max(nodes.free[node, column], 0):
            return False
    missing, milli = shapes.devices[shape], shapes.milli[shape]
    for device in range(nodes.device_first[node], nodes.device_first[node + 1]):
        if missing <= 0:
            break
        if nodes.device_free[device] >= milli and (
            shapes.kinds[shape] >> np.uint64(nodes.device_kind[device])
        ) & np.uint64(1):
            missing -= 1
    return bool(missing <= 0)


@lean
def share_left(of: World, shape: int, node: int) -> float:
    """Best fit's measure, from nothing but the node."""
    largest, nodes, shapes = 0.0, of.nodes, of.shapes
    for column in range(nodes.free.shape[1]):
        need = shapes.need[shape, column]
        if need > 0 and of.offered[node, column] > 0:
            left = (nodes.free[node, column] - need) * (1.0 / of.offered[node, column])
            largest = max(largest, left)
    size, idle = 0, 0
    for device in range(nodes.device_first[node], nodes.device_first[node + 1]):
        size += nodes.device_size[device]
        idle += nodes.device_free[device]
    if shapes.devices[shape] > 0:
        return max(largest, float((idle - shapes.milli[shape] * shapes.devices[shape]) * (1.0 / size)))
    return largest + ix.STRANDED if size > 0 else largest


@lean
def scan_best_fit(of: World, shape: int) -> int:
    """The best node of all, -1 where there is no room."""
    found, least = -1, math.inf
    for node in range(of.nodes.free.shape[0]):
        if has_room(of.nodes, of.shapes, shape, node):
            left = share_left(of, shape, node)
            if left < least:
                found, least = node, left
    return found


@kernel
def scan_agent(of: World, shape: int, agent: int) -> tuple[float, int]:
    """(score, node) of the agent's best by the shipped rule; the node is -1 where there is no room."""
    best, found = -math.inf, -1
    for node in range(of.agent_first[agent], of.agent_first[agent + 1]):
        if has_room(of.nodes, of.shapes, shape, node):
            score, _ = gain(of.nodes, of.shapes, of.tables, shape, node, phi(of.nodes, of.tables, node))
            if score - of.standing[node] > best:
                best, found = score - of.standing[node], node
    return best, found


@lean
def load_of(of: World, agent: int) -> float:
    """Dominant share, summed anew."""
    largest, nodes = 0.0, of.nodes
    first, last = of.agent_first[agent], of.agent_first[agent + 1]
    for column in range(nodes.free.shape[1]):
        offered, free = 0, 0
        for node in range(first, last):
            offered += of.offered[node, column]
            free += nodes.free[node, column]
        if offered > 0:
            largest = max(largest, (offered - free) / offered)
    size, idle = 0, 0
    for device in range(nodes.device_first[first], nodes.device_first[last]):
        size += nodes.device_size[device]
        idle += nodes.device_free[device]
    return max(largest, (size - idle) / size) if size > 0 else largest


@kernel
def scan_shipped(of: World, shape: int, home: int) -> int:
    """The agent that the shipped rule chooses; -1 where there is no room."""
    found, level, best, load = -1, 2, -math.inf, math.inf
    for agent in of.agents:
        liking = 0 if agent == home else 1
        score, node = scan_agent(of, shape, agent)
        if node < 0 or liking > level:
            continue
        rank = score if of.shapes.devices[shape] > 0 else 0.0
        here = load_of(of, agent)
        if liking < level or rank > best or (rank == best and here < load):
            found, level, best, load = int(agent), liking, rank, here
    return found


@kernel
def decide_by_scan(rule: int, of: World, running: Ring, work: Work) -> None:
    """As `decide`, with nothing remembered."""
    for at in range(len(work.shape)):
        shape, slot = work.shape[at], running.state[HEAD]
        best_fit = rule == ix.BEST_FIT
        node = scan_best_fit(of, shape) if best_fit else -1
        agent = -1 if best_fit else scan_shipped(of, shape, work.home[at])
        if node < 0 and agent < 0:
            running.state[REFUSED] += 1
            continue
        room.give_back(of.nodes, of.shapes, running.shape[slot], running.node[slot], running.taken[slot])
        if agent >= 0:
            node = scan_agent(of, shape, agent)[1]
        device = -1
        if 0 < of.shapes.milli[shape] < DEVICE_MILLI:
            if rule == ix.BEST_FIT:
                device = room.tightest_device(of.nodes, of.shapes, shape, node)
            else:
                device = gain(of.nodes, of.shapes, of.tables, shape, node, 0.0)[1]
        room.take(of.nodes, of.shapes, shape, node, device, running.taken[slot])
        running.shape[slot], running.node[slot] = shape, node
        running.state[HEAD] = (slot + 1) % running.state[TASKS]


# -- a bare index -----------------------------------------------------------------------------------------------------
class Buckets(NamedTuple):
    """Nodes by free CPU in steps of `BUCKET_MILLI`: doubly linked lists, and a bit for each that is not empty."""

    free: Int64
    """(N,) free CPU, millicores."""
    first: Int64
    """(B,) a bucket's first node, -1 for none."""
    following: Int64
    """(N,)"""
    before: Int64
    """(N,)"""
    filled: UInt64
    """(B / 64,)"""


def buckets(of: World) -> Buckets:
    """All nodes in their buckets."""
    free = of.nodes.free[:, CPU].copy()
    count = -(-(int(of.offered[:, CPU].max()) // BUCKET_MILLI + 1) // 64) * 64
    made = Buckets(
        free,
        np.full(count, -1, np.int64),
        np.full(len(free), -1, np.int64),
        np.full(len(free), -1, np.int64),
        np.zeros(count // 64, np.uint64),
    )
    for node in range(len(free)):
        put(made, node)
    return made


@lean
def put(of: Buckets, node: int) -> None:
    """Into the bucket of its free CPU."""
    bucket = of.free[node] // BUCKET_MILLI
    head = of.first[bucket]
    of.following[node], of.before[node] = head, -1
    if head >= 0:
        of.before[head] = node
    of.first[bucket] = node
    of.filled[bucket >> 6] |= np.uint64(1) << np.uint64(bucket & 63)


@lean
def drop(of: Buckets, node: int) -> None:
    """Out of the bucket of its free CPU."""
    bucket, following, before = of.free[node] // BUCKET_MILLI, of.following[node], of.before[node]
    if following >= 0:
        of.before[following] = before
    if before >= 0:
        of.following[before] = following
    else:
        of.first[bucket] = following
        if following < 0:
            of.filled[bucket >> 6] &= ~(np.uint64(1) << np.uint64(bucket & 63))


@lean
def least_with(of: Buckets, need: int) -> int:
    """A node with the least free CPU that is enough; -1 for none."""
    bucket = -(-need // BUCKET_MILLI)
    word = bucket >> 6
    if word >= len(of.filled):
        return -1
    bits = of.filled[word] & (~np.uint64(0) << np.uint64(bucket & 63))
    while bits == np.uint64(0):
        word += 1
        if word == len(of.filled):
            return -1
        bits = of.filled[word]
    lowest, place = bits & (~bits + np.uint64(1)), 0
    for step in (32, 16, 8, 4, 2, 1):
        if lowest >> np.uint64(step):
            lowest >>= np.uint64(step)
            place += step
    return int(of.first[(word << 6) + place])


@lean
def decide_bare(of: Buckets, shapes: Shapes, running: Ring, work: Work) -> None:
    """Best fit on CPU alone: what a structure could do at best that knows one resource and no rule."""
    for at in range(len(work.shape)):
        need, slot = shapes.need[work.shape[at], CPU], running.state[HEAD]
        node = least_with(of, need)
        if node < 0:
            running.state[REFUSED] += 1
            continue
        oldest = running.node[slot]
        drop(of, oldest)
        of.free[oldest] += shapes.need[running.shape[slot], CPU]
        put(of, oldest)
        drop(of, node)
        of.free[node] -= need
        put(of, node)
        running.shape[slot], running.node[slot] = work.shape[at], node
        running.state[HEAD] = (slot + 1) % running.state[TASKS]
