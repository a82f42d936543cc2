"""A gang's nodes within one agent: all its tasks, or an answer that says they do not fit.

Packed, the best node takes as many tasks as it has room for, then the next best: few nodes, filled one after the other.
Spread, each task goes to the node that has the fewest of them so far, the best of these. Best is the highest score less
the node's standing; equals go to the first. Deliberately not here: which agent (`fill.py`), and the score (`score.py`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from federation.scheduling.kernels.jit import inline, lean
from federation.scheduling.kernels.room import DEVICE_MILLI, Float64, Int64, Nodes, Shapes, fits, take, tasks_on_node
from federation.scheduling.kernels.score import Tables, gain_using, phi

TASKS_MAX = 1_000
"""Room is counted up to here: the largest gang."""


class Taste(NamedTuple):
    """How nodes are compared."""

    tables: Tables
    standing: Float64
    """(N,) what each node's place in its agent costs: of near-equals the first."""
    scratch: Int64
    """Room for the devices of the largest node."""
    heap: Int64
    """(N,) room for the nodes that a gang is spread over, ..."""
    tasks: Int64
    """... how many of its tasks each has, ..."""
    worth: Float64
    """... and the score of one more, less the node's standing."""


@lean
def score_of(room: Nodes, shapes: Shapes, taste: Taste, shape: int, node: int) -> tuple[float, int]:
    """(score less standing, device of a share) of one task on `node`, where it fits."""
    before = phi(room, taste.tables, node)
    score, device = gain_using(room, shapes, taste.tables, shape, node, before, taste.scratch)
    return score - taste.standing[node], device


@lean
def tasks_at(room: Nodes, shapes: Shapes, shape: int, begin: int, end: int, most: int) -> int:
    """How many tasks fit on nodes `begin` to `end` together, 0 to `most`."""
    tasks = 0
    for node in range(begin, end):
        tasks += tasks_on_node(room, shapes, shape, node, most - tasks)
        if tasks >= most:
            break
    return tasks


@lean
def tasks_by_agent(room: Nodes, shapes: Shapes, shape: int, first: Int64, tasks: Int64) -> None:
    """Into `tasks` int64 (A,), how many fit at each agent, 0 to `TASKS_MAX`; `first` int64 (A + 1,) as in `Fleet`."""
    for agent in range(len(tasks)):
        tasks[agent] = tasks_at(room, shapes, shape, first[agent], first[agent + 1], TASKS_MAX)


@lean
def place_packed(
    room: Nodes, shapes: Shapes, taste: Taste, shape: int, span: tuple[int, int], nodes: Int64, devices: Int64
) -> None:
    """Take room for len(`nodes`) tasks on the nodes of `span`, which have it.

    `nodes` int64 (replicas,) and `devices` int64 (replicas x devices of the shape,) get where each task went.
    """
    done, wanted = 0, shapes.devices[shape]
    while done < len(nodes):
        best, least, device = int(np.int64(-1)), -math.inf, int(np.int64(-1))
        for node in range(span[0], span[1]):
            if fits(room, shapes, shape, node):
                score, of_node = score_of(room, shapes, taste, shape, node)
                if score > least:
                    best, least, device = node, score, of_node
        here = tasks_on_node(room, shapes, shape, best, len(nodes) - done)
        for task in range(here):
            if task > 0 and 0 < shapes.milli[shape] < DEVICE_MILLI:
                _, device = score_of(room, shapes, taste, shape, best)
            take(room, shapes, shape, best, device, devices[done * wanted : (done + 1) * wanted])
            nodes[done] = best
            done += 1


@lean
def place_spread(
    room: Nodes, shapes: Shapes, taste: Taste, shape: int, span: tuple[int, int], nodes: Int64, devices: Int64
) -> None:
    """As `place_packed`, on as many nodes as there are."""
    heap, wanted, count = taste.heap, shapes.devices[shape], 0
    for node in range(span[0], span[1]):
        if fits(room, shapes, shape, node):
            heap[count], taste.tasks[node] = node, 0
            taste.worth[node], _ = score_of(room, shapes, taste, shape, node)
            count += 1
    for at in range(count // 2 - 1, -1, -1):
        _sink(taste, at, count)
    for done in range(len(nodes)):
        node = heap[0]
        _, device = score_of(room, shapes, taste, shape, node)
        take(room, shapes, shape, node, device, devices[done * wanted : (done + 1) * wanted])
        nodes[done] = node
        taste.tasks[node] += 1
        if fits(room, shapes, shape, node):
            taste.worth[node], _ = score_of(room, shapes, taste, shape, node)
        else:
            count -= 1
            heap[0] = heap[count]
        _sink(taste, 0, count)


@inline
def _sink(taste: Taste, at: int, count: int) -> None:
    """Move the node at place `at` of the heap of `count` down to where it belongs."""
    heap = taste.heap
    while 2 * at + 1 < count:
        child = 2 * at + 1
        if child + 1 < count and _before(taste, heap[child + 1], heap[child]):
            child += 1
        if not _before(taste, heap[child], heap[at]):
            break
        heap[child], heap[at] = heap[at], heap[child]
        at = child


@inline
def _before(taste: Taste, node: int, other: int) -> bool:
    """Whether the next task goes to `node` rather than to the other: fewest tasks, then the best score, then the first."""
    tasks, worth = taste.tasks, taste.worth
    if tasks[node] != tasks[other]:
        return bool(tasks[node] < tasks[other])
    return bool(worth[node] > worth[other] or (worth[node] == worth[other] and node < other))
