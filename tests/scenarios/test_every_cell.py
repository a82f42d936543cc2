"""Every cell of every lifecycle table, reached through the service: by people, hubs, plans, time, and starts.

`tests/unit/lifecycle/test_tables.py` walks the tables themselves. Here each cell is stepped by what really happens in a
federation, so that no cell is there for nobody; what a restored store adopts is in `test_restored.py`. `tests/property/test_service_machine.py` comes by at random.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from federation.domain.hub import LOST_AFTER_MS, SUSPECT_AFTER_MS
from federation.domain.job import JobState, OnPartition
from federation.domain.lease import KILL_GRACE_MS, SKEW_BOUND_MS, LeaseState
from federation.errors import FederationError
from federation.lifecycle.job import JOB_TABLE, LEASE_TABLE, Trigger
from federation.scheduling.plan import Placement, Preemption
from federation.service import hubs, sync
from federation.service.jobs import cancel, find, release, retry
from tests.support.builders import an_agent, some_resources
from tests.support.lifecycle_tables import MACHINES, Cell, used_cells
from tests.support.world import ControlUnderTest

J, L, T = JobState, LeaseState, Trigger
AGENT = an_agent()


class Stage:
    """A federation with one hub and one job, brought to where a cell begins."""

    def __init__(self, state: JobState, lease: LeaseState | None, trigger: Trigger) -> None:
        renews = trigger is T.LEASE_RENEWED
        self.control = ControlUnderTest()
        self.control.join()
        partition = OnPartition.STOP if renews else OnPartition.KEEP
        self.job_id = self.control.submit(on_partition=partition, per_task=some_resources(cpus=4), preemptible=True)
        self.in_doubt = self.expired if trigger is not T.LEASE_RESTARTED else self.absent
        self.lead_to(state, lease)
        job, held = self.control.job(self.job_id), self.control.world.leases
        assert (job.state, next(iter(held.values())).state if held else None) == (state, lease)

    def lead_to(self, state: JobState, lease: LeaseState | None) -> None:
        """Along a way that such a job may come."""
        if state is J.QUEUED:
            return
        self.control.round()
        if state in (J.SUCCEEDED, J.FAILED):
            self.said(T.RUN_SUCCEEDED if state is J.SUCCEEDED else T.RUN_FAILED)
        elif state is J.CANCELLED:
            self.cancelled()
            self.said(T.RUN_STOPPED)
        elif state is J.CANCELLING:
            self.said(T.RUN_STARTED)
            self.cancelled()
        else:
            if lease is not L.GRANTED or state in (J.STAGING, J.RUNNING):
                self.said({J.LEASED: T.RUN_ACCEPTED, J.STAGING: T.RUN_STAGING}.get(state, T.RUN_STARTED))
            if lease is L.REVOKING:
                self.preempted()
            if state is J.UNKNOWN:
                self.in_doubt()

    # ---- what happens ---------------------------------------------------------------------------------------------------
    def happens(self, trigger: Trigger) -> None:
        """The plainest way in which it does."""
        ways: dict[Trigger, Callable[[], Any]] = {
            T.LEASE_GRANTED: self.control.round,
            T.RUN_ABSENT: self.absent,
            T.LEASE_RENEWED: self.half_a_length_passes,
            T.LEASE_EXPIRED: self.expired,
            T.LEASE_RESTARTED: self.restarted,
            T.CANCEL_REQUESTED: self.cancelled,
            T.RETRY_REQUESTED: self.retried,
            T.CLAIM_MADE: self.claimed,
            T.CLAIM_DROPPED: self.claim_dropped,
            T.PREEMPT_REQUESTED: self.preempted,
            T.RELEASE_FORCED: self.released,
        }
        ways.get(trigger, lambda: self.said(trigger))()
        self.control.check()

    def said(self, trigger: Trigger) -> None:
        """By its hub."""
        self.control.sync(self.control.report(self.job_id, trigger))

    def cancelled(self) -> None:
        """By its owner."""
        self.control.run(lambda unit: cancel(unit, find(unit, self.control.store, self.job_id), "", "test"))

    def retried(self) -> None:
        """By its owner."""
        self.control.run(lambda unit: retry(unit, find(unit, self.control.store, self.job_id), "test"))

    def released(self) -> None:
        """By an operator, when its hub has been silent for long."""
        self.control.pass_time(LOST_AFTER_MS)
        job = self.control.job(self.job_id)
        self.control.run(lambda unit: release(unit, job, "it burnt down", "test", force=True))

    def preempted(self) -> None:
        """Another job claims half of its room; a second one may count on the same victim."""
        lease = self.control.lease_of(self.job_id)
        self.control.commit(Preemption(self.another(), AGENT.key, ("n1",), (lease.id,), 1))

    def another(self, **spec: Any) -> str:
        """A job of half a machine."""
        return self.control.submit(f"r{self.control.ids.new_id('r')}", per_task=some_resources(cpus=2), **spec)

    def claimed(self) -> None:
        """It waits for the room of a guest."""
        guest = self.another(preemptible=True)
        self.control.commit(Placement(guest, AGENT.key, ("n1",)))
        victim = self.control.lease_of(guest)
        self.control.commit(Preemption(self.job_id, AGENT.key, ("n1",), (victim.id,), 1))

    def claim_dropped(self) -> None:
        """Its hub is drained."""
        self.claimed()
        self.control.run(lambda unit: hubs.drain(unit, "cairo", "", "test"))

    def absent(self) -> None:
        """Its hub does not know it; where the hub had not said that it has it, another machine speaks for the agent now."""
        lease = self.control.lease_of(self.job_id)
        if lease.state is L.GRANTED:
            self.control.clock.at_ms += SUSPECT_AFTER_MS
            self.control.join(replace(AGENT, instance_id="instance-2"))
        else:
            self.control.sync(full=True)

    def half_a_length_passes(self) -> None:
        """While its hub goes on speaking."""
        for _ in range(30):
            self.control.pass_time(50_000)
            self.control.sync()

    def expired(self) -> None:
        """Nobody says anything until the run is over for certain."""
        lease = self.control.lease_of(self.job_id)
        self.control.pass_time(max(0, lease.expires_ms + KILL_GRACE_MS + SKEW_BOUND_MS - self.control.clock.at_ms))

    def restarted(self) -> None:
        """The control plane begins anew, two seconds later."""
        self.control.clock.at_ms += 2_000
        self.control.boot()


BY_SERVICE = [
    (state, lease, trigger)
    for state in JobState
    for lease in ([None] if state is J.QUEUED or state.terminal else [L.GRANTED, L.ACTIVE, L.REVOKING])
    for trigger in JOB_TABLE[state]
    if trigger is not T.LEASE_ADOPTED and (lease is None or trigger in LEASE_TABLE[lease])
]
NEVER = {(J.STAGING, L.GRANTED), (J.RUNNING, L.GRANTED), (J.CANCELLING, L.GRANTED), (J.CANCELLING, L.ACTIVE)}
"""A hub's word that it prepares or runs takes the lease; a cancel revokes it."""
OVER = (J.UNKNOWN, L.GRANTED, T.LEASE_RESTARTED)
"""What nobody took is UNKNOWN only because its time has been seen to pass: it is not counted anew."""


def test_every_cell_of_the_job_and_its_lease_is_stepped_by_what_really_happens() -> None:
    """Each pair of states that a job and its lease can be in, and each event that both allow, one federation each."""
    holes: dict[str, list[Cell]] = {}
    with used_cells() as used:
        for state, lease, trigger in BY_SERVICE:
            if (state, lease) not in NEVER and (state, lease, trigger) != OVER:
                Stage(state, lease, trigger).happens(trigger)
    for machine in MACHINES[:2]:
        cells = {cell for cell in machine.cells if cell[1] != T.LEASE_ADOPTED}
        holes[machine.name] = sorted(cells - used[machine.name])
    assert holes == {"job": [], "lease": []}


def test_every_cell_of_hubs_links_and_sessions_is_stepped_by_what_really_happens() -> None:
    """Operators drain twice and take it back twice; agents fall silent, return, and are two; control planes start anew."""
    with used_cells() as used:
        control = ControlUnderTest()
        control.join()
        for undo in (True, False, False, True):
            control.run(lambda unit, undo=undo: hubs.drain(unit, "cairo", "", "test", undo))  # type: ignore[misc]
            control.run(lambda unit: sync.open_session(unit, control.store, AGENT, f"Title {unit.next_seq()}", ()))
        for silent_ms, back in (
            (0, True), (SUSPECT_AFTER_MS, False), (1, True), (SUSPECT_AFTER_MS, False), (LOST_AFTER_MS, False),
            (1, False), (-LOST_AFTER_MS, False), (0, True), (LOST_AFTER_MS, True),
        ):  # fmt: skip
            control.pass_time(silent_ms)
            if back:
                control.sync()
        other = replace(AGENT, instance_id="instance-2", session_id="session-of-another")
        refused = []
        for agent, silent_ms in ((other, 0), (other, SUSPECT_AFTER_MS)):
            control.clock.at_ms += silent_ms
            with contextlib.suppress(FederationError):
                control.join(agent)
                refused.append("not refused")
        with pytest.raises(FederationError):
            control.sync()
        for silent_ms in (SUSPECT_AFTER_MS, LOST_AFTER_MS):
            control.pass_time(silent_ms)
            control.boot()
        with pytest.raises(FederationError):
            control.join()
        with pytest.raises(FederationError):
            control.sync()
        control.clock.at_ms += SUSPECT_AFTER_MS
        control.join()
        control.boot()
        control.join()
    assert refused == ["not refused"]
    assert {machine.name: sorted(machine.cells - used[machine.name]) for machine in MACHINES[2:]} == {
        "hub": [],
        "link": [],
        "session": [],
    }
