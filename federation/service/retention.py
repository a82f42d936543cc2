"""How long facts are kept: what nobody can ask for any more is removed, a few hundred at a time, beside the day's work.

A fact goes when it is older than the operator's limit and what it tells of is over for as long: then its job has ended and
holds no lease. **Never** does the first fact of a job go (under which request id it came, and by whom), nor any fact about
the store itself, nor the newest of all. The answers to request ids and the stretches of use are rows of their own, which
nothing here touches: a repeated submit gets its job, and accounts are computed, however old.

One thread of its own looks, by readers' connections; only the removal itself runs on the writer's thread, a batch between
other commands, and looks once more at what lives. Deliberately not here: checkpoints (`checkpoints.py`), and how a reader is
told that facts are gone (`federation/store/facts.py`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from federation.errors import FederationError
from federation.ports import DAY_MS, STORE_ENTITY, Clock, EventMark, Store
from federation.service.restoring import asked_since
from federation.service.world import Unit
from federation.service.writer import Writer

BATCH_MAX = 500
"""Facts that one command removes: some milliseconds, for which a submit may have to wait."""
LOOK_MAX = 2_000
PAUSE_S = 0.05
FIRST_S = 60.0
"""After a start there is more urgent work."""
SWEEP_S = 6 * 3_600.0
FIRST_FACTS = frozenset({"JobSubmitted", "JobAdopted"})
_ABOUT_JOBS = frozenset({"job", "lease"})
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Figures:
    """For operators; the retention's thread alone writes them."""

    keep_days: int = 0
    """0: for ever."""
    removed: int = 0
    sweeps: int = 0
    at_seq: int = 0
    """How far the present sweep, or the last one, has looked."""
    swept_ms: int = 0
    """When the last sweep ended; 0: none has."""


def removable(mark: EventMark, before_ms: int) -> bool:
    """Whether nobody needs this fact any more, where facts are kept from `before_ms` on."""
    if mark.at_ms >= before_ms or mark.entity == STORE_ENTITY:
        return False
    if mark.entity not in _ABOUT_JOBS:
        return True
    if mark.job_state is None or not mark.job_state.terminal or mark.job_since_ms >= before_ms:
        return False
    return mark.type not in FIRST_FACTS


class EventRetention:
    """See the module."""

    def __init__(self, store: Store, writer: Writer, clock: Clock, keep_days: int) -> None:
        """`keep_days`: 0 keeps all for ever."""
        self.figures = Figures(keep_days)
        self._store = store
        self._writer = writer
        self._clock = clock
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="retention", daemon=True)

    def start(self) -> None:
        """Begin, after a while."""
        if self.figures.keep_days:
            self._thread.start()

    def stop(self) -> None:
        """End; the next sweep begins anew."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()

    def sweep(self, pause: Callable[[], object] = lambda: None) -> int:
        """Remove what nobody needs any more; how many facts. `pause` follows each batch. Raises: FederationError."""
        figures, began = self.figures, self.figures.removed
        before_ms = self._clock.now_ms() - figures.keep_days * DAY_MS
        figures.at_seq, old = 0, True
        while old and not self._ending.is_set():
            marks = self._store.event_marks(figures.at_seq, LOOK_MAX)
            old = any(mark.at_ms < before_ms for mark in marks)
            going = [mark for mark in marks if removable(mark, before_ms)]
            for start in range(0, len(going), BATCH_MAX):
                figures.removed += self._writer.run(_removal(going[start : start + BATCH_MAX]))
                pause()
            if marks:
                figures.at_seq = marks[-1].seq
        figures.sweeps += 1
        figures.swept_ms = self._clock.now_ms()
        return figures.removed - began

    def _run(self) -> None:
        wait_s = FIRST_S
        while not self._ending.wait(wait_s):
            wait_s = SWEEP_S
            try:
                removed = self.sweep(lambda: self._ending.wait(PAUSE_S))
            except FederationError as error:
                log.warning("old events could not be removed; tried again later: %s", error)
            else:
                log.info("removed %d events that are older than %d days", removed, self.figures.keep_days)


def _removal(marks: Sequence[EventMark]) -> Callable[[Unit], int]:
    """The command; how many it removed. A job that somebody retried since the look lives again and keeps its facts.

    After a restore so do jobs that somebody may have cancelled since: a hub that still runs one is held to it.
    """

    def remove(unit: Unit) -> int:
        world = unit.world
        seqs = [
            mark.seq
            for mark in marks
            if mark.job_id not in world.jobs
            and mark.job_id not in world.lease_of_job
            and mark.seq < world.last_seq
            and not (mark.entity == "job" and asked_since(world, mark.seq, unit.now_ms))
        ]
        unit.remove_events(seqs)
        return len(seqs)

    return remove
