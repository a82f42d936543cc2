"""How long to wait before the next try: the one law of everything that tries again.

The pause doubles with each failure up to a longest one, and chance takes up to half of it away: a thousand programs that
lost the same link at the same moment come back spread over half of the longest pause, not in one wave. Pure: chance is
an argument. Deliberately not here: what is worth another try.
"""

from __future__ import annotations

_DOUBLINGS_MAX = 30


def pause_s(failures: int, first_s: float, longest_s: float, chance: float) -> float:
    """Seconds to wait after `failures` (from 1) in a row: min(longest, first * 2^(failures-1)) * (1/2 .. 1).

    `chance` in [0, 1) is drawn anew for each pause; 1 gives the whole.
    """
    grown_s = min(longest_s, first_s * 2 ** min(max(0, failures - 1), _DOUBLINGS_MAX))
    return float(grown_s * (0.5 + chance / 2))
