"""An agent's session and link: who speaks for (hub, agent), and how long ago it was heard of.

Unknown is not dead: SUSPECT and LOST stop new work and free nothing.
"""

from __future__ import annotations

from dataclasses import replace

from federation.domain.hub import LOST_AFTER_MS, SUSPECT_AFTER_MS, Agent, LinkState
from federation.errors import Code, Fault, FederationError

PROTOCOL_MIN, PROTOCOL_MAX = 1, 1
_WORSE = (LinkState.ONLINE, LinkState.SUSPECT, LinkState.LOST)


def negotiated(agent_min: int, agent_max: int) -> int:
    """The newest protocol that both speak; PROTOCOL_UNSUPPORTED when there is none."""
    protocol = min(agent_max, PROTOCOL_MAX)
    if protocol < max(agent_min, PROTOCOL_MIN):
        raise FederationError(
            Code.PROTOCOL_UNSUPPORTED,
            f"the agent speaks protocols {agent_min} to {agent_max}, this control plane {PROTOCOL_MIN} to {PROTOCOL_MAX}",
            fault=Fault.HUB if agent_max < PROTOCOL_MIN else Fault.FEDERATION,
            hint="Update the older of the two.",
            metadata={"agent_min": str(agent_min), "agent_max": str(agent_max)},
        )
    return protocol


def admit(present: Agent | None, arriving: Agent, now_ms: int) -> Agent:
    """The agent after a new session. The same instance supersedes its older one.

    Another instance with the same name is IDENTITY_IN_USE while the first was heard of within 60 s: two machines must
    not share one identity.
    """
    if (
        present is not None
        and present.instance_id != arriving.instance_id
        and now_ms - present.last_sync_ms < SUSPECT_AFTER_MS
    ):
        raise FederationError(
            Code.IDENTITY_IN_USE,
            f"another machine is agent {arriving.agent_id} of hub {arriving.hub_id}",
            fault=Fault.HUB,
            hint="Give this machine an agent_id of its own, or stop the other and wait a minute.",
            metadata={"hub_id": arriving.hub_id, "agent_id": arriving.agent_id},
        )
    return replace(arriving, link=LinkState.ONLINE, last_sync_ms=now_ms)


def heard(agent: Agent, session_id: str, now_ms: int) -> Agent:
    """The agent after a sync; SESSION_SUPERSEDED when a newer session took its place."""
    if agent.session_id != session_id:
        raise FederationError(
            Code.SESSION_SUPERSEDED,
            f"agent {agent.agent_id} of hub {agent.hub_id} has a newer session",
            fault=Fault.HUB,
            hint="Open a session.",
            metadata={"hub_id": agent.hub_id, "agent_id": agent.agent_id},
        )
    return replace(agent, link=LinkState.ONLINE, last_sync_ms=now_ms)


def aged(agent: Agent, now_ms: int) -> Agent:
    """The agent with the link state that its silence has earned. Only being heard of makes a link better."""
    silent_ms = now_ms - agent.last_sync_ms
    link = LinkState.ONLINE
    if silent_ms >= LOST_AFTER_MS:
        link = LinkState.LOST
    elif silent_ms >= SUSPECT_AFTER_MS:
        link = LinkState.SUSPECT
    return agent if _WORSE.index(link) <= _WORSE.index(agent.link) else replace(agent, link=link)
