"""Wire to nouns and back. What cannot be said in the nouns is refused here, by field; ranges are the domain's to check."""

from __future__ import annotations

import contextlib
import enum
import functools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import DecodeError

from federation.domain.hub import (
    HUB_AMOUNT_MAX,
    NODES_PER_AGENT_MAX,
    RECLAIM_MS_DEFAULT,
    RECLAIM_MS_MAX,
    Agent,
    Dataset,
    HubState,
    LinkState,
    Node,
)
from federation.domain.ids import JobId, LeaseId, checked_name, checked_request_id, is_id
from federation.domain.job import (
    REPLICAS_MAX,
    SPEC_BYTES_MAX,
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
    check_spec,
)
from federation.domain.lease import LeaseState, ends_by_ms, room_expected_ms
from federation.domain.quantities import ANY_OF, DevicesByTask, Resources, resources, summed_kinds
from federation.errors import Code, FederationError, invalid
from federation.lifecycle.job import Trigger
from federation.objects.checkpoints import Saved, SavedFile
from federation.service.attempts import Attempt
from federation.service.checkpoints import Newest
from federation.service.hubs import HubView
from federation.service.restoring import Told, body_digest
from federation.service.submit import Submission, Submitted
from federation.service.sync import RunReport
from federation.v1 import common_pb2, hub_pb2, job_pb2

if TYPE_CHECKING:
    from federation.service.policies import PolicyView  # loads the planner, for which nobody waits at a start

SPEC_VERSION = 1
OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"
REASON_ENTRIES_MAX, REASON_TEXT_MAX = 32, 500
TOLD_TEXT_MAX = 200
PLACES_MAX = 1_024
"""Of devices in one node."""
E = TypeVar("E", bound=enum.IntEnum)
_STATES = {state: common_pb2.JobState.Value(f"JOB_STATE_{state}") for state in JobState}
_STATES_BACK: dict[int, JobState] = {number: state for state, number in _STATES.items()}
_LINKS = {link: hub_pb2.LinkState.Value(f"LINK_STATE_{link}") for link in LinkState}
_HUB_STATES = {state: hub_pb2.HubState.Value(f"HUB_STATE_{state}") for state in HubState}
_RUN_TRIGGERS = {
    hub_pb2.RUN_STATE_ACCEPTED: Trigger.RUN_ACCEPTED,
    hub_pb2.RUN_STATE_STAGING: Trigger.RUN_STAGING,
    hub_pb2.RUN_STATE_RUNNING: Trigger.RUN_STARTED,
    hub_pb2.RUN_STATE_STOPPING: Trigger.RUN_STOPPING,
}
_END_TRIGGERS = {
    hub_pb2.OUTCOME_SUCCEEDED: Trigger.RUN_SUCCEEDED,
    hub_pb2.OUTCOME_FAILED: Trigger.RUN_FAILED,
    hub_pb2.OUTCOME_STOPPED: Trigger.RUN_STOPPED,
    hub_pb2.OUTCOME_REFUSED: Trigger.RUN_REFUSED,
}


# ---- jobs, inwards --------------------------------------------------------------------------------------------------
def parsed_spec(data: bytes) -> job_pb2.JobSpec:
    """The message in `data`; INVALID_ARGUMENT or LIMIT_EXCEEDED when it is none."""
    if len(data) > SPEC_BYTES_MAX:
        raise invalid(
            f"the spec has {len(data)} bytes; the limit is {SPEC_BYTES_MAX}",
            hint="Send large data as a package or a dataset.",
            code=Code.LIMIT_EXCEEDED,
            field="spec",
            limit=str(SPEC_BYTES_MAX),
        )
    try:
        return job_pb2.JobSpec.FromString(data)
    except DecodeError:
        raise invalid(
            "the spec is not a serialized JobSpec", hint="Send the bytes of a federation.v1.JobSpec.", field="spec"
        ) from None


def spec_in(message: job_pb2.JobSpec) -> JobSpec:
    """A checked spec, or an error that names the field."""
    if message.version != SPEC_VERSION:
        raise invalid(
            f"spec version {message.version} is unknown", hint=f"Use version: {SPEC_VERSION}.", field="version"
        )
    environment = message.environment if message.HasField("environment") else None
    hubs = message.hubs if message.HasField("hubs") else None
    return check_spec(
        JobSpec(
            name=message.name,
            project=message.project or "default",
            engine=message.engine,
            entrypoint=message.entrypoint,
            per_task=resources_in(message.demand.per_task),
            replicas=message.demand.replicas or 1,
            package_digest=message.package_digest,
            arguments=tuple(message.arguments),
            requirements=environment.requirements if environment else "",
            variables=tuple(sorted(environment.variables.items())) if environment else (),
            secret_variables=tuple(sorted(environment.secret_variables.items())) if environment else (),
            inputs=tuple(Input(one.dataset, one.version, getattr(one, "as") or one.dataset) for one in message.inputs),
            runtime_limit_ms=message.runtime_limit_ms or 600_000,
            priority=_enum(Priority, message.priority, Priority.BATCH, "priority"),
            preemptible=message.preemptible,
            idempotent=message.idempotent,
            on_partition=_enum(OnPartition, message.on_partition, OnPartition.KEEP, "on_partition"),
            tracking=message.tracking,
            hubs_allow=tuple(hubs.allow) if hubs else (),
            hubs_deny=tuple(hubs.deny) if hubs else (),
            hubs_prefer=tuple(hubs.prefer) if hubs else (),
            spread=_spread(message.demand.placement),
        )
    )


def _spread(placement: int) -> bool:
    if placement not in job_pb2.Placement.values():
        raise invalid(
            f"placement {placement} is unknown", hint="Is the other side newer than this one?", field="demand.placement"
        )
    return placement == job_pb2.PLACEMENT_SPREAD


def _enum(kind: type[E], number: int, default: E, field: str) -> E:
    if number == 0:
        return default
    try:
        return kind(number)
    except ValueError:
        raise invalid(
            f"{field} {number} is unknown", hint="Is the other side newer than this one?", field=field
        ) from None


def resources_in(entries: object) -> Resources:
    """A checked resource vector."""
    return _checked(*[(entry.name, entry.kind, entry.amount) for entry in entries])  # type: ignore[attr-defined]


@functools.lru_cache(maxsize=4096)
def _checked(*amounts: tuple[str, str, int]) -> Resources:
    """Ten thousand jobs ask for a handful of shapes: each is checked once, and kept once."""
    return resources(*amounts)


def submission_in(message: job_pb2.Submission, owner: Owner) -> Submission:
    """One member of a batch. A spec that does not hold becomes the member's `problem`; the rest of the batch goes on."""
    digest = body_digest(message.spec, message.parent_job_id)
    try:
        spec = spec_in(parsed_spec(message.spec))
    except FederationError as problem:
        return Submission(message.request_id, None, b"", digest, owner, message.parent_job_id, problem)
    if spec.project != owner.project:
        owner = Owner(owner.home_hub, spec.project, owner.issuer, owner.subject)
    return Submission(message.request_id, spec, message.spec, digest, owner, message.parent_job_id)


# ---- jobs, outwards -------------------------------------------------------------------------------------------------
def job_out(job: Job, each_attempt: Iterable[Attempt] = (), checkpoint: Newest | None = None) -> job_pb2.Job:
    """The job as its owner may see it: secret variables are blanked."""
    return job_pb2.Job(
        id=job.id,
        spec=public_spec(job.spec_bytes),
        owner=owner_out(job.owner),
        state=state_out(job.state),
        reason=None if job.reason is None else reason_out(job.reason),
        hub_id=job.hub_id,
        agent_id=job.agent_id,
        nodes=job.nodes,
        attempt="" if job.epoch is None else str(job.epoch),
        attempts=job.attempts,
        created_ms=job.created_ms,
        state_since_ms=job.state_since_ms,
        started_ms=job.started_ms,
        ended_ms=job.ended_ms,
        progress=job.progress,
        url=job.url,
        tracking_run_id=job.tracking_run_id,
        parent_job_id=job.parent_job_id,
        exit_code=job.exit_code,
        revision=job.revision,
        claim=None if job.claim is None else claim_out(job.claim),
        each_attempt=[attempt_out(attempt) for attempt in each_attempt],
        ends_by_ms=ends_by_ms(job),
        checkpoint=None if checkpoint is None else newest_out(checkpoint),
    )


def newest_out(checkpoint: Newest) -> job_pb2.SavedCheckpoint:
    """The wire's note of a job's newest checkpoint."""
    return job_pb2.SavedCheckpoint(
        checkpoint_id=checkpoint.place.name,
        saved_ms=checkpoint.saved_ms,
        size_bytes=checkpoint.size_bytes,
        files=checkpoint.files,
    )


def attempt_out(attempt: Attempt) -> job_pb2.Attempt:
    """The wire's attempt."""
    return job_pb2.Attempt(
        attempt=attempt.attempt,
        hub_id=attempt.hub_id,
        queued_ms=attempt.queued_ms,
        started_ms=attempt.started_ms,
        ended_ms=attempt.ended_ms,
        asked=attempt.asked,
    )


def claim_out(claim: Claim) -> job_pb2.Claim:
    """The wire's claim."""
    return job_pb2.Claim(
        hub_id=claim.hub_id,
        agent_id=claim.agent_id,
        nodes=claim.nodes,
        devices=devices_out(claim.devices),
        victims=claim.victims,
        made_ms=claim.made_ms,
        until_ms=claim.until_ms,
        lost_ms=claim.lost_ms,
        expected_ms=room_expected_ms(claim),
    )


def devices_out(devices: DevicesByTask) -> list[common_pb2.TaskDevices]:
    """The wire's devices, task by task."""
    return [common_pb2.TaskDevices(places=places) for places in devices]


def public_spec(data: bytes) -> job_pb2.JobSpec:
    """The spec without its secret variables."""
    spec = job_pb2.JobSpec.FromString(data)
    spec.environment.secret_variables.clear()
    return spec


def state_out(state: JobState) -> common_pb2.JobState.ValueType:
    """The wire's number."""
    return _STATES[state]


def state_in(number: int) -> JobState:
    """The noun; INVALID_ARGUMENT."""
    if number not in _STATES_BACK:
        raise invalid(
            f"job state {number} is unknown", hint="Use the JobState values of federation.v1.", field="states"
        )
    return _STATES_BACK[number]


def owner_out(owner: Owner) -> common_pb2.Owner:
    """The wire's owner."""
    return common_pb2.Owner(home_hub=owner.home_hub, project=owner.project, issuer=owner.issuer, subject=owner.subject)


def reason_out(reason: Reason) -> common_pb2.Reason:
    """The wire's reason."""
    return common_pb2.Reason(
        code=reason.code, hub_id=reason.hub_id, message=reason.message, metadata=dict(reason.metadata)
    )


def problem_out(error: FederationError) -> job_pb2.Problem:
    """An error inside an answer."""
    return job_pb2.Problem(
        code=error.code, message=error.message, fault=error.fault, hint=error.hint, metadata=error.metadata
    )


def submitted_out(answer: Submitted) -> job_pb2.SubmitResult:
    """The answer to one member."""
    problem = None if answer.problem is None else problem_out(answer.problem)
    return job_pb2.SubmitResult(request_id=answer.request_id, job_id=answer.job_id, problem=problem)


# ---- hubs, inwards --------------------------------------------------------------------------------------------------
def epoch_in(message: common_pb2.Epoch) -> Epoch:
    """The noun."""
    return Epoch(message.incarnation, message.n)


def saved_in(message: hub_pb2.OutputFile) -> SavedFile:
    """A file of a checkpoint, not yet checked."""
    return SavedFile(message.path, message.size_bytes, message.sha256)


def checkpoint_out(saved: Saved, links: Sequence[str]) -> hub_pb2.Checkpoint:
    """A checkpoint with a link for each of its files."""
    place = saved.place
    return hub_pb2.Checkpoint(
        checkpoint_id=place.name,
        epoch=common_pb2.Epoch(incarnation=place.incarnation, n=place.n),
        saved_ms=saved.saved_ms,
        files=[
            hub_pb2.CheckpointFile(
                file=hub_pb2.OutputFile(path=one.path, size_bytes=one.size_bytes, sha256=one.sha256), get_url=link
            )
            for one, link in zip(saved.files, links, strict=True)
        ],
        damaged=saved.damaged,
    )


def node_in(message: hub_pb2.Node) -> Node:
    """A machine; its name and amounts are checked. Kinds of what has none are added up."""
    if not 0 < len(message.name) <= 253 or not message.name.isprintable():
        raise invalid("a node's name is empty, too long or not printable", field="nodes.name")
    offered, capacity = summed_kinds(resources_in(message.offered)), summed_kinds(resources_in(message.capacity))
    for _, kind, _ in (*offered, *capacity):
        if ANY_OF in kind:
            raise invalid(f"gpu kind {kind[:80]!r} holds a {ANY_OF!r}", field="nodes.offered", kind=kind[:80])
    return Node(
        message.name,
        offered,
        capacity,
        max(0, message.load_cpu_milli),
        max(0, message.memory_available_bytes),
    )


def nodes_in(messages: Sequence[hub_pb2.Node]) -> tuple[Node, ...]:
    """An agent's machines; each name once."""
    if len(messages) > NODES_PER_AGENT_MAX:
        raise invalid(
            f"{len(messages)} nodes are over the limit of {NODES_PER_AGENT_MAX}",
            hint="Put several agents in front of them.",
            code=Code.LIMIT_EXCEEDED,
            field="nodes",
            limit=str(NODES_PER_AGENT_MAX),
        )
    nodes = tuple(node_in(node) for node in messages)
    if len({node.name for node in nodes}) != len(nodes):
        raise invalid("two nodes have one name", hint="Give each machine its own.", field="nodes.name")
    _check_offer(nodes)
    return nodes


def _check_offer(nodes: Sequence[Node]) -> None:
    """One agent may offer as much as a whole hub, and no more: the sums of all hubs must fit the planner's numbers."""
    totals: Counter[str] = Counter()
    for node in nodes:
        for name, _, amount in node.offered:
            totals[name] += amount
    for name, total in sorted(totals.items()):
        if total > HUB_AMOUNT_MAX:
            raise invalid(
                f"its nodes offer {total} of {name} together; a whole hub may offer {HUB_AMOUNT_MAX}",
                hint="Offer less of it: see the hub's share policy.",
                code=Code.LIMIT_EXCEEDED,
                field="nodes.offered",
                resource=name,
                limit=str(HUB_AMOUNT_MAX),
            )


def dataset_in(message: hub_pb2.Dataset) -> Dataset:
    """A dataset that a hub announces."""
    return Dataset(
        checked_name("dataset", message.name),
        message.version[:128],
        max(0, message.size_bytes),
        message.policy or "members",
        message.title[:200],
        tuple(message.readers),
    )


def agent_in(message: hub_pb2.OpenSessionRequest, session_id: str) -> Agent:
    """The agent that introduces itself."""
    return Agent(
        hub_id=checked_name("hub_id", message.hub_id),  # type: ignore[arg-type]
        agent_id=checked_name("agent_id", message.agent_id),  # type: ignore[arg-type]
        instance_id=message.instance_id[:128],
        session_id=session_id,
        version=message.agent_version[:64],
        link=LinkState.ONLINE,
        last_sync_ms=0,
        nodes=nodes_in(message.nodes),
        engines=tuple(sorted(set(message.engines))),
        datasets=tuple(dataset_in(dataset) for dataset in message.datasets),
        features=tuple(sorted(set(message.features))),
        reclaim_ms=_reclaim_ms(message),
        takes_back=message.takes_back,
    )


def _reclaim_ms(message: hub_pb2.OpenSessionRequest) -> int:
    """What the hub's policy gives a preempted guest; agents of before say nothing."""
    if not message.HasField("reclaim_ms"):
        return RECLAIM_MS_DEFAULT
    if not 0 <= message.reclaim_ms <= RECLAIM_MS_MAX:
        raise invalid(
            f"reclaim_ms of {message.reclaim_ms} is out of range",
            hint=f"A hub takes its machines back within 0 to {RECLAIM_MS_MAX} ms.",
            field="reclaim_ms",
        )
    return message.reclaim_ms


def report_in(message: hub_pb2.RunReport, hub_id: str) -> RunReport:
    """What a hub says of a run."""
    trigger, reason = _trigger_in(message), None
    if trigger is None:
        raise invalid(f"run state {message.state} with outcome {message.outcome} means nothing", field="changed.state")
    if message.state == hub_pb2.RUN_STATE_ENDED and message.outcome not in _END_TRIGGERS:
        words = f"it ended with outcome {message.outcome}, which only a newer version knows. Upgrade the control plane."
        reason = Reason(OUTCOME_UNKNOWN, words, hub_id)
    elif message.HasField("reason"):
        said = message.reason
        metadata = sorted(said.metadata.items())[:REASON_ENTRIES_MAX]
        parts = tuple((name[:REASON_TEXT_MAX], text[:REASON_TEXT_MAX]) for name, text in metadata)
        reason = Reason(said.code[:64], said.message[:2000], hub_id, parts)
    return RunReport(
        LeaseId(message.lease_id),
        JobId(message.job_id),
        epoch_in(message.epoch),
        trigger,
        reason,
        exit_code=message.exit_code,
        started_ms=message.started_ms,
        ended_ms=message.ended_ms,
        progress=message.progress[:500],
        url=message.url[:2000],
        tracking_run_id=message.tracking_run_id[:64],
        outputs=tuple(OutputFile(one.path, one.size_bytes, one.sha256) for one in message.outputs),
        usage=tuple((one.index, one.start_ms, one.end_ms) for one in message.usage),
        told=told_in(message) if message.HasField("lease") else None,
        released=message.released,
    )


def _trigger_in(message: hub_pb2.RunReport) -> Trigger | None:
    """What the report brings about; None: it means nothing. Words of a newer agent are taken for the nearest of ours.

    One word that is not known may not cost a hub all that it says: its other runs would lose their renewals.
    """
    if message.state == hub_pb2.RUN_STATE_ENDED:
        newer = message.outcome > max(_END_TRIGGERS)
        return Trigger.RUN_FAILED if newer else _END_TRIGGERS.get(message.outcome)
    if message.state > hub_pb2.RUN_STATE_ENDED:
        return Trigger.RUN_STARTED if message.started_ms else Trigger.RUN_ACCEPTED
    return _RUN_TRIGGERS.get(message.state)


def told_in(message: hub_pb2.RunReport) -> Told:
    """What a hub's journal says of a lease, for a restored store. A spec that cannot be one leaves its bytes alone."""
    said, spec = message.lease, None
    owner = Owner(*(text[:TOLD_TEXT_MAX] for text in _owner_parts(said.owner)))
    if said.spec and is_id(message.job_id) and is_id(message.lease_id):
        with contextlib.suppress(FederationError):  # its bytes go on alone
            spec = spec_in(parsed_spec(said.spec))
            owner = Owner(owner.home_hub, spec.project, owner.issuer, owner.subject)
    request_id = ""
    with contextlib.suppress(FederationError):  # without one, only a repeated submission makes a second job
        request_id = checked_request_id(said.request_id) if said.request_id else ""
    return Told(
        owner=owner,
        nodes=tuple(name[:TOLD_TEXT_MAX] for name in said.nodes[:REPLICAS_MAX]),
        devices=_places_in(said.devices[:REPLICAS_MAX]),
        left_ms=max(0, said.valid_for_ms),
        spec=spec,
        spec_bytes=said.spec[:SPEC_BYTES_MAX],
        request_id=request_id,
        parent_job_id=said.parent_job_id[:TOLD_TEXT_MAX],
    )


def _places_in(said: Sequence[common_pb2.TaskDevices]) -> DevicesByTask:
    """The devices of each task; none where any of them can be no place in a node's list, or is said twice."""
    devices = tuple(tuple(one.places) for one in said)
    there = all(len({*places}) == len(places) and all(0 <= at < PLACES_MAX for at in places) for places in devices)
    return devices if there else ()


def _owner_parts(owner: common_pb2.Owner) -> tuple[str, str, str, str]:
    return owner.home_hub, owner.project, owner.issuer, owner.subject


# ---- hubs, outwards -------------------------------------------------------------------------------------------------
def resources_out(of: Resources) -> list[common_pb2.Resource]:
    """The wire's vector."""
    return [common_pb2.Resource(name=name, kind=kind, amount=amount) for name, kind, amount in of]


def hub_out(view: HubView) -> hub_pb2.Hub:
    """A hub with its agents, nodes, what is leased on each, and its datasets."""
    leased: dict[tuple[str, str], dict[tuple[str, str], int]] = {}
    for lease in view.leases:
        for node in lease.nodes:
            held = leased.setdefault((lease.agent_id, node), {})
            for name, kind, amount in lease.per_task:
                held[name, kind] = held.get((name, kind), 0) + amount
    datasets = {(one.name, one.version): one for agent in view.agents for one in agent.datasets}
    return hub_pb2.Hub(
        id=view.hub.id,
        title=view.hub.title,
        state=_HUB_STATES[view.hub.state],
        leases=len(view.leases),
        ending=sum(lease.state is LeaseState.REVOKING for lease in view.leases),
        agents=[_agent_out(agent, leased) for agent in view.agents],
        datasets=[_dataset_out(datasets[key]) for key in sorted(datasets)],
        problems=view.problems,
    )


def _agent_out(agent: Agent, leased: dict[tuple[str, str], dict[tuple[str, str], int]]) -> hub_pb2.Agent:
    nodes = []
    for node in agent.nodes:
        held = leased.get((agent.agent_id, node.name), {})
        nodes.append(
            hub_pb2.Node(
                name=node.name,
                offered=resources_out(node.offered),
                capacity=resources_out(node.capacity),
                leased=[common_pb2.Resource(name=n, kind=k, amount=a) for (n, k), a in sorted(held.items())],
                load_cpu_milli=node.load_cpu_milli,
                memory_available_bytes=node.memory_available_bytes,
            )
        )
    return hub_pb2.Agent(
        agent_id=agent.agent_id,
        version=agent.version,
        link=_LINKS[agent.link],
        last_sync_ms=agent.last_sync_ms,
        nodes=nodes,
        engines=agent.engines,
        features=agent.features,
        round_trip_ms=agent.round_trip_ms,
        reclaim_ms=agent.reclaim_ms,
        takes_back=agent.takes_back,
    )


def _dataset_out(dataset: Dataset) -> hub_pb2.Dataset:
    return hub_pb2.Dataset(
        name=dataset.name,
        version=dataset.version,
        size_bytes=dataset.size_bytes,
        policy=dataset.policy,
        title=dataset.title,
        readers=dataset.readers,
    )


# ---- policy, outwards -----------------------------------------------------------------------------------------------
def policy_out(view: PolicyView) -> hub_pb2.Policy:
    """The wire's policy."""
    policy = view.policy
    made = hub_pb2.Policy(
        within_user=policy.order,
        backfill=view.backfill,
        reservations=policy.promises_max,
        promise_after_ms=policy.patience_ms,
        half_life_ms=policy.fairness.half_life_ms,
        contribution_gain=policy.fairness.gain,
        contribution_cap=policy.fairness.cap,
        placements_max=policy.placements_max,
        shipped=view.shipped,
    )
    for level, weight in view.weights:
        made.weights.add(**_level_out(level), weight=weight)
    for level, most in view.quotas:
        amounts = [common_pb2.Resource(name=name, amount=amount) for name, amount in sorted(most.items())]
        made.quotas.add(**_level_out(level), most=amounts)
    return made


def _level_out(level: tuple[str, ...]) -> dict[str, str]:
    return dict(zip(("hub", "project", "user"), level, strict=False))
