"""Synthetic fleets and shapes, by seed: what a federation of some hundred hubs could look like.

The hardware mix follows the published one of a large GPU cluster (openb, Alibaba's cluster-trace-gpu-v2023) in round
numbers; so do the shares of shapes without GPUs, on a share of one, on one and on several. Everything else (how large
hubs are, what a shape needs beside its GPUs) is drawn. Deliberately not here: when jobs come, and any trace.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from federation.scheduling.kernels.room import DEVICE_MILLI, Float64, Int64, Nodes, Shapes

GIB = 1 << 30
CPU, MEMORY, DISK = 0, 1, 2
"""Columns: millicores, bytes, bytes."""
LOT = 10
"""Machines are bought in lots of one model: so many, the last of a hub fewer."""
HUB_SPREAD = 0.7
"""Standard deviation of the logarithm of a hub's size."""
ANY_KIND = np.uint64(0xFFFF_FFFF_FFFF_FFFF)


class Hardware(NamedTuple):
    """A model of machine."""

    cores: int
    memory_gib: int
    gpus: int
    kind: int
    percent: int
    """How many of a hundred machines are of it."""


HARDWARE = (
    Hardware(96, 384, 8, 0, 36),
    Hardware(104, 512, 2, 1, 25),
    Hardware(32, 256, 0, 0, 12),
    Hardware(96, 512, 0, 0, 9),
    Hardware(16, 120, 2, 2, 7),
    Hardware(128, 768, 8, 3, 3),
    Hardware(32, 128, 4, 4, 2),
    Hardware(64, 256, 2, 2, 2),
    Hardware(96, 768, 8, 5, 2),
    Hardware(8, 32, 1, 4, 2),
)


class Fleet(NamedTuple):
    """All hubs' machines, all free; one agent a hub."""

    nodes: Nodes
    offered: Int64
    """(N, R)"""
    agent_first: Int64
    """(A + 1,) each agent's first node."""


class Demand(NamedTuple):
    """Shapes, and how often each is asked for."""

    shapes: Shapes
    weights: Float64
    """(S,), of sum 1."""


def fleet(nodes: int, hubs: int, seed: int) -> Fleet:
    """`nodes` machines in `hubs` hubs of uneven size. Errors: ValueError for more hubs than nodes."""
    if not 0 < hubs <= nodes:
        raise ValueError(f"{nodes} nodes cannot make {hubs} hubs")
    rng = np.random.default_rng((seed, nodes, hubs))
    counts = np.diff(np.round(np.cumsum([0, *(model.percent for model in HARDWARE)]) * nodes / 100).astype(np.int64))
    lots = [
        np.full(min(LOT, int(count) - at), model)
        for model, count in enumerate(counts)
        for at in range(0, int(count), LOT)
    ]
    models = np.concatenate([lots[at] for at in rng.permutation(len(lots))])
    sizes = rng.lognormal(0.0, HUB_SPREAD, hubs)
    ends = hubs_ends(sizes / sizes.sum(), nodes)
    free = np.asarray([(model.cores * 1_000, model.memory_gib * GIB, 1_000 * GIB) for model in HARDWARE], np.int64)
    gpus = np.asarray([model.gpus for model in HARDWARE], np.int64)[models]
    device_first = np.concatenate(([0], np.cumsum(gpus))).astype(np.int32)
    kinds = np.asarray([model.kind for model in HARDWARE], np.int32)[models]
    devices = int(device_first[-1])
    return Fleet(
        Nodes(
            free[models],
            device_first,
            np.full(devices, DEVICE_MILLI, np.int64),
            np.full(devices, DEVICE_MILLI, np.int64),
            np.repeat(kinds, gpus),
        ),
        free[models],
        np.concatenate(([0], ends)),
    )


def hubs_ends(shares: Float64, nodes: int) -> Int64:
    """int64 (H,) where each hub's nodes end: one node for each, the rest by `shares` float64 (H,) of sum 1."""
    extra = np.floor(np.cumsum(shares) * (nodes - len(shares)) + 1e-6).astype(np.int64)
    extra[-1] = nodes - len(shares)
    ends: Int64 = extra + np.arange(1, len(shares) + 1)
    return ends


GROUPS = (
    # percent of tasks, percent of shapes, fewest and most cores of a task, devices, milli
    (13, 19, 1.0, 32.0, (0,), (0,)),
    (38, 34, 2.0, 12.0, (1,), (100, 160, 230, 320, 370, 450, 480, 550, 600, 650, 700, 810)),
    (45, 31, 3.0, 24.0, (1,), (1_000,)),
    (4, 16, 8.0, 90.0, (2, 4, 8), (1_000,)),
)
KIND_SHARE = 0.15
"""How many GPU shapes insist on some models."""


def demand(classes: int, seed: int) -> Demand:
    """`classes` shapes (8 or more): within a group the k-th is asked for in proportion to 1 / k."""
    if classes < 8:
        raise ValueError(f"{classes} shapes are too few for every group: 8 or more")
    rng = np.random.default_rng((seed, classes))
    bounds = np.round(np.cumsum([0, *(group[1] for group in GROUPS)]) * classes / 100).astype(np.int64)
    need = np.zeros((classes, 3), np.int64)
    milli, devices = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    kinds = np.full(classes, ANY_KIND)
    weights = np.zeros(classes)
    for (percent, _, fewest, most, counts, sizes), begin, end in zip(GROUPS, bounds[:-1], bounds[1:], strict=True):
        ranks = np.arange(1, end - begin + 1)
        weights[begin:end] = percent / 100 / ranks / (1 / ranks).sum()
        for row in range(begin, end):
            cores = np.exp(rng.uniform(np.log(fewest), np.log(most)))
            need[row] = (
                round(cores * 10) * 100,
                round(cores * rng.uniform(1.5, 4.5)) * GIB,
                rng.integers(0, 3) * 4 * GIB,
            )
            devices[row] = rng.choice(counts)
            milli[row] = rng.choice(sizes)
            if milli[row] and rng.random() < KIND_SHARE:
                kinds[row] = np.uint64(rng.choice([0b000001, 0b000010, 0b111000, 0b000110]))
    devices[milli == 0] = 0
    return Demand(Shapes(need, milli, devices, kinds), weights)


def draws(demand: Demand, count: int, seed: int) -> Int64:
    """int64 (count,): which shapes are asked for, one after the other."""
    rows: Int64 = np.random.default_rng((seed, count)).choice(len(demand.weights), count, p=demand.weights)
    return rows


def homes(fleet: Fleet, count: int, seed: int) -> Int64:
    """int64 (count,): whose jobs they are; a hub with twice the machines asks twice as often."""
    sizes = np.diff(fleet.agent_first)
    agents: Int64 = np.random.default_rng((seed, count, 1)).choice(len(sizes), count, p=sizes / sizes.sum())
    return agents
