"""The real clock and the real ids."""

from __future__ import annotations

import os
import threading
import time

from federation.clocks import SteadyClock, told_the_time, wall_ms

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's: 32 letters that nobody mistakes for each other; text order is number order."""
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]


class SystemClock(SteadyClock):
    """UTC, from the machine; setting its clock changes no lease. What was set is followed slowly, or at the next start."""

    def __init__(self) -> None:
        """Raises: FederationError CLOCK_UNSET."""
        told_the_time(wall_ms())
        super().__init__(follows=True)


class SortableIds:
    """Ids that sort by time of making: 48 bits of milliseconds and 80 of chance, as in ULID. Thread-safe.

    Within one millisecond the chance part counts up, so that ids made in order are in order.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._last_ms = 0
        self._tail = 0

    def new_id(self, prefix: str) -> str:
        """A new id, "<prefix>-" and 26 letters."""
        with self._guard:
            now_ms = time.time_ns() // 1_000_000
            if now_ms > self._last_ms:
                self._last_ms = now_ms
                self._tail = int.from_bytes(os.urandom(10)) >> 1
            else:
                self._tail += 1
            number = (self._last_ms << 80) | self._tail
        pairs = [_PAIRS[(number >> shift) & 1023] for shift in range(120, -10, -10)]
        return f"{prefix}-{''.join(pairs)}"
