"""The wire under ill will, over real sockets: foreign sessions, numbers beyond the wire's own, callers who hang up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from federation.errors import Code, from_rpc_error
from federation.service.sync import digest_of
from federation.v1 import common_pb2, hub_pb2, job_pb2
from tests.support.plane import ADMIN, AISHA, CAIRO, SHENZHEN, Plane, Voice, a_plane, a_session, a_submit, a_wire_spec

pytestmark = pytest.mark.asyncio
SECRET = "hunter2-and-a-half"


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


def a_sync(session_id: str, seq: int = 1, hold_ms: int = 0, **changes: Any) -> hub_pb2.SyncHubRequest:
    """A heartbeat of an agent without runs."""
    return hub_pb2.SyncHubRequest(
        session_id=session_id, sync_seq=seq, runs_digest=digest_of(()), hold_ms=hold_ms, **changes
    )


async def a_running_job(aisha: Voice, cairo: Voice, session_id: str, spec: bytes) -> tuple[str, hub_pb2.RunReport]:
    """A job that Cairo says runs, and how it says so."""
    answer = await aisha.job("SubmitJobs", a_submit(spec))
    job_id = str(answer.results[0].job_id)
    lease = (await cairo.hub("SyncHub", a_sync(session_id, 1, 20_000))).leases[0]
    report = hub_pb2.RunReport(
        lease_id=lease.lease_id, job_id=job_id, epoch=lease.epoch, state=hub_pb2.RUN_STATE_RUNNING, started_ms=5
    )
    await cairo.hub("SyncHub", a_sync(session_id, 2, changed=[report]))
    return job_id, report


def held_by(report: hub_pb2.RunReport) -> str:
    """The digest of an agent that has this run alone."""
    return digest_of(((report.lease_id, f"{report.epoch.incarnation}-{report.epoch.n}"),))  # type: ignore[arg-type]


async def test_a_foreign_hub_cannot_send_a_held_call_home(plane: Plane) -> None:
    """Who knows a session's id and is not its hub is refused, and the held call goes on."""
    cairo = plane.voice(CAIRO)
    session = await cairo.hub("OpenSession", a_session())
    held = asyncio.ensure_future(cairo.hub("SyncHub", a_sync(session.session_id, 1, 20_000)))
    await asyncio.sleep(0.1)
    thief = plane.voice(SHENZHEN)
    assert await refused(thief.hub("SyncHub", a_sync(session.session_id, 2**62))) is Code.PERMISSION_DENIED
    await plane.voice(AISHA).job("SubmitJobs", a_submit(a_wire_spec()))
    answer = await asyncio.wait_for(held, 10)
    assert (answer.superseded, len(answer.leases)) == (False, 1)


async def test_two_nodes_of_one_name_are_refused_in_a_heartbeat_too(plane: Plane) -> None:
    """As when the session is opened; the hub's other work goes on."""
    cairo = plane.voice(CAIRO)
    session = await cairo.hub("OpenSession", a_session())
    twins = [a_session().nodes[0], a_session().nodes[0]]
    assert await refused(cairo.hub("SyncHub", a_sync(session.session_id, 1, nodes=twins))) is Code.INVALID_ARGUMENT
    await plane.voice(ADMIN).job("SubmitJobs", a_submit(a_wire_spec()))
    answer = await asyncio.wait_for(cairo.hub("SyncHub", a_sync(session.session_id, 2, 20_000)), 10)
    assert len(answer.leases) == 1


async def test_numbers_beyond_the_wire_are_refused_to_whoever_sent_them(plane: Plane) -> None:
    """A page or an attempt of forty digits is the reader's mistake, and does not spoil the hub's next answer."""
    cairo, aisha = plane.voice(CAIRO), plane.voice(AISHA)
    session = await cairo.hub("OpenSession", a_session())
    job_id, report = await a_running_job(aisha, cairo, session.session_id, a_wire_spec())
    for digits in (19, 30, 5_000):
        token = job_pb2.ListJobsRequest(page_token="9" * digits)
        assert await refused(aisha.job("ListJobs", token)) is Code.INVALID_ARGUMENT
    log = job_pb2.ReadLogsRequest(job_id=job_id, attempt="9" * 30 + "-1")
    assert await refused(aisha.job("ReadLogs", log)) is Code.INVALID_ARGUMENT
    beat = a_sync(session.session_id, 3)
    beat.runs_digest = held_by(report)
    assert (await cairo.hub("SyncHub", beat)).send_full is False


async def test_a_held_call_that_is_hung_up_leaves_nothing_behind(plane: Plane) -> None:
    """No held place, no listener, and a reader's wish goes out with the next call."""
    cairo, aisha = plane.voice(CAIRO), plane.voice(AISHA)
    session = await cairo.hub("OpenSession", a_session())
    job_id, report = await a_running_job(aisha, cairo, session.session_id, a_wire_spec())
    for seq in range(3, 23):
        beat = a_sync(session.session_id, seq, 20_000)
        beat.runs_digest = held_by(report)
        held = cairo.hubs.SyncHub(beat, metadata=cairo.metadata, timeout=30)
        await asyncio.sleep(0.02)
        held.cancel()
    reading = asyncio.ensure_future(aisha.job("ReadLogs", job_pb2.ReadLogsRequest(job_id=job_id, offset=3)))
    await asyncio.sleep(0.1)
    beat = a_sync(session.session_id, 99, 5_000)
    beat.runs_digest = held_by(report)
    (order,) = (await asyncio.wait_for(cairo.hub("SyncHub", beat), 10)).log_reads
    chunk = hub_pb2.PutLogChunkRequest(
        session_id=session.session_id, read_id=order.read_id, offset=3, data=b"lo", size_bytes=5, complete=True
    )
    await cairo.hub("PutLogChunk", chunk)
    assert (await asyncio.wait_for(reading, 10)).data == b"lo"
    assert not any(plane.plane.desk.switchboard._agents.values())


async def test_a_secret_is_in_the_hubs_bytes_and_nowhere_else(plane: Plane, caplog: pytest.LogCaptureFixture) -> None:
    """Not in a job's answers to its owner or to the federation's operators, not in events, not in logs."""
    caplog.set_level("DEBUG")
    cairo, aisha, admin = plane.voice(CAIRO), plane.voice(AISHA), plane.voice(ADMIN)
    session = await cairo.hub("OpenSession", a_session())
    spec = a_wire_spec(environment=job_pb2.Environment(secret_variables={"PASSWORD": SECRET}))
    bad = a_wire_spec("bad", environment=job_pb2.Environment(secret_variables={"BRHUB_X": SECRET}))
    said = [await aisha.job("SubmitJobs", a_submit(bad, first_id=7))]
    job_id, _ = await a_running_job(aisha, cairo, session.session_id, spec)
    for voice in (aisha, admin):
        said += [
            await voice.job("GetJob", job_pb2.GetJobRequest(job_id=job_id)),
            await voice.job("ListJobs", job_pb2.ListJobsRequest(all_owners=True)),
            await voice.job("ExplainJob", job_pb2.ExplainJobRequest(job_id=job_id)),
            await voice.job("CancelJob", job_pb2.CancelJobRequest(job_id=job_id)),
        ]
    watch = aisha.jobs.WatchJobs(job_pb2.WatchJobsRequest(job_ids=[job_id]), metadata=aisha.metadata)
    said.append(await watch.read())
    watch.cancel()
    said.append(await aisha.hub("GetHub", hub_pb2.GetHubRequest(hub_id="cairo")))
    assert all(SECRET.encode() not in message.SerializeToString() for message in said)
    events = plane.plane.desk.store.events_of("job", job_id, 100)
    assert events
    assert not any(SECRET in repr(event) for event in events)
    job = plane.plane.desk.store.get_job(job_id)
    assert job is not None
    assert SECRET.encode() in job.spec_bytes
    assert SECRET not in repr(job)
    assert SECRET not in caplog.text
    assert said[4].job.state == common_pb2.JOB_STATE_CANCELLING
