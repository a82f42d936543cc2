"""Full disks, real ones: of the control plane, and of an agent. What was accepted before runs to its end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.cli.show import state_of
from federation.errors import Code, FederationError
from tests.support.embedded_federation import PATIENCE_S, ended
from tests.support.eventually import eventually
from tests.support.spare_processes import SpareControl, fill, small_disk

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root"),
]

KIB = 2**10


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 12 MiB."""
    with small_disk(tmp_path / "disk", "12m") as folder:
        yield folder


def test_a_full_store_refuses_and_forgets_nothing(tmp_path: Path, disk: Path) -> None:
    """STORE_FULL, the federation's fault, with what to do; reading goes on; with room again, and after a kill, all runs."""
    control = SpareControl(tmp_path, disk / "data")
    accepted: list[str] = []
    spec = {
        "engine": "command", "entrypoint": "true", "resources": {"cpus": 0.5, "memory": "16Mi"},
        "environment": {"variables": {"FILLING": "x" * 100 * KIB}},
    }  # fmt: skip
    try:
        with control.client() as client:
            agent = control.agent(tmp_path / "state", cpus=4)
            agent.says("session open")
            client.drain_hub("cairo", note="the queue is to fill the disk")
            accepted.append(client.submit(spec))
            ballast = fill(disk)
            with pytest.raises(FederationError) as caught:
                accepted.extend(client.submit(spec) for _ in range(200))
            assert (caught.value.code, caught.value.fault) == (Code.STORE_FULL, "federation")
            assert "what was accepted before is safe" in caught.value.hint
            assert {job.id for job in client.list(limit=500)} == set(accepted)
            ballast.unlink()
            accepted.append(eventually(lambda: client.submit(spec), PATIENCE_S))
        control.restart()
        with control.client() as client:
            client.drain_hub("cairo", undo=True)
            for job_id in accepted:
                assert ended(client, job_id).attempts == 1
    finally:
        control.process.end()
    assert agent.end() == 0


def test_an_agent_without_room_fails_only_what_needs_room(tmp_path: Path, disk: Path) -> None:
    """A job that ran before the disk was full ends well; a new one says so and whose fault it is; later ones run."""
    control = SpareControl(tmp_path, tmp_path / "data")
    agent = control.agent(disk / "state")
    bell = tmp_path / "bell"
    shell = {"engine": "command", "entrypoint": "bash", "resources": {"cpus": 0.5, "memory": "16Mi"}}
    try:
        agent.says("session open")
        with control.client() as client:
            wait = f"touch {tmp_path}/started; until test -e {bell}; do sleep 0.1; done"
            before = client.submit({**shell, "arguments": ["-c", wait]})
            eventually((tmp_path / "started").exists, PATIENCE_S, "its program to run")
            ballast = fill(disk)
            new = client.submit({**shell, "arguments": ["-c", "echo in time"]})
            agent.says("STORE_FULL")
            assert state_of(client.get(before)) == "RUNNING"
            ballast.unlink()
            bell.touch()
            assert ended(client, before).attempts == 1
            job = client.wait(new, PATIENCE_S)
            assert state_of(job) == "SUCCEEDED" or job.reason.code == "STORE_FULL"
            after = client.submit({**shell, "arguments": ["-c", "echo there is room"]})
            ended(client, after)
            assert b"".join(client.logs(after)) == b"there is room\n"
    finally:
        assert agent.end() == 0
        control.process.end()
