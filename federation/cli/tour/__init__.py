"""The tour: a three-hub federation on this machine, real data, and what the federation promises, step by step.

Each step runs through the same doors as everyone's work (the client, the command line, JupyterHub) and checks what came out
against something computed in another way. `steps.py` are the steps, `lab.py` the one at JupyterHub, `jobs/` the programs
that are submitted.
"""

from federation.cli.tour.running import run
from federation.cli.tour.steps import CORE, FULL


def run_tour(*, core: bool, keep: bool) -> int:
    """The whole tour, or the small one; its exit status."""
    return run(CORE if core else FULL, keep)


__all__ = ["run_tour"]
