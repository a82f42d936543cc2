"""The sums of a replay: who waited, whose machines worked, and for whom."""

from __future__ import annotations

import pytest

from federation.simulation.figures import Waits, Work, figures, recorded_waits, waits_of
from federation.simulation.replay import HistoricJob, Recorded, bounded_slowdown
from tests.unit.simulation.builders import HOUR, MINUTE, agent, cpus, job, replayed


@pytest.mark.parametrize(
    ("wait_ms", "runtime_ms", "slowdown"),
    [(0, 1, 1.0), (0, HOUR, 1.0), (HOUR, HOUR, 2.0), (19_000, 1_000, 2.0), (5_000, 1_000, 1.0)],
)
def test_bounded_slowdown(wait_ms: int, runtime_ms: int, slowdown: float) -> None:
    """Runs below ten seconds count as ten; nobody is below 1."""
    assert bounded_slowdown(wait_ms, runtime_ms) == slowdown


def test_waits_of_twenty_jobs() -> None:
    """The 95th percentile of 20 waits is the nineteenth."""
    found = waits_of([(wait * 1000, 0, HOUR) for wait in range(20)])
    assert (found.jobs, found.mean_ms, found.p95_ms, found.longest_ms) == (20, 9_500, 18_000, 19_000)
    assert waits_of([]) == Waits()


def test_use_and_guest_hours_are_counted_to_host_and_home() -> None:
    """Cairo's two jobs fill its machine and go over to Shenzhen; only the time looked at counts."""
    machines = [agent("cairo", cpus(1)), agent("shenzhen", cpus(2, gpus=1))]
    jobs = [
        job("home", 0, 2 * HOUR),
        job("away", 0, 2 * HOUR, cpus(2, gpus=1)),
        job("own", 1, HOUR, home_hub="shenzhen"),
    ]
    found = figures(jobs, machines, replayed(machines, jobs), 0, HOUR)
    cairo, shenzhen = found.hubs
    assert (cairo.hub_id, shenzhen.hub_id, found.total.hub_id) == ("cairo", "shenzhen", "")
    assert cairo.work["cpu"] == Work(1000 * HOUR, 1000 * HOUR, 0, 2000 * HOUR)
    assert shenzhen.work["cpu"] == Work(2000 * HOUR, 2000 * HOUR, 2000 * HOUR, 0)
    assert (cairo.work["gpu"].used_share, shenzhen.work["gpu"].used_share) == (None, 1.0)
    assert found.total.work["cpu"] == Work(3000 * HOUR, 3000 * HOUR, 2000 * HOUR, 2000 * HOUR)
    assert (shenzhen.waits.longest_ms, found.total.waits.jobs, found.waiting) == (2 * HOUR - 1, 3, {})


def test_tasks_of_a_gang_count_each() -> None:
    """Three tasks of two cpus are six cores."""
    machines = [agent("cairo", cpus(8))]
    jobs = [job("gang", 0, HOUR, cpus(2), replicas=3, home_hub="kuala-lumpur")]
    found = figures(jobs, machines, replayed(machines, jobs), 0, HOUR)
    assert found.total.work["cpu"] == Work(8000 * HOUR, 6000 * HOUR, 6000 * HOUR, 6000 * HOUR)
    assert [hub.hub_id for hub in found.hubs] == ["cairo", "kuala-lumpur"]


def test_jobs_that_never_start_are_counted_apart() -> None:
    """They are in no mean; their reasons are."""
    machines = [agent("cairo", cpus(1))]
    jobs = [job("big", 0, HOUR, cpus(9)), job("small", 0, HOUR)]
    found = figures(jobs, machines, replayed(machines, jobs), 0, HOUR)
    assert (found.total.waits.jobs, found.total.still_waiting, found.waiting) == (1, 1, {"SHAPE_NEVER_FITS": 1})
    (never,) = found.never_start
    assert (never.job_id, never.obstacle.code, never.obstacle.hub_id) == ("big", "SHAPE_NEVER_FITS", "cairo")


def test_what_was_waited_in_fact() -> None:
    """From what the history tells, where it does."""
    told = job("a", 0, HOUR)
    told = HistoricJob(told.row, told.runtime_ms, Recorded("cairo", MINUTE, MINUTE + HOUR))
    assert recorded_waits([told, job("b", 0, HOUR)]).mean_ms == MINUTE


def test_a_lost_run_is_no_wait_but_slows_down() -> None:
    """Queued for a minute, ran for an hour in vain, queued for another minute, then ran for its hour."""
    lost = Recorded("cairo", HOUR + 2 * MINUTE, 2 * HOUR + 2 * MINUTE, lost_ms=HOUR)
    found = recorded_waits([HistoricJob(job("a", 0, HOUR).row, HOUR, lost)])
    assert (found.longest_ms, found.mean_bounded_slowdown) == (2 * MINUTE, (2 * HOUR + 2 * MINUTE) / HOUR)
