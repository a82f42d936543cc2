"""Faults that really happen to a federation of real processes, by name: signals, dropped packets, a slow proxy, full disks.

Each is a block: it strikes, and heals when the block ends. Not here: when they strike, and whom (`real_play.py`).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from random import Random

from tests.support.namespaces import Way
from tests.support.real_site import BEHIND_PROXY, CONTROL, OBJECTS, Site
from tests.support.spare_processes import fill


@dataclass(frozen=True, slots=True)
class Victim:
    """A running attempt, as its program wrote down that it began."""

    job_id: str
    attempt: str
    pid: int


@dataclass(frozen=True, slots=True)
class Aim:
    """Whom a fault is to hit."""

    site: Site
    hub: str
    victim: Victim | None
    chance: Random


Strike = Callable[[Aim], Iterator[None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind. `at` says what it hits: "hub", "control" or "objects"."""

    name: str
    at: str
    strike: Strike
    kills_a_run: bool = False
    only_at: str = ""
    """The one hub where it can be played."""


@dataclass(slots=True)
class Struck:
    """One that happened: from when to when, at which hub ("" for what all share), and which attempt it ended."""

    fault: str
    hub: str
    began_ms: int
    ended_ms: int = 0
    victim: Victim | None = None

    def touches(self, hub: str, began_ms: int, ended_ms: int) -> bool:
        """Whether something of that hub was under way meanwhile."""
        return self.hub in ("", hub) and began_ms <= self.ended_ms and self.began_ms <= ended_ms


def _killed(name: str) -> Strike:
    def strike(aim: Aim) -> Iterator[None]:
        process = name or aim.hub
        aim.site.kill(process)
        yield
        aim.site.start(process)
        if process == CONTROL:
            aim.site.answers()

    return strike


def _stopped(name: str) -> Strike:
    def strike(aim: Aim) -> Iterator[None]:
        pid = aim.site.pid(name or aim.hub)
        os.kill(pid, signal.SIGSTOP)
        yield
        os.kill(pid, signal.SIGCONT)

    return strike


def _program_killed(aim: Aim) -> Iterator[None]:
    assert aim.victim is not None, "somebody runs there"
    with suppress(ProcessLookupError):
        os.kill(aim.victim.pid, signal.SIGKILL)
    yield


def _guard_killed(aim: Aim) -> Iterator[None]:
    assert aim.victim is not None, "somebody runs there"
    with suppress(ProcessLookupError, LookupError):
        os.kill(aim.site.guard_of(aim.hub, aim.victim.job_id, aim.victim.attempt), signal.SIGKILL)
    yield


def _cut(way: Way) -> Strike:
    def strike(aim: Aim) -> Iterator[None]:
        with aim.site.hosts[aim.hub].cut_off(way):
            yield

    return strike


def _loss(aim: Aim) -> Iterator[None]:
    with aim.site.hosts[aim.hub].lossy(aim.chance.uniform(0.05, 0.2)):
        yield


def _delay(aim: Aim) -> Iterator[None]:
    aim.site.proxy.behave(delay_s=aim.chance.uniform(0.1, 0.5))
    yield
    aim.site.proxy.behave(delay_s=0.0)


def _disk_full(aim: Aim) -> Iterator[None]:
    ballast = fill(aim.site.state(aim.hub).parent)
    yield
    ballast.unlink()


FAULTS: Mapping[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault("plane-killed", "control", _killed(CONTROL)),
        Fault("plane-stopped", "control", _stopped(CONTROL)),
        Fault("agent-killed", "hub", _killed("")),
        Fault("agent-stopped", "hub", _stopped("")),
        Fault("guard-killed", "hub", _guard_killed, kills_a_run=True),
        Fault("program-killed", "hub", _program_killed, kills_a_run=True),
        Fault("cut", "hub", _cut("both")),
        Fault("cut-in", "hub", _cut("in")),
        Fault("cut-out", "hub", _cut("out")),
        Fault("loss", "hub", _loss),
        Fault("delay", "hub", _delay, only_at=BEHIND_PROXY),
        Fault("disk-full", "hub", _disk_full),
        Fault("objects-killed", "objects", _killed(OBJECTS)),
        Fault("objects-stopped", "objects", _stopped(OBJECTS)),
    )
}
SILENCE = Fault("cut past a lease", "hub", _cut("both"))
"""For so long that leases end by it: it is not drawn, it takes a play's longest part."""


@contextmanager
def struck(fault: Fault, aim: Aim, now_ms: Callable[[], int], all_of_them: list[Struck]) -> Iterator[Struck]:
    """The fault strikes, is noted, and heals in the end."""
    hub = aim.hub if fault.at == "hub" else ""
    one = Struck(fault.name, hub, now_ms(), victim=aim.victim if fault.kills_a_run else None)
    all_of_them.append(one)
    try:
        with contextmanager(fault.strike)(aim):
            yield one
    finally:
        one.ended_ms = now_ms()
