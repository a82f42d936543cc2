"""A filled store of each kind that lasts: the same steps for a file and for a database."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from federation.store import migrations, open_store, schema, sqlite
from federation.store.postgres import connect_plainly
from tests.contract.store_builders import agent, fact, full_job, hub, interval, job, lease, request
from tests.support.postgres import running_postgres
from tests.support.tomorrow import upgrade_file


@dataclass(frozen=True)
class Place:
    """Where a store lies."""

    url: str
    path: Path | None
    """Its file; None: a database."""

    def fill(self) -> None:
        """A row of every table, through the store."""
        store = open_store(self.url)
        with store.begin() as transaction:
            transaction.append_events([fact("job-00000001"), fact("job-00000002")])
            transaction.put_jobs([full_job(1), job(2)])
            transaction.put_leases([lease(1, full_job(1))])
            transaction.put_hubs([hub()])
            transaction.put_agents([agent()])
            transaction.put_requests([request("r1", full_job(1))])
            transaction.put_usage([interval(0)])
            transaction.commit()
        store.close()

    def upgrade(self, scripts: Path, *, finish: bool = False, to: str = "") -> None:
        """As the version with these revisions does it."""
        if self.path is not None:
            upgrade_file(self.path, scripts, finish=finish, to=to)
        else:
            connect = lambda: connect_plainly(self.url)  # noqa: E731 - a connection of its own for each
            migrations.upgrade_postgres(connect, "the database", scripts, finish=finish, to=to)

    def ask(self, sql: str, *parameters: Any) -> list[Any]:
        """By a connection that knows nothing of us; `?` for each parameter."""
        if self.path is not None:
            file = sqlite3.connect(self.path, isolation_level=None)
            try:
                return file.execute(sql, parameters).fetchall()
            finally:
                file.close()
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(sql.replace("?", "%s"), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def revision(self) -> str:
        """Of its schema."""
        ((found,),) = self.ask("SELECT version_num FROM alembic_version")
        return str(found)

    def columns(self, table: str) -> list[str]:
        """A table's, in order."""
        if self.path is not None:
            return [row[1] for row in self.ask(f"PRAGMA table_info({table})")]
        asked = "SELECT column_name FROM information_schema.columns WHERE table_name = ? ORDER BY ordinal_position"
        return [name for (name,) in self.ask(asked, table)]

    def rows(self) -> dict[str, int]:
        """How many in each table of today's schema."""
        return {
            table.name: self.ask(f"SELECT count(*) FROM {table.name}")[0][0]
            for table in schema.metadata.sorted_tables
            if table.name != "meta"
        }


def empty_file(path: Path) -> Path:
    """An empty file that is ours."""
    made = sqlite3.connect(path)
    made.execute(f"PRAGMA application_id={sqlite.APPLICATION_ID}")
    made.close()
    return path


@pytest.fixture(params=["sqlite", "postgres"])
def nowhere(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A place where no store is yet."""
    if request.param == "sqlite":
        path = tmp_path / "federation.db"
        return Place(f"sqlite:///{path}", path)
    return Place(running_postgres().new_database(), None)


@pytest.fixture
def place(nowhere: Place) -> Place:
    """A filled store at today's schema."""
    nowhere.fill()
    return nowhere
