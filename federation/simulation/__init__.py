"""The federation in virtual time: one thread, no wall clock, the same input always the same outcome.

Two simulators. A month under another policy: `replay` runs its jobs through the real planner, `history` is the file that it
is kept in, `recording` makes one from a running federation, `sharing` applies hubs' share policies, `figures` sums up.
And everything with faults, by seed: `federated` is where to begin, `seeds` plays many. Deliberately not here: how a person
is shown what came of it (`federation/cli/simulate.py`, `seeds.py`).
"""

from federation.simulation.replay import HistoricJob, JobOutcome, Outcome, Replay, Run

__all__ = ["HistoricJob", "JobOutcome", "Outcome", "Replay", "Run"]
