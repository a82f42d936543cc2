"""The arrays: what each node offers and has free, and the vectors a task of some shape needs and takes.

Columns are the (name, kind) pairs that any node offers, and for each name one column with kind "" for all its kinds
together. A task that asks for a kind needs, and takes, that kind and the sum. A task that asks for any kind needs the
sum only, but takes from *every* kind: which one it got, its hub knows and we do not, so no kind is promised twice.
Deliberately not here: devices one by one, and who may run where (`demand.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from federation.domain.ids import AgentKey
from federation.domain.quantities import GPU, Resources
from federation.scheduling.rows import AgentRow, LeaseRow

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

SHAPES_REMEMBERED_MAX = 10_000


class Shape(NamedTuple):
    """One task's vectors. `fits` is False when it asks for something that no node offers."""

    fits: bool
    need_columns: Int64
    """(K,) the columns it asks for."""
    need: Int64
    """(K,) at least so much must be free there; above zero."""
    take_at_need: Int64
    """(K,) what it takes of them; never less than `need`."""
    take_columns: Int64
    """(L,) all columns it takes from."""
    take: Int64
    """(L,) how much."""
    total_take: Int64
    """(T,) what it takes of the columns with kind ""."""


@dataclass(slots=True)
class Grid:
    """Agents (A) in ascending key order, their nodes (N) in the agent's own order, columns (R), hubs (H)."""

    keys: tuple[AgentKey, ...] = ()
    index: dict[AgentKey, int] = field(default_factory=dict)
    hub_ids: tuple[str, ...] = ()
    hub_first: Int64 = field(default_factory=lambda: np.zeros(0, np.int64))
    """(H,) each hub's first agent."""
    first: Int64 = field(default_factory=lambda: np.zeros(1, np.int64))
    """(A + 1,) each agent's first node row."""
    node_names: tuple[str, ...] = ()
    node_row: dict[AgentKey, dict[str, int]] = field(default_factory=dict)
    columns: dict[tuple[str, str], int] = field(default_factory=dict)
    total_columns: Int64 = field(default_factory=lambda: np.zeros(0, np.int64))
    """(T,) those with kind ""."""
    offered: Int64 = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    """(N, R)"""
    free: Int64 = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    """(N, R); below zero where leases hold more than is offered now."""
    agent_offered: Int64 = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    """(A, T)"""
    agent_used: Int64 = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    """(A, T)"""
    _shapes: dict[Resources, Shape] = field(default_factory=dict)

    @classmethod
    def build(cls, agents: Mapping[AgentKey, AgentRow], leases: Iterable[LeaseRow]) -> Grid:
        """The grid of `agents` with `leases` held; leases on nodes that are not there hold nothing here."""
        keys = tuple(sorted(agents))
        nodes = [node for key in keys for node in agents[key].nodes]
        pairs = {(entry.name, kind) for node in nodes for entry in node.offered for kind in (entry.kind, "")}
        columns = {pair: column for column, pair in enumerate(sorted(pairs))}
        offered = np.zeros((len(nodes), len(columns)), np.int64)
        for row, node in enumerate(nodes):
            for name, kind, amount in node.offered:
                offered[row, columns[name, ""]] += amount
                if kind:
                    offered[row, columns[name, kind]] += amount
        counts = [len(agents[key].nodes) for key in keys]
        first = np.concatenate((np.zeros(1, np.int64), np.cumsum(np.asarray(counts, np.int64))))
        total_columns = np.asarray([column for (_, kind), column in columns.items() if not kind], np.int64)
        hub_ids = tuple(sorted({hub_id for hub_id, _ in keys}))
        node_row = {
            key: {node.name: int(first[agent]) + at for at, node in enumerate(agents[key].nodes)}
            for agent, key in enumerate(keys)
        }
        totals = np.concatenate((np.zeros((1, len(total_columns)), np.int64), offered[:, total_columns].cumsum(axis=0)))
        grid = cls(
            keys=keys,
            index={key: agent for agent, key in enumerate(keys)},
            hub_ids=hub_ids,
            hub_first=np.searchsorted(
                np.asarray([hub_id for hub_id, _ in keys], dtype=object), np.asarray(hub_ids, dtype=object)
            ),
            first=first,
            node_names=tuple(node.name for node in nodes),
            node_row=node_row,
            columns=columns,
            total_columns=total_columns,
            offered=offered,
            free=offered.copy(),
            agent_offered=totals[first[1:]] - totals[first[:-1]],
            agent_used=np.zeros((len(keys), len(total_columns)), np.int64),
        )
        for lease in leases:
            grid.hold(lease, 1)
        return grid

    def shape(self, per_task: Resources) -> Shape:
        """The vectors of one task that asks for `per_task`."""
        known = self._shapes.get(per_task)
        if known is None:
            if len(self._shapes) >= SHAPES_REMEMBERED_MAX:
                self._shapes.clear()
            known = self._shapes[per_task] = self._make_shape(per_task)
        return known

    def _make_shape(self, per_task: Resources) -> Shape:
        need = np.zeros(len(self.columns), np.int64)
        take = np.zeros(len(self.columns), np.int64)
        fits = True
        for name, kind, amount in per_task:
            if (name, kind) not in self.columns:
                fits = False
            if (name, "") in self.columns:
                need[self.columns[name, ""]] += amount
                take[self.columns[name, ""]] += amount
            for (other, sort), column in self.columns.items():
                if other == name and sort and kind in ("", sort):
                    take[column] += amount
                    need[column] += amount if kind else 0
        need_columns, take_columns = np.flatnonzero(need), np.flatnonzero(take)
        return Shape(
            fits,
            need_columns,
            need[need_columns],
            take[need_columns],
            take_columns,
            take[take_columns],
            take[self.total_columns],
        )

    def hold(self, lease: LeaseRow, sign: int) -> None:
        """Take what `lease` holds off what is free (`sign` 1), or give it back (-1)."""
        rows = self.node_row.get(lease.key)
        if rows is None:
            return
        shape = self.shape(lease.per_task)
        agent = self.index[lease.key]
        for node in lease.nodes:
            row = rows.get(node)
            if row is not None:
                self.free[row, shape.take_columns] -= sign * shape.take
                self.agent_used[agent] += sign * shape.total_take

    def loads(self) -> Float64:
        """(A,) each agent's dominant load: the largest of used / offered over what it offers."""
        return _largest_ratio(self.agent_used, self.agent_offered)

    def load_of(self, used: Int64, agent: int) -> float:
        """The dominant load of one agent when `used` int64 (T,) of it is used."""
        return float(_largest_ratio(used, self.agent_offered[agent]))

    def device_columns(self, shape: Shape) -> Int64:
        """Columns of devices that `shape` does not ask for: using such a node for it strands them."""
        gpu = self.columns.get((GPU, ""))
        return np.asarray([] if gpu is None or gpu in shape.take_columns else [gpu], np.int64)


def _largest_ratio(used: Int64, offered: Int64) -> Float64:
    ratio = np.zeros(offered.shape)
    np.divide(used, offered, out=ratio, where=offered > 0)
    largest: Float64 = ratio.max(axis=-1, initial=0.0)
    return largest


def tasks_that_fit(free: Int64, shape: Shape, most: int) -> Int64:
    """How many tasks each row of `free` int64 (N, R) has room for, 0 to `most`: int64 (N,).

    One task fits where `need` is free; each task takes `take`: 1 + floor((free - need) / take), the least over the
    columns asked for. Only call it with a shape that `fits`.
    """
    room = (free[:, shape.need_columns] - shape.need) // shape.take_at_need + 1
    fitting: Int64 = np.minimum(
        np.maximum(room.min(axis=1), 0), most
    )  # np.clip takes several times as long on small arrays
    return fitting


def sums_by_agent(per_node: Int64, first: Int64) -> Int64:
    """(A,) sums of int64 (N,) over each agent's rows; 0 for an agent without nodes."""
    running = np.concatenate((np.zeros(1, np.int64), np.cumsum(per_node)))
    sums: Int64 = running[first[1:]] - running[first[:-1]]
    return sums
