"""Two control planes and one store: who leads, who takes over, and which of them a caller reaches.

It stands for `store/leadership.py`, which needs PostgreSQL, threads and a real clock: a row with the leader's epoch, which
every write transaction looks at; a leader that ends itself when it could not renew for `SILENT_S_MAX`; a standby that takes
over after `TAKEOVER_S`. Renewals that succeed change nothing and are not played: a seat knows since when they fail.
Deliberately not here: what a control plane does (`plane.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from federation.simulation.network import Answer, refused
from federation.simulation.plane import SimulatedPlane
from federation.simulation.stage import Stage
from federation.store.leadership import LOOK_S, RENEW_S, TAKEOVER_S

TAKEOVER_MS = int(TAKEOVER_S * 1_000)
AWAKE_MS_MAX = 300.0
"""A process that goes on does what it was about to do before its watch has looked."""


class Pair:
    """See the module. A `network.Servant`: its two addresses are tried like those of a client that names both."""

    def __init__(self, stage: Stage, first: SimulatedPlane, another: Callable[[], SimulatedPlane]) -> None:
        self._stage = stage
        self._planes = [first]
        self._another = another
        self._reached: dict[str, SimulatedPlane] = {}
        """Caller -> where its connection goes."""
        self.leading = first
        """The newest leader; it may be gone."""
        self.when_taken_over: Callable[[], None] = lambda: None

    # ---- the door ---------------------------------------------------------------------------------------------------
    def receive(self, method: str, caller: str, request: bytes, answer: Answer) -> None:
        """A call reaches whom the caller is connected to; where nobody listens it is connected to the other."""
        plane = self._reached.setdefault(caller, self.leading)
        if not plane.life.alive:
            plane = self._reached[caller] = next((one for one in self._planes if one.life.alive), plane)
        if plane.life.alive and plane.life.missed is not None:
            # it lies in a socket's buffer until the process goes on; the caller's keepalive finds the other one
            plane.life.missed.append(partial(plane.receive, method, caller, request, answer))
            self._reached[caller] = self.leading
        elif plane.life.alive:
            plane.receive(method, caller, request, answer)
        else:
            answer(refused())

    # ---- what befalls the leader ------------------------------------------------------------------------------------
    def kill(self) -> None:
        """The leader is gone, and a standby is there."""
        plane = self.leading
        plane.crash("killed, and a standby waits")
        self._stand_by(plane)

    def stop(self) -> Callable[[], None] | None:
        """The leader's process is stopped, or its machine paused, in the middle of whatever it did; the answer lets it go on."""
        plane, life = self.leading, self.leading.life
        if not life.alive or life.missed is not None:
            return None
        life.missed = []
        plane.seat.hush(self._last_renewed_ms())
        self._stand_by(plane)

        def go_on() -> None:
            self._stage.go_on(life)
            self._stage.after(self._stage.chance.random() * AWAKE_MS_MAX, partial(self._renew, plane), life)

        return go_on

    def cut(self) -> Callable[[], None] | None:
        """The leader does not reach the store any more, everybody reaches the leader; the answer mends it."""
        plane = self.leading
        if not plane.life.alive or plane.seat.cut:
            return None
        plane.seat.cut = True
        plane.seat.hush(self._last_renewed_ms())
        self._stand_by(plane)
        left_ms = plane.seat.ends_ms - self._stage.now_ms + self._stage.chance.random() * LOOK_S * 1_000
        self._stage.after(left_ms, partial(self._renew, plane), plane.life)

        def mend() -> None:
            plane.seat.cut = False
            if plane.life.alive and plane.life.missed is None:
                self._renew(plane)

        return mend

    def _last_renewed_ms(self) -> int:
        return self._stage.now_ms - int(self._stage.chance.random() * RENEW_S * 1_000)

    def _renew(self, plane: SimulatedPlane) -> None:
        """The leader's own watch: it renews if it can, and ends where it is too late for that."""
        if not plane.seat.still() or plane.seat.deposed:
            plane.crash("it may not lead any more")
        elif not plane.seat.cut:
            plane.seat.renewed()

    # ---- who follows ------------------------------------------------------------------------------------------------
    def _stand_by(self, of: SimulatedPlane) -> None:
        """A standby looks at the leader's row."""
        due_ms = of.seat.silent_ms + TAKEOVER_MS + self._stage.chance.random() * LOOK_S * 1_000
        self._stage.after(due_ms - self._stage.now_ms + 1, partial(self._take_over, of, of.seat.epoch))

    def _take_over(self, of: SimulatedPlane, epoch: int) -> None:
        silent_ms = self._stage.now_ms - of.seat.silent_ms
        if self.leading is not of or of.seat.row.epoch != epoch or silent_ms < TAKEOVER_MS:
            return  # it leads again, or another does
        if len(self._planes) == 1:
            self._planes.append(self._another())
        (other,) = (plane for plane in self._planes if plane is not of)
        if other.life.alive:
            return  # stopped since it was deposed: nobody stands by
        self.leading = other
        self._stage.tell(other.who, "takes over")
        other.boot()
        self.when_taken_over()
