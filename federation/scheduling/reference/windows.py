"""The twin's windows: one agent's machines over time, as a list of tasks with their ends and dictionaries of amounts."""

from __future__ import annotations

from typing import NamedTuple

from federation.domain.quantities import CPU, DISK, GPU, MEMORY, Resources, need_of
from federation.scheduling.reference.room import Agent, amount
from federation.scheduling.rows import WindowRow

Places = tuple[int, ...] | None
Room = dict[tuple[int, str | int], int]
"""By (machine, scalar) or (machine, place of a device)."""


class Task(NamedTuple):
    """One task on a machine that is there; `end_ms` None: as long as anybody knows."""

    node: int
    task: Resources
    places: Places
    end_ms: int | None
    window: str


class Windows:
    """The windows of one agent, and all that runs there. What the agent's machines have free is what this shows."""

    def __init__(self, agent: Agent, rows: list[WindowRow], now_ms: int) -> None:
        self.agent, self.now_ms = agent, now_ms
        self.rows = sorted(rows, key=lambda row: (row.start_ms, row.window_id))
        self.tasks: list[Task] = []
        self.seats: dict[str, Room] = {}
        self.drained: set[int] = set()

    def run(
        self,
        names: tuple[str, ...],
        task: Resources,
        devices: tuple[tuple[int, ...], ...],
        end_ms: int | None,
        window: str,
        sign: int = 1,
    ) -> None:
        """A gang takes its room, or (-1) gives it back."""
        for at, name in enumerate(names):
            for index, node in enumerate(self.agent.nodes):
                if node.name == name:
                    entry = Task(index, task, devices[at] if devices else None, end_ms, window)
                    if sign > 0:
                        self.tasks.append(entry)
                    else:
                        self.tasks.remove(entry)

    def settle(self) -> None:
        """Everything runs that ran when the round began: which seats are held follows from it."""
        for row in self.rows:
            kept = self.kept(row)
            self.seats[row.window_id] = self.sum_of(
                [
                    Task(index, row.per_task, row.devices[seat] if row.devices else None, None, "")
                    for seat in kept
                    for index, node in enumerate(self.agent.nodes)
                    if node.name == row.nodes[seat]
                ]
            )
        self.show()

    def kept(self, row: WindowRow) -> list[int]:
        """Seats that nobody else gets."""
        if self.now_ms < row.no_show_ms or row.no_show_ms == row.end_ms:
            return list(range(row.seats))
        own = [self.agent.nodes[task.node].name for task in self.tasks if task.window == row.window_id]
        own = [name for name in own if name in row.nodes]
        most, kept = min(row.seats, max(row.taken, len(own))), []
        for seat, name in enumerate(row.nodes):
            if name in own:
                own.remove(name)
                kept.append(seat)
        for seat in range(row.seats):
            if seat not in kept and len(kept) < most:
                kept.append(seat)
        return kept

    def sum_of(self, tasks: list[Task]) -> Room:
        """What tasks use together."""
        room: Room = {}
        for task in tasks:
            need = need_of(task.task)
            for name in (CPU, MEMORY, DISK):
                room[task.node, name] = room.get((task.node, name), 0) + amount(task.task, name)
            for place, device in enumerate(self.agent.nodes[task.node].devices):
                if need.devices and (place in task.places if task.places is not None else need.takes(device.kind)):
                    room[task.node, place] = room.get((task.node, place), 0) + need.milli
        return room

    def _over(self, task: Task, at_ms: int) -> bool:
        return task.end_ms is not None and max(task.end_ms, self.now_ms + 1) <= at_ms

    def inside(self, row: WindowRow, at_ms: int) -> Room:
        """What a window holds then."""
        own = self.sum_of([task for task in self.tasks if task.window == row.window_id and not self._over(task, at_ms)])
        return {key: max(0, there - own.get(key, 0)) for key, there in self.seats[row.window_id].items()}

    def open(self, at_ms: int) -> Room:
        """What is free then, and not held."""
        used = self.sum_of([task for task in self.tasks if not self._over(task, at_ms)])
        held = [self.inside(row, at_ms) for row in self.rows if row.start_ms <= at_ms < row.end_ms]
        room: Room = {}
        for index, node in enumerate(self.agent.nodes):
            for name in (CPU, MEMORY, DISK):
                room[index, name] = node.offered[name]
            for place, device in enumerate(node.devices):
                room[index, place] = device.milli
        return {key: there - used.get(key, 0) - sum(of.get(key, 0) for of in held) for key, there in room.items()}

    def held_in_sum(self, at_ms: int) -> dict[str, int]:
        """What windows hold then, by name."""
        held = dict.fromkeys((GPU, CPU, MEMORY, DISK), 0)
        for row in self.rows:
            if row.start_ms <= at_ms < row.end_ms:
                for (_, name), there in self.inside(row, at_ms).items():
                    held[name if isinstance(name, str) else GPU] += there
        return held

    def instants(self) -> set[int]:
        """Now, and when windows begin."""
        return {self.now_ms} | {row.start_ms for row in self.rows if row.start_ms > self.now_ms}

    def changes(self) -> set[int]:
        """When what windows hold changes but for what runs."""
        return {at for row in self.rows for at in (row.start_ms, row.end_ms)}

    def next_start(self, row: WindowRow) -> int | None:
        """When the first window begins after one is over."""
        return min((at for at in self.instants() if at > self.now_ms and at >= row.end_ms), default=None)

    def holds(self) -> list[tuple[int, dict[str, int]]]:
        """(until, what): what windows hold in sum, more wherever a lease of their own ends."""
        found = []
        for row in self.rows:
            own = [task.end_ms for task in self.tasks if task.window == row.window_id and task.end_ms is not None]
            from_ms, before = max(row.start_ms, self.now_ms), dict.fromkeys((GPU, CPU, MEMORY, DISK), 0)
            ends = {max(end_ms, self.now_ms + 1) for end_ms in own}
            for at in sorted({from_ms} | {end_ms for end_ms in ends if from_ms < end_ms < row.end_ms}):
                held = dict.fromkeys(before, 0)
                for (_, name), there in self.inside(row, at).items():
                    held[name if isinstance(name, str) else GPU] += there
                if held != before:
                    found.append((row.end_ms, {name: held[name] - before[name] for name in held}))
                before = held
        return found

    def show(self, until_ms: int | None = None, seat: WindowRow | None = None) -> None:
        """Make the agent's machines look as they do to a run until then; None: to one of any length."""
        room: Room = {}
        for at in self.instants():
            if until_ms is None or at < until_ms:
                there = self.open(at)
                if seat is not None and seat.start_ms <= at < seat.end_ms:
                    inside = self.inside(seat, max(seat.start_ms, self.now_ms))
                    there = {key: left + inside.get(key, 0) for key, left in there.items()}
                room = {key: min(left, room.get(key, left)) for key, left in there.items()}
        if seat is not None:
            room = self._least(room, self.inside(seat, max(seat.start_ms, self.now_ms)))
        self._write(room, drained=seat is None)

    def show_bare(self) -> None:
        """Make them look as if there were no windows."""
        used = self.sum_of([task for task in self.tasks if not self._over(task, self.now_ms)])
        for index, node in enumerate(self.agent.nodes):
            node.free = {name: node.offered[name] - used.get((index, name), 0) for name in node.free}
            node.left = [device.milli - used.get((index, place), 0) for place, device in enumerate(node.devices)]

    def _least(self, room: Room, inside: Room) -> Room:
        return {key: min(left, inside.get(key, 0)) for key, left in room.items()}

    def _write(self, room: Room, *, drained: bool) -> None:
        for index, node in enumerate(self.agent.nodes):
            most = 0 if drained and index in self.drained else None
            node.free = {name: room[index, name] for name in node.free}
            node.left = [room[index, place] for place in range(len(node.devices))]
            if most is not None:
                node.free = {name: min(free, most) for name, free in node.free.items()}
                node.left = [min(left, most) for left in node.left]
