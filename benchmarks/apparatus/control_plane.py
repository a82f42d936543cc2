"""A real control plane in a process of its own, on a free port: SQLite in a file, fsync at each commit, or PostgreSQL.

It is what `brhub serve` starts, with nothing set but its folder, its address and, for PostgreSQL, its store.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from benchmarks.apparatus.processes import Child
from federation.identity.principal import Principal, PrincipalKind
from federation.identity.tokens import TokenFile

HUB = "cairo"
USER = "aisha"
TOKENS = "tokens.json"
READY_S = 60.0


@dataclass(slots=True)
class Plane:
    """A control plane's folder, address and tokens: it can be started, killed, and started again."""

    folder: Path
    target: str
    user_token: str
    hub_token: str
    url: str = ""
    """Its store, where that is no file in its folder."""

    @property
    def database(self) -> Path:
        """The store's file."""
        return self.folder / "federation.db"

    @property
    def store_url(self) -> str:
        """Its store."""
        return self.url or f"sqlite:///{self.database}"

    @property
    def log(self) -> Path:
        """What it says, of all its lives."""
        return self.folder / "control.log"

    def start(self) -> Child:
        """Begin; it does not serve yet."""
        config = self.folder / "control.toml"
        server = f'listen = "{self.target}"\ndata_dir = "{self.folder}"\ntokens_file = "{self.folder / TOKENS}"\n'
        config.write_text(f"[server]\n{server}" + (f'[store]\nurl = "{self.url}"\n' if self.url else ""))
        return Child([sys.executable, "-m", "federation.cli", "serve", "--config", str(config)], log=self.log)

    def serving(self) -> None:
        """Wait until it takes calls."""
        with grpc.insecure_channel(self.target, [("grpc.enable_http_proxy", 0)]) as channel:
            try:
                grpc.channel_ready_future(channel).result(READY_S)
            except grpc.FutureTimeoutError:
                last = self.log.read_text()[-2000:]
                raise RuntimeError(f"the control plane did not serve; it said:\n{last}") from None

    def hub_tokens(self, hubs: Iterable[str]) -> list[str]:
        """A token for an agent of each hub."""
        tokens = TokenFile(self.folder / TOKENS)
        return [tokens.issue(Principal(PrincipalKind.HUB, "local", f"agent-{hub}", hub)) for hub in hubs]


@dataclass(slots=True)
class Running(Plane):
    """A control plane that serves."""

    process: Child = field(kw_only=True)


@contextlib.contextmanager
def laid_out(parent: Path | None = None, url: str = "") -> Iterator[Plane]:
    """The files of one, below `parent` (the system's folder for temporary files when None), on the store at `url`."""
    with tempfile.TemporaryDirectory(prefix="brhub-bench-", dir=parent) as name:
        folder = Path(name)
        tokens = TokenFile.create(folder / TOKENS)
        user = tokens.issue(Principal(PrincipalKind.USER, "local", USER, HUB, ("default",)))
        hub = tokens.issue(Principal(PrincipalKind.HUB, "local", "agent", HUB))
        yield Plane(folder, f"127.0.0.1:{free_port()}", user, hub, url)


@contextlib.contextmanager
def control_plane(parent: Path | None = None, url: str = "") -> Iterator[Running]:
    """One that serves for the time of the block, on an empty store; see `laid_out`."""
    with laid_out(parent, url) as plane:
        process = plane.start()
        try:
            plane.serving()
            yield Running(plane.folder, plane.target, plane.user_token, plane.hub_token, plane.url, process=process)
        finally:
            process.end()


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
