"""Checkpoints: what a program leaves in BRHUB_CHECKPOINT_DIR goes to the object store, and to the job's next attempt.

Out, while it runs: at most every `Saving.every_ms` and only when something changed, sooner once it was told to end, and a
last time when it has ended and may run again. A checkpoint is frozen by hard links before a byte is sent, so a program that
writes a new file and renames it over the old one is never caught half-way; names that end in .tmp or .partial are left
out, and what was written to while it was sent is thrown away and tried again. The control plane makes it a checkpoint only
when all of it has arrived, and only while the lease lives.
In, before a start: the newest one that is whole, verified by digest, into the folder at once or not at all.
Nothing here fails a job: what cannot be saved is said in its log. Deliberately not here: which ends are worth a last save
(`hub_node/agent/attempt.py`), and how checkpoints lie in the store (`federation/objects/checkpoints.py`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import shutil
import stat
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from federation.archive.limits import Limits, check_name, disk_failed
from federation.backoff import pause_s
from federation.errors import Code, FederationError, invalid
from federation.objects.links import download, upload
from hub_node.config import Saving
from hub_node.data.staging import DOWNLOAD_PAUSE_S, DOWNLOAD_PAUSE_S_MAX, DOWNLOADS_MAX, Places, wait_until
from hub_node.records import Checkpoint, Epoch, LeaseOrder, OutputFile

FILES_MAX = 1_000
LEFT_OUT = (".tmp", ".partial")
HURRY_S = 1.0
"""Once it was told to end, the folder is looked at this often."""
QUIET_MS = 500
"""Of a program that was told to end, what was written less than this ago may be half of what it writes."""
AGAIN_S = 10.0
"""After a save that did not succeed, when nothing hurries."""
AGAIN_SOON_S = 1.0
TAKES_MAX = 5
"""Looks at a folder that changes all the time, before it is left for later."""
_LIMITS = Limits(entries_max=2 * FILES_MAX)
_REFUSED_FOR_GOOD = frozenset({Code.STALE_EPOCH, Code.PROTOCOL_UNSUPPORTED})
_ITS_OWN_FAULT = frozenset({Code.LIMIT_EXCEEDED, Code.UNSAFE_ARCHIVE, Code.INVALID_ARGUMENT})
_DAMAGED = frozenset({Code.DIGEST_MISMATCH, Code.OBJECT_NOT_FOUND, *_ITS_OWN_FAULT})
_TRIED_AGAIN = frozenset(
    {
        Code.UNREACHABLE, Code.TIMED_OUT, Code.STORE_UNAVAILABLE, Code.OVERLOADED, Code.SESSION_UNKNOWN,
        Code.SESSION_SUPERSEDED, Code.PERMISSION_DENIED,
    }
)  # fmt: skip
"""PERMISSION_DENIED is a link that ran out: new ones are asked for."""
log = logging.getLogger(__name__)


class Shelf(Protocol):
    """Where checkpoints are kept, as an agent reaches it: `hub_node/link.py`."""

    def checkpoint_links(self, lease_id: str, epoch: Epoch, files: Sequence[OutputFile]) -> tuple[str, ...]:
        """Where to put each file; empty where it is already."""

    def commit_checkpoint(self, lease_id: str, epoch: Epoch, files: Sequence[OutputFile]) -> str:
        """All of it was put: its name."""

    def checkpoints(self, lease_id: str, epoch: Epoch) -> tuple[Checkpoint, ...]:
        """What older attempts left, the newest first."""


class Moving(Exception):
    """The folder changed while it was read: nothing whole can be had of it right now."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One file as it was found: when any of this changes, it was written to or replaced."""

    path: str
    inode: int
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Keeper:
    """What one attempt's checkpoints are kept with."""

    lease: LeaseOrder
    places: Places
    shelf: Shelf
    saving: Saving
    ca: Path | None = None
    proxy: str = field(default="", repr=False)
    """The agent's setting."""

    def say(self, text: str) -> None:
        """A line in the job's own log, for whoever reads how it went."""
        log.info("job %s: %s", self.lease.job_id, text)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self.places.log, flags, 0o600)
            with os.fdopen(descriptor, "a", encoding="utf-8") as file:
                file.write(f"brhub: {text}\n")
        except OSError as problem:
            log.warning("job %s: its log cannot be written: %s", self.lease.job_id, problem)


# ---- reading the folder ---------------------------------------------------------------------------------------------
def look(folder: Path, bytes_max: int) -> tuple[Seen, ...]:
    """What a checkpoint of this folder would hold, by path. Raises: Moving; FederationError LIMIT_EXCEEDED, UNSAFE_ARCHIVE."""
    found: list[Seen] = []
    pending = [(folder, "")]
    try:
        while pending:
            here, above = pending.pop()
            with os.scandir(here) as listing:
                items = list(listing)
            for item in items:
                path = above + item.name
                if path.endswith(LEFT_OUT):
                    continue
                check_name(path, _LIMITS)
                about = item.stat(follow_symlinks=False)
                if stat.S_ISDIR(about.st_mode):
                    pending.append((Path(item.path), f"{path}/"))
                elif stat.S_ISREG(about.st_mode):
                    found.append(Seen(path, about.st_ino, about.st_size, about.st_mtime_ns))
                else:
                    raise invalid(f"{path!r} is a link or a device.", code=Code.UNSAFE_ARCHIVE, path=path)
                if len(found) > FILES_MAX:
                    raise _too_much(f"more than {FILES_MAX:,} files")
    except FileNotFoundError as problem:
        raise Moving from problem
    except OSError as problem:
        raise disk_failed("read the checkpoint folder", problem) from problem
    if sum(file.size_bytes for file in found) > bytes_max:
        raise _too_much(f"{sum(file.size_bytes for file in found):,} bytes, more than {bytes_max:,}")
    return tuple(sorted(found, key=lambda file: file.path))


def _too_much(what: str) -> FederationError:
    return invalid(f"The checkpoint folder holds {what}.", code=Code.LIMIT_EXCEEDED, hint="Keep the newest state only.")


def freeze(folder: Path, into: Path, bytes_max: int) -> tuple[Seen, ...]:
    """The folder of one moment as hard links in `into`; what was found. Raises: Moving; FederationError as `look`."""
    for _ in range(TAKES_MAX):
        before = look(folder, bytes_max)
        shutil.rmtree(into, ignore_errors=True)
        try:
            into.mkdir(mode=0o700)
            for file in before:
                target = into / file.path
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(folder / file.path, target, follow_symlinks=False)
        except FileNotFoundError:
            continue  # it was replaced between the look and the link
        except OSError as problem:
            raise disk_failed("freeze a checkpoint", problem) from problem
        if look(folder, bytes_max) == before:
            return before
    raise Moving


def digests(frozen: Path, seen: Sequence[Seen]) -> tuple[OutputFile, ...]:
    """The files with their sha256. Raises: Moving for one that is written to."""
    files = []
    for file in seen:
        try:
            with (frozen / file.path).open("rb") as content:
                sha256 = hashlib.file_digest(content, "sha256").hexdigest()
        except OSError as problem:
            raise disk_failed("read a checkpoint", problem) from problem
        _still(frozen, file)
        files.append(OutputFile(file.path, file.size_bytes, sha256))
    return tuple(files)


def _still(frozen: Path, file: Seen) -> None:
    about = (frozen / file.path).stat()
    if (about.st_size, about.st_mtime_ns) != (file.size_bytes, file.mtime_ns):
        raise Moving


def left_something(places: Places) -> bool:
    """Whether an attempt's folder holds anything to save."""
    try:
        return any(places.checkpoint.iterdir())
    except OSError:
        return False


# ---- out ------------------------------------------------------------------------------------------------------------
class Saver:
    """Saves one attempt's checkpoints, one at a time, each on a thread of its own. For the attempt's thread, but `hurry`."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._saved: tuple[Seen, ...] = _known(keeper.places)
        self._failed: tuple[Seen, ...] | None = None
        """What could not be saved through its own fault: not tried again before it changes."""
        self._thread: threading.Thread | None = None
        self._due_s = time.monotonic() + keeper.saving.every_ms / 1000
        self._hurried = False
        self._closed = False
        self._complaint = ""

    def began(self) -> None:
        """The folder is as the program finds it: that is nothing new."""
        self._saved = _known(self._keeper.places)

    def look(self) -> None:
        """Called often: begin a save when one is due and something changed. Returns at once."""
        if self._closed or self._busy or (not self._hurried and not self._keeper.saving.every_ms):
            return
        if time.monotonic() >= self._due_s:
            self._due_s = time.monotonic() + (HURRY_S if self._hurried else self._keeper.saving.every_ms / 1000)
            self._begin(QUIET_MS if self._hurried else 0)

    def hurry(self) -> None:
        """The program was told to end: what it saves now is what counts."""
        if not self._hurried:
            self._hurried, self._due_s = True, time.monotonic() + HURRY_S

    def finish(self, until_s: float, called_off: Callable[[], bool]) -> None:
        """The program has ended: save what is not saved yet, until `until_s` (monotonic). Blocks, and never raises."""
        pause = threading.Event()
        while not self._closed and not called_off():
            if not self._busy and not self._begin(0):
                return
            while self._busy and not called_off() and time.monotonic() < until_s:
                pause.wait(0.02)
            if time.monotonic() >= until_s:
                self._keeper.say("its last state was not saved in time; the next attempt has an older one, or none")
                return
            pause.wait(min(AGAIN_SOON_S if self._complaint else 0.02, max(0.0, until_s - time.monotonic())))

    @property
    def _busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _begin(self, quiet_ms: int) -> bool:
        """Start a save; False when there is nothing new."""
        places, saving = self._keeper.places, self._keeper.saving
        try:
            seen = look(places.checkpoint, saving.bytes_max)
        except Moving:
            return True
        except FederationError as error:
            self._complain(error)
            return False
        if not seen or seen in (self._saved, self._failed):
            return False
        newest_ms = max(file.mtime_ns for file in seen) // 1_000_000
        if quiet_ms and time.time_ns() // 1_000_000 - newest_ms < quiet_ms:
            return True
        self._thread = threading.Thread(target=self._save, name=f"save-{self._keeper.lease.job_id}", daemon=True)
        self._thread.start()
        return True

    def _save(self) -> None:
        keeper = self._keeper
        frozen = keeper.places.folder / "saving"
        seen: tuple[Seen, ...] | None = None
        try:
            seen = freeze(keeper.places.checkpoint, frozen, keeper.saving.bytes_max)
            files = digests(frozen, seen)
            lease = keeper.lease
            urls = keeper.shelf.checkpoint_links(lease.lease_id, lease.epoch, files)
            sent: set[str] = set()
            for file, url in zip(files, urls, strict=True):
                if url and file.sha256 not in sent:
                    sent.add(file.sha256)
                    upload(url, frozen / file.path, ca_file=keeper.ca, proxy=keeper.proxy)
            for one in seen:
                _still(frozen, one)
            name = keeper.shelf.commit_checkpoint(lease.lease_id, lease.epoch, files)
            log.info("job %s: checkpoint %s saved, %d files", lease.job_id, name, len(files))
            self._saved, self._complaint = seen, ""
        except Moving:
            self._complain_moving()
        except FederationError as error:
            if error.code in _ITS_OWN_FAULT:
                self._failed = seen
            self._complain(error)
        except OSError as problem:  # the attempt's folder went away under us, or its disk
            self._complain(disk_failed("save a checkpoint", problem))
        except Exception:
            self._complaint = Code.INTERNAL
            log.exception("a checkpoint of job %s", keeper.lease.job_id)
        finally:
            shutil.rmtree(frozen, ignore_errors=True)

    def _complain(self, error: FederationError) -> None:
        """Each trouble once: in the job's log where its person can do something about it, else in the agent's."""
        self._due_s = max(self._due_s, time.monotonic() + (AGAIN_SOON_S if self._hurried else AGAIN_S))
        self._closed = self._closed or error.code in _REFUSED_FOR_GOOD
        if self._complaint == error.code:
            return
        self._complaint = error.code
        if error.code in _ITS_OWN_FAULT:
            self._keeper.say(f"its checkpoint is not saved: {error.message} {error.hint}".strip())
        else:
            log.info("job %s: its checkpoint is not saved: %s", self._keeper.lease.job_id, error)

    def _complain_moving(self) -> None:
        self._due_s = max(self._due_s, time.monotonic() + (AGAIN_SOON_S if self._hurried else AGAIN_S))
        if self._complaint != "MOVING":
            self._complaint = "MOVING"
            self._keeper.say(
                "its checkpoint is not saved yet: a file was written to meanwhile. "
                "Write to a name that ends in .tmp, then rename it."
            )


# ---- in -------------------------------------------------------------------------------------------------------------
def restore(keeper: Keeper, progress: Callable[[str], None], called_off: Callable[[], bool]) -> None:
    """Put the newest whole checkpoint of an older attempt into the folder, once. Blocks.

    One that is damaged is refused and the one before it taken, or none; the job's log says which.
    Raises: FederationError while what there is cannot be asked or fetched: an attempt that began from nothing all the same
    would make its older ones worthless. TIMED_OUT when it was called off.
    """
    lease, places = keeper.lease, keeper.places
    if any((places.folder / name).exists() for name in ("checkpoint.json", "guard.json")):
        return  # asked before, by an agent that died meanwhile: the program may run already
    if (lease.epoch.incarnation, lease.epoch.n) <= (1, 1):
        return  # there is no older attempt
    if any(places.checkpoint.iterdir()):
        _remember(places, "")  # fetched by an agent that died before it could note that
        return
    failures = 0
    refused: dict[str, None] = {}
    name: str | None = None
    while name is None:
        try:
            name = _restored(keeper, refused, progress)
        except FederationError as error:
            if error.code is Code.PROTOCOL_UNSUPPORTED:
                break  # a control plane of before
            failures += 1
            if error.code not in _TRIED_AGAIN or failures == DOWNLOADS_MAX:
                raise
            progress("checkpoint, waiting for the store")
            wait_until(called_off, pause_s(failures, DOWNLOAD_PAUSE_S, DOWNLOAD_PAUSE_S_MAX, random.random()))
    if not name and refused:
        keeper.say("it begins from nothing")
    _remember(places, name or "")


def _restored(keeper: Keeper, refused: dict[str, None], progress: Callable[[str], None]) -> str:
    """The name of the checkpoint that is now in the folder; empty when there is none."""
    for one in keeper.shelf.checkpoints(keeper.lease.lease_id, keeper.lease.epoch):
        if one.name in refused:
            continue
        try:
            if one.damaged:
                raise invalid("its list of files is not as it was written", code=Code.DIGEST_MISMATCH)
            _fetch(keeper, one, progress)
        except FederationError as error:
            if error.code not in _DAMAGED:
                raise
            refused[one.name] = None
            keeper.say(f"checkpoint {one.name} is damaged and was refused: {error.message}")
            continue
        total_bytes = sum(file.size_bytes for file in one.files)
        keeper.say(f"it goes on from checkpoint {one.name}: {_counted(len(one.files))}, {total_bytes:,} bytes")
        return one.name
    return ""


def _counted(files: int) -> str:
    return "1 file" if files == 1 else f"{files:,} files"


def _fetch(keeper: Keeper, checkpoint: Checkpoint, progress: Callable[[str], None]) -> None:
    """Every file, verified, beside the folder, which it then replaces. What an earlier try fetched is not fetched again."""
    places = keeper.places
    into = places.folder / f"fetched-{checkpoint.name.replace('/', '-')}"
    for file in checkpoint.files:
        check_name(file.path, _LIMITS)
    try:
        into.mkdir(mode=0o700, exist_ok=True)
        for count, (file, url) in enumerate(zip(checkpoint.files, checkpoint.urls, strict=True), start=1):
            target = into / file.path
            if target.exists():
                continue
            progress(f"checkpoint {checkpoint.name}, file {count} of {len(checkpoint.files)}")
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            limit = max(1, file.size_bytes)
            download(url, target, sha256=file.sha256, size_bytes_max=limit, ca_file=keeper.ca, proxy=keeper.proxy)
        into.replace(places.checkpoint)  # an empty folder may be replaced: it appears whole or not at all
    except OSError as problem:
        raise disk_failed("fetch a checkpoint", problem) from problem


def _remember(places: Places, name: str) -> None:
    """What this attempt began from, so that neither this agent nor the next takes it for something new."""
    try:
        seen = look(places.checkpoint, 1 << 62)
    except Moving:
        seen = ()
    rows = [[file.path, file.inode, file.size_bytes, file.mtime_ns] for file in seen]
    target = places.folder / "checkpoint.json"
    partial = target.with_suffix(".partial")
    try:
        partial.write_text(json.dumps({"from": name, "files": rows}), encoding="utf-8")
        partial.replace(target)
    except OSError as problem:
        raise disk_failed("note a checkpoint", problem) from problem


def _known(places: Places) -> tuple[Seen, ...]:
    """What the attempt began from; nothing where it began from nothing, or where that cannot be read."""
    try:
        content = json.loads((places.folder / "checkpoint.json").read_text(encoding="utf-8"))
        return tuple(
            Seen(str(path), int(inode), int(size), int(mtime)) for path, inode, size, mtime in content["files"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return ()
