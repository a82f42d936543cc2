"""Through which HTTP CONNECT proxy something off this machine is reached: one law for gRPC, for links and for `brhub doctor`.

gRPC has a law of its own, and passes over in silence what it cannot use: HTTPS_PROXY in capitals, `proxy:3128` without
`http://`, a proxy that wants TLS. So it is told the answer of this one. It sends CONNECT for plain targets and for TLS
alike; ours are always TLS, because plain text stays on this machine, where no proxy is asked. The proxy resolves the
control plane's name; this machine resolves the proxy's only. Deliberately not here: speaking to it.
"""

from __future__ import annotations

import base64
import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from federation.errors import Code, FederationError, invalid

DIRECT = "none"
"""As a setting: ask no proxy, whatever the environment says."""
PORT = 3128
"""Where a proxy listens whose port nobody said."""
_NAMED_BY = ("grpc_proxy", "https_proxy", "HTTPS_PROXY", "http_proxy")
_SPARED_BY = ("no_grpc_proxy", "no_proxy", "NO_PROXY")


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where it listens, and who named it."""

    host: str
    port: int
    login: str = field(default="", repr=False)
    """"user:password" as in an address, percent-encoded; empty: none."""
    named_by: str = ""

    @property
    def address(self) -> str:
        """HOST:PORT, without the login: what may be shown."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """For libraries; holds the login."""
        return f"http://{self.login}@{self.address}" if self.login else f"http://{self.address}"

    @property
    def headers(self) -> dict[str, str]:
        """What CONNECT carries beyond its first line."""
        if not self.login:
            return {}
        return {"Proxy-Authorization": "Basic " + base64.b64encode(unquote(self.login).encode()).decode()}


def proxy_for(target: str, setting: str = "", environ: Mapping[str, str] | None = None) -> Proxy | None:
    """The proxy on the way to "HOST:PORT"; None: the way is direct.

    `setting` (an address, `none`, or empty: the environment's) comes first; what no_proxy names is reached directly.
    Raises: FederationError CONFIGURATION_INVALID for one that cannot be used.
    """
    env = os.environ if environ is None else environ
    host = target.rpartition(":")[0].strip("[]")
    named_by, text = "the setting `proxy`", setting.strip()
    if not text:
        named_by, text = next(((name, env[name].strip()) for name in _NAMED_BY if name in env), ("", ""))
    if text in ("", DIRECT) or is_loopback(target) or _spared(host, env):
        return None
    return _parsed(text, named_by)


def is_loopback(target: str) -> bool:
    """Whether "HOST:PORT" stays on this machine."""
    host = target.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _spared(host: str, env: Mapping[str, str]) -> bool:
    """Whether no_proxy names it: by its end, as gRPC reads it, or by a network that an address lies in."""
    spared = next((env[name] for name in _SPARED_BY if name in env), "")
    for entry in (word.strip().lower() for word in spared.split(",")):
        if entry and (entry == "*" or host.lower().endswith(entry) or _within(host, entry)):
            return True
    return False


def _within(host: str, network: str) -> bool:
    try:
        return "/" in network and ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def _parsed(text: str, named_by: str) -> Proxy:
    shown = text.rpartition("@")[2][:200]  # never the login
    scheme, found, _ = text.partition("://")
    if found and scheme.lower() != "http":
        raise _unusable(shown, named_by, f"a proxy is spoken to by http://, not by {scheme[:20]}://")
    try:
        parts = urlsplit(text if found else f"http://{text}")
        host, port = parts.hostname or "", parts.port or PORT
    except ValueError as problem:
        raise _unusable(shown, named_by, "it is no address") from problem
    if not host or not text.isprintable() or " " in text:
        raise _unusable(shown, named_by, "it is no address")
    return Proxy(host, port, parts.netloc.rpartition("@")[0], named_by)


def _unusable(shown: str, named_by: str, why: str) -> FederationError:
    return invalid(
        f"the proxy {shown!r}, from {named_by}, cannot be used: {why}",
        code=Code.CONFIGURATION_INVALID,
        hint=f"Write http://HOST:PORT, or `{DIRECT}` to ask no proxy (`proxy` in agent.toml, BRHUB_PROXY for people).",
        proxy=shown,
        named_by=named_by,
    )
