"""How large a package may be, and which names may be in it: one rule for packing and unpacking.

Not here: the policy of a hub or a project (quotas), which may only be tighter. Read next: `packing.py`, `extraction.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from federation.errors import Code, Fault, FederationError, invalid

MIB = 1024 * 1024

PACKAGE_PACKED_BYTES_MAX = 64 * MIB
PACKAGE_UNPACKED_BYTES_MAX = 512 * MIB
PACKAGE_FILE_BYTES_MAX = 256 * MIB
PACKAGE_ENTRIES_MAX = 20_000
PACKAGE_DEPTH_MAX = 32
NAME_BYTES_MAX = 255
PATH_BYTES_MAX = 1_024


@dataclass(frozen=True, slots=True)
class Limits:
    """What one package may hold. Bytes are counted before compression, except `packed_bytes_max`."""

    packed_bytes_max: int = PACKAGE_PACKED_BYTES_MAX
    unpacked_bytes_max: int = PACKAGE_UNPACKED_BYTES_MAX
    file_bytes_max: int = PACKAGE_FILE_BYTES_MAX
    entries_max: int = PACKAGE_ENTRIES_MAX
    """Files and folders together."""
    depth_max: int = PACKAGE_DEPTH_MAX
    """Parts of one path: `a/b/c.py` has three."""


DEFAULT_LIMITS = Limits()


def check_name(path: str, limits: Limits) -> None:
    """Refuse a path that is not a plain relative one. `path` uses `/`.

    Raises: FederationError UNSAFE_ARCHIVE for a dangerous name, LIMIT_EXCEEDED for a long or deep one.
    """
    try:
        length = len(path.encode("utf-8"))
    except UnicodeEncodeError:
        raise unsafe("a name is not UTF-8", path=repr(path)) from None
    if length > PATH_BYTES_MAX:
        raise over("path length", length, PATH_BYTES_MAX, "bytes", path=path[:100])
    if any(ord(char) < 32 or ord(char) == 127 or char == "\\" for char in path):
        raise unsafe("a name holds a control character or a backslash", path=repr(path))
    parts = path.split("/")
    if path.startswith("/"):
        raise unsafe(f"the path {path!r} is absolute", path=path)
    if any(part in ("", ".", "..") for part in parts):
        raise unsafe(f"the path {path!r} does not stay inside its folder, or is not in its shortest form", path=path)
    if len(parts) > limits.depth_max:
        raise over("path depth", len(parts), limits.depth_max, "parts", path=path[:100])
    for part in parts:
        if len(part.encode("utf-8")) > NAME_BYTES_MAX:
            raise over("name length", len(part.encode("utf-8")), NAME_BYTES_MAX, "bytes", path=path[:100])


def unsafe(message: str, **metadata: str) -> FederationError:
    """An archive or folder that may not be packed or unpacked, for a reason other than size."""
    hint = "Pack plain files and folders only, for example with `brhub submit`."
    return invalid(message + ".", code=Code.UNSAFE_ARCHIVE, hint=hint, **metadata)


def over(what: str, value: int, limit: int, unit: str, **metadata: str) -> FederationError:
    """Something past its limit. `value` may be the amount at which counting stopped."""
    return invalid(
        f"The {what} is {value:,} {unit} or more; the limit is {limit:,}.",
        code=Code.LIMIT_EXCEEDED,
        hint="Leave large or generated files out with a .brhubignore file, or register them as a dataset.",
        what=what,
        value=str(value),
        limit=str(limit),
        unit=unit,
        **metadata,
    )


def disk_failed(action: str, problem: OSError) -> FederationError:
    """This machine's file system refused: nobody's package is to blame."""
    import errno

    full = problem.errno in (errno.ENOSPC, errno.EDQUOT)
    return FederationError(
        Code.STORE_FULL if full else Code.STORE_UNAVAILABLE,
        f"Could not {action}: {problem.strerror or problem}.",
        fault=Fault.HUB,
        hint="Free space on this machine and try again." if full else "Check the folder and its permissions.",
        metadata={"action": action, "errno": str(problem.errno)},
    )
