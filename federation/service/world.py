"""What the control plane keeps in memory, and the unit of work that changes it.

A command decides on the world and writes through a `Unit`. What it writes is visible to the commands after it in the
same batch, saved in one transaction at the batch's end, and undone when that fails: memory never runs ahead of the store
in anything that was answered. Terminal jobs are not kept here; the store has them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from federation.domain.hub import Agent, Hub
from federation.domain.ids import AgentKey, HubId, JobId, LeaseId
from federation.domain.job import Claim, Job
from federation.domain.lease import Lease
from federation.domain.usage import UsageInterval
from federation.lifecycle.agent import restarted
from federation.ports import EventRow, Loaded, RequestRow, Transaction

K = TypeVar("K")
V = TypeVar("V")
ACTOR_CONTROL = "control"
_ABSENT: Any = object()
_json = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Restoration:
    """A backup took the store's place at the beginning of this incarnation; `restoring.py` says what follows."""

    at_ms: int
    seq: int
    """Of its fact: what came since has a higher one, whatever the clock says."""
    agents_complete: bool
    """Whether every agent that had joined before is in it."""
    counted_ms: int
    """From when leases of before are counted: the restore, or the last start since, whatever the clock did meanwhile."""

    @classmethod
    def told_by(cls, fact: EventRow | None, now_ms: int) -> Restoration | None:
        """What the store's own fact says, by a control plane that starts."""
        if fact is None:
            return None
        return cls(fact.at_ms, fact.seq, bool(json.loads(fact.payload).get("agents_complete")), now_ms)


@dataclass
class World:
    """Live jobs, live leases, hubs, agents, and the indexes that the use cases need."""

    incarnation: int
    last_seq: int
    jobs: dict[JobId, Job] = field(default_factory=dict)
    leases: dict[LeaseId, Lease] = field(default_factory=dict)
    hubs: dict[HubId, Hub] = field(default_factory=dict)
    agents: dict[AgentKey, Agent] = field(default_factory=dict)
    lease_of_job: dict[JobId, LeaseId] = field(default_factory=dict)
    leases_of_agent: dict[AgentKey, dict[LeaseId, None]] = field(default_factory=dict)
    leases_of_node: dict[tuple[AgentKey, str], dict[LeaseId, None]] = field(default_factory=dict)
    """A commit looks at a few nodes, also where an agent has thousands. Nodes without any are left out."""
    sessions: dict[str, AgentKey] = field(default_factory=dict)
    superseded: dict[AgentKey, str] = field(default_factory=dict)
    """The session that an agent's present one took the place of: whoever still speaks under it is told so."""
    claims_of_agent: dict[AgentKey, dict[JobId, None]] = field(default_factory=dict)
    """Waiting jobs for which others are ending; agents without any are left out."""
    unread: int = 0
    """While it is rebuilt: how many waiting jobs are in the store and not yet in `jobs`, about (`rebuilding.py`)."""
    restoration: Restoration | None = None
    awaited: dict[AgentKey, bool] = field(default_factory=dict)
    """After a restore: agents that have not yet told all they know."""
    unheard: dict[AgentKey, str] = field(default_factory=dict)
    """After a restore: by which machine the store knows an agent, until that one (its instance) has told all."""
    store_id: str = ""
    """The store's name."""
    revokes_told: dict[LeaseId, int] = field(default_factory=dict)
    """Of leases that are to end: the revision of the first orders that said so. Not stored: it is said again."""
    problems: dict[AgentKey, str] = field(default_factory=dict)
    """What an operator has to settle before an agent is let in, in a sentence. Not stored: it comes again."""

    @classmethod
    def rebuilt(cls, loaded: Loaded, now_ms: int) -> World:
        """The world as the store has it. Every agent gets full grace: our absence was not its silence."""
        world = cls(loaded.incarnation, loaded.last_seq, store_id=loaded.store_id)
        for hub in loaded.hubs:
            world.hubs[hub.id] = hub
        for agent in loaded.agents:
            world.agents[agent.key] = restarted(agent, now_ms)
        for job in loaded.jobs:
            world.jobs[job.id] = job
            world.index_claim(job.id, None, job.claim)
        for lease in loaded.leases:
            world.index_lease(lease)
        world.restoration = Restoration.told_by(loaded.restored, now_ms)
        if world.restoration is not None:
            world.awaited = dict.fromkeys(world.agents, True)
            world.unheard = {key: agent.instance_id for key, agent in world.agents.items()}
        return world

    def index_lease(self, lease: Lease) -> None:
        """Take in a live lease."""
        self.leases[lease.id] = lease
        self.lease_of_job[lease.job_id] = lease.id
        self.leases_of_agent.setdefault(lease.agent_key, {})[lease.id] = None
        for node in lease.nodes:
            self.leases_of_node.setdefault((lease.agent_key, node), {})[lease.id] = None

    def drop_lease(self, lease: Lease) -> None:
        """Forget a lease that ended."""
        self.leases.pop(lease.id, None)
        self.revokes_told.pop(lease.id, None)
        if self.lease_of_job.get(lease.job_id) == lease.id:
            del self.lease_of_job[lease.job_id]
        self.leases_of_agent.get(lease.agent_key, {}).pop(lease.id, None)
        for node in set(lease.nodes):
            place = (lease.agent_key, node)
            of_node = self.leases_of_node.get(place, {})
            of_node.pop(lease.id, None)
            if not of_node:
                self.leases_of_node.pop(place, None)

    def index_claim(self, job_id: JobId, before: Claim | None, after: Claim | None) -> None:
        """Take in that a job's claim is another, or gone."""
        if before is not None:
            of_agent = self.claims_of_agent.get(before.agent_key, {})
            of_agent.pop(job_id, None)
            if not of_agent:
                self.claims_of_agent.pop(before.agent_key, None)
        if after is not None:
            self.claims_of_agent.setdefault(after.agent_key, {})[job_id] = None

    def session_of(self, session_id: str) -> Agent | None:
        """The agent whose session that is, or was until another took its place; None: nobody's."""
        key = self.sessions.get(session_id)
        if key is None and session_id:
            key = next((one for one, older in self.superseded.items() if older == session_id), None)
        return None if key is None else self.agents[key]

    def lease_for(self, job_id: JobId) -> Lease | None:
        """The job's live lease."""
        lease_id = self.lease_of_job.get(job_id)
        return None if lease_id is None else self.leases[lease_id]

    def held_by(self, key: AgentKey) -> list[Lease]:
        """The agent's live leases."""
        return [self.leases[lease_id] for lease_id in self.leases_of_agent.get(key, ())]

    def held_on(self, key: AgentKey, nodes: Iterable[str]) -> list[Lease]:
        """The agent's live leases that hold something on any of these nodes."""
        found = {lease_id: None for node in nodes for lease_id in self.leases_of_node.get((key, node), ())}
        return [self.leases[lease_id] for lease_id in found]

    def claimed_at(self, key: AgentKey) -> list[Job]:
        """The waiting jobs that have a claim at the agent."""
        return [self.jobs[job_id] for job_id in self.claims_of_agent.get(key, ())]

    def claiming(self) -> list[Job]:
        """Every waiting job that has a claim."""
        return [self.jobs[job_id] for of_agent in self.claims_of_agent.values() for job_id in of_agent]


class Unit:
    """The writes of one batch of commands."""

    def __init__(self, world: World, now_ms: int, request_keys: Sequence[tuple[str, str]] = ()) -> None:
        self.world = world
        self.now_ms = now_ms
        self.request_keys = request_keys
        """(principal, request id) that the batch's commands will ask for."""
        self.answered: dict[tuple[str, str], RequestRow | None] = {}
        """What the store said of them; None: nothing. Filled by the first that asks."""
        self.jobs: dict[JobId, Job] = {}
        self.leases: dict[LeaseId, Lease] = {}
        self.hubs: dict[HubId, Hub] = {}
        self.agents: dict[AgentKey, Agent] = {}
        self.events: list[EventRow] = []
        self.removed_events: list[int] = []
        self.requests: dict[tuple[str, str], RequestRow] = {}
        self.usage: list[UsageInterval] = []
        self.used: list[tuple[UsageInterval, Lease, Job]] = []
        """The same with whose use it is."""
        self.orders: dict[AgentKey, None] = {}
        self._undo: list[Callable[[], object] | tuple[dict[Any, Any], Any, Any]] = []
        """Calls, or (dictionary, key, value before): most of a batch is the latter, and a tuple costs less."""

    @property
    def dirty(self) -> bool:
        """Whether there is anything to save."""
        return bool(
            self.events
            or self.jobs
            or self.leases
            or self.hubs
            or self.agents
            or self.requests
            or self.usage
            or self.removed_events
        )

    def next_seq(self) -> int:
        """The seq that the next event will get."""
        return self.world.last_seq + len(self.events) + 1

    def put_job(self, job: Job) -> None:
        """Save a job; a terminal one leaves memory, and its queue place with it."""
        world, jobs = self.world, self.world.jobs
        before = jobs.get(job.id)
        claim, had = job.claim, before.claim if before else None
        if claim != had:
            world.index_claim(job.id, had, claim)
            self._undo.append(lambda: world.index_claim(job.id, claim, had))
        _put(jobs, job.id, None if job.state.terminal else job, self._undo)
        _put(self.jobs, job.id, job, self._undo)

    def put_lease(self, lease: Lease) -> None:
        """Save a lease; an ended one leaves memory."""
        world, before = self.world, self.world.leases.get(lease.id)
        if lease.live:
            world.index_lease(lease)
            self._undo.append(lambda: world.index_lease(before) if before else world.drop_lease(lease))
        else:
            world.drop_lease(lease)
            self._undo.append(lambda: world.index_lease(before) if before else None)
        _put(self.leases, lease.id, lease, self._undo)

    def put_hub(self, hub: Hub) -> None:
        """Save a hub."""
        _put(self.world.hubs, hub.id, hub, self._undo)
        _put(self.hubs, hub.id, hub, self._undo)

    def put_agent(self, agent: Agent, save: bool = True) -> None:
        """Keep an agent; `save=False` for what only memory needs, such as when it was last heard of."""
        before = self.world.agents.get(agent.key)
        if before is not None and before.session_id != agent.session_id:
            _put(self.world.sessions, before.session_id, None, self._undo)
            _put(self.world.superseded, agent.key, before.session_id or None, self._undo)
        if agent.session_id:
            _put(self.world.sessions, agent.session_id, agent.key, self._undo)
        _put(self.world.agents, agent.key, agent, self._undo)
        if save:
            _put(self.agents, agent.key, agent, self._undo)

    def await_agent(self, key: AgentKey) -> None:
        """After a restore: the agent is to tell all it knows."""
        _put(self.world.awaited, key, True, self._undo)

    def agent_told(self, key: AgentKey) -> None:
        """It has; another machine under its name is still to do so."""
        world = self.world
        _put(world.awaited, key, None, self._undo)
        if world.unheard.get(key) == world.agents[key].instance_id:
            _put(world.unheard, key, None, self._undo)

    def revoke_told(self, lease_id: LeaseId, revision: int) -> None:
        """Orders of that revision say that the lease is to end."""
        if lease_id not in self.world.revokes_told:
            _put(self.world.revokes_told, lease_id, revision, self._undo)

    def note_problem(self, key: AgentKey, problem: str) -> bool:
        """Why the agent is not let in; empty: it is. Whether that is news."""
        before = self.world.problems.get(key, "")
        if before != problem:
            _put(self.world.problems, key, problem or None, self._undo)
        return before != problem

    def put_request(self, row: RequestRow) -> None:
        """Remember an answer."""
        _put(self.requests, (row.principal, row.request_id), row, self._undo)

    def put_usage(self, interval: UsageInterval, lease: Lease, job: Job) -> None:
        """Post a stretch of use of `lease` by `job`."""
        self.usage.append(interval)
        self.used.append((interval, lease, job))
        self._undo += [self.usage.pop, self.used.pop]

    def event(
        self,
        entity: str,
        entity_id: str,
        kind: str,
        *,
        cause: str,
        actor: str,
        payload: Mapping[str, object] | None = None,
    ) -> None:
        """Write down a fact."""
        text = _json(payload) if payload else "{}"
        self.events.append(
            EventRow(self.now_ms, entity, entity_id, kind, cause, actor, text, incarnation=self.world.incarnation)
        )
        self._undo.append(self.events.pop)

    def remove_events(self, seqs: Sequence[int]) -> None:
        """Remove old facts for good."""
        before = len(self.removed_events)
        self.removed_events += seqs
        self._undo.append(lambda: self.removed_events.__delitem__(slice(before, None)))

    def wake(self, key: AgentKey) -> None:
        """After the commit, tell the agent's held call that there are orders."""
        self.orders[key] = None

    def savepoint(self) -> int:
        """Where to roll back to when the next command fails half-way."""
        return len(self._undo)

    def rollback(self, savepoint: int = 0) -> None:
        """Take back everything since `savepoint`, in memory and in the batch."""
        while len(self._undo) > savepoint:
            step = self._undo.pop()
            if not isinstance(step, tuple):
                step()
                continue
            into, key, before = step
            if before is _ABSENT:
                into.pop(key, None)
            else:
                into[key] = before

    def save(self, transaction: Transaction) -> None:
        """Write the batch. The caller commits."""
        transaction.append_events(self.events)
        transaction.put_jobs(list(self.jobs.values()))
        transaction.put_leases(list(self.leases.values()))
        transaction.put_hubs(list(self.hubs.values()))
        transaction.put_agents(list(self.agents.values()))
        transaction.put_requests(list(self.requests.values()))
        transaction.put_usage(self.usage)
        transaction.remove_events(self.removed_events)


def _put(into: dict[K, V], key: K, value: V | None, undo: list[Any]) -> None:
    """Set or (None) remove, and remember how to take it back."""
    undo.append((into, key, into.get(key, _ABSENT)))
    if value is None:
        into.pop(key, None)
    else:
        into[key] = value
