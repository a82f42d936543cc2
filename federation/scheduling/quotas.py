"""How much a hub, project or user may hold at once: what the policy says of each, and what they hold, as arrays.

Held is what their leases hold and what is claimed for their waiting jobs, so that a claim's start passes no quota. A
resource of which a job needs nothing does not matter to it. One round is under way at a time, and the leases of the one
before are in the delta of the next (`federation/service/rounds.py`); between a plan and its commit nothing but its own
leases begins. So nobody passes a quota, although a commit does not look at them. Who is above one already, because it was
lowered or because a hub's runs are known later than they began, keeps what runs and starts nothing more. Deliberately not
here: the check itself (`kernels/quotas.py`), and words (`words.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from federation.scheduling.fleet import COLUMNS
from federation.scheduling.kernels.room import Int32, Int64
from federation.scheduling.kernels.round import Quotas
from federation.scheduling.policy import ANYBODY, Policy
from federation.scheduling.rows import ClaimRow, QueuedJob

if TYPE_CHECKING:
    from federation.scheduling.state import PlannerState

NO_CAP = 2**62
Level = tuple[str, ...]


class OverQuota(NamedTuple):
    """A quota that keeps a job from starting."""

    level: Level
    """Whose it is."""
    name: str
    """Of which resource."""
    cap: int
    held: int
    needed: int

    @property
    def never(self) -> bool:
        """Whether the job asks for more than may be held even when nothing else is."""
        return self.needed > self.cap


def quota_of(policy: Policy, level: Level) -> Mapping[str, int]:
    """The quota of a level: its own, else that of whoever is not named there, else that of whoever is not named at all."""
    for named in (level, (*level[:-1], ANYBODY), (ANYBODY,) * len(level)):
        found = policy.quotas.get(named)
        if found is not None:
            return found
    return {}


def cap_row(policy: Policy, level: Level) -> Int64:
    """(T,) the quota of a level; NO_CAP where there is none."""
    quota = quota_of(policy, level)
    return np.asarray([quota.get(name, NO_CAP) for name in COLUMNS], np.int64)


def quotas_of(state: PlannerState, policy: Policy) -> Quotas:
    """What everybody may hold, and holds; empty without quotas."""
    if not policy.quotas:
        nothing = np.zeros((0, len(COLUMNS)), np.int64)
        return Quotas(nothing, nothing)
    levels = state.levels
    held = levels.held[: len(levels)].copy()
    for claim in state.claims.values():
        _add(held, levels.parents, levels.id_of(state.job(claim.job_id).owner), _claimed(state, claim))
    return Quotas(levels.caps(policy), held)


def within(quotas: Quotas, parents: Int32, user: int, need: Int64) -> bool:
    """Whether `need` int64 (T,) more passes no quota of the user at level `user`, the project and the hub."""
    level = user if len(quotas.caps) else -1
    while level >= 0:
        if ((need > 0) & (need > quotas.caps[level] - quotas.held[level])).any():
            return False
        level = int(parents[level])
    return True


def count_in(quotas: Quotas, parents: Int32, user: int, need: Int64) -> None:
    """`need` int64 (T,) more is held, or kept for them, by the user at level `user`."""
    if len(quotas.caps):
        _add(quotas.held, parents, user, need)


def claims_within(state: PlannerState, quotas: Quotas, claims: list[ClaimRow]) -> list[ClaimRow]:
    """Those of `claims` that may start now, one after the other: their jobs' owners may hold less than when they were made."""
    if not len(quotas.caps):
        return claims
    levels = state.levels
    running = quotas._replace(held=levels.held[: len(levels)].copy())
    kept = []
    for claim in claims:
        user, need = levels.id_of(state.job(claim.job_id).owner), _claimed(state, claim)
        if within(running, levels.parents, user, need):
            count_in(running, levels.parents, user, need)
            kept.append(claim)
    return kept


def over_quota(state: PlannerState, policy: Policy, job: QueuedJob) -> OverQuota | None:
    """The quota that keeps `job` from starting after the last plan, the user's before the project's before the hub's.

    One under which it never starts comes before all that pass. None when there is none, or when its room is claimed already.
    """
    if not policy.quotas or job.job_id in state.claims:
        return None
    levels, fleet = state.levels, state.fleet
    quotas = quotas_of(state, policy)
    for entry in state.last_plan.placements:
        if entry.job_id in state.queue and entry.job_id not in state.claims:
            other = state.job(entry.job_id)
            need = fleet.shapes.totals[fleet.shapes.id_of(other.per_task)] * other.replicas
            count_in(quotas, levels.parents, levels.id_of(other.owner), need)
    need = fleet.shapes.totals[fleet.shapes.id_of(job.per_task)] * job.replicas
    found: OverQuota | None = None
    for depth in (3, 2, 1):
        level = job.owner[:depth]
        at, caps = levels.ids.get(level), cap_row(policy, level)
        for name, column in COLUMNS.items():
            held = 0 if at is None else int(quotas.held[at, column])
            if 0 < need[column] > caps[column] - held:
                over = OverQuota(level, name, int(caps[column]), held, int(need[column]))
                if over.never:
                    return over
                found = found or over
    return found


def _claimed(state: PlannerState, claim: ClaimRow) -> Int64:
    """(T,) what a claim keeps."""
    shapes = state.fleet.shapes
    totals: Int64 = shapes.totals[shapes.id_of(state.job(claim.job_id).per_task)] * len(claim.nodes)
    return totals


def _add(held: Int64, parents: Int32, user: int, need: Int64) -> None:
    level = user
    while level >= 0:
        held[level] += need
        level = int(parents[level])
