"""The journal keeps what it said it kept, and never starts silently from nothing."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from federation.errors import Code, FederationError
from hub_node.journal import Journal
from hub_node.records import Outcome, OutputFile, Reason, Run, RunState, Seen
from tests.unit.hub_node.runs import a_run


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A new journal."""
    one = Journal(tmp_path / "state")
    yield one
    one.close()


def reopened(folder: Path) -> dict[str, Run]:
    """What the next process finds."""
    one = Journal(folder)
    try:
        return one.load()
    finally:
        one.close()


def test_what_was_saved_is_read_back_to_the_last_field(tmp_path: Path) -> None:
    """Every field of a run survives, secrets, bytes and reasons too."""
    run = a_run(
        secret_variables={"PASSWORD": "tell-nobody"},
        variables={"A": "ü"},
        inputs=(("flights", "1", "flights"),),
        arguments=("--top", "10"),
        spec_bytes=bytes(range(256)),
        nodes=("one",),
        outcome=Outcome.FAILED,
        reason=Reason("EXIT_STATUS", "It ended.", {"exit_code": "3"}),
        outputs=(OutputFile("a/b", 3, "00"),),
        runner_state='{"folder": "x"}',
        usage_stored=4,
        gpu_milli=500,
        replicas=2,
        devices=("gpu-a", "gpu-b"),
        stop_grace_ms=60_000,
    )
    run = replace(run, lease=replace(run.lease, devices=((0,), (3,))))
    first = Journal(tmp_path)
    first.save([run], seen=Seen(2, 7))
    first.close()
    second = Journal(tmp_path)
    assert second.load() == {run.lease_id: run}
    assert second.seen() == Seen(2, 7)
    assert second.instance_id == first.instance_id
    second.close()


def test_the_instance_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut soon after the first start leaves no empty file, which would be taken for damage; nor an old name."""
    synced: list[tuple[str, bool]] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        fsync(descriptor)
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        synced.append((name, (tmp_path / "instance.json").exists()))

    monkeypatch.setattr(os, "fsync", watched)
    Journal(tmp_path).close()
    assert synced == [("instance.partial", False), (tmp_path.name, True)]


def test_runs_of_an_older_agent_are_read(tmp_path: Path) -> None:
    """What it did not know of has its default: no devices named, no grace noted."""
    run = a_run()
    first = Journal(tmp_path)
    first.save([run])
    first.close()
    db = sqlite3.connect(tmp_path / "journal.db")
    body = json.loads(db.execute("SELECT body FROM runs").fetchone()[0])
    del body["lease"]["devices"], body["stop_grace_ms"], body["devices"]
    db.execute("UPDATE runs SET body = ?", (json.dumps(body),))
    db.commit()
    db.close()
    assert reopened(tmp_path) == {run.lease_id: run}


def test_save_replaces_and_removes_in_one_go(journal: Journal) -> None:
    """A changed run takes the place of the older one; a released run is gone."""
    one, two = a_run("job-1"), a_run("job-2")
    journal.save([one, two])
    ended = replace(one, state=RunState.ENDED)
    journal.save([ended], removed=[two])
    assert journal.load() == {ended.lease_id: ended}


def test_only_its_owner_may_read_it(journal: Journal) -> None:
    """It holds secrets: 0600 for all its files, 0700 for the folder."""
    journal.save([a_run(secret_variables={"PASSWORD": "tell-nobody"})])
    for file in journal.path.parent.glob("journal.db*"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file.name
    assert stat.S_IMODE(journal.path.parent.stat().st_mode) == 0o700


def test_second_agent_on_one_folder_is_told_so(journal: Journal) -> None:
    """One writer: the second is refused by name, and the first is not disturbed."""
    with pytest.raises(FederationError, match="Another agent runs") as caught:
        Journal(journal.path.parent)
    assert caught.value.code is Code.CONFIGURATION_INVALID
    journal.save([a_run()])


@pytest.mark.parametrize("damage", ["not a database at all" * 100, ""])
def test_damaged_file_is_an_error_not_a_new_start(tmp_path: Path, damage: str) -> None:
    """Garbage, and a file cut to nothing, are said with what to do; nothing is written over."""
    first = Journal(tmp_path)
    first.save([a_run()])
    first.close()
    for extra in tmp_path.glob("journal.db-*"):
        extra.unlink()
    first.path.write_text(damage, encoding="utf-8")
    with pytest.raises(FederationError) as caught:
        Journal(tmp_path).load()
    assert caught.value.code is Code.STORE_UNAVAILABLE
    assert "backup" in caught.value.hint
    assert first.path.read_text(encoding="utf-8") == damage


def test_damage_in_the_middle_is_found_at_the_start(tmp_path: Path) -> None:
    """A page that was overwritten is noticed when the journal is opened, before any run is started twice."""
    first = Journal(tmp_path)
    first.save([a_run(f"job-{number}", arguments=("x" * 3_000,)) for number in range(50)])
    first.close()
    content = bytearray(first.path.read_bytes())
    content[8_192:40_960] = b"\xff" * (40_960 - 8_192)
    first.path.write_bytes(content)
    with pytest.raises(FederationError) as caught:
        Journal(tmp_path).load()
    assert caught.value.code is Code.STORE_UNAVAILABLE


@pytest.mark.parametrize(
    "harm",
    [
        "UPDATE runs SET body = '{'",
        "UPDATE runs SET body = '[]'",
        "UPDATE meta SET value = 'x' WHERE name = 'seen'",
        "UPDATE meta SET value = '[1]' WHERE name = 'seen'",
        "UPDATE meta SET value = 'null' WHERE name = 'seen'",
    ],
)
def test_words_that_make_no_sense_are_no_new_start_either(tmp_path: Path, harm: str) -> None:
    """A whole file with rows that nobody wrote so: the agent says that its journal is damaged, and what to do."""
    first = Journal(tmp_path)
    first.save([a_run()], seen=Seen(3, 4))
    first.close()
    with sqlite3.connect(first.path) as db:
        assert db.execute(harm).rowcount == 1
    db.close()
    again = Journal(tmp_path)
    with pytest.raises(FederationError, match="damaged") as caught:
        (again.load(), again.seen())
    assert (caught.value.code, "backup" in caught.value.hint) == (Code.STORE_UNAVAILABLE, True)
    again.close()


def test_lost_file_is_an_error_not_a_new_start(tmp_path: Path) -> None:
    """A state folder that had a journal and has none any more is not a new agent."""
    first = Journal(tmp_path)
    first.close()
    first.path.unlink()
    with pytest.raises(FederationError, match="gone"):
        Journal(tmp_path)


def test_journal_of_a_newer_agent_is_left_alone(tmp_path: Path) -> None:
    """An older program does not guess at a newer one's runs."""
    first = Journal(tmp_path)
    first.close()
    with sqlite3.connect(first.path) as db:
        db.execute("UPDATE meta SET value = '999' WHERE name = 'shape'")
    db.close()
    with pytest.raises(FederationError, match="newer agent"):
        Journal(tmp_path)


def test_full_disk_loses_nothing_that_was_saved(journal: Journal) -> None:
    """A save that finds no room says STORE_FULL and changes nothing; with room again, it works."""
    kept = a_run("job-kept")
    journal.save([kept], seen=Seen(1, 1))
    db = journal._db
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(FederationError) as caught:
        journal.save([a_run(f"job-{number}", arguments=("x" * 3_000,)) for number in range(50)], seen=Seen(1, 2))
    assert caught.value.code is Code.STORE_FULL
    assert (journal.load(), journal.seen()) == ({kept.lease_id: kept}, Seen(1, 1))
    db.execute("PRAGMA max_page_count = 1000000")
    journal.save([a_run("job-more")])
    assert set(journal.load()) == {kept.lease_id, "lease-job-more-1"}
