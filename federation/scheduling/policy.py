"""What an operator may set about the order: weights of hubs, projects and users, and the size of a round."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from federation.errors import invalid

PLACEMENTS_MAX = 10_000
"""A round decides on no more jobs than this; the next round goes on."""
WEIGHT_MAX = 1e6


@dataclass(frozen=True, slots=True)
class Policy:
    """Weights of fairness; who is not named has 1. Twice the weight means twice the share. Errors: out of range."""

    hub_weights: Mapping[str, float] = field(default_factory=dict)
    project_weights: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """By (home hub, project)."""
    user_weights: Mapping[tuple[str, str, str], float] = field(default_factory=dict)
    """By (home hub, project, user)."""
    placements_max: int = PLACEMENTS_MAX

    def __post_init__(self) -> None:
        for what in ("hub_weights", "project_weights", "user_weights"):
            for name, weight in getattr(self, what).items():
                if not (math.isfinite(weight) and 0 < weight <= WEIGHT_MAX):
                    raise invalid(
                        f"{what} of {name} is {weight}", hint=f"Use a number above 0, up to {WEIGHT_MAX:g}.", field=what
                    )
        if not 0 < self.placements_max <= PLACEMENTS_MAX:
            raise invalid(
                f"placements_max of {self.placements_max} is out of range",
                hint=f"Use 1 to {PLACEMENTS_MAX}.",
                field="placements_max",
            )
