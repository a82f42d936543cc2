"""How long to wait before the next try: the one law of everything that tries again.

The pause doubles with each failure up to a longest one, and chance takes up to half of it away: a thousand programs that
lost the same link at the same moment come back spread over half of the longest pause, not in one wave. Pure: chance is
an argument. Deliberately not here: what is worth another try, and where (`federation/client/lines.py`).
"""

from __future__ import annotations

_DOUBLINGS_MAX = 30


def pause_s(failures: int, first_s: float, longest_s: float, chance: float) -> float:
    """Seconds to wait after `failures` (from 1) in a row: min(longest, first * 2^(failures-1)) * (1/2 .. 1).

    `chance` in [0, 1) is drawn anew for each pause; 1 gives the whole.
    """
    grown_s = min(longest_s, first_s * 2 ** min(max(0, failures - 1), _DOUBLINGS_MAX))
    return float(grown_s * (0.5 + chance / 2))


class Rounds:
    """Failures in a row where several addresses may answer: the next one is tried at once, a pause follows each round."""

    def __init__(self, addresses: int) -> None:
        self._addresses = addresses
        self._moves = self._rounds = 0

    def failed(self, moves: bool) -> int:
        """One more try failed; `moves`: the next goes to another address.

        How many rounds have failed, from 1, for `pause_s`; 0: the next address was not tried in this round, so do not wait.
        """
        self._moves += moves
        if moves and self._moves % self._addresses:
            return 0
        self._rounds += 1
        return self._rounds

    def good(self) -> None:
        """It went well: the next failure is the first."""
        self._moves = self._rounds = 0
