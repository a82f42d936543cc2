"""One run, from its lease to its stored result, on a thread of its own. It tells facts and changes nothing else.

The same walk serves a new run, one whose agent died while it was prepared (staging and starting twice are harmless), one
that runs already, and one whose result is still to be sent: each step looks at what the journal says is behind it. While
something may run, a failure of ours says nothing of it: it is walked up to again, as by an agent that starts.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from federation.backoff import pause_s
from federation.errors import Code, FederationError
from hub_node import steady
from hub_node.agent.facts import Ended, Fact, Moved, ProgramEnded, Progressed, Started
from hub_node.agent.register import NOT_BEGUN, REBOOTED, rebooted_outcome
from hub_node.config import Saving
from hub_node.data import checkpoints, results, tracking
from hub_node.data.staging import Places, Staging
from hub_node.link import Link
from hub_node.ports import Attempt, Extendable, Phase, Runner, Status
from hub_node.reconcile import TOO_LATE, of_another_boot, stopped_outcome, too_late
from hub_node.records import Outcome, OutputFile, Reason, Run
from hub_node.runners.process import has_ended, withdraw
from hub_node.runners.registry import Registry

log = logging.getLogger(__name__)
T = TypeVar("T")

GRACE_MS = 10_000
ASK_AGAIN_S = 10.0
"""A runner that was asked to end and still runs is asked again this long after its grace."""
POLL_S = ((1.0, 0.02), (10.0, 0.1), (float("inf"), 0.25))
"""(until this age of the run, ask this often)."""
SEND_AGAIN_S, SEND_AGAIN_S_MAX = 1.0, 60.0
LOOK_AGAIN_S, LOOK_AGAIN_S_MAX = 0.25, 30.0
"""A run that could not be looked at, through a failure of ours, is looked at again after this, twice as long each time."""
_TRANSIENT = frozenset(
    {
        Code.UNREACHABLE, Code.TIMED_OUT, Code.STORE_UNAVAILABLE, Code.STORE_FULL, Code.OVERLOADED,
        Code.SESSION_UNKNOWN, Code.SESSION_SUPERSEDED, Code.PERMISSION_DENIED,
    }
)  # fmt: skip
"""While a result is sent these are waited out; PERMISSION_DENIED is a link that ran out, and a new one is asked for."""
_NO_NEXT = frozenset({"CANCEL_REQUESTED", "LEASE_OVER", "SUPERSEDED"})
"""Ends after which nobody would go on from a checkpoint, or after which none is taken."""
SAVE_AFTER_GRACE_S = 15.0
"""The last state of a run that was told to end may take its grace and this long: somebody waits for the room."""
SAVE_AT_END_S = 300.0
"""Of one that ended otherwise."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What every run's thread uses."""

    staging: Staging
    registry: Registry
    link: Link
    hub_id: str
    tell: Callable[[Fact], None]
    saving: Saving = field(default_factory=Saving)


class AttemptThread:
    """See the module."""

    def __init__(self, run: Run, tools: Tools, fresh: bool) -> None:
        """`fresh`: no agent before this one has begun anything of the run."""
        self._thread = threading.Thread(target=self._run_walk, name=f"run-{run.lease.job_id}", daemon=True)
        self._run = run
        self._fresh = fresh
        self._tools = tools
        self._places: Places = tools.staging.places(run.lease.job_id, run.lease.epoch)
        self._wake = threading.Condition()
        self._end: tuple[Reason, int] | None = None
        # an agent that died between its journal and its guard wrote down a renewal that the guard never heard of
        self._extension: int | None = None if fresh else run.lease.valid_until_ms or None
        self._leaving = False
        self._late = False  # a guard that was launched, by the agent before this one too, may still come
        self._runner: Runner | None = None
        self._may_run = not fresh and run.outcome is Outcome.NONE
        """From here on only its runner says that it has ended."""
        self._failures = 0
        """Of ours, in a row, while it may run."""
        self._started_ms = run.started_ms
        self._asked_s = self._told_s = float("-inf")
        staging = tools.staging
        self._keeper = checkpoints.Keeper(run.lease, self._places, tools.link, tools.saving, staging.ca, staging.proxy)
        self._saver = checkpoints.Saver(self._keeper)

    # ---- from the state thread --------------------------------------------------------------------------------------
    def start(self) -> None:
        """Begin the walk."""
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        """Wait for the walk's end, at most so long."""
        self._thread.join(timeout_s)

    def stop(self, reason: Reason, grace_ms: int) -> None:
        """End it. Returns at once."""
        with self._wake:
            self._end = (reason, grace_ms)
            runner = self._runner
            self._asked_s = self._told_s = time.monotonic()
            self._wake.notify_all()
        if reason.code not in _NO_NEXT:
            self._saver.hurry()
        if runner is not None:  # also while `start` blocks: the engine hears of it now
            threading.Thread(target=_ask, args=(runner, grace_ms), daemon=True).start()

    def extend(self, valid_until_ms: int) -> None:
        """The lease holds longer."""
        with self._wake:
            self._extension = valid_until_ms
            self._wake.notify_all()

    def leave(self) -> None:
        """The agent ends: the thread goes, the run stays."""
        with self._wake:
            self._leaving = True
            self._wake.notify_all()

    # ---- the walk ---------------------------------------------------------------------------------------------------
    def _run_walk(self) -> None:
        """Walk, and tell how it ended, whatever happens; while it may run it has not."""
        while not self._leaving:
            try:
                self._walk()
                return
            except Exception as problem:
                if not self._may_run:
                    self._say_failed(problem)
                    return
                log.exception("run %s may go on, and is looked at again", self._run.lease_id)
            self._fresh = False
            self._failures += 1
            seconds = pause_s(self._failures, LOOK_AGAIN_S, LOOK_AGAIN_S_MAX, random.random())
            with self._wake:
                self._wake.wait_for(lambda: self._leaving, seconds)

    def _walk(self) -> None:
        run = self._run
        if run.outcome is not Outcome.NONE:
            self._send_result(run.outputs, run.ended_ms, run.exit_code)
            return
        work = run.lease.work
        if self._fresh and self._end is not None:
            self._say_stopped(143)
            return
        rebooted = of_another_boot(run, steady.boot_id())
        outlived = rebooted and self._tools.registry.elsewhere(work.engine)
        if rebooted and run.runner_state and not outlived and not has_ended(self._places.folder):
            self._conclude(Status(Phase.ENDED, 1, "REBOOTED", REBOOTED.message))
            return
        runner = self._runner or self._tools.registry.runner(work.engine, work.entrypoint)
        self._late = not self._fresh and not run.runner_state
        if run.runner_state:
            if self._runner is None:
                self._found(runner)
        elif not self._fresh and self._began(runner):
            self._took_up(runner)
        elif self._end is not None:
            self._say_stopped(143)
            return
        elif rebooted:
            self._tell_end(Outcome.REFUSED, NOT_BEGUN, 1, steady.now_ms())
            return
        elif not (began := self._start(runner)):
            if began is False and not self._leaving:
                self._say_stopped(143)
            return
        status = self._watch_outlived(runner) if outlived else self._watch(runner)
        if status is not None:
            self._conclude(status)

    def _watch_outlived(self, runner: Runner) -> Status | None:
        """End what another boot of this machine began elsewhere, and wait for its engine's word."""
        with self._wake:
            self._end = self._end or (REBOOTED, GRACE_MS)
            self._asked_s = float("-inf")  # the engine has not heard of it yet
        status = self._watch(runner)
        if status is None:
            return None
        with self._wake:
            why = self._end[0].code
            # a limit that ran out by the clock of another boot says nothing
            if why == REBOOTED.code or stopped_outcome(why, began=True) is Outcome.FAILED:
                self._end = None
        if status.code == "" and status.exit_code == 0:
            return status
        return Status(Phase.ENDED, status.exit_code or 1, REBOOTED.code, REBOOTED.message)

    def _found(self, runner: Runner) -> None:
        """What an earlier agent began, which may have died before it could ask it to end."""
        runner.load_state(self._run.runner_state)
        self._runner = runner
        if self._end is not None:
            runner.stop(max(0, self._end[1] - int((time.monotonic() - self._told_s) * 1000)))

    def _began(self, runner: Runner) -> bool:
        """Whether the engine has it, as it says itself."""
        self._may_run = runner.take_up(self._run, self._places.folder)
        return self._may_run

    def _took_up(self, runner: Runner) -> None:
        """An agent died between the program's start and writing that down: what runs is the run's, whatever is asked of it."""
        log.info("job %s had been begun by an agent that could not say so", self._run.lease.job_id)
        self._started_ms = steady.now_ms()
        self._runner = runner
        self._say_started(runner, tracking.begun(self._places.folder))

    def _say_started(self, runner: Runner, tracked: str) -> None:
        self._late = False
        state, boot = runner.save_state(), self._run.boot_id or steady.boot_id()
        self._run = replace(self._run, started_ms=self._started_ms, runner_state=state, boot_id=boot)
        self._tools.tell(Started(self._run.lease_id, self._started_ms, state, boot, tracked))
        if self._end is not None:
            runner.stop(self._end[1])  # it may have been asked before there was anything to ask

    def _start(self, runner: Runner) -> bool | None:
        """Stage and start; False when it was asked to end before the engine had it, None when it may not start."""
        run, tools = self._run, self._tools
        lease = run.lease
        staged = tools.staging.stage(lease, GRACE_MS, self._progress, self._called_off)
        variables = dict(staged.variables)
        # without this a program takes every GPU that it finds, also those of others; empty: none
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(dict.fromkeys(run.devices))
        if lease.work.tracking:
            variables |= tracking.begin(
                lease,
                tools.hub_id,
                staged.places.folder,
                staged.places.scratch,
                self._progress,
                self._called_off,
            )
        if not self._called_off() and not self._restored():
            return None
        if self._called_off():
            return False
        self._saver.began()
        self._started_ms = started_ms = steady.now_ms()
        run = self._renewed()
        if too_late(lease, run.deadline_ms, started_ms):
            self._refuse_late()
            return None
        deadline_ms = started_ms + lease.work.runtime_limit_ms
        if not lease.valid_until_ms:
            deadline_ms = min(deadline_ms, run.deadline_ms)
        attempt = Attempt(
            run=run,
            folder=staged.places.folder,
            package=staged.places.package,
            output=staged.places.output,
            checkpoint=staged.places.checkpoint,
            log=staged.places.log,
            python=staged.python,
            variables=variables,
            deadline_ms=deadline_ms,
            grace_ms=GRACE_MS,
        )
        self._runner, self._may_run = runner, True
        try:
            runner.start(attempt)
        except FederationError:
            self._may_run = False  # the engine did not take it
            raise
        except Exception:
            self._late = not self._began(runner)
            if self._late:
                raise
            log.exception("run %s was begun all the same", run.lease_id)
        self._say_started(runner, variables.get("MLFLOW_RUN_ID", ""))
        return True

    def _renewed(self) -> Run:
        """The run with what its lease was renewed to while it was prepared."""
        run, until_ms = self._run, self._extension or 0
        if until_ms <= run.deadline_ms:
            return run
        return replace(run, lease=replace(run.lease, valid_until_ms=until_ms), deadline_ms=until_ms)

    def _watch(self, runner: Runner) -> Status | None:
        """Until the engine says that it is over; None when the agent leaves."""
        began_s = time.monotonic()
        while True:
            status = runner.poll()
            if status.phase is Phase.ENDED:
                return status
            state = runner.save_state()
            url = status.url or self._run.url
            if (state, url) != (self._run.runner_state, self._run.url):
                self._run = replace(self._run, runner_state=state, url=url)
                self._tools.tell(Moved(self._run.lease_id, state, url))
            self._saver.look()
            now_s = time.monotonic()
            asked_grace_ms = None
            with self._wake:
                if self._leaving:
                    return None
                if self._end is not None and now_s - self._asked_s >= self._end[1] / 1000 + ASK_AGAIN_S:
                    self._asked_s, asked_grace_ms = now_s, self._end[1]
                else:
                    if self._extension is not None and self._extended(runner, self._extension):
                        self._extension = None
                    self._failures = 0
                    self._wake.wait(next(every_s for age_s, every_s in POLL_S if now_s - began_s < age_s))
            if asked_grace_ms is not None:
                runner.stop(asked_grace_ms)  # without the lock: the agent's one thread wants it, and an engine may hang

    def _extended(self, runner: Runner, valid_until_ms: int) -> bool:
        """Whether the guard knows; where its disk is full it is told again, for the control plane will not say it again."""
        limit_ms = self._started_ms + self._run.lease.work.runtime_limit_ms
        if isinstance(runner, Extendable):
            try:
                runner.extend(limit_ms, valid_until_ms)
            except OSError as problem:
                log.error("the deadline of run %s could not be moved: %s", self._run.lease_id, problem)
                return False
        return True

    def _conclude(self, status: Status) -> None:
        """The program is over: what that means for the run."""
        self._may_run = False
        ended_ms = steady.now_ms()
        if status.code == "" and status.exit_code == 0:
            outputs = self._patiently(lambda: results.collect(self._places.output), 0)
            if outputs is None:
                return
            self._tools.tell(ProgramEnded(self._run.lease_id, Outcome.SUCCEEDED, ended_ms, outputs))
            self._send_result(outputs, ended_ms, 0)
            return
        self._save_last()
        if self._leaving:
            return  # the next agent finds the run as this one did
        if self._end is not None and status.code in ("", "STOPPED", "GUARD_LOST", REBOOTED.code):
            self._say_stopped(status.exit_code)
            return
        if status.code:
            reason = Reason(status.code, status.message or status.code)
        else:
            text = status.message or "Its log has its last words."
            reason = Reason(
                "EXIT_STATUS",
                f"It ended with exit status {status.exit_code}. {text}",
                {"exit_code": str(status.exit_code)},
            )
        outcome = Outcome.STOPPED if status.code == "STOPPED" else Outcome.FAILED
        if status.code == REBOOTED.code:
            outcome = rebooted_outcome(self._run)
        self._tell_end(outcome, reason, status.exit_code, ended_ms)

    def _restored(self) -> bool:
        """What an older attempt left is in the folder, where there is anything; False, and refused, when nobody can say."""
        try:
            checkpoints.restore(self._keeper, self._progress, self._called_off)
        except FederationError as error:
            if self._called_off():
                return True
            text = f"What its last attempt left could not be fetched: {error.message} {error.hint}".strip()
            reason = Reason("CHECKPOINT_UNREACHABLE", text, {"code": error.code.value, **error.metadata})
            self._tell_end(Outcome.REFUSED, reason, 1, steady.now_ms())
            return False
        return True

    def _save_last(self) -> None:
        """The state that a program left which may run again."""
        until_s = time.monotonic() + SAVE_AT_END_S
        if self._end is not None:
            if self._end[0].code in _NO_NEXT:
                return
            until_s = self._told_s + self._end[1] / 1000 + SAVE_AFTER_GRACE_S

        def called_off() -> bool:
            return self._leaving or (self._end is not None and self._end[0].code in _NO_NEXT)

        self._saver.finish(until_s, called_off)

    def _send_result(self, outputs: tuple[OutputFile, ...], ended_ms: int, exit_code: int) -> None:
        """Until the store has it: the link may be down for days, and the result is kept as long."""

        def send() -> bool:
            urls = self._tools.link.result_links(self._run.lease_id, self._run.lease.epoch, outputs)
            staging = self._tools.staging
            results.send(self._places.output, outputs, urls, staging.ca, self._progress, staging.proxy)
            return True

        if not outputs or self._patiently(send, exit_code):
            self._tell_end(Outcome.SUCCEEDED, None, exit_code, ended_ms)

    def _patiently(self, step: Callable[[], T], exit_code: int) -> T | None:
        """What `step` gives, once what it needs is there; None where the agent leaves, or where the run was told as stopped."""
        failures = 0
        while True:
            try:
                return step()
            except FederationError as error:
                if error.code not in _TRANSIENT:
                    raise
                log.info("result of job %s waits: %s", self._run.lease.job_id, error)
            failures += 1
            seconds = pause_s(failures, SEND_AGAIN_S, SEND_AGAIN_S_MAX, random.random())
            with self._wake:
                self._wake.wait_for(lambda: self._leaving or self._end is not None, seconds)
            if self._leaving:
                return None
            if self._end is not None:
                self._say_stopped(exit_code)
                return None

    def _refuse_late(self) -> None:
        reason = Reason(TOO_LATE, "Preparing it took so long that too little of its lease was left.")
        self._tell_end(Outcome.REFUSED, reason, 1, self._started_ms)

    # ---- ends -------------------------------------------------------------------------------------------------------
    def _say_stopped(self, exit_code: int) -> None:
        """It was asked to end and did."""
        assert self._end is not None, "only a run that was asked to end is stopped"
        reason = self._end[0]
        self._tell_end(stopped_outcome(reason.code, self._runner is not None), reason, exit_code, steady.now_ms())

    def _say_failed(self, problem: Exception) -> None:
        """Nothing of it runs. A mistake of ours must not leave a lease without an end either."""
        if not isinstance(problem, FederationError):
            log.error("run %s", self._run.lease_id, exc_info=problem)
            reason = Reason(Code.INTERNAL.value, f"The agent made a mistake: {problem!r}.")
        elif self._leaving:
            return
        elif self._end is not None:
            self._say_stopped(143)
            return
        else:
            text = f"{problem.message} {problem.hint}".strip()
            reason = Reason(problem.code.value, text, dict(problem.metadata))
        self._tell_end(Outcome.FAILED, reason, 1, steady.now_ms())

    def _tell_end(self, outcome: Outcome, reason: Reason | None, exit_code: int, ended_ms: int) -> None:
        if self._late and not self._withdrawn():
            return
        if self._run.lease.work.tracking:
            tracking.end(self._places.folder, outcome)
        self._tools.tell(Ended(self._run.lease_id, outcome, reason, exit_code, ended_ms))

    def _withdrawn(self) -> bool:
        """Whether the end of a run that never began may be told; False, and walked again, where a guard has begun it since."""
        while not self._leaving:
            try:
                if withdraw(self._places.folder):
                    return True
                self._run_walk()
                break
            except OSError as problem:
                log.error("the end of job %s is not told while it may still begin: %s", self._run.lease.job_id, problem)
            with self._wake:
                self._wake.wait_for(lambda: self._leaving, SEND_AGAIN_S)
        return False

    def _progress(self, text: str) -> None:
        self._tools.tell(Progressed(self._run.lease_id, text[:200]))

    def _called_off(self) -> bool:
        return self._end is not None or self._leaving


def _ask(runner: Runner, grace_ms: int) -> None:
    try:
        runner.stop(grace_ms)
    except (FederationError, OSError) as problem:
        log.warning("a runner could not be asked to end: %s", problem)
