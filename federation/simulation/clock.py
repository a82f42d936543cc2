"""Virtual time: a clock that only its agenda moves, and the agenda of what is still to happen.

An agenda is a heap of (time, order of entry, event): what falls on one instant happens in the order in which it was put
there, so that a run is the same every time. Events are plain values; whoever drives the agenda says what they mean.
Deliberately not here: any real clock, any thread, any chance.
"""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

E = TypeVar("E")


class VirtualClock:
    """The time of a simulation; a `federation.ports.Clock`. It never goes back."""

    def __init__(self, now_ms: int = 0) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch of the simulated world."""
        return self._now_ms

    def advance(self, to_ms: int) -> None:
        """It is `to_ms` now."""
        assert to_ms >= self._now_ms, f"time would go back from {self._now_ms} to {to_ms}"
        self._now_ms = to_ms


class Agenda(Generic[E]):
    """What is still to happen, by time.

    >>> agenda = Agenda[str](VirtualClock())
    >>> agenda.put(20, "late"); agenda.put(10, "first"); agenda.put(10, "second")
    >>> agenda.take(), agenda.clock.now_ms()
    (['first', 'second'], 10)
    """

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self._heap: list[tuple[int, int, E]] = []
        self._entered = 0

    def __len__(self) -> int:
        return len(self._heap)

    def put(self, at_ms: int, event: E) -> None:
        """`event` happens at `at_ms`, which is now at the earliest."""
        assert at_ms >= self.clock.now_ms(), f"{event!r} would happen at {at_ms}, before {self.clock.now_ms()}"
        heapq.heappush(self._heap, (at_ms, self._entered, event))
        self._entered += 1

    def next_ms(self) -> int | None:
        """When something happens next; None when nothing will."""
        return self._heap[0][0] if self._heap else None

    def take(self) -> list[E]:
        """Everything of the next instant that has been put here so far, in order; the clock moves there.

        What is put for the same instant afterwards comes with the next call. Empty when nothing is left.
        """
        if not self._heap:
            return []
        at_ms = self._heap[0][0]
        self.clock.advance(at_ms)
        events = []
        while self._heap and self._heap[0][0] == at_ms:
            events.append(heapq.heappop(self._heap)[2])
        return events
