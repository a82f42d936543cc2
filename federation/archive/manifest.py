"""What exactly is in a folder or a file: paths, sizes, sha256.

A manifest names a dataset version or a result. Not here: storing it (`federation/objects`) or agreeing on it.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from federation.archive.limits import DEFAULT_LIMITS, Limits, check_name, disk_failed, over, unsafe


@dataclass(frozen=True, slots=True, order=True)
class FileEntry:
    """One file: its path relative to the folder, with `/`; its size; its sha256 in hex."""

    path: str
    size_bytes: int
    sha256: str


def digest_bytes(data: bytes) -> str:
    """sha256 of bytes, hex."""
    return hashlib.sha256(data).hexdigest()


def digest(path: Path | str) -> str:
    """sha256 of a file's content, hex; read in pieces. Raises: FederationError STORE_UNAVAILABLE."""
    try:
        with Path(path).open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as problem:
        raise disk_failed("read a file to digest it", problem) from problem


def manifest(folder: Path | str, *, limits: Limits = DEFAULT_LIMITS) -> tuple[FileEntry, ...]:
    """Every file in `folder`, sorted by path. Nothing is left out, and links are refused rather than followed.

    Raises: FederationError UNSAFE_ARCHIVE, LIMIT_EXCEEDED, STORE_UNAVAILABLE.
    """
    entries: list[FileEntry] = []
    pending = [(Path(folder), "")]
    try:
        while pending:
            here, above = pending.pop()
            with os.scandir(here) as listing:
                items = list(listing)
            for item in items:
                path = f"{above}{item.name}"
                check_name(path, limits)
                about = item.stat(follow_symlinks=False)
                if stat.S_ISDIR(about.st_mode):
                    pending.append((Path(item.path), f"{path}/"))
                    continue
                if not stat.S_ISREG(about.st_mode):
                    raise unsafe(f"{path!r} is a link or a device", path=path)
                entries.append(FileEntry(path, about.st_size, digest(item.path)))
                if len(entries) > limits.entries_max:
                    raise over("number of files", len(entries), limits.entries_max, "files")
    except OSError as problem:
        raise disk_failed("read a folder", problem) from problem
    return tuple(sorted(entries))


def manifest_digest(entries: Iterable[FileEntry]) -> str:
    """One sha256 (hex) for a whole manifest: of its canonical JSON lines, sorted by path."""
    total = hashlib.sha256()
    for entry in sorted(entries):
        line = json.dumps([entry.path, entry.size_bytes, entry.sha256], ensure_ascii=False, separators=(",", ":"))
        total.update(line.encode("utf-8") + b"\n")
    return total.hexdigest()
