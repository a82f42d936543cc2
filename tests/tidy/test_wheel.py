"""What is tested is what is shipped: the wheel is built, installed apart from the checkout, and used."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.tidy.repository import GENERATED, ROOT, all_files

PACKAGES = ("federation", "hub_node", "courses")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    words = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel; its dependencies come from the suite's own environment by a .pth file."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    words = ["uv", "pip", "install", "--quiet", "--no-deps", "--offline", "--python", str(python), str(wheel)]
    subprocess.run(words, check=True, capture_output=True)
    (site,) = folder.glob("lib/python3*/site-packages")
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    return folder


def test_every_file_of_the_packages_is_in_the_wheel(wheel: Path) -> None:
    """Templates, static files, .proto files, migrations and course labs are shipped as well as code."""
    with zipfile.ZipFile(wheel) as opened:
        shipped = set(opened.namelist())
    ours = {path.relative_to(ROOT).as_posix() for path in all_files() if path.relative_to(ROOT).parts[0] in PACKAGES}
    assert set() == ours - shipped
    assert any(name.endswith(GENERATED[0]) for name in shipped)


def test_nothing_else_is_in_the_wheel(wheel: Path) -> None:
    """Tests, benchmarks and infrastructure stay in the repository."""
    with zipfile.ZipFile(wheel) as opened:
        tops = {name.split("/")[0] for name in opened.namelist()}
    assert set(PACKAGES) == {top for top in tops if not top.endswith(".dist-info")}


def test_the_installed_wheel_imports_itself_and_not_the_checkout(installed: Path, tmp_path: Path) -> None:
    """Each package is imported out of the new environment."""
    code = "import federation.errors, federation.v1, hub_node, courses; print(federation.errors.__file__)"
    words = [str(installed / "bin" / "python"), "-c", code]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert str(installed) in done.stdout


def test_the_installed_command_line_helps(installed: Path, tmp_path: Path) -> None:
    """`brhub --help` of the installed wheel names its commands."""
    done = subprocess.run(
        [str(installed / "bin" / "brhub"), "--help"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "submit" in done.stdout
