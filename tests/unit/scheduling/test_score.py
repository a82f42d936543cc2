"""What the score prefers, on rooms small enough to see why."""

from __future__ import annotations

import numpy as np

from federation.scheduling.fragmentation import STEP, Sort, tables_of
from federation.scheduling.kernels.room import Nodes, Shapes
from federation.scheduling.kernels.score import gain, phi

ANY = (1 << 64) - 1
TABLES = tables_of([(Sort(8_000, 800, 1, ANY), 5), (Sort(4_000, 500, 1, ANY), 4), (Sort(8_000, 1_000, 1, ANY), 11)])


def nodes_of(*nodes: tuple[int, list[int]]) -> Nodes:
    """Nodes of (free CPU milli, free milli of each device), with memory to spare."""
    counts = [len(devices) for _, devices in nodes]
    return Nodes(
        np.array([(cpu, 1_000) for cpu, _ in nodes], np.int64),
        np.cumsum([0, *counts]).astype(np.int32),
        np.array([free for _, devices in nodes for free in devices], np.int64),
        np.full(sum(counts), 1_000, np.int64),
        np.zeros(sum(counts), np.int32),
    )


def shape(cpu: int, milli: int = 0, devices: int = 0, memory: int = 0) -> Shapes:
    """One shape."""
    return Shapes(
        np.array([[cpu, memory]], np.int64), np.array([milli]), np.array([devices]), np.array([ANY], np.uint64)
    )


def scores(nodes: Nodes, wanted: Shapes) -> list[tuple[float, int]]:
    """(score, device) of each node."""
    return [gain(nodes, wanted, TABLES, 0, node, phi(nodes, TABLES, node)) for node in range(len(nodes.free))]


def test_a_half_goes_beside_a_half() -> None:
    """Breaking a whole device costs its bid; filling up a broken one does not."""
    (score, device), *_ = scores(nodes_of((64_000, [1_000, 500, 800])), shape(4_000, 500, 1))
    assert (device, score > 0) == (1, False)
    others = scores(nodes_of((64_000, [1_000]), (64_000, [500])), shape(4_000, 500, 1))
    assert others[1][0] > others[0][0]


def test_equal_devices_fall_to_the_first() -> None:
    """The row of the device counts over all nodes."""
    assert [device for _, device in scores(nodes_of((9_000, [1_000]), (9_000, [500, 500])), shape(1, 500, 1))] == [0, 1]


def test_only_shares_name_a_device() -> None:
    """Whole devices are the first free ones, which `take` knows."""
    assert [device for _, device in scores(nodes_of((64_000, [1_000] * 4)), shape(8_000, 1_000, 2))] == [-1]
    assert [device for _, device in scores(nodes_of((64_000, [1_000] * 4)), shape(8_000))] == [-1]


def test_a_task_without_gpu_pays_for_the_gpus_it_strands() -> None:
    """Where CPU is scarce beside free GPUs it costs; where there is plenty or no GPU is free it does not."""
    scarce, plenty, taken = scores(
        nodes_of((16_000, [1_000] * 2), (64_000, [1_000] * 2), (16_000, [0, 0])), shape(8_000)
    )
    assert scarce[0] < plenty[0] <= 0.0
    assert taken[0] == 0.0


def test_nodes_without_gpus_are_filled_by_best_fit() -> None:
    """The tighter the better, over what the task needs; and all of them before a GPU is stranded."""
    loose, tight, exact, with_gpus = scores(
        nodes_of((64_000, []), (16_000, []), (8_000, []), (16_000, [1_000, 1_000])), shape(8_000, memory=1_000)
    )
    assert (loose[0], tight[0], exact[0]) == ((1 / 8 + 1) / 2, (1 / 2 + 1) / 2, 1.0)
    assert with_gpus[0] < 0 < loose[0]


def test_scores_are_whole_steps() -> None:
    """Near-equals are equal, so that the order of the nodes decides between them."""
    for score, _ in scores(nodes_of((17_000, [1_000, 730]), (9_500, [810, 10])), shape(1_234, 110, 1)):
        assert score == round(score / STEP) * STEP


def test_phi_without_devices_is_nothing() -> None:
    """There is nothing to fragment; what is held beyond the offer counts as nothing free."""
    nodes = nodes_of((64_000, []), (-5_000, [-300]))
    assert [phi(nodes, TABLES, node) for node in (0, 1)] == [0.0, 0.0]
