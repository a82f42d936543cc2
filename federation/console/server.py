"""The console's server: uvicorn in the control plane's own event loop, on loopback or with TLS. It takes no signals."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from federation.console.door import Door
from federation.console.site import Site
from federation.errors import Code, Fault, FederationError
from federation.identity.tls import TlsFiles, require_tls_or_loopback
from federation.identity.tokens import TokenFile
from federation.service.desk import Desk

STOP_S = 3
KEEP_ALIVE_S = 30
BACKLOG = 256
CONNECTIONS_MAX = 2_000


class ConsoleServer:
    """`start`, then `stop`. `listen` is "host:port" (port 0: any that is free), "[v6]:port" or "localhost:port"."""

    def __init__(
        self,
        desk: Desk,
        tokens: TokenFile,
        listen: str,
        tls_files: TlsFiles | None,
        still: Callable[[], None] | None = None,
    ) -> None:
        """`still` is called before each part of an answer, and does not return where another control plane may lead."""
        require_tls_or_loopback(listen, tls=tls_files is not None)
        self._listen = listen
        self._tls_files = tls_files
        self._still = still
        self.door = Door(tokens, desk.clock, tls=tls_files is not None)
        self.site = Site(desk, self.door, tls=tls_files is not None)
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Serve; the port. Raises: FederationError CONFIGURATION_INVALID (address taken, broken certificate)."""
        listener = self._bound()
        files = self._tls_files
        config = uvicorn.Config(
            self.site.app if self._still is None else while_leading(self.site.app, self._still),
            access_log=False,  # addresses may hold a login link's token
            log_config=None,
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=STOP_S,
            limit_concurrency=CONNECTIONS_MAX,
            ssl_certfile=str(files.certificate) if files else None,
            ssl_keyfile=str(files.key) if files else None,
        )
        try:
            config.load()
        except (OSError, ssl.SSLError, ValueError) as problem:
            listener.close()
            raise _wrong(f"the console's TLS files cannot be used: {problem}", self._listen) from problem
        self.door.port = int(listener.getsockname()[1])
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve([listener]), name="console")
        ready = asyncio.create_task(self._server.ready.wait())
        await asyncio.wait({self._serving, ready}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if self._serving.done():
            await self._serving
        return self.door.port

    async def stop(self) -> None:
        """End the streams, finish the answers at hand, close."""
        self.site.close()
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await self._serving

    def _bound(self) -> socket.socket:
        host, _, port = self._listen.rpartition(":")
        host = host.strip("[]")
        try:
            if not 0 <= int(port) <= 65_535:  # getaddrinfo would take it modulo 65,536
                raise ValueError("a port is a number from 0 to 65535")
            family, kind, number, _, address = socket.getaddrinfo(
                host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listener = socket.socket(family, kind, number)
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(address)
                listener.listen(BACKLOG)
                listener.setblocking(False)
            except OSError:
                listener.close()
                raise
        except (OSError, ValueError, OverflowError) as problem:
            raise _wrong(f"cannot listen on {self._listen}: {problem}", self._listen) from problem
        return listener


def while_leading(app: ASGIApp, still: Callable[[], None]) -> ASGIApp:
    """The application, with a look at the leadership between each part of an answer and the wire."""

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        async def answer(message: Message) -> None:
            still()
            await send(message)

        await app(scope, receive, answer)

    return served


class _Server(uvicorn.Server):
    """Leaves the process's signals alone, and says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The control plane has its own handlers."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, and then say so."""
        await super().startup(sockets)
        self.ready.set()


def _wrong(message: str, address: str) -> FederationError:
    return FederationError(
        Code.CONFIGURATION_INVALID,
        message,
        fault=Fault.CALLER,
        hint="Is another program there? Choose another address.",
        metadata={"address": address},
    )
