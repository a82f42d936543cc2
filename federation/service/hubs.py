"""Hubs: look, welcome, drain, and take that back. `apply` is the only door through which the service steps a hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from federation.domain.hub import HUBS_MAX, Agent, Hub
from federation.domain.ids import HubId
from federation.domain.lease import Lease
from federation.errors import Code, Fault, FederationError, not_found
from federation.lifecycle.hub import HubFact, HubTrigger, step
from federation.service.jobs import drop_claim
from federation.service.world import Unit


@dataclass(frozen=True, slots=True)
class HubView:
    """A hub with its agents and what is leased there at the moment."""

    hub: Hub
    agents: tuple[Agent, ...]
    leases: tuple[Lease, ...]
    problems: tuple[str, ...] = ()
    """What its operator has to settle, each in a sentence."""


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
    problems = tuple(text for key, text in sorted(unit.world.problems.items()) if key[0] == hub.id)
    return HubView(hub, agents, leases, problems)


def views(unit: Unit) -> list[HubView]:
    """All hubs, by id."""
    return [view(unit, hub_id) for hub_id in sorted(unit.world.hubs)]


def apply(unit: Unit, hub: Hub, fact: HubFact, *, cause: str, actor: str) -> bool:
    """Step `hub` by `fact` and save what follows; whether anything did."""
    after = step(hub, fact)
    if after is hub:
        return False
    unit.put_hub(after)
    payload: Mapping[str, object] = {"from": hub.state, "to": after.state, "note": fact.note, "title": after.title}
    unit.event("hub", hub.id, fact.trigger, cause=cause, actor=actor, payload=payload)
    return True


def welcome(unit: Unit, hub_id: HubId, title: str, actor: str) -> None:
    """One of its agents opens a session: the hub is a member from now on, under the title that it gives itself."""
    hub = unit.world.hubs.get(hub_id)
    if hub is not None:
        if title:
            apply(unit, hub, HubFact(HubTrigger.RENAMED, title=title), cause="OpenSession", actor=actor)
        return
    if len(unit.world.hubs) >= HUBS_MAX:  # what a hub may offer is its part of what all may
        raise FederationError(
            Code.LIMIT_EXCEEDED,
            f"the federation has {len(unit.world.hubs)} hubs: {hub_id} would be one too many",
            fault=Fault.FEDERATION,
            hint="Put an agent in front of its machines that belongs to a hub that there is.",
            metadata={"hub_id": hub_id, "limit": str(HUBS_MAX)},
        )
    unit.put_hub(Hub(hub_id, title or hub_id))
    unit.event("hub", hub_id, "HubJoined", cause="OpenSession", actor=actor)


def drain(unit: Unit, hub_id: str, note: str, actor: str, undo: bool = False) -> HubView:
    """Start nothing new at a hub, or take that back. Repeating it changes nothing; what runs goes on."""
    hub = find_hub(unit, hub_id)
    fact = HubFact(HubTrigger.UNDRAINED if undo else HubTrigger.DRAINED, note=note)
    if apply(unit, hub, fact, cause="DrainHub", actor=actor) and not undo:
        for job in unit.world.claiming():
            if job.claim is not None and job.claim.hub_id == hub.id:
                drop_claim(unit, job, "HUB_DRAINING", f"hub {hub.id} takes no new work", cause="DrainHub", actor=actor)
    return view(unit, hub_id)
