"""Bearer tokens: made once, shown once, kept only as sha256.

A token has 256 bits of chance in it, so a plain hash is enough: there is nothing to guess. Not here: what a caller may
do (`authority.py`), where the file lies (settings), users' passwords (there are none).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from federation.errors import Code, Fault, FederationError, invalid
from federation.identity.principal import Principal, PrincipalKind

TOKEN_BYTES = 32
TOKEN_CHARS_MAX = 200
TOKENS_MAX = 100_000
FILE_BYTES_MAX = 64 * 1024 * 1024
FILE_VERSION = 1
_KEYS = frozenset({"sha256", "kind", "issuer", "subject", "home_hub", "projects", "roles"})
_LIST_KEYS = ("projects", "roles")


def mint_token(kind: PrincipalKind, randomness: Callable[[int], str] = secrets.token_urlsafe) -> str:
    """A new token, `brhub_<kind>_<chance>`: whoever finds it in a log sees what leaked.

    `randomness` gives URL-safe text from so many random bytes; tests pass their own.
    """
    return f"brhub_{kind}_{randomness(TOKEN_BYTES)}"


def token_hash(token: str) -> str:
    """sha256 (hex): the only form in which a token is kept."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def bearer(token: str) -> tuple[str, str]:
    """The gRPC metadata entry (and HTTP header, in lower case) that carries a token."""
    return ("authorization", f"Bearer {token}")


def token_from(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The token among a call's metadata or a request's headers; empty when there is none, or two."""
    found = [value for key, value in metadata if key.lower() == "authorization" and isinstance(value, str)]
    if len(found) != 1:
        return ""
    scheme, _, token = found[0].partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


class TokenFile:
    """A file of token hashes and whom they stand for; read again whenever it changes. Thread-safe.

    Errors of every method: FederationError CONFIGURATION_INVALID when the file is missing, unreadable or malformed.
    A file that breaks while we run denies everybody rather than remember whom it once let in.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None  # (inode, mtime in ns, size) of what was read
        self._principals: Mapping[str, Principal] = {}

    @classmethod
    def create(cls, path: Path) -> TokenFile:
        """An empty file, readable by its owner only; one that is there is kept."""
        tokens = cls(path)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            tokens._save({})
        return tokens

    def lookup(self, token: str) -> Principal:
        """Whom a token stands for. Raises: also FederationError UNAUTHENTICATED."""
        if 0 < len(token) <= TOKEN_CHARS_MAX:
            wanted = token_hash(token)
            with self._lock:
                self._reload()
                # How long a dictionary takes tells something about a sha256 at most, which helps nobody to a token.
                principal = self._principals.get(wanted)
            if principal is not None:
                return principal
        raise FederationError(
            Code.UNAUTHENTICATED,
            "The token is missing or not known here.",
            fault=Fault.CALLER,
            hint="Set BRHUB_TOKEN, or ask your hub's operator for a new token.",
        )

    def issue(self, principal: Principal, randomness: Callable[[int], str] = secrets.token_urlsafe) -> str:
        """Make a token for somebody, keep its hash, and return it: it cannot be shown again.

        Raises: also FederationError LIMIT_EXCEEDED.
        """
        token = mint_token(principal.kind, randomness)
        self.enter(token, principal)
        return token

    def enter(self, token: str, principal: Principal) -> None:
        """Let a token that was made elsewhere stand for somebody. Raises: also FederationError LIMIT_EXCEEDED."""
        with self._changing():
            if len(self._principals) >= TOKENS_MAX:
                raise invalid(f"There are {TOKENS_MAX:,} tokens already.", code=Code.LIMIT_EXCEEDED)
            self._save({**self._principals, token_hash(token): principal})

    def revoke(self, kind: PrincipalKind, issuer: str, subject: str) -> int:
        """End every token of somebody; how many there were."""
        with self._changing():
            kept = {
                known: principal
                for known, principal in self._principals.items()
                if (principal.kind, principal.issuer, principal.subject) != (kind, issuer, subject)
            }
            ended = len(self._principals) - len(kept)
            if ended:
                self._save(kept)
            return ended

    def principals(self) -> tuple[Principal, ...]:
        """Everybody who has a token, by name."""
        return tuple(self.held())

    def held(self) -> dict[Principal, int]:
        """How many tokens everybody has who has one, by name."""
        with self._lock:
            self._reload()
            counts = Counter(self._principals.values())
        return {who: counts[who] for who in sorted(counts, key=lambda who: who.name)}

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """What is in the file, with every other writer kept out: else one that issues could undo one that revokes."""
        try:
            folder = os.open(self._path.parent, os.O_RDONLY)
        except OSError as problem:
            raise _broken(self._path, str(problem)) from problem
        try:
            with self._lock:
                fcntl.flock(folder, fcntl.LOCK_EX)  # the file itself is replaced, so its lock would lock nobody out
                self._reload()
                yield
        finally:
            os.close(folder)

    def _reload(self) -> None:
        try:
            about = self._path.stat()
            seen = (about.st_ino, about.st_mtime_ns, about.st_size)
            if seen == self._seen:
                return
            if about.st_size > FILE_BYTES_MAX:
                raise _broken(self._path, f"it is larger than {FILE_BYTES_MAX:,} bytes")
            text = self._path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as problem:
            self._seen = None
            raise _broken(self._path, str(problem)) from problem
        self._seen = None
        self._principals = parse_tokens(text, self._path)
        self._seen = seen

    def _save(self, principals: Mapping[str, Principal]) -> None:
        entries = [
            {
                "sha256": known,
                "kind": who.kind.value,
                "issuer": who.issuer,
                "subject": who.subject,
                "home_hub": who.home_hub,
                "projects": list(who.projects),
                "roles": list(who.roles),
            }
            for known, who in principals.items()
        ]
        text = json.dumps({"version": FILE_VERSION, "tokens": entries}, indent=1, ensure_ascii=False)
        # mkstemp makes it 0600; the rename makes it whole or not at all.
        descriptor, name = tempfile.mkstemp(prefix=".tokens-", dir=self._path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as out:
                out.write(text + "\n")
                out.flush()
                os.fsync(out.fileno())
            Path(name).replace(self._path)
        finally:
            Path(name).unlink(missing_ok=True)
        self._seen = None


def parse_tokens(text: str, path: Path) -> dict[str, Principal]:
    """The file's content; `path` is for the error. Raises: FederationError CONFIGURATION_INVALID."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise _broken(path, f"it is not JSON ({problem})") from problem
    if not isinstance(document, dict) or set(document) != {"version", "tokens"}:
        raise _broken(path, "it must have exactly the keys `version` and `tokens`")
    if document["version"] != FILE_VERSION or not isinstance(document["tokens"], list):
        raise _broken(path, f"its version is not {FILE_VERSION}, or `tokens` is no list")
    if len(document["tokens"]) > TOKENS_MAX:
        raise _broken(path, f"it holds more than {TOKENS_MAX:,} tokens")
    return dict(_entry(entry, number, path) for number, entry in enumerate(document["tokens"], 1))


def _entry(entry: Any, number: int, path: Path) -> tuple[str, Principal]:
    if not isinstance(entry, dict) or set(entry) != _KEYS:
        raise _broken(path, f"token {number} must have exactly the keys {', '.join(sorted(_KEYS))}")
    for key in sorted(_KEYS):
        values = entry[key] if key in _LIST_KEYS else [entry[key]]
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise _broken(path, f"token {number}: {key} has the wrong type")
    known = entry["sha256"]
    if len(known) != 64 or set(known) - set("0123456789abcdef"):
        raise _broken(path, f"token {number}: sha256 is not 64 hex digits")
    if entry["kind"] not in set(PrincipalKind):
        raise _broken(path, f"token {number}: kind is none of {', '.join(PrincipalKind)}")
    return known, Principal(
        kind=PrincipalKind(entry["kind"]),
        issuer=entry["issuer"],
        subject=entry["subject"],
        home_hub=entry["home_hub"],
        projects=tuple(entry["projects"]),
        roles=tuple(entry["roles"]),
    )


def _broken(path: Path, why: str) -> FederationError:
    return FederationError(
        Code.CONFIGURATION_INVALID,
        f"The token file {path.name} cannot be used: {why}.",
        fault=Fault.FEDERATION,
        hint="Restore it, or move it away and issue tokens anew: `brhub token issue`.",
        metadata={"path": str(path)},
    )
