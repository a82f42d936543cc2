"""This agent's time: steady within one boot of its machine, also across its own restarts.

The journal holds deadlines as moments, so an agent that starts again must go on with the clock that wrote them, whatever
the wall clock says by then: its lead over CLOCK_BOOTTIME is kept in the state folder, with the boot that it belongs to.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

from federation.clocks import SteadyClock, boot_ms, told_the_time, wall_ms

CLOCK_FILE = "clock.json"
_clock = SteadyClock()


def now_ms() -> int:
    """Milliseconds since the Unix epoch, by the clock that this boot began with."""
    return _clock.now_ms()


@functools.cache  # it stays while this process lives, and a later look may find no descriptor left
def boot_id() -> str:
    """This boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def boot_time_ms(moment_ms: int) -> int:
    """A moment of `now_ms` on CLOCK_BOOTTIME; 0 stays 0."""
    return max(1, boot_ms() + moment_ms - now_ms()) if moment_ms > 0 else 0


def keep_in(state_dir: Path) -> None:
    """Go on with the clock of this boot's earlier agents; the first of a boot writes it down.

    Raises: FederationError CLOCK_UNSET where there is none that is right.
    """
    global _clock  # noqa: PLW0603  # one process, one machine, one clock
    file, boot = state_dir / CLOCK_FILE, boot_id()
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        ahead_ms = int(kept["ahead_ms"]) if kept["boot_id"] == boot else None
    except (OSError, ValueError, KeyError, TypeError):
        ahead_ms = None
    told_the_time(wall_ms() if ahead_ms is None else boot_ms() + ahead_ms)
    _clock = SteadyClock(ahead_ms=ahead_ms)
    if ahead_ms is None:
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps({"boot_id": boot, "ahead_ms": int(_clock.ahead_ms)}), encoding="utf-8")
        partial.replace(file)
