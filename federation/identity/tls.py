"""TLS from certificate files, and the rule that nothing leaves loopback without it.

Files are checked before gRPC sees them: gRPC itself would accept a broken key and fail at the first call. Mutual TLS and
renewal come later; `client_ca` of a server is where they will enter. Not here: making certificates.
"""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from federation.errors import Code, Fault, FederationError

if TYPE_CHECKING:
    import grpc


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """A server's certificate chain and key, PEM."""

    certificate: Path
    key: Path


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """What a gRPC server needs. Raises: FederationError CONFIGURATION_INVALID (missing, broken, not a pair)."""
    import grpc

    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
        pair = (files.key.read_bytes(), files.certificate.read_bytes())
    except (OSError, ValueError) as problem:
        raise _broken(f"{files.certificate} and {files.key}", problem) from problem
    return grpc.ssl_server_credentials([pair])


def channel_credentials(ca_file: Path | None) -> grpc.ChannelCredentials:
    """What a gRPC client needs to trust `ca_file`, or the usual authorities. Raises: as `server_credentials`."""
    import grpc

    if ca_file is None:
        return grpc.ssl_channel_credentials()
    try:
        ssl.create_default_context(cafile=str(ca_file))
        roots = ca_file.read_bytes()
    except (OSError, ValueError) as problem:
        raise _broken(str(ca_file), problem) from problem
    return grpc.ssl_channel_credentials(root_certificates=roots)


def is_loopback(address: str) -> bool:
    """Whether `host`, `host:port`, `[v6]:port`, `unix:path` or `scheme://…` is reached from this machine only.

    A name other than `localhost` is not: who knows where it leads tomorrow. Nor is an empty host: that is all of them.
    """
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    rest = address.split("://", 1)[-1].lstrip("/").split("/", 1)[0]
    if "@" in rest:
        return False  # what stands before it is a name to log in with, not a host
    for scheme in ("dns:", "ipv4:", "ipv6:"):
        rest = rest.removeprefix(scheme)
    if rest.startswith("["):
        host = rest[1:].split("]", 1)[0]
    else:
        host = rest.rsplit(":", 1)[0] if rest.count(":") == 1 else rest
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_tls_or_loopback(address: str, *, tls: bool) -> None:
    """Refuse to listen or to send tokens in the clear where others can hear. Raises: FederationError TLS_REQUIRED."""
    if tls or is_loopback(address):
        return
    raise FederationError(
        Code.TLS_REQUIRED,
        f"{address} is not on loopback, and TLS is not configured.",
        fault=Fault.CALLER,
        hint="Name a certificate and a key, or use 127.0.0.1.",
        metadata={"address": address},
    )


def _no_password() -> str:
    """Without this OpenSSL would ask on the terminal, and a daemon would wait there for ever."""
    raise ValueError("the key is encrypted; give one without a password")


def _broken(what: str, problem: Exception) -> FederationError:
    return FederationError(
        Code.CONFIGURATION_INVALID,
        f"TLS files cannot be used: {what} ({problem}).",
        fault=Fault.CALLER,
        hint="Give PEM files: a certificate chain and its own key, or a CA.",
        metadata={"files": what},
    )
