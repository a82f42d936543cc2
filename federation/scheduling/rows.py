"""The planner's input values: jobs that wait, agents, links, leases, use so far, and a `Delta` of what changed.

All frozen. They are made from the domain's nouns by the constructors at the end, checked in `checks.py`, and kept by
`state.py`. Deliberately not here: arrays, and any decision.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from federation.domain.hub import FETCHES, Agent, Dataset, Hub, HubState, LinkState, Node
from federation.domain.ids import AgentKey
from federation.domain.job import RUNTIME_LIMIT_MS_MAX, Job, JobState, OnPartition
from federation.domain.lease import Lease, LeaseState, ends_by_ms
from federation.domain.quantities import Resources
from federation.domain.usage import UsageInterval

OwnerKey = tuple[str, str, str]
"""(home hub, project, user): whom fairness counts use to."""


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """A job that waits: `replicas` equal tasks, each of `per_task`, that start together within one agent or not at all."""

    job_id: str
    seq: int
    """Place in arrival order; smaller came first."""
    home_hub: str
    project: str
    user: str
    engine: str
    per_task: Resources
    replicas: int = 1
    priority: int = 3
    """`domain.job.Priority`: smaller goes first."""
    inputs: tuple[tuple[str, str], ...] = ()
    """(dataset, version); an empty version means any."""
    hubs_allow: tuple[str, ...] = ()
    hubs_deny: tuple[str, ...] = ()
    hubs_prefer: tuple[str, ...] = ()
    hubs_refused: tuple[str, ...] = ()
    """Hubs whose own admission said no to this job: they are not asked again."""
    runtime_limit_ms: int = 600_000
    preemptible: bool = False
    submitted_ms: int = 0
    """When it began to wait: what ageing counts from."""
    expected_ms: int = 0
    """How long it is expected to run, from the user's own recent jobs; 0: its limit. Never more than its limit."""
    spread: bool = False
    """Its tasks go to as many nodes as there are, rather than to as few."""
    window: str = ""
    """The window of its class: it may use the room that this holds. Of one that is not there: as any other job."""

    @property
    def owner(self) -> OwnerKey:
        """Whom its use counts to."""
        return (self.home_hub, self.project, self.user)


@dataclass(frozen=True, slots=True)
class AgentRow:
    """An agent as the planner sees it: what it offers, what it runs, what lies there, and whether it takes work."""

    key: AgentKey
    hub_state: HubState
    link: LinkState
    nodes: tuple[Node, ...]
    engines: tuple[str, ...]
    datasets: tuple[Dataset, ...] = ()
    round_trip_ms: int = -1
    reclaim_ms: int = 60_000
    """How long a preempted guest has before it is ended: the hub's own policy."""
    takes_back: bool = False
    """Whether its own users never wait longer than that: then no guest runs here that may run longer and cannot be
    preempted."""
    fetches: bool = False
    """Whether it brings data here that lies elsewhere before it starts a run."""

    @property
    def guest_limit_ms(self) -> int:
        """How long a guest may run here that cannot be preempted; -1: as long as it asks for."""
        return self.reclaim_ms if self.takes_back else -1

    @property
    def offers(self) -> tuple[object, ...]:
        """What its machines offer: when this changes, so do the arrays."""
        return tuple((node.name, node.offered) for node in self.nodes)

    @property
    def matters(self) -> tuple[object, ...]:
        """The part that decisions depend on: a heartbeat that changes nothing here costs nothing."""
        rules = (self.engines, self.datasets, self.guest_limit_ms, self.fetches)
        return (self.key, self.hub_state, self.link, self.offers, *rules)


@dataclass(frozen=True, slots=True)
class LinkRow:
    """What was measured from one hub to another, in this direction; of a hub to itself, between its agents."""

    from_hub: str
    to_hub: str
    bytes_per_s: int
    """1 or more: a link over which nothing comes is removed."""
    round_trip_ms: int = 0

    @property
    def ends(self) -> tuple[str, str]:
        """(from hub, to hub)."""
        return (self.from_hub, self.to_hub)


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """Capacity held: `per_task` on each of `nodes` (one entry a task), until `expires_ms` at the latest."""

    lease_id: str
    job_id: str
    key: AgentKey
    nodes: tuple[str, ...]
    per_task: Resources
    home_hub: str
    project: str
    user: str
    expires_ms: int
    """When its run is over at the latest: what an earliest start is computed from."""
    started_ms: int = 0
    devices: tuple[tuple[int, ...], ...] = ()
    """By task, the places of its GPUs in their node's list of devices; empty: nobody wrote them down."""
    preemptible: bool = False
    priority: int = 3
    window: str = ""
    """The window that its job came with."""

    @property
    def holds(self) -> tuple[object, ...]:
        """What it holds, and for whom: all but its times."""
        return (self.key, self.nodes, self.per_task, self.devices, self.owner, self.preemptible, self.window)

    @property
    def owner(self) -> OwnerKey:
        """Whom its use counts to."""
        return (self.home_hub, self.project, self.user)


@dataclass(frozen=True, slots=True)
class ClaimRow:
    """Room that a waiting job will get when its victims have ended: held from the moment the claim is made."""

    job_id: str
    key: AgentKey
    nodes: tuple[str, ...]
    """The node of each task."""
    victims: tuple[str, ...]
    """Leases that were told to end."""
    devices: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class WindowRow:
    """Capacity promised to a class at one agent, from `start_ms` until before `end_ms`: seats, each on a machine.

    Instants only: a timetable that repeats is expanded before. Where a class fits is asked of `offering.py`.
    """

    window_id: str
    key: AgentKey
    per_task: Resources
    """What a seat is."""
    nodes: tuple[str, ...]
    """The machine of each seat."""
    start_ms: int
    end_ms: int
    no_show_ms: int
    """From then on seats that were never taken are anybody's; `end_ms`: they are kept."""
    devices: tuple[tuple[int, ...], ...] = ()
    """By seat, as in `LeaseRow`."""
    taken: int = 0
    """The most seats that were taken at a time. The planner raises it; a row that says less lowers nothing."""

    @property
    def seats(self) -> int:
        """How many tasks it is for."""
        return len(self.nodes)


@dataclass(frozen=True, slots=True)
class UsageRow:
    """A closed stretch of use. Each is sent once: the planner adds them up and does not know their names."""

    home_hub: str
    project: str
    user: str
    used: tuple[tuple[str, int], ...]
    """(resource name, amount x ms), tasks together; each name once."""
    end_ms: int = 0
    """When the stretch ended: what its decay counts from."""
    host_hub: str = ""
    """Whose machines were used: what a contribution counts to."""

    @property
    def owner(self) -> OwnerKey:
        """Whom it counts to."""
        return (self.home_hub, self.project, self.user)


@dataclass(frozen=True, slots=True)
class Delta:
    """What changed since the last round.

    `agents`, `links`, `queued` and `leases_started` insert or replace by id. Removing what is not there is harmless. A lease
    that starts takes its job out of the queue. An id that is both put and removed in one delta is refused, because
    the order would matter: `DeltaCollector` keeps the last word.
    """

    agents: tuple[AgentRow, ...] = ()
    agents_removed: tuple[AgentKey, ...] = ()
    queued: tuple[QueuedJob, ...] = ()
    dequeued: tuple[str, ...] = ()
    leases_started: tuple[LeaseRow, ...] = ()
    leases_ended: tuple[str, ...] = ()
    usage: tuple[UsageRow, ...] = ()
    claims_made: tuple[ClaimRow, ...] = ()
    links: tuple[LinkRow, ...] = ()
    links_removed: tuple[tuple[str, str], ...] = ()
    """(from hub, to hub)."""
    claims_ended: tuple[str, ...] = ()
    """Job ids. A lease of the job ends its claim too."""
    windows: tuple[WindowRow, ...] = ()
    """Put by id: another end, or fewer seats, is the same id again."""
    windows_ended: tuple[str, ...] = ()
    """Of those that are called off, and those that are over."""

    def without(self, field: str, indexes: Collection[int]) -> Delta:
        """The same without some rows of one field. An agent that is left out is removed: what it offers is not known."""
        rows, out = getattr(self, field), frozenset(indexes)
        kept = tuple(row for index, row in enumerate(rows) if index not in out)
        if field != "agents":
            return replace(self, **{field: kept})
        gone = {rows[index].key for index in out} - {row.key for row in kept} - set(self.agents_removed)
        return replace(self, agents=kept, agents_removed=(*self.agents_removed, *sorted(gone)))


class DeltaCollector:
    """Gathers changes between two rounds; of several words on one id, the last one counts. Not thread-safe."""

    def __init__(self) -> None:
        self._agents: dict[AgentKey, AgentRow | None] = {}
        self._jobs: dict[str, QueuedJob | None] = {}
        self._leases: dict[str, LeaseRow | None] = {}
        self._usage: list[UsageRow] = []
        self._claims: dict[str, ClaimRow | None] = {}
        self._links: dict[tuple[str, str], LinkRow | None] = {}
        self._windows: dict[str, WindowRow | None] = {}

    def agent(self, row: AgentRow) -> None:
        """It is new, or changed."""
        self._agents[row.key] = row

    def agent_removed(self, key: AgentKey) -> None:
        """It is gone for good; its leases are not."""
        self._agents[key] = None

    def queued(self, job: QueuedJob) -> None:
        """It waits, or what it asks for changed."""
        self._jobs[job.job_id] = job

    def dequeued(self, job_id: str) -> None:
        """It waits no more."""
        self._jobs[job_id] = None

    def lease_started(self, row: LeaseRow) -> None:
        """It holds capacity, or its end moved."""
        self._leases[row.lease_id] = row

    def lease_ended(self, lease_id: str) -> None:
        """It holds nothing any more."""
        self._leases[lease_id] = None

    def used(self, row: UsageRow) -> None:
        """A stretch of use was closed."""
        self._usage.append(row)

    def claimed(self, row: ClaimRow) -> None:
        """A waiting job has room coming."""
        self._claims[row.job_id] = row

    def claim_ended(self, job_id: str) -> None:
        """It has none coming any more."""
        self._claims[job_id] = None

    def link(self, row: LinkRow) -> None:
        """It was measured."""
        self._links[row.ends] = row

    def link_removed(self, ends: tuple[str, str]) -> None:
        """What was measured of it holds no more."""
        self._links[ends] = None

    def window(self, row: WindowRow) -> None:
        """Capacity is promised to a class, or the promise changed."""
        self._windows[row.window_id] = row

    def window_ended(self, window_id: str) -> None:
        """It is over, or called off."""
        self._windows[window_id] = None

    def __bool__(self) -> bool:
        gathered = (self._agents, self._jobs, self._leases, self._usage, self._claims, self._links, self._windows)
        return any(map(bool, gathered))

    def take(self) -> Delta:
        """What was gathered; the collector is empty afterwards."""
        delta = Delta(
            agents=tuple(row for row in self._agents.values() if row is not None),
            agents_removed=tuple(key for key, row in self._agents.items() if row is None),
            queued=tuple(job for job in self._jobs.values() if job is not None),
            dequeued=tuple(job_id for job_id, job in self._jobs.items() if job is None),
            leases_started=tuple(row for row in self._leases.values() if row is not None),
            leases_ended=tuple(lease_id for lease_id, row in self._leases.items() if row is None),
            usage=tuple(self._usage),
            claims_made=tuple(row for row in self._claims.values() if row is not None),
            claims_ended=tuple(job_id for job_id, row in self._claims.items() if row is None),
            links=tuple(row for row in self._links.values() if row is not None),
            links_removed=tuple(ends for ends, row in self._links.items() if row is None),
            windows=tuple(row for row in self._windows.values() if row is not None),
            windows_ended=tuple(window_id for window_id, row in self._windows.items() if row is None),
        )
        self.__init__()  # type: ignore[misc]
        return delta


def queued_from(job: Job, hubs_refused: tuple[str, ...] = ()) -> QueuedJob:
    """The row of a job that waits; `hubs_refused` are those whose admission said no to it."""
    spec, owner = job.spec, job.owner
    return QueuedJob(
        job_id=job.id,
        seq=job.queue_seq,
        home_hub=owner.home_hub,
        project=owner.project,
        user=owner.subject,
        engine=spec.engine,
        per_task=spec.per_task,
        replicas=spec.replicas,
        priority=int(spec.priority),
        inputs=tuple((entry.dataset, entry.version) for entry in spec.inputs),
        hubs_allow=spec.hubs_allow,
        hubs_deny=spec.hubs_deny,
        hubs_prefer=spec.hubs_prefer,
        hubs_refused=hubs_refused,
        runtime_limit_ms=spec.runtime_limit_ms,
        preemptible=spec.preemptible,
        submitted_ms=job.created_ms,
        spread=spec.spread,
    )


def agent_row(agent: Agent, hub: Hub) -> AgentRow:
    """The row of an agent of `hub`."""
    return AgentRow(
        key=agent.key,
        hub_state=hub.state,
        link=agent.link,
        nodes=agent.nodes,
        engines=agent.engines,
        datasets=agent.datasets,
        round_trip_ms=agent.round_trip_ms,
        reclaim_ms=agent.reclaim_ms,
        takes_back=agent.takes_back,
        fetches=FETCHES in agent.features,
    )


def lease_row(lease: Lease, job: Job) -> LeaseRow:
    """The row of a live lease of `job`.

    A `keep` lease runs until its `expires_ms`; the others are renewed, so their end is the job's own runtime limit. What
    was told to end does so within its grace. What is ending already, or silent, is not preemptible any more.

    When a silent `keep` run ends nobody can say: a promise that counted on it would keep everybody else from the room
    beside it, round after round. It is taken to hold its room for a month.
    """
    started_ms = job.started_ms or lease.granted_ms
    ends_ms = lease.expires_ms if lease.on_partition is OnPartition.KEEP else started_ms + job.spec.runtime_limit_ms
    told_ms = ends_by_ms(job)
    if job.state is JobState.UNKNOWN and lease.on_partition is OnPartition.KEEP:
        ends_ms, told_ms = lease.expires_ms + RUNTIME_LIMIT_MS_MAX, 0
    return LeaseRow(
        lease_id=lease.id,
        job_id=lease.job_id,
        key=lease.agent_key,
        nodes=lease.nodes,
        per_task=lease.per_task,
        home_hub=job.owner.home_hub,
        project=job.owner.project,
        user=job.owner.subject,
        expires_ms=min(ends_ms, told_ms) if told_ms else ends_ms,
        started_ms=job.started_ms,
        devices=lease.devices,
        preemptible=job.spec.preemptible
        and lease.state is not LeaseState.REVOKING
        and job.state is not JobState.UNKNOWN,
        priority=int(job.spec.priority),
    )


def claim_row(job: Job) -> ClaimRow:
    """The row of the claim of `job`, which must have one."""
    claim = job.claim
    assert claim is not None, "only a job with a claim has the row of one"
    return ClaimRow(job.id, claim.agent_key, claim.nodes, claim.victims, claim.devices)


def usage_row(interval: UsageInterval, lease: LeaseRow) -> UsageRow:
    """The row of a stretch of use of `lease`."""
    milliseconds = (interval.end_ms - interval.start_ms) * len(lease.nodes)
    used: dict[str, int] = {}
    for entry in lease.per_task:
        used[entry.name] = used.get(entry.name, 0) + entry.amount * milliseconds
    return UsageRow(
        lease.home_hub, lease.project, lease.user, tuple(sorted(used.items())), interval.end_ms, lease.key[0]
    )
