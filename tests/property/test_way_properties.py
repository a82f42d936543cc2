"""What the outside says on the way to a control plane: any text as a proxy, any bytes as an answer."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation.cli import hops
from federation.client.proxy import proxy_for
from federation.client.settings import Settings
from federation.errors import Code, FederationError
from tests.support.certificates import CertificateAuthority
from tests.support.listener import a_listener

TARGET = "control.example.edu:7460"


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_is_a_proxy_or_an_error_of_ours(text: str, spared: str) -> None:
    """And what it is can be written as an address again."""
    try:
        found = proxy_for(TARGET, text, {"no_proxy": spared})
    except FederationError as error:
        if error.code is not Code.CONFIGURATION_INVALID:
            raise
        return
    if found is not None:
        again = proxy_for(TARGET, found.url, {})
        assert again is not None
        assert (again.host, again.port, again.login) == (found.host, found.port, found.login)


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority that is trusted and has signed nothing."""
    return CertificateAuthority(tmp_path_factory.mktemp("ca")).ca_file


ANSWERS = st.one_of(
    st.binary(max_size=64),
    st.sampled_from([b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.0 2", b"HTTP/1.1 \r\n\r\n", b"\x15\x03\x03\x00\x02\x02\x28"]),
    st.binary(max_size=16).map(lambda rest: b"HTTP/1.1 " + rest + b"\r\n\r\n"),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ANSWERS, st.booleans(), st.sampled_from(["proxy", "tls", "grpc"]))
def test_whatever_answers_is_a_finding(
    ca: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes, hangs_up: bool, expected: str
) -> None:
    """Each hop ends with a level and, where it is bad, a fault, something to do and a code; never with a traceback."""
    monkeypatch.setattr(hops, "WAIT_S", 0.1)
    with a_listener(answer, hangs_up=hangs_up) as port:
        here = f"127.0.0.1:{port}"
        way = {
            "proxy": Settings("localhost.invalid:1", ca=str(ca), proxy=f"http://{here}"),
            "tls": Settings(f"https://{here}", ca=str(ca)),
            "grpc": Settings(here),
        }[expected]
        found = list(hops.walk(hops.way_of(way)))
    assert [one.id for one in found] == list(dict.fromkeys(one.id for one in found))
    for one in found:
        assert one.level in (hops.OK, hops.BAD)
        assert one.found.isprintable()
        assert one.level == hops.OK or (one.fault and one.do and one.code)


def test_a_name_that_is_none_is_a_finding() -> None:
    """A label that is too long for any name server."""
    (found,) = hops.walk(hops.way_of(Settings(f"{'x' * 70}.invalid:443")))
    assert (found.id, found.code) == ("name", "NAME_UNKNOWN")
