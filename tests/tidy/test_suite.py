"""The suite's own rules: quick rooms first, and no unnoticed skip where it counts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import conftest
from tests.tidy.repository import ROOT

SKIPPING = """
import pytest
def test_runs():
    assert True
def test_skips():
    pytest.skip("{reason}")
"""


def run_pytest(folder: Path, reason: str, strict: str) -> subprocess.CompletedProcess[str]:
    """A small suite under our conftest, with one test that skips for `reason`."""
    shutil.copyfile(ROOT / "tests" / "conftest.py", folder / "conftest.py")
    (folder / "test_small.py").write_text(SKIPPING.format(reason=reason), encoding="utf-8")
    words = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(folder), str(folder)]
    env = {**os.environ, "BRHUB_CI": strict}
    return subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("strict", "reason", "status"),
    [
        ("1", "no Chromium here", 1),
        ("1", "BRHUB_S3_ENDPOINT is not set", 0),
        ("1", "torch is not installed", 0),
        ("", "no Chromium here", 0),
    ],
)
def test_a_skip_fails_where_nothing_may_skip(tmp_path: Path, strict: str, reason: str, status: int) -> None:
    """With BRHUB_CI=1 only reasons on the list may skip; elsewhere a skip is a skip."""
    done = run_pytest(tmp_path, reason, strict)
    assert status == done.returncode, done.stdout
    assert (reason in done.stdout) is bool(status)


def test_rooms_run_in_the_order_of_their_cost() -> None:
    """Unit tests first, whole federations last, unknown rooms after them."""
    names = ["tests/unit/a/test_x.py", "tests/tidy/test_x.py", "tests/end_to_end/test_x.py", "tests/new/test_x.py"]
    places = [conftest.room_of(name) for name in names]
    assert places == sorted(set(places))
    assert {"unit", "property", "tidy", "end_to_end"} <= set(conftest.ROOMS)


def test_every_room_of_tests_has_its_place() -> None:
    """A new folder of tests is put into the order, and into tests/README.md."""
    rooms = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and any(path.rglob("test_*.py"))}
    text = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    assert set() == rooms - set(conftest.ROOMS)
    assert [room for room in conftest.ROOMS if f"`{room}`" not in text] == []
