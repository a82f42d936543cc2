"""Rounds: plan on a snapshot on a thread of their own, commit on the writer thread, where each decision is verified.

What changed is gathered after every commit (`collect`); a round starts as soon as there is something to decide, so that
an idle federation places a job within milliseconds, and a busy one decides on whatever gathered meanwhile; what starts
nobody waits for the tick. Where nothing
changes there is a round at the instant for which the last plan asked (`Plan.wake_ms`). Only this room
talks to `federation/scheduling`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from federation.domain.ids import JobId
from federation.domain.job import Job, JobState
from federation.domain.lease import NO_REFUSALS, Lease
from federation.domain.usage import UsageInterval
from federation.errors import FederationError
from federation.ports import Clock, IdSource, UsedRow
from federation.scheduling import Delta, Plan, PlannerState, Policy, explain, plan_round
from federation.scheduling.checks import RowsRefusedError
from federation.scheduling.explaining import Explanation
from federation.scheduling.prediction import Runtimes
from federation.scheduling.rows import (
    DeltaCollector,
    LeaseRow,
    QueuedJob,
    agent_row,
    claim_row,
    lease_row,
    queued_from,
    usage_row,
)
from federation.service import restoring
from federation.service.committing import Accepted, commit_plan
from federation.service.world import Unit, World
from federation.service.writer import Writer

PAUSE_S = 0.01
"""One round in this time, or in as long as it took itself: deciding anew after each of a thousand commits a second would
take the time that the commits need. After some quiet a few follow each other at once (`BURST_S`)."""
BURST_S = 0.1
REFUSAL_PAUSE_MS = 5_000
"""A hub that had no room after all is asked again after this; one whose policy said no is not asked again."""
PASSING_REFUSALS = frozenset(
    {
        "ROOM_TAKEN", "ENGINE_UNAVAILABLE", "STORE_FULL", "REBOOTED", "HUB_STOPPED", "TOO_LATE", "CHECKPOINT_UNREACHABLE",
    }
)  # fmt: skip
_GOING_ON = frozenset({JobState.LEASED, JobState.STAGING, JobState.RUNNING, JobState.UNKNOWN})
HALF_LIVES_RECALLED = 8
"""After a start, use older than this is forgotten: less than half a percent of it would count."""
RETRY_S = 1.0
"""After a round that failed."""
QUIET_S_MAX = 3_600.0
"""The loop looks up at least this often: a wait may not be of any length."""
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Figures:
    """Counters for operators."""

    rounds: int = 0
    placements: int = 0
    rejections: int = 0
    preemptions: int = 0
    last_round_ms: int = 0


class Rounds:
    """The loop. `collect` is called by the writer after each commit, everything else by its own thread."""

    def __init__(
        self,
        writer: Writer,
        clock: Clock,
        ids: IdSource,
        policy: Policy | None = None,
        recall: Callable[[int], Sequence[UsedRow]] = lambda _: (),
    ) -> None:
        """`recall` says what was used since a moment: fairness must not begin anew with each start."""
        self.figures = Figures()
        self._recall = recall
        self._writer = writer
        self._clock = clock
        self._ids = ids
        self._policy = policy or Policy()
        self._gathered = DeltaCollector()
        self._guard = threading.Lock()
        self._state = PlannerState()
        self._state_guard = threading.Lock()
        self._refusals: dict[JobId, dict[str, tuple[str, int]]] = {}
        """job -> hub -> (why, ask again at; 0: never)."""
        self._runtimes = Runtimes()
        """What jobs ran lately. Kept in memory only: after a start it is learned anew."""
        self._held: dict[JobId, None] = {}
        """Waiting jobs that may run already, after a restore: they are not planned."""
        self._waiting: set[JobId] = set()
        """Jobs that the planner has in its queue, or will have."""
        self._claims: set[JobId] = set()
        """Jobs whose claims the planner knows of."""
        self._wake_ms: int | None = None
        """When the last plan may be another although nothing happens."""
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rounds", daemon=True)
        writer.after_commit(self.collect)

    def start(self) -> None:
        """Begin, when the whole world was taken in."""
        self._wake.set()
        self._thread.start()

    def take_in(self, world: World) -> None:
        """Gather everything, as for a first round, and what was used before."""
        now_ms = self._clock.now_ms()
        used = self._recall(max(0, now_ms - HALF_LIVES_RECALLED * self._policy.fairness.half_life_ms))
        with self._guard:
            self._gathered = DeltaCollector()
            self._waiting.clear()
            self._claims.clear()
            for row in used:
                interval = UsageInterval(row.lease.id, 0, row.end_ms - row.used_ms, row.end_ms)
                self._gathered.used(usage_row(_as_heard(interval, row.lease, now_ms), _lease_of(row)))
            for agent in world.agents.values():
                self._gathered.agent(agent_row(agent, world.hubs[agent.hub_id]))
            self._take_in_jobs(world, world.jobs.values(), now_ms)
            for lease in world.leases.values():
                self._gathered.lease_started(lease_row(lease, world.jobs[lease.job_id]))

    def take_in_more(self, world: World, jobs: Iterable[Job]) -> None:
        """Gather jobs that were not in memory when the world was taken in."""
        with self._guard:
            self._take_in_jobs(world, jobs, self._clock.now_ms())

    def _take_in_jobs(self, world: World, jobs: Iterable[Job], now_ms: int) -> None:
        for job in jobs:
            if job.state is JobState.QUEUED and not self._holds(world, job, now_ms):
                self._queued(job)
                self._collect_claim(job)

    def _queued(self, job: Job) -> None:
        self._waiting.add(job.id)
        self._gathered.queued(self._row_of(job))

    def stop(self) -> None:
        """End after the round at hand."""
        self._ending.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def collect(self, unit: Unit) -> None:
        """Gather what a committed unit changed. Runs on the writer thread and decides nothing."""
        if not (unit.jobs or unit.leases or unit.agents or unit.hubs or unit.used):
            return
        world = unit.world
        with self._guard:
            for job in unit.jobs.values():
                self._collect_job(world, job, unit.now_ms)
                held = world.lease_for(job.id)
                if held is not None and held.id not in unit.leases:  # when it ends depends on its job's state, too
                    self._gathered.lease_started(lease_row(held, job))
            for lease in unit.leases.values():
                if lease.live:
                    self._gathered.lease_started(lease_row(lease, world.jobs[lease.job_id]))
                else:
                    self._gathered.lease_ended(lease.id)
            for interval, lease, job in unit.used:
                self._gathered.used(usage_row(_as_heard(interval, lease, unit.now_ms), lease_row(lease, job)))
            for agent in unit.agents.values():
                self._gathered.agent(agent_row(agent, world.hubs[agent.hub_id]))
            for agent in world.agents.values() if unit.hubs else ():
                self._gathered.agent(agent_row(agent, world.hubs[agent.hub_id]))
            if self._matters(unit):
                self._wake.set()

    def _matters(self, unit: Unit) -> bool:
        """Whether a plan made now may start somebody: somebody waits, and there is one more, or room that was held.

        What was granted, begins or goes on makes no room. The planner hears of it with the next round, which the tick
        brings within a second (`ask_again`).
        """
        if unit.agents or unit.hubs:
            return True
        if not self._waiting:
            return False
        waits_or_over = any(job.state not in _GOING_ON for job in unit.jobs.values())
        return waits_or_over or any(not lease.live for lease in unit.leases.values())

    def _collect_claim(self, job: Job) -> None:
        if job.claim is not None:
            self._claims.add(job.id)
            self._gathered.claimed(claim_row(job))
        elif job.id in self._claims:
            self._claims.remove(job.id)
            self._gathered.claim_ended(job.id)

    def _holds(self, world: World, job: Job, now_ms: int) -> bool:
        """Whether the job may not be planned yet; then it is looked at again once a second."""
        if not restoring.held(world, job, now_ms):
            self._held.pop(job.id, None)
            return False
        self._held[job.id] = None
        return True

    def _collect_job(self, world: World, job: Job, now_ms: int) -> None:
        if self._holds(world, job, now_ms):
            return
        self._collect_claim(job)
        if job.state is JobState.SUCCEEDED and 0 < job.started_ms <= job.ended_ms:
            self._runtimes.ran(queued_from(job), job.ended_ms - job.started_ms)
        if job.state is not JobState.QUEUED:
            self._waiting.discard(job.id)
            self._gathered.dequeued(job.id)
            if job.state.terminal or job.state is JobState.RUNNING:
                self._refusals.pop(job.id, None)
            return
        if job.reason is not None and job.reason.code not in NO_REFUSALS and job.hub_id and job.attempts:
            until_ms = now_ms + REFUSAL_PAUSE_MS if job.reason.code in PASSING_REFUSALS else 0
            self._refusals.setdefault(job.id, {})[job.hub_id] = (job.reason.message, until_ms)
        self._queued(job)

    def _row_of(self, job: Job) -> QueuedJob:
        """What the planner sees of a job that waits: with who refused it, and how long it is expected to run."""
        row = queued_from(job, tuple(sorted(self._refusals.get(job.id, ()))))
        return replace(row, expected_ms=self._runtimes.expected_ms(row))

    def ask_again(self, unit: Unit) -> None:
        """Forget refusals whose pause is over. A command for the writer, with the expiry tick."""
        with self._guard:
            for job_id, by_hub in list(self._refusals.items()):
                over = [hub_id for hub_id, (_, until_ms) in by_hub.items() if until_ms and until_ms <= unit.now_ms]
                for hub_id in over:
                    del by_hub[hub_id]
                job = unit.world.jobs.get(job_id)
                if over and job is not None and job.state is JobState.QUEUED:
                    self._queued(job)
                if not by_hub:
                    del self._refusals[job_id]
            for job_id in list(self._held):
                job = unit.world.jobs.get(job_id)
                if job is None or job.state is not JobState.QUEUED:
                    del self._held[job_id]
                elif not self._holds(unit.world, job, unit.now_ms):
                    self._queued(job)
            if self.due:  # the clock may have been set since the loop began to wait
                self._wake.set()

    def explain(self, job: Job) -> Explanation:
        """Why `job` waits, or where it would run; on the state of the last round. From any thread but the writer's."""
        with self._guard:
            row = self._row_of(job)
        with self._state_guard:
            return explain(self._state, self._policy, row, self._clock.now_ms())

    def refusal_of(self, job_id: JobId, hub_id: str) -> str:
        """What the hub's admission said of this job; empty when it said nothing."""
        with self._guard:
            return self._refusals.get(job_id, {}).get(hub_id, ("", 0))[0]

    def _run(self) -> None:
        due_s = 0.0
        while True:
            if not self._wake.wait(self._quiet_s()) and self._quiet_s() > 0:
                continue
            self._ending.wait(max(0.0, due_s - BURST_S - time.monotonic()))
            self._wake.clear()
            if self._ending.is_set():
                return
            began_s = time.monotonic()
            try:
                self.round()
            except FederationError:
                log.exception("a round was refused; the next one tries again")
                self._try_again()
            except Exception:
                log.exception("a round failed for a reason of ours; the next one starts from the world")
                self._start_over()
            ended_s = time.monotonic()
            due_s = max(due_s, ended_s) + max(PAUSE_S, ended_s - began_s)

    def _quiet_s(self) -> float:
        """How long there is nothing to decide unless something happens; 0: the instant has come."""
        wake_ms = self._wake_ms
        if wake_ms is None:
            return QUIET_S_MAX
        return min(max(0, wake_ms - self._clock.now_ms()) / 1000, QUIET_S_MAX)

    def _try_again(self) -> None:
        """Nothing may change by itself that would wake us, and jobs wait."""
        self._ending.wait(RETRY_S)
        self._wake.set()

    def _start_over(self) -> None:
        """A state that was left half-way is worth nothing: take in the world anew."""

        def take_in(unit: Unit) -> None:
            self.take_in(unit.world)

        with self._state_guard:
            self._state, self._wake_ms = PlannerState(), None
        try:
            self._writer.run(take_in)
        except FederationError:
            log.exception("the world could not be taken in")
        self._try_again()

    @property
    def due(self) -> bool:
        """Whether a round would have something to decide now."""
        return bool(self._gathered) or self._quiet_s() == 0

    @property
    def wake_ms(self) -> int | None:
        """When the last plan may be another although nothing happens."""
        return self._wake_ms

    def round(self) -> Plan:
        """One round: take what changed, plan, commit. Jobs whose placement no longer held stay queued."""
        plan = self.plan()
        self.commit(plan)
        return plan

    def plan(self) -> Plan:
        """Take what changed, and decide on that snapshot: the world goes on meanwhile."""
        with self._guard:
            delta: Delta = self._gathered.take()
        began_ms = self._clock.now_ms()
        with self._state_guard:
            plan = self._planned(delta, began_ms)
        self.figures.rounds += 1
        self.figures.last_round_ms = self._clock.now_ms() - began_ms
        return plan

    def commit(self, plan: Plan) -> Accepted:
        """What of a plan still holds takes effect; the rest stays as it is."""
        planned = len(plan.placements) + len(plan.preemptions)
        if not planned:
            return Accepted()
        accepted = self._writer.run(lambda unit: commit_plan(unit, plan, self._ids))
        self.figures.placements += accepted.placements
        self.figures.preemptions += accepted.preemptions
        self.figures.rejections += planned - accepted.placements - accepted.preemptions
        return accepted

    def _planned(self, delta: Delta, now_ms: int) -> Plan:
        """Plan. Rows that the planner refuses are left out: one hub's nonsense must not stop everybody's work."""
        while True:
            try:
                self._state, plan = plan_round(self._state, delta, self._policy, now_ms)
            except RowsRefusedError as error:
                log.error("%s of %s left out of planning: %s", len(error.indexes), error.field, error.message)
                delta = delta.without(error.field, error.indexes)
                continue
            self._wake_ms = plan.wake_ms
            return plan


def _as_heard(interval: UsageInterval, lease: Lease, now_ms: int) -> UsageInterval:
    """The stretch where our clock has it: a hub whose clock is wrong by a year has used its machines today all the same."""
    length_ms = interval.end_ms - interval.start_ms
    end_ms = min(max(interval.end_ms, lease.granted_ms + length_ms), now_ms)
    return replace(interval, start_ms=end_ms - length_ms, end_ms=end_ms)


def _lease_of(row: UsedRow) -> LeaseRow:
    """Of a lease that may be long over, what use is counted by."""
    lease, owner = row.lease, row.owner
    return LeaseRow(
        lease_id=lease.id,
        job_id=lease.job_id,
        key=lease.agent_key,
        nodes=lease.nodes,
        per_task=lease.per_task,
        home_hub=owner.home_hub,
        project=owner.project,
        user=owner.subject,
        expires_ms=row.end_ms,
    )
