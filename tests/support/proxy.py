"""What stands between a campus and the world: an HTTP CONNECT proxy, or a firewall, with bad manners that are chosen.

Real sockets on loopback, one thread. `names` is the proxy's own idea of what a name leads to, so that a test may call the
control plane by a name that no name server knows, as from behind a campus proxy. Not for operators.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

PIECE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Manners:
    """How bad. 0 and empty: not at all."""

    idle_s: float = 0.0
    """A stream on which nothing moved for so long is cut."""
    life_s: float = 0.0
    """A stream that is so old is cut, whatever it does."""
    delay_s: float = 0.0
    """Every piece is held so long, each way."""
    answer: str = "200 Connection established"
    """What every CONNECT is told; not 2xx: and then cut."""
    hangs: bool = False
    """Takes connections and never says a word."""
    cut_bytes: int = 0
    """Every other stream that carries so many bytes is cut there."""
    cuts: bool = False
    """Takes connections and cuts them when they speak."""


@dataclass(slots=True, eq=False)
class _Stream:
    writers: list[asyncio.StreamWriter]
    heard_s: float
    forgotten: bool = False
    carried_bytes: int = 0
    timers: list[asyncio.TimerHandle] = field(default_factory=list)

    def cut(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


class Middlebox:
    """A CONNECT proxy; with `to`, a plain hop (a firewall, a port forward) in front of that port."""

    def __init__(
        self,
        manners: Manners = Manners(),  # frozen
        names: dict[str, tuple[str, int]] | None = None,
        to: tuple[str, int] | None = None,
        place: Callable[[], None] | None = None,
    ) -> None:
        """`place` is called first on the thread that serves: it may move that thread to another network."""
        self.manners = manners
        self.names = names or {}
        self.asked: list[str] = []
        """What each CONNECT asked for, and the headers that came with it."""
        self.counts: Counter[str] = Counter()
        """opened, idle (cut), aged (cut), vanished (bytes)."""
        self._to = to
        self._streams: set[_Stream] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._place = place
        self._thread = threading.Thread(target=self._turn, name="middlebox", daemon=True)
        self._server: asyncio.Server | None = None
        self.port = 0

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """For https_proxy."""
        return f"http://{self.address}"

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def behave(self, **changes: object) -> None:
        """From now on, for new streams."""
        self.manners = replace(self.manners, **changes)  # type: ignore[arg-type]  # a field each

    def lead_to(self, place: tuple[str, int]) -> None:
        """From now on a plain hop leads there; what is open is cut."""
        self._to = place
        self.cut()

    def forget(self) -> None:
        """Like a firewall that forgot what it had open: from now on packets of these streams vanish, nobody is told."""
        self._loop.call_soon_threadsafe(self._forget)

    def cut(self) -> None:
        """Cut whatever is open."""
        self._loop.call_soon_threadsafe(self._cut)

    def _cut(self) -> None:
        for stream in self._streams:
            stream.cut()

    def _forget(self) -> None:
        for stream in self._streams:
            stream.forgotten = True

    def _turn(self) -> None:
        if self._place is not None:
            self._place()
        self._loop.run_forever()

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for stream in list(self._streams):
            stream.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._serve(reader, writer)
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.manners.hangs:
            await reader.read(-1)
            return
        there = self._to
        if there is None:
            there = await self._asked_for(reader, writer)
            if there is None:
                return
        elif self.manners.cuts:
            await reader.read(1)
            return
        try:
            out_reader, out_writer = await asyncio.open_connection(*there)
        except OSError:
            if self._to is None:
                writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
            raise
        if self._to is None:
            writer.write(f"HTTP/1.1 {self.manners.answer}\r\n\r\n".encode())
        stream = _Stream([writer, out_writer], self._loop.time())
        self._streams.add(stream)
        self.counts["opened"] += 1
        self._watch(stream)
        try:
            await asyncio.gather(self._pump(stream, reader, out_writer), self._pump(stream, out_reader, writer))
        finally:
            self._streams.discard(stream)
            for timer in stream.timers:
                timer.cancel()
            stream.cut()

    async def _asked_for(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[str, int] | None:
        """Where the CONNECT wants to go; None when it was told that it may not."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        self.asked.append(head)
        if self.manners.cuts:
            return None
        if not self.manners.answer.startswith("2"):
            writer.write(f"HTTP/1.1 {self.manners.answer}\r\nContent-Length: 0\r\n\r\n".encode())
            await writer.drain()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            return None
        host, _, port = head.split()[1].rpartition(":")
        return self.names.get(host, (host.strip("[]"), int(port)))

    def _watch(self, stream: _Stream) -> None:
        manners, loop = self.manners, self._loop

        def idle() -> None:
            left_s = stream.heard_s + manners.idle_s - loop.time()
            if left_s > 0:
                stream.timers.append(loop.call_later(left_s, idle))
                return
            self.counts["idle"] += 1
            stream.cut()

        def aged() -> None:
            self.counts["aged"] += 1
            stream.cut()

        if manners.idle_s:
            stream.timers.append(loop.call_later(manners.idle_s, idle))
        if manners.life_s:
            stream.timers.append(loop.call_later(manners.life_s, aged))

    async def _pump(self, stream: _Stream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(PIECE_BYTES):
            stream.heard_s = self._loop.time()
            if stream.forgotten:
                self.counts["vanished"] += len(data)
                continue
            if self.manners.delay_s:
                await asyncio.sleep(self.manners.delay_s)
            before, stream.carried_bytes = stream.carried_bytes, stream.carried_bytes + len(data)
            if before < self.manners.cut_bytes <= stream.carried_bytes:
                self.counts["large"] += 1
                if self.counts["large"] % 2:
                    raise ConnectionResetError("cut in the middle of something large")
            writer.write(data)
            await writer.drain()
        if stream.forgotten:  # even the end of it: whoever hangs up is not heard on the other side
            await self._loop.create_future()
        raise ConnectionResetError("one side hung up, so the other is cut too")
