"""The door: bad rows are refused with their index and change nothing; rows come from the domain's nouns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from federation.domain.hub import HUB_AMOUNT_MAX, HUBS_MAX, Agent, Hub, LinkState
from federation.domain.ids import AgentId, HubId, JobId, LeaseId
from federation.domain.job import (
    REPLICAS_MAX,
    RUNTIME_LIMIT_MS_MAX,
    Epoch,
    Input,
    Job,
    JobSpec,
    JobState,
    OnPartition,
    Owner,
    Priority,
    Reason,
)
from federation.domain.lease import ENDS_BY, PREEMPTED, STOP_GRACE_MS, Lease, LeaseState
from federation.domain.quantities import AMOUNT_MAX, DEVICE_MILLI, Amount
from federation.domain.usage import UsageInterval
from federation.errors import Code, FederationError
from federation.scheduling import Delta, PlannerState, Policy, checks, plan_round
from federation.scheduling.checks import LEASES_MAX, RowsRefusedError
from federation.scheduling.rounds import MEMO_BYTES_MAX, round_of
from federation.scheduling.rows import (
    ClaimRow,
    DeltaCollector,
    LinkRow,
    QueuedJob,
    UsageRow,
    agent_row,
    lease_row,
    queued_from,
    usage_row,
)
from tests.unit.scheduling.builders import agent, cpus, dataset, job, key_of, lease, node, where, world

ONE = cpus(1)
NAN: Any = float("nan")


def amount(value: Any) -> tuple[Amount, ...]:
    """A vector that no constructor would make."""
    return (Amount("cpu", "", value),)


def refused(state: PlannerState, delta: Delta) -> tuple[Code, str, str]:
    """Code, field and index of the refusal; the state must be as it was."""
    before = state.full()
    with pytest.raises(FederationError) as caught:
        plan_round(state, delta, Policy(), now_ms=0)
    assert state.full() == before
    return caught.value.code, caught.value.metadata["field"], caught.value.metadata["index"]


GOOD_JOB, GOOD_LEASE, GOOD_AGENT = job("good", ONE), lease("good", ONE, "a"), agent("b", ONE)


@pytest.mark.parametrize(
    "changed",
    [
        {"per_task": amount(NAN)},
        {"per_task": amount(-1)},
        {"preemptible": None},
        {"spread": "x"},
        {"inputs": ([],)},
        {"inputs": (("flights",),)},
        {"hubs_prefer": [["a"]]},
        {"per_task": amount(0)},
        {"per_task": amount(1.0)},
        {"per_task": amount(True)},
        {"per_task": amount(AMOUNT_MAX + 1)},
        {"per_task": ()},
        {"per_task": ONE + ONE},
        {"per_task": (Amount("gpu", "", 1), Amount("cpu", "", 1))},
        {"per_task": (Amount("gpu", "", AMOUNT_MAX), Amount("gpu", "x", AMOUNT_MAX))},
        {"replicas": 0},
        {"replicas": 1001},
        {"replicas": NAN},
        {"seq": -1},
        {"seq": NAN},
        {"priority": 0},
        {"priority": NAN},
        {"runtime_limit_ms": 0},
        {"runtime_limit_ms": NAN},
        {"home_hub": None},
        {"user": None},
        {"inputs": (("d", ""),) * 65},
        {"hubs_deny": ("h",) * 1001},
    ],
)
def test_a_bad_job_is_refused_with_its_index(changed: dict[str, Any]) -> None:
    """NaN, negative, absurd, of the wrong type, unsorted, doubled or over a limit."""
    bad = replace(job("bad", ONE), **changed)
    assert refused(PlannerState(), Delta(queued=(GOOD_JOB, bad)))[1:] == ("queued", "1")


@pytest.mark.parametrize(
    "changed", [{"nodes": ()}, {"nodes": ("",)}, {"expires_ms": NAN}, {"expires_ms": -1}, {"per_task": amount(NAN)},
                {"key": ("a", "")}, {"job_id": ""}],
)  # fmt: skip
def test_a_bad_lease_is_refused_with_its_index(changed: dict[str, Any]) -> None:
    """The same for what holds room."""
    bad = replace(lease("bad", ONE, "a"), **changed)
    assert refused(PlannerState(), Delta(leases_started=(GOOD_LEASE, bad)))[1:] == ("leases_started", "1")


@pytest.mark.parametrize(
    "changed",
    [{"nodes": (node("n", ONE), node("n", ONE))}, {"nodes": (node("n", amount(NAN)),)}, {"key": ("a",)},
     {"nodes": (node("", ONE),)}, {"engines": None}, {"datasets": (None,)}, {"takes_back": 1},
     {"fetches": 1}, {"datasets": (replace(dataset("d"), size_bytes=-1),)},
     {"datasets": (replace(dataset("d"), size_bytes=NAN),)},
     {"datasets": (replace(dataset("d"), size_bytes=AMOUNT_MAX + 1),)},
     {"datasets": (replace(dataset("d"), readers=(NAN,)),)}],
)  # fmt: skip
def test_a_bad_agent_is_refused_with_its_index(changed: dict[str, Any]) -> None:
    """The same for what offers room."""
    bad = replace(agent("a", ONE), **changed)
    assert refused(PlannerState(), Delta(agents=(GOOD_AGENT, bad)))[1:] == ("agents", "1")


@pytest.mark.parametrize(
    "changed",
    [{"bytes_per_s": 0}, {"bytes_per_s": -1}, {"bytes_per_s": NAN}, {"bytes_per_s": AMOUNT_MAX + 1}, {"from_hub": ""},
     {"round_trip_ms": -1}, {"round_trip_ms": NAN}, {"round_trip_ms": 3_600_001}, {"to_hub": None}],
)  # fmt: skip
def test_a_bad_link_is_refused_with_its_index(changed: dict[str, Any]) -> None:
    """The same for what was measured."""
    rows = (LinkRow("a", "b", 1), replace(LinkRow("b", "a", 1), **changed))
    assert refused(PlannerState(), Delta(links=rows))[1:] == ("links", "1")


@pytest.mark.parametrize("used", [(("cpu", -1),), (("cpu", NAN),), (("cpu", 1), ("cpu", 1)), (("", 1),)])
def test_bad_use_is_refused_with_its_index(used: Any) -> None:
    """The same for what was used."""
    rows = (UsageRow("a", "p", "u", (("cpu", 0),)), UsageRow("a", "p", "u", used))
    assert refused(PlannerState(), Delta(usage=rows))[1:] == ("usage", "1")


@pytest.mark.parametrize(
    ("delta", "field", "index"),
    [
        (Delta(queued=(GOOD_JOB, GOOD_JOB)), "queued", "1"),
        (Delta(agents=(GOOD_AGENT, GOOD_AGENT)), "agents", "1"),
        (Delta(leases_started=(GOOD_LEASE, GOOD_LEASE)), "leases_started", "1"),
        (Delta(dequeued=("x", "x")), "dequeued", "1"),
        (Delta(links=(LinkRow("a", "b", 1), LinkRow("a", "b", 2))), "links", "1"),
        (Delta(links=(LinkRow("a", "b", 1),), links_removed=(("a", "b"),)), "links", "0"),
        (Delta(queued=(GOOD_JOB,), dequeued=("good",)), "queued", "0"),
        (Delta(agents=(GOOD_AGENT,), agents_removed=(GOOD_AGENT.key,)), "agents", "0"),
        (Delta(leases_started=(GOOD_LEASE,), leases_ended=("good",)), "leases_started", "0"),
        (Delta(leases_started=(GOOD_LEASE, lease("two", ONE, "a", job_id="job-good"))), "leases_started", "1"),
        (Delta(leases_started=(GOOD_LEASE,), queued=(job("job-good", ONE),)), "queued", "0"),
        (Delta(leases_started=(lease("held", ONE, "a", job_id="another"),)), "leases_started", "0"),
        (Delta(queued=(job("job-held", ONE),)), "queued", "0"),
    ],
)
def test_rows_that_contradict_each_other_are_refused(delta: Delta, field: str, index: str) -> None:
    """Doubled, put and removed at once, two leases of one job, waiting beside a lease, a lease that changes its job."""
    state, _ = world(agent("a", ONE), leases=(lease("held", ONE, "a"),))
    assert refused(state, delta) == (Code.INVALID_ARGUMENT, field, index)


def test_a_new_lease_may_follow_an_old_one_in_one_delta() -> None:
    """The old one ends, the job's new attempt begins: no contradiction."""
    state, _ = world(agent("a", ONE), leases=(lease("held", ONE, "a"),))
    delta = Delta(leases_ended=("held",), leases_started=(lease("next", ONE, "a", job_id="job-held"),))
    state, _ = plan_round(state, delta, Policy(), now_ms=0)
    assert state.lease_of_job == {"job-held": "next"}


def test_a_hub_offers_so_much_and_no_more() -> None:
    """At the limit of one hub its next agent is refused, with its index; what others offer does not matter to it."""
    largest = amount(AMOUNT_MAX)
    full = agent("a", largest)
    state, _ = plan_round(PlannerState(), Delta(agents=(full, agent("c", largest))), Policy(), now_ms=0)
    more = (agent("b", largest), agent("a", ONE, name="more"))
    assert refused(state, Delta(agents=more)) == (Code.LIMIT_EXCEEDED, "agents", "1")
    state, _ = plan_round(state, Delta(agents=more[:1]), Policy(), now_ms=0)
    state, _ = plan_round(state, Delta(agents=more[1:], agents_removed=(full.key,)), Policy(), now_ms=0)
    assert set(state.agents) == {key_of("a", "more"), key_of("b"), key_of("c")}


def test_so_much_is_held_at_a_hub_and_no_more() -> None:
    """The same for leases, and for claims: whoever holds it, and whatever is held elsewhere."""
    largest = amount(AMOUNT_MAX)
    held = lease("huge", largest, "b")
    state, _ = world(agent("a", ONE), agent("b", ONE), leases=(held,))
    more = (lease("fits", largest, "a"), lease("small", ONE, "b"))
    assert refused(state, Delta(leases_started=more)) == (Code.LIMIT_EXCEEDED, "leases_started", "1")
    state, _ = plan_round(state, Delta(leases_started=more, leases_ended=("huge",)), Policy(), now_ms=0)
    jobs = tuple(job(name, largest) for name in ("x", "y", "z"))
    claims = [ClaimRow(name, key_of(hub), ("n0",), ("huge",)) for name, hub in (("x", "b"), ("y", "b"), ("z", "a"))]
    asked = Delta(queued=jobs, claims_made=(claims[2], *claims[:2]))
    assert refused(state, asked) == (Code.LIMIT_EXCEEDED, "claims_made", "2")
    state, _ = plan_round(state, Delta(queued=jobs, claims_made=tuple(claims[:1])), Policy(), now_ms=0)
    again = Delta(claims_made=(claims[0], claims[2]))  # the same claim anew is not a second one
    state, _ = plan_round(state, again, Policy(), now_ms=0)
    assert refused(state, Delta(claims_made=(claims[1],)))[0] is Code.LIMIT_EXCEEDED
    state, _ = plan_round(state, Delta(claims_made=(claims[1],), claims_ended=("x",)), Policy(), now_ms=0)
    assert set(state.claims) == {"y", "z"}


def test_there_are_so_many_hubs_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts of all hubs together are what fits: one hub more than that is refused, and one that goes makes room."""
    monkeypatch.setattr(checks, "HUBS_MAX", 2)
    state, _ = world(agent("a", ONE), agent("b", ONE))
    delta = Delta(agents=(agent("c", ONE), agent("a", ONE, name="second"), agent("d")))
    assert refused(state, delta) == (Code.LIMIT_EXCEEDED, "agents", "0")
    state, _ = plan_round(state, replace(delta, agents_removed=(key_of("b"),)), Policy(), now_ms=0)
    assert {key[0] for key in state.agents} == {"a", "c", "d"}


def test_the_parts_of_all_hubs_together_fit() -> None:
    """Whatever is within the limits, hub by hub, adds up to less than the largest number."""
    rounded_up = LEASES_MAX * REPLICAS_MAX * DEVICE_MILLI  # a task's GPUs count as whole devices
    assert HUBS_MAX * HUB_AMOUNT_MAX + rounded_up < 2**63
    assert AMOUNT_MAX * REPLICAS_MAX < 2**63


def test_all_bad_rows_of_a_field_are_named_at_once() -> None:
    """So that leaving them out costs one more look, however many they are."""
    largest = amount(AMOUNT_MAX)
    rows = (agent("a", largest, largest), agent("b", ONE), *(agent("c", largest, name=f"n{at}") for at in range(3)))
    with pytest.raises(RowsRefusedError) as caught:
        plan_round(PlannerState(), Delta(agents=rows, agents_removed=(key_of("z"),)), Policy(), now_ms=0)
    assert (caught.value.field, caught.value.indexes) == ("agents", (0, 3, 4))
    left = Delta(agents=rows, agents_removed=(key_of("z"),)).without("agents", caught.value.indexes)
    assert [row.key for row in left.agents] == [key_of("b"), key_of("c", "n0")]
    assert left.agents_removed == (key_of("z"), key_of("a"), key_of("c", "n1"), key_of("c", "n2"))
    jobs = tuple(job("x", of) for of in (amount(0), ONE, amount(NAN)))
    with pytest.raises(RowsRefusedError) as caught:
        plan_round(PlannerState(), Delta(queued=jobs), Policy(), now_ms=0)
    assert Delta(queued=jobs).without("queued", caught.value.indexes) == Delta(queued=jobs[1:2])


def test_the_queue_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit it is taken, one past it is refused; replacing a row is not one more."""
    monkeypatch.setattr(checks, "QUEUED_MAX", 2)
    two = (job("a", ONE), job("b", ONE))
    state, _ = plan_round(PlannerState(), Delta(queued=two), Policy(), now_ms=0)
    assert refused(state, Delta(queued=(job("c", ONE),)))[0] is Code.LIMIT_EXCEEDED
    state, _ = plan_round(state, Delta(queued=two), Policy(), now_ms=0)
    assert set(state.queue.ids()) == {"a", "b"}


def test_a_lease_takes_its_job_out_of_the_queue() -> None:
    """Nobody needs to say so twice."""
    state, plan = world(agent("a", cpus(4)), jobs=(job("job-x", ONE),))
    assert where(plan) == {"job-x": "a"}
    state, plan = plan_round(state, Delta(leases_started=(lease("x", ONE, "a"),)), Policy(), now_ms=0)
    assert (len(state.queue), plan.placements, plan.waiting) == (0, (), ())


def test_a_plan_takes_effect_only_when_its_leases_come_back() -> None:
    """A commit may refuse: the next round decides anew."""
    state, first = world(agent("a", ONE), jobs=(job("one", ONE),))
    _, second = plan_round(state, Delta(), Policy(), now_ms=0)
    assert first.placements == second.placements != ()


def test_removing_what_is_not_there_is_harmless() -> None:
    """Repeating a word changes nothing."""
    delta = Delta(agents_removed=(key_of("gone"),), dequeued=("gone",), leases_ended=("gone",))
    state, plan = plan_round(PlannerState(), delta, Policy(), now_ms=5)
    assert (state.full(), plan.at_ms) == (Delta(), 5)


def test_a_heartbeat_that_changes_nothing_costs_nothing() -> None:
    """Load and round trip times come with every sync; arrays are made anew only when what is offered changes."""
    state, _ = world(agent("a", ONE))
    arrays, rules = state.fleet, state.demands.feasibility
    busy = replace(agent("a", ONE, round_trip_ms=9), nodes=(replace(node("n0", ONE), load_cpu_milli=700),))
    state, _ = plan_round(state, Delta(agents=(busy,)), Policy(), now_ms=0)
    assert (state.fleet, state.demands.feasibility) == (arrays, rules)
    state, _ = plan_round(state, Delta(agents=(replace(busy, link=LinkState.LOST),)), Policy(), now_ms=0)
    assert state.fleet is arrays
    assert state.demands.feasibility is not rules
    state, _ = plan_round(state, Delta(agents=(agent("a", cpus(2)),)), Policy(), now_ms=0)
    assert state.fleet is not arrays


def test_a_lease_whose_end_moves_holds_no_more() -> None:
    """A renewal is not a second lease."""
    state, _ = world(agent("a", cpus(2)), leases=(lease("x", ONE, "a"),))
    delta = Delta(leases_started=(lease("x", ONE, "a", expires_ms=9000),), queued=(job("one", ONE),))
    state, plan = plan_round(state, delta, Policy(), now_ms=0)
    assert state.leases["x"].expires_ms == 9000
    assert where(plan) == {"one": "a"}


def test_the_collector_keeps_the_last_word() -> None:
    """Of several words on one id between two rounds only the last one goes on, and then it is empty."""
    collector = DeltaCollector()
    assert not collector
    for row in (GOOD_JOB, job("other", ONE)):
        collector.queued(row)
    collector.dequeued("good")
    collector.lease_ended("good")
    collector.lease_started(GOOD_LEASE)
    collector.agent_removed(GOOD_AGENT.key)
    collector.agent(GOOD_AGENT)
    collector.used(UsageRow("a", "p", "u", (("cpu", 1),)))
    assert collector
    assert collector.take() == Delta(
        agents=(GOOD_AGENT,),
        queued=(job("other", ONE),),
        dequeued=("good",),
        leases_started=(GOOD_LEASE,),
        usage=(UsageRow("a", "p", "u", (("cpu", 1),)),),
    )
    assert not collector
    assert collector.take() == Delta()


SPEC = JobSpec(
    name="delays", project="p", engine="spark", entrypoint="x.py", per_task=ONE, replicas=2,
    inputs=(Input("flights", "1", "f"),), priority=Priority.INTERACTIVE, runtime_limit_ms=5000, hubs_prefer=("a",),
    preemptible=True,
)  # fmt: skip
JOB = Job(JobId("j"), Owner("cairo", "p", "https://id", "ada"), SPEC, b"", queue_seq=7)
LEASE = Lease(
    LeaseId("l"), JOB.id, Epoch(1, 1), HubId("a"), AgentId("main"), ("n0", "n0"), ONE, LeaseState.GRANTED,
    OnPartition.KEEP, granted_ms=100, expires_ms=9000,
)  # fmt: skip


def test_a_queued_row_comes_from_a_job() -> None:
    """Everything that decides goes over."""
    assert queued_from(JOB, hubs_refused=("b",)) == QueuedJob(
        "j", 7, "cairo", "p", "ada", "spark", ONE, 2, 2, (("flights", "1"),), (), (), ("a",), ("b",), 5000, True
    )


def test_an_agent_row_comes_from_an_agent_and_its_hub() -> None:
    """The hub's state goes beside the agent's link."""
    row = agent("a", ONE, datasets=(dataset("flights"),), round_trip_ms=3)
    found = Agent(*row.key, "i", "s", "v", row.link, 0, row.nodes, row.engines, row.datasets, (), 3)
    assert agent_row(found, Hub(HubId("a"), "A")) == row


def test_a_lease_row_ends_when_its_run_does() -> None:
    """`keep` until its grant's end; a renewed lease until the job's runtime limit, from its start or its grant."""
    assert lease_row(LEASE, JOB).expires_ms == 9000
    renewed = replace(LEASE, on_partition=OnPartition.STOP)
    assert lease_row(renewed, JOB).expires_ms == 5100
    assert lease_row(renewed, replace(JOB, started_ms=300)).expires_ms == 5300


def test_a_lease_row_ends_when_its_job_was_told_to() -> None:
    """Within the grace of its hub or of a cancel, never later than it would have ended; of a silent one nobody can say."""
    told = Reason(PREEMPTED, "being ended", "a", ((ENDS_BY, "700"),))
    guest, lease = replace(JOB, state=JobState.RUNNING, reason=told), replace(LEASE, state=LeaseState.REVOKING)
    assert lease_row(lease, guest).expires_ms == 700
    assert lease_row(replace(lease, expires_ms=600), guest).expires_ms == 600
    silent = replace(guest, state=JobState.UNKNOWN)
    assert lease_row(lease, silent).expires_ms == 9000 + RUNTIME_LIMIT_MS_MAX
    assert lease_row(replace(lease, on_partition=OnPartition.STOP), silent).expires_ms == 5100
    cancelled = replace(JOB, state=JobState.CANCELLING, state_since_ms=-STOP_GRACE_MS + 800)
    assert lease_row(lease, cancelled).expires_ms == 800


def test_use_counts_all_tasks() -> None:
    """Two tasks of a cpu for 10 ms are 20,000 millicore-milliseconds."""
    interval = UsageInterval(LEASE.id, 0, 100, 110)
    assert usage_row(interval, lease_row(LEASE, JOB)) == UsageRow(
        "cairo", "p", "ada", (("cpu", 20_000),), end_ms=110, host_hub="a"
    )


def test_what_a_round_remembers_of_sorts_at_agents_has_a_limit() -> None:
    """Twice as many sorts as it has rows for, all of one user: no more memory than the limit, and all have their turn."""
    agents = tuple(agent(f"hub-{at:03d}", cpus(1)) for at in range(1_000))
    sorts = 2 * MEMO_BYTES_MAX // (24 * len(agents))
    state = PlannerState()
    state.apply(Delta(agents=agents, queued=tuple(job(f"job-{at}", cpus(1 + at / 1_000)) for at in range(sorts))))
    memo = round_of(state, Policy(), 0).work.memo
    assert 0 < memo.shut.nbytes + memo.hint_ms.nbytes + memo.hint_duration.nbytes <= MEMO_BYTES_MAX
    _, plan = plan_round(state, Delta(), Policy(), 0)
    assert (len(plan.placements), len(plan.waiting)) == (1, sorts - 1)
