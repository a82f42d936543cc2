"""The compiled inside of the planner: numba functions on plain arrays, which check nothing and allocate little.

Every kernel releases the GIL, is cached on disk so that a restart does not compile, and has a slow obvious twin in
`federation/scheduling/reference`. No fastmath and no unordered sums: a decision is the same on every machine. What
comes in was checked at the door (`federation/scheduling/checks.py`).
"""
