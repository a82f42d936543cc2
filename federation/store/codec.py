"""Domain values to rows and back: tuples in the order of the table's columns, nested values as compact JSON.

Encoding is on the path of every submit and every transition, so it is written out by hand; decoding is on the path of
a start. A spec's JSON leaves defaults out, and a field it does not have takes the default: old rows stay readable.
Not here: protobuf (`spec_bytes` passes through as the bytes that were sent) and SQL.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from federation.domain.hub import Agent, Dataset, Hub, HubState, LinkState, Node
from federation.domain.ids import AgentId, HubId, JobId, LeaseId
from federation.domain.job import (
    Claim,
    Epoch,
    Input,
    Job,
    JobSpec,
    JobState,
    OnPartition,
    OutputFile,
    Owner,
    Priority,
    Reason,
)
from federation.domain.lease import Lease, LeaseState
from federation.domain.quantities import Amount, DevicesByTask, Resources
from federation.domain.usage import UsageInterval
from federation.errors import Code, Fault, FederationError
from federation.ports import EventMark, EventRow, RequestRow, UsedRow

Row = tuple[Any, ...]
T = TypeVar("T")

_json: Callable[[Any], str] = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode
_NOTHING = "[]"


def decoded(decode: Callable[[Row], T], rows: Sequence[Row]) -> tuple[T, ...]:
    """Each row as a value. Error: STORE_UNAVAILABLE naming the first row that cannot be read, never a guess at it."""
    values: list[T] = []
    for row in rows:
        try:
            values.append(decode(row))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise FederationError(
                Code.STORE_UNAVAILABLE,
                f"the store's row {str(row[0])[:80]!r} cannot be read: {error}",
                fault=Fault.FEDERATION,
                hint="Restore the store from a backup, or open it with the version that wrote it.",
                metadata={"row": str(row[0])[:80]},
            ) from error
    return tuple(values)


# ---- jobs -----------------------------------------------------------------------------------------------------------
def job_changing(job: Job) -> Row:
    """The columns of `schema.JOB_COLUMNS_CHANGING`."""
    epoch, result, reason = job.epoch, job.result_epoch, job.reason
    return (
        job.queue_seq,
        job.state.value,
        None if reason is None else _json((reason.code, reason.message, reason.hub_id, reason.metadata)),
        job.state_since_ms,
        job.attempts,
        None if epoch is None else epoch.incarnation,
        None if epoch is None else epoch.n,
        job.hub_id,
        job.agent_id,
        _json(job.nodes) if job.nodes else _NOTHING,
        job.started_ms,
        job.ended_ms,
        job.exit_code,
        job.progress,
        job.url,
        job.tracking_run_id,
        None if result is None else result.incarnation,
        None if result is None else result.n,
        _json([(file.path, file.size_bytes, file.sha256) for file in job.outputs]) if job.outputs else _NOTHING,
        job.revision,
        None if job.claim is None else _claim_json(job.claim),
    )


def job_row(job: Job) -> Row:
    """The columns of `schema.JOB_COLUMNS`."""
    owner = job.owner
    fixed = (job.id, owner.home_hub, owner.project, owner.issuer, owner.subject, job.created_ms, job.parent_job_id)
    return fixed + job_changing(job)


def spec_row(job: Job) -> Row:
    """(job_id, spec as JSON, spec_bytes)."""
    return (job.id, spec_json(job.spec), job.spec_bytes)


def job_of(row: Row) -> Job:
    """From the columns of `schema.JOB_COLUMNS`, spec and spec_bytes."""
    (
        (id_, home_hub, project, issuer, subject, created_ms, parent_job_id),
        (queue_seq, state, reason, state_since_ms, attempts, epoch_incarnation, epoch_n, hub_id, agent_id, nodes),
        (started_ms, ended_ms, exit_code, progress, url, tracking_run_id, result_incarnation, result_n, outputs),
        (revision, claim, spec, spec_bytes),
    ) = (row[:7], row[7:17], row[17:26], row[26:])
    return Job(
        id=JobId(id_),
        owner=Owner(home_hub, project, issuer, subject),
        spec=spec_of(spec),
        spec_bytes=bytes(spec_bytes),
        state=JobState(state),
        reason=None if reason is None else _reason(json.loads(reason)),
        created_ms=created_ms,
        state_since_ms=state_since_ms,
        queue_seq=queue_seq,
        attempts=attempts,
        epoch=None if epoch_incarnation is None else Epoch(epoch_incarnation, epoch_n),
        hub_id=HubId(hub_id),
        agent_id=AgentId(agent_id),
        nodes=_texts(nodes),
        started_ms=started_ms,
        ended_ms=ended_ms,
        exit_code=exit_code,
        progress=progress,
        url=url,
        tracking_run_id=tracking_run_id,
        parent_job_id=parent_job_id,
        result_epoch=None if result_incarnation is None else Epoch(result_incarnation, result_n),
        outputs=() if outputs == _NOTHING else tuple(OutputFile(*entry) for entry in json.loads(outputs)),
        revision=revision,
        claim=None if claim is None else _claim(json.loads(claim)),
    )


def _claim_json(claim: Claim) -> str:
    where = (claim.hub_id, claim.agent_id, claim.nodes, claim.devices)
    return _json((*where, claim.victims, claim.made_ms, claim.until_ms, claim.lost_ms))


def _claim(parts: list[Any]) -> Claim:
    hub_id, agent_id, nodes, devices, victims, made_ms, until_ms, lost_ms = parts
    return Claim(
        hub_id=HubId(hub_id),
        agent_id=AgentId(agent_id),
        nodes=tuple(nodes),
        devices=_devices(devices),
        victims=tuple(LeaseId(victim) for victim in victims),
        made_ms=made_ms,
        until_ms=until_ms,
        lost_ms=lost_ms,
    )


def _devices(by_task: list[list[int]]) -> DevicesByTask:
    return tuple(tuple(of_task) for of_task in by_task)


def _reason(parts: list[Any]) -> Reason:
    code, message, hub_id, entries = parts
    return Reason(code, message, hub_id, _pairs(entries))


def spec_json(spec: JobSpec) -> str:
    """The checked spec as a JSON object. It holds secret variables: it goes into the store's file and nowhere else."""
    values: dict[str, Any] = {
        "name": spec.name,
        "project": spec.project,
        "engine": spec.engine,
        "entrypoint": spec.entrypoint,
        "per_task": spec.per_task,
        "replicas": spec.replicas,
        "runtime_limit_ms": spec.runtime_limit_ms,
        "priority": int(spec.priority),
        "on_partition": int(spec.on_partition),
    }
    for name in _SPEC_MAY_BE_EMPTY:
        value = getattr(spec, name)
        if value:
            values[name] = value
    if spec.inputs:
        values["inputs"] = [(entry.dataset, entry.version, entry.alias) for entry in spec.inputs]
    return _json(values)


_SPEC_MAY_BE_EMPTY = (
    "package_digest",
    "arguments",
    "requirements",
    "variables",
    "secret_variables",
    "preemptible",
    "idempotent",
    "tracking",
    "hubs_allow",
    "hubs_deny",
    "hubs_prefer",
    "spread",
)


def spec_of(text: str) -> JobSpec:
    """The reverse of `spec_json`."""
    values = json.loads(text)
    found = values.get
    return JobSpec(
        name=values["name"],
        project=values["project"],
        engine=values["engine"],
        entrypoint=values["entrypoint"],
        per_task=_resources(values["per_task"]),
        replicas=values["replicas"],
        package_digest=found("package_digest", ""),
        arguments=tuple(found("arguments", ())),
        requirements=found("requirements", ""),
        variables=_pairs(found("variables", ())),
        secret_variables=_pairs(found("secret_variables", ())),
        inputs=tuple(Input(*entry) for entry in found("inputs", ())),
        runtime_limit_ms=values["runtime_limit_ms"],
        priority=Priority(values["priority"]),
        preemptible=found("preemptible", False),
        idempotent=found("idempotent", False),
        on_partition=OnPartition(values["on_partition"]),
        tracking=found("tracking", False),
        hubs_allow=tuple(found("hubs_allow", ())),
        hubs_deny=tuple(found("hubs_deny", ())),
        hubs_prefer=tuple(found("hubs_prefer", ())),
        spread=found("spread", False),
    )


def _texts(text: str) -> tuple[str, ...]:
    return () if text == _NOTHING else tuple(json.loads(text))


def _pairs(entries: Sequence[Sequence[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in entries)


def _resources(entries: Sequence[Sequence[Any]]) -> Resources:
    return _shared(tuple(Amount(*entry) for entry in entries))


@functools.lru_cache(maxsize=4096)
def _shared(of: Resources) -> Resources:
    """Ten thousand jobs ask for a handful of shapes: one object each, not ten thousand."""
    return of


# ---- leases, hubs, agents -------------------------------------------------------------------------------------------
def lease_row(lease: Lease) -> Row:
    """The columns of `schema.leases`."""
    return (
        lease.id,
        lease.job_id,
        lease.epoch.incarnation,
        lease.epoch.n,
        lease.hub_id,
        lease.agent_id,
        _json(lease.nodes),
        _json(lease.per_task),
        lease.state.value,
        int(lease.on_partition),
        lease.granted_ms,
        lease.expires_ms,
        lease.revoke_code,
        lease.revoke_message,
        lease.usage_stored,
        _json(lease.devices) if lease.devices else _NOTHING,
    )


def lease_of(row: Row) -> Lease:
    """The reverse of `lease_row`."""
    id_, job_id, incarnation, n, hub_id, agent_id, nodes, per_task, state, on_partition, *rest = row
    granted_ms, expires_ms, revoke_code, revoke_message, usage_stored, devices = rest
    return Lease(
        id=LeaseId(id_),
        job_id=JobId(job_id),
        epoch=Epoch(incarnation, n),
        hub_id=HubId(hub_id),
        agent_id=AgentId(agent_id),
        nodes=_texts(nodes),
        per_task=_resources(json.loads(per_task)),
        state=LeaseState(state),
        on_partition=OnPartition(on_partition),
        granted_ms=granted_ms,
        expires_ms=expires_ms,
        revoke_code=revoke_code,
        revoke_message=revoke_message,
        usage_stored=usage_stored,
        devices=() if devices == _NOTHING else _devices(json.loads(devices)),
    )


def hub_row(hub: Hub) -> Row:
    """The columns of `schema.hubs`."""
    return (hub.id, hub.title, hub.state.value, hub.note)


def hub_of(row: Row) -> Hub:
    """The reverse of `hub_row`."""
    id_, title, state, note = row
    return Hub(HubId(id_), title, HubState(state), note)


def agent_row(agent: Agent) -> Row:
    """The columns of `schema.agents`."""
    return (
        agent.hub_id,
        agent.agent_id,
        agent.instance_id,
        agent.session_id,
        agent.version,
        agent.link.value,
        agent.last_sync_ms,
        _json([(n.name, n.offered, n.capacity, n.load_cpu_milli, n.memory_available_bytes) for n in agent.nodes]),
        _json(agent.engines),
        _json([(d.name, d.version, d.size_bytes, d.policy, d.title, d.readers) for d in agent.datasets]),
        _json(agent.features),
        agent.round_trip_ms,
        agent.reclaim_ms,
        int(agent.takes_back),
    )


def agent_of(row: Row) -> Agent:
    """The reverse of `agent_row`."""
    hub_id, agent_id, instance_id, session_id, version, link, last_sync_ms, *rest = row
    nodes, engines, datasets, features, round_trip_ms, reclaim_ms, takes_back = rest
    return Agent(
        hub_id=HubId(hub_id),
        agent_id=AgentId(agent_id),
        instance_id=instance_id,
        session_id=session_id,
        version=version,
        link=LinkState(link),
        last_sync_ms=last_sync_ms,
        nodes=tuple(_node(*entry) for entry in json.loads(nodes)),
        engines=_texts(engines),
        datasets=tuple(_dataset(*entry) for entry in json.loads(datasets)),
        features=_texts(features),
        round_trip_ms=round_trip_ms,
        reclaim_ms=reclaim_ms,
        takes_back=bool(takes_back),
    )


def _node(name: str, offered: list[Any], capacity: list[Any], load_cpu_milli: int, memory_bytes: int) -> Node:
    return Node(name, _resources(offered), _resources(capacity), load_cpu_milli, memory_bytes)


def _dataset(name: str, version: str, size_bytes: int, policy: str, *rest: Any) -> Dataset:
    title, readers = rest
    return Dataset(name, version, size_bytes, policy, title, tuple(readers))


# ---- events, requests, usage ----------------------------------------------------------------------------------------
def event_row(event: EventRow, seq: int, incarnation: int) -> Row:
    """The columns of `schema.events`; seq and incarnation are the store's to give."""
    return (
        seq,
        event.at_ms,
        event.entity,
        event.entity_id,
        event.type,
        event.cause,
        event.actor,
        event.payload,
        event.schema_version,
        incarnation,
    )


def event_of(row: Row) -> EventRow:
    """The reverse of `event_row`."""
    seq, at_ms, entity, entity_id, type_, cause, actor, payload, schema_version, incarnation = row
    return EventRow(at_ms, entity, entity_id, type_, cause, actor, payload, schema_version, seq, incarnation)


def event_mark_of(row: Row) -> EventMark:
    """A row of `Statements.event_marks`."""
    seq, at_ms, entity, type_, job_id, state, since_ms = row
    return EventMark(seq, at_ms, entity, type_, job_id or "", None if state is None else JobState(state), since_ms or 0)


def request_row(request: RequestRow) -> Row:
    """The columns of `schema.requests`."""
    return (request.principal, request.request_id, request.body_digest, request.job_id, request.at_ms)


def request_of(row: Row) -> RequestRow:
    """The reverse of `request_row`."""
    principal, request_id, body_digest, job_id, at_ms = row
    return RequestRow(principal, request_id, body_digest, JobId(job_id), at_ms)


def usage_row(interval: UsageInterval) -> Row:
    """The columns of `schema.usage`."""
    return (interval.lease_id, interval.index, interval.start_ms, interval.end_ms)


def usage_of(row: Row) -> UsageInterval:
    """The reverse of `usage_row`."""
    lease_id, index, start_ms, end_ms = row
    return UsageInterval(LeaseId(lease_id), index, start_ms, end_ms)


def used_of(row: Row) -> UsedRow:
    """From a lease's columns, its job's owner, and how long it was in use until when."""
    home_hub, project, issuer, subject, used_ms, end_ms = row[-6:]
    return UsedRow(lease_of(row[:-6]), Owner(home_hub, project, issuer, subject), int(used_ms), end_ms)
