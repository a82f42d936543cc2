"""What one policy makes of one trace and seed: run, audited, and read as the packing protocol reads it.

Deliberately not here: the loop (`packing_run.py`), and what is printed (`benchmarks/packing.py`).
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.apparatus.openb import Cluster, Int64, Pod, Trace, arrivals, kinds_of, node_order
from benchmarks.apparatus.packing_policies import typical_pods
from benchmarks.apparatus.packing_run import (
    BEST_FIT,
    DOT_PROD,
    FGD,
    NOWHERE,
    OURS,
    RANDOM,
    Known,
    Memory,
    Outcome,
    Setting,
    audit,
    classes_of,
    memory_of,
    nodes_of,
    run,
    shapes_of,
    start,
)
from federation.domain.hub import HubState, LinkState, Node
from federation.domain.ids import AgentId, AgentKey, HubId
from federation.domain.quantities import CPU, GPU, Resources, resources
from federation.scheduling.fleet import Fleet
from federation.scheduling.fragmentation import COVERED, Sort, standings, tables_of
from federation.scheduling.kernels.room import DEVICE_MILLI
from federation.scheduling.lore import LOOKS_PER_MIX, Lore
from federation.scheduling.rows import AgentRow

POLICIES = {
    "ours": OURS,
    "ours_learning": OURS,
    "fgd": FGD,
    "best_fit": BEST_FIT,
    "dot_prod": DOT_PROD,
    "random": RANDOM,
}


@dataclass(frozen=True, slots=True)
class Case:
    """A trace on a cluster, as the protocol sets it up."""

    trace: Trace
    cluster: Cluster
    tune: float
    batch: int

    @property
    def reported(self) -> tuple[int, ...]:
        """The percent of capacity arrived that figures are told at: 100 and the last."""
        last = round(self.tune * 100)
        return (100, last) if last > 100 else (last,)


@dataclass(frozen=True, slots=True)
class Result:
    """One run."""

    unallocated_pct: Mapping[int, float]
    """By percent of capacity arrived: the mean over the pods that came at that percent."""
    dropped: Mapping[str, int]
    """Pods by shape class."""
    decision_us: float
    """Processor time: other programs on the machine are not the policy's."""
    learned: int
    """How often tables were made while it ran."""


def measure_one(case: Case, policy: str, seed: int) -> Result:
    """Run, audit and read. Raises: AssertionError where a run broke a rule of the protocol."""
    setting = setting_of(case, seed)
    if policy.startswith("ours") and case.batch > 1:
        setting = setting._replace(arrivals=in_batches(setting, case.batch))
    number, known, memory = POLICIES[policy], known_of(case), memory_of(setting)
    count = len(setting.arrivals)
    outcome = Outcome(np.full(count, NOWHERE, np.int32), np.full(count, NOWHERE, np.int32))
    warm(number, setting, known, memory, outcome)
    began_s = time.thread_time()
    learned = 0
    if policy == "ours_learning":
        learned = _run_learning(case, setting, known, memory, outcome)
    else:
        start(number, setting, known, memory)
        run(number, setting, known, memory, outcome, (0, count), 0)
    took_s = time.thread_time() - began_s
    empty = nodes_of(case.cluster, node_order(len(case.cluster.cpu), seed))
    broken = audit(empty, setting.shapes, setting.arrivals, outcome, case.batch if policy.startswith("ours") else 1)
    assert broken < 0, f"{policy} on {case.trace.name}, seed {seed}: pod {broken} breaks the protocol's rules"
    dropped = setting.arrivals[outcome.node < 0]
    return Result(
        curve(setting, outcome, case.cluster.total_milli),
        Counter(case.trace.pods[shape].shape_class for shape in dropped.tolist()),
        took_s / max(count, 1) * 1e6,
        learned,
    )


def setting_of(case: Case, seed: int) -> Setting:
    """Empty nodes in the seed's order, and its arrivals: the same for every policy."""
    nodes = nodes_of(case.cluster, node_order(len(case.cluster.cpu), seed))
    shapes = shapes_of(case.trace.pods, case.cluster.models)
    classes, class_of = classes_of(shapes, bool((case.cluster.gpus == 0).any()))
    coming = arrivals(case.trace, case.cluster.total_milli, case.tune, seed)
    draws = np.random.default_rng([seed, 3]).random(len(coming))
    return Setting(nodes, shapes, classes, class_of, coming, draws, standings(len(nodes.free)))


def in_batches(setting: Setting, batch: int) -> Int64:
    """The arrivals with each batch's pods in the order in which ours decides them: most whole GPUs first, else as they came."""
    wholes = np.where(setting.shapes.devices > 1, setting.shapes.devices, 0)[setting.arrivals]
    number = np.arange(len(setting.arrivals)) // batch
    return setting.arrivals[np.lexsort((np.arange(len(number)), -wholes, number))]


def typical_of(case: Case) -> tuple[tuple[Sort, int], ...]:
    """FGD's typical pods: classes (CPU, milli, GPUs, models as written) until they are 95 % of the original list."""
    counts: Counter[tuple[int, int, int, str]] = Counter()
    for pod, count in zip(case.trace.pods, np.bincount(case.trace.which).tolist(), strict=True):
        counts[pod.cpu, pod.milli, pod.gpus, pod.spec] += count
    enough, seen = COVERED * sum(counts.values()), 0
    kept: list[tuple[Sort, int]] = []
    for (cpu, milli, gpus, spec), count in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])):
        if seen >= enough:
            break
        kept.append((Sort(cpu, milli, gpus, kinds_of(spec, case.cluster.models)), count))
        seen += count
    return tuple(kept)


def known_of(case: Case) -> Known:
    """What the policies may know: FGD's typical pods, the same for all."""
    typical = typical_of(case)
    return Known(tables_of(typical), typical_pods(typical))


def curve(setting: Setting, outcome: Outcome, total_milli: int) -> dict[int, float]:
    """Unallocated percent by arrived percent."""
    asked = (setting.shapes.milli * setting.shapes.devices)[setting.arrivals]
    arrived = np.rint(np.cumsum(asked) / total_milli * 100).astype(np.int64)
    used = np.cumsum(np.where(outcome.node >= 0, asked, 0)) / total_milli * 100
    counts = np.bincount(arrived)
    sums = np.bincount(arrived, used)
    return {int(at): 100 - sums[at] / counts[at] for at in np.flatnonzero(counts)}


def at_percent(result: Result, percent: int) -> float:
    """Unallocated when `percent` had arrived; where no pod came at it, at the last before."""
    return result.unallocated_pct[max(at for at in result.unallocated_pct if at <= percent)]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % confidence interval of the mean of `values`, two or more (Student's t)."""
    from scipy.special import stdtrit  # only who asks for an interval pays

    half = float(stdtrit(len(values) - 1, 0.975)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    middle = float(np.mean(values))
    return middle - half, middle + half


def _run_learning(case: Case, setting: Setting, known: Known, memory: Memory, outcome: Outcome) -> int:
    """Ours, knowing at first nothing and then what has arrived, dropped or not; how often tables were made.

    The planner's own memory of the workload (`federation/scheduling/lore.py`), told of arrivals as by rounds: a round
    comes each time so much has arrived that it might look.
    """
    lore, fleet = Lore(), fleet_of(case)
    tasks = [task_of(pod) for pod in case.trace.pods]
    learned, changes, begin = 0, 0, 0
    known = known._replace(tables=lore.tables)
    start(OURS, setting, known, memory)
    while begin < len(setting.arrivals):
        end = min(begin + begin // LOOKS_PER_MIX + 1, len(setting.arrivals))
        changes = run(OURS, setting, known, memory, outcome, (begin, end), changes)
        for shape in setting.arrivals[begin:end].tolist():
            lore.count(tasks[shape], 1)
        begin = end
        lore.settle(fleet)
        if lore.tables is not known.tables:
            known = known._replace(tables=lore.tables)
            start(OURS, setting, known, memory)
            learned += 1
    return learned


def fleet_of(case: Case) -> Fleet:
    """A machine of each model with devices, as the planner keeps them: what a memory of the workload knows models by."""
    key: AgentKey = (HubId("openb"), AgentId("main"))
    nodes = tuple(
        Node(model, offered, offered)
        for model in case.cluster.models
        for offered in (resources((GPU, model, DEVICE_MILLI)),)
    )
    return Fleet({key: AgentRow(key, HubState.ACTIVE, LinkState.ONLINE, nodes, ())})


def task_of(pod: Pod) -> Resources:
    """What a pod asks for, in the planner's words."""
    return resources((CPU, "", pod.cpu), (GPU, pod.spec, pod.asked_milli))


def warm(number: int, setting: Setting, known: Known, memory: Memory, outcome: Outcome) -> None:
    """Compile, or fetch from the cache, what the run needs: no arrival is decided."""
    start(number, setting, known, memory)
    run(number, setting, known, memory, outcome, (0, 0), 0)
