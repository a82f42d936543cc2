"""The one line in use, where several control planes may be the one that leads: agents and clients find it by the same law.

A standby binds no port until it leads, so whichever address answers is asked, and asked first from then on. Where a call
fails in a way that smells of the address (`transport.moves_on`), the next address takes its place; when all have failed, a
pause of `federation/backoff.py` follows. One connection at a time: a proxy between would count each try of the others.
Deliberately not here: what is tried again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from federation.client import transport
from federation.client.settings import Settings
from federation.errors import FederationError

C = TypeVar("C")


class Lines(Generic[C]):
    """See the module. Safe to share between threads."""

    def __init__(self, settings: Settings, dial: Callable[[Settings], C]) -> None:
        """`dial` makes a line to one address. Raises: FederationError for an address that cannot be used."""
        self._ways = settings.each()
        for way in self._ways:
            transport.credentials(way)
        self._dial = dial
        self._lock = threading.Lock()
        self._at = 0
        self._line = dial(self._ways[0])

    def __len__(self) -> int:
        """How many addresses there are."""
        return len(self._ways)

    @property
    def address(self) -> str:
        """The address in use."""
        return self._ways[self._at].server

    @property
    def line(self) -> C:
        """The line in use."""
        return self._line

    def failed(self, line: C, error: FederationError) -> C | None:
        """A call on `line` failed. The line that another took the place of, for the caller to close; None: it stays."""
        with self._lock:
            if len(self._ways) == 1 or line is not self._line or not transport.moves_on(error):
                return None
            self._at = (self._at + 1) % len(self._ways)
            self._line = self._dial(self._ways[self._at])
            return line
