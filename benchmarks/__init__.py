"""Benchmarks: one module, one question; `python -m benchmarks list` names them.

Each prints figures as JSON lines, with a baseline measured in the same run beside it wherever one can run here. What
several of them start (a control plane, an agent, a load) is in `apparatus`. Nothing of the product imports this room.
"""
