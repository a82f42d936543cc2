"""An agent's journal copied and put back: whole or refused, and an old one never starts anything."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from pathlib import Path

import pytest

from federation.errors import Code, FederationError
from hub_node import journal_backup
from hub_node.journal import Journal
from hub_node.ports import RELEASED_MAX
from hub_node.records import Outcome, RunState, Seen
from tests.support.dying import each_try
from tests.unit.hub_node.runs import a_run


def _filled(folder: Path) -> Journal:
    """A journal that an agent has open: one run of each kind, and one that was released."""
    journal = Journal(folder)
    runs = [
        a_run("job-accepted", state=RunState.ACCEPTED),
        a_run("job-staging", state=RunState.STAGING),
        a_run("job-running", runner_state="{}"),
        a_run("job-ended", state=RunState.ENDED, outcome=Outcome.SUCCEEDED),
        a_run("job-stopping", state=RunState.STOPPING),
    ]
    over = a_run("job-over", state=RunState.ENDED, outcome=Outcome.SUCCEEDED, secret_variables={"P": "tell-nobody"})
    journal.save([*runs, over], seen=Seen(3, 9))
    journal.save(removed=[over])
    return journal


def test_what_was_released_is_remembered_without_its_secrets(tmp_path: Path) -> None:
    """How it ended, newest first, and across a restart; not what it ran; at most so many."""
    journal = Journal(tmp_path)
    for n in range(RELEASED_MAX // 5_000 + 1):
        over = a_run(f"job-{n}", state=RunState.ENDED, outcome=Outcome.FAILED, secret_variables={"P": "tell-nobody"})
        journal.save([over])
        journal.save(removed=[over])
    journal.close()
    again = Journal(tmp_path)
    kept = again.released()
    again.close()
    assert [(run.lease.job_id, run.outcome) for run in kept] == [
        (f"job-{n}", Outcome.FAILED) for n in reversed(range(RELEASED_MAX // 5_000 + 1))
    ]
    assert b"tell-nobody" not in (tmp_path / "journal.db").read_bytes()


def test_backup_while_the_agent_runs_and_back(tmp_path: Path) -> None:
    """Runs whose fate is known come back, with the instance; what may have run since is left out, and named."""
    journal = _filled(tmp_path / "state")
    made = journal_backup.back_up(tmp_path / "state", tmp_path / "copy.db")
    journal.save(removed=list(journal.load().values()))
    journal.close()
    assert (made.runs, made.released, stat.S_IMODE(made.path.stat().st_mode)) == (5, 1, 0o600)
    back = journal_backup.restore(tmp_path / "state", tmp_path / "copy.db", 7)
    again = Journal(tmp_path / "state")
    assert sorted(run.lease.job_id for run in again.load().values()) == ["job-ended", "job-running"]
    assert (again.instance_id, again.seen()) == (journal.instance_id, Seen(3, 9))
    again.close()
    assert back.left_out == ("job-accepted", "job-staging", "job-stopping")
    assert back.aside is not None
    assert back.aside.exists()


def test_a_lost_state_folder_comes_back_as_the_same_agent(tmp_path: Path) -> None:
    """The whole folder is gone, or the machine is another: the instance is in the copy."""
    journal = _filled(tmp_path / "state")
    journal_backup.back_up(tmp_path / "state", tmp_path / "copy.db")
    journal.close()
    journal_backup.restore(tmp_path / "other", tmp_path / "copy.db", 7)
    again = Journal(tmp_path / "other")
    assert (again.instance_id, len(again.load())) == (journal.instance_id, 2)
    again.close()


def test_restore_is_refused_while_an_agent_has_the_folder(tmp_path: Path) -> None:
    """Nothing is touched."""
    journal = _filled(tmp_path / "state")
    journal_backup.back_up(tmp_path / "state", tmp_path / "copy.db")
    with pytest.raises(FederationError) as refused:
        journal_backup.restore(tmp_path / "state", tmp_path / "copy.db", 7)
    assert refused.value.code is Code.CONFIGURATION_INVALID
    assert len(journal.load()) == 5
    journal.close()


def _cut_short(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 3_000)


def _foreign(file: Path) -> None:
    file.unlink()
    with sqlite3.connect(file) as db:
        db.execute("CREATE TABLE notes (text)")
    db.close()


def _newer(file: Path) -> None:
    with sqlite3.connect(file) as db:
        db.execute("UPDATE meta SET value = '9' WHERE name = 'shape'")
    db.close()


def _gone(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (_cut_short, Code.STORE_UNAVAILABLE),
        (_foreign, Code.STORE_UNAVAILABLE),
        (_gone, Code.CONFIGURATION_INVALID),
        (_newer, Code.CONFIGURATION_INVALID),
    ],
)
def test_a_bad_backup_is_refused_and_the_journal_left_alone(tmp_path: Path, spoil: object, code: Code) -> None:
    """Cut short, of another program, gone, of a newer agent: each with its code."""
    journal = _filled(tmp_path / "state")
    journal_backup.back_up(tmp_path / "state", tmp_path / "copy.db")
    journal.close()
    assert callable(spoil)
    spoil(tmp_path / "copy.db")
    with pytest.raises(FederationError) as refused:
        journal_backup.restore(tmp_path / "state", tmp_path / "copy.db", 7)
    assert refused.value.code is code
    again = Journal(tmp_path / "state")
    assert len(again.load()) == 5
    again.close()


def test_a_damaged_journal_is_not_backed_up_and_is_replaced_all_the_same(tmp_path: Path) -> None:
    """The copy of a damaged journal would be no backup; a good copy takes the damaged one's place."""
    journal = _filled(tmp_path / "state")
    journal_backup.back_up(tmp_path / "state", tmp_path / "copy.db")
    journal.close()
    _cut_short(tmp_path / "state" / "journal.db")
    with pytest.raises(FederationError):
        journal_backup.back_up(tmp_path / "state", tmp_path / "second.db")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["copy.db", "state"]
    journal_backup.restore(tmp_path / "state", tmp_path / "copy.db", 7)
    again = Journal(tmp_path / "state")
    assert len(again.load()) == 2
    again.close()


def test_there_is_nothing_to_back_up_in_a_folder_without_a_journal(tmp_path: Path) -> None:
    """A mistyped folder is told, not copied."""
    with pytest.raises(FederationError) as refused:
        journal_backup.back_up(tmp_path, tmp_path / "copy.db")
    assert refused.value.code is Code.CONFIGURATION_INVALID


RESTORE_KILLED = """
import os, sys
from pathlib import Path
from hub_node import journal_backup
from tests.support.dying import calls, work_killed_at_each
steps = calls((os, "link"), (os, "fsync"), (Path, "rename"), (Path, "replace"), (Path, "unlink"))
work_killed_at_each(lambda: journal_backup.restore(Path(sys.argv[1]), Path(sys.argv[2]), 7), steps)
"""


def test_restore_killed_at_any_step_never_leaves_a_journal_without_its_log(tmp_path: Path) -> None:
    """SIGKILL at every step, of a journal that has runs in its log alone: all of before, all of the copy, or a refusal."""
    journal = _filled(tmp_path / "state")
    journal_backup.back_up(tmp_path / "state", tmp_path / "copy.db")
    crashed = shutil.copytree(tmp_path / "state", tmp_path / "crashed")
    journal.close()
    kept = (crashed / "journal.db").read_bytes()
    assert (crashed / "journal.db-wal").stat().st_size > 0
    (crashed / "journal.db").write_bytes(b"out of reach" + kept[12:])  # nothing can fold its log in
    seen: list[Code | int] = []
    for n, _ in enumerate(each_try(RESTORE_KILLED, str(crashed), str(tmp_path / "copy.db"))):
        found = shutil.copytree(crashed, tmp_path / f"try-{n}")
        file = found / "journal.db"
        if file.exists():
            file.write_bytes(file.read_bytes().replace(b"out of reach", kept[:12], 1))
        try:
            again = Journal(found)
        except FederationError as refused:
            seen.append(refused.code)
        else:
            seen.append(len(again.load()))
            again.close()
    assert list(dict.fromkeys(seen)) == [5, Code.STORE_UNAVAILABLE, 2]
