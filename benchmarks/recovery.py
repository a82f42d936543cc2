"""How long is a control plane away that was killed, and is anything lost that it had acknowledged?

With 100,000 jobs in its queue it is killed with SIGKILL and started again: from exec to the first acknowledged submit, on
SQLite and on PostgreSQL, against a bare grpc.aio server from exec to its first answer. With a second control plane standing
by, its leader is killed, and stopped (as where its machine is gone and nobody can see that its process ended).

Then people submit without pause while the control plane is killed twenty times at random moments, and agents run what was
accepted, with the fake engine that writes down every start. Each acknowledged job has to be in the store under its request
id, and no job started twice. Slurm, tuned, kept 1 or 2 of 300 acknowledged jobs on this kind of machine when its controller
was killed right after the last acknowledgement: quoted, for it does not run here.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import grpc

from benchmarks.apparatus.control_plane import Plane, free_port, laid_out
from benchmarks.apparatus.crowd import crowd
from benchmarks.apparatus.filling import filled
from benchmarks.apparatus.load import SPEC
from benchmarks.apparatus.people import People, checked
from benchmarks.apparatus.postgres import postgres
from benchmarks.apparatus.processes import Child, child
from benchmarks.figures import Baseline, Figure, Value, emit, median, say
from federation.client.specfile import spec_from_mapping
from federation.domain.job import JobState
from federation.store import open_store
from federation.v1 import job_pb2, job_pb2_grpc

QUEUED, QUEUED_QUICK = 100_000, 2_000
HUBS = 100
TIMES, TIMES_QUICK = 5, 1
SUBMITS, SUBMITS_QUICK = 10_000, 400
KILLS, KILLS_QUICK = 20, 2
AGENTS = 8
WAIT_S = 90.0
LOOK_S = 0.005
SETTLED_S = 300.0
BURST_S, BURST_S_QUICK = 5.0, 1.0
Config = dict[str, Value]
Way = tuple[str, signal.Signals]
WAYS: tuple[Way, ...] = (("stopped", signal.SIGSTOP), ("killed", signal.SIGKILL))
SLURM = Baseline("Slurm, controller killed after the last answer", 99.5, "quoted: it kept 1 or 2 of 300 acknowledged")


def options(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("--dir", type=Path, help="where the stores lie (default: the system's temporary folder)")
    parser.add_argument("--queued", type=int, help=f"jobs in the queue (default {QUEUED}, quick {QUEUED_QUICK})")
    parser.add_argument("--submits", type=int, help=f"acknowledged over all kills (default {SUBMITS}, {SUBMITS_QUICK})")
    parser.add_argument("--kills", type=int, help=f"of the control plane (default {KILLS}, quick {KILLS_QUICK})")
    parser.add_argument("--only", choices=("start", "takeover", "kills"), help="measure one of the three")
    parser.add_argument("--store", choices=("sqlite", "postgresql"), help="on one store only")


def measure(chosen: argparse.Namespace) -> None:
    """Print the figures."""
    quick = chosen.quick
    queued = chosen.queued or (QUEUED_QUICK if quick else QUEUED)
    times = TIMES_QUICK if quick else TIMES
    stores = [chosen.store] if chosen.store else ["sqlite", "postgresql"]
    if chosen.only in (None, "start"):
        bare = Baseline("bare grpc.aio server, exec to its first answer", median([bare_s() for _ in range(times)]))
        for store in stores:
            burst_s = BURST_S_QUICK if quick else BURST_S
            for figure in serving_again(on_store(chosen.dir, store, queued), times, burst_s, bare):
                emit(figure)
    if chosen.only in (None, "takeover") and "postgresql" in stores:
        for figure in takeover(chosen.dir, queued, WAYS[:1] if quick else WAYS, bare_s()):
            emit(figure)
    if chosen.only in (None, "kills"):
        submits = chosen.submits or (SUBMITS_QUICK if quick else SUBMITS)
        for figure in kills(chosen.dir, stores[0], submits, chosen.kills or (KILLS_QUICK if quick else KILLS)):
            emit(figure)


# ---- serving again --------------------------------------------------------------------------------------------------
def serving_again(queue: AbstractContextManager[Plane], times: int, burst_s: float, bare: Baseline) -> list[Figure]:
    """From exec to the first acknowledged submit, and how long later submits had to wait meanwhile; medians."""
    began_s = time.monotonic()
    with queue as plane:
        config = of(plane) | {"times": times}
        running, known = plane.start(), uuid.uuid4().hex
        first_s: list[float] = []
        slowest_s: list[float] = []
        try:
            job_id = submitted(plane.target, plane.user_token, known)[1]
            for _ in range(times):
                running.kill()
                exec_s = time.monotonic()
                running = plane.start()
                answered_s = submitted(plane.target, plane.user_token)[0]
                first_s.append(answered_s - exec_s)
                slowest_s.append(max(one_by_one(plane, burst_s)))
                if submitted(plane.target, plane.user_token, known)[1] != job_id:
                    raise RuntimeError("a request id that was answered before the kill was answered with another job")
                say(f"first answer after {first_s[-1]:.2f} s, then the slowest took {slowest_s[-1]:.2f} s")
        finally:
            running.end()
    seconds = time.monotonic() - began_s
    worst = {"slowest_s": round(max(first_s), 3)}
    return [
        Figure("recovery", "serving_again_s", median(first_s), "s", "lower", bare, seconds, {**config, **worst}),
        Figure("recovery", "slowest_submit_then_s", median(slowest_s), "s", "lower", bare, seconds,
               {**config, "within_s": burst_s, "slowest_s": round(max(slowest_s), 3)}),
    ]  # fmt: skip


def of(plane: Plane) -> Config:
    """Which store it is on, and how much is in its queue."""
    store = open_store(plane.store_url)
    try:
        queued = store.count_jobs().get(JobState.QUEUED, 0)
    finally:
        store.close()
    return {"store": "postgresql" if plane.url else "sqlite", "queued": queued}


@contextlib.contextmanager
def on_store(parent: Path | None, store: str, queued: int) -> Iterator[Plane]:
    """A control plane that does not run yet, with a queue in its store."""
    with contextlib.ExitStack() as held:
        url = held.enter_context(postgres(parent)) if store == "postgresql" else ""
        plane = held.enter_context(laid_out(parent, url))
        began_s = time.monotonic()
        filled(plane.store_url, queued, HUBS if queued else 0)
        say(f"{store}: {queued:,} jobs written in {time.monotonic() - began_s:.1f} s")
        yield plane


def submitted(target: str, token: str, request_id: str = "") -> tuple[float, str]:
    """Submit as soon as somebody listens, again and again until it is acknowledged: (when that was, the job's id)."""
    spec = spec_from_mapping(SPEC).SerializeToString()
    member = job_pb2.Submission(request_id=request_id or uuid.uuid4().hex, spec=spec)
    until_s = time.monotonic() + WAIT_S
    while time.monotonic() < until_s:
        if not listens(target):
            Event().wait(LOOK_S)
            continue
        with grpc.insecure_channel(target, [("grpc.enable_http_proxy", 0)]) as channel:
            stub = job_pb2_grpc.JobServiceStub(channel)
            with contextlib.suppress(grpc.RpcError):
                request = job_pb2.SubmitJobsRequest(submissions=[member])
                answer = stub.SubmitJobs(request, metadata=(("authorization", f"Bearer {token}"),), timeout=30)
                if not answer.results[0].job_id:
                    raise RuntimeError(f"the job was not accepted: {answer}")
                return time.monotonic(), answer.results[0].job_id
    raise RuntimeError(f"nothing was acknowledged within {WAIT_S:g} s")


def one_by_one(plane: Plane, seconds: float) -> list[float]:
    """How long each of the submits took that followed each other for so long, s."""
    spec = spec_from_mapping(SPEC).SerializeToString()
    metadata = (("authorization", f"Bearer {plane.user_token}"),)
    took_s: list[float] = []
    until_s = time.monotonic() + seconds
    with grpc.insecure_channel(plane.target, [("grpc.enable_http_proxy", 0)]) as channel:
        stub = job_pb2_grpc.JobServiceStub(channel)
        while time.monotonic() < until_s:
            member = job_pb2.Submission(request_id=uuid.uuid4().hex, spec=spec)
            began_s = time.monotonic()
            stub.SubmitJobs(job_pb2.SubmitJobsRequest(submissions=[member]), metadata=metadata, timeout=60)
            took_s.append(time.monotonic() - began_s)
            Event().wait(0.02)
    return took_s


def listens(target: str) -> bool:
    """Whether the port takes connections."""
    host, _, port = target.rpartition(":")
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, int(port))) == 0


def bare_s() -> float:
    """A bare server from exec to its first answer."""
    began_s = time.monotonic()
    with child("benchmarks.apparatus.echo", "68") as echo:
        with grpc.insecure_channel(f"127.0.0.1:{echo.said()['port']}", [("grpc.enable_http_proxy", 0)]) as channel:
            channel.unary_unary("/bench.Echo/Echo", None, None)(b"x", timeout=30)
        return time.monotonic() - began_s


# ---- takeover -------------------------------------------------------------------------------------------------------
def takeover(parent: Path | None, queued: int, ways: Sequence[Way], bare: float) -> list[Figure]:
    """From the leader's end to the standby's first acknowledged submit."""
    found = []
    with on_store(parent, "postgresql", queued) as plane:
        for how, number in ways:
            began_s = time.monotonic()
            took_s = _took_over_s(plane, number)
            say(f"takeover, leader {how}: {took_s:.2f} s")
            config: Config = {"store": "postgresql", "queued": queued, "leader": how}
            seconds = time.monotonic() - began_s
            alone = Baseline("bare grpc.aio server, exec to its first answer", bare)
            found.append(Figure("recovery", "takeover_s", took_s, "s", "lower", alone, seconds, config))
    return found


def _took_over_s(plane: Plane, number: signal.Signals) -> float:
    other = Plane(plane.folder / f"standby-{number.name}", f"127.0.0.1:{free_port()}", plane.user_token, "", plane.url)
    other.folder.mkdir()
    (other.folder / "tokens.json").write_bytes((plane.folder / "tokens.json").read_bytes())
    (other.folder / "tokens.json").chmod(0o600)
    leader = plane.start()
    standby: Child | None = None
    try:
        submitted(plane.target, plane.user_token)
        standby = other.start()
        _until_said(other.log, "standing by")
        began_s = time.monotonic()
        os.killpg(leader.pid, number)
        return submitted(other.target, other.user_token)[0] - began_s
    finally:
        leader.kill()
        if standby is not None:
            standby.end()


def _until_said(log: Path, word: str) -> None:
    until_s = time.monotonic() + WAIT_S
    while time.monotonic() < until_s:
        if word in log.read_text("utf-8", "replace"):
            return
        Event().wait(0.05)
    raise RuntimeError(f"it never said {word!r}:\n{log.read_text()[-2000:]}")


# ---- kills under load -----------------------------------------------------------------------------------------------
@dataclass(slots=True)
class Outcome:
    """What became of everything that was acknowledged."""

    acknowledged: int
    lost: int
    started: int
    twice: int


def kills(parent: Path | None, store: str, submits: int, times: int) -> list[Figure]:
    """Submit, kill, start again; then look at the store and at the agents' traces."""
    began_s = time.monotonic()
    with on_store(parent, store, 0) as plane:
        outcome = killed_under_load(plane, submits, times)
    config: Config = {"store": store, "acknowledged": outcome.acknowledged, "kills": times, "started": outcome.started}
    seconds = time.monotonic() - began_s
    lost_pct = 100 * outcome.lost / outcome.acknowledged
    promised = Baseline("promised: none", 0.0, "the design's promise")
    return [
        Figure("recovery", "lost_pct", lost_pct, "%", "lower", SLURM, seconds, {**config, "lost": outcome.lost}),
        Figure("recovery", "started_twice", outcome.twice, "jobs", "lower", promised, seconds, config),
    ]


def killed_under_load(plane: Plane, submits: int, times: int) -> Outcome:
    """`submits` acknowledged calls of one job each, while the control plane is killed so many times."""
    running = plane.start()
    chance = random.Random()
    try:
        plane.serving()
        with crowd(plane, AGENTS, cpus=64) as agents, People(plane, submits) as people:
            for number in range(1, times + 1):
                # about as many between two kills each time, at no moment that anything of ours would choose
                goal = submits * (number - chance.random()) / times
                people.wait_for(int(min(goal, submits - 1)), WAIT_S)
                Event().wait(chance.uniform(0.0, 0.05))
                running.kill()
                say(f"kill {number} of {times}, {len(people.acknowledged):,} acknowledged")
                running = plane.start()
            people.wait_for(submits, SETTLED_S)
            agents.wait_for_starts(people.job_ids(), SETTLED_S)
            starts = agents.starts()
    finally:
        running.end()
    acknowledged = people.acknowledged
    lost = checked(plane.store_url, acknowledged)
    twice = [job_id for job_id, times_ in starts.items() if times_ > 1]
    for what, ids in (("lost", lost), ("started twice", twice)):
        if ids:
            say(f"{what}: {', '.join(ids[:10])}")
    return Outcome(len(acknowledged), len(lost), len(starts), len(twice))
