"""A play of real faults: which one strikes where and when is drawn from a seed, and around each of them all is being done.

The seed gives the same schedule again, not the same history: processes and networks take their own time. Everything that
happened is kept, so that what was really played is read from facts (`real_facts.py`), never from the schedule.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from tests.support.eventually import eventually
from tests.support.real_facts import Facts, gather
from tests.support.real_faults import FAULTS, SILENCE, Aim, Struck, Victim, struck
from tests.support.real_load import Load, Wish, lines_of, now_ms, running_at
from tests.support.real_site import HUBS, Site
from tests.support.shortened import KILL_GRACE_MS, LEASE_MS, SKEW_BOUND_MS

CROWD = 6
"""So many runs a hub should have when a fault strikes."""
SETTLED_S = 120.0
LOGS_READ = 30
RENEWED_S = 1.5 * LEASE_MS / 1000
"""A job that lives on renewals lasts so long, so that at any moment one is due somewhere."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One fault, where, and whether that hub's agent has just been restarted."""

    fault: str
    hub: str
    restarts: bool
    before_s: float
    lasts_s: float


def drawn(chance: Random, faults: Sequence[str], hubs: Sequence[str] = HUBS, longest_s: float = 1.6) -> list[Scene]:
    """Every one of these faults, twice: once in a steady hour, once while a session opens; in any order, at any hub."""
    wanted = [(fault, restarts) for fault in faults for restarts in (False, True)]
    chance.shuffle(wanted)
    return [
        Scene(
            fault,
            FAULTS[fault].only_at or chance.choice(hubs),
            restarts,
            chance.uniform(0, 0.5),
            chance.uniform(0.4, longest_s),
        )
        for fault, restarts in wanted
    ]


class Play:
    """One site's faults and load, while they last."""

    def __init__(self, site: Site, load: Load, seed: int) -> None:
        self.site = site
        self.load = load
        self.struck: list[Struck] = []
        self.started: list[tuple[str, int]] = [(hub, now_ms()) for hub in HUBS]
        """(hub, when): each start of an agent."""
        self.chance = Random(f"play {seed}")
        self._calls: list[Future[None]] = []
        self._pause = threading.Event()

    # ---- the load ---------------------------------------------------------------------------------------------------
    def running(self, hub: str) -> list[Victim]:
        """What truly runs there and is wanted still."""
        wished = {wish.job_id for wish in self.load.wishes if wish.goes_on}
        found = running_at(lines_of(self.site), hub)
        return [one for one in found if one.job_id in wished and Path(f"/proc/{one.pid}").exists()]

    def crowd(self, hubs: Sequence[str] = HUBS) -> None:
        """Enough runs at each of these hubs, or on their way there."""
        over = {line.job_id for line in lines_of(self.site) if line.what in ("term", "end")}  # by their leases, too
        for hub in hubs:
            wanted = [one for one in self.load.wishes if one.hub == hub and one.goes_on and one.job_id not in over]
            for number in range(CROWD - len(wanted)):
                self._calls.append(self.load.wish(hub, lasts_s=0, saves=number % 3 < 2))

    # ---- a scene ----------------------------------------------------------------------------------------------------
    def play(self, scene: Scene, during: Scene | None = None) -> None:
        """Do everything at this hub, and let the fault strike in the middle of it; `during` is played while it lasts."""
        self.crowd([scene.hub, *([during.hub] if during else [])])
        self._at_work(scene.hub)
        if during is not None:
            self._at_work(during.hub)
        self._play(scene, during)

    def _play(self, scene: Scene, during: Scene | None) -> None:
        fault, hub = FAULTS[scene.fault], scene.hub
        victims = self._victims(hub)
        hit = victims[3]
        if scene.restarts:
            self.restart(hub)
        self._calls += [
            self.load.wish(hub), self.load.wish(hub, lasts_s=RENEWED_S, exit_status=0, on_partition="stop")
        ]  # fmt: skip
        self.wait(scene.before_s)
        if fault.kills_a_run:
            self.load.wish_of(hit.job_id).struck = True
        with struck(fault, Aim(self.site, hub, hit, self.chance), now_ms, self.struck) as one:
            self._operate(hub, victims)
            if during is None:
                self.wait(scene.lasts_s)
            else:
                self._play(during, None)
        if fault.name == "agent-killed":
            self.started.append((hub, one.ended_ms))

    def _operate(self, hub: str, victims: Sequence[Victim]) -> None:
        """All that people do, at once."""
        cancelled, finishing, read = victims[:3]
        load = self.load
        self._calls += [load.wish(hub, exit_status=3, lasts_s=0.3), load.read_log(read, hub)]
        self._calls += [load.cancel(cancelled, hub), *self._retried(hub)]
        load.ring(finishing)

    def _victims(self, hub: str) -> list[Victim]:
        """Four that run there, in any order; some of them the same where there are fewer."""
        found = self.running(hub)
        self.chance.shuffle(found)
        assert found, f"nothing runs at {hub}"
        return (found * 4)[:4]

    def _at_work(self, hub: str) -> None:
        def at_work() -> bool:
            self.crowd([hub])
            return len(self.running(hub)) >= CROWD - 2

        eventually(at_work, SETTLED_S, f"hub {hub} to be at work")

    def _retried(self, hub: str) -> list[Future[None]]:
        """One that failed by itself there is to run once more."""
        over = {line.job_id for line in lines_of(self.site) if line.what == "end" and line.hub == hub and line.status}
        failed = [wish for wish in self.load.wishes if wish.job_id in over and not wish.retried]
        return [self.load.retry(self.chance.choice(failed).job_id)] if failed else []

    def restart(self, hub: str) -> None:
        """An operator restarts the hub's agent, and does not wait for it."""
        self.site.kill(hub)
        self.started.append((hub, now_ms()))
        self.site.start(hub)

    def wait(self, seconds: float) -> None:
        """Let it go on for so long."""
        self._pause.wait(seconds)

    # ---- a hub that is silent for longer than its leases ------------------------------------------------------------
    @contextmanager
    def silent(self, hub: str) -> Iterator[Sequence[Wish]]:
        """Meanwhile the hub is cut off, until its leases are over for certain.

        Yields a job that it is to keep, one to stop, and two to run again.
        """
        begun = len(self.load.wishes)
        others = [name for name in HUBS if name != hub]

        def at_work() -> bool:
            wanted = {wish.job_id for wish in self.load.wishes[begun:]}
            return wanted <= {one.job_id for one in running_at(lines_of(self.site), hub)}

        # who may run elsewhere comes last: an agent that was just killed may not have been heard again, and they would
        for kinds, allow in (("keep", "stop"), [hub]), (("rerun", "rerun"), [hub, *others]):
            for on_partition in kinds:
                kind = {"on_partition": on_partition, "exit_status": 0, "lasts_s": 0, "allow": allow, "spared": True}
                self._calls.append(self.load.wish(hub, **kind))
            eventually(at_work, SETTLED_S, f"hub {hub} to run {' and '.join(kinds)}")
        wishes = self.load.wishes[begun:]
        self.crowd([hub])
        self._at_work(hub)
        until_s = time.monotonic() + (LEASE_MS + KILL_GRACE_MS + SKEW_BOUND_MS) / 1000 + 4
        self.restart(hub)
        with struck(SILENCE, Aim(self.site, hub, None, self.chance), now_ms, self.struck):
            self._operate(hub, self._victims(hub))
            yield wishes
            self.wait(max(0.0, until_s - time.monotonic()))

    # ---- the end ----------------------------------------------------------------------------------------------------
    def settle(self) -> None:
        """All is healed: every job ends, what a fault ended runs once more, and nothing is left anywhere."""
        for call in self._calls:
            call.result(SETTLED_S)
        self._calls.clear()
        for wish in self.load.wishes:
            wish.bell.touch()
        eventually(self._all_over, SETTLED_S, "every job to have ended")
        eventually(self._all_told, SETTLED_S, "every agent to have told it, and to have forgotten it")

    def told_truly(self, facts: Facts) -> list[str]:
        """What people are told now that is not what is stored, or not what programs said."""
        wrong = []
        states = self.load.states()
        for job_id, job in facts.jobs.items():
            if states.get(job_id) != str(job.state):
                wrong.append(f"job {job_id} is {job.state} in the store, and people are told {states.get(job_id)}")
        full = [one for one in self.struck if one.fault == "disk-full"]
        for job_id in sorted(facts.jobs)[-LOGS_READ:]:
            job = facts.jobs[job_id]
            lines = [one for one in facts.lines if (one.job_id, one.attempt) == (job_id, str(job.epoch))]
            if not lines or any(one.touches(job.hub_id, lines[0].wall_ms, lines[-1].wall_ms) for one in full):
                continue
            log = eventually(partial(self.load.log_of, job_id), SETTLED_S, f"the log of job {job_id}")
            said = [line for line in log.splitlines() if not line.startswith("brhub: ")]
            meant = ["it runs", *(f"step {line.steps}" for line in lines if line.what == "saved")]
            if said != meant and said != meant[:-1]:  # who is killed may have had no time for a last word
                wrong.append(f"job {job_id} said {meant}, and its log is {said}")
        return wrong

    def _all_over(self) -> bool:
        states = self.load.states()
        for wish in self.load.wishes:
            state = states.get(wish.job_id, "missing")
            if state == "FAILED" and not wish.exit_status and not wish.retried:
                self._calls.append(self.load.retry(wish.job_id))
                raise LookupError(f"job {wish.job_id} runs once more")
            if state not in ("SUCCEEDED", "FAILED", "CANCELLED"):
                raise LookupError(f"job {wish.job_id} of {wish.hub} is {state}")
        return all(call.done() for call in self._calls)

    def _all_told(self) -> bool:
        facts = gather(self.site)
        live = [lease.job_id for lease in facts.leases.values() if lease.live]
        kept = [lease for journal in facts.journals.values() for lease, outcome in journal.items() if outcome == "NONE"]
        assert (live, kept) == ([], [])
        return True
