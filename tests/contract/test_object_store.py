"""What every object store must do for us: one body, against the embedded server and against one that the caller names.

The second is named by BRHUB_S3_ENDPOINT, BRHUB_S3_ACCESS_KEY and BRHUB_S3_SECRET_KEY (and BRHUB_S3_CA_FILE).
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from federation.errors import Code, Fault, FederationError
from federation.objects.credentials import scoped_credentials
from federation.objects.embedded import EmbeddedSettings, start_embedded
from federation.objects.links import download, upload
from federation.objects.store import ObjectInfo, ObjectStore, StoreAddress
from tests.support.certificates import CertificateAuthority
from tests.support.eventually import eventually

MIB = 1024 * 1024
FOREIGN = "BRHUB_S3_ENDPOINT"
SERVERS = ["embedded", "embedded over TLS", *(["named by the environment"] if FOREIGN in os.environ else [])]


@pytest.fixture(scope="module", params=SERVERS)
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreAddress]:
    """A server, and the way in."""
    if request.param == "named by the environment":
        ca_file = os.environ.get("BRHUB_S3_CA_FILE")
        yield StoreAddress(
            os.environ[FOREIGN],
            os.environ["BRHUB_S3_ACCESS_KEY"],
            os.environ["BRHUB_S3_SECRET_KEY"],
            bucket=f"contract-{secrets.token_hex(6)}",
            ca_file=Path(ca_file) if ca_file else None,
        )
        return
    folder = tmp_path_factory.mktemp("store")
    settings = EmbeddedSettings(folder / "data", folder / "log", "root-key", secrets.token_urlsafe(16))
    if request.param == "embedded over TLS":
        authority = CertificateAuthority(folder)
        server = authority.server()
        settings = replace(settings, certificate=server.certificate, key=server.key, ca_file=authority.ca_file)
    embedded = start_embedded(settings)
    yield embedded.address
    embedded.stop()
    assert not embedded.running()


@dataclass
class Desk:
    """A store, a prefix of this test's own in it, and a folder."""

    store: ObjectStore
    prefix: str
    folder: Path


@pytest.fixture
def desk(address: StoreAddress, tmp_path: Path) -> Iterator[Desk]:
    """Made fresh, and cleared afterwards."""
    store = ObjectStore(address)
    store.ensure_bucket()
    desk = Desk(store, f"test-{secrets.token_hex(6)}/", tmp_path)
    yield desk
    store.remove_prefix(desk.prefix)


def sha256(data: bytes) -> str:
    """Hex."""
    return hashlib.sha256(data).hexdigest()


def code_of(caught: pytest.ExceptionInfo[FederationError]) -> Code:
    """The code of what was raised."""
    return caught.value.code


def test_bytes_and_files_come_back(desk: Desk) -> None:
    """Small, empty and overwritten objects, with names that need escaping, verified by digest."""
    key = desk.prefix + "deep/folder/naïve name+100%#数据.bin"
    for data in (b"first", b"", b"second, longer"):
        desk.store.put_bytes(key, data)
        assert desk.store.get_bytes(key, sha256=sha256(data)) == data
        assert desk.store.stat(key) == ObjectInfo(key, len(data))
        desk.store.get_file(key, desk.folder / "back", sha256=sha256(data))
        assert (desk.folder / "back").read_bytes() == data
    assert [item.name for item in desk.folder.iterdir()] == ["back"]


def test_a_file_of_many_parts_comes_back(desk: Desk) -> None:
    """Past the size of a part, so that the multipart way is gone."""
    data = secrets.token_bytes(MIB) * 35 + b"tail"
    (desk.folder / "large").write_bytes(data)
    desk.store.put_file(desk.prefix + "large", desk.folder / "large")
    assert desk.store.stat(desk.prefix + "large").size_bytes == len(data)
    desk.store.get_file(desk.prefix + "large", desk.folder / "back", sha256=sha256(data))
    assert desk.store.get_range(desk.prefix + "large", len(data) - 4, 100) == b"tail"


def test_a_wrong_digest_leaves_nothing(desk: Desk) -> None:
    """The file does not appear, and one that was there stays."""
    desk.store.put_bytes(desk.prefix + "a", b"damaged")
    (desk.folder / "back").write_bytes(b"older")
    with pytest.raises(FederationError) as caught:
        desk.store.get_file(desk.prefix + "a", desk.folder / "back", sha256=sha256(b"whole"))
    assert code_of(caught) is Code.DIGEST_MISMATCH
    assert (desk.folder / "back").read_bytes() == b"older"
    assert len(list(desk.folder.iterdir())) == 1
    with pytest.raises(FederationError) as caught:
        desk.store.get_bytes(desk.prefix + "a", sha256=sha256(b"whole"))
    assert code_of(caught) is Code.DIGEST_MISMATCH


def test_ranges(desk: Desk) -> None:
    """The middle, the end, past the end."""
    desk.store.put_bytes(desk.prefix + "a", b"0123456789")
    assert desk.store.get_range(desk.prefix + "a", 2, 3) == b"234"
    assert desk.store.get_range(desk.prefix + "a", 8, 100) == b"89"
    with pytest.raises(FederationError) as caught:
        desk.store.get_range(desk.prefix + "a", 10, 1)
    assert code_of(caught) is Code.OFFSET_OUT_OF_RANGE


def test_what_is_not_there_is_said_so(desk: Desk) -> None:
    """Each reading verb answers OBJECT_NOT_FOUND; removing nothing is harmless."""
    key = desk.prefix + "absent"
    for attempt in (
        lambda: desk.store.stat(key),
        lambda: desk.store.get_bytes(key),
        lambda: desk.store.get_range(key, 0, 1),
        lambda: desk.store.get_file(key, desk.folder / "x"),
        lambda: desk.store.copy(key, desk.prefix + "b"),
    ):
        with pytest.raises(FederationError) as caught:
            attempt()
        assert code_of(caught) is Code.OBJECT_NOT_FOUND
    assert not desk.store.exists(key)
    desk.store.remove(key)
    assert desk.store.remove_prefix(desk.prefix) == 0
    assert list(desk.folder.iterdir()) == []


def test_lists_copies_and_removes_by_prefix(desk: Desk) -> None:
    """A prefix is a folder: `a/` does not mean `ab/`; more objects than one page are listed."""
    keys = [f"{desk.prefix}a/{n:04}" for n in range(1_050)]
    for key in keys:
        desk.store.put_bytes(key, b"x")
    desk.store.put_bytes(desk.prefix + "ab/other", b"yy")
    assert [item.key for item in desk.store.list(desk.prefix + "a/")] == keys
    desk.store.copy(desk.prefix + "ab/other", desk.prefix + "copy")
    assert desk.store.get_bytes(desk.prefix + "copy") == b"yy"
    assert desk.store.remove_prefix(desk.prefix + "a/") == 1_050
    assert [item.key for item in desk.store.list(desk.prefix)] == [desk.prefix + "ab/other", desk.prefix + "copy"]


def test_links_carry_bytes_without_a_key(desk: Desk, address: StoreAddress) -> None:
    """Put and get over presigned links; another object, another verb or a changed link is refused."""
    scoped = scoped_credentials(desk.store, desk.prefix, ttl_s=60)
    data = secrets.token_bytes(100_000)
    (desk.folder / "in").write_bytes(data)
    upload(scoped.put_link("by/file 1"), desk.folder / "in", ca_file=address.ca_file)
    upload(scoped.put_link("bytes"), b"few", ca_file=address.ca_file)
    assert desk.store.get_bytes(desk.prefix + "bytes") == b"few"
    link = scoped.get_link("by/file 1")
    size = download(link, desk.folder / "out", sha256=sha256(data), size_bytes_max=len(data), ca_file=address.ca_file)
    assert (size, (desk.folder / "out").read_bytes()) == (len(data), data)
    for bad in (link.replace("file%201", "other"), link[:-4] + "0000"):
        with pytest.raises(FederationError) as caught:
            download(bad, desk.folder / "bad", size_bytes_max=10, ca_file=address.ca_file)
        assert code_of(caught) is Code.PERMISSION_DENIED
    with pytest.raises(FederationError) as caught:
        upload(link, b"overwrite", ca_file=address.ca_file)
    assert code_of(caught) is Code.PERMISSION_DENIED
    assert desk.store.get_bytes(desk.prefix + "by/file 1") == data


def test_a_download_is_limited_and_verified(desk: Desk, address: StoreAddress) -> None:
    """One byte too many, a wrong digest and a missing object leave no file."""
    desk.store.put_bytes(desk.prefix + "a", b"12345")
    link = desk.store.presign_get(desk.prefix + "a", 60)
    gone = desk.store.presign_get(desk.prefix + "gone", 60)
    cases = [(link, 4, "", Code.LIMIT_EXCEEDED), (link, 5, "0" * 64, Code.DIGEST_MISMATCH)]
    for url, limit, digest, code in [*cases, (gone, 5, "", Code.OBJECT_NOT_FOUND)]:
        with pytest.raises(FederationError) as caught:
            download(url, desk.folder / "x", sha256=digest, size_bytes_max=limit, ca_file=address.ca_file)
        assert code_of(caught) is code
    assert list(desk.folder.iterdir()) == []


def test_a_link_runs_out(desk: Desk, address: StoreAddress) -> None:
    """After its time it is refused, and the error does not repeat its signature."""
    desk.store.put_bytes(desk.prefix + "a", b"x")
    link = desk.store.presign_get(desk.prefix + "a", 1)
    refusals: list[FederationError] = []

    def refused() -> bool:
        try:
            download(link, desk.folder / "x", size_bytes_max=10, ca_file=address.ca_file)
        except FederationError as problem:
            refusals.append(problem)
        return bool(refusals)

    eventually(refused, 15)
    assert refusals[0].code is Code.PERMISSION_DENIED
    assert "Signature" not in str(refusals[0])


def test_wrong_keys_are_refused(desk: Desk) -> None:
    """A wrong secret and an unknown key read as our fault, not the caller's."""
    desk.store.put_bytes(desk.prefix + "a", b"x")
    for wrong in (
        replace(desk.store.address, secret_key="wrong-secret"),
        replace(desk.store.address, access_key="unknown-key"),
    ):
        for attempt in (ObjectStore(wrong).get_bytes, ObjectStore(wrong).remove):
            with pytest.raises(FederationError) as caught:
                attempt(desk.prefix + "a")
            assert (code_of(caught), caught.value.fault) == (Code.PERMISSION_DENIED, Fault.FEDERATION)
    assert desk.store.exists(desk.prefix + "a")


def test_a_certificate_from_another_authority_is_not_trusted(desk: Desk) -> None:
    """Over TLS, the wrong CA means unreachable, for the adapter and for links."""
    if not desk.store.address.endpoint.startswith("https:"):
        assert desk.store.address.ca_file is None
        return
    (desk.folder / "other").mkdir()
    other = CertificateAuthority(desk.folder / "other", "somebody else")
    with pytest.raises(FederationError) as caught:
        ObjectStore(replace(desk.store.address, ca_file=other.ca_file)).stat(desk.prefix + "a")
    assert code_of(caught) is Code.UNREACHABLE
    with pytest.raises(FederationError) as caught:
        download(
            desk.store.presign_get(desk.prefix + "a", 60), desk.folder / "x", size_bytes_max=1, ca_file=other.ca_file
        )
    assert code_of(caught) is Code.UNREACHABLE
