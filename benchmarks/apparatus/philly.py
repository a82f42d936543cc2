"""Philly's arrivals on openb's machines and shapes: a federation of hubs with users who send gangs.

When jobs come, how many GPUs they ask for, how long they run and in which virtual cluster is read from a trace derived
from Microsoft's Philly (Jeon et al., "Analysis of Large-Scale Multi-Tenant GPU Clusters", USENIX ATC'19); what a task
asks for beside its GPUs, and what machines have, from openb. Philly has one cluster and no hubs, so a job's home hub and
user are drawn by seed: a hub with more machines asks more often, but not in proportion. Times of arrival are divided so
that the whole federation is asked for `load` of its GPUs, and fall on whole minutes. Without the files, generators of the same shape stand in.
Deliberately not here: any of the data (see `SOURCE`), and what becomes of the jobs.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.apparatus import fleets, openb
from federation.domain.hub import HubState, LinkState, Node
from federation.domain.ids import AgentId, HubId
from federation.domain.quantities import Resources, amount_of, resources
from federation.errors import invalid
from federation.scheduling.kernels.room import Int64
from federation.scheduling.rows import AgentRow, QueuedJob
from federation.simulation.replay import HistoricJob

SOURCE = (
    "traces derived from Microsoft's Philly (CC-BY-4.0): chronus_trace_job_Philly_MIX1.csv of Chronus "
    "(github.com/S-Lab-System-Group/ChronusArtifact, MIT) or trace*.csv of Muri "
    "(github.com/Rivendile/Muri, Apache-2.0), plain or .gz, in FOLDER/philly"
)
FILES = ("chronus_trace_job_Philly_MIX1.csv.gz", "chronus_trace_job_Philly_MIX1.csv")
MINUTE_MS, HOUR_MS = 60_000, 3_600_000
MIB = 1 << 20
LIMITS_MS = tuple(hours * HOUR_MS for hours in (1, 2, 4, 8, 12, 24, 48, 96, 168, 336, 720))
"""Runtime limits that people ask for; the next one above half as much again as the job needs."""
USERS_PER_PROJECT = 3
HUB_APPETITE_SPREAD = 0.6
"""Standard deviation of the logarithm of what a hub asks for, in what it has."""
PODS_OF_WHOLE_MACHINE = (2, 4, 8)
DISK_BYTES = 1 << 40
DRAWS_MAX = 1_000
"""Shapes tried for a job until one fits some machine."""


class Arrival(NamedTuple):
    """A line of a trace."""

    submit_ms: int
    runtime_ms: int
    gpus: int
    cluster: str
    """Philly's virtual cluster; empty where the file does not tell."""
    preemptible: bool


class Setting(NamedTuple):
    """What a workload is made of. Errors: see `workload`."""

    hubs: int = 200
    machines: int = 1_213
    jobs: int = 30_940
    load: float = 1.0
    """GPU time asked for in the time of arrivals, in what there is."""
    seed: int = 1
    in_one_machine: float = 0.0
    """Of jobs that ask for 2 to 8 GPUs: how many want them in one machine; the others are gangs of single GPUs."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A federation and what is asked of it."""

    agents: tuple[AgentRow, ...]
    """One a hub, by key."""
    jobs: tuple[HistoricJob, ...]
    """By time of arrival."""
    trace: str
    """What it is made of: names of files, or `synthetic:...`."""


def options(parser: argparse.ArgumentParser) -> None:
    """The options that every benchmark on this workload has."""
    parser.add_argument("--traces", type=Path, default=Path("../shared/traces"), help="the folder of traces")
    parser.add_argument("--trace", type=Path, help="a file of arrivals, in the columns of Chronus or of Muri")
    parser.add_argument("--seeds", type=_seeds, help="of homes, users and shapes: 1,2,3")
    parser.add_argument("--plot", type=Path, help="write a chart: FILE.svg")


def _seeds(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def machines_of(agents: Iterable[AgentRow]) -> dict[str, dict[str, int]]:
    """By hub and resource name, what its machines offer together."""
    offered: dict[str, dict[str, int]] = {}
    for row in agents:
        there = offered.setdefault(row.key[0], {})
        for node in row.nodes:
            for name, _, amount in node.offered:
                there[name] = there.get(name, 0) + amount
    return offered


def workload(traces: Path, setting: Setting, trace: Path | None = None) -> Workload:
    """The federation and the jobs of one seed; `trace` names another file of arrivals than the folder's.

    Errors: INVALID_ARGUMENT for a file that cannot be read, and for more hubs than machines.
    """
    if not 0 < setting.hubs <= setting.machines:
        raise invalid(f"{setting.machines} machines cannot make {setting.hubs} hubs", hint="Ask for fewer hubs.")
    rng = np.random.default_rng((setting.seed, 3))
    arrivals, came_from = _arrivals(traces, trace, setting)
    cluster, shapes, shaped_by = _machines_and_shapes(traces, setting)
    agents = federation(cluster, setting.hubs, rng)
    taken = first_of(arrivals, setting.jobs)
    jobs = _jobs(taken, shapes, agents, setting, rng)
    return Workload(agents, jobs, f"{came_from} + {shaped_by}")


def missing(traces: Path) -> str:
    """What to get, and from where, for whoever has not all the files; empty when all are there."""
    wanted = []
    if _found(traces / "philly", FILES) is None:
        wanted.append(SOURCE)
    if _found(traces / "openb", (openb.NODES_FILE, f"{openb.NODES_FILE}.gz")) is None:
        wanted.append(openb.SOURCE)
    if not wanted:
        return ""
    return f"{traces} lacks: {'; and '.join(wanted)}. A generator of the same shape stands in."


def first_of(arrivals: Sequence[Arrival], most: int) -> tuple[Arrival, ...]:
    """The first that come, at most so many, from time 0 on."""
    ordered = sorted(arrivals)[:most]
    begin_ms = ordered[0].submit_ms
    return tuple(entry._replace(submit_ms=entry.submit_ms - begin_ms) for entry in ordered)


# -- arrivals ---------------------------------------------------------------------------------------------------------
def read_arrivals(path: Path) -> tuple[Arrival, ...]:
    """The jobs of a file of Chronus (minutes) or of Muri (milliseconds), told apart by their columns.

    A job without a GPU is one without a GPU here too. Errors: INVALID_ARGUMENT naming file and line.
    """
    rows = _rows(path)
    unit_ms = 1 if "iteration_time" in rows[0] else MINUTE_MS
    found = []
    for line, row in enumerate(rows, 2):
        try:
            submit, duration = float(row["submit_time"]) * unit_ms, float(row["duration"]) * unit_ms
            gpus = int(row["num_gpu"])
        except (KeyError, TypeError, ValueError):
            raise invalid(f"{path}, line {line}: submit_time, duration or num_gpu is missing or no number") from None
        if not (0 <= submit < 1e15 and 0 < duration < 1e15 and 0 <= gpus <= 1_000):
            raise invalid(f"{path}, line {line}: submit_time, duration or num_gpu is out of range")
        cluster, best_effort = row.get("user") or "", row.get("best_effort") == "1"
        found.append(Arrival(round(submit), max(1, round(duration)), gpus, cluster, best_effort))
    return tuple(found)


def synthetic_arrivals(jobs: int, seed: int) -> tuple[Arrival, ...]:
    """Arrivals of Philly's shape, in round numbers: bursts by the hour, nine of ten on one GPU, and a long tail.

    Gangs of 2 to 32 GPUs run longer; runtimes are log-normal about an hour, from a minute to a month.
    """
    rng = np.random.default_rng((seed, jobs, 5))
    hours = max(1, jobs // 90)
    busy = rng.lognormal(0.0, 0.7, hours)
    when = np.sort(rng.choice(hours, jobs, p=busy / busy.sum()) * HOUR_MS + rng.integers(0, HOUR_MS, jobs))
    gpus = rng.choice((0, 1, 2, 4, 8, 16, 32), jobs, p=(0.006, 0.911, 0.007, 0.04, 0.03, 0.005, 0.001))
    runtime = np.exp(rng.normal(np.log(HOUR_MS), 1.5, jobs)) * np.maximum(1, gpus) ** 0.3
    clusters = rng.integers(0, 11, jobs)
    preemptible = rng.random(jobs) < 0.3
    return tuple(
        Arrival(int(at), int(np.clip(run, MINUTE_MS, 720 * HOUR_MS)), int(count), f"vc-{cluster}", bool(best))
        for at, run, count, cluster, best in zip(when, runtime, gpus, clusters, preemptible, strict=True)
    )


def _arrivals(traces: Path, trace: Path | None, setting: Setting) -> tuple[tuple[Arrival, ...], str]:
    path = trace or _found(traces / "philly", FILES)
    if path is None:
        return synthetic_arrivals(setting.jobs, setting.seed), "synthetic:philly"
    return read_arrivals(path), path.name.removesuffix(".gz").removesuffix(".csv")


# -- machines and shapes ----------------------------------------------------------------------------------------------
class Shapes(NamedTuple):
    """What tasks ask for, as often as it is asked for, by how many GPUs."""

    none: tuple[Resources, ...]
    single: tuple[Resources, ...]
    """One, or a share of one."""
    whole: tuple[Resources, ...]
    """One whole one."""
    several: Mapping[int, tuple[Resources, ...]]


def _machines_and_shapes(traces: Path, setting: Setting) -> tuple[tuple[Node, ...], Shapes, str]:
    folder = traces / "openb"
    nodes = _found(folder, (openb.NODES_FILE, f"{openb.NODES_FILE}.gz"))
    pods = _found(folder, ("openb_pod_list_default.csv", "openb_pod_list_default.csv.gz"))
    if nodes is None or pods is None:
        return (*_synthetic_machines(setting), "synthetic:openb")
    cluster = openb.read_cluster(nodes)
    lots = np.random.default_rng((setting.seed, 7))
    order = np.lexsort((cluster.memory, cluster.cpu, cluster.gpus, cluster.kind))
    cut = [order[at : at + fleets.LOT] for at in range(0, len(order), fleets.LOT)]
    bought = np.concatenate([cut[at] for at in lots.permutation(len(cut))])
    machines = tuple(
        _machine(
            at, int(cluster.cpu[row]), int(cluster.memory[row]) * MIB, int(cluster.gpus[row]), cluster.models[row_kind]
        )
        for at, row in enumerate(np.resize(bought, setting.machines).tolist())
        for row_kind in (int(cluster.kind[row]),)
    )
    trace = openb.read_trace(pods)
    return machines, _shapes([trace.pods[at] for at in trace.which.tolist()]), "openb"


def _synthetic_machines(setting: Setting) -> tuple[tuple[Node, ...], Shapes]:
    """The hardware and the shapes of `fleets`, as rows."""
    rng = np.random.default_rng((setting.seed, 11))
    weights = np.asarray([model.percent if model.gpus else 0 for model in fleets.HARDWARE], np.float64)
    lots = rng.choice(len(weights), -(-setting.machines // fleets.LOT), p=weights / weights.sum())
    models = [fleets.HARDWARE[at] for at in np.repeat(lots, fleets.LOT)[: setting.machines].tolist()]
    machines = tuple(
        _machine(at, model.cores * 1_000, model.memory_gib << 30, model.gpus, f"model-{model.kind}")
        for at, model in enumerate(models)
    )
    wanted = fleets.demand(64, setting.seed)
    rows = fleets.draws(wanted, 2_000, setting.seed).tolist()
    pods = [
        openb.Pod(
            int(wanted.shapes.need[row, fleets.CPU]), int(wanted.shapes.need[row, fleets.MEMORY]) // MIB,
            int(wanted.shapes.devices[row]), int(wanted.shapes.milli[row]), "",
        )
        for row in rows
    ]  # fmt: skip
    return machines, _shapes(pods)


def _machine(at: int, cpu: int, memory: int, gpus: int, model: str) -> Node:
    offered = resources(
        ("cpu", "", cpu), ("memory", "", memory), ("disk", "", DISK_BYTES), ("gpu", model, gpus * 1_000)
    )
    return Node(f"m{at:04d}", offered, offered)


def _shapes(pods: Iterable[openb.Pod]) -> Shapes:
    """Every pod's task, by its GPUs. A pod's models stay its constraint."""
    by_gpus: dict[int, list[Resources]] = {0: [], 1: []}
    whole = []
    for pod in pods:
        task = resources(
            ("cpu", "", pod.cpu), ("memory", "", pod.memory * MIB), ("gpu", pod.spec, pod.gpus * pod.milli)
        )
        by_gpus.setdefault(pod.gpus, []).append(task)
        if pod.gpus == 1 and pod.milli == openb.WHOLE_MILLI:
            whole.append(task)
    several = {gpus: tuple(by_gpus[gpus]) for gpus in PODS_OF_WHOLE_MACHINE if by_gpus.get(gpus)}
    return Shapes(tuple(by_gpus[0]), tuple(by_gpus[1]), tuple(whole), several)


def federation(machines: Sequence[Node], hubs: int, rng: np.random.Generator) -> tuple[AgentRow, ...]:
    """The machines, in their order, spread over hubs of uneven size: one agent each."""
    sizes = rng.lognormal(0.0, fleets.HUB_SPREAD, hubs)
    ends = [0, *fleets.hubs_ends(sizes / sizes.sum(), len(machines)).tolist()]
    return tuple(
        AgentRow(
            key=(HubId(f"hub-{at:03d}"), AgentId("main")),
            hub_state=HubState.ACTIVE,
            link=LinkState.ONLINE,
            nodes=tuple(machines[begin:end]),
            engines=("command",),
        )
        for at, (begin, end) in enumerate(itertools.pairwise(ends))
    )


# -- jobs -------------------------------------------------------------------------------------------------------------
def _jobs(
    arrivals: Sequence[Arrival], shapes: Shapes, agents: Sequence[AgentRow], setting: Setting, rng: np.random.Generator
) -> tuple[HistoricJob, ...]:
    """Each arrival with a home, a user and a shape; arrivals are divided so that the load is the one asked for."""
    offered = machines_of(agents)
    gpus = np.asarray([offered[row.key[0]].get("gpu", 0) for row in agents], np.float64)
    appetite = np.maximum(gpus, 500) * rng.lognormal(0.0, HUB_APPETITE_SPREAD, len(agents))
    homes = rng.choice(len(agents), len(arrivals), p=appetite / appetite.sum())
    room = tasks_by_hub(agents)

    def most(task: Resources) -> int:
        return int(room(task).max())

    asked = [_gang(arrival, shapes, most, rng.random() < setting.in_one_machine, rng) for arrival in arrivals]
    work = sum(
        amount_of(task, "gpu") * replicas * arrival.runtime_ms
        for arrival, (task, replicas) in zip(arrivals, asked, strict=True)
    )
    span_ms = max(1, arrivals[-1].submit_ms)
    stretch = work / (setting.load * float(gpus.sum()) * span_ms)
    found = []
    for at, (arrival, (task, replicas), home) in enumerate(zip(arrivals, asked, homes.tolist(), strict=True)):
        row = QueuedJob(
            job_id=f"job-{at:05d}",
            seq=at + 1,
            home_hub=agents[home].key[0],
            project=arrival.cluster or "default",
            user=f"user-{rng.integers(USERS_PER_PROJECT)}",
            engine="command",
            per_task=task,
            replicas=replicas,
            runtime_limit_ms=next(
                (limit for limit in LIMITS_MS if limit >= 1.5 * arrival.runtime_ms), 2 * arrival.runtime_ms
            ),
            preemptible=arrival.preemptible,
            submitted_ms=round(arrival.submit_ms * stretch / MINUTE_MS) * MINUTE_MS,
        )
        found.append(HistoricJob(row, arrival.runtime_ms))
    return tuple(found)


def tasks_by_hub(agents: Sequence[AgentRow]) -> Callable[[Resources], Int64]:
    """How many tasks of a sort each idle hub has room for, int64 (H,), as a function that remembers its answers."""
    kinds = sorted({node.offered for row in agents for node in row.nodes})
    counts = np.asarray(
        [[sum(node.offered == kind for node in row.nodes) for kind in kinds] for row in agents], np.int64
    )
    known: dict[Resources, Int64] = {}

    def most(task: Resources) -> Int64:
        if task not in known:
            known[task] = counts @ np.asarray([_tasks_on(kind, task) for kind in kinds], np.int64)
        return known[task]

    return most


def _tasks_on(offered: Resources, task: Resources) -> int:
    """How many tasks fit on an idle machine of whole GPUs."""
    fitting = [amount_of(offered, name) // amount_of(task, name) for name in ("cpu", "memory") if amount_of(task, name)]
    for name, kind, milli in task:
        if name == "gpu":
            there = sum(
                entry.amount for entry in offered if entry.name == name and (not kind or entry.kind in kind.split("|"))
            )
            gpus = there // openb.WHOLE_MILLI
            fitting.append(gpus * (openb.WHOLE_MILLI // milli) if milli < openb.WHOLE_MILLI else there // milli)
    return min(fitting, default=0)


def _gang(
    arrival: Arrival, shapes: Shapes, most: Callable[[Resources], int], in_one_machine: bool, rng: np.random.Generator
) -> tuple[Resources, int]:
    """What one task of the arrival asks for, and how many tasks there are: no more than the roomiest hub can hold.

    Errors: INVALID_ARGUMENT where no machine has room for anything that is asked for.
    """
    gpus = arrival.gpus
    together = [count for count in shapes.several if gpus > 1 and gpus % count == 0]
    tasks, replicas = (shapes.none, 1) if gpus == 0 else (shapes.single, 1) if gpus == 1 else (shapes.whole, gpus)
    if together and in_one_machine:
        tasks, replicas = shapes.several[max(together)], gpus // max(together)
    for _ in range(DRAWS_MAX):
        task = tasks[int(rng.integers(len(tasks)))]
        if most(task) > 0:
            return task, min(replicas, most(task))
    raise invalid(
        "no machine has room for the shapes of this trace", hint="Use more machines, or another list of pods."
    )


# -- files ------------------------------------------------------------------------------------------------------------
def _found(folder: Path, names: Iterable[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        packed = path.read_bytes()
        text = (gzip.decompress(packed) if packed[:2] == b"\x1f\x8b" else packed).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise invalid(f"{path} cannot be read: {error}") from error
    rows = list(csv.DictReader(io.StringIO(text)))
    if not rows:
        raise invalid(f"{path} has no jobs", hint="A line of column names comes first.")
    return rows
