"""Which names the store takes, which addresses, and what a missing server looks like."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from federation.errors import Code, FederationError
from federation.objects.keys import checked_bucket, checked_key, checked_prefix
from federation.objects.links import download, upload
from federation.objects.store import PRESIGN_TTL_S_MAX, PUT_BYTES_MAX, RANGE_BYTES_MAX, ObjectStore, StoreAddress


def store(endpoint: str = "http://127.0.0.1:1") -> ObjectStore:
    """A store at which nobody answers."""
    return ObjectStore(StoreAddress(endpoint, "key", "secret-words"))


@pytest.mark.parametrize("key", ["a", "packages/0f.tar.gz", "数据/x y", "a" * 250, "/".join(["a" * 249] * 4)])
def test_plain_keys_are_taken(key: str) -> None:
    """As they are, up to the limits."""
    assert checked_key(key) == key
    assert checked_prefix(key + "/") == key + "/"


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/../b",
        "a/./b",
        "a\\b",
        "a\nb",
        "\x7f",
        "a" * 251,
        "a/" * 500 + "a",
        "\ud800",
    ],
)
def test_other_keys_are_refused(key: str) -> None:
    """Climbing, empty, long and unprintable ones, before any call is made."""
    with pytest.raises(FederationError) as caught:
        checked_key(key)
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_a_prefix_ends_with_a_slash() -> None:
    """So that `jobs/1` never removes `jobs/10`; the empty one lists all, and removes nothing."""
    assert checked_prefix("") == ""
    with pytest.raises(FederationError):
        checked_prefix("jobs/1")
    with pytest.raises(FederationError, match="whole bucket"):
        store().remove_prefix("")


@pytest.mark.parametrize("name", ["ab", "Big", "a_b", "-ab", "a.b.c", "a" * 64, "x/y"])
def test_a_strange_bucket_is_refused(name: str) -> None:
    """Only names that every server takes."""
    with pytest.raises(FederationError):
        checked_bucket(name)


@pytest.mark.parametrize("endpoint", ["", "127.0.0.1:9000", "ftp://host:1", "http://", "http://host:1/path"])
def test_a_strange_address_is_refused(endpoint: str) -> None:
    """An address has a scheme, a host and nothing behind."""
    with pytest.raises(FederationError) as caught:
        store(endpoint)
    assert caught.value.code is Code.CONFIGURATION_INVALID


def test_limits_hold_at_and_past(tmp_path: Path) -> None:
    """Sizes and lifetimes are checked before a call; links need none."""
    here = store()
    assert here.presign_get("a", PRESIGN_TTL_S_MAX).startswith("http://127.0.0.1:1/federation/a?")
    for attempt in (
        lambda: here.presign_get("a", 0),
        lambda: here.presign_put("a", PRESIGN_TTL_S_MAX + 1),
        lambda: here.get_range("a", 0, RANGE_BYTES_MAX + 1),
        lambda: here.get_range("a", -1, 1),
        lambda: here.get_range("a", 0, 0),
        lambda: here.put_bytes("a", bytes(PUT_BYTES_MAX + 1)),
        lambda: here.put_file("a", tmp_path / "absent"),
    ):
        with pytest.raises(FederationError) as caught:
            attempt()
        assert caught.value.kind.exit == 2


def test_nobody_there_is_unreachable(tmp_path: Path) -> None:
    """A closed port is the network's fault, for the adapter and for links, and no secret is shown."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{probe.getsockname()[1]}"
    link = store(closed).presign_get("a", 60)
    for attempt in (
        lambda: store(closed).stat("a"),
        lambda: store(closed).ensure_bucket(),
        lambda: download(link, tmp_path / "x", size_bytes_max=1),
        lambda: upload(link, b"x"),
    ):
        with pytest.raises(FederationError) as caught:
            attempt()
        assert caught.value.code is Code.UNREACHABLE
        assert "Signature" not in str(caught.value)
    assert "secret-words" not in repr(store().address)


def test_only_http_links_are_followed(tmp_path: Path) -> None:
    """A `file:` link would read this machine."""
    with pytest.raises(FederationError, match="neither http nor https"):
        download("file:///etc/passwd", tmp_path / "x", size_bytes_max=10_000)
    assert list(tmp_path.iterdir()) == []
