"""How a store of another version is opened: brought up to date whole, or refused, and never half of either."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect

from federation.domain.hub import Agent
from federation.domain.job import Job
from federation.domain.lease import Lease
from federation.errors import Code, FederationError
from federation.store import codec, migrations, open_store, schema, sqlite, upgrade_store
from tests.contract.store_builders import agent, fact, full_job, job, keep, lease

REPOSITORY = Path(__file__).parents[2]

NEXT = '''
"""A revision of tomorrow."""
import os
import sqlalchemy as sa
from alembic import op
revision = "9999"
down_revision = "{head}"
branch_labels = None
depends_on = None

def upgrade():
    op.add_column("jobs", sa.Column("mood", sa.Text(), nullable=False, server_default="calm"))
    op.execute("UPDATE jobs SET progress = 'moved'")
    op.create_table("moods", sa.Column("id", sa.Text(), primary_key=True))
    {last}
'''


def _scripts(folder: Path, last: str = "") -> Path:
    """Our revisions and one of tomorrow, which ends with `last`."""
    scripts = folder / "scripts"
    shutil.copytree(migrations.VERSIONS / "versions", scripts / "versions")
    (scripts / "versions" / "r9999_mood.py").write_text(NEXT.format(head=schema.HEAD, last=last))
    return scripts


def _filled(folder: Path) -> Path:
    path = folder / "federation.db"
    store = open_store(f"sqlite:///{path}")
    keep(store, full_job(1), job(2), facts=[fact("job-00000001")])
    store.close()
    return path


def _upgrade(path: Path, scripts: Path) -> None:
    connection = sqlite.connect(path)
    try:
        migrations.upgrade_sqlite(connection, str(path), scripts)
    finally:
        connection.close()


def _tables(path: Path) -> dict[str, str]:
    """Everything in the database by name, as it was declared, without blanks and quotes."""
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    connection.close()
    return {name: "".join(sql.split()).replace('"', "") for name, sql in rows}


def _revision(path: Path) -> str:
    connection = sqlite3.connect(path)
    ((revision,),) = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    connection.close()
    return str(revision)


def _script_directory() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(migrations.VERSIONS))
    config.set_main_option("path_separator", "os")
    return ScriptDirectory.from_config(config)


def test_head_is_the_newest_revision() -> None:
    """The revision that the code expects is the only head there is."""
    assert _script_directory().get_heads() == [schema.HEAD]


def test_from_nothing_to_todays_schema(tmp_path: Path) -> None:
    """All revisions in turn make exactly the tables and indexes that the code declares; a second run does nothing."""
    path = tmp_path / "federation.db"
    upgrade_store(f"sqlite:///{path}")
    declared = tmp_path / "declared.db"
    engine = create_engine(f"sqlite:///{declared}")
    schema.metadata.create_all(engine)
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num TEXT)")
    engine.dispose()
    made, wanted = _tables(path), _tables(declared)
    del made["alembic_version"], wanted["alembic_version"]
    assert made == wanted
    before = path.read_bytes()
    upgrade_store(f"sqlite:///{path}")
    assert _tables(path).keys() == made.keys() | {"alembic_version"}
    assert len(path.read_bytes()) == len(before)


def test_alembic_finds_nothing_to_do(tmp_path: Path) -> None:
    """Alembic's own comparison of a new store and the declared schema is empty."""
    path = tmp_path / "federation.db"
    upgrade_store(f"sqlite:///{path}")
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []
    engine.dispose()


def test_old_data_is_kept(tmp_path: Path) -> None:
    """A store of today goes to tomorrow's schema with every row it had."""
    path = _filled(tmp_path)
    _upgrade(path, _scripts(tmp_path))
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT id, mood, progress, attempts FROM jobs ORDER BY id").fetchall()
    specs = connection.execute("SELECT count(*) FROM specs").fetchone()
    connection.close()
    assert rows == [("job-00000001", "calm", "moved", 2), ("job-00000002", "calm", "moved", 0)]
    assert (specs, _revision(path)) == ((2,), "9999")


def _filled_at_first_schema(folder: Path) -> tuple[Path, Job, Lease, Agent]:
    """A store as the first release left it, at work: a running job, its lease, its agent."""
    scripts = folder / "first"
    (scripts / "versions").mkdir(parents=True)
    shutil.copy(migrations.VERSIONS / "versions" / "r0001_first_schema.py", scripts / "versions")
    path = folder / "federation.db"
    made = sqlite3.connect(path)
    made.execute(f"PRAGMA application_id={sqlite.APPLICATION_ID}")
    made.close()
    _upgrade(path, scripts)
    of = replace(full_job(1), claim=None, spec=replace(full_job(1).spec, spread=False))
    held, speaks = lease(1, of, devices=()), agent(reclaim_ms=60_000)
    connection = sqlite3.connect(path)
    for table, row in (
        ("jobs", codec.job_row(of)[:-1]),
        ("specs", codec.spec_row(of)),
        ("leases", codec.lease_row(held)[:-1]),
        ("agents", codec.agent_row(speaks)[:-2]),
    ):
        connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
    connection.commit()
    connection.close()
    return path, of, held, speaks


def test_store_of_before_claims_and_devices_goes_on(tmp_path: Path) -> None:
    """A store at the first schema opens with all it had: no claims, leases without devices, a minute to reclaim."""
    path, of, held, speaks = _filled_at_first_schema(tmp_path)
    store = open_store(f"sqlite:///{path}")
    loaded = store.load()
    assert (loaded.jobs, loaded.leases, loaded.agents) == ((of,), (held,), (speaks,))
    claiming = replace(of, claim=full_job(1).claim, revision=2)
    with store.begin() as transaction:
        transaction.put_jobs([claiming])
        transaction.put_leases([replace(held, devices=((1,),))])
        transaction.put_agents([replace(speaks, reclaim_ms=0, takes_back=True)])
        transaction.commit()
    store.close()
    store = open_store(f"sqlite:///{path}")
    loaded = store.load()
    assert (loaded.jobs[0].claim, loaded.leases[0].devices, loaded.agents[0].takes_back) == (
        claiming.claim,
        ((1,),),
        True,
    )
    store.close()
    assert _revision(path) == schema.HEAD


def test_way_back_to_the_first_schema_keeps_the_rest(tmp_path: Path) -> None:
    """Claims, devices and reclaim times go; everything that the first schema knows stays."""
    path, *_ = _filled_at_first_schema(tmp_path)
    first = _tables(path)
    open_store(f"sqlite:///{path}").close()
    from alembic.operations import Operations

    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        _script_directory().get_revision("0002").module.downgrade()
    with engine.connect() as connection:
        columns = {
            table: {one["name"] for one in inspect(connection).get_columns(table)} for table in ("jobs", "leases")
        }
        kept = connection.exec_driver_sql("SELECT id FROM jobs UNION SELECT id FROM leases").fetchall()
    engine.dispose()
    assert (columns["jobs"] & {"claim"}, columns["leases"] & {"devices"}) == (set(), set())
    assert set(_tables(path)) == set(first)
    assert len(kept) == 2


def test_newer_store_is_refused(tmp_path: Path) -> None:
    """A store that a newer version wrote is refused by name, untouched, and works again with its own version."""
    path = _filled(tmp_path)
    scripts = _scripts(tmp_path)
    _upgrade(path, scripts)
    before = path.read_bytes()
    with pytest.raises(FederationError) as refused:
        open_store(f"sqlite:///{path}")
    assert refused.value.code is Code.STORE_UNAVAILABLE
    assert refused.value.metadata["schema"] == "9999"
    assert "newer version" in refused.value.message
    assert path.read_bytes() == before
    _upgrade(path, scripts)
    assert _revision(path) == "9999"


def test_failing_step_changes_nothing(tmp_path: Path) -> None:
    """A revision that fails after it changed tables and rows leaves the store as it was."""
    path = _filled(tmp_path)
    before = _tables(path)
    with pytest.raises(ZeroDivisionError):
        _upgrade(path, _scripts(tmp_path, last="1 // 0"))
    assert (_tables(path), _revision(path)) == (before, schema.HEAD)
    store = open_store(f"sqlite:///{path}")
    assert store.load().jobs == (full_job(1), job(2))
    store.close()


def test_rows_left_without_their_parents_are_refused(tmp_path: Path) -> None:
    """A revision that would leave specs without jobs is rolled back before it is committed."""
    path = _filled(tmp_path)
    with pytest.raises(FederationError) as refused:
        _upgrade(path, _scripts(tmp_path, last="op.execute('DELETE FROM jobs')"))
    assert "point to rows that are gone" in refused.value.message
    store = open_store(f"sqlite:///{path}")
    assert len(store.load().jobs) == 2
    store.close()


UPGRADE_AND_DIE = """
import sys
from pathlib import Path
from federation.store import migrations, sqlite
migrations.upgrade_sqlite(sqlite.connect(Path(sys.argv[1])), sys.argv[1], Path(sys.argv[2]))
"""


def test_upgrade_killed_half_way_is_as_if_it_never_began(tmp_path: Path) -> None:
    """A process that dies in the middle of a revision leaves a store that opens with all it had."""
    path = _filled(tmp_path)
    before = _tables(path)
    scripts = _scripts(tmp_path, last="os.kill(os.getpid(), 9)")
    ended = subprocess.run(
        [sys.executable, "-c", UPGRADE_AND_DIE, str(path), str(scripts)], cwd=REPOSITORY, check=False, timeout=60
    )
    assert ended.returncode == -9
    store = open_store(f"sqlite:///{path}")
    assert store.load().jobs == (full_job(1), job(2))
    store.close()
    assert (_tables(path), _revision(path)) == (before, schema.HEAD)


MAKE_AND_DIE = """
import os, pathlib, sys
from federation.store import open_store
pathlib.Path.rename = lambda *_: os.kill(os.getpid(), 9)
open_store(sys.argv[1])
"""


def test_first_start_killed_half_way_is_repaired(tmp_path: Path) -> None:
    """A store whose making was cut short is not there yet; the next start makes it whole."""
    url = f"sqlite:///{tmp_path}/federation.db"
    ended = subprocess.run([sys.executable, "-c", MAKE_AND_DIE, url], cwd=REPOSITORY, check=False, timeout=60)
    assert ended.returncode == -9
    assert not (tmp_path / "federation.db").exists()
    assert (tmp_path / "federation.db.creating").exists()
    store = open_store(url)
    keep(store, job(1))
    assert store.load().jobs == (job(1),)
    store.close()
    assert not (tmp_path / "federation.db.creating").exists()


def test_downgrade_removes_what_upgrade_made(tmp_path: Path) -> None:
    """The first revision's way back leaves no table behind."""
    path = _filled(tmp_path)
    engine = create_engine(f"sqlite:///{path}")
    from alembic.operations import Operations

    module = _script_directory().get_revision("0001").module
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        module.downgrade()
    engine.dispose()
    assert set(_tables(path)) == {"alembic_version"}
