"""SyncHub's messages and the use case's values, both ways: all that the servicer and the simulator share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from federation.api.translate import devices_out, nodes_in, owner_out, reason_out, report_in
from federation.domain.job import Epoch, Job
from federation.domain.lease import Lease
from federation.lifecycle.job import found_over
from federation.service.logs import LogRead
from federation.service.sync import Heartbeat, Orders
from federation.v1 import common_pb2, hub_pb2


@dataclass(frozen=True, slots=True)
class LeaseLinks:
    """What a start is told beside its lease and spec. Where it finds what it needs; empty: nowhere."""

    package_url: str = ""
    tracking_uri: str = ""
    request_id: str = ""
    """Under which the job was submitted: its hub can say it to a control plane that forgot."""


def beat_in(request: hub_pb2.SyncHubRequest, hub_id: str) -> Heartbeat:
    """One SyncHub call of an agent of `hub_id`. Raises: FederationError INVALID_ARGUMENT, LIMIT_EXCEEDED."""
    return Heartbeat(
        request.session_id,
        tuple(report_in(report, hub_id) for report in request.changed),
        request.runs_digest,
        nodes_in(request.nodes),
        request.full,
        request.round_trip_ms,
        request.sync_seq,
        request.tells_all,
        (request.orders_incarnation, request.orders_revision),
    )


def answer_out(
    orders: Orders, reads: Sequence[LogRead], held_ms: int, now_ms: int, links: Callable[[Job], LeaseLinks]
) -> hub_pb2.SyncHubResponse:
    """The answer that says these orders, at `now_ms` of the control plane's clock."""
    if orders.superseded:
        return hub_pb2.SyncHubResponse(incarnation=orders.incarnation, superseded=True)
    return hub_pb2.SyncHubResponse(
        incarnation=orders.incarnation,
        orders_revision=orders.revision,
        leases=[_lease_out(lease, job, links(job), now_ms) for lease, job in orders.starts],
        revokes=[
            hub_pb2.Revoke(
                lease_id=one.lease_id,
                epoch=epoch_out(one.epoch),
                reason=reason_out(one.reason),
                grace_ms=one.grace_ms,
            )
            for one in orders.revokes
        ],
        renewals=[
            hub_pb2.Renewal(lease_id=lease.id, epoch=epoch_out(lease.epoch), valid_for_ms=valid_for_ms)
            for lease, valid_for_ms in orders.renewals
        ],
        releases=[hub_pb2.Release(lease_id=lease_id, epoch=epoch_out(epoch)) for lease_id, epoch in orders.releases],
        log_reads=[
            hub_pb2.ReadLogOrder(
                read_id=read.read_id,
                job_id=read.job_id,
                epoch=epoch_out(read.epoch),
                offset=read.offset,
                limit_bytes=read.limit_bytes,
            )
            for read in reads
        ],
        send_full=orders.send_full,
        send_all=orders.send_all,
        send_specs=orders.send_specs,
        usage_stored=orders.usage_stored,
        held_ms=held_ms,
    )


def _lease_out(lease: Lease, job: Job, links: LeaseLinks, now_ms: int) -> hub_pb2.Lease:
    return hub_pb2.Lease(
        lease_id=lease.id,
        job_id=job.id,
        epoch=epoch_out(lease.epoch),
        spec=job.spec_bytes,
        owner=owner_out(job.owner),
        nodes=lease.nodes,
        # What is left, not what was granted: an order that is delivered late must not outlive the server's clock. Nothing is
        # left of what was found over, also where that clock has been set back since.
        valid_for_ms=1 if found_over(job) else max(1, lease.expires_ms - now_ms),
        package_url=links.package_url,
        tracking_uri=links.tracking_uri,
        start=True,
        devices=devices_out(lease.devices),
        request_id=links.request_id,
        parent_job_id=job.parent_job_id,
    )


def epoch_out(epoch: Epoch) -> common_pb2.Epoch:
    """A lease's version."""
    return common_pb2.Epoch(incarnation=epoch.incarnation, n=epoch.n)
