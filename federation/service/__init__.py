"""What the control plane does, one module per use case: load, decide, save, then speak. No SQL, no protobuf.

Everything here runs on one writer thread (`writer.py`); `world.py` is what it keeps in memory; rounds are planned on
another thread from a snapshot and come back as a command like any other (`rounds.py`).
"""
