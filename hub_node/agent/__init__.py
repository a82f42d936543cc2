"""The agent at work: one thread that holds what is true, one thread a run, and nothing that both may write.

Orders and facts arrive in one queue (`state.py`), are decided on and saved (`register.py`), and only then spoken of or acted upon.
A run's thread (`attempt.py`) stages, starts, watches and sends the result, and tells facts. `logs.py` answers readers.
Deliberately not here: gRPC (`link.py`), SQL (`journal.py`), what a lease or an epoch means (`reconcile.py`).
"""
