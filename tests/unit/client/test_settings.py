"""How a program finds its federation, and that a token does not travel where it should not."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from federation.client.settings import Settings, find_settings, write_settings
from federation.client.transport import Patience, credentials, split_address
from federation.errors import Code, FederationError

SAVED = Settings("127.0.0.1:7000", "secret", "", "http://127.0.0.1:7001", "physics")


def test_the_folder_of_up_names_the_federation(tmp_path: Path) -> None:
    """What was written is found, and only its owner may read it."""
    path = write_settings(tmp_path, SAVED)
    assert find_settings(environ={"BRHUB_DIR": str(tmp_path)}) == SAVED
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_environment_beats_the_folder_and_an_argument_beats_both(tmp_path: Path) -> None:
    """--server, BRHUB_SERVER, BRHUB_DIR."""
    write_settings(tmp_path, SAVED)
    env = {"BRHUB_DIR": str(tmp_path), "BRHUB_SERVER": "127.0.0.1:8000", "BRHUB_TOKEN": "other", "BRHUB_CA": "ca.pem"}
    found = find_settings(environ=env)
    assert (found.server, found.token, found.ca) == ("127.0.0.1:8000", "other", "ca.pem")
    assert find_settings("127.0.0.1:9000", environ=env).server == "127.0.0.1:9000"


def test_a_saved_token_goes_only_to_the_server_that_it_was_saved_for(tmp_path: Path) -> None:
    """Another server is called without a token."""
    write_settings(tmp_path, SAVED)
    env = {"BRHUB_DIR": str(tmp_path)}
    assert find_settings("evil.example:443", environ=env).token == ""
    assert find_settings(SAVED.server, environ=env).token == "secret"


def test_no_federation_is_an_answer_with_a_hint(tmp_path: Path) -> None:
    """UNREACHABLE, and `brhub up`."""
    with pytest.raises(FederationError) as caught:
        find_settings(environ={"BRHUB_DIR": str(tmp_path)})
    assert (caught.value.code, "brhub up" in caught.value.hint) == (Code.UNREACHABLE, True)


def test_the_folder_that_was_looked_in_is_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative default says nothing to somebody who stands elsewhere."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FederationError) as caught:
        find_settings(environ={})
    assert repr(str(tmp_path / ".brhub")) in caught.value.message


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"server": 5}', '{"server": ""}', "not json"])
def test_a_damaged_client_file_is_named(tmp_path: Path, text: str) -> None:
    """CONFIGURATION_INVALID with its path."""
    (tmp_path / "client.json").write_text(text)
    with pytest.raises(FederationError) as caught:
        find_settings(environ={"BRHUB_DIR": str(tmp_path)})
    assert caught.value.code is Code.CONFIGURATION_INVALID
    assert "client.json" in caught.value.message


def test_a_token_is_not_shown_in_a_log() -> None:
    """Neither its repr nor a traceback holds it."""
    assert "secret" not in repr(SAVED)


@pytest.mark.parametrize(
    ("server", "target", "tls"),
    [
        ("127.0.0.1:1", "127.0.0.1:1", False),
        ("localhost:1", "localhost:1", False),
        ("[::1]:1", "[::1]:1", False),
        ("http://127.0.0.1:1/", "127.0.0.1:1", False),
        ("https://127.0.0.1:1", "127.0.0.1:1", True),
        ("hub.example:443", "hub.example:443", True),
        ("https://hub.example:443", "hub.example:443", True),
        ("10.0.0.1:443", "10.0.0.1:443", True),
    ],
)
def test_plain_text_is_for_this_machine(server: str, target: str, tls: bool) -> None:
    """TLS everywhere else."""
    assert split_address(server) == (target, tls)


def test_plain_text_elsewhere_is_refused() -> None:
    """A token would be read by anybody between."""
    with pytest.raises(FederationError) as caught:
        split_address("http://hub.example:80")
    assert caught.value.code is Code.TLS_REQUIRED


@pytest.mark.parametrize("server", ["", "hub", "hub:", ":1", "ftp://hub:1", "hub:port"])
def test_what_is_no_address(server: str) -> None:
    """INVALID_ARGUMENT."""
    with pytest.raises(FederationError) as caught:
        split_address(server)
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_a_missing_certificate_file_is_named(tmp_path: Path) -> None:
    """CONFIGURATION_INVALID."""
    with pytest.raises(FederationError) as caught:
        credentials(Settings("hub.example:443", ca=str(tmp_path / "ca.pem")))
    assert caught.value.code is Code.CONFIGURATION_INVALID


def test_pauses_grow_to_a_limit_with_chance_in_them() -> None:
    """Between half and the whole of 0.1, 0.2, 0.4, ... 3.0."""
    patience = Patience()
    assert [patience.pause(n, chance=1.0) for n in (0, 1, 2, 10, 1_000)] == [0.1, 0.2, 0.4, 3.0, 3.0]
    assert patience.pause(10, chance=0.0) == 1.5
