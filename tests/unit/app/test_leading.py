"""What stands between what is said and the wire where another control plane may lead."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest

from federation.console import ConsoleServer
from federation.v1 import common_pb2, job_pb2
from tests.support.console import a_console
from tests.support.plane import AISHA, a_plane, a_submit, a_wire_spec


class Deposed(Exception):
    """What stands for the end of a process."""


class Seat:
    """What stands for the leadership."""

    def __init__(self) -> None:
        self.leads = True

    def still(self) -> None:
        """Return while it leads."""
        if not self.leads:
            raise Deposed


@pytest.fixture
def seat(monkeypatch: pytest.MonkeyPatch) -> Seat:
    """Of the control planes that begin in the test."""
    seat = Seat()
    monkeypatch.setattr("federation.app.serving.leadership_of", lambda _: seat)
    return seat


async def test_neither_answer_nor_refusal_leaves_one_that_may_not_lead_any_more(seat: Seat, tmp_path: Path) -> None:
    """The leadership is looked at when there is something to say, not when the call comes; then that leaves, or nothing."""
    async with a_plane(tmp_path) as plane:
        aisha = plane.voice(AISHA)
        accepted = await aisha.job("SubmitJobs", a_submit(a_wire_spec()))
        there, nowhere = accepted.results[0].job_id, "job-nowhere"
        assert (await aisha.job("GetJob", job_pb2.GetJobRequest(job_id=there))).job.id == there
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await aisha.job("GetJob", job_pb2.GetJobRequest(job_id=nowhere))
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        seat.leads = False
        for job_id in (there, nowhere):
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await aisha.job("GetJob", job_pb2.GetJobRequest(job_id=job_id))
            assert (ended.value.code(), "Deposed" in (ended.value.details() or "")) == (grpc.StatusCode.UNKNOWN, True)


async def test_no_news_leaves_one_that_may_not_lead_any_more(seat: Seat, tmp_path: Path) -> None:
    """Each part of a stream is looked at by itself."""
    async with a_plane(tmp_path) as plane:
        aisha = plane.voice(AISHA)
        watch: Any = aisha.jobs.WatchJobs(job_pb2.WatchJobsRequest(), metadata=aisha.metadata, timeout=30)
        accepted = await aisha.job("SubmitJobs", a_submit(a_wire_spec()))
        job_id = accepted.results[0].job_id
        assert (await watch.read()).job.id == job_id
        seat.leads = False
        with pytest.raises(grpc.aio.AioRpcError):  # it is done all the same; nobody may be told
            await aisha.job("CancelJob", job_pb2.CancelJobRequest(job_id=job_id))
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            while True:
                assert (await watch.read()).job.state == common_pb2.JOB_STATE_QUEUED
        assert ended.value.code() is grpc.StatusCode.UNKNOWN


async def test_no_page_leaves_one_that_may_not_lead_any_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nor a part of one."""
    caplog.set_level(logging.CRITICAL, "uvicorn.error")
    seat = Seat()
    async with a_console(tmp_path) as console:
        server = ConsoleServer(console.desk, console.tokens, "127.0.0.1:0", None, seat.still)
        port = await server.start()
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
                first = await client.get("/login")
                seat.leads = False
                last = await client.get("/login")
        finally:
            await server.stop()
    assert (first.status_code, last.status_code, last.text) == (200, 500, "Internal Server Error")
