"""Starts that are promised, what may pass them, and how owners get their machines back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from federation.domain.plan import ReasonCode
from federation.errors import FederationError
from federation.scheduling import Delta, Plan, PlannerState, Policy, explain, plan_round
from federation.scheduling.plan import Placement, Preemption
from federation.scheduling.policy import RESERVATIONS_MAX, TASKS_MAX, Order
from federation.scheduling.rows import AgentRow, ClaimRow, LeaseRow, QueuedJob, UsageRow
from tests.unit.scheduling.builders import agent, cpus, job, key_of, lease, planned, where, world

MINUTE_MS = 60_000
HELD = lease("old", cpus(2), "cairo", "n0", expires_ms=10 * MINUTE_MS)
WIDE = job("wide", cpus(4), seq=1, runtime_limit_ms=10 * MINUTE_MS)


def small(name: str, minutes: int, count: float = 1, seq: int = 5, **changes: Any) -> QueuedJob:
    """A job of `count` cpus that may run so long."""
    return job(name, cpus(count), seq=seq, runtime_limit_ms=minutes * MINUTE_MS, **changes)


def promised(state: PlannerState, *jobs: QueuedJob) -> dict[str, int]:
    """The start that each job hears of, in minutes."""
    return {one.job_id: explain(state, Policy(), one, 0).earliest_start_ms // MINUTE_MS for one in jobs}


def test_a_job_passes_one_that_waits_only_where_it_delays_nothing() -> None:
    """Four cpus, two held for ten minutes, all four promised after that: what ends by then may start now."""
    held = (HELD,)
    assert where(planned(agent("cairo", cpus(4)), jobs=(WIDE, small("in-time", 10)), leases=held)) == {
        "in-time": "cairo"
    }
    plan = planned(agent("cairo", cpus(4)), jobs=(WIDE, small("too-long", 11)), leases=held)
    assert plan.placements == ()
    assert {entry.demand.per_task[0].amount: entry.overall for entry in plan.waiting} == {
        4000: ReasonCode.CAPACITY,
        1000: ReasonCode.RESERVATION_AHEAD,
    }


def test_what_runs_beside_a_promise_may_run_as_long_as_it_likes() -> None:
    """Three cpus are promised, the fourth is nobody's."""
    wide = job("wide", cpus(3), seq=1, runtime_limit_ms=10 * MINUTE_MS)
    plan = planned(agent("cairo", cpus(4)), jobs=(wide, small("beside", 600)), leases=(HELD,))
    assert where(plan) == {"beside": "cairo"}


def test_promises_follow_each_other() -> None:
    """Three jobs of ten minutes that each need everything start at 10, 20 and 30 minutes."""
    jobs = tuple(job(name, cpus(4), seq=at, runtime_limit_ms=10 * MINUTE_MS) for at, name in enumerate("abc"))
    state, _ = world(agent("cairo", cpus(4)), jobs=jobs, leases=(HELD,))
    assert promised(state, *jobs) == {"a": 10, "b": 20, "c": 30}


def test_with_one_promise_later_jobs_may_delay_the_second() -> None:
    """EASY: only the first that waits is protected."""
    second = job("second", cpus(4), seq=2, runtime_limit_ms=10 * MINUTE_MS)
    filler = small("filler", 25, seq=3)
    first = job("first", cpus(3), seq=1, runtime_limit_ms=10 * MINUTE_MS)
    everybody = (first, second, filler)
    assert where(planned(agent("cairo", cpus(4)), jobs=everybody, leases=(HELD,))) == {}
    assert where(planned(agent("cairo", cpus(4)), jobs=everybody, leases=(HELD,), reservations=1)) == {
        "filler": "cairo"
    }


def test_a_promise_that_has_come_is_kept() -> None:
    """Ada, who used less of late, has fifty small jobs that go first; from the promised start on the site drains for bo."""
    ada = tuple(small(f"ada-{at}", 1, seq=at + 5, home="lima", user="ada") for at in range(50))
    gang = job("gang", cpus(4), "lima", user="bo", seq=1, runtime_limit_ms=10 * MINUTE_MS)
    use = UsageRow("lima", "default", "bo", (("cpu", 10**12),))
    policy = Policy(promise_after_ms=0)
    held = replace(HELD, expires_ms=10 * MINUTE_MS)
    delta = Delta(agents=(agent("cairo", cpus(4)),), queued=(gang,), leases_started=(held,), usage=(use,))
    state, plan = plan_round(PlannerState(), delta, policy, 0)
    assert plan.placements == ()
    late_ms = 9 * MINUTE_MS + 30_000
    state, plan = plan_round(state, Delta(queued=ada), policy, late_ms)
    assert set(where(plan)) == {"ada-0", "ada-1"}
    running = tuple(
        lease(entry.job_id, cpus(1), "cairo", job_id=entry.job_id, home_hub="lima", expires_ms=late_ms + MINUTE_MS)
        for entry in plan.placements
    )
    state, plan = plan_round(state, Delta(leases_started=running, leases_ended=("old",)), policy, 10 * MINUTE_MS)
    assert plan.placements == ()
    ended = Delta(leases_ended=tuple(row.lease_id for row in running))
    state, plan = plan_round(state, ended, policy, late_ms + MINUTE_MS)
    assert where(plan) == {"gang": "cairo"}


def test_who_had_no_turn_because_a_round_may_start_no_more_tasks_hears_so() -> None:
    """There is room for one more gang: it is its turn in the next round, and no promise is in its way."""
    gangs = tuple(small(f"gang-{at:03d}", 1, 0.001, seq=at, replicas=1_000) for at in range(TASKS_MAX // 1_000 + 1))
    plan = planned(agent("cairo", cpus(200)), jobs=gangs)
    assert len(plan.placements) == TASKS_MAX // 1_000
    assert [entry.overall for entry in plan.waiting] == [ReasonCode.FAIRNESS_TURN]


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({}, True),
        ({"hubs_refused": ("lagos",), "expected_ms": 5, "hubs_prefer": ("cairo",)}, True),
        ({"per_task": cpus(3)}, False),
        ({"per_task": cpus(2), "replicas": 2}, False),
        ({"runtime_limit_ms": 9 * MINUTE_MS}, False),
    ],
)
def test_who_is_put_again_keeps_its_promise_while_it_asks_for_the_same(change: dict[str, Any], kept: bool) -> None:
    """Another hub refused it, its runtime is expected anew: the first start holds; not for other tasks or another limit."""
    state, _ = world(agent("cairo", cpus(4)), jobs=(WIDE,), leases=(HELD,))
    state.apply(Delta(queued=(replace(WIDE, **change),)), Policy())
    assert state.queue.promises() == ({"wide": 10 * MINUTE_MS} if kept else {})


def test_who_left_and_comes_back_is_promised_anew() -> None:
    """It was taken out, so nobody kept room for it."""
    state, _ = world(agent("cairo", cpus(4)), jobs=(WIDE,), leases=(HELD,))
    state.apply(Delta(dequeued=("wide",)), Policy())
    state.apply(Delta(queued=(WIDE,)), Policy())
    assert state.queue.promises() == {}


def test_a_promise_is_made_to_who_has_waited() -> None:
    """Four hours with `age` unless a policy says otherwise: until then what fits passes."""
    state = PlannerState()
    held = replace(HELD, expires_ms=10**9)
    delta = Delta(agents=(agent("cairo", cpus(4)),), queued=(WIDE, small("long", 20_000)), leases_started=(held,))
    state, plan = plan_round(state, delta, Policy(), 4 * 60 * MINUTE_MS - 1)
    assert where(plan) == {"long": "cairo"}
    state, plan = plan_round(state, Delta(), Policy(), 4 * 60 * MINUTE_MS)
    assert where(plan) == {}


def test_without_promises_anything_passes() -> None:
    """A policy may choose so."""
    plan = planned(agent("cairo", cpus(4)), jobs=(WIDE, small("long", 600)), leases=(HELD,), reservations=0)
    assert where(plan) == {"long": "cairo"}


def test_an_overdue_run_is_expected_to_end_at_once() -> None:
    """Its room is not free, but the promise does not wait for ever."""
    held = lease("old", cpus(2), "cairo", "n0", expires_ms=0)
    state, plan = world(agent("cairo", cpus(4)), jobs=(WIDE,), leases=(held,))
    assert plan.placements == ()
    assert explain(state, Policy(), WIDE, 0).earliest_start_ms == 1


def test_short_first_lets_the_small_pass_the_large_of_one_user() -> None:
    """The same two jobs in both orders."""
    large, tiny = small("large", 600, 4, seq=1), small("tiny", 1, 4, seq=2)
    assert where(planned(agent("cairo", cpus(4)), jobs=(large, tiny))) == {"large": "cairo"}
    assert where(planned(agent("cairo", cpus(4)), jobs=(large, tiny), order=Order.SHORT_FIRST)) == {"tiny": "cairo"}


def test_short_first_keeps_headroom_behind_a_promise() -> None:
    """Sixteen cpus, eight held: a long job that passes leaves two free, a short one may take all."""
    wide = job("wide", cpus(16), seq=1, submitted_ms=0, runtime_limit_ms=MINUTE_MS)
    held = lease("old", cpus(8), "cairo", "n0", expires_ms=60 * MINUTE_MS)

    def passes(name: str, minutes: int, count: float) -> dict[str, str]:
        late = job(name, cpus(count), seq=2, submitted_ms=10**9, runtime_limit_ms=minutes * MINUTE_MS)
        plan = planned(agent("cairo", cpus(16)), jobs=(wide, late), leases=(held,), order=Order.SHORT_FIRST)
        return where(plan)

    assert passes("fits", 30, 6) == {"fits": "cairo"}
    assert passes("greedy", 30, 7) == {}
    assert passes("short", 5, 8) == {"short": "cairo"}


def test_a_whole_machine_is_drained_for_who_needs_one() -> None:
    """Two machines half full for ever: one of them takes nothing new, although there is room enough in sum."""
    halves = tuple(
        lease(name, cpus(2), "cairo", node, expires_ms=99 * MINUTE_MS) for name, node in (("x", "n0"), ("y", "n1"))
    )
    more = (agent("cairo", cpus(4), cpus(4), cpus(1)), (WIDE, *(small(f"s{at}", 1, 1, seq=9) for at in range(5))))
    plan = planned(more[0], jobs=more[1], leases=halves)
    assert {name for entry in plan.placements for name in entry.nodes} <= {"n1", "n2"}


def guest(name: str, cpu: float, at: str = "n0", **changes: Any) -> LeaseRow:
    """A lease of accra's at cairo that may be told to end, running since minute 1."""
    return lease(
        name, cpus(cpu), "cairo", at, **({"home_hub": "accra", "preemptible": True, "started_ms": MINUTE_MS} | changes)
    )


def taken_back(
    *guests: LeaseRow, at: AgentRow | None = None, owner: QueuedJob = WIDE, now_ms: int = 5 * MINUTE_MS
) -> tuple[Preemption, ...]:
    """What a round ends for the owner's job."""
    delta = Delta(agents=(at or agent("cairo", cpus(4), cpus(4)),), queued=(owner,), leases_started=guests)
    return plan_round(PlannerState(), delta, Policy(), now_ms)[1].preemptions


def test_an_owner_gets_machines_back_from_who_loses_least() -> None:
    """The later start loses less work; the price is its time times its part of the hub."""
    (claim,) = taken_back(guest("x", 4), guest("y", 4, "n1", started_ms=4 * MINUTE_MS))
    assert (claim.victims, claim.nodes) == (("y",), ("n1",))
    assert claim.lost_ms == MINUTE_MS // 2


def test_no_more_guests_end_than_are_needed() -> None:
    """The cheap one alone is not enough, the dear one is: the cheap one stays."""
    (claim,) = taken_back(guest("cheap", 1, started_ms=4 * MINUTE_MS), guest("dear", 3), guest("other", 4, "n1"))
    assert set(claim.victims) == {"cheap", "dear"}
    (claim,) = taken_back(
        guest("cheap", 1, "n1", started_ms=4 * MINUTE_MS),
        guest("z", 3, "n1"),
        guest("dear", 4, started_ms=3 * MINUTE_MS),
    )
    assert claim.victims == ("dear",)


def two_agents(
    *held: LeaseRow, jobs: tuple[QueuedJob, ...] = (WIDE,), first: float = 4
) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """(job, agent, who ends) of a round in cairo, which has an agent "a" of `first` cpus and an agent "b" of four."""
    agents = (agent("cairo", cpus(first), name="a"), agent("cairo", cpus(4), name="b"))
    delta = Delta(agents=agents, queued=jobs, leases_started=held)
    made = plan_round(PlannerState(), delta, Policy(), 5 * MINUTE_MS)[1].preemptions
    return tuple((claim.job_id, claim.key[1], claim.victims) for claim in made)


def of_agent(name: str, at: str, cpu: float, **changes: Any) -> LeaseRow:
    """A guest at one of cairo's two agents."""
    return guest(name, cpu, key=key_of("cairo", at), **changes)


def test_machines_are_taken_back_wherever_in_the_hub_the_guests_are() -> None:
    """The first agent is full of the hub's own jobs, the second of guests: one of these ends."""
    own = of_agent("own", "a", 4, home_hub="cairo", preemptible=False)
    assert two_agents(own, of_agent("visitor", "b", 4)) == (("wide", "b", ("visitor",)),)


def test_the_agent_where_least_work_is_lost_gives_the_room() -> None:
    """A minute's work goes rather than four; of equals the first agent's; where none need end, none does."""
    late = {"started_ms": 4 * MINUTE_MS}
    assert two_agents(of_agent("x", "a", 4), of_agent("y", "b", 4, **late)) == (("wide", "b", ("y",)),)
    assert two_agents(of_agent("x", "a", 4, **late), of_agent("y", "b", 4)) == (("wide", "a", ("x",)),)
    assert two_agents(of_agent("x", "a", 4), of_agent("y", "b", 4)) == (("wide", "a", ("x",)),)
    assert two_agents(of_agent("x", "a", 4)) == ()


def test_only_an_agent_where_the_job_may_run_gives_room() -> None:
    """The cheaper agent is too small for it, even when it is idle."""
    guests = (of_agent("x", "a", 2, started_ms=4 * MINUTE_MS), of_agent("y", "b", 4))
    assert two_agents(*guests, first=2) == (("wide", "b", ("y",)),)


def test_who_cannot_be_helped_does_not_keep_others_from_it() -> None:
    """Of the first job's kind no agent could have enough; the next gets its machine back, and another the other one."""
    line = (WIDE, small("three", 5, 3, seq=2, user="bo"), small("two", 5, 2, seq=3, user="cy"))
    own = {"home_hub": "cairo", "user": "zed"}
    at_a = (of_agent("x", "a", 2), of_agent("own", "a", 2, **own))
    assert two_agents(*at_a, of_agent("y", "b", 4), jobs=line) == (("wide", "b", ("y",)), ("two", "a", ("x",)))
    at_b = (of_agent("y", "b", 3), of_agent("else", "b", 1, **own))
    assert two_agents(*at_a, *at_b, jobs=line) == (("three", "b", ("y",)), ("two", "a", ("x",)))


@pytest.mark.parametrize(
    "changes",
    [{"preemptible": False}, {"home_hub": "cairo"}],
    ids=["not preemptible", "the hub's own"],
)
def test_nobody_else_is_told_to_end(changes: dict[str, Any]) -> None:
    """Only guests, and only those that said that they may."""
    assert taken_back(guest("x", 4, **changes), guest("y", 4, "n1", **changes)) == ()


def test_a_guest_takes_nothing_back() -> None:
    """First right is the owner's."""
    assert taken_back(guest("x", 4), guest("y", 4, "n1"), owner=job("visitor", cpus(4), "dakar")) == ()


def test_a_claim_keeps_its_room_until_its_victims_have_ended() -> None:
    """Nobody else starts there, nobody else ends for it, and when the last victim is gone its job starts there."""
    running, other = guest("x", 4), job("other", cpus(4), "dakar", seq=0)
    state, plan = world(agent("cairo", cpus(4)), jobs=(WIDE, other), leases=(running,))
    (made,) = plan.preemptions
    claim = ClaimRow(made.job_id, made.key, made.nodes, made.victims)
    state, plan = plan_round(state, Delta(claims_made=(claim,)), Policy(), 0)
    assert (plan.placements, plan.preemptions) == ((), ())
    state, plan = plan_round(state, Delta(leases_ended=("x",)), Policy(), 0)
    assert plan.placements == (Placement("wide", key_of("cairo"), ("n0",)),)
    state, plan = plan_round(state, Delta(claims_ended=("wide",), dequeued=("wide",)), Policy(), 0)
    assert where(plan) == {"other": "cairo"}


def told(at: AgentRow, guests_job: QueuedJob) -> str:
    """Where it runs, or why not."""
    state, plan = world(at, jobs=(guests_job,))
    return where(plan).get(guests_job.job_id) or str(explain(state, Policy(), guests_job, 0).reasons[-1].code)


def test_a_hub_that_takes_back_has_no_guests_that_it_could_not_end() -> None:
    """A minute's notice: a guest of ten minutes must be preemptible, its own users need not."""
    strict = agent("cairo", cpus(4), takes_back=True, reclaim_ms=MINUTE_MS)
    assert told(strict, small("long", 10, home="accra")) == ReasonCode.TAKES_BACK
    assert told(strict, small("long", 10, home="accra", preemptible=True)) == "cairo"
    assert told(strict, small("short", 1, home="accra")) == "cairo"
    assert told(strict, small("own", 10)) == "cairo"


def test_owners_come_before_guests_at_home() -> None:
    """A guest of a higher class and a smaller share waits for the hub's own batch job."""
    own = job("own", cpus(4), "cairo", seq=9, priority=4)
    visitor = job("visitor", cpus(4), "accra", seq=1, priority=1)
    assert where(planned(agent("cairo", cpus(4)), jobs=(own, visitor))) == {"own": "cairo"}


@pytest.mark.parametrize("count", [-1, RESERVATIONS_MAX + 1])
def test_the_number_of_promises_has_a_limit(count: int) -> None:
    """One past the largest, and one below the smallest, are refused."""
    with pytest.raises(FederationError, match="reservations"):
        Policy(reservations=count)


def test_a_plan_names_what_it_promised() -> None:
    """The promises of a plan are columns beside it, and do not make two equal plans differ."""
    first: Plan = planned(agent("cairo", cpus(4)), jobs=(WIDE,), leases=(HELD,))
    second: Plan = planned(agent("cairo", cpus(4)), jobs=(WIDE,), leases=(HELD,))
    assert first.promised is not None
    assert (first, first.promised.starts_ms.tolist()) == (second, [10 * MINUTE_MS])
