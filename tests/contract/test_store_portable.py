"""A store in PostgreSQL as a file, and back: what `brhub db` does there, one snapshot, one transaction, every refusal."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from federation.errors import Code, FederationError
from federation.ports import Store
from federation.store import backup, open_store, portable
from federation.store.sql import SqlStore
from tests.contract.store_builders import (
    StoreHome,
    agent,
    fact,
    full_job,
    hub,
    interval,
    job,
    keep,
    lease,
    request,
)
from tests.support.dying import each_try
from tests.support.postgres import PostgresUnderTest

NOW_MS = 1_800_000_000_000
ODD = "zero \0 and \ufdd0 mark"


def _filled(home: StoreHome) -> Store:
    """A store with a row in every table, and texts that PostgreSQL cannot hold as they are."""
    store = home.open()
    with store.begin() as transaction:
        transaction.append_events([fact("job-00000001", payload=f'{{"odd":"{number}"}}') for number in range(1_200)])
        transaction.put_jobs([full_job(1), job(2, name=ODD)])
        transaction.put_leases([lease(1, full_job(1))])
        transaction.put_hubs([hub()])
        transaction.put_agents([agent()])
        transaction.put_requests([request("r1", full_job(1))])
        transaction.put_usage([interval(0), interval(1, start_ms=10, end_ms=20)])
        transaction.commit()
    return store


def _held(store: Store) -> tuple[Any, ...]:
    """All that a store can tell of what `_filled` put into it, but the incarnation and the facts about itself."""
    loaded = store.load()
    return (
        *(loaded.jobs, loaded.leases, loaded.hubs, loaded.agents),
        store.events_of("job", "job-00000001", 2_000),
        store.usage_of(lease(1, full_job(1)).id),
        store.find_requests([("aisha", "r1")]),
    )


def test_backup_while_the_control_plane_leads(postgres_home: StoreHome, tmp_path: Path) -> None:
    """One moment of a store at work, as a file for its owner only that opens as a store: no row and no letter differs."""
    leading = _filled(postgres_home)
    made = portable.back_up(postgres_home.url, tmp_path / "one.db")
    keep(leading, job(3), facts=[fact("job-3")])
    assert (made.rows["events"], made.rows["jobs"], made.last_seq, made.incarnation) == (1_200, 2, 1_200, 1)
    assert stat.S_IMODE((tmp_path / "one.db").stat().st_mode) == 0o600
    copy = open_store(f"sqlite:///{tmp_path}/one.db")
    expected = _held(leading)
    assert _held(copy) == ((full_job(1), job(2, name=ODD)), *expected[1:])
    copy.close()


def test_restore_takes_the_place_of_all_rows(postgres_home: StoreHome, tmp_path: Path) -> None:
    """The backup's rows under a higher incarnation, agents that joined since, and an undo: the same command once more."""
    store = _filled(postgres_home)
    before = _held(store)
    portable.back_up(postgres_home.url, tmp_path / "one.db")
    with store.begin() as transaction:
        transaction.append_events([fact("job-3")])
        transaction.put_jobs([job(3)])
        transaction.put_agents([agent(agent_id="second")])
        transaction.commit()
    store.close()
    done = portable.restore(postgres_home.url, tmp_path / "one.db", tmp_path, NOW_MS)
    store = postgres_home.open()
    loaded = store.load()
    assert _held(store) == (*before[:3], (agent(), agent(agent_id="second")), *before[4:])
    assert (loaded.incarnation, done.summary.incarnation, done.agents_complete) == (NOW_MS // 1000,) * 2 + (True,)
    assert loaded.restored is not None
    assert loaded.last_seq == loaded.restored.seq == 1_201
    store.close()
    assert done.aside is not None
    undone = portable.restore(postgres_home.url, done.aside, tmp_path, NOW_MS)
    store = postgres_home.open()
    assert [one.id for one in store.load().jobs] == ["job-00000001", "job-00000002", "job-00000003"]
    assert undone.summary.incarnation == done.summary.incarnation + 1
    assert sorted(one.name for one in tmp_path.iterdir() if one.suffix == ".restoring") == []


def test_a_file_becomes_a_database_and_a_database_a_file(
    postgres: PostgresUnderTest, sqlite_home: StoreHome, tmp_path: Path
) -> None:
    """The way from an embedded store to PostgreSQL and back is a backup and a restore."""
    store = _filled(sqlite_home)
    expected = _held(store)
    assert sqlite_home.path is not None
    backup.back_up(sqlite_home.path, tmp_path / "file.db")
    url = postgres.new_database()
    there = portable.restore(url, tmp_path / "file.db", tmp_path, NOW_MS)
    assert (there.aside, there.agents_complete) == (None, False)
    moved = open_store(url)
    assert _held(moved) == expected
    moved.close()
    portable.back_up(url, tmp_path / "again.db")
    back = backup.restore(tmp_path / "other.db", tmp_path / "again.db", NOW_MS)
    assert back.summary.incarnation == NOW_MS // 1000 + 1
    copy = open_store(f"sqlite:///{tmp_path}/other.db")
    assert _held(copy) == expected
    copy.close()


def test_restore_is_refused_while_a_control_plane_leads(postgres_home: StoreHome, tmp_path: Path) -> None:
    """Nothing is touched, and the message says what to end."""
    leading = _filled(postgres_home)
    portable.back_up(postgres_home.url, tmp_path / "one.db")
    with pytest.raises(FederationError) as refused:
        portable.restore(postgres_home.url, tmp_path / "one.db", tmp_path, NOW_MS)
    assert (refused.value.code, "a control plane has this store open already" in refused.value.message) == (
        Code.STORE_UNAVAILABLE,
        True,
    )
    assert "those that stand by" in refused.value.hint
    assert leading.load().incarnation == 1


def test_restore_that_fails_changes_nothing(
    postgres_home: StoreHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It breaks between two tables: the rows of before are there, and the next control plane leads."""
    store = _filled(postgres_home)
    before = _held(store)
    portable.back_up(postgres_home.url, tmp_path / "one.db")
    store.close()
    put_in = portable._put_in_rows

    def breaking(database: Any, source: Any, table: Any) -> None:
        if table.name == "leases":
            raise KeyboardInterrupt
        put_in(database, source, table)

    monkeypatch.setattr(portable, "_put_in_rows", breaking)
    with pytest.raises(KeyboardInterrupt):
        portable.restore(postgres_home.url, tmp_path / "one.db", tmp_path, NOW_MS)
    store = postgres_home.open()
    assert (_held(store), store.load().incarnation) == (before, 1)


RESTORE_KILLED = """
import sys
from pathlib import Path
import psycopg
from federation.store import portable
from tests.support.dying import calls, work_killed_at_each
url, file, folder, now_ms = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
steps = calls((psycopg.Connection, "execute"), (psycopg.Cursor, "copy"), (Path, "unlink"))
work_killed_at_each(lambda: portable.restore(url, file, folder, now_ms), steps, every=3)
"""


def test_restore_killed_at_any_statement_is_done_or_never_began(
    postgres: PostgresUnderTest, postgres_home: StoreHome, tmp_path: Path
) -> None:
    """SIGKILL at each third statement: all rows of before or all of the backup, and the next try does it."""
    store = _filled(postgres_home)
    portable.back_up(postgres_home.url, tmp_path / "one.db")
    keep(store, job(3), facts=[fact("job-3")])
    store.close()
    words = (postgres_home.url, str(tmp_path / "one.db"), str(tmp_path), str(NOW_MS))
    asked = "SELECT (SELECT count(*) FROM jobs), (SELECT count(*) FROM events), (SELECT min(value) FROM meta)"
    seen = []
    for _ in each_try(RESTORE_KILLED, *words):
        seen += postgres.ask(asked, database=postgres.name(postgres_home.url))
    before = (3, 1_201, 1)
    done = [one for one in seen if one != before]
    assert seen.count(before) > 5
    assert all(jobs == 2 and events > 1_200 and incarnation >= NOW_MS // 1000 for jobs, events, incarnation in done)
    assert done[0] == (2, 1_201, NOW_MS // 1000)


def test_restore_waits_for_no_backup_that_is_being_taken(postgres_home: StoreHome, tmp_path: Path) -> None:
    """A copy that is being read is never half of one store and half of another: the restore is refused meanwhile."""
    _filled(postgres_home).close()
    portable.back_up(postgres_home.url, tmp_path / "one.db")
    with portable._snapshot(postgres_home.url) as reading, pytest.raises(FederationError) as refused:
        portable.restore(postgres_home.url, tmp_path / "one.db", tmp_path, NOW_MS)
    assert reading.closed
    assert (refused.value.code, "locked by another program" in refused.value.message) == (Code.STORE_UNAVAILABLE, True)


def test_what_was_put_back_by_other_means_is_declared_in_place(postgres_home: StoreHome) -> None:
    """After pg_restore: nothing but the incarnation changes, and a fact says so."""
    store = _filled(postgres_home)
    before = _held(store)
    store.close()
    done = portable.raised(postgres_home.url, NOW_MS, agents_complete=True)
    store = postgres_home.open()
    restored = store.load().restored
    assert (_held(store), done.summary.incarnation, store.load().incarnation) == (
        before,
        NOW_MS // 1000,
        NOW_MS // 1000,
    )
    assert restored is not None
    assert (restored.seq, done.summary.last_seq) == (1_201, 1_201)


def test_events_are_read_on_beside_a_leader(postgres_home: StoreHome) -> None:
    """In order from the last one; where what follows was removed, that is said."""
    leading = _filled(postgres_home)
    assert [row.seq for row in portable.events(postgres_home.url, 1_197, 2)] == [1_198, 1_199]
    with leading.begin() as transaction:
        transaction.remove_events(range(1, 1_001))
        transaction.commit()
    assert [row.seq for row in portable.events(postgres_home.url, None, 2)] == [1_001, 1_002]
    with pytest.raises(FederationError) as refused:
        portable.events(postgres_home.url, 999, 2)
    assert refused.value.code is Code.OFFSET_OUT_OF_RANGE
    held = portable.summary_of(postgres_home.url)
    assert (held.removed_to, held.rows["events"], held.last_seq) == (1_000, 200, 1_200)


def test_refusals_have_words_and_a_code(postgres: PostgresUnderTest, postgres_home: StoreHome, tmp_path: Path) -> None:
    """No store there, one of a newer version, a clock of 1970, a file that is there: each says what to do."""
    empty = postgres.new_database()
    with pytest.raises(FederationError) as refused:
        portable.back_up(empty, tmp_path / "one.db")
    assert (refused.value.code, "no store" in refused.value.message) == (Code.STORE_UNAVAILABLE, True)
    assert list(tmp_path.iterdir()) == []
    _filled(postgres_home).close()
    portable.back_up(postgres_home.url, tmp_path / "one.db")
    with pytest.raises(FederationError) as refused:
        portable.back_up(postgres_home.url, tmp_path / "one.db")
    assert refused.value.code is Code.CONFIGURATION_INVALID
    with pytest.raises(FederationError) as refused:
        portable.restore(postgres_home.url, tmp_path / "one.db", tmp_path, 1)
    assert "clock" in refused.value.message
    postgres.ask("UPDATE alembic_version SET version_num = '9999'", database=postgres.name(postgres_home.url))
    try:
        with pytest.raises(FederationError) as refused:
            portable.back_up(postgres_home.url, tmp_path / "two.db")
        assert "newer version" in refused.value.message
    finally:
        postgres.ask("UPDATE alembic_version SET version_num = '0002'", database=postgres.name(postgres_home.url))


def test_brhub_walks_the_whole_way(
    postgres_home: StoreHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """`brhub db upgrade`, `backup` and `restore` on a database: the same words as on a file, and no password in them."""
    import json

    from federation.cli.main import main

    config = tmp_path / "control.toml"
    config.write_text(f'[server]\ndata_dir = "{tmp_path}"\n')
    monkeypatch.setenv("BRHUB_CONTROL_STORE_URL", postgres_home.url)
    store = _filled(postgres_home)
    assert isinstance(store, SqlStore)
    assert main(["db", "upgrade", "--config", str(config), "-o", "json"]) == 0  # a control plane leads meanwhile
    assert json.loads(capfd.readouterr().out)["schema"] == "0002"
    store.close()
    assert main(["db", "backup", str(tmp_path / "one.db"), "--config", str(config)]) == 0
    assert main(["db", "restore", str(tmp_path / "one.db"), "--config", str(config), "-o", "json"]) == 0
    said = capfd.readouterr().out
    assert "one.db is whole" in said
    assert '"aside"' in said
    assert postgres_home.open().load().incarnation > 1
