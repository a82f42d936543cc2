"""What everything in a simulated federation stands on: one agenda, one source of chance, one trace, lives that end.

Whatever happens is put on the agenda by `Stage.after`; what belongs to a process carries that process's `Life` and is
skipped once the process is gone. The trace is what a seed comes to: the same seed gives the same bytes, and `digest` is
their sha256. Deliberately not here: any real clock, any thread.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass

BEGINS_MS = 1_760_000_000_000
"""When every simulated world begins, ms since the Unix epoch."""
Event = Callable[[], None]


@dataclass(slots=True)
class Life:
    """One life of a process: it ends once, and what it had planned ends with it."""

    alive: bool = True
    missed: list[Event] | None = None
    """While the process is stopped, or its machine paused: what would have happened to it; it happens when it goes on."""


class BrokenPromiseError(BaseException):
    """A promise of the federation does not hold; the text says which, when and for whom."""


class Stage:
    """See the module."""

    def __init__(self, seed: int, keep_trace: bool = False) -> None:
        self.now_ms = BEGINS_MS
        """True time, which nobody in the simulated world can read."""
        self.chance = random.Random(seed)
        self.events = 0
        self.lines: list[str] = []
        """The trace, where it is kept."""
        self._keep = keep_trace
        self._agenda: list[tuple[int, int, Event, Life | None]] = []
        """A heap: when, in which order it was put there, what, and whose."""
        self._entered = 0
        self._digest = hashlib.sha256()

    def after(self, delay_ms: float, event: Event, life: Life | None = None) -> None:
        """`event` happens in `delay_ms`, unless `life` has ended by then."""
        self._entered += 1
        heapq.heappush(self._agenda, (self.now_ms + max(0, int(delay_ms)), self._entered, event, life))

    def go_on(self, life: Life) -> None:
        """A process that was stopped finds, in order, what it missed."""
        missed, life.missed = life.missed or (), None
        for event in missed:
            self.after(0, event, life)

    def run(self, until_ms: int) -> None:
        """Let everything happen that happens before `until_ms`."""
        agenda = self._agenda
        while agenda and agenda[0][0] < until_ms:
            self.now_ms, _, event, life = heapq.heappop(agenda)
            if life is None or (life.alive and life.missed is None):
                self.events += 1
                event()
            elif life.missed is not None:
                life.missed.append(event)
        self.now_ms = until_ms

    def tell(self, who: str, what: str) -> None:
        """One line of the trace."""
        line = f"{self.now_ms - BEGINS_MS:>10} {who} {what}"
        self._digest.update(line.encode())
        self._digest.update(b"\n")
        if self._keep:
            self.lines.append(line)

    @property
    def digest(self) -> str:
        """sha256 (hex) of the trace so far."""
        return self._digest.hexdigest()

    def broken(self, promise: str) -> BrokenPromiseError:
        """The error to raise; it is the trace's last line."""
        self.tell("promise", f"BROKEN {promise}")
        return BrokenPromiseError(f"{(self.now_ms - BEGINS_MS) / 1000:.3f} s: {promise}")


class LocalClock:
    """A machine's own idea of the time: true time, drifted and set by hand. A `federation.ports.Clock`.

    `boot_ms` is CLOCK_BOOTTIME: it drifts with the same crystal and is never set.
    """

    def __init__(self, stage: Stage, drift_ppm: float = 0.0, offset_ms: int = 0) -> None:
        self._stage = stage
        self._rate = 1.0 + drift_ppm / 1e6
        self._base_ms = stage.now_ms
        self._wall_ms = stage.now_ms + offset_ms
        self._boot_ms = 0

    def now_ms(self) -> int:
        """What `date` says."""
        return self._wall_ms + self._passed_ms()

    def boot_ms(self) -> int:
        """Since the machine booted."""
        return self._boot_ms + self._passed_ms()

    def set_by(self, step_ms: int) -> None:
        """Somebody sets the clock; nothing else notices."""
        self._wall_ms += step_ms

    def reboot(self) -> None:
        """CLOCK_BOOTTIME begins anew; the wall clock has its battery."""
        self._settle()
        self._boot_ms = 0

    def until_boot_ms(self, moment_ms: int) -> float:
        """True time until CLOCK_BOOTTIME says `moment_ms`; 0 when it is past."""
        return max(0.0, (moment_ms - self.boot_ms()) / self._rate)

    def drift_by(self, ppm: float) -> None:
        """The crystal runs so much faster from now on; slower, where it is negative."""
        self._settle()
        self._rate = 1.0 + ppm / 1e6

    def _settle(self) -> None:
        """Count from now."""
        passed_ms = self._passed_ms()
        self._wall_ms += passed_ms
        self._boot_ms += passed_ms
        self._base_ms = self._stage.now_ms

    def _passed_ms(self) -> int:
        return int((self._stage.now_ms - self._base_ms) * self._rate)
