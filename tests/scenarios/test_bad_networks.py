"""Real agents and a real control plane over bad networks: proxies that cut, drop, refuse and dawdle, firewalls that forget.

TLS throughout, by a name that only the proxy knows. Each job writes a line when it starts: whatever the network does,
nothing is lost and nothing runs twice.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from federation.api.hubs import HOLD_MS_MAX
from federation.app.settings import Objects, Tls
from federation.client import Client, Settings
from federation.client.transport import NOTICED_S
from federation.objects.embedded import EmbeddedSettings, start_embedded
from federation.service.sync import digest_of
from federation.v1 import common_pb2, hub_pb2
from tests.support.certificates import CertificateAuthority
from tests.support.eventually import eventually
from tests.support.plane import AISHA, CAIRO, Plane, a_plane, a_session, a_submit
from tests.support.proxy import Manners, Middlebox
from tests.unit.hub_node.scripted import spec_of

pytestmark = pytest.mark.asyncio

NAME = "control.example.edu"
SPARE = "spare.example.edu"
OBJECTS = "objects.example.edu"
BOTH = f"{SPARE}:7460,{NAME}:7460"
AGENT = "import sys; from hub_node.app import agent_main; sys.exit(agent_main(sys.argv[1]))"
PROGRAM = 'import os, sys; os.write(os.open(sys.argv[1], os.O_APPEND | os.O_CREAT | os.O_WRONLY), b"%s\\n" % os.environb[b"BRHUB_JOB_ID"]); print("hello")'
SUCCEEDED = common_pb2.JOB_STATE_SUCCEEDED


@dataclass
class Campus:
    """A control plane, and what a campus behind a proxy knows of it."""

    plane: Plane
    folder: Path
    ca: Path
    proxy: Middlebox
    server: str = f"{NAME}:7460"

    @property
    def starts(self) -> list[str]:
        """The jobs that were started, once for each time."""
        file = self.folder / "starts"
        return file.read_text().split() if file.exists() else []

    @contextmanager
    def client(self) -> Iterator[Client]:
        """A person's connection, by the proxy."""
        token = self.plane.plane.tokens.issue(AISHA)
        with Client(Settings(self.server, token, str(self.ca), proxy=self.proxy.url)) as client:
            yield client

    @contextmanager
    def agent(self) -> Iterator[subprocess.Popen[bytes]]:
        """The agent of Cairo, which finds the proxy in its environment."""
        token = self.plane.plane.tokens.issue(CAIRO)
        file = self.folder / "agent.toml"
        file.write_text(
            f'hub_id = "cairo"\nserver = {json.dumps(self.server.split(","))}\ntoken = "{token}"\nca = "{self.ca}"\n'
            'state_dir = "state"\nengines = ["command"]\n'
        )
        plain = {name: text for name, text in os.environ.items() if not name.lower().endswith("_proxy")}
        with (self.folder / "agent.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", AGENT, str(file)],
                stdout=log,
                stderr=log,
                env={**plain, "https_proxy": self.proxy.url},
            )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGUSR1)
            process.wait(30)

    def job(self) -> Any:
        """A job that says when it starts."""
        return spec_of("python3", "command", arguments=("-c", PROGRAM, str(self.folder / "starts")))


@asynccontextmanager
async def a_campus(
    folder: Path, manners: Manners, server: str = f"{NAME}:7460", with_objects: bool = False
) -> AsyncIterator[Campus]:
    """A control plane with TLS, and the proxy before it."""
    authority = CertificateAuthority(folder)
    pair = authority.server(NAME, SPARE, OBJECTS, "localhost", "127.0.0.1")
    store, objects = None, Objects()
    if with_objects:
        secret = secrets.token_urlsafe(16)
        begun = EmbeddedSettings(folder / "data", folder / "store.log", "root-key", secret)
        store = start_embedded(replace(begun, certificate=pair.certificate, key=pair.key, ca_file=authority.ca_file))
        port = urlsplit(store.address.endpoint).port
        objects = Objects(f"https://{OBJECTS}:{port}", "root-key", secret, ca=str(authority.ca_file))
    tls = Tls(str(pair.certificate), str(pair.key))
    try:
        async with a_plane(folder, objects, tls=tls, roots=authority.ca_file.read_bytes()) as plane:
            names = {NAME: ("127.0.0.1", plane.plane.ports["grpc"]), SPARE: ("127.0.0.1", 1)}
            if store is not None:
                names[OBJECTS] = ("127.0.0.1", urlsplit(store.address.endpoint).port or 0)
            with Middlebox(manners, names) as proxy:
                yield Campus(plane, folder, authority.ca_file, proxy, server)
    finally:
        if store is not None:
            store.stop()


def waves(campus: Campus, cuts: str = "") -> list[str]:
    """Three times two jobs, seen to their end and one log read; before the next the proxy `cuts` somebody. Their ids."""
    ids: list[str] = []
    with campus.client() as client:
        for _ in range(3):
            both = [client.submit(campus.job()) for _ in range(2)]
            ids.extend(both)
            assert [client.wait(job_id, 60).state for job_id in both] == [SUCCEEDED] * 2
            assert b"".join(client.logs(both[0], follow=True)) == b"hello\n"
            before = campus.proxy.counts[cuts]
            assert eventually(lambda before=before: not cuts or campus.proxy.counts[cuts] > before)  # type: ignore[misc]
    return ids


@pytest.mark.parametrize(
    ("manners", "cuts"),
    [(Manners(idle_s=1.5), "idle"), (Manners(life_s=2.0), "aged"), (Manners(delay_s=0.1), "")],
    ids=["cuts idle streams", "drops long streams", "is slow"],
)
async def test_work_goes_on_through_a_proxy(tmp_path: Path, manners: Manners, cuts: str) -> None:
    """Leases flow, logs are read, every job runs exactly once."""
    async with a_campus(tmp_path, manners) as campus:
        with campus.agent():
            ids = await asyncio.to_thread(waves, campus, cuts)
        assert sorted(campus.starts) == sorted(ids)
        assert all(head.startswith(f"CONNECT {NAME}:7460 ") for head in campus.proxy.asked)


async def test_an_agent_waits_out_a_proxy_that_refuses(tmp_path: Path) -> None:
    """It says once what is wrong, and comes when it may."""
    async with a_campus(tmp_path, Manners(answer="403 Forbidden")) as campus:
        with campus.agent():
            log = tmp_path / "agent.log"
            await asyncio.to_thread(eventually, lambda: len(campus.proxy.asked) >= 3)
            campus.proxy.behave(answer="200 OK")
            ids = await asyncio.to_thread(waves, campus)
        assert sorted(campus.starts) == sorted(ids)
        assert log.read_text().count("cannot be reached, runs go on") == 1


async def test_a_firewall_that_forgets_is_noticed_in_time(tmp_path: Path) -> None:
    """Packets vanish and nobody is told: agent and client ask the silent link, give it up, and dial anew."""
    async with a_campus(tmp_path, Manners()) as campus:
        with campus.agent(), campus.client() as client:
            (first,) = await asyncio.to_thread(lambda: [client.submit(campus.job())])
            await asyncio.to_thread(client.wait, first, 60)
            campus.proxy.forget()
            began_s = time.monotonic()
            voice = campus.plane.voice(AISHA)  # not by the firewall
            submitted = await voice.job("SubmitJobs", a_submit(campus.job().SerializeToString()))
            second = submitted.results[0].job_id
            ended = await asyncio.to_thread(client.wait, second, 90)
            took_s = time.monotonic() - began_s
        assert ended.state == SUCCEEDED
        assert campus.starts == [first, second]
        assert campus.proxy.counts["vanished"] > 0
        assert took_s < NOTICED_S + 5


async def test_the_one_that_leads_is_found_through_a_proxy(tmp_path: Path) -> None:
    """Of two names the proxy reaches one, then only the other: agent and client go over, every job runs exactly once."""
    async with a_campus(tmp_path, Manners(), BOTH) as campus:
        with campus.agent():
            ids = await asyncio.to_thread(waves, campus)
            names = campus.proxy.names
            names[SPARE], names[NAME] = names[NAME], names[SPARE]
            campus.proxy.cut()
            before = len(campus.proxy.asked)
            ids += await asyncio.to_thread(waves, campus)
        assert sorted(campus.starts) == sorted(ids)
        assert any(head.startswith(f"CONNECT {SPARE}:7460 ") for head in campus.proxy.asked[before:])


LARGE_BYTES = 4 << 20
COPY = """
import os, shutil
os.write(os.open(os.environ["STARTS"], os.O_APPEND | os.O_CREAT | os.O_WRONLY), b"started\\n")
shutil.copy("data.bin", os.environ["BRHUB_OUTPUT_DIR"])
"""


@pytest.mark.parametrize(
    ("manners", "cuts"),
    [(Manners(idle_s=1.5), "idle"), (Manners(life_s=2.0), "aged"), (Manners(cut_bytes=LARGE_BYTES // 2), "large")],
    ids=["cuts idle streams", "drops long streams", "cuts what is large, every other time"],
)
async def test_bytes_come_and_go_through_a_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manners: Manners, cuts: str
) -> None:
    """A package, its staging and a result of 4 MiB each way, over a name that only the proxy knows: whole, and once."""
    known = socket.getaddrinfo

    def by_the_control_plane(host: Any, *rest: Any, **more: Any) -> Any:
        return known("127.0.0.1" if host == OBJECTS else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", by_the_control_plane)
    folder = tmp_path / "job"
    folder.mkdir()
    data = secrets.token_bytes(LARGE_BYTES)
    (folder / "data.bin").write_bytes(data)
    (folder / "main.py").write_text(COPY)
    job = {
        "engine": "command", "entrypoint": "main.py", "package": str(folder), "runtime_limit": "5m",
        "environment": {"variables": {"STARTS": str(tmp_path / "starts")}},
        "resources": {"cpus": 0.1, "memory": "64Mi", "disk": "32Mi"},
    }  # fmt: skip
    async with a_campus(tmp_path, manners, with_objects=True) as campus:

        def there_and_back() -> bytes:
            with campus.client() as client:
                job_id = client.submit(job)
                ended = client.wait(job_id, 120)
                assert ended.state == SUCCEEDED, ended
                before = campus.proxy.counts[cuts]
                assert eventually(lambda: campus.proxy.counts[cuts] > (0 if cuts == "large" else before), 30)
                (file,) = client.fetch(job_id, tmp_path / "back")
                return file.read_bytes()

        with campus.agent():
            assert await asyncio.to_thread(there_and_back) == data
        assert campus.starts == ["started"]
        carried = [head for head in campus.proxy.asked if head.startswith(f"CONNECT {OBJECTS}:")]
    assert len(carried) >= (6 if cuts == "large" else 3)  # the package, its staging, the result, and what was cut anew


async def test_a_held_call_lasts_20_seconds_at_most(tmp_path: Path) -> None:
    """Whatever the agent asks for; so that a proxy that cuts after 30 s never sees a call that old."""
    async with a_plane(tmp_path) as plane:
        voices = []
        for n, hold_ms in enumerate((1_000, HOLD_MS_MAX, 3_600_000)):
            voice = plane.voice(CAIRO)
            request = a_session(instance_id=f"i{n}")
            request.agent_id = f"agent-{n}"
            session = await voice.hub("OpenSession", request)
            sync = hub_pb2.SyncHubRequest(
                session_id=session.session_id, sync_seq=1, hold_ms=hold_ms, runs_digest=digest_of(())
            )
            voices.append(voice.hub("SyncHub", sync))
        began_s = time.monotonic()
        answers = await asyncio.gather(*voices)
        took_s = time.monotonic() - began_s
    assert [round(answer.held_ms / 1_000) for answer in answers] == [1, 20, 20]
    assert 19 < took_s < 22
