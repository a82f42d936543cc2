"""A hub's own user needs the machines: a guest that may be preempted ends in peace, waits, and runs again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from federation.cli import embedded
from federation.cli.show import state_of
from federation.client import Client
from tests.support.embedded_federation import PATIENCE_S, EmbeddedFederation, ended, when
from tests.support.eventually import eventually

pytestmark = pytest.mark.timeout(300)

GUEST = """\
import os, pathlib, signal, sys, threading
told = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: told.set())
bell = pathlib.Path(os.environ["BELL"])
print("here with", os.environ["BRHUB_GRACE_S"], "s of grace", flush=True)
while not bell.exists():
    if told.wait(0.1):
        print("making room", flush=True)
        sys.exit(0 if bell.exists() else 3)
print("done", flush=True)
"""


def as_user(federation: EmbeddedFederation, subject: str, home_hub: str) -> Client:
    """A client of a plain user."""
    settings = embedded.settings_of(federation.plan)
    return Client(replace(settings, token=federation.token(subject, home_hub)))


def spec(folder: Path, script: str, cpus: float, **more: Any) -> dict[str, Any]:
    """A command job at Cairo that takes `cpus` of it."""
    return {
        "engine": "command",
        "entrypoint": script,
        "package": str(folder),
        "resources": {"cpus": cpus, "memory": "64Mi"},
        "hubs": {"allow": ["cairo"]},
        **more,
    }


def test_an_owner_takes_the_machine_back_from_a_guest(federation: EmbeddedFederation, tmp_path: Path) -> None:
    """The planner sees it by itself: SIGTERM, the guest ends, the owner runs, the guest runs again and succeeds."""
    package, bell = tmp_path / "package", tmp_path / "bell"
    package.mkdir()
    (package / "guest.py").write_text(GUEST)
    (package / "owner.py").write_text("print('mine')\n")
    (cairo,) = [node for node in federation.brhub("node", "list", "-o", "json").items if node["hub_id"] == "cairo"]
    (cpu,) = [entry for entry in cairo["offered"] if entry["name"] == "cpu"]
    cpus = int(cpu["amount"]) / 1000
    with as_user(federation, "gus", "shenzhen") as gus, as_user(federation, "olga", "cairo") as olga:
        variables = {"variables": {"BELL": str(bell)}}
        guest_id = gus.submit(spec(package, "guest.py", cpus, preemptible=True, environment=variables))
        when(gus, guest_id, "RUNNING")
        eventually(lambda: b"here with" in b"".join(gus.logs(guest_id)), PATIENCE_S, "the guest to run")
        owner_id = olga.submit(spec(package, "owner.py", cpus))
        ended(olga, owner_id)
        when(gus, guest_id, "RUNNING")
        bell.touch()
        job = ended(gus, guest_id)
        assert (job.attempts, state_of(job)) == (2, "SUCCEEDED")
        log = b"".join(gus.logs(guest_id)).decode()
        assert log.endswith("done\n")
