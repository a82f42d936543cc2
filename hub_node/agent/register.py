"""What is true at this agent: orders and facts in, one saved change, and what is to be done about it. No threads, no clock.

Each turn takes everything that waits, decides with pure code and saves once; only what is saved is told or acted upon. A
full disk changes nothing: orders are dropped (the control plane repeats them), facts are kept and tried again.
`state.py` turns it in a living agent; the simulator turns it in virtual time. Decisions are `hub_node/reconcile.py`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from federation.errors import Code, FederationError
from hub_node import reconcile
from hub_node.admission import Admission
from hub_node.agent.facts import Ended, Fact, Moved, ProgramEnded, Progressed, Started
from hub_node.conversation import Truth
from hub_node.ports import RUNS_MAX, RunJournal
from hub_node.reconcile import Command, Stop
from hub_node.records import Orders, Outcome, Reason, Run, RunState, Seen

log = logging.getLogger(__name__)

RUNS_GRACE_MS = 3_000
"""What runs get that are ended together with their agent."""
_LIVE_STATES = (RunState.ACCEPTED, RunState.STAGING, RunState.RUNNING)


REBOOTED = Reason("REBOOTED", "The machine restarted while it ran.")
NOT_BEGUN = Reason("REBOOTED", "The machine restarted before it began.")


def rebooted_outcome(run: Run) -> Outcome:
    """How a run ended that was cut off by its machine: a job that may run twice is queued again without blame."""
    return Outcome.REFUSED if run.lease.work.on_partition == "rerun" else Outcome.FAILED


@dataclass(frozen=True, slots=True)
class Turn:
    """What became true in a turn, and is to be acted upon. Empty when it could not be saved."""

    commands: tuple[Command, ...] = ()
    facts: tuple[Fact, ...] = ()


class Register:
    """See the module. Belongs to one thread."""

    def __init__(self, journal: RunJournal, admission: Admission, boot_id: str) -> None:
        self.runs: dict[str, Run] = journal.load()
        self._journal = journal
        self._admission = admission
        self._boot_id = boot_id
        self._seen: Seen = journal.seen()
        self._answers = 0
        self._released: tuple[Run, ...] | None = None
        """While the control plane asks for it: what it had released before."""
        self._held: list[Fact] = []
        self._disk_full = False

    def truth(self) -> Truth:
        """What was last saved."""
        seen = self._seen
        return Truth(dict(self.runs), seen.revision, seen.incarnation, self._answers, seen.store_id, self._released)

    @property
    def live(self) -> list[Run]:
        """Runs that have not ended."""
        return [run for run in self.runs.values() if run.state is not RunState.ENDED]

    def turn(self, items: Sequence[Orders | Fact], now_ms: int, ending: bool = False) -> Turn:
        """Take what came, save, and say what is to be done. `ending`: every start is refused, for this hub stops.

        Raises: FederationError when the journal fails for good.
        """
        runs, seen = self.runs, self._seen
        commands: list[Command] = []
        facts, self._held = self._held, []
        wants_all: bool | None = None
        for item in items:
            if isinstance(item, Orders):
                self._answers += 1
                seen = _of_store(seen, item.store_id)
                if reconcile.is_stale(item, seen.incarnation, seen.revision):
                    continue
                seen = replace(seen, incarnation=item.incarnation, revision=item.revision)
                wants_all = item.send_all
                found = self._judged(reconcile.reconcile(item, runs, now_ms), runs, ending)
                commands += found
                runs = reconcile.applied(runs, found, now_ms)
            else:
                facts.append(item)
        for fact in facts:
            runs = _with_fact(runs, fact)
        late = reconcile.expired(runs.values(), now_ms)
        runs = reconcile.applied(runs, late, now_ms)
        if not self._save(runs, seen):
            self._held = facts
            return Turn()
        if wants_all is not None:  # with what the same orders released
            self._released = self._journal.released() if wants_all else None
        return Turn((*commands, *late), tuple(facts))

    def stop_all(self, now_ms: int) -> Turn:
        """Every run is to end, for the agent does."""
        reason = Reason("HUB_STOPPED", "The hub's agent was stopped with its runs.")
        found = tuple(Stop(run.lease_id, reason, RUNS_GRACE_MS) for run in self.live if run.state in _LIVE_STATES)
        saved = self._save(reconcile.applied(self.runs, found, now_ms), self._seen)
        return Turn(found) if saved else Turn()

    def rebooted(self) -> list[Run]:
        """Runs that began in another boot: their processes are gone; an engine on other machines may still have them."""
        began = [run for run in self.live if run.outcome is Outcome.NONE and run.runner_state]
        return [run for run in began if reconcile.of_another_boot(run, self._boot_id)]

    def end_rebooted(self, gone: Sequence[Run], now_ms: int) -> None:
        """These ended with their machine's boot."""
        ended = [
            replace(
                run,
                state=RunState.ENDED,
                outcome=rebooted_outcome(run),
                reason=REBOOTED,
                exit_code=1,
                ended_ms=now_ms,
            )
            for run in gone
        ]
        if ended:
            self._journal.save(ended)
            self.runs |= {run.lease_id: run for run in ended}
            log.warning("the machine restarted: %d runs ended", len(ended))

    def _judged(self, commands: Sequence[Command], runs: dict[str, Run], ending: bool) -> list[Command]:
        """The commands, each start that admission refuses turned into a refusal."""
        judged: list[Command] = []
        here = dict(runs)
        for command in commands:
            if isinstance(command, reconcile.Start):
                reason = self._admission.refusal(command.lease, here.values())
                if len(here) >= RUNS_MAX:
                    continue  # the journal is at its limit: the order is repeated when releases have come
                if reason is None and ending:
                    reason = Reason("HUB_STOPPED", "The hub's agent is being stopped.")
                if reason is not None:
                    log.info("job %s refused: %s", command.lease.job_id, reason.message)
                    command = reconcile.Refuse(command.lease, reason)  # noqa: PLW2901  # the judged one takes its place
                else:
                    gpus = command.lease.work.gpu_milli
                    devices = self._admission.devices_for(command.lease, here.values()) if gpus else ()
                    command = replace(command, devices=devices, boot_id=self._boot_id)  # noqa: PLW2901  # as above
                here = reconcile.applied(here, (command,), 0)
            judged.append(command)
        return judged

    def _save(self, runs: dict[str, Run], seen: Seen) -> bool:
        """Whether all of it is on the disk; then it is true."""
        changed = [run for lease_id, run in runs.items() if self.runs.get(lease_id) is not run]
        removed = [run for lease_id, run in self.runs.items() if lease_id not in runs]
        belongs = (seen.store_id, seen.incarnation) != (self._seen.store_id, self._seen.incarnation)
        if changed or removed or belongs:  # an older control plane is not to be heard again after a restart either
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
        self.runs, self._seen = runs, seen
        return True


def _of_store(seen: Seen, store_id: str) -> Seen:
    """What was carried out before, of the store that speaks now; of another one nothing was."""
    if store_id in ("", seen.store_id):
        return seen
    if not seen.store_id:
        return replace(seen, store_id=store_id)  # it was there before stores had names
    log.warning("this agent belongs to the store %s from now on; before it was %s", store_id, seen.store_id)
    return Seen(store_id=store_id)


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
