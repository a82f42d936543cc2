"""The door's check of a `Delta`: bad rows are refused with their index, before anything of the delta is applied.

What is refused: wrong types (a NaN is a float, and no amount is one), negative or absurd amounts, doubled ids, an id
both put and removed, a second live lease of one job, a job that waits while it holds a lease, and totals that could
overflow int64. The kernels behind the door check nothing.

Totals are limited hub by hub, each to its part of what fits: whatever one hub offers, no row of another is refused for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, TypeVar

from federation.domain.hub import AGENTS_MAX, HUB_AMOUNT_MAX, HUBS_MAX, NODES_PER_AGENT_MAX, Dataset
from federation.domain.ids import AgentKey
from federation.domain.job import HUBS_NAMED_MAX, INPUTS_MAX, REPLICAS_MAX, Priority
from federation.domain.quantities import AMOUNT_MAX, DEVICE_MILLI, GPU, KINDS_MAX, Resources, amount_of
from federation.errors import Code, Fault, FederationError
from federation.scheduling.rows import AgentRow, ClaimRow, Delta, LeaseRow, LinkRow, QueuedJob, UsageRow, WindowRow

if TYPE_CHECKING:
    from federation.scheduling.state import PlannerState

QUEUED_MAX = 1_000_000
LEASES_MAX = 1_000_000
LINKS_MAX = 1_000_000
ROUND_TRIP_MS_MAX = 3_600_000
WINDOWS_MAX = 10_000
WINDOWS_PER_AGENT_MAX = 200
"""What all windows of an agent hold together stays below 2^61."""
TIME_MS_MAX = 2**53
DEVICES_PER_NODE_MAX = 1_024
PRIORITIES = tuple(int(priority) for priority in Priority)
USED_MAX = 2**62 * TIME_MS_MAX

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
Amounts = list[tuple[str, int]]
"""(resource name, amount)."""


class Tally:
    """What there is at each hub, by resource name: the sums that must not overflow. What is nothing is left out."""

    def __init__(self) -> None:
        self.of_hub: dict[str, dict[str, int]] = {}

    def add(self, hub_id: str, amounts: Amounts, sign: int) -> None:
        """So much more (1) or less (-1)."""
        sums = self.of_hub.setdefault(hub_id, {})
        for name, amount in amounts:
            sums[name] = sums.get(name, 0) + sign * amount
            if not sums[name]:
                del sums[name]
        if not sums:
            del self.of_hub[hub_id]


class Holdings:
    """What each hub offers, and what is held and claimed of its machines."""

    def __init__(self) -> None:
        self.offered, self.held, self.claimed = Tally(), Tally(), Tally()

    def offer(self, row: AgentRow, sign: int) -> None:
        """An agent comes (1) or goes (-1)."""
        self.offered.add(row.key[0], _offered(row), sign)

    def hold(self, row: LeaseRow, sign: int) -> None:
        """A lease begins (1) or ends (-1)."""
        self.held.add(row.key[0], held_of(row), sign)

    def claim(self, row: ClaimRow, per_task: Resources, sign: int) -> None:
        """A claim begins (1) or ends (-1)."""
        self.claimed.add(row.key[0], _together(per_task, len(row.nodes)), sign)


class RowsRefusedError(FederationError):
    """Rows of a delta that cannot be: without them, the rest may be tried again. It speaks of the first of them."""

    def __init__(self, field: str, problems: Mapping[int, str], code: Code) -> None:
        self.field, self.indexes = field, tuple(sorted(problems))
        index = self.indexes[0]
        super().__init__(
            code,
            f"{field}[{index}]: {problems[index]}",
            fault=Fault.CALLER,
            hint="The planner's rows are made by queued_from, agent_row and lease_row; nothing of this delta was applied.",
            metadata={"field": field, "index": str(index)},
        )


class _BadRowError(Exception):
    """What is wrong with a row; `_each` adds where it is."""


def check_delta(state: PlannerState, delta: Delta) -> None:
    """Nothing, when `delta` can be applied to `state`; else a RowsRefusedError (metadata: field, index of the first)."""
    _each("agents", delta.agents, _check_agent)
    agents_removed = _unique("agents_removed", delta.agents_removed, _itself)
    agents = _unique("agents", delta.agents, lambda row: row.key)
    _apart("agents", agents, agents_removed)
    _limit("agents", state.agents, agents, agents_removed, AGENTS_MAX)
    _check_offered(state, delta, agents.keys() | agents_removed.keys())
    _check_links(state, delta)
    _each("queued", delta.queued, _check_job)
    _each("leases_started", delta.leases_started, _check_lease)
    _each("usage", delta.usage, _check_usage)
    _each("claims_made", delta.claims_made, _check_claim)
    claims_ended = _unique("claims_ended", delta.claims_ended, _itself)
    claims = _unique("claims_made", delta.claims_made, lambda row: row.job_id)
    _apart("claims_made", claims, claims_ended)
    dequeued = _unique("dequeued", delta.dequeued, _itself)
    leases_ended = _unique("leases_ended", delta.leases_ended, _itself)
    queued = _unique("queued", delta.queued, lambda job: job.job_id)
    leases = _unique("leases_started", delta.leases_started, lambda row: row.lease_id)
    _apart("queued", queued, dequeued)
    _apart("leases_started", leases, leases_ended)
    _limit("queued", state.queue.slots, queued, dequeued, QUEUED_MAX)
    _limit("leases_started", state.leases, leases, leases_ended, LEASES_MAX)
    _check_leases_of_jobs(state, delta, leases_ended)
    _check_held(state, delta, leases.keys() | leases_ended.keys())
    _check_claimed(state, delta, claims.keys() | claims_ended.keys())
    if delta.windows:
        _check_windows(state, delta)


def _check_links(state: PlannerState, delta: Delta) -> None:
    _each("links", delta.links, _check_link)
    links = _unique("links", delta.links, lambda row: row.ends)
    removed = _unique("links_removed", delta.links_removed, _itself)
    _apart("links", links, removed)
    _limit("links", state.links, links, removed, LINKS_MAX)


def _check_offered(state: PlannerState, delta: Delta, changed: AbstractSet[AgentKey]) -> None:
    """No hub offers more than its part."""
    if delta.agents:
        before = (state.agents[key] for key in changed if key in state.agents)
        leaving = [(row.key[0], _offered(row)) for row in before]
        coming = ((row.key[0], _offered(row)) for row in delta.agents)
        _check_totals("agents", state.holdings.offered, leaving, coming)


def _check_held(state: PlannerState, delta: Delta, changed: AbstractSet[str]) -> None:
    """No more is held of a hub's machines than its part."""
    if delta.leases_started:
        before = (state.leases[key] for key in changed if key in state.leases)
        leaving = [(row.key[0], held_of(row)) for row in before]
        coming = ((row.key[0], held_of(row)) for row in delta.leases_started)
        _check_totals("leases_started", state.holdings.held, leaving, coming)


def _check_claimed(state: PlannerState, delta: Delta, changed: AbstractSet[str]) -> None:
    """The same for claims; that of a job that does not wait holds nothing."""
    if not delta.claims_made:
        return
    asked = {job.job_id: job.per_task for job in delta.queued}

    def per_task(job_id: str) -> Resources:
        return asked.get(job_id) or (state.job(job_id).per_task if job_id in state.queue else ())

    before = (state.claims[job_id] for job_id in changed if job_id in state.claims)
    leaving = [(row.key[0], _together(state.job(row.job_id).per_task, len(row.nodes))) for row in before]
    coming = ((row.key[0], _together(per_task(row.job_id), len(row.nodes))) for row in delta.claims_made)
    _check_totals("claims_made", state.holdings.claimed, leaving, coming)


def _check_windows(state: PlannerState, delta: Delta) -> None:
    """Each makes sense, and there are not too many, at one agent or in all."""
    _each("windows", delta.windows, _check_window)
    put = _unique("windows", delta.windows, lambda row: row.window_id)
    ended = _unique("windows_ended", delta.windows_ended, _itself)
    _apart("windows", put, ended)
    _limit("windows", state.windows.rows, put, ended, WINDOWS_MAX)
    at = Counter(row.key for name, row in state.windows.rows.items() if name not in put and name not in ended)
    problems: dict[int, str] = {}
    for index, row in enumerate(delta.windows):
        at[row.key] += 1
        if at[row.key] > WINDOWS_PER_AGENT_MAX:
            problems[index] = f"one agent holds {WINDOWS_PER_AGENT_MAX} windows at most"
    _refuse("windows", problems, Code.LIMIT_EXCEEDED)


def held_of(row: LeaseRow) -> Amounts:
    """All that a lease holds, tasks together."""
    return _together(row.per_task, len(row.nodes))


def _together(per_task: Resources, tasks: int) -> Amounts:
    return [(entry.name, entry.amount * tasks) for entry in per_task]


def _offered(row: AgentRow) -> Amounts:
    return [(entry.name, entry.amount) for node in row.nodes for entry in node.offered]


def _itself(key: K) -> K:
    return key


def _refuse(field: str, problems: Mapping[int, str], code: Code = Code.INVALID_ARGUMENT) -> None:
    """Raise, when there are any problems, by index."""
    if problems:
        raise RowsRefusedError(field, problems, code)


def _each(field: str, rows: Sequence[T], check: Callable[[T], None]) -> None:
    problems: dict[int, str] = {}
    for index, row in enumerate(rows):
        try:
            check(row)
        except _BadRowError as problem:
            problems[index] = str(problem)
    _refuse(field, problems)


def _unique(field: str, rows: Iterable[T], key: Callable[[T], K]) -> dict[K, int]:
    seen: dict[K, int] = {}
    problems: dict[int, str] = {}
    for index, row in enumerate(rows):
        name = key(row)
        if name in seen:
            problems[index] = f"{name!r} is there twice, first at {seen[name]}"
        else:
            seen[name] = index
    _refuse(field, problems)
    return seen


def _apart(field: str, put: Mapping[K, int], removed: Mapping[K, int]) -> None:
    both = put.keys() & removed.keys()
    _refuse(field, {put[name]: f"{name!r} is put and removed in one delta" for name in both})


def _limit(field: str, present: Mapping[K, object], put: Mapping[K, int], removed: Mapping[K, int], most: int) -> None:
    """Refuse the new rows for which there is no room. Costs no more than the delta is long."""
    room = most - len(present) + sum(name in present for name in removed)
    new = [index for name, index in put.items() if name not in present]
    problem = f"the planner holds {most} at most"
    _refuse(field, dict.fromkeys(new[max(room, 0) :], problem), Code.LIMIT_EXCEEDED)


def _check_whole(what: str, value: object, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise _BadRowError(f"{what} of {value!r} is not a whole number from {least} to {most}")


def _check_text(what: str, value: object) -> None:
    if type(value) is not str or not value:
        raise _BadRowError(f"{what} of {value!r} is not a name")


def _check_texts(what: str, value: object) -> None:
    if type(value) is not tuple or not all(type(text) is str for text in value):
        raise _BadRowError(f"{what} of {value!r} are not a tuple of names")


def _check_flag(what: str, value: object) -> None:
    if type(value) is not bool:
        raise _BadRowError(f"{what} of {value!r} is not true or false")


def _check_home(value: object) -> None:
    """A hub's name; the federation's own operators are of no hub."""
    if value != "":
        _check_text("home_hub", value)


def _check_key(key: AgentKey) -> None:
    if type(key) is not tuple or len(key) != 2:
        raise _BadRowError(f"key {key!r} is not (hub, agent)")
    for part in key:
        _check_text("key", part)


def _check_resources(what: str, of: Resources, most: int = AMOUNT_MAX) -> None:
    if len(of) > KINDS_MAX:
        raise _BadRowError(f"{what} has {len(of)} entries; the limit is {KINDS_MAX}")
    previous: tuple[str, str] | None = None
    total = 0
    for entry in of:
        name, kind, amount = entry
        _check_text(f"{what} name", name)
        if type(kind) is not str:
            raise _BadRowError(f"{what} kind of {kind!r} is not text")
        _check_whole(f"{what} {name}", amount, 1, most)
        total = total + amount if previous and previous[0] == name else amount
        _check_whole(f"{what} {name}, all kinds", total, 1, most)
        if previous is not None and (name, kind) <= previous:
            raise _BadRowError(f"{what} is not sorted, or has {name} {kind} twice")
        previous = (name, kind)


def _check_agent(row: AgentRow) -> None:
    _check_key(row.key)
    if len(row.nodes) > NODES_PER_AGENT_MAX:
        raise _BadRowError(f"{len(row.nodes)} nodes are over the limit of {NODES_PER_AGENT_MAX}")
    seen: set[str] = set()
    for node in row.nodes:
        _check_text("node", node.name)
        if node.name in seen:
            raise _BadRowError(f"node {node.name!r} is there twice")
        seen.add(node.name)
        _check_resources(f"node {node.name} offered", node.offered)
        _check_whole(f"node {node.name} gpu", amount_of(node.offered, GPU), 0, DEVICES_PER_NODE_MAX * DEVICE_MILLI)
    _check_texts("engines", row.engines)
    if type(row.datasets) is not tuple or not all(type(entry) is Dataset for entry in row.datasets):
        raise _BadRowError("datasets are not a tuple of them")
    for entry in row.datasets:
        for what in (entry.name, entry.policy):
            _check_text("dataset", what)
        _check_texts("version and readers of a dataset", (entry.version, *entry.readers))
        _check_whole("size_bytes of a dataset", entry.size_bytes, 0, AMOUNT_MAX)
    _check_flag("takes_back", row.takes_back)
    _check_flag("fetches", row.fetches)
    _check_whole("reclaim_ms", row.reclaim_ms, 0, TIME_MS_MAX)


def _check_link(row: LinkRow) -> None:
    for hub_id in row.ends:
        _check_text("hub", hub_id)
    _check_whole("bytes_per_s", row.bytes_per_s, 1, AMOUNT_MAX)
    _check_whole("round_trip_ms", row.round_trip_ms, 0, ROUND_TRIP_MS_MAX)


def _check_job(job: QueuedJob) -> None:
    _check_home(job.home_hub)
    for what in ("job_id", "project", "user", "engine"):
        _check_text(what, getattr(job, what))
    _check_whole("seq", job.seq, 0, TIME_MS_MAX)
    _check_whole("replicas", job.replicas, 1, REPLICAS_MAX)
    _check_whole("runtime_limit_ms", job.runtime_limit_ms, 1, TIME_MS_MAX)
    _check_whole("submitted_ms", job.submitted_ms, 0, TIME_MS_MAX)
    _check_whole("expected_ms", job.expected_ms, 0, job.runtime_limit_ms)
    _check_resources("per_task", job.per_task)
    if not job.per_task:
        raise _BadRowError("per_task is empty: a task that needs nothing would fit without end")
    if type(job.priority) not in (int, Priority) or job.priority not in PRIORITIES:
        raise _BadRowError(f"priority of {job.priority!r} is not one of {PRIORITIES}")
    if type(job.inputs) is not tuple:
        raise _BadRowError("inputs are not a tuple")
    if len(job.inputs) > INPUTS_MAX:
        raise _BadRowError(f"{len(job.inputs)} inputs are over the limit of {INPUTS_MAX}")
    for entry in job.inputs:
        _check_texts("inputs", entry)
        if len(entry) != 2:
            raise _BadRowError(f"inputs of {entry!r} are not (dataset, version)")
    _check_flag("preemptible", job.preemptible)
    _check_flag("spread", job.spread)
    _check_window_id(job.window)
    for named in (job.hubs_allow, job.hubs_deny, job.hubs_prefer, job.hubs_refused):
        _check_texts("named hubs", named)
        if len(named) > HUBS_NAMED_MAX:
            raise _BadRowError(f"{len(named)} named hubs are over the limit of {HUBS_NAMED_MAX}")


def _check_lease(row: LeaseRow) -> None:
    _check_home(row.home_hub)
    for what in ("lease_id", "job_id", "project", "user"):
        _check_text(what, getattr(row, what))
    _check_key(row.key)
    _check_whole("expires_ms", row.expires_ms, 0, TIME_MS_MAX)
    _check_whole("started_ms", row.started_ms, 0, TIME_MS_MAX)
    _check_whole("tasks", len(row.nodes), 1, REPLICAS_MAX)
    for node in row.nodes:
        _check_text("node", node)
    _check_devices(row.devices, len(row.nodes))
    _check_resources("per_task", row.per_task)
    _check_window_id(row.window)


def _check_window_id(value: object) -> None:
    if type(value) is not str:
        raise _BadRowError(f"window of {value!r} is not a name")


def _check_claim(row: ClaimRow) -> None:
    _check_text("job_id", row.job_id)
    _check_key(row.key)
    _check_whole("tasks", len(row.nodes), 1, REPLICAS_MAX)
    for text in (*row.nodes, *row.victims):
        _check_text("node or victim", text)
    _check_devices(row.devices, len(row.nodes))


def _check_window(row: WindowRow) -> None:
    _check_text("window_id", row.window_id)
    _check_key(row.key)
    _check_whole("seats", len(row.nodes), 1, REPLICAS_MAX)
    for text in row.nodes:
        _check_text("node", text)
    _check_devices(row.devices, len(row.nodes))
    _check_resources("per_task", row.per_task)
    if not row.per_task:
        raise _BadRowError("per_task is empty: seats of nothing hold nothing")
    for name, amount in _together(row.per_task, len(row.nodes)):
        _check_whole(f"all seats' {name}", amount, 0, HUB_AMOUNT_MAX)
    _check_whole("start_ms", row.start_ms, 0, TIME_MS_MAX)
    _check_whole("end_ms", row.end_ms, row.start_ms + 1, TIME_MS_MAX)
    _check_whole("no_show_ms", row.no_show_ms, row.start_ms, row.end_ms)
    _check_whole("taken", row.taken, 0, REPLICAS_MAX)


def _check_devices(devices: object, tasks: int) -> None:
    """Nothing, or one tuple of places a task."""
    if type(devices) is not tuple or (devices and len(devices) != tasks):
        raise _BadRowError(f"devices of {devices!r} are not one entry a task")
    for places in devices:
        if type(places) is not tuple or len(set(places)) != len(places):
            raise _BadRowError(f"devices of {places!r} are not different places")
        for place in places:
            _check_whole("device", place, 0, DEVICES_PER_NODE_MAX)


def _check_usage(row: UsageRow) -> None:
    _check_home(row.home_hub)
    for what in ("project", "user"):
        _check_text(what, getattr(row, what))
    _check_whole("end_ms", row.end_ms, 0, TIME_MS_MAX)
    _check_home(row.host_hub)
    if len(row.used) > KINDS_MAX or len({name for name, _ in row.used}) != len(row.used):
        raise _BadRowError("used has too many names, or one twice")
    for name, amount_ms in row.used:
        _check_text("used name", name)
        _check_whole(f"used {name}", amount_ms, 0, USED_MAX)


def _check_leases_of_jobs(state: PlannerState, delta: Delta, leases_ended: Mapping[str, int]) -> None:
    """Promise 2: at most one live lease per job, and none beside a place in the queue."""
    holder: dict[str, str] = {}
    problems: dict[int, str] = {}
    for index, row in enumerate(delta.leases_started):
        before = state.leases.get(row.lease_id)
        other = holder.get(row.job_id) or state.lease_of_job.get(row.job_id)
        if before is not None and before.job_id != row.job_id:
            problems[index] = f"lease {row.lease_id!r} was of job {before.job_id!r}"
        elif other is not None and other != row.lease_id and other not in leases_ended:
            problems[index] = f"job {row.job_id!r} already holds lease {other!r}"
        else:
            holder[row.job_id] = row.lease_id
    _refuse("leases_started", problems)
    for index, job in enumerate(delta.queued):
        lease_id = holder.get(job.job_id) or state.lease_of_job.get(job.job_id)
        if lease_id is not None and lease_id not in leases_ended:
            problems[index] = f"job {job.job_id!r} waits while it holds lease {lease_id!r}"
    _refuse("queued", problems)


def _check_totals(
    field: str, tally: Tally, leaving: Iterable[tuple[str, Amounts]], coming: Iterable[tuple[str, Amounts]]
) -> None:
    """Refuse the rows that take a hub over its part, or that are of one hub too many."""
    after: dict[str, dict[str, int]] = {}
    problems: dict[int, str] = {}
    for hub_id, amounts in leaving:
        sums = after.setdefault(hub_id, dict(tally.of_hub.get(hub_id, {})))
        for name, amount in amounts:
            sums[name] -= amount
    hubs = {hub_id for hub_id, sums in {**tally.of_hub, **after}.items() if any(sums.values())}
    for index, (hub_id, amounts) in enumerate(coming):
        sums = dict(after.get(hub_id) or tally.of_hub.get(hub_id, {}))
        for name, amount in amounts:
            sums[name] = sums.get(name, 0) + amount
        over = sorted(name for name, total in sums.items() if total > HUB_AMOUNT_MAX)
        if over:
            problems[index] = f"all {over[0]} of {hub_id} together is more than {HUB_AMOUNT_MAX}"
        elif amounts and hub_id not in hubs and len(hubs) == HUBS_MAX:
            problems[index] = f"{hub_id} is one hub more than {HUBS_MAX}"
        else:
            after[hub_id] = sums
            hubs |= {hub_id} if amounts else set()
    _refuse(field, problems, Code.LIMIT_EXCEEDED)
