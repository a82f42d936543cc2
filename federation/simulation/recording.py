"""A history out of what a running federation tells: its hubs' machines as they are offered now, and its jobs.

Names of people become pseudonyms: the same person the same one in every export with the same key, and without the key
nobody can test a guess. Deliberately not here: asking the federation (`federation/cli/simulate.py`) and the file's shape
(`history.py`). A job counts when it has run: one that was never started has no runtime that anybody knows; one that still
runs counts with what it has run so far.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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
    """Jobs that wait, or ended before they were started."""
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
    """The history of `jobs` that came from `since_ms` on, seen at `now_ms`. Without a key people keep their names."""
    made: list[HistoricJob] = []
    never_ran = still_running = 0
    for job in sorted(jobs, key=lambda one: (one.created_ms, one.id)):
        if job.created_ms < since_ms:
            continue
        ran = _ran(job, now_ms)
        if ran is None:
            never_ran += 1
            continue
        still_running += not job.ended_ms
        made.append(_historic(job, ran, len(made) + 1, pseudonym_key))
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


def _ran(job: job_pb2.Job, now_ms: int) -> Recorded | None:
    """The last attempt; None when there was none. Hubs' clocks differ a little: it starts at submission at the earliest."""
    if not job.started_ms or not job.hub_id:
        return None
    start_ms = max(job.started_ms, job.created_ms)
    return Recorded(job.hub_id, start_ms, max(job.ended_ms or now_ms, start_ms + 1))


def _historic(job: job_pb2.Job, ran: Recorded, seq: int, key: bytes | None) -> HistoricJob:
    spec, owner = job.spec, job.owner
    runtime_ms = ran.end_ms - ran.start_ms
    row = QueuedJob(
        job_id=job.id,
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
        submitted_ms=job.created_ms,
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
