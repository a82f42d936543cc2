"""Forced release: an operator gives up what nobody can be asked about. It is written down, and never makes two live leases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from federation.console.figures import Figures
from federation.console.live import Live
from federation.domain.hub import LOST_AFTER_MS
from federation.domain.job import JobState, OutputFile
from federation.domain.lease import KILL_GRACE_MS, RELEASED, SKEW_BOUND_MS, LeaseState
from federation.errors import Code, FederationError, from_rpc_error
from federation.identity.principal import OPERATOR, Principal, PrincipalKind
from federation.lifecycle.job import Trigger
from federation.service.jobs import cancel, find, release
from federation.v1 import common_pb2, hub_pb2, job_pb2
from tests.support.builders import an_agent
from tests.support.eventually import eventually
from tests.support.plane import ADMIN, AISHA, BILAL, CAIRO, a_plane, a_session, a_submit, a_wire_spec
from tests.support.world import ControlUnderTest

WHY = "the rack burnt down"


@pytest.fixture
def control() -> Iterator[ControlUnderTest]:
    """A control plane with one hub; when the test ends, every promise must hold."""
    under_test = ControlUnderTest()
    under_test.join()
    yield under_test
    under_test.check()


def in_doubt(control: ControlUnderTest, **spec: Any) -> str:
    """A job that ran at a hub that has since lost its memory of it."""
    job_id = control.submit(**spec)
    control.round()
    control.sync(control.report(job_id, Trigger.RUN_STARTED))
    control.sync(full=True)
    assert control.job(job_id).state is JobState.UNKNOWN
    return job_id


def released(control: ControlUnderTest, job_id: str, force: bool = True) -> JobState:
    """Release it; its state afterwards."""
    return control.run(lambda unit: release(unit, find(unit, control.store, job_id), WHY, "local/root", force)).state


@pytest.mark.parametrize(
    ("spec", "cancelled", "expected"),
    [
        ({}, False, JobState.FAILED),
        ({"idempotent": True}, False, JobState.QUEUED),
        ({}, True, JobState.CANCELLED),
        ({"idempotent": True}, True, JobState.CANCELLED),
    ],
)
def test_it_becomes_what_its_owner_asked_for(
    control: ControlUnderTest, spec: dict[str, Any], cancelled: bool, expected: JobState
) -> None:
    """Queued again where it may run twice, cancelled where somebody cancelled it, else failed; its lease tells why it ended."""
    job_id = in_doubt(control, **spec)
    lease = control.lease_of(job_id)
    if cancelled:
        control.run(lambda unit: cancel(unit, find(unit, control.store, job_id), "", "test"))
        control.pass_time(LOST_AFTER_MS)  # its hub was asked to end it, and fell silent
    assert released(control, job_id) is expected
    ended = control.store.get_lease(lease.id)
    assert ended is not None
    assert (ended.state, ended.revoke_code) == (LeaseState.ENDED, RELEASED)
    assert control.world.lease_for(lease.job_id) is None


def test_who_and_why_are_written_down(control: ControlUnderTest) -> None:
    """The event has the operator, the reason, the attempt, and what may still happen."""
    job_id = in_doubt(control)
    released(control, job_id)
    event = control.store.events_of("job", job_id, 100)[-1]
    payload = json.loads(event.payload)
    assert (event.type, event.actor, event.cause) == ("ReleaseForced", "local/root", "ReleaseJob")
    assert (payload["from"], payload["to"], payload["code"], payload["attempt"]) == (
        "UNKNOWN",
        "FAILED",
        RELEASED,
        "1-1",
    )
    assert WHY in payload["why"]
    assert "its program may run at hub cairo until" in payload["why"]
    assert control.job(job_id).reason is not None


def test_a_released_job_that_may_run_twice_runs_again_under_a_later_lease(control: ControlUnderTest) -> None:
    """At once, not after the old lease's time; and the old attempt's words count for nothing from then on."""
    job_id = in_doubt(control, idempotent=True)
    before = control.report(job_id, Trigger.RUN_STARTED)
    old = control.lease_of(job_id)
    released(control, job_id)
    assert control.round() == 1
    new = control.lease_of(job_id)
    assert old.epoch < new.epoch
    orders = control.sync(before)
    assert [(one.lease_id, one.reason.code) for one in orders.revokes] == [(old.id, "LEASE_OVER")]
    assert control.job(job_id).state is JobState.LEASED


def test_a_late_success_of_a_released_attempt_is_not_taken(control: ControlUnderTest) -> None:
    """Its hub may forget it; the job stays failed and has no result."""
    job_id = in_doubt(control)
    late = control.report(
        job_id, Trigger.RUN_SUCCEEDED, outputs=(OutputFile("a", 1, "0" * 64),), ended_ms=control.clock.at_ms
    )
    released(control, job_id)
    orders = control.sync(late)
    job = control.job(job_id)
    assert (orders.releases, job.state, job.result_epoch) == ([(late.lease_id, late.epoch)], JobState.FAILED, None)


def test_what_a_hub_can_be_asked_about_is_not_released(control: ControlUnderTest) -> None:
    """While its hub is heard a job is cancelled; once the hub is LOST it may be released, whatever it was doing."""
    job_id = control.submit()
    control.round()
    control.sync(control.report(job_id, Trigger.RUN_STARTED))
    with pytest.raises(FederationError) as caught:
        released(control, job_id)
    assert caught.value.code is Code.ILLEGAL_TRANSITION
    assert "Cancel it" in caught.value.hint
    control.pass_time(LOST_AFTER_MS)
    assert released(control, job_id) is JobState.FAILED


def test_without_force_only_the_risk_is_said(control: ControlUnderTest) -> None:
    """And it is another one when the lease is long over."""
    job_id = in_doubt(control)
    lease = control.lease_of(job_id)
    said = []
    for pass_ms in (0, lease.expires_ms + KILL_GRACE_MS + SKEW_BOUND_MS - control.clock.at_ms):
        control.pass_time(pass_ms)
        with pytest.raises(FederationError) as caught:
            released(control, job_id, force=False)
        assert caught.value.code is Code.INVALID_ARGUMENT
        said.append(caught.value.message)
    assert "its program may run at hub cairo until" in said[0]
    assert "should have ended it" in said[1]
    assert control.job(job_id).state is JobState.UNKNOWN


def test_repeating_a_release_changes_nothing(control: ControlUnderTest) -> None:
    """The same answer and no second event; what never had a lease has nothing to release."""
    job_id = in_doubt(control)
    states = [released(control, job_id), released(control, job_id, force=False)]
    assert states == [JobState.FAILED] * 2
    events = [event.type for event in control.store.events_of("job", job_id, 100)]
    assert events.count("ReleaseForced") == 1
    other = control.submit("r2")
    with pytest.raises(FederationError) as caught:
        released(control, other)
    assert caught.value.code is Code.ILLEGAL_TRANSITION


def test_its_room_is_free_at_once(control: ControlUnderTest) -> None:
    """The hub's own admission has the last word on whether it truly is."""
    job_id = in_doubt(control)
    released(control, job_id)
    assert control.world.held_by(an_agent().key) == []


@pytest.mark.asyncio
async def test_who_may_release_over_the_wire(tmp_path: Path) -> None:
    """Operators of the home hub and of the hub that holds it, administrators; not the owner, not others, not agents."""
    home = Principal(PrincipalKind.USER, "local", "hana", AISHA.home_hub, ("default",), (OPERATOR,))
    other = Principal(PrincipalKind.USER, "local", "olga", "shenzhen", ("default",), (OPERATOR,))
    async with a_plane(tmp_path) as plane:
        agent, owner = plane.voice(CAIRO), plane.voice(AISHA)
        session = await agent.hub("OpenSession", a_session())
        jobs = []
        for n in range(3):
            answer = await owner.job("SubmitJobs", a_submit(a_wire_spec(), first_id=n))
            jobs.append(answer.results[0].job_id)
        desk = plane.plane.desk
        figures = Figures(desk, Live(desk))
        desk.switchboard.watch_jobs(figures.hear)
        eventually(lambda: len(desk.world.leases) == 3, 60)
        for seq in (1, 2):
            leases = list(desk.world.leases.values())
            runs = [
                hub_pb2.RunReport(
                    lease_id=one.id,
                    job_id=one.job_id,
                    epoch=common_pb2.Epoch(incarnation=one.epoch.incarnation, n=one.epoch.n),
                    state=hub_pb2.RUN_STATE_RUNNING,
                )
                for one in leases
            ]
            await agent.hub(
                "SyncHub",
                hub_pb2.SyncHubRequest(
                    session_id=session.session_id, sync_seq=seq, changed=runs if seq == 1 else [], full=seq == 2
                ),
            )
        said: list[object] = []
        for who in (AISHA, other, CAIRO, home, BILAL, ADMIN):
            request = job_pb2.ReleaseJobRequest(job_id=jobs[len(said) % 3], reason=WHY, force=True)
            try:
                answer = await plane.voice(who).job("ReleaseJob", request)
                said.append(common_pb2.JobState.Name(answer.job.state))
            except grpc.aio.AioRpcError as problem:
                said.append(from_rpc_error(problem).code)
        denied = Code.PERMISSION_DENIED
        assert said == [denied, Code.JOB_NOT_FOUND, denied, *["JOB_STATE_FAILED"] * 3]
        for reason in ("", " ", "x" * 501):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await plane.voice(ADMIN).job("ReleaseJob", job_pb2.ReleaseJobRequest(job_id=jobs[0], reason=reason))
            assert from_rpc_error(caught.value).code is Code.INVALID_ARGUMENT
        assert b'brhub_jobs_released_by_force_total{hub="cairo"} 3.0' in await figures.exposition()
