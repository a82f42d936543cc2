"""Children of a benchmark: started in a group of their own, ready when they say so in one line, ended as a group."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

END_S = 20.0


class Child:
    """A process that speaks JSON lines on its standard output."""

    def __init__(
        self, words: Sequence[str], environment: Mapping[str, str] | None = None, log: Path | None = None
    ) -> None:
        """`log` takes its standard error; without one it goes where ours goes."""
        self.words = list(words)
        self._log = None if log is None else log.open("ab")
        self._process = subprocess.Popen(
            self.words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def cpu_s(self) -> float:
        """CPU time that it has used so far, in user and system mode, without its children's."""
        fields = Path(f"/proc/{self.pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def pid(self) -> int:
        """The process, and its group."""
        return self._process.pid

    def said(self) -> Any:
        """The next line it prints, waited for. Raises: RuntimeError when it ends instead."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(("{", "[")):
                return json.loads(line)
        raise RuntimeError(f"{' '.join(self.words)} ended with status {self._process.wait()} before it had answered")

    def kill(self) -> None:
        """SIGKILL to the group, as a crash would; back when it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._close()

    def end(self) -> None:
        """SIGTERM to the group, then SIGKILL; back when it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGTERM)
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            pass  # the group is killed below either way
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._close()

    def _close(self) -> None:
        for file in (self._process.stdout, self._log):
            if file is not None:
                file.close()


@contextlib.contextmanager
def child(module: str, *arguments: str, log: Path | None = None) -> Iterator[Child]:
    """`python -m MODULE ARGUMENTS` for the time of the block."""
    started = Child([sys.executable, "-m", module, *arguments], log=log)
    try:
        yield started
    finally:
        started.end()
