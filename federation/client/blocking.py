"""`Client`: the verbs for programs that wait. Safe to share between threads.

Deliberately not here: what a verb does (`steps.py`); this module carries out its steps one after the other.
"""

from __future__ import annotations

import builtins
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from federation.client import steps, transport
from federation.client.lines import Lines
from federation.client.settings import Settings, find_settings
from federation.client.transfer import Mover, Progress
from federation.client.transport import TERMINAL, Patience
from federation.client.watching import Watch
from federation.errors import FederationError, from_rpc_error
from federation.v1 import hub_pb2, hub_pb2_grpc, job_pb2, job_pb2_grpc


class _Line:
    """A channel to one address, and its stubs."""

    def __init__(self, settings: Settings) -> None:
        self.channel = transport.channel(settings)
        self.stubs: dict[str, Any] = {
            steps.JOBS: job_pb2_grpc.JobServiceStub(self.channel),
            steps.HUBS: hub_pb2_grpc.HubServiceStub(self.channel),
        }


class Client:
    """A connection to one federation. Every verb raises FederationError, whose `code` and `hint` say what to do."""

    def __init__(
        self,
        settings: Settings,
        patience: Patience | None = None,
        *,
        on_silence: Callable[[str, float], None] | None = None,
    ) -> None:
        """`on_silence(what is wrong, seconds more)` is told once of each call that is tried for longer than a moment."""
        self.settings = settings
        self.patience = patience or Patience()
        self._on_silence = on_silence
        self._lines = Lines(settings, _Line)
        self._metadata = transport.metadata(settings)
        self._mover = Mover(settings.ca, self.patience, settings.proxy)
        self._closed = threading.Event()

    @classmethod
    def from_environment(cls, server: str = "", patience: Patience | None = None) -> Self:
        """The federation that BRHUB_SERVER, BRHUB_TOKEN, BRHUB_CA or BRHUB_DIR name. Raises: FederationError."""
        return cls(find_settings(server), patience)

    def close(self) -> None:
        """Close the connections; calls that wait between two tries end with the error they had."""
        self._closed.set()
        self._lines.line.channel.close()
        self._mover.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- jobs -------------------------------------------------------------------------------------------------------
    def submit(self, job: steps.Request, request_id: str | None = None, *, progress: Progress | None = None) -> str:
        """Submit a job (job.yaml's path, the same as a mapping, or a Draft) and answer its id.

        The same `request_id` with the same job answers the same id however often it is sent; without one, a new id is
        drawn, which still makes the retries of this call safe. `progress` is told of the package's bytes.
        """
        return self._run(steps.submit(job, request_id, progress))

    def submit_many(
        self, jobs: Iterable[steps.Request | tuple[steps.Request, str | None]], *, progress: Progress | None = None
    ) -> builtins.list[str | FederationError]:
        """Submit jobs (each alone or with its request id) in few calls; for each its id, or why it was not accepted."""
        pairs = (job if isinstance(job, tuple) else (job, None) for job in jobs)
        return self._run(steps.submit_many(pairs, progress))

    def get(self, job_id: str) -> job_pb2.Job:
        """One job."""
        return self._run(steps.get(job_id))

    def list(
        self,
        *,
        states: Sequence[str] = (),
        project: str = "",
        hub_id: str = "",
        all_owners: bool = False,
        limit: int = 1_000,
        each_attempt: bool = False,
    ) -> builtins.list[job_pb2.Job]:
        """Jobs, newest first, at most `limit`; `states` as "RUNNING". The caller's own unless `all_owners`.

        `each_attempt`: fill each job's `each_attempt` too, which takes longer.
        """
        return self._run(steps.list_jobs(states, project, hub_id, all_owners, limit, each_attempt))

    def watch(self, job_ids: Sequence[str] = (), timeout_s: float | None = None) -> Iterator[job_pb2.Job]:
        """Each job as it is now, then each change, over however many connections it takes.

        Never goes back in a job's `revision`. Raises: FederationError TIMED_OUT after `timeout_s`.
        """
        watch = Watch(self.patience, time.monotonic(), timeout_s, len(self._lines))
        while True:
            request = job_pb2.WatchJobsRequest(job_ids=job_ids)
            timeout = watch.stream_timeout_s(time.monotonic())
            line = self._lines.line
            stream = line.stubs[steps.JOBS].WatchJobs(request, timeout=timeout, metadata=self._metadata)
            try:
                for response in stream:
                    if watch.is_news(response.job):
                        yield response.job
                pause_s = watch.ended()
            except grpc.RpcError as problem:
                error = from_rpc_error(problem)
                pause_s = watch.broke(error, time.monotonic())
                self._failed(line, error)
            finally:
                stream.cancel()
            self._closed.wait(pause_s)

    def wait(self, job_id: str, timeout_s: float | None = None) -> job_pb2.Job:
        """Wait until the job has ended; the job, whose state says how. Raises: FederationError TIMED_OUT."""
        for job in self.watch([job_id], timeout_s):
            if job.state in TERMINAL:
                return job
        raise AssertionError("a watch ends by an error only")

    def logs(self, job_id: str, follow: bool = False, *, offset: int = 0, attempt: str = "") -> Iterator[bytes]:
        """The job's log from byte `offset`, piece by piece; with `follow`, until the job has ended."""
        cursor = steps.LogCursor(job_id, offset, attempt)
        done = False
        while not done:
            data, done = self._run(steps.read_log(cursor, follow))
            if data:
                yield data

    def cancel(self, job_id: str, note: str = "") -> job_pb2.Job:
        """End a job; repeating it is harmless."""
        return self._run(steps.cancel(job_id, note))

    def release(self, job_id: str, reason: str, *, force: bool = False) -> job_pb2.Job:
        """For operators: give up an attempt that is UNKNOWN, or whose hub is LOST. Its program may run on; it is fenced."""
        return self._run(steps.release(job_id, reason, force))

    def retry(self, job_id: str) -> job_pb2.Job:
        """Queue a finished job again."""
        return self._run(steps.retry(job_id))

    def explain(self, job_id: str) -> job_pb2.ExplainJobResponse:
        """Why it waits: one coded reason a hub, and the earliest start expected."""
        return self._run(steps.explain(job_id))

    def explain_spec(self, job: steps.Request) -> job_pb2.ExplainJobResponse:
        """Where a job would run and why, without submitting it."""
        return self._run(steps.explain_spec(job))

    def results(self, job_id: str) -> job_pb2.ListResultsResponse:
        """The result's files, with links that work for a while."""
        return self._run(steps.results(job_id))

    def fetch(self, job_id: str, folder: Path | str, *, progress: Progress | None = None) -> builtins.list[Path]:
        """Fetch the result's files into `folder`, each whole and checked or not at all; their paths."""
        return self._run(steps.fetch(job_id, Path(folder), progress))

    # ---- hubs -------------------------------------------------------------------------------------------------------
    def list_hubs(self) -> builtins.list[hub_pb2.Hub]:
        """All hubs, by id."""
        return self._run(steps.list_hubs())

    def get_hub(self, hub_id: str) -> hub_pb2.Hub:
        """One hub."""
        return self._run(steps.get_hub(hub_id))

    def get_policy(self) -> hub_pb2.Policy:
        """The planner's policy in force."""
        return self._run(steps.get_policy())

    def server_info(self) -> hub_pb2.GetServerInfoResponse:
        """The control plane's version, protocols and clock; needs no token."""
        return self._run(steps.server_info())

    def who_am_i(self) -> hub_pb2.WhoAmIResponse:
        """Whom the token stands for."""
        return self._run(steps.who_am_i())

    def drain_hub(self, hub_id: str, *, undo: bool = False, note: str = "") -> hub_pb2.Hub:
        """Start nothing new at a hub, or take that back."""
        return self._run(steps.drain_hub(hub_id, undo, note))

    # ---- how steps are carried out ----------------------------------------------------------------------------------
    def _run(self, verb: steps.Steps[steps.T]) -> steps.T:
        step = next(verb)
        while True:
            try:
                try:
                    answer = self._carry_out(step)
                except FederationError as error:
                    step = verb.throw(error)
                else:
                    step = verb.send(answer)
            except StopIteration as end:
                value: steps.T = end.value
                return value

    def _carry_out(self, step: steps.Step) -> Any:
        match step:
            case steps.Call():
                return self._call(step)
            case steps.Put(url, data, progress):
                return self._mover.put(url, data, progress)
            case steps.Get(url, path, sha256, progress):
                return self._mover.get(url, path, sha256, progress)
            case steps.Pause(seconds):
                return self._closed.wait(seconds)

    def _call(self, step: steps.Call) -> Any:
        began_s, told = time.monotonic(), False
        tries = transport.Tries(self.patience, len(self._lines), began_s)
        timeout_s = self.patience.call_s + step.extra_s
        while True:
            line = self._lines.line
            try:
                method = getattr(line.stubs[step.service], step.method)
                return method(step.request, timeout=timeout_s, metadata=self._metadata)
            except grpc.RpcError as problem:
                error = from_rpc_error(problem)
                self._failed(line, error)
                pause_s = tries.failed(error, time.monotonic())
                tried_s = time.monotonic() - began_s
                if self._on_silence and not told and tried_s + pause_s > transport.SILENCE_S:
                    answered = "grpc_status" not in error.metadata  # one of ours did, in its own words
                    what = error.message.rstrip(".") if answered else f"{self.settings.server} does not answer"
                    self._on_silence(what, max(0.0, self.patience.retry_s - tried_s))
                    told = True
                if self._closed.wait(pause_s):
                    raise error from problem
            except ValueError:  # grpc's word for a channel that was closed, here by another thread that went on
                if self._closed.is_set() or line is self._lines.line:
                    raise

    def _failed(self, line: _Line, error: FederationError) -> None:
        """Go on to the next address, where that may help. Other threads' calls on the line that is left try again."""
        left = None if self._closed.is_set() else self._lines.failed(line, error)
        if left is not None:
            left.channel.close()
