"""People in virtual time: they submit jobs until somebody says that they were accepted, and change their minds.

Each submission keeps its request id through all retries, as the client library does. What was acknowledged is written
down: it may never be lost. A job's fate is drawn here and travels in its arguments (see `machine.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from federation.domain.job import JobState
from federation.errors import FederationError
from federation.ports import Store
from federation.simulation.network import Answer, Call, Line, Network, Servant
from federation.simulation.stage import Life, Stage
from federation.v1 import common_pb2, job_pb2

MINUTE_MS = 60_000
CALL_MS = 10_000
PAUSE_MS, PAUSE_MS_MAX = 500, 30_000
_PARTITION = (
    common_pb2.ON_PARTITION_KEEP, common_pb2.ON_PARTITION_KEEP,
    common_pb2.ON_PARTITION_STOP, common_pb2.ON_PARTITION_RERUN,
)  # fmt: skip


@dataclass(slots=True)
class Wish:
    """One job that somebody wants, and what came of asking for it."""

    request_id: str
    caller: str
    spec: bytes
    preemptible: bool
    job_id: str = ""
    """Empty until it was acknowledged."""
    cancelled: bool = False
    """Somebody has asked for its end."""
    given_up: bool = False
    """That was because nobody could say what became of it."""


@dataclass(slots=True)
class People:
    """See the module."""

    stage: Stage
    network: Network
    plane: Servant
    line: Line
    hubs: tuple[str, ...]
    wishes: list[Wish] = field(default_factory=list)
    by_job: dict[str, Wish] = field(default_factory=dict)
    """Those that were acknowledged."""
    life: Life = field(default_factory=Life)

    def plan(self, jobs: int, within_ms: int) -> None:
        """Draw `jobs` wishes over the next `within_ms`, some of them to be given up again."""
        chance = self.stage.chance
        for number in range(jobs):
            wish = self._wish(f"request-{number:04d}")
            at_ms = chance.random() * within_ms
            self.want(wish, at_ms)
            if chance.random() < 0.2:  # most minds are changed at once, while orders are on their way
                changed_ms = at_ms + chance.random() ** 3 * 20 * MINUTE_MS
                self.stage.after(changed_ms, partial(self._cancel, wish), self.life)

    def want(self, wish: Wish, in_ms: float) -> None:
        """Ask for it then, until it is accepted."""
        self.wishes.append(wish)
        self.stage.after(in_ms, partial(self._submit, wish, PAUSE_MS), self.life)

    def _wish(self, request_id: str) -> Wish:
        chance = self.stage.chance
        home = chance.choice(self.hubs)
        longest_ms = (40 if chance.random() < 0.9 else 120) * MINUTE_MS  # a lease holds for 40 minutes
        work_ms = int(1_000 + chance.random() ** 3 * longest_ms)
        limit_ms = int(work_ms * chance.choice((0.7, 1.5, 3.0))) + 1_000
        exit_code = chance.choice((0, 0, 0, 0, 3))
        on_partition = chance.choice(_PARTITION)
        again = on_partition == common_pb2.ON_PARTITION_RERUN or chance.random() < 0.3
        preemptible = chance.random() < 0.4
        pinned = chance.random() < 0.25
        tasks = 1 if pinned else chance.choice((1, 1, 1, 2))  # fits at the smallest hub
        spec = job_pb2.JobSpec(
            version=1,
            name=request_id,
            project="default",
            engine="fake",
            entrypoint="plays",
            arguments=(str(work_ms), str(exit_code), str(int(chance.random() < 0.1))),
            runtime_limit_ms=limit_ms,
            demand=job_pb2.Demand(
                replicas=tasks,
                per_task=[common_pb2.Resource(name="cpu", amount=chance.choice((500, 1_000, 2_000)))],
            ),
            on_partition=on_partition,
            preemptible=preemptible,
            idempotent=again,
            hubs=job_pb2.HubConstraint(allow=[home]) if pinned else None,
        )
        return Wish(request_id, f"{home}/person", spec.SerializeToString(), preemptible)

    def _submit(self, wish: Wish, pause_ms: int) -> None:
        message = job_pb2.SubmitJobsRequest(
            submissions=[job_pb2.Submission(request_id=wish.request_id, spec=wish.spec)]
        )

        def answered(reply: bytes | FederationError) -> None:
            problem = "no answer"
            if not isinstance(reply, FederationError):
                (result,) = job_pb2.SubmitJobsResponse.FromString(reply).results
                if result.job_id:
                    self._acknowledged(wish, result.job_id)
                    return
                problem = result.problem.code
            self.stage.tell("people", f"{wish.request_id}: {problem}, again")
            longer_ms = min(PAUSE_MS_MAX, pause_ms * 2)
            self.stage.after(pause_ms, partial(self._submit, wish, longer_ms), self.life)

        self._call("SubmitJobs", wish, message.SerializeToString(), answered)

    def _acknowledged(self, wish: Wish, job_id: str) -> None:
        if wish.job_id and wish.job_id != job_id:
            raise self.stage.broken(f"request {wish.request_id} was answered with {wish.job_id} and with {job_id}")
        self.stage.tell("people", f"{wish.request_id} is {job_id}")
        wish.job_id = job_id
        self.by_job[job_id] = wish

    def close_files(self, store: Store) -> None:
        """Give up what has been unknown for hours: its hub will not come back."""
        for wish in self.wishes:
            job = store.get_job(wish.job_id)
            if job is not None and job.state is JobState.UNKNOWN:
                wish.given_up = True
                self._cancel(wish)

    def _cancel(self, wish: Wish) -> None:
        if not wish.job_id:
            return
        wish.cancelled = True
        message = job_pb2.CancelJobRequest(job_id=wish.job_id)
        self._call("CancelJob", wish, message.SerializeToString(), lambda _: None)

    def _call(self, method: str, wish: Wish, request: bytes, answered: Answer) -> None:
        call = Call(method, wish.caller, request, CALL_MS)
        self.network.call(self.line, self.plane, call, self.life, answered)
