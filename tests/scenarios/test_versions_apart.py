"""Agents and control planes of neighbouring versions: what one does not know of the other's words does no harm.

The older and the newer side are played by their own descriptors (`tests/support/other_wire.py`), against the real service
over real sockets. Too far apart, each is refused with a code, and told which side to upgrade.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from federation.errors import Code, from_rpc_error
from federation.lifecycle.agent import PROTOCOL_MAX, PROTOCOL_MIN, negotiated
from federation.v1 import common_pb2, hub_pb2, job_pb2
from hub_node.conversation import Conversation, Introduction, Truth
from tests.support.other_wire import BEFORE, FUTURE_VALUE, TODAY, Wire, later, read
from tests.support.plane import AISHA, CAIRO, Plane, a_plane, a_submit, a_wire_spec

OLDER, NEWER = Wire(read(BEFORE)), Wire(later(read(TODAY)))


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    """A control plane that listens."""
    async with a_plane(tmp_path) as running:
        yield running


class OtherAgent:
    """An agent of another version at cairo, with two nodes of four cpus. It says what `fields` adds in every message."""

    def __init__(self, plane: Plane, wire: Wire, **fields: str) -> None:
        self.wire, self._fields, self._plane = wire, fields, plane
        self._metadata = plane.voice(CAIRO).metadata
        self.session_id, self.seq = "", 0
        self.journal: set[str] = set()

    def say(self, kind: str, /, **fields: Any) -> Any:
        """One of its messages."""
        return getattr(self.wire, kind)(**fields, **self._fields)

    async def call(self, method: str, message: Any) -> Any:
        """One of its calls."""
        stub = self.wire.method(self._plane.channel, f"HubService.{method}")
        return await stub(message, metadata=self._metadata, timeout=30)

    async def open(self, *runs: Any, protocols: tuple[int, int] = (1, 1)) -> Any:
        """A session."""
        resources = [
            self.say("Resource", name="cpu", amount=4_000),
            self.say("Resource", name="memory", amount=8 << 30),
        ]
        nodes = [self.say("Node", name=name, offered=resources, capacity=resources) for name in ("n1", "n2")]
        said = self.say(
            "OpenSessionRequest",
            hub_id="cairo",
            agent_id="main",
            agent_version="another",
            protocol_min=protocols[0],
            protocol_max=protocols[1],
            instance_id="i1",
            nodes=nodes,
            engines=["command", "an-engine-of-another-version"],
            features=["a-feature-of-another-version"],
            runs=runs,
        )
        answer = await self.call("OpenSession", said)
        self.session_id, self.seq = answer.session_id, 0
        return answer

    async def sync(self, *changed: Any, full: bool = False, hold_ms: int = 0) -> Any:
        """A heartbeat."""
        self.seq += 1
        said = self.say(
            "SyncHubRequest",
            session_id=self.session_id,
            sync_seq=self.seq,
            changed=changed,
            runs_digest=hashlib.sha256("\n".join(sorted(self.journal)).encode()).hexdigest(),
            full=full,
            hold_ms=hold_ms,
        )
        answer = await self.call("SyncHub", said)
        self.journal -= {f"{one.lease_id}:{one.epoch.incarnation}-{one.epoch.n}" for one in answer.releases}
        return answer

    async def lease(self) -> Any:
        """The first that is ordered."""
        for _ in range(20):
            answer = await self.sync(hold_ms=2_000)
            if answer.leases:
                return answer.leases[0]
        raise AssertionError("no lease came")

    def report(self, lease: Any, **fields: Any) -> Any:
        """What it says of a lease's run."""
        self.journal.add(f"{lease.lease_id}:{lease.epoch.incarnation}-{lease.epoch.n}")
        epoch = self.say("Epoch", incarnation=lease.epoch.incarnation, n=lease.epoch.n)
        return self.say("RunReport", lease_id=lease.lease_id, job_id=lease.job_id, epoch=epoch, **fields)


def _other_agent(plane: Plane, version: str) -> OtherAgent:
    if version == "older":
        return OtherAgent(plane, OLDER)
    return OtherAgent(plane, NEWER, from_the_future="what nobody here knows")


async def _state(plane: Plane, job_id: str) -> int:
    shown = await plane.voice(AISHA).job("GetJob", job_pb2.GetJobRequest(job_id=job_id))
    return int(shown.job.state)


async def _submitted(plane: Plane, *specs: bytes) -> list[str]:
    answer = await plane.voice(AISHA).job("SubmitJobs", a_submit(*specs))
    assert not any(one.HasField("problem") for one in answer.results), answer
    return [one.job_id for one in answer.results]


def test_the_version_before_knows_less() -> None:
    """The older wire lacks what was added since: else these tests would try today's against itself."""
    assert not {"reclaim_ms", "takes_back"} & set(OLDER.OpenSessionRequest.DESCRIPTOR.fields_by_name)
    assert not {"devices", "request_id"} & set(OLDER.Lease.DESCRIPTOR.fields_by_name)
    assert "from_the_future" in NEWER.Lease.DESCRIPTOR.fields_by_name


@pytest.mark.parametrize("version", ["older", "newer"])
async def test_a_whole_conversation(plane: Plane, version: str) -> None:
    """Session, order, start, use, a restart of the agent with its full list, end, result, release: as with today's agent."""
    agent = _other_agent(plane, version)
    opened = await agent.open(protocols=(1, 1) if version == "older" else (1, 7))
    assert (opened.protocol, opened.incarnation) == (1, 1)
    spread = job_pb2.Demand(placement=job_pb2.PLACEMENT_SPREAD, replicas=2)
    (job_id,) = await _submitted(plane, a_wire_spec(demand=spread))
    lease = await agent.lease()
    assert (lease.job_id, list(lease.nodes), lease.start, lease.valid_for_ms > 0) == (job_id, ["n1", "n2"], True, True)
    spec = agent.wire.JobSpec.FromString(lease.spec)
    assert (spec.name, spec.entrypoint, spec.demand.replicas, lease.owner.subject) == ("a-job", "run.py", 2, "aisha")

    await agent.sync(agent.report(lease, state=hub_pb2.RUN_STATE_ACCEPTED))
    usage = [agent.say("UsageInterval", index=0, start_ms=5, end_ms=9)]
    answer = await agent.sync(
        agent.report(lease, state=hub_pb2.RUN_STATE_RUNNING, started_ms=5, usage=usage, log_bytes=3)
    )
    assert dict(answer.usage_stored) == {lease.lease_id: 0}
    assert await _state(plane, job_id) == common_pb2.JOB_STATE_RUNNING

    await agent.open(agent.report(lease, state=hub_pb2.RUN_STATE_RUNNING, started_ms=5))
    answer = await agent.sync(agent.report(lease, state=hub_pb2.RUN_STATE_RUNNING, started_ms=5), full=True)
    assert (list(answer.leases), list(answer.revokes), answer.send_full) == ([], [], False)
    files = [agent.say("OutputFile", path="out.csv", size_bytes=1, sha256="a" * 64)]
    ended = agent.report(
        lease,
        state=hub_pb2.RUN_STATE_ENDED,
        outcome=hub_pb2.OUTCOME_SUCCEEDED,
        started_ms=5,
        ended_ms=9,
        outputs=files,
    )
    answer = await agent.sync(ended)
    assert [(one.lease_id, one.epoch.n) for one in answer.releases] == [(lease.lease_id, lease.epoch.n)]
    assert await _state(plane, job_id) == common_pb2.JOB_STATE_SUCCEEDED
    job = plane.plane.desk.store.get_job(job_id)
    assert job is not None
    assert [one.path for one in job.outputs] == ["out.csv"]


@pytest.mark.parametrize("version", ["older", "newer"])
async def test_a_run_is_ended_and_one_is_refused(plane: Plane, version: str) -> None:
    """A cancelled job's Revoke is understood and its end believed; a refusal by the hub puts the job back in the line."""
    agent = _other_agent(plane, version)
    await agent.open()
    (job_id,) = await _submitted(plane, a_wire_spec())
    lease = await agent.lease()
    await agent.sync(agent.report(lease, state=hub_pb2.RUN_STATE_RUNNING, started_ms=5))
    await plane.voice(AISHA).job("CancelJob", job_pb2.CancelJobRequest(job_id=job_id))
    (revoke,) = (await agent.sync()).revokes
    assert (revoke.lease_id, revoke.epoch.n, bool(revoke.reason.code)) == (lease.lease_id, lease.epoch.n, True)
    reason = agent.say("Reason", code="A_CODE_OF_ANOTHER_VERSION", message="stopped")
    ended = agent.report(
        lease, state=hub_pb2.RUN_STATE_ENDED, outcome=hub_pb2.OUTCOME_STOPPED, reason=reason, ended_ms=9
    )
    assert [one.lease_id for one in (await agent.sync(ended)).releases] == [lease.lease_id]

    answer = await plane.voice(AISHA).job("SubmitJobs", a_submit(a_wire_spec("other"), first_id=2))
    again = await agent.lease()
    assert again.job_id == answer.results[0].job_id
    refused = agent.report(again, state=hub_pb2.RUN_STATE_ENDED, outcome=hub_pb2.OUTCOME_REFUSED, reason=reason)
    assert [one.lease_id for one in (await agent.sync(refused)).releases] == [again.lease_id]


async def test_words_of_a_newer_agent_are_taken_for_the_nearest(plane: Plane) -> None:
    """A state that nobody here knows: the run goes on. An outcome that nobody here knows: it ended, and failed with a code.

    What the other runs of the same call say counts all the same.
    """
    agent = _other_agent(plane, "newer")
    await agent.open()
    first, second = await _submitted(plane, a_wire_spec("one"), a_wire_spec("two"))
    leases: dict[str, Any] = {}
    while len(leases) < 2:
        for lease in (await agent.sync(hold_ms=2_000)).leases:
            leases[lease.job_id] = lease
    unknown = agent.report(leases[first], state=FUTURE_VALUE, started_ms=5)
    running = agent.report(leases[second], state=hub_pb2.RUN_STATE_RUNNING, started_ms=5)
    await agent.sync(unknown, running)
    store = plane.plane.desk.store
    states = {job_id: store.get_job(job_id) for job_id in (first, second)}
    assert [str(job.state) for job in states.values() if job] == ["RUNNING", "RUNNING"]
    ended = agent.report(leases[first], state=hub_pb2.RUN_STATE_ENDED, outcome=FUTURE_VALUE, ended_ms=9)
    assert [one.lease_id for one in (await agent.sync(ended)).releases] == [leases[first].lease_id]
    job = store.get_job(first)
    assert job is not None
    assert job.reason is not None
    assert (str(job.state), job.reason.code, "Upgrade the control plane" in job.reason.message) == (
        "FAILED",
        "OUTCOME_UNKNOWN",
        True,
    )


@pytest.mark.parametrize(
    ("protocols", "side"),
    [((0, PROTOCOL_MIN - 1), "agent"), ((PROTOCOL_MAX + 1, PROTOCOL_MAX + 3), "control plane")],
)
async def test_too_far_apart_is_refused_with_the_side_to_upgrade(
    plane: Plane, protocols: tuple[int, int], side: str
) -> None:
    """An agent that is too old, and one that is too new for this control plane: a code, both ranges, and what to upgrade."""
    agent = _other_agent(plane, "older" if side == "agent" else "newer")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await agent.open(protocols=protocols)
    error = from_rpc_error(refused.value)
    assert (error.code, error.metadata["upgrade"]) == (Code.PROTOCOL_UNSUPPORTED, side)
    assert f"Upgrade the {side}" in error.hint
    assert f"{protocols[0]} to {protocols[1]}" in error.message


@pytest.mark.parametrize("protocols", [(1, 1), (0, 1), (1, 9), (0, 9)])
def test_the_newest_that_both_speak(protocols: tuple[int, int]) -> None:
    """Whatever range holds ours."""
    assert negotiated(*protocols) == PROTOCOL_MAX


def test_an_answer_of_a_newer_control_plane_is_understood() -> None:
    """Today's agent hears fields and enum values that it does not know: what it knows of the answer means the same."""
    spec = NEWER.JobSpec(name="a-job", engine="command", priority=FUTURE_VALUE, on_partition=FUTURE_VALUE)
    spec.from_the_future = "x"
    epoch = NEWER.Epoch(incarnation=3, n=4, from_the_future="x")
    lease = NEWER.Lease(lease_id="l1", job_id="j1", epoch=epoch, spec=spec.SerializeToString(), start=True)
    lease.from_the_future = "x"
    said = NEWER.SyncHubResponse(incarnation=3, orders_revision=9, leases=[lease], from_the_future="x")
    talk = Conversation(Introduction("cairo", "main", "i", "Cairo", ("command",), ()), lambda _: 0)
    talk.opened(
        Truth(), hub_pb2.OpenSessionResponse.FromString(NEWER.OpenSessionResponse(session_id="s").SerializeToString())
    )
    call, _ = talk.call(Truth(), (), -1, 0)
    heard = talk.answered(call, hub_pb2.SyncHubResponse.FromString(said.SerializeToString()), Truth())
    assert heard is not None
    (order,) = heard.leases
    assert (order.lease_id, order.epoch.n, order.work.priority, order.work.on_partition) == ("l1", 4, "batch", "keep")
    assert order.work.name == "a-job"
