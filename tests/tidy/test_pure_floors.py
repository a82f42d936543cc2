"""Decisions are made in pure code: floors 0 and 1 know no clock, no chance, no identity, no input and output."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.tidy.repository import ROOT, imported_modules, name_of, python_files, tree_of

BANNED_FILE = ROOT / "infra" / "lint" / "pure_floors.toml"
PURE_ROOMS = (
    "federation/domain", "federation/scheduling", "federation/lifecycle", "federation/accounting",
    "federation/credentials", "hub_node/records", "hub_node/reconcile",
)  # fmt: skip
IMPURE_CALLS = {"open", "input", "print", "exec", "eval", "__import__"}


def banned_names() -> set[str]:
    """The one list, which ruff reads too."""
    settings = tomllib.loads(BANNED_FILE.read_text(encoding="utf-8"))
    return set(settings["lint"]["flake8-tidy-imports"]["banned-api"])


def pure_files() -> list[Path]:
    """Every Python file of the pure rooms; a room may be a folder or one module."""
    names = tuple(f"{room}{end}" for room in PURE_ROOMS for end in ("/", ".py"))
    return [path for path in python_files("federation", "hub_node") if name_of(path).startswith(names)]


def impurities(tree: ast.AST, banned: set[str]) -> list[str]:
    """Banned imports and calls in one file, with their lines."""
    found = [
        f"{line}: imports {name}"
        for line, name in imported_modules(tree)
        if any(name == ban or name.startswith(ban + ".") for ban in banned)
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS:
            found.append(f"{node.lineno}: calls {node.func.id}")
        if isinstance(node, ast.Attribute) and node.attr in {"now", "utcnow", "today"}:
            base = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
            if base in {"datetime", "date"}:
                found.append(f"{node.lineno}: reads the clock by {base}.{node.attr}")
    return found


def test_pure_rooms_touch_nothing_outside() -> None:
    """No pure file imports or calls what is on the list."""
    banned = banned_names()
    assert {name_of(path): found for path in pure_files() if (found := impurities(tree_of(path), banned))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from os import path",
        "def f():\n    import random",
        "import datetime\ndatetime.datetime.now()",
        "from datetime import date\ndate.today()",
        "open('x')",
        "from numpy.random import default_rng",
    ],
)
def test_the_rule_bites(source: str) -> None:
    """Each way around the rule is found."""
    assert impurities(ast.parse(source), banned_names())


def test_pure_code_passes() -> None:
    """Arithmetic on arguments is what these rooms are for."""
    source = "import math\nfrom datetime import datetime, UTC\ndef at(now_ms): return datetime.fromtimestamp(now_ms / 1000, UTC)"
    assert impurities(ast.parse(source), banned_names()) == []


@pytest.mark.parametrize("room", [room for room in PURE_ROOMS if (ROOT / room).is_dir()])
def test_every_pure_folder_has_the_nested_lint_configuration(room: str) -> None:
    """`ruff check` fails in a pure folder on an import of `time`, because its own configuration says so."""
    code = '"""Probe."""\n\nimport time\n\nprint(time.time())\n'
    words = [sys.executable, "-m", "ruff", "check", "--select", "TID251", "--stdin-filename", f"{room}/probe.py", "-"]
    done = subprocess.run(words, cwd=ROOT, input=code, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "TID251" in done.stdout


@pytest.mark.parametrize(("file", "status"), [("hub_node/reconcile.py", 1), ("hub_node/agent.py", 0)])
def test_the_agent_is_held_to_it_where_it_decides(file: str, status: int) -> None:
    """In hub_node the pure modules are named one by one; the acting rooms may read clocks."""
    words = [sys.executable, "-m", "ruff", "check", "--select", "TID251", "--stdin-filename", file, "-"]
    done = subprocess.run(words, cwd=ROOT, input="import time\n", capture_output=True, text=True, check=False)
    assert status == done.returncode
