"""`brhub --help` loads nothing heavy, and every command has words."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys

import pytest

HEAVY = (
    "grpc", "google.protobuf", "rich.console", "yaml", "urllib3", "minio", "psutil", "numpy", "pandas", "sqlalchemy", "fastapi",
    "pydantic", "federation.client", "federation.v1", "hub_node", "courses",
)  # fmt: skip


def test_help_imports_nothing_heavy() -> None:
    """A fresh interpreter that printed the help knows none of them."""
    program = (
        "import sys; from federation.cli.main import main; status = main(['--help']);"
        f"print([name for name in {HEAVY!r} if name in sys.modules]); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "words",
    ["submit", "job list", "job show", "job logs", "job cancel", "job retry", "job explain", "job fetch", "jobs", "hub list",
     "hub show", "hub drain", "hubs", "node list", "nodes", "top", "up", "down", "serve", "agent", "demo", "doctor",
     "simulate", "login", "token issue", "token list", "token revoke"],
)  # fmt: skip
def test_every_command_of_the_contract_has_help(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 0 and a sentence."""
    from federation.cli.main import main

    assert main([*words.split(), "--help"]) == 0
    assert "Usage: brhub" in capsys.readouterr().out


@pytest.mark.parametrize("noun", ["", "job", "hub", "node", "policy", "token", "db"])
def test_no_line_in_a_list_of_commands_is_cut_off(noun: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal of 80 columns the first sentence of each is there to its end."""
    from federation.cli.main import main

    monkeypatch.setenv("COLUMNS", "80")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main([*noun.split(), "--help"]) == 0
    lines = said.getvalue().partition("Commands:\n")[2].splitlines()
    assert len(lines) >= 1
    assert [line for line in lines if not line.endswith(".")] == []
    assert [line for line in lines if line.endswith("...")] == []
