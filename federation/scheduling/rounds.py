"""The door: `plan_round`. It checks and applies what changed, lets the kernels fill the room, and names the reasons."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from federation.domain.plan import ReasonCode
from federation.scheduling.fleet import COLUMNS, Fleet
from federation.scheduling.kernels.blocked import BLOCKED_MAX
from federation.scheduling.kernels.fill import fill
from federation.scheduling.kernels.profile import NEVER_MS, Profiles, profiles_for
from federation.scheduling.kernels.reasons import Asked, Shared, reasons, shared_obstacles
from federation.scheduling.kernels.room import Int64, Nodes
from federation.scheduling.kernels.round import (
    DEVICES,
    ENDED_EARLY,
    NO_ROW,
    PLACED,
    PLACEMENTS,
    RESERVED,
    TASKS,
    Agents,
    Limits,
    Memo,
    Out,
    Quotas,
    Round,
    Sorts,
    Work,
)
from federation.scheduling.levels import tree_for
from federation.scheduling.plan import STEP, Placement, Plan, Reservation, Waiting
from federation.scheduling.policy import DEVICES_MAX, PROMISES_MAX, SHORT_MS, TASKS_MAX, Policy
from federation.scheduling.preempting import preemptions
from federation.scheduling.quotas import claims_within, quotas_of
from federation.scheduling.rows import Delta
from federation.scheduling.seating import fill_gaps, seat_first
from federation.scheduling.state import PlannerState
from federation.scheduling.waking import wake_ms
from federation.scheduling.windows import Course, courses, open_room

STEPS = np.asarray(
    [
        STEP[code]
        for code in (
            ReasonCode.FAIRNESS_TURN,
            ReasonCode.RESERVATION_AHEAD,
            ReasonCode.CAPACITY,
            ReasonCode.DATA_TO_MOVE,
        )
    ],
    np.uint8,
)

MEMO_BYTES_MAX = 32 << 20
"""What a round remembers of sorts at agents, see `Memo`: of all sorts at up to some thousand of them."""
HELD_STEPS = STEPS[[1, 1, 2, 3]]
"""The same where windows hold the room: it is not others who took it."""


def plan_round(state: PlannerState, delta: Delta, policy: Policy, now_ms: int) -> tuple[PlannerState, Plan]:
    """Which waiting jobs start where, given what changed since the last round, and why each of the others waits.

    `state` is consumed: go on with the returned one. The plan never places more than is free; the same state and delta
    give the same plan, whatever the order of the delta's rows. Its placements take effect when their leases come back
    in a later delta; until then a further round decides on the same jobs anew.

    Errors: INVALID_ARGUMENT or LIMIT_EXCEEDED with the field and index of a bad row; then `state` is as it was, and
    may still be used.
    """
    state.apply(delta, policy)
    state.ledger.forget(now_ms)
    quotas = quotas_of(state, policy)
    state.windows.note_taken(state.fleet, now_ms)
    ready = _ready_claims(state, quotas)
    held = courses(state, now_ms)
    before = open_room(state, held)
    of = round_of(state, policy, now_ms, quotas, held)
    clock = of.known.touched.clock.copy()
    if len(of.line.order) and state.fleet.keys:
        if held:
            of = seat_first(state, of, held, _placements)
        seated = int(of.out.counters[PLACEMENTS])
        fill(of)
        if held:
            fill_gaps(state, of, held, _placements, seated)
    started, promised = _placements(state, of), _reservations(of)
    state.queue.keep_promises(promised.slots, promised.starts_ms)
    plan = Plan(
        now_ms,
        ready + started,
        state.fleet.hub_ids,
        _waiting(state, of, before, clock, ready),
        preemptions(state, of, courses(state, now_ms), started),
        promised,
        wake_ms(state, of),
    )
    state.last_plan = plan
    return state, plan


def round_of(
    state: PlannerState,
    policy: Policy,
    now_ms: int,
    quotas: Quotas | None = None,
    held: Mapping[int, Course] | None = None,
) -> Round:
    """The arrays of a round, and room for its answer. The state's index is brought up to date; nothing else changes.

    `held` is what windows hold; room that any of them holds at any time is not there.
    """
    held = courses(state, now_ms) if held is None else held
    fleet, line = state.fleet, state.queue.line(now_ms, state.levels)
    agents, waiting = len(fleet.keys), len(line.order)
    state.memory.follow(fleet, state.lore.tables, open_room(state, held))
    promises = min(policy.promises_max, max(1, PROMISES_MAX // max(1, agents)), waiting)
    starts = min(waiting, policy.placements_max)
    rows = np.diff(state.lease_table.endings(fleet).first) + (1 + 2 * promises + starts)
    for agent, course in held.items():
        rows[agent] += course.changes + 2 * starts
    return Round(
        shapes=fleet.shapes.arrays,
        totals=fleet.shapes.totals,
        idle=fleet.idle,
        taste=fleet.taste(state.lore.tables),
        agents=_agents_of(fleet, state),
        sorts=state.demands.arrays(),
        line=line,
        levels=state.levels.arrays(fleet, state.ledger, policy, now_ms),
        tree=tree_for(len(state.levels)),
        known=state.memory.index,
        quotas=quotas or quotas_of(state, policy),
        work=_work_of(state, profiles_for(rows, len(COLUMNS))),
        out=_out_of(waiting, starts),
        limits=_limits_of(state, policy, now_ms, promises),
    )


def _work_of(state: PlannerState, profiles: Profiles) -> Work:
    """What a round changes; nothing is found out yet."""
    fleet, sorts = state.fleet, state.demands.arrays()
    agents, levels = len(fleet.keys), len(state.levels)
    return Work(
        room=state.memory.room,
        used=fleet.agent_used.copy(),
        load=fleet.loads(),
        dead=np.full((2, len(sorts.pair_sort)), NEVER_MS, np.int64),
        dead_reach=np.zeros((2, len(sorts.pair_sort)), np.int64),
        reach=np.full(len(sorts.shape), -1, np.int64),
        memo=_memo_of(len(sorts.shape), agents),
        only=np.full(len(sorts.pair_sort), -1, np.int32),
        capped=np.zeros(len(sorts.pair_sort), np.uint8),
        profiles=profiles,
        blocked=np.full((len(fleet.hub_ids), BLOCKED_MAX), -1, np.int32),
        blocked_reach=np.zeros((len(fleet.hub_ids), BLOCKED_MAX), np.int64),
        reserved=np.zeros(agents, np.int64),
        draining=np.zeros(agents, np.uint8),
        backlog=np.zeros(agents, np.int64),
        kept=np.zeros(len(fleet.node_names), np.uint8),
        opened=np.zeros(agents, np.int64),
        cursor=np.zeros(levels, np.int32),
        until=np.zeros(levels, np.int32),
        users=np.zeros(levels, np.int32),
        need=np.zeros(len(COLUMNS), np.int64),
        free_now=np.zeros(len(COLUMNS), np.int64),
        level_hub=state.levels.hub_rows(fleet),
    )


def _memo_of(sorts: int, agents: int) -> Memo:
    """Rows for all sorts, or for as many as there may be."""
    rows = min(sorts, max(1, MEMO_BYTES_MAX // (24 * max(1, agents))))
    return Memo(
        row=np.full(sorts, NO_ROW, np.int32),
        sort=np.full(rows, NO_ROW, np.int32),
        next=np.zeros(1, np.int64),
        open=np.full(agents, NEVER_MS, np.int64),
        seat=np.zeros(0, np.int32),
        shut=np.empty((rows, agents), np.int64),
        hint_ms=np.empty((rows, agents), np.int64),
        hint_duration=np.empty((rows, agents), np.int64),
    )


def _out_of(waiting: int, starts: int) -> Out:
    """Room for the answer on so many jobs, of which no more than `starts` start."""
    return Out(
        counters=np.zeros(4, np.int64),
        status=np.zeros(waiting, np.uint8),
        agent=np.zeros(waiting, np.int32),
        start_ms=np.zeros(waiting, np.int64),
        placed=np.zeros(starts, np.int32),
        nodes=np.empty(TASKS_MAX, np.int64),
        devices=np.empty(DEVICES_MAX, np.int64),
    )


def _limits_of(state: PlannerState, policy: Policy, now_ms: int, promises: int) -> Limits:
    """How much the round does."""
    return Limits(
        now_ms=now_ms,
        placements=policy.placements_max,
        reservations=promises,
        headroom=policy.headroom,
        short_ms=SHORT_MS,
        promise_after_ms=policy.patience_ms,
        guests_limited=bool((state.guest_limits >= 0).any()),
        silent=STEP[ReasonCode.HUB_SUSPECT],
    )


def _agents_of(fleet: Fleet, state: PlannerState) -> Agents:
    ends = state.lease_table.endings(fleet)
    return Agents(
        hub_first=fleet.hub_first,
        hub_of=fleet.hub_of_agent,
        guest_limit=state.guest_limits,
        offered=fleet.agent_offered,
        used=fleet.agent_used,
        lease_first=ends.first,
        lease_ends=ends.ends_ms,
        lease_amounts=ends.amounts,
        offered_totals=fleet.offered_totals,
    )


def _placements(state: PlannerState, of: Round) -> tuple[Placement, ...]:
    """What the kernels decided, in words."""
    fleet, out = state.fleet, of.out
    nodes, devices = out.nodes[: out.counters[TASKS]].tolist(), out.devices[: out.counters[DEVICES]].tolist()
    placements, task, device = [], 0, 0
    for at in out.placed[: out.counters[PLACEMENTS]].tolist():
        slot = int(of.line.order[at])
        sort = int(of.sorts.pair_sort[of.line.pair[slot]])
        replicas, wanted = int(of.sorts.replicas[sort]), int(of.shapes.devices[of.sorts.shape[sort]])
        rows = nodes[task : task + replicas]
        places: list[tuple[int, ...]] = []
        for row in rows if wanted else ():
            first = int(fleet.device_first[row])
            places.append(tuple(found - first for found in devices[device : device + wanted]))
            device += wanted
        task += replicas
        names, agent = tuple(fleet.node_names[row] for row in rows), int(out.agent[at])
        fetches = state.demands.fetches(int(of.line.pair[slot]), agent)
        placements.append(Placement(state.queue.id_at(slot), fleet.keys[agent], names, tuple(places), fetches))
    return tuple(placements)


def _ready_claims(state: PlannerState, quotas: Quotas) -> tuple[Placement, ...]:
    """Claims whose victims have all ended and whose room is there."""
    free = [
        claim
        for _, claim in sorted(state.claims.items())
        if not any(victim in state.leases for victim in claim.victims) and state.claim_fits(claim)
    ]
    ready = []
    for claim in claims_within(state, quotas, free):
        pair = state.queue.pair_at(state.queue.slots[claim.job_id])
        fetches = state.demands.fetches(pair, state.fleet.index[claim.key])
        ready.append(Placement(claim.job_id, claim.key, claim.nodes, claim.devices, fetches))
    return tuple(ready)


def _reservations(of: Round) -> Reservation:
    """Starts that were promised, as columns."""
    at = np.flatnonzero(of.out.status == RESERVED)
    return Reservation(of.line.order[at], of.out.agent[at], of.out.start_ms[at])


def _waiting(
    state: PlannerState, of: Round, before: Nodes, clock: Int64, ready: tuple[Placement, ...]
) -> tuple[Waiting, ...]:
    """Why the jobs of each sort wait that were not placed."""
    pairs = of.line.pair[of.line.order[of.out.status == PLACED]]
    claimed = [state.queue.pair_at(state.queue.slots[entry.job_id]) for entry in ready]
    placed = np.bincount(of.sorts.pair_sort[[*pairs.tolist(), *claimed]], minlength=len(of.sorts.shape))
    left = [(key, sort, jobs - int(placed[sort])) for key, sort, jobs in state.demands.waiting()]
    left = [entry for entry in left if entry[2] > 0]
    sorts = np.asarray([sort for _, sort, _ in left], np.int64)
    steps = np.zeros((len(left), len(state.fleet.hub_ids)), np.uint8)
    full = bool(of.out.counters[ENDED_EARLY])
    over, raised = _raised(state, of, ready, {sort: jobs for _, sort, jobs in left})
    if steps.size:
        asked = Asked(sorts, of.work.reach, raised, of.shapes, of.agents.hub_first, clock)
        reasons(asked, before, of.work.room, of.known, STEPS, full, steps)
        if before is not state.fleet.nodes:
            bare = np.zeros_like(steps)
            asked = asked._replace(clock=np.full_like(clock, -1))
            reasons(asked, state.fleet.nodes, of.work.room, of.known, HELD_STEPS, full, bare)
            np.minimum(steps, bare, out=steps)
    rules = state.demands.feasibility
    return tuple(
        Waiting(key, jobs, row.tobytes(), rules.overall(key, row), over.get(sort, 0))
        for (key, sort, jobs), row in zip(left, steps, strict=True)
    )


def _raised(
    state: PlannerState, of: Round, ready: tuple[Placement, ...], left: dict[int, int]
) -> tuple[dict[int, int], Sorts]:
    """(jobs over a quota by sort, the sorts with what hinders every one of their jobs); `left` is how many wait, by sort."""
    limited = np.flatnonzero(state.guest_limits >= 0)
    if not (len(of.quotas.caps) or limited.size) or not left:
        return {}, of.sorts
    sorts, hubs = len(of.sorts.shape), len(state.fleet.hub_ids)
    shared = Shared(np.zeros(sorts, np.int64), np.full(sorts, NEVER_MS), np.zeros((sorts, hubs), np.uint8))
    claimed = [state.queue.slots[entry.job_id] for entry in ready]
    shared_obstacles(of, np.isin(of.line.order, claimed).astype(np.uint8), shared)
    steps, moves = of.sorts.steps.copy(), of.sorts.moves
    moved = np.asarray([sort for sort in left if moves.route[sort] >= 0], np.int64)
    for agent in limited.tolist():
        guests = shared.at_home[:, state.fleet.hub_of_agent[agent]] == 0
        longest_ms = np.full(sorts, state.guest_limits[agent])
        longest_ms[moved] -= moves.transfer[moves.route[moved], agent]
        too_long = guests & (shared.shortest > longest_ms)
        steps[too_long, agent] = np.maximum(steps[too_long, agent], STEP[ReasonCode.TAKES_BACK])
    over = {sort: found for sort in left if (found := int(shared.over[sort]))}
    all_over = [sort for sort, jobs in over.items() if jobs == left[sort]]
    steps[all_over] = np.maximum(steps[all_over], STEP[ReasonCode.QUOTA])
    return over, of.sorts._replace(steps=steps)
