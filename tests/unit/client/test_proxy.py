"""Which proxy is asked on the way out: settings, then the environment, never for this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from federation.client.proxy import proxy_for
from federation.client.settings import Settings
from federation.client.transport import credentials, options, trusted
from federation.errors import Code, FederationError
from federation.objects import links
from tests.support.certificates import CertificateAuthority
from tests.support.proxy import Middlebox
from tests.unit.client.small_federation import SmallFederation

TARGET = "control.example.edu:7460"
HTTPS = {"https_proxy": "http://proxy.example.edu:8080"}


@pytest.mark.parametrize(
    ("setting", "environ", "url"),
    [
        ("", {}, ""),
        ("", HTTPS, "http://proxy.example.edu:8080"),
        ("", {"HTTPS_PROXY": "proxy.example.edu"}, "http://proxy.example.edu:3128"),
        ("", {"grpc_proxy": "http://other:1", **HTTPS}, "http://other:1"),
        ("", {"grpc_proxy": "", **HTTPS}, ""),
        ("", {"http_proxy": "http://[::1]:3128/"}, "http://[::1]:3128"),
        ("http://amina:p%40ss@mine:1", HTTPS, "http://amina:p%40ss@mine:1"),
        ("none", HTTPS, ""),
        ("", {"no_proxy": "localhost, .example.edu", **HTTPS}, ""),
        ("", {"NO_PROXY": "*", **HTTPS}, ""),
        ("", {"no_proxy": "example.com", **HTTPS}, "http://proxy.example.edu:8080"),
    ],
)
def test_who_names_the_proxy(setting: str, environ: Mapping[str, str], url: str) -> None:
    """The setting, else gRPC's own variable, else what everybody uses; no_proxy spares."""
    found = proxy_for(TARGET, setting, environ)
    assert (found.url if found else "") == url


@pytest.mark.parametrize("target", ["localhost:1", "127.0.0.1:1", "[::1]:1"])
def test_this_machine_is_never_reached_by_a_proxy(target: str) -> None:
    """Whatever is set."""
    assert proxy_for(target, "http://proxy:1", HTTPS) is None


@pytest.mark.parametrize(("target", "spared"), [("10.1.2.3:1", True), ("10.2.2.3:1", False)])
def test_no_proxy_may_be_a_network(target: str, spared: bool) -> None:
    """As gRPC reads it."""
    assert (proxy_for(target, "", {"no_proxy": "10.1.0.0/16", **HTTPS}) is None) is spared


def test_a_login_is_sent_and_not_shown() -> None:
    """Percent-encoding is taken off; neither repr nor the address for people holds it."""
    found = proxy_for(TARGET, "http://amina:p%40ss@mine:1", {})
    assert found is not None
    assert found.headers == {"Proxy-Authorization": "Basic YW1pbmE6cEBzcw=="}
    assert "p%40ss" not in f"{found!r} {found.address}"
    assert "p%40ss" not in repr(Settings(TARGET, proxy="http://amina:p%40ss@mine:1"))


@pytest.mark.parametrize(
    "text", ["https://p:1", "socks5://p:1", "http://", "http://p:port", "http://p q:1", "://", "http://p:99999"]
)
def test_a_proxy_that_cannot_be_used_is_an_error(text: str) -> None:
    """CONFIGURATION_INVALID, naming where it came from; gRPC would pass it over in silence."""
    with pytest.raises(FederationError) as caught:
        proxy_for(TARGET, "", {"https_proxy": text})
    assert (caught.value.code, caught.value.metadata["named_by"]) == (Code.CONFIGURATION_INVALID, "https_proxy")


def test_grpc_is_told_the_answer() -> None:
    """So that its own reading of the environment does not matter."""
    assert ("grpc.http_proxy", "http://mine:1") in options(TARGET, "http://mine:1")
    assert ("grpc.enable_http_proxy", 0) in options(TARGET, "none")


def test_the_systems_certificates_are_trusted_unless_others_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a campus added to its machines counts."""
    authority = CertificateAuthority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))
    assert trusted("") == authority.ca_file.read_bytes()
    assert credentials(Settings(TARGET))[1] is not None


def test_links_to_the_object_store_go_by_the_same_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By CONNECT for https; a proxy that is refused is unreachable, and nothing is tried without it."""
    monkeypatch.setattr(links, "BACKOFF_S", 0.01)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Middlebox() as proxy:
        proxy.behave(answer="403 Forbidden")
        with pytest.raises(FederationError) as caught:
            links.upload("https://objects.invalid/key", b"x", proxy=proxy.url)
    assert caught.value.code is Code.UNREACHABLE
    assert len(proxy.asked) == links.ATTEMPTS_MAX
    assert all(head.startswith("CONNECT objects.invalid:443 ") for head in proxy.asked)


def test_a_packages_way_to_the_object_store_is_the_same(small: SmallFederation, tmp_path: Path) -> None:
    """A person's upload asks the proxy for what is off this machine, and for nothing else."""
    from federation.client import Patience
    from federation.client.transfer import Mover

    with Middlebox() as proxy:
        mover = Mover("", Patience(retry_s=0.0), proxy.url)
        mover.put(f"{small.store_url}/uploads/x", b"bytes")
        assert proxy.asked == []
        proxy.behave(answer="403 Forbidden")
        with pytest.raises(FederationError) as caught:
            mover.put("https://objects.invalid/key", b"x")
        mover.close()
    assert caught.value.code is Code.STORE_UNAVAILABLE
    assert proxy.asked[0].startswith("CONNECT objects.invalid:443 ")
