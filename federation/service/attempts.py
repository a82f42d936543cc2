"""A job's attempts, one by one, read from its events: how long it waited each time, and what came of it.

The job's row keeps the present attempt only. A lease that ends before the program ran (its hub refused, or was lost) is
part of the wait; a preempted run is not. Deliberately not here: what a wait is worth (`federation/simulation/figures.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from federation.domain.job import Job, JobState
from federation.lifecycle.job import Trigger
from federation.ports import EventRow, Store

EVENTS_READ_MAX = 10_000
"""Of one job; of one with more, the attempts after those are told as one."""
_TERMINAL = frozenset(state.value for state in JobState if state.terminal)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A wait, and the run that ended it."""

    asked: bool
    """By a person: a submission or a retry. Else the federation queued the job again by itself."""
    queued_ms: int
    """When the wait began."""
    started_ms: int = 0
    """When the program first ran, by its hub's clock; 0: it did not."""
    ended_ms: int = 0
    """When it ended; 0: it has not."""
    attempt: str = ""
    hub_id: str = ""


def read_attempts(store: Store, job: Job) -> tuple[Attempt, ...]:
    """The attempts of `job`, oldest first. Any thread."""
    return attempts_of(job, store.events_of("job", job.id, EVENTS_READ_MAX))


def attempts_of(job: Job, events: Sequence[EventRow]) -> tuple[Attempt, ...]:
    """Attempts that started, oldest first, each with its wait; among them the requests and the last that did not.

    `events` are the job's, in order. A wait begins when the job is submitted or retried, or when an attempt that had
    started ends and the job is queued again.
    """
    made = [Attempt(asked=True, queued_ms=job.created_ms)]
    for event in events:
        payload = _payload(event)
        last, after = made[-1], payload.get("to")
        if event.type in (Trigger.LEASE_GRANTED, Trigger.LEASE_ADOPTED):
            last = replace(last, attempt=str(payload.get("attempt", "")), hub_id=str(payload.get("hub_id", "")))
        if not last.started_ms and ("started_ms" in payload or after == JobState.RUNNING):
            last = replace(last, started_ms=_moment(payload, "started_ms", event))
        over = after in _TERMINAL or (after == JobState.QUEUED and bool(last.started_ms))
        if over and not last.ended_ms:
            last = replace(last, ended_ms=_moment(payload, "ended_ms", event))
        made[-1] = last
        if event.type == Trigger.RETRY_REQUESTED:
            made.append(Attempt(asked=True, queued_ms=event.at_ms))
        elif after == JobState.QUEUED and last.started_ms:
            made.append(Attempt(asked=False, queued_ms=event.at_ms))
    if job.started_ms and job.state is not JobState.QUEUED:  # older events say only when that was heard of
        made[-1] = replace(made[-1], started_ms=job.started_ms, hub_id=job.hub_id, attempt=str(job.epoch or ""))
    if job.ended_ms:
        made[-1] = replace(made[-1], ended_ms=job.ended_ms)
    return tuple(one if one.started_ms else replace(one, attempt="", hub_id="") for one in made)


def _payload(event: EventRow) -> Mapping[str, Any]:
    payload = json.loads(event.payload)
    assert isinstance(payload, dict), "the store keeps what `Unit.event` wrote"
    return payload


def _moment(payload: Mapping[str, Any], key: str, event: EventRow) -> int:
    return int(payload.get(key) or event.at_ms)
