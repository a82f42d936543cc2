"""Owners who found no room at home: noted, so that machines can be taken back for them (`preempting.py`).

The first of each sort, and of so many sorts, in the order of their turns. Deliberately not here: which of the hub's
agents could give them room, and who would have to end there.
"""

from __future__ import annotations

from federation.scheduling.kernels.jit import inline
from federation.scheduling.kernels.moving import transfer_of
from federation.scheduling.kernels.round import Round

BLOCKED_MAX = 8
"""Of each hub, sorts of its own jobs looked at in one round: for the first alone there may be nothing to take back."""


@inline
def note_blocked(of: Round, at: int, pair: int, hub: int, reach: int) -> None:
    """The job at place `at` found no room at its own `hub`: noted where it may run there, its data from `reach` ms away."""
    for seat in range(of.work.blocked.shape[1]):
        other = int(of.work.blocked[hub, seat])
        if other >= 0:
            if of.line.pair[of.line.order[other]] == pair:
                return
            continue
        sort = int(of.sorts.pair_sort[pair])
        for agent in range(of.agents.hub_first[hub], of.agents.hub_first[hub + 1]):
            if of.sorts.steps[sort, agent] == 0 and transfer_of(of.sorts.moves, sort, agent) <= reach:
                of.work.blocked[hub, seat], of.work.blocked_reach[hub, seat] = at, reach
                return
        return
