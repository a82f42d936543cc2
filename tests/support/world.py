"""A control plane's service without wires: the real writer, world, lifecycle and store, a clock that is set by hand."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, TypeVar

from federation.domain.hub import Agent
from federation.domain.ids import AgentKey, JobId, LeaseId
from federation.domain.job import Epoch, Job, JobState, Owner
from federation.domain.lease import Lease
from federation.errors import Code, Fault, FederationError
from federation.lifecycle.invariants import broken
from federation.lifecycle.job import Trigger
from federation.ports import Store, Transaction
from federation.scheduling.plan import Placement, Plan, Preemption
from federation.scheduling.policy import Policy
from federation.service import expiry
from federation.service import sync as service_sync
from federation.service.committing import Accepted
from federation.service.jobs import find
from federation.service.rebuilding import Queue
from federation.service.rounds import Rounds
from federation.service.submit import Submission, SubmitJobs, Submitted
from federation.service.waiting import Switchboard
from federation.service.world import Unit, World
from federation.service.writer import Entry, Writer
from federation.store.memory import MemoryStore
from tests.support.builders import AISHA, NOON_MS, a_spec, an_agent

T = TypeVar("T")


class SetClock:
    """A clock that stands still until it is moved."""

    def __init__(self, at_ms: int = NOON_MS) -> None:
        self.at_ms = at_ms

    def now_ms(self) -> int:
        """Where it stands."""
        return self.at_ms


class CountingIds:
    """Ids "job-000001", "job-000002"."""

    def __init__(self, start: int = 0) -> None:
        self._count = start

    def new_id(self, prefix: str) -> str:
        """The next."""
        self._count += 1
        return f"{prefix}-{self._count:06d}"


class InlineWriter(Writer):
    """The real writer, run by the caller's thread: nothing waits, nothing sleeps."""

    def call(self, command: Callable[[Unit], T]) -> Future[T]:
        future: Future[T] = Future()
        self.process([Entry(command, future)])
        return future

    def together(self, commands: Iterable[Callable[[Unit], Any]]) -> list[Future[Any]]:
        """Several commands in one batch."""
        batch = [Entry(command, Future()) for command in commands]
        self.process(batch)
        return [entry.asked for entry in batch]


class FailingStore(MemoryStore):
    """Fails one transaction: the next that writes something by the statement named in `fail_at`, or at its commit."""

    def __init__(self) -> None:
        super().__init__()
        self.fail_at = ""

    @contextlib.contextmanager
    def begin(self) -> Iterator[Transaction]:
        """A transaction that may end early."""
        with super().begin() as transaction:
            if self.fail_at:
                setattr(transaction, self.fail_at, self._failing(getattr(transaction, self.fail_at)))
            yield transaction

    def _failing(self, statement: Callable[..., Any]) -> Callable[..., Any]:
        def fail(*rows: Any) -> Any:
            if rows and not rows[0]:
                return statement(*rows)
            self.fail_at = ""
            raise FederationError(Code.STORE_FULL, "the disk is full", fault=Fault.FEDERATION)

        return fail


class ControlUnderTest:
    """The use cases as verbs. `check` at the end of a test holds the world to its promises."""

    def __init__(self, store: Store | None = None, policy: Policy | None = None) -> None:
        self.policy = policy
        self.store = store or MemoryStore()
        self.clock = SetClock()
        self.ids = CountingIds()
        self.switchboard = Switchboard()
        self.boot()

    def boot(self, read: bool = True) -> None:
        """Start, or start again, from the store. `read=False`: the queue follows, page by page, before the next round."""
        self.world = World.rebuilt(self.store.load(waiting=False), self.clock.now_ms())
        self.queue = Queue(self.store, self.world, page=2)
        self.writer = InlineWriter(self.store, self.world, self.clock, self.switchboard)
        self.writer.first(expiry.restart)
        self.rounds = Rounds(self.writer, self.clock, self.ids, self.policy, recall=self.store.used_since)
        self.rounds.take_in(self.world)
        if read:
            self.read_queue()
        self._submit = SubmitJobs(self.store, self.ids)

    def read_page(self) -> None:
        """Take in one more page of the queue, where there is one."""
        if not self.queue.done:
            self.writer.first(self.queue.read(self.rounds.take_in_more))

    def read_queue(self) -> None:
        """Take in what is left of it."""
        while not self.queue.done:
            self.read_page()

    def run(self, command: Callable[[Unit], T]) -> T:
        """One command in a batch of its own."""
        return self.writer.run(command)

    def submit_all(self, *members: Submission, principal: str = "local/aisha@kuala-lumpur") -> list[Submitted]:
        """Submit a batch."""
        return self.run(lambda unit: self._submit(unit, principal, members))

    def submit(self, request_id: str = "r1", owner: Owner = AISHA, **spec: Any) -> str:
        """Submit one job that must be accepted; its id."""
        (answer,) = self.submit_all(a_submission(request_id, owner, **spec))
        assert answer.problem is None, answer.problem
        return answer.job_id

    def join(self, agent: Agent | None = None, runs: tuple[service_sync.RunReport, ...] = ()) -> service_sync.Orders:
        """An agent opens a session."""
        arriving = agent or an_agent()
        return self.run(lambda unit: service_sync.open_session(unit, self.store, arriving, "", runs))

    def sync(
        self, *changed: service_sync.RunReport, agent: Agent | None = None, full: bool = False, digest: str = ""
    ) -> service_sync.Orders:
        """A heartbeat."""
        session_id = (agent or an_agent()).session_id
        beat = service_sync.Heartbeat(session_id, changed, digest, full=full)
        return self.run(lambda unit: service_sync.sync(unit, self.store, beat))

    def report(self, job_id: str, trigger: Trigger, **changes: Any) -> service_sync.RunReport:
        """What the hub says of the job's present attempt."""
        lease = self.world.lease_for(JobId(job_id))
        job = self.job(job_id)
        lease_id = lease.id if lease else LeaseId(f"lease-of-{job_id}")
        return replace(service_sync.RunReport(lease_id, job.id, job.epoch or Epoch(1, 1), trigger), **changes)

    def round(self) -> int:
        """One round; how many jobs it placed."""
        self.read_queue()
        before = self.rounds.figures.placements
        self.rounds.round()
        return self.rounds.figures.placements - before

    def commit(self, *decisions: Placement | Preemption) -> Accepted:
        """What of a plan of a test's own takes effect."""
        self.read_queue()
        placements = tuple(one for one in decisions if isinstance(one, Placement))
        preemptions = tuple(one for one in decisions if isinstance(one, Preemption))
        return self.rounds.commit(Plan(self.clock.now_ms(), placements, preemptions=preemptions))

    def lease_of(self, job_id: str) -> Lease:
        """The job's live lease, which there must be."""
        lease = self.world.lease_for(JobId(job_id))
        assert lease is not None, f"{job_id} has no live lease"
        return lease

    def pass_time(self, ms: int) -> None:
        """Move the clock and let time do its work."""
        self.clock.at_ms += ms
        self.run(expiry.expire)
        self.run(self.rounds.ask_again)
        self.read_page()

    def job(self, job_id: str) -> Job:
        """The job as it stands."""
        return self.run(lambda unit: find(unit, self.store, job_id))

    def check(self, over_full: Collection[AgentKey] = ()) -> None:
        """Every promise holds, and the store says what memory says. `over_full`: agents that took room back."""
        world = self.world
        agents = {key: agent for key, agent in world.agents.items() if key not in over_full}
        assert broken(world.jobs.values(), world.leases.values(), agents) == []
        loaded = self.store.load()
        stored = {job.id: job for job in loaded.jobs}
        assert {job_id: job for job_id, job in stored.items() if job_id in world.jobs} == world.jobs
        unread = [job for job_id, job in stored.items() if job_id not in world.jobs]
        assert all(job.state is JobState.QUEUED and job.claim is None for job in unread)
        assert not (unread and self.queue.done)
        assert len(unread) <= world.unread
        assert {lease.id: lease for lease in loaded.leases} == world.leases
        assert loaded.last_seq == world.last_seq


def a_submission(request_id: str = "r1", owner: Owner = AISHA, digest: str = "", **spec: Any) -> Submission:
    """One member of a batch; the digest follows from the spec."""
    wanted = a_spec(**spec)
    return Submission(request_id, wanted, repr(wanted).encode(), digest or repr(wanted), owner)
