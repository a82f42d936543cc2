"""A history as the lines of its file. `federation/simulation/history.py` reads them back to an equal one.

Deliberately not here: what the keys mean; it is in `history.py`.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from federation.domain.hub import Node
from federation.domain.job import Priority
from federation.domain.quantities import Resources
from federation.scheduling.rows import AgentRow
from federation.simulation.replay import HistoricJob

if TYPE_CHECKING:
    from federation.simulation.history import History

VERSION = 1
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_FACTORS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1))


def format_history(history: History) -> Iterator[str]:
    """The lines of a history's file; `parse_history` gives an equal one back."""
    first: dict[str, Any] = {
        "history": VERSION, "begins": moment(history.begins_ms), "ends": moment(history.ends_ms)
    }  # fmt: skip
    if history.policy is not None:
        first["policy"] = history.policy
    yield _json(first)
    for row in history.agents:
        yield _json(_agent_line(row))
    for job in history.jobs:
        yield _json(_job_line(job))


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"


def moment(at_ms: int) -> str:
    """RFC 3339, UTC; milliseconds where there are any."""
    text = (EPOCH + dt.timedelta(milliseconds=at_ms)).isoformat(timespec="milliseconds" if at_ms % 1000 else "seconds")
    return text.replace("+00:00", "Z")


def duration(length_ms: int) -> str:
    """As people write it, and exact: "1h30m", "5m12s345ms"."""
    parts = []
    for unit, factor in _FACTORS:
        count, length_ms = divmod(length_ms, factor)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def _agent_line(row: AgentRow) -> dict[str, Any]:
    return {
        "hub": row.key[0],
        "agent": row.key[1],
        "engines": list(row.engines),
        "reclaim": duration(row.reclaim_ms),
        "takes_back": row.takes_back,
        "nodes": [_node_line(node) for node in row.nodes],
        "datasets": [
            {"dataset": entry.name, "version": entry.version, "policy": entry.policy}
            | ({"readers": list(entry.readers)} if entry.readers else {})
            for entry in row.datasets
        ],
    }


def _node_line(node: Node) -> dict[str, Any]:
    line = {"node": node.name, **_amounts(node.capacity)}
    if node.offered != node.capacity:
        line["offers"] = _amounts(node.offered)
    return line


def _amounts(of: Resources) -> dict[str, Any]:
    line: dict[str, Any] = {}
    for name, kind, amount in of:
        if name == "gpu":
            line.setdefault("gpus", {})[kind] = _count(amount)
        elif name == "cpu":
            line["cpus"] = _count(amount)
        elif name in ("memory", "disk"):
            line[name] = _size(amount)
    if list(line.get("gpus", {})) == [""]:
        line["gpus"] = line["gpus"][""]
    return line


def _count(milli: int) -> int | float:
    return milli / 1000 if milli % 1000 else milli // 1000


def _size(amount_bytes: int) -> int | str:
    for unit, factor in (("Gi", 2**30), ("Mi", 2**20), ("Ki", 2**10)):
        if amount_bytes % factor == 0 and amount_bytes:
            return f"{amount_bytes // factor}{unit}"
    return amount_bytes


def _job_line(job: HistoricJob) -> dict[str, Any]:
    row = job.row
    line: dict[str, Any] = {
        "job": row.job_id, "home": row.home_hub, "project": row.project, "user": row.user,
        "submit": moment(row.submitted_ms), "runtime": duration(job.runtime_ms), "limit": duration(row.runtime_limit_ms),
        "engine": row.engine, **_amounts(row.per_task), "replicas": row.replicas,
        "priority": Priority(row.priority).name.lower(), "preemptible": row.preemptible,
    }  # fmt: skip
    line.setdefault("cpus", 0)
    if row.spread:
        line["spread"] = True
    if row.inputs:
        line["inputs"] = [f"{name}@{version}" if version else name for name, version in row.inputs]
    for key, named in (("allow", row.hubs_allow), ("deny", row.hubs_deny), ("prefer", row.hubs_prefer)):
        if named:
            line[key] = list(named)
    if job.recorded is not None:
        ran = job.recorded
        line["ran"] = {"hub": ran.hub_id, "start": moment(ran.start_ms), "end": moment(ran.end_ms)}
        if ran.lost_ms:
            line["ran"]["lost"] = duration(ran.lost_ms)
    return line
