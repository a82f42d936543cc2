"""The bookkeeping of a watch that outlives its connections: what was seen, and when to stop trying.

Pure: times are arguments. Both clients use it; what differs is only how they wait.
"""

from __future__ import annotations

from federation.backoff import Rounds
from federation.client.transport import Patience, is_retried, moves_on
from federation.errors import Code, Fault, FederationError
from federation.v1 import job_pb2

STREAM_S = 120.0
"""A stream is opened anew after this long, so that a dead box in the middle is noticed."""


class Watch:
    """One watch over one or many streams. All times in seconds of one monotonic clock."""

    def __init__(self, patience: Patience, now_s: float, timeout_s: float | None, addresses: int = 1) -> None:
        self._patience = patience
        self._timeout_s = timeout_s
        self._ends_s = None if timeout_s is None else now_s + timeout_s
        self._broken_s: float | None = None
        self._rounds = Rounds(addresses)
        self._seen: dict[str, int] = {}

    def stream_timeout_s(self, now_s: float) -> float:
        """How long the next stream may live. Raises: FederationError TIMED_OUT when there is no time left."""
        if self._ends_s is None:
            return STREAM_S
        if now_s >= self._ends_s:
            raise FederationError(
                Code.TIMED_OUT,
                f"it had not ended after {self._timeout_s:g} s",
                fault=Fault.CALLER,
                hint="It goes on; look again with `brhub job show`, or wait longer.",
                metadata={"timeout_s": f"{self._timeout_s:g}"},
            )
        return min(STREAM_S, self._ends_s - now_s)

    def is_news(self, job: job_pb2.Job) -> bool:
        """Whether this revision of the job was not seen yet."""
        self._broken_s = None
        self._rounds.good()
        if job.revision <= self._seen.get(job.id, -1):
            return False
        self._seen[job.id] = job.revision
        return True

    def ended(self) -> float:
        """The server closed the stream in order; seconds to wait before the next."""
        self._broken_s = None
        return self._patience.pause(self._rounds.failed(moves=False) - 1)

    def broke(self, error: FederationError, now_s: float) -> float:
        """The stream failed; seconds to wait before the next. Raises: `error` when trying again is of no use."""
        if error.code is Code.TIMED_OUT:  # the stream's own life was over: the way may well be fine
            self._broken_s = None
            return 0.0
        # Patience counts from when it broke: a job that does not change for an hour is no silence of the link.
        self._broken_s = now_s if self._broken_s is None else self._broken_s
        rounds = self._rounds.failed(moves_on(error))
        if not is_retried(error) or (rounds and now_s - self._broken_s > self._patience.retry_s):
            raise error
        return self._patience.pause(rounds - 1) if rounds else 0.0
