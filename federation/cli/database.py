"""`brhub db backup`, `restore`, `upgrade`, `show` and `events`: for whoever runs the control plane, on its machine.

A backup may be taken while the control plane serves; a restore asks that it has ended. What it means for the hubs is in
ARCHITECTURE.md ("After a restore"). Deliberately not here: copies and checks (`federation/store/backup.py`, in PostgreSQL
`portable.py`), what an upgrade does (`federation/store/migrations`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from federation.cli.session import now_ms, say, session_of
from federation.cli.tokens import Config, control_settings
from federation.errors import Code, Fault, FederationError

if TYPE_CHECKING:
    from types import ModuleType

    from federation.app.settings import Settings
    from federation.ports import EventRow
    from federation.store.backup import Restored, Summary
    from hub_node.journal_backup import JournalSummary

_SQLITE = "sqlite:///"
AgentState = Annotated[
    Path | None,
    typer.Option("--agent", metavar="STATE_DIR", help="Of the agent with this state folder, not of the control plane."),
]
AgentsComplete = Annotated[
    bool,
    typer.Option(
        "--agents-complete",
        help="No agent has joined since the backup: jobs wait for those in it only, and for nobody else.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    noun = typer.Typer(no_args_is_help=True, help="The control plane's store: copy, put back, upgrade, read.")
    noun.command("backup")(backup)
    noun.command("restore")(restore)
    noun.command("upgrade")(upgrade)
    noun.command("show")(show)
    noun.command("events")(events)
    app.add_typer(noun, name="db")


def backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file; it holds jobs' secret variables.")],
    config: Config = None,
    agent: AgentState = None,
) -> None:
    """Write a checked copy of the store.

    Also while the control plane serves. With --agent of an agent's journal, while it runs.
    """
    from federation.cli.show import print_one

    if agent is not None:
        _say_journal(context, journal_backup().back_up(agent, file.absolute()))
        return
    made = _copies(control_settings(config)).back_up(file.absolute())
    print_one(_document(made), session_of(context).form, text=f"{made.where} is whole: {_words(made)}")


def restore(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="A backup.")] = None,
    config: Config = None,
    agents_complete: AgentsComplete = False,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="The store was put back by other means: only say so to the hubs.")
    ] = False,
    agent: AgentState = None,
) -> None:
    """Put a backup in the store's place.

    After the control plane has ended. What was there is kept beside it, and can be put back the same way.
    """
    from federation.cli.show import print_one

    if agent is not None:
        if file is None or in_place or agents_complete:
            raise FederationError(
                Code.INVALID_ARGUMENT,
                "a journal is put back from a backup of it, and from nothing else",
                fault=Fault.CALLER,
                hint="Write `brhub db restore --agent STATE_DIR FILE`.",
            )
        _say_journal(context, journal_backup().restore(agent, file.absolute(), now_ms()))
        return
    copies = _copies(control_settings(config))
    if (file is None) is not in_place:
        raise FederationError(
            Code.INVALID_ARGUMENT,
            "either a backup is named, or --in-place says that it lies in its place already",
            fault=Fault.CALLER,
            hint="Write `brhub db restore FILE`.",
        )
    if file is None:
        done = copies.raised(now_ms(), agents_complete)
    else:
        done = copies.restore(file.absolute(), now_ms(), agents_complete)
    lines = [f"{done.summary.where} has it: {_words(done.summary)}"]
    if done.aside is not None:
        lines.append(f"what was there before: {done.aside}; to take this back: brhub db restore {done.aside}")
    if done.agents_complete:
        lines.append("jobs of before start again when every agent has told what it runs, or its leases must be over")
    else:
        lines.append(
            "agents that joined since the backup are not known: jobs of before that may not run twice start again when "
            "any lease of theirs must be over; with --agents-complete they wait for the known agents only"
        )
    value = {
        **_document(done.summary),
        "aside": str(done.aside or ""),
        "agents_complete": done.agents_complete,
    }
    print_one(value, session_of(context).form, text="\n".join(lines))


def upgrade(
    context: typer.Context,
    config: Config = None,
    finish: Annotated[
        bool,
        typer.Option(
            "--finish", help="No control plane of an older version is left: take away what only those still needed."
        ),
    ] = False,
) -> None:
    """Bring the store to this version's schema.

    In one transaction, as the next start would. Only what programs of the version before can live with: they go on working
    on it. A store in a file asks that the control plane has ended; so does `--finish`, which does the rest.
    """
    from federation.cli.show import print_one
    from federation.store import upgrade_store

    settings = control_settings(config)
    copies = _copies(settings)
    upgrade_store(copies.url, finish=finish)
    found = copies.summary()
    text = f"{found.where} is up to date: {_words(found)}"
    print_one(_document(found), session_of(context).form, text=text)


def show(context: typer.Context, config: Config = None) -> None:
    """Say what the store holds, and for how long.

    Also while the control plane serves. All of a file is checked first.
    """
    from federation.cli.show import print_one, rfc3339

    settings = control_settings(config)
    found, days = _copies(settings).summary(), settings.store.keep_events_days
    value = {
        **_document(found),
        "keep_events_days": days,
        "first_event": rfc3339(found.first_event_ms),
        "last_event": rfc3339(found.last_event_ms),
        "removed_to": found.removed_to,
    }
    kept = "events are kept for ever"
    if days:
        kept = f"events of what is over are kept for {days} days ([store] keep_events_days)"
    lines = [f"{found.where}: {_words(found)}", kept]
    if found.rows["events"]:
        lines.append(f"the oldest is of {value['first_event']}, the newest of {value['last_event']}")
    if found.removed_to:
        lines.append(f"some were removed, the last of them {found.removed_to}: who reads them begins after that")
    print_one(value, session_of(context).form, text="\n".join(lines))


def events(
    context: typer.Context,
    config: Config = None,
    after: Annotated[
        int | None, typer.Option(min=0, metavar="SEQ", help="The last one that was read; without it: the oldest kept.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")] = 1_000,
) -> None:
    """Read what happened, in order.

    To be kept elsewhere before it is removed here; also while the control plane serves.

    Read on with `--after` and the id of the last one. Where what follows was removed, that is said, and nothing else.
    """
    from federation.cli import tables
    from federation.cli.show import print_many, rfc3339

    found = _copies(control_settings(config)).events(after, limit)
    table = tables.table([">ID", "TIME", "WHAT", "OF", "FACT", "ACTOR"])
    for row in found:
        what, of, fact, actor = map(tables.plain, (row.entity, row.entity_id, row.type, row.actor))
        table.add_row(str(row.seq), rfc3339(row.at_ms), what, of, fact, actor)
    print_many([_event(row) for row in found], session_of(context).form, table)
    if session_of(context).for_people and len(found) == limit:
        say(f"there may be more: --after {found[-1].seq}")


def _event(row: EventRow) -> dict[str, Any]:
    from federation.cli.show import rfc3339

    return {
        "id": str(row.seq),
        "at": rfc3339(row.at_ms),
        "entity": row.entity,
        "entity_id": row.entity_id,
        "type": row.type,
        "cause": row.cause,
        "actor": row.actor,
        "payload": json.loads(row.payload),
        "incarnation": row.incarnation,
    }


def journal_backup() -> ModuleType:
    """The agent's half; loaded when it is asked for."""
    from hub_node import journal_backup as copies

    return copies


def _say_journal(context: typer.Context, found: JournalSummary) -> None:
    from federation.cli.show import print_one

    value = {
        "id": str(found.path),
        "instance": found.instance_id,
        "runs": found.runs,
        "released": found.released,
        "left_out": list(found.left_out),
        "aside": str(found.aside or ""),
    }
    lines = [f"{found.path} is whole: {found.runs} runs, {found.released} that were released"]
    if found.aside is not None:
        lines.append(f"what was there before: {found.aside}")
    if found.left_out:
        lines.append(
            f"left out, because they may have run since: {', '.join(found.left_out)}; "
            "the federation waits until their leases must be over"
        )
    print_one(value, session_of(context).form, text="\n".join(lines))


class _Copies:
    """Copies of the settings' store, and the way back, wherever it lies. Loads a driver only for the kind that it is."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self._folder = folder
        self._file = Path(url.removeprefix(_SQLITE)).absolute() if url.startswith(_SQLITE) else None

    def back_up(self, to: Path) -> Summary:
        """A copy of it."""
        if self._file is not None:
            from federation.store import backup as files

            return files.back_up(self._file, to)
        from federation.store import portable

        return portable.back_up(self.url, to)

    def restore(self, file: Path, moment_ms: int, agents_complete: bool) -> Restored:
        """A copy in its place."""
        if self._file is not None:
            from federation.store import backup as files

            return files.restore(self._file, file, moment_ms, agents_complete=agents_complete)
        from federation.store import portable

        return portable.restore(self.url, file, self._folder, moment_ms, agents_complete=agents_complete)

    def raised(self, moment_ms: int, agents_complete: bool) -> Restored:
        """A copy is in its place already."""
        if self._file is not None:
            from federation.store import backup as files

            return files.raised(self._file, moment_ms, agents_complete=agents_complete)
        from federation.store import portable

        return portable.raised(self.url, moment_ms, agents_complete=agents_complete)

    def summary(self) -> Summary:
        """What it holds."""
        if self._file is not None:
            from federation.store import backup as files

            return files.summary_of(self._file)
        from federation.store import portable

        return portable.summary_of(self.url)

    def events(self, after: int | None, limit: int) -> tuple[EventRow, ...]:
        """What happened."""
        if self._file is not None:
            from federation.store import backup as files

            return files.events(self._file, after, limit)
        from federation.store import portable

        return portable.events(self.url, after, limit)


def _copies(settings: Settings) -> _Copies:
    """Raises: FederationError where the settings name a store of no kind that can be copied."""
    url = settings.store_url
    if not url.startswith((_SQLITE, "postgresql://", "postgres://")):
        raise FederationError(
            Code.CONFIGURATION_INVALID,
            f"a store of the kind {url.partition(':')[0]!r} cannot be copied",
            fault=Fault.CALLER,
            hint="Name a file or a PostgreSQL database in [store] url.",
        )
    return _Copies(url, Path(settings.server.data_dir).absolute())


def _document(found: Summary) -> dict[str, Any]:
    return {
        "id": found.where,
        "schema": found.revision,
        "incarnation": found.incarnation,
        "last_seq": found.last_seq,
        "size_bytes": found.size_bytes,
        "rows": dict(found.rows),
    }


def _words(found: Summary) -> str:
    from federation.cli.show import size

    rows = found.rows
    return (
        f"schema {found.revision}, incarnation {found.incarnation}, {rows['jobs']} jobs, {rows['leases']} leases, "
        f"{rows['hubs']} hubs, {rows['events']} events, {size(found.size_bytes)}"
    )
