"""What the pages show, as plain values: hubs with their meters, jobs as lines. Pure functions of domain values.

A job that the viewer does not own is not named: what it holds on a node can be seen, whose it is and what it does cannot.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from federation.console.words import asked, plain
from federation.domain.hub import Agent, Dataset, Hub, LinkState, Node
from federation.domain.ids import JobId
from federation.domain.job import Job
from federation.domain.lease import Lease, LeaseState, ends_by_ms
from federation.domain.quantities import CPU, GPU, MEMORY, amount_of
from federation.service.hubs import HubView

METERED = ((CPU, "cpus"), (MEMORY, "memory"), (GPU, "gpus"))


@dataclass(frozen=True, slots=True)
class Meter:
    """How much of one resource is leased. Amounts in base units; `offered` is what the federation may use."""

    name: str
    noun: str
    leased: int
    offered: int
    capacity: int

    @property
    def percent(self) -> float:
        """0 to 100."""
        return min(100.0, round(100 * self.leased / self.offered, 1)) if self.offered else 0.0

    @property
    def level(self) -> str:
        """`none`, `low`, `high` from 75 %, `full` from 97 %."""
        if not self.leased:
            return "none"
        return "full" if self.percent >= 97 else "high" if self.percent >= 75 else "low"

    @property
    def figures(self) -> str:
        """Leased of offered: "2 / 8", "1.5 / 16 GiB"."""
        leased, offered = plain(self.name, self.leased), plain(self.name, self.offered)
        if leased.rpartition(" ")[2] == offered.rpartition(" ")[2]:
            leased = leased.rpartition(" ")[0] or leased
        elif not self.leased:
            leased = "0"
        return f"{leased} / {offered}"

    @property
    def title(self) -> str:
        """The whole truth: leased, free, offered, and what the machine has."""
        return (
            f"{self.noun}: {plain(self.name, self.leased)} leased, {plain(self.name, self.offered - self.leased)} free, "
            f"{plain(self.name, self.offered)} offered of {plain(self.name, self.capacity)}"
        )


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A machine."""

    hub_id: str
    agent_id: str
    name: str
    link: LinkState
    meters: tuple[Meter, ...]
    tasks: int
    load_cpu_milli: int
    memory_available_bytes: int
    accelerators: str


@dataclass(frozen=True, slots=True)
class AgentRow:
    """A program in front of machines."""

    id: str
    link: LinkState
    version: str
    engines: tuple[str, ...]
    last_sync_ms: int
    round_trip_ms: int
    nodes: int
    leases: int
    meters: tuple[Meter, ...]
    """Of its nodes."""
    reclaim_ms: int
    """How long a preempted guest has to end."""
    takes_back: bool
    """Whether guests that may run longer than that must be preemptible."""


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """An attempt at a hub. `job` is None where the viewer may not know whose it is."""

    lease: Lease
    holds: str
    job: Job | None
    ends_ms: int
    """At the latest, unless it is renewed; of what was told to end, when its grace is over."""

    @property
    def ending(self) -> bool:
        """Whether it was told to end."""
        return self.lease.state is LeaseState.REVOKING


@dataclass(frozen=True, slots=True)
class HubRow:
    """A hub with everything on it. `link` is its best agent's; `last_sync_ms` the newest, 0 when there is no agent."""

    id: str
    title: str
    draining: bool
    note: str
    problems: tuple[str, ...]
    """What its operator has to settle."""
    link: str
    last_sync_ms: int
    meters: tuple[Meter, ...]
    leases: int
    ending: int
    """How many of them were told to end."""
    engines: tuple[str, ...]
    agents: tuple[AgentRow, ...]
    nodes: tuple[NodeRow, ...]
    datasets: tuple[Dataset, ...]


NO_AGENT = "NO_AGENT"
_LINK_ORDER = {LinkState.ONLINE: 0, LinkState.SUSPECT: 1, LinkState.LOST: 2}


def hub_row(view: HubView) -> HubRow:
    """One hub's row and all below it."""
    used = _used(view.leases)
    tasks = Counter((lease.agent_id, node) for lease in view.leases for node in lease.nodes)
    nodes = tuple(
        _node_row(agent, node, used, tasks[agent.agent_id, node.name]) for agent in view.agents for node in agent.nodes
    )
    by_agent = Counter(lease.agent_id for lease in view.leases)
    datasets = {(one.name, one.version): one for agent in view.agents for one in agent.datasets}
    return HubRow(
        id=view.hub.id,
        title=view.hub.title,
        draining=_draining(view.hub),
        note=view.hub.note,
        problems=view.problems,
        link=min((agent.link for agent in view.agents), key=_LINK_ORDER.__getitem__).value if view.agents else NO_AGENT,
        last_sync_ms=max((agent.last_sync_ms for agent in view.agents), default=0),
        meters=summed(node.meters for node in nodes),
        leases=len(view.leases),
        ending=sum(lease.state is LeaseState.REVOKING for lease in view.leases),
        engines=tuple(sorted({engine for agent in view.agents for engine in agent.engines})),
        agents=tuple(_agent_row(agent, by_agent[agent.agent_id], nodes) for agent in view.agents),
        nodes=nodes,
        datasets=tuple(datasets[key] for key in sorted(datasets)),
    )


def summed(meters: Iterable[Iterable[Meter]]) -> tuple[Meter, ...]:
    """The sum of several machines' meters, in the order of `METERED`."""
    leased: Counter[str] = Counter()
    offered: Counter[str] = Counter()
    capacity: Counter[str] = Counter()
    for several in meters:
        for meter in several:
            leased[meter.name] += meter.leased
            offered[meter.name] += meter.offered
            capacity[meter.name] += meter.capacity
    return tuple(Meter(name, noun, leased[name], offered[name], capacity[name]) for name, noun in METERED)


def lease_rows(view: HubView, jobs: Mapping[JobId, Job], visible: Callable[[Job], bool]) -> list[LeaseRow]:
    """What runs at a hub, oldest first; only the viewer's own jobs are named."""
    rows = []
    for lease in sorted(view.leases, key=lambda one: (one.granted_ms, one.id)):
        job = jobs.get(lease.job_id)
        shown = job if job is not None and visible(job) else None
        ends_ms = (ends_by_ms(job) if job is not None else 0) or lease.expires_ms
        rows.append(LeaseRow(lease, asked(lease.per_task, len(lease.nodes)), shown, ends_ms))
    return rows


def _draining(hub: Hub) -> bool:
    return hub.state.value == "DRAINING"


Used = Mapping[tuple[str, str, str], int]


def _used(leases: Iterable[Lease]) -> Used:
    """(agent, node, resource) -> leased amount."""
    used: Counter[tuple[str, str, str]] = Counter()
    for lease in leases:
        for node in lease.nodes:
            for name, _, amount in lease.per_task:
                used[lease.agent_id, node, name] += amount
    return used


def _node_row(agent: Agent, node: Node, used: Used, tasks: int) -> NodeRow:
    meters = tuple(
        Meter(
            name,
            noun,
            used.get((agent.agent_id, node.name, name), 0),
            amount_of(node.offered, name),
            amount_of(node.capacity, name),
        )
        for name, noun in METERED
    )
    kinds = sorted({entry.kind for entry in node.capacity if entry.name == GPU and entry.kind})
    return NodeRow(
        agent.hub_id,
        agent.agent_id,
        node.name,
        agent.link,
        meters,
        tasks,
        node.load_cpu_milli,
        node.memory_available_bytes,
        ", ".join(kinds),
    )


def _agent_row(agent: Agent, leases: int, nodes: Iterable[NodeRow]) -> AgentRow:
    return AgentRow(
        agent.agent_id,
        agent.link,
        agent.version,
        tuple(sorted(agent.engines)),
        agent.last_sync_ms,
        agent.round_trip_ms,
        len(agent.nodes),
        leases,
        summed(node.meters for node in nodes if node.agent_id == agent.agent_id),
        agent.reclaim_ms,
        agent.takes_back,
    )
