"""Settings: read once, the later source wins, what is unknown is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation.app.settings import read_settings
from federation.errors import Code, FederationError


def test_file_then_environment_then_flags(tmp_path: Path) -> None:
    """Each may set one key; the others keep theirs."""
    file = tmp_path / "control.toml"
    file.write_text('[server]\nlisten = "127.0.0.1:1"\ndata_dir = "one"\n[tracking]\nenabled = false\n')
    environment = {"BRHUB_CONTROL_SERVER_DATA_DIR": "two", "BRHUB_CONTROL_TRACKING_ENABLED": "true", "HOME": "/"}
    read = read_settings(file, environment, {"server": {"console_listen": "127.0.0.1:3"}})
    assert (read.server.listen, read.server.data_dir, read.server.console_listen, read.tracking.enabled) == (
        "127.0.0.1:1",
        "two",
        "127.0.0.1:3",
        True,
    )
    assert read.store_url == "sqlite:///two/federation.db"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[server]\nlisten_on = "x"\n', "listen_on"),
        ("[moon]\nphase = 1\n", "moon"),
        ("[server]\nlisten = 7\n", "server.listen"),
        ('[tls]\ncert = "a.pem"\n', "tls.key"),
        ('listen = "x"\n', "listen"),
        ("[server\n", "control.toml"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    """The message names the key, and nothing starts."""
    file = tmp_path / "control.toml"
    file.write_text(text)
    with pytest.raises(FederationError) as caught:
        read_settings(file, {})
    assert caught.value.code is Code.CONFIGURATION_INVALID
    assert named in caught.value.message


@pytest.mark.parametrize(("value", "read"), [("0", 0), ("30", 30), (36_500, 36_500)])
def test_how_long_events_are_kept_is_a_number_of_days(value: object, read: int) -> None:
    """From a file as a number, from the environment as text; 0 keeps them for ever."""
    assert read_settings(None, {}, {"store": {"keep_events_days": value}}).store.keep_events_days == read
    assert read_settings(None, {}).store.keep_events_days == 400


@pytest.mark.parametrize("value", ["", "-1", -1, "ten", 36_501, "9" * 30, True, 1.5])
def test_another_number_of_days_is_refused_by_name(value: object) -> None:
    """Nothing starts with a limit that nobody meant."""
    with pytest.raises(FederationError) as caught:
        read_settings(None, {}, {"store": {"keep_events_days": value}})
    assert (caught.value.code, "keep_events_days" in caught.value.message) == (Code.CONFIGURATION_INVALID, True)


@pytest.mark.parametrize("key", ["listen", "admin_listen", "console_listen"])
def test_nothing_leaves_loopback_without_tls(key: str) -> None:
    """Every door is held to it."""
    with pytest.raises(FederationError) as caught:
        read_settings(None, {}, {"server": {key: "0.0.0.0:7460"}})
    assert caught.value.code is Code.TLS_REQUIRED
    tls = {"cert": "c.pem", "key": "k.pem"}
    assert read_settings(None, {}, {"server": {key: "0.0.0.0:7460"}, "tls": tls}).tls_files is not None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=200))
def test_any_text_is_settings_or_refused(tmp_path: Path, text: str) -> None:
    """A configuration file never brings another exception."""
    file = tmp_path / "control.toml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        read_settings(file, {})
    except FederationError as error:
        code = error.code
    else:
        return
    assert code in (Code.CONFIGURATION_INVALID, Code.TLS_REQUIRED)
