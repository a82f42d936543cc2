"""How much a user, project or hub may hold at once: asked before a job is looked at, counted when it starts.

Without quotas the arrays are empty, and one comparison is all they cost. Deliberately not here: who has which quota
(`federation/scheduling/quotas.py`).
"""

from __future__ import annotations

from federation.scheduling.kernels.jit import inline
from federation.scheduling.kernels.round import Round


@inline
def over_quota(of: Round, user: int, sort: int) -> bool:
    """Whether a job of `sort` would take its user, project or hub above what they may hold of anything that it needs."""
    if len(of.quotas.caps) == 0:
        return False
    shape, replicas = int(of.sorts.shape[sort]), int(of.sorts.replicas[sort])
    level = user
    while level >= 0:
        for column in range(of.totals.shape[1]):
            need = of.totals[shape, column] * replicas
            if need > 0 and need > of.quotas.caps[level, column] - of.quotas.held[level, column]:
                return True
        level = int(of.levels.parent[level])
    return False


@inline
def count_held(of: Round, user: int) -> None:
    """A job of the user starts that needs `work.need`."""
    if len(of.quotas.caps) == 0:
        return
    level = user
    while level >= 0:
        for column in range(len(of.work.need)):
            of.quotas.held[level, column] += of.work.need[column]
        level = int(of.levels.parent[level])
