"""A schema changes in two parts: with the first, programs of before go on; the second waits until none is left.

On filled stores, in a file and in PostgreSQL. That today's program does all its work on a schema that is one step ahead
is in the store's contract (`tests/contract`, stores named `ahead`).
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from sqlalchemy import MetaData, Table, create_engine

from federation.errors import Code, FederationError
from federation.store import migrations, open_store, schema
from federation.store.postgres import connect_plainly
from tests.contract.store_builders import fact, full_job, job, keep, lease
from tests.migration.conftest import Place, empty_file
from tests.support.dying import each_try
from tests.support.postgres import running_postgres
from tests.support.tomorrow import POST, PRE, scripts_of_tomorrow, upgrade_file


def test_first_part_leaves_the_store_to_programs_of_before(place: Place, tmp_path: Path) -> None:
    """Tomorrow's upgrade adds; today's program opens it with all it had, works, and tomorrow's goes on after it."""
    scripts = scripts_of_tomorrow(tmp_path)
    rows = place.rows()
    place.upgrade(scripts)
    assert (place.revision(), place.rows()) == (PRE, rows)
    assert place.ask("SELECT value FROM meta WHERE name = 'runs_with'") == [(int(schema.HEAD),)]
    store = open_store(place.url)
    assert store.load().jobs == (full_job(1), job(2))
    keep(store, *(job(number) for number in range(3, 40)), facts=[fact("job-3")])
    store.close()
    assert place.ask("SELECT count(*) FROM jobs WHERE mood = 'calm'") == [(39,)]
    place.upgrade(scripts)
    assert place.revision() == PRE


def test_second_part_shuts_programs_of_before_out(place: Place, tmp_path: Path) -> None:
    """After `--finish` today's program refuses the store by name, and changes nothing in it."""
    scripts = scripts_of_tomorrow(tmp_path)
    place.upgrade(scripts, finish=True)
    assert (place.revision(), "progress" in place.columns("jobs")) == (POST, False)
    rows = place.ask("SELECT count(*) FROM jobs")
    with pytest.raises(FederationError) as refused:
        open_store(place.url)
    assert (refused.value.code, refused.value.metadata["schema"]) == (Code.STORE_UNAVAILABLE, POST)
    assert "newer version" in refused.value.message
    assert (place.ask("SELECT count(*) FROM jobs"), rows) == ([(2,)], [(2,)])
    place.upgrade(scripts)
    assert place.revision() == POST


def test_upgrade_that_was_never_finished_is_asked_for(place: Place, tmp_path: Path) -> None:
    """Two versions on, the part that takes away lies on the way: refused with what to type, and done with `--finish`."""
    place.upgrade(scripts_of_tomorrow(tmp_path / "next"))
    later = scripts_of_tomorrow(tmp_path / "later", unfinished=True)
    with pytest.raises(FederationError) as refused:
        place.upgrade(later)
    assert (refused.value.code, "--finish" in refused.value.hint) == (Code.CONFIGURATION_INVALID, True)
    assert place.revision() == PRE
    place.upgrade(later, finish=True)
    assert place.revision() == "9003"


def test_new_store_has_nobody_to_wait_for(tmp_path: Path) -> None:
    """What is made from nothing has both parts at once."""
    path = empty_file(tmp_path / "federation.db")
    upgrade_file(path, scripts_of_tomorrow(tmp_path))
    assert Place("", path).revision() == POST


def test_first_part_under_a_control_plane_that_serves(tmp_path: Path) -> None:
    """In PostgreSQL the upgrade runs beside a leader of the version before, which goes on in the same connections."""
    place = Place(running_postgres().new_database(), None)
    place.fill()
    store = open_store(place.url)
    keep(store, *(job(number) for number in range(3, 30)))
    assert store.get_job("job-00000001") == full_job(1)
    place.upgrade(scripts_of_tomorrow(tmp_path))
    keep(store, *(job(number) for number in range(30, 60)), facts=[fact("job-30")])
    with store.begin() as transaction:
        transaction.put_leases([lease(1, full_job(1), usage_stored=3)])
        transaction.commit()
    assert (len(store.load().jobs), store.load().leases[0].usage_stored) == (59, 3)
    store.close()
    assert (place.revision(), place.rows()["jobs"]) == (PRE, 59)


def _reflected(place: Place) -> list[Table]:
    """The tables as the database has them, parents first."""
    if place.path is not None:
        engine = create_engine(f"sqlite:///{place.path}")
    else:
        engine = create_engine("postgresql+psycopg://", creator=lambda: connect_plainly(place.url))
    found = MetaData()
    found.reflect(engine)
    engine.dispose()
    return [one for one in found.sorted_tables if one.name not in ("alembic_version", "meta", "leader", "last_write")]


@pytest.mark.parametrize("pair", [("0001", "0002")])
def test_statements_of_a_released_version_work_on_the_next(nowhere: Place, pair: tuple[str, str]) -> None:
    """Rows written, replaced and read by the names of the older schema's columns alone, before and after the first part."""
    older, newer = pair
    if nowhere.path is not None:
        empty_file(nowhere.path)
    nowhere.upgrade(migrations.VERSIONS, to=older)
    tables = _reflected(nowhere)
    for table in tables:
        _write(nowhere, table, 1)
    nowhere.upgrade(migrations.VERSIONS, to=newer)
    for table in tables:
        _write(nowhere, table, 2)
        keys = ", ".join(column.name for column in table.primary_key)
        names = ", ".join(column.name for column in table.columns)
        free = [column.name for column in table.columns if not column.primary_key and not column.foreign_keys]
        again = ", ".join(f"{name} = excluded.{name}" for name in free)
        nowhere.ask(
            f"INSERT INTO {table.name} ({names}) SELECT {names} FROM {table.name} WHERE true "
            f"ON CONFLICT ({keys}) DO UPDATE SET {again}"
        )
        assert len(nowhere.ask(f"SELECT {names} FROM {table.name}")) == 2, table.name


def _write(place: Place, table: Table, number: int) -> None:
    """One row with a value of its own in each column that this table has in the older schema."""
    values = [
        f"x{number}".encode()
        if "BLOB" in str(column.type) or "BYTEA" in str(column.type)
        else f"x{number}"
        if "TEXT" in str(column.type)
        else number
        for column in table.columns
    ]
    names = ", ".join(column.name for column in table.columns)
    place.ask(f"INSERT INTO {table.name} ({names}) VALUES ({', '.join('?' * len(values))})", *values)


KILLED = """
import sys
from pathlib import Path
from sqlalchemy import Engine, event
from federation.store import migrations, open_store, sqlite
from federation.store.postgres import connect_plainly
from tests.support.dying import work_killed_at_each
import alembic.runtime.environment, federation.store.sql, psycopg
url, scripts = sys.argv[1], sys.argv[2]

def work():
    if not scripts:
        open_store(url).close()
    elif url.startswith("sqlite"):
        path = url.removeprefix("sqlite:///")
        migrations.upgrade_sqlite(sqlite.connect(Path(path)), path, Path(scripts), finish=True)
    else:
        migrations.upgrade_postgres(lambda: connect_plainly(url), "it", Path(scripts), finish=True)

def steps(step):
    event.listen(Engine, "before_cursor_execute", step)
    event.listen(Engine, "commit", step)

work_killed_at_each(work, steps)
"""


def test_upgrade_killed_at_any_statement_is_as_if_it_never_began(place: Place, tmp_path: Path) -> None:
    """SIGKILL at each statement and at the commit: all that was there is there, at the old schema, and the next try ends it."""
    scripts = scripts_of_tomorrow(tmp_path)
    before = place.rows()
    columns = place.columns("jobs")
    killed = 0
    for status in each_try(KILLED, place.url, str(scripts)):
        if status == signal.SIGKILL:
            killed += 1
            assert (place.revision(), place.rows(), place.columns("jobs")) == (schema.HEAD, before, columns)
    assert killed > 20
    assert place.revision() == POST
    assert place.ask("SELECT count(*) FROM jobs") == [(before["jobs"],)]


def test_making_a_store_killed_at_any_statement_leaves_none_or_all(nowhere: Place) -> None:
    """SIGKILL at each statement of the first start: the next one finds nothing, and makes the whole."""
    killed = 0
    for status in each_try(KILLED, nowhere.url, ""):
        if status == signal.SIGKILL:
            killed += 1
            assert not _is_there(nowhere)
    assert killed > 10
    nowhere.fill()
    assert nowhere.rows()["jobs"] == 2


def _is_there(place: Place) -> bool:
    """Whether there is anything of a store."""
    if place.path is not None:
        return place.path.exists()
    return place.ask("SELECT to_regclass('alembic_version')::text") != [(None,)]


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ("ALTER TABLE jobs DROP COLUMN claim", "claim"),
        ("DROP TABLE usage", "usage"),
        ("DELETE FROM meta", "incarnation"),
        ("DELETE FROM alembic_version", "which version"),
        ("INSERT INTO alembic_version VALUES ('0001')", "which version"),
    ],
)
def test_half_a_schema_is_refused_by_name(place: Place, harm: str, words: str) -> None:
    """What some other program left half-way: the start names what is missing, changes nothing, and begins nothing anew."""
    place.ask(harm)
    with pytest.raises(FederationError) as refused:
        open_store(place.url)
    assert (refused.value.code, words in refused.value.message) == (Code.STORE_UNAVAILABLE, True), refused.value.message
    assert "backup" in refused.value.hint
    assert place.ask("SELECT count(*) FROM jobs") == [(2,)]
