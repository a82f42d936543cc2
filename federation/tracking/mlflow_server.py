"""The MLflow server as a process: started by a thread of its own, watched, restarted with backoff, ended with its group.

It outlives a crash of the control plane on purpose: jobs that run elsewhere go on writing, and the next control plane
finds it by the pid, start time and port in `server.json` and takes it up again. The port stays the same over restarts, since jobs
keep the address they were given. Loopback only.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
START_S_MAX = 180.0
"""MLflow takes 20 s on a quiet machine for a fresh database, and minutes on a busy one."""
STOP_S_MAX = 10.0
BACKOFF_S = (1.0, 2.0, 5.0, 15.0, 60.0)
HEALTH_EVERY_S = 0.5
WATCH_EVERY_S = 2.0
_RECORD = "server.json"
_OURS = ("MLFLOW_", "BRHUB_")
_INHERITED = ("BRHUB_FEDERATION_DIR",)
"""The mark by which `brhub down` finds what belongs to a federation."""
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""No proxy from the environment: the server is on this machine."""


@dataclass(frozen=True, slots=True)
class _Server:
    """A server process as it is written down: a pid alone could be somebody else's by now."""

    pid: int
    created_s: float
    port: int

    @property
    def uri(self) -> str:
        return f"http://{HOST}:{self.port}"

    def alive(self) -> bool:
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.created_s) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def healthy(self) -> bool:
        try:
            with _OPENER.open(f"{self.uri}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError, http.client.HTTPException):
            return False

    def end(self) -> None:
        """Ask its group to end, then make it; returns when it is gone. A group that is not ours any more is left alone."""
        if not self.alive():
            return
        for number, patience_s in ((signal.SIGTERM, STOP_S_MAX), (signal.SIGKILL, STOP_S_MAX)):
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                os.killpg(self.pid, number)
            if _until(lambda: not self.alive(), patience_s):
                break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # workers that outlived their master


class MlflowTracking:
    """The port `federation.ports.Tracking`. `folder` holds the database, the artifacts and the server's log."""

    def __init__(self, folder: Path, python: str = sys.executable) -> None:
        self._folder = folder
        self._python = python
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._uri = ""
        self._up = False
        self._available = importlib.util.find_spec("mlflow") is not None
        self._said_unavailable = False
        if read_record(folder) is not None:
            self.wanted()  # left by a control plane before this one: jobs may be writing to it

    def uri(self) -> str:
        """Where jobs reach it, from the moment it is wanted: it may still be starting. Empty when it is off or broken."""
        return self._uri

    def up(self) -> bool:
        """Whether it has answered since it was last started."""
        return self._up

    def wanted(self) -> None:
        """Start it if it is not running or starting. Returns at once."""
        with self._lock:
            if self._closing.is_set() or self._thread is not None:
                return
            if not self._available:
                if not self._said_unavailable:
                    log.warning("tracking is off: the package mlflow is not installed here (extra `mlflow`)")
                self._said_unavailable = True
                return
            self._uri = f"http://{HOST}:{self._port()}"  # the first job's lease is written before the server is up
            self._thread = threading.Thread(target=self._keep_running, name="tracking", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End it; blocks for at most 20 s."""
        with self._lock:
            self._closing.set()
            thread = self._thread
        if thread is not None:
            thread.join()
        self._uri = ""

    # ---- the thread ---------------------------------------------------------------------------------------------------

    def _keep_running(self) -> None:
        failures = 0
        try:
            while not self._closing.is_set():
                self._uri = self._uri or f"http://{HOST}:{self._port()}"
                try:
                    server = self._take_up() or self._start()
                    if server is not None and self._came_up(server):
                        failures = 0
                        self._watch(server)
                except OSError as problem:
                    log.warning("the tracking server could not be started: %s", problem)
                self._up = False
                self._uri = ""
                pause_s = BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]
                failures += 1
                self._closing.wait(pause_s)
        finally:
            self._up = False
            self._uri = ""
            end_left_behind(self._folder)

    def _take_up(self) -> _Server | None:
        server = read_record(self._folder)
        return server if server is not None and server.alive() else None

    def _port(self) -> int:
        """The port of the last server, where it can be had again: jobs keep the address they were given."""
        last = read_record(self._folder)
        return last.port if last is not None and (last.alive() or _free(last.port)) else _free_port()

    def _start(self) -> _Server | None:
        self._folder.mkdir(parents=True, exist_ok=True)
        port = int(self._uri.rpartition(":")[2])
        if not _free(port):
            port = _free_port()
            self._uri = f"http://{HOST}:{port}"
        command = [self._python, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self._folder.resolve()}/mlflow.db", "--serve-artifacts"]
        command += ["--artifacts-destination", str(self._folder.resolve() / "artifacts")]
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        variables = {
            name: text for name, text in os.environ.items() if name in _INHERITED or not name.startswith(_OURS)
        }
        with (self._folder / "server.log").open("ab") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self._folder,
                env=variables | quiet, start_new_session=True,
            )  # fmt: skip
        threading.Thread(target=process.wait, name="tracking-reaper", daemon=True).start()
        try:
            server = _Server(process.pid, psutil.Process(process.pid).create_time(), port)
        except psutil.Error:
            log.warning("the tracking server ended as soon as it was started; see %s", self._folder / "server.log")
            return None
        write_record(self._folder, server)
        return server

    def _came_up(self, server: _Server) -> bool:
        ends_s = time.monotonic() + START_S_MAX
        while not self._closing.is_set() and server.alive() and time.monotonic() < ends_s:
            if server.healthy():
                self._uri = server.uri
                self._up = True
                log.info("tracking is up at %s", server.uri)
                return True
            self._closing.wait(HEALTH_EVERY_S)
        if not self._closing.is_set():
            log.warning("the tracking server did not come up; see %s", self._folder / "server.log")
        server.end()
        return False

    def _watch(self, server: _Server) -> None:
        while not self._closing.wait(WATCH_EVERY_S):
            if not server.alive():
                log.warning("the tracking server ended; it is started again")
                return


def end_left_behind(folder: Path) -> None:
    """End the server that `folder` records, if it still runs: for `brhub down` after a crash. Blocks for at most 20 s."""
    server = read_record(folder)
    if server is not None:
        server.end()
        (folder / _RECORD).unlink(missing_ok=True)


def read_record(folder: Path) -> _Server | None:
    """The server written down in `folder`; None when there is none, or its file makes no sense."""
    try:
        found = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        return _Server(int(found["pid"]), float(found["created_s"]), int(found["port"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as problem:
        log.warning("%s cannot be read (%r): if the server that it names still runs, end it", folder / _RECORD, problem)
        return None


def write_record(folder: Path, server: _Server) -> None:
    """Write down `server`, whole or not at all."""
    text = json.dumps({"pid": server.pid, "created_s": server.created_s, "port": server.port})
    (folder / f"{_RECORD}.new").write_text(text, encoding="utf-8")
    (folder / f"{_RECORD}.new").rename(folder / _RECORD)


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _until(check: Callable[[], bool], patience_s: float) -> bool:
    ends_s = time.monotonic() + patience_s
    pause = threading.Event()
    while not (done := check()) and time.monotonic() < ends_s:
        pause.wait(0.05)
    return done
