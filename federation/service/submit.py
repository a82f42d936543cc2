"""Accept jobs: durably, once each. The key is (principal, request id, body digest).

Same key, same answer; the same id with another body is refused, also inside one batch. Each member of a batch is
decided by itself: a bad one is answered with its problem and the rest goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from federation.domain.ids import JobId, checked_request_id
from federation.domain.job import Job, JobSpec, Owner
from federation.errors import Code, Fault, FederationError, invalid
from federation.ports import IdSource, RequestRow, Store
from federation.service.world import Unit

BATCH_MAX = 1_000
LIVE_JOBS_MAX = 1_000_000
"""As many as the planner can hold."""


@dataclass(frozen=True, slots=True)
class Submission:
    """One member, translated: `spec` is checked, or `problem` says why it is not fit to be looked at."""

    request_id: str
    spec: JobSpec | None
    spec_bytes: bytes
    digest: str
    """sha256 (hex) over everything that makes the body."""
    owner: Owner
    parent_job_id: str = ""
    problem: FederationError | None = None


@dataclass(frozen=True, slots=True)
class Submitted:
    """The answer to one member."""

    request_id: str
    job_id: str = ""
    problem: FederationError | None = None


def request_keys(principal: str, members: Sequence[Submission]) -> list[tuple[str, str]]:
    """What `SubmitJobs` will look up for these members."""
    return [(principal, member.request_id) for member in members]


def request_id_of(store: Store, job_id: str) -> str:
    """Under which request id a job came; empty where its first fact is gone."""
    first = next(iter(store.events_of("job", job_id, 1)), None)
    return first.cause if first is not None and first.type in ("JobSubmitted", "JobAdopted") else ""


class SubmitJobs:
    """The use case. A dataset or hub that nobody has is refused before anything is queued."""

    def __init__(self, store: Store, ids: IdSource) -> None:
        self._store = store
        self._ids = ids

    def __call__(self, unit: Unit, principal: str, members: Sequence[Submission]) -> list[Submitted]:
        """The answers, in order. Runs on the writer thread."""
        if len(members) > BATCH_MAX:
            raise invalid(
                f"{len(members)} jobs in one call; the limit is {BATCH_MAX}",
                hint="Send several calls.",
                code=Code.LIMIT_EXCEEDED,
                limit=str(BATCH_MAX),
            )
        known = self._answered(unit, principal, members)
        names = _Names(unit)
        answers = []
        for member in members:
            try:
                answers.append(self._one(unit, principal, member, known, names))
            except FederationError as problem:
                answers.append(Submitted(member.request_id, problem=problem))
        return answers

    def _answered(self, unit: Unit, principal: str, members: Sequence[Submission]) -> dict[str, RequestRow]:
        """Requests of this principal that were answered before, in the store or earlier in this batch."""
        keys = request_keys(principal, members)
        if any(key not in unit.answered for key in keys):
            wanted = dict.fromkeys((*unit.request_keys, *keys))
            found = self._store.find_requests(list(wanted))
            unit.answered |= {key: found.get(key) for key in wanted}
        known = {}
        for key in keys:
            row = unit.requests.get(key) or unit.answered[key]
            if row is not None:
                known[key[1]] = row
        return known

    def _one(
        self, unit: Unit, principal: str, member: Submission, known: dict[str, RequestRow], names: _Names
    ) -> Submitted:
        request_id = checked_request_id(member.request_id)
        before = known.get(request_id)
        if before is not None:
            if before.body_digest != member.digest:
                raise FederationError(
                    Code.REQUEST_ID_REUSED,
                    f"request id {request_id!r} was used for another job",
                    fault=Fault.CALLER,
                    hint="Use a new request id for a new job.",
                    metadata={"request_id": request_id, "job_id": before.job_id},
                )
            return Submitted(request_id, before.job_id)
        if member.problem is not None:
            raise member.problem
        assert member.spec is not None
        names.check(member.spec)
        self._check_parent(unit, member)
        if len(unit.world.jobs) + unit.world.unread >= LIVE_JOBS_MAX:
            raise FederationError(
                Code.OVERLOADED,
                "the federation's queue is full",
                fault=Fault.FEDERATION,
                hint="Try again later.",
                metadata={"limit": str(LIVE_JOBS_MAX)},
            )
        job = Job(
            id=JobId(self._ids.new_id("job")),
            owner=member.owner,
            spec=member.spec,
            spec_bytes=member.spec_bytes,
            created_ms=unit.now_ms,
            state_since_ms=unit.now_ms,
            queue_seq=unit.next_seq(),
            parent_job_id=member.parent_job_id,
        )
        unit.put_job(job)
        unit.event(
            "job",
            job.id,
            "JobSubmitted",
            cause=request_id,
            actor=f"user:{principal}",
            payload={"name": job.spec.name, "engine": job.spec.engine, "digest": member.digest},
        )
        row = RequestRow(principal, request_id, member.digest, job.id, unit.now_ms)
        unit.put_request(row)
        known[request_id] = row
        return Submitted(request_id, job.id)

    def _check_parent(self, unit: Unit, member: Submission) -> None:
        if not member.parent_job_id:
            return
        parent = unit.world.jobs.get(JobId(member.parent_job_id)) or self._store.get_job(member.parent_job_id)
        if parent is None or (parent.owner.issuer, parent.owner.subject) != (member.owner.issuer, member.owner.subject):
            raise FederationError(
                Code.JOB_NOT_FOUND,
                f"there is no parent job {member.parent_job_id!r}",
                fault=Fault.CALLER,
                hint="A parent is a job of the same owner.",
                metadata={"job_id": member.parent_job_id},
            )


class _Names:
    """What the federation knows by name at this moment, gathered once a call and only when a spec names something."""

    def __init__(self, unit: Unit) -> None:
        self._unit = unit
        self._datasets: set[str] | None = None

    def check(self, spec: JobSpec) -> None:
        for hub_id in (*spec.hubs_allow, *spec.hubs_deny, *spec.hubs_prefer):
            if hub_id not in self._unit.world.hubs:
                raise FederationError(
                    Code.HUB_NOT_FOUND,
                    f"there is no hub {hub_id!r}",
                    fault=Fault.CALLER,
                    hint="`brhub hub list` shows the hubs.",
                    metadata={"hub_id": hub_id},
                )
        if spec.inputs and self._datasets is None:
            self._datasets = {one.name for agent in self._unit.world.agents.values() for one in agent.datasets}
        for entry in spec.inputs:
            if entry.dataset not in (self._datasets or ()):
                raise FederationError(
                    Code.DATASET_NOT_FOUND,
                    f"no hub announces a dataset {entry.dataset!r}",
                    fault=Fault.CALLER,
                    hint="`brhub hub show HUB` lists each hub's datasets.",
                    metadata={"dataset": entry.dataset},
                )
