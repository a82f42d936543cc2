"""The one thread that turns the register: what waits goes in, then runs' threads are told and the link is fed.

Read next: `register.py` for what a turn is, `attempt.py` for a run's own walk.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from federation.errors import FederationError
from hub_node import reconcile, steady
from hub_node.admission import Admission
from hub_node.agent import logs
from hub_node.agent.attempt import AttemptThread, Tools
from hub_node.agent.facts import Ended, Fact
from hub_node.agent.register import RUNS_GRACE_MS, Register, Turn
from hub_node.conversation import Truth
from hub_node.data import checkpoints
from hub_node.ports import RunJournal
from hub_node.records import Orders, ReadLogOrder, Run, RunState
from hub_node.runners.process import has_ended

log = logging.getLogger(__name__)

TICK_S = 1.0
SWEEP_S = 3_600.0


@dataclass(frozen=True, slots=True)
class Wake:
    """Nothing happened; look around."""


class State:
    """See the module. `put` may be called from any thread; everything else belongs to the thread that calls `serve`."""

    def __init__(self, journal: RunJournal, admission: Admission) -> None:
        self._register = Register(journal, admission, steady.boot_id())
        self._queue: queue.SimpleQueue[Orders | Fact | Wake] = queue.SimpleQueue()
        self._threads: dict[str, AttemptThread] = {}
        self._tools: Tools | None = None
        self._chores = ThreadPoolExecutor(4, thread_name_prefix="chore")
        self._quit = threading.Event()
        self._end_runs = threading.Event()
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
        return self._register.truth()

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
                    self._act(self._register.stop_all(steady.now_ms()))
                if not self._register.live or time.monotonic() > ending_until_s:
                    break
        for thread in self._threads.values():
            thread.leave()
        live = self._register.live
        if live:
            log.info("the agent ends; %d runs go on under their guards: %s", len(live), ", ".join(map(_name, live)))
        tools.link.close()
        for thread in self._threads.values():
            thread.join(2)
        self._chores.shutdown(wait=False, cancel_futures=True)

    # ---- the start --------------------------------------------------------------------------------------------------
    def _end_rebooted(self) -> None:
        """Count what ran here in another boot as over.

        One that left a checkpoint ends by its own thread, which saves that first; likewise one whose program had ended before,
        as that did; and one on other machines, once its engine says that it is over.
        """
        assert self._tools is not None
        tools = self._tools

        def has_more_to_say(run: Run) -> bool:
            places = tools.staging.places(run.lease.job_id, run.lease.epoch)
            on_its_disk = has_ended(places.folder) or checkpoints.left_something(places)
            return on_its_disk or tools.registry.elsewhere(run.lease.work.engine)

        gone = [run for run in self._register.rebooted() if not has_more_to_say(run)]
        self._register.end_rebooted(gone, steady.now_ms())

    def _adopt(self) -> None:
        live = self._register.live
        for run in live:
            thread = self._thread(run, fresh=False)
            if run.state is RunState.STOPPING and run.reason is not None:
                thread.stop(run.reason, max(run.stop_grace_ms, RUNS_GRACE_MS))
            thread.start()
        if live:
            log.info("took up %d runs of the agent before: %s", len(live), ", ".join(map(_name, live)))

    def _thread(self, run: Run, fresh: bool) -> AttemptThread:
        assert self._tools is not None
        thread = AttemptThread(run, self._tools, fresh)
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
        now_ms = steady.now_ms()
        came = [item for item in items if not isinstance(item, Wake)]
        turn = self._register.turn(came, now_ms, ending=self._end_runs.is_set())
        self._act(turn)
        assert self._tools is not None
        self._tools.link.publish(self.truth())
        self._sweep(now_ms)

    def _act(self, turn: Turn) -> None:
        runs = self._register.runs
        for command in turn.commands:
            match command:
                case reconcile.Start(lease):
                    if runs[lease.lease_id].state is not RunState.ENDED:
                        self._thread(runs[lease.lease_id], fresh=True).start()
                case reconcile.Stop(lease_id, reason, grace_ms) if lease_id in self._threads:
                    self._threads[lease_id].stop(reason, grace_ms)
                case reconcile.Extend(lease_id, valid_until_ms) if lease_id in self._threads:
                    self._threads[lease_id].extend(valid_until_ms)
                case reconcile.SendLog(order):
                    self._chores.submit(self._send_log, order)
                case _:
                    pass
        for fact in turn.facts:
            if isinstance(fact, Ended):
                self._threads.pop(fact.lease_id, None)
                run = runs.get(fact.lease_id)
                if run is not None:
                    log.info("job %s ended: %s %s", _name(run), run.outcome, run.reason.code if run.reason else "")
                    self._chores.submit(self._tidy, run)

    # ---- chores, on their own threads -------------------------------------------------------------------------------
    def _send_log(self, order: ReadLogOrder) -> None:
        assert self._tools is not None
        runs = self._register.runs
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
        live = {staging.places(run.lease.job_id, run.lease.epoch).folder for run in self._register.runs.values()}
        self._chores.submit(logs.sweep, staging.state_dir / "attempts", live, now_ms)


def _name(run: Run) -> str:
    return f"{run.lease.job_id}/{run.lease.epoch}"
