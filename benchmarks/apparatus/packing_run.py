"""One run of the packing protocol: pods arrive one by one, each is placed at once or dropped, and none leaves.

The loop is the same for every policy. Scores are kept per (class of pods, node) and made anew where a node has changed
since: the decisions are those of scoring every node every time. `audit` replays what was decided with nothing but the
arrays of `kernels/room.py`, and finds a run that broke a rule. Deliberately not here: files (`openb.py`), policies
(`packing_policies.py`, the planner's `kernels/score.py`), and figures (`packing.py`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from benchmarks.apparatus.openb import ANY_KIND, GPUS_MAX, WHOLE_MILLI, Cluster, Pod, kinds_of
from benchmarks.apparatus.packing_policies import Typical, best_fit, dot_prod, fgd, fgd_before
from federation.scheduling.kernels.jit import kernel, lean
from federation.scheduling.kernels.room import Float64, Int32, Int64, Nodes, Shapes, fits, take, tightest_device
from federation.scheduling.kernels.score import Tables, gain_using, phi

OURS, FGD, BEST_FIT, DOT_PROD, RANDOM = range(5)
NOWHERE = -1
MEMORY = 1
"""The column of memory; 0 is CPU."""


class Setting(NamedTuple):
    """What a run is about. N nodes, S shapes in C classes, A arrivals."""

    nodes: Nodes
    shapes: Shapes
    classes: Shapes
    """(C,) shapes that differ in memory alone are one class: scores do not look at memory, but on nodes without GPUs."""
    class_of: Int64
    """(S,)"""
    arrivals: Int64
    """(A,) shapes, as they come."""
    draws: Float64
    """(A,) in [0, 1), for Random."""
    standings: Float64
    """(N,) taken off our scores."""


class Known(NamedTuple):
    """What policies know of the workload."""

    tables: Tables
    typical: Typical


class Memory(NamedTuple):
    """Scores that are kept."""

    values: Float64
    """(C, N) score less standing; -inf where CPU or devices do not suffice (memory is looked at later)."""
    devices: Int32
    """(C, N) the device of a share, where the policy names one."""
    made_at: Int32
    """(C, N) the node's version that the value was made at; -1: never."""
    versions: Int32
    """(N,) grows with every change."""
    before: Float64
    """(N,) the policy's cost of the node as it is: phi, or F."""
    changed: Int32
    """(A,) nodes in the order in which they changed."""
    read: Int64
    """(C,) how much of `changed` the class has read; -1: never."""
    scratch: Int64
    """Room for the devices of one node."""


class Outcome(NamedTuple):
    """What became of A arrivals."""

    node: Int32
    """(A,) -1: dropped."""
    device: Int32
    """(A,) of a share; -1 for all others."""


def nodes_of(cluster: Cluster, order: Int64) -> Nodes:
    """The cluster's nodes, empty, in `order`. Columns: CPU milli, memory MiB."""
    gpus = cluster.gpus[order]
    first = np.concatenate(([0], np.cumsum(gpus))).astype(np.int32)
    milli = np.full(int(first[-1]), WHOLE_MILLI, np.int64)
    kinds = np.repeat(cluster.kind[order], gpus).astype(np.int32)
    return Nodes(np.column_stack((cluster.cpu[order], cluster.memory[order])), first, milli, milli.copy(), kinds)


def shapes_of(pods: tuple[Pod, ...], models: tuple[str, ...]) -> Shapes:
    """The pods as shapes."""
    return Shapes(
        np.array([(pod.cpu, pod.memory) for pod in pods], np.int64).reshape(-1, 2),
        np.array([pod.milli for pod in pods], np.int64),
        np.array([pod.gpus for pod in pods], np.int64),
        np.array([kinds_of(pod.spec, models) if pod.gpus else ANY_KIND for pod in pods], np.uint64),
    )


def classes_of(shapes: Shapes, bare_nodes: bool) -> tuple[Shapes, Int64]:
    """(C,) the classes, asking for no memory where it is not scored, and int64 (S,) each shape's class."""
    classes: dict[tuple[int, ...], int] = {}
    class_of = np.empty(len(shapes.milli), np.int64)
    for shape, (cpu, memory) in enumerate(shapes.need.tolist()):
        devices = int(shapes.devices[shape])
        scored = memory if bare_nodes and not devices else 0
        key = (cpu, scored, int(shapes.milli[shape]), devices, int(shapes.kinds[shape]))
        class_of[shape] = classes.setdefault(key, len(classes))
    keys = list(classes)
    columns = [np.array([key[column] for key in keys], np.int64) for column in range(4)]
    kinds = np.array([key[4] for key in keys], np.uint64)
    return Shapes(np.column_stack(columns[:2]), columns[2], columns[3], kinds), class_of


def memory_of(setting: Setting) -> Memory:
    """Nothing scored yet."""
    size = (len(setting.classes.milli), len(setting.nodes.free))
    return Memory(
        np.full(size, -np.inf),
        np.full(size, NOWHERE, np.int32),
        np.full(size, -1, np.int32),
        np.zeros(size[1], np.int32),
        np.zeros(size[1]),
        np.zeros(len(setting.arrivals), np.int32),
        np.full(size[0], -1, np.int64),
        np.zeros(GPUS_MAX, np.int64),
    )


@lean
def start(policy: int, setting: Setting, known: Known, memory: Memory) -> None:
    """Forget every score: there is none yet, or the tables have changed."""
    for node in range(setting.nodes.free.shape[0]):
        memory.before[node] = _cost(policy, setting, known, node)
    memory.made_at[:] = -1
    memory.read[:] = -1


@kernel
def run(
    policy: int, setting: Setting, known: Known, memory: Memory, outcome: Outcome, span: tuple[int, int], changes: int
) -> int:
    """Decide the arrivals from `span[0]` to before `span[1]`. `changes` nodes changed before; how many have then."""
    nodes, shapes = setting.nodes, setting.shapes
    taken = np.empty(GPUS_MAX, np.int64)
    for at in range(span[0], span[1]):
        shape = setting.arrivals[at]
        share = 0 < shapes.milli[shape] < WHOLE_MILLI
        device = NOWHERE
        row = setting.class_of[shape]
        _renew(policy, setting, known, memory, row, changes)
        if policy == RANDOM:
            node = _any_node(memory.values[row], nodes, shapes.need[shape, MEMORY], setting.draws[at])
            if share and node >= 0:
                device = _any_device(nodes, shapes, shape, node, setting.draws[at])
        else:
            node = _best(memory.values[row], nodes, shapes.need[shape, MEMORY])
            if share and node >= 0:
                device = memory.devices[row, node]
        outcome.node[at], outcome.device[at] = node, device
        if node >= 0:
            take(nodes, shapes, shape, node, device, taken)
            memory.before[node] = _cost(policy, setting, known, node)
            memory.versions[node] += 1
            memory.changed[changes] = node
            changes += 1
    return changes


@lean
def _cost(policy: int, setting: Setting, known: Known, node: int) -> float:
    """The policy's cost of `node` as it is."""
    if policy == OURS:
        return phi(setting.nodes, known.tables, node)
    if policy == FGD:
        return fgd_before(known.typical, setting.nodes, node)
    return 0.0


@lean
def _renew(policy: int, setting: Setting, known: Known, memory: Memory, row: int, changes: int) -> None:
    """Bring the values of class `row` up to date: where nodes have changed since it was last asked for."""
    nodes = setting.nodes.free.shape[0]
    read = memory.read[row]
    memory.read[row] = changes
    if read < 0 or changes - read > nodes:
        for node in range(nodes):
            if memory.made_at[row, node] != memory.versions[node]:
                _score(policy, setting, known, memory, row, node)
    else:
        for at in range(read, changes):
            node = memory.changed[at]
            if memory.made_at[row, node] != memory.versions[node]:
                _score(policy, setting, known, memory, row, node)


@lean
def _score(policy: int, setting: Setting, known: Known, memory: Memory, row: int, node: int) -> None:
    memory.made_at[row, node] = memory.versions[node]
    if not fits(setting.nodes, setting.classes, row, node):
        memory.values[row, node] = -np.inf
        return
    score, device = 0.0, NOWHERE
    if policy == OURS:
        score, device = gain_using(
            setting.nodes, setting.classes, known.tables, row, node, memory.before[node], memory.scratch
        )
        score -= setting.standings[node]
    elif policy == FGD:
        score, device = fgd(
            known.typical, setting.nodes, setting.classes, row, node, memory.before[node], memory.scratch
        )
    elif policy != RANDOM:
        device = tightest_device(setting.nodes, setting.classes, row, node)
        if policy == BEST_FIT:
            score = best_fit(setting.nodes, setting.classes, row, node)
        else:
            score = dot_prod(setting.nodes, setting.classes, row, node)
    memory.values[row, node], memory.devices[row, node] = score, device


@lean
def _best(values: Float64, nodes: Nodes, memory_mib: int) -> int:
    """The first node with the highest value that has the memory; -1: none."""
    best, chosen = -np.inf, NOWHERE
    for node in range(values.shape[0]):
        if values[node] > best and nodes.free[node, MEMORY] >= memory_mib:
            best, chosen = values[node], node
    return chosen


@kernel
def _any_node(values: Float64, nodes: Nodes, memory_mib: int, draw: float) -> int:
    """One of the nodes that it fits on, by `draw` in [0, 1); -1: none."""
    able = np.empty(values.shape[0], np.int32)
    count = 0
    for node in range(values.shape[0]):
        if values[node] > -np.inf and nodes.free[node, MEMORY] >= memory_mib:
            able[count] = node
            count += 1
    chosen: int = able[int(draw * count)] if count else NOWHERE
    return chosen


@kernel
def _any_device(nodes: Nodes, shapes: Shapes, shape: int, node: int, draw: float) -> int:
    """One of its devices with room, by the digits of `draw` that the node was not chosen by."""
    first, last = nodes.device_first[node], nodes.device_first[node + 1]
    able = np.empty(last - first, np.int32)
    count = 0
    for device in range(first, last):
        if nodes.device_free[device] >= shapes.milli[shape] and (
            shapes.kinds[shape] >> np.uint64(nodes.device_kind[device])
        ) & np.uint64(1):
            able[count] = device
            count += 1
    chosen: int = able[int((draw * 1e6) % 1.0 * count)]
    return chosen


@kernel
def audit(nodes: Nodes, shapes: Shapes, arrivals: Int64, outcome: Outcome, batch: int) -> int:
    """Replay `outcome` on empty `nodes`; -1, or the first arrival that broke a rule.

    A placed pod must fit where it was placed. Pods are decided in batches of `batch`: none that was dropped may fit
    anywhere when its batch ends; in batches of one that is at its turn. Nothing leaves, so what fits nowhere never will.
    """
    taken = np.empty(GPUS_MAX, np.int64)
    fits_nowhere = np.zeros(shapes.milli.shape[0], np.bool_)
    for begin in range(0, arrivals.shape[0], batch):
        end = min(begin + batch, arrivals.shape[0])
        for at in range(begin, end):
            shape, node, device = arrivals[at], outcome.node[at], outcome.device[at]
            if node < 0:
                continue
            if not fits(nodes, shapes, shape, node):
                return at
            if 0 < shapes.milli[shape] < WHOLE_MILLI:
                inside = nodes.device_first[node] <= device < nodes.device_first[node + 1]
                if not inside or nodes.device_free[device] < shapes.milli[shape]:
                    return at
            take(nodes, shapes, shape, node, device, taken)
        for at in range(begin, end):
            shape = arrivals[at]
            if outcome.node[at] >= 0 or fits_nowhere[shape]:
                continue
            for node in range(nodes.free.shape[0]):
                if fits(nodes, shapes, shape, node):
                    return at
            fits_nowhere[shape] = True
    return -1
