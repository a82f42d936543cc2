"""A real agent in a process of its own, with the fake runner: it writes down when each start was entered."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections import defaultdict
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
class Trace:
    """The starts that agents write down into a file, read as it grows."""

    file: Path
    starts_ns: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """When each job's starts were entered, by its id, on CLOCK_MONOTONIC."""
    _read: int = 0

    def look(self) -> None:
        """Take in what came since the last look."""
        if not self.file.exists():
            return
        with self.file.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        whole, found, _ = text.rpartition(b"\n")
        for line in whole.splitlines() if found else ():
            entry = json.loads(line)
            self.starts_ns[entry["job_id"]].append(entry["start_ns"])
        self._read += len(whole) + len(found)


@dataclass(slots=True)
class Agent:
    """An agent that is online, and its trace."""

    process: Child
    trace: Trace

    def start_ns(self, job_id: str, timeout_s: float = 30.0) -> int:
        """When the job's start was entered, on CLOCK_MONOTONIC; waited for."""
        until_s = time.monotonic() + timeout_s
        while job_id not in self.trace.starts_ns:
            self.trace.look()
            if time.monotonic() > until_s:
                raise RuntimeError(f"job {job_id} did not start within {timeout_s:g} s")
            if job_id not in self.trace.starts_ns:
                Event().wait(POLL_S)
        return self.trace.starts_ns[job_id][0]


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
        yield Agent(process, Trace(trace))
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
