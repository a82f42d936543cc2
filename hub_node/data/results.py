"""What a run left in its output folder becomes its result: counted, digested, sent by presigned links.

Deliberately not here: asking for the links (`link.py`) and trying again while the link is down (`agent/attempt.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from federation.archive import Limits, manifest
from federation.errors import Code, FederationError, invalid
from hub_node.records import OutputFile

RESULT_BYTES_MAX = 64 * 1024**2
RESULT_FILES_MAX = 1_000
_LIMITS = Limits(entries_max=RESULT_FILES_MAX, file_bytes_max=RESULT_BYTES_MAX)


def collect(output: Path) -> tuple[OutputFile, ...]:
    """All files of a result, by path.

    Raises: FederationError LIMIT_EXCEEDED (over 64 MiB or 1,000 files), UNSAFE_ARCHIVE (links, devices), STORE_UNAVAILABLE.
    """
    if not output.is_dir():
        return ()
    total = sum(file.lstat().st_size for file in output.rglob("*") if not file.is_dir())
    if total > RESULT_BYTES_MAX:
        raise invalid(
            f"The job left {total:,} bytes in its output folder; a result holds up to {RESULT_BYTES_MAX:,}.",
            code=Code.LIMIT_EXCEEDED,
            hint="Leave less there, or write large data to a dataset.",
            size_bytes=str(total),
            limit=str(RESULT_BYTES_MAX),
        )
    found = manifest(output, limits=_LIMITS)
    return tuple(OutputFile(entry.path, entry.size_bytes, entry.sha256) for entry in found)


def send(
    output: Path,
    files: Sequence[OutputFile],
    urls: Sequence[str],
    ca: Path | None,
    progress: Callable[[str], None],
    proxy: str = "",
) -> None:
    """Put every file where its link says. Raises: FederationError, as `federation.objects.links.upload`."""
    from federation.objects.links import upload

    for count, (file, url) in enumerate(zip(files, urls, strict=True), start=1):
        if len(files) > 1:
            progress(f"results, file {count} of {len(files)}")
        try:
            upload(url, output / file.path, ca_file=ca, proxy=proxy)
        except OSError as problem:
            raise FederationError(
                Code.STORE_UNAVAILABLE,
                f"The output file {file.path!r} cannot be read: {problem.strerror or problem}.",
                fault=invalid("").fault,
                hint="A run must leave its output folder alone once it has ended.",
                metadata={"path": file.path},
            ) from problem
