"""Channels for lossy links, and when to try again.

Every call has a deadline; every call may be repeated, because the control plane answers a repeat like the first time
(a submission carries a request id, a retry says which end it saw, a release which attempt). So what smells of the network is
tried again, with growing pauses and chance in them, until patience ends (`federation/backoff.py`). Deliberately not here: what
the calls mean (`steps.py`), which proxy is asked (`proxy.py`).
"""

from __future__ import annotations

import random
import ssl
from dataclasses import dataclass
from pathlib import Path

import certifi
import grpc

from federation.backoff import Rounds, pause_s
from federation.client.proxy import is_loopback, proxy_for
from federation.client.settings import Settings
from federation.errors import Code, Fault, FederationError, invalid
from federation.v1 import common_pb2

TERMINAL = frozenset({common_pb2.JOB_STATE_SUCCEEDED, common_pb2.JOB_STATE_FAILED, common_pb2.JOB_STATE_CANCELLED})
"""States in which nothing more happens by itself."""

SILENCE_S = 2.0
"""How long a person is left without a word while a call is repeated."""
KEEPALIVE_MS, KEEPALIVE_TIMEOUT_MS = 15_000, 10_000
"""A link on which nothing came for so long is asked whether it lives, and has so long to say so. A control plane takes no
more than one such question in 10 s from each (`federation/app/serving.py`)."""
NOTICED_S = (KEEPALIVE_MS + KEEPALIVE_TIMEOUT_MS) / 1000
"""A link on which packets vanish is given up after so long: a firewall forgot it, or a cable is out."""
CONNECT_MS = 2_000
"""A connection takes at most so long when it is first tried, and up to 3 s after that: one lost packet of its beginning is sent
again after 1 s, and an address at which packets vanish must cost little."""
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
        return pause_s(attempt + 1, self.pause_s, self.pause_max_s, drawn)


def is_retried(error: FederationError) -> bool:
    """Whether the same call may go better a little later."""
    return error.code in _RETRIED


def moves_on(error: FederationError) -> bool:
    """Whether another address may know better: nobody answers here, or not one of ours. What leads and is busy stays."""
    late = error.code is Code.TIMED_OUT and error.fault is Fault.NETWORK
    return late or error.code in (Code.UNREACHABLE, Code.UNAUTHENTICATED, Code.ANOTHER_STORE)


class Tries:
    """The tries of one call over so many addresses. Seconds of one monotonic clock."""

    def __init__(self, patience: Patience, addresses: int, now_s: float) -> None:
        self._patience = patience
        self._rounds = Rounds(addresses)
        self._began_s = now_s

    def failed(self, error: FederationError, now_s: float) -> float:
        """Seconds to wait before the next. Raises: `error` when trying again is of no use, or was tried for long enough.

        Each address is tried once, however long the first ones took.
        """
        rounds = self._rounds.failed(moves_on(error))
        if not is_retried(error) and (rounds or error.code is Code.UNAUTHENTICATED):
            raise error
        wait_s = self._patience.pause(rounds - 1) if rounds else 0.0
        if rounds and now_s - self._began_s + wait_s > self._patience.retry_s:
            raise error
        return wait_s


def options(target: str, proxy: str = "") -> list[tuple[str, int | str]]:
    """Channel options: a dead link is noticed within NOTICED_S, a new one is tried at once. `proxy` is the setting.

    Raises: FederationError CONFIGURATION_INVALID for a proxy that cannot be used.
    """
    chosen: list[tuple[str, int | str]] = [
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),  # of gRPC's own pings, behind which ours may stand
        ("grpc.keepalive_permit_without_calls", 1),  # else a program that waits for its next call finds the link dead
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", CONNECT_MS),
        ("grpc.max_reconnect_backoff_ms", 3_000),
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
        ("grpc.enable_retries", 0),  # ours know which errors are worth it
    ]
    way = proxy_for(target, proxy)
    chosen.append(("grpc.enable_http_proxy", 0) if way is None else ("grpc.http_proxy", way.url))
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


def metadata(settings: Settings) -> tuple[tuple[str, str], ...]:
    """The headers of every call."""
    return (("authorization", f"Bearer {settings.token}"),) if settings.token else ()


def credentials(settings: Settings) -> tuple[str, grpc.ChannelCredentials | None]:
    """("HOST:PORT", credentials); None means plain text on loopback. A given `ca` always means TLS."""
    target, tls = split_address(settings.server)
    if not tls and not (settings.ca and not settings.server.startswith("http://")):
        return target, None
    return target, grpc.ssl_channel_credentials(root_certificates=trusted(settings.ca))


def channel(settings: Settings) -> grpc.Channel:
    """A channel to the one address of `settings`. Raises: FederationError where that cannot be used."""
    target, encrypted = credentials(settings)
    chosen = options(target, settings.proxy)
    if encrypted is None:
        return grpc.insecure_channel(target, chosen)
    return grpc.secure_channel(target, encrypted, chosen)


def trusted(ca: str) -> bytes:
    """The certificates to trust, PEM: those of the file `ca`, else this system's, else the usual authorities'.

    Left alone gRPC trusts its own list, and not the authority that a campus added to its machines.
    Raises: FederationError CONFIGURATION_INVALID.
    """
    found = ca or ssl.get_default_verify_paths().cafile or certifi.where()
    try:
        return Path(found).read_bytes()
    except OSError as problem:
        raise invalid(
            f"the certificates in {found!r} cannot be read: {problem.strerror}",
            code=Code.CONFIGURATION_INVALID,
            hint="Check BRHUB_CA (`ca` in agent.toml).",
            path=found,
        ) from problem
