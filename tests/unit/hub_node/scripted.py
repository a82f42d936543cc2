"""A control plane that follows a script: the real wire, real sockets, and no decisions of its own.

It keeps leases as a test puts them, hands out what a real one would (starts, revokes, releases), and remembers what it was
told. What the real one decides is tested where it lives; here only the agent is on trial.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from federation.errors import FederationError
from federation.v1 import common_pb2, hub_pb2, hub_pb2_grpc, job_pb2

TOKEN = "a-token-of-the-test"


def spec_of(
    entrypoint: str = "succeeds", engine: str = "fake", *, arguments: tuple[str, ...] = (), **over: Any
) -> job_pb2.JobSpec:
    """A small job."""
    spec = job_pb2.JobSpec(
        version=1,
        name="a-job",
        project="default",
        engine=engine,
        entrypoint=entrypoint,
        arguments=arguments,
        runtime_limit_ms=over.pop("runtime_limit_ms", 600_000),
        demand=job_pb2.Demand(
            replicas=1,
            per_task=[
                common_pb2.Resource(name=name, amount=amount)
                for name, amount in (("cpu", over.pop("cpu_milli", 100)), ("gpu", over.pop("gpu_milli", 0)))
                if amount
            ],
        ),
        on_partition=over.pop("on_partition", common_pb2.ON_PARTITION_KEEP),
        package_digest=over.pop("package_digest", ""),
        inputs=over.pop("inputs", ()),
        preemptible=over.pop("preemptible", False),
    )
    spec.environment.variables.update(over.pop("variables", {}))
    spec.environment.secret_variables.update(over.pop("secret_variables", {}))
    assert not over, f"unknown: {over}"
    return spec


@dataclass
class Told:
    """What the agent said, in its order."""

    sessions: list[hub_pb2.OpenSessionRequest] = field(default_factory=list)
    syncs: list[hub_pb2.SyncHubRequest] = field(default_factory=list)
    reports: list[hub_pb2.RunReport] = field(default_factory=list)
    chunks: list[hub_pb2.PutLogChunkRequest] = field(default_factory=list)


class ScriptedControl(hub_pb2_grpc.HubServiceServicer):
    """See the module."""

    def __init__(self) -> None:
        self.told = Told()
        self.incarnation = 1
        self.revision = 1
        self.refuse_open: FederationError | None = None
        self.results: dict[str, bytes] = {}
        self.result_error: FederationError | None = None
        self.put_url = ""
        self._changed = threading.Condition()
        self._starts: dict[str, hub_pb2.Lease] = {}
        self._revokes: dict[str, hub_pb2.Revoke] = {}
        self._renewals: dict[str, hub_pb2.Renewal] = {}
        self._releases: dict[str, hub_pb2.Release] = {}
        self._reads: dict[str, hub_pb2.ReadLogOrder] = {}
        self.release = True
        self._newest_seq = 0
        self._session = ""

    # ---- the script -------------------------------------------------------------------------------------------------
    def start(
        self,
        job_id: str,
        spec: job_pb2.JobSpec,
        *,
        n: int = 1,
        valid_for_ms: int = 0,
        url: str = "",
        devices: tuple[tuple[int, ...], ...] = (),
    ) -> str:
        """Grant a lease; its id."""
        lease_id = f"lease-{job_id}-{n}"
        with self._changed:
            self.revision += 1
            self._starts[lease_id] = hub_pb2.Lease(
                lease_id=lease_id,
                job_id=job_id,
                epoch=common_pb2.Epoch(incarnation=self.incarnation, n=n),
                spec=spec.SerializeToString(),
                owner=common_pb2.Owner(home_hub="cairo", project="default", issuer="local", subject="amina"),
                valid_for_ms=valid_for_ms,
                package_url=url,
                start=True,
                devices=[common_pb2.TaskDevices(places=places) for places in devices],
            )
            self._changed.notify_all()
        return lease_id

    def revoke(self, lease_id: str, *, n: int = 1, grace_ms: int = 500, code: str = "CANCEL_REQUESTED") -> None:
        """End a run."""
        with self._changed:
            self.revision += 1
            self._starts.pop(lease_id, None)
            reason = common_pb2.Reason(code=code, message="asked to end")
            epoch = common_pb2.Epoch(incarnation=self.incarnation, n=n)
            self._revokes[lease_id] = hub_pb2.Revoke(lease_id=lease_id, epoch=epoch, reason=reason, grace_ms=grace_ms)
            self._changed.notify_all()

    def renew(self, lease_id: str, valid_for_ms: int, *, n: int = 1) -> None:
        """Let a lease live longer."""
        with self._changed:
            self.revision += 1
            epoch = common_pb2.Epoch(incarnation=self.incarnation, n=n)
            self._renewals[lease_id] = hub_pb2.Renewal(lease_id=lease_id, epoch=epoch, valid_for_ms=valid_for_ms)
            self._changed.notify_all()

    def read_log(self, read_id: str, job_id: str, offset: int, limit_bytes: int = 0, n: int = 1) -> None:
        """Order a range of a log."""
        with self._changed:
            epoch = common_pb2.Epoch(incarnation=self.incarnation, n=n)
            self._reads[read_id] = hub_pb2.ReadLogOrder(
                read_id=read_id, job_id=job_id, epoch=epoch, offset=offset, limit_bytes=limit_bytes
            )
            self._changed.notify_all()

    def forget_sessions(self) -> None:
        """As after a restart of the control plane."""
        with self._changed:
            self._session = ""
            self._changed.notify_all()

    def reports_of(self, job_id: str) -> list[hub_pb2.RunReport]:
        """All reports of a job so far."""
        with self._changed:
            return [report for report in self.told.reports if report.job_id == job_id]

    def ended(self, job_id: str) -> hub_pb2.RunReport | None:
        """The report of a job's end, if it came."""
        ends = [one for one in self.reports_of(job_id) if one.state == hub_pb2.RUN_STATE_ENDED]
        return ends[-1] if ends else None

    def wait(self, check: Callable[[], Any], timeout_s: float = 20.0) -> Any:
        """What `check` gives, once it is true."""
        with self._changed:
            ok = self._changed.wait_for(check, timeout_s)
        assert ok, f"did not happen within {timeout_s} s; told: {self.told.reports[-5:]}"
        return check()

    # ---- the wire ---------------------------------------------------------------------------------------------------
    def OpenSession(self, request: hub_pb2.OpenSessionRequest, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._authorise(context)
        if self.refuse_open is not None:
            _abort(context, self.refuse_open)
        with self._changed:
            self.told.sessions.append(request)
            self._session = f"session-{len(self.told.sessions)}"
            self._newest_seq = 0
            self._take(request.runs)
            self._changed.notify_all()
            return hub_pb2.OpenSessionResponse(
                session_id=self._session, protocol=1, incarnation=self.incarnation, hold_ms=20_000
            )

    def SyncHub(self, request: hub_pb2.SyncHubRequest, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._authorise(context)
        began_s = time.monotonic()
        with self._changed:
            if request.session_id != self._session:
                _abort(context, _unknown())
            self.told.syncs.append(request)
            self._newest_seq = max(self._newest_seq, request.sync_seq)
            self._take(request.changed)
            self._changed.notify_all()

            def due() -> bool:
                return (
                    self._newest_seq != request.sync_seq
                    or self._session != request.session_id
                    or bool(self._starts or self._revokes or self._renewals or self._releases or self._reads)
                    or not context.is_active()
                )

            self._changed.wait_for(due, min(20.0, request.hold_ms / 1000))
            held_ms = int((time.monotonic() - began_s) * 1000)
            if self._newest_seq != request.sync_seq or self._session != request.session_id:
                return hub_pb2.SyncHubResponse(superseded=True, incarnation=self.incarnation, held_ms=held_ms)
            answer = hub_pb2.SyncHubResponse(
                incarnation=self.incarnation,
                orders_revision=self.revision,
                leases=list(self._starts.values()),
                revokes=list(self._revokes.values()),
                renewals=list(self._renewals.values()),
                releases=list(self._releases.values()),
                log_reads=list(self._reads.values()),
                held_ms=held_ms,
            )
            self._releases, self._reads, self._renewals = {}, {}, {}
            return answer

    def PutLogChunk(self, request: hub_pb2.PutLogChunkRequest, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._authorise(context)
        with self._changed:
            self.told.chunks.append(request)
            self._changed.notify_all()
        return hub_pb2.PutLogChunkResponse()

    def CreateResultUpload(  # noqa: N802
        self, request: hub_pb2.CreateResultUploadRequest, context: grpc.ServicerContext
    ) -> Any:
        self._authorise(context)
        if self.result_error is not None:
            _abort(context, self.result_error)
        return hub_pb2.CreateResultUploadResponse(
            uploads=[hub_pb2.ResultUpload(path=one.path, put_url=f"{self.put_url}/{one.path}") for one in request.files]
        )

    def FindCheckpoints(self, request: hub_pb2.FindCheckpointsRequest, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._authorise(context)
        return hub_pb2.FindCheckpointsResponse()

    def _keeps_none(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._authorise(context)
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "no object store")

    CreateCheckpointUpload = CommitCheckpoint = _keeps_none

    def _not_for_agents(self, request: Any, context: grpc.ServicerContext) -> Any:
        context.abort(grpc.StatusCode.PERMISSION_DENIED, "an agent has no business here")

    ListHubs = GetHub = DrainHub = GetPolicy = GetServerInfo = WhoAmI = _not_for_agents

    def _take(self, reports: Any) -> None:
        for report in reports:
            self.told.reports.append(report)
            self._starts.pop(report.lease_id, None)
            if report.state == hub_pb2.RUN_STATE_ENDED:
                self._revokes.pop(report.lease_id, None)
                if self.release:
                    self._releases[report.lease_id] = hub_pb2.Release(lease_id=report.lease_id, epoch=report.epoch)

    def _authorise(self, context: grpc.ServicerContext) -> None:
        sent = dict(context.invocation_metadata()).get("authorization")
        assert sent == f"Bearer {TOKEN}", f"every call carries the token, not {sent!r}"


def _unknown() -> FederationError:
    from federation.errors import Code, Fault

    return FederationError(Code.SESSION_UNKNOWN, "this session is not open here", fault=Fault.FEDERATION)


def _abort(context: grpc.ServicerContext, error: FederationError) -> None:
    from federation.errors import to_grpc_status

    context.abort_with_status(to_grpc_status(error))


@contextmanager
def serving(control: ScriptedControl, port: int = 0) -> Iterator[str]:
    """The control plane at an address on loopback."""
    server = grpc.server(futures.ThreadPoolExecutor(16))
    hub_pb2_grpc.add_HubServiceServicer_to_server(control, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield f"127.0.0.1:{bound}"
    finally:
        server.stop(0.2).wait(5)


def write_config(folder: Path, server: str, *, more: str = "") -> Path:
    """An agent's file."""
    file = folder / "agent.toml"
    file.write_text(
        f'hub_id = "shenzhen"\nagent_id = "one"\nserver = "{server}"\ntoken = "{TOKEN}"\nstate_dir = "state"\n'
        f'engines = ["command"]\nfake = true\n{more}',
        encoding="utf-8",
    )
    return file
