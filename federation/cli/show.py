"""What is printed: one document as JSON or YAML, ids alone, or a table for a tired operator.

JSON is stable: field names as on the wire, enums without their prefix, times in RFC 3339, an `id` in everything.
Deliberately not here: which columns a table has (`tables.py`) and talking to a federation.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from federation.cli.format import Format
from federation.v1 import common_pb2, hub_pb2, job_pb2

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from rich.table import Table

MOMENTS = frozenset(
    {"created_ms", "state_since_ms", "started_ms", "ended_ms", "last_sync_ms", "expires_ms", "earliest_start_ms",
     "start_ms", "end_ms", "made_ms", "until_ms", "ends_by_ms", "expected_ms", "queued_ms"}
)  # fmt: skip
"""Fields that are moments; every other `_ms` is a duration and stays a number."""
WIDE_COLUMNS = 100_000
CUT_COLUMNS_MIN, FOLD_COLUMNS_MIN = 6, 40
"""No column that may be cut, or that goes on below, gets narrower than so many characters."""


def document(message: Message) -> dict[str, Any]:
    """A message as plain values. Every field is there, so that a program needs not ask; absent messages are null."""
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields}


def _field(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(value)
    if field.is_repeated:
        return [_value(entry, field) for entry in value]
    if field.message_type is not None and not message.HasField(field.name):
        return None
    return _value(value, field)


def _value(value: Any, field: Any) -> Any:
    if field.message_type is not None:
        return document(value)
    if field.enum_type is not None:
        return enum_name(field.enum_type, value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if field.name in MOMENTS:
        return rfc3339(value)
    return value


def enum_name(kind: Any, number: int) -> str:
    """JOB_STATE_RUNNING as "RUNNING"; a number of a newer server stays a number; unspecified is empty."""
    known = kind.values_by_number.get(number)
    if known is None:
        return str(number)
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", kind.name).upper() + "_"
    return "" if known.name == prefix + "UNSPECIFIED" else known.name.removeprefix(prefix)


def rfc3339(moment_ms: int) -> str | None:
    """UTC with milliseconds; None for 0, which means "not yet"."""
    if not moment_ms:
        return None
    moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=moment_ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def hub_document(hub: hub_pb2.Hub) -> dict[str, Any]:
    """A hub; its agents and nodes get ids that are unique in the federation."""
    made = document(hub)
    for agent in made["agents"]:
        agent["id"] = f"{hub.id}/{agent['agent_id']}"
        for node in agent["nodes"]:
            node["id"] = f"{hub.id}/{node['name']}"
    for dataset in made["datasets"]:
        dataset["id"] = dataset["name"]
    made["link"] = link_of(hub)
    return made


def node_documents(hubs: Iterable[hub_pb2.Hub]) -> list[dict[str, Any]]:
    """All nodes of all hubs, by id."""
    return [
        {**node, "hub_id": made["id"], "agent_id": agent["agent_id"], "link": agent["link"]}
        for made in map(hub_document, hubs)
        for agent in made["agents"]
        for node in agent["nodes"]
    ]


def state_of(job: job_pb2.Job) -> str:
    """What it is doing, such as "RUNNING"."""
    return enum_name(common_pb2.JobState.DESCRIPTOR, job.state)


def link_of(hub: hub_pb2.Hub) -> str:
    """The worst link among the hub's agents; NO_AGENT when it has none yet."""
    if not hub.agents:
        return "NO_AGENT"
    worst = max((agent.link or hub_pb2.LINK_STATE_LOST + 1) for agent in hub.agents)
    return enum_name(hub_pb2.LinkState.DESCRIPTOR, worst) if worst <= hub_pb2.LINK_STATE_LOST else "NEVER"


def print_one(value: Mapping[str, Any], form: Format, table: Table | None = None, text: str = "") -> None:
    """One thing: an object, its id, or `table` (or `text`) for people."""
    if form in (Format.TABLE, Format.WIDE):
        if table is not None:
            print_table(table)
        if text:
            print(text)
    else:
        _print_document(value, form, [str(value["id"])])


def print_many(values: Sequence[Mapping[str, Any]], form: Format, table: Table | None = None) -> None:
    """Many things: {"items": [...]}, their ids line by line, or `table` for people."""
    if form in (Format.TABLE, Format.WIDE):
        if table is not None:
            print_table(table)
    else:
        _print_document({"items": list(values)}, form, [str(value["id"]) for value in values])


def _print_document(value: Mapping[str, Any], form: Format, ids: Sequence[str]) -> None:
    if form is Format.NAME:
        sys.stdout.write("".join(f"{each}\n" for each in ids))
    elif form is Format.YAML:
        import yaml

        sys.stdout.write(yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True))
    else:
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_table(table: Table) -> None:
    """A table as wide as the terminal, where that is enough (`fit`); in a pipe as wide as it needs to be."""
    from rich.console import Console

    console = Console(highlight=False)
    if console.is_terminal:
        needed = fit(table, console.width)
        Console(highlight=False, width=needed).print(table, crop=False, overflow="ignore", no_wrap=True)
        return
    console = Console(highlight=False, width=WIDE_COLUMNS)
    with console.capture() as captured:
        console.print(table, crop=False, overflow="ignore", no_wrap=True)
    sys.stdout.write("\n".join(line.rstrip() for line in captured.get().split("\n")))


def fit(table: Table, width: int) -> int:
    """Narrow the columns that may be cut, and those that go on below, until the table is `width` wide; how wide it is then.

    An id that is cut is no id: columns that are to stay whole do, and a terminal that is too narrow breaks the line.
    """
    from rich.text import Text

    widths = {
        at: max(Text.from_markup(str(cell)).cell_len for cell in (column.header, *column.cells))
        for at, column in enumerate(table.columns)
    }
    excess = sum(widths.values()) + 2 * (len(widths) - 1) - width
    loose = [at for at in widths if table.columns[at].min_width is None]
    for at in sorted(loose, key=lambda one: widths[one], reverse=True):
        least = min(widths[at], CUT_COLUMNS_MIN if table.columns[at].no_wrap else FOLD_COLUMNS_MIN)
        less = max(0, min(excess, widths[at] - least))
        widths[at], excess = widths[at] - less, excess - less
    for at, column in enumerate(table.columns):
        column.width = widths[at]
    return width + max(0, excess)


# ---- amounts for people ---------------------------------------------------------------------------------------------
def age(since_ms: int, now_ms: int) -> str:
    """How long ago: "12s", "4m10s", "3h05m", "5d2h"; "-" when never."""
    return duration(max(0, now_ms - since_ms)) if since_ms else "-"


def duration(length_ms: int) -> str:
    """At most two units: "850ms" is rounded to "0s", "90s" to "1m30s", "26h" to "1d2h"."""
    seconds = length_ms // 1000
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    if seconds < 3600:
        return f"{seconds // 60}m"
    if seconds < 86_400:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
    return f"{seconds // 86_400}d{seconds % 86_400 // 3600}h"


def size(amount_bytes: int) -> str:
    """Bytes as "512Mi" or "7.5Gi"."""
    value = float(amount_bytes)
    for unit in ("", "Ki", "Mi", "Gi", "Ti"):
        if abs(value) < 1024 or unit == "Ti":
            break
        value /= 1024
    return f"{value:.0f}{unit}" if value >= 100 or value == int(value) else f"{value:.1f}{unit}"


def milli(amount: int) -> str:
    """Thousandths as people say them: 2, 0.5."""
    return f"{amount / 1000:g}"
