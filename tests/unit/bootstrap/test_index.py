"""The package index as the user configured it: pip's files, pip's and uv's variables, and what uv is told."""

from __future__ import annotations

from pathlib import Path

from infra.bootstrap.index import IndexSettings, hide_password, read_settings, uv_environment


def write(path: Path, text: str) -> Path:
    """A configuration file, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def settings(home: Path, **environ: str) -> IndexSettings:
    """What is read in this home with these variables, with no file of the real machine in reach."""
    nowhere = {"XDG_CONFIG_DIRS": str(home / "etc"), "PIP_CONFIG_FILE": str(home / "chosen.conf")}
    return read_settings({**nowhere, **environ}, home, home / "prefix", home / "system")


def test_the_users_file_wins_over_the_systems(tmp_path: Path) -> None:
    """Pip reads global, then user, then the environment's own file; later ones win."""
    write(tmp_path / "etc/pip/pip.conf", "[global]\nindex-url = https://system.example/simple\nproxy = http://p:1\n")
    write(tmp_path / ".config/pip/pip.conf", "[global]\nindex-url = https://user.example/simple\n")
    found = settings(tmp_path)
    assert found.default == "https://user.example/simple"
    assert found.proxy == "http://p:1"


def test_the_install_section_wins_over_global_and_variables_win_over_files(tmp_path: Path) -> None:
    """[install] is more special than [global]; PIP_INDEX_URL is said last."""
    write(
        tmp_path / ".pip/pip.conf",
        "[install]\nindex_url = https://b.example\n[global]\nindex-url = https://a.example\n",
    )
    assert settings(tmp_path).default == "https://b.example"
    assert settings(tmp_path, PIP_INDEX_URL="https://c.example").default == "https://c.example"


def test_uvs_own_variables_win_over_pips(tmp_path: Path) -> None:
    """Who told uv something meant uv."""
    found = settings(tmp_path, PIP_INDEX_URL="https://pip.example", UV_DEFAULT_INDEX="https://uv.example")
    assert found.default == "https://uv.example"


def test_several_indexes_and_folders_are_kept_in_order(tmp_path: Path) -> None:
    """Lists may run over lines, as pip allows."""
    text = "[global]\nextra-index-url = https://one.example\n    https://two.example\nfind-links = /a /b\n"
    write(tmp_path / "chosen.conf", text)
    found = settings(tmp_path)
    assert found.extra == ("https://one.example", "https://two.example")
    assert found.find_links == ("/a", "/b")


def test_no_configuration_means_empty_settings(tmp_path: Path) -> None:
    """Then each tool uses its own default, and the name for people says so."""
    found = settings(tmp_path)
    assert found == IndexSettings()
    assert found.name == "the default package index"


def test_a_broken_file_is_left_to_pip_to_complain_about(tmp_path: Path) -> None:
    """A file that is no configuration does not stop the setup."""
    write(tmp_path / "chosen.conf", "index-url = before any section\n")
    assert settings(tmp_path) == IndexSettings()


def test_pip_config_file_devnull_turns_files_off(tmp_path: Path) -> None:
    """As pip documents it."""
    write(tmp_path / ".config/pip/pip.conf", "[global]\nindex-url = https://user.example/simple\n")
    assert settings(tmp_path, PIP_CONFIG_FILE="/dev/null").default == ""


def test_private_authorities_reach_uv_and_npm(tmp_path: Path) -> None:
    """The certificate file that pip was told is the one that uv and npm use."""
    found = settings(tmp_path, PIP_CERT="/etc/our-ca.pem")
    env = uv_environment(found, {}, tmp_path)
    assert env["SSL_CERT_FILE"] == env["NODE_EXTRA_CA_CERTS"] == "/etc/our-ca.pem"
    assert "UV_SYSTEM_CERTS" not in env


def test_uv_is_told_what_pip_was_told(tmp_path: Path) -> None:
    """Uv reads none of pip's files, so each setting is translated."""
    found = IndexSettings(
        default="https://a.example/simple",
        extra=("https://b.example", "https://c.example"),
        find_links=("/wheels", "/more"),
        proxy="http://proxy.example:3128",
        trusted_hosts=("a.example",),
    )
    env = uv_environment(found, {"PATH": "/bin"}, tmp_path)
    assert env["UV_DEFAULT_INDEX"] == "https://a.example/simple"
    assert env["UV_INDEX"] == "https://b.example https://c.example"
    assert env["UV_FIND_LINKS"] == "/wheels,/more"
    assert env["UV_INDEX_STRATEGY"] == "unsafe-best-match"
    assert env["HTTPS_PROXY"] == "http://proxy.example:3128"
    assert env["UV_INSECURE_HOST"] == "a.example"
    assert env["PATH"] == "/bin"


def test_what_the_user_told_uv_stays(tmp_path: Path) -> None:
    """Variables that are set are not overwritten, also under the older name."""
    env = uv_environment(IndexSettings(default="https://pip.example"), {"UV_INDEX_URL": "https://uv.example"}, tmp_path)
    assert "UV_DEFAULT_INDEX" not in env
    assert env["UV_INDEX_URL"] == "https://uv.example"


def test_passwords_are_not_shown() -> None:
    """An index address may hold a password, which belongs into no log."""
    assert hide_password("https://me:secret@a.example/simple") == "https://***@a.example/simple"
    assert IndexSettings(default="https://me:secret@a.example").name == "https://***@a.example"
