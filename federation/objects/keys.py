"""Which names objects and buckets may have: one rule for every server we meet.

Narrower than S3's own, because the embedded server keeps objects as files.
"""

from __future__ import annotations

import re

from federation.errors import invalid

KEY_BYTES_MAX = 1_000
KEY_PART_BYTES_MAX = 250
_BUCKET = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")


def checked_key(key: str) -> str:
    """The key itself, when it is one. Raises: FederationError INVALID_ARGUMENT."""
    parts = key.split("/")
    try:
        sizes = [len(part.encode("utf-8")) for part in parts]
    except UnicodeEncodeError:
        raise _bad(key, "it is not UTF-8") from None
    if sum(sizes) + len(parts) - 1 > KEY_BYTES_MAX:
        raise _bad(key, f"it is longer than {KEY_BYTES_MAX} bytes")
    if any(size > KEY_PART_BYTES_MAX for size in sizes):
        raise _bad(key, f"a part of it is longer than {KEY_PART_BYTES_MAX} bytes")
    if any(part in ("", ".", "..") for part in parts):
        raise _bad(key, "it has an empty part, or one of dots")
    if any(ord(char) < 32 or ord(char) == 127 or char == "\\" for char in key):
        raise _bad(key, "it holds a control character or a backslash")
    return key


def checked_prefix(prefix: str) -> str:
    """A prefix: empty, or a key and a slash, so that `jobs/1/` never also means `jobs/10/`."""
    if prefix == "":
        return prefix
    if not prefix.endswith("/"):
        raise _bad(prefix, "a prefix ends with a slash")
    checked_key(prefix[:-1])
    return prefix


def checked_bucket(name: str) -> str:
    """A bucket's name: 3 to 63 lower-case letters, digits and inner hyphens."""
    if not _BUCKET.fullmatch(name):
        raise invalid(
            f"{name!r} cannot be a bucket's name.",
            hint="Use 3 to 63 lower-case letters, digits and hyphens.",
            bucket=name,
        )
    return name


def _bad(key: str, why: str) -> Exception:
    shown = key[:100].encode("utf-8", "backslashreplace").decode("utf-8")
    return invalid(f"{shown!r} cannot be an object's name: {why}.", key=shown)
