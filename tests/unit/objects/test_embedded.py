"""The embedded server's life: it starts, says why it cannot, and ends without a trace."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from federation.errors import Code, FederationError
from federation.objects.embedded import EmbeddedSettings, find_rclone, start_embedded
from federation.objects.store import ObjectStore


def settings(folder: Path) -> EmbeddedSettings:
    """A server in a folder, on a free port."""
    return EmbeddedSettings(folder / "data", folder / "log", "root-key", "root-secret")


def test_it_runs_in_its_own_group_keeps_its_keys_to_itself_and_its_data(tmp_path: Path) -> None:
    """No key on the command line; data survives a restart; the group is gone afterwards."""
    first = start_embedded(settings(tmp_path))
    try:
        store = ObjectStore(first.address)
        store.ensure_bucket()
        store.ensure_bucket()
        store.put_bytes("a/b", b"kept")
        assert os.getpgid(first.pid) == first.pid != os.getpgid(0)
        assert b"root-secret" not in Path(f"/proc/{first.pid}/cmdline").read_bytes()
    finally:
        first.stop()
    first.stop()
    assert not first.running()
    with pytest.raises(ProcessLookupError):
        os.killpg(first.pid, 0)
    second = start_embedded(settings(tmp_path))
    try:
        assert ObjectStore(second.address).get_bytes("a/b") == b"kept"
    finally:
        second.stop()


def test_a_taken_port_is_said_so(tmp_path: Path) -> None:
    """A stranger on the port does not pass for the store."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        with pytest.raises(FederationError, match="already listens") as caught:
            start_embedded(replace(settings(tmp_path), port=port))
    assert caught.value.metadata == {"port": str(port)}


def test_a_server_that_ends_at_once_tells_its_log(tmp_path: Path) -> None:
    """A certificate that is none: the end of the log is in the error."""
    (tmp_path / "bad.pem").write_text("no certificate")
    bad = replace(settings(tmp_path), certificate=tmp_path / "bad.pem", key=tmp_path / "bad.pem")
    with pytest.raises(FederationError) as caught:
        start_embedded(bad)
    assert caught.value.code is Code.STORE_UNAVAILABLE
    assert "PEM" in caught.value.metadata["log"]


def test_half_a_certificate_and_keys_that_cannot_work_are_refused(tmp_path: Path) -> None:
    """Before anything is started."""
    for wrong in (
        replace(settings(tmp_path), certificate=tmp_path / "x.pem"),
        replace(settings(tmp_path), secret_key="one,two,three"),
        replace(settings(tmp_path), access_key="AK"),
        replace(settings(tmp_path), secret_key="short"),
    ):
        with pytest.raises(FederationError) as caught:
            start_embedded(wrong)
        assert caught.value.code is Code.CONFIGURATION_INVALID
    assert list(tmp_path.iterdir()) == []


def test_the_binary_is_found_where_it_was_installed() -> None:
    """The package's own file, which can run."""
    assert os.access(find_rclone(), os.X_OK)
