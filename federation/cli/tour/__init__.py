"""The tour: a three-hub federation on this machine, real data, and what the federation promises, step by step.

Each step runs through the same doors as everyone's work (the client, the command line, JupyterHub) and checks what came out
against something computed in another way. `steps.py` are the steps, `lab.py` the one at JupyterHub, `jobs/` the programs
that are submitted.
"""

from federation.cli.tour.running import run_tour

__all__ = ["run_tour"]
