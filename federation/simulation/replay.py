"""A history of jobs, run again through the real planner: who would have waited how long, and where it would have run.

`Replay.run` feeds arrivals and ends to `plan_round`, the door that the live federation uses, in the same way as
`federation/service/rounds.py`: all that happens at one instant is one delta, a placement becomes a lease, and rounds go
on until one places nothing new; there is one, too, at the instant for which a plan asks (`Plan.wake_ms`). A job runs for as long as it did in history, which the planner is not told: it
sees the limit. An end posts the use. A preemption holds a claim, ends its victims after their hub's grace and queues
them again from their beginning: checkpoints do not travel here.

No store, no wire and no agents take part, so that a month takes seconds: what a policy changes is decided in the planner,
which is the real one. What differs from the live federation: agents are always in touch, nothing is staged, hubs refuse
nothing that `sharing.py` did not foresee, and a round takes no time. Deliberately not here: files (`history.py`), sums
(`figures.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from federation.domain.ids import AgentKey, LeaseId
from federation.domain.job import Reason
from federation.domain.plan import ReasonCode
from federation.domain.usage import UsageInterval
from federation.errors import Code, Fault, FederationError, invalid
from federation.scheduling import Plan, PlannerState, Policy, explain, plan_round
from federation.scheduling.plan import Placement, Preemption, demand_key
from federation.scheduling.rows import AgentRow, ClaimRow, DeltaCollector, LeaseRow, QueuedJob, WindowRow, usage_row
from federation.simulation.clock import Agenda, VirtualClock

ATTEMPTS_MAX = 1_000
"""A job that was ended so often will never end by itself: the planner goes round in circles."""
EXPLAINED_MAX = 10
"""So many of the jobs that wait when nothing more happens are told why in words."""
PROGRESS_EVERY = 500
"""Jobs that ended between two words of progress."""
SLOWDOWN_FLOOR_MS = 10_000
"""Shorter runs count as this long in the bounded slowdown."""


def bounded_slowdown(wait_ms: int, runtime_ms: int) -> float:
    """How much longer than its own run a job took: max(1, (wait + run) / max(run, 10 s)), 1 or more.

    Source: Feitelson and Rudolph, JSSPP'98.
    """
    return max(1.0, (wait_ms + runtime_ms) / max(runtime_ms, SLOWDOWN_FLOOR_MS))


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of a job in fact, for comparison."""

    hub_id: str
    start_ms: int
    """Of the run that ended by itself."""
    end_ms: int
    lost_ms: int = 0
    """For how long it ran before in attempts that were ended for others, or lost: neither waiting nor its runtime."""


@dataclass(frozen=True, slots=True)
class HistoricJob:
    """A job of the past: what was asked for, and how long it ran. It came at `row.submitted_ms`.

    Errors: a runtime that is not 1 ms to the job's own limit, at which its hub would have ended it.
    """

    row: QueuedJob
    runtime_ms: int
    recorded: Recorded | None = None

    def __post_init__(self) -> None:
        if not 0 < self.runtime_ms <= self.row.runtime_limit_ms:
            raise invalid(
                f"job {self.row.job_id!r} ran for {self.runtime_ms} ms; its limit is {self.row.runtime_limit_ms} ms",
                hint="Use a runtime from 1 ms to the job's limit.",
                field="runtime_ms",
            )


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt: the tasks of a job on `nodes` (one name a task) of an agent, from start to end."""

    job_id: str
    key: AgentKey
    nodes: tuple[str, ...]
    start_ms: int
    end_ms: int
    completed: bool
    """False: it was preempted, and its work is lost."""
    devices: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """What became of one job. `start_ms` is that of the attempt that ended well; None, as `end_ms`: it still waits."""

    job_id: str
    submit_ms: int
    runtime_ms: int
    start_ms: int | None
    end_ms: int | None
    hub_id: str
    """Where it ended; empty while it waits."""
    attempts: int
    reason: ReasonCode | None
    """Why it waits when nothing more happens: the nearest obstacle of its sort; None when it ended."""
    obstacle: Reason | None = None
    """The same in words, at the hub that is nearest to taking it; for the first `EXPLAINED_MAX` by id."""
    lost_ms: int = 0
    """For how long its preempted attempts ran."""

    @property
    def wait_ms(self) -> int:
        """How long it was queued: from submission to the first start, and from each preemption to the start that followed.

        Only of jobs that ended.
        """
        assert self.start_ms is not None, f"{self.job_id} never started"
        return self.start_ms - self.submit_ms - self.lost_ms

    @property
    def bounded_slowdown(self) -> float:
        """See `bounded_slowdown`; runs that were lost count as waiting here, for they held its owner up. Only of ended jobs."""
        return bounded_slowdown(self.wait_ms + self.lost_ms, self.runtime_ms)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a replay came to. `jobs` is in the order of the history, `runs` in the order of their ends."""

    jobs: tuple[JobOutcome, ...]
    runs: tuple[Run, ...]
    rounds: int
    placements: int
    preemptions: int
    lost_ms: int
    """Run time of preempted attempts, all tasks of a job as one."""
    ended_ms: int
    """When nothing more happened."""


class Predictor(Protocol):
    """Guesses how long a job will run, from those that ended before."""

    def expected_ms(self, job: QueuedJob) -> int:
        """The guess; 0: none."""

    def ran(self, job: QueuedJob, runtime_ms: int) -> None:
        """It ended after so long."""


Progress = Callable[[int, int], None]
"""Told (jobs that ended, jobs in all) now and then."""


@dataclass(slots=True)
class _Live:
    """An attempt that runs."""

    job: HistoricJob
    lease: LeaseRow
    done_ms: int
    """When its work is done."""
    ends_ms: int
    """When it ends: then, or earlier because it was preempted."""
    told: bool = False
    """To make room."""


class Replay:
    """One set of agents and one policy; each `run` begins with idle machines and no memory.

    >>> Replay(agents, Policy()).run(jobs).jobs[0].wait_ms     # doctest: +SKIP
    0
    """

    def __init__(
        self,
        agents: Iterable[AgentRow],
        policy: Policy,
        *,
        predictor: Callable[[], Predictor] | None = None,
        progress: Progress | None = None,
        windows: Iterable[WindowRow] = (),
    ) -> None:
        """`predictor` makes a fresh one for each run; without it the planner goes by each job's own `expected_ms`.

        `windows` are promised to classes from the beginning, as by a timetable that is known in advance.
        """
        self._agents = tuple(agents)
        self._windows = tuple(windows)
        self._policy = policy
        self._predictor = predictor
        self._progress = progress

    def run(self, history: Sequence[HistoricJob]) -> Outcome:
        """Every job of `history`, to its end or to where nothing more happens.

        Errors: an id that is there twice, whatever the planner refuses (its message names the row), and INTERNAL when
        the planner goes round in circles.
        """
        course = _Course(self._policy, self._predictor() if self._predictor else None)
        return course.run(self._agents, self._windows, history, self._progress)


class _Course:
    """One run of a replay. Arrivals are on the agenda as jobs, ends as lease ids."""

    def __init__(self, policy: Policy, predictor: Predictor | None) -> None:
        self._policy = policy
        self._predictor = predictor
        self._clock = VirtualClock()
        self._agenda = Agenda[HistoricJob | str](self._clock)
        self._state = PlannerState()
        self._gathered = DeltaCollector()
        self._waiting: dict[str, HistoricJob] = {}
        self._live: dict[str, _Live] = {}
        self._claims: set[str] = set()
        self._attempts: dict[str, int] = {}
        self._done: dict[str, Run] = {}
        self._runs: list[Run] = []
        self._grace_ms: dict[AgentKey, int] = {}
        self._last = Plan(at_ms=0)
        self._wake_ms: int | None = None
        """When the planner wants to decide anew, whatever happens until then."""
        self._rounds = self._preempted = 0

    def run(
        self,
        agents: Iterable[AgentRow],
        windows: Iterable[WindowRow],
        history: Sequence[HistoricJob],
        progress: Progress | None,
    ) -> Outcome:
        for row in agents:
            self._grace_ms[row.key] = row.reclaim_ms
            self._gathered.agent(row)
        for window in windows:
            self._gathered.window(window)
        seen: set[str] = set()
        for job in history:
            if job.row.job_id in seen:
                raise invalid(
                    f"job {job.row.job_id!r} is there twice", hint="Give each job its own id.", field="job_id"
                )
            seen.add(job.row.job_id)
            self._agenda.put(job.row.submitted_ms, job)
        told = 0
        while self._next():
            self._decide()
            if progress is not None and len(self._done) >= told + PROGRESS_EVERY:
                told = len(self._done)
                progress(told, len(history))
        return self._outcome(history)

    # -- what happens -------------------------------------------------------------------------------------------------
    def _next(self) -> bool:
        """Go on to the next instant, and do what happens there; False when there is none."""
        event_ms = self._agenda.next_ms()
        if self._wake_ms is not None and (event_ms is None or self._wake_ms < event_ms):
            self._clock.advance(self._wake_ms)
            return True
        for event in self._agenda.take():
            if isinstance(event, HistoricJob):
                self._arrive(event)
            else:
                self._end(event)
        return event_ms is not None

    def _arrive(self, job: HistoricJob) -> None:
        row = job.row
        if self._predictor is not None:
            row = replace(row, expected_ms=min(self._predictor.expected_ms(row), row.runtime_limit_ms))
            job = HistoricJob(row, job.runtime_ms)
        self._waiting[row.job_id] = job
        self._gathered.queued(row)

    def _end(self, lease_id: str) -> None:
        live = self._live.get(lease_id)
        now_ms = self._clock.now_ms()
        if live is None or live.ends_ms != now_ms:
            return  # it was preempted since: that end came, or comes, at another time
        del self._live[lease_id]
        lease, job_id = live.lease, live.lease.job_id
        interval = UsageInterval(LeaseId(lease_id), 0, lease.started_ms, now_ms)
        self._gathered.lease_ended(lease_id)
        self._gathered.used(usage_row(interval, lease))
        completed = now_ms == live.done_ms
        run = Run(job_id, lease.key, lease.nodes, lease.started_ms, now_ms, completed, lease.devices)
        self._runs.append(run)
        if not completed:
            self._preempted += 1
            self._waiting[job_id] = live.job
            self._gathered.queued(live.job.row)
            return
        self._done[job_id] = run
        if self._predictor is not None:
            self._predictor.ran(live.job.row, live.job.runtime_ms)

    # -- rounds -------------------------------------------------------------------------------------------------------
    def _decide(self) -> None:
        """Rounds until one decides nothing new. Where nobody waits there is nothing to decide: what changed can wait."""
        now_ms = self._clock.now_ms()
        due = self._wake_ms is not None and self._wake_ms <= now_ms
        while self._waiting and (self._gathered or due):
            self._state, plan = plan_round(self._state, self._gathered.take(), self._policy, now_ms)
            self._rounds += 1
            self._last, self._wake_ms, due = plan, plan.wake_ms, False
            for placement in plan.placements:
                self._start(placement, now_ms)
            for preemption in plan.preemptions:
                self._preempt(preemption, now_ms)
        if not self._waiting:
            self._wake_ms = None

    def _start(self, placement: Placement, now_ms: int) -> None:
        job_id = placement.job_id
        job = self._waiting.pop(job_id)
        row = job.row
        attempt = self._attempts[job_id] = self._attempts.get(job_id, 0) + 1
        if attempt > ATTEMPTS_MAX:
            raise _in_circles(job_id)
        lease = LeaseRow(
            lease_id=f"{job_id}/{attempt}",
            job_id=job_id,
            key=placement.key,
            nodes=placement.nodes,
            per_task=row.per_task,
            home_hub=row.home_hub,
            project=row.project,
            user=row.user,
            expires_ms=now_ms + row.runtime_limit_ms,
            started_ms=now_ms,
            devices=placement.devices,
            preemptible=row.preemptible,
            priority=row.priority,
            window=row.window,
        )
        self._gathered.dequeued(job_id)
        self._gathered.lease_started(lease)
        if job_id in self._claims:
            self._claims.remove(job_id)
            self._gathered.claim_ended(job_id)
        done_ms = now_ms + job.runtime_ms
        self._live[lease.lease_id] = _Live(job, lease, done_ms, done_ms)
        self._agenda.put(done_ms, lease.lease_id)

    def _preempt(self, order: Preemption, now_ms: int) -> None:
        """Hold the room for the job that waits, and tell its victims. A job has one claim at most, as in the live core."""
        if order.job_id not in self._waiting or order.job_id in self._claims:
            return
        self._claims.add(order.job_id)
        self._gathered.claimed(ClaimRow(order.job_id, order.key, order.nodes, order.victims, order.devices))
        for lease_id in order.victims:
            live = self._live.get(lease_id)
            if live is None or live.told:
                continue
            live.told, live.lease = True, replace(live.lease, preemptible=False)
            self._gathered.lease_started(live.lease)
            ends_ms = now_ms + self._grace_ms.get(live.lease.key, 0)
            if ends_ms < live.ends_ms:
                live.ends_ms = ends_ms
                self._agenda.put(ends_ms, lease_id)

    # -- what it came to ----------------------------------------------------------------------------------------------
    def _outcome(self, history: Sequence[HistoricJob]) -> Outcome:
        why = {entry.demand: entry.overall for entry in self._last.waiting}
        explained = frozenset(sorted(self._waiting)[:EXPLAINED_MAX])
        lost: dict[str, int] = {}
        for each in self._runs:
            if not each.completed:
                lost[each.job_id] = lost.get(each.job_id, 0) + each.end_ms - each.start_ms
        jobs = []
        for job in history:
            job_id, run = job.row.job_id, self._done.get(job.row.job_id)
            code = None if run else why[demand_key(job.row)]
            jobs.append(
                JobOutcome(
                    job_id,
                    job.row.submitted_ms,
                    job.runtime_ms,
                    run.start_ms if run else None,
                    run.end_ms if run else None,
                    run.key[0] if run else "",
                    self._attempts.get(job_id, 0),
                    code,
                    self._obstacle(self._waiting[job_id], code) if code and job_id in explained else None,
                    lost.get(job_id, 0),
                )
            )
        return Outcome(
            jobs=tuple(jobs),
            runs=tuple(self._runs),
            rounds=self._rounds,
            placements=sum(self._attempts.values()),
            preemptions=self._preempted,
            lost_ms=sum(lost.values()),
            ended_ms=self._clock.now_ms(),
        )

    def _obstacle(self, job: HistoricJob, code: ReasonCode) -> Reason:
        """Why this very job waits, of the reasons with `code`: everywhere, else at home, else at the first hub."""
        reasons = explain(self._state, self._policy, job.row, self._clock.now_ms()).reasons
        same = (code, ReasonCode.QUOTA_NEVER_FITS) if code is ReasonCode.QUOTA else (code,)
        told = [reason for reason in reasons if reason.code in same]
        told.sort(key=lambda reason: (bool(reason.hub_id), reason.hub_id != job.row.home_hub))
        return told[0] if told else Reason(code, "")


def _in_circles(job_id: str) -> FederationError:
    return FederationError(
        Code.INTERNAL,
        f"job {job_id!r} was started and ended {ATTEMPTS_MAX} times in this replay",
        fault=Fault.FEDERATION,
        hint="The planner's preemptions go round in circles; please report it with the history and the policy.",
        metadata={"job_id": job_id},
    )
