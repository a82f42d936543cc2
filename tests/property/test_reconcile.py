"""Whatever arrives, in whatever order and however often, the agent's runs come out the same, and nothing is lost by silence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub_node.reconcile import (
    GUARD_SLACK_MS,
    KEEP_STAGING_MS,
    RENEWAL_STEP_MS,
    USAGE_INTERVAL_MS,
    Command,
    Extend,
    Forget,
    Refuse,
    Start,
    Stop,
    applied,
    expired,
    is_stale,
    reconcile,
    stopped_outcome,
    usage,
)
from hub_node.records import (
    Epoch,
    LeaseOrder,
    Orders,
    Outcome,
    Reason,
    ReleaseOrder,
    RenewOrder,
    RevokeOrder,
    Run,
    RunState,
)
from tests.unit.hub_node.runs import a_lease, a_run

T = TypeVar("T")
NOW_MS = 1_000_000
JOBS = ("job-a", "job-b", "job-c")

epochs = st.integers(1, 3)
names = st.sampled_from(JOBS)
states = st.sampled_from(list(RunState))


@st.composite
def runs(draw: st.DrawFn) -> dict[str, Run]:
    """A journal: at most one live run a job, and any number of ended ones."""
    found: dict[str, Run] = {}
    for job_id in JOBS:
        for n in sorted(draw(st.sets(epochs))):
            live = any(run.lease.job_id == job_id and run.state is not RunState.ENDED for run in found.values())
            state = RunState.ENDED if live else draw(states)
            run = a_run(job_id, n, state=state, deadline_ms=draw(st.integers(NOW_MS // 2, 2 * NOW_MS)))
            if state is RunState.ENDED:
                run = replace(run, outcome=Outcome.SUCCEEDED, ended_ms=NOW_MS // 2)
            found[run.lease_id] = run
    return found


@st.composite
def leases(draw: st.DrawFn) -> LeaseOrder:
    """A lease, short or `keep`; with the same id always the same."""
    n, job_id = draw(epochs), draw(names)
    valid = {1: 0, 2: 2 * NOW_MS, 3: NOW_MS // 2}[n]
    return a_lease(job_id, n, valid_until_ms=valid)


def _epoch_of(lease_id: str) -> Epoch:
    return Epoch(1, int(lease_id.rpartition("-")[2]))


ids = st.builds(lambda job_id, n: f"lease-{job_id}-{n}", names, epochs)
revokes = ids.map(lambda one: RevokeOrder(one, _epoch_of(one), Reason("CANCEL_REQUESTED", "asked"), 500))
renewals = st.builds(
    lambda one, until_ms: RenewOrder(one, _epoch_of(one), until_ms), ids, st.integers(NOW_MS, 3 * NOW_MS)
)
releases = ids.map(lambda one: ReleaseOrder(one, _epoch_of(one)))
orders = st.builds(
    lambda starts, stops, longer, over: Orders(
        1,
        5,
        NOW_MS,
        leases=tuple(starts),
        revokes=tuple(stops),
        renewals=tuple(longer),
        releases=tuple(over),
    ),
    st.lists(leases(), max_size=4),
    st.lists(revokes, max_size=4),
    st.lists(renewals, max_size=4),
    st.lists(releases, max_size=4),
)


def carried_out(before: dict[str, Run], answer: Orders) -> dict[str, Run]:
    """The runs after one answer."""
    return applied(before, reconcile(answer, before, NOW_MS), NOW_MS)


def live_of(after: dict[str, Run], job_id: str) -> list[Run]:
    """The live runs of a job."""
    return [run for run in after.values() if run.lease.job_id == job_id and run.state is not RunState.ENDED]


@given(runs(), orders)
def test_an_answer_twice_is_an_answer_once(before: dict[str, Run], answer: Orders) -> None:
    """A repeated answer changes no run that it did not change the first time, but for a forgotten run's late start.

    (That one cannot come on the wire: an answer starts a job's newest attempt only, so it cannot release that one, nor start
    an older one beside the release of a newer, which would have nothing to be older than the second time.)
    """
    started = {lease.job_id for lease in answer.leases}
    jobs = {run.lease.lease_id: run.lease.job_id for run in before.values()}
    jobs |= {lease.lease_id: lease.job_id for lease in answer.leases}
    kept = (one for one in answer.releases if jobs.get(one.lease_id) not in started)
    answer = replace(answer, releases=tuple(kept))
    once = carried_out(before, answer)
    # a run that was stopped for a newer lease has not ended yet, so the newer one still waits: nothing moves
    assert carried_out(once, answer) == once


@given(runs(), orders, st.randoms(use_true_random=False))
def test_order_and_repeats_inside_an_answer_do_not_matter(
    before: dict[str, Run], answer: Orders, random: Random
) -> None:
    """Each list of an answer shuffled, and every entry doubled: the same runs."""

    def mixed(entries: Sequence[T]) -> tuple[T, ...]:
        doubled = [*entries, *entries]
        random.shuffle(doubled)
        return tuple(doubled)

    shuffled = replace(
        answer,
        leases=mixed(answer.leases),
        revokes=mixed(answer.revokes),
        renewals=mixed(answer.renewals),
        releases=mixed(answer.releases),
    )
    assert carried_out(before, shuffled) == carried_out(before, answer)


@given(runs(), orders)
def test_no_job_ever_has_two_live_runs_here(before: dict[str, Run], answer: Orders) -> None:
    """Whatever is ordered, a job has one live run at most: a newer lease waits for the older run's end."""
    after = carried_out(before, answer)
    assert all(len(live_of(after, job_id)) <= 1 for job_id in JOBS)


@given(runs(), orders)
def test_absence_is_never_an_order(before: dict[str, Run], answer: Orders) -> None:
    """A run whose job an answer does not name is exactly as it was."""
    named = {one.lease_id for one in answer.revokes}
    named |= {one.lease_id for one in answer.renewals} | {one.lease_id for one in answer.releases}
    named_jobs = {lease.job_id for lease in answer.leases}
    after = carried_out(before, answer)
    for lease_id, run in before.items():
        if lease_id not in named and run.lease.job_id not in named_jobs:
            assert after[lease_id] == run


@given(runs(), orders)
def test_only_an_ended_run_is_forgotten(before: dict[str, Run], answer: Orders) -> None:
    """A release never loses a live run, and nothing but a release forgets."""
    commands = reconcile(answer, before, NOW_MS)
    forgotten = {command.lease_id for command in commands if isinstance(command, Forget)}
    assert forgotten <= {one.lease_id for one in answer.releases}
    assert all(before[lease_id].state is RunState.ENDED for lease_id in forgotten)
    assert set(before) - set(applied(before, commands, NOW_MS)) == forgotten


@given(runs(), orders)
def test_every_command_names_a_run_that_is_there(before: dict[str, Run], answer: Orders) -> None:
    """`applied` never meets a command for a run that is not here, and ended runs stay as they ended."""
    commands = reconcile(answer, before, NOW_MS)
    after = applied(before, commands, NOW_MS)
    for lease_id, run in before.items():
        if run.state is RunState.ENDED and lease_id in after:
            assert replace(after[lease_id], usage_stored=-1) == replace(run, usage_stored=-1)
    assert all(isinstance(command, Start | Refuse) or _target(command) in before for command in commands)


def _target(command: Command) -> str:
    return str(getattr(command, "lease_id", ""))


@given(runs(), orders, st.integers(0, 9), st.integers(0, 9))
def test_older_revision_is_stale_within_a_session(
    before: dict[str, Run], answer: Orders, incarnation: int, revision: int
) -> None:
    """(incarnation, revision) never goes back; in a new session only the incarnation counts."""
    del before
    answer = replace(answer, incarnation=4, revision=5)
    assert is_stale(answer, incarnation, revision) == ((incarnation, revision) > (4, 5))
    assert is_stale(replace(answer, first=True), incarnation, revision) == (incarnation > 4)


@given(runs())
def test_expiry_stops_exactly_what_is_past_its_right(before: dict[str, Run]) -> None:
    """A live run whose right is over by more than the guard's slack is stopped once; others are left alone."""
    commands = expired(before.values(), NOW_MS)
    late = {
        run.lease_id
        for run in before.values()
        if run.state in (RunState.ACCEPTED, RunState.STAGING, RunState.RUNNING) and run.deadline_ms + 3_000 <= NOW_MS
    }
    assert {command.lease_id for command in commands if isinstance(command, Stop)} == late
    assert expired(applied(before, commands, NOW_MS).values(), NOW_MS) == ()


@given(st.integers(0, 40 * USAGE_INTERVAL_MS), st.integers(-1, 50), st.booleans())
def test_use_is_counted_once_and_without_gaps(held_ms: int, stored: int, over: bool) -> None:
    """The stretches of a run, stored or not, join without a gap, and the whole is what the lease held once it ended."""
    run = a_run(state=RunState.RUNNING, accepted_ms=NOW_MS, usage_stored=-1)
    if over:
        run = replace(run, state=RunState.ENDED, outcome=Outcome.FAILED, ended_ms=NOW_MS + held_ms)
    everything = usage(run, NOW_MS + held_ms)
    assert [index for index, _, _ in everything] == list(range(len(everything)))
    edges = [NOW_MS, *(end for _, _, end in everything)]
    assert [start for _, start, _ in everything] == edges[:-1]
    if over:
        assert edges[-1] == NOW_MS + held_ms
    rest = usage(replace(run, usage_stored=stored), NOW_MS + held_ms)
    assert rest == everything[stored + 1 :]


def test_keep_lease_has_an_end_of_its_own() -> None:
    """A `keep` lease without a length holds for its runtime limit and time to stage, from when we asked."""
    answer = Orders(1, 5, sent_ms=NOW_MS - 7, leases=(a_lease(runtime_limit_ms=60_000),))
    (command,) = reconcile(answer, {}, NOW_MS)
    assert command == Start(answer.leases[0], NOW_MS - 7 + 60_000 + KEEP_STAGING_MS)


def test_lease_that_ran_out_on_its_way_is_refused() -> None:
    """An order that was so slow that its lease is over starts nothing, and says so."""
    answer = Orders(1, 5, sent_ms=0, leases=(a_lease(valid_until_ms=NOW_MS - 1, on_partition="stop"),))
    (command,) = reconcile(answer, {}, NOW_MS)
    assert isinstance(command, Refuse)
    assert command.reason.code == "TOO_LATE"


@pytest.mark.parametrize(("left_ms", "kind"), [(60_000, Refuse), (60_001, Start)])
def test_keep_lease_begins_only_with_its_whole_runtime_before_it(left_ms: int, kind: type[object]) -> None:
    """A run that its lease would end before its own limit waits for a new lease instead: no link may end it."""
    lease = a_lease(valid_until_ms=NOW_MS + left_ms, runtime_limit_ms=60_000)
    (command,) = reconcile(Orders(1, 5, sent_ms=0, leases=(lease,)), {}, NOW_MS)
    assert type(command) is kind


def test_lease_that_is_said_to_hold_a_little_longer_is_no_news() -> None:
    """Every answer says how long a lease holds, a quick one a little more: the journal is written for real renewals."""
    run = replace(a_run("job-a", 1), deadline_ms=NOW_MS + 60_000)
    said = [
        reconcile(
            Orders(1, 5, NOW_MS, renewals=(RenewOrder(run.lease_id, run.lease.epoch, until_ms),)),
            {run.lease_id: run},
            NOW_MS,
        )
        for until_ms in (NOW_MS + 60_000 + RENEWAL_STEP_MS, NOW_MS + 60_001 + RENEWAL_STEP_MS)
    ]
    assert said == [(), (Extend(run.lease_id, NOW_MS + 60_001 + RENEWAL_STEP_MS),)]


def test_newer_lease_of_a_running_job_stops_the_older_and_waits() -> None:
    """Two runs of one job never overlap here: the newer starts when the older has ended."""
    older, newer = a_run("job-a", 1), a_lease("job-a", 2)
    answer = Orders(1, 5, sent_ms=NOW_MS, leases=(newer,))
    first = reconcile(answer, {older.lease_id: older}, NOW_MS)
    assert [type(command) for command in first] == [Stop]
    over = replace(older, state=RunState.ENDED, outcome=Outcome.STOPPED)
    assert [type(command) for command in reconcile(answer, {over.lease_id: over}, NOW_MS)] == [Start]


def test_start_and_revoke_in_one_answer_start_nothing() -> None:
    """A job that was cancelled before we heard of it never runs."""
    lease = a_lease()
    revoke = RevokeOrder(lease.lease_id, lease.epoch, Reason("CANCEL_REQUESTED", "asked"), 500)
    assert reconcile(Orders(1, 5, NOW_MS, leases=(lease,), revokes=(revoke,)), {}, NOW_MS) == ()


@pytest.mark.parametrize(
    ("on_partition", "started_ms", "code", "outcome"),
    [
        ("keep", 0, "TOO_LATE", Outcome.REFUSED),
        ("keep", NOW_MS - 2, "LEASE_RAN_OUT", Outcome.FAILED),
        ("stop", 0, "LEASE_RAN_OUT", Outcome.FAILED),
    ],
)
def test_a_keep_run_whose_lease_ran_out_before_it_began_is_nobodys_failure(
    on_partition: str, started_ms: int, code: str, outcome: Outcome
) -> None:
    """Preparing it took longer than its lease: its job waits again. What had begun, or is to stop in a cut, has failed."""
    run = a_run(on_partition=on_partition, deadline_ms=NOW_MS, started_ms=started_ms, runtime_limit_ms=10**9)
    (stop,) = expired([run], NOW_MS + GUARD_SLACK_MS)
    assert isinstance(stop, Stop)
    assert (stop.reason.code, stopped_outcome(code, began=bool(started_ms))) == (code, outcome)
    assert stopped_outcome("TOO_LATE", began=True) is Outcome.FAILED  # an agent that died in between had begun it
    assert stopped_outcome("CANCEL_REQUESTED", began=False) is Outcome.STOPPED
