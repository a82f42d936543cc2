"""Proto <-> records, both ways, and nothing else: no decisions, no calls. `link.py` makes the calls."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from federation.errors import Code, Fault, FederationError
from federation.v1 import common_pb2, hub_pb2, job_pb2
from hub_node.records import (
    Checkpoint,
    DatasetReport,
    Epoch,
    LeaseOrder,
    NodeReport,
    Orders,
    Outcome,
    OutputFile,
    ReadLogOrder,
    Reason,
    ReleaseOrder,
    RenewOrder,
    RevokeOrder,
    Run,
    RunState,
    Work,
)

log = logging.getLogger(__name__)

_STATES: Mapping[RunState, hub_pb2.RunState.ValueType] = {
    RunState.ACCEPTED: hub_pb2.RUN_STATE_ACCEPTED,
    RunState.STAGING: hub_pb2.RUN_STATE_STAGING,
    RunState.RUNNING: hub_pb2.RUN_STATE_RUNNING,
    RunState.STOPPING: hub_pb2.RUN_STATE_STOPPING,
    RunState.ENDED: hub_pb2.RUN_STATE_ENDED,
}
_OUTCOMES: Mapping[Outcome, hub_pb2.Outcome.ValueType] = {
    Outcome.NONE: hub_pb2.OUTCOME_UNSPECIFIED,
    Outcome.SUCCEEDED: hub_pb2.OUTCOME_SUCCEEDED,
    Outcome.FAILED: hub_pb2.OUTCOME_FAILED,
    Outcome.STOPPED: hub_pb2.OUTCOME_STOPPED,
    Outcome.REFUSED: hub_pb2.OUTCOME_REFUSED,
}
RUNTIME_LIMIT_MS = 600_000
"""Of a spec that does not say: what the control plane takes it for, too."""
_PARTITION = {
    common_pb2.ON_PARTITION_UNSPECIFIED: "keep",
    common_pb2.ON_PARTITION_KEEP: "keep",
    common_pb2.ON_PARTITION_STOP: "stop",
    common_pb2.ON_PARTITION_RERUN: "rerun",
}
_PRIORITY = {
    common_pb2.PRIORITY_CLASS_UNSPECIFIED: "batch",
    common_pb2.PRIORITY_CLASS_CLASS: "class",
    common_pb2.PRIORITY_CLASS_INTERACTIVE: "interactive",
    common_pb2.PRIORITY_CLASS_BATCH: "batch",
    common_pb2.PRIORITY_CLASS_SCAVENGER: "scavenger",
}


# ---- from the control plane -----------------------------------------------------------------------------------------
def orders_from(answer: hub_pb2.SyncHubResponse, sent_ms: int) -> Orders:
    """One answer. `sent_ms` is when the request was sent: every length is counted from there.

    A lease whose spec cannot be read is left out: it stays with the control plane, which repeats it or gives it up.
    """
    leases: list[LeaseOrder] = []
    for lease in answer.leases:
        try:
            leases += [lease_from(lease, sent_ms)] if lease.start else []
        except FederationError as error:
            log.error("a lease is left out: %s", error)
    return Orders(
        incarnation=answer.incarnation,
        revision=answer.orders_revision,
        sent_ms=sent_ms,
        leases=tuple(leases),
        revokes=tuple(
            RevokeOrder(one.lease_id, epoch_from(one.epoch), reason_from(one.reason), one.grace_ms)
            for one in answer.revokes
        ),
        renewals=tuple(
            RenewOrder(one.lease_id, epoch_from(one.epoch), sent_ms + one.valid_for_ms) for one in answer.renewals
        ),
        releases=tuple(ReleaseOrder(one.lease_id, epoch_from(one.epoch)) for one in answer.releases),
        log_reads=tuple(
            ReadLogOrder(one.read_id, one.job_id, epoch_from(one.epoch), one.offset, one.limit_bytes)
            for one in answer.log_reads
        ),
        send_full=answer.send_full,
        send_all=answer.send_all,
        usage_stored=dict(answer.usage_stored),
    )


def lease_from(lease: hub_pb2.Lease, sent_ms: int) -> LeaseOrder:
    """One lease. Raises: FederationError INVALID_ARGUMENT when its spec is not one."""
    spec = job_pb2.JobSpec()
    try:
        spec.ParseFromString(lease.spec)
    except Exception as problem:  # protobuf raises DecodeError, whose module is its own business
        raise FederationError(
            Code.INVALID_ARGUMENT,
            f"The spec of lease {lease.lease_id} cannot be read.",
            fault=Fault.FEDERATION,
            hint="Is this agent older than its control plane?",
            metadata={"lease_id": lease.lease_id},
        ) from problem
    return LeaseOrder(
        lease_id=lease.lease_id,
        job_id=lease.job_id,
        epoch=epoch_from(lease.epoch),
        work=work_from(spec, lease.owner.project),
        spec_bytes=lease.spec,
        home_hub=lease.owner.home_hub,
        issuer=lease.owner.issuer,
        subject=lease.owner.subject,
        nodes=tuple(lease.nodes),
        valid_until_ms=sent_ms + lease.valid_for_ms if lease.valid_for_ms else 0,
        package_url=lease.package_url,
        tracking_uri=lease.tracking_uri,
        devices=tuple(tuple(one.places) for one in lease.devices),
        request_id=lease.request_id,
        parent_job_id=lease.parent_job_id,
    )


def checkpoint_from(message: hub_pb2.Checkpoint) -> Checkpoint:
    """What an older attempt left."""
    files = tuple(OutputFile(one.file.path, one.file.size_bytes, one.file.sha256) for one in message.files)
    urls = tuple(one.get_url for one in message.files)
    return Checkpoint(message.checkpoint_id, files, urls, message.damaged)


def work_from(spec: job_pb2.JobSpec, project: str) -> Work:
    """What is to be run."""
    amounts: dict[str, int] = {}
    gpu_kind = ""
    for one in spec.demand.per_task:
        amounts[one.name] = amounts.get(one.name, 0) + one.amount
        if one.name == "gpu":
            gpu_kind = one.kind
    return Work(
        name=spec.name,
        project=project or spec.project,
        engine=spec.engine,
        entrypoint=spec.entrypoint,
        arguments=tuple(spec.arguments),
        requirements=spec.environment.requirements,
        variables=dict(spec.environment.variables),
        secret_variables=dict(spec.environment.secret_variables),
        package_digest=spec.package_digest,
        inputs=tuple((one.dataset, one.version, getattr(one, "as")) for one in spec.inputs),
        replicas=max(1, spec.demand.replicas),
        cpu_milli=amounts.get("cpu", 0),
        memory_bytes=amounts.get("memory", 0),
        disk_bytes=amounts.get("disk", 0),
        gpu_milli=amounts.get("gpu", 0),
        gpu_kind=gpu_kind,
        runtime_limit_ms=spec.runtime_limit_ms or RUNTIME_LIMIT_MS,
        priority=_PRIORITY.get(spec.priority, "batch"),
        preemptible=spec.preemptible,
        on_partition=_PARTITION.get(spec.on_partition, "keep"),
        tracking=spec.tracking,
    )


def epoch_from(epoch: common_pb2.Epoch) -> Epoch:
    """A lease's version."""
    return Epoch(epoch.incarnation, epoch.n)


def reason_from(reason: common_pb2.Reason) -> Reason:
    """Why."""
    return Reason(reason.code, reason.message, dict(reason.metadata))


# ---- to the control plane -------------------------------------------------------------------------------------------
def report_to(run: Run, usage: Iterable[tuple[int, int, int]] = (), log_bytes: int = 0) -> hub_pb2.RunReport:
    """What we say of a run. A program that is over while its result is still on its way is RUNNING to others."""
    ended = run.state is RunState.ENDED
    return hub_pb2.RunReport(
        lease_id=run.lease_id,
        job_id=run.lease.job_id,
        epoch=epoch_to(run.lease.epoch),
        state=_STATES[run.state],
        outcome=_OUTCOMES[run.outcome] if ended else hub_pb2.OUTCOME_UNSPECIFIED,
        reason=reason_to(run.reason) if run.reason is not None else None,
        exit_code=run.exit_code,
        started_ms=run.started_ms,
        ended_ms=run.ended_ms if ended else 0,
        progress=run.progress,
        url=run.url,
        tracking_run_id=run.tracking_run_id,
        outputs=[output_to(one) for one in run.outputs] if ended else [],
        usage=[hub_pb2.UsageInterval(index=index, start_ms=start, end_ms=end) for index, start, end in usage],
        log_bytes=log_bytes,
    )


def lease_to(run: Run, now_ms: int, with_spec: bool) -> hub_pb2.Lease:
    """What a run's lease said, for a control plane that forgot it."""
    lease = run.lease
    owner = common_pb2.Owner(
        home_hub=lease.home_hub, project=lease.work.project, issuer=lease.issuer, subject=lease.subject
    )
    return hub_pb2.Lease(
        lease_id=lease.lease_id,
        job_id=lease.job_id,
        epoch=epoch_to(lease.epoch),
        spec=lease.spec_bytes if with_spec else b"",
        owner=owner,
        nodes=lease.nodes,
        valid_for_ms=max(0, run.deadline_ms - now_ms),
        devices=[common_pb2.TaskDevices(places=places) for places in lease.devices],
        request_id=lease.request_id,
        parent_job_id=lease.parent_job_id,
    )


def add_usage(report: hub_pb2.RunReport, usage: Iterable[tuple[int, int, int]]) -> None:
    """Say these stretches of use, and no others."""
    del report.usage[:]
    report.usage.extend(hub_pb2.UsageInterval(index=index, start_ms=start, end_ms=end) for index, start, end in usage)


def digest_of(runs: Iterable[Run]) -> str:
    """The digest of all unreleased runs, as `SyncHubRequest.runs_digest` describes it."""
    lines = sorted(f"{run.lease_id}:{run.lease.epoch}" for run in runs)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def epoch_to(epoch: Epoch) -> common_pb2.Epoch:
    """A lease's version."""
    return common_pb2.Epoch(incarnation=epoch.incarnation, n=epoch.n)


def reason_to(reason: Reason) -> common_pb2.Reason:
    """Why."""
    return common_pb2.Reason(code=reason.code, message=reason.message, metadata=dict(reason.metadata))


def output_to(one: OutputFile) -> hub_pb2.OutputFile:
    """A file of the result."""
    return hub_pb2.OutputFile(path=str(PurePosixPath(one.path)), size_bytes=one.size_bytes, sha256=one.sha256)


def node_to(node: NodeReport) -> hub_pb2.Node:
    """A machine."""
    return hub_pb2.Node(
        name=node.name,
        offered=[common_pb2.Resource(name=name, kind=kind, amount=amount) for name, kind, amount in node.offered],
        capacity=[common_pb2.Resource(name=name, kind=kind, amount=amount) for name, kind, amount in node.capacity],
        load_cpu_milli=node.load_cpu_milli,
        memory_available_bytes=node.memory_available_bytes,
    )


def dataset_to(dataset: DatasetReport) -> hub_pb2.Dataset:
    """A dataset."""
    return hub_pb2.Dataset(
        name=dataset.name,
        version=dataset.version,
        size_bytes=dataset.size_bytes,
        policy=dataset.policy,
        title=dataset.title,
        readers=dataset.readers,
    )


def problem_to(error: FederationError) -> job_pb2.Problem:
    """An error inside an answer."""
    return job_pb2.Problem(
        code=error.code, message=error.message, fault=error.fault, hint=error.hint, metadata=dict(error.metadata)
    )
