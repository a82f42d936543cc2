"""Pack a folder into a deterministic gzipped tar: sorted names, no times, no owners, two modes.

What is left out: version control, caches and virtual environments (`SKIPPED_NAMES`), and what `.brhubignore` in the
folder's root names. Deliberately absent: following links (they are refused) and negated patterns.
Read next: `extraction.py`, the other half.
"""

from __future__ import annotations

import fnmatch
import gzip
import io
import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from federation.archive.limits import DEFAULT_LIMITS, Limits, check_name, disk_failed, over, unsafe
from federation.archive.manifest import digest_bytes
from federation.errors import invalid

IGNORE_FILE = ".brhubignore"
IGNORE_PATTERNS_MAX = 1_000
SKIPPED_NAMES = frozenset(
    {
        ".git", ".hg", ".svn", "__pycache__", ".venv", ".brhub", ".ipynb_checkpoints", ".mypy_cache",
        ".pytest_cache", ".ruff_cache", ".hypothesis", ".tox", ".nox", "node_modules", ".DS_Store",
    }
)  # fmt: skip
COMPRESS_LEVEL = 6
FILE_MODE = 0o644
PROGRAM_MODE = 0o755


@dataclass(frozen=True, slots=True)
class Packed:
    """A package in memory: at most `Limits.packed_bytes_max` bytes."""

    data: bytes
    digest: str
    """sha256 of `data`, hex."""
    size_bytes: int
    files: tuple[str, ...]
    """Paths of the files (not folders), sorted."""


@dataclass(frozen=True, slots=True)
class _Found:
    path: str
    source: Path
    is_folder: bool
    size_bytes: int
    mode: int


def pack(folder: Path | str, *, limits: Limits = DEFAULT_LIMITS) -> Packed:
    """Pack everything in `folder` that is not left out.

    Raises: FederationError INVALID_ARGUMENT (no such folder, bad ignore file), UNSAFE_ARCHIVE (a link, a device, a
    strange name, a file that changed meanwhile), LIMIT_EXCEEDED, STORE_UNAVAILABLE (unreadable).
    """
    root = Path(folder)
    if not root.is_dir():
        raise invalid(
            f"The package folder {str(folder)!r} is not a folder.", hint="Check `package:`.", path=str(folder)
        )
    try:
        found = sorted(_walk(root, "", _read_ignores(root), limits), key=lambda item: item.path)
        _check_totals(found, limits)
        data = _write(found, limits)
    except OSError as problem:
        raise disk_failed("read the package folder", problem) from problem
    names = tuple(item.path for item in found if not item.is_folder)
    return Packed(data=data, digest=digest_bytes(data), size_bytes=len(data), files=names)


def _check_totals(found: list[_Found], limits: Limits) -> None:
    total = sum(item.size_bytes for item in found)
    if total > limits.unpacked_bytes_max:
        raise over("size of all files", total, limits.unpacked_bytes_max, "bytes")


def _walk(root: Path, prefix: str, ignores: tuple[str, ...], limits: Limits) -> Iterator[_Found]:
    """Depth first with an explicit stack, so that depth meets its limit and not Python's."""
    pending = [(root, prefix)]
    count = 0
    while pending:
        folder, above = pending.pop()
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda item: item.name)
        for entry in entries:
            path = f"{above}{entry.name}"
            if _ignored(path, entry.name, entry.is_dir(follow_symlinks=False), ignores):
                continue
            check_name(path, limits)
            count += 1
            if count > limits.entries_max:
                raise over("number of files and folders", count, limits.entries_max, "entries")
            about = entry.stat(follow_symlinks=False)
            yield _found(path, Path(entry.path), about, limits)
            if stat.S_ISDIR(about.st_mode):
                pending.append((Path(entry.path), f"{path}/"))


def _found(path: str, source: Path, about: os.stat_result, limits: Limits) -> _Found:
    if stat.S_ISDIR(about.st_mode):
        return _Found(path, source, True, 0, PROGRAM_MODE)
    if stat.S_ISLNK(about.st_mode):
        raise unsafe(f"{path!r} is a symbolic link", path=path)
    if not stat.S_ISREG(about.st_mode):
        raise unsafe(f"{path!r} is neither a file nor a folder", path=path)
    if about.st_size > limits.file_bytes_max:
        raise over("size of one file", about.st_size, limits.file_bytes_max, "bytes", path=path)
    return _Found(path, source, False, about.st_size, PROGRAM_MODE if about.st_mode & stat.S_IXUSR else FILE_MODE)


def _write(found: list[_Found], limits: Limits) -> bytes:
    out = _CappedBuffer(limits.packed_bytes_max)
    # No file name and no time in the gzip header: they would change the digest of equal folders.
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=out, compresslevel=COMPRESS_LEVEL, mtime=0) as squeezed,
        tarfile.open(fileobj=squeezed, mode="w|", format=tarfile.GNU_FORMAT, encoding="utf-8") as tar,
    ):
        for item in found:
            about = tarfile.TarInfo(item.path)
            about.mode = item.mode
            if item.is_folder:
                about.type = tarfile.DIRTYPE
                tar.addfile(about)
                continue
            about.size = item.size_bytes
            with item.source.open("rb") as content:
                _add(tar, about, content)
    return out.getvalue()


def _add(tar: tarfile.TarFile, about: tarfile.TarInfo, content: io.BufferedReader) -> None:
    """Add exactly the bytes that were measured; a file that grew or shrank meanwhile is refused."""
    try:
        tar.addfile(about, content)
    except OSError as problem:
        if problem.errno is None:  # tarfile's own "unexpected end of data", not the disk's
            raise unsafe(f"{about.name!r} changed while it was packed", path=about.name) from problem
        raise
    if content.read(1):
        raise unsafe(f"{about.name!r} changed while it was packed", path=about.name)


class _CappedBuffer(io.BytesIO):
    """Memory that refuses to grow past the packed limit, so that a huge folder fails early."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__()
        self._limit_bytes = limit_bytes

    def write(self, data: object) -> int:
        written = super().write(data)  # type: ignore[arg-type]  # BytesIO takes any buffer; typeshed's name is private
        if self.tell() > self._limit_bytes:
            raise over("packed size", self.tell(), self._limit_bytes, "bytes")
        return written


def _read_ignores(root: Path) -> tuple[str, ...]:
    """Patterns, one a line: `*.csv` matches a name anywhere, `data/raw` a path from the root, `build/` folders only."""
    file = root / IGNORE_FILE
    if not file.is_file():
        return ()
    try:
        lines = [line.strip() for line in file.read_text("utf-8").splitlines()]
    except UnicodeDecodeError:
        raise invalid(f"{IGNORE_FILE} is not UTF-8 text.", path=IGNORE_FILE) from None
    patterns = tuple(line for line in lines if line and not line.startswith("#"))
    if len(patterns) > IGNORE_PATTERNS_MAX:
        raise over(f"number of patterns in {IGNORE_FILE}", len(patterns), IGNORE_PATTERNS_MAX, "patterns")
    for pattern in patterns:
        if pattern.startswith("!"):
            raise invalid(
                f"{IGNORE_FILE} has the pattern {pattern!r}; patterns with ! are not understood.",
                hint="Name what to leave out.",
                pattern=pattern,
            )
    return patterns


def _ignored(path: str, name: str, is_folder: bool, patterns: tuple[str, ...]) -> bool:
    if name in SKIPPED_NAMES or name.endswith(".pyc"):
        return True
    for pattern in patterns:
        wanted = pattern.rstrip("/")
        if pattern.endswith("/") and not is_folder:
            continue
        subject = path if "/" in wanted else name
        if fnmatch.fnmatchcase(subject, wanted.lstrip("/")):
            return True
    return False
