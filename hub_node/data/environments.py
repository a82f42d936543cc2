"""A job's virtual environment, built once per hub from its requirements, by digest, through uv and the hub's own index.

An environment is layered over the hub's packages: a job's own packages come first, and what it did not ask for (pyspark,
ray, mlflow) is the hub's, so that a program always speaks to its engine in the engine's version. It is built beside its
place and renamed when whole; two jobs that ask for the same build it once. Not here: deciding who may bring packages
(admission), and the run itself. Read next: `package_index.py`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from federation.errors import Code, Fault, FederationError, invalid
from hub_node.data.environment_errors import engine_pins, explain, failed
from hub_node.data.package_index import constraint_files, uv_variables

SHAPE = 1
"""Part of the digest: raised when environments are built differently."""
REQUIREMENT_LINES_MAX = 1_000
BUILD_S_MAX = 30 * 60
TOTAL_BYTES_MAX = 20 * 1024**3
GIVEN_OUT_S = 15 * 60
_PROGRESS_EVERY_S = 1.0
_MB = 1_000_000
_MARK = "environment.json"

_PASSED = frozenset(
    {
        "PATH", "HOME", "USER", "LOGNAME", "LANG", "TMPDIR", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS", "XDG_CACHE_HOME",
        "NETRC", "REQUESTS_CA_BUNDLE", "CC", "CXX", "CFLAGS", "LDFLAGS", "PKG_CONFIG_PATH", "LD_LIBRARY_PATH",
        "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "no_proxy", "all_proxy",
    }
)  # fmt: skip
_PASSED_PREFIXES = ("UV_", "PIP_", "SSL_", "LC_")
"""What uv sees of the agent's own variables: a package's build script is a stranger's, and tokens are not for it."""

Progress = Callable[[str], None]


def build(
    requirements: str, cache_dir: Path, progress: Progress, cancelled: Callable[[], bool] = lambda: False
) -> Path:
    """The interpreter of the environment for `requirements` (a requirements file's text), built if it is not there.

    Blocks for as long as the build takes (30 min at most); `progress` hears "environment, 212 MB" about once a second,
    from another thread. `cancelled` is asked as often.

    Raises: FederationError INVALID_ARGUMENT (an option, a local path), LIMIT_EXCEEDED, ENVIRONMENT_FAILED (names the
    package; `fault` says whether the job or the hub is to change), TOOL_MISSING (no uv at this hub).
    """
    lines = check_requirements(requirements)
    if not lines:
        return Path(sys.executable)
    home = cache_dir / "environments"
    home.mkdir(parents=True, exist_ok=True)
    target, built = home / digest_of(lines), False
    with _locked(home / f"{target.name}.lock", progress, cancelled):
        if not _whole(target):
            _build_into(target, lines, cache_dir, progress, cancelled)
            built = True
        os.utime(target / _MARK)
    if built:
        trim(cache_dir, [_python_of(target)])
    return _python_of(target)


def check_requirements(text: str) -> tuple[str, ...]:
    """The requirement lines in `text`, without comments, joined over backslashes.

    Raises: FederationError INVALID_ARGUMENT, LIMIT_EXCEEDED.
    """
    whole = re.sub(r"\\\r?\n", " ", text)
    lines = tuple(line for raw in whole.splitlines() if (line := re.sub(r"(^|\s)#.*$", "", raw).strip()))
    if len(lines) > REQUIREMENT_LINES_MAX:
        raise invalid(
            f"The requirements have {len(lines)} lines; the limit is {REQUIREMENT_LINES_MAX}.",
            code=Code.LIMIT_EXCEEDED,
            limit=str(REQUIREMENT_LINES_MAX),
        )
    for line in lines:
        if line.startswith("-"):
            raise invalid(
                f"The requirements hold the option {line.split()[0][:40]!r}; only packages may be named.",
                hint="Each hub uses its own package index: leave options out.",
                line=line[:200],
            )
        if line.startswith((".", "/", "~", "file:")) or re.search(r"@\s*(file:|[./~])", line):
            raise invalid(
                f"The requirement {line[:80]!r} is a local path, which no other machine has.",
                hint="Put your own modules into the job's package.",
                line=line[:200],
            )
    return lines


def digest_of(lines: Collection[str]) -> str:
    """What an environment is known by: requirements, Python, platform and the hub's engine versions."""
    parts = [
        SHAPE, list(lines), platform.python_implementation(), platform.python_version(), sysconfig.get_platform(),
        sys.base_prefix, engine_pins(),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def trim(cache_dir: Path, in_use: Collection[Path], limit_bytes: int = TOTAL_BYTES_MAX) -> int:
    """Remove the longest unused environments until all together are below `limit_bytes`; returns bytes let go.

    Those of `in_use` (interpreters, as `build` returned them) stay, whatever the limit; so do those that a process of this
    machine names and those given out in the last quarter of an hour, whose runs may be about to start.
    """
    home = cache_dir / "environments"
    marks = sorted(home.glob(f"*/{_MARK}"), key=lambda mark: mark.stat().st_mtime)
    sizes = {mark.parent: int(json.loads(mark.read_text(encoding="utf-8"))["bytes"]) for mark in marks}
    kept = {python.parent.parent for python in in_use}
    over, freed = sum(sizes.values()) - limit_bytes, 0
    if over <= 0:
        return 0
    kept |= _named_by_processes(home)
    youngest_s = time.time() - GIVEN_OUT_S
    for folder, size in sizes.items():
        if freed >= over:
            break
        if folder not in kept and (folder / _MARK).stat().st_mtime < youngest_s and _remove(folder):
            freed += size
    if freed:
        # uv's cache holds the same inodes: only both together free space. uv waits for its other processes here.
        subprocess.run([find_uv(), "cache", "clean", "--quiet", "--cache-dir", str(cache_dir / "uv")], check=False)
    return freed


def find_uv() -> str:
    """A uv that runs: this environment's own, one on the PATH, or the one that the set-up fetched.

    Raises: FederationError TOOL_MISSING.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "digital-br"
    fetched = sorted(cache.glob("uv*/bin/uv"), reverse=True)
    candidates = [str(Path(sys.prefix) / "bin" / "uv"), shutil.which("uv") or "", *map(str, fetched)]
    for program in candidates:
        if program and os.access(program, os.X_OK) and _runs(program):  # a version switcher's shim may point nowhere
            return program
    raise FederationError(
        Code.TOOL_MISSING,
        "This hub has no uv, which builds environments.",
        fault=Fault.HUB,
        hint="The operator runs `./run setup`, or installs the package `uv`.",
    )


# ---- building ---------------------------------------------------------------------------------------------------------


def _build_into(
    target: Path, lines: Collection[str], cache_dir: Path, progress: Progress, cancelled: Callable[[], bool]
) -> None:
    uv = find_uv()
    progress("environment, resolving")
    for left in (target, *target.parent.glob(f".{target.name}.*")):
        shutil.rmtree(left, ignore_errors=True)  # not whole: its Python is gone, or a builder was killed
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        (folder / "requirements.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        pins = folder / "constraints.txt"
        pins.write_text("".join(f"{pin}\n" for pin in engine_pins()), encoding="utf-8")
        made = folder / "venv"
        build_run = _Build(cache_dir / "uv", made, progress, cancelled)
        # relocatable: the folder is renamed when it is whole
        build_run.run([uv, "venv", "--quiet", "--relocatable", "--python", sys.executable, str(made)])
        install = [uv, "pip", "install", "--python", str(_python_of(made)), "-r", str(folder / "requirements.txt")]
        for file in (pins, *constraint_files(os.environ, Path.home())):
            install += ["--constraint", str(file)]
        build_run.run(install)
        _layer_over_hub(made)
        mark = {"requirements": list(lines), "bytes": folder_bytes(made), "shape": SHAPE}
        (made / _MARK).write_text(json.dumps(mark), encoding="utf-8")
        made.rename(target)
    except OSError as problem:
        raise failed(f"Could not build the environment: {problem.strerror or problem}.", Fault.HUB) from problem
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Build:
    """uv at work: its own process group, its output kept, its growth told."""

    def __init__(self, uv_cache: Path, made: Path, progress: Progress, cancelled: Callable[[], bool]) -> None:
        self._cache = uv_cache
        self._made = made
        self._progress = progress
        self._cancelled = cancelled
        self._began_s = time.time()
        self._ends_s = time.monotonic() + BUILD_S_MAX

    def run(self, command: list[str]) -> None:
        told = {name: text for name, text in os.environ.items() if name in _PASSED or name.startswith(_PASSED_PREFIXES)}
        variables = uv_variables(told, Path.home())
        variables |= {"UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR") or str(self._cache), "UV_NO_PROGRESS": "1"}
        variables |= {"UV_NO_CONFIG": "1", "UV_PYTHON_DOWNLOADS": "never", "NO_COLOR": "1", "VIRTUAL_ENV": ""}
        self._cache = Path(variables["UV_CACHE_DIR"])
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=variables, start_new_session=True
            )
            try:
                self._wait(process)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            output.seek(0)
            text = output.read().decode("utf-8", "replace")
        if process.returncode != 0:
            raise explain(text)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        while True:
            try:
                process.wait(timeout=_PROGRESS_EVERY_S)
                return
            except subprocess.TimeoutExpired:
                grown = max(_new_bytes(self._cache, self._began_s), folder_bytes(self._made))
                self._progress(f"environment, {grown // _MB} MB" if grown >= _MB else "environment, resolving")
            if self._cancelled():
                raise failed("The environment's build was called off.", Fault.CALLER)
            if time.monotonic() > self._ends_s:
                raise failed(
                    f"The environment was not built within {BUILD_S_MAX // 60} minutes.",
                    Fault.HUB,
                    hint="Pin versions that have wheels; ask the operator how fast this hub's package index is.",
                )


def _layer_over_hub(made: Path) -> None:
    """Make the hub's packages visible behind the environment's own."""
    inside = next((made / "lib").glob("python*/site-packages"))
    hub = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    (inside / "_hub_packages.pth").write_text("".join(f"{path}\n" for path in hub), encoding="utf-8")


# ---- folders ----------------------------------------------------------------------------------------------------------


def folder_bytes(folder: Path) -> int:
    """Size of the files below `folder`; 0 when it is not there. Files that go meanwhile do not count."""
    total = 0
    for base, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(base, name)).st_size  # noqa: PTH118 - a Path for each of 20,000 files costs a second
            except OSError:
                continue
    return total


def _new_bytes(cache: Path, since_s: float) -> int:
    """What uv has fetched since: wheels that it is unpacking now, and those unpacked by this build."""
    total = 0
    for place in (cache, cache / "archive-v0", cache / "builds-v0"):
        try:
            with os.scandir(place) as entries:
                fresh = [entry.path for entry in entries if place != cache or entry.name.startswith(".tmp")]
                fresh = [path for path in fresh if os.lstat(path).st_mtime >= since_s]
        except OSError:
            continue
        total += sum(folder_bytes(Path(path)) for path in fresh)
    return total


def _python_of(folder: Path) -> Path:
    return folder / "bin" / "python"


def _whole(folder: Path) -> bool:
    return (folder / _MARK).is_file() and os.access(_python_of(folder), os.X_OK)


def _named_by_processes(home: Path) -> set[Path]:
    """Environments that a live process names in its words or its variables."""
    pattern = re.compile(re.escape(str(home).encode()) + rb"/([0-9a-f]{32})/")
    found: set[Path] = set()
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                found |= {home / match.decode() for match in pattern.findall((process / name).read_bytes())}
            except OSError:
                continue  # it ended, or is somebody else's
    return found


def _runs(program: str) -> bool:
    try:
        return subprocess.run([program, "--version"], capture_output=True, timeout=60, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _remove(folder: Path) -> bool:
    """Take `folder` away unless somebody builds or takes it just now; whether it is gone."""
    descriptor = os.open(folder.parent / f"{folder.name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        doomed = folder.with_name(f".{folder.name}.going")
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


@contextmanager
def _locked(path: Path, progress: Progress, cancelled: Callable[[], bool]) -> Iterator[None]:
    """One builder of an environment at a time, over all threads and agents of this hub."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    pause = threading.Event()
    ends_s = time.monotonic() + BUILD_S_MAX
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                progress("environment, another job builds the same one")
            if cancelled():
                raise failed("The wait for the environment was called off.", Fault.CALLER)
            if time.monotonic() > ends_s:
                raise failed("Another job has been building this environment for too long.", Fault.HUB)
            pause.wait(0.2)
        yield
    finally:
        os.close(descriptor)
