"""The index: which agent, and which of its nodes, is best for a task of some shape now, from what is remembered.

For each shape that was asked for, a *line* remembers every node's score, and every agent's best. Whoever changes a
node says so (`touch`): the node goes to the front of its agent's log. A shape that asks again reads the log back to
where it was last time, scores the nodes it finds there, and holds each against its agent's best. Where the best itself got worse,
its old score stays as a bound, and the agent's remembered scores are gone through only once that bound would win. So
a decision costs in proportion to what changed, not to how many nodes there are. The answer is always that of a plain
scan: the highest score, among equals the first node. How many tasks fit at an agent (`room_of`) is kept the same way.

Lines are limited (`Memory`): a shape that finds none gets that of the shape that was not asked for longest, and starts
afresh. Scores by state of a node are not remembered: with 64 shapes every second state was new, and looking up cost
what it saved. Deliberately not here: what a node is worth (`score.py`), whose turn it is, who makes the arrays
(`federation/scheduling/indexing.py`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from federation.scheduling.kernels import room
from federation.scheduling.kernels.jit import inline, lean
from federation.scheduling.kernels.room import DEVICE_MILLI, Float64, Int32, Int64, Nodes, Shapes, UInt64
from federation.scheduling.kernels.score import Tables, gain_using, phi

Int16 = npt.NDArray[np.int16]
BEST_FIT, SHIPPED = 0, 1
"""Rules. Best fit: the least largest share left of what the task needs; nodes whose devices it leaves unused last.
Shipped: `score.gain` less the node's standing."""
NO_ROOM = -math.inf
NEVER = -1
STRANDED = 2.0
"""Added to the share left on a node whose devices the task does not use: more than any share."""
ROOM_MAX = 1_000_000
"""Tasks that fit on one node are counted up to here."""
ASKS, LINES, COUNTS, TALLIES = 0, 1, 2, 3
"""Places in `Index.tally`: questions asked, lines of scores and of counts in use."""
IDLE, LARGEST, WHOLE, SUMMARY = 0, 1, 2, 3
"""Columns of `Touched.known` after the scalars: milli free on all devices, most free on one, devices wholly free."""


class Layout(NamedTuple):
    """What stays until the fleet changes."""

    agent_first: Int64
    """(A + 1,) each agent's first node row."""
    agent_of: Int64
    """(N,)"""
    per_unit: Float64
    """(N, R + 1) 1 / offered of each scalar, and of the milli of all devices; 0 where nothing is offered."""
    standing: Float64
    """(N,) what the shipped rule subtracts, so that nodes are filled in order."""
    kinds: UInt64
    """(N,) bit k is set where a device is of model k."""


class Touched(NamedTuple):
    """What changed, and what follows from it."""

    clock: Int64
    """(A,) how many touches an agent has seen."""
    last: Int64
    """(N,) the agent's clock after the node's last touch."""
    newest: Int64
    """(A,) the node touched last."""
    older: Int64
    """(N,) the node of the same agent that was touched before, NEVER for none: a node is in this log once."""
    newer: Int64
    """(N,)"""
    known: Int64
    """(N, R + SUMMARY) free scalars and a summary of the devices as of the last touch."""
    phi: Float64
    """(N,) `score.phi`, NaN where it is not known."""


class Kept(NamedTuple):
    """Which shapes something is remembered of, in L lines, and up to when."""

    of_shape: Int64
    """(S,) a shape's line, NEVER for none."""
    shape: Int64
    """(L,)"""
    asked: Int64
    """(L,) when it was asked for last, in asks."""
    seen: Int64
    """(L, A) the agent's clock up to which the log was read, NEVER where all is to be looked at."""


class Lines(NamedTuple):
    """Scores of shapes."""

    kept: Kept
    best: Float64
    """(L, A) the best score, NO_ROOM where no node has room; where `node` is NEVER only a bound from above."""
    node: Int64
    """(L, A) the first node with the best score."""
    score: Float64
    """(L, N)"""


class Counts(NamedTuple):
    """How many tasks of shapes fit."""

    kept: Kept
    total: Int64
    """(L, A)"""
    tasks: Int32
    """(L, N)"""


class Index(NamedTuple):
    """All that is remembered. Made by `Memory`; the arrays change in place."""

    layout: Layout
    touched: Touched
    lines: Lines
    counts: Counts
    scratch: Int64
    """(as many as the largest node has devices,)"""
    tally: Int64
    """(TALLIES,)"""
    rule: int


class Choice(NamedTuple):
    """Where one task goes best. `agent` and `node` are -1 where it fits nowhere."""

    score: float
    agent: int
    node: int
    device: int
    """The device row of a share, else -1."""


# -- what changed -----------------------------------------------------------------------------------------------------
@lean
def touch(index: Index, nodes: Nodes, node: int) -> None:
    """Note that room on `node` changed, in whatever way. Call it after each change, before the next question."""
    layout, touched = index.layout, index.touched
    agent, columns = layout.agent_of[node], nodes.free.shape[1]
    touched.clock[agent] += 1
    touched.last[node] = touched.clock[agent]
    if touched.newest[agent] != node:
        newer, older = touched.newer[node], touched.older[node]
        touched.older[newer] = older
        if older != NEVER:
            touched.newer[older] = newer
        touched.older[node], touched.newer[node] = touched.newest[agent], NEVER
        touched.newer[touched.newest[agent]] = node
        touched.newest[agent] = node
    touched.phi[node] = math.nan
    idle, largest, whole = 0, 0, 0
    for device in range(nodes.device_first[node], nodes.device_first[node + 1]):
        free = nodes.device_free[device]
        idle += free
        largest = max(largest, free)
        if free >= DEVICE_MILLI:
            whole += 1
    touched.known[node, columns + LARGEST] = largest
    touched.known[node, columns + WHOLE] = whole
    for column in range(columns):
        touched.known[node, column] = nodes.free[node, column]
    touched.known[node, columns + IDLE] = idle


@lean
def follow(index: Index, nodes: Nodes, actual: Nodes) -> None:
    """Make `nodes`, which the index knows, what `actual` is: only nodes that differ are looked at again."""
    for node in range(nodes.free.shape[0]):
        differs = False
        for column in range(nodes.free.shape[1]):
            differs |= nodes.free[node, column] != actual.free[node, column]
            nodes.free[node, column] = actual.free[node, column]
        for device in range(nodes.device_first[node], nodes.device_first[node + 1]):
            differs |= nodes.device_free[device] != actual.device_free[device]
            nodes.device_free[device] = actual.device_free[device]
        if differs:
            touch(index, nodes, node)


@lean
def take_at(index: Index, nodes: Nodes, shapes: Shapes, shape: int, choice: Choice, taken: Int64) -> None:
    """`room.take` where `choice` says, noted."""
    room.take(nodes, shapes, shape, choice.node, choice.device, taken)
    touch(index, nodes, choice.node)


@lean
def give_back_at(index: Index, nodes: Nodes, shapes: Shapes, shape: int, node: int, taken: Int64) -> None:
    """`room.give_back`, noted."""
    room.give_back(nodes, shapes, shape, node, taken)
    touch(index, nodes, node)


# -- scores -----------------------------------------------------------------------------------------------------------
@inline
def _has_room(layout: Layout, known: Int64, nodes: Nodes, shapes: Shapes, shape: int, node: int) -> bool:
    """`room.fits`, by what is known of the node, without looking at its devices where they are of one model."""
    columns = shapes.need.shape[1]
    enough = True
    for column in range(columns):
        if shapes.need[shape, column] > max(known[node, column], 0):
            enough = False
    devices = shapes.devices[shape]
    if enough and devices > 0:
        here, wanted = layout.kinds[node], shapes.kinds[shape]
        if here & wanted == np.uint64(0):
            enough = False
        elif here & ~wanted != np.uint64(0):
            enough = room.fits(nodes, shapes, shape, node)
        elif shapes.milli[shape] < DEVICE_MILLI:
            enough = known[node, columns + LARGEST] >= shapes.milli[shape]
        else:
            enough = known[node, columns + WHOLE] >= devices
    return enough


@lean
def _share_left(layout: Layout, known: Int64, shapes: Shapes, shape: int, node: int) -> float:
    """The largest share of what the task needs that it leaves; with `STRANDED` where devices lie idle beside it."""
    largest, columns = 0.0, shapes.need.shape[1]
    for column in range(columns):
        need = shapes.need[shape, column]
        if need > 0:
            largest = max(largest, float((known[node, column] - need) * layout.per_unit[node, column]))
    if shapes.devices[shape] > 0:
        left = known[node, columns + IDLE] - shapes.milli[shape] * shapes.devices[shape]
        return max(largest, float(left * layout.per_unit[node, columns]))
    return largest + STRANDED if layout.kinds[node] != np.uint64(0) else largest


@inline
def _score(index: Index, nodes: Nodes, shapes: Shapes, tables: Tables, line: int, node: int) -> float:
    """The score of a line's shape on a node, NO_ROOM where the task does not fit. Larger is better."""
    layout, known, shape = index.layout, index.touched.known, index.lines.kept.shape[line]
    score = NO_ROOM
    if _has_room(layout, known, nodes, shapes, shape, node):
        if index.rule == BEST_FIT:
            score = -_share_left(layout, known, shapes, shape, node)
        else:
            before = index.touched.phi[node]
            if math.isnan(before):
                before = phi(nodes, tables, node)
                index.touched.phi[node] = before
            gained, _ = gain_using(nodes, shapes, tables, shape, node, before, index.scratch)
            score = gained - float(layout.standing[node])
    return score


# -- lines ------------------------------------------------------------------------------------------------------------
@lean
def _line(kept: Kept, tally: Int64, used: int, shape: int) -> int:
    """The line of `shape`, in use from now on; `used` is the place in `tally` of how many there are."""
    tally[ASKS] += 1
    line = kept.of_shape[shape]
    if line == NEVER:
        line = tally[used]
        if line < len(kept.shape):
            tally[used] += 1
        else:
            line = _longest_ago(kept.asked)
            kept.of_shape[kept.shape[line]] = NEVER
        kept.of_shape[shape], kept.shape[line] = line, shape
        for agent in range(kept.seen.shape[1]):
            kept.seen[line, agent] = NEVER
    kept.asked[line] = tally[ASKS]
    return int(line)


@lean
def _longest_ago(asked: Int64) -> int:
    line = 0
    for other in range(1, len(asked)):
        if asked[other] < asked[line]:
            line = other
    return line


@lean
def _rescore(index: Index, nodes: Nodes, shapes: Shapes, tables: Tables, line: int, agent: int) -> None:
    """Score all nodes of an agent."""
    lines, first = index.lines, index.layout.agent_first
    for node in range(first[agent], first[agent + 1]):
        lines.score[line, node] = _score(index, nodes, shapes, tables, line, node)
    lines.kept.seen[line, agent] = index.touched.clock[agent]
    _settle(index, line, agent)


@lean
def _settle(index: Index, line: int, agent: int) -> None:
    """Make a bound exact: the first node of the highest remembered score."""
    lines, first = index.lines, index.layout.agent_first
    best, chosen = NO_ROOM, NEVER
    for node in range(first[agent], first[agent + 1]):
        if lines.score[line, node] > best:
            best, chosen = lines.score[line, node], node
    lines.best[line, agent], lines.node[line, agent] = best, chosen


@inline
def _update(index: Index, nodes: Nodes, shapes: Shapes, tables: Tables, line: int, agent: int) -> None:
    """Score what was touched at an agent since the line read its log; of the best, a bound may be left."""
    lines, touched = index.lines, index.touched
    now, seen = touched.clock[agent], lines.kept.seen[line, agent]
    if seen == NEVER:
        _rescore(index, nodes, shapes, tables, line, agent)
    elif seen < now:
        best, chosen = lines.best[line, agent], lines.node[line, agent]
        node = touched.newest[agent]
        while node != NEVER and touched.last[node] > seen:
            score = _score(index, nodes, shapes, tables, line, node)
            lines.score[line, node] = score
            if score > best:
                best, chosen = score, node
            elif node == chosen:
                if score < best:
                    chosen = NEVER
            elif score == best and node < chosen:
                chosen = node
            node = touched.older[node]
        lines.kept.seen[line, agent] = now
        lines.best[line, agent], lines.node[line, agent] = best, chosen


# -- questions --------------------------------------------------------------------------------------------------------
# The two that look at every agent become part of the kernel that asks (make it a lean one): handing so many arrays on
# from call to call costs more than the 200 agents.
@lean
def best_node(index: Index, nodes: Nodes, shapes: Shapes, tables: Tables, shape: int, agent: int) -> Choice:
    """Where at `agent` a task of `shape` goes best: the highest score, of equals the first node."""
    line = _line(index.lines.kept, index.tally, LINES, shape)
    _update(index, nodes, shapes, tables, line, agent)
    if index.lines.node[line, agent] == NEVER:
        _settle(index, line, agent)
    return _choice(index, nodes, shapes, tables, line, agent)


@inline
def best_agent(
    index: Index,
    nodes: Nodes,
    shapes: Shapes,
    tables: Tables,
    gang: tuple[int, int],
    open_agents: Int64,
    among: tuple[Int64 | Int16, Float64],
) -> int:
    """Where a `gang` (shape, replicas) goes best of `open_agents` int64 (K,), ascending; NEVER where it has no room.

    `among`: how well each agent is liked, (A,), smaller is better; its load, float64 (A,). The best liked with room; of those, for a shape with devices, the highest score of a first task; then
    the least load; then the first.
    """
    liking = among[0]
    line = _line(index.lines.kept, index.tally, LINES, gang[0])
    level = np.iinfo(np.int64).max
    for agent in open_agents:
        level = min(level, int(liking[agent]))
    found = NEVER
    while found == NEVER and level != np.iinfo(np.int64).max:
        # First only the best-liked: most jobs find room there, and the others need not even be brought up to date.
        found = _best_of_level(index, nodes, shapes, tables, (line, gang[1], level), open_agents, among)
        following = np.iinfo(np.int64).max
        for agent in open_agents:
            if level < liking[agent] < following:
                following = int(liking[agent])
        level = following
    return int(found)


@inline
def _best_of_level(
    index: Index,
    nodes: Nodes,
    shapes: Shapes,
    tables: Tables,
    asked: tuple[int, int, int],
    open_agents: Int64,
    among: tuple[Int64 | Int16, Float64],
) -> int:
    """The first agent of those liked as much as `asked` (line, replicas, level) says; NEVER where none has room."""
    line, replicas, level = asked
    liking, load = among
    lines, shape = index.lines, index.lines.kept.shape[line]
    scored = shapes.devices[shape] > 0
    found, best = NEVER, NO_ROOM
    for agent in open_agents:
        if liking[agent] != level or not (scored or found == NEVER or load[agent] < load[found]):
            continue
        if replicas > 1 and room_of(index, nodes, shapes, shape, agent, replicas) < replicas:
            continue
        _update(index, nodes, shapes, tables, line, agent)
        score = lines.best[line, agent]
        if score == NO_ROOM or (scored and score < best):
            continue
        if lines.node[line, agent] == NEVER:
            _settle(index, line, agent)
            score = lines.best[line, agent]
        if score == NO_ROOM:
            continue
        if not scored or score > best or (score == best and load[agent] < load[found]):
            found, best = agent, score
    return int(found)


@inline
def best_of_all(index: Index, nodes: Nodes, shapes: Shapes, tables: Tables, shape: int) -> Choice:
    """The node with the highest score of all, of equals the first."""
    line, lines = _line(index.lines.kept, index.tally, LINES, shape), index.lines
    found, best = NEVER, NO_ROOM
    for agent in range(lines.kept.seen.shape[1]):
        _update(index, nodes, shapes, tables, line, agent)
        if lines.best[line, agent] > best:
            if lines.node[line, agent] == NEVER:
                _settle(index, line, agent)
            if lines.best[line, agent] > best:
                found, best = agent, lines.best[line, agent]
    if found == NEVER:
        return Choice(NO_ROOM, -1, -1, -1)
    return _choice(index, nodes, shapes, tables, line, found)


@lean
def _choice(index: Index, nodes: Nodes, shapes: Shapes, tables: Tables, line: int, agent: int) -> Choice:
    """The agent's best, which is exact, and the device of a share."""
    score, node, shape = index.lines.best[line, agent], index.lines.node[line, agent], index.lines.kept.shape[line]
    if node == NEVER:
        return Choice(NO_ROOM, -1, -1, -1)
    device = -1
    if 0 < shapes.milli[shape] < DEVICE_MILLI:
        if index.rule == SHIPPED:
            device = gain_using(nodes, shapes, tables, shape, node, 0.0, index.scratch)[1]
        else:
            device = room.tightest_device(nodes, shapes, shape, node)
    return Choice(score, agent, node, device)


@lean
def room_of(index: Index, nodes: Nodes, shapes: Shapes, shape: int, agent: int, most: int) -> int:
    """How many tasks of `shape` fit at `agent` together, 0 to `most`."""
    counts, touched = index.counts, index.touched
    line = _line(counts.kept, index.tally, COUNTS, shape)
    first, last = index.layout.agent_first[agent], index.layout.agent_first[agent + 1]
    now, seen = touched.clock[agent], counts.kept.seen[line, agent]
    if seen == NEVER:
        counts.total[line, agent] = 0
        for node in range(first, last):
            counts.tasks[line, node] = room.tasks_on_node(nodes, shapes, shape, node, ROOM_MAX)
            counts.total[line, agent] += counts.tasks[line, node]
    elif seen < now:
        node = touched.newest[agent]
        while node != NEVER and touched.last[node] > seen:
            counts.total[line, agent] -= counts.tasks[line, node]
            counts.tasks[line, node] = room.tasks_on_node(nodes, shapes, shape, node, ROOM_MAX)
            counts.total[line, agent] += counts.tasks[line, node]
            node = touched.older[node]
    counts.kept.seen[line, agent] = now
    return min(int(counts.total[line, agent]), most)
