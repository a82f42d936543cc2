"""The agent's half of checkpoints, against a real object store: what is saved, what is not, and what the next attempt finds.

The wire between the two halves is in `tests/scenarios/test_checkpoints_for_real.py`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from federation.errors import Code, Fault, FederationError
from federation.objects.checkpoints import SavedFile, Shelf
from federation.objects.embedded import EmbeddedSettings, start_embedded
from federation.objects.store import ObjectStore
from hub_node.config import Saving
from hub_node.data.checkpoints import FILES_MAX, Keeper, Saver, restore
from hub_node.data.staging import Places
from hub_node.records import Checkpoint, Epoch, OutputFile
from tests.support.eventually import eventually
from tests.unit.hub_node.runs import a_lease

TTL_S = 60


class NearShelf:
    """The control plane's half without a wire: what it does between lease and store is its own test's business."""

    def __init__(self, store: ObjectStore) -> None:
        self.kept = Shelf(store)
        self.job_id = f"job-{secrets.token_hex(4)}"
        self.at_links: list[Callable[[], object]] = []
        """What happens while it is asked for links, the first time, the second, ..."""
        self.answer: tuple[Checkpoint, ...] | None = None
        """What it says that there is, whatever there is."""
        self.problem: FederationError | None = None
        self.asked = 0

    def checkpoint_links(self, _lease_id: str, epoch: Epoch, files: Sequence[OutputFile]) -> tuple[str, ...]:
        """As the wire's."""
        self._answer()
        if self.at_links:
            self.at_links.pop(0)()
        links = self.kept.put_links(self.job_id, (epoch.incarnation, epoch.n), _saved(files), TTL_S)
        return tuple(links[file.path] for file in files)

    def commit_checkpoint(self, _lease_id: str, epoch: Epoch, files: Sequence[OutputFile]) -> str:
        """As the wire's."""
        self._answer()
        return self.kept.commit(self.job_id, (epoch.incarnation, epoch.n), _saved(files), 1).place.name

    def checkpoints(self, _lease_id: str, epoch: Epoch) -> tuple[Checkpoint, ...]:
        """As the wire's."""
        self._answer()
        if self.answer is not None:
            return self.answer
        return tuple(
            Checkpoint(
                saved.place.name,
                tuple(OutputFile(file.path, file.size_bytes, file.sha256) for file in saved.files),
                self.kept.get_links(self.job_id, saved, TTL_S),
                saved.damaged,
            )
            for saved in self.kept.newest(self.job_id, (epoch.incarnation, epoch.n))
        )

    def spoil(self, name: str) -> None:
        """Change the bytes of all files of a checkpoint, where they lie."""
        (found,) = (one for one in self.kept.newest(self.job_id, (9, 9)) if one.place.name == name)
        for file in found.files:
            key = f"checkpoints/{self.job_id}/{found.place.incarnation}-{found.place.n}/files/{file.sha256}"
            self.kept.store.put_bytes(key, b"\0" * file.size_bytes)

    @property
    def names(self) -> list[str]:
        """What there is, the newest first."""
        return [one.place.name for one in self.kept.newest(self.job_id, (9, 9))]

    def _answer(self) -> None:
        self.asked += 1
        if self.problem is not None:
            raise self.problem


def _saved(files: Sequence[OutputFile]) -> list[SavedFile]:
    return [SavedFile(file.path, file.size_bytes, file.sha256) for file in files]


class Run:
    """One attempt's folder, and what is kept of it."""

    def __init__(self, folder: Path, shelf: NearShelf, n: int, saving: Saving) -> None:
        self.places = Places(folder / f"1-{n}")
        self.places.checkpoint.mkdir(parents=True)
        self.shelf = shelf
        self.keeper = Keeper(a_lease(shelf.job_id, n), self.places, shelf, saving)
        self.saver = Saver(self.keeper)

    def write(self, **files: str) -> None:
        """As a program should: beside, then over."""
        for name, text in files.items():
            (self.places.checkpoint / f"{name}.tmp").write_text(text)
            (self.places.checkpoint / f"{name}.tmp").replace(self.places.checkpoint / name)

    def read(self) -> dict[str, str]:
        """What is in the folder."""
        folder = self.places.checkpoint
        return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}

    def finish(self, seconds: float = 30.0) -> None:
        """The program has ended."""
        self.saver.finish(time.monotonic() + seconds, lambda: False)

    def begin(self) -> dict[str, str]:
        """What a program finds that starts now."""
        restore(self.keeper, lambda _: None, lambda: False)
        self.saver.began()
        return self.read()

    def saves(self, *names: str) -> Callable[[], bool]:
        """Whether these are the checkpoints that there are, after another look."""

        def check() -> bool:
            self.saver.look()
            return self.shelf.names == list(names)

        return check

    @property
    def log(self) -> str:
        """What was said to its person."""
        return self.places.log.read_text() if self.places.log.exists() else ""


Attempt = Callable[..., Run]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A server of our own."""
    folder = tmp_path_factory.mktemp("store")
    settings = EmbeddedSettings(folder / "data", folder / "log", "root-key", secrets.token_urlsafe(16))
    embedded = start_embedded(settings)
    found = ObjectStore(embedded.address)
    found.ensure_bucket()
    yield found
    embedded.stop()


@pytest.fixture
def shelf(store: ObjectStore) -> NearShelf:
    """A job's own."""
    return NearShelf(store)


@pytest.fixture
def attempt(tmp_path: Path, shelf: NearShelf) -> Attempt:
    """Makes attempts of the job: the first, the second, each with a folder of its own."""

    def make(n: int = 1, saving: Saving | None = None) -> Run:
        return Run(tmp_path, shelf, n, saving or Saving(every_ms=1))

    return make


def an_error(code: Code) -> FederationError:
    """An answer that is none."""
    return FederationError(code, "no", fault=Fault.NETWORK)


def test_what_one_attempt_left_the_next_one_finds(attempt: Attempt) -> None:
    """Folders too; what is being written, by its name, stays behind; the log says where it goes on from."""
    first, second = attempt(1), attempt(2)
    first.write(state="7")
    (first.places.checkpoint / "deep").mkdir()
    (first.places.checkpoint / "deep" / "model.bin").write_text("weights")
    (first.places.checkpoint / "half.tmp").write_text("ha")
    first.finish()
    assert second.begin() == {"state": "7", "deep/model.bin": "weights"}
    assert second.log == "brhub: it goes on from checkpoint 1-1/1: 2 files, 8 bytes\n"
    assert (first.log, list(second.places.folder.glob("fetched-*"))) == ("", [])


def test_only_what_changed_is_saved(attempt: Attempt, shelf: NearShelf) -> None:
    """Not an empty folder, not the same twice, not what was found at the start, by this agent or one after it."""
    first, second = attempt(1), attempt(2)
    first.finish()
    assert shelf.asked == 0
    first.write(state="1")
    first.finish()
    first.finish()
    assert (second.begin(), shelf.names) == ({"state": "1"}, ["1-1/1"])
    second.finish()
    again = Saver(second.keeper)
    again.finish(time.monotonic() + 30, lambda: False)
    assert shelf.names == ["1-1/1"]
    second.write(state="2")
    second.finish()
    assert shelf.names == ["1-2/1", "1-1/1"]


def test_it_is_saved_while_it_runs(attempt: Attempt, shelf: NearShelf) -> None:
    """Every now and then, without anybody waiting; with 0 not before it is told to end."""
    running = attempt(1)
    running.write(state="1")
    eventually(running.saves("1-1/1"), 30, "a first checkpoint")
    running.write(state="2")
    eventually(running.saves("1-1/2", "1-1/1"), 30, "a second one")
    never = attempt(2, Saving(every_ms=0))
    never.write(state="3")
    never.saver.look()
    assert len(shelf.names) == 2
    never.saver.hurry()
    eventually(never.saves("1-2/1", "1-1/2"), 30, "the one of its grace")


def test_a_damaged_one_is_refused_for_the_one_before(attempt: Attempt, shelf: NearShelf) -> None:
    """Its bytes or its list of files; then nothing is left, and the attempt begins from nothing and says so."""
    for number in (1, 2):
        run = attempt(number)
        run.begin()
        run.write(state=str(number))
        run.finish()
    shelf.spoil("1-2/1")
    third = attempt(3)
    assert third.begin() == {"state": "1"}
    assert "checkpoint 1-2/1 is damaged and was refused" in third.log
    assert third.log.endswith("it goes on from checkpoint 1-1/1: 1 file, 1 bytes\n")
    shelf.spoil("1-1/1")
    fourth = attempt(4)
    assert (fourth.begin(), fourth.log.splitlines()[-1]) == ({}, "brhub: it begins from nothing")
    assert [line[:26] for line in fourth.log.splitlines()[:-1]] == [
        "brhub: checkpoint 1-2/1 is",
        "brhub: checkpoint 1-1/1 is",
    ]


def test_what_is_written_to_while_it_is_sent_is_not_a_checkpoint(attempt: Attempt, shelf: NearShelf) -> None:
    """In place: thrown away, said once, saved when it rests. By renaming over: the old one is sent whole."""
    run = attempt(1)
    run.write(state="old")
    target = run.places.checkpoint / "state"
    shelf.at_links = [
        lambda: target.write_text("torn in place"),
        lambda: target.write_text("torn again"),
        lambda: run.write(state="new"),
    ]
    run.finish()
    saved = [(one.place.name, one.files[0].size_bytes) for one in shelf.kept.newest(shelf.job_id, (9, 9))]
    assert saved == [("1-1/2", len("new")), ("1-1/1", len("torn again"))]
    assert run.log.count("a file was written to meanwhile") == 1
    assert attempt(2).begin() == {"state": "new"}


def link_inside(folder: Path) -> None:
    """A link to somewhere else."""
    (folder / "last").symlink_to("/etc/hostname")


def many_files(folder: Path) -> None:
    """One more than there may be."""
    for number in range(FILES_MAX + 1):
        (folder / f"{number}").touch()


def large_file(folder: Path) -> None:
    """One byte more than there may be."""
    with (folder / "large").open("wb") as file:
        file.truncate(101)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (link_inside, "'last' is a link or a device"),
        (many_files, "more than 1,000 files"),
        (large_file, "101 bytes, more than 100"),
    ],
)
def test_what_may_not_be_saved_is_said_once_in_its_log(
    attempt: Attempt, shelf: NearShelf, spoil: Callable[[Path], None], words: str
) -> None:
    """The job goes on, nobody is asked, and what it does about it is saved again."""
    run = attempt(1, Saving(every_ms=1, bytes_max=100))
    spoil(run.places.checkpoint)
    run.finish()
    run.finish()
    assert (words in run.log, run.log.count("its checkpoint is not saved"), shelf.asked) == (True, 1, 0)
    for file in run.places.checkpoint.iterdir():
        file.unlink()
    run.write(state="x" * 100)
    run.finish()
    assert shelf.names == ["1-1/1"]


def test_exactly_as_many_files_as_there_may_be(attempt: Attempt) -> None:
    """At the limit it travels."""
    first = attempt(1)
    many_files(first.places.checkpoint)
    (first.places.checkpoint / "0").unlink()
    first.finish()
    assert (first.log, len(attempt(2).begin())) == ("", FILES_MAX)


def test_a_store_that_is_away_costs_no_more_than_the_time_there_is(attempt: Attempt, shelf: NearShelf) -> None:
    """Then the log says so; when it is back, what is there is saved."""
    run = attempt(1)
    run.write(state="1")
    shelf.problem = an_error(Code.UNREACHABLE)
    run.finish(0.3)
    assert run.log == "brhub: its last state was not saved in time; the next attempt has an older one, or none\n"
    shelf.problem = None
    run.finish()
    assert shelf.names == ["1-1/1"]


def test_a_lease_that_is_over_ends_the_saving(attempt: Attempt, shelf: NearShelf) -> None:
    """A late write is refused by the control plane, and not tried again."""
    run = attempt(1)
    run.write(state="1")
    shelf.problem = an_error(Code.STALE_EPOCH)
    run.finish()
    asked, shelf.problem = shelf.asked, None
    run.write(state="2")
    run.finish()
    assert (shelf.names, shelf.asked, run.log) == ([], asked, "")


def test_a_fetch_that_broke_off_is_begun_again(attempt: Attempt, shelf: NearShelf) -> None:
    """An agent died half-way, or after the last file: the next one ends it; a program that already began is left alone."""
    first, second = attempt(1), attempt(2)
    first.write(a="1", b="2")
    first.finish()
    (second.places.folder / "fetched-1-1-1").mkdir()
    (second.places.folder / "fetched-1-1-1" / "a").write_text("1")
    assert second.begin() == {"a": "1", "b": "2"}
    (second.places.folder / "checkpoint.json").unlink()
    assert second.begin() == {"a": "1", "b": "2"}
    asked = shelf.asked
    second.write(a="3")
    assert (second.begin(), shelf.asked) == ({"a": "3", "b": "2"}, asked)


def test_a_first_attempt_asks_nobody(attempt: Attempt, shelf: NearShelf) -> None:
    """There is nothing before it, and it starts as fast as ever."""
    assert (attempt(1).begin(), shelf.asked) == ({}, 0)


def test_a_control_plane_of_before_keeps_none(attempt: Attempt, shelf: NearShelf) -> None:
    """It does not know the call: jobs run as they did."""
    shelf.problem = an_error(Code.PROTOCOL_UNSUPPORTED)
    run = attempt(2)
    assert run.begin() == {}
    run.write(state="1")
    run.finish()
    assert run.log == ""


def test_nobody_begins_from_nothing_because_the_store_is_away(
    attempt: Attempt, shelf: NearShelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is waited for, then the start is given up with an error: what there is would be worthless afterwards."""
    first, second = attempt(1), attempt(2)
    first.write(state="1")
    first.finish()
    monkeypatch.setattr("hub_node.data.checkpoints.DOWNLOAD_PAUSE_S_MAX", 0.01)
    monkeypatch.setattr("hub_node.data.checkpoints.DOWNLOADS_MAX", 3)
    shelf.problem, asked = an_error(Code.STORE_UNAVAILABLE), shelf.asked
    with pytest.raises(FederationError) as caught:
        second.begin()
    assert (caught.value.code, shelf.asked - asked) == (Code.STORE_UNAVAILABLE, 3)
    shelf.problem = None
    assert second.begin() == {"state": "1"}


@pytest.mark.parametrize("path", ["../out", "/tmp/out", "a/../../out", "", "a\0b"])
def test_no_path_leads_out_of_the_folder(attempt: Attempt, shelf: NearShelf, path: str) -> None:
    """Whoever answers: a checkpoint with such a name is refused like a damaged one."""
    run = attempt(2)
    bad = Checkpoint("1-1/1", (OutputFile(path, 1, "0" * 64),), ("http://127.0.0.1:1/x",))
    shelf.answer = (bad,)
    assert run.begin() == {}
    assert run.log.endswith("brhub: it begins from nothing\n")
    assert not (run.places.folder / "out").exists()


def test_a_log_that_was_made_a_link_is_left_alone(attempt: Attempt, tmp_path: Path) -> None:
    """A program may do what it likes with its own log; nothing of ours follows it elsewhere."""
    run = attempt(1, Saving(every_ms=1, bytes_max=0))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.touch()
    run.places.log.symlink_to(elsewhere)
    run.write(state="1")
    run.finish()
    assert elsewhere.read_text() == ""
