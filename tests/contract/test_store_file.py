"""What only a store in a file can do: outlive the process, run out of room, be locked, be damaged, lose an fsync."""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from federation.domain.ids import LeaseId
from federation.domain.job import JobState
from federation.errors import Code, FederationError
from federation.ports import Store
from federation.store import DurabilityLost, backup, open_store, sqlite
from federation.store.sql import SqlStore
from tests.contract.store_builders import StoreHome, agent, fact, full_job, hub, interval, job, keep, lease, request
from tests.support.dying import REPOSITORY, each_try

NOW_MS = 1_800_000_000_000
APPLICATION = sqlite.APPLICATION_ID.to_bytes(4, "big")


def _inside(store: Store) -> Any:
    """The file under a SQL store, to hurt it."""
    assert isinstance(store, SqlStore)
    return store.database


def _path(home: StoreHome) -> Path:
    assert home.path is not None
    return home.path


def _filled(home: StoreHome, jobs: int = 50) -> Path:
    """A closed store with some jobs in it; its path."""
    store = home.open()
    keep(store, *[job(n) for n in range(1, jobs + 1)], facts=[fact(f"job-{n}") for n in range(jobs)])
    store.close()
    return _path(home)


# ---- outliving the process ------------------------------------------------------------------------------------------
def test_everything_is_there_after_a_restart(sqlite_home: StoreHome) -> None:
    """A store opened again has the same state and goes on counting facts where it stopped."""
    store = sqlite_home.open()
    with store.begin() as transaction:
        transaction.append_events([fact("job-1"), fact("job-2")])
        transaction.put_jobs([full_job(1), job(2, state=JobState.CANCELLED)])
        transaction.put_leases([lease(1, full_job(1))])
        transaction.put_hubs([hub()])
        transaction.put_agents([agent()])
        transaction.put_requests([request("r1", full_job(1))])
        transaction.put_usage([interval(0)])
        transaction.commit()
    before = store.load()
    store.close()
    again = sqlite_home.open()
    assert again.load() == before
    assert again.get_job(job(2).id) == job(2, state=JobState.CANCELLED)
    assert again.find_requests([("aisha", "r1")]) == {("aisha", "r1"): request("r1", full_job(1))}
    assert again.usage_of(LeaseId("lease-00000001")) == (interval(0),)
    assert keep(again, facts=[fact("job-3")]) == 3


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


def test_killed_process_loses_nothing_that_it_acknowledged(sqlite_home: StoreHome) -> None:
    """After SIGKILL in the middle of a transaction every acknowledged job is there, and nothing of the open one."""
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, sqlite_home.url], cwd=REPOSITORY, capture_output=True, check=False, timeout=60
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    acknowledged = [int(line) for line in ended.stdout.split()]
    loaded = sqlite_home.open().load()
    assert [each.queue_seq for each in loaded.jobs] == acknowledged == list(range(1, 41))
    assert loaded.last_seq == 40


def test_only_its_owner_can_read_it(sqlite_home: StoreHome) -> None:
    """Specs carry secrets: the file and its log are 0600, also where an older file was laxer."""
    path = _filled(sqlite_home)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    store = sqlite_home.open()
    keep(store, job(900))
    for name in (path, Path(f"{path}-wal"), Path(f"{path}-shm"), Path(f"{path}.lock")):
        assert name.stat().st_mode & 0o777 == 0o600, name


def test_second_control_plane_is_refused(sqlite_home: StoreHome) -> None:
    """A store that is open cannot be opened again until it is closed; then it can."""
    store = sqlite_home.open()
    with pytest.raises(FederationError) as refused:
        open_store(sqlite_home.url)
    assert refused.value.code is Code.STORE_UNAVAILABLE
    assert "a control plane has this store open already" in refused.value.message
    store.close()
    store.close()  # a second close is harmless
    assert sqlite_home.open().load().jobs == ()


def test_closed_store_says_so(sqlite_home: StoreHome) -> None:
    """Writing to a store that was closed is a clear error."""
    store = sqlite_home.open()
    store.close()
    with pytest.raises(FederationError) as refused:
        keep(store, job(1))
    assert refused.value.code is Code.STORE_UNAVAILABLE


def test_log_does_not_grow_without_end(sqlite_home: StoreHome) -> None:
    """Checkpoints keep the write-ahead log small through many small commits after large ones."""
    store = sqlite_home.open()
    for start in range(1, 3_001, 100):
        keep(store, *[job(n) for n in range(start, start + 100)])
    for n in range(2, 1_500):
        keep(store, job(1 + n % 3_000, revision=n, state=JobState.RUNNING), facts=[fact("job-1")])
    assert Path(f"{_path(sqlite_home)}-wal").stat().st_size < 40 * 2**20
    assert _inside(store)._rows_since_checkpoint < 2_500


# ---- refusals, with nothing lost ------------------------------------------------------------------------------------
def test_full_store_refuses_and_works_again(sqlite_home: StoreHome) -> None:
    """A store at its limit refuses with STORE_FULL, keeps what it had, and goes on once there is room."""
    store = sqlite_home.open()
    keep(store, job(1), facts=[fact("job-1")])
    writer = _inside(store).writer
    (pages,) = writer.execute("PRAGMA page_count").fetchone()
    writer.execute(f"PRAGMA max_page_count={pages + 2}")
    with store.begin() as transaction:
        transaction.append_events([fact("job-2")])
        with pytest.raises(FederationError) as refused:
            transaction.put_jobs([job(n) for n in range(2, 2_000)])
        assert refused.value.code is Code.STORE_FULL
        with pytest.raises(FederationError):  # not even what would still fit: the database rolled back by itself
            transaction.put_requests([request("r1", job(2))])
        with pytest.raises(FederationError):
            transaction.commit()
    assert (store.load().jobs, store.load().last_seq) == ((job(1),), 1)
    assert store.find_requests([("aisha", "r1")]) == {}
    writer.execute("PRAGMA max_page_count=1000000")
    assert keep(store, *[job(n) for n in range(2, 2_000)], facts=[fact("job-2")]) == 2
    assert len(store.load().jobs) == 1_999


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.root
def test_full_disk_refuses_and_works_again(small_disk: Path) -> None:
    """On a disk that is really full commits are refused, accepted jobs stay, and freed room is used again."""
    home = StoreHome(f"sqlite:///{small_disk}/federation.db")
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 700_000)
    store = home.open()
    accepted: list[int] = []
    with pytest.raises(FederationError) as refused:
        for n in range(1, 100_000):
            keep(store, job(n, spec_bytes=b"x" * 2_000), facts=[fact(f"job-{n}")])
            accepted.append(n)
    assert refused.value.code is Code.STORE_FULL
    assert len(accepted) > 10
    assert [each.queue_seq for each in store.load().jobs] == accepted
    ballast.unlink()
    assert keep(store, job(len(accepted) + 1), facts=[fact("job-x")]) == len(accepted) + 1
    store.close()
    assert [each.queue_seq for each in home.open().load().jobs] == [*accepted, len(accepted) + 1]
    home.close()


@pytest.mark.root
def test_full_disk_at_the_first_start(small_disk: Path) -> None:
    """A store that cannot even be made says that there is no room, and is made once there is."""
    url = f"sqlite:///{small_disk}/federation.db"
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * (2 * 2**20 - 32_768))
    with pytest.raises(FederationError) as refused:
        open_store(url)
    assert refused.value.code is Code.STORE_FULL
    ballast.unlink()
    store = open_store(url)
    assert store.load().jobs == ()
    store.close()


@pytest.mark.parametrize("bad", [{"progress": "\ud800"}, {"nodes": ("\udfff",)}, {"exit_code": 2**63}])
def test_value_that_no_row_can_hold(sqlite_home: StoreHome, bad: dict[str, Any]) -> None:
    """A text that is no Unicode or a number beyond 64 bits is refused with all of its transaction, even if it goes on."""
    store = sqlite_home.open()
    with store.begin() as transaction:
        with pytest.raises(FederationError) as refused:
            transaction.put_jobs([job(1), job(2, **bad)])
        assert refused.value.code is Code.INVALID_ARGUMENT
        with pytest.raises(FederationError):
            transaction.commit()
    assert store.load().jobs == ()
    keep(store, job(1))


def test_locked_store_refuses_and_works_again(sqlite_home: StoreHome) -> None:
    """While another program holds the write lock a commit is refused in bounded time; readers go on."""
    store = sqlite_home.open(busy_timeout_ms=50)
    keep(store, job(1))
    other = sqlite3.connect(_path(sqlite_home), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(FederationError) as refused:
        keep(store, job(2))
    assert refused.value.code is Code.STORE_UNAVAILABLE
    assert "locked" in refused.value.message
    assert store.load().jobs == (job(1),)
    other.execute("ROLLBACK")
    other.close()
    keep(store, job(2))
    assert store.load().jobs == (job(1), job(2))


def test_read_only_store_refuses(sqlite_home: StoreHome) -> None:
    """A store that may not be written says so and stays readable."""
    store = sqlite_home.open()
    keep(store, job(1))
    _inside(store).writer.execute("PRAGMA query_only=ON")
    with pytest.raises(FederationError) as refused:
        keep(store, job(2))
    assert refused.value.code is Code.STORE_UNAVAILABLE
    assert "read-only" in refused.value.message
    _inside(store).writer.execute("PRAGMA query_only=OFF")
    keep(store, job(2))
    assert len(store.load().jobs) == 2


# ---- a failed fsync -------------------------------------------------------------------------------------------------
class FsyncFailingConnection:
    """A connection on a disk that fails to flush: `statement` ends as SQLite ends it then, everything else is real."""

    def __init__(self, real: sqlite3.Connection, statement: str, code: int) -> None:
        self._real = real
        self._statement = statement
        self._code = code

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def execute(self, sql: str, *parameters: Any) -> Any:
        """Fail like the disk, or be the real one."""
        if sql.startswith(self._statement):
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = self._code
            raise error
        return self._real.execute(sql, *parameters)


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC])
def test_failed_fsync_is_no_error_to_be_handled(sqlite_home: StoreHome, code: int) -> None:
    """A commit whose fsync failed raises what no handler of errors catches; nothing was acknowledged."""
    store = sqlite_home.open()
    file = _inside(store)
    real = file.writer
    file.writer = FsyncFailingConnection(real, "COMMIT", code)
    with pytest.raises(DurabilityLost) as lost:
        try:
            keep(store, job(1))
        except Exception as error:  # noqa: BLE001 - the point: the widest handler of errors lets it through
            pytest.fail(f"caught as {error!r}")
    assert not isinstance(lost.value, Exception)
    file.writer = real
    assert store.load().jobs == ()


def test_failed_fsync_in_a_checkpoint_is_seen_too(sqlite_home: StoreHome) -> None:
    """SQLite's own checkpoint would keep quiet about the main file's failed fsync; ours does not."""
    store = sqlite_home.open()
    file = _inside(store)
    (automatic,) = file.writer.execute("PRAGMA wal_autocheckpoint").fetchone()
    assert automatic == 0
    real = file.writer
    file.writer = FsyncFailingConnection(real, "PRAGMA wal_checkpoint", sqlite3.SQLITE_IOERR_FSYNC)
    with pytest.raises(DurabilityLost):
        keep(store, *[job(n) for n in range(1, 3_000)])
    file.writer = real


def test_checkpoint_without_room_does_not_fail_the_commit(sqlite_home: StoreHome) -> None:
    """What is in the log is safe: a checkpoint that finds the disk full is tried again later."""
    store = sqlite_home.open()
    file = _inside(store)
    real = file.writer
    file.writer = FsyncFailingConnection(real, "PRAGMA wal_checkpoint", sqlite3.SQLITE_FULL)
    keep(store, *[job(n) for n in range(1, 3_000)])
    file.writer = real
    assert len(store.load().jobs) == 2_999


def test_commits_are_fsynced(sqlite_home: StoreHome) -> None:
    """The writer runs with the write-ahead log, full synchronisation and foreign keys."""
    writer = _inside(sqlite_home.open()).writer
    found = {name: writer.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")}
    assert found == {"journal_mode": "wal", "synchronous": 2}
    assert writer.execute("PRAGMA foreign_keys").fetchone() == (1,)


# ---- damaged files: a clear error, never a start from nothing -------------------------------------------------------
def _refusal(home: StoreHome) -> FederationError:
    """Open a damaged store: refused, with the file left exactly as it was."""
    path = _path(home)
    before = path.read_bytes()
    with pytest.raises(FederationError) as refused:
        open_store(home.url)
    assert refused.value.code is Code.STORE_UNAVAILABLE
    assert refused.value.hint
    assert refused.value.metadata["store"] == str(path)
    assert path.read_bytes() == before
    return refused.value


@pytest.mark.parametrize("kept_bytes", [0, 1, 50, 99, 100, 4096, 5000, -4096, -1])
def test_truncated_file_is_refused(sqlite_home: StoreHome, kept_bytes: int) -> None:
    """A file cut short anywhere, to nothing too, is refused."""
    path = _filled(sqlite_home)
    whole = path.read_bytes()
    path.write_bytes(whole[:kept_bytes] if kept_bytes >= 0 else whole[: len(whole) + kept_bytes])
    assert "damaged" in _refusal(sqlite_home).message


def test_garbage_is_refused(sqlite_home: StoreHome) -> None:
    """A file that is no database is refused."""
    _path(sqlite_home).write_bytes(b"these are not the bytes of a database " * 100)
    assert "not a database" in _refusal(sqlite_home).message


def test_broken_pages_are_refused(sqlite_home: StoreHome) -> None:
    """A file of the right length with pages overwritten is refused at the start, not met later."""
    path = _filled(sqlite_home, jobs=500)
    whole = bytearray(path.read_bytes())
    for page in range(3, len(whole) // 4096, 3):
        whole[page * 4096 : page * 4096 + 600] = os.urandom(600)
    path.write_bytes(whole)
    assert "damaged" in _refusal(sqlite_home).message


def test_somebody_elses_database_is_refused(sqlite_home: StoreHome) -> None:
    """A database that is not ours is not touched, empty or not."""
    other = sqlite3.connect(_path(sqlite_home))
    other.execute("CREATE TABLE jobs (id TEXT)")
    other.commit()
    other.close()
    assert "not a store of ours" in _refusal(sqlite_home).message


def test_store_without_its_version_is_refused(sqlite_home: StoreHome) -> None:
    """A store that does not say which version wrote it is not guessed at."""
    path = _filled(sqlite_home)
    other = sqlite3.connect(path)
    other.execute("DELETE FROM alembic_version")
    other.commit()
    other.close()
    assert "which version" in _refusal(sqlite_home).message


def test_missing_file_beside_its_log_is_refused(sqlite_home: StoreHome) -> None:
    """A log without its main file means that somebody removed the store: no new one is made in its place."""
    log = Path(f"{_path(sqlite_home)}-wal")
    log.write_bytes(b"pages of a store that is gone")
    with pytest.raises(FederationError) as refused:
        open_store(sqlite_home.url)
    assert "missing" in refused.value.message
    assert not _path(sqlite_home).exists()


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    """The store makes its file, not its folder."""
    with pytest.raises(FederationError) as refused:
        open_store(f"sqlite:///{tmp_path}/nowhere/federation.db")
    assert refused.value.code is Code.STORE_UNAVAILABLE


def test_folder_in_the_files_place_is_refused(sqlite_home: StoreHome) -> None:
    """A path that names a folder is refused by name."""
    _path(sqlite_home).mkdir()
    with pytest.raises(FederationError) as refused:
        open_store(sqlite_home.url)
    assert refused.value.code is Code.STORE_UNAVAILABLE
    assert "cannot be used" in refused.value.message


def test_unreadable_row_is_named(sqlite_home: StoreHome) -> None:
    """A row that holds something impossible is an error that names it, not a guess and not a crash."""
    store = sqlite_home.open()
    keep(store, job(1), job(2))
    _inside(store).writer.execute("UPDATE jobs SET state = 'DREAMING' WHERE id = 'job-00000002'")
    assert store.get_job("job-00000001") == job(1)
    with pytest.raises(FederationError) as refused:
        store.get_job("job-00000002")
    assert refused.value.code is Code.STORE_UNAVAILABLE
    assert refused.value.metadata == {"row": "job-00000002"}


def test_removed_file_is_noticed(sqlite_home: StoreHome) -> None:
    """A file that is damaged while the store is open gives an error, not wrong answers."""
    store = sqlite_home.open()
    keep(store, *[job(n) for n in range(1, 400)])
    _inside(store)._checkpoint("TRUNCATE")
    os.truncate(_path(sqlite_home), 8192)
    with pytest.raises(FederationError) as refused:
        store.load()
    assert refused.value.code is Code.STORE_UNAVAILABLE


RESTORE_KILLED = """
import os, sys
from pathlib import Path
from federation.store import backup
from tests.support.dying import calls, work_killed_at_each
path, file, now_ms = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
steps = calls((os, "link"), (os, "fsync"), (Path, "rename"), (Path, "unlink"))
work_killed_at_each(lambda: backup.restore(path, file, now_ms), steps)
"""


@pytest.mark.parametrize("damaged", [False, True])
def test_restore_killed_at_any_step_is_done_or_can_be_given_up(
    sqlite_home: StoreHome, tmp_path: Path, damaged: bool
) -> None:
    """SIGKILL at every step on the disk: all of the backup, or all of before for who does as the refusal says. Never less.

    Also of a store that could not be opened while it was restored, and so still has jobs in its log alone.
    """
    path, folder = _filled(sqlite_home, 2), tmp_path / "crashed"
    backup.back_up(path, tmp_path / "one.db")
    store = sqlite_home.open()
    keep(store, job(77))
    folder.mkdir()
    crashed = folder / path.name
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{crashed}{suffix}")
    store.close()
    whole = crashed.read_bytes()
    if damaged:
        crashed.write_bytes(whole.replace(APPLICATION, b"gone", 1))
    words = (str(crashed), str(tmp_path / "one.db"), str(NOW_MS))
    seen = [
        _what_a_start_finds(crashed, tmp_path / f"start-{n}") for n, _ in enumerate(each_try(RESTORE_KILLED, *words))
    ]
    assert list(dict.fromkeys(seen)) == [
        "3 jobs of before",
        "3 jobs of before, given up",
        "2 jobs restored",
        "2 jobs restored, given up",  # it was done: the next try is a second restore
    ]


def _what_a_start_finds(crashed: Path, elsewhere: Path) -> str:
    """Where what a crash left lies elsewhere, and its damage has been mended there."""
    path = shutil.copytree(crashed.parent, elsewhere) / crashed.name
    path.write_bytes(path.read_bytes().replace(b"gone", APPLICATION, 1))
    said = ""
    try:
        store = open_store(f"sqlite:///{path}")
    except FederationError as error:
        given_up = re.fullmatch(r"Run `brhub db restore` again; or remove '(.+)' to go on with .+", error.hint)
        if given_up is None:
            raise
        Path(given_up[1]).unlink()
        store, said = open_store(f"sqlite:///{path}"), ", given up"
    loaded = store.load()
    store.close()
    return f"{len(loaded.jobs)} jobs {'restored' if loaded.restored else 'of before'}{said}"


def test_restore_is_refused_while_another_program_has_the_store_open(
    sqlite_home: StoreHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader keeps acknowledged jobs in the log, or all of the store to itself: nothing is begun until it has ended."""
    monkeypatch.setattr(sqlite, "connect", functools.partial(sqlite.connect, busy_timeout_ms=50))
    path = _filled(sqlite_home, 2)
    backup.back_up(path, tmp_path / "one.db")
    asking = "SELECT count(*) FROM jobs"
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        store = sqlite_home.open(busy_timeout_ms=50)
        reader.execute("BEGIN")
        reader.execute(asking).fetchone()
        keep(store, job(77))
        store.close()
        assert "another program has" in _restore_refused(path, tmp_path / "one.db")
    with closing(sqlite3.connect(path, isolation_level=None)) as alone:
        alone.execute("PRAGMA locking_mode=EXCLUSIVE")
        alone.execute(asking).fetchone()
        assert "another program has" in _restore_refused(path, tmp_path / "one.db")
    assert len(sqlite_home.open().load().jobs) == 3
    sqlite_home.close()
    backup.restore(path, tmp_path / "one.db", NOW_MS)
    assert len(sqlite_home.open().load().jobs) == 2


def _restore_refused(path: Path, file: Path) -> str:
    with pytest.raises(FederationError) as refused:
        backup.restore(path, file, NOW_MS)
    assert refused.value.code is Code.STORE_UNAVAILABLE
    return refused.value.message
