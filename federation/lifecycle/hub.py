"""A hub as a member: whether it takes new work. What runs there goes on in every state.

It begins ACTIVE, with the first session of one of its agents. How its agents are reached is `agent.py`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace

from federation.domain.hub import Hub, HubState
from federation.lifecycle.table import next_state


class HubTrigger(enum.StrEnum):
    """What can happen to a hub, past tense."""

    RENAMED = "HubRenamed"
    """Its own settings give it another title."""
    DRAINED = "HubDrained"
    UNDRAINED = "HubUndrained"


_ALWAYS = {HubTrigger.RENAMED: None}

HUB_TABLE: Mapping[HubState, Mapping[HubTrigger, HubState | None]] = {
    HubState.ACTIVE: {**_ALWAYS, HubTrigger.DRAINED: HubState.DRAINING, HubTrigger.UNDRAINED: None},
    HubState.DRAINING: {**_ALWAYS, HubTrigger.DRAINED: None, HubTrigger.UNDRAINED: HubState.ACTIVE},
}
"""Hub state and trigger -> next state; None: it stays as it is. Asking twice is harmless, so nothing is refused."""


@dataclass(frozen=True, slots=True)
class HubFact:
    """Something that happened to a hub."""

    trigger: HubTrigger
    title: str = ""
    """RENAMED: the new one."""
    note: str = ""
    """DRAINED: why, for people."""


def step(hub: Hub, fact: HubFact) -> Hub:
    """The hub after `fact`; the same object when nothing changed."""
    state = next_state(HUB_TABLE, hub.state, fact.trigger, f"hub {hub.id}")
    if fact.trigger is HubTrigger.RENAMED:
        return hub if hub.title == fact.title else replace(hub, title=fact.title)
    if state is hub.state:
        return hub
    return replace(hub, state=state, note=fact.note if state is HubState.DRAINING else "")
