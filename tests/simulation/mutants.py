"""Seeded bugs: each breaks one rule of the real code, and the simulation has to notice within a few hundred seeds.

A mutant is a context in which one function is another. What is patched is the code that ships; where the broken thing is
played by the simulator (a guard, a disk), its stand-in is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

from federation.domain.job import JobState
from federation.domain.lease import LeaseState
from federation.lifecycle import commit as lifecycle_commit
from federation.lifecycle import job as lifecycle_job
from federation.lifecycle.commit import Held, Verdict
from federation.lifecycle.job import Trigger
from federation.scheduling import rows
from federation.service import expiry, rounds, submit, sync
from federation.service import jobs as service_jobs
from federation.service.sync import Revocation
from federation.service.world import Unit, World
from federation.simulation.agent import SimulatedAgent
from federation.simulation.machine import Machine
from federation.simulation.mishaps import FaultyJournal, FaultyStore
from federation.simulation.plane import Seat, SimulatedPlane
from federation.store import raising
from hub_node import conversation, reconcile
from hub_node.admission import Admission
from hub_node.records import Reason, RunState

Mutant = Callable[[], contextlib.AbstractContextManager[object]]
ALL: dict[str, Mutant] = {}


def _mutant(make: Callable[[], Iterator[None]]) -> Mutant:
    """Enter it under its own name."""
    managed = contextlib.contextmanager(make)
    ALL[make.__name__.replace("_", "-")] = managed
    return managed


def _patched(place: object, name: str, by: object) -> contextlib.AbstractContextManager[object]:
    return mock.patch.object(place, name, by)


# ---- the control plane ------------------------------------------------------------------------------------------------
@_mutant
def fencing_off() -> Iterator[None]:
    """Words about an older attempt are taken for news."""
    with _patched(lifecycle_job, "_refuse_stale", lambda record, fact: None), _any_epoch_is_current():
        yield


@contextlib.contextmanager
def _any_epoch_is_current() -> Iterator[None]:
    take = sync._take

    def taken(unit: Unit, store: Any, agent: Any, runs: Sequence[Any], *rest: Any, **named: Any) -> Any:
        by_job = {lease.job_id: lease for lease in unit.world.held_by(agent.key)}
        known = [
            replace(run, lease_id=by_job[run.job_id].id, epoch=by_job[run.job_id].epoch)
            if run.job_id in by_job
            else run
            for run in runs
        ]
        return take(unit, store, agent, known, *rest, **named)

    with _patched(sync, "_take", taken):
        yield


@_mutant
def dedup_off() -> Iterator[None]:
    """A repeated request id is a new job."""
    one = submit.SubmitJobs._one

    def fresh(self: Any, unit: Unit, principal: str, member: Any, *rest: Any) -> Any:
        return one(self, unit, principal, replace(member, request_id=f"{member.request_id}-{unit.next_seq()}"), *rest)

    with _patched(submit.SubmitJobs, "_one", fresh):
        yield


@_mutant
def fsync_skipped() -> Iterator[None]:
    """The last commit before a crash was never on the disk."""
    apply, crash = FaultyStore.apply, SimulatedPlane.crash

    def applied(self: Any, new: Any) -> None:
        self.before = self.tables.copied()
        apply(self, new)

    def crashed(self: Any, why: str) -> None:
        if self.life.alive and getattr(self.store, "before", None) is not None:
            self.store.tables, self.store.before = self.store.before, None
        crash(self, why)

    with _patched(FaultyStore, "apply", applied), _patched(SimulatedPlane, "crash", crashed):
        yield


@_mutant
def lease_over_without_grace() -> Iterator[None]:
    """The server gives a lease up the moment it runs out by its own clock."""
    late = lambda lease, now_ms: now_ms >= lease.expires_ms  # noqa: E731
    with _patched(expiry, "over", late), _patched(lifecycle_job, "over", late):
        yield


@_mutant
def silence_frees_leases() -> Iterator[None]:
    """A hub that is SUSPECT is taken for dead."""

    def freed(unit: Unit) -> None:
        expire(unit)
        for lease in list(unit.world.leases.values()):
            agent = unit.world.agents[lease.agent_key]
            if unit.now_ms - agent.last_sync_ms > 60_000:
                fact = lifecycle_job.Fact(Trigger.LEASE_EXPIRED, lease.epoch)
                service_jobs.apply(unit, unit.world.jobs[lease.job_id], fact, cause="time", actor="control")

    expire = expiry.expire
    with _patched(expiry, "expire", freed):
        yield


@_mutant
def absence_is_an_end() -> Iterator[None]:
    """A run that a full list lacks is taken for over, and its job waits again."""
    target = lifecycle_job._target

    def ended(record: Any, fact: Any, now_ms: int) -> JobState:
        return JobState.QUEUED if fact.trigger is Trigger.RUN_ABSENT else target(record, fact, now_ms)

    with _patched(lifecycle_job, "_target", ended):
        yield


@_mutant
def epoch_not_raised() -> Iterator[None]:
    """Every attempt is the first."""
    granted = lifecycle_commit.granted

    def same(job: Any, *rest: Any) -> Any:
        return granted(replace(job, epoch=None), *rest)

    with _patched(lifecycle_commit, "granted", same):
        yield


@_mutant
def plan_not_verified() -> Iterator[None]:
    """A plan that was made in ignorance takes effect: the planner hears of every second lease only."""
    collect = rounds.Rounds.collect

    def deaf(self: Any, unit: Unit) -> None:
        collect(self, unit)
        for lease in list(unit.leases.values())[::2]:
            self._gathered.lease_ended(lease.id)

    def believed(job: Any, agent: Any, hub: Any, place: Any, held: Held) -> Verdict:
        return Verdict("" if job.state is JobState.QUEUED else "NOT_QUEUED", place.devices)

    with _patched(rounds.Rounds, "collect", deaf), _patched(lifecycle_commit, "verify", believed):
        yield


@_mutant
def decisions_fail() -> Iterator[None]:
    """No room can be made for anybody: the decision ends with an error and is left out of its plan."""

    def claimed(*_: object) -> None:
        raise KeyError("nothing of the kind")

    with _patched(lifecycle_commit, "claimed", claimed):
        yield


@_mutant
def claim_skipped() -> Iterator[None]:
    """What was told to end counts as gone."""
    collect, verify = rounds.Rounds.collect, lifecycle_commit.verify

    def hurried(self: Any, unit: Unit) -> None:
        collect(self, unit)
        for lease in unit.leases.values():
            if lease.state is LeaseState.REVOKING:
                self._gathered.lease_ended(lease.id)

    def hasty(job: Any, agent: Any, hub: Any, place: Any, held: Held) -> Verdict:
        staying = [lease for lease in held.leases if lease.state is not LeaseState.REVOKING]
        return verify(job, agent, hub, place, Held(staying, held.claims))

    with _patched(rounds.Rounds, "collect", hurried), _patched(lifecycle_commit, "verify", hasty):
        yield


@_mutant
def no_rollback() -> Iterator[None]:
    """A failed commit stays in memory."""
    with _patched(Unit, "rollback", lambda self, savepoint=0: None):
        yield


@_mutant
def leases_forgotten_at_start() -> Iterator[None]:
    """A control plane that starts does not know who holds what."""
    rebuilt = World.rebuilt.__func__  # type: ignore[attr-defined]

    def empty(cls: Any, loaded: Any, now_ms: int) -> World:
        jobs = tuple(
            replace(job, state=JobState.QUEUED) if job.state in (JobState.LEASED, JobState.RUNNING) else job
            for job in loaded.jobs
        )
        return rebuilt(cls, replace(loaded, leases=(), jobs=jobs), now_ms)  # type: ignore[no-any-return]

    with _patched(World, "rebuilt", classmethod(empty)):
        yield


@_mutant
def renewal_said_once() -> Iterator[None]:
    """A renewal that is lost on its way is not said again."""
    renew = sync._renew

    def once(unit: Unit, lease: Any, orders: Any) -> None:
        said = len(orders.renewals)
        renewed, orders.renewed = orders.renewed, False
        renew(unit, lease, orders)
        if not orders.renewed:
            del orders.renewals[said:]
        orders.renewed = orders.renewed or renewed

    with _patched(sync, "_renew", once):
        yield


@_mutant
def start_said_once() -> Iterator[None]:
    """An order to start that is lost on its way is not said again."""
    orders_of = sync._orders
    said: set[str] = set()

    def once(unit: Unit, agent: Any) -> Any:
        orders = orders_of(unit, agent)
        orders.starts = [start for start in orders.starts if start[0].id not in said]
        said.update(start[0].id for start in orders.starts)
        return orders

    with _patched(sync, "_orders", once):
        yield


@_mutant
def released_before_it_was_stored() -> Iterator[None]:
    """The hub is told to forget a run whose end could not be saved."""
    commit = SimulatedPlane._turn

    def careless(self: Any) -> None:
        with _patched(type(self.writer), "_commit", _unsaved(type(self.writer)._commit)):
            commit(self)

    with _patched(SimulatedPlane, "_turn", careless):
        yield


def _unsaved(commit: Any) -> Any:
    def pretend(self: Any, unit: Unit) -> None:
        commit(self, unit)  # its failure is not told to anybody

    return pretend


@_mutant
def refusals_for_good() -> Iterator[None]:
    """A hub that had to refuse because its machine restarted is never asked again."""
    with _patched(rounds, "PASSING_REFUSALS", frozenset({"ROOM_TAKEN"})):
        yield


@_mutant
def cancelled_without_a_word() -> Iterator[None]:
    """A cancel ends the job at once, whatever runs."""
    target = lifecycle_job._target

    def at_once(record: Any, fact: Any, now_ms: int) -> JobState:
        return JobState.CANCELLED if fact.trigger is Trigger.CANCEL_REQUESTED else target(record, fact, now_ms)

    with _patched(lifecycle_job, "_target", at_once):
        yield


@_mutant
def preempts_anybody() -> Iterator[None]:
    """Jobs that did not say that they may be ended make room too."""
    row = rows.lease_row

    def anybody(lease: Any, job: Any) -> Any:
        return replace(row(lease, job), preemptible=True)

    may = lambda record: record.lease is not None and record.job.state is JobState.RUNNING  # noqa: E731
    with (
        _patched(rounds, "lease_row", anybody),
        _patched(lifecycle_commit, "may_be_preempted", may),
        _patched(lifecycle_job, "_refuse_unfit", lambda job, fact: None),
    ):
        yield


@_mutant
def incarnation_not_raised() -> Iterator[None]:
    """A restored store goes on under the number it had."""
    with _patched(raising, "incarnation_after", lambda highest, now_ms: highest):
        yield


@_mutant
def takeover_without_fencing() -> Iterator[None]:
    """A leader that has a successor may still write."""
    with _patched(Seat, "fence", lambda self: None):
        yield


# ---- the agent --------------------------------------------------------------------------------------------------------
@_mutant
def absence_is_a_revoke() -> Iterator[None]:
    """An answer that does not name a run ends it."""
    decide = reconcile.reconcile

    def hasty(orders: Any, runs: Mapping[str, Any], now_ms: int) -> tuple[Any, ...]:
        reason = Reason("LEASE_OVER", "it was not named")
        named = {lease.lease_id for lease in orders.leases} | {one.lease_id for one in orders.renewals}
        stops = tuple(
            reconcile.Stop(run.lease_id, reason, 0)
            for run in runs.values()
            if run.state is RunState.RUNNING and run.lease_id not in named
        )
        return (*decide(orders, runs, now_ms), *stops)

    with _patched(reconcile, "reconcile", hasty):
        yield


@_mutant
def lease_counted_from_receipt() -> Iterator[None]:
    """A lease's length counts from when its answer came, not from when its request was sent."""
    deliver = SimulatedAgent._deliver

    def late(self: Any, call: Any, *rest: Any) -> None:
        deliver(self, replace(call, sent_ms=self._now_ms()), *rest)

    with _patched(SimulatedAgent, "_deliver", late):
        yield


@_mutant
def lease_compared_with_or_equal() -> Iterator[None]:
    """A lease that is named again is taken for a newer one of its job."""
    stops = reconcile._stops

    def hasty(orders: Any, runs: Mapping[str, Any]) -> list[Any]:
        reason = Reason("SUPERSEDED", "The federation has given this job a newer lease.")
        again = [
            reconcile.Stop(run.lease_id, reason, 0)
            for lease in orders.leases
            for run in runs.values()
            if run.lease.job_id == lease.job_id and run.lease.epoch == lease.epoch and run.state is RunState.RUNNING
        ]
        return [*stops(orders, runs), *again]

    with _patched(reconcile, "_stops", hasty):
        yield


@_mutant
def old_answers_count() -> Iterator[None]:
    """A late answer is carried out though a newer one was."""
    with _patched(reconcile, "is_stale", lambda orders, incarnation, revision: False):
        yield


@_mutant
def begun_before_it_was_written() -> Iterator[None]:
    """The journal hears of a run only once it runs."""
    save = FaultyJournal.save

    def lazy(self: Any, changed: Any = (), removed: Any = (), seen: Any = None) -> None:
        written = [run for run in changed if run.state not in (RunState.ACCEPTED, RunState.STAGING, RunState.RUNNING)]
        save(self, written, removed, seen)

    with _patched(FaultyJournal, "save", lazy):
        yield


@_mutant
def forgotten_before_it_was_heard() -> Iterator[None]:
    """A run's end is told once and not kept until it is acknowledged."""
    call = conversation.Conversation.call

    def once(self: Any, truth: Any, *rest: Any) -> Any:
        told = {
            lease_id: run
            for lease_id, run in truth.runs.items()
            if run.state is not RunState.ENDED or self._told.get(lease_id) is not run
        }
        for run in told.values():
            self._told[run.lease_id] = run
        return call(self, replace(truth, runs=told), *rest)

    with _patched(conversation.Conversation, "call", once):
        yield


@_mutant
def begun_too_late() -> Iterator[None]:
    """A run begins though its lease will end it before its own limit."""
    with _patched(reconcile, "too_late", lambda lease, deadline_ms, now_ms: now_ms >= deadline_ms):
        yield


@_mutant
def guard_off() -> Iterator[None]:
    """Nobody ends a program whose agent is gone."""
    with _patched(Machine, "_watch", lambda self, program: None):
        yield


@_mutant
def admission_believes() -> Iterator[None]:
    """The hub takes whatever it is sent, and the control plane sends what does not fit."""
    with (
        _patched(Admission, "refusal", lambda self, lease, runs: None),
        plan_not_verified(),
        _patched(lifecycle_commit, "verify_preemption", lambda *given: Verdict("NO_VICTIM")),
    ):
        yield


@_mutant
def ends_unsaid() -> Iterator[None]:
    """Nobody is told what is to end."""
    orders = sync._orders

    def starts_only(unit: Unit, agent: Any) -> Any:
        said = orders(unit, agent)
        said.revokes = []
        return said

    with _patched(sync, "_orders", starts_only):
        yield


@_mutant
def no_grace() -> Iterator[None]:
    """Whoever makes room is killed at once."""
    with _patched(sync, "Revocation", lambda lease_id, epoch, reason, _: Revocation(lease_id, epoch, reason, 0)):
        yield


@_mutant
def use_not_kept() -> Iterator[None]:
    """What runs used is acknowledged and not stored."""
    with _patched(sync, "_post_usage", _forgotten_use):
        yield


def _forgotten_use(_unit: Unit, _store: Any, _agent: Any, report: Any, stored: dict[str, int]) -> None:
    stored[report.lease_id] = report.usage[-1][0]


@_mutant
def successes_fail() -> Iterator[None]:
    """A job whose program ended well is told to have failed."""
    with _patched_target(lambda fact, target: JobState.FAILED if fact.trigger is Trigger.RUN_SUCCEEDED else target):
        yield


@_mutant
def preempted_jobs_fail() -> Iterator[None]:
    """Whoever made room does not wait again."""
    with _patched(lifecycle_job, "_ends_preempted", lambda *_: False):
        yield


@_mutant
def everybody_may_run_twice() -> Iterator[None]:
    """A lease that is over puts every job back in the line."""

    def again(fact: Any, target: JobState) -> JobState:
        return JobState.QUEUED if fact.trigger is Trigger.LEASE_EXPIRED else target

    with _patched_target(again):
        yield


@_mutant
def silence_unnoticed() -> Iterator[None]:
    """A hub that is not heard is taken for online."""
    with _patched(expiry, "aged", lambda agent, _now_ms: agent):
        yield


@contextlib.contextmanager
def _patched_target(by: Callable[[Any, JobState], JobState]) -> Iterator[None]:
    target = lifecycle_job._target
    with _patched(lifecycle_job, "_target", lambda record, fact, now_ms: by(fact, target(record, fact, now_ms))):
        yield
