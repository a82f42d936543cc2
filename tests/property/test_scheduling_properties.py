"""The planner's promises on federations that nobody would think of: the twin's plan, never over capacity, no memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.domain.hub import Dataset, LinkState
from federation.domain.ids import AgentKey
from federation.domain.plan import ReasonCode
from federation.domain.quantities import AMOUNT_MAX, GPU, Resources, devices_of, need_of
from federation.scheduling import Delta, Plan, PlannerState, Policy, explain, plan_round, rounds
from federation.scheduling.indexing import Memory
from federation.scheduling.plan import STEP, Placement, demand_key
from federation.scheduling.reference import kept_slowly, plan_slowly, promised_slowly
from federation.scheduling.reference import world as twin
from federation.scheduling.reference.room import amount
from federation.scheduling.rows import LeaseRow, OwnerKey
from tests.unit.scheduling.large_worlds import LargeWorld
from tests.unit.scheduling.worlds import POLICIES, World

seeds = st.integers(0, 2**32 - 1)


Left = dict[tuple[str, str, str], tuple[Counter[str], list[int]]]


def left_after(full: Delta, plan: Plan) -> Left:
    """What the plan leaves on each node: of each scalar, and of each device. Leases that name no device are left out."""
    left: Left = {}
    by_id = {job.job_id: job for job in full.queued}
    for row in full.agents:
        for node in row.nodes:
            scalars: Counter[str] = Counter()
            for entry in node.offered:
                scalars[entry.name] += entry.amount
            left[(*row.key, node.name)] = (scalars, [device.milli for device in devices_of(node.offered)])
    held = [(lease.key, lease.nodes, lease.devices, lease.per_task) for lease in full.leases_started]
    held += [(made.key, made.nodes, made.devices, by_id[made.job_id].per_task) for made in plan.placements]
    for key, nodes, devices, per_task in held:
        for at, name in enumerate(nodes):
            if (*key, name) not in left:
                continue
            scalars, gpus = left[(*key, name)]
            for entry in per_task:
                scalars[entry.name] -= entry.amount
            for place in devices[at] if devices else ():
                if place < len(gpus):
                    gpus[place] -= need_of(per_task).milli
    return left


@settings(max_examples=500, deadline=None)
@given(seeds)
def test_the_fast_core_gives_the_twins_plan(seed: int) -> None:
    """One round from nothing: placements, their order, nodes and all reasons are exactly the slow twin's."""
    world = World(seed)
    full, policy = world.everything(), world.policy()
    state, plan = plan_round(PlannerState(), full, policy, now_ms=7)
    assert plan_slowly(full, policy, 7, state.lore.tables) == plan
    assert promised_slowly(full, policy, 7, state.lore.tables) == promised(state, plan)


@settings(max_examples=150, deadline=None)
@given(seeds, st.sampled_from((1, 3, 8, 100)), st.sampled_from((1, 4, 1_000)), st.sampled_from((1, 300, 32 << 20)))
def test_a_round_of_few_tasks_that_remembers_little_is_the_twins(
    seed: int, tasks: int, devices: int, memo_bytes: int
) -> None:
    """Who could start when the round was full has a turn in the next; what is forgotten is looked for again."""
    world = World(seed)
    full, policy = world.everything(), world.policy()
    with pytest.MonkeyPatch.context() as patch:
        for module in (rounds, twin):
            patch.setattr(module, "TASKS_MAX", tasks)
            patch.setattr(module, "DEVICES_MAX", devices)
        patch.setattr(rounds, "MEMO_BYTES_MAX", memo_bytes)
        state, plan = plan_round(PlannerState(), full, policy, now_ms=7)
        assert plan_slowly(full, policy, 7, state.lore.tables) == plan
        assert promised_slowly(full, policy, 7, state.lore.tables) == promised(state, plan)


def promised(state: PlannerState, plan: Plan) -> dict[str, tuple[AgentKey, int]]:
    """The starts that a plan promises, by job: (agent, when)."""
    columns = plan.promised
    assert columns is not None
    return {
        state.queue.id_at(slot): (state.fleet.keys[agent], start_ms)
        for slot, agent, start_ms in zip(
            columns.slots.tolist(), columns.agents.tolist(), columns.starts_ms.tolist(), strict=True
        )
    }


@settings(max_examples=200, deadline=None)
@given(seeds)
def test_a_plan_is_never_over_capacity(seed: int) -> None:
    """No node that a plan uses is short of anything afterwards, and every gang is whole, within one agent."""
    world = World(seed)
    full = world.everything()
    _, plan = plan_round(PlannerState(), full, world.policy(), now_ms=0)
    after = left_after(full, plan)
    by_id = {job.job_id: job for job in full.queued}
    assert len({entry.job_id for entry in plan.placements}) == len(plan.placements)
    for entry in plan.placements:
        per_task = by_id[entry.job_id].per_task
        need = need_of(per_task)
        assert len(entry.nodes) == by_id[entry.job_id].replicas
        assert [len(places) for places in entry.devices] == ([need.devices] * len(entry.nodes) if need.devices else [])
        for at, name in enumerate(entry.nodes):
            scalars, gpus = after[(*entry.key, name)]
            assert all(scalars[resource] >= 0 for resource, _, _ in per_task if resource != GPU)
            assert all(gpus[place] >= 0 for place in (entry.devices[at] if entry.devices else ()))


@settings(max_examples=200, deadline=None)
@given(seeds, st.sampled_from(POLICIES))
def test_bytes_never_move_against_a_policy(seed: int, policy: str) -> None:
    """Whatever a plan has brought lies at an agent in touch, over a measured link, to one that fetches, as its owner says.

    All data has one policy, each in turn; a job that starts has all its inputs beside it or on the way.
    """
    world = World(seed)
    full = world.everything()
    agents = tuple(
        replace(row, datasets=tuple(replace(entry, policy=policy) for entry in row.datasets)) for row in full.agents
    )
    _, plan = plan_round(PlannerState(), replace(full, agents=agents), world.policy(), now_ms=1_000_000)
    rows, by_id = {row.key: row for row in agents}, {job.job_id: job for job in full.queued}
    links = {row.ends for row in full.links}
    for entry in plan.placements:
        row, job = rows[entry.key], by_id[entry.job_id]
        run_hub = entry.key[0]
        for fetch in entry.fetches:
            assert row.fetches
            assert (fetch.from_hub, run_hub) in links
            sources = [
                dataset
                for source in agents
                if source.key[0] == fetch.from_hub and source.link is LinkState.ONLINE
                for dataset in source.datasets
                if (dataset.name, dataset.version, dataset.size_bytes)
                == (fetch.dataset, fetch.version, fetch.size_bytes)
            ]
            assert any(may_come(dataset, fetch.from_hub, job.home_hub, run_hub) for dataset in sources)
        beside = [(entry.name, entry.version) for entry in row.datasets]
        beside += [(fetch.dataset, fetch.version) for fetch in entry.fetches]
        for name, version in job.inputs:
            assert any(name == lies and version in ("", its_version) for lies, its_version in beside)


def may_come(dataset: Dataset, data_hub: str, job_hub: str, run_hub: str) -> bool:
    """What the owner's policy says, in one line each."""
    if data_hub == run_hub == job_hub:
        return True
    if dataset.policy == "hubs":
        return {job_hub, run_hub} <= {data_hub, *dataset.readers}
    return dataset.policy in ("open", "members")


@settings(max_examples=200, deadline=None)
@given(seeds)
def test_every_waiting_job_has_a_reason(seed: int) -> None:
    """Placed or waiting, never neither; a waiting sort has one step for each hub, and none that says it could run."""
    world = World(seed)
    full = world.everything()
    _, plan = plan_round(PlannerState(), full, world.policy(), now_ms=0)
    placed = {entry.job_id for entry in plan.placements}
    waiting = Counter(demand_key(job) for job in full.queued if job.job_id not in placed)
    assert {entry.demand: entry.jobs for entry in plan.waiting} == dict(waiting)
    assert all(len(entry.steps) == len(plan.hub_ids) and 0 not in entry.steps for entry in plan.waiting)


@settings(max_examples=200, deadline=None)
@given(seeds)
def test_no_plan_passes_a_quota(seed: int) -> None:
    """What is held, claimed, started and taken back for anybody is within what they may hold, or nothing is added."""
    world = World(seed)
    full, quotas = world.everything(), world.quotas()
    _, plan = plan_round(PlannerState(), full, Policy(quotas=quotas), now_ms=0)
    by_id = {job.job_id: job for job in full.queued}
    rows = [(lease.owner, lease.per_task, len(lease.nodes)) for lease in full.leases_started]
    claims = {claim.job_id: claim for claim in full.claims_made if claim.job_id in by_id}
    kept = [(by_id[name].owner, by_id[name].per_task, len(claim.nodes)) for name, claim in claims.items()]
    new = [
        by_id[name] for name in [made.job_id for made in plan.placements] + [made.job_id for made in plan.preemptions]
    ]
    for level in {
        owner[:depth] for owner, _, _ in [*rows, *kept, *((job.owner, 0, 0) for job in new)] for depth in (1, 2, 3)
    }:
        for name, cap in quota_of(level, quotas).items():
            added = held_at(
                level, name, [(job.owner, job.per_task, job.replicas) for job in new if job.job_id not in claims]
            )
            before, running = held_at(level, name, [*rows, *kept]), held_at(level, name, rows)
            assert not added or before + added <= cap
            claimed = [(job.owner, job.per_task, job.replicas) for job in new if job.job_id in claims]
            taken = held_at(level, name, claimed)
            assert not taken or running + taken <= cap


def quota_of(level: tuple[str, ...], quotas: dict[tuple[str, ...], dict[str, int]]) -> dict[str, int]:
    """The nearest quota of a level."""
    for named in (level, (*level[:-1], "*"), ("*",) * len(level)):
        if named in quotas:
            return quotas[named]
    return {}


def held_at(level: tuple[str, ...], name: str, rows: list[tuple[OwnerKey, Resources, int]]) -> int:
    """How much of a resource tasks take whose owner is of a level."""
    return sum(amount(task, name) * tasks for owner, task, tasks in rows if owner[: len(level)] == level)


@settings(max_examples=100, deadline=None)
@given(seeds)
def test_quotas_that_nobody_reaches_change_nothing(seed: int) -> None:
    """The same plan as without."""
    world = World(seed)
    full, policy = world.everything(), replace(world.policy(), quotas={})
    endless = {("*",) * depth: dict.fromkeys(("cpu", "memory", "gpu"), AMOUNT_MAX) for depth in (1, 2, 3)}
    _, plan = plan_round(PlannerState(), full, policy, now_ms=0)
    _, again = plan_round(PlannerState(), full, replace(policy, quotas=endless), now_ms=0)
    assert plan == again


@settings(max_examples=200, deadline=None)
@given(seeds)
def test_what_a_person_is_told_is_what_the_plan_says(seed: int) -> None:
    """The explanation of each waiting job has, hub by hub, the codes of its sort in the plan; a placed one has room.

    Of several jobs of a sort some may meet a quota, or a hub that takes back, and the others not.
    """
    world = World(seed)
    full = world.everything()
    policy = Policy(quotas=world.quotas() if world.chance(0.7) else {})
    state, plan = plan_round(PlannerState(), full, policy, now_ms=0)
    placed = {entry.job_id: entry.key[0] for entry in plan.placements}
    for job in full.queued:
        told = explain(state, policy, job, now_ms=0)
        codes = {reason.hub_id: reason.code for reason in told.reasons}
        waiting = plan.waiting_of(demand_key(job))
        if job.job_id in placed:
            assert codes[placed[job.job_id]] == ReasonCode.WOULD_RUN
            assert told.earliest_hub_id == placed[job.job_id]
        else:
            assert waiting is not None
            assert told.reasons
            for hub_id, step in zip(plan.hub_ids, waiting.steps, strict=True):
                found = STEP[ReasonCode(codes[hub_id])]
                far = bool(job.inputs) and codes[hub_id] == ReasonCode.DATA_TO_MOVE  # whose room is claimed has no turn
                assert found == step or far or (found > step and waiting.jobs > 1)


@settings(max_examples=100, deadline=None)
@given(seeds)
def test_the_order_of_the_rows_does_not_matter(seed: int) -> None:
    """The same rows in another order give the same plan."""
    world = World(seed)
    full, policy = world.everything(), world.policy()
    _, plan = plan_round(PlannerState(), full, policy, now_ms=0)
    _, again = plan_round(PlannerState(), world.shuffled(full), policy, now_ms=0)
    assert plan == again


def described(state: PlannerState) -> dict[str, object]:
    """All that decisions depend on."""
    fleet, nodes = state.fleet, state.fleet.nodes
    free = {
        (fleet.keys[agent], name): (
            nodes.free[row].tolist(),
            nodes.device_free[nodes.device_first[row] : nodes.device_first[row + 1]].tolist(),
        )
        for agent in range(len(fleet.keys))
        for name, row in fleet.node_row[agent].items()
    }
    held = {level: state.levels.held[at].tolist() for level, at in state.levels.ids.items()}
    return {
        "full": state.full(),
        "free": free,
        "used": fleet.agent_used.tolist(),
        "line": sorted(state.queue.ids()),
        "held": {level: amounts for level, amounts in held.items() if any(amounts)},
        "totals": [tally.of_hub for tally in (state.holdings.offered, state.holdings.held, state.holdings.claimed)],
        "sorts": [(key, jobs) for key, _, jobs in state.demands.waiting()],
        "leases": state.lease_of_job,
    }


@settings(max_examples=150, deadline=None)
@given(seeds, st.integers(1, 6))
def test_the_incremental_state_equals_a_rebuild(seed: int, steps: int) -> None:
    """After any sequence of changes the state, and the plan of each round, are those of a fresh start from it all.

    Half of what is planned comes back as leases, as in life.
    """
    world, state = World(seed), PlannerState()
    policy = world.policy()
    for step in range(steps):
        before, delta, promised = state.full(), world.change(step), state.queue.promises()
        state.apply(delta, policy)
        promised = kept_slowly(promised, before, delta)
        assert state.queue.promises() == promised
        rebuilt = PlannerState()
        rebuilt.apply(state.full(), policy)
        rebuilt.lore.learn_from(state.lore, rebuilt.fleet)  # what was learned, and promised, is no part of the rows
        rebuilt.queue.recall(promised)
        state, plan = plan_round(state, Delta(), policy, step)
        rebuilt, fresh = plan_round(rebuilt, Delta(), policy, step)
        assert described(rebuilt) == described(state)
        assert fresh == plan
        assert plan_slowly(state.full(), policy, step, state.lore.tables, promised) == plan
        accepted = tuple(lease_of(state, entry) for entry in plan.placements if world.chance(0.5))
        state.apply(Delta(leases_started=accepted), policy)
        promised = state.queue.promises()
        state, plan = plan_round(state, Delta(), policy, step + 9)
        assert plan_slowly(state.full(), policy, step + 9, state.lore.tables, promised) == plan
        ended = Delta(leases_ended=tuple(row.lease_id for row in accepted if world.chance(0.7)))
        state.apply(ended, policy)
        promised = state.queue.promises()
        state, plan = plan_round(state, Delta(), policy, step + 20)
        assert plan_slowly(state.full(), policy, step + 20, state.lore.tables, promised) == plan
        state.apply(Delta(leases_ended=tuple(row.lease_id for row in accepted)))


def lease_of(state: PlannerState, entry: Placement) -> LeaseRow:
    """The lease that a commit makes of a placement."""
    job = state.job(entry.job_id)
    return LeaseRow(
        f"for-{job.job_id}", job.job_id, entry.key, entry.nodes, job.per_task, *job.owner, 1000,
        devices=entry.devices, window=job.window,
    )  # fmt: skip


@settings(max_examples=12, deadline=None)
@given(seeds, st.sampled_from((1, 20_000, 256 << 20)), st.sampled_from((3, 4_096)))
def test_full_federations_go_on_for_many_rounds_as_the_twins(seed: int, memory_bytes: int, shapes: int) -> None:
    """Round after round on one state, all rules meeting each other, each plan is the twin's and within capacity.

    Also where nearly nothing is remembered of scores, and where shapes are forgotten again and again.
    """
    world, state = LargeWorld(seed), PlannerState(memory=Memory(memory_bytes_max=memory_bytes), shapes_max=shapes)
    policy, delta = world.policy(), world.beginning()
    for now_ms in (7, 10, 35, 45):
        before, promised = state.full(), state.queue.promises()
        state.apply(delta, policy)
        state.shapes_max, promised, full = shapes, kept_slowly(promised, before, delta), state.full()
        assert state.queue.promises() == promised
        state, plan = plan_round(state, Delta(), policy, now_ms)
        assert plan_slowly(full, policy, now_ms, state.lore.tables, promised) == plan
        after, by_id = left_after(full, plan), {job.job_id: job for job in full.queued}
        for entry in plan.placements:
            for at, name in enumerate(entry.nodes):
                scalars, gpus = after[(*entry.key, name)]
                assert all(scalars[wanted] >= 0 for wanted, _, _ in by_id[entry.job_id].per_task if wanted != GPU)
                assert all(gpus[place] >= 0 for place in (entry.devices[at] if entry.devices else ()))
        delta = world.going_on(state, plan, now_ms)
