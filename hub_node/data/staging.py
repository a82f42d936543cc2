"""Before a run starts: its folder, its package, its inputs, its interpreter, its environment variables.

    <state_dir>/attempts/<job>/<incarnation>-<n>/{package,output,checkpoint,scratch,log}

Staging twice is harmless: what is there stays, so a restarted agent never pulls a package from under a running program.
The program's environment is made from nothing: a few of the machine's variables, the job's own, ours. Tokens of the hub
are not among them. Deliberately not here: whether it may run (`admission.py`), starting it (`runners/`), and building
environments (`environments.py`).
"""

from __future__ import annotations

import os
import random
import re
import shutil
import stat
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from federation.archive import unpack
from federation.archive.limits import PACKAGE_PACKED_BYTES_MAX, disk_failed
from federation.backoff import pause_s
from federation.errors import Code, Fault, FederationError, invalid
from federation.policy.share import RECLAIM_S_DEFAULT
from hub_node.config import DatasetConfig
from hub_node.records import Epoch, LeaseOrder

PACKAGE_CACHE_BYTES_MAX = 2 * 1024**3
FETCH_S_MAX = 3_600.0
"""What has not grown for so long was left by an agent that was killed."""
DOWNLOADS_MAX, DOWNLOAD_PAUSE_S, DOWNLOAD_PAUSE_S_MAX = 8, 2.0, 60.0
"""Attempts to fetch a package, and the pauses between them; each attempt tries three times by itself."""
_JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TRIED_AGAIN = frozenset({Code.UNREACHABLE, Code.STORE_UNAVAILABLE, Code.TIMED_OUT, Code.OVERLOADED})
PASSED = frozenset(
    {
        "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "JAVA_HOME", "SPARK_HOME", "LD_LIBRARY_PATH",
        "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE", "BRHUB_FEDERATION_DIR",
    }
)  # fmt: skip
"""What a program sees of the agent's own environment."""


@dataclass(frozen=True, slots=True)
class Places:
    """The attempt's folder and what is in it."""

    folder: Path

    @property
    def package(self) -> Path:
        """The unpacked package."""
        return self.folder / "package"

    @property
    def output(self) -> Path:
        """What is left here is the result."""
        return self.folder / "output"

    @property
    def checkpoint(self) -> Path:
        """What a preempted run leaves for its next attempt."""
        return self.folder / "checkpoint"

    @property
    def scratch(self) -> Path:
        """Temporary files."""
        return self.folder / "scratch"

    @property
    def log(self) -> Path:
        """Standard output and error."""
        return self.folder / "log"


@dataclass(frozen=True, slots=True)
class Staged:
    """What is ready for the runner."""

    places: Places
    python: Path
    variables: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Staging:
    """What this agent stages from: its folders and its datasets."""

    state_dir: Path
    hub_id: str
    datasets: tuple[DatasetConfig, ...]
    ca: Path | None = None
    reclaim_s: int = RECLAIM_S_DEFAULT
    """What a preempted run has between SIGTERM and SIGKILL, by the hub's policy."""
    proxy: str = field(default="", repr=False)
    """On the way to the object store: http://HOST:PORT, `none`, or empty for what the environment says."""

    def places(self, job_id: str, epoch: Epoch) -> Places:
        """The folder of an attempt. Raises: FederationError INVALID_ARGUMENT for an id that is no name."""
        if not _JOB_ID.fullmatch(job_id):
            raise invalid("The job's id is not a name.", job_id=job_id[:80])
        return Places(self.state_dir / "attempts" / job_id / str(epoch))

    def stage(
        self, lease: LeaseOrder, grace_ms: int, progress: Callable[[str], None], cancelled: Callable[[], bool]
    ) -> Staged:
        """Everything in place, or an error that says what could not be. Blocks; `cancelled` is asked now and then.

        Raises: FederationError, as archive, store and environment raise; TIMED_OUT when it was called off.
        """
        places = self.places(lease.job_id, lease.epoch)
        try:
            for folder in (places.folder, places.output, places.checkpoint, places.scratch):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as problem:
            raise disk_failed("make the attempt's folder", problem) from problem
        inputs = self._inputs(lease)
        if not places.package.exists():
            self._package(lease, places, progress, cancelled)
        python = Path(sys.executable)
        if lease.work.requirements.strip():
            from hub_node.data.environments import build

            python = build(lease.work.requirements, self.state_dir / "cache", progress, cancelled)
        return Staged(places, python, self._variables(lease, places, python, inputs, grace_ms))

    def _inputs(self, lease: LeaseOrder) -> dict[str, str]:
        found = {}
        for name, version, alias in lease.work.inputs:
            here = [one for one in self.datasets if one.name == name and version in ("", one.version)]
            if not here or not here[-1].path.exists():
                raise FederationError(
                    Code.DATASET_NOT_FOUND,
                    f"The dataset {name!r} is not where this hub's file says it is.",
                    fault=Fault.HUB,
                    hint="The hub's operator looks at [[datasets]] in the agent's file.",
                    metadata={"dataset": name, "version": version},
                )
            found[variable_name(alias or name)] = str(here[-1].path)
        return found

    def _package(
        self, lease: LeaseOrder, places: Places, progress: Callable[[str], None], cancelled: Callable[[], bool]
    ) -> None:
        if not lease.work.package_digest:
            try:
                places.package.mkdir(mode=0o700)
            except OSError as problem:
                raise disk_failed("make the package's folder", problem) from problem
            return
        file = self._fetched(lease, progress, cancelled)
        progress("package, unpacking")
        unpack(file, places.package)

    def _fetched(self, lease: LeaseOrder, progress: Callable[[str], None], cancelled: Callable[[], bool]) -> Path:
        """The package in the cache; its name is its digest, so whole files are right files."""
        digest = lease.work.package_digest
        if not _DIGEST.fullmatch(digest):
            raise invalid("The package's digest is not a sha256 in hex.", digest=digest[:80])
        cache = self.state_dir / "cache" / "packages"
        file = cache / digest
        try:
            os.utime(file)
        except FileNotFoundError:
            pass
        else:
            return file
        from federation.objects.links import download

        if not lease.package_url:
            raise FederationError(
                Code.OBJECT_NOT_FOUND,
                "The lease names a package and brings no link to it.",
                fault=Fault.FEDERATION,
                hint="Submit the job again.",
                metadata={"digest": digest},
            )
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        for failures in range(1, DOWNLOADS_MAX + 1):
            progress("package, downloading")
            try:
                download(
                    lease.package_url,
                    file,
                    sha256=digest,
                    size_bytes_max=PACKAGE_PACKED_BYTES_MAX,
                    ca_file=self.ca,
                    proxy=self.proxy,
                )
                break
            except OSError as problem:
                raise disk_failed("store a package", problem) from problem
            except FederationError as error:
                if error.code not in _TRIED_AGAIN or failures == DOWNLOADS_MAX:
                    raise
                wait_until(cancelled, pause_s(failures, DOWNLOAD_PAUSE_S, DOWNLOAD_PAUSE_S_MAX, random.random()))
        trim(cache, keep=file)
        return file

    def _variables(
        self, lease: LeaseOrder, places: Places, python: Path, inputs: Mapping[str, str], grace_ms: int
    ) -> dict[str, str]:
        ours = {name: text for name, text in os.environ.items() if name in PASSED}
        ours["PATH"] = f"{python.parent}{os.pathsep}{ours.get('PATH', os.defpath)}"
        ours.setdefault("LANG", "C.UTF-8")
        return {
            **ours,
            "TMPDIR": str(places.scratch),
            "PYTHONUNBUFFERED": "1",
            **lease.work.variables,
            **lease.work.secret_variables,
            "BRHUB_JOB_ID": lease.job_id,
            "BRHUB_ATTEMPT": str(lease.epoch),
            "BRHUB_HUB": self.hub_id,
            "BRHUB_OUTPUT_DIR": str(places.output),
            "BRHUB_CHECKPOINT_DIR": str(places.checkpoint),
            # what a run may count on: one that may be preempted has the hub's reclaim time, others what a cancel gives
            "BRHUB_GRACE_S": str(self.reclaim_s if lease.work.preemptible else max(1, grace_ms // 1000)),
            **inputs,
        }

    def tidy(self, job_id: str, epoch: Epoch) -> None:
        """After the control plane has released an attempt: only its log stays."""
        folder = self.places(job_id, epoch).folder
        if not folder.is_dir():
            return
        for entry in folder.iterdir():
            if entry.name == "log":
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


def variable_name(alias: str) -> str:
    """The variable that holds an input's path: `flights-jfk` is BRHUB_INPUT_FLIGHTS_JFK."""
    return "BRHUB_INPUT_" + alias.upper().replace("-", "_")


def wait_until(cancelled: Callable[[], bool], seconds: float) -> None:
    """Wait, in short steps. Raises: FederationError TIMED_OUT when it is called off meanwhile."""
    pause = threading.Event()
    for _ in range(max(1, int(seconds / 0.25))):
        if cancelled():
            raise FederationError(
                Code.TIMED_OUT, "Staging was called off.", fault=Fault.CALLER, hint="The run was asked to end."
            )
        pause.wait(min(0.25, seconds))


def trim(cache: Path, keep: Path, limit_bytes: int = PACKAGE_CACHE_BYTES_MAX) -> None:
    """Let go of the longest unused packages until the rest is below the limit; `keep` stays.

    Other runs fetch and trim at the same time: what they are fetching is theirs, and what they let go of is gone.
    """
    found: list[tuple[float, int, Path]] = []
    for file in cache.iterdir():
        try:
            about = file.stat()
        except FileNotFoundError:
            continue
        coming = file.name.startswith(".") and time.time() - about.st_mtime < FETCH_S_MAX
        if stat.S_ISREG(about.st_mode) and not coming:
            found.append((about.st_mtime, about.st_size, file))
    total = sum(size_bytes for _, size_bytes, _ in found)
    for _, size_bytes, file in sorted(found):
        if total <= limit_bytes:
            return
        if file != keep:
            total -= size_bytes
            file.unlink(missing_ok=True)
