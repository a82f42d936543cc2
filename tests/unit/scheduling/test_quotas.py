"""Quotas: who may hold how much at once, what that keeps from starting, and what people are told of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from federation.domain.plan import ReasonCode
from federation.domain.quantities import AMOUNT_MAX
from federation.errors import FederationError
from federation.scheduling import Delta, PlannerState, Policy, explain, plan_round
from federation.scheduling.plan import LADDER
from federation.scheduling.rows import ClaimRow, QueuedJob
from tests.unit.scheduling.builders import agent, cpus, job, key_of, lease, planned, where, world

ADA, AT_WORK, CAIRO = ("cairo", "default", "ada"), ("cairo", "default"), ("cairo",)
FOUR = {"cpu": 4_000}
BIG = agent("cairo", cpus(64, gpus=8))


def line(count: int, cpu: float = 2, **changes: Any) -> tuple[QueuedJob, ...]:
    """Jobs of ada's, one after the other."""
    return tuple(job(f"{changes.get('user', 'ada')}-{at}", cpus(cpu), seq=at, **changes) for at in range(count))


@pytest.mark.parametrize("level", [ADA, AT_WORK, CAIRO])
def test_nobody_holds_more_than_they_may(level: tuple[str, ...]) -> None:
    """A user, a project or a hub with four cpus: two jobs of two start, also in one round; others are not held up."""
    other = job("other", cpus(2), "lima", seq=9)
    plan = planned(BIG, jobs=(*line(4), other), quotas={level: FOUR})
    assert set(where(plan)) == {"ada-0", "ada-1", "other"}


def test_what_runs_counts() -> None:
    """Leases that began before, wherever they are, and whoever of the project has them."""
    held = lease("old", cpus(3), "tunis", user="bo")
    assert where(planned(BIG, agent("tunis", cpus(4)), jobs=line(1), leases=(held,), quotas={AT_WORK: FOUR})) == {}
    assert where(planned(BIG, agent("tunis", cpus(4)), jobs=line(1), leases=(held,), quotas={ADA: FOUR})) != {}


def test_the_next_that_fits_may_go() -> None:
    """Three of four cpus are held: the first job of two waits, the second of one starts."""
    jobs = (job("two", cpus(2), seq=1), job("one", cpus(1), seq=2))
    plan = planned(BIG, jobs=jobs, leases=(lease("old", cpus(3), "cairo"),), quotas={ADA: FOUR})
    assert where(plan) == {"one": "cairo"}


def test_who_waits_for_a_quota_is_promised_nothing() -> None:
    """Else their promise would keep room free that they may not have."""
    full = lease("old", cpus(64), "cairo", user="bo", expires_ms=60_000)
    state, plan = world(BIG, jobs=line(2, 4), leases=(full,), quotas={ADA: {"cpu": 3_999}})
    assert (plan.promised is not None and plan.promised.slots.tolist(), where(plan)) == ([], {})
    _, plan = world(BIG, jobs=line(2, 4), leases=(full,), quotas={ADA: FOUR})
    assert plan.promised is not None
    assert len(plan.promised.slots) == 2  # each would fit by itself, and nothing is held yet
    assert state.queue.promises() == {}


def test_only_what_a_job_needs_matters_to_it() -> None:
    """Above a quota of GPUs, one may still compute without."""
    held = lease("old", cpus(1, gpus=4), "cairo")
    jobs = (job("plain", cpus(1)), job("gpu", cpus(1, gpus=0.5), seq=1))
    plan = planned(BIG, jobs=jobs, leases=(held,), quotas={ADA: {"gpu": 2_000}})
    assert where(plan) == {"plain": "cairo"}
    assert where(planned(BIG, jobs=jobs, quotas={ADA: {"gpu": 500}})).keys() == {"plain", "gpu"}
    assert where(planned(BIG, jobs=jobs, quotas={ADA: {"gpu": 499}})).keys() == {"plain"}


def test_whoever_is_not_named() -> None:
    """A user's own quota, else that of a project's others, else everybody's; it is each one's, not theirs together."""
    quotas = {ADA: FOUR, ("cairo", "default", "*"): {"cpu": 2_000}, ("*", "*", "*"): {"cpu": 0}}
    jobs = [*line(3), *line(2, user="bo"), *line(2, user="cy"), *line(1, user="di", home="lima")]
    assert sorted(where(planned(BIG, jobs=tuple(jobs), quotas=quotas))) == ["ada-0", "ada-1", "bo-0", "cy-0"]


def test_no_machine_is_taken_back_for_who_may_not_use_it() -> None:
    """Neither a claim nor a preemption gets past a quota; the next owner's job gets the machine."""
    visitor = lease("visitor", cpus(4), "cairo", home_hub="lima", preemptible=True, started_ms=1)
    jobs = (job("ada", cpus(4), seq=1), job("bo", cpus(4), seq=2, user="bo", spread=True))

    def made(quotas: dict[tuple[str, ...], dict[str, int]]) -> list[str]:
        plan = planned(agent("cairo", cpus(4)), jobs=jobs, leases=(visitor,), quotas=quotas)
        return [entry.job_id for entry in plan.preemptions]

    assert made({}) == ["ada"]
    assert made({ADA: {"cpu": 3_999}}) == ["bo"]
    assert made({CAIRO: {"cpu": 3_999}}) == []


def test_claims_made_in_one_round_count_together() -> None:
    """Two agents full of guests, two owners' jobs that would each take one back, a quota for one of them."""
    agents = tuple(agent("cairo", cpus(4), name=name) for name in "ab")
    held = tuple(
        lease(f"of-{name}", cpus(4), "cairo", key=key_of("cairo", name), home_hub="lima", preemptible=True)
        for name in "ab"
    )
    jobs = (job("one", cpus(4), seq=1), job("two", cpus(3), seq=2))
    made = [len(planned(*agents, jobs=jobs, leases=held, quotas=quotas).preemptions) for quotas in ({}, {CAIRO: FOUR})]
    assert made == [2, 1]


def test_a_claim_counts_until_it_is_a_lease() -> None:
    """While its victim ends, its owner starts nothing beside it; and when the quota is lower by then, it waits."""
    visitor = lease("visitor", cpus(4), "cairo", home_hub="lima")
    asked = (job("claimer", cpus(4)), job("beside", cpus(1), seq=1))
    claim = ClaimRow("claimer", key_of("cairo"), ("n0",), ("visitor",))
    delta = Delta(
        agents=(agent("cairo", cpus(4), cpus(4)),), queued=asked, leases_started=(visitor,), claims_made=(claim,)
    )
    state, plan = plan_round(PlannerState(), delta, Policy(quotas={ADA: FOUR}), 0)
    assert where(plan) == {}
    state, plan = plan_round(state, Delta(leases_ended=("visitor",)), Policy(quotas={ADA: {"cpu": 3_000}}), 1)
    assert where(plan) == {}
    state, plan = plan_round(state, Delta(), Policy(quotas={ADA: FOUR}), 2)
    assert where(plan) == {"claimer": "cairo"}
    assert explain(state, Policy(quotas={ADA: FOUR}), asked[0], 2).reasons[0].code == ReasonCode.WOULD_RUN


def told(state: PlannerState, policy: Policy, wanted: QueuedJob) -> tuple[str, str, dict[str, str]]:
    """(code, sentence, metadata) of what holds for the whole federation."""
    found = explain(state, policy, wanted, 0)
    assert found.earliest_start_ms == 0
    (first, *rest) = found.reasons
    assert {reason.code for reason in rest} == {ReasonCode.QUOTA}
    return first.code, first.message, dict(first.metadata)


def test_people_are_told_which_quota_and_how_much() -> None:
    """Whose it is, what is held and asked for, who can change it; and where waiting is in vain."""
    policy = Policy(quotas={AT_WORK: {"cpu": 4_000, "gpu": 1_000}})
    asked = (job("next", cpus(2), seq=1), job("huge", cpus(1, gpus=2), seq=2))
    delta = Delta(agents=(BIG,), queued=asked, leases_started=(lease("old", cpus(3), "cairo", user="bo"),))
    state, plan = plan_round(PlannerState(), delta, policy, 0)
    assert [(entry.jobs, entry.over_quota, entry.overall) for entry in plan.waiting] == [(1, 1, ReasonCode.QUOTA)] * 2
    code, sentence, facts = told(state, policy, asked[0])
    assert (code, facts) == (
        ReasonCode.QUOTA,
        {"level": "cairo/default", "resource": "cpu", "quota": "4000", "held": "3000", "needed": "2000"},
    )
    assert sentence == (
        "it asks for 2 cpus; project default of cairo may hold 4 cpus at once and holds 3 cpus: it starts when enough of "
        "that ends, or ask the federation's operators, whose policy file has the quotas"
    )
    code, sentence, facts = told(state, policy, asked[1])
    assert (code, facts["needed"], facts["quota"]) == (ReasonCode.QUOTA_NEVER_FITS, "2000", "1000")
    assert sentence == (
        "it never starts under this quota: it asks for 2 gpus, and project default of cairo may not hold more than 1 gpu at "
        "once, even when nothing of theirs runs. Ask for less, or ask the federation's operators, whose policy file has the "
        "quotas"
    )
    unknown = replace(asked[0], job_id="try", home_hub="lima", per_task=cpus(2))
    assert explain(state, policy, unknown, 0).reasons[0].code == ReasonCode.WOULD_RUN


def test_a_quota_that_never_admits_is_named_before_one_that_is_full() -> None:
    """The user's quota is taken for now, the hub's is too small for ever: waiting for the first would be in vain."""
    policy = Policy(quotas={ADA: {"cpu": 4_000}, CAIRO: {"gpu": 1_000}})
    asked = job("huge", cpus(2, gpus=2), seq=1)
    delta = Delta(agents=(BIG,), queued=(asked,), leases_started=(lease("old", cpus(3), "cairo", user=ADA[2]),))
    state, _ = plan_round(PlannerState(), delta, policy, 0)
    code, sentence, facts = told(state, policy, asked)
    assert (code, facts["level"], facts["resource"]) == (ReasonCode.QUOTA_NEVER_FITS, "cairo", "gpu")
    assert "hub cairo may not hold more than 1 gpu at once" in sentence
    idle, _ = plan_round(PlannerState(), Delta(agents=(BIG,), queued=(asked,)), policy, 0)
    assert told(idle, policy, asked)[0] == ReasonCode.QUOTA_NEVER_FITS
    enough = Policy(quotas={ADA: {"cpu": 4_000}, CAIRO: {"gpu": 2_000}})
    state, _ = plan_round(PlannerState(), delta, enough, 0)
    assert told(state, enough, asked)[0] == ReasonCode.QUOTA


def test_two_owners_of_one_sort_are_told_apart() -> None:
    """One waits for a quota, the other for room: the plan counts, and each is told their own."""
    policy = Policy(quotas={ADA: {"cpu": 1_000}})
    mine, other = job("mine", cpus(2), seq=1), job("other", cpus(2), seq=2, user="bo")
    full = lease("old", cpus(63), "cairo", user="cy")
    state, plan = plan_round(
        PlannerState(), Delta(agents=(BIG,), queued=(mine, other), leases_started=(full,)), policy, 0
    )
    (entry,) = plan.waiting
    assert (entry.jobs, entry.over_quota, LADDER[entry.steps[0]]) == (2, 1, ReasonCode.CAPACITY)
    codes = [[reason.code for reason in explain(state, policy, one, 0).reasons] for one in (mine, other)]
    assert codes == [[ReasonCode.QUOTA_NEVER_FITS, ReasonCode.QUOTA], [ReasonCode.CAPACITY]]


def test_a_hub_that_no_job_of_a_sort_may_use_as_a_guest_says_so_in_the_plan() -> None:
    """Where any of them may, because it is short, preemptible or at home, the sort waits for room."""
    strict = agent("cairo", cpus(1), takes_back=True, reclaim_ms=60_000)
    guests = {
        "long": job("long", cpus(1), "lima", runtime_limit_ms=60_001),
        "short": job("short", cpus(1), "lima", runtime_limit_ms=60_000),
        "soft": job("soft", cpus(1), "lima", runtime_limit_ms=60_001, preemptible=True),
        "own": job("own", cpus(1), "cairo", runtime_limit_ms=60_001),
    }

    def code(*names: str) -> str:
        jobs, full = tuple(guests[name] for name in names), lease("old", cpus(1), "cairo")
        (entry,) = planned(strict, jobs=jobs, leases=(full,)).waiting
        return LADDER[entry.steps[0]].value

    assert [code("long"), code("short"), code("soft"), code("own")] == ["TAKES_BACK", *["CAPACITY"] * 3]
    assert [code("long", name) for name in ("short", "soft", "own")] == ["CAPACITY"] * 3


@pytest.mark.parametrize(
    ("level", "quota"),
    [
        ((), FOUR), ("cairo", FOUR), (("a", "b", "c", "d"), FOUR), (("",), FOUR), (("*", "p"), FOUR), (("a", "*", "u"), FOUR),
        (ADA, {"cpus": 1}), (ADA, {"cpu": -1}), (ADA, {"cpu": 1.5}), (ADA, {"cpu": True}), (ADA, {"cpu": AMOUNT_MAX + 1}),
    ],
)  # fmt: skip
def test_a_quota_that_means_nothing_is_refused(level: Any, quota: Any) -> None:
    """Of nobody, of four names, of unknown things, negative, broken or absurd."""
    with pytest.raises(FederationError, match="quotas"):
        Policy(quotas={level: quota})
    Policy(quotas={("*",): {}, ("a", "*"): {"disk": AMOUNT_MAX}, ("*", "*"): {"cpu": 0}})
