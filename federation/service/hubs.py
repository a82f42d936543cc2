"""Hubs: look, drain, and take that back."""

from __future__ import annotations

from dataclasses import dataclass, replace

from federation.domain.hub import Agent, Hub, HubState
from federation.domain.ids import HubId
from federation.domain.lease import Lease
from federation.errors import Code, not_found
from federation.service.jobs import drop_claim
from federation.service.world import Unit


@dataclass(frozen=True, slots=True)
class HubView:
    """A hub with its agents and what is leased there at the moment."""

    hub: Hub
    agents: tuple[Agent, ...]
    leases: tuple[Lease, ...]


def find_hub(unit: Unit, hub_id: str) -> Hub:
    """The hub; HUB_NOT_FOUND."""
    hub = unit.world.hubs.get(HubId(hub_id))
    if hub is None:
        raise not_found(Code.HUB_NOT_FOUND, "hub", hub_id[:80], hint="`brhub hub list` shows the hubs.")
    return hub


def view(unit: Unit, hub_id: str) -> HubView:
    """One hub."""
    hub = find_hub(unit, hub_id)
    agents = tuple(sorted((one for one in unit.world.agents.values() if one.hub_id == hub.id), key=lambda one: one.key))
    leases = tuple(lease for agent in agents for lease in unit.world.held_by(agent.key))
    return HubView(hub, agents, leases)


def views(unit: Unit) -> list[HubView]:
    """All hubs, by id."""
    return [view(unit, hub_id) for hub_id in sorted(unit.world.hubs)]


def drain(unit: Unit, hub_id: str, note: str, actor: str, undo: bool = False) -> HubView:
    """Start nothing new at a hub, or take that back. Repeating it changes nothing; what runs goes on."""
    hub = find_hub(unit, hub_id)
    state = HubState.ACTIVE if undo else HubState.DRAINING
    if hub.state is not state:
        unit.put_hub(replace(hub, state=state, note="" if undo else note))
        kind = "HubUndrained" if undo else "HubDrained"
        unit.event("hub", hub.id, kind, cause="DrainHub", actor=actor, payload={"note": note})
        for job in unit.world.claiming() if not undo else ():
            if job.claim is not None and job.claim.hub_id == hub.id:
                drop_claim(unit, job, "HUB_DRAINING", f"hub {hub.id} takes no new work", cause="DrainHub", actor=actor)
    return view(unit, hub_id)
