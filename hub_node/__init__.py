"""The program that a hub runs: it dials out, takes leases, and runs them. Read `agent.py` first."""
