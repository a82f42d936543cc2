"""`brhub top`: hubs above, the queue below, drawn again every few seconds; in a pipe one look.

When the federation cannot be reached the last look stays, with how old it is. Deliberately not here: the columns.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.segment import Segment
from rich.text import Text

from federation.cli import tables
from federation.cli.session import Session, now_ms, say
from federation.cli.show import age, document, fit, hub_document, print_one, print_table, rfc3339, state_of
from federation.errors import Code, FederationError

if TYPE_CHECKING:
    from rich.console import ConsoleOptions, RenderResult
    from rich.table import Table

    from federation.client import Client
    from federation.v1 import hub_pb2, job_pb2

LIVE_STATES = ("QUEUED", "LEASED", "STAGING", "RUNNING", "CANCELLING", "UNKNOWN")
JOBS_MAX = 500


class _Look:
    """What was seen last."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.hubs: list[hub_pb2.Hub] = []
        self.jobs: list[job_pb2.Job] = []
        self.at_ms = 0
        self.problem = ""

    def take(self) -> None:
        """Look. Raises: FederationError when asking again would be of no use."""
        self.hubs = self._client.list_hubs()
        self.jobs = self._client.list(states=LIVE_STATES, all_owners=True, limit=JOBS_MAX)
        self.at_ms, self.problem = now_ms(), ""

    def try_to_take(self) -> None:
        """Look; where the way is down, keep what was seen."""
        try:
            self.take()
        except FederationError as error:
            if error.code not in (Code.UNREACHABLE, Code.TIMED_OUT, Code.OVERLOADED, Code.STORE_UNAVAILABLE):
                raise
            self.problem = error.message

    def head(self) -> str:
        """One line: how much is going on."""
        counts = Counter(state_of(job) for job in self.jobs)
        words = ", ".join(f"{counts[state]} {state}" for state in LIVE_STATES if state in counts) or "no jobs"
        ending, claiming = sum(hub.ending for hub in self.hubs), sum(job.HasField("claim") for job in self.jobs)
        words += f"; {ending} being ended" if ending else ""
        words += f"; machines being freed for {claiming}" if claiming else ""
        return f"{len(self.hubs)} hubs; {words}"


def run(session: Session, every_s: float, once: bool) -> None:
    """Show it until interrupted, or once."""
    live = session.for_people and not once and sys.stdout.isatty()  # which shows by itself how old its look is
    with session.client(quiet=live) as client:
        look = _Look(client)
        look.take()
        if not session.for_people:
            value = {
                "id": session.settings().server,
                "hubs": [hub_document(hub) for hub in look.hubs],
                "jobs": [_short(job) for job in look.jobs],
            }
            print_one(value, session.form)
        elif not live:
            print(look.head())
            for table in (tables.hubs(look.hubs, now_ms()), tables.jobs(look.jobs, now_ms())):
                print()
                print_table(table)
            if any(map(tables.waits_without_a_word, look.jobs)):
                say("why a job waits: brhub job explain ID")
        else:
            _live(look, every_s)


class Cropped:
    """A table and an empty line; on a terminal that is too narrow its right end is left out, never a part of an id."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """As many lines as it has rows, and one."""
        needed = fit(self._table, options.max_width)
        wide = options.update(width=needed, max_width=needed, height=None)
        for line in (*console.render_lines(self._table, wide, pad=False), []):
            yield from Segment.adjust_line_length(line, options.max_width, pad=False)
            yield Segment.line()


def _short(job: job_pb2.Job) -> dict[str, object]:
    return {
        "id": job.id,
        "name": job.spec.name,
        "state": state_of(job),
        "hub_id": job.hub_id,
        "ends_by_ms": rfc3339(job.ends_by_ms),
        "claim": document(job.claim) if job.HasField("claim") else None,
    }


def _live(look: _Look, every_s: float) -> None:
    pause = threading.Event()
    console = Console(highlight=False)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            head = Text(f"{look.head()}    (Ctrl-C ends)")
            if look.problem:
                head.append(f"\nseen {age(look.at_ms, now_ms())} ago: {look.problem}", style="bold red")
            room = max(1, console.height - len(look.hubs) - 8)
            shown = (tables.hubs(look.hubs, now_ms()), tables.jobs(look.jobs[:room], now_ms()))
            live.update(Group(head, Text(), *(Cropped(table) for table in shown)), refresh=True)
            pause.wait(every_s)
            look.try_to_take()
