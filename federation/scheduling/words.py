"""Reasons in words that a person can act on: what is short, where, and by how much.

Each function turns one obstacle into a `Reason`; every variable part of its sentence is also in the metadata, amounts
in base units. Which obstacle holds is decided in `explaining.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from federation.domain.hub import LinkState
from federation.domain.job import Reason
from federation.domain.plan import ReasonCode
from federation.domain.quantities import CPU, DISK, GPU, MEMORY, Amount, Resources, amount_of
from federation.scheduling.plan import DemandKey, Fetch
from federation.scheduling.quotas import OverQuota
from federation.scheduling.rows import AgentRow, WindowRow

_BYTE_UNITS = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def reason(code: ReasonCode, message: str, hub_id: str = "", **metadata: str | int) -> Reason:
    """A reason; numbers become text."""
    return Reason(code.value, message, hub_id, tuple(sorted((name, str(value)) for name, value in metadata.items())))


def worded(name: str, kind: str, amount: int) -> str:
    """An amount as people say it: "64 cpus", "1.5 GiB of memory", "2 gpus of nvidia/A100"."""
    if name in (CPU, GPU):
        noun = name if amount == 1000 else f"{name}s"
        return f"{amount / 1000:g} {noun}" + (f" of {kind}" if kind else "")
    if name in (MEMORY, DISK):
        scale, unit = next(((size, unit) for size, unit in _BYTE_UNITS if amount >= size), (1, "bytes"))
        return f"{round(amount / scale, 1):g} {unit} of {name}"
    return f"{amount} of {name}" + (f" {kind}" if kind else "")


def bare(name: str, amount: int) -> str:
    """The same without its noun, for "offers 16": bytes keep their unit."""
    text = worded(name, "", amount)
    return text.split(" of ")[0] if name in (MEMORY, DISK) else text.split(" ")[0]


def moment(at_ms: int) -> str:
    """An instant as people write it; one that no calendar has, in milliseconds."""
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, ValueError, OSError):
        return f"{at_ms} ms"


def clock(at_ms: int) -> str:
    """An instant of today, to the second: "14:03:20 UTC"."""
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return f"{at_ms} ms"


def reserved(hub_id: str, row: WindowRow, now_ms: int, windows: int = 1) -> Reason:
    """A class's window is in the way; `windows` are there in all, of which `row` is the first."""
    seat = " and ".join(worded(*entry) for entry in row.per_task)
    begins = "from now" if row.start_ms <= now_ms else f"from {moment(row.start_ms)}"
    more = f", and {windows - 1} more such windows follow" if windows > 1 else ""
    message = (
        f"{row.seats} seats of {seat} are reserved for a class here, {begins} until {moment(row.end_ms)}{more}:"
        " what ends before it begins may run"
    )
    return reason(
        ReasonCode.RESERVATION_AHEAD,
        message,
        hub_id,
        window=row.window_id,
        seats=row.seats,
        start_ms=row.start_ms,
        end_ms=row.end_ms,
    )


def obstacle(code: ReasonCode, row: AgentRow, key: DemandKey) -> Reason:
    """A lasting obstacle at the hub of `row`, other than its size."""
    hub_id = row.key[0]
    if code is ReasonCode.HUB_EXCLUDED:
        return reason(code, "the job's own allow and deny lists leave this hub out", hub_id)
    if code is ReasonCode.SHARE_POLICY:
        return reason(code, "this hub refused the job by its share policy", hub_id)
    if code is ReasonCode.ENGINE_MISSING:
        runs = ", ".join(row.engines) or "nothing"
        return reason(code, f"it does not run {key.engine}; it runs {runs}", hub_id, engine=key.engine, engines=runs)
    if code is ReasonCode.HUB_DRAINING:
        return reason(code, "its operator takes no new work at present", hub_id)
    if code is ReasonCode.HUB_SUSPECT:
        link = "for minutes" if row.link is LinkState.LOST else "for a minute"
        return reason(code, f"nothing was heard of it {link}; it gets new work when it is back", hub_id, link=row.link)
    named = ", ".join(sorted({name for name, _ in key.inputs}))
    if code is ReasonCode.DATA_POLICY:
        message = f"the owner of {named} does not let a job of {key.home_hub} read it here"
        return reason(code, message, hub_id, datasets=named, home_hub=key.home_hub)
    missing = ", ".join(_missing(row, key.inputs))
    why = "a job runs where its data is"
    if row.fetches:
        why = "it cannot come: its owner keeps it where it is, or nobody knows its size or has measured the way"
    return reason(ReasonCode.DATA_ELSEWHERE, f"{missing} does not lie here, and {why}", hub_id, datasets=missing)


def would_start(code: ReasonCode, hub_id: str, fetches: tuple[Fetch, ...], ahead_ms: int) -> Reason:
    """There is room for it: it starts now, or (DATA_TO_MOVE) once it has waited as long as its data takes to come."""
    message = "it fits here now and waits only for its start"
    if not fetches:
        return reason(code, message, hub_id)
    lies = ", ".join(f"{fetch.dataset} {fetch.version}".strip() + f" lies at {fetch.from_hub}" for fetch in fetches)
    transfer_ms = sum(fetch.transfer_ms for fetch in fetches)
    come = "it" if len(fetches) == 1 else "them"
    message = f"{message}; {lies}: bringing {come} here first takes about {lasting(transfer_ms)}"
    if ahead_ms:
        message = (
            f"{lies}, and bringing {come} here takes about {lasting(transfer_ms)}: it starts here in {lasting(ahead_ms)}, "
            "when it has waited for as long, if there is room then"
        )
    size_bytes = sum(fetch.size_bytes for fetch in fetches)
    return reason(code, message, hub_id, data=lies, transfer_ms=transfer_ms, bytes=size_bytes, in_ms=ahead_ms)


def lasting(milliseconds: int) -> str:
    """A stretch of time as people say it: "40 s", "12 min", "3 h"."""
    seconds = -(-milliseconds // 1_000)
    if seconds < 120:
        return f"{seconds} s"
    return f"{-(-seconds // 60)} min" if seconds < 7_200 else f"{-(-seconds // 3_600)} h"


def never_fits(rows: Iterable[AgentRow], key: DemandKey) -> Reason:
    """A task or the gang is larger than this hub, even when it is idle. `rows` are the hub's agents."""
    agents = tuple(rows)
    hub_id = agents[0].key[0]
    largest = [
        (entry, max((_offered(node.offered, entry) for row in agents for node in row.nodes), default=0))
        for entry in key.per_task
    ]
    short = [(entry, most) for entry, most in largest if most < entry.amount]
    if short:
        entry, most = max(short, key=lambda found: (found[0].amount - found[1]) / found[0].amount)
        return reason(
            ReasonCode.SHAPE_NEVER_FITS,
            f"needs {worded(*entry)} on one machine; the largest here offers {bare(entry.name, most)}",
            hub_id,
            resource=entry.name,
            kind=entry.kind,
            needed=entry.amount,
            largest=most,
            short_by=entry.amount - most,
        )
    demand = " and ".join(worded(*entry) for entry in key.per_task)
    if key.replicas == 1:
        return reason(
            ReasonCode.SHAPE_NEVER_FITS, f"no one machine here offers {demand} together", hub_id, needed=demand
        )
    most_tasks = max(_tasks_when_idle(row, key) for row in agents)
    return reason(
        ReasonCode.SHAPE_NEVER_FITS,
        f"its {key.replicas} tasks of {demand} start together; there is room for {most_tasks} here when nothing runs",
        hub_id,
        replicas=key.replicas,
        tasks_fit=most_tasks,
        short_by=key.replicas - most_tasks,
    )


def no_room_now(hub_id: str, key: DemandKey, entry: Amount, free_most: int, tasks_fit: int) -> Reason:
    """It would fit if less were running: `entry` is what is shortest, `free_most` what the freest machine has of it."""
    if free_most < entry.amount:
        message = f"needs {worded(*entry)} on one machine; the most free here is {bare(entry.name, max(free_most, 0))}"
    elif key.replicas > 1:
        message = f"its {key.replicas} tasks start together; there is room for {tasks_fit} here now"
    else:
        message = "no one machine here has all it needs free at once"
    return reason(
        ReasonCode.CAPACITY,
        message,
        hub_id,
        resource=entry.name,
        needed=entry.amount,
        most_free=max(free_most, 0),
        short_by=max(entry.amount - max(free_most, 0), 0),
        replicas=key.replicas,
        tasks_fit=tasks_fit,
    )


def over_quota(quota: OverQuota) -> Reason:
    """Its user, project or hub would hold more at once than they may."""
    hub, project, user = (*quota.level, "", "")[:3]
    whose = {1: f"hub {hub}", 2: f"project {project} of {hub}", 3: f"user {user} of {hub}/{project}"}[len(quota.level)]
    asked, cap = worded(quota.name, "", quota.needed), worded(quota.name, "", quota.cap)
    if quota.never:
        message = f"it never starts under this quota: it asks for {asked}, and {whose} may not hold more than {cap} at once, even when nothing of theirs runs. Ask for less, or"
    else:
        held = worded(quota.name, "", quota.held)
        message = f"it asks for {asked}; {whose} may hold {cap} at once and holds {held}: it starts when enough of that ends, or"
    return reason(
        ReasonCode.QUOTA_NEVER_FITS if quota.never else ReasonCode.QUOTA,
        f"{message} ask the federation's operators, whose policy file has the quotas",
        level="/".join(quota.level),
        resource=quota.name,
        quota=quota.cap,
        held=quota.held,
        needed=quota.needed,
    )


def _offered(of: Resources, wanted: Amount) -> int:
    if not wanted.kind:
        return amount_of(of, wanted.name)
    return sum(entry.amount for entry in of if (entry.name, entry.kind) == (wanted.name, wanted.kind))


def _tasks_when_idle(row: AgentRow, key: DemandKey) -> int:
    return sum(min(_offered(node.offered, entry) // entry.amount for entry in key.per_task) for node in row.nodes)


def _missing(row: AgentRow, inputs: tuple[tuple[str, str], ...]) -> list[str]:
    return [
        f"{name} {version}".strip()
        for name, version in inputs
        if not any(entry.name == name and version in ("", entry.version) for entry in row.datasets)
    ]
