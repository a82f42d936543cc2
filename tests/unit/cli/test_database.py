"""`brhub db`: backups of a store at work, the way back, and every refusal in words and with a code."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

import pytest

from federation.cli.session import now_ms
from federation.store import open_store, sqlite
from hub_node.journal import Journal
from hub_node.records import RunState
from tests.contract.store_builders import agent, fact, full_job, hub, job, keep, lease
from tests.unit.cli.conftest import Brhub
from tests.unit.hub_node.runs import a_run


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store's file, not yet made, of a control plane whose settings BRHUB_DIR finds."""
    folder = tmp_path / "control"
    folder.mkdir()
    (folder / "control.toml").write_text(f'[server]\nlisten = "127.0.0.1:7"\ndata_dir = "{folder}/data"\n')
    monkeypatch.setenv("BRHUB_DIR", str(folder))
    (folder / "data").mkdir()
    return folder / "data" / "federation.db"


def _filled(path: Path) -> None:
    store = open_store(f"sqlite:///{path}")
    with store.begin() as transaction:
        transaction.append_events([fact("job-1"), fact("job-2")])
        transaction.put_jobs([full_job(1), job(2)])
        transaction.put_leases([lease(1, full_job(1))])
        transaction.put_hubs([hub()])
        transaction.put_agents([agent()])
        transaction.commit()
    store.close()


def test_backup_while_the_control_plane_serves(brhub: Brhub, path: Path, tmp_path: Path) -> None:
    """What is committed is in it, what follows is not; it is whole, for its owner only, and opens as a store."""
    _filled(path)
    serving = open_store(f"sqlite:///{path}")
    said = brhub("db", "backup", tmp_path / "one.db", "-o", "json")
    keep(serving, job(3), facts=[fact("job-3")])
    serving.close()
    assert (said.status, said.document["rows"]["jobs"], said.document["last_seq"]) == (0, 2, 2)
    assert (said.document["schema"], said.document["incarnation"]) == ("0002", 1)
    assert stat.S_IMODE((tmp_path / "one.db").stat().st_mode) == 0o600
    assert sorted(one.name for one in tmp_path.iterdir()) == ["control", "one.db"]
    copy = open_store(f"sqlite:///{tmp_path}/one.db")
    assert copy.load().jobs == (full_job(1), job(2))
    copy.close()


def test_restore_raises_the_incarnation_and_keeps_what_was_there(brhub: Brhub, path: Path, tmp_path: Path) -> None:
    """The backup's rows, a higher incarnation, agents that joined since, and the store of before beside it: an undo."""
    _filled(path)
    assert brhub("db", "backup", tmp_path / "one.db").status == 0
    store = open_store(f"sqlite:///{path}")
    with store.begin() as transaction:
        transaction.append_events([fact("job-3")])
        transaction.put_jobs([job(3)])
        transaction.put_agents([agent(agent_id="second")])
        transaction.commit()
    store.close()
    before_ms = now_ms()
    done = brhub("db", "restore", tmp_path / "one.db", "-o", "json").document
    store = open_store(f"sqlite:///{path}")
    loaded = store.load()
    store.close()
    assert [one.id for one in loaded.jobs] == ["job-00000001", "job-00000002"]
    assert [one.agent_id for one in loaded.agents] == ["a1", "second"]
    assert loaded.incarnation == done["incarnation"] >= before_ms // 1000 > 1
    assert done["agents_complete"] is True
    undone = brhub("db", "restore", done["aside"], "-o", "json").document
    store = open_store(f"sqlite:///{path}")
    assert [one.id for one in store.load().jobs] == ["job-00000001", "job-00000002", "job-00000003"]
    store.close()
    assert undone["incarnation"] > done["incarnation"]


def test_two_restores_of_one_backup_never_share_an_incarnation(brhub: Brhub, path: Path, tmp_path: Path) -> None:
    """Also when the store between them was lost with its disk, and when they happen within a second."""
    _filled(path)
    brhub("db", "backup", tmp_path / "one.db")
    first = brhub("db", "restore", tmp_path / "one.db", "-o", "json").document
    second = brhub("db", "restore", tmp_path / "one.db", "-o", "json").document
    path.unlink()
    third = brhub("db", "restore", tmp_path / "one.db", "-o", "json").document
    assert second["incarnation"] > first["incarnation"]
    assert third["incarnation"] >= now_ms() // 1000 - 60
    assert (third["aside"], third["agents_complete"]) == ("", False)


def test_restore_is_refused_while_a_control_plane_has_the_store(brhub: Brhub, path: Path, tmp_path: Path) -> None:
    """Nothing is touched, and the message says what to end."""
    _filled(path)
    brhub("db", "backup", tmp_path / "one.db")
    serving = open_store(f"sqlite:///{path}")
    said = brhub("db", "restore", tmp_path / "one.db")
    assert (
        said.status,
        "a control plane has this store open already" in said.err,
        "STORE_UNAVAILABLE" in said.err,
    ) == (5, True, True)
    assert len(serving.load().jobs) == 2
    serving.close()


def _cut_short(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 5_000)


def _overwritten(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(3 * 4096)
        opened.write(b"\xff" * 4096)


def _of_another_program(file: Path) -> None:
    file.unlink()
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE notes (text)")
    connection.commit()
    connection.close()


def _of_a_newer_version(file: Path) -> None:
    connection = sqlite3.connect(file)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()


def _empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_cut_short, "damaged"),
        (_overwritten, "damaged"),
        (_of_another_program, "not a store of ours"),
        (_of_a_newer_version, "newer version"),
        (_empty, "its file is empty"),
    ],
)
def test_a_bad_backup_is_refused_and_the_store_left_alone(
    brhub: Brhub, path: Path, tmp_path: Path, spoil: object, words: str
) -> None:
    """Cut short, overwritten, foreign, newer, empty: each with its own words, and the present store goes on."""
    _filled(path)
    backup = tmp_path / "one.db"
    brhub("db", "backup", backup)
    assert callable(spoil)
    spoil(backup)
    said = brhub("db", "restore", backup)
    assert (said.status, words in said.err, "STORE_UNAVAILABLE" in said.err) == (5, True, True), said.err
    assert "Restore it from a backup" not in said.err, "it is the backup that is damaged, not the store"
    store = open_store(f"sqlite:///{path}")
    assert (len(store.load().jobs), store.load().incarnation) == (2, 1)
    store.close()


def test_a_backup_that_is_not_there_is_the_callers_to_name(brhub: Brhub, path: Path, tmp_path: Path) -> None:
    """Nothing of the federation, and nothing of the hub, is broken: another name mends it. So with a store to be copied."""
    state = tmp_path / "state"
    for words in (["restore", "gone.db"], ["restore", "--agent", state, "gone.db"], ["backup", tmp_path / "one.db"]):
        said = brhub("db", *words)
        assert (said.status, "fault: caller; do: Name " in said.err, "CONFIGURATION_INVALID" in said.err) == (
            2,
            True,
            True,
        ), said.err
    assert (path.exists(), state.exists()) == (False, False)


def test_a_damaged_store_is_not_backed_up(brhub: Brhub, path: Path, tmp_path: Path) -> None:
    """A copy that is not whole does not stay behind, under any name."""
    _filled(path)
    _overwritten(path)
    said = brhub("db", "backup", tmp_path / "one.db")
    assert (said.status, "damaged" in said.err) == (5, True)
    assert [one.name for one in tmp_path.iterdir()] == ["control"]


def test_a_damaged_store_is_restored_all_the_same(brhub: Brhub, path: Path, tmp_path: Path) -> None:
    """What cannot be read tells no incarnation and no agents; it is kept aside with its log."""
    _filled(path)
    brhub("db", "backup", tmp_path / "one.db")
    _cut_short(path)
    done = brhub("db", "restore", tmp_path / "one.db", "-o", "json").document
    store = open_store(f"sqlite:///{path}")
    assert len(store.load().jobs) == 2
    store.close()
    assert (Path(done["aside"]).exists(), done["agents_complete"]) == (True, False)


def test_backups_are_not_overwritten(brhub: Brhub, path: Path, tmp_path: Path) -> None:
    """A file that is there stays as it is, and so does the store when it is named as its own backup."""
    _filled(path)
    brhub("db", "backup", tmp_path / "one.db")
    before = (tmp_path / "one.db").read_bytes()
    again = brhub("db", "backup", tmp_path / "one.db")
    itself = brhub("db", "restore", path)
    assert (again.status, itself.status, (tmp_path / "one.db").read_bytes()) == (2, 2, before)


def test_a_restore_that_was_interrupted_is_never_a_start_from_nothing(brhub: Brhub, path: Path, tmp_path: Path) -> None:
    """While the half-made file lies there a start is refused with both ways out; a second restore is one of them."""
    _filled(path)
    brhub("db", "backup", tmp_path / "one.db")
    sqlite.restoring(path).write_bytes(b"half of it")
    said = brhub("db", "upgrade")
    assert (said.status, "was interrupted" in said.err, "brhub db restore" in said.err) == (5, True, True)
    assert brhub("db", "restore", tmp_path / "one.db").status == 0
    store = open_store(f"sqlite:///{path}")
    assert len(store.load().jobs) == 2
    store.close()


def test_a_clock_before_the_backup_is_refused(
    brhub: Brhub, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that believes that it is 1970 would take every lease of before for over."""
    _filled(path)
    brhub("db", "backup", tmp_path / "one.db")
    monkeypatch.setattr("federation.cli.database.now_ms", lambda: 1)
    said = brhub("db", "restore", tmp_path / "one.db")
    assert (said.status, "clock" in said.err) == (2, True)


def test_a_file_that_was_put_back_by_hand_is_declared_in_place(brhub: Brhub, path: Path) -> None:
    """`--in-place` changes nothing but the incarnation, and says so in a fact."""
    _filled(path)
    done = brhub("db", "restore", "--in-place", "-o", "json").document
    store = open_store(f"sqlite:///{path}")
    assert store.load().incarnation == done["incarnation"] > 1
    assert [one.type for one in store.events_of("store", str(done["incarnation"]), 5)] == ["StoreRestored"]
    store.close()


def test_upgrade_says_where_the_schema_is(brhub: Brhub, path: Path) -> None:
    """A store is made or brought to today's schema; one that cannot be is refused in words."""
    assert brhub("db", "upgrade", "-o", "json").document["schema"] == "0002"
    _of_a_newer_version(path)
    said = brhub("db", "upgrade")
    assert (said.status, "newer version" in said.err) == (5, True)


def test_what_is_kept_is_said(brhub: Brhub, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Schema, rows, how long events are kept, the oldest and the newest: also while the control plane serves."""
    _filled(path)
    serving = open_store(f"sqlite:///{path}")
    said = brhub("db", "show", "-o", "json").document
    assert (said["schema"], said["rows"]["events"], said["keep_events_days"], said["removed_to"]) == ("0002", 2, 400, 0)
    assert (said["first_event"], said["last_event"]) == ("1970-01-01T00:00:00.005Z",) * 2
    keep(serving, facts=[fact("job-3"), fact("job-4")])
    with serving.begin() as transaction:
        transaction.remove_events([1, 2])
        transaction.commit()
    monkeypatch.setenv("BRHUB_CONTROL_STORE_KEEP_EVENTS_DAYS", "0")
    plainly = brhub("db", "show").out
    assert ("kept for ever" in plainly, "the last of them 2" in plainly) == (True, True)
    serving.close()


def test_events_are_read_on_from_the_last_one(brhub: Brhub, path: Path) -> None:
    """In order, with all that they say; from a place whose facts are gone it is refused, with a code and what to do."""
    _filled(path)
    serving = open_store(f"sqlite:///{path}")
    keep(serving, facts=[fact("job-3", payload='{"to":"RUNNING"}'), fact("job-4")])
    items = brhub("db", "events", "--after", 1, "--limit", 2, "-o", "json").document["items"]
    assert [one["id"] for one in items] == ["2", "3"]
    assert (items[1]["entity_id"], items[1]["payload"], items[1]["incarnation"]) == ("job-3", {"to": "RUNNING"}, 1)
    with serving.begin() as transaction:
        transaction.remove_events([2, 3])
        transaction.commit()
    serving.close()
    gone = brhub("db", "events", "--after", 1)
    assert (gone.status, "OFFSET_OUT_OF_RANGE" in gone.err, "Begin anew" in gone.err) == (2, True, True)
    assert brhub("db", "events", "-o", "name").out.split() == ["1", "4"]
    assert brhub("db", "events", "--after", 3, "-o", "name").out.split() == ["4"]


def test_an_agents_journal_goes_the_same_way(brhub: Brhub, tmp_path: Path) -> None:
    """Copied while the agent has it, refused while it has it, put back afterwards; what may have run since is named."""
    journal = Journal(tmp_path / "state")
    journal.save([a_run("job-running", runner_state="{}"), a_run("job-staging", state=RunState.STAGING)])
    made = brhub("db", "backup", "--agent", tmp_path / "state", tmp_path / "copy.db", "-o", "json")
    assert (made.status, made.document["runs"]) == (0, 2)
    assert brhub("db", "restore", "--agent", tmp_path / "state", tmp_path / "copy.db").status == 2
    journal.close()
    for words in ([], ["--in-place"], [tmp_path / "copy.db", "--agents-complete"]):
        said = brhub("db", "restore", "--agent", tmp_path / "state", *words)
        assert (said.status, "put back from a backup of it, and from nothing else" in said.err) == (2, True)
    back = brhub("db", "restore", "--agent", tmp_path / "state", tmp_path / "copy.db", "-o", "json").document
    assert (back["runs"], back["left_out"], back["instance"]) == (1, ["job-staging"], journal.instance_id)


@pytest.mark.parametrize("words", [("backup", "one.db"), ("upgrade",), ("upgrade", "--finish")])
def test_a_database_out_of_reach_is_named_without_its_password(
    brhub: Brhub, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """Nothing is left behind, and the password in the address is not said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BRHUB_CONTROL_STORE_URL", "postgresql://brhub:s3cret@127.0.0.1:1/brhub")
    said = brhub("db", *words)
    assert (said.status, "STORE_UNAVAILABLE" in said.err, "s3cret" in said.err) == (5, True, False)
    assert (path.exists(), [one.name for one in tmp_path.iterdir()]) == (False, ["control"])


def test_a_store_in_memory_cannot_be_copied(
    brhub: Brhub, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so, before a file is made."""
    monkeypatch.setenv("BRHUB_CONTROL_STORE_URL", "memory:")
    said = brhub("db", "backup", tmp_path / "one.db")
    assert (said.status, "CONFIGURATION_INVALID" in said.err, path.exists()) == (2, True, False)
