"""The index by example: which node, which agent, what it remembers and forgets, and within which memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from federation.scheduling import indexing
from federation.scheduling.fragmentation import Sort, standings, tables_of
from federation.scheduling.kernels import index as ix
from federation.scheduling.kernels.room import Nodes, Shapes
from tests.support.kernels import best_agent

ANY = (1 << 64) - 1
TABLES = tables_of([(Sort(2, 500, 1, ANY), 3), (Sort(4, 1_000, 1, ANY), 1)])
CPU_TASK, SHARE, WHOLE, HUGE = range(4)
SHAPES = Shapes(
    np.array([[2], [2], [4], [1_000]], np.int64),
    np.array([0, 500, 1_000, 0], np.int64),
    np.array([0, 1, 1, 0], np.int64),
    np.full(4, ANY, np.uint64),
)


@dataclass
class Site:
    """A fleet and its index: agents as lists of (CPU, GPUs), all free."""

    agents: list[list[tuple[int, int]]]
    rule: int = ix.BEST_FIT
    bytes_max: int = 1 << 20

    def __post_init__(self) -> None:
        rows = [node for agent in self.agents for node in agent]
        gpus = np.array([count for _, count in rows], np.int64)
        devices = int(gpus.sum())
        free = np.array([[cpu] for cpu, _ in rows], np.int64)
        self.nodes = Nodes(
            free,
            np.concatenate(([0], np.cumsum(gpus))).astype(np.int32),
            np.full(devices, 1_000, np.int64),
            np.full(devices, 1_000, np.int64),
            np.zeros(devices, np.int32),
        )
        self.memory = indexing.Memory(self.rule, self.bytes_max)
        first = np.concatenate(([0], np.cumsum([len(agent) for agent in self.agents]))).astype(np.int64)
        standing = np.concatenate([standings(len(agent)) for agent in self.agents])
        self.memory.reset(self.nodes, free.copy(), first, standing, len(SHAPES.milli))

    @property
    def index(self) -> ix.Index:
        return self.memory.index

    def best(self, shape: int, agent: int = 0) -> ix.Choice:
        return ix.best_node(self.index, self.nodes, SHAPES, TABLES, shape, agent)

    def choose(
        self,
        shape: int,
        liking: list[int] | None = None,
        opened: list[int] | None = None,
        load: list[float] | None = None,
        replicas: int = 1,
    ) -> int:
        agents = range(len(self.agents))
        return int(best_agent(
            self.index, self.nodes, SHAPES, TABLES, (shape, replicas), np.array(agents if opened is None else opened, np.int64),
            (np.array(liking or [0 for _ in agents], np.int64), np.array(load or [0.0 for _ in agents])),
        ))  # fmt: skip

    def place(self, shape: int, agent: int = 0) -> tuple[int, npt.NDArray[np.int64]]:
        """The node taken, and the devices."""
        choice, taken = self.best(shape, agent), np.full(1, -1, np.int64)
        assert choice.node >= 0
        ix.take_at(self.index, self.nodes, SHAPES, shape, choice, taken)
        return choice.node, taken


def test_best_fit_takes_the_node_that_it_leaves_fullest() -> None:
    """8 of 8 cores free leaves 6/8; the node of 4 leaves 2/4."""
    assert Site([[(8, 0), (4, 0), (16, 0)]]).best(CPU_TASK).node == 1


def test_among_equals_the_first_node_wins_also_after_it_was_away() -> None:
    """Taken and given back, it is the first again."""
    site = Site([[(4, 0), (4, 0), (4, 0)]])
    node, taken = site.place(CPU_TASK)
    assert (node, site.best(CPU_TASK).node) == (0, 0)  # fuller still
    site.place(CPU_TASK)
    assert site.best(CPU_TASK).node == 1
    ix.give_back_at(site.index, site.nodes, SHAPES, CPU_TASK, 0, taken)
    ix.give_back_at(site.index, site.nodes, SHAPES, CPU_TASK, 0, taken)
    assert site.best(CPU_TASK).node == 0


def test_a_node_whose_gpus_the_task_leaves_idle_comes_last() -> None:
    """Although it would be fuller; when nothing else is left, it is taken."""
    site = Site([[(4, 1), (64, 0)]])
    assert site.best(CPU_TASK).node == 1
    site.nodes.free[1] = 0
    ix.touch(site.index, site.nodes, 1)
    assert site.best(CPU_TASK).node == 0


def test_the_choice_names_the_device_of_a_share() -> None:
    """Best fit: the tightest that has room; whole devices are not named."""
    site = Site([[(64, 3)]])
    site.nodes.device_free[:] = [1_000, 600, 400]
    ix.touch(site.index, site.nodes, 0)
    assert (site.best(SHARE).device, site.best(WHOLE).device) == (1, -1)


def test_what_fits_nowhere_has_no_place() -> None:
    """Neither at an agent, nor anywhere; an agent without nodes is no obstacle."""
    site = Site([[(4, 0)], []])
    nowhere = (ix.NO_ROOM, -1, -1, -1)
    assert tuple(site.best(HUGE)) == nowhere
    assert tuple(site.best(CPU_TASK, 1)) == nowhere
    assert site.choose(HUGE) == -1
    assert tuple(ix.best_of_all(site.index, site.nodes, SHAPES, TABLES, HUGE)) == nowhere
    assert site.choose(CPU_TASK, opened=[]) == -1


def test_the_best_liked_agent_with_room_is_chosen() -> None:
    """Home while there is room, then the next best liked; closed agents never."""
    site = Site([[(8, 0)], [(2, 0)], [(8, 0)]])
    assert site.choose(CPU_TASK, [2, 0, 1]) == 1
    site.place(CPU_TASK, 1)
    assert site.choose(CPU_TASK, [2, 0, 1]) == 2
    assert site.choose(CPU_TASK, [2, 0, 1], opened=[0, 1]) == 0


def test_of_equally_liked_agents_the_least_loaded_takes_a_task_without_gpus() -> None:
    """Of equals the first."""
    site = Site([[(8, 0)], [(8, 0)], [(16, 0)]])
    assert site.choose(CPU_TASK) == 0
    assert site.choose(CPU_TASK, load=[0.5, 0.5, 0.25]) == 2


def test_of_equally_liked_agents_the_best_score_takes_a_task_with_gpus() -> None:
    """The load decides only between equal scores."""
    site = Site([[(8, 2)], [(4, 1)], [(4, 1)]])
    assert site.choose(WHOLE, load=[0.0, 0.0, 0.0]) == 1
    assert site.choose(WHOLE, load=[0.0, 0.5, 0.25]) == 2
    site.place(WHOLE, 1)
    assert site.choose(WHOLE) == 2


def test_a_gang_goes_only_where_all_of_it_has_room() -> None:
    """One task fits at the first; four together only at the second."""
    site = Site([[(4, 0)], [(4, 0), (4, 0)]])
    assert (site.choose(CPU_TASK), site.choose(CPU_TASK, replicas=4), site.choose(CPU_TASK, replicas=5)) == (0, 1, -1)


def test_the_index_follows_rooms_that_others_changed() -> None:
    """Only what differs is looked at again, and the room is then what it really is."""
    site = Site([[(4, 1)], [(8, 1)]])
    actual = site.nodes._replace(free=site.nodes.free.copy(), device_free=site.nodes.device_free.copy())
    site.place(WHOLE, 0)
    clock = site.index.touched.clock.copy()
    actual.device_free[1] = 0
    ix.follow(site.index, site.nodes, actual)
    assert (site.index.touched.clock - clock).tolist() == [1, 1]
    assert (site.nodes.free == actual.free).all()
    assert (site.nodes.device_free == actual.device_free).all()
    assert (site.best(WHOLE, 0).node, site.best(WHOLE, 1).node) == (0, -1)
    ix.follow(site.index, site.nodes, actual)
    assert (site.index.touched.clock - clock).tolist() == [1, 1]


def test_room_of_an_agent_follows_what_is_taken_and_given_back() -> None:
    """Counted over its nodes, up to what was asked."""
    site = Site([[(4, 0), (7, 0)], [(100, 0)]])

    def room(most: int) -> int:
        return ix.room_of(site.index, site.nodes, SHAPES, CPU_TASK, 0, most)

    assert (room(100), room(2)) == (5, 2)
    node, taken = site.place(CPU_TASK)
    assert room(100) == 4
    ix.give_back_at(site.index, site.nodes, SHAPES, CPU_TASK, node, taken)
    assert room(100) == 5


def test_a_node_whose_leases_hold_more_than_it_offers_has_no_room() -> None:
    """Free below zero: nothing fits there."""
    site = Site([[(4, 0)], [(4, 0)]])
    site.nodes.free[0] = -2
    ix.touch(site.index, site.nodes, 0)
    assert site.best(CPU_TASK).node == -1


def test_memory_stays_below_its_limit_and_the_shape_asked_longest_ago_is_dropped() -> None:
    """Two lines of scores for three shapes: the third takes the line of the one not asked for since."""
    per_line = 8 * 2 + 24 * 1
    site = Site([[(64, 1), (64, 1)]], bytes_max=round(2 * per_line / indexing.SCORES_SHARE) + 1)
    lines = site.index.lines
    assert lines.score.shape == (2, 2)
    for shape in (CPU_TASK, SHARE, CPU_TASK, WHOLE):
        site.best(shape)
    assert [int(line) for line in lines.kept.of_shape] == [0, ix.NEVER, 1, ix.NEVER]


@pytest.mark.parametrize("bytes_max", [0, 1, indexing.MEMORY_BYTES_MAX])
def test_lines_are_never_more_than_the_limit_nor_fewer_than_one(bytes_max: int) -> None:
    """A limit of nothing still answers; a large one on a small fleet has a cap of its own."""
    site = Site([[(4, 0)]], bytes_max=bytes_max)
    assert len(site.index.lines.kept.shape) == (indexing.LINES_MAX if bytes_max == indexing.MEMORY_BYTES_MAX else 1)
    assert site.best(CPU_TASK).node == 0


def test_shapes_may_become_more_and_a_row_may_mean_another_shape() -> None:
    """`grow` keeps what is remembered; `forget_shape` drops one row's, for scores and counts."""
    site = Site([[(4, 0), (8, 0)]])
    shapes = SHAPES._replace(need=SHAPES.need.copy())
    assert ix.best_node(site.index, site.nodes, shapes, TABLES, CPU_TASK, 0).node == 0
    assert ix.room_of(site.index, site.nodes, shapes, CPU_TASK, 0, 9) == 6
    site.memory.grow(9)
    assert (len(site.index.lines.kept.of_shape), int(site.index.lines.kept.of_shape[CPU_TASK])) == (9, 0)
    shapes.need[CPU_TASK] = 6
    site.memory.forget_shape(CPU_TASK)
    site.memory.forget_shape(HUGE)
    assert ix.best_node(site.index, site.nodes, shapes, TABLES, CPU_TASK, 0).node == 1
    assert ix.room_of(site.index, site.nodes, shapes, CPU_TASK, 0, 9) == 1


def test_other_tables_are_other_scores() -> None:
    """After `forget_scores` nothing of the old tables is left."""
    site = Site([[(8, 1), (64, 1)]], rule=ix.SHIPPED)
    before = site.best(SHARE).score
    other = TABLES._replace(step=TABLES.step / 4, frequency=TABLES.frequency / 2)
    site.memory.forget_scores()
    found = ix.best_node(site.index, site.nodes, SHAPES, other, SHARE, 0)
    fresh = Site([[(8, 1), (64, 1)]], rule=ix.SHIPPED)
    assert tuple(found) == tuple(ix.best_node(fresh.index, fresh.nodes, SHAPES, other, SHARE, 0))
    assert found.score != before
