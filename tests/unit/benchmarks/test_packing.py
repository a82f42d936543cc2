"""The packing protocol on lists small enough to follow by hand."""

from __future__ import annotations

import argparse
import gzip
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks import packing
from benchmarks.apparatus import packing_synthetic
from benchmarks.apparatus.openb import (
    ANY_KIND,
    Cluster,
    Pod,
    Trace,
    arrivals,
    kinds_of,
    node_order,
    read_cluster,
    read_trace,
)
from benchmarks.apparatus.packing_measure import (
    POLICIES,
    Case,
    at_percent,
    curve,
    fleet_of,
    in_batches,
    interval,
    known_of,
    measure_one,
    setting_of,
    task_of,
    typical_of,
)
from benchmarks.apparatus.packing_policies import best_fit, dot_prod, fgd, fgd_before
from benchmarks.apparatus.packing_run import Outcome, Setting, audit, nodes_of
from federation.domain.quantities import need_of
from federation.errors import FederationError
from federation.scheduling.fragmentation import Sort
from federation.scheduling.kernels.room import fits, take, tightest_device
from federation.scheduling.kernels.score import gain, phi

NODES = "sn,cpu_milli,memory_mib,gpu,model\nn0,64000,262144,2,P100\nn1,96000,393216,8,G2\nn2,32000,1000,0,\n"
PODS = (
    "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\n"
    "p2,8000,100,2,1000,P100|G2\np0,4000,200,1,460,\np1,1000,300,0,0,\np3,4000,200,1,460,\n"
)
WHOLE = Pod(4_000, 0, 1, 1_000, "")
HALF = Pod(4_000, 0, 1, 500, "")
BARE = Pod(2_000, 0, 0, 0, "")


def cluster(*nodes: tuple[int, int, int]) -> Cluster:
    """Nodes of (CPU milli, memory, GPUs), one model."""
    columns = np.array(nodes, np.int64)
    return Cluster(columns[:, 0], columns[:, 1], columns[:, 2], np.zeros(len(nodes), np.int64), ("G2",))


def trace(*pods: Pod) -> Trace:
    """A list of pods as they stand in the file."""
    kinds = tuple(sorted(set(pods)))
    return Trace("by-hand", kinds, np.array([kinds.index(pod) for pod in pods], np.int64))


def case(pods: Trace, machines: Cluster, tune: float = 1.3, batch: int = 1) -> Case:
    """A case."""
    return Case(pods, machines, tune, batch)


@pytest.mark.parametrize("packed", [False, True])
def test_files_are_read_plain_and_packed(tmp_path: Path, packed: bool) -> None:
    """Nodes in the file's order, pods in order of name."""
    nodes, pods = tmp_path / "nodes.csv", tmp_path / "openb_pod_list_mine.csv.gz"
    nodes.write_bytes(gzip.compress(NODES.encode()) if packed else NODES.encode())
    pods.write_bytes(gzip.compress(PODS.encode()) if packed else PODS.encode())
    machines, listed = read_cluster(nodes), read_trace(pods)
    assert (machines.gpus.tolist(), machines.models, machines.total_milli) == ([2, 8, 0], ("G2", "P100"), 10_000)
    assert machines.kind.tolist() == [1, 0, 0]
    assert listed.name == "mine"
    assert [listed.pods[at] for at in listed.which] == [
        Pod(4_000, 200, 1, 460, ""), Pod(1_000, 300, 0, 0, ""), Pod(8_000, 100, 2, 1_000, "P100|G2"), Pod(4_000, 200, 1, 460, ""),
    ]  # fmt: skip


def test_an_absent_column_says_nothing(tmp_path: Path) -> None:
    """No models: any; no memory: none asked; no count but a size: one; no size but a count: whole ones."""
    (tmp_path / "a.csv").write_text("name,cpu_milli,gpu_milli\na,1000,250\nb,1000,0\n")
    (tmp_path / "b.csv").write_text("name,num_gpu\na,3\n")
    first, second = read_trace(tmp_path / "a.csv"), read_trace(tmp_path / "b.csv")
    assert first.pods == (Pod(1_000, 0, 0, 0, ""), Pod(1_000, 0, 1, 250, ""))
    assert second.pods == (Pod(0, 0, 3, 1_000, ""),)


@pytest.mark.parametrize("text", ["name,cpu_milli\na,-1\n", "name,cpu_milli\na,few\n", "name,gpu_milli\na,1001\n",
                                  "name,cpu_milli\na,1.5\n", "name,cpu_milli\na,nan\n", "name,cpu_milli\n", ""])  # fmt: skip
def test_what_is_no_list_is_refused_by_name(tmp_path: Path, text: str) -> None:
    """With the file, and where there is one the line."""
    path = tmp_path / "wrong.csv"
    path.write_text(text)
    with pytest.raises(FederationError, match=r"wrong\.csv.*(line 2|no rows)"):
        read_trace(path)


def test_models_are_bits() -> None:
    """Any of those named; all bits where none is; none where the cluster has none of them."""
    models = ("A10", "G2", "T4")
    assert [kinds_of(spec, models) for spec in ("", "G2|T4|G2", "H100")] == [ANY_KIND, 0b110, 0]


def test_a_list_is_appended_to_until_one_gpu_more_would_pass() -> None:
    """The sum adds all of a pod's GPUs, the test looks at one: the last pods may pass the target by their other GPUs."""
    two = Pod(1_000, 0, 2, 1_000, "")
    coming = arrivals(trace(two), total_milli=10_000, tune=1.3, seed=42)
    assert len(coming) == 7  # 12,000 and one GPU is 13,000, not above it; 14,000 and one is
    assert len(arrivals(trace(WHOLE), 10_000, 1.3, 42)) == 13


def test_the_listed_pods_all_come_first() -> None:
    """Shuffled by the seed; the same for the same seed, another for another; then draws from the list."""
    listed = trace(*[HALF] * 4, *[BARE] * 3, WHOLE)
    coming = arrivals(listed, 20_000, 1.3, 42)
    assert Counter(coming[:8].tolist()) == Counter(listed.which.tolist())
    assert np.array_equal(coming, arrivals(listed, 20_000, 1.3, 42))
    assert not np.array_equal(coming, arrivals(listed, 20_000, 1.3, 43))
    assert not np.array_equal(node_order(50, 42), node_order(50, 43))


def test_a_list_that_asks_for_more_is_thinned() -> None:
    """Uniformly, until it asks for the target at most."""
    listed = trace(*[WHOLE] * 20, *[BARE] * 5)
    coming = arrivals(listed, 10_000, 1.3, 42)
    assert sum(listed.pods[at].asked_milli for at in coming) == 13_000


def test_a_list_without_gpus_cannot_be_measured() -> None:
    """It would be appended to for ever."""
    with pytest.raises(FederationError, match="no pod of by-hand asks for a GPU"):
        arrivals(trace(BARE), 10_000, 1.3, 42)


def test_typical_pods_are_classes_as_written() -> None:
    """By CPU, size, number and models, whatever the memory."""
    listed = trace(*[HALF] * 3, HALF._replace(memory=9), WHOLE._replace(spec="G2"), *[WHOLE] * 2)
    assert typical_of(case(listed, cluster((96_000, 0, 8)))) == (
        (Sort(4_000, 500, 1, ANY_KIND), 4), (Sort(4_000, 1_000, 1, ANY_KIND), 2), (Sort(4_000, 1_000, 1, 1), 1),
    )  # fmt: skip


def test_the_figure_is_the_mean_at_a_rounded_percent() -> None:
    """Two pods that come at the same percent are one point; a drop counts as arrived."""
    setting = setting_of(case(trace(*[Pod(0, 0, 1, 4, "")] * 2), cluster((1_000, 0, 1)), tune=0.008), 42)
    assert len(setting.arrivals) == 2  # 4 and 8 of 1,000 milli arrived: 0 and 1 %
    outcome = Outcome(np.array([0, -1], np.int32), np.array([0, -1], np.int32))
    assert curve(setting, outcome, 1_000) == {0: pytest.approx(99.6), 1: pytest.approx(99.6)}


@pytest.mark.parametrize("policy", list(POLICIES))
def test_memory_is_a_filter(policy: str) -> None:
    """A pod whose memory no node has is dropped, by every policy; the others are placed."""
    large = WHOLE._replace(memory=600)
    result = measure_one(case(trace(*[WHOLE] * 2, large), cluster((64_000, 500, 2), (64_000, 400, 2)), 1.0), policy, 42)
    assert result.dropped["gpu-1"] >= 1
    assert result.learned == (policy == "ours_learning")


@pytest.mark.parametrize("policy", ["fgd", "best_fit", "dot_prod"])
def test_ties_go_to_the_first_node_in_the_order(policy: str) -> None:
    """Equal nodes are filled from the front."""
    nodes = cluster(*[(64_000, 0, 1)] * 5)
    setting = setting_of(case(trace(WHOLE), nodes, 0.4), 42)
    assert slow_run(policy, setting, case(trace(WHOLE), nodes, 0.4)) == [0, 1]


def slow_run(policy: str, setting: Setting, of: Case) -> list[int]:
    """Every node scored for every pod, nothing remembered: where each pod goes."""
    known, nodes, shapes = known_of(of), setting.nodes, setting.shapes
    scratch = np.zeros(16, np.int64)
    went = []
    for shape in setting.arrivals.tolist():
        best, chosen, device = -np.inf, -1, -1
        for node in range(len(nodes.free)):
            if not fits(nodes, shapes, shape, node):
                continue
            if policy == "ours":
                score, on = gain(nodes, shapes, known.tables, shape, node, phi(nodes, known.tables, node))
                score -= setting.standings[node]
            elif policy == "fgd":
                before = fgd_before(known.typical, nodes, node)
                score, on = fgd(known.typical, nodes, shapes, shape, node, before, scratch)
            else:
                score = (best_fit if policy == "best_fit" else dot_prod)(nodes, shapes, shape, node)
                on = tightest_device(nodes, shapes, shape, node)
            if score > best:
                best, chosen, device = score, node, on
        if chosen >= 0:
            take(nodes, shapes, shape, chosen, device, scratch)
        went.append(chosen)
    return went


@pytest.mark.parametrize("policy", ["ours", "fgd", "best_fit", "dot_prod"])
def test_remembered_scores_decide_as_scores_made_anew(policy: str) -> None:
    """On a small cluster of all sorts of nodes, with and without GPUs: the same pods are dropped and as much is left over."""
    draw = np.random.default_rng(5)
    sizes = [0, 160, 320, 460, 470, 650, 810, 1_000, 1_000, 1_000]
    pods = [Pod(int(draw.integers(1, 17)) * 1_000, int(draw.integers(1, 9)) * 1_000, int(milli > 0), int(milli), "")
            for milli in draw.choice(sizes, 80)] + [Pod(16_000, 1, 4, 1_000, "")] * 4  # fmt: skip
    machines = cluster(*[(64_000, 64_000, 4)] * 5, *[(24_000, 24_000, 2)] * 4, *[(32_000, 16_000, 0)] * 3)
    of = case(trace(*pods), machines)
    setting = setting_of(of, 42)
    went = slow_run(policy, setting, of)
    dropped = Counter(
        of.trace.pods[shape].shape_class for shape, node in zip(setting.arrivals, went, strict=True) if node < 0
    )
    result = measure_one(of, policy, 42)
    assert result.dropped == dropped
    expected = curve(setting, Outcome(np.array(went, np.int32), np.zeros(0, np.int32)), machines.total_milli)
    assert result.unallocated_pct == expected


def test_learning_knows_models_as_the_cluster_does() -> None:
    """The planner's bits for models are those that the nodes and the pods of the protocol have."""
    models = ("A10", "G2", "P100")
    one = np.ones(3, np.int64)
    of = case(trace(WHOLE), Cluster(one, one, one, np.arange(3), models))
    assert [fleet_of(of).shapes.mask({model}) for model in models] == [kinds_of(model, models) for model in models]
    pod = Pod(4_000, 7, 1, 500, "P100|G2")
    need = need_of(task_of(pod))
    assert (need.milli, need.devices) == (500, 1)
    assert fleet_of(of).shapes.mask(need.kinds) == kinds_of(pod.spec, models)


def audited(outcome: list[int], devices: list[int], batch: int = 1) -> int:
    """Two nodes of one GPU each meet four halves."""
    setting = setting_of(case(trace(*[HALF] * 4), cluster((64_000, 0, 1), (64_000, 0, 1)), 1.0), 42)
    empty = nodes_of(cluster((64_000, 0, 1), (64_000, 0, 1)), np.arange(2))
    return audit(
        empty,
        setting.shapes,
        setting.arrivals,
        Outcome(np.array(outcome, np.int32), np.array(devices, np.int32)),
        batch,
    )


def test_the_audit_finds_what_breaks_a_rule() -> None:
    """More than fits, a device of another node, and a pod dropped though it fits; a fair run passes."""
    assert audited([0, 0, 1, 1], [0, 0, 1, 1]) == -1
    assert audited([0, 0, 0, 1], [0, 0, 0, 1]) == 2
    assert audited([0, 0, 1, 1], [0, 1, 1, 1]) == 1
    assert audited([0, -1, 1, 1], [0, -1, 1, 1]) == 1


def test_in_a_batch_a_drop_is_judged_when_the_batch_ends() -> None:
    """The last half still fits when the second batch of two ends."""
    assert audited([0, 0, -1, 1], [0, 0, -1, 1], batch=2) == 2
    assert audited([0, 0, 1, 1], [0, 0, 1, 1], batch=4) == -1


def test_a_batch_decides_its_largest_gangs_first() -> None:
    """All else stays as it came, and nobody changes batches."""
    gang = Pod(1_000, 0, 4, 1_000, "")
    of = case(trace(*[HALF] * 6, *[gang] * 2, *[BARE] * 4), cluster((96_000, 0, 8), (96_000, 0, 8)), batch=4)
    setting = setting_of(of, 42)
    ordered = in_batches(setting, 4)
    for begin in range(0, len(ordered), 4):
        as_came, decided = setting.arrivals[begin : begin + 4].tolist(), ordered[begin : begin + 4].tolist()
        gangs = [shape for shape in as_came if of.trace.pods[shape] == gang]
        assert decided == gangs + [shape for shape in as_came if of.trace.pods[shape] != gang]


def test_an_interval_holds_its_mean() -> None:
    """Student's t: for two values 12.7 standard errors."""
    low, high = interval([1.0, 2.0])
    assert (low + high) / 2 == 1.5
    assert high - low == pytest.approx(12.706, abs=0.001)


def test_the_last_percent_before_is_told_where_none_came_at_it() -> None:
    """Large pods leave gaps in the curve."""
    result = measure_one(case(trace(*[Pod(0, 0, 8, 1_000, "")]), cluster((1_000, 0, 8), (1_000, 0, 8)), 1.3), "fgd", 42)
    assert sorted(result.unallocated_pct) == [50, 100, 150]
    assert at_percent(result, 130) == result.unallocated_pct[100]


def chosen(*words: str) -> argparse.Namespace:
    """Options as typed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    packing.options(parser)
    return parser.parse_args(words)


def test_seeds_are_a_list_or_a_range() -> None:
    """And nothing else."""
    assert (packing.seeds_of("42,43"), packing.seeds_of("42..44")) == ((42, 43), (42, 43, 44))
    for wrong in ("", "a", "3,3", "-1", "5..4"):
        with pytest.raises((ValueError, argparse.ArgumentTypeError)):
            packing.seeds_of(wrong)


def test_files_of_ones_own_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON lines alone on standard output: ours against FGD in the same run, drops by shape class, a chart where asked."""
    (tmp_path / "nodes.csv").write_text(NODES)
    (tmp_path / "pods.csv").write_text(PODS)
    words = ["--nodes", tmp_path / "nodes.csv", "--pods", tmp_path / "pods.csv", "--plot", tmp_path / "chart.svg"]
    packing.measure(chosen(*map(str, words), "--policy", "ours", "--seeds", "1,2"))
    figures = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    told = {(each["metric"], each["config"]["policy"], each["config"].get("arrived_pct")) for each in figures}
    assert {("unallocated_gpu_pct", policy, percent) for policy in ("ours", "fgd") for percent in (100, 130)} <= told
    assert ("dropped_pods", "ours", 130) in told
    assert {each["config"].get("trace", "pods") for each in figures} == {"pods"}
    assert "difference_low" in figures[0]["config"]
    assert (tmp_path / "chart.svg").read_text().startswith("<svg")


def test_without_the_lists_a_stand_in_is_marked_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says what to get and from where."""
    (of,) = packing.cases_of(chosen("--traces", str(tmp_path)))
    assert of.trace.name == "synthetic:default"
    assert "cluster-trace-gpu-v2023" in capsys.readouterr().err


def test_half_of_the_files_is_refused(tmp_path: Path) -> None:
    """A cluster of one's own with no pods at hand."""
    (tmp_path / "nodes.csv").write_text(NODES)
    with pytest.raises(FederationError, match="no openb lists"):
        packing.cases_of(chosen("--traces", str(tmp_path), "--nodes", str(tmp_path / "nodes.csv")))


def test_the_stand_in_has_the_published_proportions() -> None:
    """About 1,200 nodes, 6,200 GPUs, an eighth of the pods without GPU; the same at every call."""
    machines, pods = packing_synthetic.cluster(), packing_synthetic.trace()
    assert (len(machines.cpu), machines.total_milli) == (1_210, 6_140_000)
    classes = Counter(pods.pods[at].shape_class for at in pods.which)
    assert classes["cpu"] / len(pods.which) == pytest.approx(0.13, abs=0.01)
    assert classes["share"] / len(pods.which) == pytest.approx(0.38, abs=0.02)
    assert np.array_equal(pods.which, packing_synthetic.trace().which)
