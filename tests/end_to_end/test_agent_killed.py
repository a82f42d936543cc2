"""SIGKILL, to an agent and to the control plane, in the middle of jobs: each job starts once, ends once, has one result."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from federation.cli.show import state_of
from federation.client import Client
from tests.support.embedded_federation import (
    PATIENCE_S,
    EmbeddedFederation,
    ended,
    is_running,
    processes_of,
    when,
)
from tests.support.eventually import eventually

pytestmark = pytest.mark.timeout(300)

HUBS = {"cairo", "kuala-lumpur", "shenzhen"}
BELL_RINGER = """\
import os, pathlib, sys, threading
out = pathlib.Path(os.environ["BRHUB_OUTPUT_DIR"])
with (out / "starts.txt").open("a") as file:
    file.write(f"{os.getpid()}\\n")
print("waiting for the bell", flush=True)
bell = pathlib.Path(os.environ["BELL"])
while not bell.exists():
    threading.Event().wait(0.1)
print("it rang", flush=True)
(out / "end.txt").write_text("rang\\n")
"""
FAMILY = """\
import os, subprocess, sys, threading
child = "import signal, threading; signal.signal(signal.SIGTERM, signal.SIG_IGN); threading.Event().wait(600)"
for apart in (False, True):
    subprocess.Popen([sys.executable, "-c", child], start_new_session=apart)
print("three of us", flush=True)
threading.Event().wait(600)
"""


class Bell:
    """What the jobs of a test wait for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "bell"
        (folder / "package").mkdir()
        (folder / "package" / "ringer.py").write_text(BELL_RINGER)

    def spec(self, hub_id: str) -> dict[str, Any]:
        """A job that runs at this hub until the bell rings."""
        return {
            "engine": "command",
            "entrypoint": "ringer.py",
            "package": str(self.folder / "package"),
            "resources": {"cpus": 0.5, "memory": "128Mi"},
            "hubs": {"allow": [hub_id]},
            "environment": {"variables": {"BELL": str(self._file)}},
        }

    def ring(self) -> None:
        """Let them end."""
        self._file.touch()


@pytest.fixture
def bell(tmp_path: Path) -> Iterator[Bell]:
    """A bell that rings in the end, whatever happened."""
    found = Bell(tmp_path)
    yield found
    found.ring()


def until_it_says(client: Client, job_id: str, text: str) -> None:
    """Wait until the job's program runs and has said `text`: RUNNING alone means that its guard was started."""
    when(client, job_id, "RUNNING")
    said = b""
    for piece in client.logs(job_id, follow=True):
        said += piece
        if text.encode() in said:
            break
    assert text.encode() in said
    assert state_of(client.get(job_id)) == "RUNNING"


def check_once(client: Client, job_id: str, folder: Path) -> None:
    """It ended well, was started once, and has its one result and its whole log."""
    job = ended(client, job_id)
    assert job.attempts == 1
    files = {path.name: path.read_text() for path in client.fetch(job_id, folder / job_id)}
    assert files["end.txt"] == "rang\n"
    assert files["starts.txt"].count("\n") == 1
    assert b"".join(client.logs(job_id)) == b"waiting for the bell\nit rang\n"


def test_a_killed_agent_comes_back_and_adopts_its_run(
    federation: EmbeddedFederation, client: Client, bell: Bell, tmp_path: Path
) -> None:
    """The program did not notice; nobody else started it meanwhile."""
    job_id = client.submit(bell.spec("shenzhen"))
    until_it_says(client, job_id, "waiting for the bell")
    before = set(processes_of(job_id))
    federation.kill("hub-shenzhen")
    assert set(processes_of(job_id)) == before
    federation.start_agent("shenzhen")
    bell.ring()
    check_once(client, job_id, tmp_path)


def test_a_run_that_ends_while_its_agent_is_dead_is_not_lost(
    federation: EmbeddedFederation, client: Client, bell: Bell, tmp_path: Path
) -> None:
    """The guard kept its exit status; the next agent reports it and sends the result."""
    job_id = client.submit(bell.spec("shenzhen"))
    until_it_says(client, job_id, "waiting for the bell")
    federation.kill("hub-shenzhen")
    bell.ring()
    eventually(lambda: not processes_of(job_id), PATIENCE_S, "the program to end by itself")
    assert state_of(client.get(job_id)) == "RUNNING"  # unknown is not dead
    federation.start_agent("shenzhen")
    check_once(client, job_id, tmp_path)


def test_a_job_cancelled_while_its_agent_is_dead_is_ended_when_it_is_back(
    federation: EmbeddedFederation, client: Client, bell: Bell
) -> None:
    """The order waits for the agent; then the job ends CANCELLED and no process of it is left."""
    job_id = client.submit(bell.spec("cairo"))
    until_it_says(client, job_id, "waiting for the bell")
    federation.kill("hub-cairo")
    assert state_of(client.cancel(job_id)) == "CANCELLING"
    assert processes_of(job_id)
    federation.start_agent("cairo")
    ended(client, job_id, "CANCELLED")
    eventually(lambda: not processes_of(job_id), PATIENCE_S, "every process of the job to be gone")


def test_a_killed_control_plane_forgets_nothing(
    federation: EmbeddedFederation, client: Client, bell: Bell, tmp_path: Path
) -> None:
    """Running jobs run on meanwhile, queued jobs are queued afterwards; each ends once; ended ones are as they were."""
    done = client.submit({"engine": "command", "entrypoint": "true", "resources": {"memory": "64Mi"}})
    ended(client, done)
    running = [client.submit(bell.spec(hub_id)) for hub_id in sorted(HUBS)]
    for job_id in running:
        until_it_says(client, job_id, "waiting for the bell")
    big = {**bell.spec("cairo"), "resources": {"cpus": 2, "memory": "128Mi"}}
    queued = client.submit(big, request_id=f"queued-{tmp_path.name}")
    attempts = {job_id: client.get(job_id).attempt for job_id in running}
    assert state_of(client.get(queued)) == "QUEUED"
    federation.kill("serve")
    assert all(processes_of(job_id) for job_id in running)
    federation.start_control()
    assert {job_id: client.get(job_id).attempt for job_id in running} == attempts
    assert (state_of(client.get(done)), state_of(client.get(queued))) == ("SUCCEEDED", "QUEUED")
    assert client.submit(big, request_id=f"queued-{tmp_path.name}") == queued
    eventually(lambda: federation.online() == HUBS, PATIENCE_S, "the agents to find it again")
    bell.ring()
    for job_id in (*running, queued):
        check_once(client, job_id, tmp_path)


def test_cancel_leaves_no_process_of_the_job(federation: EmbeddedFederation, client: Client, tmp_path: Path) -> None:
    """Neither the program, nor a child that ignores SIGTERM, nor one in a session of its own."""
    (tmp_path / "family.py").write_text(FAMILY)
    spec = {"engine": "command", "entrypoint": "family.py", "package": str(tmp_path), "resources": {"memory": "256Mi"}}
    job_id = client.submit(spec)
    until_it_says(client, job_id, "three of us")
    assert len(processes_of(job_id)) >= 3
    client.cancel(job_id, "seen enough")
    ended(client, job_id, "CANCELLED")
    assert processes_of(job_id) == []


def test_a_killed_guard_is_not_a_success(federation: EmbeddedFederation, client: Client, bell: Bell) -> None:
    """Somebody kills everything of a run on its machine: the job has failed and says why; the agent goes on."""
    job_id = client.submit(bell.spec("kuala-lumpur"))
    until_it_says(client, job_id, "waiting for the bell")
    agent = federation.pid("hub-kuala-lumpur")
    for process in [*guards_of(federation, job_id), *processes_of(job_id)]:
        if is_running(process):
            os.kill(process, signal.SIGKILL)
    job = ended(client, job_id, "FAILED")
    assert job.reason.code in ("GUARD_LOST", "EXIT_STATUS", "SIGNAL")
    assert (job.reason.message != "", federation.pid("hub-kuala-lumpur")) == (True, agent)


def guards_of(federation: EmbeddedFederation, job_id: str) -> list[int]:
    """The guards of a job: marked processes whose command line names its folder."""
    return [int(line.split()[0]) for line in federation.processes() if "guard.py" in line and job_id in line]
