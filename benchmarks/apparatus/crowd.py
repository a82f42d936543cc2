"""Many real agents in one process, each with its own journal, threads, token and connection; the engine is the fake one.

As a program: `python -m benchmarks.apparatus.crowd FILE...`, one agent a file, until it is killed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from benchmarks.apparatus.agent import TRACE, Trace
from benchmarks.apparatus.control_plane import Plane
from benchmarks.apparatus.filling import hub_name
from benchmarks.apparatus.processes import Child

READY_S = 120.0
LOOK_S = 0.2


@dataclass(slots=True)
class Crowd:
    """Agents that run, and the trace that all of them write."""

    process: Child
    trace: Trace
    log: Path

    def starts(self) -> Counter[str]:
        """How often each job was started so far, by id."""
        self.trace.look()
        return Counter({job_id: len(starts) for job_id, starts in self.trace.starts_ns.items()})

    def starts_between(self, from_s: float, until_s: float) -> int:
        """How many starts there were in a stretch of time.monotonic()."""
        self.trace.look()
        return sum(from_s <= at_ns / 1e9 < until_s for starts in self.trace.starts_ns.values() for at_ns in starts)

    def wait_for_starts(self, job_ids: Collection[str], timeout_s: float) -> None:
        """Until each of these was started. Raises: RuntimeError when they are not."""
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            self.trace.look()
            if all(job_id in self.trace.starts_ns for job_id in job_ids):
                return
            Event().wait(LOOK_S)
        missing = sum(job_id not in self.trace.starts_ns for job_id in job_ids)
        raise RuntimeError(f"{missing} of {len(job_ids)} jobs were not started within {timeout_s:g} s")


@contextlib.contextmanager
def crowd(plane: Plane, agents: int, *, cpus: int, target: str = "") -> Iterator[Crowd]:
    """So many hubs with an agent each, which dial `target` (where the control plane is, when empty)."""
    folder = plane.folder / "crowd"
    folder.mkdir()
    files = []
    names = [hub_name(number) for number in range(agents)]
    for name, token in zip(names, plane.hub_tokens(names), strict=True):
        file = folder / f"{name}.toml"
        file.write_text(
            f'hub_id = "{name}"\nserver = "{target or plane.target}"\nstate_dir = "{folder / name}"\n'
            f'token = "{token}"\nfake = true\n[offer]\ncpus = {cpus}\nmemory = "{2 * cpus}Gi"\ndisk = "{cpus}Gi"\n'
        )
        files.append(str(file))
    trace, log = folder / "trace.jsonl", folder / "crowd.log"
    process = Child([sys.executable, "-m", "benchmarks.apparatus.crowd", *files], {TRACE: str(trace)}, log)
    try:
        process.said()
        yield Crowd(process, Trace(trace), log)
    finally:
        process.kill()  # its runs are nothing: nobody needs a farewell of two hundred


def main(files: Sequence[str]) -> None:
    """Serve all of them."""
    from hub_node.agent.state import State
    from hub_node.app import connect
    from hub_node.config import load

    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    _own_connections()
    states: queue.SimpleQueue[State] = queue.SimpleQueue()

    def agent(file: str) -> None:
        parts = connect(load(file))  # here: a journal belongs to one thread
        states.put(parts.state)
        parts.serve()

    threads = [threading.Thread(target=agent, args=(file,), daemon=True) for file in files]
    for thread in threads:
        thread.start()
    running = [states.get(timeout=READY_S) for _ in files]
    print(json.dumps({"agents": len(running)}), flush=True)
    for thread in threads:
        thread.join()


def _own_connections() -> None:
    """Left alone, gRPC lets channels of one process to one address share a connection; agents on 200 machines do not."""
    from federation.client import transport

    shipped = transport.options

    def options(target: str, proxy: str = "") -> list[tuple[str, int | str]]:
        return [*shipped(target, proxy), ("grpc.use_local_subchannel_pool", 1)]

    transport.options = options


if __name__ == "__main__":
    main(sys.argv[1:])
