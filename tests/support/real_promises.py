"""The promises, held against what really happened: what programs wrote down, beside what the store and journals say.

The same as in the simulator (`federation/simulation/promises.py`), which sees inside everything; here only what a person
with root could find out afterwards is believed. Each check answers with a sentence for each promise that is broken.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

from federation.domain.job import JobState
from federation.lifecycle.invariants import broken_history, miscounted
from tests.support.real_facts import Facts
from tests.support.real_faults import Struck
from tests.support.real_load import CPUS, Line, Load, Wish
from tests.support.real_site import CPUS as OFFERED
from tests.support.shortened import KILL_GRACE_MS, LEASE_MS, SKEW_BOUND_MS

SLACK_MS = 5_000
"""Two busy cores: a look that is due each second may be late."""
_QUIET = frozenset(
    {
        "plane-killed",
        "plane-stopped",
        "agent-killed",
        "agent-stopped",
        "cut",
        "cut-in",
        "cut-out",
        "loss",
        "cut past a lease",
    }
)
"""Faults under which a hub hears nothing."""
Check = Callable[[Facts, Load, Sequence[Struck]], Iterator[str]]


def broken_promises(facts: Facts, load: Load, struck: Sequence[Struck]) -> list[str]:
    """Every promise that was broken, once all is settled; empty when all were kept."""
    checks: tuple[Check, ...] = (
        _nothing_lost, _nothing_twice, _ends_have_a_cause, _successes_are_true, _runs_end_by_right, _no_hub_was_over_full,
        _histories, _use_is_counted_once, _journals_agree,
    )  # fmt: skip
    return [*load.problems, *(sentence for check in checks for sentence in check(facts, load, struck))]


def _nothing_lost(facts: Facts, load: Load, _: Sequence[Struck]) -> Iterator[str]:
    """What somebody was told is accepted is there, once, and has ended."""
    for wish in load.wishes:
        if len(wish.answers) != 1:
            yield f"{wish.request_id} was answered with {sorted(wish.answers) or 'nothing'}"
        job = facts.jobs.get(wish.job_id)
        if job is None:
            yield f"{wish.request_id}: job {wish.job_id or '?'} was acknowledged and is lost"
        elif not job.state.terminal:
            yield f"job {wish.job_id} is {job.state} when all is over"
    if len(facts.jobs) != len(load.wishes):
        yield f"{len(load.wishes)} wishes became {len(facts.jobs)} jobs"
    live = [lease.id for lease in facts.leases.values() if lease.live]
    if live:
        yield f"leases {', '.join(live)} live on"


def _nothing_twice(facts: Facts, _: Load, __: Sequence[Struck]) -> Iterator[str]:
    """No job runs twice at once, and no attempt begins twice."""
    for line in facts.lines:
        if line.what == "twice":
            yield f"job {line.job_id}: attempt {line.attempt} began at {line.hub} while another ran"
    begun = Counter((line.job_id, line.attempt) for line in facts.lines if line.what == "begin")
    for (job_id, attempt), times in begun.items():
        if times > 1:
            yield f"attempt {attempt} of job {job_id} began {times} times"
        if facts.lease_of(job_id, attempt) is None:
            yield f"attempt {attempt} of job {job_id} ran without a lease"


def _ends_have_a_cause(facts: Facts, load: Load, struck: Sequence[Struck]) -> Iterator[str]:
    """A job was cancelled by its owner, or failed by itself, by what a fault did to its program, or by its lease."""
    for wish in load.wishes:
        job = facts.jobs.get(wish.job_id)
        if job is None:
            continue
        if job.state is JobState.CANCELLED and not wish.cancelled:
            yield f"job {job.id} was cancelled and nobody asked"
        for event in facts.events[wish.job_id]:
            if event.type not in ("RunFailed", "LeaseExpired", "RunRefused", "RunAbsent"):
                continue
            attempt, code = str(event.payload["attempt"]), str(event.payload.get("code", ""))
            if not _explained(facts, wish, attempt, code, struck):
                yield f"{event.type} {code} of attempt {attempt} of job {job.id} at {job.hub_id} for no reason"


def _explained(facts: Facts, wish: Wish, attempt: str, code: str, struck: Sequence[Struck]) -> bool:
    """Whether a fault, or the program itself, is why an attempt ended so."""
    victims = {(one.victim.job_id, one.victim.attempt) for one in struck if one.victim is not None}
    if (wish.job_id, attempt) in victims:
        return True
    if code == "EXIT_STATUS":
        ends = facts.of_attempt(wish.job_id, attempt, "end")
        return bool(ends) and ends[0].status in (wish.exit_status, 143) and bool(ends[0].status)
    lease = facts.lease_of(wish.job_id, attempt)
    if lease is None:
        return False
    until_ms = max((one.at_ms for one in facts.events[wish.job_id]), default=0)
    met = {one.fault for one in struck if one.touches(lease.hub_id, lease.granted_ms, until_ms)}
    if code == "LEASE_RAN_OUT":
        return wish.spec["on_partition"] != "keep" and bool(met & _QUIET)
    if code == "CHECKPOINT_UNREACHABLE":
        return bool(met & {"disk-full", "objects-killed", "objects-stopped", *_QUIET})
    return "disk-full" in met and code in ("STORE_FULL", "ENGINE_UNAVAILABLE", "GUARD_LOST", "FAILED_TO_START")


def _successes_are_true(facts: Facts, load: Load, _: Sequence[Struck]) -> Iterator[str]:
    """A job that succeeded did, in the attempt whose result it has; and who wrote that it ended well has succeeded."""
    ended_well = {(one.job_id, one.attempt) for one in facts.lines if one.what == "end" and one.status == 0}
    for job_id, job in facts.jobs.items():
        if job.state is not JobState.SUCCEEDED:
            continue
        attempt = str(job.result_epoch)
        if (job_id, attempt) not in ended_well:
            yield f"job {job_id} is said to have succeeded in attempt {attempt}, and did not"
        file = load.site.folder / "objects" / "federation" / "attempts" / job_id / attempt / "result"
        if not file.exists() or file.read_text() != f"{job_id} {attempt}":
            yield f"job {job_id} has another result than attempt {attempt} left"
    for job_id, attempt in ended_well:
        ended = facts.jobs.get(job_id)
        if ended is not None and ended.state is not JobState.SUCCEEDED and not load.wish_of(job_id).cancelled:
            yield f"attempt {attempt} of job {job_id} ended well, and the job is {ended.state}"


def _runs_end_by_right(facts: Facts, load: Load, struck: Sequence[Struck]) -> Iterator[str]:
    """A program that was told to end was told so by its owner, or its lease was truly over; never because a link was quiet."""
    victims = {(one.victim.job_id, one.victim.attempt) for one in struck if one.victim is not None}
    by_attempt: dict[tuple[str, str], list[Line]] = defaultdict(list)
    for line in facts.lines:
        by_attempt[line.job_id, line.attempt].append(line)
    for (job_id, attempt), lines in by_attempt.items():
        wish, begin, last = load.wish_of(job_id), lines[0], lines[-1]
        told = next((line for line in lines if line.what == "term"), None)
        if told is None and last.what == "end":
            continue
        if wish.cancelled or (job_id, attempt) in victims:
            continue
        where = f"attempt {attempt} of job {job_id} at {begin.hub}"
        if told is None:
            yield f"{where} vanished, and no fault hit it"
        elif wish.spec["on_partition"] == "keep":
            yield f"{where} was told to end and was to be kept"
        elif told.boot_ms - begin.boot_ms < LEASE_MS // 2 - SLACK_MS:
            yield f"{where} was told to end {told.boot_ms - begin.boot_ms} ms after it began"
        elif not any(
            one.fault in _QUIET and one.touches(begin.hub, told.wall_ms - LEASE_MS, told.wall_ms) for one in struck
        ):
            yield f"{where} was told to end, and its hub could be heard"
    for lease in facts.leases.values():
        ends = [line.wall_ms for line in by_attempt.get((lease.job_id, str(lease.epoch)), ())]
        late_ms = max(ends, default=0) - lease.expires_ms
        if late_ms > KILL_GRACE_MS + SKEW_BOUND_MS:
            yield f"lease {lease.id} of job {lease.job_id} was over {late_ms} ms before its program"


def _no_hub_was_over_full(facts: Facts, _: Load, __: Sequence[Struck]) -> Iterator[str]:
    """Programs that truly ran at the same time, by the boot clock that all hubs here share."""
    spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
    attempts: dict[tuple[str, str], list[Line]] = defaultdict(list)
    for line in facts.lines:
        attempts[line.job_id, line.attempt].append(line)
    for lines in attempts.values():
        spans[lines[0].hub] += [(lines[0].boot_ms, 1), (lines[-1].boot_ms, -1)]
    for hub, changes in spans.items():
        here = most = 0
        for _moment, change in sorted(changes):
            here += change
            most = max(most, here)
        if most * CPUS > OFFERED:
            yield f"hub {hub} ran {most} programs at once, and has room for {OFFERED / CPUS:g}"


def _histories(facts: Facts, load: Load, _: Sequence[Struck]) -> Iterator[str]:
    """Each job's facts make one life."""
    for wish in load.wishes:
        yield from broken_history(wish.job_id, [(one.type, one.payload) for one in facts.events.get(wish.job_id, ())])


def _use_is_counted_once(facts: Facts, _: Load, __: Sequence[Struck]) -> Iterator[str]:
    """Of every attempt that ran, all of its time, and no moment twice."""
    for lease_id, stretches in facts.usage.items():
        yield from miscounted(lease_id, stretches)
        lease = facts.leases.get(lease_id)
        if lease is None:
            yield f"lease {lease_id} was in use, and nobody granted it"
            continue
        lines = [line for line in facts.lines if (line.job_id, line.attempt) == (lease.job_id, str(lease.epoch))]
        if not lines:
            continue
        if not stretches:
            yield f"lease {lease_id} of job {lease.job_id} was in use, and none is counted"
        elif stretches[0].start_ms > lines[0].wall_ms + SLACK_MS or stretches[-1].end_ms < lines[-1].wall_ms - SLACK_MS:
            yield (
                f"lease {lease_id} ran from {lines[0].wall_ms} to {lines[-1].wall_ms}, "
                f"and is counted from {stretches[0].start_ms} to {stretches[-1].end_ms}"
            )


_OUTCOMES = {JobState.SUCCEEDED: {"SUCCEEDED"}, JobState.FAILED: {"FAILED"}, JobState.CANCELLED: {"STOPPED", "REFUSED"}}


def _journals_agree(facts: Facts, load: Load, _: Sequence[Struck]) -> Iterator[str]:
    """How a hub remembers the last attempt is how its job ended; and no hub has anything that has not."""
    for hub, journal in facts.journals.items():
        for lease_id, outcome in journal.items():
            lease = facts.leases.get(lease_id)
            if lease is None:
                yield f"hub {hub} ran lease {lease_id}, which nobody granted"
                continue
            job = facts.jobs.get(lease.job_id)
            if job is None:
                yield f"hub {hub} ran job {lease.job_id}, which is lost"
            elif outcome in ("", "NONE"):
                yield f"hub {hub} still has job {job.id}, which is {job.state}"
            elif any(one.type == "LeaseExpired" for one in facts.events[job.id]):
                continue  # nobody waited for its hub's word: what that says later changes nothing
            elif lease.epoch == job.epoch and outcome not in _OUTCOMES.get(job.state, set()):
                yield f"hub {hub} says {outcome} of job {job.id}, which is {job.state}"
