"""Room on one node: whether tasks fit, on which devices, and taking and giving back.

A node has scalar resources (columns, int64 base units) and devices, tracked one by one (int64 milli left of each). A
task asks for scalars and for `devices` devices with `milli` left on each: a share of one (milli below 1,000) or whole
ones. A device of fewer than 1,000 milli (the home share took the rest) is never a whole one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from federation.scheduling.kernels.jit import lean

Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
UInt64 = npt.NDArray[np.uint64]
Float64 = npt.NDArray[np.float64]

DEVICE_MILLI = 1_000
"""A whole device."""


class Nodes(NamedTuple):
    """All nodes' room. Row n is a node; rows of one agent lie together, in the agent's own order."""

    free: Int64
    """(N, R) scalars that are free; below zero where leases hold more than is offered now."""
    device_first: Int32
    """(N + 1,) each node's first device."""
    device_free: Int64
    """(M,) milli free on each device; below zero where leases hold more than is offered now."""
    device_size: Int64
    """(M,) milli offered, 1 to 1,000."""
    device_kind: Int32
    """(M,) its model, 0 to 63."""


class Shapes(NamedTuple):
    """What one task of each shape needs."""

    need: Int64
    """(S, R) scalars, 0 or more."""
    milli: Int64
    """(S,) of each device; 0: it needs none."""
    devices: Int64
    """(S,) how many devices; 0 or 1 where milli is below 1,000."""
    kinds: UInt64
    """(S,) bit k is set where model k will do; all bits: any."""


@lean
def tasks_on_node(nodes: Nodes, shapes: Shapes, shape: int, node: int, most: int) -> int:
    """How many tasks of `shape` fit on `node` together, 0 to `most`."""
    fitting: int = most
    for column in range(nodes.free.shape[1]):
        need = shapes.need[shape, column]
        if need > 0:
            fitting = min(fitting, int(max(nodes.free[node, column], 0) // need))
            if fitting == 0:
                return 0
    milli = shapes.milli[shape]
    if milli == 0:
        return fitting
    slots, enough = 0, fitting * shapes.devices[shape]
    for device in range(nodes.device_first[node], nodes.device_first[node + 1]):
        if (shapes.kinds[shape] >> np.uint64(nodes.device_kind[device])) & np.uint64(1):
            slots += max(nodes.device_free[device], 0) // milli
            if slots >= enough:  # also keeps the compiler from making a vector loop ten times as long of it
                return fitting
    return int(slots // shapes.devices[shape])


@lean
def fits(nodes: Nodes, shapes: Shapes, shape: int, node: int) -> bool:
    """Whether one task of `shape` fits on `node`."""
    return tasks_on_node(nodes, shapes, shape, node, 1) > 0


@lean
def lacking(nodes: Nodes, shapes: Shapes, shape: int, node: int) -> float:
    """How far `node` is from room for one task: the largest part of any need that is not free, 0 where it fits."""
    largest = 0.0
    for column in range(nodes.free.shape[1]):
        need, free = shapes.need[shape, column], max(nodes.free[node, column], 0)
        if need > free:
            largest = max(largest, float(need - free) / float(need))
    wanted, able = shapes.devices[shape], 0
    for device in range(nodes.device_first[node], nodes.device_first[node + 1]):
        if (shapes.kinds[shape] >> np.uint64(nodes.device_kind[device])) & np.uint64(1):
            able += int(nodes.device_free[device] >= shapes.milli[shape])
    if wanted > able:
        largest = max(largest, float(wanted - able) / float(wanted))
    return largest


@lean
def tightest_device(nodes: Nodes, shapes: Shapes, shape: int, node: int) -> int:
    """The device with the least left that has room for a share of `shape`, the first of equals; -1 when none has."""
    best, least = -1, DEVICE_MILLI + 1
    for device in range(nodes.device_first[node], nodes.device_first[node + 1]):
        if (shapes.kinds[shape] >> np.uint64(nodes.device_kind[device])) & np.uint64(1):
            left = nodes.device_free[device]
            if shapes.milli[shape] <= left < least:
                best, least = device, left
    return best


@lean
def take(nodes: Nodes, shapes: Shapes, shape: int, node: int, device: int, taken: Int64) -> None:
    """Take room for one task. A share is taken of `device`; whole devices are the first free ones.

    `taken` int64 (at least `devices`,) gets the devices' rows. The task must fit.
    """
    for column in range(nodes.free.shape[1]):
        nodes.free[node, column] -= shapes.need[shape, column]
    milli, wanted = shapes.milli[shape], shapes.devices[shape]
    if wanted == 0:
        return
    if milli < DEVICE_MILLI:
        nodes.device_free[device] -= milli
        taken[0] = device
        return
    found = 0
    for whole in range(nodes.device_first[node], nodes.device_first[node + 1]):
        if found == wanted:
            return
        if (shapes.kinds[shape] >> np.uint64(nodes.device_kind[whole])) & np.uint64(1) and nodes.device_free[
            whole
        ] >= milli:
            nodes.device_free[whole] -= milli
            taken[found] = whole
            found += 1


@lean
def give_back(nodes: Nodes, shapes: Shapes, shape: int, node: int, taken: Int64) -> None:
    """Undo `take`."""
    for column in range(nodes.free.shape[1]):
        nodes.free[node, column] += shapes.need[shape, column]
    for at in range(shapes.devices[shape]):
        nodes.device_free[taken[at]] += shapes.milli[shape]
