"""TLS from files: a call goes through with the right CA, and nothing listens in the clear where others can hear."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from federation.errors import Code, FederationError
from federation.identity.tls import (
    TlsFiles,
    channel_credentials,
    is_loopback,
    require_tls_or_loopback,
    server_credentials,
)
from tests.support.certificates import CertificateAuthority


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.0.0.1:7070",
        "127.9.9.9:1",
        "localhost:80",
        "[::1]:80",
        "::1",
        "unix:/run/x",
        "dns:///localhost:1",
        "http://127.0.0.1:80/path",
        "ipv4:127.0.0.1:5",
    ],
)
def test_loopback(address: str) -> None:
    """Reached from this machine only: no TLS is asked for."""
    assert is_loopback(address)
    require_tls_or_loopback(address, tls=False)


@pytest.mark.parametrize(
    "address",
    [
        "",
        ":7070",
        "0.0.0.0:7070",
        "[::]:7070",
        "::",
        "10.0.0.1:1",
        "example.org:443",
        "localhost.example.org",
        "*:80",
        "127.0.0.1.example.org:80",
        "http://example.org/127.0.0.1",
        "https://127.0.0.1@example.org:1",
        "localhost:1@example.org",
    ],
)
def test_not_loopback(address: str) -> None:
    """Refused without TLS, fine with it."""
    assert not is_loopback(address)
    require_tls_or_loopback(address, tls=True)
    with pytest.raises(FederationError) as caught:
        require_tls_or_loopback(address, tls=False)
    assert caught.value.code is Code.TLS_REQUIRED


def test_a_call_goes_through_with_the_right_authority_only(tmp_path: Path) -> None:
    """A real server and two channels: one trusts our CA, one another."""
    authority = CertificateAuthority(tmp_path)
    made = authority.server()
    (tmp_path / "other").mkdir()
    other = CertificateAuthority(tmp_path / "other", "somebody else")
    server = grpc.server(ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    port = server.add_secure_port("127.0.0.1:0", server_credentials(TlsFiles(made.certificate, made.key)))
    server.start()
    try:
        with grpc.secure_channel(f"127.0.0.1:{port}", channel_credentials(authority.ca_file)) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with grpc.secure_channel(f"127.0.0.1:{port}", channel_credentials(other.ca_file)) as channel:
            with pytest.raises(grpc.RpcError) as caught:
                health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    finally:
        server.stop(None).wait()


def test_broken_files_are_refused_before_anything_listens(tmp_path: Path) -> None:
    """Missing, not PEM, a key of another certificate, a CA that is none."""
    authority = CertificateAuthority(tmp_path)
    one, two = authority.server(file="one"), authority.server(file="two")
    (tmp_path / "text").write_text("hello")
    for files in (
        TlsFiles(one.certificate, two.key),
        TlsFiles(tmp_path / "absent", one.key),
        TlsFiles(tmp_path / "text", one.key),
    ):
        with pytest.raises(FederationError) as caught:
            server_credentials(files)
        assert caught.value.code is Code.CONFIGURATION_INVALID
    for ca_file in (tmp_path / "absent", tmp_path / "text"):
        with pytest.raises(FederationError) as caught:
            channel_credentials(ca_file)
        assert caught.value.code is Code.CONFIGURATION_INVALID
