"""Calls through slow, lossy, firewalled links: bytes go in, bytes or an error come out, and anything may happen between.

A `Line` is what lies between one place and the control plane. Within a call every message may be late, lost, doubled or
overtaken; a partition swallows one direction or both without a word, as a firewall does; a dead process refuses at once.
What a caller sees is what gRPC would show: an answer, an error, or its own deadline.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from federation.errors import Code, Fault, FederationError
from federation.simulation.stage import Life, Stage

Answer = Callable[[bytes | FederationError], None]


@dataclass(slots=True)
class Line:
    """What lies between a place and the control plane. Times in ms, chances from 0 to 1."""

    name: str
    latency_ms: float = 40.0
    jitter_ms: float = 20.0
    up_cut: bool = False
    """Nothing reaches the control plane."""
    down_cut: bool = False
    """Nothing comes back."""
    loss: float = 0.0
    doubling: float = 0.0
    drag_ms: float = 0.0
    """Every message takes so much longer."""
    stray_ms: float = 0.0
    """Some messages take up to so much longer, and others overtake them."""


@dataclass(frozen=True, slots=True)
class Call:
    """What is asked, by whom, and how long the caller waits."""

    method: str
    caller: str
    request: bytes
    timeout_ms: int


class Servant(Protocol):
    """Who answers calls."""

    def receive(self, method: str, caller: str, request: bytes, answer: Answer) -> None:
        """A request of `caller` (a hub's id, or "home hub/name") has come; `answer` is called once, or never when the servant dies silently."""


class Network:
    """Carries calls. One for the whole federation."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def call(
        self,
        line: Line,
        servant: Servant,
        call: Call,
        life: Life,
        answer: Answer,
    ) -> None:
        """Send it; `answer` gets the reply, the servant's error, or UNREACHABLE at the deadline. Never twice."""
        done = False

        def finish(reply: bytes | FederationError) -> None:
            nonlocal done
            if not done and life.alive:
                done = True
                answer(reply)

        def back(reply: bytes | FederationError) -> None:
            self._carry(line, line.down_cut, lambda: finish(reply))

        self._carry(line, line.up_cut, lambda: servant.receive(call.method, call.caller, call.request, back))
        self._stage.after(call.timeout_ms, lambda: finish(_silence(call.timeout_ms)), life)

    def _carry(self, line: Line, cut: bool, deliver: Callable[[], None]) -> None:
        chance = self._stage.chance
        if cut or chance.random() < line.loss:
            return
        for _ in range(2 if chance.random() < line.doubling else 1):
            delay_ms = line.latency_ms + line.drag_ms + chance.random() * line.jitter_ms
            if line.stray_ms and chance.random() < 0.3:
                delay_ms += chance.random() * line.stray_ms
            self._stage.after(delay_ms, deliver)


def _silence(timeout_ms: int) -> FederationError:
    return FederationError(
        Code.UNREACHABLE,
        f"no answer within {timeout_ms} ms",
        fault=Fault.NETWORK,
        hint="Try again.",
    )


def refused() -> FederationError:
    """Nobody listens there."""
    return FederationError(Code.UNREACHABLE, "connection refused", fault=Fault.NETWORK, hint="Try again.")
