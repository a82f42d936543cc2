"""Messages that are too large, in number and in bytes: refused with a code, or told in parts; others are served meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from federation.api.hubs import REPORTS_MAX, RESULT_FILES_MAX, USAGE_MAX
from federation.app.serving import MESSAGE_BYTES_MAX
from federation.archive.limits import PATH_BYTES_MAX
from federation.client import Client, Settings, transport
from federation.errors import Code, FederationError, from_rpc_error
from federation.v1 import common_pb2, hub_pb2, job_pb2
from hub_node.conversation import TOLD_USE_MAX, Call, Conversation, Introduction, Truth
from hub_node.data import results
from hub_node.ports import RELEASED_MAX, RUNS_MAX
from hub_node.reconcile import USAGE_TOLD_MAX
from hub_node.records import OutputFile, Run, RunState
from tests.support.plane import AISHA, CAIRO, Plane, a_plane, a_session, a_submit, a_wire_spec
from tests.unit.hub_node.runs import a_run

STALL_S_MAX = 10.0
"""Of a caller beside the largest message that is taken: 1.2 s was measured on two busy cores."""


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    """A control plane for one test."""
    async with a_plane(tmp_path, store=f"sqlite:///{tmp_path / 'federation.db'}") as running:
        yield running


def unknown(count: int) -> list[hub_pb2.RunReport]:
    """Runs that no control plane ever heard of."""
    return [
        hub_pb2.RunReport(
            lease_id=f"lease-{n:026d}",
            job_id=f"job-{n:026d}",
            epoch=common_pb2.Epoch(incarnation=1, n=n + 1),
            state=hub_pb2.RUN_STATE_RUNNING,
            usage=[hub_pb2.UsageInterval(index=0, start_ms=1, end_ms=2)],
        )
        for n in range(count)
    ]


async def beside(plane: Plane, call: Any) -> tuple[Any, float]:
    """What `call` answers or is refused with, and the longest that a submit took meanwhile, s."""
    voice, longest_s, n = plane.voice(AISHA), 0.0, 0
    task = asyncio.ensure_future(call)
    while not task.done():
        began_s = time.monotonic()
        await voice.job("SubmitJobs", a_submit(a_wire_spec(), first_id=n))
        longest_s, n = max(longest_s, time.monotonic() - began_s), n + 1
    try:
        return await task, longest_s
    except grpc.aio.AioRpcError as problem:
        return from_rpc_error(problem), longest_s


def test_both_sides_know_the_same_limits() -> None:
    """What an agent may have to tell fits, in number; and a message has one size for all."""
    assert REPORTS_MAX == RUNS_MAX + RELEASED_MAX
    assert (USAGE_MAX, RESULT_FILES_MAX) == (USAGE_TOLD_MAX, results.RESULT_FILES_MAX)
    assert transport.MESSAGE_BYTES_MAX == MESSAGE_BYTES_MAX


@pytest.mark.asyncio
@pytest.mark.parametrize(("count", "taken"), [(REPORTS_MAX, True), (REPORTS_MAX + 1, False), (100_000, False)])
async def test_a_sync_with_very_many_unknown_runs(plane: Plane, count: int, taken: bool) -> None:
    """At the limit each is told to end; past it the whole is refused before the writer hears of it. Others go on."""
    agent = plane.voice(CAIRO)
    session = await agent.hub("OpenSession", a_session())
    request = hub_pb2.SyncHubRequest(session_id=session.session_id, sync_seq=1, changed=unknown(count))
    said, longest_s = await beside(plane, agent.hub("SyncHub", request))
    if taken:
        assert (len(said.revokes), {one.reason.code for one in said.revokes}) == (count, {"LEASE_OVER"})
        assert said.ByteSize() < MESSAGE_BYTES_MAX
    else:
        assert said.code is Code.LIMIT_EXCEEDED
    assert longest_s < STALL_S_MAX


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("stretches", "files", "path_bytes", "field"),
    [
        (USAGE_MAX, RESULT_FILES_MAX, PATH_BYTES_MAX, ""),
        (USAGE_MAX + 1, 0, 1, "usage"),
        (0, RESULT_FILES_MAX + 1, 1, "outputs"),
        (0, 1, PATH_BYTES_MAX + 1, "outputs.path"),
    ],
)
async def test_one_report_says_no_more_than_an_agent_has_to(
    plane: Plane, stretches: int, files: int, path_bytes: int, field: str
) -> None:
    """At the limits it is heard; past one the whole is refused by its name, when a session opens and later."""
    (report,) = unknown(1)
    del report.usage[:]
    report.usage.extend(hub_pb2.UsageInterval(index=n, start_ms=n, end_ms=n + 1) for n in range(stretches))
    report.outputs.extend(hub_pb2.OutputFile(path="x" * path_bytes) for _ in range(files))
    agent = plane.voice(CAIRO)
    session = await agent.hub("OpenSession", a_session())
    sync = hub_pb2.SyncHubRequest(session_id=session.session_id, sync_seq=1, changed=[report])
    if not field:
        assert len((await agent.hub("SyncHub", sync)).revokes) == 1
        return
    opening = a_session()
    opening.runs.append(report)
    for method, request, name in (("SyncHub", sync, "changed"), ("OpenSession", opening, "runs")):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await agent.hub(method, request)
        said = from_rpc_error(caught.value)
        assert (said.code, said.metadata["field"]) == (Code.LIMIT_EXCEEDED, f"{name}.{field}")


@pytest.mark.asyncio
async def test_a_message_of_too_many_bytes_is_refused_in_words(plane: Plane) -> None:
    """By the server of whoever sends it all the same, and by our own client before it is sent."""
    request = job_pb2.CancelJobRequest(job_id="job-1", note="x" * (MESSAGE_BYTES_MAX + 1))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await plane.voice(AISHA).job("CancelJob", request)
    said = from_rpc_error(caught.value)
    assert (said.code, f"at most {MESSAGE_BYTES_MAX:,} are taken" in said.message) == (Code.LIMIT_EXCEEDED, True)
    settings = Settings(f"127.0.0.1:{plane.plane.ports['grpc']}", plane.plane.tokens.issue(AISHA))

    def ours() -> FederationError:
        with Client(settings) as client, pytest.raises(FederationError) as refused:
            client.cancel("job-1", "x" * (MESSAGE_BYTES_MAX + 1))
        return refused.value

    said = await asyncio.to_thread(ours)
    assert (said.code, f"at most {MESSAGE_BYTES_MAX:,} are taken" in said.message) == (Code.LIMIT_EXCEEDED, True)
    assert "Send less" in said.hint


def test_what_a_long_cut_left_to_tell_is_told_in_parts() -> None:
    """400 ends with a thousand files each, 40 MiB: every message fits, each run is named in the first, each end is told once."""
    files = tuple(OutputFile(f"part-{n:05d}.parquet", n, "0" * 64) for n in range(1_000))
    runs: dict[str, Run] = {}
    for n in range(400):
        run = a_run(f"job-{n}", state=RunState.ENDED, outputs=files)
        runs[run.lease_id] = run
    talk = Conversation(Introduction("cairo", "main", "i", "", (), ()), lambda _: 0)
    opening = talk.opening(Truth(runs), (), 0)
    talk.opened(Truth(runs), hub_pb2.OpenSessionResponse(session_id="s"))
    assert [report.lease_id for report in opening.runs] == list(runs)
    told: list[str] = []
    sizes = [opening.ByteSize()]
    while runs:
        call, request = talk.call(Truth(runs), (), 0, 0)
        sizes.append(request.ByteSize())
        ended = [one.lease_id for one in request.changed if one.state == hub_pb2.RUN_STATE_ENDED]
        assert all(len(one.outputs) == 1_000 for one in request.changed)
        told += ended
        runs = {lease_id: run for lease_id, run in runs.items() if lease_id not in ended}
        talk.answered(call, hub_pb2.SyncHubResponse(), Truth(runs))
        assert ended, "something is told each time"
    assert (len(told), len(set(told)), max(sizes) < MESSAGE_BYTES_MAX, len(sizes) > 3) == (400, 400, True, True)


def test_a_restored_control_plane_is_told_every_end_in_parts() -> None:
    """300 with a thousand files each: none is left out, "that is all" comes with the last, a lost answer repeats a part."""
    files = tuple(OutputFile(f"part-{n:05d}.parquet", n, "0" * 64) for n in range(1_000))
    released = tuple(a_run(f"job-{n}", state=RunState.ENDED, outputs=files) for n in range(300))
    truth = Truth({}, released=released)
    talk = Conversation(Introduction("cairo", "main", "i", "", (), ()), lambda _: 0)
    wants_all = hub_pb2.SyncHubResponse(send_full=True, send_all=True)

    def part() -> tuple[Call, hub_pb2.SyncHubRequest]:
        call, request = talk.call(truth, (), 0, 0)
        assert request.ByteSize() < MESSAGE_BYTES_MAX
        assert all(one.released for one in request.changed)
        return call, request

    for _ in range(2):
        talk.opened(truth, hub_pb2.OpenSessionResponse(session_id="s"))
        talk.answered(part()[0], wants_all, truth)
        _, lost = part()
        told: list[str] = []
        while not told or len(told) < len(released):
            call, request = part()
            assert request.changed if told else request.changed == lost.changed
            told += [one.lease_id for one in request.changed]
            assert request.tells_all == (len(told) == len(released))
            talk.answered(call, wants_all, truth)
        assert told == [run.lease_id for run in released]


def test_a_restored_control_plane_is_told_all_use_of_a_long_run() -> None:
    """Twenty hours, of which the one before had stored eighteen: every stretch from the first on, in one answer."""
    hour_ms = 3_600_000
    run = a_run("job-1", state=RunState.RUNNING, accepted_ms=1, started_ms=1, usage_stored=18 * 12 - 1)
    runs = {run.lease_id: run}
    talk = Conversation(Introduction("cairo", "main", "i", "", (), ()), lambda _: 0)
    talk.opened(Truth(runs), hub_pb2.OpenSessionResponse(session_id="s"))
    call, _ = talk.call(Truth(runs), (), 0, 20 * hour_ms + 1)
    talk.answered(call, hub_pb2.SyncHubResponse(send_full=True, send_all=True), Truth(runs))
    _, told = talk.call(Truth(runs, released=()), (), 0, 20 * hour_ms + 1)
    assert [one.index for one in told.changed[0].usage] == list(range(20 * 12))


def test_a_restored_control_plane_is_told_the_use_of_many_long_runs_in_parts() -> None:
    """A hundred runs of a month: each with all its use once, "that is all" with the last, and a lost answer repeats a part."""
    now_ms = 31 * 24 * 3_600_000
    runs = {}
    for n in range(100):
        run = a_run(f"job-{n}", state=RunState.RUNNING, accepted_ms=1, started_ms=1, usage_stored=8_000)
        runs[run.lease_id] = run
    truth = Truth(runs, released=(a_run("job-over", state=RunState.ENDED),))
    talk = Conversation(Introduction("cairo", "main", "i", "", (), ()), lambda _: 0)
    talk.opened(truth, hub_pb2.OpenSessionResponse(session_id="s"))
    wants_all = hub_pb2.SyncHubResponse(send_full=True, send_all=True)
    talk.answered(talk.call(truth, (), 0, now_ms)[0], wants_all, truth)
    told: list[str] = []
    _, lost = talk.call(truth, (), 0, now_ms)
    while True:
        call, request = talk.call(truth, (), 0, now_ms)
        assert told or request.changed == lost.changed
        assert request.full
        assert len(request.changed) == len(runs) + request.tells_all
        with_lease = [one for one in request.changed if one.HasField("lease")]
        assert {len(one.usage) for one in with_lease} == {31 * 24 * 12 - 1}
        assert sum(len(one.usage) for one in with_lease) <= TOLD_USE_MAX
        assert request.ByteSize() < MESSAGE_BYTES_MAX
        told += [one.lease_id for one in with_lease]
        talk.answered(call, wants_all, truth)
        if request.tells_all:
            break
    assert (told, [one.job_id for one in request.changed if one.released]) == (list(runs), ["job-over"])
