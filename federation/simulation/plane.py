"""A control plane in virtual time: the real writer, world, lifecycle, rounds and wire shapes, on a disk that may fail.

What arrives waits for the writer's next turn, as it does behind a real writer thread: one batch, one commit, then the
answers. A round is planned on one instant's snapshot and committed at a later one, with whatever happened in between. Held
calls wait as in `federation/api/hubs.py`. When the process ends, all memory is gone, callers see a broken connection, and
the next one rebuilds itself from the store. Deliberately not here: any decision on jobs, leases or hubs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from federation.api.syncing import LeaseLinks, answer_out, beat_in
from federation.api.translate import agent_in, report_in, submission_in, submitted_out
from federation.clocks import SteadyClock
from federation.domain.ids import AgentKey, HubId
from federation.domain.job import Job, Owner
from federation.errors import Code, FederationError
from federation.scheduling import Plan, Policy
from federation.service import expiry
from federation.service import jobs as service_jobs
from federation.service import sync as service_sync
from federation.service.committing import Accepted, commit_plan
from federation.service.rounds import Rounds
from federation.service.submit import SubmitJobs, request_id_of
from federation.service.sync import Orders
from federation.service.world import Unit, World
from federation.service.writer import BATCH_MAX, Entry, Writer
from federation.simulation.mishaps import FaultyDisk, ProcessEndedError
from federation.simulation.network import Answer, refused
from federation.simulation.stage import Life, LocalClock, Stage
from federation.store.faults import DurabilityLost, unavailable
from federation.store.leadership import SILENT_S_MAX, LeadershipLost
from federation.v1 import hub_pb2, job_pb2

HOLD_MS_MAX = 20_000
ROUND_PAUSE_MS = 10
COMMIT_MS_MAX = 12.0
"""An fsync and what waits for it."""
ROUND_MS_MAX = 120.0
TICK_MS = 5_000
"""A living control plane looks at what time brings about every second; so many looks at nothing would be most of a run."""
SILENT_MS_MAX = int(SILENT_S_MAX * 1_000)
_NEVER_MS = 2**62


class CountingIds:
    """Ids that count up for the whole simulation: a restarted process does not begin anew."""

    def __init__(self) -> None:
        self._count = 0

    def new_id(self, prefix: str) -> str:
        """The next."""
        self._count += 1
        return f"{prefix}-{self._count:06d}"


@dataclass(frozen=True, slots=True)
class Ground:
    """What every control plane of one federation stands on."""

    store: FaultyDisk
    policy: Policy
    ids: CountingIds = field(default_factory=CountingIds)


@dataclass(slots=True)
class Row:
    """The leader's row in the store."""

    epoch: int = 0


class Seat:
    """One control plane's part in who leads; see `standby.py`."""

    def __init__(self, stage: Stage, row: Row) -> None:
        self._stage = stage
        self.row = row
        self.epoch = 0
        self.cut = False
        """Its way to the store is."""
        self.silent_ms = _NEVER_MS
        """True time since which it renews nothing."""

    def take(self) -> None:
        """Lead. STORE_UNAVAILABLE."""
        self._reach()
        self.row.epoch += 1
        self.epoch, self.silent_ms = self.row.epoch, _NEVER_MS

    def fence(self) -> None:
        """Before each write transaction. STORE_UNAVAILABLE, LeadershipLost."""
        self._reach()
        if self.deposed:
            raise LeadershipLost("another control plane leads")

    def _reach(self) -> None:
        if self.cut:
            raise unavailable("the store is out of reach", "Try again.", "a simulated database")

    @property
    def deposed(self) -> bool:
        """Another has taken over."""
        return self.row.epoch != self.epoch

    @property
    def ends_ms(self) -> int:
        """True time after which it may not answer."""
        return self.silent_ms + SILENT_MS_MAX

    def still(self) -> bool:
        """Whether it leads for certain: asked before every answer."""
        return self._stage.now_ms <= self.ends_ms

    def hush(self, since_ms: int) -> None:
        """Its renewals fail, since then."""
        self.silent_ms = min(self.silent_ms, since_ms)

    def renewed(self) -> None:
        """They do not."""
        self.silent_ms = _NEVER_MS


class _InlineWriter(Writer):
    """The real writer without its thread; the simulated process ends, not ours."""

    def end_process(self) -> None:
        raise ProcessEndedError


class _Notes:
    """Who has orders, gathered until the writer's turn is over."""

    def __init__(self) -> None:
        self.keys: dict[AgentKey, None] = {}

    def job_changed(self, job: Job) -> None:
        """Nobody watches."""

    def agent_has_orders(self, key: AgentKey) -> None:
        """Its held call is answered after this turn."""
        self.keys[key] = None


@dataclass(slots=True)
class _Held:
    """A sync that waits for something to say."""

    key: AgentKey
    seq: int
    began_ms: int
    until_ms: int
    answer: Answer
    orders: Orders
    """As they were when it began to wait: nothing that had to be said at once."""


@dataclass(slots=True)
class _Asked:
    """What an entry was asked for: `told` gets its result or its error."""

    told: Callable[[Any], None]
    failed: Callable[[FederationError], None]


class SimulatedPlane:
    """See the module. `receive` is its door; `crash` ends it, `boot` begins the next process."""

    def __init__(self, stage: Stage, machine_clock: LocalClock, ground: Ground, seat: Seat, who: str = "plane") -> None:
        self._stage = stage
        self.machine_clock = machine_clock
        self.clock = SteadyClock(machine_clock.now_ms, machine_clock.boot_ms, follows=True)
        self.store, self._policy, self._ids = ground.store, ground.policy, ground.ids
        self.seat = seat
        self.who = who
        self.life = Life(alive=False)
        self.boots = 0
        self.listeners: list[Callable[[Unit], None]] = []
        """Told of every commit: where promises are checked."""
        self.when_gone: Callable[[], None] = lambda: None
        """Whoever starts the next process."""
        self.heard_ms: dict[str, int] = {}
        """True time at which something last came from each caller."""
        self.up_since_ms = 0
        """True time at which this process began."""
        self._calls: dict[int, Answer] = {}
        self._next_call = 0
        self._methods: dict[str, Callable[[str, bytes, Answer], None]] = {
            "OpenSession": self._open_session,
            "SyncHub": self._sync,
            "SubmitJobs": self._submit_jobs,
            "CancelJob": self._cancel_job,
        }

    def boot(self) -> None:
        """Begin, or begin again, from the store."""
        assert not self.life.alive
        self.life = Life()
        self.boots += 1
        self.store.fence = self.seat.fence
        self._stage.tell(self.who, f"boots {self.boots}")
        self.clock = SteadyClock(self.machine_clock.now_ms, self.machine_clock.boot_ms, follows=True)
        self.world = World.rebuilt(self.store.load(), self.clock.now_ms())
        self._notes = _Notes()
        self.writer = _InlineWriter(self.store, self.world, self.clock, self._notes)
        for listener in self.listeners:
            self.writer.after_commit(listener)
        self.rounds = Rounds(self.writer, self.clock, self._ids, self._policy, recall=self.store.used_since)
        self._submit = SubmitJobs(self.store, self._ids)
        self._inbox: list[Entry] = []
        self._held: dict[str, _Held] = {}
        self._turning = self._planning = False
        try:
            self.seat.take()
            self.writer.first(expiry.restart)
        except (FederationError, ProcessEndedError, DurabilityLost) as end:
            self.crash(f"{type(end).__name__} at its first write")
            return
        self.rounds.take_in(self.world)
        self._watch = expiry.Watch(self.clock.now_ms())
        self.up_since_ms = self._stage.now_ms
        self._tick()

    def hang_up(self) -> None:
        """Every connection to it breaks, and it lives: whoever was held must come again."""
        calls, self._calls = self._calls, {}
        self._held.clear()
        for answer in calls.values():
            answer(refused())

    def crash(self, why: str) -> None:
        """The process is gone. What it was asked and had not answered is a broken connection to who asked."""
        if not self.life.alive:
            return
        self.life.alive, self.life.missed = False, None
        self.seat.hush(self._stage.now_ms)
        self._stage.tell(self.who, f"is gone: {why}")
        self.store.process_ended()
        calls, self._calls = self._calls, {}
        for answer in calls.values():
            answer(refused())
        self.when_gone()

    # ---- the door ---------------------------------------------------------------------------------------------------
    def receive(self, method: str, caller: str, request: bytes, answer: Answer) -> None:
        """One call has come."""
        if not self.life.alive:
            answer(refused())
            return
        self.heard_ms[caller] = self._stage.now_ms
        number = self._next_call = self._next_call + 1
        self._calls[number] = answer

        def reply(with_what: bytes | FederationError) -> None:
            if not self.seat.still():
                self.crash("the leadership was last renewed too long ago")
            elif self._calls.pop(number, None) is not None:
                answer(with_what)

        try:
            self._methods[method](caller, request, reply)
        except FederationError as error:
            reply(error)

    def _open_session(self, caller: str, request: bytes, answer: Answer) -> None:
        message = hub_pb2.OpenSessionRequest.FromString(request)
        arriving = agent_in(message, self._ids.new_id("session"))
        runs = tuple(report_in(report, caller) for report in message.runs)
        of = service_sync.Belonging(message.store_id, message.join_store_id)

        def told(orders: Orders) -> None:
            if orders.refused is not None:
                answer(orders.refused)
                return
            response = hub_pb2.OpenSessionResponse(
                session_id=arriving.session_id,
                protocol=1,
                incarnation=orders.incarnation,
                hold_ms=HOLD_MS_MAX,
                store_id=self.world.store_id,
            )
            answer(response.SerializeToString())

        self._ask(
            lambda unit: service_sync.open_session(unit, self.store, arriving, message.title, runs, of), told, answer
        )

    def _sync(self, caller: str, request: bytes, answer: Answer) -> None:
        message = hub_pb2.SyncHubRequest.FromString(request)
        beat = beat_in(message, caller)
        began_ms = self._stage.now_ms

        def told(orders: Orders) -> None:
            if orders.superseded:
                self._say(orders, answer, 0)
                return
            held = _Held(
                orders.key, beat.sync_seq, began_ms, began_ms + min(message.hold_ms, HOLD_MS_MAX), answer, orders
            )
            present = self._held.get(beat.session_id)
            if present is not None and present.seq > held.seq:
                self._supersede(held)
                return
            if present is not None:
                self._supersede(present)
                del self._held[beat.session_id]
            if orders.urgent:
                self._say(orders, answer, 0)
                return
            self._held[beat.session_id] = held
            self._stage.after(held.until_ms - began_ms, lambda: self._time_is_up(beat.session_id, held), self.life)

        self._ask(lambda unit: service_sync.sync(unit, self.store, beat), told, answer)

    def _submit_jobs(self, caller: str, request: bytes, answer: Answer) -> None:
        message = job_pb2.SubmitJobsRequest.FromString(request)
        home, _, subject = caller.partition("/")
        principal = f"local/{subject}@{home}"
        members = [submission_in(one, Owner(HubId(home), "default", "local", subject)) for one in message.submissions]

        def told(answers: Sequence[Any]) -> None:
            response = job_pb2.SubmitJobsResponse(results=[submitted_out(one) for one in answers])
            answer(response.SerializeToString())

        self._ask(lambda unit: self._submit(unit, principal, members), told, answer)

    def _cancel_job(self, caller: str, request: bytes, answer: Answer) -> None:
        job_id = job_pb2.CancelJobRequest.FromString(request).job_id

        def cancel(unit: Unit) -> Job:
            return service_jobs.cancel(unit, service_jobs.find(unit, self.store, job_id), "", caller)

        self._ask(cancel, lambda _: answer(b""), answer)

    # ---- held calls -------------------------------------------------------------------------------------------------
    def _time_is_up(self, session_id: str, held: _Held) -> None:
        """Nothing came."""
        if self._held.get(session_id) is held:
            del self._held[session_id]
            self._say(held.orders, held.answer, self._stage.now_ms - held.began_ms)

    def _look_again(self, session_id: str, held: _Held) -> None:
        """There may be something to say to a held call."""
        if self._held.get(session_id) is not held:
            return

        def told(orders: Orders) -> None:
            if self._held.get(session_id) is not held:
                return
            held.orders = orders
            if orders.urgent:
                del self._held[session_id]
                self._say(orders, held.answer, self._stage.now_ms - held.began_ms)

        def failed(error: FederationError) -> None:
            if self._held.get(session_id) is held:
                del self._held[session_id]
                held.answer(error)

        self._ask(lambda unit: service_sync.orders_of(unit, session_id), told, failed)

    def _supersede(self, held: _Held) -> None:
        self._say(Orders(held.key, self.world.incarnation, 0, superseded=True), held.answer, 0)

    def _say(self, orders: Orders, answer: Answer, held_ms: int) -> None:
        response = answer_out(orders, (), held_ms, self.clock.now_ms(), self._links)
        answer(response.SerializeToString())

    def _links(self, job: Job) -> LeaseLinks:
        return LeaseLinks(request_id=request_id_of(self.store, job.id))

    # ---- the writer -------------------------------------------------------------------------------------------------
    def _ask(
        self,
        command: Callable[[Unit], Any],
        told: Callable[[Any], None],
        failed: Callable[[FederationError], None],
    ) -> None:
        self._inbox.append(Entry(command, _Asked(told, failed), self))
        self._turn_soon()

    def _turn_soon(self) -> None:
        if not self._turning:
            self._turning = True
            self._stage.after(1 + self._stage.chance.random() * COMMIT_MS_MAX, self._turn, self.life)

    def _turn(self) -> None:
        """One batch: decide, save, then speak."""
        batch, self._inbox, self._turning = self._inbox[:BATCH_MAX], self._inbox[BATCH_MAX:], False
        self.store.fence = self.seat.fence
        try:
            self.writer.process(batch)
        except (ProcessEndedError, DurabilityLost) as end:
            self.crash(type(end).__name__)
            return
        if not self.life.alive:
            return
        if self._inbox:  # a process that was stopped finds more calls than one batch takes
            self._turn_soon()
        woken, self._notes.keys = self._notes.keys, {}
        for session_id, held in list(self._held.items()):
            if held.key in woken:
                self._look_again(session_id, held)
        self._plan_soon()

    def answered(self, entries: Sequence[Entry]) -> None:
        """A `service.writer.Door`."""
        for entry in entries:
            asked: _Asked = entry.asked
            if isinstance(entry.error, FederationError):
                if entry.error.code is Code.INTERNAL:
                    raise self._stage.broken(f"the service failed: {entry.error!r}")
                asked.failed(entry.error)
            elif entry.error is not None:
                raise entry.error
            else:
                asked.told(entry.result)

    def _tick(self) -> None:
        def nothing(_: object) -> None:
            pass

        self._ask(self._watch.look, self._watch.looked, nothing)
        self._ask(self.rounds.ask_again, nothing, nothing)
        self._stage.after(TICK_MS, self._tick, self.life)

    # ---- rounds -----------------------------------------------------------------------------------------------------
    def _plan_soon(self) -> None:
        if not self._planning and self.rounds.due:
            self._planning = True
            self._stage.after(ROUND_PAUSE_MS, self._plan, self.life)

    def _plan(self) -> None:
        plan = self.rounds.plan()
        self._stage.after(self._stage.chance.random() * ROUND_MS_MAX, partial(self._commit, plan), self.life)

    def _commit(self, plan: Plan) -> None:
        def failed(_: object) -> None:
            self._planning = False

        def told(accepted: Accepted) -> None:
            if accepted.failures:
                raise self._stage.broken(f"decisions of a plan failed: {'; '.join(accepted.failures)}")
            self._planning = False

        if plan.placements or plan.preemptions:
            self._ask(lambda unit: commit_plan(unit, plan, self._ids), told, failed)
        else:
            self._planning = False
            self._plan_soon()
