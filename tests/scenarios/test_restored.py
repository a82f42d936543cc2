"""After a restore: what runs is adopted, nothing starts a second time, and what may have been started waits.

Each test backs a real store up, lets the federation go on, restores the backup, and plays the hubs' side by hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from federation.domain.hub import Agent
from federation.domain.ids import JobId, LeaseId
from federation.domain.job import Epoch, Job, JobState, OnPartition, OutputFile, Reason
from federation.domain.lease import KILL_GRACE_MS, SKEW_BOUND_MS, Lease, LeaseState
from federation.lifecycle.commit import lease_ms
from federation.lifecycle.job import Trigger
from federation.ports import DAY_MS
from federation.scheduling.plan import Placement
from federation.service import restoring
from federation.service.jobs import cancel, retry
from federation.service.restoring import Told
from federation.service.retention import EventRetention
from federation.service.sync import Heartbeat, Orders, RunReport
from federation.service.sync import sync as service_sync
from federation.store import backup, open_store
from tests.support.builders import AISHA, an_agent
from tests.support.world import ControlUnderTest, a_submission

CAIRO = an_agent(features=(restoring.TELLS_ALL,))
SHENZHEN = an_agent("shenzhen", features=(restoring.TELLS_ALL,))
MINUTE_MS = 60_000
OVER_MS = KILL_GRACE_MS + SKEW_BOUND_MS


class Restored:
    """A control plane on a real file, that can be backed up and restored."""

    def __init__(self, folder: Path) -> None:
        self.path, self.copy = folder / "federation.db", folder / "backup.db"
        self.control = ControlUnderTest(open_store(f"sqlite:///{self.path}"))

    def back_up(self) -> None:
        backup.back_up(self.path, self.copy)

    def restore(self, disk_lost: bool = False, **options: Any) -> ControlUnderTest:
        """The control plane dies, the backup takes its place, another control plane starts an hour later."""
        control = self.control
        control.store.close()
        control.clock.at_ms += 60 * MINUTE_MS
        if disk_lost:
            self.path.unlink()
        backup.restore(self.path, self.copy, control.clock.at_ms, **options)
        control.store = open_store(f"sqlite:///{self.path}")
        control.boot()
        return control


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Restored]:
    """Cairo is there; its agent can tell all."""
    made = Restored(tmp_path)
    made.control.join(CAIRO)
    yield made
    made.control.store.close()


def started(control: ControlUnderTest, job_id: str, agent: Agent = CAIRO) -> tuple[Job, Lease]:
    """The job is placed and runs; what its hub has in its journal from now on."""
    control.round()
    control.sync(control.report(job_id, Trigger.RUN_STARTED, started_ms=control.clock.at_ms), agent=agent)
    return control.job(job_id), control.lease_of(job_id)


def word(
    job: Job, lease: Lease, trigger: Trigger = Trigger.RUN_STARTED, *, spec: bool = False, **more: Any
) -> RunReport:
    """What a hub's journal says of a run, with what its lease said."""
    told = Told(job.owner, lease.nodes, request_id="r1", spec=job.spec if spec else None)
    told = replace(told, spec_bytes=job.spec_bytes if spec else b"")
    return RunReport(lease.id, job.id, lease.epoch, trigger, **{"told": told, "started_ms": 1, **more})


def tell_all(control: ControlUnderTest, *runs: RunReport, agent: Agent = CAIRO) -> Orders:
    """The agent's list of everything, as it is asked for."""
    beat = Heartbeat(agent.session_id, runs, "", full=True, tells_all=True)
    return control.run(lambda unit: service_sync(unit, control.store, beat))


def returned(control: ControlUnderTest, *runs: RunReport, agent: Agent = CAIRO) -> Orders:
    """The agent opens a session as it does, is asked for everything, and tells it."""
    control.join(agent, tuple(replace(run, told=None) for run in runs if not run.released))
    asked = control.sync(*(replace(run, told=None) for run in runs if not run.released), agent=agent)
    assert (asked.send_full, asked.send_all, asked.starts, asked.revokes) == (True, True, [], [])
    return tell_all(control, *runs, agent=agent)


def test_a_job_started_since_the_backup_is_adopted_and_never_started_again(plane: Restored) -> None:
    """The store has it QUEUED: it waits until its hub speaks, then it is RUNNING under the attempt that runs."""
    control = plane.control
    job_id = control.submit()
    plane.back_up()
    run = started(control, job_id)
    control = plane.restore()
    assert control.job(job_id).state is JobState.QUEUED
    orders = returned(control, word(*run))
    assert (orders.starts, orders.revokes, orders.send_full) == ([], [], False)
    job = control.job(job_id)
    assert (job.state, job.epoch, control.lease_of(job_id).state) == (JobState.RUNNING, run[1].epoch, LeaseState.ACTIVE)
    control.pass_time(1_000)
    assert control.round() == 0
    done = control.sync(word(*run, Trigger.RUN_SUCCEEDED, outputs=(OutputFile("a.csv", 1, "a" * 64),)), agent=CAIRO)
    assert (control.job(job_id).state, len(control.job(job_id).outputs)) == (JobState.SUCCEEDED, 1)
    assert [one[0] for one in done.releases] == [run[1].id]
    control.check()


def cairo_alone_returned(plane: Restored) -> tuple[ControlUnderTest, str]:
    """A job of before that may run at Cairo or Shenzhen, of which one has spoken since the restore; the job's id."""
    plane.control.join(SHENZHEN)
    job_id = plane.control.submit()
    plane.back_up()
    control = plane.restore()
    returned(control)
    return control, job_id


def check_starts_after(control: ControlUnderTest, length_ms: int) -> None:
    """One second before that the job waits, then it starts."""
    control.pass_time(length_ms - 1_000)
    control.sync(agent=CAIRO)
    control.pass_time(0)
    assert control.round() == 0
    control.pass_time(1_000)
    assert control.round() == 1


def test_a_job_of_before_waits_for_every_agent_that_may_run_it(plane: Restored) -> None:
    """Shenzhen has not spoken: the job is not started at Cairo, and its reason names Shenzhen; then it is."""
    control, job_id = cairo_alone_returned(plane)
    control.pass_time(1_000)
    assert control.round() == 0
    (reason,) = restoring.explained(control.world, control.job(job_id)).reasons
    assert (reason.code, "shenzhen/main" in reason.message, "cairo/main" in reason.message) == ("RESTORED", True, False)
    returned(control, agent=SHENZHEN)
    control.pass_time(1_000)
    assert control.round() == 1
    assert control.lease_of(job_id).epoch == Epoch(control.world.incarnation, 1)
    control.check()


def test_a_job_of_before_waits_also_where_the_clock_stood_ahead_when_it_came(plane: Restored) -> None:
    """Whoever set the clock back by two days has not made it a job of after the restore; what comes then is one."""
    control = plane.control
    control.join(SHENZHEN)
    control.clock.at_ms += 48 * 60 * MINUTE_MS
    job_id = control.submit()
    control.clock.at_ms -= 48 * 60 * MINUTE_MS
    control.submit(request_id="r2")
    plane.back_up()
    control = plane.restore()
    returned(control)
    assert restoring.held(control.world, control.job(job_id), control.clock.at_ms)
    control.clock.at_ms -= 2 * 60 * MINUTE_MS
    new = control.submit(request_id="r3")
    assert not restoring.held(control.world, control.job(new), control.clock.at_ms)
    control.check()


def test_a_hub_that_never_returns_holds_a_job_no_longer_than_its_lease(plane: Restored) -> None:
    """Full length, kill grace and skew bound from the restore: one second before it waits, then it starts."""
    control, job_id = cairo_alone_returned(plane)
    check_starts_after(control, lease_ms(control.job(job_id)) + OVER_MS)
    control.check()


def test_with_the_store_lost_agents_that_joined_since_are_waited_for_too(plane: Restored) -> None:
    """Nobody can say who joined: every job of before waits out its lease, also one that may run twice, but not at once."""
    control = plane.control
    jobs = [control.submit("r1"), control.submit("r2", idempotent=True)]
    plane.back_up()
    control.join(SHENZHEN)
    control = plane.restore(disk_lost=True)
    returned(control)
    control.pass_time(1_000)
    assert control.round() == 0
    for job_id in jobs:
        (reason,) = restoring.explained(control.world, control.job(job_id)).reasons
        assert "joined since" in reason.message
    control.pass_time(lease_ms(control.job(jobs[0])) + OVER_MS)
    control.sync(agent=CAIRO)
    control.pass_time(0)
    assert control.round() == 2
    control.check()


def test_an_operator_who_knows_that_nobody_joined_says_so(plane: Restored) -> None:
    """Then the agents of the backup are all that is waited for."""
    control = plane.control
    job_id = control.submit()
    plane.back_up()
    control = plane.restore(disk_lost=True, agents_complete=True)
    returned(control)
    control.pass_time(1_000)
    assert control.round() == 1
    assert control.job(job_id).state is JobState.LEASED


def test_what_comes_after_the_restore_waits_for_nobody(plane: Restored) -> None:
    """A new job cannot run already."""
    control = plane.control
    plane.back_up()
    control = plane.restore(disk_lost=True)
    returned(control)
    control.clock.at_ms += 1
    job_id = control.submit("new")
    assert control.round() == 1
    assert control.job(job_id).state is JobState.LEASED


def test_a_job_that_was_submitted_since_the_backup_is_made_anew(plane: Restored) -> None:
    """Its run goes on; the store learns spec and owner from the hub; its request id answers with the same job."""
    control = plane.control
    plane.back_up()
    job_id = control.submit("r1")
    run = started(control, job_id)
    control = plane.restore()
    orders = returned(control, word(*run))
    assert (orders.send_specs, orders.revokes, orders.releases) == ([run[1].id], [], [])
    orders = control.sync(word(*run, spec=True), agent=CAIRO)
    assert (orders.send_specs, orders.revokes) == ([], [])
    job = control.job(job_id)
    assert (job.state, job.owner, job.spec, job.epoch) == (JobState.RUNNING, AISHA, run[0].spec, run[1].epoch)
    digest = restoring.body_digest(job.spec_bytes, "")
    (again,) = control.submit_all(replace(a_submission("r1"), digest=digest))
    assert (again.job_id, again.problem) == (job_id, None)
    control.check()


@pytest.mark.parametrize("begun", [False, True])
def test_a_request_repeated_before_its_hub_has_spoken_runs_once(plane: Restored, begun: bool) -> None:
    """The second job, where nobody has been sent it yet, is cancelled and names the first; one that is on its way stays."""
    control = plane.control
    plane.back_up()
    first = control.submit()
    run = started(control, first)
    control = plane.restore()
    digest = restoring.body_digest(run[0].spec_bytes, "")
    (again,) = control.submit_all(replace(a_submission(), digest=digest))
    (another,) = control.submit_all(replace(a_submission(), digest=digest), principal="local/omar@cairo")
    assert len({first, again.job_id, another.job_id}) == 3
    control.join(CAIRO)
    if begun:
        control.commit(Placement(again.job_id, CAIRO.key, ("n1",)))
    tell_all(control, word(*run, spec=True))
    second, reason = control.job(again.job_id), control.job(again.job_id).reason
    assert control.job(first).state is JobState.RUNNING
    assert control.job(another.job_id).state is JobState.QUEUED
    if begun:
        assert second.state is JobState.LEASED
    else:
        assert (second.state, reason and reason.code, first in str(reason)) == (JobState.CANCELLED, "RESTORED", True)
        assert control.round() == 1
    control.check()


def test_a_run_that_ended_and_was_released_since_counts(plane: Restored) -> None:
    """The hub has kept how it ended: the job has its result, and is not run again."""
    control = plane.control
    job_id = control.submit()
    plane.back_up()
    run = started(control, job_id)
    outputs = (OutputFile("a.csv", 1, "a" * 64),)
    control.sync(word(*run, Trigger.RUN_SUCCEEDED, outputs=outputs), agent=CAIRO)
    control = plane.restore()
    kept = word(*run, Trigger.RUN_SUCCEEDED, outputs=outputs, released=True, told=None)
    orders = returned(control, kept)
    assert [one[0] for one in orders.releases] == [run[1].id]
    assert (control.job(job_id).state, control.job(job_id).outputs) == (JobState.SUCCEEDED, outputs)
    control.pass_time(1_000)
    assert control.round() == 0
    control.check()


@pytest.mark.parametrize("cairo_first", [True, False])
def test_a_job_that_moved_to_another_hub_since_is_there(plane: Restored, cairo_first: bool) -> None:
    """In the backup it runs at Cairo; it was retried and runs at Shenzhen. Whoever speaks first, Shenzhen has it."""
    control = plane.control
    job_id = control.submit()
    old = started(control, job_id)
    plane.back_up()
    control.sync(word(*old, Trigger.RUN_FAILED, exit_code=1), agent=CAIRO)
    failed = control.job(job_id)
    control.run(lambda unit: retry(unit, failed, "aisha"))
    control.join(replace(CAIRO, nodes=()))
    control.join(SHENZHEN)
    new = started(control, job_id, SHENZHEN)
    assert (new[1].hub_id, old[1].epoch < new[1].epoch) == ("shenzhen", True)
    control = plane.restore()
    cairo, shenzhen = word(*old, Trigger.RUN_FAILED, exit_code=1, released=True, told=None), word(*new)
    for run, agent in [(cairo, CAIRO), (shenzhen, SHENZHEN)][:: 1 if cairo_first else -1]:
        returned(control, run, agent=agent)
    job = control.job(job_id)
    assert (job.state, job.hub_id, job.epoch) == (JobState.RUNNING, "shenzhen", new[1].epoch)
    control.check()


def test_a_retry_of_before_the_restore_is_not_carried_out_again_when_it_is_repeated(plane: Restored) -> None:
    """The backup knows nothing of it, but the hubs do: the attempt that it led to runs, then is over, and stays the last."""
    control = plane.control
    job_id = control.submit()
    first = started(control, job_id)
    plane.back_up()
    control.sync(word(*first, Trigger.RUN_FAILED, ended_ms=control.clock.at_ms), agent=CAIRO)
    seen = control.job(job_id)
    control.run(lambda unit: retry(unit, seen, "aisha", seen.ended_ms))
    control.clock.at_ms += 1_000
    second = started(control, job_id)
    control = plane.restore()
    returned(control, word(*second))
    for trigger in (None, Trigger.RUN_SUCCEEDED):
        if trigger:
            control.sync(word(*second, trigger, ended_ms=control.clock.at_ms), agent=CAIRO)
        now = control.job(job_id)
        assert now.epoch == second[1].epoch
        assert control.run(partial(retry, job=now, actor="aisha", ended_ms=seen.ended_ms)) == now
    control.check()


def test_an_order_that_was_never_acknowledged_is_not_sent_again(plane: Restored) -> None:
    """It may have been carried out since: once its agent has told all, and does not have it, the job waits anew."""
    control = plane.control
    job_id = control.submit()
    control.round()
    plane.back_up()
    control = plane.restore()
    control.join(CAIRO)
    assert control.sync(agent=CAIRO).starts == []
    orders = tell_all(control)
    assert (orders.starts, control.job(job_id).state) == ([], JobState.QUEUED)
    control.pass_time(1_000)
    assert control.round() == 1
    assert control.lease_of(job_id).epoch == Epoch(control.world.incarnation, 1)
    control.check()


def test_a_cancelled_job_that_was_retried_since_runs(plane: Restored) -> None:
    """A later attempt is a later wish: the cancel of the backup was for the attempt before."""
    control = plane.control
    job_id = control.submit()
    first = started(control, job_id)
    control.run(lambda unit: cancel(unit, unit.world.jobs[JobId(job_id)], "", "aisha"))
    plane.back_up()
    control.sync(word(*first, Trigger.RUN_STOPPED, reason=Reason("CANCEL_REQUESTED", "")), agent=CAIRO)
    stored = control.job(job_id)
    control.run(lambda unit: retry(unit, stored, "aisha"))
    second = started(control, job_id)
    control = plane.restore()
    control.join(CAIRO)
    assert [one.lease_id for one in control.sync(agent=CAIRO).revokes] == [first[1].id]
    orders = tell_all(control, word(*second))
    assert (control.job(job_id).state, orders.revokes) == (JobState.RUNNING, [])
    control.check()


@pytest.mark.parametrize("set_by_ms", [1, -2 * 60 * MINUTE_MS])
def test_a_job_cancelled_after_the_restore_is_ended_where_it_runs(plane: Restored, set_by_ms: int) -> None:
    """Nobody knew that it runs when it was cancelled: its hub is told to end it, whatever the clock was set to."""
    control = plane.control
    job_id = control.submit()
    plane.back_up()
    run = started(control, job_id)
    control = plane.restore()
    control.clock.at_ms += set_by_ms
    control.run(lambda unit: cancel(unit, unit.world.jobs[JobId(job_id)], "", "aisha"))
    assert control.job(job_id).state is JobState.CANCELLED
    orders = returned(control, word(*run))
    assert ([one.lease_id for one in orders.revokes], control.job(job_id).state) == ([run[1].id], JobState.CANCELLING)
    control.sync(word(*run, Trigger.RUN_STOPPED), agent=CAIRO)
    assert control.job(job_id).state is JobState.CANCELLED
    control.check()


def test_a_wish_of_after_the_restore_outlives_the_keeping_of_facts(plane: Restored) -> None:
    """A hub that comes back after days, when facts are kept for one, is told that its run was cancelled meanwhile."""
    control = plane.control
    job_id = control.submit(runtime_limit_ms=20 * DAY_MS)
    plane.back_up()
    run = started(control, job_id)
    control = plane.restore()
    control.run(lambda unit: cancel(unit, unit.world.jobs[JobId(job_id)], "", "user"))
    control.clock.at_ms += 3 * DAY_MS
    control.submit("r2")
    EventRetention(control.store, control.writer, control.clock, 1).sweep()
    returned(control, word(*run))
    assert [one.lease_id for one in control.sync(agent=CAIRO).revokes] == [run[1].id]
    control.clock.at_ms += 60 * DAY_MS
    control.sync(word(*run, Trigger.RUN_STOPPED), agent=CAIRO)
    control.clock.at_ms += 3 * DAY_MS
    control.submit("r3")
    EventRetention(control.store, control.writer, control.clock, 1).sweep()
    assert [one.type for one in control.store.events_of("job", job_id, 100)] == ["JobSubmitted"]


def test_an_agent_that_cannot_tell_all_is_believed_as_far_as_it_goes(plane: Restored) -> None:
    """One of the version before: known jobs are adopted from its plain list, unknown ones it is told to end."""
    control = plane.control
    old = replace(CAIRO, features=())
    job_id = control.submit("r1")
    plane.back_up()
    run = started(control, job_id)
    other = control.submit("r2")
    lost = started(control, other)
    control = plane.restore()
    control.join(old)
    assert control.sync(agent=old).send_full
    orders = control.sync(replace(word(*run), told=None), replace(word(*lost), told=None), agent=old, full=True)
    assert control.job(job_id).state is JobState.RUNNING
    assert [one.lease_id for one in orders.revokes] == [lost[1].id]
    assert control.world.awaited == {}
    control.check()


def test_use_of_before_is_told_once_and_without_gaps(plane: Restored) -> None:
    """The store knows of no stretch, the hub was told that two are stored: the third waits for the list of everything."""
    control = plane.control
    job_id = control.submit()
    run = started(control, job_id)
    plane.back_up()
    stretches = tuple((index, index * 5 * MINUTE_MS, (index + 1) * 5 * MINUTE_MS) for index in range(3))
    control.pass_time(15 * MINUTE_MS)
    control.sync(word(*run, usage=stretches[:2]), agent=CAIRO)
    control = plane.restore()
    control.join(CAIRO, (word(*run, usage=stretches[2:]),))
    asked = control.sync(word(*run, usage=stretches[2:]), agent=CAIRO)
    assert (asked.send_all, asked.usage_stored) == (True, {run[1].id: -1})
    told = tell_all(control, word(*run, usage=stretches))
    assert (told.send_all, told.usage_stored) == (False, {run[1].id: 2})
    assert [one.index for one in control.store.usage_of(run[1].id)] == [0, 1, 2]


def test_another_machine_under_an_agents_name_does_not_speak_for_it(plane: Restored) -> None:
    """It tells all it knows, which is nothing: the job still waits for the machine of before, which runs it."""
    control = plane.control
    control.join(SHENZHEN)
    job_id = control.submit()
    plane.back_up()
    run = started(control, job_id)
    control = plane.restore()
    returned(control, agent=SHENZHEN)
    control.pass_time(2 * MINUTE_MS)
    returned(control, agent=replace(CAIRO, instance_id="another", session_id="session-another"))
    control.pass_time(1_000)
    control.sync(agent=SHENZHEN)
    assert control.round() == 0
    control.pass_time(2 * MINUTE_MS)
    returned(control, word(*run))
    assert (control.job(job_id).state, control.lease_of(job_id).id) == (JobState.RUNNING, run[1].id)


def test_two_machines_that_spoke_for_one_agent_since_the_backup_are_both_waited_for(plane: Restored) -> None:
    """The second came and went again: it may still run what it was given, and only the first is there to be asked."""
    control = plane.control
    job_id = control.submit()
    plane.back_up()
    control.pass_time(10 * MINUTE_MS)  # the first is silent, so that another may come
    control.join(replace(CAIRO, instance_id="another-machine", session_id="session-of-another"))
    control.pass_time(10 * MINUTE_MS)
    control.join(CAIRO)
    control = plane.restore()
    returned(control)
    check_starts_after(control, lease_ms(control.job(job_id)) + OVER_MS)


def test_a_start_counts_what_was_granted_before_the_restore_anew(plane: Restored) -> None:
    """A clock that is set forward while the control plane is away starts nothing a second time."""
    control, job_id = cairo_alone_returned(plane)
    length_ms = lease_ms(control.job(job_id)) + OVER_MS
    control.clock.at_ms += 2 * length_ms
    control.boot()
    returned(control)
    check_starts_after(control, length_ms)


def test_late_words_and_forged_ones_change_nothing(plane: Restored) -> None:
    """An attempt that is not later than the known one is over; an epoch of this incarnation is never adopted."""
    control = plane.control
    job_id = control.submit()
    plane.back_up()
    run = started(control, job_id)
    control = plane.restore()
    returned(control, word(*run))
    older = replace(word(*run), lease_id=run[1].id + "x", epoch=Epoch(1, 0))  # type: ignore[arg-type]
    ours = replace(word(*run), lease_id=run[1].id + "y", epoch=Epoch(control.world.incarnation, 9))  # type: ignore[arg-type]
    orders = control.sync(word(*run), older, ours, agent=CAIRO)
    assert sorted(one.lease_id for one in orders.revokes) == [run[1].id + "x", run[1].id + "y"]
    assert control.lease_of(job_id).id == run[1].id
    control.check()


def test_nobody_takes_the_lease_of_another_job(plane: Restored) -> None:
    """Under the id of Shenzhen's live lease, or one that is no id, an attempt of before is over; Shenzhen's run goes on."""
    control = plane.control
    control.join(SHENZHEN)
    waiting = control.submit()
    plane.back_up()
    control = plane.restore(agents_complete=True)
    returned(control)
    returned(control, agent=SHENZHEN)
    other = control.submit("r2")
    control.commit(Placement(JobId(other), SHENZHEN.key, ("n1",)))
    run = control.report(other, Trigger.RUN_STARTED, started_ms=1)
    control.sync(run, agent=SHENZHEN)
    lease = control.lease_of(other)
    for lease_id in (lease.id, LeaseId("lease of mine"), LeaseId("lease-" + "x" * 70)):
        said = RunReport(lease_id, JobId(waiting), Epoch(1, 1), Trigger.RUN_STARTED, told=Told(AISHA, ("n1",)))
        assert [one.lease_id for one in control.sync(said, agent=CAIRO).revokes] == [lease_id]
    assert (control.lease_of(other), control.job(waiting).state) == (lease, JobState.QUEUED)
    assert control.sync(run, agent=SHENZHEN).revokes == []
    control.check()


def test_a_failed_commit_awaits_the_agent_again(plane: Restored) -> None:
    """What an agent told and nobody saved was not told: the next list is asked for."""
    control = plane.control
    job_id = control.submit()
    plane.back_up()
    run = started(control, job_id)
    control = plane.restore()
    control.join(CAIRO)
    control.sync(agent=CAIRO)

    def spoiled(unit: Any) -> None:
        beat = Heartbeat(CAIRO.session_id, (word(*run),), "", full=True, tells_all=True)
        service_sync(unit, control.store, beat)
        raise RuntimeError("of the test's making")

    with pytest.raises(Exception, match="control plane failed"):
        control.run(spoiled)
    assert list(control.world.awaited) == [CAIRO.key]
    assert control.job(job_id).state is JobState.QUEUED
    assert tell_all(control, word(*run)).send_full is False
    assert control.job(job_id).state is JobState.RUNNING


@pytest.mark.parametrize(
    ("on_partition", "after"), [(OnPartition.RERUN, JobState.QUEUED), (OnPartition.KEEP, JobState.UNKNOWN)]
)
def test_leases_of_the_backup_get_full_length_after_the_restore(
    plane: Restored, on_partition: OnPartition, after: JobState
) -> None:
    """One that had run out by the backup's clock is not given up before full length and grace from the restore."""
    control = plane.control
    again = on_partition is OnPartition.RERUN
    job_id = control.submit(on_partition=on_partition, idempotent=again)
    started(control, job_id)
    plane.back_up()
    control = plane.restore()
    grace_ms = lease_ms(control.job(job_id)) + OVER_MS
    control.pass_time(grace_ms - 1)
    assert control.job(job_id).state is JobState.RUNNING
    control.pass_time(1)
    assert control.job(job_id).state is after
