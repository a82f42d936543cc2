"""Who somebody is: a frozen value that every floor may hold. Not here: how it was proven (`tokens.py`)."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from federation.errors import Code, invalid

LOCAL_ISSUER = "local"
"""The issuer of identities that a federation's own token file vouches for."""
OPERATOR = "operator"
"""The role of those who run their home hub."""
TEXT_LENGTH_MAX = 256
ENTRIES_MAX = 1_000
_HUB = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class PrincipalKind(enum.StrEnum):
    """What sort of caller it is."""

    USER = "user"
    HUB = "hub"  # an agent or another program of the hub `home_hub`
    ADMIN = "admin"  # the federation's own operators


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller. (issuer, subject) names a person for good; `home_hub` vouches for them.

    `projects` are those the person may count work to (empty: only `default`); `roles` are hub roles such as OPERATOR.
    """

    kind: PrincipalKind
    issuer: str
    subject: str
    home_hub: str
    projects: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what could not be told apart later. Raises: FederationError CONFIGURATION_INVALID."""
        for what, text in (("issuer", self.issuer), ("subject", self.subject)):
            if not 0 < len(text) <= TEXT_LENGTH_MAX or not text.isprintable():
                raise _bad(what, text, f"it must be 1 to {TEXT_LENGTH_MAX} printable characters")
        if self.home_hub and not _HUB.fullmatch(self.home_hub):
            raise _bad("home_hub", self.home_hub, "it is not a hub's id")
        if not self.home_hub and self.kind is not PrincipalKind.ADMIN:
            raise _bad("home_hub", self.home_hub, "every user and every agent has one")
        if len(self.projects) > ENTRIES_MAX or len(self.roles) > ENTRIES_MAX:
            raise _bad("projects", str(len(self.projects)), f"more than {ENTRIES_MAX}")

    @property
    def name(self) -> str:
        """For logs and event rows: `user:local/aisha@cairo`."""
        return f"{self.kind}:{self.issuer}/{self.subject}@{self.home_hub}"


def _bad(what: str, text: str, why: str) -> Exception:
    return invalid(
        f"{what} {text[:80]!r} cannot be: {why}.", code=Code.CONFIGURATION_INVALID, field=what, value=text[:80]
    )
