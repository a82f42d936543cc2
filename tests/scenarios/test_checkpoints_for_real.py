"""Checkpoints with nothing pretended: a control plane and an object store on sockets, agents as processes, programs under guard.

Only who makes room for whom is the test's own decision. What is promised of the store alone is in
`tests/contract/test_checkpoints.py`, of the agent's half in `tests/unit/hub_node/test_checkpoints.py`.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from federation.app.settings import Objects
from federation.domain.ids import AgentId, AgentKey, HubId
from federation.domain.job import Job, JobState
from federation.objects.checkpoints import Shelf
from federation.objects.embedded import EmbeddedSettings, EmbeddedStore, start_embedded
from federation.scheduling.plan import Plan, Preemption
from federation.v1 import common_pb2, job_pb2
from tests.support.eventually import eventually
from tests.support.plane import AISHA, CAIRO, SHENZHEN, Plane, a_plane, a_submit

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(180)]

AGENT = "import sys; from hub_node.app import agent_main; sys.exit(agent_main(sys.argv[1]))"
HUBS = {"cairo": CAIRO, "shenzhen": SHENZHEN}
COUNTER = """
    import os, pathlib, signal, sys, time
    state = pathlib.Path(os.environ["BRHUB_CHECKPOINT_DIR"]) / "state"
    n = int(state.read_text()) if state.exists() else 0
    print("begins at", n, flush=True)
    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(1))
    while not told and not (n and os.environ["BRHUB_ATTEMPT"] != "1-1"):
        n += 1
        (state.parent / "state.tmp").write_text(str(n))
        os.replace(state.parent / "state.tmp", state)
        time.sleep(0.01)
    print("ends at", n, flush=True)
    sys.exit(3 if told else 0)
"""


@dataclass
class Scene:
    """Two hubs of one machine each, what they share, and the job that counts."""

    plane: Plane
    store: EmbeddedStore
    folder: Path

    @property
    def shelf(self) -> Shelf:
        """What is kept."""
        objects = self.plane.plane.desk.objects
        assert objects is not None
        return Shelf(objects)

    def job(self, job_id: str) -> Job:
        """As the store has it."""
        job = self.plane.plane.desk.store.get_job(job_id)
        assert job is not None
        return job

    async def submit(self, name: str, text: str, **spec: object) -> str:
        """A job that takes a whole hub."""
        message = job_pb2.JobSpec(
            version=1, name=name, engine="command", entrypoint="python3", arguments=["-c", textwrap.dedent(text)]
        )
        message.preemptible = bool(spec.get("preemptible"))
        message.hubs.allow.extend(spec.get("allow") or [])  # type: ignore[arg-type]  # a list of hubs
        message.demand.per_task.append(common_pb2.Resource(name="cpu", amount=1_000))
        batch = a_submit(message.SerializeToString(), first_id=secrets.randbelow(10**9))
        return str((await self.plane.voice(AISHA).job("SubmitJobs", batch)).results[0].job_id)

    def log(self, job_id: str, attempt: str) -> str:
        """What that attempt said, at whichever hub it ran."""
        logs = [*self.folder.glob(f"*/state/attempts/{job_id}/{attempt}/log")]
        return logs[0].read_text() if logs else ""

    async def counting(self, job_id: str, attempt: str = "1-1") -> HubId:
        """Wait until it counts; where."""
        await soon(lambda: "begins" in self.log(job_id, attempt), "its first words")
        await soon(lambda: self.job(job_id).state is JobState.RUNNING, "its run")
        return self.job(job_id).hub_id

    async def make_room(self, guest: str, hub_id: HubId) -> str:
        """Somebody with a better right wants the machine; the id of their job."""
        desk = self.plane.plane.desk
        owner = await self.submit("owner", "print('mine')", allow=[hub_id])
        lease = await desk.ask(lambda unit: unit.world.lease_for(self.job(guest).id))
        assert lease is not None
        key: AgentKey = (hub_id, AgentId("main"))
        decision = Preemption(owner, key, ("main",), (lease.id,), lost_ms=7)
        accepted = await asyncio.to_thread(desk.rounds.commit, Plan(0, preemptions=(decision,)))
        assert accepted.preemptions == 1
        return owner


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """A control plane with an object store."""
    secret = secrets.token_urlsafe(16)
    store = start_embedded(EmbeddedSettings(tmp_path / "data", tmp_path / "store.log", "root-key", secret))
    try:
        async with AsyncExitStack() as stack:
            objects = Objects(store.address.endpoint, "root-key", secret)
            yield Scene(await stack.enter_async_context(a_plane(tmp_path, objects)), store, tmp_path)
    finally:
        store.stop()


@contextmanager
def an_agent(scene: Scene, hub_id: str, every: str = "1s") -> Iterator[subprocess.Popen[bytes]]:
    """A hub that offers one cpu and gives its guests 10 s."""
    folder = scene.folder / hub_id
    folder.mkdir(exist_ok=True)
    (folder / "policy.yaml").write_text("version: 1\nreclaim_s: 10\n")
    token = scene.plane.plane.tokens.issue(HUBS[hub_id])
    (folder / "agent.toml").write_text(
        f'hub_id = "{hub_id}"\nserver = "127.0.0.1:{scene.plane.plane.ports["grpc"]}"\ntoken = "{token}"\n'
        'state_dir = "state"\npolicy_file = "policy.yaml"\nengines = ["command"]\n[offer]\ncpus = 1\n'
        f'[checkpoints]\nevery = "{every}"\n'
    )
    with (folder / "agent.log").open("ab") as log:
        agent = subprocess.Popen([sys.executable, "-c", AGENT, str(folder / "agent.toml")], stdout=log, stderr=log)
    try:
        yield agent
    finally:
        if agent.poll() is None:
            agent.send_signal(signal.SIGUSR1)
        agent.wait(60)


async def soon(check: Callable[[], object], what: str) -> None:
    """Wait for it without holding up the server."""
    await asyncio.to_thread(eventually, check, 60, what)


def number(text: str, words: str) -> int:
    """What the program said after these words."""
    match = re.search(rf"^{words} (\d+)$", text, re.MULTILINE)
    assert match is not None, f"it never said {words!r}: {text}"
    return int(match[1])


async def test_a_preempted_job_goes_on_from_its_number_at_another_hub(scene: Scene) -> None:
    """The last number that it wrote before it left is the first that it reads elsewhere; afterwards nothing is kept."""
    with an_agent(scene, "cairo", every="1h"), an_agent(scene, "shenzhen", every="1h"):
        guest = await scene.submit("guest", COUNTER, preemptible=True)
        first = await scene.counting(guest)
        owner = await scene.make_room(guest, first)
        await soon(lambda: scene.job(guest).state is JobState.SUCCEEDED, "the guest's end")
        await soon(lambda: scene.job(owner).state is JobState.SUCCEEDED, "the owner's end")
        assert {first, scene.job(guest).hub_id} == {"cairo", "shenzhen"}
        left, after = scene.log(guest, "1-1"), scene.log(guest, "1-2")
        assert number(left, "ends at") == number(after, "begins at") > 0
        assert re.search(r"^brhub: it goes on from checkpoint 1-1/\d: 1 file, \d+ bytes$", after, re.MULTILINE)
        await soon(lambda: not scene.shelf.jobs(), "its checkpoints to be removed")
