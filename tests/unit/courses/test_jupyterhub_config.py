"""The demonstration's JupyterHub refuses in words what would end in a traceback, before it touches anything."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from traitlets.config import Config, PyFileConfigLoader

from federation.client import Settings
from federation.client.settings import write_settings

CONFIG = Path(__file__).resolve().parents[3] / "infra" / "jupyterhub" / "jupyterhub_config.py"


@contextlib.contextmanager
def listening() -> Iterator[int]:
    """A port that somebody has."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        yield int(door.getsockname()[1])


def loaded() -> Config:
    """The configuration, as JupyterHub reads it."""
    return PyFileConfigLoader(str(CONFIG)).load_config()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """BRHUB_DIR, which is not there yet; nothing else is said."""
    for name in ("SERVER", "JUPYTERHUB_DIR", "JUPYTERHUB_IP", "JUPYTERHUB_PORT"):
        monkeypatch.delenv(f"BRHUB_{name}", raising=False)
    monkeypatch.setenv("BRHUB_LAB_PASSWORD", "long enough")
    monkeypatch.setenv("BRHUB_DIR", str(tmp_path / "fed"))
    return tmp_path / "fed"


def test_without_a_federation_it_stops_and_creates_nothing(folder: Path) -> None:
    """A mistyped BRHUB_DIR is named, and not made."""
    with pytest.raises(SystemExit, match=f"no federation in '{folder}': ./run up, or correct BRHUB_DIR"):
        loaded()
    assert not folder.exists()


def test_a_damaged_client_file_is_named(folder: Path) -> None:
    """The reason of `find_settings`, without a traceback."""
    folder.mkdir()
    (folder / "client.json").write_text("{", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"client\.json' cannot be used"):
        loaded()
    assert not (folder / "jupyterhub").exists()


def test_a_second_one_stops_before_it_ends_the_firsts_proxy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A taken port is refused; a named federation need not answer."""
    folder.mkdir()
    write_settings(folder, Settings("127.0.0.1:1"))
    with listening() as port:
        monkeypatch.setenv("BRHUB_JUPYTERHUB_PORT", str(port))
        said = (
            f"a JupyterHub \\(or something else\\) runs at http://127.0.0.1:{port} already: end it first, or set BRHUB_"
        )
        with pytest.raises(SystemExit, match=said):
            loaded()
        assert not (folder / "jupyterhub").exists()
