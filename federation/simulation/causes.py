"""Every end has its cause: what the control plane writes down of an attempt, held against what became of its program.

A job fails by its program, its machine or its lease; it is cancelled by its owner; it waits again where it made room, said
that it may run twice, or was never begun. Nothing is over for its lease's sake before that is over for certain. Each
sentence that comes back is a broken promise. Deliberately not here: two runs at once, room, what is lost (`promises.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from federation.domain.job import Job, JobState, OnPartition
from federation.domain.lease import KILL_GRACE_MS, LEASE_RAN_OUT, PREEMPTED, SKEW_BOUND_MS
from federation.lifecycle.job import Trigger
from federation.ports import EventRow
from federation.service.world import Unit
from federation.simulation.machine import Program
from federation.simulation.people import People

SLACK_MS = 5_000
"""For ticks, polls and drift, where a promise is about a length of time."""
_ENDS = frozenset(
    {
        Trigger.RUN_SUCCEEDED,
        Trigger.RUN_FAILED,
        Trigger.RUN_STOPPED,
        Trigger.RUN_REFUSED,
        Trigger.RUN_ABSENT,
        Trigger.LEASE_EXPIRED,
        Trigger.CANCEL_REQUESTED,
    }
)
_BY_ITSELF = frozenset({"POWER", "OUT_OF_MEMORY", "RUNTIME_LIMIT"})
Attempt = tuple[str, str]
"""(job, "<incarnation>-<n>")."""


class Causes:
    """See the module. `begun` is whatever truly began, `ends` when the control plane takes each lease for over (true time)."""

    def __init__(self, people: People, begun: Mapping[Attempt, Program], ends: Mapping[str, int]) -> None:
        self._people = people
        self._begun = begun
        self._ends = ends
        self._preempted: set[Attempt] = set()
        self._lease_of: dict[Attempt, str] = {}

    def broken(self, unit: Unit, now_ms: int) -> Iterator[str]:
        """What of a batch that was saved at that moment (true time) has no cause."""
        for lease in unit.leases.values():
            self._lease_of[lease.job_id, str(lease.epoch)] = lease.id
        for event in unit.events:
            if event.entity != "job":
                continue
            if event.type == Trigger.PREEMPT_REQUESTED:
                self._preempted.add((event.entity_id, json.loads(event.payload)["attempt"]))
            elif event.type in _ENDS:
                job = unit.jobs[event.entity_id]  # type: ignore[index]  # an id is text
                why = self._why_not(job, event, now_ms)
                if why:
                    yield f"job {job.id}: {event.type} {event.payload} {why}"

    def _why_not(self, job: Job, event: EventRow, now_ms: int) -> str:
        """Why this cannot be; empty when it can."""
        told = json.loads(event.payload)
        attempt = (str(job.id), told.get("attempt", ""))
        if event.type == Trigger.LEASE_EXPIRED:
            late_ms = now_ms - self._ends[self._lease_of[attempt]] - KILL_GRACE_MS - SKEW_BOUND_MS
            if late_ms < -SLACK_MS:
                return f"{-late_ms} ms before its lease is over for certain"
        if told["from"] == told["to"]:
            return ""
        program, code = self._begun.get(attempt), told.get("code", "")
        by_time = event.type == Trigger.LEASE_EXPIRED
        match JobState(told["to"]):
            case JobState.CANCELLED:
                wish = self._people.by_job.get(str(job.id))
                asked = wish is None or wish.cancelled or code == "RESTORED"  # its request has another job, which runs
                return "" if asked else "and nobody asked"
            case JobState.FAILED if by_time:
                return "" if job.spec.on_partition is OnPartition.STOP else "and it did not say `stop`"
            case JobState.FAILED if program is not None:
                return _why_not_failed(job, program)
            case JobState.FAILED:
                quiet = code == LEASE_RAN_OUT and job.spec.on_partition is not OnPartition.KEEP
                return "" if quiet or code == "REBOOTED" else "and never began"
            case JobState.QUEUED if by_time:
                return "" if _again(job) or job.spec.idempotent else "and may not run twice"
            case JobState.QUEUED if program is not None:
                if program.cause == "exited" and program.exit_code == 0:
                    return "and it had ended well"
                made_room = attempt in self._preempted or PREEMPTED in (code, program.why)
                return "" if _again(job) or made_room else "and it had begun, and may not run twice"
            case _:
                return ""


def _again(job: Job) -> bool:
    return job.spec.on_partition is OnPartition.RERUN


def _why_not_failed(job: Job, program: Program) -> str:
    ended = f"and its program ended by {program.cause or 'nothing'} {program.exit_code} {program.why}".rstrip()
    match program.cause:
        case "exited":
            return "" if program.exit_code != 0 else ended
        case "LEASE_RAN_OUT":
            return ended if _again(job) else ""
        case "stopped":
            return "" if program.why in ("RUNTIME_LIMIT", LEASE_RAN_OUT) and not _again(job) else ended
        case cause:
            return "" if cause in _BY_ITSELF else ended
