"""Ray heads that the agent starts: one at a time for each run, kept warm for the person who used it.

A head belongs to one (issuer, subject) and one shape (CPUs, GPUs): nobody else's code meets it, and a lease's amount is what
Ray hands out. Two runs at once have two heads, since Ray would let either use the other's share. An idle head is ended
after `idle_s`; until then it holds about 1 GB that no lease pays for. Each head is under `guard.py` with a deadline that the
agent moves on, so that heads of an agent that never comes back end by themselves. What listens beyond loopback (Ray's own
choice: GCS and raylet) asks for the token. Not here: jobs (`ray.py`), a hub's own Ray cluster (`ray_cluster.py`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from federation.errors import Code, Fault, FederationError
from hub_node import steady
from hub_node.ports import Phase
from hub_node.runners import guard
from hub_node.runners.process import ProcessRunner
from hub_node.runners.ray_api import RayApi, RayRefusedError, RaySilentError

log = logging.getLogger(__name__)

HOST = "127.0.0.2"
"""Loopback; Ray replaces 127.0.0.1 by the machine's outside address."""
IDLE_S = 600.0
START_S_MAX = 180.0
"""30 s on a quiet machine; heads are started by jobs, so a crowd of jobs makes it slow for all."""
STOP_GRACE_MS = 10_000
OBJECT_STORE_BYTES = 200 * 1000**2
TICK_S = 10.0
DEAD_MAN_MS = 15 * 60_000
"""A head outlives the agent's silence by this much, or by its run's deadline when that is later."""
HEADS_MAX = 64
SOCKET_FOLDER_CHARACTERS_MAX = 40
"""Ray's socket names add 66 characters to its folder; the kernel takes 107."""
_RECORD = "head.json"
_CLEANING_UP = 'trap : TERM INT; "$@"; code=$?; rm -rf -- "$0"; exit $code'
"""Shell around `ray start`: its folder goes with it, also when no agent is there any more to remove it."""
_PORTS = (
    "port", "node-manager-port", "object-manager-port", "ray-client-server-port", "dashboard-port",
    "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port", "metrics-export-port",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shape:
    """Whose head, and how much it hands out. Heads of equal shape can stand in for each other."""

    issuer: str
    subject: str
    cpus: int
    gpus: int
    devices: str
    """CUDA_VISIBLE_DEVICES of the lease; empty when it has none."""


class RayHead(ProcessRunner):
    """One head process and its folder."""

    def __init__(self, folder: Path, shape: Shape, token: str, url: str, sockets: Path) -> None:
        super().__init__()
        self._folder = folder
        self._job = (f"ray-head-{folder.name}", "head")  # what its processes carry, should its guard be killed
        self.name = folder.name
        self.shape = shape
        self.token = token
        self.sockets = sockets
        self.api = RayApi(url, token)
        self.user = ""
        """The attempt that has it now; empty when idle."""
        self.idle_since_s = time.monotonic()
        self._until_ms = 0

    def begin(self, ports: dict[str, int]) -> None:
        """Start `ray start --head --block` under a guard. Raises: OSError."""
        words = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
        words += ["--node-ip-address", HOST, "--dashboard-host", HOST, "--include-dashboard", "true"]
        words += [f"--{name}={port}" for name, port in ports.items()]
        words += ["--num-cpus", str(self.shape.cpus), "--num-gpus", str(self.shape.gpus)]
        words += ["--object-store-memory", str(OBJECT_STORE_BYTES), "--temp-dir", str(self.sockets)]
        token_file = self.folder / "token"
        token_file.touch(mode=0o600)
        token_file.write_text(self.token, encoding="ascii")
        job_id, attempt = self._job
        kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "USER", "LD_LIBRARY_PATH", "TZ")
        variables = (
            {name: os.environ[name] for name in kept if name in os.environ}
            | {
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN_PATH": str(token_file),
                "RAY_USAGE_STATS_ENABLED": "0",
                "AUTOSCALER_METRIC_PORT": "-1",  # no metrics on all interfaces
                "DASHBOARD_METRIC_PORT": "-1",
                "RAY_JOB_STOP_WAIT_TIME_S": "60",  # our guard ends a driver; Ray's own three seconds would cut its grace short
                "BRHUB_JOB_ID": job_id,
                "BRHUB_ATTEMPT": attempt,
            }
        )
        variables["CUDA_VISIBLE_DEVICES"] = self.shape.devices
        spec: guard.Json = {
            "folder": str(self.folder), "argv": ["/bin/sh", "-c", _CLEANING_UP, str(self.sockets), *words], "cwd": str(self.sockets), "env": variables,
            "log": str(self.folder / "head.log"), "grace_ms": STOP_GRACE_MS, "memory_bytes_max": 0, "log_bytes_max": 2**30,
        }  # fmt: skip
        self.live_until(steady.now_ms() + DEAD_MAN_MS)
        guard.write_json(str(self.folder / "guard-spec.json"), spec)
        self._launch(self.folder)

    def live_until(self, wall_ms: int) -> None:
        """Move its deadline on, never back."""
        if wall_ms > self._until_ms:
            self._until_ms = wall_ms
            self._write_deadline(wall_ms, 0)

    def over(self) -> bool:
        """Whether its process has ended."""
        return self.poll().phase is Phase.ENDED

    def remove(self) -> None:
        """Take away what an ended head leaves."""
        shutil.rmtree(self.sockets, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)


class RayHeads:
    """All heads of this agent; safe to call from any thread. `folder` outlives the agent's process: heads are found again.

    A thread of its own ends idle heads. `close` ends them all; without it they stay for the agent's next process.
    """

    def __init__(self, folder: Path, idle_s: float = IDLE_S) -> None:
        self._folder = folder
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._heads: dict[str, RayHead] = {}
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        for record in sorted(folder.glob(f"*/{_RECORD}")):
            self._adopt(record)
        if self._heads:
            self._watch()

    def acquire(self, shape: Shape, user: str, cancelled: Callable[[], bool] = lambda: False) -> RayHead:
        """A head of this shape for the attempt `user`: the one it has, an idle one, or a new one (blocks up to 3 min).

        Raises: FederationError ENGINE_UNAVAILABLE, TOOL_MISSING.
        """
        if importlib.util.find_spec("ray") is None:
            hint = "The operator installs the extra `ray`."
            raise FederationError(Code.TOOL_MISSING, "This hub has no Ray.", fault=Fault.HUB, hint=hint)
        with self._lock:
            mine = [head for head in self._heads.values() if head.user == user]
            idle = [head for head in self._heads.values() if not head.user and head.shape == shape]
            head = next((head for head in (*mine, *idle) if not head.over()), None)
            others = [
                other for other in self._heads.values()
                if not other.user and other is not head and (other.shape.issuer, other.shape.subject) == (shape.issuer, shape.subject)
            ]  # fmt: skip
            new = head is None
            if head is None:
                head = self._make(shape)
            head.user = user
        for other in others:
            other.stop(STOP_GRACE_MS)  # another shape of the same person: its memory is wanted; the thread forgets it
        self._watch()
        if new:
            self._begin(head, cancelled)
        return head

    def find(self, name: str) -> RayHead | None:
        """The head of this name, while it lives."""
        with self._lock:
            head = self._heads.get(name)
        return head if head is not None and not head.over() else None

    def claim(self, name: str, user: str) -> RayHead | None:
        """Take up what an attempt had before the agent's restart; None when that head is gone."""
        head = self.find(name)
        if head is not None:
            head.user = user
        return head

    def release(self, name: str, user: str) -> None:
        """The attempt has ended: its head is idle from now on. Repeating is harmless."""
        with self._lock:
            head = self._heads.get(name)
            if head is not None and head.user == user:
                head.user, head.idle_since_s = "", time.monotonic()

    def close(self) -> None:
        """End all heads, also used ones; blocks for at most 20 s."""
        self._closing.set()
        with self._lock:
            heads, self._heads = list(self._heads.values()), {}
        for head in heads:
            head.stop(STOP_GRACE_MS)
        ends_s = time.monotonic() + 20
        pause = threading.Event()
        while not all(head.over() for head in heads) and time.monotonic() < ends_s:
            pause.wait(0.1)
        for head in heads:
            head.remove()

    def tick(self) -> None:
        """Forget ended heads, end those that are idle for too long, move the deadlines of the others on."""
        with self._lock:
            heads = list(self._heads.values())
        for head in heads:
            if head.over():
                self._forget(head)
            elif not head.user and time.monotonic() - head.idle_since_s >= self._idle_s and not _busy(head):
                head.stop(STOP_GRACE_MS)
            else:
                head.live_until(steady.now_ms() + DEAD_MAN_MS)

    # ---- inside -------------------------------------------------------------------------------------------------------

    def _make(self, shape: Shape) -> RayHead:
        if len(self._heads) >= HEADS_MAX:
            raise _unavailable(f"This hub runs {HEADS_MAX} Ray heads already.")
        person = hashlib.sha256(f"{shape.issuer}\0{shape.subject}".encode()).hexdigest()[:8]
        folder = self._folder / f"{person}-{secrets.token_hex(4)}"
        folder.mkdir(parents=True, mode=0o700)
        base = tempfile.gettempdir()
        if len(base) > SOCKET_FOLDER_CHARACTERS_MAX:
            base = "/tmp"  # noqa: S108 - mkdtemp makes a folder that is nobody else's
        sockets = Path(tempfile.mkdtemp(prefix="brr-", dir=base))
        ports = free_ports(_PORTS)
        head = RayHead(folder, shape, secrets.token_hex(32), f"http://{HOST}:{ports['dashboard-port']}", sockets)
        record: guard.Json = {
            "shape": asdict(shape), "token": head.token, "url": head.api.url, "sockets": str(sockets), "ports": ports,
        }  # fmt: skip
        guard.write_json(str(folder / _RECORD), record)
        self._heads[head.name] = head
        return head

    def _begin(self, head: RayHead, cancelled: Callable[[], bool]) -> None:
        """Start a new head and wait until it answers."""
        try:
            ports = json.loads((head.folder / _RECORD).read_text(encoding="utf-8"))["ports"]
            head.begin(ports)
            ends_s = time.monotonic() + START_S_MAX
            pause = threading.Event()
            while not head.api.ready():
                if head.over():
                    raise _unavailable(f"Ray did not start: {_tail(head.folder / 'head.log')}")
                if cancelled() or self._closing.is_set():
                    raise _unavailable("The start of Ray was called off.")
                if time.monotonic() > ends_s:
                    raise _unavailable(f"Ray did not start within {START_S_MAX:.0f} s.")
                pause.wait(0.25)
        except OSError as problem:
            self._give_up(head)
            raise _unavailable(f"Ray could not be started: {problem.strerror or problem}.") from problem
        except FederationError:
            self._give_up(head)
            raise

    def _give_up(self, head: RayHead) -> None:
        head.stop(0)
        head.user, head.idle_since_s = "", time.monotonic() - self._idle_s

    def _adopt(self, record: Path) -> None:
        try:
            said = json.loads(record.read_text(encoding="utf-8"))
            head = RayHead(record.parent, Shape(**said["shape"]), said["token"], said["url"], Path(said["sockets"]))
        except OSError as problem:  # the head may live: whoever starts next looks again
            log.warning("the Ray head of %s is not taken up: %s", record, problem)
            return
        except (ValueError, KeyError, TypeError):
            shutil.rmtree(record.parent, ignore_errors=True)
            return
        if head.over():
            head.remove()
        else:
            self._heads[head.name] = head

    def _forget(self, head: RayHead) -> None:
        with self._lock:
            self._heads.pop(head.name, None)
        head.remove()

    def _watch(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._tick_forever, name="ray-heads", daemon=True)
                self._thread.start()

    def _tick_forever(self) -> None:
        while not self._closing.wait(min(TICK_S, max(0.5, self._idle_s / 2))):
            try:
                self.tick()
            except OSError as problem:
                log.warning("Ray heads could not be looked after: %s", problem)


def free_ports(names: tuple[str, ...]) -> dict[str, int]:
    """A free loopback port for each name, all different."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in names]
        for each in sockets:
            each.bind((HOST, 0))
        return {name: int(each.getsockname()[1]) for name, each in zip(names, sockets, strict=True)}


def _busy(head: RayHead) -> bool:
    try:
        return head.api.busy()
    except (RaySilentError, RayRefusedError):
        return False


def _tail(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[-600:].strip()
    except OSError:
        return "it said nothing"


def _unavailable(message: str) -> FederationError:
    hint = "The hub's operator finds more in the head's log; the job itself may be fine."
    return FederationError(Code.ENGINE_UNAVAILABLE, message, fault=Fault.HUB, hint=hint)
