"""An event loop's way to the writer: commands of one turn of the loop travel together, and so do a batch's answers.

Handing each command over by itself would wake the writer for each, and the loop again for each answer: under load the
two threads would spend their time on passing the interpreter to each other. Not here: what commands do (`writer.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from federation.errors import FederationError
from federation.service.world import Unit
from federation.service.writer import Entry, Writer

T = TypeVar("T")


class LoopDoor:
    """One event loop's door. All of it runs on that loop, but `answered`."""

    def __init__(self, writer: Writer, loop: asyncio.AbstractEventLoop) -> None:
        self._writer = writer
        self.loop = loop
        self._gathered: list[Entry] = []

    def ask(self, command: Callable[[Unit], T], request_keys: Sequence[tuple[str, str]] = ()) -> asyncio.Future[T]:
        """Done when the command's batch is durable. Cancelling it takes nothing back."""
        future: asyncio.Future[T] = self.loop.create_future()
        if not self._gathered:
            self.loop.call_soon(self._hand_over)
        self._gathered.append(Entry(command, future, self, request_keys))
        return future

    def _hand_over(self) -> None:
        gathered, self._gathered = self._gathered, []
        try:
            self._writer.post(gathered)
        except FederationError as error:
            for entry in gathered:
                entry.error = error
            self._settle(gathered)

    def answered(self, entries: Sequence[Entry]) -> None:
        """On the writer thread."""
        try:
            self.loop.call_soon_threadsafe(self._settle, entries)
        except RuntimeError:
            pass  # the loop is closed: nobody waits any more

    def _settle(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            future: asyncio.Future[Any] = entry.asked
            if future.done():
                continue  # the caller went away
            if entry.error is not None:
                future.set_exception(entry.error)
            else:
                future.set_result(entry.result)
