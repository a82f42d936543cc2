"""Finding or getting uv, which does all further installing.

In this order: a uv on the PATH, one fetched before, pip (installed, or the wheel that Python or the system brings for
ensurepip), the configured index directly, and a pip taken from this Debian's own package mirror. Each way checks the
hashes in `infra/locks/uv.txt`. Not here: what uv then installs (`environment`).
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

from infra.bootstrap import simple_api
from infra.bootstrap.index import IndexSettings
from infra.bootstrap.places import LOCKS, cache_folder, short
from infra.bootstrap.trouble import BootstrapError, say

OLDEST = (0, 5, 0)
LOCK = LOCKS / "uv.txt"
FETCH_TIMEOUT_S = 1800


def read_pin(lock_text: str) -> tuple[str, set[str]]:
    """(version, SHA-256 digests) of the one package that the lock names.

    Raises:
        BootstrapError: the lock is not readable.
    """
    match = re.search(r"^[A-Za-z0-9_.-]+==(\S+)", lock_text, re.MULTILINE)
    if not match:
        raise BootstrapError("infra/locks/uv.txt names no version")
    return match.group(1), set(re.findall(r"sha256:([0-9a-f]{64})", lock_text))


def version_of(program: str) -> tuple[int, ...]:
    """The version of a uv program; empty where it does not run (a shim may point to nothing)."""
    try:
        done = subprocess.run([program, "--version"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    match = re.search(rb"uv (\d+)\.(\d+)\.(\d+)", done.stdout) if done.returncode == 0 else None
    return tuple(int(part) for part in match.groups()) if match else ()


def find_uv(path: str | None = None) -> str | None:
    """A uv on the PATH that is young enough, or None."""
    program = shutil.which("uv", path=path)
    return program if program and version_of(program) >= OLDEST else None


def pip_commands() -> list[list[str]]:
    """Ways to run a pip on this machine, best first. None of them is tried here."""
    ways = [[sys.executable, "-m", "pip"]] if has_module(sys.executable, "pip") else []
    folders = [Path(sysconfig.get_path("stdlib")) / "ensurepip" / "_bundled", Path("/usr/share/python-wheels")]
    configured = sysconfig.get_config_var("WHEEL_PKG_DIR")
    if configured:
        folders.insert(0, Path(configured))
    wheels = [wheel for folder in folders for wheel in sorted(folder.glob("pip-*.whl"))]
    ways += [[sys.executable, str(wheel / "pip")] for wheel in wheels]
    for name in ("pip3", "pip"):
        program = shutil.which(name)
        if program:
            ways.append([program])
    return ways


def has_module(python: str, module: str) -> bool:
    """Whether that Python can import `module`."""
    probe = subprocess.run([python, "-c", f"import {module}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return probe.returncode == 0


def install_with_pip(pip: list[str], folder: Path) -> bool:
    """Install the locked uv into `folder` by a pip, which reads its own configuration; whether that worked."""
    command = [*pip, "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
    command += ["--require-hashes", "--target", str(folder), "-r", str(LOCK)]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=FETCH_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return False
    if done.returncode != 0:
        tail = done.stdout.decode("utf-8", "replace").strip().splitlines()[-1:]
        say("pip could not get uv: " + "".join(tail))
    return done.returncode == 0


def install_from_index(settings: IndexSettings, folder: Path) -> None:
    """Fetch the locked uv from the configured index without pip, and unpack it into `folder`.

    Raises:
        BootstrapError: no index, no file for this machine, or a wrong digest.
    """
    version, digests = read_pin(LOCK.read_text(encoding="utf-8"))
    machine, system = simple_api.this_system()
    wheel = simple_api.pick_wheel(simple_api.list_files("uv", settings), version, "311", machine, system)
    if wheel is None:
        raise BootstrapError(f"{settings.name} has no uv {version} for {system} on {machine}")
    folder.mkdir(parents=True, exist_ok=True)
    archive = simple_api.fetch(wheel, digests, folder / wheel.name, settings)
    with zipfile.ZipFile(str(archive)) as opened:
        member = next(name for name in opened.namelist() if name.endswith(".data/scripts/uv"))
        (folder / "bin").mkdir(exist_ok=True)
        program = folder / "bin" / "uv"
        program.write_bytes(opened.read(member))
    program.chmod(program.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    archive.unlink()


def pip_from_debian(folder: Path) -> list[str]:
    """A pip out of this Debian's own package mirror, fetched without root; empty where that cannot be done.

    apt-get works on lists and caches of our own, so that neither root nor the system's state is touched.
    """
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return []
    for part in ("state/lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    options = ["-o", f"Dir::State={folder}/state", "-o", f"Dir::Cache={folder}/cache", "-o", "Debug::NoLocking=1"]
    options += ["-o", "Dir::State::status=/var/lib/dpkg/status", "-o", "APT::Sandbox::User="]
    say("no pip here: taking one from this system's package mirror")
    for words in (["update"], ["download", "python3-pip-whl"]):
        try:
            done = subprocess.run(
                ["apt-get", "-qq", *options, *words], cwd=str(folder), stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, timeout=FETCH_TIMEOUT_S,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return []
        if done.returncode != 0:
            return []
    for package in folder.glob("python3-pip-whl_*.deb"):
        subprocess.run(["dpkg-deb", "-x", str(package), str(folder / "files")], check=False)
    wheels = sorted(folder.glob("files/usr/share/python-wheels/pip-*.whl"))
    return [sys.executable, str(wheels[-1] / "pip")] if wheels else []


def get_uv(settings: IndexSettings) -> str:
    """The path of a working uv.

    Raises:
        BootstrapError: every way failed; it ends with the one command to type.
    """
    found = find_uv()
    if found:
        return found
    version, _ = read_pin(LOCK.read_text(encoding="utf-8"))
    folder = cache_folder() / f"uv-{version}"
    program = folder / "bin" / "uv"
    if version_of(str(program)):
        return str(program)
    say(f"fetching uv {version} (about 25 MB) from {settings.name} into {short(folder)}")
    incoming = folder.with_name(folder.name + f".incoming-{os.getpid()}")
    for attempt in ("pip", "index", "debian"):
        shutil.rmtree(str(incoming), ignore_errors=True)
        if try_way(attempt, settings, incoming) and version_of(str(incoming / "bin" / "uv")):
            shutil.rmtree(str(folder), ignore_errors=True)
            incoming.rename(folder)
            return str(program)
    shutil.rmtree(str(incoming), ignore_errors=True)
    raise BootstrapError(
        "uv is needed and could not be had: no uv and no pip on this machine, and no package index is configured"
        if not settings.default
        else f"uv is needed and could not be fetched from {settings.name}",
        "PIP_INDEX_URL=https://YOUR-INDEX/simple ./run setup      (or, as root: apt-get install python3-venv)",
    )


def try_way(way: str, settings: IndexSettings, folder: Path) -> bool:
    """Try one way of getting uv into `folder`; whether it may have worked. Failures are told and the next way follows."""
    if way == "pip":
        return any(install_with_pip(pip, folder) for pip in pip_commands())
    if way == "debian":
        pip = pip_from_debian(cache_folder() / "debian")
        return bool(pip) and install_with_pip(pip, folder)
    if not settings.default:
        return False
    try:
        install_from_index(settings, folder)
    except BootstrapError as error:
        say(str(error))
        return False
    return True
