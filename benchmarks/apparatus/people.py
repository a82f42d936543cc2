"""People who submit one job after another, and try again under the same request id until they have an answer."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Self

import grpc

from benchmarks.apparatus.control_plane import HUB, USER, Plane
from benchmarks.apparatus.load import SPEC
from federation.client.specfile import spec_from_mapping
from federation.store import open_store
from federation.v1 import job_pb2, job_pb2_grpc

IN_FLIGHT = 16
CALL_S = 10.0
PAUSE_S = 0.05
PRINCIPAL = f"local/{USER}@{HUB}"


def fake_spec(entrypoint: str) -> bytes:
    """A job of the engine that runs nothing, with the default resources."""
    mapping = {key: value for key, value in SPEC.items() if key != "resources"}
    return spec_from_mapping({**mapping, "engine": "fake", "entrypoint": entrypoint}).SerializeToString()


class People:
    """Sixteen at once, until so many calls are acknowledged; `acknowledged` is {request id: job id}."""

    def __init__(self, plane: Plane, submits: int) -> None:
        self._plane = plane
        self._left = iter(range(submits))
        self._lock = threading.Condition()
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._submit, daemon=True) for _ in range(IN_FLIGHT)]
        self._spec = fake_spec("succeeds")
        self.acknowledged: dict[str, str] = {}

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, number: int, timeout_s: float) -> None:
        """Until so many were acknowledged. Raises: RuntimeError when they are not."""
        with self._lock:
            if not self._lock.wait_for(lambda: len(self.acknowledged) >= number, timeout_s):
                raise RuntimeError(f"{len(self.acknowledged)} of {number} were acknowledged within {timeout_s:g} s")

    def job_ids(self) -> set[str]:
        """Of what was acknowledged."""
        with self._lock:
            return set(self.acknowledged.values())

    def _submit(self) -> None:
        metadata = (("authorization", f"Bearer {self._plane.user_token}"),)
        # dials again at once, as our own client does
        dialling = [("grpc.enable_http_proxy", 0), ("grpc.max_reconnect_backoff_ms", 200)]
        with grpc.insecure_channel(self._plane.target, dialling) as channel:
            stub = job_pb2_grpc.JobServiceStub(channel)
            while not self._ending.is_set():
                with self._lock:
                    number = next(self._left, None)
                if number is None:
                    return
                request_id = f"kill-{number:06d}"
                member = job_pb2.Submission(request_id=request_id, spec=self._spec)
                request = job_pb2.SubmitJobsRequest(submissions=[member])
                job_id = ""
                while not job_id and not self._ending.is_set():
                    with contextlib.suppress(grpc.RpcError):
                        job_id = stub.SubmitJobs(request, metadata=metadata, timeout=CALL_S).results[0].job_id
                    if not job_id:
                        self._ending.wait(PAUSE_S)
                if job_id:
                    with self._lock:
                        self.acknowledged[request_id] = job_id
                        self._lock.notify_all()


def checked(url: str, acknowledged: Mapping[str, str]) -> list[str]:
    """Of what was acknowledged ({request id: job id}), the jobs that the store does not have under that request id."""
    store = open_store(url, waiting=lambda _: None)
    try:
        found = store.find_requests([(PRINCIPAL, request_id) for request_id in acknowledged])
        return [
            job_id
            for request_id, job_id in acknowledged.items()
            if (row := found.get((PRINCIPAL, request_id))) is None
            or row.job_id != job_id
            or store.get_job(job_id) is None
        ]
    finally:
        store.close()


def paced(plane: Plane, per_s: float, entrypoint: str, ending: threading.Event) -> threading.Thread:
    """Submit so many jobs a second, one a call, until `ending`; what is refused is not tried again. Started."""
    metadata = (("authorization", f"Bearer {plane.user_token}"),)
    spec = fake_spec(entrypoint)

    def run() -> None:
        began_s, number = time.monotonic(), 0
        calls: deque[object] = deque(maxlen=1_000)  # a call that nobody holds any more is cancelled
        with grpc.insecure_channel(plane.target, [("grpc.enable_http_proxy", 0)]) as channel:
            stub = job_pb2_grpc.JobServiceStub(channel)
            while not ending.wait(max(0.0, began_s + number / per_s - time.monotonic())):
                member = job_pb2.Submission(request_id=f"paced-{began_s}-{number}", spec=spec)
                request = job_pb2.SubmitJobsRequest(submissions=[member])
                calls.append(stub.SubmitJobs.future(request, metadata=metadata, timeout=CALL_S))
                number += 1

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread
