"""Where and when jobs run: pure decisions on plain arrays, behind one door, `plan_round`.

`rows` are the inputs; `state` what is remembered between rounds, with `fleet`, `waiting`, `leases`, `levels`, `demand` and
`lore` as its parts; `windows` is what is promised to classes, and `offering` says where one fits; `kernels` decide; `rounds`
is the round; `plan` the outcome; `explaining` the words; `reference` the slow obvious twin.
README.md is the method in one page. No clock, no randomness, no I/O.
"""

from federation.scheduling.explaining import explain
from federation.scheduling.plan import Plan
from federation.scheduling.policy import Policy
from federation.scheduling.rounds import plan_round
from federation.scheduling.rows import Delta
from federation.scheduling.state import PlannerState

__all__ = ["Delta", "Plan", "PlannerState", "Policy", "explain", "plan_round"]
