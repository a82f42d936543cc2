"""A history of jobs as a file: JSON lines that a program writes and a person can write too.

```
{"history": 1, "begins": "2026-10-01T00:00:00Z", "ends": "2026-11-01T00:00:00Z"}
{"hub": "cairo", "engines": ["command", "spark"], "nodes": [{"node": "rack", "count": 4, "cpus": 32, "memory": "128Gi", "gpus": {"nvidia/A100": 2}}]}
{"job": "j1", "home": "cairo", "user": "amina", "submit": "1h30m", "runtime": "20m", "limit": "1h", "cpus": 4, "memory": "8Gi"}
```
In a job's line `ran` says what became of it: the hub, start and end of its last run, and as `lost` for how long it had run
before in attempts that others ended. What it waited in fact is start less submit less `lost`. The first line gives the version and the time that figures are taken over; a line with `hub` is an agent with its
machines; a line with `job` is a job that ran. Amounts are written as in job.yaml, moments in RFC 3339 or as a time since
`begins`. What may stand in a line, and what it is when it does not, is in `_FIRST`, `_HUB` and `_JOB` below, and in
the README. An error names its line. Deliberately not here: where histories come from (`recording.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from federation.domain.hub import Dataset, HubState, LinkState, Node
from federation.domain.ids import AgentId, HubId
from federation.domain.job import REPLICAS_MAX, Priority
from federation.errors import Code, FederationError, invalid
from federation.scheduling import Delta, PlannerState
from federation.scheduling.checks import check_delta
from federation.scheduling.rows import AgentRow, QueuedJob
from federation.simulation.replay import HistoricJob, Recorded
from federation.simulation.values import (
    amounts,
    duration_ms,
    flag,
    json_object,
    listed,
    mapping,
    moment_ms,
    only_keys,
    text,
    texts,
    when_ms,
    whole,
    wrong,
)
from federation.simulation.writing import VERSION, duration

LINE_CHARACTERS_MAX = 4 << 20
"""An agent in front of ten thousand machines fits."""
JOBS_MAX = 1_000_000
NODES_MAX = 10_000
RECLAIM_MS_MAX = 3_600_000

_FIRST = ("history", "begins", "ends", "policy")
_HUB = ("hub", "agent", "engines", "nodes", "datasets", "reclaim", "takes_back")
_NODE = ("node", "count", "cpus", "memory", "disk", "gpus", "offers")
_OFFERS = ("cpus", "memory", "disk", "gpus")
_DATASET = ("dataset", "version", "policy", "readers")
_JOB = (
    "job", "home", "project", "user", "submit", "runtime", "limit", "engine", "cpus", "memory", "disk", "gpus",
    "replicas", "priority", "preemptible", "spread", "inputs", "allow", "deny", "prefer", "ran",
)  # fmt: skip
_RAN = ("hub", "start", "end", "lost")


@dataclass(frozen=True, slots=True)
class History:
    """A stretch of time: the machines that were there, and the jobs that came, by the time they came."""

    begins_ms: int
    ends_ms: int
    agents: tuple[AgentRow, ...]
    jobs: tuple[HistoricJob, ...]
    policy: Mapping[str, Any] | None = field(default=None)
    """The policy file that was in force, as a mapping; None: nobody said."""


def read_history(path: Path) -> History:
    """The history in a file. Raises: FederationError, naming the line."""
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            return parse_history(_lines(file))
    except OSError as problem:
        raise invalid(
            f"the history {str(path)!r} cannot be read: {problem.strerror or problem}",
            hint="`brhub simulate --export FILE` writes one from a running federation.",
            path=str(path),
        ) from problem
    except UnicodeDecodeError as problem:
        raise invalid(f"the history {str(path)!r} is not UTF-8", hint="Save it as UTF-8.", path=str(path)) from problem


def _lines(file: Any) -> Iterator[str]:
    while line := file.readline(LINE_CHARACTERS_MAX + 1):
        yield line


def parse_history(lines: Iterable[str]) -> History:
    """The history in `lines`; empty lines and lines that begin with # are left out. Raises: FederationError."""
    parser = _Parser()
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                parser.line(number, line)
            except FederationError as error:
                raise _at(number, error) from None
    return parser.history()


def _at(number: int, error: FederationError, hint: str = "") -> FederationError:
    return FederationError(
        error.code,
        f"line {number} of the history: {error.message}",
        fault=error.fault,
        hint=hint or error.hint,
        metadata={**error.metadata, "line": str(number)},
    )


class _Parser:
    """Takes line after line."""

    def __init__(self) -> None:
        self._first: Mapping[str, Any] | None = None
        self._begins_ms = 0
        self._agents: dict[tuple[str, str], tuple[int, AgentRow]] = {}
        self._jobs: dict[str, tuple[int, HistoricJob]] = {}

    def line(self, number: int, line: str) -> None:
        if len(line) > LINE_CHARACTERS_MAX:
            raise wrong("it", f"has more than {LINE_CHARACTERS_MAX} characters", Code.LIMIT_EXCEEDED)
        value = json_object(line)
        if self._first is None:
            self._begin(value)
        elif "job" in value:
            job = _job(value, self._begins_ms)
            _once(self._jobs, job.row.job_id, "job")
            self._jobs[job.row.job_id] = (number, job)
            if len(self._jobs) > JOBS_MAX:
                raise wrong("the history", f"has more than {JOBS_MAX} jobs", Code.LIMIT_EXCEEDED)
        elif "hub" in value:
            row = _agent(value)
            _once(self._agents, row.key, "agent")
            self._agents[row.key] = (number, row)
        else:
            raise wrong("it", "is neither a hub's line nor a job's", hint='Begin it with {"hub": or {"job":.')

    def _begin(self, value: Mapping[str, Any]) -> None:
        if "history" not in value:
            raise wrong("it", "is not the first line of a history", hint='Begin the file with {"history": 1}.')
        only_keys(value, _FIRST)
        whole(value["history"], "history", VERSION, VERSION)
        self._begins_ms = moment_ms(value["begins"], "begins") if "begins" in value else 0
        if "ends" in value and moment_ms(value["ends"], "ends") <= self._begins_ms:
            raise wrong("ends", "is not after begins")
        if "policy" in value:
            mapping(value["policy"], "policy")
        self._first = value

    def history(self) -> History:
        """Everything together, which must make sense together."""
        if self._first is None:
            raise invalid("the history is empty", hint='Begin the file with {"history": 1}.')
        by_time = sorted(self._jobs.values(), key=lambda entry: (entry[1].row.submitted_ms, entry[0]))
        jobs = tuple(replace(job, row=replace(job.row, seq=seq)) for seq, (_, job) in enumerate(by_time, 1))
        agents = sorted(self._agents.values(), key=lambda entry: entry[1].key)
        delta = Delta(agents=tuple(row for _, row in agents), queued=tuple(job.row for job in jobs))
        try:
            check_delta(PlannerState(), delta)
        except FederationError as error:
            numbered = agents if error.metadata.get("field") == "agents" else by_time
            number = numbered[int(error.metadata["index"])][0]
            raise _at(number, error, "The planner would not take it: see its limits.") from None
        ends_ms = max((_over_ms(job) for job in jobs), default=0)
        if "ends" in self._first:
            ends_ms = moment_ms(self._first["ends"], "ends")
        ends_ms = max(ends_ms, self._begins_ms + 1)
        return History(self._begins_ms, ends_ms, delta.agents, jobs, self._first.get("policy"))


def _once(seen: Mapping[Any, tuple[int, object]], name: object, what: str) -> None:
    if name in seen:
        raise wrong(what, f"{name!r} is in line {seen[name][0]} already", hint="Each has one line.")


def _over_ms(job: HistoricJob) -> int:
    """When it was over in fact, or could have been at the earliest."""
    return job.recorded.end_ms if job.recorded else job.row.submitted_ms + job.runtime_ms


def _agent(value: Mapping[str, Any]) -> AgentRow:
    only_keys(value, _HUB)
    nodes: list[Node] = []
    for index, entry in enumerate(listed(value.get("nodes"), "nodes")):
        nodes += _nodes(mapping(entry, f"nodes[{index}]"), f"nodes[{index}]")
        if len(nodes) > NODES_MAX:
            raise wrong("nodes", f"are more than {NODES_MAX}", Code.LIMIT_EXCEEDED)
    return AgentRow(
        key=(HubId(text(value["hub"], "hub")), AgentId(text(value.get("agent", "main"), "agent"))),
        hub_state=HubState.ACTIVE,
        link=LinkState.ONLINE,
        nodes=tuple(nodes),
        engines=texts(value.get("engines", ["command"]), "engines"),
        datasets=tuple(_dataset(entry) for entry in listed(value.get("datasets", []), "datasets")),
        reclaim_ms=duration_ms(value.get("reclaim", "60s"), "reclaim", 0, RECLAIM_MS_MAX),
        takes_back=flag(value.get("takes_back", False), "takes_back"),
    )


def _nodes(value: Mapping[str, Any], where: str) -> list[Node]:
    only_keys(value, _NODE, where)
    capacity = amounts(value, f"{where}.")
    offers = value.get("offers")
    offered = capacity
    if offers is not None:
        only_keys(mapping(offers, f"{where}.offers"), _OFFERS, f"{where}.offers")
        offered = amounts(offers, f"{where}.offers.")
    name = text(value.get("node", "main"), f"{where}.node")
    if "count" not in value:
        return [Node(name, offered, capacity)]
    count = whole(value["count"], f"{where}.count", 1, NODES_MAX)
    return [Node(f"{name}-{at}", offered, capacity) for at in range(1, count + 1)]


def _dataset(value: object) -> Dataset:
    entry = mapping(value, "datasets")
    only_keys(entry, _DATASET, "datasets")
    return Dataset(
        text(entry.get("dataset"), "datasets.dataset"),
        text(entry.get("version", "1"), "datasets.version"),
        0,
        text(entry.get("policy", "open"), "datasets.policy"),
        readers=texts(entry.get("readers", []), "datasets.readers"),
    )


def _job(value: Mapping[str, Any], begins_ms: int) -> HistoricJob:
    only_keys(value, _JOB)
    runtime_ms = duration_ms(value.get("runtime"), "runtime", 1)
    limit_ms = duration_ms(value["limit"], "limit", 1) if "limit" in value else runtime_ms
    if runtime_ms > limit_ms:
        raise wrong("runtime", f"of {duration(runtime_ms)} is over the job's limit of {duration(limit_ms)}")
    row = QueuedJob(
        job_id=text(value["job"], "job"),
        seq=0,
        home_hub=text(value.get("home"), "home", empty=True),
        project=text(value.get("project", "default"), "project"),
        user=text(value.get("user", "somebody"), "user"),
        engine=text(value.get("engine", "command"), "engine"),
        per_task=amounts({"cpus": 1, **value}),
        replicas=whole(value.get("replicas", 1), "replicas", 1, REPLICAS_MAX),
        priority=_priority(value.get("priority", "batch")),
        inputs=tuple(_input(entry) for entry in texts(value.get("inputs", []), "inputs")),
        hubs_allow=texts(value.get("allow", []), "allow"),
        hubs_deny=texts(value.get("deny", []), "deny"),
        hubs_prefer=texts(value.get("prefer", []), "prefer"),
        runtime_limit_ms=limit_ms,
        preemptible=flag(value.get("preemptible", False), "preemptible"),
        submitted_ms=when_ms(value.get("submit"), "submit", begins_ms),
        spread=flag(value.get("spread", False), "spread"),
    )
    return HistoricJob(row, runtime_ms, _recorded(value.get("ran"), row.submitted_ms, begins_ms))


def _recorded(value: object, submitted_ms: int, begins_ms: int) -> Recorded | None:
    if value is None:
        return None
    ran = mapping(value, "ran")
    only_keys(ran, _RAN, "ran")
    start_ms, end_ms = (when_ms(ran.get(key), f"ran.{key}", begins_ms) for key in ("start", "end"))
    if not submitted_ms <= start_ms <= end_ms:
        raise wrong("ran", "does not start after submit, or ends before it starts")
    lost_ms = duration_ms(ran.get("lost", "0s"), "ran.lost", 0)
    if lost_ms > start_ms - submitted_ms:
        raise wrong("ran.lost", "is longer than the time from submit to ran.start")
    return Recorded(text(ran.get("hub"), "ran.hub"), start_ms, end_ms, lost_ms)


def _input(entry: str) -> tuple[str, str]:
    name, _, version = entry.partition("@")
    return name, version


def _priority(value: object) -> int:
    names = [entry.name.lower() for entry in Priority]
    if value not in names:
        raise wrong("priority", f"must be one of {', '.join(names)}")
    return int(Priority[str(value).upper()])
