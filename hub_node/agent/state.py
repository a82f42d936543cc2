"""The one thread that holds what is true here: orders and facts in, a saved journal, then threads told and links fed.

Each turn takes everything that waits, decides with pure code, saves once, and only then acts and speaks. A full disk
changes nothing: orders are dropped (the control plane repeats them), facts are kept and tried again.
Read next: `hub_node/reconcile.py` for the decisions, `attempt.py` for a run's own walk.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from federation.errors import Code, FederationError
from hub_node import reconcile
from hub_node.admission import Admission
from hub_node.agent import logs
from hub_node.agent.attempt import AttemptThread, Tools
from hub_node.agent.facts import Ended, Fact, Moved, ProgramEnded, Progressed, Started
from hub_node.journal import RUNS_MAX, Journal, Seen
from hub_node.link import Truth
from hub_node.reconcile import Command
from hub_node.records import Orders, Outcome, ReadLogOrder, Reason, Run, RunState
from hub_node.runners.process import boot_id

log = logging.getLogger(__name__)

TICK_S = 1.0
SWEEP_S = 3_600.0
RUNS_GRACE_MS = 3_000
REBOOT_STOP_S = 10.0
_LIVE_STATES = (RunState.ACCEPTED, RunState.STAGING, RunState.RUNNING)


@dataclass(frozen=True, slots=True)
class Wake:
    """Nothing happened; look around."""


class State:
    """See the module. `put` may be called from any thread; everything else belongs to the thread that calls `serve`."""

    def __init__(self, journal: Journal, admission: Admission) -> None:
        self._journal = journal
        self._admission = admission
        self._queue: queue.SimpleQueue[Orders | Fact | Wake] = queue.SimpleQueue()
        self._runs: dict[str, Run] = journal.load()
        self._seen: Seen = journal.seen()
        self._threads: dict[str, AttemptThread] = {}
        self._answers = 0
        self._held: list[Fact] = []
        self._tools: Tools | None = None
        self._chores = ThreadPoolExecutor(4, thread_name_prefix="chore")
        self._quit = threading.Event()
        self._end_runs = threading.Event()
        self._disk_full = False
        self._swept_s = float("-inf")

    def put(self, item: Orders | Fact | Wake) -> None:
        """Something came."""
        self._queue.put(item)

    def quit(self, end_runs: bool = False) -> None:
        """End serving; with `end_runs` end every run before. Safe in a signal handler."""
        if end_runs:
            self._end_runs.set()
        else:
            self._quit.set()
        self._queue.put(Wake())

    @property
    def ended_runs(self) -> bool:
        """Whether serving ended together with all runs."""
        return self._end_runs.is_set()

    def truth(self) -> Truth:
        """What was last saved."""
        return Truth(dict(self._runs), self._seen.revision, self._answers)

    def serve(self, tools: Tools) -> None:
        """Take up what the journal holds, then turn until `quit`. Raises: FederationError when the journal fails."""
        self._tools = tools
        self._end_rebooted()
        self._adopt()
        tools.link.start(self.truth())
        ending_until_s = 0.0
        while not self._quit.is_set():
            self._turn(self._wait())
            if self._end_runs.is_set():
                if not ending_until_s:
                    ending_until_s = time.monotonic() + RUNS_GRACE_MS / 1000 + 20
                    self._stop_all()
                live = [run for run in self._runs.values() if run.state is not RunState.ENDED]
                if not live or time.monotonic() > ending_until_s:
                    break
        for thread in self._threads.values():
            thread.leave()
        live = [run for run in self._runs.values() if run.state is not RunState.ENDED]
        if live:
            log.info("the agent ends; %d runs go on under their guards: %s", len(live), ", ".join(map(_name, live)))
        tools.link.close()
        for thread in self._threads.values():
            thread.join(2)
        self._chores.shutdown(wait=False, cancel_futures=True)

    # ---- the start --------------------------------------------------------------------------------------------------
    def _end_rebooted(self) -> None:
        """Runs of another boot: their processes are gone; an engine that is a service may still have them."""
        assert self._tools is not None
        boot = boot_id()
        gone = [
            run
            for run in self._runs.values()
            if run.state is not RunState.ENDED and run.outcome is Outcome.NONE and run.boot_id not in ("", boot)
        ]
        stops = [self._chores.submit(_stop_leftover, self._tools, run) for run in gone]
        until_s = time.monotonic() + REBOOT_STOP_S
        for stop in stops:
            try:
                stop.result(max(0.1, until_s - time.monotonic()))
            except (FederationError, TimeoutError, OSError, ValueError) as problem:
                log.warning("a leftover run could not be stopped: %s", problem)
        now_ms = _now_ms()
        reason = Reason("REBOOTED", "The machine restarted while it ran.")
        ended = [
            replace(
                run,
                state=RunState.ENDED,
                # a job that may run twice is queued again without blame
                outcome=Outcome.REFUSED if run.lease.work.on_partition == "rerun" else Outcome.FAILED,
                reason=reason,
                exit_code=1,
                ended_ms=now_ms,
            )
            for run in gone
        ]
        if ended:
            self._journal.save(ended)
            self._runs |= {run.lease_id: run for run in ended}
            log.warning("the machine restarted: %d runs ended", len(ended))

    def _adopt(self) -> None:
        live = [run for run in self._runs.values() if run.state is not RunState.ENDED]
        for run in live:
            thread = self._thread(run)
            if run.state is RunState.STOPPING and run.reason is not None:
                thread.stop(run.reason, max(run.stop_grace_ms, RUNS_GRACE_MS))
            thread.start()
        if live:
            log.info("took up %d runs of the agent before: %s", len(live), ", ".join(map(_name, live)))

    def _thread(self, run: Run) -> AttemptThread:
        assert self._tools is not None
        thread = AttemptThread(run, self._tools)
        self._threads[run.lease_id] = thread
        return thread

    # ---- a turn -----------------------------------------------------------------------------------------------------
    def _wait(self) -> list[Orders | Fact | Wake]:
        items: list[Orders | Fact | Wake] = []
        try:
            items.append(self._queue.get(timeout=TICK_S))
            while True:
                items.append(self._queue.get_nowait())
        except queue.Empty:
            return items

    def _turn(self, items: Sequence[Orders | Fact | Wake]) -> None:
        now_ms = _now_ms()
        runs, seen = self._runs, self._seen
        commands: list[Command] = []
        facts, self._held = self._held, []
        answers = 0
        for item in items:
            if isinstance(item, Orders):
                answers += 1
                if reconcile.is_stale(item, seen.incarnation, seen.revision):
                    continue
                seen = Seen(item.incarnation, item.revision)
                found = self._judged(reconcile.reconcile(item, runs, now_ms), runs)
                commands += found
                runs = reconcile.applied(runs, found, now_ms)
            elif not isinstance(item, Wake):
                facts.append(item)
        for fact in facts:
            runs = _with_fact(runs, fact)
        late = reconcile.expired(runs.values(), now_ms)
        runs = reconcile.applied(runs, late, now_ms)
        if self._save(runs, seen):
            self._act([*commands, *late], facts)
        else:
            self._held = facts
        self._answers += answers
        assert self._tools is not None
        self._tools.link.publish(self.truth())
        self._sweep(now_ms)

    def _judged(self, commands: Sequence[Command], runs: dict[str, Run]) -> list[Command]:
        """The commands, each start that admission refuses turned into a refusal."""
        judged: list[Command] = []
        here = dict(runs)
        for command in commands:
            if isinstance(command, reconcile.Start):
                reason = self._admission.refusal(command.lease, here.values())
                if len(here) >= RUNS_MAX:
                    continue  # the journal is at its limit: the order is repeated when releases have come
                if reason is None and self._end_runs.is_set():
                    reason = Reason("HUB_STOPPED", "The hub's agent is being stopped.")
                if reason is not None:
                    log.info("job %s refused: %s", command.lease.job_id, reason.message)
                    command = reconcile.Refuse(command.lease, reason)  # noqa: PLW2901  # the judged one takes its place
                elif command.lease.work.gpu_milli:
                    devices = self._admission.devices_for(command.lease, here.values())
                    command = replace(command, devices=devices)  # noqa: PLW2901  # as above
                here = reconcile.applied(here, (command,), 0)
            judged.append(command)
        return judged

    def _save(self, runs: dict[str, Run], seen: Seen) -> bool:
        """Whether all of it is on the disk; then it is true."""
        changed = [run for lease_id, run in runs.items() if self._runs.get(lease_id) is not run]
        removed = [run for lease_id, run in self._runs.items() if lease_id not in runs]
        if changed or removed:
            try:
                self._journal.save(changed, removed, seen)
            except FederationError as error:
                if error.code is not Code.STORE_FULL:
                    raise
                if not self._disk_full:
                    log.error("%s", error)
                self._disk_full = True
                return False
            self._disk_full = False
        self._runs, self._seen = runs, seen
        return True

    def _act(self, commands: Sequence[Command], facts: Sequence[Fact]) -> None:
        for command in commands:
            match command:
                case reconcile.Start(lease):
                    if self._runs[lease.lease_id].state is not RunState.ENDED:
                        self._thread(self._runs[lease.lease_id]).start()
                case reconcile.Stop(lease_id, reason, grace_ms) if lease_id in self._threads:
                    self._threads[lease_id].stop(reason, grace_ms)
                case reconcile.Extend(lease_id, valid_until_ms) if lease_id in self._threads:
                    self._threads[lease_id].extend(valid_until_ms)
                case reconcile.SendLog(order):
                    self._chores.submit(self._send_log, order)
                case _:
                    pass
        for fact in facts:
            if isinstance(fact, Ended):
                self._threads.pop(fact.lease_id, None)
                run = self._runs.get(fact.lease_id)
                if run is not None:
                    log.info("job %s ended: %s %s", _name(run), run.outcome, run.reason.code if run.reason else "")
                    self._chores.submit(self._tidy, run)

    # ---- chores, on their own threads -------------------------------------------------------------------------------
    def _send_log(self, order: ReadLogOrder) -> None:
        assert self._tools is not None
        runs = self._runs
        ended = not any(
            run.lease.job_id == order.job_id and run.lease.epoch == order.epoch and run.state is not RunState.ENDED
            for run in runs.values()
        )
        try:
            self._tools.link.put_log(order.read_id, logs.piece(self._tools.staging, order, ended))
        except FederationError as error:
            log.info("a log reader was left waiting: %s", error)

    def _tidy(self, run: Run) -> None:
        assert self._tools is not None
        try:
            self._tools.staging.tidy(run.lease.job_id, run.lease.epoch)
        except OSError as problem:
            log.warning("the folder of job %s could not be tidied: %s", run.lease.job_id, problem)

    def _sweep(self, now_ms: int) -> None:
        if time.monotonic() - self._swept_s < SWEEP_S:
            return
        assert self._tools is not None
        self._swept_s = time.monotonic()
        staging = self._tools.staging
        live = {staging.places(run.lease.job_id, run.lease.epoch).folder for run in self._runs.values()}
        self._chores.submit(logs.sweep, staging.state_dir / "attempts", live, now_ms)

    def _stop_all(self) -> None:
        reason = Reason("HUB_STOPPED", "The hub's agent was stopped with its runs.")
        found = [
            reconcile.Stop(run.lease_id, reason, RUNS_GRACE_MS)
            for run in self._runs.values()
            if run.state in _LIVE_STATES
        ]
        if self._save(reconcile.applied(self._runs, found, _now_ms()), self._seen):
            self._act(found, ())


def _with_fact(runs: dict[str, Run], fact: Fact) -> dict[str, Run]:
    """The runs after a fact; facts of forgotten or ended runs change nothing."""
    run = runs.get(fact.lease_id)
    if run is None or run.state is RunState.ENDED:
        return runs
    stopping = run.state is RunState.STOPPING
    after: Run
    match fact:
        case Progressed(_, progress):
            state = RunState.STAGING if run.state is RunState.ACCEPTED else run.state
            after = replace(run, state=state, progress=progress)
        case Started(_, started_ms, runner_state, boot, tracked):
            after = replace(
                run,
                state=run.state if stopping else RunState.RUNNING,
                started_ms=started_ms,
                runner_state=runner_state,
                boot_id=boot,
                tracking_run_id=tracked,
                progress="",
            )
        case Moved(_, runner_state, url):
            after = replace(run, runner_state=runner_state, url=url)
        case ProgramEnded(_, outcome, ended_ms, outputs):
            after = replace(run, outcome=outcome, ended_ms=ended_ms, outputs=outputs)
        case Ended():
            after = replace(
                run,
                state=RunState.ENDED,
                outcome=fact.outcome,
                reason=fact.reason,
                exit_code=fact.exit_code,
                ended_ms=fact.ended_ms,
                progress="",
                url="",
            )
    return {**runs, fact.lease_id: after}


def _stop_leftover(tools: Tools, run: Run) -> None:
    runner = tools.registry.runner(run.lease.work.engine, run.lease.work.entrypoint)
    runner.load_state(run.runner_state)
    runner.stop(0)


def _name(run: Run) -> str:
    return f"{run.lease.job_id}/{run.lease.epoch}"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
