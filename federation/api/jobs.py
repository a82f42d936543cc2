"""JobService: what a person does with jobs."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator

from federation.api.door import Caller, Gate, streaming, unary
from federation.api.objects import asked, objects_of
from federation.api.translate import (
    job_out,
    parsed_spec,
    reason_out,
    spec_in,
    state_in,
    submission_in,
    submitted_out,
)
from federation.domain.ids import JobId
from federation.domain.job import Job, Owner
from federation.errors import Code, Fault, FederationError, invalid, not_found
from federation.identity.authority import Scope, denied, may_charge, owns, speaks_for
from federation.objects.credentials import scoped_credentials
from federation.ports import JobFilter
from federation.service import jobs as service_jobs
from federation.service.attempts import read_attempts
from federation.service.desk import Desk
from federation.service.logs import CHUNK_BYTES_MAX
from federation.service.reading import read_log
from federation.service.world import Unit
from federation.v1 import job_pb2, job_pb2_grpc

PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX = 100, 1_000
TOKEN_DIGITS_MAX = 18
PACKAGE_BYTES_MAX = 64 << 20
LINK_TTL_S = 3_600
WATCH_QUEUE_MAX = 10_000
LOG_BYTES_DEFAULT = 256 << 10
WAIT_MS_MAX = 20_000
RELEASE_REASON_MAX = 500
_DIGEST = re.compile(r"[0-9a-f]{64}")


def package_key(digest: str) -> str:
    """Where a package lies: by its content."""
    return f"packages/{digest}"


def attempt_prefix(job: Job) -> str:
    """Where the output of the attempt that is the result lies."""
    return f"attempts/{job.id}/{job.result_epoch}/"


class JobServicer(job_pb2_grpc.JobServiceServicer):
    """Each method: admit, translate, ask the desk, translate back."""

    def __init__(self, desk: Desk, gate: Gate) -> None:
        self.desk = desk
        self.gate = gate

    @unary("JobService")
    async def SubmitJobs(self, request: job_pb2.SubmitJobsRequest, caller: Caller) -> job_pb2.SubmitJobsResponse:
        """Accept jobs durably."""
        who = caller.principal
        owner = Owner(who.home_hub, "default", who.issuer, who.subject)
        members = [submission_in(message, owner) for message in request.submissions]
        for place, member in enumerate(members):
            if member.spec is not None and not may_charge(who, member.spec.project):
                problem = denied(who, f"count work to project {member.spec.project}")
                members[place] = type(member)(
                    member.request_id, None, b"", member.digest, member.owner, member.parent_job_id, problem
                )
        answers = await self.desk.submit(f"{who.issuer}/{who.subject}@{who.home_hub}", members)
        return job_pb2.SubmitJobsResponse(results=[submitted_out(answer) for answer in answers])

    @unary("JobService")
    async def GetJob(self, request: job_pb2.GetJobRequest, caller: Caller) -> job_pb2.GetJobResponse:
        """One job."""
        job = await self._owned(request.job_id, caller)
        return job_pb2.GetJobResponse(job=job_out(job, checkpoint=self.desk.newest_checkpoint(job.id)))

    @unary("JobService")
    async def ListJobs(self, request: job_pb2.ListJobsRequest, caller: Caller) -> job_pb2.ListJobsResponse:
        """The caller's jobs, newest first."""
        if not 0 <= request.page_size <= PAGE_SIZE_MAX:
            raise invalid(f"page_size {request.page_size} is out of range", hint="Use 1 to 1000.", field="page_size")
        if request.page_token and not (request.page_token.isdecimal() and len(request.page_token) <= TOKEN_DIGITS_MAX):
            raise invalid("page_token is not one of ours", hint="Send the last answer's.", field="page_token")
        everyone = request.all_owners and caller.scope is Scope.ANY
        where = JobFilter(
            states=tuple(state_in(number) for number in request.states),
            project=request.project,
            hub_id=request.hub_id,
            owner=None if everyone else (caller.principal.issuer, caller.principal.subject),
        )
        before, limit = int(request.page_token or 0), request.page_size or PAGE_SIZE_DEFAULT
        page = await asyncio.to_thread(self.desk.store.list_jobs, where, before, limit)
        token = str(page.next_before_seq) if page.next_before_seq else ""
        if not request.each_attempt:
            return job_pb2.ListJobsResponse(jobs=[job_out(job) for job in page.jobs], next_page_token=token)
        each = await asyncio.to_thread(lambda: [read_attempts(self.desk.store, job) for job in page.jobs])
        jobs = [job_out(job, attempts) for job, attempts in zip(page.jobs, each, strict=True)]
        return job_pb2.ListJobsResponse(jobs=jobs, next_page_token=token)

    @streaming("JobService")
    async def WatchJobs(
        self, request: job_pb2.WatchJobsRequest, caller: Caller
    ) -> AsyncIterator[job_pb2.WatchJobsResponse]:
        """Present states, then changes. A watcher that cannot keep up is told so and starts again."""
        wanted = set(request.job_ids)
        for job_id in wanted:
            await self._owned(job_id, caller)
        loop, news = asyncio.get_running_loop(), asyncio.Queue[Job | None](WATCH_QUEUE_MAX)

        def put(job: Job) -> None:
            with contextlib.suppress(asyncio.QueueFull):  # whoever reads it sees that it is full, and says so
                news.put_nowait(job)

        def listener(job: Job) -> None:
            mine = owns(caller.scope, caller.principal, issuer=job.owner.issuer, subject=job.owner.subject)
            if mine and (not wanted or job.id in wanted):
                loop.call_soon_threadsafe(put, job)

        end = self.desk.switchboard.watch_jobs(listener)
        try:
            seen: dict[str, int] = {}
            for job in await self._watched(wanted, caller):
                seen[job.id] = job.revision
                yield job_pb2.WatchJobsResponse(job=job_out(job))
            while True:
                news_job = await news.get()
                if news.qsize() >= WATCH_QUEUE_MAX - 1 or news_job is None:
                    raise FederationError(
                        Code.OVERLOADED, "this watcher fell behind", fault=Fault.CALLER, hint="Watch again."
                    )
                if news_job.revision > seen.get(news_job.id, 0):
                    seen[news_job.id] = news_job.revision
                    yield job_pb2.WatchJobsResponse(job=job_out(news_job))
        finally:
            end()

    async def _watched(self, wanted: set[str], caller: Caller) -> list[Job]:
        if wanted:
            return [await self._owned(job_id, caller) for job_id in sorted(wanted)]
        reach = caller.principal
        await self.desk.whole()

        def live(unit: Unit) -> list[Job]:
            return [
                job
                for job in unit.world.jobs.values()
                if owns(caller.scope, reach, issuer=job.owner.issuer, subject=job.owner.subject)
            ]

        return await self.desk.ask(live)

    @unary("JobService")
    async def CancelJob(self, request: job_pb2.CancelJobRequest, caller: Caller) -> job_pb2.CancelJobResponse:
        """End a job."""
        await self._owned(request.job_id, caller)
        store = self.desk.store

        def command(unit: Unit) -> Job:
            job = service_jobs.find(unit, store, request.job_id)
            return service_jobs.cancel(unit, job, request.note[:500], caller.actor)

        return job_pb2.CancelJobResponse(job=job_out(await self.desk.ask(command)))

    @unary("JobService")
    async def RetryJob(self, request: job_pb2.RetryJobRequest, caller: Caller) -> job_pb2.RetryJobResponse:
        """Queue an ended job again."""
        await self._owned(request.job_id, caller)
        store = self.desk.store

        def command(unit: Unit) -> Job:
            job = service_jobs.find(unit, store, request.job_id)
            return service_jobs.retry(unit, job, caller.actor, request.ended_ms)

        return job_pb2.RetryJobResponse(job=job_out(await self.desk.ask(command)))

    @unary("JobService")
    async def ReleaseJob(self, request: job_pb2.ReleaseJobRequest, caller: Caller) -> job_pb2.ReleaseJobResponse:
        """Give an attempt up that nobody can be asked about."""
        why = " ".join(request.reason.split())
        if not 0 < len(why) <= RELEASE_REASON_MAX:
            raise invalid(
                f"reason has {len(why)} characters",
                hint=f"Say in 1 to {RELEASE_REASON_MAX} why: it is kept for the record.",
                field="reason",
            )
        store = self.desk.store

        def command(unit: Unit) -> Job:
            job = service_jobs.find(unit, store, request.job_id)
            if not any(speaks_for(caller.scope, caller.principal, hub) for hub in (job.owner.home_hub, job.hub_id)):
                raise not_found(Code.JOB_NOT_FOUND, "job", request.job_id[:80])
            return service_jobs.release(unit, job, why, caller.actor, request.force, request.attempt)

        return job_pb2.ReleaseJobResponse(job=job_out(await self.desk.ask(command)))

    @unary("JobService")
    async def ExplainJob(self, request: job_pb2.ExplainJobRequest, caller: Caller) -> job_pb2.ExplainJobResponse:
        """Why a job waits, hub by hub; or where a spec would run."""
        if bool(request.job_id) == bool(request.spec):
            raise invalid("send either a job_id or a spec", hint="A dry run has a spec, a job its id.", field="job_id")
        if request.job_id:
            job = await self._owned(request.job_id, caller)
        else:
            who, spec = caller.principal, spec_in(parsed_spec(request.spec))
            owner = Owner(who.home_hub, spec.project, who.issuer, who.subject)
            job = Job(JobId("dry-run"), owner, spec, request.spec, created_ms=self.desk.clock.now_ms())
        await self.desk.whole()
        explanation = await asyncio.to_thread(self.desk.explained, job)
        return job_pb2.ExplainJobResponse(
            job=job_out(job) if request.job_id else None,
            reasons=[reason_out(reason) for reason in explanation.reasons],
            earliest_start_ms=explanation.earliest_start_ms,
            earliest_hub_id=explanation.earliest_hub_id,
        )

    @unary("JobService")
    async def CreateUpload(self, request: job_pb2.CreateUploadRequest, _caller: Caller) -> job_pb2.CreateUploadResponse:
        """A place to put a package."""
        if not _DIGEST.fullmatch(request.digest):
            raise invalid("digest is not a sha256 in hex", hint="Send 64 hex digits in lower case.", field="digest")
        if not 0 < request.size_bytes <= PACKAGE_BYTES_MAX:
            raise invalid(
                f"the package has {request.size_bytes} bytes; the limit is {PACKAGE_BYTES_MAX}",
                hint="Leave large data out of it: announce it as a dataset.",
                code=Code.LIMIT_EXCEEDED,
                field="size_bytes",
                limit=str(PACKAGE_BYTES_MAX),
            )
        store, key = objects_of(self.desk), package_key(request.digest)

        def link() -> str:
            return "" if store.exists(key) else store.presign_put(key, LINK_TTL_S)

        url = await asked(link)
        return job_pb2.CreateUploadResponse(put_url=url, expires_ms=self.desk.clock.now_ms() + LINK_TTL_S * 1000)

    @unary("JobService")
    async def ReadLogs(self, request: job_pb2.ReadLogsRequest, caller: Caller) -> job_pb2.ReadLogsResponse:
        """A range of the job's log, from the hub that has it."""
        if request.offset < 0:
            raise invalid(
                f"offset {request.offset} is negative",
                hint="Offsets begin at 0.",
                field="offset",
                code=Code.OFFSET_OUT_OF_RANGE,
            )
        limit = request.limit_bytes or LOG_BYTES_DEFAULT
        if not 0 < limit <= CHUNK_BYTES_MAX or not 0 <= request.wait_ms <= WAIT_MS_MAX:
            raise invalid(
                "limit_bytes or wait_ms is out of range",
                hint=f"Up to {CHUNK_BYTES_MAX} bytes and {WAIT_MS_MAX} ms.",
                field="limit_bytes",
            )
        deadline_s = time.monotonic() + request.wait_ms / 1000
        while True:
            job = await self._owned(request.job_id, caller)
            chunk = await read_log(self.desk, job, request.attempt, request.offset, limit)
            if chunk.data or chunk.complete or time.monotonic() >= deadline_s:
                end = request.offset + len(chunk.data)
                return job_pb2.ReadLogsResponse(
                    data=chunk.data, next_offset=end, complete=chunk.complete and end >= chunk.size_bytes
                )
            await asyncio.sleep(min(0.5, max(0.0, deadline_s - time.monotonic())))

    @unary("JobService")
    async def ListResults(self, request: job_pb2.ListResultsRequest, caller: Caller) -> job_pb2.ListResultsResponse:
        """The result's files."""
        job = await self._owned(request.job_id, caller)
        if job.result_epoch is None:
            raise FederationError(
                Code.OBJECT_NOT_FOUND,
                f"job {job.id} is {job.state} and has no result",
                fault=Fault.CALLER,
                hint="`brhub job show` tells its state.",
                metadata={"job_id": job.id, "state": job.state},
            )
        files = []
        if job.outputs:
            links = scoped_credentials(objects_of(self.desk), attempt_prefix(job), LINK_TTL_S)
            files = [
                job_pb2.ResultFile(
                    path=one.path, size_bytes=one.size_bytes, sha256=one.sha256, url=links.get_link(one.path)
                )
                for one in job.outputs
            ]
        return job_pb2.ListResultsResponse(files=files, expires_ms=self.desk.clock.now_ms() + LINK_TTL_S * 1000)

    async def _owned(self, job_id: str, caller: Caller) -> Job:
        """The job, if the caller may see it; else the same answer as for one that does not exist."""
        store = self.desk.store
        job = await self.desk.ask(lambda unit: service_jobs.find(unit, store, job_id))
        if not owns(caller.scope, caller.principal, issuer=job.owner.issuer, subject=job.owner.subject):
            raise not_found(Code.JOB_NOT_FOUND, "job", job_id[:80], hint="`brhub job list` shows your jobs.")
        return job
