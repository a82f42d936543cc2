"""Checkpoints with nothing pretended: a control plane and an object store on sockets, agents as processes, programs under guard.

Only who makes room for whom is the test's own decision. What is promised of the store alone is in
`tests/contract/test_checkpoints.py`, of the agent's half in `tests/unit/hub_node/test_checkpoints.py`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import secrets
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc.aio
import psutil
import pytest

from federation.app.settings import Objects
from federation.domain.ids import AgentId, AgentKey, HubId
from federation.domain.job import Job, JobState
from federation.errors import from_rpc_error
from federation.objects.checkpoints import Shelf
from federation.objects.embedded import EmbeddedSettings, EmbeddedStore, start_embedded
from federation.objects.links import upload
from federation.objects.store import ObjectStore
from federation.scheduling.plan import Plan, Preemption
from federation.v1 import common_pb2, hub_pb2, job_pb2
from hub_node.journal import Journal
from tests.support.eventually import eventually
from tests.support.plane import AISHA, CAIRO, SHENZHEN, Plane, a_plane, a_session, a_submit

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(90)]

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


BIG_BYTES = 4 << 20
GROWER = f"""
    import os, pathlib, signal, sys, time
    folder = pathlib.Path(os.environ["BRHUB_CHECKPOINT_DIR"])
    bell = pathlib.Path(os.environ["BRHUB_OUTPUT_DIR"]) / "../bell"
    print("begins with", *sorted(file.name for file in folder.iterdir()), flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    (folder / "small").write_text("1")
    while not bell.exists():
        time.sleep(0.02)
    (folder / "big.tmp").write_bytes(os.urandom({BIG_BYTES}))
    os.replace(folder / "big.tmp", folder / "big")
    time.sleep(600)
"""


class Way:
    """The way to the object store. It can be made to stop in the middle of something large, as a slow link does."""

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self.stuck = False
        self.waiting = 0
        """Connections that carried more than a little since it was stuck, and wait."""
        self._let_go = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> str:
        """Its address."""
        self._server = await asyncio.start_server(self._come, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """End it, with what waits in it."""
        self._let_go.set()
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _come(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, thither = await asyncio.open_connection(*self._to)
        for source, sink, outwards in ((reader, thither, True), (there, writer, False)):
            task = asyncio.create_task(self._carry(source, sink, outwards))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, outwards: bool) -> None:
        carried_bytes = 0
        try:
            while data := await source.read(1 << 16):
                carried_bytes += len(data)
                if outwards and self.stuck and carried_bytes > BIG_BYTES // 4:
                    self.waiting += 1
                    await self._let_go.wait()
                sink.write(data)
                await sink.drain()
        except OSError:
            pass  # one end is gone: so is the other
        finally:
            sink.close()


@dataclass
class Scene:
    """Two hubs of one machine each, what they share, and the job that counts."""

    plane: Plane
    store: EmbeddedStore
    folder: Path
    way: Way

    @property
    def shelf(self) -> Shelf:
        """What is kept. Not by the way that the others take: it is served by the loop that waits here."""
        return Shelf(ObjectStore(self.store.address))

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
        if spec.get("rerun"):
            message.idempotent, message.on_partition = True, common_pb2.ON_PARTITION_RERUN
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

    async def make_room(self, guest: str, hub_id: HubId, owners: str = "print('mine')") -> str:
        """Somebody with a better right wants the machine; the id of their job."""
        desk = self.plane.plane.desk
        owner = await self.submit("owner", owners, allow=[hub_id])
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
    place = urlsplit(store.address.endpoint)
    way = Way(str(place.hostname), int(place.port or 0))
    try:
        objects = Objects(await way.open(), "root-key", secret)
        async with a_plane(tmp_path, objects) as plane:
            yield Scene(plane, store, tmp_path, way)
    finally:
        await way.close()
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


async def test_a_damaged_checkpoint_is_refused_for_the_one_before(scene: Scene) -> None:
    """Its bytes were changed in the store while the job waited: the log says so, and where the job goes on instead."""
    with an_agent(scene, "cairo"):
        guest = await scene.submit("guest", COUNTER, preemptible=True)
        first = await scene.counting(guest)
        await soon(lambda: len(scene.shelf.newest(guest, (1, 2))) == 2, "two checkpoints while it runs")
        await scene.make_room(guest, first, "import time; time.sleep(600)")
        await soon(lambda: scene.job(guest).state is JobState.QUEUED, "the guest to wait again")
        newest, older = scene.shelf.newest(guest, (1, 2))
        told = (await scene.plane.voice(AISHA).job("GetJob", job_pb2.GetJobRequest(job_id=guest))).job.checkpoint
        assert (told.checkpoint_id, told.saved_ms) == (newest.place.name, newest.saved_ms)
        assert (told.size_bytes, told.files) == (newest.files[0].size_bytes, 1)
        file = newest.files[0]
        scene.shelf.store.put_bytes(f"checkpoints/{guest}/1-1/files/{file.sha256}", b"9" * file.size_bytes)
        with an_agent(scene, "shenzhen"):
            await soon(lambda: scene.job(guest).state is JobState.SUCCEEDED, "the guest's end")
        after = scene.log(guest, "1-2")
        assert f"brhub: checkpoint {newest.place.name} is damaged and was refused" in after
        assert f"brhub: it goes on from checkpoint {older.place.name}: 1 file" in after
        assert 0 < number(after, "begins at") < number(scene.log(guest, "1-1"), "ends at")


async def test_an_agent_killed_while_it_sends_leaves_no_half_checkpoint(scene: Scene) -> None:
    """What was whole before is what there is; the next agent finds the run, and saves all of it."""
    with an_agent(scene, "cairo") as agent:
        guest = await scene.submit("guest", GROWER, preemptible=True)
        await scene.counting(guest)
        await soon(lambda: len(scene.shelf.newest(guest, (1, 2))) == 1, "a first checkpoint")
        scene.way.stuck = True
        (scene.folder / "cairo" / "state" / "attempts" / guest / "1-1" / "bell").touch()
        await soon(lambda: scene.way.waiting, "the agent to be in the middle of the large file")
        agent.kill()
        agent.wait(60)
        scene.way.stuck = False
        (found,) = scene.shelf.newest(guest, (1, 2))
        assert [file.path for file in found.files] == ["small"]
        with an_agent(scene, "cairo"):
            await soon(lambda: len(scene.shelf.newest(guest, (1, 2))) == 2, "the whole checkpoint")
            newest, _ = scene.shelf.newest(guest, (1, 2))
            assert [(file.path, file.size_bytes) for file in newest.files] == [("big", BIG_BYTES), ("small", 1)]


def lose_power(scene: Scene, hub_id: str, agent: subprocess.Popen[bytes]) -> None:
    """Agent, guard and program end without a word, and the machine's next boot is another one."""
    agent.kill()
    agent.wait(60)
    state = scene.folder / hub_id / "state"
    for said in state.glob("attempts/*/*/guard.json"):
        guard = json.loads(said.read_text())
        for process in [*psutil.Process(guard["pid"]).children(recursive=True), psutil.Process(guard["pid"])]:
            process.kill()
        said.write_text(json.dumps(guard | {"boot_id": "the-boot-before"}))
    journal = Journal(state)
    journal.save([replace(run, boot_id="the-boot-before") for run in journal.load().values()])
    journal.close()


async def test_what_a_rebooted_hub_finds_on_its_disk_is_saved_before_the_job_waits_again(scene: Scene) -> None:
    """Nothing was sent before the power went; the job, which may run twice, goes on from the last number that was written."""
    with an_agent(scene, "cairo", every="0s") as agent:
        guest = await scene.submit("guest", COUNTER, rerun=True)
        await scene.counting(guest)
        lose_power(scene, "cairo", agent)
        assert scene.shelf.newest(guest, (1, 2)) == ()
        (state,) = (scene.folder / "cairo" / "state").glob("attempts/*/1-1/checkpoint/state")
        left = int(state.read_text())
        with an_agent(scene, "cairo"):
            await soon(lambda: scene.job(guest).state is JobState.SUCCEEDED, "the job's end")
        assert number(scene.log(guest, "1-2"), "begins at") == left > 0


async def test_whose_attempt_is_over_saves_nothing_more(scene: Scene) -> None:
    """Neither links nor a commit for an older epoch, for another hub's lease, or without a session; what is there stays."""
    cairo, shenzhen = scene.plane.voice(CAIRO), scene.plane.voice(SHENZHEN)
    desk = scene.plane.plane.desk
    session = (await cairo.hub("OpenSession", a_session("cairo"))).session_id
    other = (await shenzhen.hub("OpenSession", a_session("shenzhen", "i2"))).session_id
    job_id = await scene.submit("guest", "pass", allow=["cairo"], preemptible=True)
    await soon(lambda: scene.job(job_id).state is JobState.LEASED, "a lease")
    lease = await desk.ask(lambda unit: unit.world.lease_for(scene.job(job_id).id))
    assert lease is not None
    epoch = common_pb2.Epoch(incarnation=1, n=1)
    file = hub_pb2.OutputFile(path="state", size_bytes=1, sha256=hashlib.sha256(b"7").hexdigest())
    about = {"session_id": session, "lease_id": lease.id, "epoch": epoch, "files": [file]}

    def links(**changes: Any) -> hub_pb2.CreateCheckpointUploadRequest:
        return hub_pb2.CreateCheckpointUploadRequest(**{**about, **changes})

    def commit(**changes: Any) -> hub_pb2.CommitCheckpointRequest:
        return hub_pb2.CommitCheckpointRequest(**{**about, **changes})

    (one,) = (await cairo.hub("CreateCheckpointUpload", links())).uploads
    await asyncio.to_thread(upload, one.put_url, b"7")
    assert (await cairo.hub("CommitCheckpoint", commit())).checkpoint_id == "1-1/1"
    older = common_pb2.Epoch(incarnation=1, n=0)
    for voice, changes, code in (
        (cairo, {"epoch": older}, "STALE_EPOCH"),
        (shenzhen, {"session_id": other}, "STALE_EPOCH"),
        (shenzhen, {}, "SESSION_UNKNOWN"),
        (cairo, {"files": []}, "INVALID_ARGUMENT"),
        (cairo, {"files": [hub_pb2.OutputFile(path="../x", size_bytes=1, sha256=file.sha256)]}, "INVALID_ARGUMENT"),
        (cairo, {"files": [hub_pb2.OutputFile(path="x", size_bytes=1 << 31, sha256=file.sha256)]}, "LIMIT_EXCEEDED"),
    ):
        assert await refusal(voice.hub("CreateCheckpointUpload", links(**changes))) == code
        assert await refusal(voice.hub("CommitCheckpoint", commit(**changes))) == code
    stopped = hub_pb2.RunReport(
        lease_id=lease.id, job_id=job_id, epoch=epoch, state=hub_pb2.RUN_STATE_ENDED, outcome=hub_pb2.OUTCOME_FAILED
    )
    await cairo.hub("SyncHub", hub_pb2.SyncHubRequest(session_id=session, sync_seq=1, changed=[stopped]))
    assert await refusal(cairo.hub("CommitCheckpoint", commit())) == "STALE_EPOCH"
    find = hub_pb2.FindCheckpointsRequest(session_id=session, lease_id=lease.id, epoch=epoch)
    assert await refusal(cairo.hub("FindCheckpoints", find)) == "STALE_EPOCH"
    assert [saved.place.name for saved in scene.shelf.newest(job_id, (1, 2))] == ["1-1/1"]
    assert scene.job(job_id).state is JobState.FAILED, "a person may retry it, so it is kept"


async def refusal(call: Awaitable[Any]) -> str:
    """The code of an answer that is none."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value).code.value
