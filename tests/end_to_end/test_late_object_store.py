"""A control plane that starts while its object store is away, as real processes: what needs no store goes on."""

from __future__ import annotations

import os
import signal
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from federation.cli import layout
from federation.client import Client, Patience, Settings
from federation.errors import KINDS, Code, FederationError
from federation.identity.tokens import TokenFile
from federation.objects.embedded import EmbeddedSettings, start_embedded
from tests.support.embedded_federation import brhub, ended
from tests.support.spare_processes import SpareControl

pytestmark = pytest.mark.timeout(300)
SHELL = {"engine": "command", "entrypoint": "bash", "resources": {"cpus": 0.5, "memory": "16Mi"}}


@pytest.fixture
def late(tmp_path: Path) -> EmbeddedSettings:
    """An object store that nobody has started yet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    return EmbeddedSettings(tmp_path / "objects", tmp_path / "objects.log", "late-key", "late-secret", port=port)


def named(store: EmbeddedSettings) -> dict[str, str]:
    """`[objects]` of the control plane's settings."""
    return {
        "endpoint": f"http://{store.host}:{store.port}", "access_key": store.access_key, "secret_key": store.secret_key,
    }  # fmt: skip


def test_jobs_go_on_before_the_object_store_is_there(tmp_path: Path, late: EmbeddedSettings) -> None:
    """A job without a package runs and is read; one with a package is refused at once, and accepted once the store is there."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "hello.sh").write_text("cat words.txt > $BRHUB_OUTPUT_DIR/said.txt\n")
    (package / "words.txt").write_text("here it is\n")
    packed = {**SHELL, "entrypoint": "hello.sh", "package": str(package)}
    control = SpareControl(tmp_path, tmp_path / "data", named(late))
    agent = control.agent(tmp_path / "state")
    store = None
    try:
        with Client(Settings(server=control.server, token=control.admin), Patience(retry_s=0.0)) as client:
            agent.says("session open")
            plain = client.submit({**SHELL, "arguments": ["-c", "echo without a store"]})
            ended(client, plain)
            assert b"".join(client.logs(plain)) == b"without a store\n"
            assert list(client.results(plain).files) == []
            with pytest.raises(FederationError) as caught:
                client.submit(packed)
            assert (caught.value.code, caught.value.fault) == (Code.STORE_UNAVAILABLE, "federation")
            assert "cannot be reached" in caught.value.message
            assert "Jobs without a package" in caught.value.hint
            assert client.server_info().objects_away
            assert control.process.log.count("[UNREACHABLE] Jobs without packages go on.") == 1, (
                "said once, not at every try"
            )
            store = start_embedded(late)
            control.process.says(f"the object store at {store.address.endpoint} answers")
            job_id = client.submit(packed)
            ended(client, job_id)
            client.fetch(job_id, tmp_path / "result")
            assert (tmp_path / "result" / "said.txt").read_text() == "here it is\n"
            assert not client.server_info().objects_away
    finally:
        status = (agent.end(), control.process.end())
        if store is not None:
            store.stop()
    assert status == (0, 0)


def test_a_start_beside_an_object_store_that_hangs(tmp_path: Path, late: EmbeddedSettings) -> None:
    """It serves, and ends when it is asked to; and it has the bucket once the store goes on."""
    store = start_embedded(late)
    os.kill(store.pid, signal.SIGSTOP)
    try:
        control = SpareControl(tmp_path, tmp_path / "data", named(late))
        control.process.says("has not answered for 3 s")
        assert control.process.end() == 0
        control.process = control.started()
        os.kill(store.pid, signal.SIGCONT)
        control.process.says(f"the object store at {store.address.endpoint} answers")
        assert control.process.end() == 0
    finally:
        os.kill(store.pid, signal.SIGCONT)
        store.stop()


def test_a_wrong_key_ends_the_start(tmp_path: Path, late: EmbeddedSettings) -> None:
    """That no waiting would mend: as before, the control plane says so and does not serve."""
    server = {
        "listen": "127.0.0.1:0", "data_dir": str(tmp_path / "data"), "tokens_file": str(tmp_path / "tokens.json"),
    }  # fmt: skip
    TokenFile.create(tmp_path / "tokens.json")
    file = tmp_path / "control.toml"
    file.write_text(layout.toml({"server": server, "objects": named(replace(late, secret_key="not-that-one"))}))
    store = start_embedded(late)
    try:
        said = brhub("serve", "--config", file)
    finally:
        store.stop()
    assert (said.status, said.error["code"]) == (KINDS[Code.PERMISSION_DENIED].exit, Code.PERMISSION_DENIED)
    assert "serving on" not in said.err
