"""What the service asks of the outside: Store, Clock, IdSource, Notifier, Tracking. Protocols and their row shapes only.

Adapters live on floor 3 (`store`, `tracking`); tests and the simulator bring their own clock and ids, never their own
logic. Read `federation/service/` next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from federation.domain.hub import Agent, Hub
from federation.domain.ids import AgentKey, JobId, LeaseId
from federation.domain.job import Job, JobState, Owner
from federation.domain.lease import Lease
from federation.domain.usage import UsageInterval

STORE_ENTITY = "store"
"""Facts about the store itself, by incarnation; they are never pruned."""
RESTORED = "StoreRestored"
"""A backup took the store's place. Payload: `last_seq` of the backup, and whether it tells all agents (`agents_complete`)."""


@dataclass(frozen=True, slots=True)
class EventRow:
    """A fact, as it is kept for good. `seq` is given by the store: gapless, ascending."""

    at_ms: int
    entity: str
    """What it happened to: "job", "lease", "agent", "hub"."""
    entity_id: str
    type: str
    """The fact's name, past tense: "JobSubmitted"."""
    cause: str
    """What made it happen: a request id, a sync, a round."""
    actor: str
    """Who: "user:<issuer>/<subject>", "agent:<hub>/<agent>", "control"."""
    payload: str = "{}"
    """JSON object; its keys are the event's variable parts."""
    schema_version: int = 1
    seq: int = 0
    incarnation: int = 0


@dataclass(frozen=True, slots=True)
class EventMark:
    """What retention looks at of a fact."""

    seq: int
    at_ms: int
    entity: str
    type: str
    job_id: str = ""
    """Of a fact about a job or a lease: the job."""
    job_state: JobState | None = None
    """How that stands; None: it is about none, or one that the store does not have."""
    job_since_ms: int = 0
    """Since when."""


@dataclass(frozen=True, slots=True)
class RequestRow:
    """A submission that was answered: the same (principal, request id) gets the same answer."""

    principal: str
    request_id: str
    body_digest: str
    job_id: JobId
    at_ms: int


@dataclass(frozen=True, slots=True)
class UsedRow:
    """How long a lease was in use, of stretches that ended within one day."""

    lease: Lease
    owner: Owner
    used_ms: int
    end_ms: int
    """When the last of them ended."""


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs a page shows; empty means all."""

    states: tuple[JobState, ...] = ()
    project: str = ""
    hub_id: str = ""
    owner: tuple[str, str] | None = None
    """(issuer, subject)."""
    job_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """Newest first (queue_seq descending). `next_before_seq` is 0 on the last page."""

    jobs: tuple[Job, ...]
    next_before_seq: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the service keeps in memory: live jobs, live leases, hubs and agents. Terminal jobs stay in the store."""

    incarnation: int
    last_seq: int
    jobs: tuple[Job, ...]
    leases: tuple[Lease, ...]
    hubs: tuple[Hub, ...]
    agents: tuple[Agent, ...]
    store_id: str = field(default="", compare=False)
    """The store's name: made with it, kept by its backups and by what they are restored to."""
    restored: EventRow | None = None
    """The fact (`RESTORED`) that a backup took the store's place in this incarnation; None: it never did."""


DAY_MS = 86_400_000


class Transaction(Protocol):
    """Writes of one commit. Nothing is visible before `commit`; leaving the block without it rolls back.

    Errors: STORE_FULL and STORE_UNAVAILABLE, with nothing written.
    """

    def append_events(self, rows: Sequence[EventRow]) -> int:
        """Add facts; their first seq, the others follow without a gap."""

    def put_jobs(self, jobs: Sequence[Job]) -> None:
        """Insert or replace by id."""

    def put_leases(self, leases: Sequence[Lease]) -> None:
        """Insert or replace by id."""

    def put_hubs(self, hubs: Sequence[Hub]) -> None:
        """Insert or replace by id."""

    def put_agents(self, agents: Sequence[Agent]) -> None:
        """Insert or replace by (hub, agent)."""

    def put_requests(self, rows: Sequence[RequestRow]) -> None:
        """Insert; (principal, request_id) is unique."""

    def put_usage(self, intervals: Sequence[UsageInterval]) -> None:
        """Insert; a (lease, index) that is there already is left alone."""

    def remove_events(self, seqs: Sequence[int]) -> None:
        """Remove facts for good, never the newest: after a restart seqs go on from it."""

    def commit(self) -> None:
        """Durable when this returns: fsynced. A failed fsync ends the process rather than lie."""


class Store(Protocol):
    """State and facts. One writer thread; `get_*` and `list_*` may be called from any thread."""

    def load(self, *, waiting: bool = True) -> Loaded:
        """Everything live, for a start from the store. `waiting=False`: not the jobs that wait and have no claim.

        Those are most of it, and can follow by `list_jobs` (`service/rebuilding.py`).
        """

    def begin(self) -> AbstractContextManager[Transaction]:
        """A transaction; only the writer thread calls it, one at a time."""

    def find_requests(self, keys: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], RequestRow]:
        """Those of the (principal, request_id) that were answered."""

    def get_job(self, job_id: str) -> Job | None:
        """One job, also a terminal one."""

    def get_lease(self, lease_id: LeaseId) -> Lease | None:
        """One lease, also an ended one."""

    def list_jobs(self, where: JobFilter, before_seq: int, limit: int) -> Page:
        """Jobs with queue_seq below `before_seq` (0: from the newest)."""

    def count_jobs(self) -> Mapping[JobState, int]:
        """How many in each state."""

    def events_of(self, entity: str, entity_id: str, limit: int) -> tuple[EventRow, ...]:
        """The facts of one thing, oldest first."""

    def event_marks(self, after_seq: int, limit: int) -> Sequence[EventMark]:
        """Of the facts after that seq, in order."""

    def usage_of(self, lease_id: LeaseId) -> tuple[UsageInterval, ...]:
        """The stretches of one lease, by index."""

    def used_since(self, moment_ms: int) -> Sequence[UsedRow]:
        """What was used in stretches that ended since then, a row for each lease and day, by lease and end."""

    def close(self) -> None:
        """Give back connections and files."""


class Clock(Protocol):
    """The one source of time."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch, UTC."""


class IdSource(Protocol):
    """The one source of identity."""

    def new_id(self, prefix: str) -> str:
        """A new id: "<prefix>-" and letters that sort by time of making."""


class Notifier(Protocol):
    """Tells waiting calls that something changed. Called on the writer thread, after the commit."""

    def job_changed(self, job: Job) -> None:
        """For WatchJobs and the console."""

    def agent_has_orders(self, key: AgentKey) -> None:
        """For the held SyncHub call of this agent."""


class Tracking(Protocol):
    """MLflow, kept off the dispatch path: no call here blocks, and none of its failures fails a job."""

    def uri(self) -> str:
        """Where jobs reach it, from the moment it is wanted: it may still be starting. Empty when it is off."""

    def wanted(self) -> None:
        """Somebody's job wants it: start it if it is not running. Returns at once."""

    def close(self) -> None:
        """End it."""
