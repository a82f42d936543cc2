"""What the planner has learned of the workload: the tasks that wait and run at present, as the score's tables.

The typical tasks of FGD, learned: counted as they come and go, so that the counts are those of the present state. The
tables, with the bid prices that a small LP finds, are made anew only when the mix has drifted by more than
`DRIFT_MAX`, or the fleet changed: so they are what was learned at some time, and a state that is rebuilt from rows learns anew.
"""

from __future__ import annotations

from federation.domain.quantities import CPU, Resources, need_of
from federation.scheduling.fleet import COLUMNS, Fleet, totals_of
from federation.scheduling.fragmentation import DRIFT_MAX, Sort, drift, tables_of, typical
from federation.scheduling.kernels.score import Tables

LOOKS_PER_MIX = 8
"""Whether the mix has drifted is looked at each time so much of it (one part in so many) came or went."""
CPU_SCALAR = COLUMNS[CPU] - 1


class Lore:
    """Counts by demand, and tables made of them."""

    def __init__(self) -> None:
        self.tables: Tables = tables_of((), CPU_SCALAR)
        self._counts: dict[Resources, int] = {}
        self._tasks = 0
        self._moved = 0
        self._described: dict[Sort, int] = {}
        """The counts that the tables were made of."""
        self._fleet: Fleet | None = None

    def count(self, per_task: Resources, tasks: int) -> None:
        """So many more tasks wait or run; negative: fewer."""
        left = self._counts.get(per_task, 0) + tasks
        if left:
            self._counts[per_task] = left
        else:
            del self._counts[per_task]
        self._tasks += tasks
        self._moved += abs(tasks)

    def settle(self, fleet: Fleet) -> None:
        """Look whether the tables still describe the demand on this fleet."""
        if not len(fleet.device_size):
            return
        if self._fleet is fleet and self._moved * LOOKS_PER_MIX <= self._tasks:
            return
        self._moved = 0
        now: dict[Sort, int] = {}
        for per_task, tasks in self._counts.items():
            sort = _sort_of(fleet, per_task)
            now[sort] = now.get(sort, 0) + tasks
        if self._fleet is not fleet or drift(now, self._described) > DRIFT_MAX:
            self.tables = tables_of(typical(now), CPU_SCALAR)
            self._fleet, self._described = fleet, now

    def learn_from(self, other: Lore, fleet: Fleet) -> None:
        """Take over what another has learned; `fleet` is an equal of the one that it looked at."""
        self.tables, self._described, self._moved = other.tables, other._described, other._moved
        self._fleet = fleet


def _sort_of(fleet: Fleet, per_task: Resources) -> Sort:
    need = need_of(per_task)
    return Sort(int(totals_of(per_task)[COLUMNS[CPU]]), need.milli, need.devices, fleet.shapes.mask(need.kinds))
