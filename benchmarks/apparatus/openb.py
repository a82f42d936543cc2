"""openb's files: clusters and pod lists as columns, and what FGD's protocol makes of them for a seed.

Reads any file in openb's columns, plain or gzipped: nodes `sn,cpu_milli,memory_mib,gpu,model`, pods
`name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec`. A column that is absent says nothing: any model will do, no
memory is asked for, a GPU is a whole one. Deliberately not here: any of the data (see `SOURCE`), and how pods are placed.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from federation.errors import FederationError, invalid

Int64 = npt.NDArray[np.int64]

SOURCE = (
    "Alibaba's cluster-trace-gpu-v2023 (openb), as CSV in the FGD simulator's repository "
    "(github.com/hkust-adsl/kubernetes-scheduler-simulator, data/csv; Apache-2.0): openb_node_list_gpu_node.csv and "
    "openb_pod_list_*.csv, plain or .gz, in FOLDER/openb"
)
NODES_FILE = "openb_node_list_gpu_node.csv"
TRACES = ("default", "cpu050", "gpushare40", "gpuspec10", "multigpu20", "multigpu30")
WHOLE_MILLI = 1_000
ANY_KIND = (1 << 64) - 1
KINDS_MAX = 64
AMOUNT_MAX = 1 << 40
"""Of CPU milli and memory MiB."""
GPUS_MAX = 1_024
"""Of one node or pod."""
PODS_MAX = 2_000_000
"""Pods of an inflated list: a list that asks for next to no GPU would grow without end."""


class Cluster(NamedTuple):
    """N nodes in the file's order."""

    cpu: Int64
    """(N,) milli."""
    memory: Int64
    """(N,) MiB."""
    gpus: Int64
    """(N,)"""
    kind: Int64
    """(N,) index into `models`."""
    models: tuple[str, ...]

    @property
    def total_milli(self) -> int:
        """Of all GPUs."""
        return int(self.gpus.sum()) * WHOLE_MILLI


class Pod(NamedTuple):
    """What a pod asks for."""

    cpu: int
    memory: int
    gpus: int
    milli: int
    """Of each GPU; 0 without GPUs."""
    spec: str
    """As in the file: models with | between; empty: any."""

    @property
    def asked_milli(self) -> int:
        """Of all its GPUs."""
        return self.gpus * self.milli

    @property
    def shape_class(self) -> str:
        """cpu, share, gpu-1, gpu-2, ..."""
        if not self.milli:
            return "cpu"
        return "share" if self.milli < WHOLE_MILLI else f"gpu-{self.gpus}"


@dataclass(frozen=True, slots=True)
class Trace:
    """A pod list, in order of name."""

    name: str
    pods: tuple[Pod, ...]
    """Distinct pods, ascending."""
    which: Int64
    """(J,) each pod's place in `pods`."""


def read_cluster(path: Path) -> Cluster:
    """Raises: FederationError naming file and line."""
    rows = [
        (
            _amount(row, "cpu_milli", AMOUNT_MAX),
            _amount(row, "memory_mib", AMOUNT_MAX),
            _amount(row, "gpu", GPUS_MAX),
            row.text("model"),
        )
        for row in _rows(path)
    ]
    models = tuple(sorted({model for *_, gpus, model in rows if gpus}))
    if len(models) > KINDS_MAX:
        raise invalid(f"{path} has {len(models)} models; {KINDS_MAX} can be told apart")
    kinds = {model: at for at, model in enumerate(models)}
    columns = np.array([(*row[:3], kinds.get(row[3], 0)) for row in rows], np.int64)
    return Cluster(columns[:, 0], columns[:, 1], columns[:, 2], columns[:, 3], models)


def read_trace(path: Path, name: str = "") -> Trace:
    """Raises: FederationError naming file and line."""
    listed = sorted(((row.text("name"), at, _pod(row)) for at, row in enumerate(_rows(path))), key=lambda one: one[:2])
    pods = tuple(sorted({pod for *_, pod in listed}))
    places = {pod: at for at, pod in enumerate(pods)}
    short = path.name.removesuffix(".gz").removesuffix(".csv").removeprefix("openb_pod_list_")
    return Trace(name or short, pods, np.array([places[pod] for *_, pod in listed], np.int64))


def kinds_of(spec: str, models: Sequence[str]) -> int:
    """The bit mask of a pod's models on a cluster; all bits for any, none where the cluster has none of them."""
    if not spec:
        return ANY_KIND
    wanted = set(spec.split("|"))
    return sum(1 << at for at, model in enumerate(models) if model in wanted)


def arrivals(trace: Trace, total_milli: int, tune: float, seed: int) -> Int64:
    """Int64 (A,): the pods (places in `trace.pods`) in the order in which they arrive, for `seed`.

    The list is shuffled, then appended to by uniform draws from itself, and stops before the first whose milli *of one
    GPU* would pass `tune` x `total_milli`; of a list that asks for more already, pods are removed uniformly.
    Raises: FederationError where no pod asks for a GPU, or too many would be needed.
    """
    draw = np.random.default_rng([seed, 1])
    asked = np.array([pod.asked_milli for pod in trace.pods], np.int64)[trace.which]
    milli = np.array([pod.milli for pod in trace.pods], np.int64)[trace.which]
    target = tune * total_milli
    order = draw.permutation(len(trace.which))
    arrived = int(asked.sum())
    if arrived > target:
        return trace.which[_thinned(order, asked, target, draw)]
    if not arrived and len(order):
        raise invalid(f"no pod of {trace.name} asks for a GPU", hint="Packing is measured in GPUs.")
    added: list[int] = []
    while len(order) + len(added) < PODS_MAX:
        for one in draw.integers(0, len(order), 4_096):
            if arrived + milli[one] > target:
                return trace.which[np.concatenate((order, np.array(added, np.int64)))]
            added.append(int(one))
            arrived += int(asked[one])
    raise invalid(f"{trace.name} inflated to {tune} x the cluster is more than {PODS_MAX:,} pods")


def _thinned(order: Int64, asked: Int64, target: float, draw: np.random.Generator) -> Int64:
    """`order` without pods that were drawn uniformly, one by one, until what is left asks for `target` at most."""
    leaving = draw.permutation(len(order))
    left = int(asked.sum()) - np.cumsum(asked[order[leaving]])
    stays = np.ones(len(order), np.bool_)
    stays[leaving[: int(np.argmax(left <= target)) + 1]] = False
    return order[stays]


def node_order(nodes: int, seed: int) -> Int64:
    """Int64 (N,): the order in which a seed's run looks at the nodes; ties go to the first."""
    return np.random.default_rng([seed, 2]).permutation(nodes)


class _Row:
    """A line of a file, and where it stands."""

    def __init__(self, path: Path, line: int, columns: dict[str, str]) -> None:
        self.columns = columns
        self._where = f"{path}, line {line}"

    def text(self, column: str) -> str:
        return (self.columns.get(column) or "").strip()

    def wrong(self, what: str) -> FederationError:
        return invalid(f"{self._where}: {what}", hint="The columns are openb's; amounts are whole numbers, 0 or more.")


def _rows(path: Path) -> list[_Row]:
    try:
        packed = path.read_bytes()
        text = (gzip.decompress(packed) if packed[:2] == b"\x1f\x8b" else packed).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise invalid(f"{path} cannot be read: {error}") from error
    rows = [_Row(path, line, columns) for line, columns in enumerate(csv.DictReader(io.StringIO(text)), 2)]
    if not rows:
        raise invalid(f"{path} has no rows", hint="A line of column names comes first.")
    return rows


def _amount(row: _Row, column: str, most: int, absent: int = 0) -> int:
    text = row.text(column)
    if not text:
        return absent
    try:
        amount = float(text)
    except ValueError:
        raise row.wrong(f"{column} is {text!r}") from None
    if not (0 <= amount <= most and amount == int(amount)):
        raise row.wrong(f"{column} is {text!r}, of 0 to {most:,}")
    return int(amount)


def _pod(row: _Row) -> Pod:
    """A pod without GPUs has no milli and no models; several GPUs are whole ones."""
    milli = _amount(row, "gpu_milli", WHOLE_MILLI, absent=WHOLE_MILLI)
    gpus = _amount(row, "num_gpu", GPUS_MAX, absent=1 if row.text("gpu_milli") not in ("", "0") else 0)
    cpu, memory = _amount(row, "cpu_milli", AMOUNT_MAX), _amount(row, "memory_mib", AMOUNT_MAX)
    if not gpus or not milli:
        return Pod(cpu, memory, 0, 0, "")
    return Pod(cpu, memory, gpus, milli if gpus == 1 else WHOLE_MILLI, row.text("gpu_spec"))
