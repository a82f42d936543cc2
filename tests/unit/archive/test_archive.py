"""The archive's cases: what packs, what is left out, and every kind of archive that must be refused."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from federation.archive import Limits, digest, manifest, manifest_digest, pack, unpack
from federation.errors import Code, FederationError


def write(folder: Path, files: dict[str, bytes]) -> Path:
    """A folder with these files."""
    for path, content in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    return folder


def archive(build: Callable[[tarfile.TarFile], None], *, dialect: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar.gz that `build` filled."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=dialect) as tar:
        build(tar)
    return out.getvalue()


def member(name: str, content: bytes = b"x", **attributes: object) -> Callable[[tarfile.TarFile], None]:
    """Adds one member, with any attribute of its header set by hand."""

    def add(tar: tarfile.TarFile) -> None:
        about = tarfile.TarInfo(name)
        about.size = len(content)
        for key, value in attributes.items():
            setattr(about, key, value)
        tar.addfile(about, io.BytesIO(content) if about.size else None)

    return add


def several(*builders: Callable[[tarfile.TarFile], None]) -> Callable[[tarfile.TarFile], None]:
    """All of them, in order."""

    def add(tar: tarfile.TarFile) -> None:
        for build in builders:
            build(tar)

    return add


def names_in(folder: Path) -> list[str]:
    """What lies in a folder, by name."""
    return sorted(place.name for place in folder.iterdir())


def refusal(data: bytes, tmp_path: Path, limits: Limits | None = None) -> FederationError:
    """Unpack, expect a refusal, and check that nothing was left behind."""
    box = tmp_path / "box"
    box.mkdir()
    (box / "package.tar.gz").write_bytes(data)
    with pytest.raises(FederationError) as caught:
        unpack(box / "package.tar.gz", box / "out", limits=limits or Limits())
    assert names_in(box) == ["package.tar.gz"]
    assert names_in(tmp_path) == ["box"]
    return caught.value


def test_a_folder_comes_back_as_it_was(tmp_path: Path) -> None:
    """Files, an empty folder, a program's mode and a long non-ASCII name survive the trip."""
    long_name = "数据/" + "x" * 200 + ".txt"
    source = write(tmp_path / "source", {"main.py": b"print(1)", "a/b/c.bin": bytes(range(256)), long_name: b"long"})
    (source / "empty").mkdir()
    (source / "main.py").chmod(0o755)
    packed = pack(source)
    (tmp_path / "p.tar.gz").write_bytes(packed.data)
    files = unpack(tmp_path / "p.tar.gz", tmp_path / "out")
    assert files == packed.files == tuple(sorted(["main.py", "a/b/c.bin", long_name]))
    assert manifest(tmp_path / "out") == manifest(source)
    assert (tmp_path / "out" / "empty").is_dir()
    assert os.access(tmp_path / "out" / "main.py", os.X_OK)
    assert digest(tmp_path / "p.tar.gz") == packed.digest
    assert packed.size_bytes == len(packed.data)


def test_equal_folders_have_equal_digests(tmp_path: Path) -> None:
    """Order of creation, times and the umask do not change the digest; content does."""
    first = write(tmp_path / "first", {"a": b"1", "b/c": b"2"})
    second = write(tmp_path / "second", {"b/c": b"2", "a": b"1"})
    os.utime(second / "a", (1, 1))
    (second / "a").chmod(0o600)
    assert pack(first).digest == pack(second).digest
    (second / "a").write_bytes(b"3")
    assert pack(first).digest != pack(second).digest
    assert manifest_digest(manifest(first)) != manifest_digest(manifest(second))


def test_caches_and_ignored_names_are_left_out(tmp_path: Path) -> None:
    """Version control and caches go unasked; the ignore file names the rest, by name, by path and by folder."""
    files = [
        ".git/config",
        "__pycache__/a.pyc",
        "x/__pycache__/b.pyc",
        ".venv/bin/python",
        "keep.py",
        "big.csv",
        "x/big.csv",
    ]
    files += ["data/raw/one", "x/data/raw/two", "build/thing", "x/build"]
    source = write(tmp_path / "source", dict.fromkeys(files, b"x"))
    (source / ".brhubignore").write_text("# large\n*.csv\n/data/raw\nbuild/\n")
    assert pack(source).files == (".brhubignore", "keep.py", "x/build", "x/data/raw/two")


def test_an_ignored_link_is_no_obstacle_and_another_is_refused(tmp_path: Path) -> None:
    """Links are refused only where they would be packed."""
    source = write(tmp_path / "source", {"a": b"1", ".venv/x": b"1"})
    (source / ".venv" / "python").symlink_to("/usr/bin/python3")
    assert pack(source).files == ("a",)
    (source / "link").symlink_to("a")
    with pytest.raises(FederationError) as caught:
        pack(source)
    assert caught.value.code is Code.UNSAFE_ARCHIVE
    assert caught.value.metadata["path"] == "link"


def test_a_pipe_and_a_negated_pattern_are_refused(tmp_path: Path) -> None:
    """Only files and folders are packed, and a pattern that is not understood is not guessed at."""
    source = write(tmp_path / "source", {"a": b"1"})
    os.mkfifo(source / "pipe")
    with pytest.raises(FederationError, match="neither a file nor a folder"):
        pack(source)
    (source / ".brhubignore").write_text("pipe\n!a\n")
    with pytest.raises(FederationError, match="patterns with ! are not understood"):
        pack(source)
    with pytest.raises(FederationError, match="is not a folder"):
        pack(source / "a")


@pytest.mark.parametrize(
    ("limits", "fits"),
    [
        (Limits(file_bytes_max=1000), True),
        (Limits(file_bytes_max=999), False),
        (Limits(unpacked_bytes_max=2000), True),
        (Limits(unpacked_bytes_max=1999), False),
        (Limits(entries_max=4), True),
        (Limits(entries_max=3), False),
        (Limits(depth_max=3), True),
        (Limits(depth_max=2), False),
    ],
)
def test_each_limit_holds_at_and_just_past_it_on_both_sides(tmp_path: Path, limits: Limits, fits: bool) -> None:
    """Two folders and two files of 1,000 bytes: packing and unpacking agree on what fits."""
    source = write(tmp_path / "source", {"a/b/one": b"1" * 1000, "two": b"2" * 1000})
    data = pack(source).data
    (tmp_path / "p.tar.gz").write_bytes(data)
    if fits:
        assert pack(source, limits=limits).files == unpack(tmp_path / "p.tar.gz", tmp_path / "out", limits=limits)
        return
    for attempt in (
        lambda: pack(source, limits=limits),
        lambda: unpack(tmp_path / "p.tar.gz", tmp_path / "out", limits=limits),
    ):
        with pytest.raises(FederationError) as caught:
            attempt()
        assert caught.value.code is Code.LIMIT_EXCEEDED
    assert not (tmp_path / "out").exists()


def test_the_packed_size_has_a_limit_on_both_sides(tmp_path: Path) -> None:
    """Bytes that do not compress meet the limit of the compressed size."""
    source = write(tmp_path / "source", {"noise": os.urandom(5000)})
    packed = pack(source)
    assert pack(source, limits=Limits(packed_bytes_max=packed.size_bytes)).digest == packed.digest
    with pytest.raises(FederationError) as caught:
        pack(source, limits=Limits(packed_bytes_max=packed.size_bytes - 1))
    assert caught.value.code is Code.LIMIT_EXCEEDED
    tight = Limits(packed_bytes_max=packed.size_bytes - 1)
    (tmp_path / "other").mkdir()
    assert refusal(packed.data, tmp_path / "other", tight).code is Code.LIMIT_EXCEEDED


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../evil", "a/../../evil", "a/./b", "a//b", "..", ".", "a\\b", "new\nline", "a\x7fb"]
)
def test_a_name_that_is_not_plain_is_refused(tmp_path: Path, name: str) -> None:
    """Absolute, parent, unnormalised and unprintable names never reach the disk."""
    assert refusal(archive(member(name)), tmp_path).code is Code.UNSAFE_ARCHIVE


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
        tarfile.GNUTYPE_SPARSE,
        b"V",
    ],
)
def test_everything_but_files_and_folders_is_refused(tmp_path: Path, kind: bytes) -> None:
    """Links, devices, pipes, sparse files and vendor types."""
    build = member("thing", b"", type=kind, linkname="/etc/passwd")
    assert refusal(archive(build), tmp_path).code is Code.UNSAFE_ARCHIVE


def test_a_link_cannot_prepare_the_way_for_a_file(tmp_path: Path) -> None:
    """The classic: a link named `a` to the outside, then a file `a/evil`."""
    build = several(member("a", b"", type=tarfile.SYMTYPE, linkname=".."), member("a/evil"))
    assert "link" in refusal(archive(build), tmp_path).message


def test_pax_headers_are_refused(tmp_path: Path) -> None:
    """They can rename, resize and make sparse; nothing we accept needs them."""
    build = member("a", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "comment": "x"})
    assert refusal(archive(build, dialect=tarfile.PAX_FORMAT), tmp_path).code is Code.UNSAFE_ARCHIVE


@pytest.mark.parametrize(
    "build",
    [
        several(member("a"), member("a")),
        several(member("a"), member("a/b")),
        several(member("a/b"), member("a")),
        several(member("a", b"", type=tarfile.DIRTYPE), member("a")),
        several(member("a", b"", type=tarfile.DIRTYPE), member("a", b"", type=tarfile.DIRTYPE)),
    ],
)
def test_a_name_that_appears_twice_or_is_both_is_refused(
    tmp_path: Path, build: Callable[[tarfile.TarFile], None]
) -> None:
    """Which of the two would win must not depend on the reader."""
    assert refusal(archive(build), tmp_path).code is Code.UNSAFE_ARCHIVE


def test_a_bomb_is_met_at_its_limit(tmp_path: Path) -> None:
    """A megabyte of zeros that compresses to nothing, declared honestly; and zeros behind the end mark."""
    small = Limits(unpacked_bytes_max=1000, entries_max=2)
    assert refusal(archive(member("zeros", b"\0" * 1_000_000)), tmp_path, small).code is Code.LIMIT_EXCEEDED
    (tmp_path / "box" / "package.tar.gz").unlink()
    (tmp_path / "box").rmdir()
    tail = gzip.compress(gzip.decompress(archive(member("a"))) + b"\0" * 4_000_000)
    assert refusal(tail, tmp_path, small).code is Code.LIMIT_EXCEEDED


def test_a_chain_of_long_names_is_refused(tmp_path: Path) -> None:
    """Headers that only announce the next header must not exhaust the stack."""
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2
    block = header.tobuf(tarfile.GNU_FORMAT) + b"a\0".ljust(512, b"\0")
    assert refusal(gzip.compress(block * 5000), tmp_path).code is Code.UNSAFE_ARCHIVE


@pytest.mark.parametrize("damage", ["cut", "flip", "tail", "not gzip", "empty", "header", "no end mark"])
def test_a_damaged_package_is_refused(tmp_path: Path, damage: str) -> None:
    """Cut short, a flipped bit in the checksum, something behind the end, no archive at all."""
    whole = archive(several(member("a", b"1" * 2000), member("b")))
    plain = bytearray(gzip.decompress(whole))
    data = {
        "cut": whole[: len(whole) // 2],
        "flip": whole[:-6] + bytes([whole[-6] ^ 1]) + whole[-5:],
        "tail": gzip.compress(plain + b"hidden".ljust(512, b"\0")),
        "not gzip": b"PK\x03\x04 and so on",
        "empty": b"",
        "header": gzip.compress(plain[: 512 * 5] + b"\x01" * 512 + plain[512 * 6 :]),
        "no end mark": gzip.compress(plain[: 512 * 7]),
    }[damage]
    assert refusal(data, tmp_path).code is Code.UNSAFE_ARCHIVE


def test_a_taken_target_is_refused_and_an_empty_one_is_used(tmp_path: Path) -> None:
    """Nothing that is there is overwritten."""
    package = tmp_path / "p.tar.gz"
    package.write_bytes(archive(member("a")))
    write(tmp_path / "taken", {"mine": b"1"})
    with pytest.raises(FederationError) as caught:
        unpack(package, tmp_path / "taken")
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert names_in(tmp_path / "taken") == ["mine"]
    (tmp_path / "empty").mkdir()
    assert unpack(package, tmp_path / "empty") == ("a",)
    with pytest.raises(FederationError, match="There is no package"):
        unpack(tmp_path / "absent", tmp_path / "new")


def test_a_manifest_refuses_links(tmp_path: Path) -> None:
    """A result that points elsewhere is not a result."""
    source = write(tmp_path / "source", {"a": b"1"})
    (source / "passwd").symlink_to("/etc/passwd")
    with pytest.raises(FederationError) as caught:
        manifest(source)
    assert caught.value.code is Code.UNSAFE_ARCHIVE
