"""How much memory do the control plane and an agent hold, and how fast does `brhub --help` answer?

Resident memory as the kernel counts it (VmRSS): the control plane with 10,000 jobs in its queue, an agent that is online
and idle. Beside them a bare grpc.aio server in the same interpreter, which is what any program of this kind begins with;
beside `--help` the interpreter that starts and does nothing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.apparatus.agent import agent
from benchmarks.apparatus.control_plane import control_plane
from benchmarks.apparatus.load import METHOD
from benchmarks.apparatus.processes import child
from benchmarks.figures import Baseline, Figure, emit, median
from benchmarks.submit import load

QUEUED = 10_000
HELPS, HELPS_QUICK = 21, 9


def options(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("--queued", type=int, default=QUEUED, help="jobs in the control plane's queue")


def measure(chosen: argparse.Namespace) -> None:
    """Print the three figures."""
    began_s = time.monotonic()
    with child("benchmarks.apparatus.echo", "68") as echo:
        echo.said()
        bare_mb = resident_mb(echo.pid)
    beside = Baseline("bare grpc.aio server", bare_mb)
    with control_plane() as plane:
        with agent(plane) as hub:
            online_mb = resident_mb(hub.process.pid)
        _fill(plane.target, plane.user_token, chosen.queued)
        control_mb = resident_mb(plane.process.pid)
    seconds = time.monotonic() - began_s
    emit(
        Figure(
            "footprint", "control_rss_mb", control_mb, "MB", "lower", beside, seconds, {"queued_jobs": chosen.queued}
        )
    )
    emit(Figure("footprint", "agent_rss_mb", online_mb, "MB", "lower", beside, seconds, {"runs": 0}))
    emit(helped(HELPS_QUICK if chosen.quick else HELPS))


def _fill(target: str, token: str, jobs: int) -> None:
    """Queue so many jobs that nobody here can run: no agent is online any more."""
    batch = 100
    sent = 0
    while sent < jobs:
        calls = min(40, -(-(jobs - sent) // batch))
        answer = load(target, METHOD, token, batch, 2, 60.0, calls)
        sent += batch * (int(answer["calls"]) + 1)


def helped(times: int) -> Figure:
    """`brhub --help` against an interpreter that does nothing, in turns."""
    began_s = time.monotonic()
    words = [str(Path(sys.executable).with_name("brhub")), "--help"]
    ours: list[float] = []
    bare: list[float] = []
    for _ in range(times + 1):
        ours.append(_took_s(words))
        bare.append(_took_s([sys.executable, "-c", ""]))
    return Figure(
        "footprint", "help_s", median(ours[1:]), "s", "lower", Baseline("python -c ''", median(bare[1:])),
        time.monotonic() - began_s, {"times": times},
    )  # fmt: skip


def _took_s(words: list[str]) -> float:
    began_s = time.perf_counter()
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began_s


def resident_mb(pid: int) -> float:
    """VmRSS of one process, in units of 10^6 bytes."""
    for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"process {pid} is gone")
