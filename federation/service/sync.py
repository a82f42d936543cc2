"""SyncHub: take what a hub says, and say what is to be done. Also OpenSession, which is a sync with the full list.

Orders are not a queue: they are computed from the leases each time, so repeating a lost answer costs nothing. Absence is
never an order. The revision of an answer is the last committed event's seq: it survives a restart and only grows.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from federation.domain.hub import AGENTS_MAX, AGENTS_PER_HUB_MAX, Agent, Node
from federation.domain.ids import AgentKey, JobId, LeaseId
from federation.domain.job import Epoch, Job, JobState, OnPartition, OutputFile, Reason
from federation.domain.lease import (
    ANOTHER_MACHINE,
    LEASE_MS_BATCH,
    LEASE_MS_LAB,
    NO_REFUSALS,
    SKEW_BOUND_MS,
    STOP_GRACE_MS,
    Lease,
    LeaseState,
)
from federation.domain.usage import UsageInterval
from federation.errors import Code, Fault, FederationError
from federation.lifecycle import agent as lifecycle_agent
from federation.lifecycle.job import Fact, Trigger
from federation.ports import Store
from federation.service import hubs, restoring
from federation.service.jobs import apply, find
from federation.service.restoring import Told, Verdict, Word
from federation.service.world import Unit

TELLS_CARRIED = "tells-carried"
"""A feature of agents: each call says which orders were carried out before."""
STRETCH_MS = 5 * 60_000
"""Agents tell of use in stretches of this length, and of a shorter last one (`hub_node/reconcile.py`)."""
RUNS_LOOKED_UP_MAX = 100
"""Of an agent's runs that are not live here, so many are looked up, to see whether they ever were."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a hub says of a run, translated: `trigger` joins the wire's state and outcome."""

    lease_id: LeaseId
    job_id: JobId
    epoch: Epoch
    trigger: Trigger
    reason: Reason | None = None
    exit_code: int = 0
    started_ms: int = 0
    ended_ms: int = 0
    progress: str = ""
    url: str = ""
    outputs: tuple[OutputFile, ...] = ()
    tracking_run_id: str = ""
    usage: tuple[tuple[int, int, int], ...] = ()
    """(index, start_ms, end_ms)."""
    told: Told | None = None
    """What its lease said, where the agent was asked for it."""
    released: bool = False
    """It had been released by a control plane of before; told again after a restore."""

    @property
    def ended(self) -> bool:
        """Whether the run is over."""
        return self.trigger in _ENDED


_ENDED = frozenset({Trigger.RUN_SUCCEEDED, Trigger.RUN_FAILED, Trigger.RUN_STOPPED, Trigger.RUN_REFUSED})


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """One SyncHub call, translated."""

    session_id: str
    changed: tuple[RunReport, ...]
    runs_digest: str
    nodes: tuple[Node, ...] = ()
    full: bool = False
    round_trip_ms: int = -1
    sync_seq: int = 0
    """Raised with every call of the session; 0: not told."""
    tells_all: bool = False
    """With `full`: the list has also what the control plane of before had released."""
    carried: tuple[int, int] = (0, 0)
    """(incarnation, revision) of the newest orders that were carried out before this was told."""


@dataclass(frozen=True, slots=True)
class Revocation:
    """End this run."""

    lease_id: LeaseId
    epoch: Epoch
    reason: Reason
    grace_ms: int = STOP_GRACE_MS


@dataclass(slots=True)
class Orders:
    """What is to be done, for one agent."""

    key: AgentKey
    incarnation: int
    revision: int
    starts: list[tuple[Lease, Job]] = field(default_factory=list)
    revokes: list[Revocation] = field(default_factory=list)
    renewals: list[tuple[Lease, int]] = field(default_factory=list)
    """(lease, how long it holds, ms, from when the agent sent its request): every one that is renewed now and then, in
    every answer, because an answer may be lost."""
    renewed: bool = False
    """Whether one of them holds longer than was said before."""
    releases: list[tuple[LeaseId, Epoch]] = field(default_factory=list)
    usage_stored: dict[str, int] = field(default_factory=dict)
    send_full: bool = False
    send_all: bool = False
    """With `send_full`: also what was released before."""
    send_specs: list[LeaseId] = field(default_factory=list)
    """Runs of jobs that a restored store does not know."""
    refused: FederationError | None = None
    """The session is not opened, and why; what there was to write down of that is written down."""
    superseded: bool = False
    """A newer call of the session was heard before this one: nothing of it was taken, and nothing is said."""

    @property
    def urgent(self) -> bool:
        """Whether the answer should leave now rather than be held."""
        return bool(
            self.starts
            or self.revokes
            or self.releases
            or self.send_full
            or self.send_specs
            or self.usage_stored
            or self.renewed
        )


@dataclass(frozen=True, slots=True)
class Belonging:
    """Which store an agent says that its runs belong to, and which it is to leave that for; empty: it does not say."""

    store_id: str = ""
    joins: str = ""


def open_session(
    unit: Unit, store: Store, arriving: Agent, title: str, runs: Sequence[RunReport], of: Belonging = Belonging()
) -> Orders:
    """A new session: it ends the agent's older one, brings the full list of runs, and is told everything anew."""
    hubs.welcome(unit, arriving.hub_id, title, _actor(arriving))
    if arriving.key not in unit.world.agents:
        _check_room_for_agent(unit, arriving.key)
    refused = _stranger(unit, store, arriving, runs, of)
    if unit.note_problem(arriving.key, refused.message if refused else "") and refused is not None:
        told = {"code": refused.code, **refused.metadata}
        name = "/".join(arriving.key)
        unit.event("agent", name, "SessionRefused", cause="OpenSession", actor=_actor(arriving), payload=told)
    if refused is not None:
        return Orders(arriving.key, unit.world.incarnation, unit.next_seq() - 1, refused=refused)
    restoring.arrived(unit, arriving)
    before = unit.world.agents.get(arriving.key)
    agent = lifecycle_agent.admit(before, arriving, unit.now_ms)
    unit.put_agent(agent)
    unit.event(
        "agent",
        "/".join(agent.key),
        "SessionOpened",
        cause="OpenSession",
        actor=_actor(agent),
        payload={"version": agent.version, "instance": agent.instance_id},
    )
    if before is not None and before.instance_id != agent.instance_id:
        _doubt(unit, agent, {report.lease_id for report in runs})
    return _take(unit, store, agent, runs, full=True)


def _stranger(
    unit: Unit, store: Store, arriving: Agent, runs: Sequence[RunReport], of: Belonging
) -> FederationError | None:
    """Why an agent is not let in whose runs belong to another store: this one would have them all ended, for it knows none.

    That happens where a control plane was started on an empty store, or on somebody else's, by mistake. One run that is
    known here is enough: then the two stores have a past in common.
    """
    ours = unit.world.store_id
    if not runs or not ours or of.store_id in ("", ours) or of.joins == ours:
        return None
    if any(report.lease_id in unit.world.leases for report in runs):
        return None
    if any(store.get_lease(report.lease_id) is not None for report in runs[:RUNS_LOOKED_UP_MAX]):
        return None
    name = "/".join(arriving.key)
    return FederationError(
        Code.ANOTHER_STORE,
        f"agent {name} has {len(runs)} runs of another store ({of.store_id[:40]}), of which this one ({ours}) knows none",
        fault=Fault.FEDERATION,
        hint="Its runs go on. Start the control plane on its own store, or point the agent to its own control plane. "
        "If the other store is gone for good: brhub agent --config FILE --join-new-store, which ends those runs.",
        metadata={"agent": name, "store_id": ours, "its_store_id": of.store_id[:40], "runs": str(len(runs))},
    )


def _check_room_for_agent(unit: Unit, arriving: AgentKey) -> None:
    """Agents are never forgotten, and so are those that were not let in: a hub that invents names must meet a limit."""
    hub_id, known = arriving[0], {*unit.world.agents, *unit.world.problems} - {arriving}
    of_hub = sum(1 for key in known if key[0] == hub_id)
    if of_hub >= AGENTS_PER_HUB_MAX or len(known) >= AGENTS_MAX:
        raise FederationError(
            Code.LIMIT_EXCEEDED,
            f"hub {hub_id} has {of_hub} agents, the federation {len(known)}: no more are taken",
            fault=Fault.HUB,
            hint="Use the agent ids that there are, or put one agent in front of many machines.",
            metadata={"hub_id": hub_id, "limit": str(AGENTS_PER_HUB_MAX)},
        )


def sync(unit: Unit, store: Store, beat: Heartbeat) -> Orders:
    """Take the heartbeat's news; the orders of this moment. SESSION_UNKNOWN, SESSION_SUPERSEDED when it is not the agent's."""
    before = _session(unit, beat.session_id)
    if 0 < beat.sync_seq < before.sync_seq:
        # The network turned two calls round. What this one says was true before what is known: a full list of then
        # would make runs absent that began since.
        return Orders(before.key, unit.world.incarnation, unit.next_seq() - 1, superseded=True)
    agent = replace(
        before,
        nodes=beat.nodes or before.nodes,
        round_trip_ms=beat.round_trip_ms,
        sync_seq=max(beat.sync_seq, before.sync_seq),
    )
    agent = _heard(unit, agent, save=agent.nodes != before.nodes)
    if beat.full and (beat.tells_all or restoring.TELLS_ALL not in agent.features):
        restoring.told_all(unit, agent.key)
    orders = _take(unit, store, agent, beat.changed, beat.full, beat.carried)
    awaited = agent.key in unit.world.awaited
    orders.send_all = awaited
    orders.send_full = awaited or (
        not beat.full and beat.runs_digest != digest_of(_expected(unit, agent.key, beat.changed))
    )
    return orders


def orders_of(unit: Unit, session_id: str) -> Orders:
    """The orders of this moment, for a held call that was woken."""
    return _orders(unit, _heard(unit, _session(unit, session_id)))


def _heard(unit: Unit, agent: Agent, save: bool = False) -> Agent:
    """The agent spoke. Saved when its link is better for it, so that a restart and the planner know."""
    before = unit.world.agents[agent.key]
    agent = lifecycle_agent.heard(agent, agent.session_id, unit.now_ms)
    unit.put_agent(agent, save=save or before.link is not agent.link)
    if before.link is not agent.link:
        unit.event(
            "agent",
            "/".join(agent.key),
            "AgentReturned",
            cause="SyncHub",
            actor=_actor(agent),
            payload={"from": before.link},
        )
    return agent


def digest_of(runs: Sequence[tuple[str, Epoch]]) -> str:
    """sha256 (hex) over sorted "lease_id:incarnation-n" lines: the same text on both sides."""
    return hashlib.sha256("\n".join(sorted(f"{lease_id}:{epoch}" for lease_id, epoch in runs)).encode()).hexdigest()


def _session(unit: Unit, session_id: str) -> Agent:
    """The agent whose session that is, as it was; SESSION_UNKNOWN, SESSION_SUPERSEDED."""
    return lifecycle_agent.speaking(unit.world.session_of(session_id), session_id)


def _expected(unit: Unit, key: AgentKey, changed: Sequence[RunReport]) -> list[tuple[str, Epoch]]:
    """The runs that the agent must have: those it has acknowledged, and those it has just said are over.

    Not those that it does not know: it would be asked for its full list at every call until their leases are over.
    """
    runs = {
        lease.id: lease.epoch
        for lease in unit.world.held_by(key)
        if lease.state is not LeaseState.GRANTED and not _not_there(unit, lease)
    }
    runs |= {report.lease_id: report.epoch for report in changed if report.ended}
    return list(runs.items())


def _not_there(unit: Unit, lease: Lease) -> bool:
    """Whether nobody knows of the run. One that is cancelled is asked for once more: then its job is CANCELLED."""
    cancelled = lease.state is LeaseState.REVOKING and not lease.preempted
    return unit.world.jobs[lease.job_id].state is JobState.UNKNOWN and not cancelled


def _take(
    unit: Unit,
    store: Store,
    agent: Agent,
    runs: Sequence[RunReport],
    full: bool,
    carried: tuple[int, int] = (0, 0),
) -> Orders:
    usage_stored: dict[str, int] = {}
    releases: list[tuple[LeaseId, Epoch]] = []
    revokes: list[Revocation] = []
    wanted: list[LeaseId] = []
    for report in runs:
        lease = unit.world.leases.get(report.lease_id)
        current = lease is not None and lease.epoch == report.epoch and lease.agent_key == agent.key
        if not current and restoring.of_before(unit.world, report.epoch):
            verdict = restoring.adopt(unit, store, agent, _word(report))
            wanted += [report.lease_id] if verdict is Verdict.SPEC_WANTED else []
            if verdict in (Verdict.SPEC_WANTED, Verdict.LATER):
                continue
            lease = unit.world.leases.get(report.lease_id)
            current = verdict is Verdict.ADOPTED
        if report.usage:
            _post_usage(unit, store, agent, report, usage_stored)
        if current:
            assert lease is not None
            _report(unit, agent, unit.world.jobs[lease.job_id], report)
            if report.ended:
                releases.append((report.lease_id, report.epoch))
        elif report.ended:
            releases.append((report.lease_id, report.epoch))  # stored before, or over and done: either way, forget it
        else:
            reason = Reason("LEASE_OVER", "the federation gave this attempt up")
            revokes.append(Revocation(report.lease_id, report.epoch, reason))
    if full and agent.key not in unit.world.awaited:
        _absent(unit, agent, {report.lease_id for report in runs}, carried)
    orders = _orders(unit, agent)
    orders.send_specs = wanted[: restoring.SPECS_ASKED_MAX]
    orders.usage_stored |= usage_stored
    orders.releases += releases
    orders.revokes += revokes
    return orders


def _word(report: RunReport) -> Word:
    began_ms = min(
        (start_ms for start_ms in (report.started_ms, *(one[1] for one in report.usage)) if start_ms > 0), default=0
    )
    return Word(report.lease_id, report.job_id, report.epoch, report.told, began_ms, report.released)


def _report(unit: Unit, agent: Agent, job: Job, report: RunReport) -> None:
    reason = report.reason
    if report.trigger is Trigger.RUN_REFUSED and (reason is None or reason.code in NO_REFUSALS):
        # under a code of our own it would not be remembered as a no, and the job would be sent there without end
        message = reason.message if reason and reason.message else "the hub refused it and did not say why"
        reason = Reason("REFUSED", message, agent.hub_id)
    fact = Fact(
        report.trigger,
        report.epoch,
        reason=reason,
        exit_code=report.exit_code,
        started_ms=_moment(report.started_ms, unit.now_ms),
        ended_ms=_moment(report.ended_ms, unit.now_ms),
        progress=report.progress,
        url=report.url,
        tracking_run_id=report.tracking_run_id,
        outputs=report.outputs,
    )
    apply(unit, job, fact, cause="SyncHub", actor=_actor(agent))


def _moment(said_ms: int, now_ms: int) -> int:
    """What a hub's clock said, within reason: nothing that is told has happened later than now, or before time began."""
    return min(max(0, said_ms), now_ms)


def _absent(unit: Unit, agent: Agent, present: set[LeaseId], carried: tuple[int, int]) -> None:
    """The full list lacks runs that this agent had: its memory of them is gone.

    The order to start what is to end by now may still be on its way: that it is lacked says something only once orders
    that end it were carried out before the list was made, for older ones are not carried out after them.
    A lease of before a restore that it never acknowledged, and that is not in a list of all it knows, was never taken.
    """
    for lease in unit.world.held_by(agent.key):
        before = restoring.of_before(unit.world, lease.epoch)
        if lease.id in present or (lease.state is LeaseState.GRANTED and not before):
            continue
        if lease.state is LeaseState.REVOKING and not _heard_its_end(unit, agent, lease, carried):
            continue
        reason = Reason("RUN_ABSENT", "the hub no longer knows this run", agent.hub_id)
        fact = Fact(Trigger.RUN_ABSENT, lease.epoch, reason=reason)
        tells = restoring.TELLS_ALL in agent.features and agent.key not in unit.world.unheard
        if lease.state is LeaseState.GRANTED and tells:
            fact = Fact(Trigger.RUN_REFUSED, lease.epoch, reason=Reason("RESTORED", "it was never taken", agent.hub_id))
        apply(unit, unit.world.jobs[lease.job_id], fact, cause="SyncHub", actor=_actor(agent))


def _heard_its_end(unit: Unit, agent: Agent, lease: Lease, carried: tuple[int, int]) -> bool:
    """Whether an agent has carried out orders that end that lease; one that cannot say is believed to have."""
    told = unit.world.revokes_told.get(lease.id)
    return TELLS_CARRIED not in agent.features or (told is not None and carried >= (unit.world.incarnation, told))


def _doubt(unit: Unit, agent: Agent, present: set[LeaseId]) -> None:
    """Another machine speaks for this agent now. What the one before may have begun is not for this one to begin, nor to end.

    Whether that one took an order before it fell silent, and whether its runs go on, nobody can say: their jobs are
    UNKNOWN until it returns or their leases are over.
    """
    for lease in unit.world.held_by(agent.key):
        job = unit.world.jobs[lease.job_id]
        if lease.id not in present and job.state is not JobState.UNKNOWN:
            message = "another machine speaks for the agent that has it, and does not know it"
            fact = Fact(Trigger.RUN_ABSENT, lease.epoch, reason=Reason(ANOTHER_MACHINE, message, agent.hub_id))
            apply(unit, job, fact, cause="OpenSession", actor=_actor(agent))


def _post_usage(unit: Unit, store: Store, agent: Agent, report: RunReport, stored: dict[str, int]) -> None:
    """Store what is new. A lease that has ended may still bring its last stretch; somebody else's may not."""
    lease = (
        unit.world.leases.get(report.lease_id) or unit.leases.get(report.lease_id) or store.get_lease(report.lease_id)
    )
    if lease is None or lease.agent_key != agent.key or lease.epoch != report.epoch:
        return
    job = find(unit, store, lease.job_id)
    newest = lease.usage_stored
    # our clock may have been set back since the grant: one stretch as agents tell them is always believed
    longest_ms = max(unit.now_ms - lease.granted_ms, STRETCH_MS) + SKEW_BOUND_MS
    for index, start_ms, end_ms in sorted(report.usage):
        if index <= newest:
            continue
        if index > newest + 1 and agent.key in unit.world.awaited and restoring.TELLS_ALL in agent.features:
            break  # a restore forgot stretches before this one: they come with all that the agent is about to tell
        newest = index
        if not (0 <= start_ms <= end_ms and end_ms - start_ms <= longest_ms):
            log.warning(
                "%s says that lease %s was in use from %s to %s: not posted", agent.key, lease.id, start_ms, end_ms
            )
            continue
        unit.put_usage(UsageInterval(lease.id, index, start_ms, end_ms), lease, job)
        unit.event(
            "lease",
            lease.id,
            "UsageRecorded",
            cause="SyncHub",
            actor=_actor(agent),
            payload={"index": index, "start_ms": start_ms, "end_ms": end_ms, "job_id": lease.job_id},
        )
    if newest != lease.usage_stored:
        unit.put_lease(replace(lease, usage_stored=newest))
    stored[report.lease_id] = newest


def _orders(unit: Unit, agent: Agent) -> Orders:
    orders = Orders(agent.key, unit.world.incarnation, unit.next_seq() - 1)
    for lease in unit.world.held_by(agent.key):
        if lease.state is LeaseState.GRANTED and restoring.of_before(unit.world, lease.epoch):
            continue  # its agent may have had it since the backup: it says so, or the job waits again
        if lease.state is LeaseState.GRANTED:
            orders.starts.append((lease, unit.world.jobs[lease.job_id]))
        elif _not_there(unit, lease):
            continue  # nothing to renew, and nothing to end until it is told of
        elif lease.state is LeaseState.REVOKING:
            reason = Reason(lease.revoke_code or "CANCEL_REQUESTED", lease.revoke_message or "asked to end")
            grace_ms = agent.reclaim_ms if lease.preempted else STOP_GRACE_MS
            orders.revokes.append(Revocation(lease.id, lease.epoch, reason, grace_ms))
            unit.revoke_told(lease.id, orders.revision)
        elif lease.on_partition is not OnPartition.KEEP:
            _renew(unit, lease, orders)
    return orders


def _renew(unit: Unit, lease: Lease, orders: Orders) -> None:
    """A renewal is a fenced write: it is saved before it is said. Half a length is left before the next is due."""
    job = unit.world.jobs[lease.job_id]
    length_ms = LEASE_MS_LAB if job.spec.engine == "lab" else LEASE_MS_BATCH
    left_ms = lease.expires_ms - unit.now_ms
    if left_ms <= length_ms // 2:
        left_ms, orders.renewed = length_ms, True
        fact = Fact(Trigger.LEASE_RENEWED, lease.epoch, expires_ms=unit.now_ms + length_ms)
        apply(unit, job, fact, cause="SyncHub", actor="control")
    orders.renewals.append((lease, left_ms))


def _actor(agent: Agent) -> str:
    return f"agent:{agent.hub_id}/{agent.agent_id}"
