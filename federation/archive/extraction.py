"""Unpack a stranger's package: everything it could do is decided here, before a byte is written.

It extracts into a new folder beside the target and renames it at the end, so a refused archive leaves nothing. The
dialect is strict: regular files, folders and GNU long names. Links, devices, sparse files and pax headers are refused at
the header, before `tarfile` acts on them; no link is ever created, so a checked name cannot lead outside.
Read next: `limits.py` for the names and sizes.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import Self

from federation.archive.limits import (
    DEFAULT_LIMITS,
    MIB,
    PATH_BYTES_MAX,
    Limits,
    check_name,
    disk_failed,
    over,
    unsafe,
)
from federation.archive.packing import FILE_MODE, PROGRAM_MODE
from federation.errors import invalid

HEADER_BYTES_PER_ENTRY_MAX = 4_096
COPY_BYTES = 256 * 1024
_ALLOWED_TYPES = frozenset({tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.GNUTYPE_LONGNAME})


def unpack(path: Path | str, into: Path | str, *, limits: Limits = DEFAULT_LIMITS) -> tuple[str, ...]:
    """Extract the package at `path` as the new folder `into` (absent, or an empty folder); returns its files, sorted.

    All or nothing. Modes are 0644, or 0755 for programs; the folder itself is 0700.

    Raises: FederationError UNSAFE_ARCHIVE, LIMIT_EXCEEDED, INVALID_ARGUMENT (no such file, `into` is taken),
    STORE_FULL or STORE_UNAVAILABLE (this machine's disk).
    """
    source, target = Path(path), Path(into)
    if not source.is_file():
        raise invalid(f"There is no package at {str(path)!r}.", path=str(path))
    packed_bytes = source.stat().st_size
    if packed_bytes > limits.packed_bytes_max:
        raise over("packed size", packed_bytes, limits.packed_bytes_max, "bytes")
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise invalid(f"{str(into)!r} is already there.", hint="Unpack into a new folder.", path=str(into))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name[:64]}.", suffix=".partial", dir=target.parent))
    except OSError as problem:
        raise disk_failed("make a folder to unpack in", problem) from problem
    try:
        files = _Extractor(staging, limits).run(source)
        staging.rename(target)
    except OSError as problem:
        raise disk_failed("unpack a package", problem) from problem
    finally:
        # After the rename there is nothing left under this name.
        shutil.rmtree(staging, ignore_errors=True)
    return files


class _StrictHeader(tarfile.TarInfo):
    """A tar header that is refused while it is read, before `tarfile` follows what it says."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        if len(buf) == tarfile.BLOCKSIZE and not any(buf):
            return super().frombuf(buf, encoding, errors)  # the end mark: tarfile's own signal
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as problem:
            raise unsafe(f"The archive is damaged or cut short ({problem})") from problem
        if header.type not in _ALLOWED_TYPES:
            kind = "a link" if header.type in (tarfile.SYMTYPE, tarfile.LNKTYPE) else f"of type {header.type!r}"
            raise unsafe(
                f"{header.name!r} is {kind}; only files and folders may be in a package", path=repr(header.name)
            )
        if header.size < 0 or (header.isdir() and header.size):
            raise unsafe(f"{header.name!r} has an impossible size", path=repr(header.name), size=str(header.size))
        if header.type == tarfile.GNUTYPE_LONGNAME and header.size > PATH_BYTES_MAX + 1:
            raise over("path length", header.size, PATH_BYTES_MAX, "bytes")
        return header


class _CappedReader(io.RawIOBase):
    """Decompressed bytes, counted: a bomb is met after its limit and never held in memory."""

    def __init__(self, source: gzip.GzipFile, limits: Limits) -> None:
        self._source = source
        self._limit_bytes = limits.unpacked_bytes_max + limits.entries_max * HEADER_BYTES_PER_ENTRY_MAX + MIB
        self._seen_bytes = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(COPY_BYTES if size < 0 else min(size, COPY_BYTES))
        self._seen_bytes += len(data)
        if self._seen_bytes > self._limit_bytes:
            raise over("unpacked size", self._seen_bytes, self._limit_bytes, "bytes")
        return data


class _Extractor:
    """One extraction into `root`, a folder that is new and ours."""

    def __init__(self, root: Path, limits: Limits) -> None:
        self._root = root
        self._limits = limits
        self._kinds: dict[str, str] = {}  # path -> "file", "folder", or "implied" (a folder nobody has named yet)
        self._entries = 0
        self._total_bytes = 0

    def run(self, source: Path) -> tuple[str, ...]:
        try:
            with source.open("rb") as raw, gzip.GzipFile(fileobj=raw, mode="rb") as squeezed:
                reader = _CappedReader(squeezed, self._limits)
                with tarfile.open(fileobj=reader, mode="r|", encoding="utf-8", tarinfo=_StrictHeader) as tar:
                    for member in tar:
                        self._take(tar, member)
                    self._drain(tar)
        except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile, RecursionError) as problem:
            raise unsafe(f"The package is not a whole tar.gz ({type(problem).__name__}: {problem})") from problem
        return tuple(sorted(path for path, kind in self._kinds.items() if kind == "file"))

    def _take(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        check_name(member.name, self._limits)
        self._count(member)
        self._claim(member.name, "folder" if member.isdir() else "file")
        place = self._root.joinpath(*member.name.split("/"))
        if member.isdir():
            place.mkdir(mode=0o755, parents=True, exist_ok=True)
            return
        place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        content = tar.extractfile(member)
        assert content is not None, "the header check lets only files and folders through"
        mode = PROGRAM_MODE if member.mode & 0o100 else FILE_MODE
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        with content, os.fdopen(descriptor, "wb") as out:
            shutil.copyfileobj(content, out, COPY_BYTES)

    def _count(self, member: tarfile.TarInfo) -> None:
        self._entries += 1
        if self._entries > self._limits.entries_max:
            raise over("number of files and folders", self._entries, self._limits.entries_max, "entries")
        if member.size > self._limits.file_bytes_max:
            raise over("size of one file", member.size, self._limits.file_bytes_max, "bytes", path=member.name)
        self._total_bytes += member.size
        if self._total_bytes > self._limits.unpacked_bytes_max:
            raise over("unpacked size", self._total_bytes, self._limits.unpacked_bytes_max, "bytes")

    def _claim(self, path: str, kind: str) -> None:
        """Each name once, and nothing below a file."""
        before = self._kinds.get(path)
        if before is not None and not (before == "implied" and kind == "folder"):
            raise unsafe(f"The name {path!r} appears twice", path=path)
        self._kinds[path] = kind
        parts = path.split("/")
        for end in range(1, len(parts)):
            above = "/".join(parts[:end])
            if self._kinds.setdefault(above, "implied") == "file":
                raise unsafe(f"{above!r} is a file and a folder at once", path=above)
        if len(self._kinds) > self._limits.entries_max + self._limits.depth_max:
            raise over("number of files and folders", len(self._kinds), self._limits.entries_max, "entries")

    def _drain(self, tar: tarfile.TarFile) -> None:
        """Read to the end: the gzip checksum is only verified there, and nothing may hide behind the end mark."""
        rest = tar.fileobj
        assert rest is not None
        while chunk := rest.read(COPY_BYTES):
            if any(chunk):
                raise unsafe("There is something behind the archive's end mark")
