"""A job: what was asked (`JobSpec`), whose it is (`Owner`), and where its life stands (`Job`).

The checks of a spec are `check_spec`; how a job moves between states is `federation/lifecycle/job.py`; the mapping
that people write is `federation/client.py`'s.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field

from federation.domain.ids import AgentId, AgentKey, HubId, JobId, LeaseId, checked_name
from federation.domain.quantities import (
    ANY_OF,
    CPU,
    DEVICE_MILLI,
    DISK,
    GPU,
    MEMORY,
    DevicesByTask,
    Resources,
    amount_of,
    kinds_of,
)
from federation.errors import Code, invalid


class JobState(enum.StrEnum):
    """What a job is doing; `federation/v1/common.proto` says what each means."""

    QUEUED = "QUEUED"
    LEASED = "LEASED"
    STAGING = "STAGING"
    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    UNKNOWN = "UNKNOWN"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def terminal(self) -> bool:
        """Whether nothing more happens by itself."""
        return self in TERMINAL


TERMINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


class Priority(enum.IntEnum):
    """The class; smaller goes first."""

    CLASS = 1
    INTERACTIVE = 2
    BATCH = 3
    SCAVENGER = 4


class OnPartition(enum.IntEnum):
    """What becomes of a run whose hub is cut off."""

    KEEP = 1
    STOP = 2
    RERUN = 3


ENGINES = ("spark", "ray", "lab", "command", "fake")
"""`fake` runs only where a hub's configuration names it: it exists for tests and benchmarks."""

REPLICAS_MAX = 1_000
ARGUMENTS_MAX = 1_000
ARGUMENTS_BYTES_MAX = 128 * 1024
VARIABLES_MAX = 200
VARIABLES_BYTES_MAX = 128 * 1024
REQUIREMENTS_BYTES_MAX = 128 * 1024
INPUTS_MAX = 64
HUBS_NAMED_MAX = 1_000
SPEC_BYTES_MAX = 512 * 1024
RUNTIME_LIMIT_MS_MIN = 1_000
RUNTIME_LIMIT_MS_MAX = 30 * 86_400_000
GPU_KINDS_MAX = 16
"""Of which any will do."""
RESOURCE_NAMES = frozenset({CPU, MEMORY, DISK, GPU})
_NO_HUB, _NO_AGENT = HubId(""), AgentId("")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose something is: the hub that vouches, the project that pays, the person's name at their issuer."""

    home_hub: str
    project: str
    issuer: str
    subject: str


@dataclass(frozen=True, slots=True)
class Epoch:
    """A lease's version: (incarnation of the store, n); later is larger."""

    incarnation: int
    n: int

    def __str__(self) -> str:
        return f"{self.incarnation}-{self.n}"

    def __lt__(self, other: Epoch) -> bool:
        return (self.incarnation, self.n) < (other.incarnation, other.n)


@dataclass(frozen=True, slots=True)
class Input:
    """A dataset to be read; `alias` names its folder: BRHUB_INPUT_<ALIAS>."""

    dataset: str
    version: str
    alias: str


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What a person asked for, checked. The bytes they sent are kept beside it, for the hub and for signatures."""

    name: str
    project: str
    engine: str
    entrypoint: str
    per_task: Resources
    replicas: int = 1
    package_digest: str = ""
    arguments: tuple[str, ...] = ()
    requirements: str = ""
    variables: tuple[tuple[str, str], ...] = ()
    secret_variables: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    inputs: tuple[Input, ...] = ()
    runtime_limit_ms: int = 600_000
    priority: Priority = Priority.BATCH
    preemptible: bool = False
    idempotent: bool = False
    on_partition: OnPartition = OnPartition.KEEP
    tracking: bool = False
    hubs_allow: tuple[str, ...] = ()
    hubs_deny: tuple[str, ...] = ()
    hubs_prefer: tuple[str, ...] = ()
    spread: bool = False
    """Its tasks go to as many nodes as there are, rather than to as few."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why: a code for programs, a sentence for people, and its variable parts."""

    code: str
    message: str
    hub_id: str = ""
    metadata: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file of a result; path relative to the output folder, sha256 in hex."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Claim:
    """Room that a waiting job gets when its victims have ended. Nobody else is given it meanwhile."""

    hub_id: HubId
    agent_id: AgentId
    nodes: tuple[str, ...]
    """The node of each task."""
    devices: DevicesByTask
    victims: tuple[LeaseId, ...]
    """The leases that were told to end for it."""
    made_ms: int
    until_ms: int
    """When the victims have ended at the latest, or something is wrong: the claim is given up then."""
    lost_ms: int
    """The price: work that the victims lose, in milliseconds of dominant share."""

    @property
    def agent_key(self) -> AgentKey:
        """Where it is."""
        return (self.hub_id, self.agent_id)


@dataclass(frozen=True, slots=True)
class Job:
    """Where a job's life stands. `spec_bytes` is what was sent; `spec` is what it says, checked."""

    id: JobId
    owner: Owner
    spec: JobSpec
    spec_bytes: bytes = field(repr=False)
    state: JobState = JobState.QUEUED
    reason: Reason | None = None
    created_ms: int = 0
    state_since_ms: int = 0
    queue_seq: int = 0
    """Place in arrival order: the submit event's seq."""
    attempts: int = 0
    epoch: Epoch | None = None
    hub_id: HubId = _NO_HUB
    agent_id: AgentId = _NO_AGENT
    nodes: tuple[str, ...] = ()
    started_ms: int = 0
    ended_ms: int = 0
    exit_code: int = 0
    progress: str = ""
    url: str = ""
    tracking_run_id: str = ""
    parent_job_id: str = ""
    result_epoch: Epoch | None = None
    """The attempt whose output is the result; set once, by compare-and-swap."""
    outputs: tuple[OutputFile, ...] = ()
    revision: int = 1
    claim: Claim | None = None
    """Only while it waits."""


def check_spec(spec: JobSpec) -> JobSpec:
    """`spec` when every field is in range; else an error that names the first field that is not."""
    checked_name("name", spec.name)
    checked_name("project", spec.project)
    if spec.engine not in ENGINES:
        raise invalid(
            f"engine {spec.engine[:40]!r} is unknown", hint=f"Use one of {', '.join(ENGINES)}.", field="engine"
        )
    if not spec.entrypoint:
        raise invalid("the entrypoint is missing", hint="Name the program to run.", field="entrypoint")
    _check_path("entrypoint", spec.entrypoint)
    if spec.package_digest and not _DIGEST.fullmatch(spec.package_digest):
        raise invalid(
            "package_digest is not a sha256 in hex", hint="Name what CreateUpload was told.", field="package_digest"
        )
    if spec.arguments:
        _limit("arguments", len(spec.arguments), ARGUMENTS_MAX)
        _limit("arguments", sum([len(text.encode()) for text in spec.arguments]), ARGUMENTS_BYTES_MAX, "bytes")
    _limit("environment.requirements", len(spec.requirements.encode()), REQUIREMENTS_BYTES_MAX, "bytes")
    if spec.variables or spec.secret_variables:
        _check_variables(spec)
    if spec.inputs:
        _limit("inputs", len(spec.inputs), INPUTS_MAX)
        _check_inputs(spec)
    _check_demand(spec)
    if not RUNTIME_LIMIT_MS_MIN <= spec.runtime_limit_ms <= RUNTIME_LIMIT_MS_MAX:
        raise invalid("runtime_limit is out of range", hint="Use 1s to 30d.", field="runtime_limit")
    if spec.on_partition is OnPartition.RERUN and not spec.idempotent:
        raise invalid(
            "on_partition: rerun needs idempotent: true",
            hint="Say that running it twice does no harm, or use keep.",
            field="on_partition",
        )
    for where, named in (("allow", spec.hubs_allow), ("deny", spec.hubs_deny), ("prefer", spec.hubs_prefer)):
        _limit(f"hubs.{where}", len(named), HUBS_NAMED_MAX)
        for hub_id in named:
            checked_name(f"hubs.{where}", hub_id)
    return spec


def _limit(what: str, value: int, most: int, unit: str = "entries") -> None:
    if value > most:
        raise invalid(
            f"{what} has {value} {unit}; the limit is {most}",
            hint="Send large data as a package or a dataset.",
            code=Code.LIMIT_EXCEEDED,
            field=what,
            limit=str(most),
        )


def _check_path(what: str, path: str) -> None:
    parts = path.split("/")
    if len(path) > 512 or path.startswith("/") or ".." in parts or "\0" in path or "\n" in path:
        raise invalid(f"{what} {path[:80]!r} leaves the package", hint="Use a path relative to it.", field=what)


def _check_variables(spec: JobSpec) -> None:
    both = spec.variables + spec.secret_variables
    _limit("environment.variables", len(both), VARIABLES_MAX)
    _limit(
        "environment.variables",
        sum(len(name) + len(text.encode()) for name, text in both),
        VARIABLES_BYTES_MAX,
        "bytes",
    )
    for name, text in both:
        if not _VARIABLE.fullmatch(name) or "\0" in text:
            raise invalid(
                f"environment variable {name[:80]!r} is not allowed",
                hint="Use letters, digits and _; the text may hold no NUL.",
                field="environment.variables",
            )
        if name.startswith("BRHUB_"):
            raise invalid(
                f"environment variable {name} is ours",
                hint="Choose a name that does not begin with BRHUB_.",
                field="environment.variables",
            )


def _check_inputs(spec: JobSpec) -> None:
    seen: set[str] = set()
    for entry in spec.inputs:
        checked_name("inputs.dataset", entry.dataset)
        checked_name("inputs.as", entry.alias)
        if len(entry.version) > 128:
            raise invalid("inputs.version is too long", hint="Leave it empty for the newest.", field="inputs.version")
        if entry.alias in seen:
            raise invalid(f"two inputs are called {entry.alias!r}", hint="Give each its own `as`.", field="inputs.as")
        seen.add(entry.alias)


def _check_demand(spec: JobSpec) -> None:
    if not 1 <= spec.replicas <= REPLICAS_MAX:
        raise invalid(
            f"replicas of {spec.replicas} is out of range", hint=f"Use 1 to {REPLICAS_MAX}.", field="replicas"
        )
    gpu_kinds = []
    for name, kind, _ in spec.per_task:
        if name not in RESOURCE_NAMES:
            raise invalid(f"resource {name[:40]!r} is unknown", hint="Use cpu, memory, disk or gpu.", field="resources")
        if name == GPU:
            gpu_kinds.append(kind)
        elif kind:
            raise invalid(
                f"{name} is asked for of kind {kind[:40]!r}, and has no kinds",
                hint="Only gpus differ in kind: leave it out.",
                field="resources",
            )
    if not any(entry.name == CPU for entry in spec.per_task):
        raise invalid("resources.cpus is missing or zero", hint="Ask for at least 0.001.", field="resources.cpus")
    _check_gpus(spec, gpu_kinds)


def _check_gpus(spec: JobSpec, kinds: list[str]) -> None:
    """A part of one device, or whole devices, of one kind or of any of several."""
    if len(kinds) > 1:
        raise invalid(
            f"a task asks for {len(kinds)} kinds of gpu side by side",
            hint=f"Name one kind, or with A{ANY_OF}B the kinds of which either will do.",
            field="resources.gpu_model",
        )
    named = kinds_of(kinds[0]) if kinds else ()
    if (
        len(named) > GPU_KINDS_MAX
        or len(set(named)) != len(named)
        or not all(one.strip() == one != "" for one in named)
    ):
        raise invalid(
            f"gpu_model {kinds[0][:80]!r} is not a list of different kinds",
            hint=f"Write nvidia/A100, or nvidia/A100{ANY_OF}nvidia/H100 with at most {GPU_KINDS_MAX} kinds.",
            field="resources.gpu_model",
        )
    milli = amount_of(spec.per_task, GPU)
    if milli > DEVICE_MILLI and milli % DEVICE_MILLI:
        raise invalid(
            f"gpus of {milli / 1000:g} a task is neither a part of one device nor whole devices",
            hint="Below 1 it is a part of one device, such as 0.5; above 1 ask for whole ones.",
            field="resources.gpus",
            gpu_milli=str(milli),
        )
