"""A history out of what a running federation tells: its hubs' machines as they are offered now, and its jobs.

Names of people become pseudonyms: the same person the same one in every export with the same key, and without the key
nobody can test a guess. Deliberately not here: asking the federation (`federation/cli/simulate.py`) and the file's shape
(`history.py`).

A job counts when it has run: one that was never started has no runtime that anybody knows; one that still runs counts with
what it has run so far. A job that a person retried is a job for each time it was asked for, `ID`, then `ID#2`, `ID#3`, each
submitted when that was: between two of them nobody waited. A job that the federation queued again (preempted, or lost) is
one job; what its earlier attempts ran is `lost`, and no wait.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from federation.domain.hub import Dataset, HubState, LinkState, Node
from federation.domain.ids import AgentId, HubId
from federation.domain.job import Priority
from federation.domain.quantities import CPU, DISK, GPU, MEMORY, Resources, resources
from federation.scheduling.rows import AgentRow, QueuedJob
from federation.simulation.history import History
from federation.simulation.replay import HistoricJob, Recorded
from federation.v1 import common_pb2, hub_pb2, job_pb2

PSEUDONYM_DIGITS = 10
_KEPT = frozenset({CPU, MEMORY, DISK, GPU})


@dataclass(frozen=True, slots=True)
class Recording:
    """A history, and what of the federation's jobs is not in it."""

    history: History
    never_ran: int
    """Jobs that wait, or ended before they were started; each time that one was asked for."""
    still_running: int
    """Jobs that count with what they have run so far."""


def record(
    hubs: Iterable[hub_pb2.Hub],
    jobs: Iterable[job_pb2.Job],
    now_ms: int,
    *,
    since_ms: int = 0,
    pseudonym_key: bytes | None = None,
    policy: Mapping[str, Any] | None = None,
) -> Recording:
    """The history of `jobs` that came from `since_ms` on, seen at `now_ms`. Without a key people keep their names.

    `jobs` tell each of their attempts; one that does not counts as asked for once, with its last attempt.
    """
    made: list[HistoricJob] = []
    never_ran = still_running = 0
    requests = [request for job in jobs for request in _requests(job)]
    for request in sorted(requests, key=lambda one: (one.submit_ms, one.name)):
        if request.submit_ms < since_ms:
            continue
        ran = _ran(request, now_ms)
        if ran is None:
            never_ran += 1
            continue
        still_running += not request.attempts[-1].ended_ms
        made.append(_historic(request, ran, len(made) + 1, pseudonym_key))
    begins_ms = min((job.row.submitted_ms for job in made), default=now_ms - 1)
    history = History(
        begins_ms,
        max(now_ms, begins_ms + 1),
        tuple(sorted((row for hub in hubs for row in _agents(hub)), key=lambda row: row.key)),
        tuple(made),
        policy,
    )
    return Recording(history, never_ran, still_running)


def pseudonym(key: bytes, home_hub: str, subject: str) -> str:
    """The name of a person in an export: HMAC-SHA256 of hub and name, shortened."""
    digest = hmac.new(key, f"{home_hub}/{subject}".encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
    return f"user-{digest[:PSEUDONYM_DIGITS]}"


@dataclass(frozen=True, slots=True)
class _Request:
    """One time that a job was asked for, by its submission or by a retry."""

    job: job_pb2.Job
    name: str
    attempts: tuple[job_pb2.Attempt, ...]
    """In order; one that did not start can only be the last."""

    @property
    def submit_ms(self) -> int:
        return self.attempts[0].queued_ms


def _requests(job: job_pb2.Job) -> Iterable[_Request]:
    told = list(job.each_attempt) or [
        job_pb2.Attempt(
            hub_id=job.hub_id, queued_ms=job.created_ms, started_ms=job.started_ms, ended_ms=job.ended_ms, asked=True
        )
    ]
    begins = [at for at, attempt in enumerate(told) if attempt.asked or at == 0]
    for number, (at, end) in enumerate(pairwise([*begins, len(told)]), 1):
        yield _Request(job, job.id if number == 1 else f"{job.id}#{number}", tuple(told[at:end]))


def _ran(request: _Request, now_ms: int) -> Recorded | None:
    """The last attempt; None when it did not start. Hubs' clocks differ a little: none starts before it was queued."""
    lost_ms = 0
    for attempt, after in pairwise(request.attempts):
        lost_ms += max(0, after.queued_ms - max(attempt.started_ms, attempt.queued_ms))
    last = request.attempts[-1]
    if not last.started_ms or not last.hub_id:
        return None
    start_ms = max(last.started_ms, last.queued_ms)
    lost_ms = min(lost_ms, start_ms - request.submit_ms)
    return Recorded(last.hub_id, start_ms, max(last.ended_ms or now_ms, start_ms + 1), lost_ms)


def _historic(request: _Request, ran: Recorded, seq: int, key: bytes | None) -> HistoricJob:
    spec, owner = request.job.spec, request.job.owner
    runtime_ms = ran.end_ms - ran.start_ms
    row = QueuedJob(
        job_id=request.name,
        seq=seq,
        home_hub=owner.home_hub,
        project=owner.project,
        user=pseudonym(key, owner.home_hub, owner.subject) if key is not None else _printable(owner.subject),
        engine=spec.engine,
        per_task=_resources(spec.demand.per_task),
        replicas=spec.demand.replicas,
        priority=spec.priority or int(Priority.BATCH),
        inputs=tuple((entry.dataset, entry.version) for entry in spec.inputs),
        hubs_allow=tuple(spec.hubs.allow),
        hubs_deny=tuple(spec.hubs.deny),
        hubs_prefer=tuple(spec.hubs.prefer),
        # a run is ended a grace after its limit, so it may have been a little longer
        runtime_limit_ms=max(spec.runtime_limit_ms, runtime_ms),
        preemptible=spec.preemptible,
        submitted_ms=request.submit_ms,
    )
    return HistoricJob(row, runtime_ms, ran)


def _printable(name: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in name)


def _agents(hub: hub_pb2.Hub) -> Iterable[AgentRow]:
    """The hub's agents, as if they were in touch. The wire tells datasets by hub: each of its agents has them here."""
    datasets = tuple(
        Dataset(entry.name, entry.version, entry.size_bytes, entry.policy, readers=tuple(entry.readers))
        for entry in hub.datasets
    )
    for agent in hub.agents:
        yield AgentRow(
            key=(HubId(hub.id), AgentId(agent.agent_id)),
            hub_state=HubState.ACTIVE,
            link=LinkState.ONLINE,
            nodes=tuple(Node(node.name, _resources(node.offered), _resources(node.capacity)) for node in agent.nodes),
            engines=tuple(agent.engines),
            datasets=datasets,
            reclaim_ms=agent.reclaim_ms,
            takes_back=agent.takes_back,
        )


def _resources(of: Iterable[common_pb2.Resource]) -> Resources:
    """Those that jobs can ask for."""
    return resources(*((entry.name, entry.kind, entry.amount) for entry in of if entry.name in _KEPT))
