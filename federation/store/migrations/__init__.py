"""How a schema of last year becomes today's: Alembic revisions, run from here and not from a shell.

One transaction per upgrade: a step that fails, or a machine that loses power half-way, leaves the store as it was.

A release changes the schema in two parts. A **pre** revision only adds: programs of the version before go on working,
beside it and after it, and so `upgrade` and every start may run it. A **post** revision takes away what those programs
still need; it runs when an operator says that none of them is left (`finish=True`). A revision says which it is (`phase`,
pre where it says nothing) and the oldest schema whose programs may use the store after it (`runs_with`, its own where it
says nothing). The store keeps the latter, so that an older program knows a newer store that it may use from one in which
it would silently drop something: that one it refuses.

Not here: what the schema is (`schema.py`; a test compares the two), and checks of the file (`sqlite.py`).
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from federation.errors import Code, Fault, FederationError
from federation.store import faults

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine  # loading it costs a start that has nothing to upgrade

VERSIONS = Path(__file__).parent
RUNS_WITH = "runs_with"
"""In `meta`: the number of the oldest schema whose programs may use the store; absent: that of its own."""
_ONE_AT_A_TIME = 0x62726D67
log = logging.getLogger(__name__)


def upgrade_sqlite(
    connection: sqlite3.Connection, where: str, scripts: Path = VERSIONS, *, finish: bool = False, to: str = ""
) -> None:
    """Bring an open SQLite file to the newest revision in `scripts`, in one transaction. `where` names it in errors.

    `finish` and `to`: see `Chain.target`. Foreign keys are off while tables are rebuilt and checked before the commit.
    """
    from sqlalchemy import create_engine, event
    from sqlalchemy.pool import StaticPool

    engine = create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool)

    @event.listens_for(engine, "begin")
    def begin(opened: Any) -> None:
        opened.exec_driver_sql("BEGIN IMMEDIATE")  # the driver's own would start too late: at the first INSERT

    def check(opened: Connection) -> None:
        orphans = opened.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
        if orphans:
            what = f"{len(orphans)} rows point to rows that are gone, first in {orphans[0][0]}"
            raise faults.damaged(where, what)

    connection.execute("PRAGMA foreign_keys=OFF")
    _run(engine, Chain(scripts), _Wish(where, finish, to), check)


def upgrade_postgres(
    connect: Callable[[], Any], where: str, scripts: Path = VERSIONS, *, finish: bool = False, to: str = ""
) -> None:
    """Bring a PostgreSQL database to the newest revision in `scripts`, in one transaction of a connection of its own."""
    from sqlalchemy import create_engine, event
    from sqlalchemy.pool import NullPool

    engine = create_engine("postgresql+psycopg://", creator=connect, poolclass=NullPool)

    @event.listens_for(engine, "begin")
    def begin(opened: Any) -> None:
        opened.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ONE_AT_A_TIME})")

    _run(engine, Chain(scripts), _Wish(where, finish, to), lambda _: None)


class _Wish:
    """What is asked of an upgrade."""

    def __init__(self, where: str, finish: bool, to: str) -> None:
        self.where, self.finish, self.to = where, finish, to


class Chain:
    """The revisions in a folder, oldest first. Loads Alembic."""

    def __init__(self, scripts: Path = VERSIONS) -> None:
        from alembic.config import Config
        from alembic.script import ScriptDirectory

        self.config = Config()
        self.config.set_main_option("script_location", str(scripts).replace("%", "%%"))
        self.config.set_main_option("path_separator", "os")
        self.script = ScriptDirectory.from_config(self.config)
        newest_first = list(self.script.walk_revisions())
        self.names: list[str] = [entry.revision for entry in reversed(newest_first)]
        self._post = {entry.revision for entry in newest_first if getattr(entry.module, "phase", "pre") == "post"}
        self._runs_with = {
            entry.revision: int(getattr(entry.module, "runs_with", entry.revision)) for entry in newest_first
        }

    @property
    def pre(self) -> str:
        """The newest revision that is not post: what programs of this version need."""
        return next(name for name in reversed(self.names) if name not in self._post)

    def runs_with(self, revision: str) -> int:
        """The number of the oldest schema whose programs may use a store that has come to `revision`."""
        return max(self._runs_with[name] for name in self.names[: self.names.index(revision) + 1])

    def target(self, found: str | None, wish: _Wish) -> str:
        """Where a store at the known revision `found` goes; None: there is nothing yet, and so nobody who needs it older.

        Error: CONFIGURATION_INVALID where a post part of an older version lies on the way, and nobody said `finish`.
        """
        if wish.to:
            return wish.to
        if found is None or wish.finish:
            return self.names[-1]
        at, to = self.names.index(found), self.names.index(self.pre)
        if at >= to:
            return found
        unfinished = [name for name in self.names[at + 1 : to] if name in self._post]
        if unfinished:
            raise FederationError(
                Code.CONFIGURATION_INVALID,
                f"the upgrade of this store to schema {unfinished[0]} was never finished",
                fault=Fault.CALLER,
                hint="End every control plane of an older version, then run `brhub db upgrade --finish`. "
                "Nothing was changed.",
                metadata={"store": wish.where, "schema": unfinished[0]},
            )
        return self.pre


def _run(engine: Engine, chain: Chain, wish: _Wish, check: Callable[[Any], None]) -> None:
    from alembic.runtime.environment import EnvironmentContext
    from sqlalchemy.exc import DBAPIError

    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells its own doings, one by one
    at: list[str] = []

    def steps(revision: Any, context: Any) -> Any:
        found = revision if isinstance(revision, tuple) else (revision,) if revision else ()
        if set(found) - set(chain.names):
            usable(context.connection, ", ".join(sorted(found)), wish.where, int(chain.pre))
            return []
        at.append(chain.target(found[0] if found else None, wish))
        return chain.script._upgrade_revs(at[0], revision)  # noqa: SLF001 - what alembic's own `upgrade` command calls

    try:
        with (
            engine.connect() as opened,
            opened.begin(),
            EnvironmentContext(chain.config, chain.script, fn=steps) as run,
        ):
            run.configure(connection=opened, transactional_ddl=True)
            run.run_migrations()
            if at:
                _keep_runs_with(opened, chain.runs_with(at[0]), int(at[0]))
            check(opened)
    except DBAPIError as error:
        raise error.orig or error from error


def _keep_runs_with(opened: Connection, number: int, own: int) -> None:
    """Say in the store who may use it, beside programs of its own schema."""
    from sqlalchemy import text

    opened.execute(text("DELETE FROM meta WHERE name = :name"), {"name": RUNS_WITH})
    if number < own:
        values = {"name": RUNS_WITH, "value": number}
        opened.execute(text("INSERT INTO meta (name, value) VALUES (:name, :value)"), values)


def usable(connection: Connection, revision: str, where: str, ours: int) -> None:
    """Return if a store at a revision that this version does not know may be used by it; STORE_UNAVAILABLE else."""
    from sqlalchemy import text

    rows = connection.execute(text("SELECT value FROM meta WHERE name = :name"), {"name": RUNS_WITH}).fetchall()
    if not rows or int(rows[0][0]) > ours:
        raise newer(where, revision)
    log.warning("the store has the schema of a newer version, %s; this version runs on it", revision)


def known() -> frozenset[str]:
    """Every revision that this version can read."""
    return frozenset(Chain().names)


def newer(where: str, revision: str) -> BaseException:
    """The refusal of a store that a newer version wrote."""
    error = faults.unavailable(
        f"the store was written by a newer version (its schema is {revision})",
        "Start that version or a later one, or restore a backup made by this one. Nothing was changed.",
        where,
    )
    error.metadata["schema"] = revision
    return error
