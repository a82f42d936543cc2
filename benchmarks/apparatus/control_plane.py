"""A real control plane in a process of its own, on a free port: SQLite in a file, fsync at each commit, or PostgreSQL.

It is what `brhub serve` starts, with nothing set but its folder, its address and, for PostgreSQL, its store.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc

from benchmarks.apparatus.processes import Child, child
from federation.identity.principal import Principal, PrincipalKind
from federation.identity.tokens import TokenFile

HUB = "cairo"
TOKENS = "tokens.json"
READY_S = 60.0


@dataclass(slots=True)
class Running:
    """A control plane that serves."""

    folder: Path
    target: str
    user_token: str
    hub_token: str
    process: Child

    @property
    def database(self) -> Path:
        """The store's file."""
        return self.folder / "federation.db"


@contextlib.contextmanager
def control_plane(parent: Path | None = None, url: str = "") -> Iterator[Running]:
    """One on an empty store, below `parent` (the system's folder for temporary files when None), or on that at `url`."""
    with tempfile.TemporaryDirectory(prefix="brhub-bench-", dir=parent) as name:
        folder = Path(name)
        tokens = TokenFile.create(folder / TOKENS)
        user = tokens.issue(Principal(PrincipalKind.USER, "local", "aisha", HUB, ("default",)))
        hub = tokens.issue(Principal(PrincipalKind.HUB, "local", "agent", HUB))
        target = f"127.0.0.1:{_free_port()}"
        config = folder / "control.toml"
        server = f'[server]\nlisten = "{target}"\ndata_dir = "{folder}"\ntokens_file = "{folder / TOKENS}"\n'
        config.write_text(server + (f'[store]\nurl = "{url}"\n' if url else ""))
        log = folder / "control.log"
        with child("federation.cli", "serve", "--config", str(config), log=log) as process:
            _serving(target, log)
            yield Running(folder, target, user, hub, process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _serving(target: str, log: Path) -> None:
    """Wait until it takes calls."""
    with grpc.insecure_channel(target, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            grpc.channel_ready_future(channel).result(READY_S)
        except grpc.FutureTimeoutError:
            raise RuntimeError(f"the control plane did not serve; it said:\n{log.read_text()[-2000:]}") from None
