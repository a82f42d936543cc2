"""What a round decides: the Plan, its placements, and why each waiting sort of job waits, hub by hub.

`LADDER` orders the obstacles from "it could run now" to "its owner does not want it": an agent's code is its highest
obstacle, a hub's code is that of its best agent. Words are made by `explaining.py` when somebody asks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from federation.domain.ids import AgentKey
from federation.domain.plan import ReasonCode
from federation.domain.quantities import Resources
from federation.scheduling.kernels.room import Int32, Int64
from federation.scheduling.rows import QueuedJob

LADDER = (
    ReasonCode.WOULD_RUN,
    ReasonCode.FAIRNESS_TURN,
    ReasonCode.RESERVATION_AHEAD,
    ReasonCode.DATA_TO_MOVE,
    ReasonCode.CAPACITY,
    ReasonCode.QUOTA,
    ReasonCode.HUB_SUSPECT,
    ReasonCode.HUB_DRAINING,
    ReasonCode.TAKES_BACK,
    ReasonCode.SHAPE_NEVER_FITS,
    ReasonCode.DATA_ELSEWHERE,
    ReasonCode.DATA_POLICY,
    ReasonCode.ENGINE_MISSING,
    ReasonCode.SHARE_POLICY,
    ReasonCode.HUB_EXCLUDED,
)
"""What lasts stands above what passes: a silent hub without the engine is a hub without the engine."""
STEP = {code: step for step, code in enumerate(LADDER)}


class DemandKey(NamedTuple):
    """A sort of job: all that decides where it can run. Jobs of one sort that do not fit are found out once a round."""

    home_hub: str
    """Whose jobs these are, where that decides what they may read; empty for jobs without inputs."""
    engine: str
    per_task: Resources
    replicas: int
    inputs: tuple[tuple[str, str], ...]
    hubs_allow: tuple[str, ...]
    hubs_deny: tuple[str, ...]
    hubs_refused: tuple[str, ...]
    spread: bool = False
    window: str = ""


def demand_key(job: QueuedJob) -> DemandKey:
    """The sort that `job` is of."""
    return DemandKey(
        job.home_hub if job.inputs else "",
        job.engine,
        job.per_task,
        job.replicas,
        job.inputs,
        job.hubs_allow,
        job.hubs_deny,
        job.hubs_refused,
        job.spread,
        job.window,
    )


class Fetch(NamedTuple):
    """Bytes that must come before a job can run."""

    dataset: str
    version: str
    from_hub: str
    size_bytes: int
    transfer_ms: int
    """How long that takes, as the link was measured."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Start this job there; `nodes` has one name a task, in task order."""

    job_id: str
    key: AgentKey
    nodes: tuple[str, ...]
    devices: tuple[tuple[int, ...], ...] = ()
    """By task, the places of its GPUs in the node's list of devices; empty for jobs without GPUs."""
    fetches: tuple[Fetch, ...] = ()
    """Inputs that do not lie there, in the order in which the job names them, each from where it comes soonest."""

    @property
    def transfer_ms(self) -> int:
        """How long it takes to bring them, one after the other."""
        return sum(fetch.transfer_ms for fetch in self.fetches)


@dataclass(frozen=True, slots=True)
class Preemption:
    """End these leases, and keep their room for this job until they have ended: a claim."""

    job_id: str
    key: AgentKey
    nodes: tuple[str, ...]
    """Where the job's tasks will run, one name a task."""
    victims: tuple[str, ...]
    """Leases to end, in the order chosen: least lost work first."""
    lost_ms: int
    """The price: work that is lost, in milliseconds of dominant share, rounded up."""
    devices: tuple[tuple[int, ...], ...] = ()


class Reservation(NamedTuple):
    """Starts promised to jobs that cannot start yet, as columns; made anew in every round."""

    slots: Int32
    """Of the jobs in the queue of the state that the plan came with."""
    agents: Int32
    """Rows of the fleet."""
    starts_ms: Int64


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why the jobs of one sort wait: a step of `LADDER` for each of the plan's hubs, and the one that sums it up."""

    demand: DemandKey
    jobs: int
    """How many of the sort wait."""
    steps: bytes
    """uint8 (H): by the plan's `hub_ids`."""
    overall: ReasonCode
    """The nearest obstacle; UNKNOWN_DATASET where no agent announces an input, NO_AGENT where there is no agent."""
    over_quota: int = 0
    """How many of them would take their user, project or hub above a quota. Where all would, it is in `steps`; so is
    TAKES_BACK where none of them could be ended in time. Where some would, only `explain` tells them apart."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A round's decisions, on the state it saw. `placements` is in the order decided; lifecycle verifies each."""

    at_ms: int
    placements: tuple[Placement, ...] = ()
    hub_ids: tuple[str, ...] = ()
    """Ascending."""
    waiting: tuple[Waiting, ...] = field(default=())
    """Ascending by demand."""
    preemptions: tuple[Preemption, ...] = ()
    """In the order decided."""
    promised: Reservation | None = field(default=None, compare=False, repr=False)
    wake_ms: int | None = None
    """The next instant at which a round may decide otherwise although nothing happens until then; None: there is none.

    Whose promised start has come goes first, and data may be moved once a job has waited as long as that takes. That use of the past fades is no instant, and that somebody has waited long
    enough for a promise starts nothing: the round of the next event does both."""

    def waiting_of(self, wanted: DemandKey) -> Waiting | None:
        """Why jobs of this sort wait; None when none of them does."""
        return next((entry for entry in self.waiting if entry.demand == wanted), None)
