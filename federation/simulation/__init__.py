"""The federation in virtual time: one thread, no wall clock, the same input always the same outcome.

`clock` is time itself, `replay` runs a month of jobs through the real planner, `history` is the file that such a month is
kept in, `recording` makes one from a running federation, `sharing` applies hubs' share policies, `figures` sums up what
came of it. Deliberately not here: faults, and how a person is shown the figures (`federation/cli/simulate.py`).
"""

from federation.simulation.replay import HistoricJob, JobOutcome, Outcome, Replay, Run

__all__ = ["HistoricJob", "JobOutcome", "Outcome", "Replay", "Run"]
