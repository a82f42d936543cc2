"""Attacks on the planner that it withstands: absurd amounts, flapping agents, streams past a gang, churn without end."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from federation.domain.job import REPLICAS_MAX
from federation.domain.quantities import AMOUNT_MAX, resources
from federation.scheduling import Delta, PlannerState, Policy, plan_round
from federation.scheduling.checks import DEVICES_PER_NODE_MAX, RowsRefusedError
from federation.scheduling.plan import Plan
from federation.scheduling.policy import DEVICES_MAX
from federation.scheduling.reference import plan_slowly
from federation.scheduling.rows import ClaimRow, LeaseRow, UsageRow
from tests.unit.scheduling.builders import agent, cpus, job, key_of, lease
from tests.unit.scheduling.worlds import World

seeds = st.integers(0, 2**32 - 1)
DAY_MS = 86_400_000


def leases_of(state: PlannerState, plan: Plan, now_ms: int) -> tuple[LeaseRow, ...]:
    """The leases that a commit makes of all that a plan starts."""
    found = []
    for entry in plan.placements:
        wanted = state.job(entry.job_id)
        times = (now_ms + wanted.runtime_limit_ms, now_ms)
        found.append(
            LeaseRow(
                f"of-{entry.job_id}", entry.job_id, entry.key, entry.nodes, wanted.per_task, *wanted.owner, *times,
                entry.devices, wanted.preemptible,
            )
        )  # fmt: skip
    return tuple(found)


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_claims_that_the_plan_itself_makes_are_planned_as_the_twin_does(seed: int) -> None:
    """Every preemption becomes a claim, every start a lease, victims end one by one, and an agent flaps meanwhile."""
    world, state = World(seed), PlannerState()
    policy = world.policy()
    state, plan = plan_round(state, world.everything(), policy, 1)
    for now_ms in range(2, 8):
        claims = tuple(
            ClaimRow(entry.job_id, entry.key, entry.nodes, entry.victims, entry.devices) for entry in plan.preemptions
        )
        victims = sorted({victim for claim in state.claims.values() for victim in claim.victims} & state.leases.keys())
        keys = sorted(state.agents)
        flapping = (world.agent(world.dice.choice(keys)),) if keys and world.chance(0.3) else ()
        delta = Delta(
            agents=flapping,
            leases_started=leases_of(state, plan, now_ms),
            claims_made=claims,
            leases_ended=tuple(victim for victim in victims if world.chance(0.6)),
        )
        state.apply(delta, policy)
        promised = state.queue.promises()
        state, plan = plan_round(state, Delta(), policy, now_ms)
        assert plan_slowly(state.full(), policy, now_ms, state.lore.tables, promised) == plan


def test_leases_of_far_more_than_is_there_give_no_room() -> None:
    """500 tasks, all together as large as can be, on a machine that offers next to nothing: it is full, and its neighbour is not."""
    held = lease("huge", resources(("memory", "", AMOUNT_MAX // 500)), "a", *["n0"] * 500, expires_ms=2**53)
    wanted = tuple(job(name, resources(("memory", "", 1)), seq=at) for at, name in enumerate(("one", "two")))
    small = resources(("memory", "", 1))
    delta = Delta(agents=(agent("a", small), agent("b", small)), queued=wanted, leases_started=(held,))
    _, plan = plan_round(PlannerState(), delta, Policy(), now_ms=0)
    assert [(entry.job_id, entry.key[0]) for entry in plan.placements] == [("one", "b")]


def test_the_last_millisecond_that_a_time_may_be() -> None:
    """A thousand jobs that may run for 285,000 years each, promised one after the other, do not overflow."""
    line = tuple(job(f"job-{at:04d}", cpus(1), seq=at, runtime_limit_ms=2**53) for at in range(1_001))
    delta = Delta(agents=(agent("a", cpus(1)),), queued=line)
    _, plan = plan_round(PlannerState(), delta, Policy(), now_ms=2**53 - 1)
    assert plan.promised is not None
    starts = plan.promised.starts_ms.tolist()
    assert starts == sorted(set(starts))
    assert starts[0] >= 2**53


def test_an_agent_without_machines_and_one_that_vanishes_take_nothing_along() -> None:
    """Leases and claims at agents that are not there hold nothing; when these come back, they hold their room again."""
    there, bare = agent("a", cpus(4)), agent("b")
    held = (lease("x", cpus(3), "a"), lease("lost", cpus(1), "nobody"), lease("odd", cpus(1), "b", "n7"))
    state, _ = plan_round(PlannerState(), Delta(agents=(there, bare), leases_started=held), Policy(), 0)
    claim = ClaimRow("claimer", there.key, ("n0",), ("x",))
    asked = Delta(queued=(job("claimer", cpus(1)), job("late", cpus(2), seq=1)), claims_made=(claim,))
    state, _ = plan_round(state, asked, Policy(), 1)
    state, plan = plan_round(state, Delta(agents_removed=(there.key,)), Policy(), 2)
    assert plan.placements == ()
    state, plan = plan_round(state, Delta(agents=(there,)), Policy(), 3)
    assert plan.placements == ()
    state, plan = plan_round(state, Delta(leases_ended=("x",)), Policy(), 4)
    assert {entry.job_id for entry in plan.placements} == {"claimer", "late"}
    assert plan_slowly(state.full(), Policy(), 4, state.lore.tables) == plan


def test_a_stream_of_small_jobs_does_not_keep_a_gang_out() -> None:
    """Three small jobs always wait, each new, on two equal hubs: a gang that has waited for a day starts all the same."""
    policy, state = Policy(), PlannerState()
    hubs = tuple(agent(hub, cpus(4), cpus(4), cpus(4)) for hub in ("a", "b"))
    gang = job("gang", cpus(4), "lima", replicas=3, runtime_limit_ms=60_000)
    delta, ends, count, waiting, started = Delta(agents=hubs), dict[str, int](), 0, 0, False
    for step in range(400):
        now_ms, coming = DAY_MS + step * 1_000, list[str]()
        while waiting < 3:
            count, waiting = count + 1, waiting + 1
            coming.append(f"small-{count:05d}")
        rows = [job(name, cpus(1), "oslo", seq=count, runtime_limit_ms=20_000, submitted_ms=now_ms) for name in coming]
        rows += [replace(gang, seq=count)] if step == 20 else []
        over = tuple(lease_id for lease_id, end_ms in ends.items() if end_ms <= now_ms)
        for lease_id in over:
            del ends[lease_id]
        state, plan = plan_round(state, replace(delta, queued=tuple(rows), leases_ended=over), policy, now_ms)
        started = any(entry.job_id == "gang" for entry in plan.placements)
        if started:
            break
        delta = Delta(leases_started=leases_of(state, plan, now_ms))
        waiting -= len(plan.placements)
        ends |= {row.lease_id: now_ms + 1_000 * (2 + int(row.job_id[-5:]) % 18) for row in delta.leases_started}
    assert started, "the gang waited for 380 seconds behind jobs of 20"


def test_a_hundred_rounds_of_churn_leave_nothing_behind() -> None:
    """Jobs of ever new wishes come and go: sorts, likings, pairs, slots and what was learned stay as few as wait."""
    state, _ = plan_round(PlannerState(), Delta(agents=(agent("a", cpus(8)),)), Policy(), 0)
    for step in range(100):
        named = tuple(
            job(f"job-{step}-{at}", cpus(9), f"home-{at}", hubs_prefer=(f"hub-{step}",), hubs_deny=(f"no-{step}",))
            for at in range(3)
        )
        gone = tuple(f"job-{step - 1}-{at}" for at in range(3))
        state, _ = plan_round(state, Delta(queued=named, dequeued=gone), Policy(), step)
    demands = state.demands
    sizes = [len(table.names) for table in (demands._sorts, demands._likings, demands._pairs)]
    assert max(*sizes, len(state.queue._ids)) <= 6
    assert len(state.queue) == 3


def test_owners_claim_one_after_the_other() -> None:
    """Two owners, two guests: a claim a round, and no guest is told to end twice."""
    held = tuple(
        lease(name, cpus(4), "cairo", name, home_hub="lima", preemptible=True, started_ms=1, expires_ms=500_000)
        for name in ("n0", "n1")
    )
    asked = tuple(job(f"owner-{at}", cpus(4), seq=at, user=f"user-{at}") for at in range(2))
    delta = Delta(agents=(agent("cairo", cpus(4), cpus(4)),), queued=asked, leases_started=held)
    state, plan = plan_round(PlannerState(), delta, Policy(), 10)
    ended: list[str] = []
    for now_ms in (11, 12):
        (made,) = plan.preemptions
        ended += made.victims
        claim = ClaimRow(made.job_id, key_of("cairo"), made.nodes, made.victims)
        state, plan = plan_round(state, Delta(claims_made=(claim,)), Policy(), now_ms)
    assert (sorted(ended), plan.preemptions, plan.placements) == (["n0", "n1"], (), ())
    state, plan = plan_round(state, Delta(leases_ended=("n1", "n0")), Policy(), 13)
    assert sorted(entry.job_id for entry in plan.placements) == ["owner-0", "owner-1"]


def test_more_models_than_there_are_bits() -> None:
    """Seventy models of GPU: all serve who takes any; those that fewest hubs offer cannot be asked for by name."""
    rare = [
        resources(("cpu", "", 1_000), *[("gpu", f"m{at:02d}", 1_000) for at in part])
        for part in (range(35), range(35, 70))
    ]
    common = resources(("cpu", "", 1_000), ("gpu", "z", 1_000))
    agents = (agent("a", *rare), agent("b", common), agent("c", common))
    wanted = [("any", ""), ("named", "z"), ("rare", "m69")]
    asked = tuple(job(name, resources(("gpu", kind, 1_000)), seq=at) for at, (name, kind) in enumerate(wanted))
    held = lease("old", resources(("gpu", "m69", 1_000)), "a", "n1")
    state, plan = plan_round(PlannerState(), Delta(agents=agents, queued=asked, leases_started=(held,)), Policy(), 0)
    assert sorted(entry.job_id for entry in plan.placements) == ["any", "named"]
    assert state.fleet.nodes.device_free.tolist() == [1_000] * 69 + [0] + [1_000] * 2


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("xyz"), st.integers(1, 3), st.integers(0, AMOUNT_MAX), st.sampled_from((0, 3))),
        max_size=12,
    ),
    st.integers(0, AMOUNT_MAX),
)
def test_no_hub_makes_another_hubs_rows_be_refused(rows: list[tuple[str, int, int, int]], offered: int) -> None:
    """Whatever x, y and z offer, hold and offer next: only their own rows go, and all sums stay exact."""
    state = PlannerState()
    good = agent("good", resources(("cpu", "", 4_000), ("memory", "", offered)))
    for at, (hub, nodes, memory, tasks) in enumerate(rows):
        of = resources(("cpu", "", 1), ("memory", "", memory))
        held = tuple(lease(f"of-{hub}-{at}-{no}", of, hub, "n0", "n1") for no in range(tasks))
        mine = (lease(f"good-{at}", cpus(0.01), "good"),)
        delta = Delta(agents=(agent(hub, *[of] * nodes, name=f"n{at % 5}"), good), leases_started=(*held, *mine))
        while True:
            try:
                state, _ = plan_round(state, delta, Policy(), at)
            except RowsRefusedError as error:
                bad = [getattr(delta, error.field)[index] for index in error.indexes]
                assert {row.key[0] for row in bad} <= {hub}
                delta = delta.without(error.field, error.indexes)
                continue
            break
        assert good.key in state.agents
        assert mine[0].lease_id in state.leases
        totals = Counter[str]()
        for sums in state.holdings.offered.of_hub.values():
            assert max(sums.values()) <= AMOUNT_MAX
            totals.update(sums)
        assert state.fleet.offered_by_name() == {name: totals[name] for name in ("gpu", "cpu", "memory", "disk")}
        of_cairo = sum(amount.amount * len(row.nodes) for row in state.leases.values() for amount in row.per_task[1:])
        assert int(state.levels.held[state.levels.ids["cairo",], 2]) == of_cairo


def test_the_largest_gang_of_devices_does_not_end_every_round() -> None:
    """What alone is more than a round's answer held would have been first in every round, and nobody after it."""
    assert DEVICES_MAX >= REPLICAS_MAX * DEVICES_PER_NODE_MAX


def test_use_that_counts_no_more_is_forgotten() -> None:
    """A ledger of years does not grow with them."""
    state, policy = PlannerState(), Policy()
    for day in range(0, 1_000, 10):
        row = UsageRow("a", "p", "u", (("cpu", 1),), day * DAY_MS)
        state, _ = plan_round(state, Delta(usage=(row,)), policy, day * DAY_MS)
    assert len(state.ledger.rows()) < 20


def test_a_claim_on_a_device_past_the_last_never_starts() -> None:
    """A machine came back with one GPU fewer: the place that the claim kept is not there any more."""
    asked = job("claimer", cpus(1, gpus=1))
    for place, starts in ((1, 1), (2, 0)):
        claim = ClaimRow("claimer", key_of("a"), ("n0",), (), ((place,),))
        delta = Delta(agents=(agent("a", cpus(4, gpus=2)),), queued=(asked,), claims_made=(claim,))
        state, plan = plan_round(PlannerState(), delta, Policy(), 0)
        assert len(plan.placements) == starts
        assert plan_slowly(state.full(), Policy(), 0, state.lore.tables) == plan
