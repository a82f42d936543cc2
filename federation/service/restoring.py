"""After a restore: what the store has forgotten, the hubs still know. It is adopted, and nothing starts a second time.

A backup took the store's place under a higher incarnation (`federation/store/backup.py`). What was granted since the backup
is not in it, and may run. So:

- **Every agent is awaited** until it has told *all*: its full list, with the runs that the control plane of before had
  released. Agents of the backup are known to be awaited; others that joined since are once they open a session. Where
  another machine speaks under an agent's name, the one that the backup knows is waited for all the same (`unheard`).
- **What an agent reports under an epoch of before is adopted** when it is later than what the store knows of the job: the
  lease, live or over, is the job's (`adopt`). A job that the store does not know is made anew from the spec and the owner in
  the hub's journal, under its own id, and its request id answers with it again.
- **A job of before waits** (`held`) while it may have been started since: until every awaited agent has told all, and, as
  agents that joined since may not be known, until any lease of it would be over. The latter not where the restore said that
  all agents are known. Also what may run twice (`idempotent`) does not run twice at once.
- A lease that its agent never acknowledged is not sent again: the job waits, like the others.

Deliberately not here: the incarnation itself, and what agents drop because of it (`hub_node/reconcile.is_stale`).
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from federation.domain.hub import Agent
from federation.domain.ids import AgentKey, JobId, LeaseId, is_id
from federation.domain.job import RUNTIME_LIMIT_MS_MAX, Epoch, Job, JobSpec, JobState, Owner, Reason
from federation.domain.lease import Lease, LeaseState, over_after_ms
from federation.domain.plan import ReasonCode
from federation.domain.quantities import DevicesByTask
from federation.lifecycle.commit import STAGING_MS, lease_ms
from federation.lifecycle.job import Fact, Trigger
from federation.ports import RequestRow, Store
from federation.service.attempts import EVENTS_READ_MAX
from federation.service.jobs import apply, cancel, find
from federation.service.world import ACTOR_CONTROL, Restoration, Unit, World

if TYPE_CHECKING:
    from federation.scheduling.explaining import Explanation  # loads the planner, for which nobody waits at a start

AGENTS_NAMED_MAX = 5
SPECS_ASKED_MAX = 64
"""Of unknown jobs, in one answer; the agent sends as many as fit into a message."""
TELLS_ALL = "tells-all"
"""The feature of an agent that keeps what was released and can tell it again."""


@dataclass(frozen=True, slots=True)
class Told:
    """What an agent knows of a run's lease, from its journal; empty where it does not say."""

    owner: Owner
    nodes: tuple[str, ...] = ()
    devices: DevicesByTask = ()
    left_ms: int = 0
    """How long its right lasts, from now; 0: not told."""
    spec: JobSpec | None = None
    spec_bytes: bytes = field(default=b"", repr=False)
    request_id: str = ""
    parent_job_id: str = ""


class Verdict(enum.Enum):
    """What becomes of a run that the store does not have."""

    ADOPTED = enum.auto()
    SPEC_WANTED = enum.auto()
    """The store does not know the job, and must be told what it is."""
    LATER = enum.auto()
    """The agent is about to tell all; until then nothing is said of it."""
    OVER = enum.auto()
    """The store knows better, the job has gone on since; or nobody can say what it was."""


def held(world: World, job: Job, now_ms: int) -> bool:
    """Whether a waiting job may have been started since the backup, so that nobody starts it now."""
    since = world.restoration
    if since is None or job.state is not JobState.QUEUED or not open_to(world, now_ms):
        return False
    if _came_since(world, since, job) or now_ms >= held_until_ms(since, job):
        return False
    return bool(world.awaited or world.unheard) or not since.agents_complete


def _came_since(world: World, since: Restoration, job: Job) -> bool:
    """Whether nobody but us can have started the job. Not by the clock: somebody may have set it meanwhile."""
    if job.epoch is not None:
        return job.epoch.incarnation == world.incarnation
    retried = job.state_since_ms != job.created_ms  # it took a new place in the line, and may have been started before
    return job.queue_seq > since.seq and not retried


def held_until_ms(since: Restoration, job: Job) -> int:
    """When any lease that was granted before the restore is over for certain."""
    return since.counted_ms + lease_ms(job) + over_after_ms(lease_ms(job))


def counted_again(world: World, now_ms: int) -> None:
    """The clock was set, or nobody looked for a while: what was granted before the restore is counted from now."""
    if world.restoration is not None:
        world.restoration = replace(world.restoration, counted_ms=now_ms)


def explained(world: World, job: Job) -> Explanation:
    """Why a job that is held waits, and until when at the latest."""
    from federation.scheduling.explaining import Explanation
    from federation.scheduling.words import clock

    since = world.restoration
    assert since is not None, "only a restore holds jobs"
    silent = ", ".join("/".join(key) for key in list(world.awaited | world.unheard)[:AGENTS_NAMED_MAX])
    who = f"agents that have not yet said what they run ({silent})" if silent else "an agent that joined since"
    until_ms = held_until_ms(since, job)
    message = (
        f"the store was restored from a backup, and {who} may run it; it starts at {clock(until_ms)} at the latest"
    )
    return Explanation((Reason(ReasonCode.RESTORED, message),), until_ms)


def open_to(world: World, now_ms: int) -> bool:
    """Whether a run of before may still be news."""
    since = world.restoration
    longest_ms = RUNTIME_LIMIT_MS_MAX + STAGING_MS
    return since is not None and now_ms < since.at_ms + longest_ms + over_after_ms(longest_ms)


def asked_since(world: World, seq: int, now_ms: int) -> bool:
    """Whether a fact of that seq came after the restore, and a run of before may still be news: `_cancelled_since` reads it."""
    return world.restoration is not None and seq > world.restoration.seq and open_to(world, now_ms)


def unsure(world: World, now_ms: int) -> bool:
    """Whether a job that is over in the backup may have been retried since, and runs: its hub has not told. Any thread."""
    return bool(world.awaited or world.unheard) and open_to(world, now_ms)


def of_before(world: World, epoch: Epoch) -> bool:
    """Whether a lease was granted by a control plane before the restore."""
    return epoch.incarnation < world.incarnation


def counted_anew(world: World, lease: Lease, job: Job, now_ms: int) -> bool:
    """Whether a lease of before is not to be given up yet, however late it is: its job may run under a later one."""
    since = world.restoration
    return since is not None and of_before(world, lease.epoch) and now_ms < held_until_ms(since, job)


def arrived(unit: Unit, arriving: Agent) -> None:
    """An agent opens a session. One that the restored store had never seen is awaited, too: it may have joined since.

    So is another machine under the name of one that is known: each tells only what it knows itself.
    """
    present = unit.world.agents.get(arriving.key)
    if open_to(unit.world, unit.now_ms) and (present is None or present.instance_id != arriving.instance_id):
        unit.await_agent(arriving.key)


def told_all(unit: Unit, key: AgentKey) -> None:
    """An agent is telling everything it knows."""
    if key in unit.world.awaited:
        unit.agent_told(key)


@dataclass(frozen=True, slots=True)
class Word:
    """What an agent says of a run under an epoch of before."""

    lease_id: LeaseId
    job_id: JobId
    epoch: Epoch
    told: Told | None
    began_ms: int = 0
    """The earliest moment that it speaks of, by the hub's clock; 0: none."""
    released: bool = False
    """The control plane of before had its end: only that is left of it."""


def adopt(unit: Unit, store: Store, agent: Agent, word: Word) -> Verdict:
    """Take a run of before for what it is. After ADOPTED its lease is live and acknowledged, and the report applies to it."""
    world, told = unit.world, word.told
    if not open_to(world, unit.now_ms):
        return Verdict.OVER
    tells = TELLS_ALL in agent.features and not word.released
    if tells and told is None and agent.key in world.awaited:
        return Verdict.LATER
    if not (is_id(word.job_id) and is_id(word.lease_id)) or _of_another(unit, store, agent, word):
        return Verdict.OVER
    job = world.jobs.get(word.job_id) or unit.jobs.get(word.job_id) or store.get_job(word.job_id)
    if job is None:
        if told is None or told.spec is None:
            asked_in_vain = told is not None and bool(told.spec_bytes)
            return Verdict.SPEC_WANTED if tells and not asked_in_vain else Verdict.OVER
        job = _made_anew(unit, store, agent, word, told)
    if job.epoch is not None and not job.epoch < word.epoch:
        return Verdict.OVER
    cancelled = _cancelled_since(unit, store, job)
    fact = Fact(Trigger.LEASE_ADOPTED, word.epoch, lease=_lease(unit, agent, job, word))
    adopted = apply(unit, job, fact, cause="restore", actor=_actor(agent)).record.job
    if cancelled:
        cancel(unit, adopted, "it was cancelled while nobody knew that it runs", "control")
    return Verdict.ADOPTED


def _of_another(unit: Unit, store: Store, agent: Agent, word: Word) -> bool:
    """Whether that lease is known, and is not what the agent says: adopted, it would take the place of somebody's run."""
    known = unit.world.leases.get(word.lease_id) or unit.leases.get(word.lease_id) or store.get_lease(word.lease_id)
    said = (word.job_id, agent.key, word.epoch)
    return known is not None and (known.job_id, known.agent_key, known.epoch) != said


def _cancelled_since(unit: Unit, store: Store, job: Job) -> bool:
    """Whether the job's end is a wish of after the restore: one of the backup was for an attempt before."""
    since = unit.world.restoration
    if since is None or job.state is not JobState.CANCELLED:
        return False
    return job.id in unit.jobs or any(fact.seq > since.seq for fact in store.events_of("job", job.id, EVENTS_READ_MAX))


def _lease(unit: Unit, agent: Agent, job: Job, word: Word) -> Lease:
    told = word.told
    nodes = told.nodes if told and len(told.nodes) == job.spec.replicas else ()
    length_ms = lease_ms(job)
    left_ms = min(told.left_ms, length_ms) if told and told.left_ms > 0 else length_ms
    expires_ms = unit.now_ms + left_ms
    return Lease(
        id=word.lease_id,
        job_id=job.id,
        epoch=word.epoch,
        hub_id=agent.hub_id,
        agent_id=agent.agent_id,
        nodes=nodes or tuple(node.name for node in agent.nodes[:1]) * job.spec.replicas,
        per_task=job.spec.per_task,
        state=LeaseState.ACTIVE,
        on_partition=job.spec.on_partition,
        granted_ms=max(0, min(unit.now_ms, expires_ms - length_ms, word.began_ms or unit.now_ms)),
        expires_ms=expires_ms,
        devices=told.devices if told and nodes and len(told.devices) == len(nodes) else (),
    )


def _made_anew(unit: Unit, store: Store, agent: Agent, word: Word, told: Told) -> Job:
    """A job that was submitted since the backup, from its hub's journal. Its request id answers with it again."""
    since, spec = unit.world.restoration, told.spec
    assert since is not None, "only a restore makes jobs anew"
    assert spec is not None, "there is a spec to make it from"
    job = Job(
        id=word.job_id,
        owner=told.owner,
        spec=spec,
        spec_bytes=told.spec_bytes,
        created_ms=since.at_ms,  # it came before that; the moment itself is lost
        state_since_ms=unit.now_ms,
        queue_seq=unit.next_seq(),
        parent_job_id=told.parent_job_id,
    )
    unit.put_job(job)
    digest = body_digest(told.spec_bytes, told.parent_job_id)
    unit.event(
        "job",
        job.id,
        "JobAdopted",
        cause=told.request_id or "restore",
        actor=_actor(agent),
        payload={"name": spec.name, "engine": spec.engine, "digest": digest},
    )
    principal = f"{told.owner.issuer}/{told.owner.subject}@{told.owner.home_hub}"
    key = (principal, told.request_id)
    if told.request_id:
        answered = unit.requests.get(key) or store.find_requests([key]).get(key)
        if answered is None:
            unit.put_request(RequestRow(principal, told.request_id, digest, job.id, unit.now_ms))
        elif answered.body_digest == digest:
            _spare(unit, find(unit, store, answered.job_id), job)
    return job


def _spare(unit: Unit, repeated: Job, first: Job) -> None:
    """A request was repeated before anybody knew of its `first` job again: where the second has not begun, it never will."""
    if repeated.state is JobState.QUEUED and repeated.epoch is None:
        message = f"its request had become job {first.id} before the store was restored, and that one is known again"
        reason = Reason(ReasonCode.RESTORED, message, metadata=(("job_id", first.id),))
        apply(unit, repeated, Fact(Trigger.CANCEL_REQUESTED, reason=reason), cause="restore", actor=ACTOR_CONTROL)


def body_digest(spec_bytes: bytes, parent_job_id: str) -> str:
    """What makes the body of a submission, as sha256 (hex): two with one request id must have the same."""
    return hashlib.sha256(spec_bytes + b"\0" + parent_job_id.encode()).hexdigest()


def _actor(agent: Agent) -> str:
    return f"agent:{agent.hub_id}/{agent.agent_id}"
