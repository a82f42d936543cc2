"""Jobs that ended a moment ago, as they were told of: the store lists jobs by their arrival, not by their end.

A long job that ends after a thousand short ones is what an operator looks for. Kept in memory since the start only; what
the store lists fills the rest.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from federation.domain.ids import JobId
from federation.domain.job import Job

KEPT_MAX = 500


class RecentlyEnded:
    """The last `KEPT_MAX` jobs that ended. Thread-safe."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._kept: OrderedDict[JobId, Job] = OrderedDict()

    def hear(self, job: Job) -> None:
        """A job changed. Called on the writer thread."""
        with self._guard:
            self._kept.pop(job.id, None)  # it ended again, or was queued again
            if job.state.terminal:
                self._kept[job.id] = job
                if len(self._kept) > KEPT_MAX:
                    self._kept.popitem(last=False)

    def jobs(self, owner: tuple[str, str] | None) -> list[Job]:
        """Those of one owner (issuer, subject), or of everybody."""
        with self._guard:
            jobs = list(self._kept.values())
        return [job for job in jobs if owner is None or (job.owner.issuer, job.owner.subject) == owner]
