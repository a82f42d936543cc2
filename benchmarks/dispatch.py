"""How long from a person's submit to the runner's start, on a federation that has nothing else to do?

A real control plane and a real agent, each in a process of its own, the client in a third; the runner is the fake one,
which writes down the moment at which its `start` is entered. One clock: CLOCK_MONOTONIC is the machine's. The way holds
at least two durable commits there (the job, its lease) and one here (the agent's journal). Beside it: one bare gRPC round
trip plus one durable commit, measured in between. On this kind of machine Slurm tuned took 811/995 ms (p50/p99), Ray's
job submission 1,467 ms, HyperQueue 22/42 ms.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import time
import uuid
from pathlib import Path
from threading import Event

import grpc

from benchmarks.apparatus.agent import Agent, agent
from benchmarks.apparatus.control_plane import Running, control_plane
from benchmarks.apparatus.echo import METHOD as ECHO
from benchmarks.apparatus.load import SPEC
from benchmarks.apparatus.processes import child
from benchmarks.figures import Baseline, Figure, emit, percentile, say
from federation.client.specfile import spec_from_mapping
from federation.v1 import common_pb2, job_pb2, job_pb2_grpc

JOBS, JOBS_QUICK = 500, 150
WARM_JOBS = 5
PAUSE_S = (0.01, 0.05)
"""Between a job's end and the next submit: drawn anew each time, so that no timer of ours falls into step."""
QUICK_S = 30.0


def options(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("--dir", type=Path, help="where the stores lie (default: the system's temporary folder)")
    parser.add_argument("--jobs", type=int, help=f"how many (default {JOBS}, quick {JOBS_QUICK})")


def measure(chosen: argparse.Namespace) -> None:
    """Print p50 and p99."""
    began_s = time.monotonic()
    jobs = chosen.jobs or (JOBS_QUICK if chosen.quick else JOBS)
    ends_s = began_s + (QUICK_S if chosen.quick else float("inf"))
    with (
        control_plane(chosen.dir) as plane,
        agent(plane) as hub,
        child("benchmarks.apparatus.echo", "68") as echo,
        grpc.insecure_channel(plane.target, [("grpc.enable_http_proxy", 0)]) as channel,
        grpc.insecure_channel(f"127.0.0.1:{echo.said()['port']}", [("grpc.enable_http_proxy", 0)]) as bare_channel,
    ):
        client, bare = Client(plane, channel), Bare(plane.folder / "bare.db", bare_channel)
        ours_ms: list[float] = []
        bare_ms: list[float] = []
        for number in range(jobs + WARM_JOBS):
            took_ms = client.submit_to_start_ms(hub)
            beside_ms = bare.round_trip_and_commit_ms()
            if number >= WARM_JOBS:
                ours_ms.append(took_ms)
                bare_ms.append(beside_ms)
            if time.monotonic() > ends_s:
                break
    say(f"{len(ours_ms)} jobs; slowest {max(ours_ms):.1f} ms, fastest {min(ours_ms):.1f} ms")
    for percent in (50, 99):
        emit(
            Figure(
                "dispatch",
                f"submit_to_start_p{percent}_ms",
                percentile(ours_ms, percent),
                "ms",
                "lower",
                Baseline("bare gRPC round trip and one durable commit", percentile(bare_ms, percent)),
                time.monotonic() - began_s,
                {"jobs": len(ours_ms), "store": "sqlite", "runner": "fake"},
            )
        )


class Client:
    """Submits one job at a time and waits until all is quiet again."""

    def __init__(self, plane: Running, channel: grpc.Channel) -> None:
        self._jobs = job_pb2_grpc.JobServiceStub(channel)
        self._metadata = (("authorization", f"Bearer {plane.user_token}"),)
        mapping = {key: value for key, value in SPEC.items() if key != "resources"}
        self._spec = spec_from_mapping({**mapping, "engine": "fake", "entrypoint": "succeeds"}).SerializeToString()

    def submit_to_start_ms(self, hub: Agent) -> float:
        """One job, from before the call to the runner's start; back when the job has ended and a pause is over."""
        member = job_pb2.Submission(request_id=uuid.uuid4().hex, spec=self._spec)
        request = job_pb2.SubmitJobsRequest(submissions=[member])
        began_ns = time.monotonic_ns()
        answer = self._jobs.SubmitJobs(request, metadata=self._metadata, timeout=30)
        job_id = answer.results[0].job_id
        if not job_id:
            raise RuntimeError(f"the job was not accepted: {answer}")
        start_ns = hub.start_ns(job_id)
        self._ended(job_id)
        Event().wait(random.uniform(*PAUSE_S))
        return (start_ns - began_ns) / 1e6

    def _ended(self, job_id: str) -> None:
        until_s = time.monotonic() + 30
        while time.monotonic() < until_s:
            job = self._jobs.GetJob(job_pb2.GetJobRequest(job_id=job_id), metadata=self._metadata, timeout=30).job
            if job.state == common_pb2.JOB_STATE_SUCCEEDED:
                return
            Event().wait(0.02)
        raise RuntimeError(f"job {job_id} did not end within 30 s")


class Bare:
    """What nobody can do without: one call there and back, and one fsynced commit."""

    def __init__(self, database: Path, channel: grpc.Channel) -> None:
        self._call = channel.unary_unary(ECHO, None, None)
        self._connection = sqlite3.connect(database, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.execute("CREATE TABLE jobs (id INTEGER PRIMARY KEY, spec BLOB)")

    def round_trip_and_commit_ms(self) -> float:
        """Once."""
        began_ns = time.monotonic_ns()
        self._call(b"x" * 200, timeout=30)
        self._connection.execute("INSERT INTO jobs (spec) VALUES (?)", (b"x" * 200,))
        return (time.monotonic_ns() - began_ns) / 1e6
