"""Why a sort of job waits at each hub, after a round: the lowest step of the hub's agents."""

from __future__ import annotations

from federation.scheduling.kernels.fill import Round, UInt8, tasks_now
from federation.scheduling.kernels.gangs import TASKS_MAX, tasks_at
from federation.scheduling.kernels.jit import lean
from federation.scheduling.kernels.room import Int64, Nodes


@lean
def reasons(of: Round, before: Nodes, sorts: Int64, codes: UInt8, full: bool, steps: UInt8) -> None:
    """Into `steps` uint8 (len(sorts), H) the obstacle of each of `sorts` at each hub.

    `before` is the room that the round began with; `codes` are the steps for: others were first, a promised start is in
    the way, no room. `full`: the round ended before everybody had a turn.
    """
    for row in range(len(sorts)):
        sort = int(sorts[row])
        shape, replicas = int(of.sorts.shape[sort]), int(of.sorts.replicas[sort])
        for hub in range(steps.shape[1]):
            lowest = 255
            for agent in range(of.agents.hub_first[hub], of.agents.hub_first[hub + 1]):
                step = int(of.sorts.steps[sort, agent])
                if step == 0:
                    begin, end = of.work.counted.first[agent], of.work.counted.first[agent + 1]
                    if tasks_now(of.work.counted, of.work.room, of.shapes, shape, agent) >= replicas:
                        step = int(codes[0] if full else codes[1])
                    elif tasks_at(before, of.shapes, shape, begin, end, TASKS_MAX) >= replicas:
                        step = int(codes[0])
                    else:
                        step = int(codes[2])
                lowest = min(lowest, step)
            steps[row, hub] = lowest
