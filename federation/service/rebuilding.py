"""The queue comes back into memory while calls are answered already: a control plane that starts takes jobs at once.

What runs, what is leased, hubs and agents are there before the first call (`World.rebuilt` of `Store.load(waiting=False)`).
Jobs that only wait follow here, in pages, newest first. Nobody misses them meanwhile: one job is looked for in the store
too (`jobs.find`), a repeated request id is known to the store, and nothing is planned before all are there, so that none is
overtaken. Each page has a batch to itself: what it reads is all that was committed, and the writer's own thread is the only
one that changes any of it. Deliberately not here: who waits until the world is whole (`desk.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from federation.domain.job import Job, JobState
from federation.ports import JobFilter, Store
from federation.service.world import Unit, World

PAGE = 1_000
"""Calls that come meanwhile wait for one page, some hundredths of a second."""
WAITING = JobFilter(states=(JobState.QUEUED,))


class Queue:
    """The waiting jobs of a store, as they were when the process began. Its page is a command for the writer."""

    def __init__(self, store: Store, world: World, page: int = PAGE) -> None:
        """Before the writer's first command."""
        self._store = store
        self._page = page
        self._before_seq = world.last_seq + 1
        """Whatever gets a place in the line from now on is in memory."""
        self.done = False
        world.unread = store.count_jobs().get(JobState.QUEUED, 0)

    def read(self, taken: Callable[[World, Sequence[Job]], None]) -> Callable[[Unit], None]:
        """The command that takes in the next page, and hands `taken` what was not there yet."""

        def command(unit: Unit) -> None:
            world = unit.world
            page = self._store.list_jobs(WAITING, self._before_seq, self._page)
            # Memory is ahead of the store in nothing; but what ran when we began, and waits again, is there already.
            new = [job for job in page.jobs if job.id not in world.jobs]
            world.jobs.update((job.id, job) for job in new)
            world.unread = max(0, world.unread - len(page.jobs))
            self._before_seq, self.done = page.next_before_seq, not page.next_before_seq
            if self.done:
                world.unread = 0
            taken(world, new)

        return command
