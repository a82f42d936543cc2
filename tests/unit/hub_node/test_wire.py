"""Nothing is lost or bent between the wire and the records."""

from __future__ import annotations

from dataclasses import replace

from federation.v1 import common_pb2, hub_pb2, job_pb2
from hub_node import wire
from hub_node.records import (
    Epoch,
    Orders,
    Outcome,
    OutputFile,
    ReadLogOrder,
    Reason,
    ReleaseOrder,
    RenewOrder,
    RevokeOrder,
    RunState,
)
from tests.unit.hub_node.runs import a_run
from tests.unit.hub_node.scripted import spec_of

EPOCH = common_pb2.Epoch(incarnation=2, n=3)


def test_answer_becomes_orders_counted_from_when_we_asked() -> None:
    """Every kind of order arrives, and lengths count from the request's own time."""
    reason = common_pb2.Reason(code="CANCEL_REQUESTED", message="asked", metadata={"by": "amina"})
    answer = hub_pb2.SyncHubResponse(
        incarnation=2,
        orders_revision=9,
        leases=[
            hub_pb2.Lease(lease_id="l", job_id="j", epoch=EPOCH, spec=spec_of().SerializeToString(), valid_for_ms=50,
                          start=True, owner=common_pb2.Owner(home_hub="cairo", project="p", issuer="i", subject="s"),
                          devices=[common_pb2.TaskDevices(places=[1, 2]), common_pb2.TaskDevices(places=[0, 3])])
        ],
        revokes=[hub_pb2.Revoke(lease_id="r", epoch=EPOCH, reason=reason, grace_ms=5)],
        renewals=[hub_pb2.Renewal(lease_id="n", epoch=EPOCH, valid_for_ms=70)],
        releases=[hub_pb2.Release(lease_id="f", epoch=EPOCH)],
        log_reads=[hub_pb2.ReadLogOrder(read_id="x", job_id="j", epoch=EPOCH, offset=4, limit_bytes=8)],
        send_full=True,
        usage_stored={"f": 3},
    )  # fmt: skip
    orders = wire.orders_from(answer, sent_ms=1_000)
    (lease,) = orders.leases
    assert (lease.valid_until_ms, lease.home_hub, lease.work.project) == (1_050, "cairo", "p")
    assert lease.devices == ((1, 2), (0, 3))
    epoch = Epoch(2, 3)
    assert replace(orders, leases=()) == Orders(
        2,
        9,
        1_000,
        revokes=(RevokeOrder("r", epoch, Reason("CANCEL_REQUESTED", "asked", {"by": "amina"}), 5),),
        renewals=(RenewOrder("n", epoch, 1_070),),
        releases=(ReleaseOrder("f", epoch),),
        log_reads=(ReadLogOrder("x", "j", epoch, 4, 8),),
        send_full=True,
        usage_stored={"f": 3},
    )


def test_spec_becomes_work() -> None:
    """What was asked for, in base units and words; nothing said about partitions and class means keep and batch."""
    spec = spec_of("main.py", "spark", arguments=("--top", "10"), inputs=[job_pb2.Input(dataset="d", version="1")])
    spec.demand.replicas = 3
    spec.demand.per_task.add(name="gpu", kind="nvidia/A100", amount=500)
    spec.demand.per_task.add(name="memory", amount=7)
    spec.on_partition = common_pb2.ON_PARTITION_UNSPECIFIED
    work = wire.work_from(spec, "")
    assert (work.cpu_milli, work.memory_bytes, work.gpu_milli, work.gpu_kind, work.replicas) == (
        100, 7, 500, "nvidia/A100", 3,
    )  # fmt: skip
    assert (work.on_partition, work.priority, work.project) == ("keep", "batch", "default")
    assert (work.arguments, work.inputs) == (("--top", "10"), (("d", "1", ""),))


def test_spec_that_says_little_means_what_the_control_plane_takes_it_for() -> None:
    """A limit of nothing is ten minutes, not the end at once; no replicas are one."""
    work = wire.work_from(job_pb2.JobSpec(engine="command", entrypoint="x"), "p")
    assert (work.runtime_limit_ms, work.replicas, work.priority, work.on_partition) == (600_000, 1, "batch", "keep")


def test_lease_that_cannot_be_read_does_not_take_the_others_with_it() -> None:
    """One spec of garbage is left out; the other lease starts, and one that may not start is left alone."""
    good = spec_of().SerializeToString()
    answer = hub_pb2.SyncHubResponse(
        leases=[
            hub_pb2.Lease(lease_id="garbage", spec=b"\xff\xff\xff", start=True),
            hub_pb2.Lease(lease_id="good", spec=good, start=True),
            hub_pb2.Lease(lease_id="known", spec=good, start=False),
        ]
    )
    assert [lease.lease_id for lease in wire.orders_from(answer, 0).leases] == ["good"]


def test_run_whose_result_is_on_its_way_is_still_running_to_others() -> None:
    """Between the program's end and the stored result a job has not ended: neither outcome nor output is told."""
    files = (OutputFile("a", 1, "00"),)
    run = a_run(outcome=Outcome.SUCCEEDED, outputs=files, ended_ms=5, state=RunState.RUNNING)
    report = wire.report_to(run)
    assert (report.state, report.outcome, report.ended_ms) == (hub_pb2.RUN_STATE_RUNNING, 0, 0)
    assert not report.outputs
    told = wire.report_to(replace(run, state=RunState.ENDED), usage=[(0, 1, 5)], log_bytes=9)
    assert (told.state, told.outcome, told.ended_ms, told.log_bytes) == (
        hub_pb2.RUN_STATE_ENDED, hub_pb2.OUTCOME_SUCCEEDED, 5, 9,
    )  # fmt: skip
    assert [one.path for one in told.outputs] == ["a"]
    assert [(one.index, one.start_ms, one.end_ms) for one in told.usage] == [(0, 1, 5)]


def test_digest_is_the_control_planes() -> None:
    """sha256 over the sorted lines "lease_id:incarnation-n", joined by line ends; of nothing, that of nothing."""
    import hashlib

    runs = [a_run("job-2", 3), a_run("job-1", 1)]
    expected = hashlib.sha256(b"lease-job-1-1:1-1\nlease-job-2-3:1-3").hexdigest()
    assert wire.digest_of(runs) == expected
    assert wire.digest_of([]) == hashlib.sha256(b"").hexdigest()
