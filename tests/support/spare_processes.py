"""Single processes of a federation that a test starts and ends itself: a control plane alone, one agent more.

Each runs in a session of its own and is ended by group. Not here: the shared federation (`embedded_federation.py`).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from federation.cli import layout
from federation.client import Client, Settings
from federation.errors import FederationError
from federation.identity.principal import LOCAL_ISSUER, OPERATOR, Principal, PrincipalKind
from federation.identity.tokens import TokenFile
from tests.support.embedded_federation import PATIENCE_S, environment
from tests.support.eventually import eventually


class Spare:
    """One process, its log, and its end."""

    def __init__(self, words: Sequence[str | Path], log: Path, *, env: Mapping[str, str] | None = None) -> None:
        """`brhub WORDS`, or with `env` the program WORDS in that whole environment."""
        self.log_file = log
        ours = () if env is not None else (sys.executable, "-m", "federation.cli")
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*ours, *map(str, words)],
                env=environment(None) if env is None else dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """All that it said."""
        return self.log_file.read_text(errors="replace")

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.poll()

    @property
    def pid(self) -> int:
        """The process, and its group."""
        return self._process.pid

    def says(self, text: str) -> None:
        """Wait until its log holds `text`."""

        def look() -> bool:
            assert text in self.log, self.log[-2000:]
            return True

        eventually(look, PATIENCE_S)

    def end(self, sign: signal.Signals = signal.SIGTERM) -> int:
        """End its group, and wait; its exit status."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, sign)
        try:
            return self._process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            raise


class SpareControl:
    """A control plane alone, in a folder, on a port of its own: no console, and no object store but what `objects` names."""

    def __init__(self, folder: Path, data_dir: Path, objects: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.data_dir = data_dir
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.server = f"127.0.0.1:{probe.getsockname()[1]}"
        tokens = TokenFile.create(folder / "tokens.json")
        self.admin = tokens.issue(
            Principal(PrincipalKind.ADMIN, LOCAL_ISSUER, "root", "cairo", ("default",), (OPERATOR,))
        )
        self.hub = tokens.issue(Principal(PrincipalKind.HUB, LOCAL_ISSUER, "cairo", "cairo"))
        self.file = folder / "control.toml"
        self.file.write_text(
            layout.toml(
                {
                    "server": {
                        "listen": self.server,
                        "data_dir": str(data_dir),
                        "tokens_file": str(folder / "tokens.json"),
                    },
                    "objects": dict(objects or {}),
                }
            )
        )
        self.process = self.started()

    def started(self) -> Spare:
        """One more process of it, which answers."""
        process = Spare(["serve", "--config", self.file], self.folder / "serve.log")

        def answers() -> bool:
            assert process.status is None, process.log[-2000:]
            try:
                with self.client() as client:
                    client.list_hubs()
            except FederationError:
                return False
            return True

        eventually(answers, PATIENCE_S, "the control plane to answer")
        return process

    def restart(self) -> None:
        """Kill it and start it again."""
        self.process.end(signal.SIGKILL)
        self.process = self.started()

    def client(self) -> Client:
        """A client of its administrator."""
        return Client(Settings(server=self.server, token=self.admin))

    def agent(self, state_dir: Path, cpus: float = 2) -> Spare:
        """An agent of the hub `cairo`, which keeps everything in `state_dir`."""
        config = self.folder / "agent.toml"
        config.write_text(
            layout.toml(
                {
                    "hub_id": "cairo",
                    "server": self.server,
                    "token": self.hub,
                    "state_dir": str(state_dir),
                    "engines": ["command"],
                    "offer": {"cpus": cpus, "memory": 2**30, "disk": 2**30},
                }
            )
        )
        return Spare(["agent", "--config", config], self.folder / "agent.log")


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own with so much room, mounted at `folder`. Needs root."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True, timeout=30)
    try:
        yield folder
    finally:
        # lazily: what just ended may still hold a file for a moment
        subprocess.run(["umount", "--lazy", folder], check=True, timeout=30)


def fill(folder: Path) -> Path:
    """Write a file until the disk is full; remove it to free the room again."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue  # so much does not fit any more: try less
    return ballast
