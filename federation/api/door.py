"""The door of every gRPC method: who calls, how far they reach, and errors in the federation's own words."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import grpc
import grpc.aio

from federation.errors import Code, Fault, FederationError, to_grpc_status
from federation.identity.authority import Scope, authorise
from federation.identity.principal import Principal
from federation.identity.tokens import TokenFile, token_from

FRESH_S = 0.1
log = logging.getLogger(__name__)
Q = TypeVar("Q")
A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and how far the authority table lets them reach in this method."""

    principal: Principal
    scope: Scope

    @property
    def actor(self) -> str:
        """For event rows."""
        return self.principal.name


class Gate:
    """Tokens to callers. Whom a token stands for is remembered for `FRESH_S`: a revoked one ends within that."""

    def __init__(self, tokens: TokenFile) -> None:
        self._tokens = tokens
        self._known: dict[str, Principal] = {}
        self._stale_s = 0.0

    def admit(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> Caller:
        """The caller of `method`; UNAUTHENTICATED or PERMISSION_DENIED."""
        token = token_from(context.invocation_metadata() or ())
        now_s = time.monotonic()
        if now_s >= self._stale_s:
            self._known.clear()
            self._stale_s = now_s + FRESH_S
        principal = self._known.get(token)
        if principal is None:
            principal = self._known[token] = self._tokens.lookup(token)
        return Caller(principal, authorise(method, principal))


Handler = Callable[[Any, Q, Caller], Awaitable[A]]
Method = Callable[[Any, Q, grpc.aio.ServicerContext[Any, Any]], Awaitable[A]]


def unary(service: str) -> Callable[[Handler[Q, A]], Method[Q, A]]:
    """Make `async def Name(self, request, caller)` a gRPC method of `service`; `self.gate` must be there."""

    def decorate(handler: Handler[Q, A]) -> Method[Q, A]:
        name = f"/federation.v1.{service}/{handler.__name__}"

        @functools.wraps(handler)
        async def method(self: Any, request: Q, context: grpc.aio.ServicerContext[Any, Any]) -> A:
            try:
                return await handler(self, request, self.gate.admit(name, context))
            except FederationError as error:
                await _refuse(context, error)
            except Exception as error:
                log.exception("%s failed for a reason of ours", name)
                await _refuse(context, internal(error))

        return method

    return decorate


StreamHandler = Callable[[Any, Q, Caller], AsyncIterator[A]]
StreamMethod = Callable[[Any, Q, grpc.aio.ServicerContext[Any, Any]], AsyncIterator[A]]


def streaming(service: str) -> Callable[[StreamHandler[Q, A]], StreamMethod[Q, A]]:
    """The same for a method that answers with a stream."""

    def decorate(handler: StreamHandler[Q, A]) -> StreamMethod[Q, A]:
        name = f"/federation.v1.{service}/{handler.__name__}"

        @functools.wraps(handler)
        async def method(self: Any, request: Q, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[A]:
            try:
                async for answer in handler(self, request, self.gate.admit(name, context)):
                    yield answer
            except FederationError as error:
                await _refuse(context, error)
            except Exception as error:
                log.exception("%s failed for a reason of ours", name)
                await _refuse(context, internal(error))

        return method

    return decorate


def internal(error: Exception) -> FederationError:
    """Our own mistake, without its inside."""
    return FederationError(
        Code.INTERNAL,
        f"the control plane failed: {type(error).__name__}",
        fault=Fault.FEDERATION,
        hint="It is our mistake; the server's log has the details. Trying again is safe.",
    )


async def _refuse(context: grpc.aio.ServicerContext[Any, Any], error: FederationError) -> NoReturn:
    status = to_grpc_status(error)
    await context.abort(status.code, status.details, status.trailing_metadata)
    raise AssertionError("abort raises")
