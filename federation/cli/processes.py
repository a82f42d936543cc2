"""The processes of an embedded federation: each in a session of its own, written down, and all found again to end them.

Every process that `brhub up` starts, and every process that those start, inherits `BRHUB_FEDERATION_DIR`; so `down`
finds also what nobody wrote down. Deliberately not here: what is started (`embedded.py`).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from federation.errors import Code, Fault, FederationError

MARKER = "BRHUB_FEDERATION_DIR"
TERM_GRACE_S = 20.0
"""An agent may stop Spark, Ray and MLflow on its way out."""
KILL_GRACE_S = 5.0
SWEEPS_MAX = 20
LOG_TAIL_BYTES = 2_000
_TICK_S = 0.05


@dataclass(frozen=True, slots=True)
class Started:
    """A process that was started here: enough to know it again, even where its pid was given to another since."""

    name: str
    pid: int
    created_s: float
    """psutil's create_time, seconds since the epoch."""
    log: str


def start(name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Started:
    """Start `command` in a session of its own, its output in `folder`/logs/`name`.log, and write it down."""
    log = folder / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            list(command),
            cwd=folder,
            env={**os.environ, **environment, MARKER: str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    # It outlives us on purpose; without a returncode its Popen would complain when it is collected.
    threading.Thread(target=process.wait, daemon=True, name=f"wait-{name}").start()
    return note(name, process.pid, folder, log)


def note(name: str, pid: int, folder: Path, log: Path) -> Started:
    """Write down a process that somebody else of ours started. Raises: FederationError when it is gone already."""
    try:
        created_s = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        raise FederationError(
            Code.INTERNAL,
            f"{name} ended at once",
            fault=Fault.FEDERATION,
            hint=f"The end of {log}: {log_tail(log)}",
            metadata={"name": name, "log": str(log)},
        ) from None
    started = Started(name, pid, created_s, str(log))
    path = folder / "run" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"name": name, "pid": pid, "created_s": created_s, "log": str(log)}) + "\n")
    return started


def noted(folder: Path) -> list[Started]:
    """What was written down and still runs, by name."""
    return [started for started in _written(folder) if is_alive(started)]


def ended(folder: Path) -> list[Started]:
    """What was written down and ended by itself, by name."""
    return [started for started in _written(folder) if not is_alive(started)]


def _written(folder: Path) -> list[Started]:
    found = []
    for path in sorted((folder / "run").glob("*.json")):
        try:
            value = json.loads(path.read_text())
            started = Started(value["name"], int(value["pid"]), float(value["created_s"]), value["log"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # half written when the machine stopped: the sweep finds what it spoke of
        found.append(started)
    return found


def is_alive(started: Started) -> bool:
    """Whether it still runs: the same pid and the same start, and not merely waiting to be reaped."""
    try:
        process = psutil.Process(started.pid)
        return abs(process.create_time() - started.created_s) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def marked(folder: Path) -> list[psutil.Process]:
    """Every living process that carries the mark of the federation in `folder`, but for us and those above us."""
    ours = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        if process.pid in ours:
            continue
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARKER) == str(folder):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            continue  # gone meanwhile, or another user's: not ours
    return found


def stop_all(folder: Path, say: Callable[[str], None]) -> int:
    """End everything of the federation in `folder`; how many processes were ended.

    First what was written down, kindly and in an order in which nothing is missed (agents, then the server, then the
    store); then, until nothing is left, whatever carries the mark. Raises: FederationError when something survives.
    """
    ended = 0
    for stage in ("hub-", "serve", "objects", ""):
        members = [each for each in noted(folder) if each.name.startswith(stage)]
        if members:
            say(f"stopping {', '.join(each.name for each in members)}")
            # SIGTERM leaves an agent's runs to their guards, as an update wants it; this asks it to end them too
            kindly = signal.SIGUSR1 if stage == "hub-" else signal.SIGTERM
            ended += _end([psutil.Process(each.pid) for each in members if is_alive(each)], TERM_GRACE_S, kindly)
    for _ in range(SWEEPS_MAX):
        left = marked(folder)
        if not left:
            break
        say("ending what was left: " + ", ".join(sorted({_name(process) for process in left})))
        ended += _end(left, KILL_GRACE_S)
    else:
        raise FederationError(
            Code.INTERNAL,
            f"processes keep appearing: {', '.join(str(process.pid) for process in marked(folder))}",
            fault=Fault.FEDERATION,
            hint="End what starts them, then run `brhub down` again.",
        )
    for path in (folder / "run").glob("*.json"):
        path.unlink(missing_ok=True)
    return ended


def stop_one(folder: Path, name: str) -> None:
    """End one that was written down; harmless when it is gone."""
    _end([psutil.Process(each.pid) for each in noted(folder) if each.name == name and is_alive(each)], TERM_GRACE_S)


def _end(processes: Iterable[psutil.Process], grace_s: float, kindly: signal.Signals = signal.SIGTERM) -> int:
    """`kindly` to each group, KILL to what is left after `grace_s`; how many of `processes` were there."""
    members = [process for process in processes if _runs(process)]
    for sign, wait_s in ((kindly, grace_s), (signal.SIGKILL, KILL_GRACE_S)):
        left = [process for process in members if _runs(process)]
        for process in left:
            _signal(process, sign)
        deadline = time.monotonic() + wait_s
        pause = threading.Event()
        while any(_runs(process) for process in left) and time.monotonic() < deadline:
            pause.wait(_TICK_S)
    return len(members)


def _signal(process: psutil.Process, sign: signal.Signals) -> None:
    try:
        group = os.getpgid(process.pid)
        if group == os.getpgrp():
            process.send_signal(sign)  # it shares our own group: only itself
        else:
            os.killpg(group, sign)
    except (psutil.NoSuchProcess, ProcessLookupError, PermissionError):
        pass  # gone meanwhile; the caller looks again


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _name(process: psutil.Process) -> str:
    try:
        return f"{process.name()} ({process.pid})"
    except psutil.NoSuchProcess:
        return f"({process.pid})"


def log_tail(log: Path | str) -> str:
    """The end of a log, for an error."""
    try:
        data = Path(log).read_bytes()
    except OSError:
        return "(no log)"
    return data[-LOG_TAIL_BYTES:].decode("utf-8", "replace").strip() or "(empty)"
