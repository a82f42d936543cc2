"""How long checkpoints are kept: the newest of each job while it may run again, none once it has succeeded or was cancelled.

One thread of its own beside the writer's, because the object store may be slow or away; nothing waits for it. A job that
failed keeps its checkpoints for a while, because a person may retry it. What a crash left behind is found by the sweep at
the next start; what belongs to a job that this store does not know is left alone for as long as a failed job's. Deliberately not here: what a checkpoint is (`federation/objects/checkpoints.py`).
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from federation.domain.job import Job, JobState
from federation.errors import FederationError
from federation.objects.checkpoints import Place, Saved, Shelf
from federation.service.world import Unit

KEPT_UNUSED_MS = 30 * 86_400_000
SWEEP_S = 6 * 3_600.0
STOP_S = 5.0
_ANY = (1 << 62, 0)
_OVER = frozenset({JobState.SUCCEEDED, JobState.CANCELLED})
log = logging.getLogger(__name__)


def kept(job: Job | None, saved_ms: int, now_ms: int) -> bool:
    """Whether the checkpoints of a job, the newest of them saved at `saved_ms`, may be needed again.

    None: this store does not know the job. It may be a restored one, or the bucket somebody else's too: so not at once.
    """
    if job is None or job.state is JobState.FAILED:
        return now_ms - max(saved_ms, job.ended_ms if job is not None else 0) < KEPT_UNUSED_MS
    return job.state not in _OVER


@dataclass(frozen=True, slots=True)
class Newest:
    """What a job's next attempt would go on from, for people."""

    place: Place
    saved_ms: int
    size_bytes: int
    files: int


@dataclass(frozen=True, slots=True)
class _Saved:
    """An attempt has one more."""

    job_id: str
    attempt: tuple[int, int]


class Retention:
    """See the module. `saved` and `heard` may be called from any thread."""

    def __init__(
        self,
        shelf: Shelf,
        find: Callable[[str], Job | None],
        now_ms: Callable[[], int],
        unsure: Callable[[], bool] = lambda: False,
    ) -> None:
        """`unsure`: whether what is over here may go on somewhere; then nothing is removed before a later sweep."""
        self._unsure = unsure
        self._shelf = shelf
        self._find = find
        self._now_ms = now_ms
        self._known: set[str] = set()
        """Jobs that have anything in the store; most jobs never do, and their end costs nothing."""
        self._newest: dict[str, Newest] = {}
        self._queue: queue.SimpleQueue[_Saved | str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)

    def start(self) -> None:
        """Begin, with a sweep."""
        self._thread.start()

    def stop(self) -> None:
        """End; what is left to remove is found by the next sweep."""
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def saved(self, job_id: str, saved: Saved) -> None:
        """A checkpoint was committed: older ones may go."""
        self._known.add(job_id)
        self._note(job_id, saved)
        self._queue.put(_Saved(job_id, (saved.place.incarnation, saved.place.n)))

    def newest(self, job_id: str) -> Newest | None:
        """Of a job, as far as it is known here: after a start the sweep has to find it first."""
        return self._newest.get(job_id)

    def heard(self, unit: Unit) -> None:
        """A batch was committed: jobs may have ended in it."""
        for job in unit.jobs.values():
            if job.id in self._known and job.state in _OVER:
                self._queue.put(job.id)

    def sweep(self) -> int:
        """Remove what no job needs any more; how many jobs that were. Raises: FederationError when the store is away."""
        self._known |= set(self._shelf.jobs())
        removed = 0
        for job_id in sorted(self._known):
            if self._remove(job_id):
                removed += 1
            elif job_id not in self._newest:
                for saved in self._shelf.newest(job_id, _ANY):
                    self._note(job_id, saved)
        return removed

    def _run(self) -> None:
        item: _Saved | str | None = ""
        while item is not None:
            try:
                if item == "":
                    self.sweep()
                elif isinstance(item, _Saved):
                    if not self._remove(item.job_id):
                        self._shelf.trim(item.job_id, item.attempt)
                else:
                    self._remove(item)
            except FederationError as error:
                log.warning("checkpoints are left to the next sweep: %s", error)
            except Exception:
                log.exception("keeping checkpoints failed for a reason of ours")
            try:
                item = self._queue.get(timeout=SWEEP_S)
            except queue.Empty:
                item = ""

    def _remove(self, job_id: str) -> bool:
        """Remove a job's, unless they may be needed."""
        job = self._find(job_id)
        saved_ms = 0 if job is not None else max((one.saved_ms for one in self._shelf.newest(job_id, _ANY)), default=0)
        if self._unsure() or kept(job, saved_ms, self._now_ms()):
            return False
        self._shelf.remove(job_id)
        self._known.discard(job_id)
        self._newest.pop(job_id, None)
        return True

    def _note(self, job_id: str, saved: Saved) -> None:
        before = self._newest.get(job_id)
        if not saved.damaged and (before is None or before.place < saved.place):
            self._newest[job_id] = Newest(saved.place, saved.saved_ms, saved.size_bytes, len(saved.files))
