"""Fetch and send bytes over presigned links: all that an agent or a client needs of the store.

Standard library only, so that a bare agent and `brhub` start fast. Not here: making links (`credentials.py`).
"""

from __future__ import annotations

import hashlib
import os
import random
import ssl
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar
from urllib.parse import urlsplit

from federation.backoff import pause_s
from federation.errors import Code, Fault, FederationError, invalid, not_found
from federation.objects.failures import damaged, unreachable

T = TypeVar("T")

TIMEOUT_S = 60.0
ATTEMPTS_MAX = 3
BACKOFF_S, BACKOFF_S_MAX = 1.0, 4.0
COPY_BYTES = 256 * 1024


def download(
    url: str, path: Path, *, sha256: str = "", size_bytes_max: int, ca_file: Path | None = None, proxy: str = ""
) -> int:
    """Fetch a link to `path`, all or nothing; returns the size in bytes.

    `proxy`: http://HOST:PORT, `none`, or empty for what the environment says.
    Raises: FederationError OBJECT_NOT_FOUND, PERMISSION_DENIED (the link has run out), LIMIT_EXCEEDED (more than
    `size_bytes_max`), DIGEST_MISMATCH, UNREACHABLE, STORE_UNAVAILABLE.
    """
    descriptor, name = tempfile.mkstemp(prefix=".fetch-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as out:
            found = _repeated(url, lambda: _fetch(_Way(url, ca_file, proxy), out, size_bytes_max))
            size_bytes = out.tell()
        if sha256 and found != sha256:
            raise damaged(_shown(url), sha256, found)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
    return size_bytes


def upload(url: str, content: bytes | Path, *, ca_file: Path | None = None, proxy: str = "") -> None:
    """Send bytes or a file to a link; `proxy` as for `download`.

    Raises: FederationError PERMISSION_DENIED, UNREACHABLE, STORE_UNAVAILABLE.
    """
    way = _Way(url, ca_file, proxy)

    def send() -> None:
        if isinstance(content, bytes):
            _send(way, content, len(content))
            return
        with content.open("rb") as data:
            _send(way, data, content.stat().st_size)

    _repeated(url, send)


class _Way(NamedTuple):
    """A link, and how it is reached."""

    url: str
    ca_file: Path | None
    proxy: str


def _fetch(way: _Way, out: BinaryIO, size_bytes_max: int) -> str:
    """One attempt, from the start; the sha256 of what came."""
    out.seek(0)
    out.truncate()
    total, seen_bytes = hashlib.sha256(), 0
    with _opener(way).open(way.url, timeout=TIMEOUT_S) as answer:
        while chunk := answer.read(COPY_BYTES):
            seen_bytes += len(chunk)
            if seen_bytes > size_bytes_max:
                raise invalid(
                    f"{_shown(way.url)} is larger than {size_bytes_max:,} bytes.",
                    code=Code.LIMIT_EXCEEDED,
                    limit=str(size_bytes_max),
                )
            total.update(chunk)
            out.write(chunk)
        announced = answer.headers.get("Content-Length")
    if announced is not None and int(announced) != seen_bytes:
        raise HTTPException(f"cut short at {seen_bytes} of {announced} bytes")
    return total.hexdigest()


def _send(way: _Way, content: bytes | BinaryIO, size_bytes: int) -> None:
    opener = _opener(way)
    headers = {"Content-Length": str(size_bytes), "Content-Type": "application/octet-stream"}
    request = urllib.request.Request(way.url, data=content, headers=headers, method="PUT")  # noqa: S310  # _opener checks it
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
        threading.Event().wait(pause_s(count, BACKOFF_S, BACKOFF_S_MAX, random.random()))
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


def _opener(way: _Way) -> urllib.request.OpenerDirector:
    """Links come from the control plane; still no `file:` link is followed, and no proxy is asked for loopback."""
    url, ca_file, proxy = way
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise invalid("The link is neither http nor https.", link=_shown(url))
    handlers: list[urllib.request.BaseHandler] = []
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=str(ca_file) if ca_file is not None else None)
        handlers.append(urllib.request.HTTPSHandler(context=context))
    if proxy == "none" or parts.hostname in ("127.0.0.1", "::1", "localhost"):
        handlers.append(urllib.request.ProxyHandler({}))
    elif proxy:
        handlers.append(urllib.request.ProxyHandler({"http": proxy, "https": proxy}))
    return urllib.request.build_opener(*handlers)


def _shown(url: str) -> str:
    """A link without its signature: what may stand in an error or a log."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"
