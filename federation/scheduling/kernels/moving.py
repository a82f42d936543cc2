"""How far a job's data may come from: it may be moved once the job has waited for as long as moving takes.

Whoever waits for room beside its data pays with time, and so does whoever has it brought to where there is room; who waits
longest cannot be known. A job that waits as long as moving takes, and then has it moved, loses at most twice what it would
have lost in hindsight (rent, then buy; Karlin et al., "Competitive Snoopy Caching", Algorithmica 1988). What it cannot do
without is no loss: where its data lies beside no machine that may run it, the nearest counts as beside it. Deliberately
not here: how long moving takes (`transfers.py`), and any other choice of where (`choosing.py`).
"""

from __future__ import annotations

from federation.scheduling.kernels.jit import inline
from federation.scheduling.kernels.profile import NEVER_MS
from federation.scheduling.kernels.round import Moves, Round


@inline
def transfer_of(moves: Moves, sort: int, agent: int) -> int:
    """How many ms it takes until all inputs of a sort are at an agent."""
    route = moves.route[sort]
    return int(moves.transfer[route, agent]) if route >= 0 else 0


@inline
def welcome(of: Round, liking: int, held_ms: int, agent: int) -> bool:
    """Whether a job may hold room so long at an agent: its own users always, guests within its limit or if they can be preempted."""
    limit = of.agents.guest_limit[agent]
    return (
        limit < 0 or held_ms <= limit or not of.sorts.stays[liking] or of.sorts.home[liking] == of.agents.hub_of[agent]
    )


@inline
def reach_of(of: Round, pair: int, duration: int, submitted_ms: int) -> int:
    """How far a job's data may come from, in ms: as long as it has waited, and the nearest that it can do with."""
    sorts = of.sorts
    sort, liking = int(sorts.pair_sort[pair]), int(sorts.pair_liking[pair])
    moves = sorts.moves
    if moves.route[sort] < 0:
        return 0
    near: int = moves.near[sort]
    if of.limits.guests_limited and sorts.stays[liking]:
        near = NEVER_MS
        for agent in range(len(of.agents.offered)):
            if sorts.steps[sort, agent] == 0 or sorts.steps[sort, agent] == of.limits.silent:
                transfer = moves.transfer[moves.route[sort], agent]
                if transfer < near and welcome(of, liking, duration + transfer, agent):
                    near = transfer
    return int(min(near + max(0, of.limits.now_ms - submitted_ms), moves.far[sort]))
