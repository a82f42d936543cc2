"""`brhub doctor`: each hop is broken for real, and named; what lies behind it is not guessed at."""

from __future__ import annotations

import datetime as dt
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from federation.cli import hops
from federation.cli.doctor import calls
from federation.cli.session import now_ms
from federation.client import Client, Settings
from tests.support.certificates import CertificateAuthority
from tests.support.listener import a_listener
from tests.support.proxy import Manners, Middlebox
from tests.unit.cli.conftest import Brhub, Said
from tests.unit.client.small_federation import TOKEN, SmallFederation
from tests.unit.client.test_lines import a_black_hole, a_closed_port

NAME = "control.example.edu"
DAY = dt.timedelta(days=1)


def broken(said: Said) -> dict[str, Any]:
    """The one finding that is bad."""
    (found,) = [item for item in said.document["items"] if item["level"] == "bad"]
    return dict(found)


def names(said: Said) -> list[str]:
    """The hops that were tried."""
    return [item["id"] for item in said.document["items"] if item["id"] in hops.HOPS]


@pytest.fixture(autouse=True)
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is waited for as long as a person would, and the machine's own proxy is not ours."""
    monkeypatch.setattr(hops, "WAIT_S", 0.5)
    for name in ("grpc_proxy", "https_proxy", "HTTPS_PROXY", "http_proxy", "no_grpc_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@contextmanager
def with_tls(folder: Path, *hosts: str, from_now: dt.timedelta = dt.timedelta()) -> Iterator[tuple[int, Path]]:
    """A small federation with TLS: its port, and the file of its authority."""
    authority = CertificateAuthority(folder)
    pair = authority.server(*hosts, from_now=from_now)
    credentials = grpc.ssl_server_credentials([(pair.key.read_bytes(), pair.certificate.read_bytes())])
    federation = SmallFederation(credentials)
    federation.start()
    try:
        yield federation.port, authority.ca_file
    finally:
        federation.stop()


# ---- nothing is broken ------------------------------------------------------------------------------------------------
def test_nothing_broken(brhub: Brhub, small: SmallFederation) -> None:
    """Each hop is named, in order, with what was tried and how long it took."""
    said = brhub("doctor", "-o", "json")
    items = said.document["items"]
    assert (said.status, names(said)) == (0, ["name", "tcp", "grpc", "protocol", "token", "clock"])
    assert {item["level"] for item in items if item["id"] in hops.HOPS} == {"ok"}
    assert all(
        item["tried"] and item["took_ms"] >= 0 for item in items if item["id"] in ("name", "tcp", "grpc", "clock")
    )
    assert {item["id"] for item in items} >= {"settings", "hubs", "disk"}


def test_tls_and_a_proxy_are_hops_of_their_own(brhub: Brhub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a name that only the proxy knows, which is all that a campus without its own way out has."""
    with with_tls(tmp_path, NAME) as (port, ca), Middlebox(names={NAME: ("127.0.0.1", port)}) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.address)  # in capitals and without a scheme: gRPC alone would miss it
        monkeypatch.setenv("BRHUB_TOKEN", TOKEN)
        monkeypatch.setenv("BRHUB_CA", str(ca))
        said = brhub("doctor", "--server", f"{NAME}:7460", "-o", "json")
    assert (said.status, names(said)) == (0, list(hops.HOPS))
    assert said.document["items"][0]["found"] == (
        f"{NAME}:7460, with TLS, by the proxy {proxy.address} (from HTTPS_PROXY), a token"
    )
    assert all(f"CONNECT {NAME}:7460 " in head for head in proxy.asked)


# ---- settings, name, TCP ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("server", "hop", "code", "status"),
    [
        ("http://192.0.2.1:80", "settings", "TLS_REQUIRED", 2),
        ("nowhere", "settings", "INVALID_ARGUMENT", 2),
        ("no-such-host.invalid:443", "name", "NAME_UNKNOWN", 5),
        ("127.0.0.1:1", "tcp", "CONNECTION_REFUSED", 5),
    ],
)
def test_the_first_hops(brhub: Brhub, server: str, hop: str, code: str, status: int) -> None:
    """What was set, the name, the port; nothing behind it is tried."""
    said = brhub("doctor", "--server", server, "-o", "json")
    found = broken(said)
    assert (found["id"], found["code"], said.status) == (hop, code, status)
    assert found["fault"]
    assert found["do"]
    assert names(said)[-1:] in ([hop], [])


def test_a_name_server_that_is_silent_is_told_from_a_name_that_is_wrong(
    brhub: Brhub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resolver itself would wait for half a minute."""
    asked = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: asked.wait(20))
    found = broken(brhub("doctor", "--server", "control.invalid:443", "-o", "json"))
    asked.set()
    assert (found["id"], found["code"], found["fault"]) == ("name", "NAME_SERVER_SILENT", "network")


def test_a_firewall_that_drops_is_told_from_a_closed_port(brhub: Brhub, tmp_path: Path) -> None:
    """A listener whose queue is full drops what comes, as a firewall does."""
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for one in (first, second):
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        found = broken(brhub("doctor", "--server", f"127.0.0.1:{full.getsockname()[1]}", "-o", "json"))
    assert (found["id"], found["code"], found["fault"]) == ("tcp", "NO_ANSWER", "network")


# ---- the proxy --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("manners", "code", "fault"),
    [
        (Manners(answer="407 Proxy Authentication Required"), "PROXY_LOGIN_REQUIRED", "caller"),
        (Manners(answer="403 Forbidden"), "PROXY_REFUSED", "network"),
        (Manners(answer="502 Bad Gateway"), "PROXY_CANNOT_REACH", "network"),
        (Manners(answer="nonsense"), "PROXY_NOT_HTTP", "caller"),
        (Manners(cuts=True), "PROXY_CUT", "network"),
        (Manners(hangs=True), "PROXY_SILENT", "network"),
    ],
)
def test_what_a_proxy_does(
    brhub: Brhub, monkeypatch: pytest.MonkeyPatch, manners: Manners, code: str, fault: str
) -> None:
    """Refused, cut, silent, or no proxy at all; and whether there is a way without it."""
    with Middlebox(manners) as proxy:
        monkeypatch.setenv("BRHUB_PROXY", f"http://amina:secret@{proxy.address}")
        said = brhub("doctor", "--server", "control.invalid:7460", "-o", "json")
    found = broken(said)
    assert (found["id"], found["code"], found["fault"], said.status) == ("proxy", code, fault, 5)
    assert "Without the proxy there is no way either." in found["do"]
    assert "secret" not in said.out


def test_a_proxy_that_is_not_there_is_a_hop_too(brhub: Brhub, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the proxy's port that is tried, and said so."""
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    found = broken(brhub("doctor", "--server", f"{NAME}:7460", "-o", "json"))
    assert (found["id"], found["code"], found["tried"]) == (
        "tcp", "CONNECTION_REFUSED", "connect to the proxy 127.0.0.1:1",
    )  # fmt: skip


def test_a_proxy_that_cannot_be_used_is_refused_and_not_passed_over(
    brhub: Brhub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GRPC alone would say nothing and try without."""
    monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:1080")
    said = brhub("doctor", "--server", f"{NAME}:7460", "-o", "json")
    assert (broken(said)["code"], said.status) == ("CONFIGURATION_INVALID", 2)
    assert "from https_proxy" in broken(said)["found"]


# ---- TLS --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("host", "from_now", "foreign", "trouble"),
    [
        ("localhost", -3 * DAY, False, ("CERTIFICATE_EXPIRED", "federation")),
        ("localhost", 3 * DAY, False, ("CERTIFICATE_NOT_YET_VALID", "caller")),
        ("other.example.edu", 0 * DAY, False, ("CERTIFICATE_WRONG_NAME", "caller")),
        ("localhost", 0 * DAY, True, ("CERTIFICATE_UNKNOWN_AUTHORITY", "caller")),
    ],
)
def test_a_certificate_that_will_not_do(
    brhub: Brhub, folder: Path, host: str, from_now: dt.timedelta, foreign: bool, trouble: tuple[str, str]
) -> None:
    """Run out, too young, of another name, of an authority that nobody here knows."""
    (folder / "other").mkdir()
    other = CertificateAuthority(folder / "other", "another authority").ca_file
    with with_tls(folder, host, from_now=from_now) as (port, ca):
        (folder / "trusted.pem").write_bytes((other if foreign else ca).read_bytes())
        said = brhub("doctor", "--server", f"https://localhost:{port}", "-o", "json")
    found = broken(said)
    assert (found["id"], (found["code"], found["fault"]), said.status) == ("tls", trouble, 5)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose `trusted.pem` is what is trusted."""
    monkeypatch.setenv("BRHUB_CA", str(tmp_path / "trusted.pem"))
    return tmp_path


def test_certificates_that_are_none_are_a_setting(
    brhub: Brhub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GRPC would fail at the first call, without a word about the file."""
    (tmp_path / "ca.pem").write_text("not a certificate")
    monkeypatch.setenv("BRHUB_CA", str(tmp_path / "ca.pem"))
    said = brhub("doctor", "--server", f"{NAME}:7460", "-o", "json")
    assert (broken(said)["id"], broken(said)["code"], said.status) == ("settings", "CONFIGURATION_INVALID", 2)


@pytest.mark.parametrize(
    ("answer", "hangs_up", "code"),
    [(b"", False, "TLS_SILENT"), (b"", True, "TLS_CUT"), (b"SSH-2.0\r\n", False, "NOT_TLS")],
)
def test_what_answers_where_tls_was_expected(brhub: Brhub, answer: bytes, hangs_up: bool, code: str) -> None:
    """Nothing, an end, or something else."""
    with a_listener(answer, hangs_up=hangs_up) as port:
        found = broken(brhub("doctor", "--server", f"https://127.0.0.1:{port}", "-o", "json"))
    assert (found["id"], found["code"]) == ("tls", code)


def test_a_plain_control_plane_is_told_from_tls(brhub: Brhub, small: SmallFederation) -> None:
    """TLS was expected and did not come."""
    found = broken(brhub("doctor", "--server", f"https://{small.settings.server}", "-o", "json"))
    assert (found["id"], found["code"]) == ("tls", "NOT_TLS")


def test_a_control_plane_with_tls_is_told_from_a_plain_one(brhub: Brhub, tmp_path: Path) -> None:
    """And the address that would do is said."""
    with with_tls(tmp_path) as (port, _):
        found = broken(brhub("doctor", "--server", f"127.0.0.1:{port}", "-o", "json"))
    assert (found["id"], found["code"], found["do"]) == ("grpc", "NOT_HTTP2", f"Write https://127.0.0.1:{port}.")


# ---- HTTP/2 and gRPC --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("answer", "hangs_up", "code"),
    [
        (b"", False, "HTTP2_SILENT"),
        (b"", True, "HTTP2_CUT"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", False, "NOT_HTTP2"),
    ],
)
def test_what_answers_where_http2_was_expected(brhub: Brhub, answer: bytes, hangs_up: bool, code: str) -> None:
    """Nothing, an end, or a web server."""
    with a_listener(answer, hangs_up=hangs_up) as port:
        said = brhub("doctor", "--server", f"127.0.0.1:{port}", "-o", "json")
    assert (broken(said)["id"], broken(said)["code"], said.status) == ("grpc", code, 5)
    assert broken(said)["not_tried"] == ["protocol", "token", "clock"]


# ---- version, token, clock --------------------------------------------------------------------------------------------
def test_another_protocol_is_bad_for_an_agent_and_a_warning_for_people(
    brhub: Brhub, small: SmallFederation, tmp_path: Path
) -> None:
    """Whose program is the older one is said."""
    small.protocols = (2, 3)
    said = brhub("doctor", "-o", "json")
    (found,) = [item for item in said.document["items"] if item["id"] == "protocol"]
    assert (found["level"], found["code"], said.status) == ("warn", "PROTOCOL_UNSUPPORTED", 0)
    said = brhub("doctor", "--agent", an_agents_file(tmp_path, small.settings.server, "cairo"), "-o", "json")
    (found,) = [item for item in said.document["items"] if item["id"] == "protocol"]
    assert (found["level"], found["do"]) == ("bad", "Update this machine. Runs go on meanwhile.")
    assert said.status == 1


def an_agents_file(folder: Path, server: str, hub_id: str) -> Path:
    """An agent.toml."""
    file = folder / "agent.toml"
    file.write_text(f'hub_id = "{hub_id}"\nserver = "{server}"\ntoken = "{TOKEN}"\nstate_dir = "."\n')
    return file


def test_a_token_that_is_not_known_is_refused(
    brhub: Brhub, small: SmallFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way is fine, the token is not; the clock needs none."""
    monkeypatch.setenv("BRHUB_TOKEN", "other")
    said = brhub("doctor")
    assert said.status == 4
    assert "BAD   token" in said.out
    assert "not tried" not in said.out
    assert "OK    clock" in said.out
    assert said.out.endswith("\nbroken: token [UNAUTHENTICATED]\n")


def test_an_agent_with_somebody_elses_token_is_told_whose_it_is(
    brhub: Brhub, small: SmallFederation, tmp_path: Path
) -> None:
    """The small federation takes everybody for Aisha."""
    said = brhub("doctor", "--agent", an_agents_file(tmp_path, small.settings.server, "shenzhen"), "-o", "json")
    found = broken(said)
    assert (found["id"], found["found"], said.status) == (
        "token", "it is for aisha of cairo, and this agent is of hub shenzhen", 4,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ahead_ms", "level", "word"),
    [
        (0, "ok", "agree"),
        (4_000, "ok", "behind"),
        (8_000, "warn", "behind"),
        (-8_000, "warn", "ahead"),
        (40_000, "bad", "behind"),
    ],
)
def test_a_clock_that_is_off(small: SmallFederation, ahead_ms: int, level: str, word: str) -> None:
    """From 5 s on a warning, beyond the skew bound of 30 s an error."""
    small.clock_ahead_ms = ahead_ms
    with Client(small.settings) as client:
        (found,) = [one for one in calls(client, None, now_ms) if one.id == "clock"]
    assert (found.level, word in found.found) == (level, True)
    assert found.code == ("" if level == "ok" else "CLOCK_SKEWED")


@pytest.mark.parametrize("away", [False, True])
def test_an_object_store_that_the_control_plane_waits_for(small: SmallFederation, away: bool) -> None:
    """A warning that says whose it is and what goes on; no word where there is nothing to say."""
    small.objects_away = away
    with Client(small.settings) as client:
        found = [one for one in calls(client, None, now_ms) if one.id == "objects"]
    assert [(one.level, one.fault, one.code) for one in found] == [("warn", "federation", "STORE_UNAVAILABLE")] * away


def test_a_slow_link_is_not_a_wrong_clock(small: SmallFederation) -> None:
    """Half of the round trip is taken off, and the other half is the doubt."""
    link = Middlebox(Manners(delay_s=0.2), to=("127.0.0.1", small.port))
    with link, Client(Settings(link.address, TOKEN)) as client:
        (found,) = [one for one in calls(client, None, now_ms) if one.id == "clock"]
    assert (found.level, found.took_ms >= 1_200) == ("ok", True)
    assert found.found.startswith("they agree (± 0.")


# ---- several control planes -------------------------------------------------------------------------------------------
def test_a_standby_that_waits_is_no_trouble(brhub: Brhub, small: SmallFederation) -> None:
    """Each address is walked; a machine that refuses is well while another answers, and one that is silent is a warning."""
    with a_closed_port() as waiting, a_black_hole() as silent:
        said = brhub("doctor", "--server", f"{waiting},{small.settings.server},{silent}", "-o", "json")
    items = [item for item in said.document["items"] if item["id"] in ("settings", *hops.HOPS, "standby")]
    assert said.status == 0
    assert [(item["id"], item["level"]) for item in items] == [
        *[("settings", "ok"), ("name", "ok"), ("tcp", "ok")],
        *[("settings", "ok"), ("name", "ok"), ("tcp", "ok")],
        *[("settings", "ok"), ("name", "ok"), ("tcp", "warn")],
        *[("grpc", "ok"), ("protocol", "ok"), ("token", "ok"), ("clock", "ok")],
    ]
    assert "a standby does so until it leads" in items[2]["found"]


def test_nobody_who_leads_is_trouble(brhub: Brhub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no address answers, each hop that breaks is said."""
    with a_closed_port() as one, a_closed_port() as two:
        said = brhub("doctor", "--server", f"{one},{two}", "-o", "json")
    bad = [item["code"] for item in said.document["items"] if item["level"] == "bad"]
    assert (said.status, bad) == (5, ["CONNECTION_REFUSED"] * 2)


def test_two_that_answer_are_told(brhub: Brhub, small: SmallFederation) -> None:
    """Of one federation only one answers: the other name leads elsewhere."""
    other = SmallFederation()
    other.start()
    try:
        said = brhub("doctor", "--server", f"{small.settings.server},{other.settings.server}", "-o", "json")
    finally:
        other.stop()
    (found,) = [item for item in said.document["items"] if item["id"] == "standby"]
    assert (said.status, found["level"]) == (0, "warn")
    assert other.settings.server in found["found"]
