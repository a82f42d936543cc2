"""How a schema of last year becomes today's: Alembic revisions, run from here and not from a shell.

One transaction per upgrade: a step that fails, or a machine that loses power half-way, leaves the store as it was. A
store that a newer version wrote is refused: it may hold what this version would silently drop.
Not here: what the schema is (`schema.py`; a test compares the two), and checks of the file (`sqlite.py`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from federation.store import faults

if TYPE_CHECKING:
    from sqlalchemy import Engine  # loading it costs a start that has nothing to upgrade

VERSIONS = Path(__file__).parent


def upgrade(url: str) -> None:
    """Bring the store at `url` to today's schema, making it if there is none. Errors as in `open_store`."""
    from federation.store import open_store

    open_store(url).close()


def upgrade_sqlite(connection: sqlite3.Connection, where: str, scripts: Path = VERSIONS) -> None:
    """Bring an open SQLite file to the newest revision in `scripts`, in one transaction. `where` names it in errors.

    Foreign keys are off while tables are rebuilt and checked before the commit.
    """
    from sqlalchemy import create_engine, event
    from sqlalchemy.pool import StaticPool

    engine = create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool)

    @event.listens_for(engine, "begin")
    def begin(opened: Any) -> None:
        opened.exec_driver_sql("BEGIN IMMEDIATE")  # the driver's own would start too late: at the first INSERT

    def check(opened: Any) -> None:
        orphans = opened.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
        if orphans:
            what = f"{len(orphans)} rows point to rows that are gone, first in {orphans[0][0]}"
            raise faults.damaged(where, what)

    connection.execute("PRAGMA foreign_keys=OFF")
    _run(engine, where, scripts, check)


def upgrade_postgres(connect: Callable[[], Any], where: str, scripts: Path = VERSIONS) -> None:
    """Bring a PostgreSQL database to the newest revision in `scripts`, in one transaction of a connection of its own."""
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    engine = create_engine("postgresql+psycopg://", creator=connect, poolclass=NullPool)
    _run(engine, where, scripts, lambda _: None)


def _run(engine: Engine, where: str, scripts: Path, check: Callable[[Any], None]) -> None:
    from alembic.runtime.environment import EnvironmentContext
    from sqlalchemy.exc import DBAPIError

    config, script = _scripts(scripts)

    def steps(revision: Any, _: Any) -> Any:
        known = {entry.revision for entry in script.walk_revisions()}
        found = set(revision if isinstance(revision, tuple) else (revision,)) - {None}
        if found - known:
            raise newer(where, ", ".join(sorted(found - known)))
        return script._upgrade_revs("head", revision)  # noqa: SLF001 - what alembic's own `upgrade` command calls

    try:
        with engine.connect() as opened, opened.begin(), EnvironmentContext(config, script, fn=steps) as environment:
            environment.configure(connection=opened, transactional_ddl=True)
            environment.run_migrations()
            check(opened)
    except DBAPIError as error:
        raise error.orig or error from error


def known() -> frozenset[str]:
    """Every revision that this version can read."""
    _, script = _scripts(VERSIONS)
    return frozenset(entry.revision for entry in script.walk_revisions())


def _scripts(folder: Path) -> tuple[Any, Any]:
    """Alembic's configuration and its folder of revisions."""
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config, ScriptDirectory.from_config(config)


def newer(where: str, revision: str) -> BaseException:
    """The refusal of a store that a newer version wrote."""
    error = faults.unavailable(
        f"the store was written by a newer version (its schema is {revision})",
        "Start that version or a later one, or restore a backup made by this one. Nothing was changed.",
        where,
    )
    error.metadata["schema"] = revision
    return error
