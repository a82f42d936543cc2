"""Ray jobs on a head of the agent's own: submitted through the Jobs API, driven under guard, sized by the lease.

The attempt's id is the submission id, so a start that is repeated finds the first. The driver is put under `guard.py` by
`ray_driver.py`: deadline, log and exit status are what they are for every engine, with or without the agent; Ray itself is
asked only until the driver is there, and while a head starts. What is different: memory is watched for the driver's processes,
not for Ray's workers, which belong to the head. `start` blocks while a head starts (30 s, 3 min at most): call it on a thread of
its own; `stop` from another thread ends that wait. Read next: `ray_head.py`, `ray_api.py`; a hub's own cluster: `ray_cluster.py`.
"""

from __future__ import annotations

import json
import math
import shlex
import sys
import threading
import time
from pathlib import Path

from federation.errors import Code, Fault, FederationError, invalid
from hub_node.ports import Attempt, Phase, Status
from hub_node.records import Run
from hub_node.runners import guard
from hub_node.runners.process import ProcessRunner, Program, withdraw
from hub_node.runners.ray_api import TERMINAL, RayRefusedError, RaySilentError
from hub_node.runners.ray_head import RayHead, RayHeads, Shape

SUBMIT_S_MAX = 120.0
AFTER_RUN_MS = 5 * 60_000
"""A head lives this much longer than the deadline of its run."""
_MACHINE_VARIABLES = frozenset({"PATH", "HOME", "LANG", "LC_ALL", "USER", "LOGNAME", "TMPDIR", "TZ", "SHELL", "PWD"})
_RAYS_OWN = frozenset({"CUDA_VISIBLE_DEVICES"})
"""Ray gives each worker its own part of what its head sees."""
_RECORD = "ray.json"


class RayRunner(ProcessRunner):
    """A Runner (`hub_node/ports.py`) for one Ray job; `heads` is shared by all runs of the agent."""

    def __init__(self, heads: RayHeads) -> None:
        super().__init__()
        self._heads = heads
        self._head_name = ""
        self._attempt: Attempt | None = None
        self._stop_asked = threading.Event()

    # ---- the Runner contract, where it differs from a process ---------------------------------------------------------

    def program(self, attempt: Attempt) -> Program:
        """The driver. Ray adds its own variables where it starts it."""
        return Program(driver_words(attempt), attempt.package, attempt.variables)

    def start(self, attempt: Attempt) -> None:
        """Submit it; returns when Ray has it. Blocks while a head starts."""
        self._attempt = attempt
        try:
            super().start(attempt)
        except FederationError:
            (attempt.folder / "guard-spec.json").unlink(missing_ok=True)  # it may hold secrets, and nobody reads it now
            raise

    def _look(self) -> Status:
        """What the guard says once the driver is there; before, what Ray says."""
        if not self._head_name:
            self._read_record()  # an agent before this one, or a start before this one, had given it a head
        if not self._claimed():
            return self._ask_ray()
        status = super()._look()
        if status.phase is Phase.ENDED:
            self._heads.release(self._head_name, self._submission_id())
        return status

    def stop(self, grace_ms: int) -> None:
        """Ask the driver's guard; a job that has no driver yet is taken back from Ray."""
        self._stop_asked.set()
        try:
            if self._claimed():
                super().stop(grace_ms)
                return
            head = self._heads.find(self._head_name) or self._read_record()
        except OSError:
            return  # whoever wanted the end asks again
        if head is not None:
            try:
                head.api.stop(self._submission_id())
            except RaySilentError:
                pass  # poll goes on asking; the run's deadline and the head's stand behind it

    def take_up(self, run: Run, folder: Path) -> bool:
        """Whether its driver runs, or Ray has the job, or does not say: then it counts as begun until Ray speaks."""
        claimed = super().take_up(run, folder)
        try:
            head = self._read_record()
            if claimed or head is None:
                return claimed
            return head.api.job(self._submission_id()) is not None
        except (RaySilentError, RayRefusedError, OSError):
            return True

    # ---- inside -------------------------------------------------------------------------------------------------------

    def _launch(self, folder: Path) -> None:
        """Instead of starting the guard: have Ray start it."""
        attempt = self._attempt
        assert attempt is not None, "start comes first"
        self._launched_s = time.monotonic()
        head = self._read_record() or self._heads.acquire(
            shape_of(attempt), self._submission_id(), self._stop_asked.is_set
        )
        self._head_name = head.name
        head.live_until(attempt.deadline_ms + AFTER_RUN_MS)
        guard.write_json(str(folder / _RECORD), {"head": head.name})
        driver = Path(__file__).with_name("ray_driver.py")
        words = [sys.executable, "-I", "-S", str(driver), str(folder)]
        try:
            head.api.submit(
                self._submission_id(), "exec " + shlex.join(words), runtime_env_of(attempt), SUBMIT_S_MAX,
                self._stop_asked.is_set,
            )  # fmt: skip
        except (RaySilentError, RayRefusedError) as problem:
            if isinstance(problem, RaySilentError) and problem.sent and not withdraw(folder):
                return  # its answer was lost, and its driver is there
            self._heads.release(head.name, self._submission_id())
            raise FederationError(
                Code.ENGINE_UNAVAILABLE,
                f"Ray did not take the job: {problem}.",
                fault=Fault.HUB,
                hint="Submit it again; the hub's operator finds more in the head's log.",
                metadata={"head": head.name},
            ) from problem

    def _ask_ray(self) -> Status:
        """The state of a job whose driver has not been seen."""
        head = self._heads.find(self._head_name)
        if head is None:
            return self._end(Status(Phase.ENDED, 1, "ENGINE_UNAVAILABLE", "Its Ray head ended before it began."))
        try:
            job = head.api.job(self._submission_id())
        except (RaySilentError, RayRefusedError):
            return Status(Phase.UNKNOWN)
        if self._claimed():
            return self._look()  # it came while we asked
        status = str(job.get("status")) if job else "absent"
        if job is not None and status not in TERMINAL:
            return Status(Phase.RUNNING)
        if status == "STOPPED":
            return self._end(Status(Phase.ENDED, 143, "STOPPED", "It was asked to end."))
        message = str(job.get("message") or "") if job else "Ray does not know it."
        return self._end(Status(Phase.ENDED, 1, "ENGINE_UNAVAILABLE", f"Ray did not start it: {message[-600:]}"))

    def _end(self, status: Status) -> Status:
        self._final = status
        self._heads.release(self._head_name, self._submission_id())
        return status

    def _submission_id(self) -> str:
        return "-".join(self._job)

    def _read_record(self) -> RayHead | None:
        """The head that this attempt was given before, if it lives. Raises: OSError when nobody knows."""
        try:
            self._head_name = str(json.loads((self.folder / _RECORD).read_text(encoding="utf-8"))["head"])
        except (FileNotFoundError, ValueError, KeyError):
            return None
        return self._heads.claim(self._head_name, self._submission_id())


def driver_words(attempt: Attempt) -> tuple[str, ...]:
    """The driver's command. Raises: FederationError INVALID_ARGUMENT (no such entrypoint, not Python)."""
    name = attempt.run.lease.work.entrypoint
    if not (attempt.package / name).is_file() or not name.endswith(".py"):
        raise invalid(
            f"The package holds no Python program {name!r}.",
            hint="`entrypoint` is relative to the folder named by `package`, and ends in .py.",
            entrypoint=name,
        )
    return (str(attempt.python), "-u", name, *attempt.run.lease.work.arguments)


def runtime_env_of(attempt: Attempt) -> dict[str, object]:
    """What Ray gives to the job's workers, which do not inherit from the driver: its variables and its Python."""
    variables = {name: text for name, text in attempt.variables.items() if name not in _MACHINE_VARIABLES | _RAYS_OWN}
    environment: dict[str, object] = {"env_vars": variables}
    if attempt.python != Path(sys.executable):
        environment["py_executable"] = str(attempt.python)
    return environment


def shape_of(attempt: Attempt) -> Shape:
    """The head that a lease pays for: whole CPUs and GPUs of all its tasks together."""
    lease = attempt.run.lease
    work = lease.work
    return Shape(
        issuer=lease.issuer,
        subject=lease.subject,
        cpus=max(1, math.ceil(work.cpu_milli * work.replicas / 1000)),
        gpus=math.ceil(work.gpu_milli * work.replicas / 1000),
        devices=attempt.variables.get("CUDA_VISIBLE_DEVICES", "") if work.gpu_milli else "",
    )
