"""What the transition tables have in common: a row for each state, a cell for each event, and the refusal of the rest."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TypeVar

from federation.errors import Code, Fault, FederationError

S = TypeVar("S", bound=enum.StrEnum)
E = TypeVar("E", bound=enum.StrEnum)
R = TypeVar("R")


def next_state(table: Mapping[S, Mapping[E, R | None]], state: S, event: E, what: str) -> S | R:
    """Where `event` leads from `state`, or the code with which it is refused; a cell of None: it stays.

    Raises: ILLEGAL_TRANSITION when the row has no such cell.

    `what` names the thing for people: "hub cairo".
    """
    row = table[state]
    if event not in row:
        raise FederationError(
            Code.ILLEGAL_TRANSITION,
            f"{what} is {state} and {event} cannot follow",
            fault=Fault.CALLER,
            metadata={"state": state, "event": event},
        )
    target = row[event]
    return state if target is None else target
