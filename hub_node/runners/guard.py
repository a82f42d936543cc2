"""A tiny process that holds one program to its deadline and ends all of it, agent or no agent.

Started as `python -I -S guard.py SPECFILE [OPEN_FILES]` (the soft limit for the program). Standard library only, nothing of
ours: it must outlive the agent that started it, whatever becomes of the agent's code. Files, all in the attempt's folder:

    guard-spec.json  read once, then removed: it may hold secrets
    guard.json       made first and exclusively: who guards (pid, start time, boot); a second guard, or one that comes when
                     the agent has given its run up (pid 0), finds it and leaves
    deadline.json    read again whenever it changes: {"runtime_boot_ms", "lease_boot_ms"}, CLOCK_BOOTTIME, 0 for none
    stop.json        {"grace_ms"}, optional; SIGTERM to the guard asks it to end the program
    exit.json        the last thing written, whole or not at all: {"exit_code", "cause", "signal", "message", ...}

Causes: exited, stopped, RUNTIME_LIMIT, LEASE_RAN_OUT, OUT_OF_MEMORY, LOG_LIMIT, FAILED_TO_START, GUARD_LOST (nobody knows).
When the program ends, whatever it left behind ends too, also what called setsid: the guard is the subreaper of all of it.
Memory is watched, not walled: the resident sizes of all descendants, every 2 s (RLIMIT_AS would kill every JVM).
Deliberately not here: starting anything a second time, uploading, talking to anybody. Read next: `process.py`.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import signal
import sys
import threading
import time

TICK_S = 1.0
OVERDUE_TICKS = 3
MEMORY_TICK_MS = 2_000
LEFTOVER_GRACE_MS = 2_000
KILL_ROUNDS_MAX = 200
PR_SET_CHILD_SUBREAPER = 36
_WAKE = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_DEADLINES = (("lease_boot_ms", "LEASE_RAN_OUT"), ("runtime_boot_ms", "RUNTIME_LIMIT"))
Json = dict[str, object]


def boot_ms() -> int:
    """Milliseconds since the machine booted, sleep included: no clock step moves a deadline."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def read_json(path: str) -> Json:
    """What a file says; empty when it is not there or not whole. Raises: OSError when it cannot be looked at just now."""
    try:
        with open(path, encoding="utf-8") as text:  # noqa: PTH123  # pathlib would double this process's start time
            found = json.load(text)
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_json(path: str, content: Json) -> None:
    """Whole or not at all, and on the disk when it returns."""
    partial = path + ".partial"
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        data = json.dumps(content).encode()
        if os.write(descriptor, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # a disk that is nearly full takes a part
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(partial, path)  # noqa: PTH105


def number(content: Json, key: str, default: int = 0) -> int:
    """An integer of a file of ours."""
    value = content.get(key, default)
    return value if isinstance(value, int) else default


def processes() -> dict[int, tuple[int, str, int]]:
    """Every process here: pid -> (parent, state, resident pages)."""
    found = {}
    for name in os.listdir("/proc"):  # noqa: PTH208
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as text:  # noqa: PTH123
                fields = text.read().rsplit(b")", 1)[1].split()
        except (OSError, IndexError):
            continue  # it ended while we looked
        found[int(name)] = (int(fields[1]), fields[0].decode(), int(fields[21]))
    return found


def descendants(table: dict[int, tuple[int, str, int]]) -> list[int]:
    """Everything below this process that still runs, children first."""
    children: dict[int, list[int]] = {}
    for pid, (parent, _, _) in table.items():
        children.setdefault(parent, []).append(pid)
    below, pending = [], [os.getpid()]
    while pending:
        for pid in children.get(pending.pop(), ()):
            pending.append(pid)
            if table[pid][1] not in "ZX":
                below.append(pid)
    return below


def signal_all(pids: list[int], number_of_signal: int) -> None:
    """Tell each; those that are gone already are fine."""
    for pid in pids:
        try:
            os.kill(pid, number_of_signal)
        except ProcessLookupError:
            pass


class Guard:
    """One program and its end."""

    def __init__(self, spec: Json) -> None:
        self.spec = spec
        self.folder = str(spec["folder"])
        self.grace_ms = number(spec, "grace_ms", 10_000)
        self.memory_bytes_max = number(spec, "memory_bytes_max")
        self.log_bytes_max = number(spec, "log_bytes_max")
        self.page_bytes = os.sysconf("SC_PAGE_SIZE")
        self.child = 0
        self.status: int | None = None
        self.cause = ""
        self.kill_at_ms = 0
        self.deadline: Json = {}
        self.deadline_mtime_ns = -1
        self.memory_due_ms = 0

    def path(self, name: str) -> str:
        """A file in the attempt's folder."""
        return f"{self.folder}/{name}"

    def start(self) -> bool:
        """Start the program as the leader of its own process group; False, with exit.json written, when it cannot."""
        self.read_deadline()  # a disk that hangs from here on finds it known
        argv = [str(word) for word in self.spec["argv"]]  # type: ignore[attr-defined]  # JSON of ours
        environment = {str(key): str(text) for key, text in self.spec["env"].items()}  # type: ignore[attr-defined]
        try:
            os.chdir(str(self.spec["cwd"]))
            self.child = os.posix_spawn(
                argv[0],
                argv,
                environment,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, str(self.spec["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setpgroup=0,
                setsigmask=[],
                setsigdef=signal.valid_signals(),  # whatever our own parents ignored, a program begins as in a shell
            )
        except OSError as problem:
            self.finish(127, "FAILED_TO_START", 0, f"{argv[0]}: {problem.strerror or problem}")
            return False
        try:  # when memory runs out the kernel takes the program, not the agent or this guard
            with open(f"/proc/{self.child}/oom_score_adj", "w", encoding="ascii") as score:  # noqa: PTH123
                score.write("300")
        except OSError:
            pass
        threading.Thread(target=self.hold, daemon=True).start()
        return True

    def run(self) -> None:
        """Until the program and everything it started have ended."""
        while not self.reap():
            now_ms = boot_ms()
            if self.cause:
                if now_ms >= self.kill_at_ms:
                    self.kill_everything()
                    continue
            else:
                self.look(now_ms)
            due_ms = self.kill_at_ms if self.cause else self.next_due_ms()
            wait_s = min(TICK_S, max(0.0, (due_ms - boot_ms()) / 1_000)) if due_ms else TICK_S
            woken = signal.sigtimedwait(_WAKE, wait_s)
            if woken is not None and woken.si_signo != signal.SIGCHLD and not self.cause:
                self.begin_end("stopped", self.stop_grace_ms())
        self.end_leftovers()
        code, by_signal = self.exit_code()
        self.finish(code, self.cause or "exited", by_signal, "")

    def look(self, now_ms: int) -> None:
        """Deadlines, memory, log: begin the end when one is passed."""
        self.read_deadline()
        cause = self.passed(now_ms)
        if cause:
            self.begin_end(cause, self.grace_ms)
            return
        try:
            if self.log_bytes_max and os.stat(str(self.spec["log"])).st_size > self.log_bytes_max:  # noqa: PTH116
                self.begin_end("LOG_LIMIT", self.grace_ms)
                return
        except OSError:
            pass  # the program may remove its own log
        if self.memory_bytes_max and now_ms >= self.memory_due_ms:
            self.memory_due_ms = now_ms + MEMORY_TICK_MS
            table = processes()
            resident = sum(table[pid][2] for pid in descendants(table)) * self.page_bytes
            if resident > self.memory_bytes_max:
                self.begin_end("OUT_OF_MEMORY", 0)

    def read_deadline(self) -> None:
        """Take up a changed deadline; a file that cannot be read, or is torn, changes nothing and is read again."""
        try:
            mtime_ns = os.stat(self.path("deadline.json")).st_mtime_ns  # noqa: PTH116
            found = read_json(self.path("deadline.json")) if mtime_ns != self.deadline_mtime_ns else {}
        except OSError:
            return
        if found:
            self.deadline, self.deadline_mtime_ns = found, mtime_ns

    def stop_grace_ms(self) -> int:
        """What somebody who asked for the end gave it; where they could not say, the attempt's own."""
        try:
            return number(read_json(self.path("stop.json")), "grace_ms", self.grace_ms)
        except OSError:
            return self.grace_ms

    def next_due_ms(self) -> int:
        """The nearest deadline; 0 when there is none."""
        due = [number(self.deadline, key) for key, _ in _DEADLINES]
        return min((at for at in due if at > 0), default=0)

    def passed(self, now_ms: int) -> str:
        """The cause of an end whose deadline lies at or before `now_ms`; empty when there is none."""
        return next((cause for key, cause in _DEADLINES if 0 < number(self.deadline, key) <= now_ms), "")

    def hold(self) -> None:
        """On a thread of its own that touches no file of the run: a disk that hangs, and the guard with it, moves no deadline.

        It is seen to be over several times: a guard that did not move for a while first looks whether it was moved on.
        """
        overdue = 0
        while True:
            time.sleep(TICK_S)
            cause = self.passed(boot_ms() - self.grace_ms)
            overdue = overdue + 1 if cause else 0
            if overdue >= OVERDUE_TICKS:
                self.cause = self.cause or cause
                try:
                    if self.status is None:  # nobody has collected it: its number is still its own
                        os.killpg(self.child, signal.SIGKILL)
                    signal_all(descendants(processes()), signal.SIGKILL)
                except OSError:
                    pass  # at the next tick

    def begin_end(self, cause: str, grace_ms: int) -> None:
        """Ask the whole group, once; `kill_at_ms` is when asking is over."""
        self.cause = cause
        now_ms, due_ms = boot_ms(), self.next_due_ms()
        self.kill_at_ms = now_ms + max(0, grace_ms)
        if due_ms:  # a long grace is no right to run past a deadline: somebody else may begin the job soon after
            self.kill_at_ms = min(self.kill_at_ms, max(due_ms, now_ms) + self.grace_ms)
        try:
            os.killpg(self.child, signal.SIGTERM)
        except ProcessLookupError:
            pass

    def kill_everything(self) -> None:
        """SIGKILL to the group and to every descendant, until none is left."""
        for _ in range(KILL_ROUNDS_MAX):
            try:
                os.killpg(self.child, signal.SIGKILL)
            except ProcessLookupError:
                pass
            left = descendants(processes())
            signal_all(left, signal.SIGKILL)
            if self.reap() and not left:
                return
            signal.sigtimedwait((signal.SIGCHLD,), 0.02)
        if self.status is None:
            self.status = signal.SIGKILL  # it hangs in the kernel: said here rather than waited for

    def end_leftovers(self) -> None:
        """The program has ended: what it started and left behind is asked, then killed."""
        left = descendants(processes())
        if not left:
            return
        signal_all(left, signal.SIGTERM)
        until_ms = self.kill_at_ms if self.cause else boot_ms() + LEFTOVER_GRACE_MS
        while descendants(processes()) and boot_ms() < until_ms:
            signal.sigtimedwait((signal.SIGCHLD,), 0.05)
            self.reap()
        self.kill_everything()

    def reap(self) -> bool:
        """Collect every child that ended, adopted ones too; whether the program has."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                if self.status is None:  # somebody else collected it: a success is known, or it is none
                    self.status, self.cause = signal.SIGKILL, self.cause or "GUARD_LOST"
                return True
            if pid == 0:
                return self.status is not None
            if pid == self.child:
                self.status = status

    def exit_code(self) -> tuple[int, int]:
        """(exit status as a shell says it, the signal that ended it or 0)."""
        status = self.status or 0
        if os.WIFSIGNALED(status):
            by = os.WTERMSIG(status)
            return 128 + by, by
        return os.WEXITSTATUS(status), 0

    def finish(self, exit_code: int, cause: str, by_signal: int, message: str) -> None:
        """The last word; a full disk is waited out, since the run's outcome depends on it."""
        content: Json = {
            "exit_code": exit_code,
            "cause": cause,
            "signal": by_signal,
            "message": message,
            "ended_wall_ms": time.time_ns() // 1_000_000,
        }
        for _ in range(3_600):
            try:
                write_json(self.path("exit.json"), content)
                return
            except OSError as problem:
                complain(f"exit.json: {problem}")
                signal.sigtimedwait((signal.SIGCHLD,), 1.0)


def complain(text: str) -> None:
    """A line in guard.err, which lies on the disk that may be full: no reason to end before the last word is written."""
    try:
        os.write(2, f"{text}\n".encode())
    except OSError:
        pass


def claim(folder: str, pid: int) -> bool:
    """Make guard.json exclusively; False when it is there. A `pid` of 0 is an agent's: then no guard begins this attempt."""
    with open("/proc/self/stat", "rb") as text:  # noqa: PTH123
        start_ticks = int(text.read().rsplit(b")", 1)[1].split()[19])
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as text_id:  # noqa: PTH123
        boot_id = text_id.read().strip()
    mine = f"{folder}/guard.json"
    partial = f"{mine}.{os.getpid()}"
    write_json(partial, {"pid": pid, "start_ticks": start_ticks, "boot_id": boot_id})
    try:
        os.link(partial, mine)  # unlike a rename it fails when the name is taken, and the content is whole
    except FileExistsError:
        return False
    finally:
        os.unlink(partial)  # noqa: PTH108
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)  # what began is not forgotten, not even by a power cut: it would begin again elsewhere
    finally:
        os.close(descriptor)
    return True


def main() -> None:
    """Guard the program that the spec file names."""
    os.closerange(3, 65_536)
    if len(sys.argv) > 2:
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]), resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    try:
        os.setsid()
    except OSError:
        pass  # already the leader of a session
    signal.pthread_sigmask(signal.SIG_BLOCK, _WAKE)
    # exec hands on an ignored SIGCHLD (`trap '' CHLD`), and the kernel would then throw every exit status away
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    spec_path = sys.argv[1]
    spec = read_json(spec_path)
    if not spec:
        raise SystemExit(f"{spec_path} is not a guard's spec")
    if not claim(str(spec["folder"]), os.getpid()):
        raise SystemExit(0)
    os.unlink(spec_path)  # noqa: PTH108
    guard = Guard(spec)
    if guard.start():
        guard.run()


if __name__ == "__main__":
    main()
