"""Runs the steps one after the other, says what each proves, and stops what it started."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from federation.cli import embedded, layout, processes
from federation.client import Client
from federation.errors import FederationError

MIB = 2**20


class StepFailed(Exception):
    """What was to be shown did not show."""


@dataclass
class Tour:
    """What every step needs: the federation's folder, a client, and somewhere to say things."""

    folder: Path
    client: Client
    plan: layout.Plan
    scratch: Path
    memory: MemoryWatch
    job_folder: Path = Path(__file__).parent / "jobs"
    done: bool = False
    """Every step held."""

    def say(self, text: str) -> None:
        """A line of the step."""
        print(f"    {text}", flush=True)

    def prove(self, holds: bool, what: str) -> None:
        """A line that says what was checked; StepFailed when it does not hold."""
        if not holds:
            raise StepFailed(what)
        print(f"  ✓ {what}", flush=True)

    def show(self, *arguments: str) -> str:
        """Run a `brhub` command as a person would, print what it prints, and return it."""
        print(f"    $ brhub {' '.join(arguments)}", flush=True)
        done = subprocess.run(
            [sys.executable, "-m", "federation.cli", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env={**os.environ, "BRHUB_DIR": str(self.folder), "COLUMNS": "132"},
        )
        for line in (done.stdout + done.stderr).splitlines():
            print(f"      {line}", flush=True)
        if done.returncode:
            raise StepFailed(f"`brhub {' '.join(arguments)}` ended with {done.returncode}")
        return done.stdout

    def submit(self, name: str, entrypoint: str, **more: Any) -> str:
        """Submit one of the tour's programs; its id."""
        engine = more.pop("engine", "spark")
        spec = {"version": 1, "name": name, "engine": engine, "entrypoint": entrypoint, "package": str(self.job_folder)}
        job_id = self.client.submit({**spec, **more})
        self.say(f"submitted {name}: {job_id}")
        return job_id

    def follow(self, job_id: str, until: Callable[[Any], bool], timeout_s: float) -> Any:
        """Watch a job, saying each change, until `until` holds; StepFailed with its log when the time is up or it ended."""
        from federation.cli.show import state_of

        last, deadline_s = "", time.monotonic() + timeout_s
        for job in self.client.watch([job_id], timeout_s=timeout_s):
            line = (
                f"{state_of(job)}"
                + (f" at {job.hub_id}" if job.hub_id else "")
                + (f": {job.progress}" if job.progress else "")
            )
            if line != last:
                self.say(line)
                last = line
            if until(job):
                return job
            if state_of(job) in ("SUCCEEDED", "FAILED", "CANCELLED") or time.monotonic() > deadline_s:
                break
        raise StepFailed(f"job {job_id} did not come to where it should: {last}\n{self.log_of(job_id)}")

    def succeeded(self, job_id: str, timeout_s: float = 300) -> Any:
        """Wait for a good end."""
        from federation.cli.show import state_of

        return self.follow(job_id, lambda job: state_of(job) == "SUCCEEDED", timeout_s)

    def log_of(self, job_id: str) -> str:
        """The end of the job's log, for a failure."""
        try:
            text = b"".join(self.client.logs(job_id)).decode(errors="replace")
        except FederationError as error:
            return f"(no log: {error.message})"
        return text[-4000:]


class MemoryWatch:
    """The most memory (proportional set size) that the federation's processes held together, sampled each second."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, folder: Path) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, args=(folder,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, folder: Path) -> None:
        while not self._ending.wait(1.0):
            total = sum(_pss(process) for process in processes.marked(folder))
            self.peak_bytes = max(self.peak_bytes, total)


def _pss(process: psutil.Process) -> int:
    with contextlib.suppress(OSError, ValueError):  # a kernel that does not tell, or a process that ended
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    with contextlib.suppress(psutil.Error):  # it ended
        return int(process.memory_info().rss)
    return 0


@contextlib.contextmanager
def _federation(keep: bool) -> Iterator[Tour]:
    """A federation in a folder of its own. It is ended however the tour ends; the folder goes when all went well."""
    folder = Path(tempfile.mkdtemp(prefix="brhub-tour-")).resolve()
    print(f"starting a federation of three hubs in {folder}", flush=True)
    os.environ[processes.MARKER] = str(folder)  # what the tour itself starts is found and ended too
    scratch = folder / "tour"
    tour = None
    try:
        plan = embedded.up(
            folder, embedded.Wanted(hubs=3, sample_data=True), lambda text: print(f"  {text}", flush=True)
        )
        scratch.mkdir(parents=True, exist_ok=True)
        tour = Tour(folder, Client(embedded.settings_of(plan)), plan, scratch, MemoryWatch())
        tour.memory.start(folder)
        yield tour
    finally:
        if tour is not None:
            tour.memory.stop()
            tour.client.close()
        if keep and tour is not None:
            print(f"left running: BRHUB_DIR={folder}; end it with `brhub down --dir {folder}`", flush=True)
        else:
            processes.stop_all(folder, lambda text: print(f"  {text}", flush=True))
            if tour is not None and tour.done:
                shutil.rmtree(folder, ignore_errors=True)
            else:
                print(f"its folder, with every log, stays: {folder}", flush=True)


def _interrupted(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def run(steps: Sequence[Callable[[Tour], None]], keep: bool) -> int:
    """The steps, one after the other; 0 when every one held. The last line says how many did."""
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, _interrupted)  # whoever ends the tour ends what it started, as Ctrl-C does
    began_s, held = time.monotonic(), 0
    failed = ""
    try:
        with _federation(keep) as tour:
            address = embedded.addresses(tour.folder, tour.plan)
            print(f"console: {address['sign_in']}", flush=True)
            for number, step in enumerate(steps, 1):
                print(f"\n[{number}/{len(steps)}] {step.__doc__}", flush=True)
                step_s = time.monotonic()
                try:
                    step(tour)
                except (StepFailed, FederationError, subprocess.TimeoutExpired, OSError) as problem:
                    failed = f"step {number}: {problem}"
                    break
                held += 1
                print(f"    ({time.monotonic() - step_s:.0f} s)", flush=True)
            tour.done = held == len(steps)
            print(f"\npeak memory of the federation's processes: {tour.memory.peak_bytes / MIB:,.0f} MiB", flush=True)
            if keep:
                print(f"console: {address['sign_in']}", flush=True)
    except FederationError as problem:
        failed = failed or str(problem)
    if failed:
        print(f"FAILED {failed}", file=sys.stderr, flush=True)
    print(f"took {time.monotonic() - began_s:.0f} s")
    print(f"demo: {held} of {len(steps)} steps ok", flush=True)
    return 0 if held == len(steps) else 1
