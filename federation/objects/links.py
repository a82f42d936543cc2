"""Fetch and send bytes over presigned links: all that an agent or a client needs of the store.

Standard library only, so that a bare agent and `brhub` start fast. Not here: making links (`credentials.py`).
"""

from __future__ import annotations

import hashlib
import os
import ssl
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.parse import urlsplit

from federation.errors import Code, Fault, FederationError, invalid, not_found
from federation.objects.failures import damaged, unreachable

T = TypeVar("T")

TIMEOUT_S = 60.0
ATTEMPTS_MAX = 3
BACKOFF_S = 0.5
COPY_BYTES = 256 * 1024


def download(url: str, path: Path, *, sha256: str = "", size_bytes_max: int, ca_file: Path | None = None) -> int:
    """Fetch a link to `path`, all or nothing; returns the size in bytes.

    Raises: FederationError OBJECT_NOT_FOUND, PERMISSION_DENIED (the link has run out), LIMIT_EXCEEDED (more than
    `size_bytes_max`), DIGEST_MISMATCH, UNREACHABLE, STORE_UNAVAILABLE.
    """
    descriptor, name = tempfile.mkstemp(prefix=".fetch-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as out:
            found = _repeated(url, lambda: _fetch(url, out, size_bytes_max, ca_file))
            size_bytes = out.tell()
        if sha256 and found != sha256:
            raise damaged(_shown(url), sha256, found)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
    return size_bytes


def upload(url: str, content: bytes | Path, *, ca_file: Path | None = None) -> None:
    """Send bytes or a file to a link. Raises: FederationError PERMISSION_DENIED, UNREACHABLE, STORE_UNAVAILABLE."""

    def send() -> None:
        if isinstance(content, bytes):
            _send(url, content, len(content), ca_file)
            return
        with content.open("rb") as data:
            _send(url, data, content.stat().st_size, ca_file)

    _repeated(url, send)


def _fetch(url: str, out: BinaryIO, size_bytes_max: int, ca_file: Path | None) -> str:
    """One attempt, from the start; the sha256 of what came."""
    out.seek(0)
    out.truncate()
    total, seen_bytes = hashlib.sha256(), 0
    with _opener(url, ca_file).open(url, timeout=TIMEOUT_S) as answer:
        while chunk := answer.read(COPY_BYTES):
            seen_bytes += len(chunk)
            if seen_bytes > size_bytes_max:
                raise invalid(
                    f"{_shown(url)} is larger than {size_bytes_max:,} bytes.",
                    code=Code.LIMIT_EXCEEDED,
                    limit=str(size_bytes_max),
                )
            total.update(chunk)
            out.write(chunk)
        announced = answer.headers.get("Content-Length")
    if announced is not None and int(announced) != seen_bytes:
        raise HTTPException(f"cut short at {seen_bytes} of {announced} bytes")
    return total.hexdigest()


def _send(url: str, content: bytes | BinaryIO, size_bytes: int, ca_file: Path | None) -> None:
    opener = _opener(url, ca_file)
    headers = {"Content-Length": str(size_bytes), "Content-Type": "application/octet-stream"}
    request = urllib.request.Request(url, data=content, headers=headers, method="PUT")  # noqa: S310  # _opener checks it
    with opener.open(request, timeout=TIMEOUT_S) as answer:
        answer.read()


def _repeated(url: str, attempt: Callable[[], T]) -> T:
    """Try again what the network broke; what the store refused is final."""
    for count in range(1, ATTEMPTS_MAX + 1):
        try:
            return attempt()
        except urllib.error.HTTPError as problem:
            with problem:
                if problem.code < 500 or count == ATTEMPTS_MAX:
                    raise _from_status(url, problem.code) from problem
        except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as problem:
            if count == ATTEMPTS_MAX:
                raise unreachable(_shown(url), problem) from problem
        threading.Event().wait(BACKOFF_S * count)
    raise AssertionError("the last attempt returns or raises")


def _from_status(url: str, status: int) -> FederationError:
    if status == 404:
        return not_found(Code.OBJECT_NOT_FOUND, "object", _shown(url))
    if status in (400, 401, 403):
        return FederationError(
            Code.PERMISSION_DENIED,
            f"The object store refused the link {_shown(url)} ({status}).",
            fault=Fault.CALLER,
            hint="Links run out: ask for a new one. Check this machine's clock.",
            metadata={"link": _shown(url), "status": str(status)},
        )
    return FederationError(
        Code.STORE_UNAVAILABLE,
        f"The object store answered {status} for {_shown(url)}.",
        fault=Fault.FEDERATION,
        hint="Try again; if it stays, look at the store's log and its disk.",
        metadata={"link": _shown(url), "status": str(status)},
    )


def _opener(url: str, ca_file: Path | None) -> urllib.request.OpenerDirector:
    """Links come from the control plane; still no `file:` link is followed, and no proxy is asked for loopback."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise invalid("The link is neither http nor https.", link=_shown(url))
    handlers: list[urllib.request.BaseHandler] = []
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=str(ca_file) if ca_file is not None else None)
        handlers.append(urllib.request.HTTPSHandler(context=context))
    if parts.hostname in ("127.0.0.1", "::1", "localhost"):
        handlers.append(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener(*handlers)


def _shown(url: str) -> str:
    """A link without its signature: what may stand in an error or a log."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"
