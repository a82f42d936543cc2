"""`AsyncClient`: the same verbs for programs on asyncio; one event loop each.

Deliberately not here: what a verb does (`steps.py`). Transfers to the object store run in threads.
"""

from __future__ import annotations

import asyncio
import builtins
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from federation.client import steps, transport
from federation.client.lines import Lines
from federation.client.settings import Settings, find_settings
from federation.client.transfer import Mover, Progress
from federation.client.transport import TERMINAL, Patience
from federation.client.watching import STREAM_S, Watch
from federation.errors import FederationError, from_rpc_error
from federation.v1 import hub_pb2, hub_pb2_grpc, job_pb2, job_pb2_grpc


class _Line:
    """A channel to one address, and its stubs."""

    def __init__(self, settings: Settings) -> None:
        target, credentials = transport.credentials(settings)
        options = transport.options(target, settings.proxy)
        self.channel = (
            grpc.aio.secure_channel(target, credentials, options)
            if credentials
            else grpc.aio.insecure_channel(target, options)
        )
        self.stubs: dict[str, Any] = {
            steps.JOBS: job_pb2_grpc.JobServiceStub(self.channel),
            steps.HUBS: hub_pb2_grpc.HubServiceStub(self.channel),
        }


class AsyncClient:
    """As `Client`, awaited. Open it inside the event loop that uses it."""

    def __init__(self, settings: Settings, patience: Patience | None = None) -> None:
        self.settings = settings
        self.patience = patience or Patience()
        self._lines = Lines(settings, _Line)
        self._left: set[asyncio.Task[None]] = set()
        self._metadata = transport.metadata(settings)
        self._mover = Mover(settings.ca, self.patience, settings.proxy)

    @classmethod
    def from_environment(cls, server: str = "", patience: Patience | None = None) -> Self:
        """The federation that BRHUB_SERVER, BRHUB_TOKEN, BRHUB_CA or BRHUB_DIR name. Raises: FederationError."""
        return cls(find_settings(server), patience)

    async def close(self) -> None:
        """Close the connections."""
        for task in self._left:
            task.cancel()
        await asyncio.gather(self._lines.line.channel.close(None), *self._left, return_exceptions=True)
        self._mover.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # ---- jobs -------------------------------------------------------------------------------------------------------
    async def submit(
        self, job: steps.Request, request_id: str | None = None, *, progress: Progress | None = None
    ) -> str:
        """As `Client.submit`."""
        return await self._run(steps.submit(job, request_id, progress))

    async def submit_many(
        self, jobs: Iterable[steps.Request | tuple[steps.Request, str | None]], *, progress: Progress | None = None
    ) -> builtins.list[str | FederationError]:
        """As `Client.submit_many`."""
        pairs = (job if isinstance(job, tuple) else (job, None) for job in jobs)
        return await self._run(steps.submit_many(pairs, progress))

    async def get(self, job_id: str) -> job_pb2.Job:
        """As `Client.get`."""
        return await self._run(steps.get(job_id))

    async def list(
        self,
        *,
        states: Sequence[str] = (),
        project: str = "",
        hub_id: str = "",
        all_owners: bool = False,
        limit: int = 1_000,
        each_attempt: bool = False,
    ) -> builtins.list[job_pb2.Job]:
        """As `Client.list`."""
        return await self._run(steps.list_jobs(states, project, hub_id, all_owners, limit, each_attempt))

    async def watch(self, job_ids: Sequence[str] = (), timeout_s: float | None = None) -> AsyncIterator[job_pb2.Job]:
        """As `Client.watch`."""
        watch = Watch(self.patience, time.monotonic(), timeout_s, len(self._lines))
        while True:
            request = job_pb2.WatchJobsRequest(job_ids=job_ids)
            timeout = watch.stream_timeout_s(time.monotonic())
            line = self._lines.line
            stream = line.stubs[steps.JOBS].WatchJobs(request, timeout=timeout, metadata=self._metadata)
            try:
                async for response in stream:
                    if watch.is_news(response.job):
                        yield response.job
                pause_s = watch.ended()
            except grpc.RpcError as problem:
                error = from_rpc_error(problem)
                pause_s = watch.broke(error, time.monotonic())
                self._failed(line, error)
            finally:
                stream.cancel()
            await asyncio.sleep(pause_s)

    async def wait(self, job_id: str, timeout_s: float | None = None) -> job_pb2.Job:
        """As `Client.wait`."""
        changes = self.watch([job_id], timeout_s)
        try:
            async for job in changes:
                if job.state in TERMINAL:
                    return job
        finally:
            await changes.aclose()  # type: ignore[attr-defined]  # an async generator, typed as its iterator
        raise AssertionError("a watch ends by an error only")

    async def logs(
        self, job_id: str, follow: bool = False, *, offset: int = 0, attempt: str = ""
    ) -> AsyncIterator[bytes]:
        """As `Client.logs`."""
        cursor = steps.LogCursor(job_id, offset, attempt)
        done = False
        while not done:
            data, done = await self._run(steps.read_log(cursor, follow))
            if data:
                yield data

    async def cancel(self, job_id: str, note: str = "") -> job_pb2.Job:
        """As `Client.cancel`."""
        return await self._run(steps.cancel(job_id, note))

    async def release(self, job_id: str, reason: str, *, force: bool = False) -> job_pb2.Job:
        """As `Client.release`."""
        return await self._run(steps.release(job_id, reason, force))

    async def retry(self, job_id: str) -> job_pb2.Job:
        """As `Client.retry`."""
        return await self._run(steps.retry(job_id))

    async def explain(self, job_id: str) -> job_pb2.ExplainJobResponse:
        """As `Client.explain`."""
        return await self._run(steps.explain(job_id))

    async def explain_spec(self, job: steps.Request) -> job_pb2.ExplainJobResponse:
        """As `Client.explain_spec`."""
        return await self._run(steps.explain_spec(job))

    async def results(self, job_id: str) -> job_pb2.ListResultsResponse:
        """As `Client.results`."""
        return await self._run(steps.results(job_id))

    async def fetch(self, job_id: str, folder: Path | str, *, progress: Progress | None = None) -> builtins.list[Path]:
        """As `Client.fetch`."""
        return await self._run(steps.fetch(job_id, Path(folder), progress))

    # ---- hubs -------------------------------------------------------------------------------------------------------
    async def list_hubs(self) -> builtins.list[hub_pb2.Hub]:
        """As `Client.list_hubs`."""
        return await self._run(steps.list_hubs())

    async def get_hub(self, hub_id: str) -> hub_pb2.Hub:
        """As `Client.get_hub`."""
        return await self._run(steps.get_hub(hub_id))

    async def get_policy(self) -> hub_pb2.Policy:
        """As `Client.get_policy`."""
        return await self._run(steps.get_policy())

    async def server_info(self) -> hub_pb2.GetServerInfoResponse:
        """The control plane's version, protocols and clock; needs no token."""
        return await self._run(steps.server_info())

    async def who_am_i(self) -> hub_pb2.WhoAmIResponse:
        """Whom the token stands for."""
        return await self._run(steps.who_am_i())

    async def drain_hub(self, hub_id: str, *, undo: bool = False, note: str = "") -> hub_pb2.Hub:
        """As `Client.drain_hub`."""
        return await self._run(steps.drain_hub(hub_id, undo, note))

    # ---- how steps are carried out ----------------------------------------------------------------------------------
    async def _run(self, verb: steps.Steps[steps.T]) -> steps.T:
        step = next(verb)
        while True:
            try:
                try:
                    answer = await self._carry_out(step)
                except FederationError as error:
                    step = verb.throw(error)
                else:
                    step = verb.send(answer)
            except StopIteration as end:
                value: steps.T = end.value
                return value

    async def _carry_out(self, step: steps.Step) -> Any:
        match step:
            case steps.Call():
                return await self._call(step)
            case steps.Put(url, data, progress):
                return await asyncio.to_thread(self._mover.put, url, data, progress)
            case steps.Get(url, path, sha256, progress):
                return await asyncio.to_thread(self._mover.get, url, path, sha256, progress)
            case steps.Pause(seconds):
                return await asyncio.sleep(seconds)

    async def _call(self, step: steps.Call) -> Any:
        tries = transport.Tries(self.patience, len(self._lines), time.monotonic())
        timeout_s = self.patience.call_s + step.extra_s
        while True:
            line = self._lines.line
            try:
                method = getattr(line.stubs[step.service], step.method)
                return await method(step.request, timeout=timeout_s, metadata=self._metadata)
            except grpc.RpcError as problem:
                error = from_rpc_error(problem)
                self._failed(line, error)
                pause_s = tries.failed(error, time.monotonic())
            await asyncio.sleep(pause_s)

    def _failed(self, line: _Line, error: FederationError) -> None:
        """Go on to the next address, where that may help. What others still wait for on the line that is left may come."""
        left = self._lines.failed(line, error)
        if left is not None:
            closing = asyncio.ensure_future(left.channel.close(STREAM_S + self.patience.call_s))
            self._left.add(closing)
            closing.add_done_callback(self._left.discard)
