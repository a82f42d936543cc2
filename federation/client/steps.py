"""Each verb, written once, as a generator that asks for one step at a time and is told its answer.

`blocking.py` and `asynchronous.py` carry the steps out; so the two clients cannot drift apart. Deliberately not here:
channels, threads, clocks. A step that fails is thrown into the generator as FederationError.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import uuid
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import Message

from federation.archive import DEFAULT_LIMITS, Packed, pack
from federation.archive.limits import check_name
from federation.backoff import pause_s
from federation.client.specfile import Draft, draft_from_mapping, load_spec
from federation.client.transfer import Progress
from federation.client.transport import TERMINAL
from federation.errors import Code, Fault, FederationError, from_parts, invalid
from federation.v1 import common_pb2, hub_pb2, job_pb2

JOBS, HUBS = "JobService", "HubService"
PAGE_SIZE = 500
BATCH_MAX = 1_000
BATCH_BYTES_MAX = 7 * 1024 * 1024
LOG_WAIT_MS = 15_000
LOG_RETRY_S = 2.0
SCRIPT_ENDINGS = (".py", ".sh")
"""A command that ends so is the author's script; another name may be a program that the hub has."""

Request = Draft | job_pb2.JobSpec | Mapping[str, Any] | Path | str
"""A job: a draft, a spec that needs no package, job.yaml as a mapping, or the path of a job file."""


@dataclass(frozen=True, slots=True)
class Call:
    """Make one unary call; answered with its response."""

    service: str
    method: str
    request: Message
    extra_s: float = 0.0
    """Added to the deadline: how long the server may hold it."""


@dataclass(frozen=True, slots=True)
class Put:
    """Send bytes to a presigned link; answered with None."""

    url: str
    data: bytes
    progress: Progress | None


@dataclass(frozen=True, slots=True)
class Get:
    """Fetch a presigned link into a file, checked; answered with None."""

    url: str
    path: Path
    sha256: str
    progress: Progress | None


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait; answered with None."""

    seconds: float


Step = Call | Put | Get | Pause
T = TypeVar("T")
Steps = Generator[Step, Any, T]


def draft_of(job: Request) -> Draft:
    """`job` in whichever form it came, as a draft. Raises: FederationError when it makes no sense."""
    if isinstance(job, Draft):
        return job
    if isinstance(job, job_pb2.JobSpec):
        return Draft(spec=job, folder=Path(), package=None)
    if isinstance(job, Mapping):
        return draft_from_mapping(job)
    return load_spec(job)


def packed_package(draft: Draft) -> Packed | None:
    """What has to be uploaded; None when nothing. Raises: FederationError for a package without its entrypoint."""
    if draft.spec.package_digest:
        return None
    lone = draft.lone_file
    if lone is not None:
        with tempfile.TemporaryDirectory(prefix="brhub-") as folder:
            target = Path(folder) / draft.spec.entrypoint
            _inside(draft.spec.entrypoint)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(lone, target)
            return pack(folder)
    if draft.package is None:
        if _must_be_sent(draft.spec):
            raise _no_entrypoint(draft, str(draft.folder))
        return None  # a command that the hub has, or a course that it knows
    packed = pack(draft.package)
    if _must_be_sent(draft.spec) and draft.spec.entrypoint not in packed.files:
        raise _no_entrypoint(draft, str(draft.package))
    return packed


def _must_be_sent(spec: job_pb2.JobSpec) -> bool:
    """Whether no hub could run it without a file that comes along: a script, or a path into the package."""
    if spec.engine == "command":
        return "/" in spec.entrypoint or spec.entrypoint.endswith(SCRIPT_ENDINGS)
    return spec.engine in ("spark", "ray")


def _inside(path: str) -> None:
    check_name(path, DEFAULT_LIMITS)


def _no_entrypoint(draft: Draft, place: str) -> FederationError:
    return invalid(
        f"the entrypoint {draft.spec.entrypoint!r} is not in {place!r}",
        hint="Check `entrypoint` and `package`; the path is relative to the package.",
        field="entrypoint",
        entrypoint=draft.spec.entrypoint,
    )


def upload(draft: Draft, progress: Progress | None) -> Steps[job_pb2.JobSpec]:
    """Send the package where there is one, and answer the spec that names it."""
    spec = job_pb2.JobSpec()
    spec.CopyFrom(draft.spec)
    packed = packed_package(draft)
    if packed is None:
        return spec
    request = job_pb2.CreateUploadRequest(digest=packed.digest, size_bytes=packed.size_bytes)
    place: job_pb2.CreateUploadResponse = yield Call(JOBS, "CreateUpload", request)
    if place.put_url:
        yield Put(place.put_url, packed.data, progress)
    spec.package_digest = packed.digest
    return spec


def submit_many(
    jobs: Iterable[tuple[Request, str | None]], progress: Progress | None
) -> Steps[list[str | FederationError]]:
    """Upload and submit, in batches; for each job its id, or why it was not accepted, in their order."""
    answers: list[str | FederationError] = []
    batch: list[job_pb2.Submission] = []
    size = 0
    for job, request_id in jobs:
        spec = yield from upload(draft_of(job), progress)
        member = job_pb2.Submission(
            request_id=request_id or uuid.uuid4().hex,
            spec=spec.SerializeToString(deterministic=True),  # the same job must have the same bytes
        )
        if len(batch) == BATCH_MAX or (batch and size + member.ByteSize() > BATCH_BYTES_MAX):
            answers += yield from _send(batch)
            batch, size = [], 0
        batch.append(member)
        size += member.ByteSize()
    if batch:
        answers += yield from _send(batch)
    return answers


def _send(batch: list[job_pb2.Submission]) -> Steps[list[str | FederationError]]:
    response: job_pb2.SubmitJobsResponse = yield Call(JOBS, "SubmitJobs", job_pb2.SubmitJobsRequest(submissions=batch))
    return [_answer(result) for result in response.results]


def _answer(result: job_pb2.SubmitResult) -> str | FederationError:
    if not result.HasField("problem"):
        return result.job_id
    problem = result.problem
    return from_parts(problem.code, problem.message, problem.fault, problem.hint, problem.metadata)


def submit(job: Request, request_id: str | None, progress: Progress | None) -> Steps[str]:
    """Upload and submit one job; its id."""
    answers = yield from submit_many([(job, request_id)], progress)
    if len(answers) != 1:
        raise FederationError(
            Code.INTERNAL, "the federation answered another number of jobs than was sent", fault=Fault.FEDERATION
        )
    if isinstance(answers[0], FederationError):
        raise answers[0]
    return answers[0]


def get(job_id: str) -> Steps[job_pb2.Job]:
    """One job."""
    response: job_pb2.GetJobResponse = yield Call(JOBS, "GetJob", job_pb2.GetJobRequest(job_id=job_id))
    return response.job


def list_jobs(
    states: Sequence[str], project: str, hub_id: str, all_owners: bool, limit: int, each_attempt: bool
) -> Steps[list[job_pb2.Job]]:
    """Newest first, at most `limit`, page by page."""
    numbers = [_state(name) for name in states]
    jobs: list[job_pb2.Job] = []
    token = ""
    while len(jobs) < limit:
        request = job_pb2.ListJobsRequest(
            states=numbers,
            project=project,
            hub_id=hub_id,
            all_owners=all_owners,
            page_size=min(PAGE_SIZE, limit - len(jobs)),
            page_token=token,
            each_attempt=each_attempt,
        )
        response: job_pb2.ListJobsResponse = yield Call(JOBS, "ListJobs", request)
        jobs.extend(response.jobs)
        token = response.next_page_token
        if not token:
            break
    return jobs[:limit]


def _state(name: str) -> common_pb2.JobState.ValueType:
    try:
        return common_pb2.JobState.Value(f"JOB_STATE_{name.upper()}")
    except ValueError:
        known = ", ".join(each.removeprefix("JOB_STATE_") for each in common_pb2.JobState.keys()[1:])
        raise invalid(f"there is no state {name!r}", hint=f"Use one of {known}.", field="state") from None


def cancel(job_id: str, note: str) -> Steps[job_pb2.Job]:
    """End a job."""
    request = job_pb2.CancelJobRequest(job_id=job_id, note=note)
    response: job_pb2.CancelJobResponse = yield Call(JOBS, "CancelJob", request)
    return response.job


def release(job_id: str, reason: str, force: bool) -> Steps[job_pb2.Job]:
    """Give up an attempt that nobody can be asked about: the one that it has now, however often that has to be said."""
    try:
        attempt = (yield from get(job_id)).attempt
    except FederationError as error:
        if error.code is not Code.JOB_NOT_FOUND:
            raise
        attempt = ""  # an operator may give up what they may not read
    request = job_pb2.ReleaseJobRequest(job_id=job_id, reason=reason, force=force, attempt=attempt)
    response: job_pb2.ReleaseJobResponse = yield Call(JOBS, "ReleaseJob", request)
    return response.job


def retry(job_id: str) -> Steps[job_pb2.Job]:
    """Queue a finished job again: after the end that it has now, however often that has to be said."""
    request = job_pb2.RetryJobRequest(job_id=job_id, ended_ms=(yield from get(job_id)).ended_ms)
    response: job_pb2.RetryJobResponse = yield Call(JOBS, "RetryJob", request)
    return response.job


def explain(job_id: str) -> Steps[job_pb2.ExplainJobResponse]:
    """Why it waits, hub by hub."""
    response: job_pb2.ExplainJobResponse = yield Call(JOBS, "ExplainJob", job_pb2.ExplainJobRequest(job_id=job_id))
    return response


def explain_spec(job: Request) -> Steps[job_pb2.ExplainJobResponse]:
    """Where it would run, without submitting or uploading anything."""
    draft = draft_of(job)
    packed_package(draft)  # so that a dry run finds a bad package too
    spec = draft.spec.SerializeToString(deterministic=True)
    response: job_pb2.ExplainJobResponse = yield Call(JOBS, "ExplainJob", job_pb2.ExplainJobRequest(spec=spec))
    return response


@dataclass(slots=True)
class LogCursor:
    """Where a reader of a log is."""

    job_id: str
    offset: int
    attempt: str = ""


def read_log(cursor: LogCursor, follow: bool) -> Steps[tuple[bytes, bool]]:
    """The next bytes, and whether they were the last; moves the cursor.

    While following, a log that cannot be had yet is waited for until the job has ended, and a new attempt of the same
    job is read from its start.
    """
    if not follow:
        request = job_pb2.ReadLogsRequest(job_id=cursor.job_id, offset=cursor.offset, attempt=cursor.attempt)
        answer: job_pb2.ReadLogsResponse = yield Call(JOBS, "ReadLogs", request)
        cursor.offset = answer.next_offset
        return answer.data, answer.complete or not answer.data
    if not cursor.attempt:
        job = yield from get(cursor.job_id)
        cursor.attempt = job.attempt
        if not job.attempt:
            yield Pause(_in_a_while(LOG_RETRY_S / 2))
            return b"", job.state in TERMINAL
    request = job_pb2.ReadLogsRequest(
        job_id=cursor.job_id, offset=cursor.offset, wait_ms=LOG_WAIT_MS, attempt=cursor.attempt
    )
    try:
        answer = yield Call(JOBS, "ReadLogs", request, extra_s=LOG_WAIT_MS / 1000)
    except FederationError as error:
        if error.code is not Code.LOGS_UNAVAILABLE or (yield from get(cursor.job_id)).state in TERMINAL:
            raise
        yield Pause(_in_a_while(LOG_RETRY_S))
        return b"", False
    cursor.offset = answer.next_offset
    if answer.data or not answer.complete:
        return answer.data, False
    return b"", (yield from _log_ended(cursor))


def _in_a_while(longest_s: float) -> float:
    """Not all at once: a class of two hundred may follow logs of the same hub."""
    return pause_s(1, longest_s, longest_s, random.random())


def _log_ended(cursor: LogCursor) -> Steps[bool]:
    """This attempt's log is read to its end: whether that was the job's last; else moves on to the next attempt."""
    job = yield from get(cursor.job_id)
    if job.attempt != cursor.attempt:
        cursor.attempt, cursor.offset = job.attempt, 0
        return False
    if job.state in TERMINAL:
        return True
    yield Pause(_in_a_while(LOG_RETRY_S / 2))
    return False


def results(job_id: str) -> Steps[job_pb2.ListResultsResponse]:
    """The result's files, with links."""
    request = job_pb2.ListResultsRequest(job_id=job_id)
    response: job_pb2.ListResultsResponse = yield Call(JOBS, "ListResults", request)
    return response


def fetch(job_id: str, folder: Path, progress: Progress | None) -> Steps[list[Path]]:
    """Fetch every file of the result into `folder`, each whole and checked or not at all; their paths."""
    if folder.exists() and not folder.is_dir():
        raise invalid(
            f"{str(folder)!r} is a file, not a folder", hint="Name a folder that may be created.", path=str(folder)
        )
    listed = yield from results(job_id)
    root = folder.resolve()
    paths = []
    for file in listed.files:
        _inside(file.path)
        path = folder / file.path
        if not path.parent.resolve().is_relative_to(root):  # a link that was there before would lead outside
            raise invalid(
                f"{str(path)!r} would be written outside the folder",
                code=Code.UNSAFE_ARCHIVE,
                hint="Fetch into an empty folder.",
                path=str(path),
            )
        yield Get(file.url, path, file.sha256, progress)
        paths.append(path)
    return paths


def list_hubs() -> Steps[list[hub_pb2.Hub]]:
    """All hubs, by id."""
    hubs: list[hub_pb2.Hub] = []
    token = ""
    while True:
        response: hub_pb2.ListHubsResponse = yield Call(
            HUBS, "ListHubs", hub_pb2.ListHubsRequest(page_size=PAGE_SIZE, page_token=token)
        )
        hubs.extend(response.hubs)
        token = response.next_page_token
        if not token:
            return hubs


def get_hub(hub_id: str) -> Steps[hub_pb2.Hub]:
    """One hub."""
    response: hub_pb2.GetHubResponse = yield Call(HUBS, "GetHub", hub_pb2.GetHubRequest(hub_id=hub_id))
    return response.hub


def get_policy() -> Steps[hub_pb2.Policy]:
    """What decides who starts when."""
    response: hub_pb2.GetPolicyResponse = yield Call(HUBS, "GetPolicy", hub_pb2.GetPolicyRequest())
    return response.policy


def server_info() -> Steps[hub_pb2.GetServerInfoResponse]:
    """What answers there."""
    response: hub_pb2.GetServerInfoResponse = yield Call(HUBS, "GetServerInfo", hub_pb2.GetServerInfoRequest())
    return response


def who_am_i() -> Steps[hub_pb2.WhoAmIResponse]:
    """Whom the token stands for."""
    response: hub_pb2.WhoAmIResponse = yield Call(HUBS, "WhoAmI", hub_pb2.WhoAmIRequest())
    return response


def drain_hub(hub_id: str, undo: bool, note: str) -> Steps[hub_pb2.Hub]:
    """Start nothing new there, or take that back."""
    request = hub_pb2.DrainHubRequest(hub_id=hub_id, undo=undo, note=note)
    response: hub_pb2.DrainHubResponse = yield Call(HUBS, "DrainHub", request)
    return response.hub
