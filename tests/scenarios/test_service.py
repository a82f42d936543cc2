"""The service's use cases, one story each: submit, sync, cancel, refusals, silence, restarts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from federation.api.syncing import LeaseLinks, answer_out
from federation.domain.hub import LinkState
from federation.domain.job import JobState, OnPartition, OutputFile, Owner, Reason
from federation.domain.lease import KILL_GRACE_MS, SKEW_BOUND_MS
from federation.errors import Code, FederationError
from federation.lifecycle.job import Trigger
from federation.scheduling import Policy
from federation.service import hubs
from federation.service.jobs import cancel, find, retry
from federation.service.sync import TELLS_CARRIED, Heartbeat, Orders, digest_of, sync
from federation.store.memory import MemoryStore
from tests.support.builders import a_node, an_agent, some_resources
from tests.support.world import ControlUnderTest, a_submission


@pytest.fixture
def control() -> Iterator[ControlUnderTest]:
    """A control plane; when the test ends, every promise must hold."""
    under_test = ControlUnderTest()
    yield under_test
    under_test.check()


def test_a_job_goes_from_submit_to_its_result(control: ControlUnderTest) -> None:
    """Submitted, placed, ordered, reported, done; the agent may then forget the run."""
    control.join()
    job_id = control.submit()
    assert control.round() == 1
    orders = control.sync()
    assert [job.id for _, job in orders.starts] == [job_id]
    control.sync(control.report(job_id, Trigger.RUN_STARTED, started_ms=7))
    result = (OutputFile("out.csv", 1, "b" * 64),)
    done = control.report(job_id, Trigger.RUN_SUCCEEDED, outputs=result)
    orders = control.sync(done)
    assert orders.releases == [(done.lease_id, done.epoch)]
    job = control.job(job_id)
    assert (job.state, job.outputs, job.started_ms) == (JobState.SUCCEEDED, result, 7)
    facts = [event.type for event in control.store.events_of("job", job_id, 100)]
    assert facts == ["JobSubmitted", "LeaseGranted", "RunStarted", "RunSucceeded"]


def test_a_request_id_is_answered_once(control: ControlUnderTest) -> None:
    """Same id, same body: the same job, also after a restart. Same id, another body: refused, also inside one batch."""
    first = control.submit("r1", name="one")
    control.boot()
    assert control.submit("r1", name="one") == first
    answers = control.submit_all(
        a_submission("r1", name="two"),
        a_submission("r2", name="two"),
        a_submission("r2", name="three"),
        a_submission("r2", name="two"),
    )
    codes = [answer.problem.code if answer.problem else "" for answer in answers]
    assert codes == [Code.REQUEST_ID_REUSED, "", Code.REQUEST_ID_REUSED, ""]
    assert answers[1].job_id == answers[3].job_id


def test_one_persons_request_id_is_not_anothers(control: ControlUnderTest) -> None:
    """The key holds the principal: two people may choose the same id."""
    first = control.submit("r1", name="one")
    (second,) = control.submit_all(a_submission("r1", name="two"), principal="local/bilal@cairo")
    assert second.problem is None
    assert second.job_id != first


def test_a_bad_member_is_taken_out_and_the_rest_goes_on(control: ControlUnderTest) -> None:
    """An unknown hub, an unknown dataset and an empty request id fail alone."""
    from federation.domain.job import Input

    answers = control.submit_all(
        a_submission("r1", hubs_allow=("atlantis",)),
        a_submission("r2"),
        a_submission("r3", inputs=(Input("moon-dust", "", "dust"),)),
        a_submission(""),
    )
    codes = [answer.problem.code if answer.problem else "" for answer in answers]
    assert codes == [Code.HUB_NOT_FOUND, "", Code.DATASET_NOT_FOUND, Code.INVALID_ARGUMENT]


def test_a_failed_commit_fails_its_batch_and_nothing_else(control: ControlUnderTest) -> None:
    """Disk full: the callers hear it, memory is as before, and the next submit is accepted."""

    class FullStore(MemoryStore):
        full = True

        def begin(self):  # type: ignore[no-untyped-def]
            if self.full:
                raise FederationError(Code.STORE_FULL, "the disk is full", fault="federation")  # type: ignore[arg-type]
            return super().begin()

    full = ControlUnderTest(FullStore())
    with pytest.raises(FederationError) as caught:
        full.submit()
    assert caught.value.code is Code.STORE_FULL
    assert (full.world.jobs, full.world.last_seq) == ({}, 0)
    full.store.full = False  # type: ignore[attr-defined]
    full.submit()
    full.check()


def test_one_bad_command_leaves_its_batch_whole(control: ControlUnderTest) -> None:
    """A command that fails half-way is taken back; its neighbours are committed."""
    control.join()
    job_id = control.submit()

    def bad(unit):  # type: ignore[no-untyped-def]
        cancel(unit, find(unit, control.store, job_id), "", "test")
        retry(unit, find(unit, control.store, job_id), "test")
        raise FederationError(Code.INVALID_ARGUMENT, "no", fault="caller")  # type: ignore[arg-type]

    futures = control.writer.together([bad, lambda unit: hubs.drain(unit, "cairo", "", "test")])
    assert isinstance(futures[0].exception(), FederationError)
    assert (control.job(job_id).state, futures[1].result().hub.state) == (JobState.QUEUED, "DRAINING")


def test_cancel_before_the_hub_knows_is_an_order_to_it(control: ControlUnderTest) -> None:
    """A granted lease is revoked, not forgotten; the hub's word, or its full list without the run, ends the job."""
    control.join()
    job_id = control.submit()
    control.round()
    control.run(lambda unit: cancel(unit, find(unit, control.store, job_id), "enough", "test"))
    orders = control.sync()
    assert (orders.starts, len(orders.revokes), control.job(job_id).state) == ([], 1, JobState.CANCELLING)
    control.sync(full=True)
    assert control.job(job_id).state is JobState.CANCELLED


def test_cancel_is_harmless_to_repeat(control: ControlUnderTest) -> None:
    """Twice while it waits, once more when it is over."""
    job_id = control.submit()
    for _ in range(3):
        job = control.run(lambda unit: cancel(unit, find(unit, control.store, job_id), "", "test"))
        assert job.state is JobState.CANCELLED


def test_a_refusal_is_not_the_jobs_fault(control: ControlUnderTest) -> None:
    """The job waits again, is not sent back to a hub whose policy said no, and Explain gives the hub's own words."""
    control.join()
    job_id = control.submit()
    control.round()
    no = Reason("SHARE_POLICY", "no ray after dark", "cairo")
    control.sync(control.report(job_id, Trigger.RUN_REFUSED, reason=no))
    assert (control.job(job_id).state, control.round()) == (JobState.QUEUED, 0)
    assert control.rounds.refusal_of(control.job(job_id).id, "cairo") == "no ray after dark"


def test_a_hub_without_room_is_asked_again_later(control: ControlUnderTest) -> None:
    """ROOM_TAKEN passes: after a pause the same hub is tried."""
    control.join()
    job_id = control.submit()
    control.round()
    control.sync(control.report(job_id, Trigger.RUN_REFUSED, reason=Reason("ROOM_TAKEN", "taken here", "cairo")))
    assert control.round() == 0
    control.pass_time(5_000)
    assert control.round() == 1


@pytest.mark.parametrize("code", ["REBOOTED", "HUB_STOPPED", "TOO_LATE", "CHECKPOINT_UNREACHABLE"])
def test_a_hub_that_could_not_at_that_moment_is_asked_again(control: ControlUnderTest, code: str) -> None:
    """Its machine restarted, or its disk was full: that is no word on the job, which may be the only hub's."""
    control.join()
    job_id = control.submit()
    control.round()
    control.sync(control.report(job_id, Trigger.RUN_REFUSED, reason=Reason(code, "not now", "cairo")))
    control.pass_time(5_000)
    assert (control.round(), control.job(job_id).state) == (1, JobState.LEASED)


def test_silence_frees_nothing(control: ControlUnderTest) -> None:
    """SUSPECT after 60 s, LOST after 10 min, the lease holds; UNKNOWN only when the run is over for certain."""
    control.join()
    job_id = control.submit()
    control.round()
    control.sync(control.report(job_id, Trigger.RUN_STARTED, started_ms=1))
    seen = []
    for ms in (60_000, 540_000):
        control.pass_time(ms)
        seen.append((control.world.agents[an_agent().key].link, control.job(job_id).state))
    assert seen == [(LinkState.SUSPECT, JobState.RUNNING), (LinkState.LOST, JobState.RUNNING)]
    lease = control.world.lease_for(control.job(job_id).id)
    assert lease is not None
    control.pass_time(lease.expires_ms + KILL_GRACE_MS + SKEW_BOUND_MS - control.clock.at_ms)
    assert control.job(job_id).state is JobState.UNKNOWN
    control.sync(control.report(job_id, Trigger.RUN_SUCCEEDED))
    assert control.job(job_id).state is JobState.SUCCEEDED


def test_an_order_that_never_arrived_is_said_until_it_is_refused(control: ControlUnderTest) -> None:
    """A `keep` job's hub was cut off before it heard of it, for longer than the lease: back, it refuses, and the job waits."""
    control.join()
    job_id = control.submit(runtime_limit_ms=600_000)
    control.round()
    lease = control.world.lease_for(control.job(job_id).id)
    assert lease is not None
    control.pass_time(lease.expires_ms + KILL_GRACE_MS + SKEW_BOUND_MS - control.clock.at_ms)
    assert control.job(job_id).state is JobState.UNKNOWN
    orders = control.sync()
    for set_back_ms in (0, 3_600_000):  # the clock changes nothing of what was found over
        (told,) = answer_out(orders, (), 0, control.clock.at_ms - set_back_ms, lambda _: LeaseLinks()).leases
        assert (told.lease_id, told.valid_for_ms) == (lease.id, 1)  # too late for any run
    control.sync(control.report(job_id, Trigger.RUN_REFUSED, reason=Reason("TOO_LATE", "too late", "cairo")))
    assert control.job(job_id).state is JobState.QUEUED


def test_a_list_that_lacks_a_run_whose_start_is_on_its_way_ends_nothing(control: ControlUnderTest) -> None:
    """Cancelled before its hub has heard of it: only a list made after the hub carried out the end says that it never began."""
    agent = an_agent(features=(TELLS_CARRIED,))
    control.join(agent)
    job_id = control.submit()
    control.round()
    assert control.sync(agent=agent).starts  # and that answer is late
    control.run(lambda unit: cancel(unit, find(unit, control.store, job_id), "", "test"))

    def list_without_it(carried: tuple[int, int]) -> Orders:
        beat = Heartbeat(agent.session_id, (), digest_of([]), full=True, carried=carried)
        return control.run(lambda unit: sync(unit, control.store, beat))

    orders = list_without_it((1, 2))
    assert (control.job(job_id).state, len(orders.revokes)) == (JobState.CANCELLING, 1)
    list_without_it((0, orders.revision + 100))  # of a control plane before
    assert control.job(job_id).state is JobState.CANCELLING
    list_without_it((orders.incarnation, orders.revision))
    assert control.job(job_id).state is JobState.CANCELLED


def test_what_nobody_can_say_holds_its_own_room_and_no_more() -> None:
    """A `keep` run is silent for good, its hub is back: who fits beside it is not kept waiting for a run that never ends."""
    control = ControlUnderTest(policy=Policy(promise_after_ms=0))
    control.join()
    lost = control.submit("lost", per_task=some_resources(2), runtime_limit_ms=600_000)
    control.round()
    control.sync(control.report(lost, Trigger.RUN_STARTED, started_ms=control.clock.at_ms))
    control.pass_time(3_600_000)
    assert control.job(lost).state is JobState.UNKNOWN
    other = an_agent(instance_id="another", session_id="session-other")
    control.join(other)
    large = control.submit("large", per_task=some_resources(4))
    control.pass_time(3_600_000)
    control.sync(agent=other)
    control.round()
    small = control.submit("small", per_task=some_resources(2), runtime_limit_ms=3_600_000)
    control.pass_time(1_000)
    control.round()
    assert (control.job(large).state, control.job(small).state) == (JobState.QUEUED, JobState.LEASED)
    control.check()


def test_a_stop_lease_is_renewed_while_its_hub_syncs(control: ControlUnderTest) -> None:
    """Half a length before the end the answer carries a renewal, saved before it is said."""
    control.join()
    job_id = control.submit(on_partition=OnPartition.STOP, runtime_limit_ms=86_400_000)
    control.round()
    control.sync(control.report(job_id, Trigger.RUN_STARTED, started_ms=1))
    orders = control.sync()
    for _ in range(30):
        control.pass_time(50_000)
        orders = control.sync()
        if orders.renewed:
            break
    lease, valid_for_ms = orders.renewals[0]
    assert control.world.leases[lease.id].expires_ms == control.clock.at_ms + valid_for_ms


def test_a_renewal_whose_answer_was_lost_is_said_again(control: ControlUnderTest) -> None:
    """Every answer says how long each lease holds; only a new length makes an answer leave at once."""
    control.join()
    job_id = control.submit(on_partition=OnPartition.STOP, runtime_limit_ms=86_400_000)
    control.round()
    control.sync(control.report(job_id, Trigger.RUN_STARTED, started_ms=1))
    control.pass_time(1_300_000)
    assert control.sync().renewed  # and this answer is lost
    control.pass_time(20_000)
    again = control.sync()
    ((lease, left_ms),) = again.renewals
    assert (lease.job_id, again.renewed) == (job_id, False)
    assert control.clock.at_ms + left_ms == control.lease_of(job_id).expires_ms


def test_a_restart_keeps_everything_and_gives_full_grace(control: ControlUnderTest) -> None:
    """Queued and running jobs, leases and agents are there; an old session is told to open a new one."""
    control.join()
    running, queued = control.submit("r1"), control.submit("r2", per_task=some_resources(cpus=4))
    control.round()
    control.sync(control.report(running, Trigger.RUN_STARTED, started_ms=1))
    control.boot()
    with pytest.raises(FederationError) as caught:
        control.sync()
    assert caught.value.code is Code.SESSION_UNKNOWN
    control.join(runs=(control.report(running, Trigger.RUN_STARTED, started_ms=1),))
    assert (control.job(running).state, control.job(queued).state) == (JobState.RUNNING, JobState.QUEUED)


def test_a_second_machine_with_the_same_name_is_refused(control: ControlUnderTest) -> None:
    """While the first was heard of within 60 s; afterwards it may take the name over."""
    control.join()
    twin = replace(an_agent(), instance_id="instance-2", session_id="session-2")
    with pytest.raises(FederationError) as caught:
        control.join(twin)
    assert caught.value.code is Code.IDENTITY_IN_USE
    control.pass_time(60_000)
    control.join(twin)
    assert control.world.agents[an_agent().key].instance_id == "instance-2"


def test_another_machine_does_not_begin_what_the_first_may_have_begun(control: ControlUnderTest) -> None:
    """The order may have reached the first, which fell silent: the job is UNKNOWN until it returns or its lease is over."""
    control.join()
    job_id = control.submit()
    control.round()
    control.pass_time(60_000)
    twin = replace(an_agent(), instance_id="instance-2", session_id="session-2")
    assert control.join(twin).starts == []
    assert (control.job(job_id).state, control.sync(agent=twin).starts) == (JobState.UNKNOWN, [])
    control.pass_time(60_000)
    control.join(replace(an_agent(), session_id="session-3"), runs=(control.report(job_id, Trigger.RUN_STARTED),))
    assert control.job(job_id).state is JobState.RUNNING


def test_a_newer_session_ends_the_older(control: ControlUnderTest) -> None:
    """The same machine restarted: what its old session still says is not heard, and the one before that is nobody's."""
    first, second, third = (replace(an_agent(), session_id=f"session-{n}") for n in (1, 2, 3))
    codes = []
    control.join(first)
    for session in (second, third):
        control.join(session)
        with pytest.raises(FederationError) as caught:
            control.sync(agent=first)
        codes.append(caught.value.code)
    assert codes == [Code.SESSION_SUPERSEDED, Code.SESSION_UNKNOWN]


def test_the_server_asks_for_the_full_list_when_digests_differ(control: ControlUnderTest) -> None:
    """A hub that knows a run we do not, or lacks one we do, is asked; agreement is silent."""
    control.join()
    job_id = control.submit()
    control.round()
    report = control.report(job_id, Trigger.RUN_STARTED, started_ms=1)
    agreed = digest_of([(report.lease_id, report.epoch)])
    assert control.sync(report, digest=agreed).send_full is False
    assert control.sync(digest=digest_of([])).send_full is True


def test_a_run_that_nobody_ordered_is_ended(control: ControlUnderTest) -> None:
    """A stale attempt at a returning hub gets an explicit revoke, and only that attempt."""
    control.join()
    job_id = control.submit()
    ghost = control.report(job_id, Trigger.RUN_STARTED)
    orders = control.sync(ghost)
    assert [(one.lease_id, one.epoch) for one in orders.revokes] == [(ghost.lease_id, ghost.epoch)]


def test_usage_is_posted_once(control: ControlUnderTest) -> None:
    """Repeating an interval posts nothing; the last stretch may come with the end."""
    control.join()
    job_id = control.submit()
    control.round()
    report = control.report(job_id, Trigger.RUN_STARTED, started_ms=1, usage=((0, 10, 20),))
    for _ in range(2):
        assert control.sync(report).usage_stored == {report.lease_id: 0}
    end = replace(report, trigger=Trigger.RUN_SUCCEEDED, usage=((0, 10, 20), (1, 20, 25)))
    control.sync(end)
    control.sync(end)
    assert [(one.index, one.start_ms, one.end_ms) for one in control.store.usage_of(report.lease_id)] == [
        (0, 10, 20),
        (1, 20, 25),
    ]


def test_a_drained_hub_gets_nothing_new(control: ControlUnderTest) -> None:
    """What runs goes on; undo takes work again."""
    control.join()
    control.run(lambda unit: hubs.drain(unit, "cairo", "power cut", "test"))
    control.submit()
    assert control.round() == 0
    control.run(lambda unit: hubs.drain(unit, "cairo", "", "test", undo=True))
    assert control.round() == 1


def test_nodes_are_never_over_committed(control: ControlUnderTest) -> None:
    """Three jobs of two cpus on a machine of four: two run, one waits with a reason."""
    control.join(replace(an_agent(), nodes=(a_node(cpus=4),)))
    jobs = [control.submit(f"r{n}", per_task=some_resources(cpus=2)) for n in range(3)]
    control.round()
    states = [control.job(job_id).state for job_id in jobs]
    assert states == [JobState.LEASED, JobState.LEASED, JobState.QUEUED]
    assert control.round() == 0
    explanation = control.rounds.explain(control.job(jobs[2]))
    assert [reason.code for reason in explanation.reasons] == ["CAPACITY"]
    assert explanation.earliest_hub_id == "cairo"


def test_a_retried_job_runs_again_as_a_new_attempt(control: ControlUnderTest) -> None:
    """The old attempt's late word is told to be forgotten."""
    control.join()
    job_id = control.submit()
    control.round()
    first = control.report(job_id, Trigger.RUN_FAILED, reason=Reason("EXIT", "exit status 3"), exit_code=3)
    control.sync(first)
    control.run(lambda unit: retry(unit, find(unit, control.store, job_id), "test"))
    assert control.round() == 1
    job = control.job(job_id)
    assert (str(job.epoch), job.attempts) == ("1-2", 2)
    late = replace(first, trigger=Trigger.RUN_SUCCEEDED)
    assert control.sync(late).releases == [(first.lease_id, first.epoch)]
    assert control.job(job_id).state is JobState.LEASED


def test_a_job_names_its_run_in_mlflow(control: ControlUnderTest) -> None:
    """What the agent opened for the attempt is the job's; a new attempt starts without it."""
    control.join()
    job_id = control.submit()
    control.round()
    control.sync(control.report(job_id, Trigger.RUN_STARTED, started_ms=1, tracking_run_id="f00d"))
    control.sync(control.report(job_id, Trigger.RUN_FAILED, reason=Reason("EXIT_STATUS", "exit status 3")))
    assert control.job(job_id).tracking_run_id == "f00d"
    control.run(lambda unit: retry(unit, find(unit, control.store, job_id), "test"))
    assert control.job(job_id).tracking_run_id == ""


def test_an_accepted_run_that_its_hub_forgets_is_unknown(control: ControlUnderTest) -> None:
    """It had said yes and now knows nothing of it: nobody may guess what became of the program."""
    control.join()
    job_id = control.submit()
    control.round()
    control.sync(control.report(job_id, Trigger.RUN_ACCEPTED))
    control.sync(full=True)
    assert control.job(job_id).state is JobState.UNKNOWN


def test_a_hub_that_lost_a_run_is_asked_once(control: ControlUnderTest) -> None:
    """What it does not know it is not asked for again at every call, nor told to end; a cancel asks once more."""
    control.join()
    job_id = control.submit()
    control.round()
    report = control.report(job_id, Trigger.RUN_STARTED, started_ms=1)
    control.sync(report)
    assert control.sync(digest=digest_of([])).send_full
    control.sync(full=True)
    assert not control.sync(digest=digest_of([])).urgent
    found = control.sync(report, digest=digest_of([(report.lease_id, report.epoch)]))
    assert (found.urgent, control.job(job_id).state) == (False, JobState.RUNNING)
    control.sync(full=True)
    control.run(lambda unit: cancel(unit, find(unit, control.store, job_id), "", "test"))
    assert control.sync(digest=digest_of([])).send_full
    control.sync(full=True)
    assert control.job(job_id).state is JobState.CANCELLED


def test_a_guest_that_another_machine_does_not_know_has_not_ended(control: ControlUnderTest) -> None:
    """It was to make room before it began; the machine that may have begun it fell silent: nobody else runs it yet."""
    control.join(replace(an_agent(), reclaim_ms=0))
    guest = control.submit(
        "r1", Owner("shenzhen", "default", "local", "li"), preemptible=True, per_task=some_resources(cpus=4)
    )
    control.round()
    control.submit("r2", Owner("cairo", "default", "local", "amina"), per_task=some_resources(cpus=4))
    control.round()
    assert control.lease_of(guest).preempted
    control.pass_time(60_000)
    control.join(replace(an_agent(), instance_id="instance-2", session_id="session-2"))
    assert control.job(guest).state is JobState.UNKNOWN
