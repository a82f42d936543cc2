"""Windows that were offered keep their promise, whatever is planned between: simulated federations from a seed.

Guests respect their limits; agents do not change; who has a seat takes it. What is checked is arithmetic of its own.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from federation.domain.ids import AgentKey
from federation.domain.quantities import Resources, devices_of, need_of
from federation.scheduling import Delta, PlannerState, Policy, plan_round
from federation.scheduling.offering import extend, offer
from federation.scheduling.policy import Order
from federation.scheduling.rows import AgentRow, LeaseRow, QueuedJob, WindowRow
from tests.unit.scheduling.builders import agent, cpus, job

seeds = st.integers(0, 2**32 - 1)
SEATS = (cpus(1), cpus(2, 1), cpus(1, gpus=0.5), cpus(1, gpus=1))
Room = Counter[tuple[AgentKey, str, str | int]]
"""By agent, machine, and scalar or place of a device."""


@dataclass
class Site:
    """A federation that lives: what the planner starts runs, for as long as its dice say, up to the limit."""

    seed: int
    state: PlannerState = field(default_factory=PlannerState)
    now_ms: int = 0
    live: dict[str, tuple[LeaseRow, int]] = field(default_factory=dict)
    """(lease, when it ends)."""
    jobs: int = 0

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        order = self.dice.choice(tuple(Order))
        self.policy = Policy(order=order, promise_after_ms=self.dice.choice((0, 10)))
        agents = tuple(self.machines(hub) for hub in ("cairo", "lima"))
        self.rows: dict[AgentKey, AgentRow] = {row.key: row for row in agents}
        self.state.apply(Delta(agents=agents), self.policy)

    def machines(self, hub: str) -> AgentRow:
        """One to three machines, some with GPUs."""
        several = [
            cpus(self.dice.randint(1, 4), 4, self.dice.choice((0, 1, 2))) for _ in range(self.dice.randint(1, 3))
        ]
        return agent(hub, *several)

    def guest(self, window: str = "", task: Resources | None = None) -> QueuedJob:
        """Anybody's job."""
        self.jobs += 1
        return job(
            f"job-{self.jobs}", task or self.dice.choice(SEATS), self.dice.choice(("cairo", "lima")), seq=self.jobs,
            replicas=self.dice.choice((1, 1, 2)) if not window else 1, window=window, submitted_ms=self.now_ms,
            runtime_limit_ms=self.dice.randint(1, 60) if not window else 500, preemptible=self.dice.random() < 0.3,
            priority=self.dice.choice((1, 3, 4)), spread=self.dice.random() < 0.2,
        )  # fmt: skip

    def step(self, to_ms: int, *jobs: QueuedJob, windows: tuple[WindowRow, ...] = ()) -> set[str]:
        """Time passes; what ends, ends; one round, and all that it places starts. The ids of what started."""
        self.now_ms = to_ms
        over = [lease_id for lease_id, (_, ends_ms) in self.live.items() if ends_ms <= to_ms]
        for lease_id in over:
            del self.live[lease_id]
        delta = Delta(leases_ended=tuple(over), queued=jobs, windows=windows)
        self.state, plan = plan_round(self.state, delta, self.policy, to_ms)
        started = []
        for entry in plan.placements:
            wanted = self.state.job(entry.job_id)
            until_ms = to_ms + wanted.runtime_limit_ms
            row = LeaseRow(
                f"of-{entry.job_id}", entry.job_id, entry.key, entry.nodes, wanted.per_task, *wanted.owner, until_ms,
                to_ms, entry.devices, wanted.preemptible, wanted.priority, wanted.window,
            )  # fmt: skip
            self.live[row.lease_id] = (row, self.dice.randint(to_ms + 1, until_ms) if not wanted.window else until_ms)
            started.append(row)
        self.state.apply(Delta(leases_started=tuple(started)), self.policy)
        return {row.job_id for row in started}

    def free(self, at_ms: int | None = None) -> Room:
        """What is free now, machine by machine, or will be free then when all runs to its limit."""
        room: Room = Counter()
        for key, row in self.rows.items():
            for node in row.nodes:
                for name, _, amount in node.offered:
                    if name != "gpu":
                        room[key, node.name, name] += amount
                for place, device in enumerate(devices_of(node.offered)):
                    room[key, node.name, place] = device.milli
        for lease, _ in self.live.values():
            if at_ms is None or lease.expires_ms > at_ms:
                use(room, lease.key, lease.nodes, lease.per_task, lease.devices)
        return room

    def wanted(self) -> WindowRow | None:
        """A class asks; the window that it is offered."""
        start_ms = self.now_ms + self.dice.randint(0, 60)
        end_ms = start_ms + self.dice.randint(1, 60)
        seats, demand = self.dice.randint(1, 4), replace(self.guest(task=self.dice.choice(SEATS)), runtime_limit_ms=500)
        found = offer(self.state, demand, seats, start_ms, end_ms, self.now_ms)
        if not found.places:
            assert found.reasons
            assert found.earliest_ms == 0 or found.earliest_ms > start_ms
            return None
        key, nodes, devices = self.dice.choice(found.places)
        return WindowRow(f"class-{self.jobs}", key, demand.per_task, nodes, start_ms, end_ms, end_ms, devices)


def use(
    room: Room, key: AgentKey, nodes: tuple[str, ...], task: Resources, devices: tuple[tuple[int, ...], ...]
) -> None:
    """Take what tasks use."""
    for at, node in enumerate(nodes):
        for name, _, amount in task:
            if name != "gpu":
                room[key, node, name] -= amount
        for place in devices[at] if devices else ():
            room[key, node, place] -= need_of(task).milli


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_an_offered_window_has_its_seats_when_it_begins(seed: int) -> None:
    """Other windows, guests and backfill between: at every instant of it all seats of it are there, together."""
    site, windows = Site(seed), list[WindowRow]()
    for _ in range(25):
        new: tuple[WindowRow, ...] = ()
        if site.dice.random() < 0.4 and (row := site.wanted()) is not None:
            windows.append(row)
            new = (row,)
        elif windows and site.dice.random() < 0.3:
            longest = windows.pop(site.dice.randrange(len(windows)))
            if longest.end_ms > site.now_ms:
                longer = extend(site.state, longest.window_id, longest.end_ms + site.dice.randint(1, 40), site.now_ms)
                longest = longer.row or longest
                new = (longest,)
            windows.append(longest)
        site.step(site.now_ms, *(site.guest() for _ in range(site.dice.randint(0, 4))), windows=new)
        site.step(site.now_ms + site.dice.randint(1, 15))
        lasting = [row for row in windows if row.start_ms <= site.now_ms < row.end_ms]
        room = site.free()
        for row in lasting:
            use(room, row.key, row.nodes, row.per_task, row.devices)
        assert min(room.values()) >= 0, (lasting, room)
        for at_ms in {row.start_ms for row in windows if row.start_ms > site.now_ms}:
            room = site.free(at_ms)
            for row in windows:
                if row.start_ms <= at_ms < row.end_ms:
                    use(room, row.key, row.nodes, row.per_task, row.devices)
            assert min(room.values()) >= 0, (at_ms, windows)


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_every_student_with_a_seat_starts_at_the_bell(seed: int) -> None:
    """As many jobs of the class as it has seats, in the round of its first instant, whoever else waits."""
    site = Site(seed)
    for _ in range(6):
        site.step(site.now_ms + site.dice.randint(0, 5), *(site.guest() for _ in range(site.dice.randint(0, 4))))
    row = site.wanted()
    if row is None:
        return
    site.step(site.now_ms, windows=(row,))
    while site.now_ms < row.start_ms:
        coming = tuple(site.guest() for _ in range(site.dice.randint(0, 3)))
        site.step(min(row.start_ms, site.now_ms + site.dice.randint(1, 10)), *coming)
    students = tuple(
        replace(site.guest(row.window_id, row.per_task), home_hub=row.key[0], priority=1) for _ in range(row.seats)
    )
    started = site.step(site.now_ms, *students)
    assert {student.job_id for student in students} <= started


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_a_no_show_gives_up_exactly_what_nobody_took(seed: int) -> None:
    """Of a class that has its whole machine, some come: after the no-show the rest, and no more, is anybody's."""
    dice = random.Random(seed)
    seats, came = dice.randint(1, 4), dice.randint(0, 4)
    key = agent("cairo", cpus(seats)).key
    row = WindowRow("class", key, cpus(1), ("n0",) * seats, 10, 100, 20)
    site = Site(seed)
    site.rows = {key: agent("cairo", cpus(seats))}
    site.state = PlannerState()
    site.state.apply(Delta(agents=tuple(site.rows.values()), windows=(row,)), site.policy)
    students = tuple(site.guest("class", cpus(1)) for _ in range(min(came, seats)))
    assert len(site.step(10, *students)) == len(students)
    others = tuple(job(f"other-{at}", cpus(1), seq=100 + at, runtime_limit_ms=10) for at in range(6))
    assert site.step(19, *others) == set()
    assert len(site.step(20)) == seats - len(students)
