"""The base of every engine whose run is a process: it starts it under `guard.py`, watches it, stops it, finds it again.

An engine overrides `program(attempt)`: which program, where, with which environment. Example:

    class SparkRunner(ProcessRunner):
        def program(self, attempt: Attempt) -> Program:
            return Program(argv=(str(submit), "--master", "local[2]", ...), cwd=attempt.package, env=attempt.variables)

and, where a run can be looked at while it runs, `address()`. Everything else is here: `start` returns in a few
milliseconds (a program that cannot be started shows in `poll` as ENDED, FAILED_TO_START); starting the same attempt folder twice
starts one program, because the guard claims the folder; `save_state` holds no more than the folder and the guard's
identity, and is valid before the guard has said a word. A pid counts only with its start time and its boot.
Deliberately not here: retries, what a run's end means for its job, engines that are services (`ray.py`).
"""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from federation.errors import Code, Fault, FederationError
from hub_node.ports import Attempt, Phase, Status
from hub_node.records import Run
from hub_node.runners import guard
from hub_node.steady import boot_id, boot_time_ms

log = logging.getLogger(__name__)

LOG_BYTES_MAX = 1024**3
MEMORY_SLACK_BYTES = 512 * 1024**2
"""A program is ended OUT_OF_MEMORY past 1.5 times its lease plus this: resident sizes count shared pages twice."""
GUARD_STARTS_WITHIN_S = 30.0
GUARD_CLAIMS_WITHIN_S = 5.0
"""An agent that looks for the guard of one that died waits so long where a guard was, or was about to be, launched."""
OPEN_FILES_MAX = 65_536
"""Past every number that an agent needs; `guard.py` closes what it was handed up to here."""
_OPEN_FILES, _OPEN_FILES_HARD = resource.getrlimit(resource.RLIMIT_NOFILE)
_GUARD_VARIABLES = ("PATH", "BRHUB_FEDERATION_DIR")  # the second marks what an embedded federation started
WORDS = {
    "RUNTIME_LIMIT": "It ran to its runtime limit and was ended.",
    "LEASE_RAN_OUT": "Its lease ran out without renewal and the hub ended it.",
    "OUT_OF_MEMORY": "It used far more memory than its lease holds and was ended.",
    "GUARD_LOST": "Its guard was killed, or could not learn how it ended; what was left of it was ended.",
    "LOG_LIMIT": f"It wrote more than {LOG_BYTES_MAX // 1024**2} MiB of log and was ended.",
}


def raise_open_files() -> None:
    """Let this agent open as many files as it may. Its programs keep the soft limit that it began with: each guard sees to it.

    One that calls select() would break past 1024, and one that closes every number that it may have open would take minutes.
    """
    wanted = min(_OPEN_FILES_HARD, OPEN_FILES_MAX)
    if wanted > _OPEN_FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, _OPEN_FILES_HARD))


@dataclass(frozen=True, slots=True)
class Program:
    """What to start: `argv[0]` is a path, `env` the whole environment."""

    argv: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Identity:
    """One process for good: a pid is used again, its start time in this boot is not."""

    pid: int
    start_ticks: int
    boot_id: str

    def alive(self) -> bool:
        """Whether it still runs; a zombie does not (and is reaped when it is our child). Raises: OSError, as `stat_of`."""
        if self.boot_id != boot_id():
            return False
        try:
            os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            pass  # an earlier process of the agent started it
        found = stat_of(self.pid)
        return found is not None and found[0] not in "ZX" and found[1] in (self.start_ticks, 0)


def stat_of(pid: int) -> tuple[str, int, int] | None:
    """(state, start time in ticks, session) of a process, or None when there is none. Raises: OSError when nobody knows."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rsplit(b")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[0].decode(), int(fields[19]), int(fields[3])


def has_ended(folder: Path) -> bool:
    """Whether a guard has written down how the program of this attempt's folder ended; that outlives a boot."""
    return (folder / "exit.json").exists()


class ProcessRunner:
    """A Runner (`hub_node/ports.py`) for one process under guard. Subclasses say which."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._guard: Identity | None = None
        self._job = ("", "")
        self._launched_s = 0.0
        self._final: Status | None = None

    # ---- for subclasses ---------------------------------------------------------------------------------------------
    def program(self, attempt: Attempt) -> Program:
        """Which program this attempt is. Raises FederationError where the spec asks for something that cannot be."""
        return Program(argv=(attempt.run.lease.work.entrypoint,), cwd=attempt.package, env=attempt.variables)

    def address(self) -> str:
        """Where the run can be looked at while it runs; empty when nowhere."""
        return ""

    def memory_bytes_max(self, attempt: Attempt) -> int:
        """Resident bytes of all its processes past which the guard ends it; 0 for no watch."""
        work = attempt.run.lease.work
        wanted = work.memory_bytes * work.replicas
        return wanted * 3 // 2 + MEMORY_SLACK_BYTES if wanted else 0

    @property
    def folder(self) -> Path:
        """The attempt's folder."""
        assert self._folder is not None, "start or load_state comes first"
        return self._folder

    # ---- the Runner contract ----------------------------------------------------------------------------------------
    def start(self, attempt: Attempt) -> None:
        """Start the program under a guard, or take up the one that this attempt already has."""
        self._folder = attempt.folder
        self._job = (attempt.run.lease.job_id, str(attempt.run.lease.epoch))
        try:
            if self._claimed():
                return
        except OSError as problem:
            raise _cannot_start(problem) from problem
        program = self.program(attempt)
        spec = {
            "folder": str(attempt.folder),
            "argv": [resolved(program.argv[0], program), *program.argv[1:]],
            "cwd": str(program.cwd),
            "env": dict(program.env),
            "log": str(attempt.log),
            "grace_ms": attempt.grace_ms,
            "memory_bytes_max": self.memory_bytes_max(attempt),
            "log_bytes_max": LOG_BYTES_MAX,
        }
        try:
            self._write_deadline(attempt.deadline_ms, attempt.run.lease.valid_until_ms)
            guard.write_json(str(attempt.folder / "guard-spec.json"), spec)
            self._launch(attempt.folder)
        except OSError as problem:
            raise _cannot_start(problem) from problem

    def poll(self) -> Status:
        """RUNNING while the guard lives, then what it wrote; UNKNOWN while neither can be looked at."""
        try:
            return self._final or self._look()
        except OSError:  # no descriptor left, a disk that does not answer: ask again, unknown is not dead
            return Status(Phase.UNKNOWN)

    def _look(self) -> Status:
        self._claimed()
        if self._guard is not None and self._guard.alive():
            return Status(Phase.RUNNING, url=self.address())
        said = guard.read_json(str(self.folder / "exit.json"))
        if said:
            self._final = _status_of(said)
        elif self._guard is None and time.monotonic() - self._launched_s < GUARD_STARTS_WITHIN_S:
            return Status(Phase.RUNNING)  # a guard that has not yet claimed the folder
        elif self._guard is None and not withdraw(self.folder):
            return Status(Phase.RUNNING)  # it came this very moment
        elif self._guard is not None and self._guard.boot_id != boot_id():
            self._final = Status(Phase.ENDED, 1, "REBOOTED", "The machine restarted while it ran.")
        else:
            self._end_orphans()
            self._final = Status(Phase.ENDED, 137, "GUARD_LOST", WORDS["GUARD_LOST"])
        return self._final

    def stop(self, grace_ms: int) -> None:
        """Ask the guard to end it; before `start` there is nothing to ask."""
        if self._folder is None:
            return
        try:
            self._claimed()
            if self._guard is None or not self._guard.alive():
                return
        except OSError:
            return  # nobody knows whom to ask: whoever wanted the end asks again
        try:
            guard.write_json(str(self.folder / "stop.json"), {"grace_ms": grace_ms})
        except OSError:
            pass  # a full disk: the guard then takes the attempt's own grace
        try:
            os.kill(self._guard.pid, signal.SIGTERM)
        except ProcessLookupError:
            pass

    def extend(self, deadline_ms: int, lease_until_ms: int) -> None:
        """New wall-clock deadlines (0: as it was, none); the guard takes them up within a second.

        A runtime limit never moves on: an agent that restarted may believe that the run began later than it did.
        """
        present = guard.number(guard.read_json(str(self.folder / "deadline.json")), "runtime_boot_ms")
        wanted = boot_time_ms(deadline_ms)
        self._write_deadlines(min(filter(None, (present, wanted)), default=0), boot_time_ms(lease_until_ms))

    def save_state(self) -> str:
        """The attempt's folder and, once known, the guard."""
        known = self._guard
        state: dict[str, object] = {"folder": str(self.folder), "job": list(self._job)}
        if known is not None:
            state["guard"] = [known.pid, known.start_ticks, known.boot_id]
        return json.dumps(state)

    def load_state(self, text: str) -> None:
        """Find the run of an earlier process of the agent."""
        state = json.loads(text)
        self._folder = Path(state["folder"])
        self._job = (state["job"][0], state["job"][1])
        if "guard" in state:
            pid, start_ticks, boot = state["guard"]
            self._guard = Identity(pid, start_ticks, boot)
        try:
            self._claimed()
        except OSError:
            pass  # each look asks again

    def take_up(self, run: Run, folder: Path) -> bool:
        """Whether a guard has this attempt. One that was just launched may not have claimed it yet: it is waited for.

        While the folder cannot be looked at nobody knows, and it is asked again for as long as that takes.
        """
        self._folder, self._job = folder, (run.lease.job_id, str(run.lease.epoch))
        until_s = time.monotonic() + GUARD_CLAIMS_WITHIN_S
        while True:
            try:
                _reopen(folder)
                if self._claimed():
                    return True
                if not (folder / "guard-spec.json").exists() or time.monotonic() >= until_s:
                    return False
                pause_s = 0.05
            except OSError as problem:
                log.warning("nobody can say whether job %s was begun: %s", run.lease.job_id, problem)
                pause_s = 1.0
            time.sleep(pause_s)

    # ---- inside -----------------------------------------------------------------------------------------------------
    def _launch(self, folder: Path) -> None:
        errors, boot = str(folder / "guard.err"), boot_id()
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", guard.__file__, str(folder / "guard-spec.json"), str(_OPEN_FILES)],
            {"LANG": "C.UTF-8", **{name: os.environ[name] for name in _GUARD_VARIABLES if name in os.environ}},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            ],
            setsid=True,
            # a stop that comes while the guard's interpreter starts waits there until the guard listens
            setsigmask=[signal.SIGTERM, signal.SIGINT, signal.SIGHUP],
        )
        self._launched_s = time.monotonic()
        try:  # from here on it runs: nothing that fails may say otherwise
            found = stat_of(pid)
        except OSError:
            return  # who it is stands in guard.json before long
        self._guard = Identity(pid, found[1] if found else 0, boot)

    def _claimed(self) -> bool:
        """Whether a guard has claimed the folder; if so it is the one we watch. Raises: OSError when nobody knows."""
        said = guard.read_json(str(self.folder / "guard.json"))
        pid = guard.number(said, "pid")
        if not pid:
            return False
        self._guard = Identity(pid, guard.number(said, "start_ticks"), str(said.get("boot_id", "")))
        return True

    def _write_deadline(self, deadline_ms: int, lease_until_ms: int) -> None:
        self._write_deadlines(boot_time_ms(deadline_ms), boot_time_ms(lease_until_ms))

    def _write_deadlines(self, runtime_boot_ms: int, lease_boot_ms: int) -> None:
        content: guard.Json = {"runtime_boot_ms": runtime_boot_ms, "lease_boot_ms": lease_boot_ms}
        guard.write_json(str(self.folder / "deadline.json"), content)

    def _end_orphans(self) -> None:
        """Only when somebody killed the guard: end its session, and whatever carries the attempt's own variables."""
        job, attempt = self._job
        marks = (f"BRHUB_JOB_ID={job}".encode(), f"BRHUB_ATTEMPT={attempt}".encode())
        known = self._guard
        there = stat_of(known.pid) if known is not None else None
        # a number is given anew only once its whole session is gone: the session of that number is then another's
        ours = known is not None and (there is None or there[1] == known.start_ticks)
        session = known.pid if known is not None and ours else -1
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            found = stat_of(int(entry.name))
            if found is None or found[0] in "ZX":
                continue
            try:
                environment = (entry / "environ").read_bytes().split(b"\0")
            except (PermissionError, FileNotFoundError, ProcessLookupError):
                environment = []
            if found[2] == session or all(mark in environment for mark in marks):
                try:
                    os.kill(int(entry.name), signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    pass


def withdraw(folder: Path) -> bool:
    """Whether no guard begins this attempt any more, not even one that comes late; False where one has it. Raises: OSError."""
    spec = folder / "guard-spec.json"
    if spec.exists() and guard.claim(str(folder), 0):
        spec.write_bytes(b"")  # its secrets go; that it was there the next agent may have to know
        return True
    said = guard.read_json(str(folder / "guard.json"))
    return not said or said.get("pid") == 0


def _reopen(folder: Path) -> None:
    """Take back what an agent withdrew that died before it could tell anybody. Raises: OSError."""
    if guard.read_json(str(folder / "guard.json")).get("pid") == 0:
        (folder / "guard.json").unlink()


def _cannot_start(problem: OSError) -> FederationError:
    return FederationError(
        Code.ENGINE_UNAVAILABLE,
        f"This hub could not start a process: {problem.strerror or problem}.",
        fault=Fault.HUB,
        hint="Look at the agent machine's disk, memory and process limits.",
        metadata={"errno": str(problem.errno)},
    )


def resolved(name: str, program: Program) -> str:
    """The path of a program: absolute, relative to its folder, or a bare name on its PATH."""
    if "/" in name:
        return str(program.cwd / name)
    found = shutil.which(name, path=program.env.get("PATH", os.defpath))
    if found is None:
        raise FederationError(
            Code.TOOL_MISSING,
            f"There is no program {name!r} at this hub.",
            fault=Fault.CALLER,
            hint="Put it into the package and name it by its path there, or ask the hub's operator.",
            metadata={"program": name},
        )
    return found


def _status_of(said: guard.Json) -> Status:
    cause, exit_code = str(said.get("cause", "")), guard.number(said, "exit_code")
    message = str(said.get("message", ""))
    if cause == "exited":
        by = guard.number(said, "signal")
        text = f"A signal ended it ({signal.Signals(by).name})." if by else ""
        return Status(Phase.ENDED, exit_code, "", text)
    if cause == "stopped":
        return Status(Phase.ENDED, exit_code, "STOPPED", "It was asked to end.")
    if cause == "FAILED_TO_START":
        return Status(Phase.ENDED, exit_code, "FAILED_TO_START", f"It could not be started: {message}.")
    return Status(Phase.ENDED, exit_code or 1, cause, WORDS.get(cause, message))
