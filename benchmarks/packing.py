"""How much of a cluster's GPUs stays unallocated when more is asked for than there is?

FGD's protocol (Weng et al., "Beware of Fragmentation", USENIX ATC'23) on openb's lists: pods in an order shuffled by the
seed, appended to until they ask for 130 % of all GPUs, come one by one and never leave; each that fits at its turn must
be placed, each that does not is dropped. Every policy meets the same pods and the same nodes in the same order; ties go
to the first node, and the order is permuted once a seed. `ours` is the planner's own score (`kernels/score.py`) with
FGD's typical pods; `ours_learning` begins knowing nothing and learns from what arrives. Every run is audited: no pod
where it does not fit, none dropped that fits (in batches: none when its batch ends).

Without options that change the setting, the baselines are also held against their published figures.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.apparatus import packing_synthetic
from benchmarks.apparatus.openb import NODES_FILE, SOURCE, TRACES, read_cluster, read_trace
from benchmarks.apparatus.packing_measure import POLICIES, Case, Result, at_percent, interval, measure_one
from benchmarks.apparatus.plot import Chart, Series, write_chart
from benchmarks.figures import Baseline, Figure, Value, emit, say
from federation.errors import invalid

SEEDS, SEEDS_QUICK = tuple(range(42, 52)), (42, 43)
TUNE = 1.3
BASELINE = "fgd"
NAMES = {
    "ours": "ours", "ours_learning": "ours, learning", "fgd": "FGD (ATC'23)", "best_fit": "BestFit",
    "dot_prod": "DotProd", "random": "Random",
}  # fmt: skip
DRAWN_FROM_PCT = 85
"""Before so much has arrived all but Random place everything."""
PUBLISHED_SOURCE = "published allocation, ATC'23 artefact, ten seeds"
PUBLISHED: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "default": {
        "random": (86.30, 87.47), "dot_prod": (90.62, 90.85), "best_fit": (92.86, 93.08), "fgd": (95.23, 95.39),
    },
    "cpu050": {
        "random": (89.02, 91.24), "dot_prod": (93.03, 93.27), "best_fit": (93.56, 93.79), "fgd": (95.00, 95.21),
    },
    "gpushare40": {
        "random": (84.86, 86.00), "dot_prod": (89.30, 89.56), "best_fit": (91.44, 91.69), "fgd": (93.96, 94.15),
    },
    "gpuspec10": {
        "random": (86.26, 87.43), "dot_prod": (90.17, 90.39), "best_fit": (93.10, 93.30), "fgd": (94.66, 94.95),
    },
    "multigpu20": {
        "random": (86.92, 88.69), "dot_prod": (91.85, 92.06), "best_fit": (93.73, 93.93), "fgd": (95.53, 95.65),
    },
    "multigpu30": {
        "random": (86.63, 89.27), "dot_prod": (93.11, 93.28), "best_fit": (94.57, 94.72), "fgd": (96.36, 96.46),
    },
}  # fmt: skip
"""Percent of GPUs allocated at 100 and at 130 % arrived."""

Runs = dict[tuple[str, str, int], Result]
"""By trace, policy and seed."""


def options(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("--traces", type=Path, default=Path("../shared/traces"), help="folder with openb/ in it")
    parser.add_argument("--nodes", type=Path, help="a cluster in openb's columns, plain or .gz (default: openb's)")
    parser.add_argument(
        "--pods", type=Path, action="append", help="a pod list in openb's columns, plain or .gz; may be repeated"
    )
    parser.add_argument("--seeds", type=seeds_of, help="as 42,43 or 42..51 (default: 42..51; quick: 42,43)")
    parser.add_argument("--tune", type=float, default=TUNE, help="how much is asked for, in clusters (default: 1.3)")
    parser.add_argument("--policy", choices=tuple(POLICIES), help="one policy beside FGD (default: all)")
    parser.add_argument("--batch", type=int, default=1, help="ours decides so many pods at a time (default: 1)")
    parser.add_argument("--plot", type=Path, help="an SVG of the first trace: unallocated against arrived")


def seeds_of(text: str) -> tuple[int, ...]:
    """`42,43` or `42..51`."""
    first, dots, last = text.partition("..")
    seeds = tuple(range(int(first), int(last) + 1)) if dots else tuple(int(part) for part in text.split(","))
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError("seeds are different whole numbers, 0 or more")
    return seeds


def measure(chosen: argparse.Namespace) -> None:
    """Print every figure."""
    cases = cases_of(chosen)
    seeds = chosen.seeds or (SEEDS_QUICK if chosen.quick else SEEDS)
    policies = [name for name in POLICIES if chosen.policy in (None, name) or name == BASELINE]
    runs: Runs = {}
    began_s = time.monotonic()
    for case in cases:
        for policy in policies:
            for seed in seeds:
                runs[case.trace.name, policy, seed] = measure_one(case, policy, seed)
        for figure in figures_of(case, runs, policies, seeds, time.monotonic() - began_s):
            emit(figure)
        began_s = time.monotonic()
    for figure in over_traces(cases, runs, policies, seeds):
        emit(figure)
    as_published = chosen.nodes is None and chosen.pods is None and cases[0].trace.name in PUBLISHED
    if as_published and chosen.tune == TUNE:
        reproduction(cases, runs, policies, seeds)
    table(cases, runs, policies, seeds)
    if chosen.plot:
        draw(chosen.plot, cases[0], runs, policies, seeds)
        say(f"drawn: {chosen.plot}")


def cases_of(chosen: argparse.Namespace) -> list[Case]:
    """The traces asked for, on the cluster asked for. Raises: FederationError for files and options that cannot be used."""
    if not 0 < chosen.tune <= 100 or not 1 <= chosen.batch <= 1_000_000:
        raise invalid(f"--tune {chosen.tune} --batch {chosen.batch}", hint="tune is 0 to 100, batch 1 or more.")
    folder = chosen.traces / "openb"
    nodes, pods = chosen.nodes, chosen.pods
    lists = pods or [path for name in TRACES if (path := found(folder / f"openb_pod_list_{name}.csv"))]
    of_nodes = nodes or found(folder / NODES_FILE)
    if not (of_nodes and lists) and not (nodes or pods):
        say(f"{folder} has no openb lists; a synthetic cluster with synthetic pods stands in. To get them: {SOURCE}")
        return [Case(packing_synthetic.trace(), packing_synthetic.cluster(), chosen.tune, chosen.batch)]
    if not (of_nodes and lists):
        raise invalid(f"{folder} has no openb lists", hint=f"Give --nodes and --pods both, or get {SOURCE}")
    cluster = read_cluster(of_nodes)
    if not cluster.total_milli:
        raise invalid("the cluster has no GPUs", hint="Packing is measured in GPUs.")
    return [Case(read_trace(path), cluster, chosen.tune, chosen.batch) for path in lists]


def found(path: Path) -> Path | None:
    """The file, or its .gz; None where there is neither."""
    return next((at for at in (path, path.with_name(path.name + ".gz")) if at.is_file()), None)


def figures_of(case: Case, runs: Runs, policies: Sequence[str], seeds: Sequence[int], seconds: float) -> list[Figure]:
    """A trace's figures: each policy against FGD."""
    name = case.trace.name
    figures: list[Figure] = []
    for policy in policies:
        ours = [runs[name, policy, seed] for seed in seeds]
        base = [runs[name, BASELINE, seed] for seed in seeds]
        about: dict[str, Value] = {"trace": name, "policy": policy, "batch": case.batch, "seeds": len(seeds)}
        for percent in case.reported:
            value = mean(at_percent(result, percent) for result in ours)
            held = mean(at_percent(result, percent) for result in base)
            config = about | {"arrived_pct": percent} | paired(ours, base, percent)
            figures.append(Figure("packing", "unallocated_gpu_pct", value, "%", "lower", fgd(held), seconds, config))
        for shape_class in sorted({each for result in (*ours, *base) for each in result.dropped}):
            value = mean(result.dropped.get(shape_class, 0) for result in ours)
            held = mean(result.dropped.get(shape_class, 0) for result in base)
            config = about | {"arrived_pct": case.reported[-1], "shape_class": shape_class}
            figures.append(Figure("packing", "dropped_pods", value, "pods", "lower", fgd(held), seconds, config))
        value, held = middle(result.decision_us for result in ours), middle(result.decision_us for result in base)
        figures.append(Figure("packing", "decision_us", value, "us", "lower", fgd(held), seconds, about))
    return figures


def paired(ours: Sequence[Result], base: Sequence[Result], percent: int) -> dict[str, Value]:
    """The mean difference to FGD in points, seed by seed, and its 95 % confidence interval."""
    differences = [at_percent(a, percent) - at_percent(b, percent) for a, b in zip(ours, base, strict=True)]
    if len(differences) < 2:
        return {}
    low, high = interval(differences)
    return {
        "difference_points": round(mean(differences), 4),
        "difference_low": round(low, 4),
        "difference_high": round(high, 4),
    }


def over_traces(cases: Sequence[Case], runs: Runs, policies: Sequence[str], seeds: Sequence[int]) -> list[Figure]:
    """The mean and the worst ratio to FGD over the traces."""
    figures = []
    for policy in policies:
        for percent in cases[0].reported:
            ratios = [ratio(case.trace.name, runs, policy, seeds, percent) for case in cases]
            config: dict[str, Value] = {
                "policy": policy, "arrived_pct": percent, "batch": cases[0].batch,
                "traces": len(cases), "seeds": len(seeds),
            }  # fmt: skip
            for metric, value in (("ratio_to_fgd_mean", mean(ratios)), ("ratio_to_fgd_worst", max(ratios))):
                figures.append(Figure("packing", metric, value, "x", "lower", fgd(1.0), 0.0, config))
    return figures


def ratio(trace: str, runs: Runs, policy: str, seeds: Sequence[int], percent: int) -> float:
    """Unallocated in FGD's: of the means over seeds."""
    value = mean(at_percent(runs[trace, policy, seed], percent) for seed in seeds)
    held = mean(at_percent(runs[trace, BASELINE, seed], percent) for seed in seeds)
    return value / held if held else 1.0


def reproduction(cases: Sequence[Case], runs: Runs, policies: Sequence[str], seeds: Sequence[int]) -> None:
    """Print how far each baseline is from its published figures."""
    say("\nallocated here less published, in points, at 100 and at 130 % arrived")
    furthest = 0.0
    for case in cases:
        cells = []
        for policy in (name for name in policies if name in PUBLISHED[case.trace.name]):
            for percent, published in zip((100, 130), PUBLISHED[case.trace.name][policy], strict=True):
                value = 100 - mean(at_percent(runs[case.trace.name, policy, seed], percent) for seed in seeds)
                config: dict[str, Value] = {
                    "trace": case.trace.name, "policy": policy, "arrived_pct": percent, "seeds": len(seeds),
                    "difference_points": round(value - published, 3),
                }  # fmt: skip
                held = Baseline(f"{policy}, published", published, PUBLISHED_SOURCE)
                emit(Figure("packing", "allocated_gpu_pct", value, "%", "higher", held, 0.0, config))
                furthest = max(furthest, abs(value - published))
                cells.append(f"{value - published:+.2f}")
            cells[-2:] = [f"{policy} {cells[-2]} {cells[-1]}"]
        say(f"{case.trace.name:12} " + "   ".join(cells))
    say(f"furthest: {furthest:.2f} points")


def table(cases: Sequence[Case], runs: Runs, policies: Sequence[str], seeds: Sequence[int]) -> None:
    """For people: unallocated percent by trace and policy, and its ratio to FGD."""
    for percent in cases[0].reported:
        say(f"\nGPUs unallocated at {percent} % arrived, %, and in FGD's; mean of {len(seeds)} seeds")
        say(f"{'':18}" + "".join(f"{policy:>22}" for policy in policies))
        for case in cases:
            cells = []
            for policy in policies:
                value = mean(at_percent(runs[case.trace.name, policy, seed], percent) for seed in seeds)
                cells.append(f"{value:14.2f} ({ratio(case.trace.name, runs, policy, seeds, percent):.3f})")
            say(f"{case.trace.name:18}" + "".join(cells))
        ratios = {name: [ratio(case.trace.name, runs, name, seeds, percent) for case in cases] for name in policies}
        say(f"{'mean ratio, worst':18}" + "".join(f"{mean(each):14.3f}, {max(each):.3f} " for each in ratios.values()))
    for case in cases:
        for policy in policies:
            of_seed = [runs[case.trace.name, policy, seed] for seed in seeds]
            classes = sorted({each for result in of_seed for each in result.dropped})
            drops = ", ".join(
                f"{each} {mean(result.dropped.get(each, 0) for result in of_seed):,.1f}" for each in classes
            )
            speed = middle(result.decision_us for result in of_seed)
            say(f"{case.trace.name:12} {policy:14} {speed:6.1f} us a decision; dropped: {drops}")


def draw(path: Path, case: Case, runs: Runs, policies: Sequence[str], seeds: Sequence[int]) -> None:
    """Unallocated against arrived, each policy a line, the mean over seeds."""
    series = []
    for policy in policies:
        curves = [runs[case.trace.name, policy, seed].unallocated_pct for seed in seeds]
        common = sorted(set.intersection(*(set(each) for each in curves)))
        points = tuple(
            (float(at), mean(each[at] for each in curves))
            for at in common
            if at >= DRAWN_FROM_PCT or common[-1] <= DRAWN_FROM_PCT
        )
        series.append(Series(NAMES[policy], points))
    title = f"GPUs left over on {case.trace.name}, {len(seeds)} seeds"
    write_chart(path, Chart(title, "GPUs asked for, % of the cluster", "GPUs unallocated, %", tuple(series)))


def fgd(value: float) -> Baseline:
    """FGD in this run."""
    return Baseline(NAMES[BASELINE], value)


def mean(values: Iterable[float]) -> float:
    """Of any numbers."""
    return float(np.mean(list(values)))


def middle(values: Iterable[float]) -> float:
    """The median: a busy moment of the machine is not the policy's."""
    return float(np.median(list(values)))
