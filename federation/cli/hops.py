"""The way to the control plane, one hop after the other, each by the plainest means: name, TCP, proxy, TLS, HTTP/2.

What gRPC says of a way that does not work is one sentence for all of it; here each hop is tried by itself, over the same
proxy, with the same certificates and the same names as gRPC's, and the first that breaks is named. Deliberately not here:
calls (`doctor.py`), and mending anything.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from federation.errors import KINDS, Code, Fault, FederationError, invalid

if TYPE_CHECKING:
    from federation.client import Settings
    from federation.client.proxy import Proxy

OK, WARN, BAD = "ok", "warn", "bad"
CANNOT_REACH = KINDS[Code.UNREACHABLE].exit
WAIT_S = 5.0
"""How long each hop may take."""
ANSWER_BYTES_MAX = 8 * 1024
HOPS = ("name", "tcp", "proxy", "tls", "grpc", "protocol", "token", "clock")
"""In this order; what comes after one that breaks is not tried."""
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
"""What an HTTP/2 client says first (RFC 9113, 3.4): the magic words and an empty SETTINGS frame."""
_SETTINGS_FRAME = 4


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. `tried` says what was done, `took_ms` how long that took; -1: it took no time."""

    id: str
    level: str
    found: str
    do: str = ""
    tried: str = ""
    took_ms: int = -1
    fault: str = ""
    code: str = ""
    status: int = CANNOT_REACH
    """What `brhub doctor` ends with where this is what breaks."""
    not_tried: tuple[str, ...] = ()
    """Hops that lie behind it."""


@dataclass(frozen=True, slots=True)
class Way:
    """Where to, and how: as a channel to the same address would go."""

    host: str
    port: int
    tls: bool
    roots: str = field(repr=False)
    """The certificates to trust, PEM."""
    ca: str = ""
    proxy: Proxy | None = None

    @property
    def target(self) -> str:
        """HOST:PORT."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def behind(self, hop: str) -> tuple[str, ...]:
        """What is reached only over that hop."""
        absent = {"" if self.proxy else "proxy", "" if self.tls else "tls"}
        return tuple(one for one in HOPS[HOPS.index(hop) + 1 :] if one not in absent)


def way_of(settings: Settings) -> Way:
    """The way that these settings name. Raises: FederationError for what cannot be one."""
    from federation.client import transport
    from federation.client.proxy import proxy_for

    target, tls = transport.split_address(settings.server)
    tls = transport.credentials(settings)[1] is not None
    host, _, port = target.rpartition(":")
    roots = ""
    if tls:
        try:
            roots = transport.trusted(settings.ca).decode("ascii", "replace")
            _context(roots)
        except (ssl.SSLError, ValueError) as problem:
            raise invalid(
                f"the certificates in {settings.ca or 'this system'!r} are none: {problem}",
                code=Code.CONFIGURATION_INVALID,
                hint="Give a PEM file of the authority that signed the control plane's certificate.",
                path=settings.ca,
            ) from problem
    return Way(host.strip("[]"), int(port), tls, roots, settings.ca, proxy_for(target, settings.proxy))


def walk(way: Way) -> Iterator[Finding]:
    """Each hop as far as HTTP/2; the last finding is bad where the way breaks."""
    with contextlib.closing(_Line(way)) as line:
        for hop in line.hops():
            found = hop()
            if found.level == BAD:
                yield replace(found, not_tried=way.behind(found.id))
                return
            yield found


def _context(roots: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=roots)
    context.set_alpn_protocols(["h2"])
    return context


@dataclass(frozen=True, slots=True)
class _Said:
    """How an attempt went, before it is known how long it took."""

    found: str
    code: str = ""
    do: str = ""
    fault: Fault = Fault.NETWORK


class _Line:
    """One connection, as far as it has got."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self._first = (way.proxy.host, way.proxy.port) if way.proxy else (way.host, way.port)
        self._addresses: list[str] = []
        self._socket: socket.socket | None = None

    def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            self._socket.close()

    def hops(self) -> list[Callable[[], Finding]]:
        """What there is to try, in its order."""
        way, (host, port) = self._way, self._first
        whose = f"the proxy {host} (from {way.proxy.named_by})" if way.proxy else host
        there = f"the proxy {host}:{port}" if way.proxy else way.target
        found = [_timed("name", f"look up {whose}", self._name), _timed("tcp", f"connect to {there}", self._tcp)]
        if way.proxy:
            found.append(_timed("proxy", f"ask it for a way to {way.target}", self._tunnel))
        if way.tls:
            found.append(_timed("tls", f"encrypt, and check that it is {way.host}", self._handshake))
        return [*found, _timed("grpc", "speak HTTP/2", self._http2)]

    @property
    def _open(self) -> socket.socket:
        assert self._socket is not None, "the hops before have connected it"
        return self._socket

    def _name(self) -> _Said:
        host, port = self._first
        problem, self._addresses = _resolved(host, port)
        if self._addresses == [host]:
            return _Said("an address already")
        if self._addresses:
            return _Said(", ".join(self._addresses))
        setting = "the proxy's name" if self._way.proxy else "`server`"
        if isinstance(problem, TimeoutError):
            return _Said(
                f"the name server does not answer within {WAIT_S:g} s",
                "NAME_SERVER_SILENT",
                "Look at the name servers in /etc/resolv.conf, and whether this machine is on the network at all.",
            )
        return _Said(
            f"no address is known for {host!r}",
            "NAME_UNKNOWN",
            f"Check how {setting} is spelled; then ask this campus' name server: `getent hosts {host}`.",
            Fault.CALLER,
        )

    def _tcp(self) -> _Said:
        host, port = self._first
        try:
            self._socket = socket.create_connection((host, port), WAIT_S)
        except ConnectionRefusedError:
            runs = "the proxy" if self._way.proxy else "`brhub serve`"
            return _Said(
                "refused: the machine is there, and nothing listens on that port",
                "CONNECTION_REFUSED",
                f"Check the port; ask those who run it whether {runs} is up.",
                Fault.NETWORK if self._way.proxy else Fault.FEDERATION,
            )
        except TimeoutError:
            what = "the proxy" if self._way.proxy else f"port {port}"
            return _Said(
                f"no answer within {WAIT_S:g} s: packets vanish",
                "NO_ANSWER",
                f"Ask this campus' network operators to let this machine out to {what}, or which proxy to use.",
            )
        except OSError as problem:
            return _Said(
                f"no way there: {problem.strerror or problem}",
                "NO_ROUTE",
                "Look at this machine's network: `ip route`, cable, VPN.",
            )
        return _Said(f"connected to {self._open.getpeername()[0]}")

    def _tunnel(self) -> _Said:
        way, proxy = self._way, self._way.proxy
        assert proxy is not None, "only then is there such a hop"
        lines = [f"CONNECT {way.target} HTTP/1.1", f"Host: {way.target}"]
        lines += [f"{name}: {text}" for name, text in proxy.headers.items()]
        try:
            self._open.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
            answer = self._until(b"\r\n\r\n")
        except TimeoutError:
            said = _Said(f"it does not answer within {WAIT_S:g} s", "PROXY_SILENT", self._ask_the_proxys("it hangs"))
        except OSError:
            said = _Said("it cut the connection", "PROXY_CUT", self._ask_the_proxys("it cuts CONNECT"))
        else:
            said = self._judged(answer.partition(b"\r\n")[0].decode("latin-1"), cut=not answer)
        if said.code:
            return _Said(said.found, said.code, f"{said.do} {self._without_it()}", said.fault)
        return said

    def _judged(self, line: str, cut: bool) -> _Said:
        """What the proxy's first line means."""
        version, _, rest = line.partition(" ")
        status = rest[:3]
        shown = "".join(letter if letter.isprintable() else "?" for letter in line)[:120]
        if cut:
            return _Said("it cut the connection", "PROXY_CUT", self._ask_the_proxys("it cuts CONNECT"))
        if not version.startswith("HTTP/1.") or not status.isdigit():
            return _Said(
                f"it is no HTTP proxy: it says {shown!r}",
                "PROXY_NOT_HTTP",
                "Check the proxy's address and port; SOCKS and TLS proxies will not do.",
                Fault.CALLER,
            )
        if status.startswith("2"):
            return _Said("it lets us through")
        if status == "407":
            known = "refuses the name or password that it was given" if self._login else "wants a name and a password"
            return _Said(
                f"it {known}: {shown!r}",
                "PROXY_LOGIN_REQUIRED",
                "Write them into the proxy's address: http://NAME:PASSWORD@HOST:PORT (`proxy` in agent.toml, or "
                "BRHUB_PROXY). Only the Basic method works.",
                Fault.CALLER,
            )
        if status in ("502", "503", "504"):
            return _Said(
                f"it does not get there itself: {shown!r}",
                "PROXY_CANNOT_REACH",
                self._ask_the_proxys("it gets no connection to there"),
            )
        return _Said(f"it refuses: {shown!r}", "PROXY_REFUSED", self._ask_the_proxys("it refuses CONNECT"))

    @property
    def _login(self) -> str:
        return self._way.proxy.login if self._way.proxy else ""

    def _ask_the_proxys(self, what: str) -> str:
        return f"Tell the proxy's operators that {what} to {self._way.target}; they have to allow it."

    def _without_it(self) -> str:
        """Whether a way without the proxy would be better."""
        problem, addresses = _resolved(self._way.host, self._way.port)
        try:
            if problem is None:
                socket.create_connection((addresses[0], self._way.port), WAIT_S / 2).close()
                return f"Without the proxy the port answers: name {self._way.host} in no_proxy, or set proxy to `none`."
        except OSError:
            pass  # that is the answer
        return "Without the proxy there is no way either."

    def _handshake(self) -> _Said:
        try:
            wrapped = _encrypted(_context(self._way.roots), self._open, self._way.host)
        except ssl.SSLCertVerificationError as problem:
            return self._untrusted(problem)
        except TimeoutError:
            return _Said(
                f"connected, and then not a word within {WAIT_S:g} s",
                "TLS_SILENT",
                "Something takes the connection and does not serve it: a firewall, a port forward, or a server that hangs.",
            )
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError, _Cut):
            return _Said(
                "cut in the middle of the handshake",
                "TLS_CUT",
                "Ask this campus' network operators whether a firewall cuts what it does not know; else the other side does.",
            )
        except ssl.SSLError as problem:
            return _not_tls(problem)
        self._socket = wrapped
        ends = str((wrapped.getpeercert() or {}).get("notAfter", "?"))
        return _Said(f"{wrapped.version()}, certificate until {ends}")

    def _untrusted(self, problem: ssl.SSLCertVerificationError) -> _Said:
        now = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        roots = self._way.ca or "this system's list"
        if problem.verify_code == _EXPIRED:
            return _Said(
                f"its certificate has run out (this machine's clock says {now})",
                "CERTIFICATE_EXPIRED",
                "If that clock is right: the control plane's operators have to renew the certificate.",
                Fault.FEDERATION,
            )
        if problem.verify_code == _NOT_YET:
            return _Said(
                f"its certificate is not valid yet (this machine's clock says {now})",
                "CERTIFICATE_NOT_YET_VALID",
                "Most likely this machine's clock is wrong: `timedatectl`, and run NTP.",
                Fault.CALLER,
            )
        if problem.verify_code in _WRONG_NAME:
            return _Said(
                f"its certificate is for another name than {self._way.host!r}",
                "CERTIFICATE_WRONG_NAME",
                "Use the name that its operators gave you. If that is the one, they have to put it into the certificate.",
                Fault.CALLER,
            )
        return _Said(
            f"nobody vouches for its certificate in {roots}: {problem.verify_message}",
            "CERTIFICATE_UNKNOWN_AUTHORITY",
            "Get the authority's certificate from the control plane's operators and name its file: `ca` in agent.toml, or "
            "BRHUB_CA. If it is not theirs, a proxy opens this campus' TLS: ask for an exception.",
            Fault.CALLER,
        )

    def _http2(self) -> _Said:
        if isinstance(self._open, ssl.SSLSocket) and self._open.selected_alpn_protocol() != "h2":
            return _Said(
                "it speaks TLS and not HTTP/2",
                "NOT_HTTP2",
                "That is a web server or a proxy that opens TLS, not a control plane: check the port.",
                Fault.CALLER,
            )
        try:
            self._open.sendall(_PREFACE)
            answer = self._until(b"", 9)
        except TimeoutError:
            return _Said(
                f"connected, and then not a word within {WAIT_S:g} s",
                "HTTP2_SILENT",
                "Something takes the connection and does not serve it: a firewall, a port forward, or a server that hangs.",
            )
        except OSError:
            answer = b""
        if not self._way.tls and (answer[:2] == b"\x15\x03" or (not answer and self._speaks_tls())):
            return _Said("it speaks TLS", "NOT_HTTP2", f"Write https://{self._way.target}.", Fault.CALLER)
        if not answer:
            return _Said(
                "cut at the first words",
                "HTTP2_CUT",
                "Ask whoever runs that port what it is; is it the control plane's?",
            )
        if len(answer) == 9 and answer[3] == _SETTINGS_FRAME:
            return _Said("HTTP/2")
        return _Said(
            f"it says {answer.decode('latin-1')!r}: not HTTP/2",
            "NOT_HTTP2",
            "That is no control plane: check the port. The console's port is another one.",
            Fault.CALLER,
        )

    def _speaks_tls(self) -> bool:
        """Whether the port that cut plain words takes TLS; who it is does not matter here."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with contextlib.suppress(OSError), socket.create_connection(self._first, WAIT_S) as connection:
            _encrypted(context, connection, self._way.host).close()
            return True
        return False

    def _until(self, end: bytes, size_bytes: int = ANSWER_BYTES_MAX) -> bytes:
        """What comes until `end`, or so many bytes, or until it is cut. Raises: OSError."""
        got = b""
        deadline_s = time.monotonic() + WAIT_S
        while len(got) < size_bytes and not (end and end in got):
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            self._open.settimeout(left_s)
            piece = self._open.recv(1 if end else size_bytes - len(got))  # no byte of what comes after it
            if not piece:
                break
            got += piece
        self._open.settimeout(WAIT_S)
        return got


class _Cut(ConnectionError):
    """The other side hung up before or while we spoke."""


def _encrypted(context: ssl.SSLContext, connection: socket.socket, name: str) -> ssl.SSLSocket:
    """`connection` after the handshake. Raises: ssl.SSLError, TimeoutError, _Cut."""
    try:
        connection.getpeername()  # a connection that is gone already is wrapped without a handshake, or left open
        wrapped = context.wrap_socket(connection, server_hostname=name)
    except (ssl.SSLError, TimeoutError):
        raise
    except OSError as problem:
        raise _Cut from problem
    if wrapped.version() is None:
        wrapped.close()
        raise _Cut
    return wrapped


_EXPIRED, _NOT_YET, _WRONG_NAME = 10, 9, (62, 64)
"""X509_V_ERR_* of OpenSSL."""


def _not_tls(problem: ssl.SSLError) -> _Said:
    reason = (problem.reason or str(problem)).replace("_", " ").lower()
    if problem.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"):
        return _Said(
            f"it does not speak TLS ({reason})",
            "NOT_TLS",
            "Check the port. A control plane off this machine serves TLS only; one on this machine may be plain: http://.",
            Fault.CALLER,
        )
    return _Said(
        f"no agreement on how to encrypt: {reason}",
        "TLS_FAILED",
        "Ask the control plane's operators which TLS it takes; a proxy that opens TLS may be between.",
    )


def _resolved(host: str, port: int) -> tuple[OSError | None, list[str]]:
    """The addresses of a name, or why there are none; gives up after WAIT_S, which the resolver itself would not."""
    got: list[Any] = []

    def look() -> None:
        try:
            got.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as problem:
            got.append(problem if isinstance(problem, OSError) else OSError(str(problem)))

    thread = threading.Thread(target=look, name="resolve", daemon=True)
    thread.start()
    thread.join(WAIT_S)
    if not got:
        return TimeoutError(), []
    if isinstance(got[0], OSError):
        return got[0], []
    return None, sorted({str(entry[4][0]) for entry in got[0]})


def _timed(hop: str, tried: str, attempt: Callable[[], _Said]) -> Callable[[], Finding]:
    def run() -> Finding:
        began_s = time.monotonic()
        said = attempt()
        took_ms = round((time.monotonic() - began_s) * 1000)
        if not said.code:
            return Finding(hop, OK, said.found, tried=tried, took_ms=took_ms)
        return Finding(hop, BAD, said.found, said.do, tried, took_ms, said.fault, said.code)

    return run


def failed(hop: str, tried: str, error: FederationError, took_ms: int = -1) -> Finding:
    """A hop that broke with an error of ours."""
    return Finding(hop, BAD, error.message, error.hint, tried, took_ms, error.fault, error.code, error.kind.exit)
