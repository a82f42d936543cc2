"""A real control plane with real sockets, in this process: memory store, loopback, tokens for a few people."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio

from federation.app.serving import ControlPlane
from federation.app.settings import Objects, Server, Settings, Storage, Tls
from federation.identity.principal import OPERATOR, Principal, PrincipalKind
from federation.identity.tokens import TokenFile, bearer
from federation.v1 import common_pb2, hub_pb2, hub_pb2_grpc, job_pb2, job_pb2_grpc

AISHA = Principal(PrincipalKind.USER, "local", "aisha", "kuala-lumpur", ("default",))
BILAL = Principal(PrincipalKind.USER, "local", "bilal", "cairo", ("default",), (OPERATOR,))
ADMIN = Principal(PrincipalKind.ADMIN, "local", "root", "")
CAIRO = Principal(PrincipalKind.HUB, "local", "cairo", "cairo")
SHENZHEN = Principal(PrincipalKind.HUB, "local", "shenzhen", "shenzhen")


@dataclass
class Voice:
    """One caller's stubs; every call carries their token."""

    jobs: job_pb2_grpc.JobServiceAsyncStub
    hubs: hub_pb2_grpc.HubServiceAsyncStub
    metadata: tuple[tuple[str, str], ...]

    async def job(self, method: str, request: Any) -> Any:
        """A call of JobService."""
        return await getattr(self.jobs, method)(request, metadata=self.metadata, timeout=30)

    async def hub(self, method: str, request: Any) -> Any:
        """A call of HubService."""
        return await getattr(self.hubs, method)(request, metadata=self.metadata, timeout=30)


class Plane:
    """The running control plane and its callers."""

    def __init__(self, plane: ControlPlane, channel: grpc.aio.Channel) -> None:
        self.plane = plane
        self.channel = channel

    def voice(self, principal: Principal | None) -> Voice:
        """Stubs for somebody; None: nobody, without a token."""
        metadata = () if principal is None else (bearer(self.plane.tokens.issue(principal)),)
        stub: Any = job_pb2_grpc.JobServiceStub(self.channel)
        return Voice(stub, hub_pb2_grpc.HubServiceStub(self.channel), metadata)


@asynccontextmanager
async def a_plane(
    folder: Path, objects: Objects | None = None, tls: Tls | None = None, roots: bytes = b"", store: str = "memory:"
) -> AsyncIterator[Plane]:
    """Start it, and end it afterwards."""
    TokenFile.create(folder / "tokens.json")
    server = Server("127.0.0.1:0", data_dir=str(folder), tokens_file=str(folder / "tokens.json"))
    settings = Settings(server=server, store=Storage(store), objects=objects or Objects(), tls=tls or Tls())
    plane = ControlPlane(settings)
    await plane.start()
    address = f"localhost:{plane.ports['grpc']}" if tls else f"127.0.0.1:{plane.ports['grpc']}"
    channel = (
        grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(roots))
        if tls
        else grpc.aio.insecure_channel(address)
    )
    try:
        yield Plane(plane, channel)
    finally:
        await channel.close(None)
        await plane.stop()


def a_wire_spec(name: str = "a-job", **changes: Any) -> bytes:
    """A serialized spec of one small command."""
    spec = job_pb2.JobSpec(version=1, name=name, engine="command", entrypoint="run.py", **changes)
    spec.demand.per_task.add(name="cpu", amount=1000)
    return spec.SerializeToString()


def a_submit(*specs: bytes, first_id: int = 1) -> job_pb2.SubmitJobsRequest:
    """A batch with request ids r1, r2, ..."""
    return job_pb2.SubmitJobsRequest(
        submissions=[job_pb2.Submission(request_id=f"r{first_id + n}", spec=spec) for n, spec in enumerate(specs)]
    )


def a_session(hub_id: str = "cairo", instance_id: str = "i1") -> hub_pb2.OpenSessionRequest:
    """An agent with one node of 4 cpus."""
    offered = [common_pb2.Resource(name="cpu", amount=4000), common_pb2.Resource(name="memory", amount=8 << 30)]
    return hub_pb2.OpenSessionRequest(
        hub_id=hub_id,
        agent_id="main",
        agent_version="0.1.0",
        protocol_min=1,
        protocol_max=1,
        instance_id=instance_id,
        nodes=[hub_pb2.Node(name="n1", offered=offered, capacity=offered)],
        engines=["command"],
    )
