"""Between Ray and a driver on a hub's own cluster: it holds the driver to its deadlines, agent or no agent.

Started by Ray as `python -I -S ray_deadline.py ATTEMPT_FOLDER DRIVER...` from a copy in the attempt's folder: standard library
only, one file. In that folder, which the agent and the cluster's machines share:

    deadline.json  {"runtime_wall_ms", "lease_wall_ms", "grace_ms"}, 0 for none; read again each second
    ended-by       RUNTIME_LIMIT or LEASE_RAN_OUT, where this ended it

The moments are the wall clock's: boot clocks of two machines have nothing in common, and a duration would count anew from
whenever Ray came to begin. So the clocks of agent and cluster must agree to within half a minute, which is what a lease allows
for. A moment is turned into this machine's boot clock when it is first read: a clock that is set later moves nothing. All stay
in one process group, which Ray kills when its own supervisor dies; what leaves it by setsid() is out of reach. Not here:
`guard.py`, whose program has a group of its own, which Ray would leave behind, and whom only an agent of its machine can ask.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

TICK_S = 1.0
WRITE_S_MAX = 2.0
_CAUSES = (("lease_wall_ms", "LEASE_RAN_OUT"), ("runtime_wall_ms", "RUNTIME_LIMIT"))


def boot_ms() -> int:
    """Milliseconds since this machine booted, sleep included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class Deadlines:
    """What the agent wrote last, on this machine's boot clock."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "deadline.json"
        self._text = ""
        self._due: tuple[tuple[int, str], ...] = ()
        self.grace_ms = 10_000
        self.over = False

    def read(self) -> None:
        """Take up what changed. Raises: OSError, ValueError, KeyError where nobody can say; what was read before holds."""
        text = self._file.read_text(encoding="utf-8")
        if text == self._text:
            return
        said = json.loads(text)
        ahead_ms = boot_ms() - time.time_ns() // 1_000_000
        self._due = tuple((max(1, int(said[key]) + ahead_ms), cause) for key, cause in _CAUSES if int(said[key]) > 0)
        self.grace_ms = int(said["grace_ms"])
        self._text = text

    def keep_reading(self) -> None:
        """On a thread of its own: a disk that hangs moves no deadline."""
        while True:
            time.sleep(TICK_S)
            try:
                self.read()
            except (OSError, ValueError, KeyError):
                pass  # at the next tick

    def passed(self) -> str:
        """The cause of an end that is due; empty when none is."""
        now_ms = boot_ms()
        return next((cause for at_ms, cause in self._due if at_ms <= now_ms), "")


def say(folder: Path, cause: str) -> None:
    """Write down why, unless the disk hangs or is full."""

    def write() -> None:
        try:
            (folder / "ended-by").write_text(cause, encoding="ascii")
        except OSError:
            pass

    writing = threading.Thread(target=write, daemon=True)
    writing.start()
    writing.join(WRITE_S_MAX)


def hold(folder: Path, deadlines: Deadlines) -> None:
    """On a thread of its own, until a deadline is over: end the whole group, this with it."""
    while not (cause := deadlines.passed()):
        time.sleep(TICK_S)
    deadlines.over = True
    say(folder, cause)
    os.killpg(0, signal.SIGTERM)
    time.sleep(deadlines.grace_ms / 1_000)
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Run the driver, and exit as it does."""
    folder = Path(sys.argv[1])
    deadlines = Deadlines(folder)
    deadlines.read()  # without deadlines nothing begins
    if cause := deadlines.passed():
        say(folder, cause)
        raise SystemExit(143)
    # Ray asks the driver itself; a handler, unlike an ignored signal, is not inherited by it
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    driver = subprocess.Popen(sys.argv[2:])
    threading.Thread(target=deadlines.keep_reading, daemon=True).start()
    threading.Thread(target=hold, args=(folder, deadlines), daemon=True).start()
    status = driver.wait()
    if deadlines.over:
        os.killpg(0, signal.SIGKILL)  # what it left behind, and this
    raise SystemExit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    main()
