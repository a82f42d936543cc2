"""What must not be in the repository: binaries, this or that machine's paths, addresses of package registries."""

from __future__ import annotations

import re
from pathlib import Path

from tests.tidy.repository import ROOT, all_files, name_of

BYTES_MAX = 2 << 20
# Written apart, so that this file does not break its own rule.
REGISTRIES = (
    "pypi" + ".org", "pythonhosted" + ".org", "registry.npmjs" + ".org", "deb.debian" + ".org",
    "repo.maven" + ".apache", "repo1.maven" + ".org", "static.crates" + ".io", "proxy.golang" + ".org",
)  # fmt: skip
HOST_PATHS = re.compile(r"(?<![\w.$}~-])/(?:wo" + r"rk|ro" + r"ot|ho" + r"me/[a-z]+|Us" + r"ers)/")
FORBIDDEN_TYPES = {
    ".whl", ".jar", ".so", ".exe", ".dll", ".pyc", ".zip", ".gz", ".tgz", ".bz2", ".xz", ".tar", ".7z", ".bin", ".binpb",
    ".db", ".sqlite", ".parquet", ".pkl", ".pickle", ".npy", ".npz", ".h5", ".onnx", ".pt", ".pem", ".key", ".p12",
}  # fmt: skip
IMAGES = "docs/images/"


def text_of(path: Path) -> str | None:
    """The file's text; None for a binary one."""
    content = path.read_bytes()
    if b"\0" in content:
        return None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return None


def test_every_file_is_text() -> None:
    """Binaries cannot be reviewed; the only exception is pictures of our own pages."""
    binaries = [name_of(path) for path in all_files() if text_of(path) is None]
    assert [name for name in binaries if not (name.startswith(IMAGES) and name.endswith(".png"))] == []


def test_no_file_is_of_a_forbidden_type_or_too_large() -> None:
    """Archives, databases, models and keys belong elsewhere; no file is over 2 MB."""
    assert [name_of(path) for path in all_files() if path.suffix.lower() in FORBIDDEN_TYPES] == []
    assert [name_of(path) for path in all_files() if path.stat().st_size > BYTES_MAX] == []


def test_no_package_registry_is_named() -> None:
    """Every site has its own index; an address in the repository would overrule it."""
    found = [f"{name_of(path)}: {host}" for path in all_files() for host in REGISTRIES if host in (text_of(path) or "")]
    assert found == []


def test_no_path_of_somebodys_machine_is_named() -> None:
    """A path that exists on one machine only works on one machine only."""
    found = []
    for path in all_files():
        for number, line in enumerate((text_of(path) or "").splitlines(), 1):
            if HOST_PATHS.search(line):
                found.append(f"{name_of(path)}:{number}: {line.strip()[:120]}")
    assert found == []


def test_the_licence_is_whole() -> None:
    """Apache-2.0, with its appendix."""
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Version 2.0, January 2004" in text
    assert "APPENDIX: How to apply the Apache License to your work." in text
