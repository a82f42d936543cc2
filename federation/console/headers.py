"""What every answer says to the browser: no script but ours, no framing, nothing kept, no address passed on.

A plain ASGI wrapper, because Starlette's own would hold back a stream of events.
"""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
STATIC_PREFIX = "/static/"
STATIC_AGE_S = 31_536_000
"""Static files are asked for with their digest in the address: what is kept never goes stale."""


class SafeHeaders:
    """Adds the headers to each answer of `app`."""

    def __init__(self, app: ASGIApp, *, tls: bool = False) -> None:
        self._app = app
        self._tls = tls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["content-security-policy"] = POLICY
                headers["x-content-type-options"] = "nosniff"
                headers["referrer-policy"] = "same-origin"
                headers["cross-origin-opener-policy"] = "same-origin"
                headers["cross-origin-resource-policy"] = "same-origin"
                if self._tls:
                    headers["strict-transport-security"] = "max-age=31536000"
                static = scope["path"].startswith(STATIC_PREFIX) and message["status"] == 200
                headers["cache-control"] = f"public, max-age={STATIC_AGE_S}, immutable" if static else "no-store"
            await send(message)

        await self._app(scope, receive, answer)
