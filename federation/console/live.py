"""Pages that stay true: a stream of server-sent events that brings each region of a page whenever it has changed.

One loop a stream: render, send what differs from what this browser has, wait for news or two seconds. Changes that come
meanwhile are one change, so that a slow browser gets fewer frames and never a backlog. Texts that only count seconds are
not news: the browser counts them itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from federation.domain.job import Job
from federation.errors import Code, Fault, FederationError
from federation.service.desk import Desk

STREAMS_MAX = 400
TICK_S = 2.0
PAUSE_S_MIN = 0.15
COST_SHARE = 8
"""A page that took long to render waits this many times as long before the next."""
MESSAGES_MAX = 64
RETRY_MS = 2_000
_TIME_TEXT = re.compile(r"(<time[^>]*>)[^<]*")
log = logging.getLogger(__name__)

Message = tuple[str, Mapping[str, object]]
"""(event, data)."""


def nothing_beside(_send: Callable[[Message], Awaitable[None]]) -> Awaitable[None] | None:
    """A page that has nothing beside its regions."""
    return None


@dataclass(frozen=True, slots=True)
class Watched:
    """What a stream shows."""

    render: Callable[[], Awaitable[dict[str, str]]]
    """Region -> HTML, as it is now. Raises FederationError when the viewer may no longer look."""
    wants: Callable[[Job], bool]
    """Whether a job's change is news for this page. Called on the writer thread."""
    beside: Callable[[Callable[[Message], Awaitable[None]]], Awaitable[None] | None] = field(default=nothing_beside)
    """A second source of messages, such as a log; runs beside the loop."""


class Live:
    """All open streams."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._open = 0
        self._wakes: set[asyncio.Event] = set()
        self._closing = False

    @property
    def streams(self) -> int:
        """How many are open."""
        return self._open

    def close(self) -> None:
        """End every stream, so that the server can stop."""
        self._closing = True
        for wake in self._wakes:
            wake.set()

    def admit(self) -> None:
        """Raises: FederationError OVERLOADED at the limit."""
        if self._open >= STREAMS_MAX:
            raise FederationError(
                Code.OVERLOADED,
                "too many pages are open",
                fault=Fault.FEDERATION,
                hint="Close some, or reload by hand.",
                metadata={"limit": str(STREAMS_MAX)},
            )

    async def stream(self, watched: Watched) -> AsyncIterator[bytes]:
        """Frames until the browser goes, the viewer may no longer look, or the server stops."""
        loop, wake = asyncio.get_running_loop(), asyncio.Event()
        messages: asyncio.Queue[Message] = asyncio.Queue(MESSAGES_MAX)

        def listener(job: Job) -> None:
            if not wake.is_set() and watched.wants(job):
                with contextlib.suppress(RuntimeError):  # the loop ended between the two
                    loop.call_soon_threadsafe(wake.set)

        async def send(message: Message) -> None:
            await messages.put(message)
            wake.set()

        end = self._desk.switchboard.watch_jobs(listener)
        self._open += 1
        self._wakes.add(wake)
        other = watched.beside(send)
        task = None if other is None else asyncio.ensure_future(other)
        try:
            yield f"retry: {RETRY_MS}\n\n".encode()
            async for frame in self._frames(watched, wake, messages):
                yield frame
        finally:
            end()
            self._wakes.discard(wake)
            self._open -= 1
            if task is not None:
                task.cancel()
                (ended,) = await asyncio.gather(task, return_exceptions=True)
                if isinstance(ended, Exception):  # else nobody would know why a page's log stood still
                    log.error("what runs beside a live page failed for a reason of ours", exc_info=ended)

    async def _frames(
        self, watched: Watched, wake: asyncio.Event, messages: asyncio.Queue[Message]
    ) -> AsyncIterator[bytes]:
        sent: dict[str, str] = {}
        while not self._closing:
            wake.clear()
            began_s = time.perf_counter()
            try:
                regions = await watched.render()
            except FederationError as error:
                if error.code not in (Code.STORE_UNAVAILABLE, Code.OVERLOADED, Code.INTERNAL):
                    yield frame("bye", {"code": error.code, "message": error.message})
                    return
                log.warning("a live page could not be rendered: %s", error)
                regions = {}
            for name, html in regions.items():
                mark = _TIME_TEXT.sub(r"\1", html)
                if sent.get(name) != mark:
                    sent[name] = mark
                    yield frame("region", {"id": name, "html": html})
            while not messages.empty():
                yield frame(*messages.get_nowait())
            yield frame("now", {"ms": self._desk.clock.now_ms()})
            pause_s = max(PAUSE_S_MIN, COST_SHARE * (time.perf_counter() - began_s))
            await asyncio.sleep(pause_s)
            with contextlib.suppress(TimeoutError):  # no news: what only time changes is looked at each tick
                await asyncio.wait_for(wake.wait(), TICK_S)


def frame(event: str, data: Mapping[str, object]) -> bytes:
    """One event; JSON keeps the data on one line."""
    return f"event: {event}\ndata: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()
