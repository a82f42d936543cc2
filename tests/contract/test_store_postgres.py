"""What only a store in PostgreSQL meets: connections that are lost, a server that dies, a commit that nobody answers."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings

from federation.domain.job import JobState
from federation.errors import Code, FederationError
from federation.ports import Store
from federation.store import DurabilityLost, faults, leadership_of, open_store, schema
from federation.store import postgres as postgres_adapter
from federation.store.leadership import TABLES, LeadershipLost
from federation.store.postgres import PostgresDatabase
from federation.store.sql import SqlStore
from tests.contract.store_builders import StoreHome, fact, full_job, job, keep
from tests.property.test_store_properties import TRANSACTIONS, check_held_together
from tests.support.eventually import eventually
from tests.support.postgres import PostgresUnderTest, running_postgres

REPOSITORY = Path(__file__).parents[2]


def _inside(store: Store) -> PostgresDatabase:
    """The database under a store, to hurt it."""
    assert isinstance(store, SqlStore)
    assert isinstance(store.database, PostgresDatabase)
    return store.database


@settings(max_examples=20, deadline=None)
@given(TRANSACTIONS)
def test_postgres_does_what_the_dictionaries_do(transactions: list[tuple[list[tuple[object, ...]], bool]]) -> None:
    """After any transactions, committed, abandoned or refused, it answers every question as the dictionaries do."""
    sql = open_store(running_postgres().emptied())
    try:
        check_held_together(open_store("memory:"), sql, transactions)
    finally:
        sql.close()


# ---- outliving processes and connections ----------------------------------------------------------------------------
def test_everything_is_there_after_a_restart(postgres_home: StoreHome) -> None:
    """A store opened again has the same state and goes on counting facts where it stopped."""
    store = postgres_home.open()
    keep(store, full_job(1), job(2, state=JobState.CANCELLED), facts=[fact("job-1"), fact("job-2")])
    before = store.load()
    store.close()
    store.close()  # a second close is harmless
    again = postgres_home.open()
    assert again.load() == before
    assert again.get_job(job(2).id) == job(2, state=JobState.CANCELLED)
    assert keep(again, facts=[fact("job-3")]) == 3


def test_closed_store_says_so(postgres_home: StoreHome) -> None:
    """Writing to and reading from a store that was closed is a clear error."""
    store = postgres_home.open()
    store.close()
    for use in (lambda: keep(store, job(1)), store.load):
        with pytest.raises(FederationError) as refused:
            use()
        assert refused.value.code is Code.STORE_UNAVAILABLE


KILLED = """
import os, signal, sys
from federation.store import open_store
from tests.contract.store_builders import fact, job, keep
store = open_store(sys.argv[1])
for n in range(1, 41):
    keep(store, job(n), facts=[fact(f"job-{n}")])
    os.write(1, b"%d\\n" % n)  # acknowledged
with store.begin() as transaction:
    transaction.put_jobs([job(n) for n in range(41, 400)])
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_process_loses_nothing_that_it_acknowledged(postgres_home: StoreHome) -> None:
    """After SIGKILL in a transaction every acknowledged job is there, nothing of the open one, and nobody has to wait."""
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, postgres_home.url], cwd=REPOSITORY, capture_output=True, check=False, timeout=60
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    acknowledged = [int(line) for line in ended.stdout.split()]
    loaded = postgres_home.open().load()
    assert [each.queue_seq for each in loaded.jobs] == acknowledged == list(range(1, 41))
    assert loaded.last_seq == 40


def test_lost_connections_are_made_anew(postgres: PostgresUnderTest, postgres_home: StoreHome) -> None:
    """Connections that were cut while nobody used them are nobody's concern."""
    store = postgres_home.open()
    keep(store, job(1))
    store.load()
    postgres.disconnect_everybody(postgres_home.url)
    keep(store, job(2))
    assert store.load().jobs == (job(1), job(2))


def test_connection_lost_inside_a_transaction(postgres: PostgresUnderTest, postgres_home: StoreHome) -> None:
    """Nothing of the transaction is kept, the next one works, and no number of a fact is left out."""
    store = postgres_home.open()
    with pytest.raises(FederationError) as refused, store.begin() as transaction:
        transaction.append_events([fact("job-1")])
        postgres.disconnect_everybody(postgres_home.url)
        transaction.put_jobs([job(1)])
    assert refused.value.code is Code.STORE_UNAVAILABLE
    assert keep(store, job(2), facts=[fact("job-2")]) == 1
    eventually(lambda: _loaded(store) == (job(2),), 10, "a read works again")


def _loaded(store: Store) -> Any:
    try:
        return store.load().jobs
    except FederationError:
        return None


@pytest.mark.parametrize("rows", [postgres_adapter.BULK_ROWS_MIN - 1, postgres_adapter.BULK_ROWS_MIN])
def test_many_rows_at_once_are_as_one_by_one(postgres_home: StoreHome, rows: int) -> None:
    """New jobs, jobs that are there, and a job that comes twice: all as if each had come alone, twice in a transaction."""
    store = postgres_home.open()
    first = [job(n) for n in range(1, rows + 1)]
    keep(store, *first, facts=[fact(one.id) for one in first])
    again = [job(n, progress="again") for n in range(rows // 2, rows + rows // 2)]
    with store.begin() as transaction:
        transaction.put_jobs(again)
        transaction.put_jobs([job(n) for n in range(500, 500 + rows)])
        transaction.put_jobs([job(n, progress=f"{time}") for time in (1, 2) for n in range(900, 900 + rows)])
        transaction.commit()
    loaded = {one.queue_seq: one.progress for one in store.load().jobs}
    assert {n for n, progress in loaded.items() if progress == "again"} == {one.queue_seq for one in again}
    assert {n for n, progress in loaded.items() if progress == "2"} == set(range(900, 900 + rows))
    assert len(loaded) == len(set(range(1, rows + rows // 2))) + 2 * rows


# ---- a commit that nobody answers -----------------------------------------------------------------------------------
class LosingConnection:
    """A writer whose connection is lost at its COMMIT: before it is sent, or when it was done but not yet answered."""

    def __init__(self, real: psycopg.Connection[Any], lose: Callable[[], object], *, done: bool) -> None:
        self._real, self._lose, self._done = real, lose, done

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def execute(self, sql: str, *parameters: Any, **options: Any) -> Any:
        """What the real one does; the last word is the network's."""
        if sql != "COMMIT":
            return self._real.execute(sql, *parameters, **options)
        if self._done:
            self._real.execute(sql)
        self._lose()
        return self._real.execute(sql)


def _losing(store: Store, lose: Callable[[], object], *, done: bool) -> None:
    database = _inside(store)
    losing: Any = LosingConnection(database.writer, lose, done=done)
    database.writer = losing


def test_commit_that_was_done_but_not_answered(postgres: PostgresUnderTest, postgres_home: StoreHome) -> None:
    """PostgreSQL is asked what came of it: it was committed, and so the caller is told."""
    store = postgres_home.open()
    _losing(store, lambda: postgres.disconnect_everybody(postgres_home.url), done=True)
    assert keep(store, job(1), facts=[fact("job-1")]) == 1
    assert keep(store, job(2), facts=[fact("job-2")]) == 2
    assert store.load().jobs == (job(1), job(2))


def test_commit_that_never_arrived(postgres: PostgresUnderTest, postgres_home: StoreHome) -> None:
    """PostgreSQL is asked what came of it: nothing was written, and so the caller is told."""
    store = postgres_home.open()
    _losing(store, lambda: postgres.disconnect_everybody(postgres_home.url), done=False)
    with pytest.raises(FederationError) as refused:
        keep(store, job(1), facts=[fact("job-1")])
    assert refused.value.code is Code.STORE_UNAVAILABLE
    assert "nothing was written" in refused.value.message
    assert keep(store, job(2), facts=[fact("job-2")]) == 1
    assert store.load().jobs == (job(2),)


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
def test_server_that_dies_at_a_commit_and_recovers(
    postgres: PostgresUnderTest, postgres_home: StoreHome, done: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that dies at the commit and comes back tells what was kept of it; that is what the caller is told."""
    monkeypatch.setattr("federation.store.postgres.SILENT_S_MAX", 60.0)  # a busy machine's server takes its time
    store = postgres_home.open()
    keep(store, job(1))
    starting: list[threading.Thread] = []

    def die() -> None:
        postgres.crash()
        starting.append(postgres.start_soon())

    _losing(store, die, done=done)
    if done:
        keep(store, job(2))
    else:
        with pytest.raises(FederationError, match="nothing was written"):
            keep(store, job(2))
    starting[0].join()
    eventually(lambda: _loaded(store) == ((job(1), job(2)) if done else (job(1),)), 10, "what was said is what is kept")


def test_commit_of_which_nobody_can_tell(
    postgres: PostgresUnderTest, postgres_home: StoreHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While PostgreSQL does not come back, nobody may say that nothing was written: no handler of errors gets it."""
    monkeypatch.setattr("federation.store.postgres.SILENT_S_MAX", 0.3)
    store = postgres_home.open()
    _losing(store, postgres.crash, done=True)
    try:
        with pytest.raises(DurabilityLost) as lost:
            keep(store, job(1))
    finally:
        postgres.start()
    assert not isinstance(lost.value, Exception)
    eventually(lambda: _loaded(store) == (job(1),), 10, "it had been written")


# ---- one leader -----------------------------------------------------------------------------------------------------
def test_second_control_plane_is_refused(postgres_home: StoreHome) -> None:
    """A store that is open cannot be opened again until it is closed; then it can, at once."""
    store = postgres_home.open()
    with pytest.raises(FederationError) as refused:
        open_store(postgres_home.url)
    assert refused.value.code is Code.STORE_UNAVAILABLE
    assert "a control plane has this store open already" in refused.value.message
    store.close()
    again = postgres_home.open()
    assert again.load().jobs == ()
    leading = leadership_of(again)
    assert leading is not None
    before = leadership_of(store)
    assert before is not None
    assert leading.epoch == before.epoch + 1


def test_standby_waits_for_the_leader(postgres_home: StoreHome) -> None:
    """A standby is told who leads, and leads when that one has ended, with all that it wrote."""
    store = postgres_home.open()
    told: list[str] = []
    taken: list[Store] = []
    standby = threading.Thread(target=lambda: taken.append(open_store(postgres_home.url, waiting=told.append)))
    standby.start()
    eventually(lambda: len(told) == 1, 10, "the standby knows who leads")
    keep(store, job(1))
    store.close()
    standby.join(10)
    postgres_home.opened += taken
    assert taken[0].load().jobs == (job(1),)


def _taken_from(postgres: PostgresUnderTest, home: StoreHome) -> None:
    """Somebody takes over, though the leader lives: it was stopped for too long."""
    postgres.ask("UPDATE leader SET epoch = epoch + 1, holder = 'somewhere else 1 2 3'", database=_name(home))


def _name(home: StoreHome) -> str:
    return str(psycopg.conninfo.conninfo_to_dict(home.url)["dbname"])


def _quiet(home: StoreHome, ended: list[str]) -> Store:
    """A store whose process does not end when it should: this one is the test's."""
    store = SqlStore(PostgresDatabase(home.url, ended=ended.append))
    home.opened.append(store)
    return store


def test_write_of_a_deposed_leader_is_refused(postgres: PostgresUnderTest, postgres_home: StoreHome) -> None:
    """Once another leads, no write of the one before is kept, and its process must end."""
    store = _quiet(postgres_home, [])
    keep(store, job(1))
    _taken_from(postgres, postgres_home)
    with pytest.raises(LeadershipLost) as lost:
        keep(store, job(2))
    assert not isinstance(lost.value, Exception)
    assert store.load().jobs == (job(1),)


def test_takeover_waits_for_an_open_transaction(postgres: PostgresUnderTest, postgres_home: StoreHome) -> None:
    """All writes of one leader come before the first of the next: a takeover waits for the commit at hand."""
    store = _quiet(postgres_home, [])
    with store.begin() as transaction:
        transaction.put_jobs([job(1)])
        with pytest.raises(psycopg.errors.LockNotAvailable):
            postgres.ask("SET lock_timeout = '100ms'; SELECT 1 FROM leader FOR UPDATE", database=_name(postgres_home))
        postgres.ask("UPDATE leader SET renewed_ms = renewed_ms", database=_name(postgres_home))  # a renewal does not
        transaction.commit()


def test_deposed_leader_ends_by_itself(postgres: PostgresUnderTest, postgres_home: StoreHome) -> None:
    """Also where it has nothing to write: at the next renewal."""
    ended: list[str] = []
    _quiet(postgres_home, ended)
    _taken_from(postgres, postgres_home)
    eventually(lambda: ended == ["another control plane has taken over"], 10, "the leader knows that it is none")


def test_leader_that_cannot_renew_answers_nothing(postgres_home: StoreHome) -> None:
    """Five seconds after its last renewal began, and not before, a leader ends instead of answering."""
    ended: list[str] = []
    leading = leadership_of(_quiet(postgres_home, ended))
    assert leading is not None
    leading.still()
    assert ended == []
    leading._ending.set()  # nobody renews any more
    leading._renewed_s -= 5.1
    leading.still()
    (why,) = ended
    assert "last renewed 5." in why


def test_leader_that_lives_is_never_taken_over(postgres_home: StoreHome, monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader that renews keeps its place, however long somebody waits for it."""
    from federation.store import leadership

    monkeypatch.setattr(leadership, "RENEW_S", 0.05)
    monkeypatch.setattr(leadership, "TAKEOVER_S", 0.5)
    monkeypatch.setattr(leadership, "LOOK_S", 0.02)
    store = postgres_home.open()
    looks: list[float] = []
    real = leadership._look

    def look(connection: Any) -> Any:
        looks.append(leadership._now_s())
        return real(connection)

    monkeypatch.setattr(leadership, "_look", look)
    taken: list[Store] = []
    standby = threading.Thread(
        target=lambda: taken.append(open_store(postgres_home.url, waiting=lambda _: None)), daemon=True
    )
    standby.start()
    eventually(
        lambda: bool(looks) and looks[-1] - looks[0] > 1.5, 20, "the standby has looked for three takeovers' time"
    )
    assert taken == []
    store.close()
    standby.join(10)
    postgres_home.opened += taken
    assert len(taken) == 1


@pytest.mark.parametrize("clock_ahead_s", [-3600, 3600])
def test_leader_on_another_machine_that_died_is_taken_over(
    postgres: PostgresUnderTest, postgres_home: StoreHome, monkeypatch: pytest.MonkeyPatch, clock_ahead_s: int
) -> None:
    """Nobody can tell whether it lives: whoever looks waits its time by a clock of its own, then its epoch is over."""
    from federation.store import leadership

    monkeypatch.setattr(leadership, "TAKEOVER_S", 0.3)
    postgres_home.open().close()

    def somebody_led_before_the_databases_clock_was_set() -> None:
        _taken_from(postgres, postgres_home)
        renewed_ms = f"(extract(epoch FROM now()) * 1000)::bigint - {clock_ahead_s * 1000}"
        postgres.ask(f"UPDATE leader SET renewed_ms = {renewed_ms}", database=_name(postgres_home))

    somebody_led_before_the_databases_clock_was_set()
    told: list[str] = []
    store = open_store(postgres_home.url, waiting=told.append)
    postgres_home.opened.append(store)
    assert told == ["somewhere"]
    keep(store, job(1))
    store.close()
    somebody_led_before_the_databases_clock_was_set()
    again = open_store(postgres_home.url)  # nor is it refused for good where nobody wants to stand by
    postgres_home.opened.append(again)
    assert again.load().jobs == (job(1),)


def test_leader_whose_process_cannot_be_read_is_not_over(
    postgres_home: StoreHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/proc may hide a leader of the same machine: it counts as ended once there is no such process, and not before."""
    from federation.store import leadership

    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        mine = leadership._this_process().split(" ")
        started = leadership._started(process.pid)
        assert started
        holder = " ".join([*mine[:2], str(process.pid), started, mine[4]])
        nameless = " ".join([*mine[:2], str(process.pid), "", mine[4]])
        another = " ".join([*mine[:2], str(process.pid), "1", mine[4]])
        found = [leadership._has_ended(name) for name in (holder, nameless, another)]
        monkeypatch.setattr(leadership, "_started", lambda _: None)
        hidden = leadership._has_ended(holder)
        process.kill()
    assert (found, hidden) == ([False, False, True], False)
    assert leadership._has_ended(holder)


# ---- what is refused ------------------------------------------------------------------------------------------------
def test_new_database_is_filled_and_looks_like_the_schema(postgres: PostgresUnderTest) -> None:
    """All revisions in turn make what the code declares; a store opened twice is left as it is."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from sqlalchemy import create_engine

    url = postgres.new_database()
    open_store(url).close()
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url))
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"include_object": lambda _, name, *rest: name not in (*TABLES, "alembic_version")}
        )
        assert compare_metadata(context, schema.metadata) == []
    engine.dispose()


def test_somebody_elses_database_is_refused(postgres: PostgresUnderTest) -> None:
    """A database with tables that are not ours is not touched."""
    url = postgres.new_database()
    postgres.ask("CREATE TABLE jobs (id TEXT)", database=str(psycopg.conninfo.conninfo_to_dict(url)["dbname"]))
    with pytest.raises(FederationError, match="not a store of ours"):
        open_store(url)


def test_newer_store_is_refused(postgres: PostgresUnderTest, postgres_home: StoreHome) -> None:
    """A store that a newer version wrote is refused by name."""
    postgres.ask("UPDATE alembic_version SET version_num = '9999'", database=_name(postgres_home))
    with pytest.raises(FederationError, match="newer version") as refused:
        open_store(postgres_home.url)
    postgres.ask(f"UPDATE alembic_version SET version_num = '{schema.HEAD}'", database=_name(postgres_home))
    assert refused.value.metadata["schema"] == "9999"


def test_server_out_of_reach_is_refused(tmp_path: Path) -> None:
    """A server that is not there is named, without the password."""
    with pytest.raises(FederationError) as refused:
        open_store(f"postgresql://aisha:s3cret@/federation?host={tmp_path}&password=s3cret")
    assert refused.value.code is Code.STORE_UNAVAILABLE
    assert "s3cret" not in str(refused.value)
    assert "s3cret" not in str(refused.value.metadata)


def test_missing_database_is_named(postgres: PostgresUnderTest) -> None:
    """A database that does not exist is said to be missing."""
    with pytest.raises(FederationError) as refused:
        open_store(postgres.url("nowhere"))
    assert refused.value.code is Code.STORE_UNAVAILABLE
    assert "nowhere" in refused.value.message


@pytest.mark.parametrize("lock", ["jobs IN SHARE MODE", "last_write IN ACCESS EXCLUSIVE MODE"])
def test_locked_store_refuses_and_works_again(postgres_home: StoreHome, lock: str) -> None:
    """While another program holds a table, at the beginning or later, a commit is refused in bounded time; readers go on.

    The very next one works: whoever is busy never leaves the connection alone until PostgreSQL ends it.
    """
    store = postgres_home.open(busy_timeout_ms=50)
    keep(store, job(1))
    with psycopg.connect(postgres_home.url) as other:
        other.execute(f"LOCK TABLE {lock}")
        with pytest.raises(FederationError, match="locked"):
            keep(store, job(2))
        assert store.load().jobs == (job(1),)
    keep(store, job(2))
    assert store.load().jobs == (job(1), job(2))


@pytest.mark.parametrize("bad", [{"progress": "\ud800"}, {"nodes": ("\udfff",)}, {"exit_code": 2**63}])
def test_value_that_no_row_can_hold(postgres_home: StoreHome, bad: dict[str, Any]) -> None:
    """A text that is no Unicode or a number beyond 64 bits is refused with all of its transaction, even if it goes on."""
    store = postgres_home.open()
    with store.begin() as transaction:
        with pytest.raises(FederationError) as refused:
            transaction.put_jobs([job(1), job(2, **bad)])
        assert refused.value.code is Code.INVALID_ARGUMENT
        with pytest.raises(FederationError):
            transaction.commit()
    assert store.load().jobs == ()
    keep(store, job(1))


@pytest.mark.parametrize(
    ("sqlstate", "code", "word"),
    [
        ("53100", Code.STORE_FULL, "no room"),
        ("53300", Code.STORE_UNAVAILABLE, "no resources"),
        ("40001", Code.STORE_UNAVAILABLE, "conflicting"),
        ("40P01", Code.STORE_UNAVAILABLE, "conflicting"),
        ("XX001", Code.STORE_UNAVAILABLE, "damaged"),
        ("25006", Code.STORE_UNAVAILABLE, "read-only"),
        ("57P03", Code.STORE_UNAVAILABLE, "starting"),
        ("28P01", Code.STORE_UNAVAILABLE, "login"),
        ("23503", Code.INTERNAL, "rules"),
        ("22003", Code.INVALID_ARGUMENT, "stored"),
        ("", Code.STORE_UNAVAILABLE, "failed"),
        ("58030", Code.STORE_UNAVAILABLE, "failed"),
    ],
)
def test_errors_have_our_names(sqlstate: str, code: Code, word: str) -> None:
    """Each kind of PostgreSQL's errors is one that a caller can act on."""
    error = faults.from_postgres(sqlstate, "what it said\nmore", "postgresql://db/x")
    assert error.code is code
    assert word in error.message
    assert "more" not in error.message


def test_durability_is_asked_for(postgres_home: StoreHome) -> None:
    """The writer's commits are on the disk when they are answered, whatever the server's own default."""
    assert _inside(postgres_home.open()).writer.execute("SHOW synchronous_commit").fetchall() == [("on",)]
