"""Ranges of attempts' logs, for readers far away. Only the attempt's own file, and never more than asked or 1 MiB.

A log stays here after its run is forgotten, until it is old or there are too many (`sweep`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path

from federation.errors import Code, Fault, FederationError, invalid
from hub_node.data.staging import Staging
from hub_node.link import LogPiece
from hub_node.records import ReadLogOrder

CHUNK_BYTES_MAX = 1024**2
KEPT_MS = 30 * 86_400_000
KEPT_MAX = 10_000


def piece(staging: Staging, order: ReadLogOrder, ended: bool) -> LogPiece:
    """The range that was asked for. `ended`: nothing more will be written."""
    try:
        return _read(staging.places(order.job_id, order.epoch).log, order, ended)
    except FederationError as error:
        return LogPiece(order.offset, complete=ended, problem=error)


def _read(file: Path, order: ReadLogOrder, ended: bool) -> LogPiece:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        if not ended and order.offset == 0:
            return LogPiece(0)  # it has not begun to write
        raise _unavailable(order, "is not here any more, or never was") from None
    except OSError as problem:
        raise _unavailable(order, f"cannot be read: {problem.strerror}") from problem
    try:
        size_bytes = os.fstat(descriptor).st_size
        if not 0 <= order.offset <= size_bytes:
            raise invalid(
                f"The log has {size_bytes:,} bytes; there is nothing at {order.offset:,}.",
                code=Code.OFFSET_OUT_OF_RANGE,
                hint="Read from an offset up to the log's size.",
                offset=str(order.offset),
                size_bytes=str(size_bytes),
            )
        wanted = min(CHUNK_BYTES_MAX, max(0, order.limit_bytes) or CHUNK_BYTES_MAX)
        data = os.pread(descriptor, wanted, order.offset)
        return LogPiece(order.offset, data, size_bytes, complete=ended and order.offset + len(data) >= size_bytes)
    except OSError as problem:
        raise _unavailable(order, f"cannot be read: {problem.strerror}") from problem
    finally:
        os.close(descriptor)


def _unavailable(order: ReadLogOrder, why: str) -> FederationError:
    return FederationError(
        Code.LOGS_UNAVAILABLE,
        f"The log of job {order.job_id}, attempt {order.epoch}, {why}.",
        fault=Fault.HUB,
        hint="Hubs keep logs of ended jobs for 30 days.",
        metadata={"job_id": order.job_id, "attempt": str(order.epoch)},
    )


def sweep(attempts: Path, live: Collection[Path], now_ms: int) -> int:
    """Remove folders of ended attempts that are old or too many; returns how many. `live` are left alone."""
    folders = [folder for folder in attempts.glob("*/*") if folder.is_dir() and folder not in live]
    folders.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
    removed = 0
    for index, folder in enumerate(folders):
        if index >= KEPT_MAX or now_ms - folder.stat().st_mtime * 1000 > KEPT_MS:
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
            try:
                folder.parent.rmdir()
            except OSError:
                pass  # other attempts of the job are still there
    return removed
