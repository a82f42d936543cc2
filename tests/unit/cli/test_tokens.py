"""`brhub token` and `brhub login`: letting a second person in, and out again."""

from __future__ import annotations

import io
import json
import stat
from pathlib import Path

import pytest

from federation.identity.principal import LOCAL_ISSUER, Principal, PrincipalKind
from federation.identity.tokens import TokenFile
from tests.unit.cli.conftest import Brhub
from tests.unit.client.small_federation import TOKEN, SmallFederation

AISHA = Principal(PrincipalKind.USER, LOCAL_ISSUER, "aisha", "cairo", ("vision", "default"), ("operator",))


@pytest.fixture
def tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TokenFile:
    """The token file of a control plane whose settings BRHUB_DIR finds; Cairo's agent has a token, and an admin of it."""
    folder = tmp_path / "control"
    folder.mkdir()
    (folder / "control.toml").write_text(f'[server]\nlisten = "127.0.0.1:7"\ntokens_file = "{folder}/tokens.json"\n')
    monkeypatch.setenv("BRHUB_DIR", str(folder))
    monkeypatch.delenv("BRHUB_SERVER", raising=False)
    monkeypatch.delenv("BRHUB_TOKEN", raising=False)
    file = TokenFile.create(folder / "tokens.json")
    file.issue(Principal(PrincipalKind.HUB, LOCAL_ISSUER, "cairo", "cairo"))
    file.issue(Principal(PrincipalKind.ADMIN, LOCAL_ISSUER, "root", "cairo"))
    return file


def test_a_second_person_is_let_in_and_out_again(brhub: Brhub, tokens: TokenFile, tmp_path: Path) -> None:
    """The token is on standard output alone, shown once; a list shows who, never what; revoking ends all of theirs."""
    words = ("token", "issue", "aisha", "--hub", "cairo", "--projects", "vision, default", "--operator")
    said = brhub(*words)
    token = said.out.strip()
    assert (said.status, tokens.lookup(token), token in said.err) == (0, AISHA, False)
    second = brhub(*words, "-o", "json").document["token"]
    listed = brhub("token", "list")
    assert [line.split() for line in listed.out.splitlines()] == [
        ["NAME", "KIND", "HUB", "PROJECTS", "ROLES", "TOKENS"],
        ["root", "admin", "cairo", "all", "-", "1"],
        ["cairo", "hub", "cairo", "-", "-", "1"],
        ["aisha", "user", "cairo", "vision,", "default", "operator", "2"],
    ]
    file = tmp_path / "control" / "tokens.json"
    assert not any(secret in text for secret in (token, second) for text in (listed.out, file.read_text()))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    items = brhub("token", "list", "-o", "json").document["items"]
    assert (items[2]["id"], items[2]["projects"], items[2]["tokens"]) == (AISHA.name, ["vision", "default"], 2)
    assert brhub("token", "revoke", "aisha").out == "ended 2 tokens of user aisha\n"
    assert AISHA not in tokens.principals()
    assert brhub("token", "revoke", "aisha").status == 3


def test_an_agent_and_an_admin_are_let_in_too(brhub: Brhub, tokens: TokenFile) -> None:
    """A new hub's agent first, then its people."""
    assert brhub("token", "issue", "li", "--hub", "beijing").status == 3
    agent = brhub("token", "issue", "beijing", "--kind", "hub").out.strip()
    assert (tokens.lookup(agent).kind, tokens.lookup(agent).home_hub) == ("hub", "beijing")
    assert tokens.lookup(brhub("token", "issue", "li", "--hub", "beijing").out.strip()).home_hub == "beijing"
    assert tokens.lookup(brhub("token", "issue", "boss", "--kind", "admin").out.strip()).kind == "admin"


def test_a_token_can_be_left_in_a_folder_of_its_owner(brhub: Brhub, tokens: TokenFile, tmp_path: Path) -> None:
    """As BRHUB_DIR: readable by its owner only, with the first project, and no token on the screen."""
    folder = tmp_path / "for" / "aisha"
    said = brhub("token", "issue", "aisha", "--hub", "cairo", "--project", "vision", "--into", folder, "-o", "json")
    left = folder / "client.json"
    value = json.loads(left.read_text())
    assert (value["server"], value["project"], tokens.lookup(value["token"]).subject) == (
        "127.0.0.1:7", "vision", "aisha",
    )  # fmt: skip
    assert value["token"] not in said.out + said.err
    assert (said.document["file"], [stat.S_IMODE(path.stat().st_mode) for path in (folder, left)]) == (
        str(left), [0o700, 0o600],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "status", "named"),
    [
        (["issue", "li"], 2, "--hub"),
        (["issue", "li", "--hub", "cairo", "--kind", "king"], 2, "king"),
        (["issue", "li", "--hub", "Cairo!"], 2, "home_hub"),
        (["issue", "l\ti", "--hub", "cairo"], 2, "subject"),
        (["issue", "cairo", "--kind", "hub", "--hub", "shenzhen"], 2, "hub"),
        (["issue", "boss", "--kind", "admin", "--operator"], 2, "--operator"),
        (["issue", "root", "--hub", "cairo"], 1, "admin:local/root"),
        (["issue", "cairo", "--hub", "cairo"], 1, "hub:local/cairo"),
        (["issue", "li", "--hub", "cairo", "-o", "name"], 2, "--into"),
        (["revoke", "root"], 3, "--kind admin"),
        (["list", "--config", "nowhere.toml"], 2, "nowhere.toml"),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(
    brhub: Brhub, tokens: TokenFile, words: list[str], status: int, named: str
) -> None:
    """One name is one person, a hub is known, and a token that nobody would see is not made."""
    before = tokens.held()
    said = brhub("token", *words)
    assert (said.status, named in said.err, said.out, tokens.held()) == (status, True, "", before)


def test_login_keeps_what_works_and_nothing_else(
    brhub: Brhub, small: SmallFederation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From standard input; a wrong token is told and not kept; where `brhub up` lives nothing is overwritten."""
    monkeypatch.delenv("BRHUB_TOKEN")
    folder = tmp_path / ".brhub"
    monkeypatch.setattr("sys.stdin", io.StringIO("wrong\n"))
    assert (brhub("login").status, (folder / "client.json").exists()) == (4, False)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"  {TOKEN}\n"))
    said = brhub("--project", "vision", "login")
    assert (said.status, TOKEN in said.out + said.err) == (0, False)
    assert stat.S_IMODE((folder / "client.json").stat().st_mode) == 0o600
    monkeypatch.delenv("BRHUB_SERVER")
    assert brhub("hubs").status == 0
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert brhub("--server", small.settings.server, "login").status == 2
    assert brhub("login").status == 2
    (folder / "federation.json").write_text("{}")
    assert brhub("--server", small.settings.server, "login").status == 2
