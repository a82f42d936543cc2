"""`brhub top`: hubs above, the queue below, drawn again every few seconds; in a pipe one look.

When the federation cannot be reached the last look stays, with how old it is. Deliberately not here: the columns.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from federation.cli import tables
from federation.cli.session import Session, now_ms
from federation.cli.show import age, hub_document, print_one, print_table, state_of
from federation.errors import Code, FederationError

if TYPE_CHECKING:
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
        counts: dict[str, int] = {}
        for job in self.jobs:
            state = state_of(job)
            counts[state] = counts.get(state, 0) + 1
        words = ", ".join(f"{counts[state]} {state}" for state in LIVE_STATES if state in counts) or "no jobs"
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
        else:
            _live(look, every_s)


def _short(job: job_pb2.Job) -> dict[str, object]:
    return {"id": job.id, "name": job.spec.name, "state": state_of(job), "hub_id": job.hub_id}


def _live(look: _Look, every_s: float) -> None:
    pause = threading.Event()
    console = Console(highlight=False)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            head = Text(f"{look.head()}    (Ctrl-C ends)")
            if look.problem:
                head.append(f"\nseen {age(look.at_ms, now_ms())} ago: {look.problem}", style="bold red")
            room = max(1, console.height - len(look.hubs) - 8)
            shown = tables.jobs(look.jobs[:room], now_ms())
            live.update(Group(head, Text(), tables.hubs(look.hubs, now_ms()), Text(), shown), refresh=True)
            pause.wait(every_s)
            look.try_to_take()
