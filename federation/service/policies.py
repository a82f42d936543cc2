"""The planner's policy as it is shown: in words' order, and of people no more than the one who asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from federation.scheduling import Policy
from federation.scheduling.policy import ANYBODY

Level = tuple[str, ...]
"""(hub,), (hub, project) or (hub, project, user)."""
_BACKFILL = {0: "none", 1: "easy"}
"""By promised starts at each agent."""


@dataclass(frozen=True, slots=True)
class PolicyView:
    """A policy with its weights and quotas as lists, by level."""

    policy: Policy
    backfill: str
    weights: tuple[tuple[Level, float], ...]
    quotas: tuple[tuple[Level, Mapping[str, int]], ...]

    @property
    def shipped(self) -> bool:
        """Whether nothing of it differs from what is shipped."""
        return self.policy == Policy()


def view(policy: Policy, own: tuple[str, str] | None) -> PolicyView:
    """What may be seen of the policy in force. `own`: (home hub, name) of the one of whom, of all people, it is shown; None: all."""
    weights: dict[Level, float] = {(hub,): weight for hub, weight in policy.hub_weights.items()}
    weights |= dict(policy.project_weights.items())
    weights |= dict(policy.user_weights.items())

    def visible(level: Level) -> bool:
        return own is None or len(level) < 3 or level[2] == ANYBODY or (level[0], level[2]) == own

    return PolicyView(
        policy,
        _BACKFILL.get(policy.promises_max, "conservative"),
        tuple((level, weights[level]) for level in sorted(weights) if visible(level)),
        tuple((level, policy.quotas[level]) for level in sorted(policy.quotas) if visible(level)),
    )
