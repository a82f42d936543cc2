"""A hub's agent in virtual time: the real register, admission, reconcile and conversation, on a machine of `machine.py`.

What is played here is what needs threads in a living agent: the link's loop (`hub_node/link.py`) and each run's walk
(`hub_node/agent/attempt.py`) from staging to its end. A crash loses all of it; the journal and the programs stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from federation.errors import FederationError
from federation.policy.share import SharePolicy
from federation.simulation.machine import Machine, Program
from federation.simulation.mishaps import FaultyJournal, ProcessEndedError
from federation.simulation.network import Answer, Line, Network, Servant
from federation.simulation.network import Call as NetworkCall
from federation.simulation.stage import Life, Stage
from federation.v1 import hub_pb2
from hub_node import conversation, reconcile
from hub_node.admission import Admission
from hub_node.agent.facts import Ended, Fact, ProgramEnded, Progressed, Started
from hub_node.agent.register import NOT_BEGUN, REBOOTED, Register, Turn, rebooted_outcome
from hub_node.config import AgentConfig
from hub_node.conversation import Call, Conversation, Introduction
from hub_node.ports import Phase
from hub_node.records import NodeReport, Orders, Outcome, Reason, Run, RunState

TICK_MS = 5_000
"""A living agent looks around every second; so many looks at nothing would be most of a simulation."""
POLL_MS = 250
STAGING_MS_MAX = 120_000.0
SLOW_STAGING_MS_MAX = 75 * 60_000.0
"""A few packages and environments take longer than a lease, over links as they are."""
CALL_MS = 15_000
NODES_EVERY_MS = 30_000
ASK_AGAIN_MS = 10_000
Resource = tuple[str, str, int]


@dataclass(slots=True)
class _Walk:
    """A run's walk: what its thread knows."""

    run: Run
    fresh: bool
    """Nothing of it was begun by an agent before this one."""
    program: Program | None = None
    end: tuple[Reason, int] | None = None
    extension_ms: int = 0
    """A longer lease that came before there was a program to tell."""
    over: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """Where an agent lives: what outlives its process."""

    hub_id: str
    agent_id: str
    machine: Machine
    journal: FaultyJournal
    line: Line
    offered: tuple[Resource, ...]
    policy: SharePolicy
    instance_id: str


class SimulatedAgent:
    """See the module. `start` begins a process, `crash` ends it."""

    def __init__(self, stage: Stage, network: Network, plane: Servant, place: Place) -> None:
        self._stage = stage
        self._network = network
        self._plane = plane
        self.place = place
        self.name = f"{place.hub_id}/{place.agent_id}"
        self.life = Life(alive=False)
        self.heard_ms = self._answered_ms = stage.now_ms
        """True time at which the latest sync was sent of which the orders came, and no crash took them: leases count from it."""
        self.comes_back = True
        """Whether somebody starts it again."""
        self.when_gone: Callable[[], None] = lambda: None
        """Whoever starts the next process."""

    # ---- its life ---------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """A process of this agent begins with what its journal holds."""
        assert not self.life.alive
        place = self.place
        self.life = Life()
        self._answered_ms = self.heard_ms
        self._stage.tell(self.name, "starts")
        config = AgentConfig(place.hub_id, "", Path(), place.agent_id, engines=(), fake=True)
        self.register = Register(place.journal, Admission(config, place.policy, place.offered), place.machine.boot_id)
        about = Introduction(
            place.hub_id,
            place.agent_id,
            place.instance_id,
            place.hub_id,
            ("fake",),
            (),
            place.policy.reclaim_s * 1_000,
            place.policy.takes_back,
        )
        self._conversation = Conversation(about, lambda _: 0)
        self._items: list[Orders | Fact] = []
        self._turning = self._dirty = False
        self._walks: dict[str, _Walk] = {}
        self._newest: Call | None = None
        self._sent_true_ms = 0
        self._failures = self._delivered = 0
        self._awaited = 0
        self._nodes_due_ms = 0
        self._round_trip_ms = -1
        self._told = self.register.truth()
        for run in self.register.live:
            walk = self._begin(run, fresh=False)
            if run.state is RunState.STOPPING and run.reason is not None:
                self._stop(walk, run.reason, run.stop_grace_ms)
        self._dial()
        self._ticking = False
        self._watch_the_time()

    def crash(self, why: str) -> None:
        """The process is gone; programs go on."""
        if not self.life.alive:
            return
        self.life.alive = False
        self._stage.tell(self.name, f"is gone: {why}")
        for program in self.place.machine.running:
            program.heard = None
        self.when_gone()

    def _now_ms(self) -> int:
        return self.place.machine.steady.now_ms()

    # ---- turns ------------------------------------------------------------------------------------------------------
    def _put(self, item: Orders | Fact) -> None:
        self._items.append(item)
        if not self._turning:
            self._turning = True
            self._stage.after(1 + self._stage.chance.random() * 8, self._turn, self.life)

    def _watch_the_time(self) -> None:
        """While there are runs whose time may be over."""
        if not self._ticking and self.register.live:
            self._ticking = True
            self._stage.after(TICK_MS, self._tick, self.life)

    def _tick(self) -> None:
        self._ticking = False
        if not self._turning:
            self._turn()
        else:
            self._watch_the_time()

    def _turn(self) -> None:
        items, self._items, self._turning = self._items, [], False
        try:
            turn = self.register.turn(items, self._now_ms())
        except ProcessEndedError:
            self.crash("while it wrote its journal")
            return
        self.heard_ms = self._answered_ms
        self._act(turn)
        self._publish()
        self._watch_the_time()

    def _act(self, turn: Turn) -> None:
        for command in turn.commands:
            match command:
                case reconcile.Start(lease):
                    run = self.register.runs[lease.lease_id]
                    if run.state is not RunState.ENDED:
                        self._begin(run, fresh=True)
                case reconcile.Stop(lease_id, reason, grace_ms) if lease_id in self._walks:
                    self._stop(self._walks[lease_id], reason, grace_ms)
                case reconcile.Extend(lease_id, valid_until_ms) if lease_id in self._walks:
                    self._extend(self._walks[lease_id], valid_until_ms)
                case _:
                    pass
        for fact in turn.facts:
            if isinstance(fact, Ended):
                walk = self._walks.pop(fact.lease_id, None)
                if walk is not None:
                    self.place.machine.forget(walk.run)

    # ---- a run's walk -----------------------------------------------------------------------------------------------
    def _begin(self, run: Run, fresh: bool) -> _Walk:
        walk = _Walk(run, fresh)
        self._walks[run.lease_id] = walk
        if run.outcome is not Outcome.NONE:
            self._tell_end(walk, run.outcome, None, 0, run.ended_ms)
        elif run.runner_state:
            self._watch(walk)
            if run.lease.valid_until_ms:
                self._extend(walk, run.lease.valid_until_ms)
        elif not fresh and (program := self.place.machine.find(run)) is not None:
            self._put(Started(run.lease_id, self._now_ms(), "{}", self.place.machine.boot_id))
            self._watch(walk, program)
        elif run.state is not RunState.STOPPING and reconcile.of_another_boot(run, self.place.machine.boot_id):
            self._tell_end(walk, Outcome.REFUSED, NOT_BEGUN, 1, self._now_ms())
        else:
            self._put(Progressed(run.lease_id, "staging"))
            chance = self._stage.chance
            slow = chance.random() < 0.03
            delay_ms = chance.random() * SLOW_STAGING_MS_MAX if slow else chance.random() ** 3 * STAGING_MS_MAX
            self._stage.after(50 + delay_ms, partial(self._staged, walk), self.life)
        return walk

    def _staged(self, walk: _Walk) -> None:
        if walk.over or walk.program is not None:
            return
        if walk.end is not None:
            self._say_stopped(walk, 143)
            return
        run, machine = walk.run, self.place.machine
        now_ms = self._now_ms()
        if machine.find(run) is None and reconcile.too_late(
            run.lease, self.register.runs[run.lease_id].deadline_ms, now_ms
        ):
            self._tell_end(
                walk, Outcome.REFUSED, Reason(reconcile.TOO_LATE, "too little of its lease is left"), 1, now_ms
            )
            return
        deadline_ms = now_ms + run.lease.work.runtime_limit_ms
        if not run.lease.valid_until_ms:
            deadline_ms = min(deadline_ms, run.deadline_ms)
        program = machine.start(run, deadline_ms)
        self._put(Started(run.lease_id, now_ms, "{}", machine.boot_id))
        self._watch(walk, program)
        if walk.extension_ms:
            self._extend(walk, walk.extension_ms)

    def _watch(self, walk: _Walk, program: Program | None = None) -> None:
        walk.program = program or self.place.machine.find(walk.run)
        if walk.program is not None and not walk.program.cause:
            walk.program.heard = lambda: self._stage.after(POLL_MS, partial(self._poll, walk), self.life)
        else:
            self._stage.after(POLL_MS, partial(self._poll, walk), self.life)

    def _poll(self, walk: _Walk) -> None:
        status = self.place.machine.status(walk.run)
        if walk.over or status.phase is Phase.RUNNING:
            return
        if status.phase is Phase.UNKNOWN:
            self._stage.after(POLL_MS * 20, partial(self._poll, walk), self.life)
            return
        now_ms = self._now_ms()
        if status.code == "" and status.exit_code == 0:
            self._put(ProgramEnded(walk.run.lease_id, Outcome.SUCCEEDED, now_ms, ()))
            self._tell_end(walk, Outcome.SUCCEEDED, None, 0, now_ms)
        elif walk.end is not None and status.code in ("", "STOPPED", "GUARD_LOST", REBOOTED.code):
            self._say_stopped(walk, status.exit_code)
        else:
            reason = Reason(status.code or "EXIT_STATUS", status.message)
            outcome = Outcome.STOPPED if status.code == "STOPPED" else Outcome.FAILED
            if status.code == REBOOTED.code:
                outcome = rebooted_outcome(walk.run)
            self._tell_end(walk, outcome, reason, status.exit_code, now_ms)

    def _stop(self, walk: _Walk, reason: Reason, grace_ms: int) -> None:
        walk.end = (reason, grace_ms)
        program = walk.program
        if program is None and not walk.over:
            self._stage.after(POLL_MS, partial(self._staged, walk), self.life)  # preparing it is called off
        if program is not None and not walk.over:
            self.place.machine.stop(program, grace_ms, reason.code)
            self._stage.after(grace_ms + ASK_AGAIN_MS, partial(self._ask_again, walk), self.life)

    def _ask_again(self, walk: _Walk) -> None:
        if walk.program is not None and not walk.over and walk.end is not None:
            self.place.machine.stop(walk.program, walk.end[1], walk.end[0].code)
            self._poll(walk)

    def _extend(self, walk: _Walk, valid_until_ms: int) -> None:
        if walk.program is None:
            walk.extension_ms = valid_until_ms
        elif not walk.over:
            run = self.register.runs[walk.run.lease_id]
            started_ms = run.started_ms or self._now_ms()
            self.place.machine.extend(walk.program, started_ms + run.lease.work.runtime_limit_ms, valid_until_ms)

    def _say_stopped(self, walk: _Walk, exit_code: int) -> None:
        assert walk.end is not None
        reason = walk.end[0]
        outcome = reconcile.stopped_outcome(reason.code, walk.program is not None)
        self._tell_end(walk, outcome, reason, exit_code, self._now_ms())

    def _tell_end(self, walk: _Walk, outcome: Outcome, reason: Reason | None, exit_code: int, ended_ms: int) -> None:
        walk.over = True
        self._put(Ended(walk.run.lease_id, outcome, reason, exit_code, ended_ms))

    # ---- the link ---------------------------------------------------------------------------------------------------
    def _publish(self) -> None:
        truth = self.register.truth()
        self._dirty = self._dirty or truth.runs != self._told.runs
        self._told = truth
        if self._awaited and truth.answers >= self._awaited:
            self._awaited = 0
            self._dial()
        elif self._dirty and self._newest is not None and self._conversation.session_id:
            self._sync()  # a newer call supersedes the held one

    def _dial(self) -> None:
        if self._conversation.session_id:
            self._sync()
        else:
            self._open()

    def _nodes(self) -> tuple[NodeReport, ...]:
        self._nodes_due_ms = self._stage.now_ms + NODES_EVERY_MS
        return (NodeReport(self.place.agent_id, self.place.offered, self.place.offered),)

    def _open(self) -> None:
        truth, self._dirty, self._newest = self._told, False, None
        request = self._conversation.opening(truth, self._nodes(), self._now_ms())

        def answered(reply: bytes | FederationError) -> None:
            if isinstance(reply, FederationError):
                self._failed(reply)
                return
            self._conversation.opened(truth, hub_pb2.OpenSessionResponse.FromString(reply))
            self._failures = 0
            self._sync()

        self._call("OpenSession", request.SerializeToString(), CALL_MS, answered)

    def _sync(self) -> None:
        truth, self._dirty = self._told, False
        nodes = self._nodes() if self._stage.now_ms >= self._nodes_due_ms else ()
        call, request = self._conversation.call(truth, nodes, self._round_trip_ms, self._now_ms())
        session_id, sent_ms = self._conversation.session_id, self._stage.now_ms
        self._newest = call

        def answered(reply: bytes | FederationError) -> None:
            if self._conversation.session_id != session_id:
                return
            newest = self._newest is call
            if isinstance(reply, FederationError):
                if newest:
                    self._failed(reply)
                return
            answer = hub_pb2.SyncHubResponse.FromString(reply)
            if newest:
                self._newest = None
                self._failures = 0
                self._round_trip_ms = max(0, self._stage.now_ms - sent_ms - answer.held_ms)
            self._deliver(call, answer, newest, sent_ms)

        timeout_ms = request.hold_ms + CALL_MS
        self._call("SyncHub", request.SerializeToString(), timeout_ms, answered)

    def _deliver(self, call: Call, answer: hub_pb2.SyncHubResponse, newest: bool, sent_ms: int) -> None:
        orders = self._conversation.answered(call, answer, self._told)
        if orders is not None:
            self._delivered += 1
            self._answered_ms = max(self._answered_ms, sent_ms)  # and heard once that is in the journal
            self._put(orders)
        if not newest:
            return
        if orders is not None and conversation.carried(orders):
            self._awaited = self._delivered  # the next call says what became of it
        else:
            self._stage.after(0 if self._stage.now_ms - sent_ms >= 500 else 200, self._dial_unless_busy, self.life)

    def _dial_unless_busy(self) -> None:
        if self._newest is None and not self._awaited:
            self._dial()

    def _failed(self, error: FederationError) -> None:
        self._newest = None
        if error.code in conversation.SESSION_GONE:
            self._conversation.session_id = ""
        self._failures += 1
        pause_s = conversation.pause_s(error.code, self._failures, self._stage.chance.random())
        self._stage.after(pause_s * 1_000, self._dial_unless_busy, self.life)

    def _call(self, method: str, request: bytes, timeout_ms: int, answered: Answer) -> None:
        call = NetworkCall(method, self.place.hub_id, request, timeout_ms)
        self._network.call(self.place.line, self._plane, call, self.life, answered)
