"""A bare grpc.aio server that answers every call with so many bytes: what a round trip costs before anybody works.

It neither parses nor authenticates nor stores. As a program: `python -m benchmarks.apparatus.echo ANSWER_BYTES`.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import Any

import grpc
import grpc.aio

METHOD = "/bench.Echo/Echo"


def handler(answer_bytes: int) -> grpc.GenericRpcHandler[bytes, bytes]:
    """The one method."""
    answer = b"x" * answer_bytes

    async def echo(_request: bytes, _context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        return answer

    service, name = METHOD[1:].split("/")
    return grpc.method_handlers_generic_handler(service, {name: grpc.unary_unary_rpc_method_handler(echo)})


async def _serve(answer_bytes: int) -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((handler(answer_bytes),))
    port = server.add_insecure_port("127.0.0.1:0")
    ending = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ending.set)
    await server.start()
    print(json.dumps({"port": port}), flush=True)
    await ending.wait()
    await server.stop(1.0)


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
