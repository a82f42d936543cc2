"""A load in a process of its own: SubmitJobs calls, so many in flight, made before the clock starts, for so long.

The same calls go to the control plane and to its bare counterpart. It says how many were answered in how long, and the
size of an answer. With `--check` every answer is read afterwards: a job id for each member, or the run counts for nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import grpc.aio

from federation.client.specfile import spec_from_mapping
from federation.v1 import job_pb2

METHOD = "/federation.v1.JobService/SubmitJobs"
SPEC = {
    "version": 1,
    "name": "delays-by-carrier",
    "engine": "command",
    "entrypoint": "delays.py",
    "arguments": ["--top", "10"],
    "environment": {"variables": {"CARRIERS": "all"}},
    "resources": {"cpus": 2, "memory": "2Gi", "disk": "1Gi"},
    "runtime_limit": "10m",
}
"""An ordinary job. No inputs: nobody announces a dataset here."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent, where to, and how hard."""

    target: str
    method: str
    token: str
    batch: int
    in_flight: int
    seconds: float
    calls_max: int
    check: bool


def requests(batch: int, calls: int) -> Iterator[bytes]:
    """Calls of `batch` jobs, each job with a request id and an argument of its own."""
    spec = spec_from_mapping(SPEC)
    for call in range(calls):
        members = []
        for number in range(call * batch, (call + 1) * batch):
            spec.arguments[-1] = f"{number:08d}"
            members.append(job_pb2.Submission(request_id=uuid.uuid4().hex, spec=spec.SerializeToString()))
        yield job_pb2.SubmitJobsRequest(submissions=members).SerializeToString()


async def run(load: Load) -> dict[str, float]:
    """Send; {calls, seconds, answer_bytes}."""
    made = list(requests(load.batch, load.calls_max))
    metadata = (("authorization", f"Bearer {load.token}"),)
    answers: list[bytes] = []
    async with grpc.aio.insecure_channel(load.target, [("grpc.enable_http_proxy", 0)]) as channel:
        call = channel.unary_unary(load.method, None, None)
        left: Iterator[bytes] = iter(made)
        answers.append(await call(next(left), metadata=metadata))  # the connection is made before the clock starts
        began_s = time.perf_counter()
        ends_s = began_s + load.seconds

        async def sender() -> None:
            for one in left:
                answers.append(await call(one, metadata=metadata))
                if time.perf_counter() >= ends_s:
                    return

        await asyncio.gather(*(sender() for _ in range(load.in_flight)))
        seconds = time.perf_counter() - began_s
    if load.check:
        for answer in answers:
            results = job_pb2.SubmitJobsResponse.FromString(answer).results
            assert len(results) == load.batch, "an answer lacks members"
            assert all(one.job_id for one in results), f"a job was not accepted: {results}"
    return {"calls": len(answers) - 1, "seconds": seconds, "answer_bytes": len(answers[0])}


def main() -> None:
    """Run what the arguments say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", required=True)
    parser.add_argument("--method", default=METHOD)
    parser.add_argument("--token", default="")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--in-flight", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--calls-max", type=int, default=20_000)
    parser.add_argument("--check", action="store_true")
    print(json.dumps(asyncio.run(run(Load(**vars(parser.parse_args()))))), flush=True)


if __name__ == "__main__":
    main()
