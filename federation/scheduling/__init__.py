"""Where and when jobs run: pure decisions on plain arrays, behind one door, `plan_round`.

`rows` are the inputs, `state` what is remembered between rounds, `order` whose turn it is, `placing` where a gang
goes, `plan` the outcome, `explaining` the words; `reference` is the slow obvious twin. No clock, no randomness, no I/O.
"""

from federation.scheduling.explaining import explain
from federation.scheduling.plan import Plan
from federation.scheduling.policy import Policy
from federation.scheduling.rounds import plan_round
from federation.scheduling.rows import Delta
from federation.scheduling.state import PlannerState

__all__ = ["Delta", "Plan", "PlannerState", "Policy", "explain", "plan_round"]
