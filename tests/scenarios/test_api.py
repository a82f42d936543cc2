"""The wire's promises, over real sockets: who may see what, held syncs, logs, one answer for one request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from federation.app.settings import Tls
from federation.domain.hub import LinkState
from federation.errors import Code, from_rpc_error
from federation.service.sync import digest_of
from federation.service.world import Unit
from federation.v1 import common_pb2, hub_pb2, job_pb2
from tests.support.certificates import CertificateAuthority
from tests.support.plane import (
    ADMIN,
    AISHA,
    BILAL,
    CAIRO,
    SHENZHEN,
    Plane,
    Voice,
    a_plane,
    a_session,
    a_submit,
    a_wire_spec,
)

pytestmark = pytest.mark.asyncio


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    """A control plane for one test."""
    async with a_plane(tmp_path) as running:
        yield running


async def refused(call: Any) -> Code:
    """The code with which `call` is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value).code


async def next_of(watch: Any) -> job_pb2.Job:
    """The next job that a watcher is told of."""
    answer: job_pb2.WatchJobsResponse = await watch.read()
    return answer.job


async def submitted(voice: Voice) -> str:
    """One accepted job."""
    answer = await voice.job("SubmitJobs", a_submit(a_wire_spec()))
    return str(answer.results[0].job_id)


def empty_sync(session_id: str, seq: int = 1, hold_ms: int = 0, runs: tuple[Any, ...] = ()) -> hub_pb2.SyncHubRequest:
    """A heartbeat with nothing to say."""
    return hub_pb2.SyncHubRequest(session_id=session_id, sync_seq=seq, hold_ms=hold_ms, runs_digest=digest_of(runs))


async def test_nobody_without_a_token_is_heard(plane: Plane) -> None:
    """No token, and a token that is not known, are the same."""
    nobody = plane.voice(None)
    assert await refused(nobody.job("ListJobs", job_pb2.ListJobsRequest())) is Code.UNAUTHENTICATED
    nobody.metadata = (("authorization", "Bearer brhub_user_guess"),)
    assert await refused(nobody.job("ListJobs", job_pb2.ListJobsRequest())) is Code.UNAUTHENTICATED


async def test_a_person_sees_their_own_jobs_only(plane: Plane) -> None:
    """Somebody else's job is answered like one that does not exist, by every read and every write."""
    aisha, bilal, admin = plane.voice(AISHA), plane.voice(BILAL), plane.voice(ADMIN)
    job_id = await submitted(aisha)
    calls = {
        "GetJob": job_pb2.GetJobRequest(job_id=job_id),
        "CancelJob": job_pb2.CancelJobRequest(job_id=job_id),
        "RetryJob": job_pb2.RetryJobRequest(job_id=job_id),
        "ExplainJob": job_pb2.ExplainJobRequest(job_id=job_id),
        "ReadLogs": job_pb2.ReadLogsRequest(job_id=job_id),
        "ListResults": job_pb2.ListResultsRequest(job_id=job_id),
    }
    assert {await refused(bilal.job(method, request)) for method, request in calls.items()} == {Code.JOB_NOT_FOUND}
    assert (await admin.job("GetJob", calls["GetJob"])).job.owner.subject == "aisha"
    assert len((await bilal.job("ListJobs", job_pb2.ListJobsRequest(all_owners=True))).jobs) == 0
    assert len((await admin.job("ListJobs", job_pb2.ListJobsRequest(all_owners=True))).jobs) == 1
    watch = bilal.jobs.WatchJobs(job_pb2.WatchJobsRequest(job_ids=[job_id]), metadata=bilal.metadata)
    assert await refused(watch.read()) is Code.JOB_NOT_FOUND


async def test_a_person_is_not_an_agent_and_an_agent_is_its_own_hubs(plane: Plane) -> None:
    """A user's token opens no session, a hub's token none for another hub, and none submits jobs."""
    assert await refused(plane.voice(AISHA).hub("OpenSession", a_session())) is Code.PERMISSION_DENIED
    assert await refused(plane.voice(SHENZHEN).hub("OpenSession", a_session("cairo"))) is Code.PERMISSION_DENIED
    assert await refused(plane.voice(CAIRO).job("SubmitJobs", a_submit(a_wire_spec()))) is Code.PERMISSION_DENIED


async def test_one_hub_cannot_speak_in_anothers_session(plane: Plane) -> None:
    """Knowing a session id is not enough."""
    session = await plane.voice(CAIRO).hub("OpenSession", a_session())
    thief = plane.voice(SHENZHEN)
    assert await refused(thief.hub("SyncHub", empty_sync(session.session_id))) is Code.PERMISSION_DENIED
    chunk = hub_pb2.PutLogChunkRequest(session_id=session.session_id, read_id="read-1", data=b"x")
    assert await refused(thief.hub("PutLogChunk", chunk)) is Code.SESSION_UNKNOWN


async def test_only_operators_drain_their_hub(plane: Plane) -> None:
    """Bilal operates Cairo; Aisha operates nothing."""
    await plane.voice(CAIRO).hub("OpenSession", a_session())
    request = hub_pb2.DrainHubRequest(hub_id="cairo", note="power cut")
    assert await refused(plane.voice(AISHA).hub("DrainHub", request)) is Code.PERMISSION_DENIED
    answer = await plane.voice(BILAL).hub("DrainHub", request)
    assert answer.hub.state == hub_pb2.HUB_STATE_DRAINING


async def test_the_policy_in_force_is_no_secret_of_people_but_of_agents(plane: Plane) -> None:
    """Whoever may have jobs may know what decides about them; a hub's agent needs it for nothing."""
    request = hub_pb2.GetPolicyRequest()
    policy = (await plane.voice(AISHA).hub("GetPolicy", request)).policy
    assert (policy.within_user, policy.backfill, policy.shipped) == ("age", "conservative", True)
    assert await refused(plane.voice(CAIRO).hub("GetPolicy", request)) is Code.PERMISSION_DENIED


async def test_a_batch_is_answered_member_by_member(plane: Plane) -> None:
    """A bad spec, a project that is not the caller's, and one id with two bodies fail alone."""
    aisha = plane.voice(AISHA)
    request = a_submit(a_wire_spec(), b"\xff\xff", a_wire_spec(project="nobodys"), a_wire_spec())
    request.submissions[3].request_id = "r1"
    request.submissions.add(request_id="r1", spec=a_wire_spec("other"))
    answer = await aisha.job("SubmitJobs", request)
    assert [one.problem.code for one in answer.results] == [
        "",
        "INVALID_ARGUMENT",
        "PERMISSION_DENIED",
        "",
        "REQUEST_ID_REUSED",
    ]
    assert answer.results[0].job_id == answer.results[3].job_id
    assert answer.results[1].problem.fault == "caller"


async def test_a_held_sync_leaves_with_the_order(plane: Plane) -> None:
    """An agent waits; a job comes; the answer carries its lease with the bytes as they were sent."""
    cairo = plane.voice(CAIRO)
    session = await cairo.hub("OpenSession", a_session())
    held = asyncio.ensure_future(cairo.hub("SyncHub", empty_sync(session.session_id, hold_ms=20_000)))
    job_id = await submitted(plane.voice(AISHA))
    answer = await asyncio.wait_for(held, 10)
    assert [(lease.job_id, lease.spec) for lease in answer.leases] == [(job_id, a_wire_spec())]
    assert answer.incarnation == session.incarnation
    assert answer.orders_revision > 0


async def test_a_newer_sync_sends_the_held_one_home(plane: Plane) -> None:
    """The older call ends at once, says that it was superseded, and carries no orders."""
    cairo = plane.voice(CAIRO)
    session = await cairo.hub("OpenSession", a_session())
    older = asyncio.ensure_future(cairo.hub("SyncHub", empty_sync(session.session_id, 1, 20_000)))
    await asyncio.sleep(0.1)
    newer = await cairo.hub("SyncHub", empty_sync(session.session_id, 2))
    answer = await asyncio.wait_for(older, 10)
    assert (answer.superseded, list(answer.leases), newer.superseded) == (True, [], False)


async def test_an_older_sync_that_comes_late_is_not_answered_with_orders(plane: Plane) -> None:
    """The network may turn calls round: the one with the smaller number is sent home."""
    cairo = plane.voice(CAIRO)
    session = await cairo.hub("OpenSession", a_session())
    newer = asyncio.ensure_future(cairo.hub("SyncHub", empty_sync(session.session_id, 2, 3_000)))
    await asyncio.sleep(0.1)
    late = await cairo.hub("SyncHub", empty_sync(session.session_id, 1, 20_000))
    assert late.superseded is True
    assert (await newer).superseded is False


async def test_a_log_is_read_through_the_agents_next_answer(plane: Plane) -> None:
    """The reader's offset goes out with the held sync, the bytes come back by PutLogChunk."""
    cairo, aisha = plane.voice(CAIRO), plane.voice(AISHA)
    session = await cairo.hub("OpenSession", a_session())
    job_id = await submitted(aisha)
    answer = await cairo.hub("SyncHub", empty_sync(session.session_id, 1, 20_000))
    lease = answer.leases[0]
    report = hub_pb2.RunReport(
        lease_id=lease.lease_id, job_id=job_id, epoch=lease.epoch, state=hub_pb2.RUN_STATE_RUNNING, started_ms=5
    )
    runs = ((lease.lease_id, f"{lease.epoch.incarnation}-{lease.epoch.n}"),)
    sync = empty_sync(session.session_id, 2, 20_000, runs)
    sync.changed.append(report)
    held = asyncio.ensure_future(cairo.hub("SyncHub", sync))
    watch = aisha.jobs.WatchJobs(job_pb2.WatchJobsRequest(job_ids=[job_id]), metadata=aisha.metadata)
    while (await next_of(watch)).state != common_pb2.JOB_STATE_RUNNING:
        continue
    watch.cancel()
    reading = asyncio.ensure_future(aisha.job("ReadLogs", job_pb2.ReadLogsRequest(job_id=job_id, offset=3)))
    order = (await asyncio.wait_for(held, 10)).log_reads[0]
    assert (order.job_id, order.offset) == (job_id, 3)
    await cairo.hub(
        "PutLogChunk",
        hub_pb2.PutLogChunkRequest(
            session_id=session.session_id, read_id=order.read_id, offset=3, data=b"lo", size_bytes=5, complete=True
        ),
    )
    log = await asyncio.wait_for(reading, 10)
    assert (log.data, log.next_offset, log.complete) == (b"lo", 5, True)


async def test_a_watcher_sees_each_change_once_and_in_order(plane: Plane) -> None:
    """The present state first, then changes; revisions only grow."""
    aisha = plane.voice(AISHA)
    job_id = await submitted(aisha)
    watch = aisha.jobs.WatchJobs(job_pb2.WatchJobsRequest(job_ids=[job_id]), metadata=aisha.metadata)
    first = await next_of(watch)
    await aisha.job("CancelJob", job_pb2.CancelJobRequest(job_id=job_id))
    second = await next_of(watch)
    watch.cancel()
    assert [one.state for one in (first, second)] == [common_pb2.JOB_STATE_QUEUED, common_pb2.JOB_STATE_CANCELLED]
    assert first.revision < second.revision


async def test_pages_of_jobs_hold_each_once(plane: Plane) -> None:
    """Newest first, no gap, no repeat."""
    aisha = plane.voice(AISHA)
    await aisha.job("SubmitJobs", a_submit(*(a_wire_spec(f"job-{n}") for n in range(7))))
    names, token = [], ""
    while True:
        page = await aisha.job("ListJobs", job_pb2.ListJobsRequest(page_size=3, page_token=token))
        names += [job.spec.name for job in page.jobs]
        token = page.next_page_token
        if not token:
            break
    assert names == [f"job-{n}" for n in reversed(range(7))]


async def test_a_list_tells_each_attempt_where_it_is_asked_to(plane: Plane) -> None:
    """One that was cancelled while it waited, and the retry that waits now; without asking, none."""
    aisha = plane.voice(AISHA)
    job_id = await submitted(aisha)
    await aisha.job("CancelJob", job_pb2.CancelJobRequest(job_id=job_id))
    retried = (await aisha.job("RetryJob", job_pb2.RetryJobRequest(job_id=job_id))).job
    (job,) = (await aisha.job("ListJobs", job_pb2.ListJobsRequest(each_attempt=True))).jobs
    assert [(one.asked, one.queued_ms, one.started_ms, one.hub_id) for one in job.each_attempt] == [
        (True, job.created_ms, 0, ""),
        (True, retried.state_since_ms, 0, ""),
    ]
    (plain,) = (await aisha.job("ListJobs", job_pb2.ListJobsRequest())).jobs
    assert len(plain.each_attempt) == 0


async def test_a_dry_run_says_where_and_leaves_nothing(plane: Plane) -> None:
    """The spec is explained and not kept."""
    await plane.voice(CAIRO).hub("OpenSession", a_session())
    aisha = plane.voice(AISHA)
    answer = await aisha.job("ExplainJob", job_pb2.ExplainJobRequest(spec=a_wire_spec()))
    assert [(reason.hub_id, reason.code) for reason in answer.reasons] == [("cairo", "WOULD_RUN")]
    assert len((await aisha.job("ListJobs", job_pb2.ListJobsRequest())).jobs) == 0


@pytest.mark.parametrize(
    ("method", "request_message", "code"),
    [
        ("GetJob", job_pb2.GetJobRequest(job_id="job-nowhere"), Code.JOB_NOT_FOUND),
        ("ListJobs", job_pb2.ListJobsRequest(page_size=5_000), Code.INVALID_ARGUMENT),
        ("ListJobs", job_pb2.ListJobsRequest(page_token="x"), Code.INVALID_ARGUMENT),
        ("CreateUpload", job_pb2.CreateUploadRequest(digest="a" * 64, size_bytes=65 << 20), Code.LIMIT_EXCEEDED),
        ("CreateUpload", job_pb2.CreateUploadRequest(digest="../x", size_bytes=1), Code.INVALID_ARGUMENT),
        ("CreateUpload", job_pb2.CreateUploadRequest(digest="a" * 64, size_bytes=1), Code.STORE_UNAVAILABLE),
        ("ExplainJob", job_pb2.ExplainJobRequest(), Code.INVALID_ARGUMENT),
        ("ReadLogs", job_pb2.ReadLogsRequest(job_id="x", offset=-1), Code.OFFSET_OUT_OF_RANGE),
    ],
)
async def test_a_wrong_request_is_refused_with_a_code(
    plane: Plane, method: str, request_message: Any, code: Code
) -> None:
    """Each names what is wrong."""
    assert await refused(plane.voice(AISHA).job(method, request_message)) is code


async def test_a_batch_too_large_is_refused_whole(plane: Plane) -> None:
    """At the limit accepted, past it refused, and nothing of it kept."""
    aisha = plane.voice(AISHA)
    answer = await aisha.job("SubmitJobs", a_submit(*([a_wire_spec()] * 1_000)))
    assert {one.problem.code for one in answer.results} == {""}
    assert (
        await refused(aisha.job("SubmitJobs", a_submit(*([a_wire_spec()] * 1_001), first_id=5_000)))
        is Code.LIMIT_EXCEEDED
    )


async def test_tls_from_certificate_files(tmp_path: Path) -> None:
    """Whoever trusts the authority is served; a caller in the clear is not."""
    authority = CertificateAuthority(tmp_path)
    pair = authority.server()
    tls = Tls(str(pair.certificate), str(pair.key))
    async with a_plane(tmp_path, tls=tls, roots=authority.ca_file.read_bytes()) as running:
        assert await submitted(running.voice(AISHA))
        async with grpc.aio.insecure_channel(f"localhost:{running.plane.ports['grpc']}") as channel:
            plain = Plane(running.plane, channel).voice(AISHA)
            assert await refused(plain.job("ListJobs", job_pb2.ListJobsRequest())) in (Code.UNREACHABLE, Code.TIMED_OUT)


async def test_a_job_that_does_not_wait_has_nothing_to_wait_for(plane: Plane) -> None:
    """While it runs, Explain names the hub that has it, and says so when that is not heard."""
    await plane.voice(CAIRO).hub("OpenSession", a_session())
    aisha = plane.voice(AISHA)
    job_id = await submitted(aisha)
    watch = aisha.jobs.WatchJobs(job_pb2.WatchJobsRequest(job_ids=[job_id]), metadata=aisha.metadata)
    while (await next_of(watch)).state != common_pb2.JOB_STATE_LEASED:
        continue
    watch.cancel()
    explain = job_pb2.ExplainJobRequest(job_id=job_id)
    runs = await aisha.job("ExplainJob", explain)
    assert [(reason.hub_id, reason.code) for reason in runs.reasons] == [("cairo", "RUNNING")]
    assert "as far as anybody knows" not in runs.reasons[0].message
    desk = plane.plane.desk

    def silent(unit: Unit) -> None:
        for agent in list(unit.world.agents.values()):
            unit.put_agent(replace(agent, link=LinkState.LOST), save=False)

    await asyncio.to_thread(desk.writer.run, silent)
    (there,) = (await aisha.job("ExplainJob", explain)).reasons
    assert (there.code, "its hub is LOST" in there.message) == ("RUNNING", True)
