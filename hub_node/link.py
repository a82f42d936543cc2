"""The one way out: OpenSession and SyncHub in a loop, log chunks, links for results. The agent dials; nobody dials it.

One thread sends; the state thread publishes what is true (`publish`) and gets answers through `on_orders`. A sync is held
by the server for up to 20 s; when something changes here meanwhile, a newer call is sent at once and the held one comes
back superseded. An answer is passed on before the next call leaves, so that the call says what became of it. Lengths of
leases count from when the request was sent. Lost links are tried again with growing pauses and chance in them; a session
that the server no longer knows is opened again with the full list; refusals that a person must end are said once, and tried
slowly. Of several addresses, whichever answers is asked (`federation/client/lines.py`). Deliberately not here: what orders mean (`reconcile.py`), what is true (`agent/`).
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from federation.backoff import Rounds
from federation.client import Settings, transport
from federation.client.lines import Lines
from federation.errors import Code, Fault, FederationError, from_rpc_error
from federation.v1 import hub_pb2, hub_pb2_grpc
from hub_node import belonging, steady, wire
from hub_node.conversation import (
    PERSON_MUST_ACT,
    SESSION_GONE,
    Call,
    Conversation,
    Introduction,
    Truth,
    carried,
    pause_s,
)
from hub_node.records import Checkpoint, Epoch, NodeReport, Orders, OutputFile, Run

log = logging.getLogger(__name__)

CALL_S = 15.0
"""Deadline of a call that is not held, and what a held one gets beyond its hold."""
SPACING_S = 0.005
"""At most this often a newer sync replaces a held one: changes in one breath travel together."""
NODES_EVERY_S = 30.0
APPLY_S_MAX = 30.0
"""How long the next sync waits for the journal to take the last answer."""


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

    said: Call
    began_s: float
    future: Any
    done: bool = False


class _Line:
    """A channel to one address, and its stub."""

    def __init__(self, settings: Settings) -> None:
        self.channel = transport.channel(settings)
        self.stub = hub_pb2_grpc.HubServiceStub(self.channel)


class Link:
    """See the module. Every public method may be called from any thread."""

    def __init__(
        self,
        settings: Settings,
        introduction: Introduction,
        nodes: Callable[[], tuple[NodeReport, ...]],
        log_bytes: Callable[[Run], int],
        on_orders: Callable[[Orders], None],
        state_dir: Path,
    ) -> None:
        """Raises: FederationError where the address or the certificates cannot be used."""
        self._conversation = Conversation(introduction, log_bytes)
        self._nodes = nodes
        self._on_orders = on_orders
        self._state_dir = state_dir
        self._metadata = transport.metadata(settings)
        self._lines = Lines(settings, _Line)
        self._wake = threading.Condition()
        self._truth = Truth()
        self._dirty = False
        self._delivered = 0
        self._closing = threading.Event()
        self._calls: list[_Call] = []
        self._round_trip_ms = -1
        self._nodes_due_s = 0.0
        self._complaints: set[Code] = set()
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
        self._lines.line.channel.close()
        if self._thread.is_alive():
            self._thread.join(5)

    def put_log(self, read_id: str, piece: LogPiece) -> None:
        """Send a range of a log, or why there is none. Raises: FederationError."""
        chunk = hub_pb2.PutLogChunkRequest(
            session_id=self._conversation.session_id,
            read_id=read_id,
            offset=piece.offset,
            data=piece.data,
            size_bytes=piece.size_bytes,
            complete=piece.complete,
            problem=wire.problem_to(piece.problem) if piece.problem is not None else None,
        )
        self._unary("PutLogChunk", chunk)

    def result_links(self, lease_id: str, epoch: Epoch, files: Sequence[OutputFile]) -> tuple[str, ...]:
        """Where to put each file of a result, in their order. Raises: FederationError."""
        request = hub_pb2.CreateResultUploadRequest(
            session_id=self._conversation.session_id,
            lease_id=lease_id,
            epoch=wire.epoch_to(epoch),
            files=[wire.output_to(one) for one in files],
        )
        answer: hub_pb2.CreateResultUploadResponse = self._unary("CreateResultUpload", request)
        by_path = {one.path: one.put_url for one in answer.uploads}
        return tuple(by_path[one.path] for one in files)

    def checkpoint_links(self, lease_id: str, epoch: Epoch, files: Sequence[OutputFile]) -> tuple[str, ...]:
        """Where to put each file of a checkpoint, in their order; empty where it is already. Raises: FederationError."""
        request = hub_pb2.CreateCheckpointUploadRequest(
            session_id=self._conversation.session_id,
            lease_id=lease_id,
            epoch=wire.epoch_to(epoch),
            files=[wire.output_to(one) for one in files],
        )
        answer: hub_pb2.CreateCheckpointUploadResponse = self._unary("CreateCheckpointUpload", request)
        by_path = {one.path: one.put_url for one in answer.uploads}
        return tuple(by_path[one.path] for one in files)

    def commit_checkpoint(self, lease_id: str, epoch: Epoch, files: Sequence[OutputFile]) -> str:
        """All of it was put: its name. Raises: FederationError, STALE_EPOCH where the lease is over."""
        request = hub_pb2.CommitCheckpointRequest(
            session_id=self._conversation.session_id,
            lease_id=lease_id,
            epoch=wire.epoch_to(epoch),
            files=[wire.output_to(one) for one in files],
        )
        answer: hub_pb2.CommitCheckpointResponse = self._unary("CommitCheckpoint", request)
        return answer.checkpoint_id

    def checkpoints(self, lease_id: str, epoch: Epoch) -> tuple[Checkpoint, ...]:
        """What older attempts of this lease's job left, the newest first. Raises: FederationError."""
        request = hub_pb2.FindCheckpointsRequest(
            session_id=self._conversation.session_id, lease_id=lease_id, epoch=wire.epoch_to(epoch)
        )
        answer: hub_pb2.FindCheckpointsResponse = self._unary("FindCheckpoints", request)
        return tuple(map(wire.checkpoint_from, answer.checkpoints))

    # ---- the loop ---------------------------------------------------------------------------------------------------
    def _run(self) -> None:
        rounds, gone = Rounds(len(self._lines)), False
        while not self._closing.is_set():
            line = self._lines.line
            try:
                if not self._conversation.session_id:
                    self._open()
                self._sync_until_quiet()
                gone = False
                rounds.good()
            except FederationError as error:
                if self._closing.is_set():
                    return
                if error.code in SESSION_GONE and self._conversation.session_id:
                    self._conversation.session_id = ""
                    if (
                        not gone
                    ):  # it answers again: what failed before is no reason to wait. Said twice, it is one more
                        rounds.good()
                    gone = True
                self._complain(error)
                failures = rounds.failed(transport.moves_on(error))
                left = self._lines.failed(line, error)
                if left is not None:
                    left.channel.close()
                if failures:
                    self._pause(pause_s(error.code, failures, random.random()))

    def _open(self) -> None:
        with self._wake:
            truth, self._dirty = self._truth, False
        joins = belonging.joins(self._state_dir)
        request = self._conversation.opening(truth, self._nodes(), steady.now_ms(), joins)
        began_s = time.monotonic()
        answer: hub_pb2.OpenSessionResponse = self._unary("OpenSession", request)
        self._round_trip_ms = int((time.monotonic() - began_s) * 1000)
        self._nodes_due_s = time.monotonic() + NODES_EVERY_S
        self._conversation.opened(truth, answer)
        if joins:
            belonging.joined(self._state_dir)
        self._calls = []
        self._complaints.clear()
        told, trip_ms = len(truth.runs), self._round_trip_ms
        log.info("session open at %s, %d runs told, round trip %d ms", self._lines.address, told, trip_ms)

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
        if not self._take(call) and time.monotonic() - call.began_s < 0.5:
            self._pause(0.2)  # a server that answers at once with nothing must not spin us

    def _send(self) -> _Call:
        with self._wake:
            truth, self._dirty = self._truth, False
        nodes: tuple[NodeReport, ...] = ()
        if time.monotonic() >= self._nodes_due_s:
            nodes, self._nodes_due_s = self._nodes(), time.monotonic() + NODES_EVERY_S
        said, request = self._conversation.call(truth, nodes, self._round_trip_ms, steady.now_ms())
        began_s = time.monotonic()
        future = self._lines.line.stub.SyncHub.future(
            request, timeout=request.hold_ms / 1000 + CALL_S, metadata=self._metadata, wait_for_ready=False
        )
        call = _Call(said, began_s, future)
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
        return self._deliver(call, answer, wait=True)

    def _deliver(self, call: _Call, answer: hub_pb2.SyncHubResponse, wait: bool) -> bool:
        orders = self._conversation.answered(call.said, answer, self._truth)
        if orders is None:
            return False
        self._delivered += 1
        delivered = self._delivered
        self._on_orders(orders)
        something = carried(orders)
        if wait and something:
            with self._wake:
                self._wake.wait_for(lambda: self._closing.is_set() or self._truth.answers >= delivered, APPLY_S_MAX)
        return something

    # ---- inside -----------------------------------------------------------------------------------------------------
    def _unary(self, method: str, request: Any) -> Any:
        try:
            return getattr(self._lines.line.stub, method)(request, timeout=CALL_S, metadata=self._metadata)
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
        if error.code in self._complaints or error.code in SESSION_GONE:
            return
        self._complaints.add(error.code)
        if error.code in PERSON_MUST_ACT:
            log.error("the control plane refuses this agent: %s", error)
        elif error.fault is Fault.HUB:
            log.error("this agent asks for no session, runs go on: %s", error)
        else:
            log.warning("the control plane cannot be reached, runs go on: %s", error)
