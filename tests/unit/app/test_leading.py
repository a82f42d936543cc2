"""What stands between an answer and the wire where another control plane may lead."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from federation.app.serving import AnswersWhileLeading


class Deposed(Exception):
    """What stands for the end of a process."""


async def test_no_answer_leaves_one_that_may_not_lead_any_more() -> None:
    """The leadership is looked at when the answer is there, not when the call comes; then it leaves, or nothing does."""
    looks: list[str] = []
    leads = True

    def still() -> None:
        looks.append("look")
        if not leads:
            raise Deposed

    server = grpc.aio.server(interceptors=[AnswersWhileLeading(still)])
    servicer = health.aio.HealthServicer()  # type: ignore[attr-defined]  # the stubs lack the aio module
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_http_proxy", 0)]) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
            leads = False
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
    finally:
        await server.stop(None)
    assert looks == ["look", "look"]
