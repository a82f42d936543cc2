"""A real control plane in a process of its own: SQLite in a file, WAL, fsync at each commit, on a free port.

As a program (`python -m benchmarks.apparatus.control_plane FOLDER`) it serves until SIGTERM, and says its port.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.apparatus.processes import Child, child
from federation.identity.principal import Principal, PrincipalKind
from federation.identity.tokens import TokenFile

HUB = "cairo"
TOKENS = "tokens.json"


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
def control_plane(parent: Path | None = None) -> Iterator[Running]:
    """One on an empty store, below `parent` (the system's folder for temporary files when None)."""
    with tempfile.TemporaryDirectory(prefix="brhub-bench-", dir=parent) as name:
        folder = Path(name)
        tokens = TokenFile.create(folder / TOKENS)
        user = tokens.issue(Principal(PrincipalKind.USER, "local", "aisha", HUB, ("default",)))
        hub = tokens.issue(Principal(PrincipalKind.HUB, "local", "agent", HUB))
        with child("benchmarks.apparatus.control_plane", str(folder)) as process:
            target = f"127.0.0.1:{process.said()['port']}"
            yield Running(folder, target, user, hub, process)


async def _serve(folder: Path) -> None:
    from federation.app.serving import ControlPlane
    from federation.app.settings import Server, Settings

    server = Server(listen="127.0.0.1:0", data_dir=str(folder), tokens_file=str(folder / TOKENS))
    plane = ControlPlane(Settings(server=server))
    ending = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ending.set)
    await plane.start()
    print(json.dumps({"port": plane.ports["grpc"]}), flush=True)
    await ending.wait()
    await plane.stop()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
