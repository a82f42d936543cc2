"""WHAT IS: how jobs, leases and agents move between states, and what must hold of them. Pure: time is an argument.

`job.py` steps a job together with its one live lease, `agent.py` a session and its link, `commit.py` verifies a Plan on
the latest state, `invariants.py` says what must be true after every step. Where and when is `federation/scheduling`.
"""
