"""The index against a plain scan: on any small fleet, whatever is taken, given back and asked in between, the same."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.scheduling.fragmentation import Sort, tables_of
from federation.scheduling.indexing import Memory
from federation.scheduling.kernels import index as ix
from federation.scheduling.kernels.room import Nodes, Shapes, fits, tasks_on_node, tightest_device
from federation.scheduling.kernels.score import gain, phi
from tests.support.kernels import best_agent

ANY = (1 << 64) - 1
TABLES = tables_of(
    [(Sort(2, 0, 0, ANY), 3), (Sort(1, 400, 1, ANY), 4), (Sort(3, 1_000, 1, 1), 5), (Sort(4, 1_000, 2, ANY), 1)]
)
RULES = st.sampled_from((ix.BEST_FIT, ix.SHIPPED))

a_device = st.tuples(
    st.integers(0, 2), st.sampled_from((1_000, 1_000, 1_000, 700)), st.sampled_from((-100, 0, 300, 600, 700, 1_000))
)
a_node = st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(-1, 2), st.lists(a_device, max_size=3))
fleets = st.lists(st.lists(a_node, max_size=4), min_size=1, max_size=4)
a_shape = st.one_of(
    st.tuples(st.integers(0, 4), st.integers(0, 4), st.just(0), st.just(0), st.just(ANY)),
    st.tuples(
        st.integers(0, 4), st.integers(0, 4), st.sampled_from((100, 300, 400)), st.just(1), st.sampled_from((ANY, 1, 6))
    ),
    st.tuples(st.integers(0, 4), st.integers(0, 4), st.just(1_000), st.integers(1, 2), st.sampled_from((ANY, 1, 6))),
)
shape_lists = st.lists(a_shape, min_size=1, max_size=5)
steps = st.lists(
    st.tuples(
        st.sampled_from(("node", "agent", "all", "take", "take", "give", "room", "change", "forget")),
        st.integers(0, 99),
        st.integers(0, 99),
    ),
    max_size=60,
)


class World(NamedTuple):
    """A fleet, what may be asked for, and its index."""

    nodes: Nodes
    offered: np.ndarray[tuple[int, int], np.dtype[np.int64]]
    first: np.ndarray[tuple[int], np.dtype[np.int64]]
    standing: np.ndarray[tuple[int], np.dtype[np.float64]]
    shapes: Shapes
    memory: Memory


def world(fleet: list[list[tuple[int, int, int, list[tuple[int, int, int]]]]], wanted: list[tuple[int, ...]], rule: int,
          bytes_max: int) -> World:  # fmt: skip
    """Nodes as drawn; leases may hold more than is offered."""
    rows = [node for agent in fleet for node in agent]
    devices = [device for node in rows for device in node[3]]
    free = np.array([(cpu, memory + min(over, 0)) for cpu, memory, over, _ in rows], np.int64).reshape(len(rows), 2)
    nodes = Nodes(
        free,
        np.cumsum([0, *(len(node[3]) for node in rows)]).astype(np.int32),
        np.array([min(level, size) for _, size, level in devices], np.int64),
        np.array([size for _, size, _ in devices], np.int64),
        np.array([kind for kind, _, _ in devices], np.int32),
    )
    offered = np.array([(cpu + max(over, 0), memory) for cpu, memory, over, _ in rows], np.int64).reshape(len(rows), 2)
    first = np.cumsum([0, *(len(agent) for agent in fleet)]).astype(np.int64)
    standing = np.array([0.2 * place / len(agent) for agent in fleet for place in range(len(agent))], np.float64)
    shapes = Shapes(
        np.array([shape[:2] for shape in wanted], np.int64),
        np.array([shape[2] for shape in wanted], np.int64),
        np.array([shape[3] for shape in wanted], np.int64),
        np.array([shape[4] for shape in wanted], np.uint64),
    )
    memory = Memory(rule, bytes_max)
    memory.reset(nodes, offered, first, standing, len(wanted))
    return World(nodes, offered, first, standing, shapes, memory)


def score(of: World, rule: int, shape: int, node: int) -> float:
    """By the rule, from nothing but the node."""
    if rule == ix.SHIPPED:
        found, _ = gain(of.nodes, of.shapes, TABLES, shape, node, phi(of.nodes, TABLES, node))
        return found - float(of.standing[node])
    need, wanted = of.shapes.need[shape], int(of.shapes.devices[shape])
    shares = [0.0]
    for column in range(2):
        if need[column] > 0:
            offered = int(of.offered[node, column])
            shares.append(int(of.nodes.free[node, column] - need[column]) * (1 / offered if offered > 0 else 0.0))
    devices = slice(of.nodes.device_first[node], of.nodes.device_first[node + 1])
    idle, size = int(of.nodes.device_free[devices].sum()), int(of.nodes.device_size[devices].sum())
    if wanted:
        shares.append((idle - wanted * int(of.shapes.milli[shape])) * (1 / size))
    return -(max(shares) + (ix.STRANDED if size and not wanted else 0.0))


def scan(of: World, rule: int, shape: int, agent: int) -> ix.Choice:
    """The best node of an agent, found by looking at each."""
    best = ix.Choice(ix.NO_ROOM, -1, -1, -1)
    for node in range(of.first[agent], of.first[agent + 1]):
        if fits(of.nodes, of.shapes, shape, node) and score(of, rule, shape, node) > best.score:
            best = ix.Choice(score(of, rule, shape, node), agent, node, -1)
    if best.node >= 0 and 0 < of.shapes.milli[shape] < 1_000:
        if rule == ix.SHIPPED:
            device = gain(of.nodes, of.shapes, TABLES, shape, best.node, 0.0)[1]
        else:
            device = tightest_device(of.nodes, of.shapes, shape, best.node)
        best = best._replace(device=device)
    return best


def scan_agents(
    of: World, rule: int, gang: tuple[int, int], opened: list[int], liking: list[int], load: list[float]
) -> int:
    """The best agent, found by looking at each."""
    shape, replicas = gang
    ranked = []
    for agent in opened:
        best, rows = scan(of, rule, shape, agent), range(of.first[agent], of.first[agent + 1])
        if (
            best.node >= 0
            and sum(tasks_on_node(of.nodes, of.shapes, shape, node, replicas) for node in rows) >= replicas
        ):
            ranked.append((liking[agent], -best.score if of.shapes.devices[shape] > 0 else 0.0, load[agent], agent))
    return min(ranked)[3] if ranked else -1


def by_score(choice: ix.Choice) -> float:
    """What the first of the best is found by."""
    return choice.score


def told(choice: ix.Choice) -> tuple[float, int, int, int]:
    """As plain values."""
    return (float(choice.score), int(choice.agent), int(choice.node), int(choice.device))


@settings(max_examples=250, deadline=None)
@given(fleets, shape_lists, steps, RULES, st.sampled_from((0, 1 << 20)))
def test_the_index_answers_as_a_plain_scan_does(
    fleet: list[list[tuple[int, int, int, list[tuple[int, int, int]]]]],
    wanted: list[tuple[int, ...]],
    story: list[tuple[str, int, int]],
    rule: int,
    bytes_max: int,
) -> None:
    """Best node, best agent and room, after any takes, returns and other changes, also with one line for all shapes."""
    of = world(fleet, wanted, rule, bytes_max)
    index, nodes, shapes = of.memory.index, of.nodes, of.shapes
    held: list[tuple[int, int, np.ndarray[tuple[int], np.dtype[np.int64]]]] = []
    for what, one, other in story:
        shape, agent = one % len(wanted), other % len(fleet)
        match what:
            case "node" | "take":
                choice = ix.best_node(index, nodes, shapes, TABLES, shape, agent)
                assert told(choice) == told(scan(of, rule, shape, agent))
                if what == "take" and choice.node >= 0:
                    taken = np.full(2, -1, np.int64)
                    ix.take_at(index, nodes, shapes, shape, choice, taken)
                    held.append((shape, int(choice.node), taken))
            case "agent":
                opened = [entry for entry in range(len(fleet)) if (one >> entry) % 2 == 0]
                liking = [other * (entry + 1) % 3 for entry in range(len(fleet))]
                load, gang = [float(other * (entry + 2) % 5) for entry in range(len(fleet))], (shape, 1 + one % 3)
                found_agent = best_agent(
                    index,
                    nodes,
                    shapes,
                    TABLES,
                    gang,
                    np.array(opened, np.int64),
                    (np.array(liking, np.int64), np.array(load)),
                )
                assert found_agent == scan_agents(of, rule, gang, opened, liking, load)
            case "all":
                found = [scan(of, rule, shape, entry) for entry in range(len(fleet))]
                assert told(ix.best_of_all(index, nodes, shapes, TABLES, shape)) == told(max(found, key=by_score))
            case "give" if held:
                before, node, taken = held.pop(one % len(held))
                ix.give_back_at(index, nodes, shapes, before, node, taken)
            case "room":
                rows = range(of.first[agent], of.first[agent + 1])
                tasks = sum(tasks_on_node(nodes, shapes, shape, node, ix.ROOM_MAX) for node in rows)
                assert ix.room_of(index, nodes, shapes, shape, agent, one) == min(tasks, one)
            case "change" if len(nodes.free):
                node = one % len(nodes.free)
                nodes.free[node, 0] = other % 7
                ix.touch(index, nodes, node)
            case "forget":
                of.memory.forget_scores()
            case _:
                pass
