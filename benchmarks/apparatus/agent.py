"""A real agent in a process of its own, with the fake runner: it writes down when each start was entered."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from benchmarks.apparatus.control_plane import HUB, Running
from benchmarks.apparatus.processes import Child

TRACE = "BRHUB_FAKE_TRACE"
READY_S = 60.0
POLL_S = 0.002


@dataclass(slots=True)
class Agent:
    """An agent that is online, and its trace."""

    process: Child
    trace: Path
    _starts: dict[str, int] = field(default_factory=dict)
    _read: int = 0

    def start_ns(self, job_id: str, timeout_s: float = 30.0) -> int:
        """When the job's start was entered, on CLOCK_MONOTONIC; waited for."""
        until_s = time.monotonic() + timeout_s
        while job_id not in self._starts:
            self._look()
            if time.monotonic() > until_s:
                raise RuntimeError(f"job {job_id} did not start within {timeout_s:g} s")
            if job_id not in self._starts:
                Event().wait(POLL_S)
        return self._starts[job_id]

    def _look(self) -> None:
        if not self.trace.exists():
            return
        with self.trace.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        whole, found, _ = text.rpartition(b"\n")
        for line in whole.splitlines() if found else ():
            entry = json.loads(line)
            self._starts.setdefault(entry["job_id"], entry["start_ns"])
        self._read += len(whole) + len(found)


@contextlib.contextmanager
def agent(plane: Running, *, fake: bool = True) -> Iterator[Agent]:
    """One agent of the benchmark's hub, online when the block begins."""
    folder = plane.folder / "agent"
    folder.mkdir()
    config = folder / "agent.toml"
    config.write_text(
        f'hub_id = "{HUB}"\nserver = "{plane.target}"\nstate_dir = "{folder / "state"}"\n'
        f'token = "{plane.hub_token}"\nfake = {str(fake).lower()}\n'
    )
    trace = folder / "trace.jsonl"
    log = folder / "agent.log"
    words = [sys.executable, "-m", "federation.cli", "agent", "--config", str(config)]
    process = Child(words, {TRACE: str(trace)}, log)
    try:
        _online(plane, log)
        yield Agent(process, trace)
    finally:
        process.end()


def _online(plane: Running, log: Path) -> None:
    import grpc

    from federation.v1 import hub_pb2, hub_pb2_grpc

    until_s = time.monotonic() + READY_S
    with grpc.insecure_channel(plane.target, [("grpc.enable_http_proxy", 0)]) as channel:
        stub = hub_pb2_grpc.HubServiceStub(channel)
        while time.monotonic() < until_s:
            found = stub.ListHubs(
                hub_pb2.ListHubsRequest(), metadata=(("authorization", f"Bearer {plane.user_token}"),), timeout=5
            )
            if any(one.link == hub_pb2.LINK_STATE_ONLINE for hub in found.hubs for one in hub.agents):
                return
            Event().wait(0.05)
    raise RuntimeError(f"the agent was not online within {READY_S:g} s; it said:\n{log.read_text()[-2000:]}")
