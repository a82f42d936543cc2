"""The planner's machine code: never of other sources than those that are there, and all of it made by one warm-up."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from federation.app import kernels
from federation.app.kernels import STAMP, digest_of, folders_of, fresh_kernels
from federation.scheduling.kernels import fill as module_of_fill


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for numba's, with the machine code of one kernel."""
    folder = tmp_path / "__pycache__"
    monkeypatch.setattr(kernels, "folders_of", lambda _package: {folder})
    folder.mkdir()
    fill(folder)
    return folder


def fill(folder: Path) -> None:
    """One kernel's machine code, and a file of Python's."""
    for name in ("fill.fill-1.py311.nbi", "fill.fill-1.py311.1.nbc", "fill.cpython-311.pyc"):
        (folder / name).write_bytes(b"code")


def machine_code(folder: Path) -> list[str]:
    """Numba's files."""
    return sorted(path.name for path in folder.glob("*.nb?"))


def test_machine_code_without_a_stamp_goes(cache: Path) -> None:
    """Nobody knows what it is of; what is not numba's stays."""
    assert fresh_kernels()
    assert machine_code(cache) == []
    assert (cache / "fill.cpython-311.pyc").exists()


def test_machine_code_of_these_sources_stays(cache: Path) -> None:
    """A second look at the same sources throws nothing away."""
    fresh_kernels()
    fill(cache)
    assert not fresh_kernels()
    assert len(machine_code(cache)) == 2


def test_machine_code_of_other_sources_goes(cache: Path) -> None:
    """A stamp of anything else is not ours."""
    fresh_kernels()
    fill(cache)
    (cache / STAMP).write_text("another digest", "ascii")
    assert fresh_kernels()
    assert machine_code(cache) == []


def test_any_changed_source_changes_the_digest(tmp_path: Path) -> None:
    """Also with equal size, also a file's name."""
    (tmp_path / "room.py").write_text("one = 1", "ascii")
    before = digest_of([tmp_path])
    (tmp_path / "room.py").write_text("one = 2", "ascii")
    changed = digest_of([tmp_path])
    (tmp_path / "room.py").rename(tmp_path / "rooms.py")
    assert len({before, changed, digest_of([tmp_path])}) == 3


def test_several_at_once_do_not_hurt_each_other(cache: Path) -> None:
    """One of them throws away; what it made afterwards survives the others."""
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: fresh_kernels(), range(8)))
    assert sorted(found) == [False] * 7 + [True]


def test_a_folder_that_nobody_may_write_is_left_alone(cache: Path) -> None:
    """Numba would not use it either."""
    (cache / STAMP).mkdir()
    assert not fresh_kernels()
    assert len(machine_code(cache)) == 2


def test_numba_says_where_it_keeps_the_planners_machine_code() -> None:
    """A folder of the kernels, wherever that is here."""
    assert Path(vars(module_of_fill)["fill"].stats.cache_path) in folders_of(kernels.PLANNER)


def test_a_warm_up_leaves_nothing_to_compile() -> None:
    """After it, rounds and explanations of all sorts call no kernel with types that were not compiled."""
    code = (
        "from tests.support.compiled import new_signatures\nmissing = new_signatures()\nassert not missing, missing\n"
    )
    words = [sys.executable, "-c", code]
    said = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[3], timeout=110)
    assert said.returncode == 0, said.stderr
