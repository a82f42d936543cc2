"""A whole federation of real processes, as a person starts it: `brhub up`, `brhub` commands from outside, `brhub down`.

Nothing here reaches into a process: what tests see is what the command line, the client and the process table say.
Read next: `tests/end_to_end/conftest.py`, which keeps one federation for the whole session.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from federation.cli import embedded, layout, processes
from federation.cli.show import state_of
from federation.client import TERMINAL, Client
from federation.errors import FederationError
from federation.identity.principal import LOCAL_ISSUER, Principal, PrincipalKind
from federation.identity.tokens import TokenFile
from federation.v1 import job_pb2
from tests.support.eventually import eventually

REPOSITORY = Path(__file__).resolve().parents[2]
CALL_S = 120.0
PATIENCE_S = 90.0
"""The machine is small and shared: what takes a second alone may take a minute beside others."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a call of `brhub` left."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output as the one JSON document that it is."""
        return json.loads(self.out)

    @property
    def items(self) -> list[dict[str, Any]]:
        """The members of `{"items": [...]}`."""
        document = self.document
        assert list(document) == ["items"]
        return list(document["items"])

    @property
    def error(self) -> dict[str, str]:
        """The three lines of an error: what, whose fault, what to do, and the code."""
        lines = self.err.strip().splitlines()
        code = next(line for line in reversed(lines) if line.startswith("code: "))
        fault = next(line for line in reversed(lines) if line.startswith("fault: "))
        what = next(line for line in lines if line.startswith("error: "))
        whose, _, hint = fault.removeprefix("fault: ").partition("; do: ")
        return {
            "message": what.removeprefix("error: "),
            "fault": whose,
            "hint": hint,
            "code": code.removeprefix("code: "),
        }


def environment(folder: Path | None, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """A person's environment: ours, without what another federation may have left in it."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("BRHUB_")}
    kept["PYTHONPATH"] = str(REPOSITORY)
    if folder is not None:
        kept["BRHUB_DIR"] = str(folder)
    return {**kept, **(more or {})}


def brhub(
    *words: object,
    folder: Path | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float = CALL_S,
) -> Said:
    """Run `brhub WORDS` as a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "federation.cli", *map(str, words)],
        cwd=cwd,
        env=environment(folder, env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return Said(done.returncode, done.stdout, done.stderr)


class EmbeddedFederation:
    """One folder, and the federation that runs in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    # ---- up and down ------------------------------------------------------------------------------------------------
    def up(self, *words: object) -> Said:
        """`brhub up --dir FOLDER --detach WORDS`; it must succeed."""
        said = brhub("up", "--dir", self.folder, "--detach", *words, timeout_s=240)
        assert said.status == 0, said.err + self.log("serve")
        return said

    def down(self) -> Said:
        """`brhub down --dir FOLDER`; it must succeed."""
        said = brhub("down", "--dir", self.folder, timeout_s=240)
        assert said.status == 0, said.err
        return said

    def processes(self) -> list[str]:
        """Every process of it that lives, as pid and command line; an agent's grandchildren too."""
        found = []
        for process in processes.marked(self.folder):
            try:
                found.append(f"{process.pid} {' '.join(process.cmdline())[:200]}")
            except psutil.NoSuchProcess:
                continue
        return found

    # ---- as a person ------------------------------------------------------------------------------------------------
    def brhub(
        self, *words: object, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout_s: float = CALL_S
    ) -> Said:
        """Run `brhub WORDS` against it."""
        return brhub(*words, folder=self.folder, cwd=cwd, env=env, timeout_s=timeout_s)

    def client(self) -> Client:
        """A client of the one who started it."""
        return Client(embedded.settings_of(self.plan))

    def token(self, subject: str, home_hub: str = "kuala-lumpur") -> str:
        """A token for a plain user, who may do nothing but what users may."""
        user = Principal(PrincipalKind.USER, LOCAL_ISSUER, subject, home_hub, ("default",))
        return TokenFile(self.folder / "tokens.json").issue(user)

    @property
    def plan(self) -> layout.Plan:
        """Ports, tokens, hubs."""
        found = layout.load_plan(self.folder)
        assert found is not None, "it was never up"
        return found

    @property
    def server(self) -> str:
        """HOST:PORT of the control plane."""
        return f"127.0.0.1:{self.plan.ports['grpc']}"

    # ---- its processes ----------------------------------------------------------------------------------------------
    def pid(self, name: str) -> int:
        """The process `name`, such as "serve" or "hub-cairo"."""
        (found,) = [one for one in processes.noted(self.folder) if one.name == name]
        return found.pid

    def kill(self, name: str) -> None:
        """SIGKILL, to that one process; returns when it is gone."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not is_running(pid), 30, f"{name} to be gone")

    def start_agent(self, hub_id: str) -> None:
        """Start the agent of a hub again."""
        embedded.start_agent(self.folder, hub_id)

    def start_control(self) -> None:
        """Start the control plane again, and wait until it answers."""
        embedded._start_python("serve", ["serve", "--config", str(self.folder / "control.toml")], self.folder)
        eventually(lambda: self.brhub("hub", "list").status == 0, PATIENCE_S, "the control plane to answer")

    def online(self) -> set[str]:
        """The hubs whose link is up."""
        said = self.brhub("hub", "list", "-o", "json")
        return {hub["id"] for hub in said.items if hub["link"] == "ONLINE"} if said.status == 0 else set()

    def log(self, name: str) -> str:
        """The end of a process's log."""
        return processes.log_tail(self.folder / "logs" / f"{name}.log")


def is_running(pid: int) -> bool:
    """Whether it lives; a zombie, which somebody has yet to take note of, does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def processes_of(job_id: str) -> list[int]:
    """Every living process that has the job's id in its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("BRHUB_JOB_ID") == job_id:
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue  # gone meanwhile
    return found


def when(client: Client, job_id: str, *states: str, timeout_s: float = PATIENCE_S) -> job_pb2.Job:
    """The job, once it is in one of `states`; an end in another state fails at once, with why."""
    for job in client.watch([job_id], timeout_s):
        if state_of(job) in states:
            return job
        assert job.state not in TERMINAL, f"{state_of(job)}: {job.reason.code} {job.reason.message}"
    raise AssertionError("a watch ends by an error only")


def ended(client: Client, job_id: str, state: str = "SUCCEEDED", timeout_s: float = PATIENCE_S) -> job_pb2.Job:
    """The job at its end, which must be `state`."""
    job = client.wait(job_id, timeout_s)
    assert state_of(job) == state, (
        f"{state_of(job)}: {job.reason.code} {job.reason.message}\n{_last_words(client, job)}"
    )
    return job


def _last_words(client: Client, job: job_pb2.Job) -> str:
    try:
        return b"".join(client.logs(job.id)).decode(errors="replace")[-2000:]
    except FederationError as error:
        return f"(no log: {error.message})"
