"""The object store as the federation uses it: one bucket behind one adapter, in the S3 dialect only.

Two facts of the servers we meet are kept away from callers: user metadata and content types may be forgotten, so none is
written; and an ETag is not a digest, so none is shown. Digests are sha256 and live in our own rows and manifests.
Thread-safe; every call blocks, so coroutines run it in a thread. Read next: `credentials.py` for those without a key.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from federation.errors import Code, Fault, FederationError, invalid
from federation.objects.failures import awaited, damaged, translated
from federation.objects.keys import checked_bucket, checked_key, checked_prefix

if TYPE_CHECKING:
    from minio import Minio

MIB = 1024 * 1024
RANGE_BYTES_MAX = 64 * MIB
PUT_BYTES_MAX = 64 * MIB
PRESIGN_TTL_S_MAX = 7 * 24 * 3600
PART_BYTES = 16 * MIB
COPY_BYTES = 256 * 1024
DEFAULT_REGION = "us-east-1"


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """Where a store is and how to enter. `endpoint` is `http://host:port` or `https://host:port`."""

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    bucket: str = "federation"
    region: str = DEFAULT_REGION
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object: its key and size."""

    key: str
    size_bytes: int


class ObjectStore:
    """One bucket.

    Every method raises FederationError: INVALID_ARGUMENT (bad name), OBJECT_NOT_FOUND, PERMISSION_DENIED (the store
    refused our key), UNREACHABLE, STORE_UNAVAILABLE, STORE_FULL.
    """

    def __init__(self, address: StoreAddress) -> None:
        from minio import Minio

        from federation.objects.transport import pool

        parts = urlsplit(address.endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
            raise FederationError(
                Code.CONFIGURATION_INVALID,
                f"{address.endpoint!r} is not an object store's address.",
                fault=Fault.CALLER,
                hint="Write it as http://host:port or https://host:port.",
                metadata={"endpoint": address.endpoint},
            )
        self.address = address
        self.away = ""
        """Why it has not answered yet, while whoever waits for it (`federation/app/bucket.py`) says so; empty: go ahead."""
        self._bucket = checked_bucket(address.bucket)
        self._client: Minio = Minio(
            parts.netloc,
            access_key=address.access_key,
            secret_key=address.secret_key,
            secure=parts.scheme == "https",
            region=address.region,  # always: without it the client asks the server with a call that not all answer
            http_client=pool(address.ca_file),
        )

    def answering(self) -> ObjectStore:
        """This store. Raises: FederationError STORE_UNAVAILABLE at once while it is known to be `away`."""
        if self.away:
            raise awaited(self.address.endpoint, self.away)
        return self

    def ensure_bucket(self) -> None:
        """Make the bucket where it is missing; harmless to repeat, also by two at once."""
        with translated(self.address.endpoint, self._bucket):
            if self._client.bucket_exists(self._bucket):
                return
        try:
            with translated(self.address.endpoint, self._bucket):
                self._client.make_bucket(self._bucket, location=self.address.region)
        except FederationError as problem:
            # Somebody else was faster, or the name is really taken: only the second is an error.
            with translated(self.address.endpoint, self._bucket):
                if not self._client.bucket_exists(self._bucket):
                    raise problem from problem.__cause__

    def put_bytes(self, key: str, data: bytes) -> None:
        """Write an object of at most PUT_BYTES_MAX bytes, replacing what is there."""
        checked_key(key)
        if len(data) > PUT_BYTES_MAX:
            raise invalid(
                f"{len(data):,} bytes are too many to write at once; the limit is {PUT_BYTES_MAX:,}.",
                code=Code.LIMIT_EXCEEDED,
                size=str(len(data)),
            )
        with translated(self.address.endpoint, key):
            self._client.put_object(self._bucket, key, io.BytesIO(data), len(data), part_size=PUT_BYTES_MAX)

    def put_file(self, key: str, path: Path) -> None:
        """Write a file of any size, in parts where it is large, replacing what is there."""
        checked_key(key)
        if not path.is_file():
            raise invalid(f"There is no file at {str(path)!r}.", path=str(path))
        with translated(self.address.endpoint, key):
            self._client.fput_object(self._bucket, key, str(path), part_size=PART_BYTES)

    def get_bytes(self, key: str, *, sha256: str = "") -> bytes:
        """A whole small object (at most RANGE_BYTES_MAX), verified when `sha256` (hex) is given."""
        if self.stat(key).size_bytes > RANGE_BYTES_MAX:
            raise invalid(f"{key!r} is too large to hold in memory.", code=Code.LIMIT_EXCEEDED, key=key)
        data = b"".join(self._stream(key, 0, 0))
        found = hashlib.sha256(data).hexdigest()
        if sha256 and found != sha256:
            raise damaged(key, sha256, found)
        return data

    def get_file(self, key: str, path: Path, *, sha256: str = "") -> None:
        """Fetch an object to `path`: all or nothing, verified before it appears when `sha256` (hex) is given.

        Raises: also DIGEST_MISMATCH.
        """
        checked_key(key)
        descriptor, name = tempfile.mkstemp(prefix=".fetch-", dir=path.parent)
        try:
            total = hashlib.sha256()
            with os.fdopen(descriptor, "wb") as out:
                for chunk in self._stream(key, 0, 0):
                    total.update(chunk)
                    out.write(chunk)
            if sha256 and total.hexdigest() != sha256:
                raise damaged(key, sha256, total.hexdigest())
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """Up to `length` bytes (1 to RANGE_BYTES_MAX) from `offset`; fewer at the end.

        Raises: also OFFSET_OUT_OF_RANGE when the object ends at or before `offset`.
        """
        if offset < 0 or not 1 <= length <= RANGE_BYTES_MAX:
            raise invalid(f"The range {offset}+{length} is not one.", offset=str(offset), length=str(length))
        return b"".join(self._stream(key, offset, length))

    def _stream(self, key: str, offset: int, length: int) -> Iterator[bytes]:
        """The bytes in pieces; `length` 0 means to the end."""
        checked_key(key)
        with translated(self.address.endpoint, key):
            answer = self._client.get_object(self._bucket, key, offset=offset, length=length)
            try:
                yield from answer.stream(COPY_BYTES)
            finally:
                answer.close()
                answer.release_conn()

    def stat(self, key: str) -> ObjectInfo:
        """Whether an object is there, and its size. Raises: OBJECT_NOT_FOUND."""
        checked_key(key)
        with translated(self.address.endpoint, key):
            found = self._client.stat_object(self._bucket, key)
        return ObjectInfo(key, int(found.size or 0))

    def exists(self, key: str) -> bool:
        """Whether an object is there."""
        try:
            self.stat(key)
        except FederationError as problem:
            if problem.code is Code.OBJECT_NOT_FOUND:
                return False
            raise
        return True

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every object below a prefix (empty, or ending in a slash), by key; pages are fetched as they are used."""
        checked_prefix(prefix)
        with translated(self.address.endpoint, prefix):
            for found in self._client.list_objects(self._bucket, prefix=prefix, recursive=True):
                if found.object_name and not found.is_dir:
                    yield ObjectInfo(found.object_name, int(found.size or 0))

    def copy(self, source: str, target: str) -> None:
        """Copy inside the store; no byte comes here."""
        from minio.commonconfig import CopySource

        checked_key(source)
        checked_key(target)
        with translated(self.address.endpoint, source):
            self._client.copy_object(self._bucket, target, CopySource(self._bucket, source))

    def remove(self, key: str) -> None:
        """Remove an object; harmless where there is none."""
        checked_key(key)
        try:
            with translated(self.address.endpoint, key):
                self._client.remove_object(self._bucket, key)
        except FederationError as problem:
            if problem.code is not Code.OBJECT_NOT_FOUND:
                raise

    def remove_prefix(self, prefix: str) -> int:
        """Remove every object below a prefix, which may not be empty; returns how many there were."""
        if not prefix:
            raise invalid("An empty prefix would remove the whole bucket.")
        keys = [found.key for found in self.list(prefix)]
        for key in keys:
            self.remove(key)
        return len(keys)

    def presign_get(self, key: str, ttl_s: int) -> str:
        """A link to read this one object for `ttl_s` seconds (1 to PRESIGN_TTL_S_MAX); needs no call to the store."""
        checked_key(key)
        with translated(self.address.endpoint, key):
            return self._client.presigned_get_object(self._bucket, key, expires=_ttl(ttl_s))

    def presign_put(self, key: str, ttl_s: int) -> str:
        """A link to write this one object for `ttl_s` seconds (1 to PRESIGN_TTL_S_MAX).

        It cannot bind the size or the digest: whoever gave the link compares `stat`, and readers compare the sha256.
        """
        checked_key(key)
        with translated(self.address.endpoint, key):
            return self._client.presigned_put_object(self._bucket, key, expires=_ttl(ttl_s))


def _ttl(ttl_s: int) -> timedelta:
    if not 1 <= ttl_s <= PRESIGN_TTL_S_MAX:
        raise invalid(f"A link cannot live {ttl_s} s; 1 to {PRESIGN_TTL_S_MAX} can be.", ttl_s=str(ttl_s))
    return timedelta(seconds=ttl_s)
