"""The archive against strangers: any folder comes back, and no bytes do anything but be refused."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import tempfile
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from federation.archive import Limits, manifest, pack, unpack
from federation.errors import FederationError

SMALL = Limits(packed_bytes_max=100_000, unpacked_bytes_max=100_000, file_bytes_max=50_000, entries_max=50, depth_max=6)

part = st.text(
    st.characters(codec="utf-8", exclude_characters="/\\", exclude_categories=("Cs", "Cc")), min_size=1, max_size=40
).filter(lambda text: text not in (".", "..") and not text.endswith(".pyc") and not text.startswith("."))
folders = st.recursive(
    st.binary(max_size=300), lambda inner: st.dictionaries(part, inner, max_size=4), max_leaves=12
).filter(lambda tree: isinstance(tree, dict))

nasty_names = st.one_of(
    st.sampled_from(
        ["../evil", "/evil", "a/../../evil", "a", "a/b", "a/b/c", "./a", "", ".", "..", "a\\..\\evil", "b"]
    ),
    st.text(max_size=20),
)
kinds = st.sampled_from(
    [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, b"L", b"x", b"g"]
)
members = st.lists(
    st.tuples(nasty_names, kinds, st.binary(max_size=600), st.sampled_from(["", "..", "../..", "/", "a", "../evil"])),
    max_size=8,
)


def lay_out(tree: dict[str, object], place: Path) -> None:
    """Write a tree of dictionaries (folders) and bytes (files)."""
    place.mkdir()
    for name, inner in tree.items():
        if isinstance(inner, dict):
            lay_out(inner, place / name)
        elif isinstance(inner, bytes):
            (place / name).write_bytes(inner)


def everything_in(folder: Path) -> set[str]:
    """Every path below a folder, links not followed."""
    return {(Path(here) / name).relative_to(folder).as_posix() for here, a, b in os.walk(folder) for name in [*a, *b]}


def try_unpack(data: bytes) -> bool:
    """Unpack in a box of its own; whatever happens, nothing may appear outside the target. Was it accepted?"""
    with tempfile.TemporaryDirectory() as name:
        box = Path(name)
        (box / "deep").mkdir()
        (box / "p.tar.gz").write_bytes(data)
        try:
            unpack(box / "p.tar.gz", box / "deep" / "out", limits=SMALL)
        except FederationError:
            assert everything_in(box) == {"deep", "p.tar.gz"}
            return False
        below = everything_in(box) - {"deep/out"}
        assert {path for path in below if not path.startswith("deep/out/")} == {"deep", "p.tar.gz"}
        assert not any((box / path).is_symlink() for path in below)
        return True


@settings(max_examples=60)
@given(folders)
def test_any_folder_comes_back(tree: dict[str, object]) -> None:
    """What packs unpacks to the same manifest and the same folders."""
    with tempfile.TemporaryDirectory() as name:
        source, target, package = Path(name, "source"), Path(name, "out"), Path(name, "p")
        lay_out(tree, source)
        package.write_bytes(pack(source).data)
        unpack(package, target)
        assert manifest(target) == manifest(source)
        assert everything_in(target) == everything_in(source)


@settings(max_examples=200)
@given(members, st.sampled_from([tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT]))
def test_no_archive_writes_outside_its_target(parts: list[tuple[str, bytes, bytes, str]], dialect: int) -> None:
    """Hostile names, links, types and contents in any order, in each dialect of tar."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=dialect, errors="surrogateescape") as tar:
        for name, kind, content, link in parts:
            about = tarfile.TarInfo(name)
            about.type, about.linkname, about.size = kind, link, len(content)
            try:
                tar.addfile(about, io.BytesIO(content))
            except (ValueError, UnicodeError):
                continue  # this dialect cannot say it
    try_unpack(out.getvalue())


@settings(max_examples=150)
@given(st.binary(max_size=2000), st.booleans())
@example(bytes(tarfile.BLOCKSIZE), True)
def test_random_bytes_are_refused_with_a_code(data: bytes, squeeze: bool) -> None:
    """No other exception than ours, and nothing left behind. A block of zeros is tar's word for an end: an empty package."""
    empty = squeeze and len(data) >= tarfile.BLOCKSIZE and not any(data[: tarfile.BLOCKSIZE])
    assert try_unpack(gzip.compress(data) if squeeze else data) == empty


@settings(max_examples=200)
@given(st.data())
def test_a_damaged_archive_is_refused_or_harmless(data: st.DataObject) -> None:
    """Bytes changed inside the tar, with a good checksum around them."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in ("a", "b/c", "d" * 120):
            about = tarfile.TarInfo(name)
            about.size = 700
            tar.addfile(about, io.BytesIO(b"z" * 700))
    plain = bytearray(out.getvalue())
    for _ in range(data.draw(st.integers(1, 6))):
        plain[data.draw(st.integers(0, len(plain) - 1))] = data.draw(st.integers(0, 255))
    try_unpack(gzip.compress(bytes(plain[: data.draw(st.integers(0, len(plain)))])))
