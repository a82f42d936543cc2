"""What an operator may set about the order and the rounds: weights, how use fades, promises, and the size of a round."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from federation.domain.quantities import AMOUNT_MAX, CPU, DISK, GPU, MEMORY
from federation.errors import invalid
from federation.scheduling.fairness import FairnessTerms

PLACEMENTS_MAX = 10_000
"""A round decides on no more jobs than this; the next round goes on."""
TASKS_MAX = 100_000
"""Nor on more tasks, all gangs together."""
DEVICES_MAX = 1_024_000
"""Nor on more devices. The largest gang, 1,000 tasks of 1,024, must fit: it would end every round for ever."""
WEIGHT_MAX = 1e6
RESERVATIONS_MAX = 1_000
"""For each agent: a promise more than this far down the line would be no better than a guess."""
PROMISES_MAX = 250_000
"""For all agents together, shared out evenly."""


ANYBODY = "*"
"""In a quota's name: whoever is not named."""
QUOTA_NAMES = (GPU, CPU, MEMORY, DISK)
QUOTA_MAX = AMOUNT_MAX

PROMISE_AFTER_MS = 4 * 3_600_000
PROMISE_AFTER_MS_MAX = 30 * 86_400_000
HEADROOM = 12
"""Who jumps the line for long leaves one part in so many of the site free, with `short_first`."""
SHORT_MS = 5 * 60_000
"""What may not run longer than this may use the headroom."""


class Order(enum.StrEnum):
    """Which of one user's jobs goes first."""

    AGE = "age"
    """First come, first served."""
    SHORT_FIRST = "short_first"
    """Small and short ones ahead, by so much that nobody waits without end (`ageing.py`)."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Who is not named has weight 1; twice the weight means twice the share. Errors: out of range."""

    hub_weights: Mapping[str, float] = field(default_factory=dict)
    project_weights: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """By (home hub, project)."""
    user_weights: Mapping[tuple[str, str, str], float] = field(default_factory=dict)
    """By (home hub, project, user)."""
    placements_max: int = PLACEMENTS_MAX
    fairness: FairnessTerms = field(default_factory=FairnessTerms)
    order: Order = Order.AGE
    reservations: int | None = None
    """Promised starts at each agent that later jobs may not delay: 1 is EASY backfill, 0 promises nothing. None: what
    goes best with the order, as many as there may be with `age` and one with `short_first`."""

    promise_after_ms: int | None = None
    """Who has waited so long is promised a start; until then everybody who fits passes. None: what goes best with the
    order, four hours with `age` and at once with `short_first`."""

    quotas: Mapping[tuple[str, ...], Mapping[str, int]] = field(default_factory=dict)
    """By (hub,), (hub, project) or (hub, project, user): how much may be held at once, by resource name, in base units.
    ANYBODY in the last place stands for whoever is not named there, in all places for whoever is not named at all."""

    def __post_init__(self) -> None:
        self._check_quotas()
        for what in ("hub_weights", "project_weights", "user_weights"):
            for name, weight in getattr(self, what).items():
                if not (math.isfinite(weight) and 0 < weight <= WEIGHT_MAX):
                    raise invalid(
                        f"{what} of {name} is {weight}", hint=f"Use a number above 0, up to {WEIGHT_MAX:g}.", field=what
                    )
        for what, value, least, most in (
            ("placements_max", self.placements_max, 1, PLACEMENTS_MAX),
            ("reservations", self.promises_max, 0, RESERVATIONS_MAX),
            ("promise_after_ms", self.patience_ms, 0, PROMISE_AFTER_MS_MAX),
        ):
            if type(value) is not int or not least <= value <= most:
                raise invalid(f"{what} of {value} is out of range", hint=f"Use {least} to {most}.", field=what)
        if not isinstance(self.order, Order):
            raise invalid(f"order of {self.order!r} is unknown", hint=f"Use {' or '.join(Order)}.", field="order")

    def _check_quotas(self) -> None:
        for level, quota in self.quotas.items():
            named = type(level) is tuple and 1 <= len(level) <= 3 and all(type(name) is str and name for name in level)
            if not named or (ANYBODY in level[:-1] and set(level) != {ANYBODY}):
                raise invalid(
                    f"quotas has {level!r}",
                    hint=f"Name a hub, a hub's project or its user; {ANYBODY} stands last, or alone.",
                    field="quotas",
                )
            for name, amount in quota.items():
                if name not in QUOTA_NAMES or type(amount) is not int or not 0 <= amount <= QUOTA_MAX:
                    raise invalid(
                        f"quotas of {'/'.join(level)} has {amount!r} of {name!r}",
                        hint=f"Use whole amounts of {', '.join(QUOTA_NAMES)}, from 0 to {QUOTA_MAX}.",
                        field="quotas",
                    )

    @property
    def promises_max(self) -> int:
        """Promised starts at each agent."""
        if self.reservations is not None:
            return self.reservations
        return RESERVATIONS_MAX if self.order is Order.AGE else 1

    @property
    def patience_ms(self) -> int:
        """How long a job waits before it is promised a start."""
        if self.promise_after_ms is not None:
            return self.promise_after_ms
        return PROMISE_AFTER_MS if self.order is Order.AGE else 0

    @property
    def headroom(self) -> int:
        """Who jumps the line for long leaves one part in so many of the site free; 0: nobody need (`ageing.py`)."""
        return HEADROOM if self.order is Order.SHORT_FIRST else 0
