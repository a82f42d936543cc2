"""What a page needs from the desk, gathered: one short command for what is in memory, the store for what is listed.

What is the same for every viewer is gathered once for all pages that are open. What belongs to owners
is read for each viewer by their own filter. Not here: how it looks (`templates`), when it is sent (`live.py`).
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from federation.console.door import Viewer
from federation.console.reasons import ShortReason, ShortReasons
from federation.console.recent import RecentlyEnded
from federation.console.rows import HubRow, LeaseRow, Meter, hub_row, lease_rows, summed
from federation.domain.hub import LinkState
from federation.domain.job import TERMINAL, Job, JobState, Reason
from federation.domain.lease import Lease, ends_by_ms
from federation.errors import Code, not_found
from federation.ports import EventRow, JobFilter
from federation.service import hubs as service_hubs
from federation.service import jobs as service_jobs
from federation.service.checkpoints import Newest
from federation.service.desk import Desk
from federation.service.hubs import HubView
from federation.service.world import Unit

FRESH_MS = 200
COST_SHARE = 20
"""What took a while to gather is kept this many times as long: watching takes a twentieth of the writer at most."""
ACTIVE = (JobState.LEASED, JobState.STAGING, JobState.RUNNING, JobState.CANCELLING, JobState.UNKNOWN)
ACTIVE_MAX, QUEUE_MAX, ENDED_MAX = 200, 100, 30
EVENTS_MAX = 500
NODE_ROWS_MAX = 120
"""The overview shows nodes below their hubs up to this many; a larger federation shows them on each hub's page."""


@dataclass(frozen=True, slots=True)
class Grounds:
    """What is the same for everybody."""

    at_ms: int
    hubs: tuple[HubRow, ...]
    counts: Mapping[JobState, int]
    """Live jobs."""
    queue: tuple[Job, ...]
    """Those that wait longest, at most `QUEUE_MAX`."""
    cost_s: float
    """What gathering it took, the writer's time included."""


@dataclass(frozen=True, slots=True)
class Overview:
    """The first page. `counts` are the whole federation's for those who may see all jobs, else the viewer's own."""

    at_ms: int
    hubs: tuple[HubRow, ...]
    meters: tuple[Meter, ...]
    """Of the nodes that are online."""
    online: int
    nodes: int
    show_nodes: bool
    active: tuple[Job, ...]
    active_count: str
    ending: int
    """How many of the active ones that are shown were told to end."""
    queue: tuple[Job, ...]
    queue_count: str
    claiming: int
    """For how many of the waiting ones that are shown machines are being freed."""
    oldest_queued_ms: int
    ended: tuple[Job, ...]
    reasons: Mapping[str, ShortReason]
    objects_away: str
    """Why the object store is still waited for; empty: it is not."""


@dataclass(frozen=True, slots=True)
class HubPage:
    """One hub."""

    at_ms: int
    hub: HubRow
    leases: list[LeaseRow]


@dataclass(frozen=True, slots=True)
class JobPage:
    """One job."""

    at_ms: int
    job: Job
    lease: Lease | None
    link: str
    """Of the agent that has the lease; empty where there is none."""
    events: tuple[EventRow, ...]
    reasons: tuple[Reason, ...]
    earliest_start_ms: int
    earliest_hub_id: str
    tracking_uri: str
    checkpoint: Newest | None
    """What its next attempt would go on from, where that is known."""


class Reading:
    """Asks the desk for the pages."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._short = ShortReasons(desk)
        self._grounds: asyncio.Task[Grounds] | None = None
        self.recent = RecentlyEnded()

    async def grounds(self) -> Grounds:
        """Hubs and counts, at most a moment old."""
        before = self._grounds
        if before is None or (before.done() and (before.exception() or self._aged(before.result()))):
            self._grounds = before = asyncio.create_task(self._gather())
        return await asyncio.shield(before)

    def _aged(self, grounds: Grounds) -> bool:
        keep_ms = max(FRESH_MS, int(grounds.cost_s * 1000 * COST_SHARE))
        return self.desk.clock.now_ms() - grounds.at_ms >= keep_ms

    async def overview(self, viewer: Viewer) -> Overview:
        """The first page, for this viewer."""
        grounds, owner = await self.grounds(), viewer.owner_filter
        everybody = owner is None
        queued = grounds.counts.get(JobState.QUEUED, 0)
        known = (grounds.queue, queued > len(grounds.queue)) if everybody else None
        active, queue, ended = await asyncio.to_thread(self._lists, owner, known)
        reasons = await asyncio.to_thread(self._short.of, queue[0])
        nodes = sum(len(hub.nodes) for hub in grounds.hubs)
        return Overview(
            at_ms=self.desk.clock.now_ms(),
            hubs=grounds.hubs,
            meters=summed(node.meters for hub in grounds.hubs for node in hub.nodes if node.link is LinkState.ONLINE),
            online=sum(hub.link == LinkState.ONLINE for hub in grounds.hubs),
            nodes=nodes,
            show_nodes=nodes <= NODE_ROWS_MAX,
            active=active[0],
            active_count=_count(active, sum(grounds.counts.get(state, 0) for state in ACTIVE) if everybody else None),
            ending=sum(ends_by_ms(job) > 0 for job in active[0]),
            queue=queue[0],
            claiming=sum(job.claim is not None for job in queue[0]),
            queue_count=_count(queue, queued if everybody else None),
            oldest_queued_ms=min((job.state_since_ms for job in queue[0]), default=0),
            ended=ended,
            reasons=reasons,
            objects_away=self.desk.objects.away if self.desk.objects is not None else "",
        )

    async def hub(self, viewer: Viewer, hub_id: str) -> HubPage:
        """One hub; HUB_NOT_FOUND."""

        def look(unit: Unit) -> tuple[HubView, list[LeaseRow]]:
            view = service_hubs.view(unit, hub_id)
            return view, lease_rows(view, unit.world.jobs, viewer.sees)

        view, leases = await self.desk.ask(look)
        return HubPage(self.desk.clock.now_ms(), hub_row(view), leases)

    async def owned(self, viewer: Viewer, job_id: str) -> Job:
        """The job, if the viewer may see it; else the same answer as for one that does not exist."""
        store = self.desk.store
        job = await self.desk.ask(lambda unit: service_jobs.find(unit, store, job_id))
        if not viewer.sees(job):
            raise not_found(Code.JOB_NOT_FOUND, "job", job_id[:80], hint="`brhub job list` shows your jobs.")
        return job

    async def job(self, viewer: Viewer, job_id: str) -> JobPage:
        """One job; JOB_NOT_FOUND."""
        job = await self.owned(viewer, job_id)
        lease, link = await self.desk.ask(lambda unit: _held(unit, job))
        events = await asyncio.to_thread(self.desk.store.events_of, "job", job.id, EVENTS_MAX)
        reasons: tuple[Reason, ...] = ()
        earliest_ms, earliest_hub = 0, ""
        if job.state in (JobState.QUEUED, JobState.UNKNOWN):
            explanation = await asyncio.to_thread(self.desk.explained, job)
            reasons = explanation.reasons
            earliest_ms, earliest_hub = explanation.earliest_start_ms, explanation.earliest_hub_id
        uri = self.desk.tracking.uri() if self.desk.tracking is not None and job.tracking_run_id else ""
        saved = self.desk.newest_checkpoint(job.id)
        now_ms = self.desk.clock.now_ms()
        return JobPage(now_ms, job, lease, link, events, reasons, earliest_ms, earliest_hub, uri, saved)

    def _lists(self, owner: tuple[str, str] | None, queue: _Listed | None) -> tuple[_Listed, _Listed, tuple[Job, ...]]:
        """Active jobs, newest first; waiting ones, longest first; ended ones, last first; whether there are more."""

        def listed(states: tuple[JobState, ...], limit: int) -> _Listed:
            page = self.desk.store.list_jobs(JobFilter(states=states, owner=owner), 0, limit)
            return page.jobs, bool(page.next_before_seq)

        active, more = listed(ACTIVE, ACTIVE_MAX)
        ended = {job.id: job for job in listed(tuple(sorted(TERMINAL)), ENDED_MAX)[0]}
        ended |= {job.id: job for job in self.recent.jobs(owner)}
        waiting, more_wait = queue or listed((JobState.QUEUED,), QUEUE_MAX)
        elsewhere = {job.id for job in active} | ended.keys()
        return (
            (tuple(sorted(active, key=lambda job: (job.state_since_ms, job.id), reverse=True)), more),
            (tuple(sorted((job for job in waiting if job.id not in elsewhere), key=_place)), more_wait),
            tuple(sorted(ended.values(), key=lambda job: (job.ended_ms, job.id), reverse=True))[:ENDED_MAX],
        )

    async def _gather(self) -> Grounds:
        def look(unit: Unit) -> tuple[list[HubView], Counter[JobState], tuple[Job, ...]]:
            counts: Counter[JobState] = Counter()
            waiting = []
            for job in unit.world.jobs.values():
                counts[job.state] += 1
                if job.state is JobState.QUEUED:
                    waiting.append(job)
            return service_hubs.views(unit), counts, tuple(heapq.nsmallest(QUEUE_MAX, waiting, _place))

        began_s = time.perf_counter()
        views, counts, queue = await self.desk.ask(look)
        rows = tuple(hub_row(view) for view in views)
        return Grounds(self.desk.clock.now_ms(), rows, counts, queue, time.perf_counter() - began_s)


def _held(unit: Unit, job: Job) -> tuple[Lease | None, str]:
    """The job's lease, and how its agent is heard."""
    lease = unit.world.lease_for(job.id)
    agent = unit.world.agents.get(lease.agent_key) if lease is not None else None
    return lease, agent.link if agent is not None else ""


def _place(job: Job) -> tuple[int, str]:
    return (job.queue_seq, job.id)


_Listed = tuple[tuple[Job, ...], bool]


def _count(listed: _Listed, known: int | None) -> str:
    """How many there are: as listed when that is all, else known for certain, or at least so many."""
    jobs, more = listed
    if not more:
        return f"{len(jobs):,}"
    return f"{len(jobs):,}+" if known is None else f"{known:,}"
