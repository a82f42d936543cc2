"""The owner of the index: makes its arrays for a fleet, and keeps them in step with rooms, shapes and tables that change.

The kernels that ask are in `kernels/index.py`; here is what is done once for a fleet or a round.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from federation.scheduling.fleet import Fleet
from federation.scheduling.kernels.index import (
    LINES,
    NEVER,
    SHIPPED,
    TALLIES,
    Counts,
    Index,
    Kept,
    Layout,
    Lines,
    Touched,
    follow,
)
from federation.scheduling.kernels.room import DEVICE_MILLI, Float64, Int64, Nodes, UInt64
from federation.scheduling.kernels.score import Tables

MEMORY_BYTES_MAX = 256 << 20
"""What lines may take; of it, pages that no line has used yet cost nothing."""
LINES_MAX = 4_096
SCORES_SHARE = 0.75
"""Of the memory, for lines of scores; the rest is for counts."""


class Memory:
    """Makes an `Index` for a fleet, and keeps it in step with shapes that are added or change."""

    def __init__(self, rule: int = SHIPPED, memory_bytes_max: int = MEMORY_BYTES_MAX) -> None:
        self._rule = rule
        self._bytes_max = memory_bytes_max
        self.index: Index
        """Hand it to the kernels; made anew by `reset` and `grow`."""
        self.room: Nodes
        """What the index knows of the nodes of the fleet that is followed; a round takes from it."""
        self._fleet: Fleet | None = None
        self._tables: Tables | None = None

    def follow(self, fleet: Fleet, tables: Tables, actual: Nodes) -> None:
        """Be in step with `fleet`, of which `actual` is free now, and with `tables`: `index` and `room` are for a round."""
        rows = len(fleet.shapes.totals)
        if self._fleet is not fleet:
            self._fleet, self._tables, self.room = fleet, tables, fleet.room()
            self.reset(self.room, fleet.offered, fleet.first, fleet.standing, rows)
        if len(self.index.lines.kept.of_shape) < rows:
            self.grow(rows)
        if self._tables is not tables:
            self._tables = tables
            self.forget_scores()
        follow(self.index, self.room, actual)

    def reset(self, nodes: Nodes, offered: Int64, agent_first: Int64, standing: Float64, shapes: int) -> None:
        """Another fleet: nothing is remembered.

        `offered` int64 (N, R) as `nodes.free`, `agent_first` int64 (A + 1,), `standing` float64 (N,) what the shipped
        rule takes off a node's score, `shapes` how many rows of `Shapes` may be asked for.
        """
        idle = _by_node(nodes, nodes.device_free)
        all_offered = np.column_stack((offered, _by_node(nodes, nodes.device_size)))
        known = np.column_stack((nodes.free, idle, _largest(nodes), _by_node(nodes, nodes.device_free >= DEVICE_MILLI)))
        per_unit = np.zeros(all_offered.shape)
        np.divide(1.0, all_offered, out=per_unit, where=all_offered > 0)
        agents = len(agent_first) - 1
        layout = Layout(
            agent_first,
            np.repeat(np.arange(agents), np.diff(agent_first)),
            per_unit,
            standing,
            _kinds(nodes),
        )
        count = len(nodes.free)
        touched = Touched(
            np.zeros(agents, np.int64),
            np.zeros(count, np.int64),
            np.where(np.diff(agent_first) > 0, agent_first[1:] - 1, NEVER),
            *_neighbours(agent_first),
            known,
            np.full(count, math.nan),
        )
        most = int(np.diff(nodes.device_first).max(initial=0))
        self.index = Index(
            layout,
            touched,
            self._lines(count, agents, shapes),
            self._counts(count, agents, shapes),
            np.zeros(most, np.int64),
            np.zeros(TALLIES, np.int64),
            self._rule,
        )

    def grow(self, shapes: int) -> None:
        """There are more shapes now: `shapes` rows may be asked for."""
        lines, counts = self.index.lines, self.index.counts
        self.index = self.index._replace(
            lines=lines._replace(kept=_grown(lines.kept, shapes)),
            counts=counts._replace(kept=_grown(counts.kept, shapes)),
        )

    def forget_scores(self) -> None:
        """The tables of the score changed: no score is what it was."""
        self.index.lines.kept.seen[: self.index.tally[LINES]] = NEVER
        self.index.touched.phi[:] = math.nan

    def forget_shape(self, shape: int) -> None:
        """Row `shape` of `Shapes` means something else now."""
        for kept in (self.index.lines.kept, self.index.counts.kept):
            line = kept.of_shape[shape]
            if line != NEVER:
                kept.seen[line] = NEVER

    def _lines(self, nodes: int, agents: int, shapes: int) -> Lines:
        kept = _nothing_kept(self._fitting(SCORES_SHARE, 8 * nodes + 24 * agents), agents, shapes)
        by_agent, by_node = kept.seen.shape, (len(kept.shape), nodes)
        return Lines(kept, np.empty(by_agent, np.float64), np.empty(by_agent, np.int64), np.empty(by_node, np.float64))

    def _counts(self, nodes: int, agents: int, shapes: int) -> Counts:
        kept = _nothing_kept(self._fitting(1 - SCORES_SHARE, 4 * nodes + 16 * agents), agents, shapes)
        return Counts(kept, np.empty(kept.seen.shape, np.int64), np.empty((len(kept.shape), nodes), np.int32))

    def _fitting(self, share: float, bytes_per_line: int) -> int:
        return max(1, min(LINES_MAX, int(share * self._bytes_max / max(bytes_per_line, 1))))


def _nothing_kept(lines: int, agents: int, shapes: int) -> Kept:
    return Kept(
        np.full(shapes, NEVER, np.int64),
        np.zeros(lines, np.int64),
        np.zeros(lines, np.int64),
        np.empty((lines, agents), np.int64),
    )


def _grown(kept: Kept, shapes: int) -> Kept:
    more = np.full(max(shapes - len(kept.of_shape), 0), NEVER, np.int64)
    return kept._replace(of_shape=np.concatenate((kept.of_shape, more)))


def _neighbours(agent_first: Int64) -> tuple[Int64, Int64]:
    """(N,) the node before and the node after within the same agent, NEVER for none: a log in which all is old."""
    count = int(agent_first[-1])
    before, after = np.arange(count) - 1, np.arange(count) + 1
    begins = agent_first[:-1][np.diff(agent_first) > 0]
    ends = agent_first[1:][np.diff(agent_first) > 0] - 1
    before[begins], after[ends] = NEVER, NEVER
    return before, after


def _by_node(nodes: Nodes, of_devices: npt.NDArray[Any]) -> Int64:
    """(N,) sums of (M,) over each node's devices."""
    running = np.concatenate((np.zeros(1, np.int64), np.cumsum(of_devices, dtype=np.int64)))
    sums: Int64 = running[nodes.device_first[1:]] - running[nodes.device_first[:-1]]
    return sums


def _largest(nodes: Nodes) -> Int64:
    """(N,) the most free on one device, 0 where nothing is."""
    largest = np.zeros(len(nodes.free), np.int64)
    np.maximum.at(largest, _owners(nodes), nodes.device_free)
    return largest


def _kinds(nodes: Nodes) -> UInt64:
    """(N,) the models of each node as bits."""
    kinds = np.zeros(len(nodes.free), np.uint64)
    np.bitwise_or.at(kinds, _owners(nodes), np.uint64(1) << nodes.device_kind.astype(np.uint64))
    return kinds


def _owners(nodes: Nodes) -> Int64:
    """(M,) the node of each device."""
    return np.repeat(np.arange(len(nodes.free)), np.diff(nodes.device_first))
