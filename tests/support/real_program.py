"""The program of the jobs under real faults: it writes down what truly happened to it, beside what anybody believes.

Standard library only; it runs as a job's package or straight from its file. What it is to do comes by variables: TRACE (a
folder), LASTS (seconds, 0: until its bell), BELL (a file), EXIT (its exit status), SAVES (a checkpoint each second).

    TRACE/<hub>.jsonl   one line a fact, appended whole: begin, twice, saved, term, done, end, with both clocks
    TRACE/locks/<job>   held while it runs, so that a second one of the same job sees the first, whatever clocks say
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path

LOOK_S, SAVE_S = 0.1, 1.0


class Trace:
    """Where its facts go."""

    def __init__(self, folder: Path) -> None:
        environment = os.environ
        self._who = {name: environment["BRHUB_" + name.upper()] for name in ("hub", "job_id", "attempt")}
        file = folder / f"{self._who['hub']}.jsonl"
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, what: str, **more: object) -> None:
        """One line, whole: O_APPEND keeps it apart from what others write meanwhile."""
        wall_ms = time.time_ns() // 1_000_000
        boot_ms = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
        line = {"what": what, **self._who, "pid": os.getpid(), "wall_ms": wall_ms, "boot_ms": boot_ms, **more}
        os.write(self._file, (json.dumps(line) + "\n").encode())


def put(file: Path, text: str) -> None:
    """The whole text under that name, once the disk has room for it."""
    partial = file.with_name(file.name + ".tmp")
    while True:
        try:
            partial.write_text(text)
            partial.replace(file)
        except OSError:
            signal.sigtimedwait((signal.SIGCHLD,), LOOK_S)
        else:
            return


def say(text: str) -> None:
    """A line in the log, where there is room for it."""
    try:
        print(text, flush=True)
    except OSError:
        pass


def until_its_end(trace: Trace) -> int:
    """Go on until it has lasted, or the bell rings, or it is told to end; the exit status."""
    began_s = saved_s = time.monotonic()
    lasts_s, bell, saves = float(os.environ["LASTS"]), Path(os.environ["BELL"]), os.environ["SAVES"] == "1"
    checkpoint = Path(os.environ["BRHUB_CHECKPOINT_DIR"], "steps")
    steps = int(checkpoint.read_text()) if checkpoint.exists() else 0
    trace.note("begin", steps=steps)
    say("it runs")
    while not (bell.exists() or 0 < lasts_s <= time.monotonic() - began_s):
        if signal.sigtimedwait((signal.SIGTERM,), LOOK_S) is not None:
            trace.note("term")
            return 143
        if saves and time.monotonic() - saved_s > SAVE_S:
            steps, saved_s = steps + 1, time.monotonic()
            put(checkpoint, str(steps))
            trace.note("saved", steps=steps)
            say(f"step {steps}")
    trace.note("done")
    put(Path(os.environ["BRHUB_OUTPUT_DIR"], "result"), f"{os.environ['BRHUB_JOB_ID']} {os.environ['BRHUB_ATTEMPT']}")
    return int(os.environ["EXIT"])


def main() -> int:
    """Run once, alone, and leave a trace."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
    folder = Path(os.environ["TRACE"])
    trace = Trace(folder)
    lock = os.open(folder / "locks" / os.environ["BRHUB_JOB_ID"], os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        trace.note("twice")
    status = until_its_end(trace)
    trace.note("end", status=status)
    return status


if __name__ == "__main__":
    sys.exit(main())
