"""The twin's classes: who has a seat starts before everybody else, in the room that the class's window holds."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

from federation.domain.ids import AgentKey
from federation.scheduling.plan import Placement
from federation.scheduling.reference.moving import Moving
from federation.scheduling.reference.room import NAMES, Agent, amount
from federation.scheduling.rows import ClaimRow, Delta, QueuedJob, WindowRow

MOVES_PAUSE_MS = 1_000


class Seating:
    """A part of the world: what it looks at is there."""

    full: Delta
    now_ms: int
    agents: list[Agent]
    by_key: dict[AgentKey, Agent]
    placed: dict[str, Placement]
    promised: dict[str, tuple[AgentKey, int]]
    windows: dict[str, WindowRow]
    claims: list[tuple[QueuedJob, ClaimRow]]
    moving: Moving
    due: Mapping[str, int]
    seats: dict[AgentKey, WindowRow] | None
    passing: bool

    @abstractmethod
    def everybody(self) -> bool:
        """All turns."""

    @abstractmethod
    def held_ms(self, agent: Agent, job: QueuedJob) -> int:
        """How long a job may hold its room."""

    @abstractmethod
    def open_agents(self, job: QueuedJob, home_only: bool) -> list[Agent]:
        """Where a job may run."""

    @abstractmethod
    def reach(self, job: QueuedJob) -> int:
        """How far its data may come from."""

    def wake_ms(self, before: Mapping[str, int]) -> int | None:
        """The next start that anybody was ever promised who waited when the round began, or the next that data may come to."""
        starts = [start_ms for job_id, start_ms in before.items()]
        for row in self.windows.values():
            starts += [row.start_ms, row.no_show_ms, row.end_ms]
        aside = {job.job_id for job, _ in self.claims}
        for job in self.full.queued:
            for agent in self.open_agents(job, False) if job.job_id not in {*aside, *self.placed} else ():
                ahead_ms = self.moving.transfer_ms(agent.row, job) - self.reach(job)
                if ahead_ms > 0 and agent.room(job.per_task) >= job.replicas:
                    starts.append(self.now_ms + max(ahead_ms, MOVES_PAUSE_MS))
        for job_id, (_, start_ms) in self.promised.items():
            if job_id not in self.placed:
                starts.append(min(start_ms, before.get(job_id, start_ms)))
        return min((start_ms for start_ms in starts if start_ms > self.now_ms), default=None)

    def take_seats(self) -> None:
        """Who has a seat starts; everybody else sees what no window holds at any time."""
        for batch in self.batches():
            self.seats = batch
            self.seat_turns(batch)
        self.seats = None
        for agent in self.agents:
            if agent.windows:
                agent.windows.show()
                agent.backlog += sum(
                    agent.work(held, until_ms - self.now_ms) for until_ms, held in agent.windows.holds()
                )

    def fill_gaps(self, before: set[str]) -> None:
        """Who has not started, and is over before the next window of an agent begins, starts there."""
        if not any(agent.windows for agent in self.agents):
            return
        self.note(before)
        for agent in self.agents:
            if agent.windows:
                agent.windows.show(self.now_ms + 1)
        self.pass_over(set(self.placed))
        for agent in self.agents:
            if agent.windows:
                agent.windows.show()

    def pass_over(self, before: set[str]) -> None:
        """All turns once, without promises; what starts is noted."""
        due, self.due, self.passing = self.due, {}, True
        self.everybody()
        self.due, self.passing = due, False
        self.note(before)

    def note(self, before: set[str]) -> None:
        """What started since then runs beside the windows."""
        by_id = {job.job_id: job for job in self.full.queued}
        for job_id in self.placed.keys() - before:
            entry, job = self.placed[job_id], by_id[job_id]
            held = self.by_key[entry.key].windows
            if held is not None:
                until_ms = self.now_ms + job.runtime_limit_ms + entry.transfer_ms
                held.run(entry.nodes, job.per_task, entry.devices, until_ms, job.window)

    def batches(self) -> list[dict[AgentKey, WindowRow]]:
        """The windows of each agent that jobs wait for, one of each agent at a time."""
        named = {job.window for job in self.full.queued}
        found: list[dict[AgentKey, WindowRow]] = []
        for agent in self.agents:
            rows = agent.windows.rows if agent.windows else []
            for turn, row in enumerate(row for row in rows if row.window_id in named):
                found += [{}] if turn == len(found) else []
                found[turn][agent.row.key] = row
        return found

    def seat_turns(self, batch: dict[AgentKey, WindowRow]) -> None:
        """The classes' own jobs, in their turns, in the room that their windows hold."""
        for key, row in batch.items():
            held = self.by_key[key].windows
            assert held is not None, "it has windows"
            held.show(held.next_start(row), row)
        self.pass_over(set(self.placed))
        for agent in self.agents:
            if agent.windows:
                agent.windows.show()

    def may_sit(self, agent: Agent, job: QueuedJob) -> bool:
        """In a pass over seats or gaps: whether there is one for it, until the next window at the latest."""
        if not self.passing:
            return True
        if agent.windows is None:
            return False
        if self.seats is None:
            first_ms = min((at for at in agent.windows.instants() if at > self.now_ms), default=None)
            return first_ms is not None and self.held_ms(agent, job) <= first_ms - self.now_ms
        row = self.seats.get(agent.row.key)
        if row is None or job.window != row.window_id:
            return False
        next_ms = agent.windows.next_start(row)
        small = all(amount(job.per_task, name) <= amount(row.per_task, name) for name in NAMES)
        return small and (next_ms is None or self.held_ms(agent, job) <= next_ms - self.now_ms)
