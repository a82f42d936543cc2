"""A hub's machine in virtual time: programs under guards, a clock that may be set, power that may fail.

It stands for `hub_node/runners/process.py` and `guard.py`, which are real processes and cannot run in virtual time: a
program outlives its agent; the guard holds the runtime limit and the lease on CLOCK_BOOTTIME, asks, then kills; a second
start of one attempt finds the first; what a program ended with stays on the disk. A program's own fate is in its
arguments: how long it works, its exit status, and whether it hears SIGTERM.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from federation.clocks import SteadyClock
from federation.simulation.stage import Life, LocalClock, Stage
from hub_node.ports import Phase, Status
from hub_node.records import Run

GUARD_GRACE_MS = 10_000
STOP_MS_MAX = 1_500.0
"""A program that hears SIGTERM is gone after this at most."""


class Witness(Protocol):
    """Who is told what truly runs, whatever anybody believes."""

    def began(self, program: Program) -> None:
        """It runs."""

    def held(self, program: Program, longest_ms: float) -> None:
        """Its guard was told to end it with its lease, in `longest_ms` of true time."""

    def asked(self, program: Program, cause: str, grace_ms: int) -> None:
        """It was told to end, for `cause`; it may take its grace to do so."""

    def ended(self, program: Program) -> None:
        """It runs no more; `program.cause` says why."""


@dataclass(slots=True, eq=False)
class Program:
    """One attempt's program, its guard, and what they leave on the disk."""

    run: Run
    machine: str
    boot: str
    began_ms: int
    """True time."""
    deaf: bool
    """It does not hear SIGTERM."""
    runtime_boot_ms: int = 0
    lease_boot_ms: int = 0
    life: Life = field(default_factory=Life)
    cause: str = ""
    """Empty while it runs; then as `guard.py` has it, or POWER."""
    exit_code: int = 0
    asked: bool = False
    """Whether it was told to end."""
    why: str = ""
    """The code of who had it stopped."""
    heard: Callable[[], None] | None = None
    """The agent's ear; gone with the agent."""

    @property
    def key(self) -> tuple[str, str]:
        """(job, attempt)."""
        return (self.run.lease.job_id, str(self.run.lease.epoch))


class Machine:
    """See the module."""

    def __init__(self, stage: Stage, name: str, clock: LocalClock, witness: Witness) -> None:
        self.name = name
        self.clock = clock
        self.steady = SteadyClock(clock.now_ms, clock.boot_ms)
        """What the agents of this boot go by: see `hub_node/steady.py`."""
        self.powered = True
        self._stage = stage
        self._witness = witness
        self._boots = 1
        self._programs: dict[tuple[str, str], Program] = {}
        self.silent_until_ms = 0
        """True time until which no runner can be asked anything."""

    @property
    def boot_id(self) -> str:
        """This boot."""
        return f"{self.name}-boot-{self._boots}"

    def start(self, run: Run, deadline_ms: int) -> Program:
        """The attempt's program, begun now unless it was begun before. `deadline_ms` by the machine's steady clock."""
        key = (run.lease.job_id, str(run.lease.epoch))
        present = self._programs.get(key)
        if present is not None:
            return present
        work_ms, exit_code, deaf = (int(word) for word in run.lease.work.arguments)
        program = Program(run, self.name, self.boot_id, self._stage.now_ms, bool(deaf))
        self._programs[key] = program
        self._stage.tell(self.name, f"runs {key[0]} {key[1]}")
        self.extend(program, deadline_ms, run.lease.valid_until_ms)
        self._witness.began(program)
        self._stage.after(work_ms, lambda: self._end(program, "exited", exit_code), program.life)
        return program

    def find(self, run: Run) -> Program | None:
        """What the attempt's folder says."""
        return self._programs.get((run.lease.job_id, str(run.lease.epoch)))

    def extend(self, program: Program, runtime_ms: int, lease_ms: int) -> None:
        """New deadlines by the steady clock; the guard holds them on CLOCK_BOOTTIME, and a runtime limit never moves on."""
        if program.cause:
            return  # and its guard with it
        wanted = self._on_boot_clock(runtime_ms)
        program.runtime_boot_ms = min(program.runtime_boot_ms or wanted, wanted)
        program.lease_boot_ms = self._on_boot_clock(lease_ms)
        if program.lease_boot_ms:
            self._witness.held(program, self.clock.until_boot_ms(program.lease_boot_ms))
        self._watch(program)

    def stop(self, program: Program, grace_ms: int, why: str) -> None:
        """SIGTERM, and after the grace SIGKILL. `why` is the code of who asks."""
        program.why = program.why or why
        self._ask(program, "stopped", grace_ms)

    def status(self, run: Run) -> Status:
        """What the runner of this attempt would say."""
        if self._stage.now_ms < self.silent_until_ms:
            return Status(Phase.UNKNOWN)
        program = self.find(run)
        if program is None:
            return Status(Phase.ENDED, 1, "GUARD_LOST", "Nothing is known of it.")
        if not program.cause:
            return Status(Phase.RUNNING)
        if program.boot != self.boot_id and program.cause == "POWER":
            return Status(Phase.ENDED, 1, "REBOOTED", "The machine restarted while it ran.")
        code = {"stopped": "STOPPED", "exited": ""}.get(program.cause, program.cause)
        return Status(Phase.ENDED, program.exit_code, code, program.cause)

    def forget(self, run: Run) -> None:
        """The attempt's folder is removed."""
        program = self.find(run)
        if program is not None and program.cause:
            del self._programs[program.key]

    def lose_power(self) -> None:
        """Everything here ends at once."""
        self.powered = False
        self._stage.tell(self.name, "loses power")
        for program in self._programs.values():
            if not program.cause:
                self._end(program, "POWER", 137)

    def boot(self) -> None:
        """Power is back."""
        self.powered = True
        self._boots += 1
        self.clock.reboot()
        self.steady = SteadyClock(self.clock.now_ms, self.clock.boot_ms)
        self._stage.tell(self.name, "boots")

    def kill(self, program: Program) -> None:
        """The kernel takes the program: out of memory, a fault of its own."""
        self._end(program, "OUT_OF_MEMORY", 137)

    @property
    def running(self) -> list[Program]:
        """What truly runs here."""
        return [program for program in self._programs.values() if not program.cause]

    def _on_boot_clock(self, moment_ms: int) -> int:
        return max(1, self.clock.boot_ms() + moment_ms - self.steady.now_ms()) if moment_ms > 0 else 0

    def _watch(self, program: Program) -> None:
        for due_ms, cause in ((program.lease_boot_ms, "LEASE_RAN_OUT"), (program.runtime_boot_ms, "RUNTIME_LIMIT")):
            if due_ms:
                self._stage.after(self.clock.until_boot_ms(due_ms), partial(self._due, program, cause), program.life)

    def _due(self, program: Program, cause: str) -> None:
        """A deadline may have come: it may also have been moved since."""
        due_ms = program.lease_boot_ms if cause == "LEASE_RAN_OUT" else program.runtime_boot_ms
        if self.clock.boot_ms() >= due_ms:
            self._ask(program, cause, GUARD_GRACE_MS)
        else:
            self._stage.after(self.clock.until_boot_ms(due_ms) + 1, partial(self._due, program, cause), program.life)

    def _ask(self, program: Program, cause: str, grace_ms: int) -> None:
        if program.cause or program.asked:
            return
        program.asked = True
        self._witness.asked(program, cause, grace_ms)
        now_ms = self.clock.boot_ms()
        due_ms = min(filter(None, (program.lease_boot_ms, program.runtime_boot_ms)), default=now_ms + grace_ms)
        grace_ms = min(grace_ms, max(due_ms - now_ms, 0) + GUARD_GRACE_MS)
        self._stage.tell(self.name, f"asks {program.key[0]} to end: {cause}")
        delay_ms = grace_ms if program.deaf else min(grace_ms, self._stage.chance.random() * STOP_MS_MAX)
        self._stage.after(delay_ms, lambda: self._end(program, cause, 143), program.life)

    def _end(self, program: Program, cause: str, exit_code: int) -> None:
        program.cause, program.exit_code = cause, exit_code
        program.life.alive = False
        self._stage.tell(self.name, f"ended {program.key[0]} {program.key[1]}: {cause} {exit_code}")
        self._witness.ended(program)
        if program.heard is not None:
            program.heard()
