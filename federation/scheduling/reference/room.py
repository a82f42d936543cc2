"""What the twin's world is made of: a machine, the score of a place on it, and an agent with its room over time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from federation.domain.quantities import CPU, DEVICE_MILLI, DISK, GPU, MEMORY, Resources, devices_of, need_of
from federation.scheduling.kernels.score import Tables
from federation.scheduling.rows import AgentRow

if TYPE_CHECKING:
    from federation.scheduling.reference.windows import Windows

NAMES = (GPU, CPU, MEMORY, DISK)
TASKS_COUNTED_MAX = 1_000


def amount(of: Resources, name: str) -> int:
    """What a task takes of `name`, kinds together; GPUs as whole devices or a share of one."""
    if name == GPU:
        need = need_of(of)
        return need.devices * need.milli
    return sum(entry.amount for entry in of if entry.name == name)


class Node:
    """A machine, what is free on it, and its devices one by one."""

    def __init__(self, name: str, offered: Resources) -> None:
        self.name = name
        self.offered = {name: sum(entry.amount for entry in offered if entry.name == name) for name in NAMES}
        self.devices = devices_of(offered)
        self.free = {name: self.offered[name] for name in (CPU, MEMORY, DISK)}
        self.left = [device.milli for device in self.devices]

    def hold(self, task: Resources, places: tuple[int, ...] | None, sign: int = 1) -> None:
        """One task more, or (-1) less; `places` None: nobody knows which devices it has."""
        need = need_of(task)
        for name in self.free:
            self.free[name] -= sign * amount(task, name)
        if need.devices:
            for place, device in enumerate(self.devices):
                if place in places if places is not None else need.takes(device.kind):
                    self.left[place] -= sign * need.milli

    def room(self, task: Resources) -> int:
        """How many tasks fit."""
        if any(entry.name not in NAMES for entry in task):
            return 0
        fitting = TASKS_COUNTED_MAX
        for name, free in self.free.items():
            if amount(task, name):
                fitting = min(fitting, max(free, 0) // amount(task, name))
        need = need_of(task)
        if need.devices:
            usable = [left for left, device in zip(self.left, self.devices, strict=True) if need.takes(device.kind)]
            fitting = min(fitting, sum(max(left, 0) // need.milli for left in usable) // need.devices)
        return fitting

    def lacking(self, task: Resources) -> float:
        """The largest part of any need that is not free."""
        need = need_of(task)
        parts = [0.0]
        for name, free in self.free.items():
            wanted = amount(task, name)
            if wanted > max(free, 0):
                parts.append(float(wanted - max(free, 0)) / float(wanted))
        if need.devices:
            able = sum(
                need.takes(device.kind) and left >= need.milli
                for left, device in zip(self.left, self.devices, strict=True)
            )
            parts.append(float(max(0, need.devices - able)) / float(need.devices))
        return max(parts)

    def choices(self, task: Resources) -> list[tuple[int, ...]]:
        """The places that one task may take: one choice, or for a share one for each device with room."""
        need = need_of(task)
        able = [
            place
            for place, device in enumerate(self.devices)
            if need.devices and need.takes(device.kind) and self.left[place] >= need.milli
        ]
        if need.devices and need.milli < DEVICE_MILLI:
            return [(place,) for place in able]
        return [tuple(able[: need.devices])]


@dataclass
class Score:
    """The placement score, as `kernels/score.py` describes it."""

    tables: Tables
    kinds: dict[str, int]

    def phi(self, node: Node) -> float:
        """What the node costs in its present state."""
        tables, levels = self.tables, node.left
        if not levels:
            return 0.0
        bits = [self.kinds[device.kind] for device in node.devices]
        idle, worth = 0, 0.0
        for left in levels:
            if left > 0:
                idle += left
                worth += float(tables.bids[left])
        fragments = tables.frequency_bare * idle
        for row in range(len(tables.milli)):
            milli, kinds = int(tables.milli[row]), int(tables.kinds[row])
            serves = [left >= milli and bool(kinds >> bit & 1) for left, bit in zip(levels, bits, strict=True)]
            stuck = sum(left for left, able in zip(levels, serves, strict=True) if not able and left > 0)
            lost = int(tables.cpu[row]) > node.free[CPU] or int(tables.devices[row]) > sum(serves)
            fragments += float(tables.frequency[row]) * (idle if lost else stuck)
        gpus, cores = idle / 1000.0, float(max(node.free[CPU], 0))
        stranded = 0.0
        for row in range(len(tables.cpu_per_gpu)):
            lacking = gpus - cores / float(tables.cpu_per_gpu[row])
            if lacking <= 0.0:
                break
            stranded += float(tables.volume[row]) * lacking
        return fragments / 1000.0 + stranded - tables.bid_weight * worth

    def best(self, node: Node, task: Resources) -> tuple[float, tuple[int, ...]]:
        """(score of one task there, its places)."""
        if not node.devices:
            parts = [amount(task, name) / free for name, free in node.free.items() if amount(task, name)]
            taken = 0.0
            for part in parts:
                taken += part
            return (taken / len(parts) if parts else 1.0), ()
        before, least = self.phi(node), math.inf
        chosen: tuple[int, ...] = ()
        for places in node.choices(task):
            node.hold(task, places)
            after = self.phi(node)
            node.hold(task, places, -1)
            if after < least:
                least, chosen = after, places
        return math.floor((before - least) / self.tables.step) * self.tables.step, chosen


class Agent:
    """An agent, its machines, and its room over time."""

    def __init__(self, row: AgentRow) -> None:
        self.row = row
        self.nodes = [Node(node.name, node.offered) for node in row.nodes]
        self.offered = {name: sum(node.offered[name] for node in self.nodes) for name in NAMES}
        self.used = dict.fromkeys(NAMES, 0)
        self.endings: list[tuple[int, dict[str, int]]] = []
        """(when, what): what runs or was started gives its room back."""
        self.promises: list[tuple[int, int, dict[str, int]]] = []
        """(from, until, what)."""
        self.windows: Windows | None = None
        self.backlog = 0
        self.draining = False

    def load(self) -> float:
        """The largest part of anything that is in use."""
        return max([0.0, *(float(self.used[name]) / float(there) for name, there in self.offered.items() if there)])

    def work(self, need: dict[str, int], duration_ms: int) -> int:
        """Dominant share in 1/1,024, times ms."""
        shares = [float(need[name]) / float(there) for name, there in self.offered.items() if there]
        return int(min(1.0, max([0.0, *shares])) * 1024.0) * min(duration_ms, 2**32)

    def room(self, task: Resources) -> int:
        """How many tasks fit."""
        return min(TASKS_COUNTED_MAX, sum(node.room(task) for node in self.nodes))

    def count(self, need: dict[str, int], end_ms: int) -> None:
        """So much more is in use, until then."""
        for name in NAMES:
            self.used[name] += need[name]
        self.endings.append((end_ms, need))

    def free_at(self, at_ms: int, now_ms: int) -> dict[str, int]:
        """What will be free then."""
        free = {name: self.offered[name] - self.used[name] for name in NAMES}
        for end_ms, need in self.endings:
            if max(end_ms, now_ms + 1) <= at_ms:
                free = {name: free[name] + need[name] for name in NAMES}
        for from_ms, until_ms, need in self.promises:
            if from_ms <= at_ms < until_ms:
                free = {name: free[name] - need[name] for name in NAMES}
        if self.windows:
            held = self.windows.held_in_sum(at_ms)
            free = {name: free[name] - held[name] for name in NAMES}
        return free

    def changes(self, now_ms: int) -> set[int]:
        """When what is free changes."""
        changes = {max(end_ms, now_ms + 1) for end_ms, _ in self.endings}
        changes |= {at for promise in self.promises for at in promise[:2]}
        return changes | (self.windows.changes() if self.windows else set())

    def keeps_promises(self, need: dict[str, int], from_ms: int, duration_ms: int, now_ms: int) -> bool:
        """Whether `need` is free from `from_ms` on for so long."""
        changes = self.changes(now_ms)
        instants = [from_ms, *(at for at in changes if from_ms < at < from_ms + duration_ms)]
        return all(
            need[name] <= free[name] or not need[name]
            for free in (self.free_at(at, now_ms) for at in instants)
            for name in NAMES
        )

    def earliest(self, need: dict[str, int], duration_ms: int, now_ms: int, ahead_ms: int = 1) -> int | None:
        """When a gang that does not start now can start, in `ahead_ms` or later."""
        first, changes = now_ms + ahead_ms, self.changes(now_ms)
        for at in sorted({first} | {at for at in changes if at > first}):
            if self.keeps_promises(need, at, duration_ms, now_ms):
                return at
        return None
