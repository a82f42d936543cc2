"""Why waiting jobs wait, in a few words each, for the queue's table; a page must not make the rounds wait.

An explanation costs a look at the planner's state, so each look at the queue asks for a few of them only and keeps what
it heard for some seconds: a long queue fills in over the next refreshes. A job's own page asks afresh.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from federation.console.words import reason_words
from federation.domain.job import Job, Reason
from federation.domain.plan import ReasonCode
from federation.service.desk import Desk

log = logging.getLogger(__name__)
FRESH_MS = 5_000
ASKED_MAX = 25
"""Explanations made in one look at the queue."""
KEPT_MAX = 2_000
_PASSING = (
    ReasonCode.WOULD_RUN,
    ReasonCode.CLAIM_HELD,
    ReasonCode.FAIRNESS_TURN,
    ReasonCode.RESERVATION_AHEAD,
    ReasonCode.CAPACITY,
    ReasonCode.QUOTA,
    ReasonCode.SHARE_POLICY,
    ReasonCode.HUB_SUSPECT,
    ReasonCode.HUB_DRAINING,
)
"""What time may mend, nearest to a start first; of what it will not, the most frequent is said first."""


@dataclass(frozen=True, slots=True)
class ShortReason:
    """A line for the table, and the sentence behind it."""

    text: str
    sentence: str


ASKING = ShortReason("", "")


def in_short(reasons: Iterable[Reason]) -> ShortReason:
    """The federation-wide reason when there is one, else what the hubs say, nearest to a start first, with counts."""
    by_hub = [reason for reason in reasons if reason.hub_id]
    for reason in reasons:
        if not reason.hub_id:
            return ShortReason(reason_words(reason.code), reason.message)
    counts = Counter(reason.code for reason in by_hub)
    order = {code.value: place for place, code in enumerate(_PASSING)}
    codes = sorted(counts, key=lambda code: (order.get(code, len(order)), -counts[code], code))
    text = ", ".join(f"{reason_words(code)} ({counts[code]})" for code in codes[:3])
    first = next((reason for reason in by_hub if codes and reason.code == codes[0]), None)
    return ShortReason(text, f"{first.hub_id}: {first.message}" if first else "")


class ShortReasons:
    """Short reasons by job, kept for a while. Thread-safe; not on the event loop."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._guard = threading.Lock()
        self._kept: OrderedDict[tuple[str, int], tuple[ShortReason, int]] = OrderedDict()

    def of(self, jobs: Iterable[Job]) -> dict[str, ShortReason]:
        """By job id; a job whose turn to be asked about has not come keeps its older words, or none."""
        now_ms, several = self._desk.clock.now_ms(), list(jobs)
        with self._guard:
            known = {job.id: self._kept.get((job.id, job.revision), (ASKING, 0)) for job in several}
        stale = [job for job in several if known[job.id][1] <= now_ms]
        stale.sort(key=lambda job: known[job.id][1])  # the longest unasked first, or a long queue would never fill in
        told: dict[str, ShortReason] = {job_id: reason for job_id, (reason, _) in known.items()}
        for job in stale[:ASKED_MAX]:
            told[job.id] = self._asked(job)
            self._keep((job.id, job.revision), told[job.id], now_ms + FRESH_MS)
        return told

    def _asked(self, job: Job) -> ShortReason:
        try:
            return in_short(self._desk.explained(job).reasons)
        except Exception:  # one job that cannot be explained must not hide all the others from the operator
            log.exception("job %s cannot be explained", job.id)
            return ShortReason("cannot be explained", "The control plane's log has the details.")

    def _keep(self, key: tuple[str, int], reason: ShortReason, until_ms: int) -> None:
        with self._guard:
            self._kept[key] = (reason, until_ms)
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT_MAX:
                self._kept.popitem(last=False)
