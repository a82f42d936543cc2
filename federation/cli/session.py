"""What the global options said, and the one connection of this call. Also how a person hears of progress.

Deliberately not here: how options are declared (`main.py`). Nothing heavy is imported before a call is made.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from federation.cli.format import Format

if TYPE_CHECKING:
    from federation.client import Client, Settings
    from federation.client.transfer import Progress

PROGRESS_AFTER_S = 0.5


@dataclass(slots=True)
class Session:
    """The global options of one call."""

    server: str = ""
    project: str = ""
    form: Format = Format.TABLE
    folder: Path | None = None
    """Where client.json lies, when a command knows better than the environment."""

    @property
    def for_people(self) -> bool:
        """Whether a person reads what is printed."""
        return self.form in (Format.TABLE, Format.WIDE)

    def settings(self) -> Settings:
        """Where the federation is. Raises: FederationError."""
        from federation.client.settings import find_settings

        return find_settings(self.server, self.folder)

    @contextmanager
    def client(self, quiet: bool = False) -> Iterator[Client]:
        """The connection; unless `quiet`, a person hears when nobody answers. Raises: FederationError."""
        from federation.client import Client

        with Client(self.settings(), on_silence=None if quiet else _silent) as client:
            yield client


def _silent(what: str, more_s: float) -> None:
    say(f"{what}; trying for {more_s:.0f} s more")


def session_of(context: typer.Context) -> Session:
    """The session that the global options made."""
    found = context.find_object(Session)
    assert found is not None, "the root callback makes it"
    return found


def say(text: str) -> None:
    """A line on how things go, for people: never mixed with what was asked for."""
    print(text, file=sys.stderr, flush=True)


def now_ms() -> int:
    """This machine's clock, for ages."""
    return time.time_ns() // 1_000_000


@contextmanager
def transfer_bar(what: str) -> Iterator[Progress | None]:
    """A bar on a terminal, once something moves for longer than a moment; nothing in a pipe."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    began = time.monotonic()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, visible=False)

        def moved(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total or None, visible=time.monotonic() - began > PROGRESS_AFTER_S)

        yield moved
