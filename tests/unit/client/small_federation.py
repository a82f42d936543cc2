"""A federation small enough for unit tests: the real wire on real sockets, state in dictionaries, told what to do.

It answers as the control plane does, and fails when it is told to (`fail_next`). Not here: decisions; jobs change state
only by `set_state`.
"""

# ruff: noqa: N802  # gRPC methods and HTTP verbs have their own spelling

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc

from federation.client import Settings
from federation.client.settings import installed_version
from federation.errors import Code, Fault, FederationError, invalid, not_found, to_grpc_status
from federation.v1 import common_pb2, hub_pb2, hub_pb2_grpc, job_pb2, job_pb2_grpc

TOKEN = "brhub_user_token-of-aisha"
NOW_MS = 1_760_000_000_000


class SmallFederation:
    """Jobs, hubs, a log each, and an object store of bytes. `calls` counts what arrived."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self.lock = threading.Condition()
        self.jobs: dict[str, job_pb2.Job] = {}
        self.by_request: dict[str, tuple[bytes, str]] = {}
        self.logs: dict[tuple[str, str], bytes] = {}
        self.complete: set[tuple[str, str]] = set()
        self.results: dict[str, dict[str, bytes]] = {}
        self.reasons: list[common_pb2.Reason] = []
        self.hubs: dict[str, hub_pb2.Hub] = {"cairo": a_hub("cairo"), "shenzhen": a_hub("shenzhen")}
        self.policy = hub_pb2.Policy(
            within_user="age", backfill="conservative", reservations=1_000, promise_after_ms=14_400_000,
            half_life_ms=604_800_000, contribution_gain=1, contribution_cap=1, placements_max=10_000, shipped=True,
        )  # fmt: skip
        self.uploads: dict[str, bytes] = {}
        self.calls: list[str] = []
        self.failures: dict[str, list[FederationError]] = {}
        self.answer_lost: set[str] = set()
        """Methods whose next answer is lost after the work was done."""
        self.streamed = 0
        """Changes of jobs that watchers took."""
        self.protocols = (1, 1)
        self.clock_ahead_ms = 0
        self.objects_away = False
        self.http_statuses: list[int] = []
        """What the object store answers next, before it works again."""
        self._server = grpc.server(futures.ThreadPoolExecutor(16))
        job_pb2_grpc.add_JobServiceServicer_to_server(_Jobs(self), self._server)
        hub_pb2_grpc.add_HubServiceServicer_to_server(_Hubs(self), self._server)  # type: ignore[abstract]  # no agents here
        self.port = (
            self._server.add_secure_port("127.0.0.1:0", credentials)
            if credentials
            else self._server.add_insecure_port("127.0.0.1:0")
        )
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    @property
    def store_url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def settings(self) -> Settings:
        return Settings(server=f"127.0.0.1:{self.port}", token=TOKEN)

    def start(self) -> None:
        self._server.start()
        self._thread.start()

    def stop(self) -> None:
        with self.lock:
            self.lock.notify_all()
        self._server.stop(None).wait()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def fail_next(self, method: str, *errors: FederationError) -> None:
        self.failures.setdefault(method, []).extend(errors)

    def add_job(self, job_id: str = "job-1", state: str = "QUEUED", **changes: Any) -> job_pb2.Job:
        job = job_pb2.Job(
            id=job_id,
            state=number(state),
            created_ms=NOW_MS,
            state_since_ms=NOW_MS,
            revision=1,
            owner=common_pb2.Owner(home_hub="cairo", project="default", issuer="local", subject="aisha"),
        )
        for name, value in changes.items():
            setattr(job, name, value)
        with self.lock:
            self.jobs[job_id] = job
        return job

    def set_state(self, job_id: str, state: str, **changes: Any) -> None:
        with self.lock:
            job = self.jobs[job_id]
            job.state = number(state)
            job.revision += 1
            for name, value in changes.items():
                if name == "reason":
                    job.reason.CopyFrom(value)
                else:
                    setattr(job, name, value)
            self.lock.notify_all()

    def enter(self, method: str, context: grpc.ServicerContext) -> None:
        """What every call goes through: the token, then the failures that were ordered."""
        self.calls.append(method)
        if ("authorization", f"Bearer {TOKEN}") not in tuple(context.invocation_metadata()):
            raise FederationError(
                Code.UNAUTHENTICATED, "the token is not known", fault=Fault.CALLER, hint="Set BRHUB_TOKEN."
            )
        if self.failures.get(method):
            raise self.failures[method].pop(0)

    def leave(self, method: str) -> None:
        if method in self.answer_lost:
            self.answer_lost.remove(method)
            raise unreachable()

    def job(self, job_id: str) -> job_pb2.Job:
        if job_id not in self.jobs:
            raise not_found(Code.JOB_NOT_FOUND, "job", job_id)
        return self.jobs[job_id]


def number(state: str) -> common_pb2.JobState.ValueType:
    """A state's number on the wire."""
    return common_pb2.JobState.Value(f"JOB_STATE_{state}")


def unreachable() -> FederationError:
    """What a broken link looks like."""
    return FederationError(Code.UNREACHABLE, "the link is down", fault=Fault.NETWORK)


def a_hub(hub_id: str) -> hub_pb2.Hub:
    """A hub with one agent on one machine, partly leased."""
    cpu = common_pb2.Resource(name="cpu", amount=4000)
    node = hub_pb2.Node(
        name="main",
        offered=[cpu, common_pb2.Resource(name="memory", amount=8 * 2**30)],
        capacity=[cpu],
        leased=[common_pb2.Resource(name="cpu", amount=1500)],
        load_cpu_milli=700,
        memory_available_bytes=2**30,
    )
    agent = hub_pb2.Agent(
        agent_id="main",
        version="0.1.0",
        link=hub_pb2.LINK_STATE_ONLINE,
        last_sync_ms=NOW_MS,
        nodes=[node],
        engines=["spark", "command"],
        round_trip_ms=3,
    )
    dataset = hub_pb2.Dataset(name=f"flights-{hub_id[:3]}", version="1", size_bytes=10_000_000, policy="members")
    return hub_pb2.Hub(
        id=hub_id, title=hub_id.title(), state=hub_pb2.HUB_STATE_ACTIVE, agents=[agent], datasets=[dataset], leases=1
    )


def _abort(context: grpc.ServicerContext, error: FederationError) -> None:
    context.abort_with_status(to_grpc_status(error))


class _Door:
    """Runs a method body, and turns FederationError into a status."""

    def __init__(self, federation: SmallFederation) -> None:
        self.federation = federation

    def run(self, method: str, context: grpc.ServicerContext, body: Any) -> Any:
        try:
            self.federation.enter(method, context)
            with self.federation.lock:
                answer = body()
                self.federation.lock.notify_all()
            self.federation.leave(method)
            return answer
        except FederationError as error:
            _abort(context, error)


class _Jobs(_Door, job_pb2_grpc.JobServiceServicer):
    def SubmitJobs(self, request: Any, context: Any) -> Any:
        return self.run("SubmitJobs", context, lambda: self._submit(request))

    def _submit(self, request: Any) -> Any:
        response = job_pb2.SubmitJobsResponse()
        for member in request.submissions:
            known = self.federation.by_request.get(member.request_id)
            spec = job_pb2.JobSpec.FromString(member.spec)
            result = response.results.add(request_id=member.request_id)
            if known and known[0] != member.spec:
                error = invalid(
                    "this request id was used for another job", code=Code.REQUEST_ID_REUSED, hint="Draw anew."
                )
                result.problem.code, result.problem.message = error.code.value, error.message
                result.problem.fault, result.problem.hint = error.fault.value, error.hint
            elif known:
                result.job_id = known[1]
            else:
                job_id = f"job-{len(self.federation.jobs) + 1}"
                self.federation.add_job(job_id).spec.CopyFrom(spec)
                self.federation.by_request[member.request_id] = (member.spec, job_id)
                result.job_id = job_id
        return response

    def GetJob(self, request: Any, context: Any) -> Any:
        return self.run("GetJob", context, lambda: job_pb2.GetJobResponse(job=self.federation.job(request.job_id)))

    def ListJobs(self, request: Any, context: Any) -> Any:
        return self.run("ListJobs", context, lambda: self._list(request))

    def _list(self, request: Any) -> Any:
        found = [job for job in self.federation.jobs.values() if not request.states or job.state in request.states]
        start, size = int(request.page_token or 0), request.page_size or 100
        more = str(start + size) if start + size < len(found) else ""
        return job_pb2.ListJobsResponse(jobs=found[start : start + size], next_page_token=more)

    def WatchJobs(self, request: Any, context: Any) -> Iterator[Any]:
        try:
            self.federation.enter("WatchJobs", context)
            seen: dict[str, int] = {}
            while context.is_active():
                with self.federation.lock:
                    jobs = [self.federation.job(job_id) for job_id in request.job_ids]
                    news = [job_pb2.WatchJobsResponse(job=job) for job in jobs if job.revision > seen.get(job.id, 0)]
                    if not news:
                        self.federation.lock.wait(0.05)
                for response in news:
                    seen[response.job.id] = response.job.revision
                    yield response
                    self.federation.streamed += 1
                    self.federation.leave("WatchJobs")
        except FederationError as error:
            _abort(context, error)

    def CancelJob(self, request: Any, context: Any) -> Any:
        def body() -> Any:
            job = self.federation.job(request.job_id)
            job.state, job.revision = number("CANCELLED"), job.revision + 1
            return job_pb2.CancelJobResponse(job=job)

        return self.run("CancelJob", context, body)

    def RetryJob(self, request: Any, context: Any) -> Any:
        def body() -> Any:
            job = self.federation.job(request.job_id)
            if not request.ended_ms or request.ended_ms == job.ended_ms:
                job.state, job.revision, job.ended_ms = number("QUEUED"), job.revision + 1, 0
            return job_pb2.RetryJobResponse(job=job)

        return self.run("RetryJob", context, body)

    def ReleaseJob(self, request: Any, context: Any) -> Any:
        def body() -> Any:
            job = self.federation.job(request.job_id)
            if not request.force:
                raise invalid(f"releasing job {job.id} needs force: it may run", field="force")
            job.state, job.revision = number("FAILED"), job.revision + 1
            job.reason.code, job.reason.message = "RELEASED_BY_FORCE", f"released by force: {request.reason}"
            return job_pb2.ReleaseJobResponse(job=job)

        return self.run("ReleaseJob", context, body)

    def ExplainJob(self, request: Any, context: Any) -> Any:
        def body() -> Any:
            response = job_pb2.ExplainJobResponse(
                reasons=self.federation.reasons, earliest_start_ms=NOW_MS, earliest_hub_id="cairo"
            )
            if request.job_id:
                response.job.CopyFrom(self.federation.job(request.job_id))
            else:
                job_pb2.JobSpec.FromString(request.spec)
            return response

        return self.run("ExplainJob", context, body)

    def CreateUpload(self, request: Any, context: Any) -> Any:
        def body() -> Any:
            there = request.digest in self.federation.uploads
            url = "" if there else f"{self.federation.store_url}/packages/{request.digest}"
            return job_pb2.CreateUploadResponse(put_url=url, expires_ms=NOW_MS)

        return self.run("CreateUpload", context, body)

    def ReadLogs(self, request: Any, context: Any) -> Any:
        def body() -> Any:
            job = self.federation.job(request.job_id)
            key = (job.id, request.attempt or job.attempt)
            log = self.federation.logs.get(key, b"")
            ends = time.monotonic() + request.wait_ms / 1000
            while len(log) <= request.offset and key not in self.federation.complete and time.monotonic() < ends:
                self.federation.lock.wait(0.05)
                log = self.federation.logs.get(key, b"")
            data = log[request.offset : request.offset + (request.limit_bytes or 16)]
            end = request.offset + len(data)
            return job_pb2.ReadLogsResponse(
                data=data, next_offset=end, complete=key in self.federation.complete and end == len(log)
            )

        return self.run("ReadLogs", context, body)

    def ListResults(self, request: Any, context: Any) -> Any:
        def body() -> Any:
            self.federation.job(request.job_id)
            files = [
                job_pb2.ResultFile(
                    path=path,
                    size_bytes=len(data),
                    sha256=hashlib.sha256(data).hexdigest(),
                    url=f"{self.federation.store_url}/results/{request.job_id}/{path}",
                )
                for path, data in self.federation.results.get(request.job_id, {}).items()
            ]
            return job_pb2.ListResultsResponse(files=files, expires_ms=NOW_MS)

        return self.run("ListResults", context, body)


class _Hubs(_Door, hub_pb2_grpc.HubServiceServicer):
    def ListHubs(self, request: Any, context: Any) -> Any:
        return self.run("ListHubs", context, lambda: hub_pb2.ListHubsResponse(hubs=self.federation.hubs.values()))

    def GetHub(self, request: Any, context: Any) -> Any:
        return self.run("GetHub", context, lambda: hub_pb2.GetHubResponse(hub=self._hub(request.hub_id)))

    def DrainHub(self, request: Any, context: Any) -> Any:
        def body() -> Any:
            hub = self._hub(request.hub_id)
            hub.state = hub_pb2.HUB_STATE_ACTIVE if request.undo else hub_pb2.HUB_STATE_DRAINING
            return hub_pb2.DrainHubResponse(hub=hub)

        return self.run("DrainHub", context, body)

    def GetServerInfo(self, _request: Any, _context: Any) -> Any:
        return hub_pb2.GetServerInfoResponse(
            version=installed_version(),
            protocol_min=self.federation.protocols[0],
            protocol_max=self.federation.protocols[1],
            now_ms=time.time_ns() // 1_000_000 + self.federation.clock_ahead_ms,
            objects_away=self.federation.objects_away,
        )

    def WhoAmI(self, _request: Any, context: Any) -> Any:
        who = hub_pb2.WhoAmIResponse(kind="user", issuer="local", subject="aisha", home_hub="cairo")
        return self.run("WhoAmI", context, lambda: who)

    def GetPolicy(self, _request: Any, context: Any) -> Any:
        return self.run("GetPolicy", context, lambda: hub_pb2.GetPolicyResponse(policy=self.federation.policy))

    def _hub(self, hub_id: str) -> hub_pb2.Hub:
        if hub_id not in self.federation.hubs:
            raise not_found(Code.HUB_NOT_FOUND, "hub", hub_id)
        return self.federation.hubs[hub_id]


def _handler(federation: SmallFederation) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            status = self._status()
            if status == 200:
                federation.uploads[self.path.rsplit("/", 1)[-1]] = data
            self._answer(status, b"")

        def do_GET(self) -> None:
            _, _, job_id, path = self.path.split("/", 3)
            data = federation.results.get(job_id, {}).get(path)
            status = self._status()
            if data is None:
                status, data = 404, b""
            self._answer(status, data if status == 200 else b"")

        def _status(self) -> int:
            return federation.http_statuses.pop(0) if federation.http_statuses else 200

        def _answer(self, status: int, data: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            """Say nothing: tests read their own output."""

    return Handler
