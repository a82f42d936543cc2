"""What somebody gets who may touch a part of the store: never the root key.

In this version the federation has one store with one key pair, which only the control plane holds. The embedded server
has no STS, so scoped access is a set of presigned links, each for one object, one verb and a while. On a server with STS
the same port can answer with temporary keys for a prefix. Read next: `links.py`, which uses what is given here.
"""

from __future__ import annotations

from dataclasses import dataclass

from federation.errors import invalid
from federation.objects.keys import checked_key, checked_prefix
from federation.objects.store import ObjectStore


@dataclass(frozen=True, slots=True)
class ScopedCredentials:
    """The right to read and write objects below `prefix`, one link at a time, each for `ttl_s` seconds from its making."""

    store: ObjectStore
    prefix: str
    ttl_s: int

    def get_link(self, name: str) -> str:
        """A link to read `prefix + name`."""
        return self.store.presign_get(self._key(name), self.ttl_s)

    def put_link(self, name: str) -> str:
        """A link to write `prefix + name`."""
        return self.store.presign_put(self._key(name), self.ttl_s)

    def _key(self, name: str) -> str:
        # Checked alone too: `../other` must not climb out of the prefix on any server.
        return self.prefix + checked_key(name)


def scoped_credentials(store: ObjectStore, prefix: str, ttl_s: int) -> ScopedCredentials:
    """Access to one prefix (not empty, ending in a slash). Raises: FederationError INVALID_ARGUMENT."""
    if not checked_prefix(prefix):
        raise invalid("Scoped credentials need a prefix.")
    return ScopedCredentials(store, prefix, ttl_s)
