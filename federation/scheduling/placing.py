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

    def place(self, terms: Terms, replicas: int) -> Place | None:
        """Take room for `replicas` tasks; None, and nothing taken, when no open agent has it."""
        if not terms.open_agents.size:
            return None
        per_node = tasks_that_fit(self.free, terms.shape, replicas)
        per_agent = sums_by_agent(per_node, self._grid.first)
        fitting = np.flatnonzero(per_agent[terms.open_agents] >= replicas)
        if not fitting.size:
            return None
        best = terms.open_agents[fitting[terms.ranks[fitting] == terms.ranks[fitting[0]]]]
        agent = int(best[np.argmin(self._loads[best])])
        rows = self._rows(agent, per_node, terms.shape, replicas)
        self._take(agent, rows, terms.shape)
        return Place(agent, rows)

    def _rows(self, agent: int, per_node: Int64, shape: Shape, replicas: int) -> Int64:
        """The node row of each task, best fit.

        A node that is the fullest after one task is so after the next too, because each task leaves less on it: so the
        nodes are filled one after the other. A node with devices the job does not ask for comes last.
        """
        begin, end = int(self._grid.first[agent]), int(self._grid.first[agent + 1])
        if end - begin == 1:
            return np.full(replicas, begin, np.int64)
        left = self.free[begin:end][:, shape.need_columns] - shape.take_at_need
        offered = self._grid.offered[begin:end]
        share = np.zeros(left.shape)
        np.divide(left, offered[:, shape.need_columns], out=share, where=offered[:, shape.need_columns] > 0)
        stranded = (offered[:, self._grid.device_columns(shape)] > 0).any(axis=1)
        order = np.lexsort((share.max(axis=1), stranded))
        filled = np.repeat(order + begin, per_node[begin:end][order])
        return filled[:replicas]

    def _take(self, agent: int, rows: Int64, shape: Shape) -> None:
        taken, tasks = np.unique(rows, return_counts=True)
        self.free[np.ix_(taken, shape.take_columns)] -= tasks[:, None] * shape.take
        self._used[agent] += len(rows) * shape.total_take
        self._loads[agent] = self._grid.load_of(self._used[agent], agent)
