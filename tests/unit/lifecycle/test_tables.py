"""Every table, walked whole: each pair of a state and an event is listed or refused, and nothing in it is out of reach."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from federation.domain.hub import LOST_AFTER_MS, SUSPECT_AFTER_MS, HubState, LinkState
from federation.domain.job import Epoch, OnPartition, Reason
from federation.domain.lease import KILL_GRACE_MS, LEASE_RAN_OUT, PREEMPTED, SKEW_BOUND_MS, LeaseState
from federation.errors import Code, FederationError
from federation.lifecycle import agent as lifecycle_agent
from federation.lifecycle.agent import LINK_TABLE, SESSION_TABLE, LinkTrigger, SessionState, SessionTrigger
from federation.lifecycle.hub import HUB_TABLE, HubFact, HubTrigger
from federation.lifecycle.hub import step as step_hub
from federation.lifecycle.invariants import broken
from federation.lifecycle.job import JOB_TABLE, LEASE_TABLE, Fact, JobRecord, Trigger, row_of, step
from federation.lifecycle.table import next_state
from tests.support.builders import NOON_MS, a_claim, a_hub, a_job, a_lease, an_agent
from tests.support.lifecycle_tables import MACHINES, Cell, Machine

PAIRS = [
    pytest.param(machine, state, event, id=f"{machine.name}-{state}-{event}")
    for machine in MACHINES
    for state in machine.states
    for event in machine.events
]


@pytest.mark.parametrize(("machine", "state", "event"), PAIRS)
def test_every_pair_is_listed_or_refused(machine: Machine, state: Any, event: Any) -> None:
    """The full product: a listed pair leads to a state of the same thing or to a code; any other is ILLEGAL_TRANSITION."""
    if event in machine.table[state]:
        target = machine.table[state][event]
        assert target is None or isinstance(target, (machine.states, Code))
        return
    with pytest.raises(FederationError) as caught:
        next_state(machine.table, state, event, "it")
    assert (caught.value.code, caught.value.metadata) == (Code.ILLEGAL_TRANSITION, {"state": state, "event": event})


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_a_table_has_a_row_for_each_state_and_a_cell_for_each_event(machine: Machine) -> None:
    """And no state that nothing leads to, no event that no row knows."""
    assert set(machine.table) == set(machine.states)
    assert {event for row in machine.table.values() for event in row} == set(machine.events)
    reached, new = {machine.first}, [machine.first]
    while new:
        targets = set(machine.table[new.pop()].values())
        found = {target for target in targets if isinstance(target, machine.states)} - reached
        reached |= found
        new += found
    assert reached == set(machine.states)


# ---- hubs ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("trigger", HubTrigger)
@pytest.mark.parametrize("state", HubState)
def test_a_hub_follows_its_table(state: HubState, trigger: HubTrigger) -> None:
    """It goes where the table says; a repeat is the same hub; a note lasts while it drains."""
    hub = a_hub(state=state, note="power" if state is HubState.DRAINING else "")
    after = step_hub(hub, HubFact(trigger, title="Cairo University", note="moving"))
    assert after.state is (HUB_TABLE[state][trigger] or state)
    assert step_hub(after, HubFact(trigger, title="Cairo University", note="moving")) is after
    assert bool(after.note) == (after.state is HubState.DRAINING)


# ---- agents -------------------------------------------------------------------------------------------------------------
SILENCE_MS = {LinkTrigger.FELL_SILENT: SUSPECT_AFTER_MS, LinkTrigger.STAYED_AWAY: LOST_AFTER_MS}


@pytest.mark.parametrize("trigger", LinkTrigger)
@pytest.mark.parametrize("state", LinkState)
def test_a_link_follows_its_table(state: LinkState, trigger: LinkTrigger) -> None:
    """Being heard, silence by its length, and a start of the control plane each lead where the table says."""
    agent = an_agent(link=state)
    match trigger:
        case LinkTrigger.HEARD:
            after = lifecycle_agent.heard(agent, agent.session_id, NOON_MS + 5)
            assert after.last_sync_ms == NOON_MS + 5
        case LinkTrigger.CONTROL_STARTED:
            after = lifecycle_agent.restarted(agent, NOON_MS + 5)
            assert (after.last_sync_ms, after.session_id) == (NOON_MS + 5, "")
        case _:
            after = lifecycle_agent.aged(agent, NOON_MS + SILENCE_MS[trigger])
    assert after.link is (LINK_TABLE[state][trigger] or state)


@pytest.mark.parametrize("state", LinkState)
def test_a_link_ages_at_its_limits_and_not_before(state: LinkState) -> None:
    """A millisecond short of a minute is no silence, a millisecond short of ten is not lost; a clock set back changes nothing."""
    agent = an_agent(link=state)
    for silent_ms in (SUSPECT_AFTER_MS - 1, 0, -LOST_AFTER_MS):
        assert lifecycle_agent.aged(agent, NOON_MS + silent_ms) is agent
    suspect = lifecycle_agent.aged(agent, NOON_MS + LOST_AFTER_MS - 1)
    assert suspect.link is (LinkState.LOST if state is LinkState.LOST else LinkState.SUSPECT)


@pytest.mark.parametrize("trigger", SessionTrigger)
@pytest.mark.parametrize("state", SessionState)
def test_a_session_follows_its_table(state: SessionState, trigger: SessionTrigger) -> None:
    """Who may speak for an agent does; who may not hears the table's code, and nothing has changed."""
    present = an_agent(session_id="now" if state is SessionState.OPEN else "")
    expected = SESSION_TABLE[state].get(trigger, Code.ILLEGAL_TRANSITION)
    code, opened = None, present
    try:
        opened = _session_after(present, state, trigger)
    except FederationError as error:
        code = error.code
    assert code is (expected if isinstance(expected, Code) else None)
    if code is None:
        target = state if expected is None else expected
        assert (opened.session_id != "") == (target is SessionState.OPEN)


def _session_after(present: Any, state: SessionState, trigger: SessionTrigger) -> Any:
    other = an_agent(instance_id="instance-2", session_id="new")
    match trigger:
        case SessionTrigger.OPENED:
            return lifecycle_agent.admit(present, an_agent(session_id="new"), NOON_MS + 1)
        case SessionTrigger.TAKEN_OVER:
            return lifecycle_agent.admit(present, other, NOON_MS + SUSPECT_AFTER_MS)
        case SessionTrigger.IDENTITY_CLAIMED:
            return lifecycle_agent.admit(present, other, NOON_MS + SUSPECT_AFTER_MS - 1)
        case SessionTrigger.HEARD:
            return lifecycle_agent.heard(present if state is SessionState.OPEN else None, "now", NOON_MS)
        case SessionTrigger.OLDER_HEARD:
            return lifecycle_agent.heard(present, "before", NOON_MS)
        case SessionTrigger.CONTROL_STARTED:
            return lifecycle_agent.restarted(present, NOON_MS)


# ---- jobs and leases ----------------------------------------------------------------------------------------------------
OVER_MS = NOON_MS + 2_400_000 + KILL_GRACE_MS + SKEW_BOUND_MS
"""When the run of a lease of `a_lease` is over for certain."""


def facts_on(record: JobRecord) -> Iterator[tuple[Fact, int]]:
    """Everything that can be said of a record, and when; of its present attempt, for no other is heard."""
    epoch = record.lease.epoch if record.lease else Epoch(1, 1)
    for trigger in Trigger:
        fact = Fact(trigger, epoch, reason=Reason("SAID", "so"), expires_ms=NOON_MS + 2_400_000)
        match trigger:
            case Trigger.LEASE_GRANTED:
                fact = replace(fact, lease=a_lease(record.job))
            case Trigger.LEASE_ADOPTED:
                later = Epoch(1, record.job.epoch.n + 1 if record.job.epoch else 1)
                fact = Fact(trigger, later, lease=a_lease(record.job, LeaseState.ACTIVE, later))
            case Trigger.CLAIM_MADE:
                fact = Fact(trigger, claim=a_claim())
            case Trigger.CANCEL_REQUESTED | Trigger.RETRY_REQUESTED | Trigger.CLAIM_DROPPED:
                fact = Fact(trigger)
            case Trigger.PREEMPT_REQUESTED:
                fact = Fact(trigger, reason=Reason(PREEMPTED, "others are first"))
            case Trigger.LEASE_EXPIRED:
                fact = replace(fact, reason=Reason(LEASE_RAN_OUT, "nobody said"))
            case _:
                pass
        yield fact, OVER_MS if trigger is Trigger.LEASE_EXPIRED else NOON_MS
        if trigger is Trigger.CANCEL_REQUESTED:
            yield fact, OVER_MS


def kind_of(record: JobRecord) -> tuple[Any, ...]:
    """What a step looks at of a record."""
    job, lease = record.job, record.lease
    held = (lease.state, lease.preempted) if lease else ()
    return job.state, held, job.claim is not None, job.result_epoch is not None


def walked() -> tuple[list[JobRecord], set[Cell], set[Cell]]:
    """Every kind of record that a submitted job can come to, and the cells of both tables that lead there."""
    found: list[JobRecord] = []
    job_cells: set[Cell] = set()
    lease_cells: set[Cell] = set()
    for on_partition, idempotent, preemptible in itertools.product(OnPartition, (False, True), (False, True)):
        if on_partition is OnPartition.RERUN and not idempotent:
            continue  # refused at the door
        spec: dict[str, Any] = {"on_partition": on_partition, "idempotent": idempotent, "preemptible": preemptible}
        new = [JobRecord(a_job(**spec))]
        seen = {kind_of(new[0])}
        while new:
            record = new.pop()
            found.append(record)
            for fact, now_ms in facts_on(record):
                try:
                    after = step(record, fact, now_ms).record
                except FederationError as error:
                    assert error.code in (Code.ILLEGAL_TRANSITION, Code.STALE_EPOCH)  # noqa: PT017
                    continue
                job_cells.add((row_of(record), fact.trigger))
                if record.lease is not None:
                    lease_cells.add((record.lease.state, fact.trigger))
                if kind_of(after) not in seen:
                    seen.add(kind_of(after))
                    new.append(after)
    return found, job_cells, lease_cells


def test_all_that_a_job_can_come_to_keeps_the_promises_and_every_cell_leads_there() -> None:
    """Breadth first from a submission, over every fact: no state, no event, no cell of either table is out of reach."""
    found, job_cells, lease_cells = walked()
    agents = {an_agent().key: an_agent()}
    for record in found:
        live = not record.job.state.terminal
        assert broken([record.job] if live else [], [record.lease] if record.lease else [], agents) == []
    assert job_cells == next(machine for machine in MACHINES if machine.table is JOB_TABLE).cells
    assert lease_cells == next(machine for machine in MACHINES if machine.table is LEASE_TABLE).cells


def test_whatever_a_hub_says_of_its_attempt_is_heard() -> None:
    """Its words are in every row of a job that has a lease and of a lease that lives: a report is never illegal."""
    words = {trigger for trigger in Trigger if trigger.name.startswith("RUN_")}
    holding = {record.job.state for record in walked()[0] if record.lease is not None}
    assert all(words <= set(JOB_TABLE[state]) for state in holding)
    assert all(words <= set(LEASE_TABLE[state]) for state in LeaseState if state is not LeaseState.ENDED)
