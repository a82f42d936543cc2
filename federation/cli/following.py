"""`--wait`: follow one job to its end, a line for each change, with the reason while it waits.

Deliberately not here: retries and reconnects (`federation/client`).
"""

from __future__ import annotations

import re
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from federation.cli.session import now_ms
from federation.cli.show import duration, state_of
from federation.cli.tables import readable
from federation.client import TERMINAL
from federation.errors import Code, FederationError

if TYPE_CHECKING:
    from federation.client import Client
    from federation.v1 import common_pb2, job_pb2

FIRST_SLICE_S = 2.0
"""How long a job may wait before it is asked why for the first time."""
SLICE_S = 5.0
"""How often it is asked after that."""
TAIL_LINES = 10
LINE_BYTES_MAX = 16 * 1024
TAIL_S = 5.0
"""How long the end of a log is looked for."""


def follow(client: Client, job_id: str, timeout_s: float | None, say: Callable[[str], None]) -> job_pb2.Job:
    """Follow it until it has ended. Raises: FederationError TIMED_OUT after `timeout_s`."""
    ends_s = None if timeout_s is None else time.monotonic() + timeout_s
    teller = _Teller(say)
    slice_s = FIRST_SLICE_S
    while True:
        left_s = slice_s if ends_s is None else max(0.0, min(slice_s, ends_s - time.monotonic()))
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
        slice_s = SLICE_S
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
    """Why it waits, in one line: with 200 hubs nobody reads 200 reasons, and `job explain` has them all."""
    reasons = list(response.reasons)
    if not reasons:
        return ""
    if all(reason.code == "SHAPE_NEVER_FITS" for reason in reasons):
        return f"fits at no hub ({readable(_commonest(reasons).message)})"
    for reason in reasons:
        if not reason.hub_id:  # the federation's own reason, a quota for example, holds whatever hubs have
            return readable(reason.message)
    nearest = next((each for each in reasons if each.hub_id and each.hub_id == response.earliest_hub_id), None)
    chosen = nearest or _commonest([each for each in reasons if each.code != "SHAPE_NEVER_FITS"])
    return readable(f"{chosen.hub_id}: {chosen.message}")


def _commonest(reasons: list[common_pb2.Reason]) -> common_pb2.Reason:
    """What most hubs say."""
    counts = Counter(reason.message for reason in reasons)
    return max(reasons, key=lambda reason: counts[reason.message])


def log_tail(client: Client, job_id: str) -> list[str]:
    """The last lines of a job's log; none when it cannot be had, or not soon."""
    last: deque[str] = deque(maxlen=TAIL_LINES)
    rest = b""
    began = time.monotonic()
    try:
        for piece in client.logs(job_id):
            *whole, rest = (rest + piece).split(b"\n")
            last.extend(readable(line.decode("utf-8", "replace")) for line in whole[-TAIL_LINES:])
            rest = rest[-LINE_BYTES_MAX:]
            if time.monotonic() - began > TAIL_S:
                return []
    except FederationError:
        return []
    if rest:
        last.append(readable(rest.decode("utf-8", "replace")))
    return list(last)


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
        if state == "FAILED" and job.exit_code and str(job.exit_code) not in re.findall(r"\d+", job.reason.message):
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
        if why and why != self._why:
            self._say(f"QUEUED: {why}; brhub job explain {job_id}")
            self._why = why
