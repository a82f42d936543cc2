"""`/metrics` in Prometheus' text format, from a registry of our own: gauges are read at each scrape, events are counted.

Names begin with `brhub_`. Labels are hubs, agents, nodes, resources, states and engines, never people or jobs: their
number would have no bound.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Tally
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from federation.console.live import Live
from federation.console.rows import HubRow, hub_row
from federation.domain.hub import LinkState
from federation.domain.ids import JobId
from federation.domain.job import Job, JobState
from federation.domain.lease import RELEASED
from federation.service import hubs as service_hubs
from federation.service.desk import Desk
from federation.service.hubs import HubView
from federation.service.retention import Figures as EventFigures
from federation.service.rounds import Figures as RoundFigures
from federation.service.world import Unit
from federation.service.writer import Figures as WriterFigures

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
WAIT_S = (0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1_800.0, 7_200.0, 43_200.0)
RUN_S = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0)


@dataclass(frozen=True, slots=True)
class Scrape:
    """What is true at the moment of a scrape."""

    now_ms: int
    hubs: tuple[HubRow, ...]
    jobs: Mapping[JobState, int]
    queued: Mapping[str, int]
    """By engine."""
    oldest_queued_ms: int
    rounds: RoundFigures
    writer: WriterFigures
    streams: int
    events: EventFigures
    objects_away: bool


class Figures:
    """One registry. `hear` is called on the writer thread, `exposition` on the event loop."""

    def __init__(self, desk: Desk, live: Live) -> None:
        self._desk = desk
        self._live = live
        self._registry = CollectorRegistry(auto_describe=False)
        self._submitted = Counter(
            "brhub_jobs_submitted", "Jobs accepted since the start.", ["engine"], registry=self._registry
        )
        self._ended = Counter(
            "brhub_jobs_ended", "Jobs that ended since the start.", ["engine", "state"], registry=self._registry
        )
        self._released = Counter(
            "brhub_jobs_released_by_force", "Attempts given up by an operator.", ["hub"], registry=self._registry
        )
        self._released_last: dict[JobId, int] = {}
        self._wait = Histogram(
            "brhub_job_wait_seconds", "From submit to the first lease.", registry=self._registry, buckets=WAIT_S
        )
        self._run = Histogram(
            "brhub_job_run_seconds",
            "From start to end of the run that ended the job.",
            registry=self._registry,
            buckets=RUN_S,
        )

    def hear(self, job: Job) -> None:
        """Count what a change means."""
        if job.revision == 1 and job.state is JobState.QUEUED:
            self._submitted.labels(job.spec.engine).inc()
        elif job.state is JobState.LEASED and job.attempts == 1:
            self._wait.observe((job.state_since_ms - job.created_ms) / 1000)
        elif job.state.terminal:
            self._ended.labels(job.spec.engine, job.state.value).inc()
            if job.started_ms:
                self._run.observe(max(0, job.ended_ms - job.started_ms) / 1000)
        if job.reason is not None and job.reason.code == RELEASED and self._released_last.get(job.id) != job.attempts:
            self._released_last[job.id] = job.attempts  # it may change again while it waits for that reason
            self._released.labels(job.hub_id).inc()

    async def exposition(self) -> bytes:
        """The text."""
        now_ms = self._desk.clock.now_ms()

        def look(unit: Unit) -> tuple[list[HubView], Tally[str], int]:
            queued: Tally[str] = Tally()
            oldest_ms = now_ms
            for job in unit.world.jobs.values():
                if job.state is JobState.QUEUED:
                    queued[job.spec.engine] += 1
                    oldest_ms = min(oldest_ms, job.state_since_ms)
            return service_hubs.views(unit), queued, oldest_ms

        views, queued, oldest_ms = await self._desk.ask(look)
        jobs = await asyncio.to_thread(self._desk.store.count_jobs)
        rows = tuple(hub_row(view) for view in views)
        scrape = Scrape(
            now_ms,
            rows,
            jobs,
            queued,
            oldest_ms,
            self._desk.rounds.figures,
            self._desk.writer.figures,
            self._live.streams,
            self._desk.events.figures,
            self._desk.objects is not None and bool(self._desk.objects.away),
        )
        at_once = CollectorRegistry(auto_describe=False)
        at_once.register(_Scraped(scrape))
        return generate_latest(at_once) + generate_latest(self._registry)


class _Scraped(Collector):
    """A scrape as metric families."""

    def __init__(self, scrape: Scrape) -> None:
        self._scrape = scrape

    def collect(self) -> Iterable[Metric]:
        """All families."""
        yield from self._jobs()
        yield from self._hubs()
        yield from self._nodes()
        yield from self._rounds()
        yield from self._writer()
        yield from self._events()
        yield GaugeMetricFamily(
            "brhub_object_store_away",
            "1 while the object store has not answered since the start.",
            value=int(self._scrape.objects_away),
        )

    def _jobs(self) -> Iterable[Metric]:
        seen = self._scrape
        jobs = GaugeMetricFamily("brhub_jobs", "Jobs in each state.", labels=["state"])
        for state in JobState:
            jobs.add_metric([state.value], seen.jobs.get(state, 0))
        yield jobs
        queued = GaugeMetricFamily("brhub_jobs_queued", "Waiting jobs by engine.", labels=["engine"])
        for engine, number in sorted(seen.queued.items()):
            queued.add_metric([engine], number)
        yield queued
        yield GaugeMetricFamily(
            "brhub_queue_oldest_seconds",
            "How long the longest-waiting job has waited.",
            value=(seen.now_ms - seen.oldest_queued_ms) / 1000,
        )

    def _hubs(self) -> Iterable[Metric]:
        leases = GaugeMetricFamily("brhub_hub_leases", "Live leases.", labels=["hub"])
        draining = GaugeMetricFamily("brhub_hub_draining", "1 while the hub takes no new work.", labels=["hub"])
        link = GaugeMetricFamily(
            "brhub_agent_link", "1 for the link's present state.", labels=["hub", "agent", "state"]
        )
        age = GaugeMetricFamily(
            "brhub_agent_last_sync_seconds", "Since the agent was heard of.", labels=["hub", "agent"]
        )
        trip = GaugeMetricFamily("brhub_agent_round_trip_seconds", "As the agent measured it.", labels=["hub", "agent"])
        for hub in self._scrape.hubs:
            leases.add_metric([hub.id], hub.leases)
            draining.add_metric([hub.id], int(hub.draining))
            for agent in hub.agents:
                for state in LinkState:
                    link.add_metric([hub.id, agent.id, state.value], int(agent.link is state))
                age.add_metric([hub.id, agent.id], (self._scrape.now_ms - agent.last_sync_ms) / 1000)
                if agent.round_trip_ms >= 0:
                    trip.add_metric([hub.id, agent.id], agent.round_trip_ms / 1000)
        return (leases, draining, link, age, trip)

    def _nodes(self) -> Iterable[Metric]:
        labels = ["hub", "agent", "node", "resource"]
        unit = "Base units: cpu and gpu in thousandths, memory in bytes."
        offered = GaugeMetricFamily("brhub_node_offered", f"What the federation may use. {unit}", labels=labels)
        leased = GaugeMetricFamily("brhub_node_leased", f"What live leases hold. {unit}", labels=labels)
        capacity = GaugeMetricFamily("brhub_node_capacity", f"What the machine has. {unit}", labels=labels)
        for hub in self._scrape.hubs:
            for node in hub.nodes:
                for meter in node.meters:
                    names = [hub.id, node.agent_id, node.name, meter.name]
                    offered.add_metric(names, meter.offered)
                    leased.add_metric(names, meter.leased)
                    capacity.add_metric(names, meter.capacity)
        return (offered, leased, capacity)

    def _rounds(self) -> Iterable[Metric]:
        rounds = self._scrape.rounds
        yield CounterMetricFamily("brhub_rounds", "Scheduling rounds.", value=rounds.rounds)
        yield CounterMetricFamily("brhub_placements", "Placements that became leases.", value=rounds.placements)
        yield CounterMetricFamily(
            "brhub_preemptions", "Claims that were made: others were told to end for them.", value=rounds.preemptions
        )
        yield CounterMetricFamily(
            "brhub_rejections",
            "Decisions that no longer held at commit: normal in small numbers.",
            value=rounds.rejections,
        )
        yield GaugeMetricFamily(
            "brhub_round_last_seconds", "What the last round took to plan.", value=rounds.last_round_ms / 1000
        )
        yield GaugeMetricFamily("brhub_console_streams", "Live pages that are open.", value=self._scrape.streams)

    def _writer(self) -> Iterable[Metric]:
        seen = self._scrape.writer
        batches = HistogramMetricFamily("brhub_writer_batch_commands", "Commands in one batch of the writer.")
        batches.add_metric([], seen.cumulative(), seen.commands)
        yield batches
        yield CounterMetricFamily("brhub_writer_commits", "Batches that had something to save.", value=seen.commits)
        yield CounterMetricFamily(
            "brhub_writer_commits_failed", "Batches that could not be saved.", value=seen.commits_failed
        )

    def _events(self) -> Iterable[Metric]:
        seen = self._scrape.events
        yield GaugeMetricFamily(
            "brhub_events_keep_days", "How long events are kept; 0: for ever.", value=seen.keep_days
        )
        yield CounterMetricFamily("brhub_events_removed", "Events removed because of their age.", value=seen.removed)
        yield CounterMetricFamily("brhub_events_sweeps", "Looks at all old events that ended.", value=seen.sweeps)
        yield GaugeMetricFamily(
            "brhub_events_sweep_seq", "How far the present look has come, or the last one.", value=seen.at_seq
        )
        yield GaugeMetricFamily(
            "brhub_events_swept_seconds",
            "Since the last look ended; 0 before the first.",
            value=(self._scrape.now_ms - seen.swept_ms) / 1000 if seen.swept_ms else 0,
        )
