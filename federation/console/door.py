"""Who looks: a token in a header, or a cookie that was given for one. And whether a form was sent by our own page.

A session is a random name for a token, kept in memory: a token that is revoked ends its sessions at once, and a restart
ends all of them. Not here: what a caller may do (`identity.authority`), the login page (`site.py`).
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass
from urllib.parse import urlsplit

from fastapi import Request
from starlette.responses import Response

from federation.domain.job import Job
from federation.errors import Code, Fault, FederationError
from federation.identity.authority import Scope, authorise, owns, rule_of
from federation.identity.principal import Principal
from federation.identity.tokens import TokenFile, token_from, token_hash
from federation.ports import Clock

SESSIONS_MAX = 10_000
SESSION_MS = 12 * 3_600_000
"""A session that is used lives on; one that is not ends after this."""
_NAME_BYTES = 32


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who asks. Which jobs they may see follows from the row of a job's own page, whatever page shows them."""

    principal: Principal

    @property
    def _reach(self) -> Scope | None:
        return rule_of("GET /jobs/{job_id}").reach.get(self.principal.kind)

    def sees(self, job: Job) -> bool:
        """Whether a job is theirs to see."""
        reach, owner = self._reach, job.owner
        return reach is not None and owns(reach, self.principal, issuer=owner.issuer, subject=owner.subject)

    @property
    def owner_filter(self) -> tuple[str, str] | None:
        """For `JobFilter.owner`: None sees everybody's."""
        return None if self._reach is Scope.ANY else (self.principal.issuer, self.principal.subject)


class Sessions:
    """Random names for tokens, the least lately used given up first. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._guard = threading.Lock()
        self._known: OrderedDict[str, tuple[str, int]] = OrderedDict()
        """sha256 of the name -> (token, ends at, ms)."""

    def open(self, token: str) -> str:
        """A new name for `token`."""
        name = secrets.token_urlsafe(_NAME_BYTES)
        with self._guard:
            self._known[token_hash(name)] = (token, self._clock.now_ms() + SESSION_MS)
            while len(self._known) > SESSIONS_MAX:
                self._known.popitem(last=False)
        return name

    def token_of(self, name: str) -> str:
        """The token behind `name`, whose time begins anew; empty when there is none."""
        key, now_ms = token_hash(name), self._clock.now_ms()
        with self._guard:
            token, until_ms = self._known.pop(key, ("", 0))
            if until_ms <= now_ms:
                return ""
            self._known[key] = (token, now_ms + SESSION_MS)
            return token

    def close(self, name: str) -> None:
        """Forget a name."""
        with self._guard:
            self._known.pop(token_hash(name), None)


class Door:
    """Admits callers to routes, each by its row in the authority table."""

    def __init__(self, tokens: TokenFile, clock: Clock, *, tls: bool) -> None:
        self.sessions = Sessions(clock)
        self._tokens = tokens
        self._tls = tls
        self.port = 0
        """Known once the server listens."""

    @property
    def cookie(self) -> str:
        """Browsers keep cookies by host and not by port: two federations on one machine must not log each other out."""
        return f"__Host-brhub-{self.port}" if self._tls else f"brhub-{self.port}"

    def admit(self, request: Request) -> Viewer | None:
        """The caller of the matched route; None where anybody may call.

        Raises: FederationError UNAUTHENTICATED, PERMISSION_DENIED.
        """
        call = f"{request.method} {request.scope['route'].path}"
        bearer = token_from(request.headers.items())
        if request.method == "POST" and not bearer:
            require_own_origin(request)
        if rule_of(call).public:
            return None  # a session that has ended must not keep anybody from the login page
        token = bearer or self.sessions.token_of(request.cookies.get(self.cookie, ""))
        principal = self._tokens.lookup(token) if token else None
        authorise(call, principal)
        assert principal is not None, "authorise refuses strangers where not everybody may call"
        return Viewer(principal)

    def log_in(self, token: str) -> str:
        """A session's name for `token`. Raises: FederationError as `admit`, also for those whom no page is for."""
        authorise("GET /", self._tokens.lookup(token.strip()))
        return self.sessions.open(token.strip())

    def set_cookie(self, response: Response, name: str) -> None:
        """Have the browser remember the session, for this site only and out of scripts' reach."""
        response.set_cookie(
            self.cookie, name, max_age=SESSION_MS // 1000, httponly=True, secure=self._tls, samesite="strict", path="/"
        )

    def log_out(self, request: Request, response: Response) -> None:
        """Forget the session on both sides."""
        self.sessions.close(request.cookies.get(self.cookie, ""))
        response.delete_cookie(self.cookie, httponly=True, secure=self._tls, samesite="strict", path="/")


def from_elsewhere(request: Request) -> bool:
    """Whether another site's page made the browser send this."""
    return request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin")


def require_own_origin(request: Request) -> None:
    """Refuse a form that another site's page sent, or whose origin the browser hides. PERMISSION_DENIED."""
    origin = request.headers.get("origin", "")
    parts = urlsplit(origin)
    ours = f"{request.url.scheme}://{request.headers.get('host', '')}"
    if from_elsewhere(request) or f"{parts.scheme}://{parts.netloc}" != ours:
        raise FederationError(
            Code.PERMISSION_DENIED,
            "this form was not sent by a page of this site",
            fault=Fault.POLICY,
            hint="Open the page here and use its button; scripts send an Authorization header.",
            metadata={"origin": origin[:200]},
        )
