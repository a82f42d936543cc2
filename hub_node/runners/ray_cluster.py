"""Ray jobs on a cluster that the hub runs itself (a head of its own, KubeRay): the Jobs API and nothing else.

The cluster's machines must see the agent's attempt folders under the same paths (a shared file system), as they would for Spark
or Slurm, as the same user, and their clocks must agree with the agent's. The driver runs at the cluster's head, out of reach of a guard: the agent holds the
deadlines and has Ray end it, and where no agent does, `ray_deadline.py` ends it there. Not here: heads of the agent's own, which need none of this (`ray.py`, `ray_head.py`).
"""

from __future__ import annotations

import json
import shlex
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path

from federation.clocks import wall_ms
from federation.errors import Code, Fault, FederationError
from hub_node import steady
from hub_node.ports import Attempt, Phase, Status
from hub_node.records import Run
from hub_node.runners import guard, ray_deadline
from hub_node.runners.process import WORDS
from hub_node.runners.ray import SUBMIT_S_MAX, driver_words, runtime_env_of
from hub_node.runners.ray_api import RayApi, RayRefusedError, RaySilentError

_DEADLINES = "deadline.json"
_TAKEN = "taken"
"""A symbolic link in the attempt's folder, which only one can make: a driver that begins, or the agent that gives it up."""
_BY_DRIVER, _BY_AGENT = "by-driver", "by-agent"


@dataclass(frozen=True, slots=True)
class RayClusterSettings:
    """The hub's cluster. `address` is its dashboard's, for example http://ray-head:8265."""

    address: str
    token: str = field(repr=False)

    def __post_init__(self) -> None:
        if not self.address.startswith(("http://", "https://")) or not self.token:
            raise FederationError(
                Code.CONFIGURATION_INVALID,
                "The hub's Ray cluster needs an address (http:// or https://) and a token.",
                fault=Fault.HUB,
                hint="Start the cluster with RAY_AUTH_MODE=token and give the agent its token.",
            )


class RayClusterRunner:
    """A Runner (`hub_node/ports.py`) for one job of the hub's own cluster."""

    def __init__(self, settings: RayClusterSettings) -> None:
        self._api = RayApi(settings.address, settings.token)
        self._submission_id = ""
        self._limit_ms = self._lease_ms = 0
        self._grace_ms = 10_000
        self._ran_out = ""
        self._folder: Path | None = None
        self._unanswered = False
        """Nobody knows whether Ray has it, or gets it yet."""
        self._stop_asked = threading.Event()
        self._stop_unheard = False
        self._final: Status | None = None

    def start(self, attempt: Attempt) -> None:
        """Submit it; where no answer comes it counts as begun until Ray speaks.

        Raises: FederationError ENGINE_UNAVAILABLE, INVALID_ARGUMENT.
        """
        words, environment = driver_words(attempt), runtime_env_of(attempt)
        program = attempt.folder / "ray_deadline.py"
        holder = (str(attempt.python), "-I", "-S", str(program), str(attempt.folder))
        self._folder = attempt.folder
        self._submission_id = _submission_id(attempt.run)
        self._limit_ms, self._lease_ms = attempt.deadline_ms, attempt.run.lease.valid_until_ms
        self._grace_ms = attempt.grace_ms
        taken, folder, log = (
            shlex.quote(str(path)) for path in (attempt.folder / _TAKEN, attempt.package, attempt.log)
        )
        entrypoint = f"ln -s {_BY_DRIVER} {taken} && cd {folder} && exec {shlex.join((*holder, *words))} >> {log} 2>&1"
        try:
            self._write_deadlines(attempt.folder)
            shutil.copyfile(ray_deadline.__file__, program)
            self._api.submit(self._submission_id, entrypoint, environment, SUBMIT_S_MAX, self._called_off)
        except (RaySilentError, RayRefusedError, OSError) as problem:
            if isinstance(problem, RaySilentError) and problem.sent:
                self._unanswered = True
                return
            raise FederationError(
                Code.ENGINE_UNAVAILABLE,
                f"This hub's Ray cluster did not take the job: {problem}.",
                fault=Fault.HUB,
                hint="Submit it again; the hub's operator looks at the cluster.",
                metadata={"address": self._api.url},
            ) from problem

    def poll(self) -> Status:
        """What Ray says; past a deadline it is also told to end."""
        if self._final is not None:
            return self._final
        if not self._stop_asked.is_set() and (passed := self._passed()):
            self._ran_out = passed
            self.stop(0)
        try:
            job = self._api.job(self._submission_id)
        except (RaySilentError, RayRefusedError):
            return Status(Phase.UNKNOWN)
        if job is None:
            return self._unknown_to_ray()
        self._unanswered = False
        if job.get("status") == "SUCCEEDED":
            self._final = Status(Phase.ENDED, 0)
        elif job.get("status") == "STOPPED":
            self._final = self._stopped()
        elif job.get("status") == "FAILED":
            self._final = self._failed(job)
        else:
            if self._stop_unheard:
                self.stop(0)
            return Status(Phase.RUNNING)
        return self._final

    def stop(self, grace_ms: int) -> None:
        """Ask Ray to end it; the grace is the cluster's RAY_JOB_STOP_WAIT_TIME_S, whatever `grace_ms` says."""
        del grace_ms
        self._stop_asked.set()
        if not self._submission_id:
            return  # it is asked again once it has begun
        self._stop_unheard = True
        try:
            self._api.stop(self._submission_id)
        except RaySilentError:
            return  # poll says UNKNOWN meanwhile, and asks again once Ray speaks
        self._stop_unheard = self._unanswered  # of a job that comes late Ray could not know

    def extend(self, deadline_ms: int, lease_until_ms: int) -> None:
        """New wall-clock deadlines (0 for none); of the runtime limit the nearer one counts. Raises: OSError."""
        self._limit_ms = min((moment for moment in (self._limit_ms, deadline_ms) if moment > 0), default=0)
        self._lease_ms = lease_until_ms
        if self._folder is not None:
            self._write_deadlines(self._folder)

    def save_state(self) -> str:
        """The submission id, its deadlines, the attempt's folder, and whether nobody knows that Ray has it."""
        state = {
            "submission_id": self._submission_id,
            "deadline_ms": self._limit_ms,
            "lease_ms": self._lease_ms,
            "folder": str(self._folder or ""),
            "unanswered": self._unanswered,
        }
        return json.dumps(state)

    def load_state(self, text: str) -> None:
        """Take up a job that an earlier process of the agent submitted."""
        state = json.loads(text)
        self._submission_id, self._limit_ms = str(state["submission_id"]), int(state["deadline_ms"])
        self._lease_ms, self._unanswered = int(state.get("lease_ms", 0)), bool(state.get("unanswered"))
        folder = str(state.get("folder", ""))  # an older agent wrote none
        self._folder = Path(folder) if folder else None

    def take_up(self, run: Run, folder: Path) -> bool:
        """Whether Ray has it, or does not say: then it counts as begun until Ray speaks."""
        self._folder, self._submission_id = folder, _submission_id(run)
        now_ms = steady.now_ms()
        self._limit_ms, self._lease_ms = now_ms + run.lease.work.runtime_limit_ms, run.lease.valid_until_ms
        try:  # it began before now, and its limit never moves on
            written_ms = guard.number(guard.read_json(str(folder / _DEADLINES)), "runtime_wall_ms")
            if written_ms:
                self._limit_ms = min(self._limit_ms, written_ms + now_ms - wall_ms())
        except OSError:
            pass  # what was written holds at its own machine
        try:
            return self._api.job(self._submission_id) is not None
        except (RaySilentError, RayRefusedError):
            self._unanswered = True
            return True

    def _called_off(self) -> bool:
        return self._stop_asked.is_set() or bool(self._passed())

    def _passed(self) -> str:
        """Which deadline is over; empty when none is."""
        now_ms = steady.now_ms()
        both = ((self._lease_ms, "LEASE_RAN_OUT"), (self._limit_ms, "RUNTIME_LIMIT"))
        return next((code for moment_ms, code in both if 0 < moment_ms <= now_ms), "")

    def _write_deadlines(self, folder: Path) -> None:
        """For the driver's own machine, by the wall clock. Raises: OSError."""
        ahead_ms = wall_ms() - steady.now_ms()
        content: guard.Json = {
            "runtime_wall_ms": self._limit_ms and max(1, self._limit_ms + ahead_ms),
            "lease_wall_ms": self._lease_ms and max(1, self._lease_ms + ahead_ms),
            "grace_ms": self._grace_ms,
        }
        guard.write_json(str(folder / _DEADLINES), content)

    def _unknown_to_ray(self) -> Status:
        """Ray speaks, and does not know it. A submission that was not answered may come later all the same."""
        text = "The hub's Ray cluster no longer knows it."
        if self._unanswered:
            assert self._folder is not None, "it is known wherever a submission may be on its way"
            try:
                began = not _withdrawn(self._folder)
            except OSError:
                return Status(Phase.UNKNOWN)
            self._unanswered = False
            if began:
                return Status(Phase.RUNNING)  # it came this very moment
            if self._stop_asked.is_set() and not self._ran_out:
                self._final = self._stopped()
                return self._final
            text = "This hub's Ray cluster did not take the job."
        self._final = Status(Phase.ENDED, 1, "ENGINE_UNAVAILABLE", text)
        return self._final

    def _stopped(self) -> Status:
        return Status(Phase.ENDED, 143, self._ran_out or "STOPPED", WORDS.get(self._ran_out, "It was asked to end."))

    def _failed(self, job: dict[str, object]) -> Status:
        """How its driver ended by itself, or was ended at its deadline where no agent asked Ray for that."""
        said = job.get("driver_exit_code")
        code = said if isinstance(said, int) else 0
        if self._folder is not None:
            try:
                cause = (self._folder / "ended-by").read_text(encoding="ascii")
            except (OSError, ValueError):
                cause = ""
            if cause in WORDS:
                return Status(Phase.ENDED, 143, cause, WORDS[cause])
        message = "" if code else str(job.get("message") or "")[-600:]
        return Status(Phase.ENDED, 128 - code if code < 0 else code or 1, "", message)


def _submission_id(run: Run) -> str:
    """One for each attempt: Ray takes no second job under it."""
    return f"{run.lease.job_id}-{run.lease.epoch}"


def _withdrawn(folder: Path) -> bool:
    """Whether no driver begins this attempt any more, not even one that comes late; False where one has. Raises: OSError."""
    try:
        (folder / _TAKEN).symlink_to(_BY_AGENT)
    except FileNotFoundError:
        return True  # without the folder none can
    except FileExistsError:
        return str((folder / _TAKEN).readlink()) == _BY_AGENT
    return True
