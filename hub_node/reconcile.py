"""What to do about the control plane's orders: `reconcile(orders, runs, now_ms) -> commands`, pure. Floor 1.

The rules, all of them:
- Absence is never an order: a run that an answer does not name goes on. Only a revoke of its own epoch, or its own
  deadline (`expired`), stops a run; only a release of its own epoch forgets one, and only after it has ended.
- A lease that is already here (same id, same or newer epoch) is a repeat. A lease of a job whose newer epoch is here is
  stale. A lease of a job whose older epoch still runs here stops that run and waits: the order is repeated by then.
- A revoke of a run that is not here is nothing: the digest of runs tells the control plane.
- Kinds are taken in one fixed order, so the order inside an answer, and repeats, do not matter.
`applied` is the other half: the runs after the commands, as the journal will keep them. Who asks the hub's policy is
`admission.py`, between the two. Read next: `agent.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from hub_node.records import LeaseOrder, Orders, Outcome, ReadLogOrder, Reason, RenewOrder, Run, RunState

KEEP_STAGING_MS = 30 * 60_000
"""A `keep` lease holds for its runtime limit plus this: staging counts against the lease, not against the program."""
SUPERSEDED_GRACE_MS = 10_000
EXPIRY_GRACE_MS = 10_000
RENEWAL_STEP_MS = 5_000
"""How long a lease holds is said in every answer, and a quick answer says a little more: less than this is not news."""
GUARD_SLACK_MS = 3_000
"""A guard ends its run to the second; we speak up this much later, for engines that have no guard."""
USAGE_INTERVAL_MS = 5 * 60_000
USAGE_REPORTED_MAX = 100
"""Stretches of use in one report; the rest follow when these are stored."""
USAGE_TOLD_MAX = 9_000
"""Of a run of a month: to a restored control plane all are told at once, for it does not know which it lacks."""
TOO_LATE = "TOO_LATE"
"""Why a run never began: too little of its lease was left. Its job waits for another."""
_FAILED_BY_US = frozenset({"RUNTIME_LIMIT", "LEASE_RAN_OUT", TOO_LATE})
_ENDED = RunState.ENDED


@dataclass(frozen=True, slots=True)
class Start:
    """Take this lease, if admission agrees."""

    lease: LeaseOrder
    deadline_ms: int
    devices: tuple[str, ...] = ()
    """GPUs, as admission chose them."""
    boot_id: str = ""
    """The boot of the machine that takes it."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Do not take it, and say why."""

    lease: LeaseOrder
    reason: Reason


@dataclass(frozen=True, slots=True)
class Stop:
    """End this run."""

    lease_id: str
    reason: Reason
    grace_ms: int


@dataclass(frozen=True, slots=True)
class Extend:
    """This run's lease holds longer."""

    lease_id: str
    valid_until_ms: int


@dataclass(frozen=True, slots=True)
class Forget:
    """The control plane has this run's end."""

    lease_id: str


@dataclass(frozen=True, slots=True)
class NoteUsage:
    """Use up to and with this interval is stored."""

    lease_id: str
    index: int


@dataclass(frozen=True, slots=True)
class SendLog:
    """Send a range of a log."""

    order: ReadLogOrder


Command = Start | Refuse | Stop | Extend | Forget | NoteUsage | SendLog


def is_stale(orders: Orders, incarnation: int, revision: int) -> bool:
    """Whether an answer is older than one that was carried out.

    Late answers of an older session never come this far; within a session, revisions only grow. The revision is not compared
    across sessions, so that a hub outlives a control plane whose store was made anew.
    """
    if orders.first:
        return orders.incarnation < incarnation
    return (orders.incarnation, orders.revision) < (incarnation, revision)


def reconcile(orders: Orders, runs: Mapping[str, Run], now_ms: int) -> tuple[Command, ...]:
    """The commands that follow from one answer. `runs` by lease id."""
    return (
        *_forgets(orders, runs),
        *_notes(orders, runs),
        *_extends(orders, runs),
        *_stops(orders, runs),
        *_starts(orders, runs, now_ms),
        *(SendLog(order) for order in _unique(orders.log_reads)),
    )


def expired(runs: Iterable[Run], now_ms: int) -> tuple[Command, ...]:
    """Stops for runs past their right or their runtime limit, whoever should have ended them before."""
    commands: list[Command] = []
    for run in runs:
        if run.state in (_ENDED, RunState.STOPPING) or run.outcome is not Outcome.NONE:
            continue
        limit_ms = run.lease.work.runtime_limit_ms
        if run.started_ms and now_ms >= run.started_ms + limit_ms + GUARD_SLACK_MS:
            reason = Reason("RUNTIME_LIMIT", "It ran to its runtime limit and was ended.", {"limit_ms": str(limit_ms)})
            commands.append(Stop(run.lease_id, reason, EXPIRY_GRACE_MS))
        elif run.deadline_ms and now_ms >= run.deadline_ms + GUARD_SLACK_MS:
            reason = Reason("LEASE_RAN_OUT", "Its lease ran out without renewal and the hub ended it.")
            if run.lease.work.on_partition == "keep" and not run.started_ms:
                reason = Reason(TOO_LATE, "Preparing it took so long that its lease ran out.")
            commands.append(Stop(run.lease_id, reason, EXPIRY_GRACE_MS))
    return tuple(commands)


def too_late(lease: LeaseOrder, deadline_ms: int, now_ms: int) -> bool:
    """Whether a run that began now would be ended by its lease before its own limit; it waits for a new lease instead.

    Only of `keep`, whose lease is not renewed. The others begin with what is left and live on renewals.
    """
    needed_ms = lease.work.runtime_limit_ms if lease.work.on_partition == "keep" else 0
    return now_ms + needed_ms >= deadline_ms


def stopped_outcome(code: str, began: bool) -> Outcome:
    """How a run ended that was told to, by why. What ran into a limit has failed; what somebody ended was stopped."""
    if code == TOO_LATE and not began:
        return Outcome.REFUSED
    return Outcome.FAILED if code in _FAILED_BY_US else Outcome.STOPPED


def of_another_boot(run: Run, boot_id: str) -> bool:
    """Whether a run was accepted, or begun, before its machine restarted.

    Its moments were told by the clock of that boot. Nobody knows how far the present one, which may have been set meanwhile
    or have lost its battery, is from it: what had not begun may not begin, for its lease may be over.
    """
    return run.boot_id not in ("", boot_id)


def applied(runs: Mapping[str, Run], commands: Iterable[Command], now_ms: int) -> dict[str, Run]:
    """The runs after the commands."""
    after = dict(runs)
    for command in commands:
        match command:
            case Start(lease, deadline_ms, devices, boot_id):
                after[lease.lease_id] = Run(
                    lease,
                    RunState.ACCEPTED,
                    accepted_ms=now_ms,
                    deadline_ms=deadline_ms,
                    devices=devices,
                    boot_id=boot_id,
                )
            case Refuse(lease, reason):
                after[lease.lease_id] = Run(lease, _ENDED, Outcome.REFUSED, reason, accepted_ms=now_ms, ended_ms=now_ms)
            case Stop(lease_id, reason, grace_ms):
                run = after[lease_id]
                after[lease_id] = replace(run, state=RunState.STOPPING, reason=reason, stop_grace_ms=grace_ms)
            case Extend(lease_id, valid_until_ms):
                run = after[lease_id]
                lease = replace(run.lease, valid_until_ms=valid_until_ms)
                after[lease_id] = replace(run, lease=lease, deadline_ms=valid_until_ms)
            case Forget(lease_id):
                after.pop(lease_id, None)
            case NoteUsage(lease_id, index):
                after[lease_id] = replace(after[lease_id], usage_stored=index)
            case SendLog():
                pass
    return after


def usage(run: Run, now_ms: int, most: int = USAGE_REPORTED_MAX) -> tuple[tuple[int, int, int], ...]:
    """Closed stretches (index, start_ms, end_ms) of what the lease held, that are not yet stored; the last is the end's."""
    if run.outcome is Outcome.REFUSED or not run.accepted_ms:
        return ()
    until_ms = run.ended_ms if run.state is _ENDED else now_ms
    found: list[tuple[int, int, int]] = []
    index = run.usage_stored + 1
    while len(found) < most:
        start_ms = run.accepted_ms + index * USAGE_INTERVAL_MS
        end_ms = start_ms + USAGE_INTERVAL_MS
        if end_ms > until_ms:
            if run.state is _ENDED and start_ms < until_ms:
                found.append((index, start_ms, until_ms))
            break
        found.append((index, start_ms, end_ms))
        index += 1
    return tuple(found)


# ---- one function a kind of order -----------------------------------------------------------------------------------
def _forgets(orders: Orders, runs: Mapping[str, Run]) -> list[Command]:
    found: dict[str, Command] = {}
    for release in orders.releases:
        run = runs.get(release.lease_id)
        if run is not None and run.lease.epoch == release.epoch and run.state is _ENDED:
            found[release.lease_id] = Forget(release.lease_id)
    return [found[lease_id] for lease_id in sorted(found)]


def _notes(orders: Orders, runs: Mapping[str, Run]) -> list[Command]:
    released = {release.lease_id for release in orders.releases}
    return [
        NoteUsage(lease_id, index)
        for lease_id, index in sorted(orders.usage_stored.items())
        if lease_id in runs and lease_id not in released and index > runs[lease_id].usage_stored
    ]


def _extends(orders: Orders, runs: Mapping[str, Run]) -> list[Command]:
    longest: dict[str, int] = {}
    for renewal in orders.renewals:
        run = runs.get(renewal.lease_id)
        if run is None or run.lease.epoch != renewal.epoch or run.state is _ENDED:
            continue
        if renewal.valid_until_ms > max(run.deadline_ms + RENEWAL_STEP_MS, longest.get(renewal.lease_id, 0)):
            longest[renewal.lease_id] = renewal.valid_until_ms
    return [Extend(lease_id, until_ms) for lease_id, until_ms in sorted(longest.items())]


def _stops(orders: Orders, runs: Mapping[str, Run]) -> list[Command]:
    found: dict[str, Stop] = {}
    for revoke in orders.revokes:
        run = runs.get(revoke.lease_id)
        if run is None or run.lease.epoch != revoke.epoch or run.state in (_ENDED, RunState.STOPPING):
            continue
        command = Stop(revoke.lease_id, revoke.reason, revoke.grace_ms)
        other = found.get(revoke.lease_id)
        if other is None or (command.grace_ms, command.reason.code) < (other.grace_ms, other.reason.code):
            found[revoke.lease_id] = command
    for lease in orders.leases:
        for run in runs.values():
            older = run.lease.job_id == lease.job_id and _key(run.lease) < _key(lease)
            if older and run.state not in (_ENDED, RunState.STOPPING) and run.lease_id not in found:
                reason = Reason("SUPERSEDED", "The federation has given this job a newer lease.")
                found[run.lease_id] = Stop(run.lease_id, reason, SUPERSEDED_GRACE_MS)
    return [found[lease_id] for lease_id in sorted(found)]


def _starts(orders: Orders, runs: Mapping[str, Run], now_ms: int) -> list[Command]:
    newest: dict[str, LeaseOrder] = {}
    for lease in orders.leases:
        known = newest.get(lease.job_id)
        if known is None or (_key(known), known.lease_id) < (_key(lease), lease.lease_id):
            newest[lease.job_id] = lease
    revoked = {(revoke.lease_id, revoke.epoch) for revoke in orders.revokes}
    commands: list[Command] = []
    for lease in sorted(newest.values(), key=lambda one: one.lease_id):
        same_job = [run for run in runs.values() if run.lease.job_id == lease.job_id]
        if lease.lease_id in runs or (lease.lease_id, lease.epoch) in revoked:
            continue
        if any(_key(run.lease) >= _key(lease) or run.state is not _ENDED for run in same_job):
            continue
        deadline_ms = lease.valid_until_ms
        if not deadline_ms:
            deadline_ms = (orders.sent_ms or now_ms) + lease.work.runtime_limit_ms + KEEP_STAGING_MS
        longer_ms = max((one.valid_until_ms for one in orders.renewals if _of(one, lease)), default=0)
        if longer_ms > deadline_ms:
            lease, deadline_ms = replace(lease, valid_until_ms=longer_ms), longer_ms  # noqa: PLW2901  # renewed at once
        if too_late(lease, deadline_ms, now_ms):
            reason = Reason(TOO_LATE, "The order to start it came when too little of its lease was left.")
            commands.append(Refuse(lease, reason))
        else:
            commands.append(Start(lease, deadline_ms))
    return commands


def _of(renewal: RenewOrder, lease: LeaseOrder) -> bool:
    return (renewal.lease_id, renewal.epoch) == (lease.lease_id, lease.epoch)


def _key(lease: LeaseOrder) -> tuple[int, int]:
    return (lease.epoch.incarnation, lease.epoch.n)


def _unique(orders: tuple[ReadLogOrder, ...]) -> list[ReadLogOrder]:
    return sorted({order.read_id: order for order in orders}.values(), key=lambda order: order.read_id)
