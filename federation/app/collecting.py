"""How often Python looks for garbage in a process that holds a whole federation: seldom.

Modules and the loaded world live as long as the process, and what comes in is freed by counting. With Python's own
thresholds a look at everything stops all threads for a tenth of a second, in the middle of a round.
"""

from __future__ import annotations

import gc

THRESHOLDS = (50_000, 20, 50)
"""Python's own are for programs that make garbage in circles; ours is freed by counting, but for a little."""


def spare_the_collector() -> None:
    """From now on: look at what is new seldom, and at what is here never. Once, when everything is loaded."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
