"""The one way out: OpenSession and SyncHub in a loop, log chunks, links for results. The agent dials; nobody dials it.

One thread sends; the state thread publishes what is true (`publish`) and gets answers through `on_orders`. A sync is held
by the server for up to 20 s; when something changes here meanwhile, a newer call is sent at once and the held one comes
back superseded. An answer is passed on before the next call leaves, so that the call says what became of it. Lengths of
leases count from when the request was sent. Lost links are tried again with growing pauses and chance in them; a session
that the server no longer knows is opened again with the full list; refusals that a person must end are said once, and tried
slowly. Deliberately not here: what orders mean (`reconcile.py`), what is true (`agent/`).
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import Any

import grpc

from federation.client import Settings, transport
from federation.errors import Code, Fault, FederationError, from_rpc_error
from federation.v1 import hub_pb2, hub_pb2_grpc
from hub_node import wire
from hub_node.reconcile import usage
from hub_node.records import DatasetReport, Epoch, NodeReport, Orders, OutputFile, Run, RunState

log = logging.getLogger(__name__)

PROTOCOL_MIN, PROTOCOL_MAX = 1, 1
HOLD_MS = 20_000
CALL_S = 15.0
"""Deadline of a call that is not held, and what a held one gets beyond its hold."""
SPACING_S = 0.005
"""At most this often a newer sync replaces a held one: changes in one breath travel together."""
NODES_EVERY_S = 30.0
PAUSE_S, PAUSE_S_MAX, PAUSE_S_SLOW = 0.1, 10.0, 20.0
APPLY_S_MAX = 30.0
"""How long the next sync waits for the journal to take the last answer."""
_PERSON_MUST_ACT = frozenset(
    {Code.IDENTITY_IN_USE, Code.UNAUTHENTICATED, Code.PERMISSION_DENIED, Code.PROTOCOL_UNSUPPORTED}
)
_SESSION_GONE = frozenset({Code.SESSION_UNKNOWN, Code.SESSION_SUPERSEDED})


@dataclass(frozen=True, slots=True)
class Introduction:
    """Who we are, for OpenSession."""

    hub_id: str
    agent_id: str
    instance_id: str
    title: str
    engines: tuple[str, ...]
    datasets: tuple[DatasetReport, ...]
    reclaim_ms: int = 60_000
    """What the hub's policy gives a preempted guest."""
    takes_back: bool = False


@dataclass(frozen=True, slots=True)
class Truth:
    """What the state thread last saved: all unreleased runs, and how many answers it has taken so far."""

    runs: Mapping[str, Run] = field(default_factory=dict)
    orders_revision: int = 0
    answers: int = 0


@dataclass(frozen=True, slots=True)
class LogPiece:
    """A range of a log; `size_bytes` is the whole log's now, `complete` says that nothing more will come."""

    offset: int
    data: bytes = b""
    size_bytes: int = 0
    complete: bool = False
    problem: FederationError | None = None


@dataclass(slots=True)
class _Call:
    """One sync in flight."""

    seq: int
    sent: tuple[Run, ...]
    sent_ms: int
    began_s: float
    future: Any
    done: bool = False


class Link:
    """See the module. Every public method may be called from any thread."""

    def __init__(
        self,
        settings: Settings,
        introduction: Introduction,
        nodes: Callable[[], tuple[NodeReport, ...]],
        log_bytes: Callable[[Run], int],
        on_orders: Callable[[Orders], None],
    ) -> None:
        """Raises: FederationError where the address or the certificates cannot be used."""
        self._introduction = introduction
        self._nodes = nodes
        self._log_bytes = log_bytes
        self._on_orders = on_orders
        self._metadata = transport.metadata(settings)
        target, credentials = transport.credentials(settings)
        options = transport.options(target, settings.proxy)
        if credentials is None:
            self._channel = grpc.insecure_channel(target, options=options)
        else:
            self._channel = grpc.secure_channel(target, credentials, options=options)
        self._server = settings.server
        self._stub = hub_pb2_grpc.HubServiceStub(self._channel)
        self._wake = threading.Condition()
        self._truth = Truth()
        self._dirty = False
        self._delivered = 0
        self._closing = threading.Event()
        self._session_id = ""
        self._seq = 0
        self._calls: list[_Call] = []
        self._told: dict[str, Run] = {}
        self._full = False
        self._first = True
        self._hold_ms = HOLD_MS
        self._round_trip_ms = -1
        self._nodes_due_s = 0.0
        self._complaint = ""
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)

    # ---- for the agent ----------------------------------------------------------------------------------------------
    def start(self, truth: Truth) -> None:
        """Begin dialling, with what is true at the start."""
        self._truth = truth
        self._thread.start()

    def publish(self, truth: Truth) -> None:
        """What is true now; a newer sync leaves at once when runs changed."""
        with self._wake:
            self._dirty = self._dirty or truth.runs != self._truth.runs
            self._truth = truth
            self._wake.notify_all()

    def close(self) -> None:
        """Hang up. Runs go on."""
        with self._wake:
            self._closing.set()
            self._wake.notify_all()
        self._channel.close()
        if self._thread.is_alive():
            self._thread.join(5)

    def put_log(self, read_id: str, piece: LogPiece) -> None:
        """Send a range of a log, or why there is none. Raises: FederationError."""
        chunk = hub_pb2.PutLogChunkRequest(
            session_id=self._session_id,
            read_id=read_id,
            offset=piece.offset,
            data=piece.data,
            size_bytes=piece.size_bytes,
            complete=piece.complete,
            problem=wire.problem_to(piece.problem) if piece.problem is not None else None,
        )
        self._unary(self._stub.PutLogChunk, chunk)

    def result_links(self, lease_id: str, epoch: Epoch, files: Sequence[OutputFile]) -> tuple[str, ...]:
        """Where to put each file of a result, in their order. Raises: FederationError."""
        request = hub_pb2.CreateResultUploadRequest(
            session_id=self._session_id,
            lease_id=lease_id,
            epoch=wire.epoch_to(epoch),
            files=[wire.output_to(one) for one in files],
        )
        answer: hub_pb2.CreateResultUploadResponse = self._unary(self._stub.CreateResultUpload, request)
        by_path = {one.path: one.put_url for one in answer.uploads}
        return tuple(by_path[one.path] for one in files)

    # ---- the loop ---------------------------------------------------------------------------------------------------
    def _run(self) -> None:
        failures = 0
        while not self._closing.is_set():
            try:
                if not self._session_id:
                    self._open()
                self._sync_until_quiet()
                failures = 0
            except FederationError as error:
                if self._closing.is_set():
                    return
                if error.code in _SESSION_GONE:
                    self._session_id = ""
                failures += 1
                self._complain(error)
                self._pause(_pause_s(error, failures))

    def _open(self) -> None:
        about = self._introduction
        with self._wake:
            truth, self._dirty = self._truth, False
        runs = tuple(truth.runs.values())
        request = hub_pb2.OpenSessionRequest(
            hub_id=about.hub_id,
            agent_id=about.agent_id,
            agent_version=_version(),
            protocol_min=PROTOCOL_MIN,
            protocol_max=PROTOCOL_MAX,
            instance_id=about.instance_id,
            nodes=[wire.node_to(node) for node in self._nodes()],
            engines=about.engines,
            datasets=[wire.dataset_to(one) for one in about.datasets],
            runs=self._reports(runs),
            title=about.title,
            reclaim_ms=about.reclaim_ms,
            takes_back=about.takes_back,
        )
        began_s = time.monotonic()
        answer: hub_pb2.OpenSessionResponse = self._unary(self._stub.OpenSession, request)
        self._round_trip_ms = int((time.monotonic() - began_s) * 1000)
        self._nodes_due_s = time.monotonic() + NODES_EVERY_S
        self._session_id, self._seq, self._calls = answer.session_id, 0, []
        self._hold_ms = min(HOLD_MS, answer.hold_ms or HOLD_MS)
        self._told = {run.lease_id: run for run in runs}
        self._complaint, self._first, self._full = "", True, False
        log.info("session open at %s, %d runs told, round trip %d ms", self._server, len(runs), self._round_trip_ms)

    def _sync_until_quiet(self) -> None:
        """One sync, and its answer or its replacement by a newer one."""
        call = self._send()
        with self._wake:
            while not call.done and not self._closing.is_set():
                if self._dirty and time.monotonic() - call.began_s >= SPACING_S:
                    return  # something changed: a newer call supersedes this one, whose answer is read when it comes
                self._wake.wait(SPACING_S if self._dirty else None)
                for older in [one for one in self._calls if one is not call and one.done]:
                    self._calls.remove(older)
                    self._take_older(older)
        if self._closing.is_set():
            return
        self._calls.remove(call)
        carried = self._take(call)
        if not carried and time.monotonic() - call.began_s < 0.5:
            self._pause(0.2)  # a server that answers at once with nothing must not spin us

    def _send(self) -> _Call:
        with self._wake:
            truth, self._dirty = self._truth, False
        self._seq += 1
        now_ms = _now_ms()
        told = {} if self._full else self._told
        changed = tuple(
            run
            for run in truth.runs.values()
            if run.state is RunState.ENDED or told.get(run.lease_id) != run or usage(run, now_ms)
        )
        nodes: tuple[NodeReport, ...] = ()
        if time.monotonic() >= self._nodes_due_s:
            nodes, self._nodes_due_s = self._nodes(), time.monotonic() + NODES_EVERY_S
        request = hub_pb2.SyncHubRequest(
            session_id=self._session_id,
            sync_seq=self._seq,
            orders_revision=truth.orders_revision,
            changed=self._reports(changed, now_ms),
            runs_digest=wire.digest_of(truth.runs.values()),
            nodes=[wire.node_to(node) for node in nodes],
            hold_ms=self._hold_ms,
            round_trip_ms=self._round_trip_ms,
            full=self._full,
        )
        sent_ms, began_s = _now_ms(), time.monotonic()
        future = self._stub.SyncHub.future(
            request, timeout=self._hold_ms / 1000 + CALL_S, metadata=self._metadata, wait_for_ready=False
        )
        call = _Call(self._seq, changed, sent_ms, began_s, future)
        self._calls.append(call)
        future.add_done_callback(lambda _: self._came(call))
        return call

    def _came(self, call: _Call) -> None:
        """On gRPC's thread: only wake ours."""
        with self._wake:
            call.done = True
            self._wake.notify_all()

    def _take_older(self, call: _Call) -> None:
        """The answer to a call that a newer one replaced; its failure is nothing, the newer call carries everything."""
        try:
            answer = call.future.result()
        except (grpc.RpcError, grpc.FutureCancelledError):
            return
        self._deliver(call, answer, wait=False)

    def _take(self, call: _Call) -> bool:
        """The answer to the newest call; whether it carried anything. Raises: FederationError."""
        try:
            answer: hub_pb2.SyncHubResponse = call.future.result()
        except grpc.FutureCancelledError:
            return False
        except grpc.RpcError as problem:
            raise from_rpc_error(problem) from problem
        elapsed_ms = int((time.monotonic() - call.began_s) * 1000)
        self._round_trip_ms = max(0, elapsed_ms - answer.held_ms)
        self._full = answer.send_full
        return self._deliver(call, answer, wait=True)

    def _deliver(self, call: _Call, answer: hub_pb2.SyncHubResponse, wait: bool) -> bool:
        for run in call.sent:
            self._told[run.lease_id] = run
        for lease_id in [one for one in self._told if one not in self._truth.runs]:
            del self._told[lease_id]
        if answer.superseded:
            return False
        orders = replace(wire.orders_from(answer, call.sent_ms), first=self._first)
        self._first = False
        carried = bool(
            orders.leases
            or orders.revokes
            or orders.renewals
            or orders.releases
            or orders.log_reads
            or orders.usage_stored
            or orders.send_full
        )
        self._delivered += 1
        delivered = self._delivered
        self._on_orders(orders)
        if wait and carried:
            with self._wake:
                self._wake.wait_for(lambda: self._closing.is_set() or self._truth.answers >= delivered, APPLY_S_MAX)
        return carried

    # ---- inside -----------------------------------------------------------------------------------------------------
    def _reports(self, runs: Iterable[Run], now_ms: int | None = None) -> list[hub_pb2.RunReport]:
        now_ms = _now_ms() if now_ms is None else now_ms
        return [wire.report_to(run, usage(run, now_ms), self._log_bytes(run)) for run in runs]

    def _unary(self, method: Any, request: Any) -> Any:
        try:
            return method(request, timeout=CALL_S, metadata=self._metadata)
        except grpc.RpcError as problem:
            raise from_rpc_error(problem) from problem
        except ValueError as problem:  # grpc's word for a channel that was closed while we called
            raise FederationError(
                Code.UNREACHABLE,
                "The agent is hanging up.",
                fault=Fault.NETWORK,
                hint="Start it again.",
            ) from problem

    def _pause(self, seconds: float) -> None:
        with self._wake:
            self._wake.wait_for(self._closing.is_set, seconds)

    def _complain(self, error: FederationError) -> None:
        """Each trouble is said once, not at every attempt, though its words change from attempt to attempt."""
        said = error.code.value
        if said == self._complaint or error.code in _SESSION_GONE:
            return
        self._complaint = said
        if error.code in _PERSON_MUST_ACT:
            log.error("the control plane refuses this agent: %s", error)
        else:
            log.warning("the control plane cannot be reached, runs go on: %s", error)


def _pause_s(error: FederationError, failures: int) -> float:
    if error.code in _PERSON_MUST_ACT:
        return PAUSE_S_SLOW * (0.5 + random.random() / 2)
    return float(min(PAUSE_S_MAX, PAUSE_S * 2 ** min(failures - 1, 10)) * (0.5 + random.random() / 2))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _version() -> str:
    try:
        return metadata.version("digital-br")
    except metadata.PackageNotFoundError:
        return "0"
