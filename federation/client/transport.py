"""Channels for lossy links, and when to try again.

Every call has a deadline; every call may be repeated, because the control plane answers a repeat like the first time
(submits carry a request id). So what smells of the network is tried again, with growing pauses and chance in them, until
patience ends. Deliberately not here: what the calls mean (`steps.py`).
"""

from __future__ import annotations

import ipaddress
import random
from dataclasses import dataclass
from pathlib import Path

import grpc

from federation.client.settings import Settings
from federation.errors import Code, FederationError, invalid
from federation.v1 import common_pb2

TERMINAL = frozenset({common_pb2.JOB_STATE_SUCCEEDED, common_pb2.JOB_STATE_FAILED, common_pb2.JOB_STATE_CANCELLED})
"""States in which nothing more happens by itself."""

SILENCE_S = 2.0
"""How long a person is left without a word while a call is repeated."""
MESSAGE_BYTES_MAX = 16 * 1024 * 1024
_RETRIED = frozenset({Code.UNREACHABLE, Code.STORE_UNAVAILABLE, Code.OVERLOADED})


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to try. Seconds."""

    call_s: float = 30.0
    """Deadline of one attempt of one call."""
    retry_s: float = 15.0
    """How long a call is repeated while the federation cannot be reached; 0 tries once."""
    pause_s: float = 0.1
    """The first pause; each next is twice as long, at most `pause_max_s`, times a chance of 0.5 to 1."""
    pause_max_s: float = 3.0

    def pause(self, attempt: int, chance: float | None = None) -> float:
        """Seconds to wait after failed attempt number `attempt` (from 0)."""
        drawn = random.random() if chance is None else chance
        return float(min(self.pause_max_s, self.pause_s * 2 ** min(attempt, 20)) * (0.5 + drawn / 2))


def is_retried(error: FederationError) -> bool:
    """Whether the same call may go better a little later."""
    return error.code in _RETRIED


def options(target: str) -> list[tuple[str, int | str]]:
    """Channel options: a dead link is noticed within 40 s, a new one is tried at once, proxies only off the machine."""
    chosen: list[tuple[str, int | str]] = [
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 3_000),
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
        ("grpc.enable_retries", 0),  # ours know which errors are worth it
    ]
    if is_loopback(target):
        chosen.append(("grpc.enable_http_proxy", 0))
    return chosen


def split_address(server: str) -> tuple[str, bool]:
    """("HOST:PORT", with TLS?). Plain text is for loopback only: a token must not cross a network in the clear.

    Raises: FederationError TLS_REQUIRED for "http://" off the machine, INVALID_ARGUMENT for what is no address.
    """
    scheme, found, rest = server.partition("://")
    target = (rest if found else server).rstrip("/")
    host, colon, port = target.rpartition(":")
    if (found and scheme not in ("http", "https")) or not host or not colon or not port.isdigit():
        raise invalid(
            f"{server[:200]!r} is not an address", hint="Write HOST:PORT or https://HOST:PORT.", server=server[:200]
        )
    if is_loopback(target):
        return target, scheme == "https" and bool(found)
    if found and scheme == "http":
        raise invalid(
            f"{server[:200]!r} would send the token in clear text",
            code=Code.TLS_REQUIRED,
            hint="Use https://; plain text is for this machine only.",
            server=server[:200],
        )
    return target, True


def is_loopback(target: str) -> bool:
    """Whether "HOST:PORT" stays on this machine."""
    host = target.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def metadata(settings: Settings) -> tuple[tuple[str, str], ...]:
    """The headers of every call."""
    return (("authorization", f"Bearer {settings.token}"),) if settings.token else ()


def credentials(settings: Settings) -> tuple[str, grpc.ChannelCredentials | None]:
    """("HOST:PORT", credentials); None means plain text on loopback. A given `ca` always means TLS."""
    target, tls = split_address(settings.server)
    if not tls and not (settings.ca and not settings.server.startswith("http://")):
        return target, None
    try:
        roots = Path(settings.ca).read_bytes() if settings.ca else None
    except OSError as problem:
        raise invalid(
            f"the certificates in {settings.ca!r} cannot be read: {problem.strerror}",
            code=Code.CONFIGURATION_INVALID,
            hint="Check BRHUB_CA.",
            path=settings.ca,
        ) from problem
    return target, grpc.ssl_channel_credentials(root_certificates=roots)
