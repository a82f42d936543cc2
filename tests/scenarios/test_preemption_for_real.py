"""Making room with nothing pretended: a control plane on sockets, an agent as a process, two programs under guard.

Only the decision is the test's own. Read `test_preemption.py` for everything else that may happen to one.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from federation.domain.ids import AgentId, AgentKey, HubId, LeaseId
from federation.domain.job import JobState
from federation.domain.usage import UsageInterval
from federation.scheduling.plan import Plan, Preemption
from federation.v1 import common_pb2, job_pb2
from tests.support.eventually import eventually
from tests.support.plane import AISHA, CAIRO, Plane, a_plane, a_submit

pytestmark = pytest.mark.asyncio

KEY: AgentKey = (HubId("cairo"), AgentId("main"))
RECLAIM_S = 20
AGENT = "import sys; from hub_node.app import agent_main; sys.exit(agent_main(sys.argv[1]))"
GUEST = """
    import os, signal, time
    folder = os.environ["BRHUB_OUTPUT_DIR"] + "/.."
    def leave(*_):
        told.append(1)
    told = []
    signal.signal(signal.SIGTERM, leave)
    print("began", os.environ["BRHUB_ATTEMPT"], repr(os.environ["CUDA_VISIBLE_DEVICES"]), flush=True)
    while os.environ["BRHUB_ATTEMPT"] == "1-1" and not (told and os.path.exists(folder + "/go")):
        if told == [1]:
            open(os.environ["BRHUB_CHECKPOINT_DIR"] + "/saved", "w").close()
            print("saved within", os.environ["BRHUB_GRACE_S"], "s", flush=True)
            told.append(2)
        time.sleep(0.02)
"""


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    """A control plane for one test."""
    async with a_plane(tmp_path) as running:
        yield running


@contextmanager
def an_agent_process(folder: Path, address: str, token: str) -> Iterator[None]:
    """A hub that offers one cpu and takes its machine back within `RECLAIM_S`."""
    folder.mkdir()
    (folder / "policy.yaml").write_text(f"version: 1\nreclaim_s: {RECLAIM_S}\n")
    (folder / "agent.toml").write_text(
        f'hub_id = "cairo"\nserver = "{address}"\ntoken = "{token}"\nstate_dir = "state"\n'
        'policy_file = "policy.yaml"\nengines = ["command"]\n[offer]\ncpus = 1\n'
    )
    with (folder / "agent.log").open("ab") as log:
        agent = subprocess.Popen([sys.executable, "-c", AGENT, str(folder / "agent.toml")], stdout=log, stderr=log)
    try:
        yield
    finally:
        agent.send_signal(signal.SIGUSR1)
        agent.wait(60)


def a_program(name: str, text: str, *, preemptible: bool = False) -> bytes:
    """A job of a few lines of Python that takes the whole cpu."""
    spec = job_pb2.JobSpec(
        version=1, name=name, engine="command", entrypoint="python3", arguments=["-c", textwrap.dedent(text)]
    )
    spec.preemptible = preemptible
    spec.demand.per_task.append(common_pb2.Resource(name="cpu", amount=1_000))
    return spec.SerializeToString()


async def soon(check: Callable[[], object], what: str) -> None:
    """Wait for it without holding up the server."""
    await asyncio.to_thread(eventually, check, 60, what)


def kept_once(plane: Plane, lease_id: str) -> list[UsageInterval]:
    """The stretches of a lease: without gaps, without overlaps, each written down once."""
    store = plane.plane.desk.store
    found = list(store.usage_of(LeaseId(lease_id)))
    assert [one.index for one in found] == list(range(len(found)))
    assert all(one.end_ms == after.start_ms for one, after in itertools.pairwise(found))
    events = [event for event in store.events_of("lease", lease_id, 100) if event.type == "UsageRecorded"]
    assert len(events) == len(found) > 0
    return found


async def test_a_guest_saves_its_work_leaves_and_runs_again(plane: Plane, tmp_path: Path) -> None:
    """SIGTERM, the hub's grace, a checkpoint folder; the claim is seen meanwhile; all use is counted once."""
    desk, aisha = plane.plane.desk, plane.voice(AISHA)
    token = plane.plane.tokens.issue(CAIRO)
    with an_agent_process(tmp_path / "hub", f"127.0.0.1:{plane.plane.ports['grpc']}", token):
        batch = a_submit(a_program("guest", GUEST, preemptible=True))
        guest = (await aisha.job("SubmitJobs", batch)).results[0].job_id
        folder = tmp_path / "hub" / "state" / "attempts" / guest / "1-1"
        log = folder / "log"

        def state_of(job_id: str) -> JobState | None:
            job = desk.store.get_job(job_id)
            return job.state if job else None

        await soon(lambda: log.exists() and "began" in log.read_text(), "the guest's first words")
        await soon(lambda: state_of(guest) is JobState.RUNNING, "the guest's run")
        batch = a_submit(a_program("owner", "print('mine')"), first_id=2)
        owner = (await aisha.job("SubmitJobs", batch)).results[0].job_id
        first = await desk.ask(lambda unit: unit.world.lease_for(guest))
        assert first is not None
        decision = Preemption(owner, KEY, ("main",), (first.id,), lost_ms=7)
        accepted = await asyncio.to_thread(desk.rounds.commit, Plan(0, preemptions=(decision,)))
        assert accepted.preemptions == 1

        shown = (await aisha.job("GetJob", job_pb2.GetJobRequest(job_id=owner))).job
        assert (shown.claim.hub_id, list(shown.claim.victims), shown.claim.lost_ms) == ("cairo", [first.id], 7)
        assert shown.claim.until_ms - shown.claim.made_ms == (RECLAIM_S + 90) * 1_000
        told = await aisha.job("ExplainJob", job_pb2.ExplainJobRequest(job_id=owner))
        assert [reason.code for reason in told.reasons] == ["CLAIM_HELD"]
        ends = await aisha.job("ExplainJob", job_pb2.ExplainJobRequest(job_id=guest))
        assert [(reason.code, reason.hub_id) for reason in ends.reasons] == [("PREEMPTED", "cairo")]
        assert ends.job.ends_by_ms == shown.claim.expected_ms == shown.claim.made_ms + RECLAIM_S * 1_000
        await soon(lambda: "saved" in log.read_text(), "the guest's last words")
        assert (folder / "checkpoint" / "saved").exists()
        assert log.read_text() == f"began 1-1 ''\nsaved within {RECLAIM_S} s\n"
        (folder / "go").touch()

        await soon(lambda: state_of(owner) is JobState.SUCCEEDED, "the owner's end")
        await soon(lambda: state_of(guest) is JobState.SUCCEEDED, "the guest's end")
    facts = [(event.type, json.loads(event.payload)) for event in desk.store.events_of("job", guest, 100)]
    leases = [payload["lease_id"] for kind, payload in facts if kind == "LeaseGranted"]
    assert [kind for kind, _ in facts if not kind.startswith(("RunA", "RunStag", "RunStopping"))] == [
        "JobSubmitted", "LeaseGranted", "RunStarted", "PreemptRequested", "RunStopped", "LeaseGranted",
        *(["RunStarted"] if facts[-2][0] == "RunStarted" else []), "RunSucceeded",
    ]  # fmt: skip
    assert len(leases) == 2
    stretches = [stretch for lease_id in leases for stretch in kept_once(plane, lease_id)]
    assert all(one.end_ms <= after.start_ms for one, after in itertools.pairwise(stretches))
