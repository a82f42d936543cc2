"""How good a node is for a shape: what a placement does to the room that the workload's own shapes can still use.

A node in its present state has a cost Phi = a F + b E - c x sum of W(g) over its devices, all three counted in GPUs;
the weights a and b are part of the tables' frequencies and volumes, c is `bid_weight`:

- F, expected fragmentation: over the typical shapes by frequency, the free milli that a task of that shape could not
  use: all of it where the shape cannot run on the node at all (or needs no GPU), else what lies on devices with too
  little left (FGD: Weng et al., "Beware of Fragmentation", USENIX ATC'23; theirs rounds scores to integers).
- E, stranded GPUs: over the typical GPU shapes by their share of GPU volume, how many of the free GPUs have no CPU left
  to go with them: max(0, free GPUs - free CPU / CPU per GPU of the shape).
- W(g), bid: what a device with g milli free is worth to the sharing shapes (`federation/scheduling/bids.py`).

The score of a shape on a node is Phi before minus Phi after, rounded down to whole steps, so that near-equals are
equal and then fall to the node that stands first: the caller subtracts each node's standing, `fragmentation.standings`
(the order term, 0.2 x place / nodes). Inside a node a share goes to the device that leaves the lowest Phi. A node
without devices is scored by best fit, in (0, 1], above every node where a task that needs no GPU strands some.

Nothing here is remembered: callers keep scores per (shape, node state). Every sum runs in the order of the arrays, and
there is only + - x / and floor, so plain Python gives the same numbers to the last bit.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from federation.scheduling.kernels.jit import kernel, lean
from federation.scheduling.kernels.room import DEVICE_MILLI, Float64, Int32, Int64, Nodes, Shapes, UInt64

NO_DEVICE = -1


class Tables(NamedTuple):
    """What the score knows of the workload; made by `fragmentation.tables_of`. T typical GPU shapes, Q CPU needs."""

    cpu: Int64
    """(T,) CPU of one task, in the unit of the nodes' CPU column. Rows ascend by (milli, kinds, CPU)."""
    milli: Int64
    """(T,) of each device, 1 to 1,000."""
    devices: Int64
    """(T,) 1 or more."""
    kinds: UInt64
    """(T,) as in `Shapes`."""
    frequency: Float64
    """(T,) share of all typical tasks, times a; with `frequency_bare` they sum to a."""
    frequency_bare: float
    """Share of typical tasks that need no GPU, times a."""
    cpu_per_gpu: Float64
    """(Q,) distinct CPU needs per whole GPU, above 0, descending."""
    volume: Float64
    """(Q,) the share of GPU volume that asks for so much, times b."""
    bids: Float64
    """(1,001) W: worth of a device by its free milli, in devices, 0 to 1."""
    cpu_column: int
    """Which column of `Nodes.free` is CPU."""
    bid_weight: float
    """c."""
    step: float
    """Scores are whole steps."""


@lean
def phi_of_levels(tables: Tables, cpu: int, levels: Int64, kinds: Int32) -> float:
    """Phi of a node with `cpu` free and `levels` int64 (D,) milli free on devices of `kinds` int32 (D,)."""
    idle = 0
    worth = 0.0
    for at in range(levels.shape[0]):
        if levels[at] > 0:
            idle += levels[at]
            worth += tables.bids[levels[at]]
    fragments = tables.frequency_bare * idle
    stuck, able = 0, 0  # for the present milli and kinds: free milli on devices that cannot serve, devices that can
    milli, wanted = -1, np.uint64(0)
    for at in range(tables.milli.shape[0]):
        if tables.milli[at] != milli or tables.kinds[at] != wanted:
            milli, wanted = tables.milli[at], tables.kinds[at]
            stuck, able = 0, 0
            for device in range(levels.shape[0]):
                if levels[device] >= milli and (wanted >> np.uint64(kinds[device])) & np.uint64(1):
                    able += 1
                elif levels[device] > 0:
                    stuck += levels[device]
        if tables.cpu[at] > cpu or tables.devices[at] > able:
            fragments += tables.frequency[at] * idle
        else:
            fragments += tables.frequency[at] * stuck
    gpus = idle / 1000.0
    cores = float(max(cpu, 0))
    stranded = 0.0
    for at in range(tables.cpu_per_gpu.shape[0]):
        lacking = gpus - cores / tables.cpu_per_gpu[at]
        if lacking <= 0.0:
            break  # whoever needs less CPU lacks none either
        stranded += tables.volume[at] * lacking
    return fragments / 1000.0 + stranded - tables.bid_weight * worth


@lean
def phi(nodes: Nodes, tables: Tables, node: int) -> float:
    """Phi of `node` in its present state; 0 where it has no devices."""
    first, last = nodes.device_first[node], nodes.device_first[node + 1]
    if first == last:
        return 0.0
    cpu = nodes.free[node, tables.cpu_column]
    return phi_of_levels(tables, cpu, nodes.device_free[first:last], nodes.device_kind[first:last])


@lean
def best_fit(nodes: Nodes, shapes: Shapes, shape: int, node: int) -> float:
    """How much of what is free the shape takes, the mean over the columns it needs; in (0, 1], 1: it fills the node."""
    taken, columns = 0.0, 0
    for column in range(nodes.free.shape[1]):
        if shapes.need[shape, column] > 0:
            taken += shapes.need[shape, column] / nodes.free[node, column]
            columns += 1
    return taken / columns if columns > 0 else 1.0


@kernel
def gain(nodes: Nodes, shapes: Shapes, tables: Tables, shape: int, node: int, phi_before: float) -> tuple[float, int]:
    """The score of one task of `shape` on `node`, where it fits, and the device row of a share (-1 for all others).

    `phi_before` is `phi` of the node. Larger is better; the caller subtracts the node's standing and breaks ties by
    row. Scores depend on the node's state alone: free scalars, devices' free milli and kinds, in order.
    """
    devices = nodes.device_first[node + 1] - nodes.device_first[node]
    return gain_using(nodes, shapes, tables, shape, node, phi_before, np.empty(devices, np.int64))


@lean
def gain_using(
    nodes: Nodes, shapes: Shapes, tables: Tables, shape: int, node: int, phi_before: float, scratch: Int64
) -> tuple[float, int]:
    """`gain`, without making an array: `scratch` int64 has room for the node's devices."""
    first, last = nodes.device_first[node], nodes.device_first[node + 1]
    wanted, milli = shapes.devices[shape], shapes.milli[shape]
    if first == last:
        return best_fit(nodes, shapes, shape, node), NO_DEVICE
    cpu = nodes.free[node, tables.cpu_column] - shapes.need[shape, tables.cpu_column]
    kinds = nodes.device_kind[first:last]
    levels = scratch[: last - first]
    for at in range(last - first):
        levels[at] = nodes.device_free[first + at]
    least, chosen = math.inf, NO_DEVICE
    if wanted == 0 or milli >= DEVICE_MILLI:
        for at in range(levels.shape[0]):
            if wanted > 0 and levels[at] >= milli and (shapes.kinds[shape] >> np.uint64(kinds[at])) & np.uint64(1):
                levels[at] -= milli
                wanted -= 1
        least = phi_of_levels(tables, cpu, levels, kinds)
    else:
        for at in range(levels.shape[0]):
            level = levels[at]
            if level < milli or not (shapes.kinds[shape] >> np.uint64(kinds[at])) & np.uint64(1):
                continue
            if _seen(levels, kinds, at):
                continue
            levels[at] = level - milli
            after = phi_of_levels(tables, cpu, levels, kinds)
            levels[at] = level
            if after < least:
                least, chosen = after, int(first) + at
    return math.floor((phi_before - least) / tables.step) * tables.step, chosen


@lean
def _seen(levels: Int64, kinds: Int32, at: int) -> bool:
    """Whether an earlier device is in the same state."""
    seen = False
    for earlier in range(at):
        seen |= levels[earlier] == levels[at] and kinds[earlier] == kinds[at]
    return seen
