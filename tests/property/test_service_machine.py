"""The control plane under everything at once: a machine that submits, plans, reports, lies, cancels, restarts and fails.

Hubs here say anything: old reports, doubled ones, another hub's, the end before the start, full lists with holes. Plans
come from the planner and from nowhere: any job on any node and device, any claim with any victims. Clocks
jump both ways and commits fail between two statements. After each step every promise must hold; nothing that a hub, a
person or the disk does may be answered with INTERNAL. A sequence that breaks something becomes a named case in
`tests/scenarios`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from federation.domain.hub import LinkState
from federation.domain.ids import AgentId, AgentKey, HubId, JobId, LeaseId
from federation.domain.job import Epoch, Job, JobState, OnPartition, OutputFile, Reason
from federation.domain.lease import KILL_GRACE_MS, LEASE_MS_BATCH, PREEMPTED, SKEW_BOUND_MS, Lease, LeaseState
from federation.errors import Code, Fault, FederationError
from federation.lifecycle.invariants import broken
from federation.lifecycle.job import Trigger
from federation.scheduling.plan import Placement, Preemption
from federation.scheduling.policy import Policy
from federation.service import hubs, sync
from federation.service.jobs import cancel, find, retry
from federation.service.sync import Orders, RunReport
from federation.service.world import Unit
from tests.support.builders import a_node, an_agent, some_resources
from tests.support.lifecycle_tables import MACHINES, used_cells
from tests.support.world import ControlUnderTest, FailingStore, a_submission

EXAMPLES = 2_000 if os.environ.get("BRHUB_LONG") == "1" else 120
STATEMENTS = (
    "append_events", "put_jobs", "put_leases", "put_hubs", "put_agents", "put_requests", "put_usage", "commit",
)  # fmt: skip
KEYS: tuple[AgentKey, ...] = (
    (HubId("cairo"), AgentId("main")), (HubId("cairo"), AgentId("spare")), (HubId("shenzhen"), AgentId("main")),
)  # fmt: skip
WORDS = (
    Trigger.RUN_ACCEPTED,
    Trigger.RUN_STAGING,
    Trigger.RUN_STARTED,
    Trigger.RUN_STOPPING,
    Trigger.RUN_SUCCEEDED,
    Trigger.RUN_FAILED,
    Trigger.RUN_STOPPED,
    Trigger.RUN_REFUSED,
)
NO_SESSION = (Code.SESSION_UNKNOWN, Code.SESSION_SUPERSEDED)
LIVED_IN = (Trigger.RUN_STARTED, Trigger.RUN_STAGING, Trigger.RUN_STARTED, Trigger.RUN_ACCEPTED, Trigger.RUN_STARTED)
BEGINNING = (JobState.QUEUED, JobState.LEASED, JobState.STAGING, JobState.RUNNING)
SPECS: tuple[dict[str, Any], ...] = (
    {"name": "keep"},
    {"name": "keep-twice", "idempotent": True},
    {"name": "stop", "on_partition": OnPartition.STOP},
    {"name": "rerun", "on_partition": OnPartition.RERUN, "idempotent": True},
    {"name": "gang", "replicas": 2, "per_task": some_resources(cpus=2)},
    {"name": "wide", "per_task": some_resources(cpus=4), "hubs_allow": ("cairo",)},
    {"name": "guest", "per_task": some_resources(cpus=2, gpus=1), "preemptible": True, "idempotent": True},
    {"name": "guests", "replicas": 2, "per_task": some_resources(gpus=0.5), "preemptible": True},
    {"name": "gpus", "per_task": some_resources(gpus=2), "preemptible": True, "on_partition": OnPartition.STOP},
)
JOBS = 12
"""Request ids in play."""
REASONS = (
    None,
    Reason("ROOM_TAKEN", "taken here", "cairo"),
    Reason("SHARE_POLICY", "not today", "cairo"),
    Reason("EXIT", "exit status 3", "cairo"),
)
STEPS_MS = (0, 1, 1_000, 5_000, 20_000, 61_000, 601_000, 1_500_000, 2_500_000, 4_000_000, -1_000, -120_000)
RECLAIM_MS = {"cairo": 0, "shenzhen": 30_000}
MOMENTS_MS = st.sampled_from((-5, 0, 7, 1_760_000_000_000, 2**62))


reports = st.fixed_dictionaries(
    {
        "lease": st.integers(0, 40),
        "trigger": st.sampled_from(WORDS),
        "stale": st.sampled_from((0, 0, 0, 0, -1, 1)),
        "reason": st.sampled_from(REASONS),
        "started_ms": MOMENTS_MS,
        "ended_ms": MOMENTS_MS,
        "usage": st.lists(st.tuples(st.integers(-1, 4), MOMENTS_MS, MOMENTS_MS), max_size=2).map(tuple),
        "outputs": st.sampled_from(((), (OutputFile("out.csv", 1, "b" * 64),))),
    }
)


class ServiceMachine(RuleBasedStateMachine):
    """See the module. It remembers what was acknowledged: that may never be taken back."""

    @initialize(lived_in=st.sampled_from(("making room", "making room", "at work", "")))
    def begin(self, lived_in: str) -> None:
        """An empty federation, or one at work: from nothing, few stories come as far as a run."""
        self.store = FailingStore()
        self.control = ControlUnderTest(
            self.store, Policy(promise_after_ms=0)
        )  # so that some wait from the first round on
        self.sessions = 0
        self.instances = dict.fromkeys(KEYS, 1)
        self.session_of: dict[AgentKey, str] = {}
        self.older: list[str] = []
        self.leases: dict[LeaseId, Lease] = {}
        """Every lease that was ever committed, as first seen."""
        self.accepted: dict[str, tuple[str, str]] = {}
        """Request id -> (name, job id)."""
        self.cancelled: set[str] = set()
        """Jobs that somebody asked to end and nobody to begin again."""
        self.usage: dict[LeaseId, tuple[Any, ...]] = {}
        self.over_full: set[AgentKey] = set()
        """Agents that took back room under running work."""

        if lived_in:
            for key in KEYS:
                self.join(key, cpus=4, gpus=2, name="n1", another=False, told=[])
            self.submit([(number, number % len(SPECS)) for number in range(JOBS)])
            self.round()
            for pick in range(9):
                self.tell_the_truth(pick, LIVED_IN[pick % len(LIVED_IN)], full=False)
        if lived_in == "making room":
            for pick in range(JOBS):
                self.a_preemption_that_may_be(pick, pick)
            assert self.control.world.claims_of_agent

    # ---- what people do ---------------------------------------------------------------------------------------------
    @rule(members=st.lists(st.tuples(st.integers(0, JOBS - 1), st.integers(0, len(SPECS) - 1)), min_size=1, max_size=4))
    def submit(self, members: list[tuple[int, int]]) -> None:
        """Few request ids, so that many come again, with the same body or another."""
        batch = [a_submission(f"r{number}", **SPECS[spec]) for number, spec in members]
        answers = self.tried(lambda: self.control.submit_all(*batch))
        for member, answer in zip(batch, answers or (), strict=bool(answers)):
            assert member.spec is not None
            known = self.accepted.get(member.request_id)
            if answer.problem is not None:
                assert answer.problem.code in (Code.REQUEST_ID_REUSED, Code.HUB_NOT_FOUND)
                continue
            assert known is None or known == (member.spec.name, answer.job_id)
            self.accepted[member.request_id] = (member.spec.name, answer.job_id)

    @precondition(lambda self: self.accepted)
    @rule(pick=st.integers(0, JOBS), note=st.sampled_from(("", "enough")))
    def cancel(self, pick: int, note: str) -> None:
        """Any job, in any state."""
        self.asked_to_end(self.a_job(pick), note)

    @precondition(lambda self: self.control.world.leases)
    @rule(pick=st.integers(0, 40))
    def cancel_what_is_leased(self, pick: int) -> None:
        """While a hub has it."""
        self.asked_to_end(self.a_lease(pick).job_id, "")

    @precondition(lambda self: self.accepted)
    @rule(pick=st.integers(0, JOBS))
    def retry(self, pick: int) -> None:
        """Only what has ended may begin again."""
        job_id = self.a_job(pick)
        again = self.tried(
            lambda: self.control.run(lambda unit: retry(unit, find(unit, self.store, job_id), "test")),
            Code.ILLEGAL_TRANSITION,
        )
        if again is not None:
            self.cancelled.discard(job_id)

    @rule(hub_id=st.sampled_from(("cairo", "shenzhen")), undo=st.booleans())
    def drain(self, hub_id: str, undo: bool) -> None:
        """An operator's word."""
        self.tried(
            lambda: self.control.run(lambda unit: hubs.drain(unit, hub_id, "", "test", undo)), Code.HUB_NOT_FOUND
        )

    @precondition(lambda self: self.accepted)
    @rule(pick=st.integers(0, JOBS))
    def explain(self, pick: int) -> None:
        """Every waiting job has a reason, whatever the planner has seen so far."""
        job = self.control.job(self.a_job(pick))
        self.settle()
        explanation = self.control.rounds.explain(job)
        if job.state is JobState.QUEUED:
            assert explanation.reasons

    # ---- what hubs do -----------------------------------------------------------------------------------------------
    @rule(
        key=st.sampled_from(KEYS),
        cpus=st.sampled_from((1, 2, 4)),
        gpus=st.sampled_from((0, 0.5, 2, 2)),
        name=st.sampled_from(("n1", "n1", "n2")),
        another=st.booleans(),
        told=st.lists(reports, max_size=3),
    )
    def join(self, key: AgentKey, cpus: int, gpus: float, name: str, another: bool, told: list[dict[str, Any]]) -> None:
        """A session opens: another machine, other nodes, a list of runs that need not be true."""
        self.sessions += 1
        self.instances[key] += another
        session_id = f"session-{self.sessions}"
        arriving = replace(
            an_agent(*key),
            session_id=session_id,
            instance_id=f"instance-{self.instances[key]}",
            nodes=(a_node(name, cpus, gpus=gpus), a_node("n3", 2, gpus=1)),
            reclaim_ms=RECLAIM_MS[key[0]],
        )
        runs = tuple(self.a_report(one) for one in told)
        orders = self.tried(lambda: self.control.join(arriving, runs), Code.IDENTITY_IN_USE)
        if orders is None:
            return
        self.older.extend([self.session_of[key]] if key in self.session_of else [])
        self.session_of[key] = session_id
        self.over_full.add(key)

    @precondition(lambda self: self.session_of)
    @rule(
        pick=st.integers(0, 5),
        told=st.lists(reports, max_size=3),
        full=st.booleans(),
        seq=st.integers(0, 6),
        nodes=st.sampled_from(((), (), (a_node(cpus=2, gpus=1),), (a_node("n3", 4, gpus=2), a_node("n2", 1)))),
    )
    def heartbeat(self, pick: int, told: list[dict[str, Any]], full: bool, seq: int, nodes: tuple[Any, ...]) -> None:
        """A heartbeat: by a session of now or of before, about anybody's runs."""
        session_id = self.a_session(pick)
        runs = tuple(self.a_report(one) for one in told)
        beat = sync.Heartbeat(session_id, runs, "", nodes, full, sync_seq=seq)
        orders = self.tried(lambda: self.control.run(lambda unit: sync.sync(unit, self.store, beat)), *NO_SESSION)
        if orders is not None and not orders.superseded:
            self.over_full.update({orders.key} if nodes else ())
            self.check_orders(orders)

    @precondition(lambda self: self.control.world.leases)
    @rule(pick=st.integers(0, 40), trigger=st.sampled_from(WORDS), full=st.booleans())
    def tell_the_truth(self, pick: int, trigger: Trigger, full: bool) -> None:
        """An agent speaks of its own live lease, and of all the others that it has."""
        world, lease = self.control.world, self.a_lease(pick)
        session_id = world.agents[lease.agent_key].session_id
        if not session_id:
            return
        runs = [RunReport(lease.id, lease.job_id, lease.epoch, trigger, Reason("SAID", "so", lease.hub_id))]
        runs += [
            RunReport(other.id, other.job_id, other.epoch, Trigger.RUN_STOPPING)
            for other in world.held_by(lease.agent_key)
            if full and other.id != lease.id and other.state is not LeaseState.GRANTED
        ]
        beat = sync.Heartbeat(session_id, tuple(runs), "", full=full)
        orders = self.tried(lambda: self.control.run(lambda unit: sync.sync(unit, self.store, beat)))
        if orders is not None:
            self.check_orders(orders)
            if lease.preempted and trigger in (Trigger.RUN_STOPPED, Trigger.RUN_FAILED):
                job = self.control.job(lease.job_id)
                assert (job.state, job.reason and job.reason.code) == (JobState.QUEUED, PREEMPTED)

    @precondition(lambda self: self.session_of)
    @rule(pick=st.integers(0, 5))
    def wake(self, pick: int) -> None:
        """A held call is woken, however long it slept."""
        session_id = self.a_session(pick)
        orders = self.tried(lambda: self.control.run(lambda unit: sync.orders_of(unit, session_id)), *NO_SESSION)
        if orders is not None:
            self.check_orders(orders)

    # ---- what plans may say -----------------------------------------------------------------------------------------
    @precondition(lambda self: self.accepted and self.control.world.agents)
    @rule(
        pick=st.integers(0, JOBS),
        key=st.sampled_from(KEYS),
        nodes=st.lists(st.sampled_from(("n1", "n3")), min_size=1, max_size=2),
        devices=st.none() | st.lists(st.lists(st.integers(-1, 2), max_size=2).map(tuple), min_size=1, max_size=2),
    )
    def a_placement_from_nowhere(
        self, pick: int, key: AgentKey, nodes: list[str], devices: list[tuple[int, ...]] | None
    ) -> None:
        """Any job anywhere; only what holds takes effect."""
        planned = Placement(self.a_job(pick), key, tuple(nodes), tuple(devices or ()))
        self.tried(lambda: self.control.commit(planned))

    @precondition(lambda self: self.accepted and self.control.world.leases)
    @rule(
        pick=st.integers(0, JOBS),
        victims=st.lists(st.integers(0, 40), max_size=3),
        elsewhere=st.sampled_from((None, None, None, *KEYS)),
    )
    def a_preemption_from_nowhere(self, pick: int, victims: list[int], elsewhere: AgentKey | None) -> None:
        """Any job for any job, mostly where the first of them runs."""
        leases = [self.a_lease(victim) for victim in victims]
        self.preempt(self.a_job(pick), leases, elsewhere)

    @precondition(lambda self: self.waiting_and_guests() is not None)
    @rule(pick=st.integers(0, JOBS), guest=st.integers(0, 40))
    def a_preemption_that_may_be(self, pick: int, guest: int) -> None:
        """A job that waits for all guests of one agent, which is where most of them go."""
        found = self.waiting_and_guests()
        if found is None:
            return
        waiting, guests = found
        first = guests[guest % len(guests)]
        beside = [lease for lease in guests if lease.agent_key == first.agent_key and lease.id != first.id]
        self.preempt(waiting[pick % len(waiting)].id, [first, *beside], None)

    @precondition(lambda self: self.ending_guests())
    @rule(
        pick=st.integers(0, 40),
        trigger=st.sampled_from((Trigger.RUN_STOPPED, Trigger.RUN_STOPPED, Trigger.RUN_FAILED, *WORDS)),
        every=st.booleans(),
    )
    def a_guest_ends(self, pick: int, trigger: Trigger, every: bool) -> None:
        """What a preempted run's hub says of it; or of all of them, and the round that gives their room away."""
        guests = self.ending_guests()
        for guest in guests if every else [guests[pick % len(guests)]]:
            if guest.id in self.control.world.leases:
                self.tell_the_truth(list(self.control.world.leases).index(guest.id), trigger, full=False)
        if every:
            self.round()

    def ending_guests(self) -> list[Lease]:
        """Leases that were told to make room."""
        return [lease for lease in self.control.world.leases.values() if lease.preempted]

    def preempt(self, job_id: str, leases: list[Lease], elsewhere: AgentKey | None) -> None:
        """Plan a claim on the first victim's node, and see that nobody was told to end in vain."""
        world, replicas = self.control.world, self.control.job(job_id).spec.replicas
        key = elsewhere or (leases[0].agent_key if leases else KEYS[0])
        nodes = (leases[0].nodes[0] if leases else "n1",) * replicas
        planned = Preemption(job_id, key, nodes, tuple(lease.id for lease in leases), lost_ms=1)
        before = {lease.id for lease in world.leases.values() if lease.state is LeaseState.REVOKING}
        accepted = self.tried(lambda: self.control.commit(planned))
        told = {lease.id for lease in world.leases.values() if lease.state is LeaseState.REVOKING} - before
        claim = world.jobs[JobId(job_id)].claim if JobId(job_id) in world.jobs else None
        if accepted is not None and accepted.preemptions:
            assert claim is not None
            assert told <= set(claim.victims)
            assert all(world.leases[lease_id].agent_key == key for lease_id in claim.victims)
        else:
            assert not told

    def waiting_and_guests(self) -> tuple[list[Job], list[Lease]] | None:
        """Jobs without a claim that wait, and leases that may be preempted; None when there are none of either."""
        world = self.control.world
        waiting = [job for job in world.jobs.values() if job.state is JobState.QUEUED and job.claim is None]
        guests = [
            lease
            for lease in world.leases.values()
            if world.jobs[lease.job_id].spec.preemptible and lease.state is not LeaseState.REVOKING
        ]
        return (waiting, guests) if waiting and guests else None

    # ---- what time and machines do ----------------------------------------------------------------------------------
    @rule()
    def round(self) -> None:
        """Plan and commit."""
        self.tried(self.control.round)

    @rule(ms=st.sampled_from(STEPS_MS))
    def time_passes(self, ms: int) -> None:
        """Forwards, or a clock that was set back."""
        failing = bool(self.store.fail_at)
        self.tried(lambda: self.control.pass_time(ms))
        if not failing:  # else the next second does what could not be saved
            self.no_claim_in_vain()

    @precondition(lambda self: self.control.world.leases)
    @rule(ms=st.sampled_from((LEASE_MS_BATCH // 2, LEASE_MS_BATCH // 2 + 60_000)))
    def half_a_lease_passes(self, ms: int) -> None:
        """And every hub that has a session speaks: what is due is renewed, saved before it is said."""
        self.tried(lambda: self.control.pass_time(ms))
        for pick in range(len(self.session_of)):
            self.wake(pick)

    @precondition(lambda self: self.control.world.leases)
    @rule(pick=st.integers(0, 40))
    def a_lease_runs_out(self, pick: int) -> None:
        """To the moment at which its run is over for certain."""
        over_ms = self.a_lease(pick).expires_ms + KILL_GRACE_MS + SKEW_BOUND_MS
        self.tried(lambda: self.control.pass_time(max(0, over_ms - self.control.clock.at_ms)))
        self.tried(lambda: self.control.pass_time(1_000))

    @rule()
    def restart(self) -> None:
        """From the store, with nothing else; what waits comes back little by little, as time passes."""
        self.store.fail_at = ""
        self.control.boot(read=False)
        self.older.extend(self.session_of.values())
        self.session_of.clear()

    @rule(statement=st.sampled_from(STATEMENTS))
    def the_disk_fills(self, statement: str) -> None:
        """The next commit ends at this statement."""
        self.store.fail_at = statement

    @precondition(lambda self: self.accepted)
    @rule(pick=st.integers(0, JOBS), other=st.integers(0, JOBS), told=st.lists(reports, max_size=2))
    def a_batch_with_a_broken_member(self, pick: int, other: int, told: list[dict[str, Any]]) -> None:
        """Three commands share a commit; the middle one breaks after it has changed much."""
        first, second = self.a_job(pick), self.a_job(other)
        runs = tuple(self.a_report(one) for one in told)

        def broken_half_way(unit: Unit) -> None:
            for job_id in (first, second):
                with contextlib.suppress(FederationError):
                    cancel(unit, find(unit, self.store, job_id), "", "test")
                with contextlib.suppress(FederationError):
                    retry(unit, find(unit, self.store, job_id), "test")
            for agent in list(unit.world.agents.values()):
                if agent.session_id:
                    sync.sync(unit, self.store, sync.Heartbeat(agent.session_id, runs, "", full=True))
                arriving = replace(agent, session_id="session-of-nobody")
                sync.open_session(unit, self.store, arriving, "Renamed", ())
            raise FederationError(Code.INVALID_ARGUMENT, "no", fault=Fault.CALLER)

        futures = self.control.writer.together(
            [
                lambda unit: cancel(unit, find(unit, self.store, first), "", "test"),
                broken_half_way,
                lambda unit: find(unit, self.store, second).id,
            ]
        )
        assert isinstance(futures[1].exception(), FederationError)
        failed = [future.exception() for future in futures if future.exception() is not None]
        assert {error.code for error in failed if isinstance(error, FederationError)} <= {
            Code.INVALID_ARGUMENT,
            Code.STORE_FULL,
        }
        assert all(isinstance(error, FederationError) for error in failed)

    # ---- what must hold ---------------------------------------------------------------------------------------------
    @invariant()
    def every_promise_holds(self) -> None:
        """After each step: the lifecycle's invariants, and store and memory saying the same."""
        world, control = self.control.world, self.control
        self.over_full = {key for key in self.over_full if key in world.agents and self.is_over_full(key)}
        control.check(over_full=self.over_full)
        for lease in world.leases.values():
            self.leases.setdefault(lease.id, lease)
        for agent in self.store.load().agents:
            known = world.agents[agent.key]
            assert (agent.nodes, agent.engines) == (known.nodes, known.engines)
            assert not known.session_id or (agent.link, agent.session_id) == (known.link, known.session_id)
        assert {key: agent.session_id for key, agent in world.agents.items() if agent.session_id} == {
            key: session_id for session_id, key in world.sessions.items()
        }
        assert set(world.leases) == {one for of_agent in world.leases_of_agent.values() for one in of_agent}
        assert set(world.lease_of_job) == {lease.job_id for lease in world.leases.values()}
        assert {key: set(of_node) for key, of_node in world.leases_of_node.items()} == {
            (lease.agent_key, node): {other.id for other in world.leases.values() if on(other, lease.agent_key, node)}
            for lease in world.leases.values()
            for node in lease.nodes
        }
        claims = {(job.claim.agent_key, job.id) for job in world.jobs.values() if job.claim is not None}
        assert claims == {(key, job_id) for key, of_agent in world.claims_of_agent.items() for job_id in of_agent}
        assert all(world.claims_of_agent.values())

    @invariant()
    def what_was_answered_stays(self) -> None:
        """An accepted job is there, a cancelled one does not begin again, usage is posted once and never changes."""
        waiting = {job.id for job in self.control.world.jobs.values() if job.state in BEGINNING}
        assert not waiting & self.cancelled
        for _, job_id in self.accepted.values():
            assert self.store.get_job(job_id) is not None
        for lease_id in self.leases:
            posted = self.store.usage_of(lease_id)
            before = self.usage.get(lease_id, ())
            assert posted[: len(before)] == before
            assert all(0 <= one.start_ms <= one.end_ms for one in posted)
            self.usage[lease_id] = posted

    @precondition(lambda self: not self.store.fail_at)
    @rule()
    def the_planner_sees_what_is(self) -> None:
        """When nothing changes any more, the planner's queue, leases, claims and links are the world's."""
        self.settle()
        world, told = self.control.world, self.control.rounds._state.full()
        planner = self.control.rounds._state
        assert {job.job_id for job in told.queued} == {
            job.id for job in world.jobs.values() if job.state is JobState.QUEUED
        }
        assert {row.lease_id: row.devices for row in told.leases_started} == {
            lease.id: lease.devices for lease in world.leases.values()
        }
        assert {(row.job_id, row.key, row.victims, row.devices) for row in told.claims_made} == {
            (job.id, job.claim.agent_key, job.claim.victims, job.claim.devices)
            for job in world.jobs.values()
            if job.claim is not None
        }
        assert {key: row.link for key, row in planner.agents.items()} == {
            key: agent.link for key, agent in world.agents.items()
        }

    # ---- inside -----------------------------------------------------------------------------------------------------
    def settle(self) -> None:
        """Rounds until one places nothing."""
        self.store.fail_at = ""
        for _ in range(20):
            if not self.control.round():
                return
        raise AssertionError("rounds place the same jobs again and again")

    def tried(self, action: Callable[[], Any], *allowed: Code) -> Any:
        """The result, or None where the disk or an allowed code refused."""
        try:
            return action()
        except FederationError as error:
            refused = error
        assert refused.code in (Code.STORE_FULL, *allowed), str(refused)
        return None

    def check_orders(self, orders: Orders) -> None:
        """Only its own live leases, and never a start and a revoke of one."""
        world = self.control.world
        for lease, job in orders.starts:
            assert (lease.agent_key, job.epoch) == (orders.key, lease.epoch)
            assert world.leases[lease.id].state is LeaseState.GRANTED
        starts = {(lease.id, lease.epoch) for lease, _ in orders.starts}
        assert not starts & {(one.lease_id, one.epoch) for one in orders.revokes}
        assert world.agents[orders.key].link is LinkState.ONLINE
        for revoke in orders.revokes:
            held = world.leases.get(revoke.lease_id)
            if held is not None and (held.agent_key, held.epoch) == (orders.key, revoke.epoch) and held.preempted:
                assert (revoke.reason.code, revoke.grace_ms) == (PREEMPTED, world.agents[orders.key].reclaim_ms)

    def no_claim_in_vain(self) -> None:
        """What was not free in time is waited for no more."""
        if not self.store.fail_at:
            now_ms = self.control.clock.at_ms
            claims = [job.claim for job in self.control.world.jobs.values() if job.claim is not None]
            assert all(now_ms < claim.until_ms for claim in claims)

    def is_over_full(self, key: AgentKey) -> bool:
        """Whether it still holds more than it offers now."""
        world = self.control.world
        found = broken(world.claimed_at(key), world.held_by(key), {key: world.agents[key]})
        return any("holds more" in sentence for sentence in found)

    def asked_to_end(self, job_id: str, note: str) -> None:
        """Cancel, and remember that it was promised."""
        job = self.tried(
            lambda: self.control.run(lambda unit: cancel(unit, find(unit, self.store, job_id), note, "test"))
        )
        self.cancelled.update({job_id} if job is not None else ())

    def a_lease(self, pick: int) -> Lease:
        """One of those that are live."""
        leases = list(self.control.world.leases.values())
        return leases[pick % len(leases)]

    def a_job(self, pick: int) -> str:
        """One of the accepted."""
        return list(self.accepted.values())[pick % len(self.accepted)][1]

    def a_session(self, pick: int) -> str:
        """One of the sessions, mostly a present one."""
        every = [*self.session_of.values(), *self.older[-2:]]
        return every[pick % len(every)]

    def a_report(self, told: dict[str, Any]) -> RunReport:
        """Words about some lease that there is or was, or about none."""
        known = list(self.leases.values())
        lease = known[told["lease"] % len(known)] if known else None
        changes = {name: told[name] for name in ("reason", "started_ms", "ended_ms", "usage", "outputs")}
        if lease is None:
            return RunReport(LeaseId("lease-of-nobody"), "job-of-nobody", Epoch(1, 1), told["trigger"], **changes)  # type: ignore[arg-type]
        epoch = Epoch(lease.epoch.incarnation, lease.epoch.n + told["stale"])
        return RunReport(lease.id, lease.job_id, epoch, told["trigger"], **changes)


def on(lease: Lease, key: AgentKey, node: str) -> bool:
    """Whether a lease holds something on a node."""
    return lease.agent_key == key and node in lease.nodes


def test_no_sequence_of_anything_breaks_a_promise() -> None:
    """A hundred and twenty life stories of a federation, or two thousand with `./run long`.

    By which cells of the lifecycle's tables they did not come is printed; `test_every_cell.py` comes by all of them.
    """
    patient = settings(
        max_examples=EXAMPLES,
        stateful_step_count=50,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],  # the planner's kernels may have to be compiled first
    )
    with used_cells() as used:
        run_state_machine_as_test(ServiceMachine, settings=patient)
    holes = {machine.name: sorted(machine.cells - used[machine.name]) for machine in MACHINES}
    print("cells that no example came by:", {name: cells for name, cells in holes.items() if cells})
