"""`--wait`: follow one job to its end, a line for each change, with the reason while it waits.

Deliberately not here: retries and reconnects (`federation/client`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from federation.cli.session import now_ms
from federation.cli.show import duration, state_of
from federation.client import TERMINAL
from federation.errors import Code, FederationError

if TYPE_CHECKING:
    from federation.client import Client
    from federation.v1 import job_pb2

SLICE_S = 5.0
"""How often a job that waits is asked why."""
HUBS_NAMED = 3
REASONS_NAMED = 3


def follow(client: Client, job_id: str, timeout_s: float | None, say: Callable[[str], None]) -> job_pb2.Job:
    """Follow it until it has ended. Raises: FederationError TIMED_OUT after `timeout_s`."""
    ends_s = None if timeout_s is None else time.monotonic() + timeout_s
    teller = _Teller(say)
    while True:
        left_s = SLICE_S if ends_s is None else max(0.0, min(SLICE_S, ends_s - time.monotonic()))
        try:
            for job in client.watch([job_id], left_s):
                teller.tell(job)
                if job.state in TERMINAL:
                    return job
        except FederationError as error:
            if error.code is not Code.TIMED_OUT:
                raise
            if ends_s is not None and time.monotonic() >= ends_s:
                raise _timed_out(job_id, timeout_s or 0.0) from None
        if teller.waits:
            teller.tell_why(client, job_id)


def _timed_out(job_id: str, timeout_s: float) -> FederationError:
    from federation.errors import Fault

    return FederationError(
        Code.TIMED_OUT,
        f"{job_id} had not ended after {duration(int(timeout_s * 1000))}",
        fault=Fault.CALLER,
        hint=f"It goes on: see `brhub job show {job_id}`, or end it with `brhub job cancel {job_id}`.",
        metadata={"job_id": job_id},
    )


def in_short(response: job_pb2.ExplainJobResponse) -> str:
    """The reasons in one line, hubs with the same one together: with 200 hubs nobody reads 200 reasons."""
    hubs_by_reason: dict[str, list[str]] = {}
    for reason in response.reasons:
        hubs_by_reason.setdefault(f"{reason.message} [{reason.code}]", []).append(reason.hub_id or "everywhere")
    groups = sorted(hubs_by_reason.items(), key=lambda group: -len(group[1]))
    parts = [
        ", ".join(hubs[:HUBS_NAMED])
        + (f" and {len(hubs) - HUBS_NAMED} more" if len(hubs) > HUBS_NAMED else "")
        + f": {why}"
        for why, hubs in groups[:REASONS_NAMED]
    ]
    return "; ".join(parts) + (
        f"; and {len(groups) - REASONS_NAMED} other reasons" if len(groups) > REASONS_NAMED else ""
    )


class _Teller:
    """Says each thing once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._told = ""
        self._why = ""
        self._state = ""
        self._since_ms = 0

    @property
    def waits(self) -> bool:
        """Whether the job is in the queue."""
        return self._state == "QUEUED"

    def tell(self, job: job_pb2.Job) -> None:
        """A line, when something that a person would notice has changed."""
        state = state_of(job)
        words = state
        if job.hub_id and state not in ("QUEUED", "CANCELLED"):
            words += f" at {job.hub_id}"
        if job.progress:
            words += f": {job.progress}"
        if job.reason.message and state in ("QUEUED", "FAILED", "CANCELLED", "UNKNOWN"):
            words += f": {job.reason.message} [{job.reason.code}]"
        if state == "FAILED" and job.exit_code:
            words += f" (exit status {job.exit_code})"
        if words == self._told:
            return
        before = ""
        if self._state and self._state != state and self._since_ms:
            before = f"  ({self._state} for {duration(max(0, job.state_since_ms - self._since_ms))})"
        self._say(words + before)
        self._told, self._state, self._since_ms = words, state, job.state_since_ms or now_ms()

    def tell_why(self, client: Client, job_id: str) -> None:
        """Why it waits, when that has changed."""
        try:
            response = client.explain(job_id)
        except FederationError as error:
            why = f"(no reason can be had: {error.message})"
        else:
            why = in_short(response)
        waited = duration(max(0, now_ms() - self._since_ms))
        if why and why != self._why:
            self._say(f"QUEUED for {waited}: {why}")
            self._why = why
