"""When a round may decide otherwise although nothing happens.

The next promised start comes; some data may come from further away; a class's window begins, gives up seats, or ends.
Deliberately not here: use that fades, which is no instant.
"""

from __future__ import annotations

import numpy as np

from federation.scheduling.kernels.gangs import tasks_by_agent
from federation.scheduling.kernels.room import Int64
from federation.scheduling.kernels.round import PLACED, Round
from federation.scheduling.state import PlannerState
from federation.scheduling.transfers import OPEN_OR_SILENT

MOVES_PAUSE_MS = 1_000
"""Many jobs may reach many places soon after one another: rounds for them alone are no closer together."""


def wake_ms(state: PlannerState, of: Round) -> int | None:
    """The instant; None when there is none. `of` is as the kernels left it."""
    now_ms = of.limits.now_ms
    instants = (state.queue.next_promised_ms(now_ms), state.windows.next_ms(state.fleet, now_ms))
    promised_ms = min((at_ms for at_ms in instants if at_ms is not None), default=None)
    ahead_ms = _next_place_ms(state, of) if len(of.sorts.moves.transfer) else None
    if ahead_ms is None:
        return promised_ms
    move_ms = of.limits.now_ms + max(ahead_ms, MOVES_PAUSE_MS)
    return move_ms if promised_ms is None else min(move_ms, promised_ms)


def _next_place_ms(state: PlannerState, of: Round) -> int | None:
    """In how many ms some job's data may come from where there is room now."""
    line, sorts, moves = of.line, of.sorts, of.sorts.moves
    slots = line.order[(of.out.status != PLACED) & (line.aside[line.order] == 0)]
    slots = slots[moves.route[sorts.pair_sort[line.pair[slots]]] >= 0]
    tasks: dict[int, Int64] = {}
    found: list[int] = []
    pairs = line.pair[slots]
    for pair in np.unique(pairs).tolist():
        sort = int(sorts.pair_sort[pair])
        shape = int(sorts.shape[sort])
        if shape not in tasks:
            tasks[shape] = np.zeros(len(state.fleet.keys), np.int64)
            tasks_by_agent(of.work.room, of.shapes, shape, state.fleet.first, tasks[shape])
        transfer = moves.transfer[moves.route[sort]]
        roomy = (sorts.steps[sort] == 0) & (tasks[shape] >= sorts.replicas[sort]) & (transfer > 0)
        if roomy.any():
            ahead_ms = _ahead_ms(of, pair, slots[pairs == pair], roomy)
            found += [] if ahead_ms is None else [ahead_ms]
    return min(found, default=None)


def _ahead_ms(of: Round, pair: int, slots: Int64, roomy: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> int | None:
    """The same for the jobs of one pair, in `slots`; `roomy` (A,) says where there is room for them."""
    sorts, sort, liking = of.sorts, int(of.sorts.pair_sort[pair]), int(of.sorts.pair_liking[pair])
    transfer = sorts.moves.transfer[sorts.moves.route[sort]]
    waited = np.maximum(of.limits.now_ms - of.line.submitted[slots], 0)
    limited = of.limits.guests_limited and bool(sorts.stays[liking])
    durations = of.line.duration[slots]
    found: list[int] = []
    for duration in np.unique(durations).tolist() if limited else (0,):
        welcome = np.ones(len(transfer), bool)
        if limited:
            limit = of.agents.guest_limit
            welcome = (limit < 0) | (duration + transfer <= limit) | (of.agents.hub_of == sorts.home[liking])
        places = np.sort(transfer[roomy & welcome])
        possible = transfer[welcome & np.isin(sorts.steps[sort], OPEN_OR_SILENT)]
        if not places.size:
            continue
        reach = int(possible.min()) + (waited[durations == duration] if limited else waited)
        next_one = np.searchsorted(places, reach, side="right")
        beyond = next_one < len(places)
        found += (places[next_one[beyond]] - reach[beyond]).tolist()
    return min(found, default=None)
