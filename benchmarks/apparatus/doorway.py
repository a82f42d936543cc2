"""A door before a control plane: it passes bytes on, counts the requests that go in, and can be shut.

Each gRPC call is one HEADERS frame from the caller (RFC 9113, 4.1 and 6.2); connections are counted too. While it is shut,
what was connected is cut and new connections are refused, as where a control plane is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future

from benchmarks.apparatus.control_plane import free_port

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME_BYTES = 9
_HEADERS = 1


class FrameCounter:
    """HEADERS frames in one direction of an HTTP/2 connection, whatever pieces it comes in."""

    def __init__(self) -> None:
        self._skip = len(_PREFACE)
        self._head = b""

    def headers_in(self, data: bytes) -> int:
        """How many begin in this piece."""
        found, at = 0, 0
        while at < len(data):
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
                continue
            step = min(_FRAME_BYTES - len(self._head), len(data) - at)
            self._head += data[at : at + step]
            at += step
            if len(self._head) == _FRAME_BYTES:
                self._skip = int.from_bytes(self._head[:3])
                found += self._head[3] == _HEADERS
                self._head = b""
        return found


class _Way(asyncio.Protocol):
    """One end of a connection; what comes goes to the other end."""

    def __init__(self, door: Doorway, other: _Way | None = None) -> None:
        self.door = door
        self.other = other
        self.transport: asyncio.Transport | None = None
        self.early: list[bytes] = []
        self._counter = FrameCounter() if other is None else None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Dial on, or begin to pass on."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self.other is None:
            self.door.came(self)
        else:
            for data in self.other.early:
                transport.write(data)

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        if self._counter is not None:
            self.door.count(self._counter.headers_in(data))
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)
        else:
            self.early.append(data)

    def connection_lost(self, _: Exception | None) -> None:
        """The other end goes too."""
        self.door.ways.discard(self)
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


class Doorway:
    """See the module. Every method may be called from any thread but `came` and `count`."""

    def __init__(self, behind: str) -> None:
        self.target = f"127.0.0.1:{free_port()}"
        self.ways: set[_Way] = set()
        self.requests_s: list[float] = []
        """When each request came, on time.monotonic()."""
        self.connections = 0
        host, _, port = behind.rpartition(":")
        self._behind = (host, int(port))
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._dialling: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def open(self) -> None:
        """Take connections."""
        self._run(self._open())

    def shut(self) -> None:
        """Refuse new connections, and cut those that there are."""
        self._run(self._shut())

    def end(self) -> None:
        """Shut for good."""
        self.shut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def between(self, from_s: float, until_s: float) -> int:
        """Requests in a stretch of time.monotonic()."""
        return sum(from_s <= moment_s < until_s for moment_s in tuple(self.requests_s))

    def busiest_second(self, from_s: float, until_s: float) -> int:
        """The most requests within any second of that stretch."""
        moments = sorted(moment_s for moment_s in tuple(self.requests_s) if from_s <= moment_s < until_s)
        most, first = 0, 0
        for last, moment_s in enumerate(moments):
            while moments[first] <= moment_s - 1.0:
                first += 1
            most = max(most, last - first + 1)
        return most

    # ---- on the loop --------------------------------------------------------------------------------------------------
    def came(self, way: _Way) -> None:
        """Somebody connected."""
        self.connections += 1
        self.ways.add(way)
        task = self._loop.create_task(self._dial(way))
        self._dialling.add(task)
        task.add_done_callback(self._dialling.discard)

    def count(self, requests: int) -> None:
        """So many requests came."""
        self.requests_s += [time.monotonic()] * requests

    async def _dial(self, way: _Way) -> None:
        assert way.transport is not None
        other = _Way(self, way)
        try:
            await self._loop.create_connection(lambda: other, *self._behind)
        except OSError:
            way.transport.abort()
            return
        way.other = other
        self.ways.add(other)
        if way.transport.is_closing() and other.transport is not None:
            other.transport.close()

    async def _open(self) -> None:
        host, _, port = self.target.rpartition(":")
        self._server = await self._loop.create_server(lambda: _Way(self), host, int(port), backlog=1_000)

    async def _shut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for way in tuple(self.ways):
            if way.transport is not None:
                way.transport.abort()

    def _run(self, what: object) -> None:
        assert asyncio.iscoroutine(what)
        done: Future[None] = asyncio.run_coroutine_threadsafe(what, self._loop)
        done.result(30)


@contextlib.contextmanager
def doorway(behind: str) -> Iterator[Doorway]:
    """An open door before `behind` (HOST:PORT) for the time of the block."""
    door = Doorway(behind)
    door.open()
    try:
        yield door
    finally:
        door.end()
