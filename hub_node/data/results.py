"""What a run left in its output folder becomes its result: counted, digested, sent by presigned links.

Deliberately not here: asking for the links (`link.py`) and trying again while the link is down (`agent/attempt.py`).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from federation.archive import Limits, manifest
from federation.archive.limits import disk_failed
from federation.archive.manifest import digest
from federation.errors import Code, Fault, FederationError, invalid
from hub_node.records import OutputFile

RESULT_BYTES_MAX = 64 * 1024**2
RESULT_FILES_MAX = 1_000
_LIMITS = Limits(entries_max=RESULT_FILES_MAX, file_bytes_max=RESULT_BYTES_MAX)
_SHORT_OF_SOMETHING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR})
"""These say nothing of a file: this machine has no descriptor or no memory left for the moment."""


def collect(output: Path) -> tuple[OutputFile, ...]:
    """All files of a result, by path.

    Raises: FederationError LIMIT_EXCEEDED (over 64 MiB or 1,000 files), UNSAFE_ARCHIVE (links, devices), RESULT_UNREADABLE,
    STORE_UNAVAILABLE (only for the moment: ask again).
    """
    if not output.is_dir():
        return ()
    with _reading("its output folder"):
        total = sum(file.lstat().st_size for file in output.rglob("*") if not file.is_dir())
    if total > RESULT_BYTES_MAX:
        raise invalid(
            f"The job left {total:,} bytes in its output folder; a result holds up to {RESULT_BYTES_MAX:,}.",
            code=Code.LIMIT_EXCEEDED,
            hint="Leave less there, or write large data to a dataset.",
            size_bytes=str(total),
            limit=str(RESULT_BYTES_MAX),
        )
    with _reading("its output folder"):
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
    """Put every file where its link says, while it is what was collected.

    Raises: FederationError as `federation.objects.links.upload`, and RESULT_UNREADABLE.
    """
    from federation.objects.links import upload

    for count, (file, url) in enumerate(zip(files, urls, strict=True), start=1):
        if len(files) > 1:
            progress(f"results, file {count} of {len(files)}")
        here, what = output / file.path, f"the output file {file.path!r}"
        with _reading(what):
            found = digest(here)
        if found != file.sha256:
            raise _unreadable(what, "it was changed after the program had ended")
        try:
            upload(url, here, ca_file=ca, proxy=proxy)
        except OSError as problem:
            raise disk_failed(f"send {what}", problem) from problem  # it could be read just now: the next look decides


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """A disk that fails here ends the result, for no later try brings it back; a shortage of ours only delays it."""
    try:
        yield
    except (OSError, FederationError) as error:
        problem = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(problem, OSError):
            raise
        if problem.errno in _SHORT_OF_SOMETHING:
            raise disk_failed(f"read {what}", problem) from problem
        raise _unreadable(what, problem.strerror or str(problem)) from problem


def _unreadable(what: str, why: str) -> FederationError:
    return FederationError(
        Code.RESULT_UNREADABLE,
        f"The program ended well, but its result is not whole: {what} cannot be read at this hub ({why}).",
        fault=Fault.HUB,
        hint="Run it again. The hub's operator looks at that disk, and for whatever else removes or writes files there.",
        metadata={"what": what, "why": why},
    )
