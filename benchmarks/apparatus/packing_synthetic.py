"""A stand-in for openb where its files are not at hand: a cluster and pods drawn with its published proportions.

Round numbers after the description in the FGD paper (Weng et al., "Beware of Fragmentation", USENIX ATC'23): about
1,200 nodes and 6,200 GPUs, most of them in machines of eight; an eighth of the pods without GPU, over a third sharing
one, nearly half with one, one in a hundred with more. Figures on it are figures on it: ratios to published ones mean
nothing. Deliberately not here: any row of the trace.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from benchmarks.apparatus.openb import Cluster, Pod, Trace

T = TypeVar("T")
NAME = "synthetic:default"
SEED = 20_230_710
PODS = 8_000
NODES = (
    # nodes, cores, memory in GiB, GPUs, model
    (540, 96, 384, 8, "large"),
    (400, 104, 512, 2, "inference"),
    (110, 16, 128, 2, "old"),
    (40, 128, 768, 8, "large-memory"),
    (30, 32, 128, 4, "training"),
    (30, 96, 768, 8, "training-memory"),
    (60, 32, 128, 2, "training"),
)
GPU_CLASSES = (("cpu", 0.13), ("share", 0.38), ("one", 0.48), ("two", 0.0025), ("four", 0.0025), ("eight", 0.005))
SHARES = ((800, 0.30), (650, 0.08), (550, 0.05), (475, 0.29), (325, 0.15), (225, 0.08), (150, 0.05))
CORES = {
    "cpu": ((4, 0.4), (8, 0.3), (16, 0.2), (32, 0.1)),
    "share": ((2, 0.1), (4, 0.3), (6, 0.3), (8, 0.2), (12, 0.1)),
    "one": ((4, 0.2), (8, 0.4), (12, 0.3), (16, 0.1)),
    "two": ((16, 0.5), (24, 0.5)),
    "four": ((32, 0.5), (48, 0.5)),
    "eight": ((64, 0.6), (88, 0.4)),
}
GPUS = {"cpu": 0, "share": 1, "one": 1, "two": 2, "four": 4, "eight": 8}
MEMORY_MIB_PER_CORE = 3_072


def cluster() -> Cluster:
    """1,210 nodes, 6,140 GPUs."""
    models = tuple(sorted({model for *_, model in NODES}))
    rows = np.array(
        [(cores * 1_000, gib * 1_024, gpus, models.index(model)) for _, cores, gib, gpus, model in NODES], np.int64
    )
    columns = np.repeat(rows, [count for count, *_ in NODES], axis=0)
    return Cluster(columns[:, 0], columns[:, 1], columns[:, 2], columns[:, 3], models)


def trace() -> Trace:
    """The same pods at every call."""
    draw = np.random.default_rng(SEED)
    classes = _drawn(draw, GPU_CLASSES, PODS)
    shares = _drawn(draw, SHARES, PODS)
    cores = {name: _drawn(draw, choices, PODS) for name, choices in CORES.items()}
    listed = []
    for at, name in enumerate(classes):
        milli = shares[at] if name == "share" else 1_000 if GPUS[name] else 0
        wanted = cores[name][at]
        listed.append(Pod(wanted * 1_000, wanted * MEMORY_MIB_PER_CORE, GPUS[name], milli, ""))
    pods = tuple(sorted(set(listed)))
    places = {pod: at for at, pod in enumerate(pods)}
    return Trace(NAME, pods, np.array([places[pod] for pod in listed], np.int64))


def _drawn(draw: np.random.Generator, choices: tuple[tuple[T, float], ...], count: int) -> list[T]:
    """`count` of the choices by their shares."""
    shares = np.array([share for _, share in choices])
    return [choices[at][0] for at in draw.choice(len(choices), count, p=shares / shares.sum())]
