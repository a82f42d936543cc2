"""Bytes to and from the object store by presigned links: PUT a package, GET a result, with retries.

Plain HTTP: whoever has the link may use it, nothing else is needed. A download counts only when its sha256 is right, and
appears under its name only then. Deliberately not here: credentials and buckets (`federation/objects`).
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import urlsplit

import urllib3

from federation.client.proxy import proxy_for
from federation.client.transport import Patience
from federation.errors import Code, Fault, FederationError, invalid

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all) as they move; done falls back to 0 when a transfer starts anew."""

CHUNK_BYTES = 256 * 1024
CONNECT_S = 10.0
SILENCE_S = 60.0
ATTEMPTS_MAX = 5
_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
_FULL = 507


class Mover:
    """A pool of HTTP connections to the object store. One for each client; safe to share between threads."""

    def __init__(self, ca: str, patience: Patience, proxy: str = "") -> None:
        """`proxy` is the setting: what is off this machine is reached as the control plane is."""
        self._ca = ca
        self._proxy = proxy
        self._pools: dict[str, urllib3.PoolManager] = {}
        self._patience = patience
        self._pause = Event()  # never set: its wait is a pause

    def close(self) -> None:
        """Close the connections."""
        for pool in list(self._pools.values()):
            pool.clear()

    def _pool(self, url: str) -> urllib3.PoolManager:
        parts = urlsplit(url)
        way = proxy_for(f"{parts.hostname}:{parts.port or parts.scheme}", self._proxy)
        key = way.url if way else ""
        if key not in self._pools:
            known: dict[str, Any] = {
                "ca_certs": self._ca or None,
                "timeout": urllib3.Timeout(connect=CONNECT_S, read=SILENCE_S),
                "retries": False,
            }
            pool = (
                urllib3.ProxyManager(key, proxy_headers=way.headers, **known) if way else urllib3.PoolManager(**known)
            )
            self._pools[key] = pool
        return self._pools[key]

    def put(self, url: str, data: bytes, progress: Progress | None = None) -> None:
        """Send `data` to a presigned PUT link. Raises: FederationError STORE_FULL, STORE_UNAVAILABLE."""

        def once() -> int:
            body = _Told(data, progress)
            answer = self._pool(url).request("PUT", url, body=body, headers={"Content-Length": str(len(data))})
            return int(answer.status)

        self._until_done("put the package into the object store", once)

    def get(self, url: str, path: Path, sha256: str, progress: Progress | None = None) -> None:
        """Fetch a presigned GET link into `path`, whole and checked, or not at all.

        Raises: FederationError DIGEST_MISMATCH, STORE_UNAVAILABLE, OBJECT_NOT_FOUND; INVALID_ARGUMENT where this
        machine does not let it be written.
        """
        try:
            self._get(url, path, sha256, progress)
        except OSError as problem:
            raise invalid(
                f"{str(path)!r} cannot be written: {problem.strerror or problem}",
                hint="Name a folder that may be created, with room in it.",
                path=str(path),
            ) from problem

    def _get(self, url: str, path: Path, sha256: str, progress: Progress | None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".brhub-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                self._until_done(f"fetch {path.name!r}", lambda: self._get_once(url, file, sha256, path, progress))
                file.flush()
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            Path(name).chmod(0o666 & ~umask)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def _get_once(self, url: str, file: io.BufferedWriter, sha256: str, path: Path, progress: Progress | None) -> int:
        file.seek(0)
        file.truncate()
        with self._pool(url).request("GET", url, preload_content=False) as answer:
            if answer.status != 200:
                return int(answer.status)
            total = int(answer.headers.get("Content-Length") or 0)
            done, hasher = 0, hashlib.sha256()
            for chunk in answer.stream(CHUNK_BYTES, decode_content=False):
                file.write(chunk)
                hasher.update(chunk)
                done += len(chunk)
                if progress:
                    progress(done, total)
        if hasher.hexdigest() != sha256:
            raise FederationError(
                Code.DIGEST_MISMATCH,
                f"{path.name!r} arrived with other bytes than its hub reported",
                fault=Fault.FEDERATION,
                hint="Fetch again; if it stays, retry the job.",
                metadata={"path": str(path), "wanted": sha256, "got": hasher.hexdigest()},
            )
        return 200

    def _until_done(self, what: str, once: Callable[[], int]) -> None:
        began = time.monotonic()
        for attempt in range(ATTEMPTS_MAX):
            try:
                status = once()
                said = f"HTTP {status}"
            except urllib3.exceptions.HTTPError as problem:
                status, said = 0, _short(problem)
            if 200 <= status < 300:
                return
            late = time.monotonic() - began > self._patience.retry_s
            if (status and status not in _AGAIN) or attempt == ATTEMPTS_MAX - 1 or late:
                raise _failed(what, status, said)
            self._pause.wait(self._patience.pause(attempt))


class _Told(io.BytesIO):
    """Bytes that say how far they have been read."""

    def __init__(self, data: bytes, progress: Progress | None) -> None:
        super().__init__(data)
        self._total = len(data)
        self._progress = progress

    def read(self, size: int | None = -1, /) -> bytes:
        chunk = super().read(CHUNK_BYTES if size is None or size < 0 else size)
        if self._progress:
            self._progress(self.tell(), self._total)
        return chunk


def _short(problem: Any) -> str:
    return " ".join(str(problem).split())[:300]


def _failed(what: str, status: int, said: str) -> FederationError:
    if status == 404:
        return FederationError(
            Code.OBJECT_NOT_FOUND, f"could not {what}: it is not there", fault=Fault.FEDERATION, hint="Retry the job."
        )
    if status == _FULL:
        return FederationError(
            Code.STORE_FULL,
            f"could not {what}: the object store is full",
            fault=Fault.FEDERATION,
            hint="Ask the operator to make room, then submit again.",
        )
    hint = (
        "The link may have run out: try again."
        if status == 403
        else "Run `brhub doctor`: it names the hop that breaks."
    )
    return FederationError(
        Code.STORE_UNAVAILABLE,
        f"could not {what}: {said}",
        fault=Fault.FEDERATION if status else Fault.NETWORK,
        hint=hint,
        metadata={"status": str(status)},
    )
