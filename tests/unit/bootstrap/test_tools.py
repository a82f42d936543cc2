"""Java, Node and uv on this machine or not; the commands of `./run`; when setup has nothing to do."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
from pathlib import Path

import pytest

from infra.bootstrap import commands, environment, java, node, uv
from infra.bootstrap.lock import read_pins
from infra.bootstrap.places import LOCKS, ROOT
from infra.bootstrap.trouble import BootstrapError


def program(folder: Path, name: str, script: str) -> Path:
    """A small shell program."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("printed", "major"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('openjdk version "21" 2023-09-19', 21),
        ('java version "1.8.0_402"', 8),
        ("no such thing", 0),
    ],
)
def test_java_versions_are_read(printed: str, major: int) -> None:
    """Old and new ways of counting."""
    assert java.major_version(printed) == major


def test_an_old_java_is_passed_over_and_java_home_comes_first(tmp_path: Path) -> None:
    """JAVA_HOME before PATH, and only from version 17 on."""
    old = program(tmp_path / "old", "java", "echo 'java version \"1.8.0_402\"' >&2")
    new = program(tmp_path / "home" / "bin", "java", "echo 'openjdk version \"21.0.1\"' >&2")
    assert java.system_java({"PATH": str(old.parent)}) == ""
    assert java.system_java({"PATH": str(old.parent), "JAVA_HOME": str(tmp_path / "home")}) == str(new)


def test_the_java_shim_drops_one_option_and_keeps_the_rest(tmp_path: Path) -> None:
    """Also arguments with spaces and quotes, and in order."""
    real = program(tmp_path, "real", 'for a in "$@"; do echo "[$a]"; done')
    home = java.write_shim(real, tmp_path / "java")
    words = [str(home / "bin" / "java"), "-cp", "a b", "--add-modules=jdk.incubator.vector", "Main", 'x"y', ""]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[-cp]", "[a b]", "[Main]", '[x"y]', "[]"]


@pytest.mark.parametrize(("version", "accepted"), [("v20.1.0", True), ("v18.19.0", False), ("nonsense", False)])
def test_only_a_node_that_the_proxy_runs_on_is_taken(tmp_path: Path, version: str, accepted: bool) -> None:
    """Node 20 and npm, or none of them."""
    program(tmp_path, "node", f"echo {version}")
    program(tmp_path, "npm", "exit 0")
    assert bool(node.system_node(str(tmp_path))[0]) is accepted


def test_node_without_npm_is_not_enough(tmp_path: Path) -> None:
    """Debian ships them apart."""
    program(tmp_path, "node", "echo v22.0.0")
    assert node.system_node(str(tmp_path)) == ("", [])


@pytest.mark.parametrize(("script", "found"), [("echo uv 0.9.1", True), ("echo uv 0.1.9", False), ("exit 3", False)])
def test_a_uv_that_is_too_old_or_broken_is_passed_over(tmp_path: Path, script: str, found: bool) -> None:
    """A shim that points to nothing counts as absent."""
    program(tmp_path, "uv", script)
    assert bool(uv.find_uv(str(tmp_path))) is found


def test_the_locks_pin_by_hash_and_name_no_index() -> None:
    """Every requirement has a version and hashes; no line speaks of an index."""
    for lock in LOCKS.glob("*.txt"):
        text = lock.read_text(encoding="utf-8")
        assert "://" not in text
        assert "index" not in {line.split("=")[0].lstrip("-") for line in text.splitlines() if line.startswith("--")}
        required = re.findall(r"^[A-Za-z0-9].*(?:\n    --hash=.*)*", text, re.MULTILINE)
        assert {one.partition("==")[0] for one in required} == read_pins(lock).keys() != set(), lock
        assert [one for one in required if "==" not in one or "\n    --hash=sha256:" not in one] == []


def test_a_bare_agent_has_the_versions_of_everything() -> None:
    """What is tested together is what a hub installs."""
    everything = read_pins(LOCKS / "all.txt")
    agent = read_pins(LOCKS / "agent.txt")
    assert agent == {name: everything[name] for name in agent}
    assert not {"pyspark", "ray", "mlflow", "jupyterlab", "numpy", "pandas", "sqlalchemy"} & agent.keys()


def test_a_bare_agent_stays_below_150_megabytes() -> None:
    """What the agent's lock puts on a hub's disk, measured on what is installed here."""
    total = 0
    for name in read_pins(LOCKS / "agent.txt"):
        try:
            files = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        total += sum(path.stat().st_size for file in files if (path := Path(str(file.locate()))).is_file())
    assert 30e6 < total < 150e6


def test_uv_has_one_pin_everywhere() -> None:
    """The uv that sets up is the uv that agents bring."""
    version, digests = uv.read_pin((LOCKS / "uv.txt").read_text(encoding="utf-8"))
    assert version == read_pins(LOCKS / "all.txt")["uv"]
    assert digests


def test_an_unreadable_lock_is_an_error_for_people() -> None:
    """A lock without a version is refused."""
    with pytest.raises(BootstrapError, match="names no version"):
        uv.read_pin("# nothing\n")


def test_any_deciding_file_changes_the_digest(tmp_path: Path) -> None:
    """Setup runs again exactly when a file that decides changed."""
    for name in environment.DECIDING:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("one", encoding="utf-8")
    before = environment.digest_of_inputs(tmp_path)
    assert before == environment.digest_of_inputs(tmp_path)
    for name in environment.DECIDING:
        (tmp_path / name).write_text("two", encoding="utf-8")
        changed = environment.digest_of_inputs(tmp_path)
        assert changed != before
        before = changed


def test_a_broken_stamp_counts_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A half-written stamp leads to a setup, not to a traceback."""
    monkeypatch.setattr(environment, "STAMP", tmp_path / "stamp")
    assert environment.read_stamp() == {}
    (tmp_path / "stamp").write_text("{", encoding="utf-8")
    assert environment.read_stamp() == {}
    (tmp_path / "stamp").write_text("[1]", encoding="utf-8")
    assert environment.read_stamp() == {}


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """`./run` as a person types it."""
    return subprocess.run(
        [str(ROOT / "run"), *words], capture_output=True, text=True, check=False, env=dict(os.environ)
    )


def test_help_names_every_command() -> None:
    """Each command of the contract has a line."""
    done = run("help")
    assert done.returncode == 0
    for name in ("setup", "demo", "test", "quick", "long", "check", "bench", "up", "down"):
        assert f"\n  {name} " in done.stdout
    assert set(commands.EVERYDAY) == {"setup", "demo", "test", "quick", "long", "check", "bench", "up", "down"}


def test_an_unknown_command_is_wrong_usage() -> None:
    """Status 2, the help on standard error, nothing set up."""
    done = run("tset")
    assert done.returncode == 2
    assert "there is no command 'tset'" in done.stderr


def test_errors_end_with_the_command_to_type() -> None:
    """What the bootstrap cannot get, it asks for."""
    assert str(BootstrapError("Node is missing.", "apt-get install nodejs")).endswith("type:  apt-get install nodejs")
