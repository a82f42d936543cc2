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
from pathlib import Path
from random import Random

from tests.support.eventually import eventually
from tests.support.real_facts import gather
from tests.support.real_faults import FAULTS, SILENCE, Aim, Struck, Victim, struck
from tests.support.real_load import Load, lines_of, now_ms, running_at
from tests.support.real_site import HUBS, Site
from tests.support.shortened import KILL_GRACE_MS, LEASE_MS, SKEW_BOUND_MS

CROWD = 6
"""So many runs a hub should have when a fault strikes."""
SETTLED_S = 120.0


@dataclass(frozen=True, slots=True)
class Scene:
    """One fault, where, and whether that hub's agent has just been restarted."""

    fault: str
    hub: str
    restarts: bool
    before_s: float
    lasts_s: float


def drawn(chance: Random, faults: Sequence[str], hubs: Sequence[str] = HUBS) -> list[Scene]:
    """Every one of these faults, twice: once in a steady hour, once while a session opens; in any order, at any hub."""
    wanted = [(fault, restarts) for fault in faults for restarts in (False, True)]
    chance.shuffle(wanted)
    return [
        Scene(
            fault,
            FAULTS[fault].only_at or chance.choice(hubs),
            restarts,
            chance.uniform(0, 0.6),
            chance.uniform(0.5, 2),
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
        for hub in hubs:
            wanted = [wish for wish in self.load.wishes if wish.hub == hub and wish.goes_on]
            for _ in range(CROWD - len(wanted)):
                self._calls.append(self.load.wish(hub, lasts_s=0))

    # ---- a scene ----------------------------------------------------------------------------------------------------
    def play(self, scene: Scene) -> None:
        """Do everything at this hub, and let the fault strike in the middle of it."""
        fault, hub, load = FAULTS[scene.fault], scene.hub, self.load
        self.crowd([hub])
        eventually(lambda: len(self.running(hub)) >= CROWD - 2, SETTLED_S, f"hub {hub} to be at work")
        victims = self.running(hub)
        self.chance.shuffle(victims)
        struck_one, cancelled, finishing, read = (victims * 4)[:4]
        if scene.restarts:
            self.restart(hub)
        self._calls.append(load.wish(hub))
        self.wait(scene.before_s)
        aim = Aim(self.site, hub, struck_one, self.chance)
        if fault.kills_a_run:
            load.wish_of(struck_one.job_id).struck = True
        with struck(fault, aim, now_ms, self.struck):
            self._calls += [load.wish(hub), load.read_log(read, hub), load.cancel(cancelled, hub)]
            load.ring(finishing)
            self.wait(scene.lasts_s)
        if fault.name == "agent-killed":
            self.started.append((hub, self.struck[-1].ended_ms))

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
    def silent(self, hub: str) -> Iterator[None]:
        """Meanwhile the hub is cut off, until its leases are over for certain; of each kind of job it has some."""
        begun = len(self.load.wishes)
        others = [name for name in HUBS if name != hub]
        for on_partition in ("keep", "stop", "rerun", "rerun"):
            allow = [hub, *others] if on_partition == "rerun" else [hub]
            kind = {"on_partition": on_partition, "exit_status": 0, "lasts_s": 0, "allow": allow, "prefer": [hub]}
            self._calls.append(self.load.wish(hub, **kind))
        wishes = self.load.wishes[begun:]
        there = {wish.request_id for wish in wishes}

        def at_work() -> bool:
            found = {self.load.wish_of(one.job_id).request_id for one in self.running(hub)}
            return there <= found

        eventually(at_work, SETTLED_S, f"hub {hub} to run one of each kind")
        cut_s = (LEASE_MS + KILL_GRACE_MS + SKEW_BOUND_MS) / 1000 + 4
        until_s = time.monotonic() + cut_s
        with struck(SILENCE, Aim(self.site, hub, None, self.chance), now_ms, self.struck):
            yield
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
