"""What a shelf of checkpoints promises, on a real object store: nothing half is seen, damage is known, the newest are kept."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.domain.job import Job, JobState
from federation.errors import Code, FederationError
from federation.objects.checkpoints import KEPT, Place, SavedFile, Shelf
from federation.objects.embedded import EmbeddedSettings, start_embedded
from federation.objects.links import download, upload
from federation.objects.store import ObjectStore
from federation.service.checkpoints import KEPT_UNUSED_MS, Newest, Retention
from federation.service.restoring import unsure
from federation.service.world import Restoration
from tests.support.builders import a_job
from tests.support.world import ControlUnderTest

JOB = "job-1"
TTL_S = 60
MIB = 1 << 20
NOW_MS = 1_800_000_000_000


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A server of our own."""
    folder = tmp_path_factory.mktemp("store")
    embedded = start_embedded(EmbeddedSettings(folder / "data", folder / "log", "root-key", secrets.token_urlsafe(16)))
    store = ObjectStore(embedded.address)
    store.ensure_bucket()
    yield store
    embedded.stop()


@pytest.fixture
def shelf(store: ObjectStore) -> Iterator[Shelf]:
    """An empty one."""
    yield Shelf(store)
    for job_id in Shelf(store).jobs():
        Shelf(store).remove(job_id)


def a_file(path: str, data: bytes) -> SavedFile:
    """What a manifest says of these bytes."""
    return SavedFile(path, len(data), hashlib.sha256(data).hexdigest())


def put(shelf: Shelf, attempt: tuple[int, int], content: dict[str, bytes]) -> tuple[SavedFile, ...]:
    """Send what is not there yet, as an agent does; the files."""
    files = tuple(a_file(path, data) for path, data in content.items())
    links = shelf.put_links(JOB, attempt, files, TTL_S)
    for path, data in content.items():
        if links[path]:
            upload(links[path], data)
    return files


def saved(shelf: Shelf, attempt: tuple[int, int], content: dict[str, bytes]) -> Place:
    """A whole checkpoint."""
    return shelf.commit(JOB, attempt, put(shelf, attempt, content), 1_000).place


def names(shelf: Shelf, before: tuple[int, int]) -> list[str]:
    """Which checkpoints an attempt would be given, and which of them are damaged."""
    return [one.place.name + (" damaged" if one.damaged else "") for one in shelf.newest(JOB, before)]


def test_the_next_attempt_gets_the_bytes_back(shelf: Shelf, tmp_path: Path) -> None:
    """Empty files, folders and names that need escaping; the attempt that saved it is not given its own."""
    content = {"state.json": b"7", "deep/er/naïve 100%.bin": b"x" * 3 * MIB, "empty": b""}
    assert saved(shelf, (1, 1), content).name == "1-1/1"
    assert names(shelf, (1, 1)) == []
    (found,) = shelf.newest(JOB, (1, 2))
    for file, link in zip(found.files, shelf.get_links(JOB, found, TTL_S), strict=True):
        download(link, tmp_path / "back", sha256=file.sha256, size_bytes_max=4 * MIB)
        assert (tmp_path / "back").read_bytes() == content[file.path]
    assert ({file.path for file in found.files}, found.saved_ms) == (set(content), 1_000)


def test_half_a_checkpoint_is_none(shelf: Shelf) -> None:
    """Bytes without a manifest are seen by nobody, and a manifest is refused while one of its files is missing or cut."""
    whole = saved(shelf, (1, 1), {"a": b"1"})
    files = (*put(shelf, (1, 2), {"a": b"2"}), a_file("b", b"not sent"))
    with pytest.raises(FederationError) as caught:
        shelf.commit(JOB, (1, 2), files, 1_000)
    assert caught.value.code is Code.UPLOAD_NOT_FOUND
    upload(shelf.put_links(JOB, (1, 2), files, TTL_S)["b"], b"not")
    with pytest.raises(FederationError) as caught:
        shelf.commit(JOB, (1, 2), files, 1_000)
    assert (caught.value.code, names(shelf, (1, 3))) == (Code.UPLOAD_NOT_FOUND, [whole.name])


def test_what_is_there_is_not_sent_again(shelf: Shelf) -> None:
    """By its content, under whichever name; another size than it should have is not the content."""
    saved(shelf, (1, 1), {"a": b"large", "b": b"small"})
    files = (a_file("renamed", b"large"), a_file("new", b"new"))
    links = shelf.put_links(JOB, (1, 1), files, TTL_S)
    assert (links["renamed"], links["new"] != "") == ("", True)
    of_another = shelf.put_links(JOB, (1, 2), files, TTL_S)
    assert of_another["renamed"] != "", "an attempt writes below its own prefix only"


def test_committing_twice_is_one_checkpoint(shelf: Shelf) -> None:
    """A repeat gives the same name; another content gets the next number."""
    first = saved(shelf, (1, 1), {"a": b"1"})
    assert saved(shelf, (1, 1), {"a": b"1"}) == first
    assert saved(shelf, (1, 1), {"a": b"2"}).name == "1-1/2"


def test_later_attempts_come_first(shelf: Shelf) -> None:
    """By incarnation, then by attempt, then by number: each as a number, not as a text."""
    for attempt in ((1, 2), (1, 10), (2, 1), (1, 9)):
        saved(shelf, attempt, {"a": str(attempt).encode()})
    saved(shelf, (2, 1), {"a": b"newer"})
    assert names(shelf, (2, 2)) == ["2-1/2", "2-1/1"]
    assert names(shelf, (2, 1)) == ["1-10/1", "1-9/1"]


@pytest.mark.parametrize(
    "damage", [b"", b"{}", b"\xff\xfe", b'{"checkpoint":1,"saved_ms":1,"files":[["a",1,"' + b"0" * 64 + b'"]]}']
)
def test_a_changed_manifest_is_known_to_be_damaged(shelf: Shelf, damage: bytes) -> None:
    """Also one that still reads well; the one before it is offered beside it."""
    older = saved(shelf, (1, 1), {"a": b"1"})
    newer = saved(shelf, (1, 2), {"a": b"2"})
    shelf.store.put_bytes(f"checkpoints/{JOB}/{newer.key}", damage)
    assert names(shelf, (1, 3)) == [f"{newer.name} damaged", older.name]


def test_the_newest_are_kept_and_whole(shelf: Shelf) -> None:
    """Older manifests go, with bytes that nobody needs; later attempts' uploads are left alone; what is kept reads well."""
    saved(shelf, (1, 1), {"a": b"1", "same": b"same"})
    for number in range(2, 5):
        saved(shelf, (1, 2), {"a": str(number).encode(), "same": b"same"})
    put(shelf, (1, 2), {"broken off": b"broken off"})
    put(shelf, (1, 3), {"on its way": b"on its way"})
    assert shelf.trim(JOB, (1, 2)) == 2 + 1 + 2 + 1, "attempt 1-1, one of three manifests, its bytes, what broke off"
    assert names(shelf, (1, 3)) == ["1-2/3", "1-2/2"]
    assert len(names(shelf, (1, 3))) == KEPT
    for found in shelf.newest(JOB, (1, 3)):
        for file in found.files:
            shelf.store.get_bytes(f"checkpoints/{JOB}/1-2/files/{file.sha256}", sha256=file.sha256)
    assert shelf.commit(JOB, (1, 3), (a_file("on its way", b"on its way"),), 1).place.name == "1-3/1"


@pytest.mark.parametrize(
    ("job", "stays"),
    [
        (a_job(JOB, JobState.QUEUED), True),
        (a_job(JOB, JobState.RUNNING), True),
        (a_job(JOB, JobState.UNKNOWN), True),
        (a_job(JOB, JobState.SUCCEEDED, ended_ms=NOW_MS), False),
        (a_job(JOB, JobState.CANCELLED, ended_ms=NOW_MS), False),
        (a_job(JOB, JobState.FAILED, ended_ms=NOW_MS - KEPT_UNUSED_MS + 1), True),
        (a_job(JOB, JobState.FAILED, ended_ms=NOW_MS - KEPT_UNUSED_MS), False),
        (None, True),
    ],
)
def test_they_stay_while_the_job_may_run_again(shelf: Shelf, job: Job | None, stays: bool) -> None:
    """A failed job for a month, since a person may retry it; one that this store does not know too: it may be a restored one."""
    shelf.commit(JOB, (1, 1), put(shelf, (1, 1), {"a": b"1"}), NOW_MS - 1)
    assert Retention(shelf, lambda _: job, lambda: NOW_MS).sweep() == (not stays)
    assert bool(shelf.jobs()) is stays
    if job is None:
        assert Retention(shelf, lambda _: job, lambda: NOW_MS - 1 + KEPT_UNUSED_MS).sweep() == 1


def test_they_stay_while_a_restored_store_may_be_wrong_about_an_end(shelf: Shelf) -> None:
    """A job that is over in the backup may run since: nothing is removed until the hubs have told, then the sweep does."""
    saved(shelf, (1, 1), {"a": b"1"})
    control = ControlUnderTest()
    control.join()
    control.world.restoration = Restoration(NOW_MS, 1, False, NOW_MS)
    control.world.awaited = dict.fromkeys(control.world.agents, True)
    job = a_job(JOB, JobState.SUCCEEDED, ended_ms=NOW_MS)
    retention = Retention(shelf, lambda _: job, lambda: NOW_MS, lambda: unsure(control.world, NOW_MS))
    assert (retention.sweep(), list(shelf.jobs())) == (0, [JOB])
    control.world.awaited.clear()
    assert (retention.sweep(), list(shelf.jobs())) == (1, [])


def test_the_newest_is_known_for_people(shelf: Shelf) -> None:
    """As it is saved, and after a start once the sweep has found it; a damaged one is not, and a removed one no more."""
    content = {"a": b"12345", "b": b"6"}
    saved(shelf, (1, 1), {"a": b"old"})
    job = a_job(JOB, JobState.RUNNING)
    retention = Retention(shelf, lambda _: job, lambda: NOW_MS)
    assert retention.newest(JOB) is None
    found = shelf.commit(JOB, (1, 2), put(shelf, (1, 2), content), NOW_MS)
    retention.saved(JOB, found)
    known = Newest(found.place, NOW_MS, 6, 2)
    assert retention.newest(JOB) == known
    shelf.store.put_bytes(f"checkpoints/{JOB}/1-3/000001-{'0' * 64}.manifest", b"damaged")
    after = Retention(shelf, lambda _: job, lambda: NOW_MS)
    assert (after.sweep(), after.newest(JOB)) == (0, known)
    job = a_job(JOB, JobState.SUCCEEDED, ended_ms=NOW_MS)
    assert (after.sweep(), after.newest(JOB)) == (1, None)


def test_a_job_that_is_over_leaves_nothing(shelf: Shelf) -> None:
    """`job-1` is not `job-10`."""
    saved(shelf, (1, 1), {"a": b"1"})
    shelf.store.put_bytes("checkpoints/job-10/1-1/files/x", b"other")
    assert list(shelf.jobs()) == ["job-1", "job-10"]
    assert shelf.remove(JOB) == 2
    assert list(shelf.jobs()) == ["job-10"]
    assert shelf.remove(JOB) == 0
