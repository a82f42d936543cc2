"""The small index client: pages in both forms, the right wheel for the machine, and nothing kept with a wrong digest."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.bootstrap import simple_api, uv
from infra.bootstrap.index import IndexSettings
from infra.bootstrap.simple_api import IndexFile, parse_page, pick_wheel
from infra.bootstrap.trouble import BootstrapError

PAGE = "https://a.example/simple/uv/"


def wheel(name: str) -> IndexFile:
    """A file of an index, of which only the name matters."""
    return IndexFile(name, PAGE + name, "")


def test_html_pages_are_read() -> None:
    """PEP 503: relative links, digests in the fragment."""
    page = b'<html><a href="../../files/uv-1-py3-none-any.whl#sha256=abc">uv-1-py3-none-any.whl</a></html>'
    (file,) = parse_page(page, "text/html", PAGE)
    assert file == IndexFile("uv-1-py3-none-any.whl", "https://a.example/files/uv-1-py3-none-any.whl", "abc")


def test_json_pages_are_read_and_yanked_files_left_out() -> None:
    """PEP 691, with sizes."""
    files = [
        {"filename": "uv-1.tar.gz", "url": "uv-1.tar.gz", "hashes": {"sha256": "abc"}, "size": 12},
        {"filename": "uv-2.tar.gz", "url": "uv-2.tar.gz", "hashes": {}, "yanked": "broken"},
    ]
    page = json.dumps({"files": files}).encode()
    assert parse_page(page, "application/vnd.pypi.simple.v1+json", PAGE) == [
        IndexFile("uv-1.tar.gz", PAGE + "uv-1.tar.gz", "abc", 12)
    ]


@pytest.mark.parametrize("body", [b"", b"[]", b'{"files": 3}', b'{"files": [{}]}', b"\xff"])
def test_unreadable_json_is_an_error_for_people(body: bytes) -> None:
    """A page that is no answer is refused in one sentence, not with a traceback."""
    with pytest.raises(BootstrapError, match="unreadable"):
        parse_page(body, "application/json", PAGE)


@pytest.mark.parametrize(
    ("machine", "system", "picked"),
    [
        ("x86_64", "linux", "uv-1.0-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"),
        ("aarch64", "linux", "uv-1.0-py3-none-manylinux_2_28_aarch64.whl"),
        ("x86_64", "linux-musl", "uv-1.0-py3-none-musllinux_1_1_x86_64.whl"),
        ("arm64", "darwin", "uv-1.0-py3-none-macosx_11_0_arm64.whl"),
        ("riscv64", "linux", None),
    ],
)
def test_the_wheel_fits_the_machine(machine: str, system: str, picked: str | None) -> None:
    """The C library and the processor decide; other versions and sources are passed over."""
    files = [
        wheel("uv-0.9-py3-none-any.whl"),
        wheel("uv-1.0.tar.gz"),
        wheel("uv-1.0-py3-none-musllinux_1_1_x86_64.whl"),
        wheel("uv-1.0-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"),
        wheel("uv-1.0-py3-none-manylinux_2_28_aarch64.whl"),
        wheel("uv-1.0-py3-none-macosx_11_0_arm64.whl"),
        wheel("uv-1.0-py3-none-win_amd64.whl"),
    ]
    found = pick_wheel(files, "1.0", "311", machine, system)
    assert picked == (found.name if found else None)


def test_the_wheel_fits_the_python() -> None:
    """Native, stable-ABI and pure wheels fit; another Python's do not."""
    native, other = (
        wheel("a-1-cp311-cp311-manylinux_2_17_x86_64.whl"),
        wheel("a-1-cp312-cp312-manylinux_2_17_x86_64.whl"),
    )
    stable = wheel("b-1-cp39-abi3-manylinux_2_17_x86_64.whl")
    pick = functools.partial(pick_wheel, version="1", python="311", machine="x86_64", system="linux")
    assert native == pick([other, native])
    assert stable == pick([stable])
    assert pick([other]) is None


class OneWheelIndex(http.server.BaseHTTPRequestHandler):
    """An index with one project, `uv`, whose wheel holds a program that prints a version."""

    wheel_bytes = b""
    wheel_name = ""

    def do_GET(self) -> None:
        """The project's page, or the wheel."""
        if self.path == "/simple/uv/":
            body = f'<a href="/files/{self.wheel_name}">{self.wheel_name}</a>'.encode()
        elif self.path == f"/files/{self.wheel_name}":
            body = self.wheel_bytes
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's signature
        """Nothing on the terminal."""


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[IndexSettings]:
    """A running index on loopback and a lock that pins its one wheel."""
    machine, system = simple_api.this_system()
    tag = {"linux": "manylinux_2_17", "linux-musl": "musllinux_1_1"}.get(system, "macosx_11_0")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("uv-9.9.9.data/scripts/uv", "#!/bin/sh\necho uv 9.9.9\n")
    monkeypatch.setattr(OneWheelIndex, "wheel_bytes", archive.getvalue())
    monkeypatch.setattr(OneWheelIndex, "wheel_name", f"uv-9.9.9-py3-none-{tag}_{machine}.whl")
    digest = hashlib.sha256(archive.getvalue()).hexdigest()
    lock = tmp_path / "uv.txt"
    lock.write_text(f"uv==9.9.9 \\\n    --hash=sha256:{digest}\n", encoding="utf-8")
    monkeypatch.setattr(uv, "LOCK", lock)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), OneWheelIndex)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield IndexSettings(default=f"http://127.0.0.1:{server.server_address[1]}/simple")
    server.shutdown()
    server.server_close()
    thread.join()


def test_uv_is_fetched_without_pip(index: IndexSettings, tmp_path: Path) -> None:
    """From the page over the file to a program that runs."""
    uv.install_from_index(index, tmp_path / "uv")
    assert uv.version_of(str(tmp_path / "uv" / "bin" / "uv")) == (9, 9, 9)


def test_a_file_with_another_digest_is_refused(index: IndexSettings, tmp_path: Path) -> None:
    """An index that serves something else than the lock pins gets nowhere, and nothing is kept."""
    uv.LOCK.write_text("uv==9.9.9 \\\n    --hash=sha256:" + "0" * 64 + "\n", encoding="utf-8")
    with pytest.raises(BootstrapError, match="refused"):
        uv.install_from_index(index, tmp_path / "uv")
    assert list((tmp_path / "uv").iterdir()) == []


def test_an_index_without_the_file_says_so(index: IndexSettings, tmp_path: Path) -> None:
    """The version that the lock pins is not there: one sentence, with the index's name."""
    uv.LOCK.write_text("uv==9.9.8 \\\n    --hash=sha256:" + "0" * 64 + "\n", encoding="utf-8")
    with pytest.raises(BootstrapError, match=r"has no uv 9\.9\.8"):
        uv.install_from_index(index, tmp_path / "uv")


def test_an_index_that_does_not_answer_says_so(tmp_path: Path) -> None:
    """A refused connection is an error for people."""
    with pytest.raises(BootstrapError, match="cannot reach"):
        uv.install_from_index(IndexSettings(default="http://127.0.0.1:9/simple"), tmp_path / "uv")
