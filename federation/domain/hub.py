"""A member university's site: its hub, its agents, their nodes, and the datasets that lie there."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from federation.domain.ids import AgentId, AgentKey, HubId
from federation.domain.quantities import AMOUNT_MAX, Resources

SUSPECT_AFTER_MS = 60_000
LOST_AFTER_MS = 600_000
AGENTS_MAX = 10_000
"""In the whole federation."""
AGENTS_PER_HUB_MAX = 500
HUBS_MAX = 1_000
HUB_AMOUNT_MAX = AMOUNT_MAX
"""All agents of a hub together offer no more of one resource: what `HUBS_MAX` hubs offer in all stays below 2^63."""
NODES_PER_AGENT_MAX = 10_000
FETCHES = "fetches"
"""The feature of an agent that brings data from other hubs before it starts a run. No agent of today has it."""
RECLAIM_MS_DEFAULT, RECLAIM_MS_MAX = 60_000, 3_600_000


class HubState(enum.StrEnum):
    """Whether it takes new work."""

    ACTIVE = "ACTIVE"
    DRAINING = "DRAINING"


class LinkState(enum.StrEnum):
    """How long ago an agent was heard of. Unknown is not dead: neither SUSPECT nor LOST frees a lease."""

    ONLINE = "ONLINE"
    SUSPECT = "SUSPECT"
    LOST = "LOST"


@dataclass(frozen=True, slots=True)
class Node:
    """A machine. `offered` is what the federation may use after the home share is taken off."""

    name: str
    offered: Resources
    capacity: Resources
    load_cpu_milli: int = 0
    memory_available_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Dataset:
    """Named, versioned, immutable bytes that lie at a hub. `policy`: open, members, hubs, compute-to-data.

    `size_bytes` 0: nobody knows.
    """

    name: str
    version: str
    size_bytes: int
    policy: str
    title: str = ""
    readers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Agent:
    """A program in front of one machine or of one engine-owned pool, as the control plane knows it."""

    hub_id: HubId
    agent_id: AgentId
    instance_id: str
    session_id: str
    version: str
    link: LinkState
    last_sync_ms: int
    nodes: tuple[Node, ...]
    engines: tuple[str, ...]
    datasets: tuple[Dataset, ...] = ()
    features: tuple[str, ...] = ()
    round_trip_ms: int = -1
    reclaim_ms: int = RECLAIM_MS_DEFAULT
    """How long a preempted guest has between SIGTERM and SIGKILL: the hub's own policy."""
    takes_back: bool = False
    """Whether guests that may run longer than that must be preemptible."""
    sync_seq: int = 0
    """The newest call of the session that was heard. Not stored: a session ends with the process that opened it."""

    @property
    def key(self) -> AgentKey:
        """(hub_id, agent_id)."""
        return (self.hub_id, self.agent_id)


@dataclass(frozen=True, slots=True)
class Hub:
    """A member."""

    id: HubId
    title: str
    state: HubState = HubState.ACTIVE
    note: str = ""
