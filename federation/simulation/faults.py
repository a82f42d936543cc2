"""What goes wrong: every kind of fault by its name, and what it does to a simulated federation.

A fault is an episode: it begins, and where it has a length it ends. What ends a process is followed by a new one after a
while, as systemd would. Each seed draws its own mix of the kinds that are allowed (swarm testing: Groce et al.,
ISSTA 2012), because some faults hide others. Deliberately not here: what must hold meanwhile (`promises.py`).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from federation.errors import invalid
from federation.simulation.agent import SimulatedAgent
from federation.simulation.mishaps import Mishap
from federation.simulation.network import Line
from federation.simulation.plane import SimulatedPlane
from federation.simulation.stage import Life, Stage
from federation.simulation.standby import Pair

SECOND_MS, MINUTE_MS = 1_000, 60_000


class FaultKind(enum.StrEnum):
    """The closed list; `brhub simulate --faults` takes these names."""

    MESSAGE_LOST = "message-lost"
    MESSAGE_DOUBLED = "message-doubled"
    MESSAGE_REORDERED = "message-reordered"
    MESSAGE_DELAYED = "message-delayed-past-a-lease"
    PARTITION_UP = "partition-up"
    PARTITION_DOWN = "partition-down"
    PARTITION = "partition"
    LINK_DIES_SLOWLY = "link-dies-slowly"
    RECONNECT_STORM = "reconnect-storm"
    AGENT_CRASH = "agent-crash"
    AGENT_CRASH_BEFORE_WRITE = "agent-crash-before-write"
    AGENT_CRASH_AFTER_WRITE = "agent-crash-after-write"
    AGENT_DISK_FULL = "agent-disk-full"
    TWO_AGENTS = "two-agents-one-identity"
    PLANE_CRASH = "plane-crash"
    PLANE_CRASH_BEFORE_COMMIT = "plane-crash-before-commit"
    PLANE_CRASH_AFTER_COMMIT = "plane-crash-after-commit"
    FSYNC_FAILED = "fsync-failed"
    STORE_FULL = "store-full"
    STORE_AWAY = "store-away"
    CLOCK_DRIFT = "clock-drift"
    HUB_CLOCK_SET = "hub-clock-set"
    PLANE_CLOCK_SET = "plane-clock-set"
    POWER_LOSS = "power-loss"
    RUNNER_HANGS = "runner-hangs"
    RUNNER_DIES = "runner-dies"
    RUNNER_SILENT = "runner-cannot-be-asked"
    RESTORE = "restore"
    STANDBY_TAKEOVER = "standby-takeover"
    LEADER_CUT = "leader-cut-from-store"


class Victims(Protocol):
    """What a fault may befall."""

    stage: Stage
    pair: Pair
    agents: list[SimulatedAgent]
    people_line: Line

    @property
    def plane(self) -> SimulatedPlane:
        """The control plane that leads, or led last."""

    def restore(self, backup: object, lost: bool) -> None:
        """Put that backup in the store's place; `lost`: nothing of the present one can be read."""

    def second_agent(self, of: SimulatedAgent, length_ms: int) -> None:
        """Another machine claims the identity of `of` for a while."""


@dataclass(frozen=True, slots=True)
class _Episode:
    """How a kind is played: what begins it (its answer ends it), and how long it lasts, ms."""

    begin: Callable[[Victims], Callable[[], None] | None]
    shortest_ms: int = 0
    longest_ms: int = 0


def kinds_named(text: str) -> tuple[FaultKind, ...]:
    """The kinds that a comma-separated list names; "all", or "none". Raises: FederationError INVALID_ARGUMENT."""
    if text == "all":
        return tuple(FaultKind)
    names = [name for name in text.split(",") if name and name != "none"]
    known = {kind.value for kind in FaultKind}
    for name in names:
        if name not in known:
            raise invalid(
                f"there is no fault {name[:80]!r}", hint=f"Use all, none, or some of {', '.join(sorted(known))}."
            )
    return tuple(FaultKind(name) for name in dict.fromkeys(names))


def plan(victims: Victims, kinds: Iterable[FaultKind], episodes: int, within_ms: int) -> Mapping[FaultKind, int]:
    """Put `episodes` of a drawn mix of `kinds` on the agenda; how many of each. All are over at `within_ms`."""
    chance, stage = victims.stage.chance, victims.stage
    drawn = [kind for kind in kinds if chance.random() < 0.5]
    if chance.random() < 0.25:  # a control plane that starts again forgets what it kept in memory only, and hides it
        drawn = [kind for kind in drawn if kind not in _ENDS_THE_PLANE]
    drawn = drawn or list(kinds)[:1]
    counts: dict[FaultKind, int] = {}
    for _ in range(episodes if drawn else 0):
        kind = chance.choice(drawn)
        counts[kind] = counts.get(kind, 0) + 1
        at_ms = chance.random() * within_ms
        stage.after(at_ms, partial(_begin, victims, kind, stage.now_ms + within_ms))
    return counts


def _begin(victims: Victims, kind: FaultKind, until_ms: int) -> None:
    episode, stage = _EPISODES[kind], victims.stage
    stage.tell("fault", kind)
    end = episode.begin(victims)
    if end is not None:
        drawn_ms = episode.shortest_ms + stage.chance.random() ** 2 * (episode.longest_ms - episode.shortest_ms)
        stage.after(min(drawn_ms, max(0, until_ms - stage.now_ms)), partial(_end, victims, kind, end))


def _end(victims: Victims, kind: FaultKind, end: Callable[[], None]) -> None:
    victims.stage.tell("fault", f"{kind} is over")
    end()


# ---- lines ------------------------------------------------------------------------------------------------------------
def _line(victims: Victims) -> Line:
    lines = [agent.place.line for agent in victims.agents]
    return victims.stage.chance.choice([*lines, victims.people_line])


def _of_line(**changes: float | bool) -> Callable[[Victims], Callable[[], None]]:
    def begin(victims: Victims) -> Callable[[], None]:
        line = _line(victims)
        for name, value in changes.items():
            setattr(line, name, value)

        def end() -> None:
            for name in changes:
                setattr(line, name, type(getattr(line, name))(0))

        return end

    return begin


def _dies_slowly(victims: Victims) -> Callable[[], None]:
    """Every message takes seconds, and a minute later none arrives: the last answer was a late one."""
    line = _line(victims)
    line.drag_ms = 3_000 + victims.stage.chance.random() * 9_000
    slow = Life()

    def cut() -> None:
        line.up_cut = line.down_cut = True

    def end() -> None:
        slow.alive = line.up_cut = line.down_cut = False
        line.drag_ms = 0.0

    victims.stage.after(MINUTE_MS, cut, slow)
    return end


# ---- processes ----------------------------------------------------------------------------------------------------
def _storm(victims: Victims) -> None:
    """Every session is gone at once, and everybody comes back together."""
    if victims.plane.life.alive:
        victims.stage.tell("faults", "every connection breaks")
        victims.plane.hang_up()


def _plane_crash(victims: Victims) -> None:
    victims.plane.crash("killed")


def _agent(victims: Victims) -> SimulatedAgent:
    return victims.stage.chance.choice(victims.agents)


def _agent_crash(victims: Victims) -> None:
    _agent(victims).crash("killed")


def _on_journal(mishap: Mishap) -> Callable[[Victims], None]:
    def begin(victims: Victims) -> None:
        _agent(victims).place.journal.mishap = mishap

    return begin


def _on_commit(*mishaps: Mishap) -> Callable[[Victims], None]:
    def begin(victims: Victims) -> None:
        victims.plane.store.mishap = victims.stage.chance.choice(mishaps)

    return begin


def _agent_disk_full(victims: Victims) -> Callable[[], None]:
    journal = _agent(victims).place.journal
    journal.out_of_order = Mishap.FULL
    return partial(setattr, journal, "out_of_order", Mishap.NONE)


def _store_out_of_order(mishap: Mishap) -> Callable[[Victims], Callable[[], None]]:
    def begin(victims: Victims) -> Callable[[], None]:
        store = victims.plane.store
        store.out_of_order = mishap
        return partial(setattr, store, "out_of_order", Mishap.NONE)

    return begin


def _two_agents(victims: Victims) -> None:
    length_ms = int(SECOND_MS + victims.stage.chance.random() * 15 * MINUTE_MS)
    victims.second_agent(_agent(victims), length_ms)


def _takeover(victims: Victims) -> Callable[[], None] | None:
    """The leader's machine dies, or is stopped for a while and believes afterwards that it leads."""
    if victims.stage.chance.random() < 0.6:
        return victims.pair.stop()
    victims.pair.kill()
    return None


def _leader_cut(victims: Victims) -> Callable[[], None] | None:
    return victims.pair.cut()


def _restore(victims: Victims) -> Callable[[], None]:
    """A backup is taken now; at the end it takes the store's place."""
    backup = victims.plane.store.back_up()
    return partial(victims.restore, backup, victims.stage.chance.random() < 0.5)


# ---- machines -------------------------------------------------------------------------------------------------------
def _drift(victims: Victims) -> None:
    """The crystal is as far off as a bad one: 200 ppm either way."""
    _agent(victims).place.machine.clock.drift_by(victims.stage.chance.uniform(-200.0, 200.0))


def _set_by(victims: Victims) -> int:
    """By a second to two days, either way."""
    chance = victims.stage.chance
    return int(chance.choice((-1, 1)) * SECOND_MS * 172_800.0 ** chance.random())


def _hub_clock_set(victims: Victims) -> None:
    _agent(victims).place.machine.clock.set_by(_set_by(victims))


def _plane_clock_set(victims: Victims) -> None:
    victims.plane.machine_clock.set_by(_set_by(victims))


def _power_loss(victims: Victims) -> Callable[[], None] | None:
    agent = _agent(victims)
    machine = agent.place.machine
    if not machine.powered:
        return None
    machine.lose_power()
    agent.crash("no power")

    def end() -> None:
        machine.boot()
        agent.when_gone()

    return end


def _runner_hangs(victims: Victims) -> None:
    for program in _agent(victims).place.machine.running[:1]:
        program.deaf = True


def _runner_dies(victims: Victims) -> None:
    machine = _agent(victims).place.machine
    for program in machine.running[:1]:
        machine.kill(program)


def _runner_silent(victims: Victims) -> None:
    machine = _agent(victims).place.machine
    machine.silent_until_ms = victims.stage.now_ms + int(victims.stage.chance.random() * 5 * MINUTE_MS)


_EPISODES: Mapping[FaultKind, _Episode] = {
    FaultKind.MESSAGE_LOST: _Episode(_of_line(loss=0.3), 10 * SECOND_MS, 20 * MINUTE_MS),
    FaultKind.MESSAGE_DOUBLED: _Episode(_of_line(doubling=0.4), 10 * SECOND_MS, 20 * MINUTE_MS),
    FaultKind.MESSAGE_REORDERED: _Episode(_of_line(stray_ms=25_000.0), 10 * SECOND_MS, 20 * MINUTE_MS),
    FaultKind.MESSAGE_DELAYED: _Episode(_of_line(stray_ms=50.0 * MINUTE_MS), 10 * SECOND_MS, 5 * MINUTE_MS),
    FaultKind.PARTITION_UP: _Episode(_of_line(up_cut=True), 5 * SECOND_MS, 90 * MINUTE_MS),
    FaultKind.PARTITION_DOWN: _Episode(_of_line(down_cut=True), 5 * SECOND_MS, 90 * MINUTE_MS),
    FaultKind.PARTITION: _Episode(_of_line(up_cut=True, down_cut=True), 5 * SECOND_MS, 90 * MINUTE_MS),
    FaultKind.LINK_DIES_SLOWLY: _Episode(_dies_slowly, 20 * MINUTE_MS, 90 * MINUTE_MS),
    FaultKind.RECONNECT_STORM: _Episode(_storm),
    FaultKind.AGENT_CRASH: _Episode(_agent_crash),
    FaultKind.AGENT_CRASH_BEFORE_WRITE: _Episode(_on_journal(Mishap.CRASH_BEFORE)),
    FaultKind.AGENT_CRASH_AFTER_WRITE: _Episode(_on_journal(Mishap.CRASH_AFTER)),
    FaultKind.AGENT_DISK_FULL: _Episode(_agent_disk_full, 5 * SECOND_MS, 10 * MINUTE_MS),
    FaultKind.TWO_AGENTS: _Episode(_two_agents),
    FaultKind.PLANE_CRASH: _Episode(_plane_crash),
    FaultKind.PLANE_CRASH_BEFORE_COMMIT: _Episode(_on_commit(Mishap.CRASH_BEFORE)),
    FaultKind.PLANE_CRASH_AFTER_COMMIT: _Episode(_on_commit(Mishap.CRASH_AFTER)),
    FaultKind.FSYNC_FAILED: _Episode(_on_commit(Mishap.FSYNC_KEPT, Mishap.FSYNC_LOST)),
    FaultKind.STORE_FULL: _Episode(_store_out_of_order(Mishap.FULL), SECOND_MS, 10 * MINUTE_MS),
    FaultKind.STORE_AWAY: _Episode(_store_out_of_order(Mishap.AWAY), SECOND_MS, 10 * MINUTE_MS),
    FaultKind.CLOCK_DRIFT: _Episode(_drift),
    FaultKind.HUB_CLOCK_SET: _Episode(_hub_clock_set),
    FaultKind.PLANE_CLOCK_SET: _Episode(_plane_clock_set),
    FaultKind.POWER_LOSS: _Episode(_power_loss, 10 * SECOND_MS, 40 * MINUTE_MS),
    FaultKind.RUNNER_HANGS: _Episode(_runner_hangs),
    FaultKind.RUNNER_DIES: _Episode(_runner_dies),
    FaultKind.RUNNER_SILENT: _Episode(_runner_silent),
    FaultKind.RESTORE: _Episode(_restore, 10 * SECOND_MS, 90 * MINUTE_MS),
    FaultKind.STANDBY_TAKEOVER: _Episode(_takeover, 2 * SECOND_MS, 3 * MINUTE_MS),
    FaultKind.LEADER_CUT: _Episode(_leader_cut, 2 * SECOND_MS, 3 * MINUTE_MS),
}
_ENDS_THE_PLANE = frozenset(
    {
        FaultKind.RECONNECT_STORM,
        FaultKind.PLANE_CRASH,
        FaultKind.PLANE_CRASH_BEFORE_COMMIT,
        FaultKind.PLANE_CRASH_AFTER_COMMIT,
        FaultKind.FSYNC_FAILED,
        FaultKind.RESTORE,
        FaultKind.STANDBY_TAKEOVER,
        FaultKind.LEADER_CUT,
    }
)
