"""What really happened under real faults: the programs' traces, the store, the journals, and what was called when.

`gather` reads it all once; `operations` says when each operation of each job was under way; `played` says which of them a
fault met. Not here: what must hold of it (`real_promises.py`).
"""

from __future__ import annotations

import datetime as dt
import json
import re
import sqlite3
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federation.domain.job import Job
from federation.domain.lease import Lease
from federation.domain.usage import UsageInterval
from federation.lifecycle.invariants import broken
from federation.ports import JobFilter
from federation.store import open_store
from federation.store.backup import back_up
from tests.support.real_faults import Struck
from tests.support.real_load import Done, Line, Load, lines_of
from tests.support.real_site import HUBS, Site
from tests.support.shortened import LEASE_MS

OPERATIONS = (
    "submit", "place, start", "run", "log read", "cancel", "finish", "checkpoint", "renewal", "session", "retry",
)  # fmt: skip
_SAVED = re.compile(r"^(\S+ \S+) INFO job (\S+): checkpoint \S+ saved", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Event:
    """A row of the store's facts."""

    at_ms: int
    entity_id: str
    type: str
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Facts:
    """See the module."""

    lines: list[Line]
    jobs: dict[str, Job]
    leases: dict[str, Lease]
    usage: dict[str, tuple[UsageInterval, ...]]
    events: dict[str, list[Event]]
    """By job, and by "HUB/main" for agents; oldest first."""
    journals: dict[str, dict[str, str]]
    """Hub -> lease -> how its agent remembers that it ended; empty: it has not."""
    saved: list[tuple[str, int]]
    """(job, when): each checkpoint that an agent was told is kept."""

    def of_attempt(self, job_id: str, attempt: str, what: str) -> list[Line]:
        """What its program wrote down."""
        return [one for one in self.lines if (one.job_id, one.attempt, one.what) == (job_id, attempt, what)]

    def lease_of(self, job_id: str, attempt: str) -> Lease | None:
        """The lease of an attempt."""
        return next((one for one in self.leases.values() if (one.job_id, str(one.epoch)) == (job_id, attempt)), None)


def broken_now(site: Site) -> list[str]:
    """What the lifecycle's invariants say of the store as it is at this moment."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "copy.db")
        back_up(site.store, copy)
        with closing(open_store(f"sqlite:///{copy}")) as store:
            loaded = store.load()
            return broken(loaded.jobs, loaded.leases, {agent.key: agent for agent in loaded.agents})


def gather(site: Site) -> Facts:
    """Read everything, as it is at this moment."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "copy.db")
        back_up(site.store, copy)
        events: dict[str, list[Event]] = defaultdict(list)
        with closing(sqlite3.connect(copy)) as rows:
            for at_ms, entity_id, kind, payload in rows.execute(
                "SELECT at_ms, entity_id, type, payload FROM events WHERE entity IN ('job', 'agent') ORDER BY seq"
            ):
                events[entity_id].append(Event(at_ms, entity_id, kind, json.loads(payload)))
            lease_ids = [lease_id for (lease_id,) in rows.execute("SELECT id FROM leases")]
        with closing(open_store(f"sqlite:///{copy}")) as store:
            jobs = {str(job.id): job for job in store.list_jobs(JobFilter(), 0, 100_000).jobs}
            leases = {one: lease for one in lease_ids if (lease := store.get_lease(one)) is not None}
            usage = {one: store.usage_of(one) for one in leases}
    journals = {hub: _journal(site.state(hub) / "journal.db") for hub in HUBS}
    return Facts(lines_of(site), jobs, leases, usage, dict(events), journals, list(_checkpoints(site)))


def _journal(file: Path) -> dict[str, str]:
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=5)) as rows:
        released = {lease: str(json.loads(body)["outcome"]) for lease, body in rows.execute("SELECT * FROM released")}
        present = {lease: str(outcome) for lease, outcome in rows.execute("SELECT lease_id, outcome FROM runs")}
    return released | present


def _checkpoints(site: Site) -> Iterator[tuple[str, int]]:
    for hub in HUBS:
        for moment, job_id in _SAVED.findall((site.folder / f"{hub}.log").read_text(errors="replace")):
            when = dt.datetime.strptime(moment, "%Y-%m-%d %H:%M:%S,%f").astimezone()
            yield job_id, int(when.timestamp() * 1000)


# ---- operations -----------------------------------------------------------------------------------------------------
def operations(facts: Facts, load: Load, started: Iterable[tuple[str, int]]) -> list[Done]:
    """When each operation was under way: what was called, and what the store and the programs wrote down."""
    found = [done for done in load.done if done.operation in ("submit", "log read", "retry")]
    for job_id, job in facts.jobs.items():
        found += _of_job(facts, job_id, job)
    for done in load.done:
        if done.operation == "cancel":
            over_ms = facts.jobs[done.job_id].ended_ms
            found.append(Done("cancel", done.hub, done.job_id, done.began_ms, max(done.ended_ms, over_ms)))
    for hub, when_ms in started:
        opened = [one.at_ms for one in facts.events.get(f"{hub}/main", ()) if one.type == "SessionOpened"]
        until_ms = min((at_ms for at_ms in opened if at_ms >= when_ms), default=0)
        if until_ms:
            found.append(Done("session", hub, "", when_ms, until_ms))
    return found


def _of_job(facts: Facts, job_id: str, job: Job) -> Iterator[Done]:
    events = facts.events[job_id]
    waits_ms, due_ms = events[0].at_ms, 0
    saved_ms = sorted(at_ms for job, at_ms in facts.saved if job == job_id)
    for event in events:
        attempt = str(event.payload.get("attempt", ""))
        if event.type == "RetryRequested" or event.payload.get("to") == "QUEUED":
            waits_ms = event.at_ms
        if event.type in ("LeaseGranted", "LeaseRestarted", "LeaseRenewed"):
            if event.type == "LeaseRenewed" and due_ms:
                yield Done("renewal", job.hub_id, job_id, min(due_ms, event.at_ms), event.at_ms)
            due_ms = event.at_ms + LEASE_MS // 2
        if event.type != "LeaseGranted":
            continue
        hub = str(event.payload["hub_id"])
        begun, ended = facts.of_attempt(job_id, attempt, "begin"), facts.of_attempt(job_id, attempt, "done")
        if not begun:
            continue
        yield Done("place, start", hub, job_id, waits_ms, begun[0].wall_ms)
        last_ms = max(line.wall_ms for line in facts.lines if (line.job_id, line.attempt) == (job_id, attempt))
        yield Done("run", hub, job_id, begun[0].wall_ms, last_ms)
        for line in facts.of_attempt(job_id, attempt, "saved"):
            kept_ms = min((at_ms for at_ms in saved_ms if at_ms >= line.wall_ms), default=0)
            if kept_ms:
                yield Done("checkpoint", hub, job_id, line.wall_ms, kept_ms)
        if ended:
            told = [one.at_ms for one in events if one.payload.get("attempt") == attempt and "ended_ms" in one.payload]
            yield Done("finish", hub, job_id, ended[0].wall_ms, max(told, default=ended[0].wall_ms))


def played(struck: Iterable[Struck], done: Iterable[Done]) -> dict[tuple[str, str], int]:
    """(operation, fault) -> how many times one met the other."""
    met: dict[tuple[str, str], int] = defaultdict(int)
    everything = list(done)
    for fault in struck:
        for one in everything:
            if fault.touches(one.hub, one.began_ms, one.ended_ms):
                met[one.operation, fault.fault] += 1
    return dict(met)
