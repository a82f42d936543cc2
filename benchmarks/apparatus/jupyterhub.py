"""A JupyterHub as `infra/jupyterhub` configures it, with the spawner that is to be measured, and its REST API to spawn by."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import secrets
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from benchmarks.apparatus.processes import Child

CONFIG = Path(__file__).resolve().parents[2] / "infra" / "jupyterhub" / "jupyterhub_config.py"
UP_S = 120.0
READY_S = 120.0
POLL_S = 0.05
SERVICE = """
load_subconfig({config!r})
c.JupyterHub.services = [{{"name": "bench", "api_token": {token!r}}}]
c.JupyterHub.load_roles = [{{"name": "bench", "scopes": ["admin:users", "admin:servers"], "services": ["bench"]}}]
"""
OURS = """
c.FederationSpawner.courses_dir = {courses!r}
"""
LOCAL = """
c.JupyterHub.spawner_class = "jupyterhub.spawner.LocalProcessSpawner"
c.Spawner.cmd = [{python!r}, "-m", "jupyterhub.singleuser"]
c.Spawner.args = ["--allow-root"]
c.Spawner.notebook_dir = {courses!r}
"""


@dataclass(slots=True)
class Hub:
    """A JupyterHub, and the one who spawns there: the user this program runs as."""

    base: str
    token: str
    log: Path
    user: str

    def cold_ready_s(self) -> float:
        """From asking for a server until JupyterHub calls it ready; the server is stopped again before this returns."""
        began_s = time.monotonic()
        self._call("POST", f"users/{self.user}/server", {})
        self._until(lambda: bool(self._server().get("ready")), "was not ready")
        took_s = time.monotonic() - began_s
        self._call("DELETE", f"users/{self.user}/server")
        self._until(lambda: not self._server(), "did not stop")
        return took_s

    def _server(self) -> dict[str, Any]:
        servers: dict[str, dict[str, Any]] = self._call("GET", f"users/{self.user}").get("servers", {})
        return servers.get("", {})

    def _until(self, there: Any, what: str) -> None:
        until_s = time.monotonic() + READY_S
        while not there():
            if time.monotonic() > until_s:
                raise RuntimeError(
                    f"the lab {what} within {READY_S:g} s; the hub said:\n{self.log.read_text()[-3000:]}"
                )
            Event().wait(POLL_S)

    def _call(self, verb: str, path: str, body: object = None) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self.base}/hub/api/{path}".rstrip("/"),
            method=verb,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"token {self.token}", "Content-Type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else {}

    def join(self) -> None:
        """Wait until the hub answers, and make the user known there."""
        until_s = time.monotonic() + UP_S
        while True:
            try:
                self._call("GET", "")
                break
            except OSError as problem:
                refused = isinstance(problem, urllib.error.HTTPError) and problem.code in (401, 403)
                if refused or time.monotonic() > until_s:
                    raise RuntimeError(f"JupyterHub did not come up:\n{self.log.read_text()[-3000:]}") from None
                Event().wait(POLL_S)
        self._call("POST", f"users/{self.user}")


@contextlib.contextmanager
def jupyterhub(folder: Path, name: str, more: str, environment: dict[str, str]) -> Iterator[Hub]:
    """A JupyterHub called `name`, with `more` configuration, on its way up: `join` waits for it."""
    state = folder / name
    state.mkdir()
    token, port = secrets.token_hex(16), _three_ports()
    config = state / "config.py"
    config.write_text(SERVICE.format(config=str(CONFIG), token=token) + more)
    log = state / "jupyterhub.log"
    process = Child(
        [sys.executable, "-m", "jupyterhub", "-f", str(config)],
        {
            "BRHUB_LAB_PASSWORD": secrets.token_hex(16),
            "BRHUB_JUPYTERHUB_DIR": str(state),
            "BRHUB_JUPYTERHUB_PORT": str(port),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(CONFIG.parents[2]), os.environ.get("PYTHONPATH", "")])),
            **environment,
        },
        log,
    )
    try:
        yield Hub(f"http://127.0.0.1:{port}", token, log, getpass.getuser())
    finally:
        process.end()


def _three_ports() -> int:
    """A port with two free ones above it: the door, the hub's API, the proxy's API."""
    for _ in range(50):
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            first = held.enter_context(socket.socket())
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            for above in (1, 2):
                held.enter_context(socket.socket()).bind(("127.0.0.1", port + above))
            return port
    raise RuntimeError("no three free ports in a row")
