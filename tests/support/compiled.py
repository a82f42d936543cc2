"""Which kernels small federations of all sorts call with types that the warm-up did not."""

from __future__ import annotations

import sys

from numba.core.dispatcher import Dispatcher

from federation.app.kernels import PLANNER, fresh_kernels, warm_up
from federation.scheduling import PlannerState, explain, plan_round
from tests.unit.scheduling.worlds import World

WORLDS, STEPS = 30, 4


def signatures() -> set[tuple[str, str, str]]:
    """(module, kernel, types) of all that is compiled in this process."""
    return {
        (name, attribute, str(signature))
        for name, module in tuple(sys.modules.items())
        if name.startswith(PLANNER)
        for attribute, value in vars(module).items()
        if isinstance(value, Dispatcher) and value.py_func.__module__ == name
        for signature in value.signatures
    }


def new_signatures() -> set[tuple[str, str, str]]:
    """What rounds and explanations compile after a warm-up: nothing, it should be."""
    fresh_kernels()
    warm_up()
    known = signatures()
    for seed in range(WORLDS):
        world, state = World(seed), PlannerState()
        for step in range(STEPS):
            delta, policy = world.change(step), world.policy()
            state, _ = plan_round(state, delta, policy, step * 10)
            for job in delta.queued:
                if job.job_id in state.queue:
                    explain(state, policy, job, step * 10)
    return signatures() - known
