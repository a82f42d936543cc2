"""The whole federation in one thread and virtual time: one seed, one story, and every promise held at every step.

`simulate(Scenario(seed=7))` builds hubs, a control plane and people, lets faults befall them for the scenario's hours,
then lets everything heal and waits until nothing is left open. The same scenario gives the same trace, byte for byte.
It runs the real service, lifecycle, scheduling, reconcile and wire shapes; what it plays itself is named in `plane.py`,
`agent.py` and `machine.py`. Source of the method: Zhou et al., FoundationDB, SIGMOD 2021, section 4.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from federation.policy.share import SharePolicy
from federation.scheduling import Policy
from federation.service.world import Unit
from federation.simulation import faults
from federation.simulation.agent import Place, Resource, SimulatedAgent
from federation.simulation.faults import FaultKind
from federation.simulation.machine import Machine
from federation.simulation.mishaps import FaultyDisk, FaultyJournal, FaultyStore
from federation.simulation.network import Line, Network
from federation.simulation.people import People
from federation.simulation.plane import Ground, Row, Seat, SimulatedPlane
from federation.simulation.promises import Promises
from federation.simulation.stage import BEGINS_MS, BrokenPromiseError, LocalClock, Stage
from federation.simulation.standby import Pair

SECOND_MS, MINUTE_MS, HOUR_MS = 1_000, 60_000, 3_600_000
SETTLE_STEP_MS = 5 * MINUTE_MS
SETTLE_HOURS_MAX = 6
"""Once the faults are over a job ends at least so often, until none is open: lease, staging and grace fit in it."""
CLOSE_FILES_MS = 3 * HOUR_MS
"""So often people give up what nobody can say anything about."""
HUBS_MAX, HOURS_MAX = 200, 24 * 31
FAILED = "the simulation itself failed"


@dataclass(frozen=True, slots=True)
class Scenario:
    """What to simulate. `hours` is how long faults happen; what heals them comes on top."""

    seed: int
    hubs: int = 3
    hours: float = 2.0
    kinds: tuple[FaultKind, ...] = tuple(FaultKind)
    jobs_per_hub_hour: float = 8.0
    faults_per_hour: float = 30.0


@dataclass(frozen=True, slots=True)
class Report:
    """What a scenario came to."""

    scenario: Scenario
    broken: str
    """Empty when every promise held."""
    digest: str
    """sha256 of the trace."""
    events: int
    checks: int
    jobs: Mapping[str, int]
    """Final state -> how many."""
    faults: Mapping[str, int]
    virtual_ms: int
    trace: tuple[str, ...] = field(default=(), repr=False)


def simulate(scenario: Scenario, keep_trace: bool = False, disk: Callable[[], FaultyDisk] = FaultyStore) -> Report:
    """Run one scenario to its end, or to the first broken promise. `disk` makes the control plane's store.

    Any other error, of the simulation or of what it plays, ends this scenario too and is told as broken (`FAILED`).
    """
    world = Federation(scenario, keep_trace, disk())
    sentence = ""
    try:
        world.run()
    except BrokenPromiseError as error:
        sentence = str(error)
    except Exception as error:  # noqa: BLE001 - whoever plays many seeds is told which one it was, and has the others
        where = traceback.extract_tb(error.__traceback__)[-1]
        sentence = str(world.stage.broken(f"{FAILED}: {error!r} at {Path(where.filename).name}:{where.lineno}"))
    stage = world.stage
    return Report(
        scenario,
        sentence,
        stage.digest,
        stage.events,
        world.promises.checks,
        {state.value: number for state, number in sorted(world.store.count_jobs().items())},
        {kind.value: number for kind, number in sorted(world.counts.items())},
        stage.now_ms - BEGINS_MS,
        tuple(stage.lines),
    )


class Federation:
    """Everything of one scenario. A `faults.Victims`."""

    def __init__(self, scenario: Scenario, keep_trace: bool, disk: FaultyDisk) -> None:
        self.scenario = scenario
        self.stage = stage = Stage(scenario.seed, keep_trace)
        self.store = disk
        self.network = Network(stage)
        self.people_line = Line("people")
        self._ground, self._row = Ground(self.store, Policy(promise_after_ms=0)), Row()
        self.pair = Pair(stage, self._plane("plane", LocalClock(stage)), self._second_plane)
        hubs = tuple(f"hub-{number}" for number in range(1, scenario.hubs + 1))
        self.people = People(stage, self.network, self.pair, self.people_line, hubs)
        self.promises = Promises(stage, self.store, self.people)
        self.pair.when_taken_over = self.promises.acknowledged_are_kept
        self.counts: Mapping[FaultKind, int] = {}
        self.agents = [self._agent(hub_id) for hub_id in hubs]

    @property
    def plane(self) -> SimulatedPlane:
        """The control plane that leads, or led last."""
        return self.pair.leading

    def _plane(self, who: str, clock: LocalClock) -> SimulatedPlane:
        plane = SimulatedPlane(self.stage, clock, self._ground, Seat(self.stage, self._row), who)
        plane.when_gone = partial(self._plane_again, plane)
        plane.listeners.append(self._committed)
        return plane

    def _committed(self, unit: Unit) -> None:
        try:
            self.promises.committed(unit)  # which is made after the first control plane
        except Exception as error:  # the writer would keep it to itself
            raise self.stage.broken(f"{FAILED}: {error!r} while the promises were looked at") from error

    def _second_plane(self) -> SimulatedPlane:
        """On a machine of its own, with a clock of its own."""
        chance = self.stage.chance
        return self._plane(
            "standby", LocalClock(self.stage, chance.uniform(-50, 50), int(chance.uniform(-2_000, 2_000)))
        )

    def _agent(self, hub_id: str, instance: str = "first", like: Place | None = None) -> SimulatedAgent:
        chance = self.stage.chance
        clock = LocalClock(self.stage, chance.uniform(-50, 50), int(chance.uniform(-2_000, 2_000)))
        machine = Machine(self.stage, f"{hub_id}/{instance}", clock, self.promises)
        roomy = hub_id == "hub-1"  # every job can run somewhere
        cpus = 4 if roomy else chance.choice((2, 4))  # so little that people wait for room, and make room
        policy = SharePolicy(reclaim_s=chance.choice((0, 30, 60)), takes_back=not roomy and chance.random() < 0.3)
        line = Line(hub_id, chance.uniform(2, 200), chance.uniform(1, 100))
        offered: tuple[Resource, ...] = (("cpu", "", cpus * 1_000), ("disk", "", 10**12), ("memory", "", 64 * 2**30))
        if like is not None:
            offered, policy = like.offered, like.policy
        place = Place(hub_id, "main", machine, FaultyJournal(), line, offered, policy, f"{hub_id}-{instance}")
        place.journal.heard = partial(self.promises.carried_out, machine.name)
        agent = SimulatedAgent(self.stage, self.network, self.pair, place)
        agent.when_gone = partial(self._agent_again, agent)
        self.promises.agents[machine.name] = agent
        return agent

    # ---- the story --------------------------------------------------------------------------------------------------
    def run(self) -> None:
        """To the end. Raises: BrokenPromiseError."""
        scenario, stage = self.scenario, self.stage
        within_ms = int(scenario.hours * HOUR_MS)
        self.plane.boot()
        for agent in self.agents:
            agent.start()
        self.people.plan(max(1, round(scenario.jobs_per_hub_hour * scenario.hubs * scenario.hours)), within_ms)
        self.counts = faults.plan(self, scenario.kinds, round(scenario.faults_per_hour * scenario.hours), within_ms)
        while stage.now_ms < BEGINS_MS + within_ms:
            self._go_on(MINUTE_MS)
        self._settle()
        self.promises.at_the_end()

    def _settle(self) -> None:
        """Let all come to its end: a long queue may take its time, as long as it moves."""
        stage, healed_ms = self.stage, self.stage.now_ms
        moved_ms, over = healed_ms, -1
        while open_still := self.promises.unsettled():
            if over != (over := sum(number for state, number in self.store.count_jobs().items() if state.terminal)):
                moved_ms = stage.now_ms
            since_ms = stage.now_ms - healed_ms
            if since_ms and since_ms % CLOSE_FILES_MS == 0:
                self.people.close_files(self.store)
            if stage.now_ms >= moved_ms + SETTLE_HOURS_MAX * HOUR_MS:
                raise stage.broken(f"nothing has ended for {SETTLE_HOURS_MAX} h, and {open_still}")
            self._go_on(SETTLE_STEP_MS)

    def _go_on(self, for_ms: int) -> None:
        self.stage.run(self.stage.now_ms + for_ms)
        if self.plane.life.alive:
            self.promises.memory_is_the_store(self.plane.world)
            self.promises.silence_is_told(self.plane.world, self.plane.heard_ms, self.plane.up_since_ms)

    # ---- who starts things again -------------------------------------------------------------------------------------
    def _plane_again(self, plane: SimulatedPlane) -> None:
        def boot() -> None:
            if plane is self.plane and not plane.life.alive:
                plane.boot()
                self.promises.acknowledged_are_kept()

        self.stage.after(SECOND_MS + self.stage.chance.random() ** 3 * 20 * MINUTE_MS, boot)

    def _agent_again(self, agent: SimulatedAgent) -> None:
        def start() -> None:
            if not agent.life.alive and agent.place.machine.powered:
                agent.start()

        self.stage.after(SECOND_MS + self.stage.chance.random() ** 3 * 10 * MINUTE_MS, start)

    def second_agent(self, of: SimulatedAgent, length_ms: int) -> None:
        """A copy of the machine of `of` claims its identity for a while."""
        other = self._agent(of.place.hub_id, f"second-{self.stage.events}", of.place)
        other.when_gone, other.comes_back = (lambda: None), False
        other.start()
        self.stage.after(length_ms, partial(other.crash, "it was a mistake"))

    def restore(self, backup: object, lost: bool) -> None:
        """Put that backup in the store's place; `lost`: nothing of the present one can be read."""
        plane, stage = self.plane, self.stage
        plane.crash("a backup is to be restored")
        plane.machine_clock.set_by(stage.now_ms - plane.machine_clock.now_ms())  # as the refusal asks
        before = self.promises.known_jobs()
        if self.store.restore(backup, plane.machine_clock.now_ms(), lost=lost):
            stage.tell("operator", f"restores a backup of a store that {'is lost' if lost else 'went on'}")
            self.promises.restored(before)
        else:
            stage.tell("operator", "is refused: the backup was written by a clock that went ahead")
