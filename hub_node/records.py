"""What the agent remembers and passes around: frozen values, no I/O. Floor 0 of hub_node.

The wire's shapes are translated to these in `wire.py`; the journal keeps `Run`s; `reconcile.py` decides on them.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class RunState(enum.StrEnum):
    """What a run is doing here. ACCEPTED is written to the journal before anything begins."""

    ACCEPTED = "ACCEPTED"
    STAGING = "STAGING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    ENDED = "ENDED"


class Outcome(enum.StrEnum):
    """How a run ended; NONE while it has not."""

    NONE = "NONE"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    STOPPED = "STOPPED"
    REFUSED = "REFUSED"


@dataclass(frozen=True, slots=True)
class Epoch:
    """A lease's version; later is larger."""

    incarnation: int
    n: int

    def __str__(self) -> str:
        return f"{self.incarnation}-{self.n}"


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file of the result; path relative to the output folder."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What an older attempt left, and a link to each of its files. One that is damaged has none."""

    name: str
    """Attempt and number."""
    files: tuple[OutputFile, ...] = ()
    urls: tuple[str, ...] = field(default=(), repr=False)
    damaged: bool = False


@dataclass(frozen=True, slots=True)
class Reason:
    """A code for programs, a sentence for people, and its variable parts."""

    code: str
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeReport:
    """A machine as it was measured; resources are (name, kind, amount) in base units."""

    name: str
    offered: tuple[tuple[str, str, int], ...]
    capacity: tuple[tuple[str, str, int], ...]
    load_cpu_milli: int = 0
    memory_available_bytes: int = 0


@dataclass(frozen=True, slots=True)
class DatasetReport:
    """A dataset that lies here, as it is announced."""

    name: str
    version: str
    size_bytes: int
    policy: str
    title: str = ""
    readers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be run, from the lease's spec; amounts are of one task."""

    name: str
    project: str
    engine: str
    entrypoint: str
    arguments: tuple[str, ...]
    requirements: str
    variables: Mapping[str, str]
    secret_variables: Mapping[str, str] = field(repr=False)
    package_digest: str
    inputs: tuple[tuple[str, str, str], ...]
    """(dataset, version, alias)."""
    replicas: int
    cpu_milli: int
    memory_bytes: int
    disk_bytes: int
    gpu_milli: int
    gpu_kind: str
    runtime_limit_ms: int
    priority: str
    preemptible: bool
    on_partition: str
    """keep, stop or rerun."""
    tracking: bool


@dataclass(frozen=True, slots=True)
class LeaseOrder:
    """Start this. `valid_until_ms` was counted from when the request was sent; 0 for `keep`."""

    lease_id: str
    job_id: str
    epoch: Epoch
    work: Work
    spec_bytes: bytes = field(repr=False)
    home_hub: str
    issuer: str
    subject: str
    nodes: tuple[str, ...]
    valid_until_ms: int
    package_url: str
    tracking_uri: str
    devices: tuple[tuple[int, ...], ...] = ()
    """By task, the places of its GPUs among those that this agent offers; empty: admission chooses."""
    request_id: str = ""
    """Under which it was submitted, and below the job that it belongs to: for a control plane that forgot."""
    parent_job_id: str = ""


@dataclass(frozen=True, slots=True)
class RevokeOrder:
    """End this run, only this epoch of it."""

    lease_id: str
    epoch: Epoch
    reason: Reason
    grace_ms: int


@dataclass(frozen=True, slots=True)
class RenewOrder:
    """This lease lives longer."""

    lease_id: str
    epoch: Epoch
    valid_until_ms: int


@dataclass(frozen=True, slots=True)
class ReleaseOrder:
    """The control plane has stored this run's end: forget it."""

    lease_id: str
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class ReadLogOrder:
    """Send a range of this attempt's log."""

    read_id: str
    job_id: str
    epoch: Epoch
    offset: int
    limit_bytes: int


@dataclass(frozen=True, slots=True)
class Orders:
    """One answer of the control plane, translated. Absence is never an order."""

    incarnation: int
    revision: int
    sent_ms: int = 0
    """When the request that this answers was sent, by our own clock: every length in it is counted from here."""
    first: bool = False
    """The first answer of a session: nothing of this session can be newer."""
    leases: tuple[LeaseOrder, ...] = ()
    revokes: tuple[RevokeOrder, ...] = ()
    renewals: tuple[RenewOrder, ...] = ()
    releases: tuple[ReleaseOrder, ...] = ()
    log_reads: tuple[ReadLogOrder, ...] = ()
    send_full: bool = False
    send_all: bool = False
    """With `send_full`: also what was released. The control plane's store was restored from a backup."""
    usage_stored: Mapping[str, int] = field(default_factory=dict)
    store_id: str = ""
    """The store that gives them; empty: a control plane of before stores had names."""


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt at this hub, as the journal keeps it."""

    lease: LeaseOrder
    state: RunState
    outcome: Outcome = Outcome.NONE
    reason: Reason | None = None
    accepted_ms: int = 0
    started_ms: int = 0
    ended_ms: int = 0
    exit_code: int = 0
    progress: str = ""
    url: str = ""
    runner_state: str = ""
    """What the runner saved, JSON; empty before it started."""
    tracking_run_id: str = ""
    """The attempt's MLflow run, where it has one."""
    boot_id: str = ""
    """The machine's boot in which it was accepted, and by whose clock its moments are told, or in which the runner started."""
    deadline_ms: int = 0
    """Wall-clock end of the run's right; the guard holds the same on CLOCK_BOOTTIME."""
    outputs: tuple[OutputFile, ...] = ()
    usage_stored: int = -1
    devices: tuple[str, ...] = ()
    """The GPUs that it holds here, one entry a whole device, or one a task where tasks hold parts of a device."""
    stop_grace_ms: int = 0
    """Once it was told to end: how long it has, also under the next process of this agent."""

    @property
    def lease_id(self) -> str:
        """The lease's id, the key in the journal."""
        return self.lease.lease_id


@dataclass(frozen=True, slots=True)
class Seen:
    """The newest orders that were carried out into the journal: older ones are dropped."""

    incarnation: int = 0
    revision: int = 0
    store_id: str = ""
    """Whose they are: the store that the runs here belong to."""
