"""Tables for people: which columns, in which order. Ids are never cut; numbers stand right; colours only on a terminal.

Deliberately not here: JSON and ids (`show.py`). Everything that comes from a federation is escaped: a job's name must not
paint an operator's screen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from federation.cli.show import age, duration, enum_name, link_of, milli, rfc3339, size, state_of
from federation.v1 import common_pb2, hub_pb2, job_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

COLOURS = {
    "RUNNING": "green", "SUCCEEDED": "green", "ONLINE": "green", "ACTIVE": "green", "WOULD_RUN": "green",
    "STAGING": "cyan", "LEASED": "cyan", "QUEUED": "yellow", "CANCELLING": "yellow", "DRAINING": "yellow",
    "SUSPECT": "yellow", "FAILED": "bold red", "LOST": "bold red", "UNKNOWN": "bold magenta", "NO_AGENT": "red",
    "CANCELLED": "dim",
}  # fmt: skip
REASON_COLUMNS_MAX = 60


def coloured(state: str) -> str:
    """A state in its colour."""
    colour = COLOURS.get(state, "")
    return f"[{colour}]{escape(state)}[/]" if colour else escape(state)


def plain(text: str) -> str:
    """Somebody's text, harmless in a table: no markup, no control characters."""
    return escape(readable(text))


def readable(text: str) -> str:
    """Somebody's text, harmless in a plain line: no control characters."""
    return "".join(char if char.isprintable() else " " for char in text)


def table(columns: Sequence[str]) -> Table:
    """An empty table. A column named ">NAME" stands right, "~NAME" may be cut, "+NAME" goes on below; others are whole."""
    made = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for name in columns:
        made.add_column(
            name.lstrip(">~+"),
            justify="right" if name.startswith(">") else "left",
            no_wrap=not name.startswith("+"),
            overflow="fold" if name.startswith("+") else "ellipsis",
            min_width=None if name.startswith(("~", "+")) else len(name.lstrip(">")),
        )
    return made


def jobs(items: Iterable[job_pb2.Job], now_ms: int, wide: bool = False) -> Table:
    """The queue and what came of it."""
    more = ["OWNER", "PROJECT", "ATTEMPT", "NODES"] if wide else []
    made = table(["ID", "~NAME", "ENGINE", "STATE", ">IN STATE", "HUB", ">AGE", *more, "~WHY"])
    for job in items:
        extra = [plain(job.owner.subject), plain(job.owner.project), job.attempt, plain(", ".join(job.nodes))]
        made.add_row(
            plain(job.id),
            plain(job.spec.name),
            plain(job.spec.engine),
            coloured(state_of(job)),
            age(job.state_since_ms, now_ms),
            plain(job.hub_id if state_of(job) != "QUEUED" else "") or "-",
            age(job.created_ms, now_ms),
            *(extra if wide else []),
            plain(_cut(_why(job, now_ms), 10_000 if wide else REASON_COLUMNS_MAX)),
        )
    return made


def _why(job: job_pb2.Job, now_ms: int) -> str:
    """What there is to say of a job in a line, its end first to be cut: that it is being ended, what is freed for it, or why."""
    if job.ends_by_ms and job.reason.code == "PREEMPTED":
        return f"ends within {_in(job.ends_by_ms, now_ms)}: room for {job.hub_id}'s own users"
    if job.ends_by_ms:
        return f"ends within {_in(job.ends_by_ms, now_ms)}: {job.reason.message}"
    if job.HasField("claim"):
        return f"room in {_in(job.claim.expected_ms, now_ms)}: machines of {job.claim.hub_id} are being freed for it"
    return job.progress or job.reason.message


def waits_without_a_word(job: job_pb2.Job) -> bool:
    """Whether WHY says nothing of a job that waits: the planner's reasons are many, a hub each, and are asked for one job."""
    return state_of(job) == "QUEUED" and not (job.HasField("claim") or job.progress or job.reason.message)


def _in(moment_ms: int, now_ms: int) -> str:
    """How far away something is that should come soon."""
    return duration(moment_ms - now_ms) if moment_ms > now_ms else "moments"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _leases(hub: hub_pb2.Hub) -> str:
    return f"{hub.leases} ({hub.ending} ending)" if hub.ending else str(hub.leases)


def hubs(items: Iterable[hub_pb2.Hub], now_ms: int, wide: bool = False) -> Table:
    """What each hub offers and how it is reached. FREE is what no lease holds, of what is offered."""
    more = ["DATASETS", "VERSION", ">ROUND TRIP"] if wide else []
    made = table(
        ["HUB", "STATE", "LINK", ">LAST SYNC", ">NODES", ">CPU FREE", ">MEMORY FREE", ">GPU FREE", ">LEASES", *more]
    )
    for hub in items:
        nodes = [node for agent in hub.agents for node in agent.nodes]
        trips = [agent.round_trip_ms for agent in hub.agents if agent.round_trip_ms >= 0]
        extra = [
            plain(", ".join(dataset.name for dataset in hub.datasets)) or "-",
            plain(", ".join(sorted({agent.version for agent in hub.agents}))) or "-",
            f"{max(trips)}ms" if trips else "-",
        ]
        made.add_row(
            plain(hub.id),
            coloured(enum_name(hub_pb2.HubState.DESCRIPTOR, hub.state)),
            coloured(link_of(hub)),
            age(max((agent.last_sync_ms for agent in hub.agents), default=0), now_ms),
            str(len(nodes)),
            _free(nodes, "cpu", milli),
            _free(nodes, "memory", size),
            _free(nodes, "gpu", milli),
            _leases(hub),
            *(extra if wide else []),
        )
    return made


def nodes(items: Iterable[hub_pb2.Hub], wide: bool = False) -> Table:
    """Every machine."""
    more = ["AGENT", ">HAS CPU", ">HAS MEMORY"] if wide else []
    made = table(["NODE", "LINK", ">CPU FREE", ">MEMORY FREE", ">GPU FREE", ">LOAD", ">MEMORY AVAILABLE", *more])
    for hub in items:
        for agent in hub.agents:
            for node in agent.nodes:
                extra = [
                    plain(agent.agent_id),
                    milli(_sum(node.capacity, "cpu")),
                    size(_sum(node.capacity, "memory")),
                ]
                made.add_row(
                    plain(f"{hub.id}/{node.name}"),
                    coloured(enum_name(hub_pb2.LinkState.DESCRIPTOR, agent.link)),
                    _free([node], "cpu", milli),
                    _free([node], "memory", size),
                    _free([node], "gpu", milli),
                    f"{node.load_cpu_milli / 1000:.1f}",
                    size(node.memory_available_bytes),
                    *(extra if wide else []),
                )
    return made


def reasons(response: job_pb2.ExplainJobResponse) -> Table:
    """One reason a hub."""
    made = table(["HUB", "REASON", "+WHAT IT MEANS"])
    for reason in response.reasons:
        made.add_row(plain(reason.hub_id) or "(all)", coloured(reason.code), plain(reason.message))
    return made


def pairs(rows: Iterable[tuple[str, str]]) -> Table:
    """One thing, a line for each of its sides; empty sides are left out."""
    made = Table(box=None, pad_edge=False, show_header=False, show_edge=False)
    made.add_column(style="bold", no_wrap=True, min_width=1)
    made.add_column(overflow="fold")
    for name, value in rows:
        if value:
            made.add_row(name, value)
    return made


def _sum(amounts: Iterable[common_pb2.Resource], name: str) -> int:
    return sum(entry.amount for entry in amounts if entry.name == name)


def _free(nodes_of: Sequence[hub_pb2.Node], name: str, written: Callable[[int], str]) -> str:
    offered = sum(_sum(node.offered, name) for node in nodes_of)
    if not offered:
        return "-"
    leased = sum(_sum(node.leased, name) for node in nodes_of)
    return f"{written(offered - leased)} of {written(offered)}"


def job(one: job_pb2.Job, now_ms: int) -> Table:
    """One job, in full."""
    spec = one.spec
    each = [f"{amount(entry)} {entry.name}{f' {entry.kind}' if entry.kind else ''}" for entry in spec.demand.per_task]
    reads = [f"{entry.dataset}{f'@{entry.version}' if entry.version else ''}" for entry in spec.inputs]
    why = f"{one.reason.message} [{one.reason.code}]" if one.reason.code else ""
    state = state_of(one)
    ran_ms = (one.ended_ms or now_ms) - one.started_ms if one.started_ms else 0
    return pairs(
        [
            ("job", plain(one.id)),
            ("name", plain(spec.name)),
            ("state", f"{coloured(state)} for {age(one.state_since_ms, now_ms)}"),
            ("why", plain(why)),
            ("ends", f"within {_in(one.ends_by_ms, now_ms)}, by {rfc3339(one.ends_by_ms)}" if one.ends_by_ms else ""),
            ("claim", plain(_claim(one, now_ms))),
            ("progress", plain(one.progress)),
            ("program", plain(" ".join([spec.engine, spec.entrypoint, *spec.arguments]))[:500]),
            ("tasks", plain(f"{spec.demand.replicas} x {', '.join(each)}")),
            ("inputs", plain(", ".join(reads))),
            ("owner", plain(f"{one.owner.subject} at {one.owner.home_hub}, project {one.owner.project}")),
            ("ran at" if state == "QUEUED" else "hub", plain(_where(one.hub_id, one.nodes))),
            ("attempt", f"{one.attempt} ({one.attempts} in all)" if one.attempt else ""),
            ("checkpoint", _checkpoint(one, now_ms)),
            ("submitted", f"{rfc3339(one.created_ms)} ({age(one.created_ms, now_ms)} ago)"),
            ("ran for", duration(ran_ms) if ran_ms > 0 else ""),
            (
                "exit status",
                str(one.exit_code) if state == "SUCCEEDED" or (state == "FAILED" and one.exit_code) else "",
            ),
            ("address", plain(one.url)),
            ("MLflow run", plain(one.tracking_run_id)),
            ("part of", plain(one.parent_job_id)),
        ]
    )


def _claim(one: job_pb2.Job, now_ms: int) -> str:
    """What is being done for a job that waits for others to end."""
    if not one.HasField("claim"):
        return ""
    claim = one.claim
    ending = f"{len(claim.victims)} guest{'' if len(claim.victims) == 1 else 's'} there ending"
    return (
        f"{_where(claim.hub_id, claim.nodes)}: freed for it in {_in(claim.expected_ms, now_ms)} ({ending}), "
        f"given up in {_in(claim.until_ms, now_ms)}"
    )


def _checkpoint(one: job_pb2.Job, now_ms: int) -> str:
    """What an attempt after this one would go on from."""
    if not one.HasField("checkpoint"):
        return ""
    saved = one.checkpoint
    return f"{plain(saved.checkpoint_id)}, saved {age(saved.saved_ms, now_ms)} ago, {size(saved.size_bytes)}"


def _where(hub_id: str, node_names: Iterable[str]) -> str:
    """A hub and nodes there, each once: a node has an entry for each task."""
    return f"{hub_id} {', '.join(dict.fromkeys(node_names))}".strip()


def amount(entry: common_pb2.Resource) -> str:
    """An amount as people write it."""
    return size(entry.amount) if entry.name in ("memory", "disk") else milli(entry.amount)


def hub(one: hub_pb2.Hub, now_ms: int) -> Table:
    """One hub, in short; its nodes and datasets have tables of their own."""
    agents = [
        f"{agent.agent_id} {enum_name(hub_pb2.LinkState.DESCRIPTOR, agent.link)}, last sync "
        f"{age(agent.last_sync_ms, now_ms)} ago, version {agent.version}, runs {' '.join(agent.engines)}"
        + (f", round trip {agent.round_trip_ms}ms" if agent.round_trip_ms >= 0 else "")
        for agent in one.agents
    ]
    return pairs(
        [
            ("hub", plain(one.id)),
            ("title", plain(one.title)),
            ("state", coloured(enum_name(hub_pb2.HubState.DESCRIPTOR, one.state))),
            ("leases", _leases(one)),
            *(("agent", plain(line)) for line in agents),
            *(("problem", plain(line)) for line in one.problems),
        ]
    )


def datasets(one: hub_pb2.Hub) -> Table:
    """What lies at a hub."""
    made = table(["DATASET", "VERSION", ">SIZE", "POLICY", "~TITLE"])
    for each in one.datasets:
        made.add_row(
            plain(each.name), plain(each.version), size(each.size_bytes), plain(each.policy), plain(each.title)
        )
    return made
