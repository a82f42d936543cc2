"""Checkpoints of jobs in the object store: bytes by their content, and a manifest, written last, that makes one whole.

    checkpoints/<job>/<incarnation>-<n>/files/<sha256>                  put by an agent, over links
    checkpoints/<job>/<incarnation>-<n>/<number>-<sha256>.manifest     put by the control plane alone, once all of it is there

What no manifest names was never saved: an upload that broke off is not seen by anybody. A manifest's name carries the
sha256 of its own bytes, and it carries those of the files, so whoever reads knows what is damaged. An agent gets links to
files only, so that whoever has lost its lease cannot make anything a checkpoint. The newest are kept, a few.
Deliberately not here: whose lease it is (`federation/api/hubs.py`), when to save and what to do with one that is damaged
(`hub_node/data/checkpoints.py`). Every call blocks.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from federation.errors import Code, Fault, FederationError, invalid
from federation.objects.keys import checked_key
from federation.objects.store import ObjectStore

FILES_MAX = 1_000
BYTES_MAX = 1 << 30
KEPT = 2
"""Whole checkpoints of one job: the newest, and one before it in case that one turns out to be damaged."""
NUMBER_MAX = 999_999
ROOT = "checkpoints/"
_SHAPE = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MANIFEST = re.compile(r"(\d{1,18})-(\d{1,18})/(\d{6})-([0-9a-f]{64})\.manifest")


@dataclass(frozen=True, slots=True)
class SavedFile:
    """One file: its path relative to the checkpoint folder, its size, its sha256 in hex."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Which checkpoint of a job: later ones are larger."""

    incarnation: int
    n: int
    number: int
    sha256: str = ""
    """Of its manifest's bytes."""

    @property
    def name(self) -> str:
        """Attempt and number, for people."""
        return f"{self.incarnation}-{self.n}/{self.number}"

    @property
    def key(self) -> str:
        """Its manifest's, below the job's prefix."""
        return f"{self.incarnation}-{self.n}/{self.number:06}-{self.sha256}.manifest"


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint. One that is damaged has no files."""

    place: Place
    saved_ms: int = 0
    files: tuple[SavedFile, ...] = ()
    damaged: bool = False

    @property
    def size_bytes(self) -> int:
        """Of all its files."""
        return sum(file.size_bytes for file in self.files)


def checked_files(files: Iterable[SavedFile]) -> tuple[SavedFile, ...]:
    """The files, by path, when they may be a checkpoint. Raises: FederationError LIMIT_EXCEEDED, INVALID_ARGUMENT."""
    found = tuple(sorted(files, key=lambda file: file.path))
    total_bytes = sum(file.size_bytes for file in found)
    if len(found) > FILES_MAX or total_bytes > BYTES_MAX:
        raise invalid(
            f"A checkpoint of {len(found):,} files and {total_bytes:,} bytes is too large.",
            code=Code.LIMIT_EXCEEDED,
            hint=f"At most {FILES_MAX:,} files and {BYTES_MAX:,} bytes in all: keep the newest state only.",
            files=str(len(found)),
            size_bytes=str(total_bytes),
        )
    if not found:
        raise invalid("A checkpoint has at least one file.")
    paths = {checked_key(file.path) for file in found}
    above = {path[:at] for path in paths for at, char in enumerate(path) if char == "/"}
    if len(paths) != len(found) or above & paths:
        raise invalid("Two files of a checkpoint have the same place.")
    for file in found:
        if file.size_bytes < 0 or not _SHA256.fullmatch(file.sha256):
            raise invalid(f"{file.path!r} has no size or no sha256.", path=file.path)
    return found


def manifest_bytes(saved_ms: int, files: Sequence[SavedFile]) -> bytes:
    """A manifest as it lies in the store."""
    rows = [[file.path, file.size_bytes, file.sha256] for file in files]
    text = json.dumps({"checkpoint": _SHAPE, "saved_ms": saved_ms, "files": rows}, separators=(",", ":"))
    return text.encode()


def read_manifest(data: bytes) -> tuple[int, tuple[SavedFile, ...]]:
    """(when it was saved, its files). Raises: FederationError INVALID_ARGUMENT, LIMIT_EXCEEDED for what is no manifest."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as problem:
        raise invalid("A checkpoint's manifest is not JSON.") from problem
    rows = content.get("files") if isinstance(content, dict) else None
    if not isinstance(rows, list) or content.get("checkpoint") != _SHAPE or not _whole(content.get("saved_ms")):
        raise invalid("A checkpoint's manifest is not one that this program knows.")
    files = []
    for row in rows:
        if not (isinstance(row, list) and len(row) == 3 and isinstance(row[0], str) and _whole(row[1])):
            raise invalid("A checkpoint's manifest has a line that is none.")
        if not isinstance(row[2], str):
            raise invalid("A checkpoint's manifest has a line without a sha256.")
        files.append(SavedFile(row[0], row[1], row[2]))
    return content["saved_ms"], checked_files(files)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


@dataclass(frozen=True, slots=True)
class Shelf:
    """All checkpoints in one store. Methods raise FederationError as `ObjectStore` does."""

    store: ObjectStore

    def put_links(
        self, job_id: str, attempt: tuple[int, int], files: Iterable[SavedFile], ttl_s: int
    ) -> dict[str, str]:
        """By path: where to put each file; empty where its bytes are there already. Raises: as `checked_files`."""
        wanted = checked_files(files)
        prefix = _attempt(job_id, attempt)
        here = self._sizes(prefix + "files/")
        return {
            file.path: ""
            if here.get(file.sha256) == file.size_bytes
            else self.store.presign_put(f"{prefix}files/{file.sha256}", ttl_s)
            for file in wanted
        }

    def commit(self, job_id: str, attempt: tuple[int, int], files: Iterable[SavedFile], now_ms: int) -> Saved:
        """Make these files a checkpoint; repeating it gives the same one.

        Raises: as `checked_files`; UPLOAD_NOT_FOUND where a file is not there, or of another size.
        """
        wanted = checked_files(files)
        here = self._sizes(_attempt(job_id, attempt) + "files/")
        for file in wanted:
            if here.get(file.sha256) != file.size_bytes:
                raise FederationError(
                    Code.UPLOAD_NOT_FOUND,
                    f"The checkpoint's file {file.path!r} has not arrived whole.",
                    fault=Fault.HUB,
                    hint="Put it again, then commit.",
                    metadata={"path": file.path},
                )
        own = [place for place in self._places(job_id, attempt) if (place.incarnation, place.n) == attempt]
        newest = self._read(job_id, own[0]) if own else None
        if newest is not None and newest.files == wanted:
            return newest
        data = manifest_bytes(now_ms, wanted)
        number = min(NUMBER_MAX, own[0].number + 1) if own else 1
        place = Place(*attempt, number, hashlib.sha256(data).hexdigest())
        self.store.put_bytes(_job(job_id) + place.key, data)
        return Saved(place, now_ms, wanted)

    def withdraw(self, job_id: str, place: Place) -> None:
        """This is no checkpoint any more; harmless to repeat."""
        self.store.remove(_job(job_id) + place.key)

    def newest(self, job_id: str, before: tuple[int, int]) -> tuple[Saved, ...]:
        """What attempts older than `before` left, the newest first, at most KEPT whole ones; damaged ones between them too."""
        found: list[Saved] = []
        for place in self._places(job_id):
            if (place.incarnation, place.n) >= before:
                continue
            found.append(self._read(job_id, place))
            if sum(not saved.damaged for saved in found) == KEPT:
                break
        return tuple(found)

    def get_links(self, job_id: str, saved: Saved, ttl_s: int) -> tuple[str, ...]:
        """Where to read each of its files, in their order."""
        prefix = _attempt(job_id, (saved.place.incarnation, saved.place.n))
        return tuple(self.store.presign_get(f"{prefix}files/{file.sha256}", ttl_s) for file in saved.files)

    def trim(self, job_id: str, attempt: tuple[int, int]) -> int:
        """Remove what `attempt` and those before it no longer need: all but the KEPT newest. How many objects that were.

        Later attempts are left alone: they may be putting files that no manifest names yet.
        """
        prefix = _job(job_id)
        places = self._places(job_id, attempt)
        kept = [saved for saved in (self._read(job_id, place) for place in places[: KEPT * 2]) if not saved.damaged][
            :KEPT
        ]
        needed = {prefix + saved.place.key for saved in kept}
        for saved in kept:
            of_attempt = _attempt(job_id, (saved.place.incarnation, saved.place.n))
            needed |= {f"{of_attempt}files/{file.sha256}" for file in saved.files}
        gone = [one.key for one in self.store.list(prefix) if one.key not in needed]
        gone = [key for key in gone if _attempt_of(key.removeprefix(prefix)) <= attempt]
        for key in sorted(
            gone, key=lambda key: not key.endswith(".manifest")
        ):  # manifests first: never half a checkpoint
            self.store.remove(key)
        return len(gone)

    def remove(self, job_id: str) -> int:
        """Remove all of a job's; how many objects there were."""
        return self.store.remove_prefix(_job(job_id))

    def jobs(self) -> Mapping[str, None]:
        """Every job that has anything here."""
        return dict.fromkeys(one.key.removeprefix(ROOT).partition("/")[0] for one in self.store.list(ROOT))

    def _sizes(self, prefix: str) -> dict[str, int]:
        return {one.key.removeprefix(prefix): one.size_bytes for one in self.store.list(prefix)}

    def _places(self, job_id: str, newest: tuple[int, int] | None = None) -> list[Place]:
        """Manifests, the latest first; only those of `newest` and of attempts before it, where that is given."""
        prefix = _job(job_id)
        found = []
        for one in self.store.list(prefix):
            match = _MANIFEST.fullmatch(one.key.removeprefix(prefix))
            if match is not None:
                incarnation, n, number, sha256 = match.groups()
                found.append(Place(int(incarnation), int(n), int(number), sha256))
        return sorted(
            (place for place in found if newest is None or (place.incarnation, place.n) <= newest), reverse=True
        )

    def _read(self, job_id: str, place: Place) -> Saved:
        key = _job(job_id) + place.key
        try:
            data = self.store.get_bytes(key, sha256=place.sha256)
            saved_ms, files = read_manifest(data)
        except FederationError as error:
            if error.code in (Code.UNREACHABLE, Code.STORE_UNAVAILABLE, Code.PERMISSION_DENIED):
                raise
            return Saved(place, damaged=True)
        return Saved(place, saved_ms, files)


def _job(job_id: str) -> str:
    return f"{ROOT}{checked_key(job_id)}/"


def _attempt(job_id: str, attempt: tuple[int, int]) -> str:
    return f"{_job(job_id)}{attempt[0]}-{attempt[1]}/"


def _attempt_of(key: str) -> tuple[int, int]:
    """Of a key below the job's prefix; strangers' keys are as old as can be."""
    match = re.match(r"(\d{1,18})-(\d{1,18})/", key)
    return (int(match[1]), int(match[2])) if match else (0, 0)
