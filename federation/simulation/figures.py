"""What a replay comes to, hub by hub: waiting of a hub's own people, use of its machines, guests given and taken.

Waiting and slowdown are counted to the hub that vouches for a job's owner, use to the hub whose machines they are. A guest
hour is an hour of one core (or one GPU) that a hub's machines worked for another hub's job: `given` by the host, `taken` by
the job's home, so that over all hubs both are the same. Lost attempts of preempted jobs count as use, because they held the
machines, and not as guest hours done. Deliberately not here: words and tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from federation.domain.job import Reason
from federation.domain.quantities import CPU, GPU, Resources, amount_of
from federation.scheduling.rows import AgentRow
from federation.simulation.replay import HistoricJob, JobOutcome, Outcome, Run, bounded_slowdown

P95 = 0.95
COUNTED = (CPU, GPU)
"""What utilisation and guest hours are given for; amounts in thousandths."""


@dataclass(frozen=True, slots=True)
class Work:
    """Amounts of one resource over time, in thousandths x ms: millicore-milliseconds, or the same of GPUs."""

    offered: int = 0
    """What the hub's machines offered, from the beginning to the end of the time looked at."""
    used: int = 0
    """What was held of it in that time."""
    given: int = 0
    """What jobs of other hubs got done on these machines in that time."""
    taken: int = 0
    """What this hub's jobs got done on others' machines in that time."""

    @property
    def used_share(self) -> float | None:
        """0 to 1; None where nothing is offered."""
        return self.used / self.offered if self.offered else None


@dataclass(frozen=True, slots=True)
class Waits:
    """Of jobs that ended. With none of them everything is 0.

    A job's wait is the time in which it was queued: from submission to its start; where it was preempted or lost, also from
    each time it was queued again to the start that followed, added up. What it ran in between is no wait, but counts in the
    slowdown, which is about the time until its work was done.
    """

    jobs: int = 0
    mean_ms: float = 0.0
    p95_ms: int = 0
    longest_ms: int = 0
    mean_bounded_slowdown: float = 0.0


@dataclass(frozen=True, slots=True)
class HubFigures:
    """One hub, or with an empty `hub_id` the whole federation."""

    hub_id: str
    waits: Waits
    still_waiting: int
    """Jobs of this hub that wait when nothing more happens."""
    work: Mapping[str, Work]
    """By resource, as in COUNTED."""
    preempted: int = 0
    """Attempts of this hub's jobs that were ended for somebody else."""


@dataclass(frozen=True, slots=True)
class NeverStarts:
    """A job that waits when nothing more happens."""

    job_id: str
    home_hub: str
    obstacle: Reason
    """The nearest one, and at which hub; its text may be empty."""


@dataclass(frozen=True, slots=True)
class Figures:
    """All hubs, by id, and the whole federation."""

    hubs: tuple[HubFigures, ...]
    total: HubFigures
    waiting: Mapping[str, int] = field(default_factory=dict)
    """Why jobs wait that never start: how many, by reason code."""
    never_start: tuple[NeverStarts, ...] = ()
    """Those that can be told why in words, by id: the first of them (`replay.EXPLAINED_MAX`)."""


def figures(
    jobs: Sequence[HistoricJob], agents: Iterable[AgentRow], outcome: Outcome, begins_ms: int, ends_ms: int
) -> Figures:
    """The figures of `outcome`, which is that of `jobs` on `agents`. Use is counted from `begins_ms` to `ends_ms`."""
    of_job = {job.row.job_id: job for job in jobs}
    offered = _offered(agents, ends_ms - begins_ms)
    hub_ids = sorted({*offered, *(job.row.home_hub for job in jobs), *(run.key[0] for run in outcome.runs)})
    sums = {hub_id: _Sums() for hub_id in hub_ids}
    for done in outcome.jobs:
        sums[of_job[done.job_id].row.home_hub].ended.append(done)
    for run in outcome.runs:
        _add_run(sums, of_job[run.job_id], run, begins_ms, ends_ms)
    hubs = tuple(sums[hub_id].figures(hub_id, offered.get(hub_id, {})) for hub_id in hub_ids)
    why: dict[str, int] = {}
    for done in outcome.jobs:
        if done.reason is not None:
            why[done.reason.value] = why.get(done.reason.value, 0) + 1
    never = [
        NeverStarts(done.job_id, of_job[done.job_id].row.home_hub, done.obstacle)
        for done in outcome.jobs
        if done.obstacle is not None
    ]
    never.sort(key=lambda one: one.job_id)
    return Figures(hubs, _together(hubs, outcome), dict(sorted(why.items())), tuple(never))


def recorded_waits(jobs: Iterable[HistoricJob]) -> Waits:
    """How long jobs waited in fact, of those whose start the history tells."""
    told = ((job.row.submitted_ms, job.recorded) for job in jobs if job.recorded is not None)
    return waits_of(
        [(ran.start_ms - submit_ms - ran.lost_ms, ran.lost_ms, ran.end_ms - ran.start_ms) for submit_ms, ran in told]
    )


def waits_of(jobs: Sequence[tuple[int, int, int]]) -> Waits:
    """The figures of (wait_ms, lost_ms, runtime_ms), a triple a job.

    The 95th percentile is the smallest wait that 95 % do not exceed.
    """
    if not jobs:
        return Waits()
    waits = sorted(wait_ms for wait_ms, _, _ in jobs)
    slowdowns = math.fsum(bounded_slowdown(wait_ms + lost_ms, runtime_ms) for wait_ms, lost_ms, runtime_ms in jobs)
    return Waits(
        jobs=len(waits),
        mean_ms=sum(waits) / len(waits),
        p95_ms=waits[math.ceil(P95 * len(waits)) - 1],
        longest_ms=waits[-1],
        mean_bounded_slowdown=slowdowns / len(waits),
    )


@dataclass(slots=True)
class _Sums:
    """What is added up for one hub."""

    ended: list[JobOutcome] = field(default_factory=list)
    used: dict[str, int] = field(default_factory=dict)
    given: dict[str, int] = field(default_factory=dict)
    taken: dict[str, int] = field(default_factory=dict)
    preempted: int = 0

    def figures(self, hub_id: str, offered: Mapping[str, int]) -> HubFigures:
        ended = [(job.wait_ms, job.lost_ms, job.runtime_ms) for job in self.ended if job.reason is None]
        work = {
            name: Work(offered.get(name, 0), self.used.get(name, 0), self.given.get(name, 0), self.taken.get(name, 0))
            for name in COUNTED
        }
        return HubFigures(hub_id, waits_of(ended), len(self.ended) - len(ended), work, self.preempted)


def _offered(agents: Iterable[AgentRow], length_ms: int) -> dict[str, dict[str, int]]:
    offered: dict[str, dict[str, int]] = {}
    for row in agents:
        tally = offered.setdefault(row.key[0], {})
        for node in row.nodes:
            _add(tally, node.offered, length_ms)
    return offered


def _add_run(sums: Mapping[str, _Sums], job: HistoricJob, run: Run, begins_ms: int, ends_ms: int) -> None:
    host, home, per_task = sums[run.key[0]], sums[job.row.home_hub], job.row.per_task
    within_ms = max(0, min(run.end_ms, ends_ms) - max(run.start_ms, begins_ms))
    _add(host.used, per_task, within_ms * len(run.nodes))
    if not run.completed:
        home.preempted += 1
    elif host is not home:
        _add(host.given, per_task, within_ms * len(run.nodes))
        _add(home.taken, per_task, within_ms * len(run.nodes))


def _add(tally: dict[str, int], per_task: Resources, times: int) -> None:
    for name in COUNTED:
        amount = amount_of(per_task, name)
        if amount:
            tally[name] = tally.get(name, 0) + amount * times


def _together(hubs: Sequence[HubFigures], outcome: Outcome) -> HubFigures:
    def total(name: str, of: Callable[[Work], int]) -> int:
        return sum(of(hub.work[name]) for hub in hubs)

    work = {
        name: Work(
            total(name, lambda each: each.offered),
            total(name, lambda each: each.used),
            total(name, lambda each: each.given),
            total(name, lambda each: each.taken),
        )
        for name in COUNTED
    }
    ended = [(job.wait_ms, job.lost_ms, job.runtime_ms) for job in outcome.jobs if job.reason is None]
    return HubFigures("", waits_of(ended), len(outcome.jobs) - len(ended), work, outcome.preemptions)
