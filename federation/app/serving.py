"""`brhub serve`: builds the control plane from its settings and serves until it is told to end."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from federation.api.door import Gate
from federation.api.hubs import HubServicer
from federation.api.jobs import JobServicer
from federation.app.bucket import Bucket
from federation.app.collecting import spare_the_collector
from federation.app.outside import SortableIds, SystemClock
from federation.app.settings import Settings, read_settings
from federation.errors import Code, Fault, FederationError
from federation.identity.tls import server_credentials
from federation.identity.tokens import TokenFile
from federation.objects.store import ObjectStore
from federation.ports import Tracking
from federation.service.desk import Desk, Outside
from federation.store import leadership_of, open_store
from federation.v1 import hub_pb2, hub_pb2_grpc, job_pb2, job_pb2_grpc

if TYPE_CHECKING:
    from federation.scheduling import Policy

MESSAGE_BYTES_MAX = 16 << 20
STOP_S = 5.0
log = logging.getLogger(__name__)

GRPC_OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    # Agents and clients ask a silent link every 15 s whether it lives (`federation/client/transport.py`): below 10 s would be
    # too many. The other way round it is asked every 30 s: who vanished holds no call for longer than 40 s.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.so_reuseport", 0),
]


class ControlPlane:
    """One running control plane. `start`, `wait`, `stop`; used by `serve_main` and, in-process, by tests."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        clock = SystemClock()  # before anything is opened: no clock, no control plane
        Path(settings.server.data_dir).mkdir(parents=True, exist_ok=True)
        address = settings.store_address
        self.objects = ObjectStore(address) if address else None
        self.bucket = Bucket(self.objects) if self.objects is not None else None
        self.tracking = _tracking(settings)
        self.tokens = TokenFile(Path(settings.server.tokens_file))
        self.tokens.principals()  # a broken file is told now, not at the first call
        policy = _policy(settings)  # and so is this one
        store = open_store(settings.store_url, waiting=_standing_by)
        self.leadership = leadership_of(store)
        outside = Outside(
            store, clock, SortableIds(), self.objects, self.tracking, policy, settings.store.keep_events_days
        )
        self.desk = Desk(outside)
        self.servers: list[grpc.aio.Server] = []
        self.ports: dict[str, int] = {}
        self._console: Any = None

    async def start(self) -> None:
        """Serve. Back when all of it does: calls are answered seconds earlier, before the queue is in memory."""
        if self.bucket is not None:
            await asyncio.to_thread(self.bucket.start)
        self.desk.start()
        if self.leadership is not None:
            log.info("leading; every live lease is counted anew")
        gate = Gate(self.tokens)
        self.health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # the stubs lack the aio module
        public = self._server(gate)
        self.ports["grpc"] = self._bind(public, self.settings.server.listen)
        await public.start()
        if self.settings.server.admin_listen:
            admin = self._server(gate)
            names = [
                hub_pb2.DESCRIPTOR.services_by_name["HubService"].full_name,
                job_pb2.DESCRIPTOR.services_by_name["JobService"].full_name,
                health.SERVICE_NAME,
                reflection.SERVICE_NAME,
            ]
            reflection.enable_server_reflection(names, admin)
            self.ports["admin"] = self._bind(admin, self.settings.server.admin_listen)
            await admin.start()
        await self.health.set("", health_pb2.HealthCheckResponse.SERVING)
        log.info("serving on %s", self.settings.server.listen)
        await asyncio.to_thread(self._rebuild)
        if self.settings.server.console_listen:
            from federation.console import ConsoleServer

            still = None if self.leadership is None else self.leadership.still
            self._console = ConsoleServer(
                self.desk, self.tokens, self.settings.server.console_listen, self.settings.tls_files, still
            )
            self.ports["console"] = await self._console.start()

    def _rebuild(self) -> None:
        _load_planner()
        self.desk.rebuild()
        log.info("%d jobs are in memory; planning", len(self.desk.world.jobs))

    def _server(self, gate: Gate) -> grpc.aio.Server:
        interceptors = [] if self.leadership is None else [AnswersWhileLeading(self.leadership.still)]
        server = grpc.aio.server(interceptors=interceptors, options=GRPC_OPTIONS, maximum_concurrent_rpcs=20_000)
        hub_pb2_grpc.add_HubServiceServicer_to_server(HubServicer(self.desk, gate), server)
        job_pb2_grpc.add_JobServiceServicer_to_server(JobServicer(self.desk, gate), server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        self.servers.append(server)
        return server

    def _bind(self, server: grpc.aio.Server, address: str) -> int:
        files = self.settings.tls_files
        try:
            if files is not None:
                return server.add_secure_port(address, server_credentials(files))
            return server.add_insecure_port(address)
        except RuntimeError as problem:
            raise FederationError(
                Code.CONFIGURATION_INVALID,
                f"cannot listen on {address}: {problem}",
                fault=Fault.CALLER,
                hint="Is another program there? Choose another port.",
                metadata={"address": address},
            ) from problem

    async def stop(self) -> None:
        """Take no new calls, finish what was accepted, end."""
        await self.health.enter_graceful_shutdown()
        if self._console is not None:
            await self._console.stop()
        await asyncio.gather(*(server.stop(STOP_S) for server in self.servers))
        if self.bucket is not None:
            self.bucket.stop()
        await asyncio.to_thread(self.desk.stop)
        if self.tracking is not None:
            await asyncio.to_thread(self.tracking.close)


class AnswersWhileLeading(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """No answer leaves a control plane that may have a successor by now: `still` ends the process instead."""

    def __init__(self, still: Callable[[], None]) -> None:
        self._still = still

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """The method, with a look at the leadership between what it says and the wire: an answer, a refusal, each news."""
        handler = await continuation(details)
        if handler is None or handler.request_streaming:
            return handler
        kind = "unary_stream" if handler.response_streaming else "unary_unary"
        method = getattr(handler, kind)

        async def answer(request: Any, context: Any) -> Any:
            said = await method(request, _ContextWhileLeading(context, self._still))
            self._still()
            return said

        async def news(request: Any, context: Any) -> AsyncIterator[Any]:
            async with contextlib.aclosing(method(request, _ContextWhileLeading(context, self._still))) as each:
                async for said in each:
                    self._still()
                    yield said

        return handler._replace(**{kind: news if inspect.isasyncgenfunction(method) else answer})


class _ContextWhileLeading:
    """The context of a call, through which a method refuses, or sends what it does not return."""

    def __init__(self, real: Any, still: Callable[[], None]) -> None:
        self._real = real
        self._still = still

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def abort(self, *status: Any, **named: Any) -> None:
        """Refuse."""
        self._still()
        await self._real.abort(*status, **named)

    async def write(self, message: Any) -> None:
        """Send one of a stream."""
        self._still()
        await self._real.write(message)


def _standing_by(leader: str) -> None:
    log.info("standing by: %s leads", leader)
    _load_planner()  # there is time


def _load_planner() -> None:
    """It takes a second, for which nobody's first call may wait."""
    from federation.app.kernels import fresh_kernels

    fresh_kernels()


def _policy(settings: Settings) -> Policy | None:
    """The order of the queue. What the file says of hubs' shares is for replays: a live hub speaks for itself."""
    if not settings.scheduling.policy:
        return None
    from federation.app.policyfile import load_policy

    try:
        chosen = load_policy(Path(settings.scheduling.policy).absolute())
    except FederationError as error:
        message = f"[scheduling] policy: {error.message}"
        raise FederationError(
            error.code, message, fault=error.fault, hint=error.hint, metadata=error.metadata
        ) from error
    if chosen.hubs:
        log.warning(
            "%s: `hubs` (%s) has no effect here; what a hub offers is in its own share policy file",
            settings.scheduling.policy,
            ", ".join(sorted(chosen.hubs)),
        )
    return chosen.order


def _tracking(settings: Settings) -> Tracking | None:
    if not settings.tracking.enabled:
        return None
    from federation.tracking import MlflowTracking

    return MlflowTracking(Path(settings.server.data_dir) / "mlflow")


async def _serve(settings: Settings) -> None:
    plane = ControlPlane(settings)
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    await plane.start()
    spare_the_collector()
    await ending.wait()
    await plane.stop()


def serve_main(config_path: str | None, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> int:
    """Run the control plane until SIGTERM; the exit status. Errors in the settings are raised before anything starts."""
    logging.basicConfig(
        level=os.environ.get("BRHUB_LOG", "INFO"),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    # It tells of each try of each call; whoever calls tells how it ended.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    settings = read_settings(Path(config_path) if config_path else None, os.environ, overrides)
    asyncio.run(_serve(settings))
    return 0
