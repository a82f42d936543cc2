"""The slow obvious twin of `plan_round`: dictionaries and loops, one job at a time, no memory between rounds.

It takes everything as one full `Delta` and gives the same `Plan`, exactly; the property tests hold the fast core to
it. It shares the row and plan types with the core, what a use of the past counts (`fairness.py`), and none of its
decisions. Nothing else may import it.
"""

from federation.scheduling.reference.promises import kept_slowly
from federation.scheduling.reference.world import plan_slowly, promised_slowly

__all__ = ["kept_slowly", "plan_slowly", "promised_slowly"]
