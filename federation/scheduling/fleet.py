"""The fleet as arrays: what every node offers and has free, agent by agent, device by device, and the shapes of tasks.

Agents lie in ascending key order, so a hub's agents are neighbours; an agent's nodes lie together in its own order; a
node's devices lie together, kind by kind, 1,000 milli each and the last of a kind perhaps less. A lease that names its
devices holds those; one that does not (an older lease) holds room on every device that it may have got, so that no
device is promised twice. Deliberately not here: who may run where (`demand.py`), and any choice (`kernels`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from federation.domain.ids import AgentKey
from federation.domain.quantities import (
    CPU,
    DEVICE_MILLI,
    DISK,
    GPU,
    MEMORY,
    Amount,
    DevicesByTask,
    Resources,
    devices_of,
    kinds_of,
    need_of,
)
from federation.scheduling.fragmentation import standings
from federation.scheduling.kernels.gangs import Taste
from federation.scheduling.kernels.room import Float64, Int32, Int64, Nodes, Shapes
from federation.scheduling.kernels.score import Tables
from federation.scheduling.rows import AgentRow

MODELS_MAX = 64
"""Different models of GPU in the whole federation: a bit each. Of more, those that fewest hubs offer share the last bit:
they serve tasks that take any GPU, and nobody can ask for them by name."""
S = TypeVar("S", bound=np.generic)


COLUMNS = {GPU: 0, CPU: 1, MEMORY: 2, DISK: 3}
"""Resource names (T) as columns: gpu, then the scalars. Nothing else is scheduled: other names do not count."""
SCALARS = len(COLUMNS) - 1


def totals_of(of: Resources) -> Int64:
    """(T,) amounts by name, kinds together."""
    found = np.zeros(len(COLUMNS), np.int64)
    for name, _, amount in of:
        column = COLUMNS.get(name)
        if column is not None:
            found[column] += amount
    return found


class ShapeTable:
    """Tasks' demands by number, and what they need as arrays. Numbers are never reused while the table lives."""

    def __init__(self, kinds: Mapping[str, int]) -> None:
        self._kinds = kinds
        self._ids: dict[Resources, int] = {}
        self.demands: list[Resources] = []
        self.arrays = Shapes(
            np.zeros((0, SCALARS), np.int64),
            np.zeros(0, np.int64),
            np.zeros(0, np.int64),
            np.zeros(0, np.uint64),
        )
        self.totals: Int64 = np.zeros((0, len(COLUMNS)), np.int64)
        """(S, T) what one task takes in all, by name."""

    def id_of(self, per_task: Resources) -> int:
        """The number of a demand."""
        known = self._ids.get(per_task)
        if known is None:
            known = self._ids[per_task] = len(self.demands)
            self.demands.append(per_task)
            self._write(known, per_task)
        return known

    def mask(self, kinds: Iterable[str]) -> int:
        """The bits of the models that will do; `kinds` empty: any."""
        wanted = frozenset(kinds)
        if not wanted:
            return 2**64 - 1
        return sum(1 << bit for model, bit in self._kinds.items() if model in wanted)

    def _write(self, row: int, per_task: Resources) -> None:
        if row >= len(self.totals):
            room, old = max(64, 2 * len(self.totals)), self.arrays
            self.arrays = Shapes(
                grown(old.need, room), grown(old.milli, room), grown(old.devices, room), grown(old.kinds, room)
            )
            self.totals = grown(self.totals, room)
        need = need_of(per_task)
        totals = totals_of(per_task)
        totals[COLUMNS[GPU]] = need.devices * need.milli
        self.totals[row] = totals
        self.arrays.need[row] = totals[1:]
        self.arrays.milli[row], self.arrays.devices[row] = need.milli, need.devices
        self.arrays.kinds[row] = self.mask(need.kinds)


def grown(array: npt.NDArray[S], rows: int) -> npt.NDArray[S]:
    """`array` with zeros behind it, `rows` in all."""
    larger = np.zeros((rows, *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    return larger


class Fleet:
    """Agents (A), their nodes (N), devices (M), resource names (T, of them R = T - 1 scalars), hubs (H)."""

    def __init__(self, agents: Mapping[AgentKey, AgentRow] | None = None) -> None:
        rows = agents or {}
        self.keys: tuple[AgentKey, ...] = tuple(sorted(rows))
        self.index: dict[AgentKey, int] = {key: agent for agent, key in enumerate(self.keys)}
        self.hub_ids: tuple[str, ...] = tuple(sorted({hub_id for hub_id, _ in self.keys}))
        self.hub_row: dict[str, int] = {hub_id: row for row, hub_id in enumerate(self.hub_ids)}
        nodes = [node for key in self.keys for node in rows[key].nodes]
        hubs = np.asarray([self.hub_row[hub_id] for hub_id, _ in self.keys], np.int64)
        self.hub_of_agent: Int64 = hubs
        self.hub_first: Int64 = np.searchsorted(hubs, np.arange(len(self.hub_ids) + 1)).astype(np.int64)
        """(H + 1,) each hub's first agent."""
        self.first: Int64 = _starts([len(rows[key].nodes) for key in self.keys])
        """(A + 1,) each agent's first node."""
        self.standing: Float64 = np.concatenate([np.zeros(0), *map(standings, np.diff(self.first).tolist())])
        """(N,) what each node's place in its agent costs in the score."""
        self.node_names: tuple[str, ...] = tuple(node.name for node in nodes)
        self.node_row: list[dict[str, int]] = [
            {node.name: int(self.first[agent]) + at for at, node in enumerate(rows[key].nodes)}
            for agent, key in enumerate(self.keys)
        ]
        devices = [devices_of(node.offered) for node in nodes]
        self.kinds: dict[str, int] = {model: bit for bit, model in enumerate(_named_models(self.keys, rows))}
        self.device_first: Int32 = _starts([len(of_node) for of_node in devices]).astype(np.int32)
        self.device_size: Int64 = np.asarray([device.milli for of_node in devices for device in of_node], np.int64)
        self.device_kind: Int32 = np.asarray(
            [self.kinds.get(device.kind, MODELS_MAX - 1) for of_node in devices for device in of_node], np.int32
        )
        self.models: tuple[str, ...] = tuple(device.kind for of_node in devices for device in of_node)
        self.scratch: Int64 = np.zeros(int(np.diff(self.device_first).max(initial=0)), np.int64)
        """Room for the devices of the largest node, for kernels to compute in."""
        self._heap, self._tasks = np.zeros(len(nodes), np.int64), np.zeros(len(nodes), np.int64)
        self._worth = np.zeros(len(nodes))
        self.shapes = ShapeTable(self.kinds)
        self.idle_tasks: dict[Resources, Int64] = {}
        """By demand: (A,) how many tasks fit when nothing runs; remembered by `demand.py`."""
        totals = np.zeros((len(nodes), len(COLUMNS)), np.int64)
        for row, node in enumerate(nodes):
            totals[row] = totals_of(node.offered)
        self.offered: Int64 = np.ascontiguousarray(totals[:, 1:])
        """(N, R)"""
        self.agent_offered: Int64 = _sums(totals, self.first)
        """(A, T)"""
        self.agent_used: Int64 = np.zeros_like(self.agent_offered)
        self.offered_totals: Int64 = totals.sum(axis=0, dtype=np.int64)
        """(T,) what there is in all."""
        self.nodes = Nodes(
            self.offered.copy(), self.device_first, self.device_size.copy(), self.device_size, self.device_kind
        )
        self.idle = Nodes(self.offered, self.device_first, self.device_size, self.device_size, self.device_kind)
        """The nodes as if nothing ran."""

    def taste(self, tables: Tables) -> Taste:
        """How kernels compare its nodes, by what is known of the workload."""
        return Taste(tables, self.standing, self.scratch, self._heap, self._tasks, self._worth)

    def possible(self, per_task: Resources) -> bool:
        """Whether every name and model that a task asks for is offered anywhere: amounts are another question."""
        need = need_of(per_task)
        named = all(name in COLUMNS for name, _, _ in per_task)
        return named and (not need.devices or self.shapes.mask(need.kinds) != 0)

    def hold(
        self, key: AgentKey, nodes: Iterable[str], per_task: Resources, devices: DevicesByTask | None, sign: int
    ) -> None:
        """Take what tasks on `nodes` hold off what is free (`sign` 1), or give it back (-1); unknown nodes hold nothing.

        `devices` None: nobody wrote down which they have, so it may be any that they may have.
        """
        there = self.hold_in(self.nodes, key, nodes, per_task, devices, sign)
        if there:
            self.agent_used[self.index[key]] += sign * there * self.shapes.totals[self.shapes.id_of(per_task)]

    def hold_in(
        self,
        room: Nodes,
        key: AgentKey,
        nodes: Iterable[str],
        per_task: Resources,
        devices: DevicesByTask | None,
        sign: int,
    ) -> int:
        """As `hold`, in a copy of the room; how many of the tasks' nodes are there."""
        agent, there = self.index.get(key), 0
        if agent is None:
            return 0
        shape, rows = self.shapes.id_of(per_task), self.node_row[agent]
        for at, name in enumerate(nodes):
            node = rows.get(name)
            if node is None:
                continue
            there += 1
            room.free[node] -= sign * self.shapes.arrays.need[shape]
            if self.shapes.arrays.milli[shape]:
                places = devices[at] if devices is not None and at < len(devices) else None
                for device in self.held_devices(node, per_task, places):
                    room.device_free[device] -= sign * self.shapes.arrays.milli[shape]
        return there

    def held_devices(self, node: int, per_task: Resources, places: tuple[int, ...] | None) -> list[int]:
        """The rows of a task's devices on a node; `places` None: of all that it may have got."""
        begin, end = int(self.device_first[node]), int(self.device_first[node + 1])
        if places is not None:
            return [begin + place for place in places if begin + place < end]
        need = need_of(per_task)
        return [device for device in range(begin, end) if need.takes(self.models[device])]

    def free_of(self, node: int, entry: Amount) -> int:
        """How much of what `entry` asks for is free on a node."""
        if entry.name != GPU:
            column = COLUMNS.get(entry.name)
            return 0 if column is None else int(self.nodes.free[node, column - 1])
        begin, end = int(self.device_first[node]), int(self.device_first[node + 1])
        mask = self.shapes.mask(kinds_of(entry.kind))
        left = [int(self.nodes.device_free[at]) for at in range(begin, end) if mask >> int(self.device_kind[at]) & 1]
        if entry.amount < DEVICE_MILLI:
            return max(left, default=0)
        return sum(milli for milli in left if milli >= DEVICE_MILLI)

    def offered_by_name(self) -> dict[str, int]:
        """What there is in all, by name."""
        return {name: int(self.offered_totals[column]) for name, column in COLUMNS.items()}

    def loads(self) -> Float64:
        """(A,) each agent's dominant load: the largest of used / offered over what it offers."""
        ratio = np.zeros(self.agent_offered.shape)
        np.divide(self.agent_used, self.agent_offered, out=ratio, where=self.agent_offered > 0)
        largest: Float64 = ratio.max(axis=-1, initial=0.0)
        return largest

    def room(self) -> Nodes:
        """A copy of what is free, for a round to take from."""
        return self.nodes._replace(free=self.nodes.free.copy(), device_free=self.nodes.device_free.copy())


def _named_models(keys: Iterable[AgentKey], rows: Mapping[AgentKey, AgentRow]) -> list[str]:
    """The models that have a bit of their own, ascending: all, or those that most hubs offer, equals by name."""
    hubs: dict[str, set[str]] = {}
    for key in keys:
        for node in rows[key].nodes:
            for model in {entry.kind for entry in node.offered if entry.name == GPU}:
                hubs.setdefault(model, set()).add(key[0])
    if len(hubs) <= MODELS_MAX:
        return sorted(hubs)
    return sorted(sorted(hubs, key=lambda model: (-len(hubs[model]), model))[: MODELS_MAX - 1])


def _starts(counts: list[int]) -> Int64:
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(np.asarray(counts, np.int64), dtype=np.int64)))


def _sums(per_node: Int64, first: Int64) -> Int64:
    running = np.concatenate((np.zeros((1, per_node.shape[1]), np.int64), per_node.cumsum(axis=0)))
    sums: Int64 = running[first[1:]] - running[first[:-1]]
    return sums
