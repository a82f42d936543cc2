"""Packages as files: pack a folder, unpack a stranger's archive safely, and say exactly what is in a folder.

A package is a gzipped tar in one strict dialect: regular files and folders only, sorted, without times and owners, so
that the same folder has the same digest on the same kind of machine. Deliberately not here: links, devices, sparse files,
other archive formats, and where packages are stored (`federation/objects`). Read next: `limits.py`, then `extraction.py`.
"""

from federation.archive.extraction import unpack
from federation.archive.limits import DEFAULT_LIMITS, Limits
from federation.archive.manifest import FileEntry, digest, digest_bytes, manifest, manifest_digest
from federation.archive.packing import Packed, pack

__all__ = [
    "DEFAULT_LIMITS",
    "FileEntry",
    "Limits",
    "Packed",
    "digest",
    "digest_bytes",
    "manifest",
    "manifest_digest",
    "pack",
    "unpack",
]
