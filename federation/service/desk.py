"""The control plane's parts in one place, for those who speak for it: `api` and `console`.

A caller runs a command on the writer thread with `ask` and gets its answer when it is durable. Submits and agents are
answered from `start` on; whatever looks at the whole queue waits for `whole`. The planner takes a second to load, so nothing
here imports it before `rebuild` does.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from federation.domain.hub import LinkState
from federation.domain.job import Claim, Job, JobState, Reason
from federation.domain.lease import PREEMPTED, room_expected_ms
from federation.domain.plan import ReasonCode
from federation.errors import FederationError
from federation.objects.checkpoints import Shelf
from federation.objects.store import ObjectStore
from federation.ports import Clock, IdSource, Store, Tracking
from federation.service import expiry, restoring
from federation.service.asking import LoopDoor
from federation.service.checkpoints import Newest, Retention
from federation.service.logs import LogDesk
from federation.service.rebuilding import Queue
from federation.service.retention import EventRetention
from federation.service.submit import Submission, SubmitJobs, Submitted, request_keys
from federation.service.waiting import Switchboard
from federation.service.world import Unit, World
from federation.service.writer import Writer

if TYPE_CHECKING:
    from federation.scheduling import Policy
    from federation.scheduling.explaining import Explanation
    from federation.service.rounds import Rounds

T = TypeVar("T")


@dataclass(slots=True)
class Outside:
    """What the control plane is given."""

    store: Store
    clock: Clock
    ids: IdSource
    objects: ObjectStore | None
    """None in a control plane without an object store: packages and results are refused there."""
    tracking: Tracking | None
    policy: Policy | None = None
    """The order of the queue; None: the planner's own."""
    keep_events_days: int = 0
    """0: for ever."""


class Desk:
    """Built once by `federation/app.py`."""

    def __init__(self, outside: Outside) -> None:
        self.store = outside.store
        self.clock = outside.clock
        self.ids = outside.ids
        self.objects = outside.objects
        self.tracking = outside.tracking
        self._policy = outside.policy
        self.switchboard = Switchboard()
        self.logs = LogDesk()
        self.world = World.rebuilt(self.store.load(waiting=False), self.clock.now_ms())
        self._queue = Queue(self.store, self.world)
        self._rounds: Rounds | None = None
        self._whole: Future[None] = Future()
        self.writer = Writer(self.store, self.world, self.clock, self.switchboard)
        self.began_ms = self.clock.now_ms()
        self._submit = SubmitJobs(self.store, self.ids)
        self._door: LoopDoor | None = None
        self._ending = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="expiry", daemon=True)
        self.writer.after_commit(self._want_tracking)
        self.events = EventRetention(self.store, self.writer, self.clock, outside.keep_events_days)
        self.retention: Retention | None = None
        """Of checkpoints; None in a control plane without an object store."""
        if self.objects is not None:
            self.retention = Retention(Shelf(self.objects), self.store.get_job, self.clock.now_ms, self._unsure)
            self.writer.after_commit(self.retention.heard)

    def _unsure(self) -> bool:
        return restoring.unsure(self.world, self.clock.now_ms())

    def start(self) -> None:
        """Begin: writer and expiry. Nothing is answered before every live lease is counted anew, and that is saved.

        `rebuild` follows, when whoever calls may call.
        """
        self.writer.first(expiry.restart)
        self.writer.start()
        self._ticker.start()
        self.events.start()
        if self.retention is not None:
            self.retention.start()

    def rebuild(self) -> None:
        """Take in the queue, then begin to plan. Back when the world is whole; not on the event loop.

        Raises: FederationError of a store that cannot be read. Then the process has to end: it would never plan anything.
        """
        from federation.service.rounds import Rounds

        try:
            rounds = Rounds(self.writer, self.clock, self.ids, self.policy, self.store.used_since)
            self.writer.run_alone(lambda unit: rounds.take_in(unit.world))
            while not self._queue.done:
                self.writer.run_alone(self._queue.read(rounds.take_in_more))
        except BaseException as error:
            self._whole.set_exception(error)
            raise
        rounds.start()
        self._rounds = rounds
        self._whole.set_result(None)

    async def whole(self) -> None:
        """Wait until all waiting jobs are in memory and are planned. Raises: what `rebuild` raised."""
        await asyncio.shield(asyncio.wrap_future(self._whole))

    @property
    def rounds(self) -> Rounds:
        """The rounds, once the world is whole."""
        assert self._rounds is not None, "who asks for the rounds waits for `whole`"
        return self._rounds

    @functools.cached_property
    def policy(self) -> Policy:
        """The order of the queue that is in force."""
        from federation.scheduling import Policy

        return self._policy or Policy()

    def stop(self) -> None:
        """Finish what was accepted, then end."""
        self._ending.set()
        self._ticker.join()
        self.events.stop()
        if self.retention is not None:
            self.retention.stop()
        if self._rounds is not None:
            self._rounds.stop()
        self.writer.stop()
        self.store.close()

    async def ask(self, command: Callable[[Unit], T]) -> T:
        """Run `command` on the writer thread; its answer is durable when it comes."""
        return await self._here().ask(command)

    async def submit(self, principal: str, members: Sequence[Submission]) -> list[Submitted]:
        """Accept jobs."""
        keys = request_keys(principal, members)
        return await self._here().ask(lambda unit: self._submit(unit, principal, members), keys)

    def _here(self) -> LoopDoor:
        """The door of the running loop; there is one loop in a process that serves."""
        loop, door = asyncio.get_running_loop(), self._door
        if door is None or door.loop is not loop:
            door = self._door = LoopDoor(self.writer, loop)
        return door

    def explained(self, job: Job) -> Explanation:
        """Why a job waits, with each hub's own words where its admission said no. Once `whole`; not on the event loop.

        A job that runs has one reason for the hub that has it: RUNNING, or why it is being ended there. One that has ended
        has none.
        """
        from federation.scheduling.explaining import Explanation

        if job.state.terminal:
            return Explanation(())
        if job.state is not JobState.QUEUED:
            if job.reason is not None and job.reason.code == PREEMPTED:
                return Explanation((replace(job.reason, hub_id=job.hub_id),))
            there = Reason(ReasonCode.RUNNING, f"it is {job.state} there{self._silence(job)}", job.hub_id)
            if job.state is JobState.UNKNOWN and job.reason is not None:
                there = in_doubt(job, job.reason)
            return Explanation((there,))
        if restoring.held(self.world, job, self.clock.now_ms()):
            return restoring.explained(self.world, job)
        explanation = self.rounds.explain(job)
        if job.claim is not None:
            explanation = with_claim(explanation, job.claim, self.clock.now_ms())
        reasons = tuple(
            replace(reason, message=self.rounds.refusal_of(job.id, reason.hub_id) or reason.message)
            if reason.code == ReasonCode.SHARE_POLICY
            else reason
            for reason in explanation.reasons
        )
        return replace(explanation, reasons=reasons)

    def newest_checkpoint(self, job_id: str) -> Newest | None:
        """What a job's next attempt would go on from, as far as this process knows."""
        return self.retention.newest(job_id) if self.retention is not None else None

    def _silence(self, job: Job) -> str:
        """What else there is to say of a job whose hub is not heard."""
        lease = self.world.lease_for(job.id)
        agent = None if lease is None else self.world.agents.get(lease.agent_key)
        if agent is None or agent.link is LinkState.ONLINE:
            return ""
        return f", as far as anybody knows: its hub is {agent.link}, and not heard"

    def _tick(self) -> None:
        watch = expiry.Watch(self.clock.now_ms())
        while not self._ending.wait(expiry.TICK_MS / 1000):
            try:
                watch.looked(self.writer.run(watch.look))
                if self._rounds is not None:
                    self.writer.run(self._rounds.ask_again)
            except FederationError:
                continue  # the store is away: the writer has said so, and the next tick tries again

    def _want_tracking(self, unit: Unit) -> None:
        if self.tracking is not None and any(
            job.spec.tracking and not job.state.terminal for job in unit.jobs.values()
        ):
            self.tracking.wanted()


def in_doubt(job: Job, why: Reason) -> Reason:
    """Why nothing happens with a job of which nobody can say how it goes, and who may end that."""
    message = (
        f"{why.message}. It ends when its hub speaks of it; its owner may cancel it once its lease is over. Who knows that "
        f"its program is gone, as an operator of {job.hub_id} or {job.owner.home_hub}, may force its release: "
        f"brhub job release {job.id} --force --reason TEXT"
    )
    return Reason(why.code, message, job.hub_id)


def with_claim(explanation: Explanation, claim: Claim, now_ms: int) -> Explanation:
    """The explanation of a job for which others are ending: there it waits for nothing else."""
    from federation.scheduling.explaining import Explanation
    from federation.scheduling.words import clock

    ending, expected_ms = len(claim.victims), room_expected_ms(claim)
    guests = "1 guest there is" if ending == 1 else f"{ending} guests there are"
    when = f"by {clock(expected_ms)}"
    if expected_ms <= now_ms:
        when = f"any moment, given up at {clock(claim.until_ms)}"
    held = Reason(
        ReasonCode.CLAIM_HELD,
        f"machines of {claim.hub_id} are being freed for it and kept for it alone, expected {when}: {guests} ending",
        claim.hub_id,
        (
            ("expected_ms", str(expected_ms)),
            ("lost_ms", str(claim.lost_ms)),
            ("until_ms", str(claim.until_ms)),
            ("victims", str(ending)),
        ),
    )
    others = (reason for reason in explanation.reasons if reason.hub_id not in ("", claim.hub_id))
    return Explanation((held, *others), max(now_ms, expected_ms), claim.hub_id)
