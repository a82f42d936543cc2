"""Time that nobody can step: the wall clock of one moment, and CLOCK_BOOTTIME since.

Leases, deadlines and grace are lengths of time, and a length must not change because somebody sets a machine's clock, or
NTP does. `SteadyClock` reads the wall clock once. Where it may follow it does so by no more than `SLEW_PPM`, as slowly as a
crystal drifts, so that a day's lease moves by seconds. Deliberately not here: who is told that a clock was set
(`brhub doctor` compares the two ends).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from federation.errors import Code, Fault, FederationError

EARLIEST_MS = 1_577_836_800_000
"""2020: a machine whose clock stands before has lost it, as after a dead battery, and nobody has told it the time yet."""
SLEW_PPM = 200
"""A bad crystal's drift: what a lease's skew bound allows for in any case."""


def wall_ms() -> int:
    """What `date` says, ms since the Unix epoch, UTC."""
    return time.time_ns() // 1_000_000


def boot_ms() -> int:
    """CLOCK_BOOTTIME, ms since the machine booted, sleep included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def told_the_time(wall_ms: int) -> None:
    """Return if a wall clock may be right. Asked at a start only: what is set later changes nothing.

    Raises: FederationError CLOCK_UNSET. A program that went on would keep that time: leases, tokens, links and certificates
    would all be of another century.
    """
    if wall_ms < EARLIEST_MS:
        stands = time.strftime("%Y-%m-%d %H:%M", time.gmtime(max(0, wall_ms) / 1000))
        raise FederationError(
            Code.CLOCK_UNSET,
            f"this machine's clock stands at {stands} UTC",
            fault=Fault.CALLER,
            hint="Set it, or wait until NTP has (`timedatectl`), and start again. What runs goes on.",
            metadata={"clock_ms": str(wall_ms)},
        )


class SteadyClock:
    """A `federation.ports.Clock`. Thread-safe; never goes back.

    `ahead_ms` is the wall clock's lead over CLOCK_BOOTTIME; None: as it is now. `follows`: drawn towards the wall clock.

    >>> clock = SteadyClock(wall=lambda: 5_000, boot=lambda: 1_000)
    >>> clock.now_ms()
    5000
    """

    def __init__(
        self,
        wall: Callable[[], int] = wall_ms,
        boot: Callable[[], int] = boot_ms,
        *,
        ahead_ms: int | None = None,
        follows: bool = False,
    ) -> None:
        self._wall = wall
        self._boot = boot
        self._follows = follows
        self._guard = threading.Lock()
        self._looked_ms = boot()
        self.ahead_ms: float = wall() - self._looked_ms if ahead_ms is None else ahead_ms

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch, as the wall clock would say had nobody set it."""
        boot = self._boot()
        if not self._follows:
            return boot + int(self.ahead_ms)
        with self._guard:
            passed_ms, self._looked_ms = max(0, boot - self._looked_ms), max(boot, self._looked_ms)
            step_ms = passed_ms * SLEW_PPM / 1e6
            off_ms = self._wall() - boot - self.ahead_ms
            self.ahead_ms += min(step_ms, max(-step_ms, off_ms))
            return boot + int(self.ahead_ms)
