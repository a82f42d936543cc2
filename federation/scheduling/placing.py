"""Where a gang goes: all its tasks within one agent, on what is still free in this round.

The best-liked agent with room (the job's preferred hubs, then its home hub, then the others), then the least loaded,
then by key. Inside the agent best fit: each task goes to the node that it leaves fullest. Deliberately not here: whose
turn it is (`order.py`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from federation.scheduling.demand import Terms
from federation.scheduling.grid import Grid, Int64, Shape, sums_by_agent, tasks_that_fit

AGENTS_RECOUNTED_MAX = 2
NODES_PER_RECOUNT = 500
"""Counting one agent anew costs about as much as counting 500 nodes at once; see `Room._tasks_per_agent`."""


class Place(NamedTuple):
    """An agent's place in the grid, and the node row of each task."""

    agent: int
    rows: Int64


class Room:
    """What is free while a round goes on: it begins as the grid's and only shrinks."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self.free = grid.free.copy()
        self._used = grid.agent_used.copy()
        self._loads = grid.loads()
        self._touched: list[int] = []
        """The agents that gave room, in order."""
        self._counted: dict[tuple[int, int], tuple[Int64, int]] = {}
        """By shape and most tasks: (A,) tasks that fit each agent, and how much of `_touched` it knows."""

    def place(self, terms: Terms, replicas: int, liking: Int64) -> Place | None:
        """Take room for `replicas` tasks where `liking` int64 (A,) is smallest; None when no open agent has it."""
        if not terms.open_agents.size:
            return None
        per_agent = self._tasks_per_agent(terms.shape, replicas)
        fitting = terms.open_agents[per_agent[terms.open_agents] >= replicas]
        if not fitting.size:
            return None
        liked = liking[fitting]
        best = fitting[liked == liked.min()]
        agent = int(best[np.argmin(self._loads[best])])
        rows = self._rows(agent, terms.shape, replicas)
        self._take(agent, rows, terms.shape)
        return Place(agent, rows)

    def _tasks_per_agent(self, shape: Shape, most: int) -> Int64:
        """(A,) how many tasks fit at each agent; counted once, then again only where room was taken since."""
        first = self._grid.first
        counted = self._counted.get((id(shape), most))  # the waiting sort's terms keep the shape, so its id is its own
        changed = set() if counted is None else set(self._touched[counted[1] :])
        if counted is None or len(changed) > AGENTS_RECOUNTED_MAX + len(self.free) // NODES_PER_RECOUNT:
            per_agent = sums_by_agent(tasks_that_fit(self.free, shape, most), first)
        else:
            per_agent = counted[0]
            for agent in changed:
                per_agent[agent] = tasks_that_fit(self.free[first[agent] : first[agent + 1]], shape, most).sum()
        self._counted[id(shape), most] = (per_agent, len(self._touched))
        return per_agent

    def _rows(self, agent: int, shape: Shape, replicas: int) -> Int64:
        """The node row of each task, best fit.

        A node that is the fullest after one task is so after the next too, because each task leaves less on it: so the
        nodes are filled one after the other. A node with devices the job does not ask for comes last.
        """
        begin, end = int(self._grid.first[agent]), int(self._grid.first[agent + 1])
        if end - begin == 1:
            return np.full(replicas, begin, np.int64)
        free = self.free[begin:end]
        left = free[:, shape.need_columns] - shape.take_at_need
        offered = self._grid.offered[begin:end]
        share = np.zeros(left.shape)
        np.divide(left, offered[:, shape.need_columns], out=share, where=offered[:, shape.need_columns] > 0)
        stranded = (offered[:, self._grid.device_columns(shape)] > 0).any(axis=1)
        order = np.lexsort((share.max(axis=1), stranded))
        filled = np.repeat(order + begin, tasks_that_fit(free, shape, replicas)[order])
        return filled[:replicas]

    def _take(self, agent: int, rows: Int64, shape: Shape) -> None:
        taken, tasks = np.unique(rows, return_counts=True)
        self.free[np.ix_(taken, shape.take_columns)] -= tasks[:, None] * shape.take
        self._used[agent] += len(rows) * shape.total_take
        self._touched.append(agent)
        self._loads[agent] = self._grid.load_of(self._used[agent], agent)
