"""Two control planes on one PostgreSQL, as real processes: one leads, the other stands by and takes over."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from federation.client import Client, Patience, Settings
from federation.client.specfile import spec_from_mapping
from federation.identity.principal import Principal, PrincipalKind
from federation.identity.tokens import TokenFile
from federation.v1 import common_pb2, job_pb2, job_pb2_grpc
from tests.support.eventually import eventually
from tests.support.postgres import running_postgres

REPOSITORY = Path(__file__).resolve().parents[2]
START_S = 90.0
"""The machine is small and shared."""
TAKEOVER_S = 10.0


@dataclass(slots=True)
class Plane:
    """One `brhub serve`."""

    process: subprocess.Popen[bytes]
    target: str
    token: str
    log: Path

    def submit(self, request_id: str) -> str:
        """A job's id, durable when it comes; LookupError while nobody answers there."""
        spec = spec_from_mapping({"version": 1, "name": "one", "engine": "command", "entrypoint": "one.sh"})
        asked = job_pb2.SubmitJobsRequest(
            submissions=[job_pb2.Submission(request_id=request_id, spec=spec.SerializeToString())]
        )
        with grpc.insecure_channel(self.target, [("grpc.enable_http_proxy", 0)]) as channel:
            try:
                answer = job_pb2_grpc.JobServiceStub(channel).SubmitJobs(
                    asked, timeout=2, metadata=(("authorization", f"Bearer {self.token}"),)
                )
            except grpc.RpcError as error:
                if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise LookupError(str(error)) from error
                raise
        assert answer.results[0].job_id, answer
        return str(answer.results[0].job_id)

    def said(self, words: str) -> bool:
        """Whether its log has these."""
        assert self.process.poll() is None, self.log.read_text()
        return words in self.log.read_text()

    def serves(self, request_id: str) -> str:
        """The job's id, once it answers."""
        return eventually(lambda: self.submit(request_id), START_S, "it answers")


@contextlib.contextmanager
def plane(folder: Path, url: str, tokens_file: Path | None = None) -> Iterator[Plane]:
    """A control plane on the store at `url`, ended at the latest here. `tokens_file`: the other one's."""
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{probe.getsockname()[1]}"
    file = tokens_file or folder / "tokens.json"
    tokens = TokenFile(file) if tokens_file else TokenFile.create(file)
    token = tokens.issue(Principal(PrincipalKind.USER, "local", "aisha", "cairo", ("default",)))
    config, log = folder / "control.toml", folder / "log"
    config.write_text(
        f'[server]\nlisten = "{target}"\ndata_dir = "{folder}"\ntokens_file = "{file}"\n[store]\nurl = "{url}"\n'
    )
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "federation.cli", "serve", "--config", str(config)],
            cwd=REPOSITORY, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        yield Plane(process, target, token, log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


@pytest.fixture
def url() -> str:
    """A database with nothing in it."""
    return running_postgres().new_database()


def leader_of(planes: list[Plane], within_s: float) -> Plane:
    """The one that leads, once one does; the others stand by."""

    def leader() -> Plane | None:
        return next((one for one in planes if one.said("leading")), None)

    found = eventually(leader, within_s, "one of them leads")
    assert found is not None
    eventually(lambda: all(one.said("standing by") for one in planes if one is not found), START_S, "the others wait")
    return found


def test_standby_takes_over_from_a_leader_that_stopped(tmp_path: Path, url: str) -> None:
    """Within ten seconds the standby answers, with all that was acknowledged; the one that stopped wakes up only to end."""
    with plane(tmp_path / "first", url) as first, plane(tmp_path / "second", url) as second:
        leader = leader_of([first, second], START_S)
        standby = second if leader is first else first
        job_id = leader.serves("r1")
        leader.process.send_signal(signal.SIGSTOP)
        assert eventually(lambda: standby.submit("r1"), TAKEOVER_S, "the standby has taken over") == job_id
        leader.process.send_signal(signal.SIGCONT)
        assert leader.process.wait(10) == 70
        assert standby.submit("r2") != job_id


def test_standby_takes_over_from_a_leader_that_ended(tmp_path: Path, url: str) -> None:
    """Nobody waits for a leader of the same machine that was killed; one that ends by itself hands over at once."""
    with (
        plane(tmp_path / "first", url) as first,
        plane(tmp_path / "second", url) as second,
        plane(tmp_path / "third", url) as third,
    ):
        planes = [first, second, third]
        killed = leader_of(planes, START_S)
        job_id = killed.serves("r1")
        killed.process.kill()
        planes.remove(killed)
        ended = leader_of(planes, TAKEOVER_S)
        assert ended.serves("r1") == job_id
        ended.process.terminate()
        assert ended.process.wait(30) == 0
        planes.remove(ended)
        assert eventually(lambda: planes[0].submit("r1"), TAKEOVER_S, "the last one has taken over") == job_id


PROGRAM = 'import os, sys; os.write(os.open(sys.argv[1], os.O_APPEND | os.O_CREAT | os.O_WRONLY), b"%s\\n" % os.environb[b"BRHUB_JOB_ID"])'
AGENT = "import sys; from hub_node.app import agent_main; sys.exit(agent_main(sys.argv[1]))"


@contextlib.contextmanager
def agent(folder: Path, servers: list[str], token: str) -> Iterator[Path]:
    """The agent of Cairo, which knows both control planes; its log."""
    folder.mkdir()
    file, log = folder / "agent.toml", folder / "log"
    file.write_text(
        f'hub_id = "cairo"\nserver = {json.dumps(servers)}\ntoken = "{token}"\nstate_dir = "state"\nengines = ["command"]\n'
    )
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-c", AGENT, str(file)], stdout=output, stderr=output)
    try:
        yield log
    finally:
        process.send_signal(signal.SIGUSR1)
        process.wait(30)


def test_agent_and_client_find_the_new_leader(tmp_path: Path, url: str) -> None:
    """Killed under submits, and nobody says where the new one is: no acknowledged job is lost, doubled, or run twice."""
    starts = tmp_path / "starts"
    job = {
        "version": 1, "name": "one", "engine": "command", "entrypoint": "python3", "runtime_limit": "5m",
        "arguments": ["-c", PROGRAM, str(starts)], "resources": {"cpus": 0.1, "memory": "64Mi", "disk": "1Mi"},
    }  # fmt: skip
    acknowledged: dict[str, str] = {}
    enough = threading.Event()
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(plane(tmp_path / "first", url))
        tokens_file = tmp_path / "first/tokens.json"
        second = stack.enter_context(plane(tmp_path / "second", url, tokens_file))
        leader = leader_of([first, second], START_S)
        standby = second if leader is first else first
        servers = [leader.target, standby.target]
        hub_token = TokenFile(tokens_file).issue(Principal(PrincipalKind.HUB, "local", "cairo", "cairo"))
        log = stack.enter_context(agent(tmp_path / "agent", servers, hub_token))
        client = stack.enter_context(Client(Settings(",".join(servers), leader.token), Patience(retry_s=60.0)))

        def submit_on() -> None:
            while not enough.is_set():
                name = f"r{len(acknowledged)}"
                acknowledged[name] = client.submit(job, name)

        submitting = threading.Thread(target=submit_on)
        submitting.start()
        eventually(lambda: len(acknowledged) >= 5 and starts.exists(), START_S, "jobs run")
        before = len(acknowledged)
        leader.process.kill()
        eventually(lambda: len(acknowledged) >= before + 5, TAKEOVER_S + 10, "the client found the new leader")
        enough.set()
        submitting.join(60)
        assert [client.submit(job, name) for name in acknowledged] == list(acknowledged.values())
        for job_id in acknowledged.values():
            assert client.wait(job_id, 120).state == common_pb2.JOB_STATE_SUCCEEDED
        assert len(client.list()) == len(acknowledged)
        assert f"session open at {standby.target}" in log.read_text()
    assert sorted(starts.read_text().split()) == sorted(acknowledged.values())
