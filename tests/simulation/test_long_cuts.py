"""What a long silence does to what runs: nothing. Told by one hub that is cut off, and a job of a known length."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest

from federation.domain.job import JobState
from federation.domain.usage import UsageInterval
from federation.simulation.federated import HOUR_MS, MINUTE_MS, Federation, Scenario
from federation.simulation.mishaps import FaultyStore
from federation.simulation.people import Wish
from federation.simulation.stage import BEGINS_MS
from federation.v1 import common_pb2, job_pb2

HUB = "hub-2"


def a_wish(work_ms: int, limit_ms: int) -> Wish:
    """A `keep` job for that hub."""
    spec = job_pb2.JobSpec(
        version=1,
        name="request-long",
        project="default",
        engine="fake",
        entrypoint="plays",
        arguments=(str(work_ms), "0", "0"),
        runtime_limit_ms=limit_ms,
        demand=job_pb2.Demand(replicas=1, per_task=[common_pb2.Resource(name="cpu", amount=500)]),
        on_partition=common_pb2.ON_PARTITION_KEEP,
        hubs=job_pb2.HubConstraint(allow=[HUB]),
    )
    return Wish("request-long", f"{HUB}/person", spec.SerializeToString(), False)


def cut_off(world: Federation, from_ms: int, for_ms: int) -> None:
    """Nothing reaches the hub or comes from it meanwhile."""
    (line,) = (agent.place.line for agent in world.agents if agent.place.hub_id == HUB)

    def set_to(cut: bool) -> None:
        line.up_cut = line.down_cut = cut

    world.stage.after(from_ms, partial(set_to, True))
    world.stage.after(from_ms + for_ms, partial(set_to, False))


@pytest.mark.parametrize(
    ("work_ms", "limit_ms", "cut_ms"),
    [(30 * HOUR_MS, 32 * HOUR_MS, 24 * HOUR_MS), (90 * MINUTE_MS, 95 * MINUTE_MS, 60 * MINUTE_MS)],
    ids=["a-day", "a-class"],
)
def test_what_runs_outlives_the_cut_and_is_counted_once(work_ms: int, limit_ms: int, cut_ms: int) -> None:
    """A hub is gone for a day, or for an hour of a class: its program runs on, ends by itself, and its use is told once."""
    hours = (work_ms + HOUR_MS) / HOUR_MS
    disk = FaultyStore()
    world = Federation(Scenario(5, hubs=3, hours=hours, kinds=(), jobs_per_hub_hour=1), keep_trace=True, disk=disk)
    wish = a_wish(work_ms, limit_ms)
    world.people.want(wish, MINUTE_MS)
    cut_off(world, 10 * MINUTE_MS, cut_ms)
    world.run()  # every promise is checked at every step
    job = disk.get_job(wish.job_id)
    assert job is not None
    assert (job.state, job.attempts) == (JobState.SUCCEEDED, 1)
    seen = [line.split(maxsplit=1)[1] for line in world.stage.lines if f" {wish.job_id} " in line]
    assert [line.split()[1] for line in seen if line.startswith(HUB)] == ["runs", "ended"]
    used = stretches(disk, wish.job_id)
    assert [one.index for one in used] == list(range(len(used)))
    assert all(before.end_ms == after.start_ms for before, after in pairwise(used))
    assert 0 <= sum(one.end_ms - one.start_ms for one in used) - work_ms < 3 * MINUTE_MS  # staging is counted too
    returned_ms = BEGINS_MS + 10 * MINUTE_MS + cut_ms
    agent = world.plane.world.agents[next(key for key in world.plane.world.agents if key[0] == HUB)]
    assert agent.last_sync_ms > returned_ms


def stretches(disk: FaultyStore, job_id: str) -> list[UsageInterval]:
    """The job's use, in order."""
    (lease_id,) = (lease.id for lease in disk.tables.leases.values() if lease.job_id == job_id)
    return list(disk.usage_of(lease_id))
