"""An agent's link and its session: how long ago (hub, agent) was heard of, and who may speak for it.

Unknown is not dead: SUSPECT and LOST stop new work and free nothing. `LINK_TABLE` and `SESSION_TABLE` are the whole truth
on what may follow what. An agent begins ONLINE, with its first session.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import replace

from federation.domain.hub import LOST_AFTER_MS, SUSPECT_AFTER_MS, Agent, LinkState
from federation.errors import Code, Fault, FederationError
from federation.lifecycle.table import next_state

PROTOCOL_MIN, PROTOCOL_MAX = 1, 1


class LinkTrigger(enum.StrEnum):
    """What can happen to a link, past tense."""

    HEARD = "AgentHeard"
    """It opened a session, or a call of its session came."""
    FELL_SILENT = "AgentFellSilent"
    """Nothing for `SUSPECT_AFTER_MS`."""
    STAYED_AWAY = "AgentStayedAway"
    """Nothing for `LOST_AFTER_MS`."""
    CONTROL_STARTED = "ControlStarted"
    """The control plane was away itself: whoever has not spoken to it yet gets no work, and full grace."""


class SessionState(enum.StrEnum):
    """Whether somebody may speak for the agent."""

    NONE = "NONE"
    OPEN = "OPEN"


class SessionTrigger(enum.StrEnum):
    """What can happen to an agent's session, past tense."""

    OPENED = "SessionOpened"
    """By its first instance, or by the same again: an older session of it is superseded."""
    TAKEN_OVER = "SessionTakenOver"
    """By another instance, when the one before has been silent for `SUSPECT_AFTER_MS`."""
    IDENTITY_CLAIMED = "IdentityClaimed"
    """By another instance, while the one before was heard of: two machines must not share one identity."""
    HEARD = "SessionHeard"
    OLDER_HEARD = "OlderSessionHeard"
    """A session speaks that a newer one has superseded."""
    CONTROL_STARTED = "ControlStarted"
    """Sessions are kept in memory only."""


_LINK, _L, _S, _T = LinkState, LinkTrigger, SessionState, SessionTrigger

LINK_TABLE: Mapping[LinkState, Mapping[LinkTrigger, LinkState | None]] = {
    _LINK.ONLINE: {
        _L.HEARD: None,
        _L.FELL_SILENT: _LINK.SUSPECT,
        _L.STAYED_AWAY: _LINK.LOST,
        _L.CONTROL_STARTED: _LINK.SUSPECT,
    },
    _LINK.SUSPECT: {
        _L.HEARD: _LINK.ONLINE,
        _L.FELL_SILENT: None,
        _L.STAYED_AWAY: _LINK.LOST,
        _L.CONTROL_STARTED: None,
    },
    # Only being heard of makes a link better, whatever the clock says; a start makes the silence our own.
    _LINK.LOST: {
        _L.HEARD: _LINK.ONLINE,
        _L.FELL_SILENT: None,
        _L.STAYED_AWAY: None,
        _L.CONTROL_STARTED: _LINK.SUSPECT,
    },
}
"""Link state and trigger -> next state; None: it stays as it is."""

SESSION_TABLE: Mapping[SessionState, Mapping[SessionTrigger, SessionState | Code | None]] = {
    _S.NONE: {
        _T.OPENED: _S.OPEN,
        _T.TAKEN_OVER: _S.OPEN,
        _T.IDENTITY_CLAIMED: Code.IDENTITY_IN_USE,
        _T.HEARD: Code.SESSION_UNKNOWN,
        _T.CONTROL_STARTED: None,
    },
    _S.OPEN: {
        _T.OPENED: None,
        _T.TAKEN_OVER: None,
        _T.IDENTITY_CLAIMED: Code.IDENTITY_IN_USE,
        _T.HEARD: None,
        _T.OLDER_HEARD: Code.SESSION_SUPERSEDED,
        _T.CONTROL_STARTED: _S.NONE,
    },
}
"""Session state and trigger -> next state, or the code with which it is refused; None: it stays as it is."""


def negotiated(agent_min: int, agent_max: int) -> int:
    """The newest protocol that both speak; PROTOCOL_UNSUPPORTED when there is none."""
    protocol = min(agent_max, PROTOCOL_MAX)
    if protocol < max(agent_min, PROTOCOL_MIN):
        older = "agent" if agent_max < PROTOCOL_MIN else "control plane"
        raise FederationError(
            Code.PROTOCOL_UNSUPPORTED,
            f"the agent speaks protocols {agent_min} to {agent_max}, this control plane {PROTOCOL_MIN} to {PROTOCOL_MAX}",
            fault=Fault.HUB if older == "agent" else Fault.FEDERATION,
            hint=f"Upgrade the {older}. Runs go on meanwhile, to their deadlines.",
            metadata={"agent_min": str(agent_min), "agent_max": str(agent_max), "upgrade": older},
        )
    return protocol


def admit(present: Agent | None, arriving: Agent, now_ms: int) -> Agent:
    """The agent after a new session. The same instance supersedes its older one; IDENTITY_IN_USE for another too soon."""
    trigger = SessionTrigger.OPENED
    if present is not None and present.instance_id != arriving.instance_id:
        silent = now_ms - present.last_sync_ms >= SUSPECT_AFTER_MS
        trigger = SessionTrigger.TAKEN_OVER if silent else SessionTrigger.IDENTITY_CLAIMED
    _step_session(present, trigger, arriving)
    return _heard_of(replace(arriving, link=present.link if present else LinkState.ONLINE), now_ms)


def speaking(agent: Agent | None, session_id: str) -> Agent:
    """The agent that calls with `session_id`. `agent` is the one whose session that is or last was; None: nobody's.

    SESSION_UNKNOWN when it is not open here, SESSION_SUPERSEDED when a newer one took its place.
    """
    older = agent is not None and agent.session_id != session_id
    _step_session(agent, SessionTrigger.OLDER_HEARD if older else SessionTrigger.HEARD, agent)
    assert agent is not None, "a call of nobody's session is refused"
    return agent


def heard(agent: Agent | None, session_id: str, now_ms: int) -> Agent:
    """The agent after a call of `session_id`; refused as by `speaking`."""
    return _heard_of(speaking(agent, session_id), now_ms)


def aged(agent: Agent, now_ms: int) -> Agent:
    """The agent with the link state that its silence has earned; the same object while that is none."""
    silent_ms = now_ms - agent.last_sync_ms
    if silent_ms < SUSPECT_AFTER_MS:
        return agent
    trigger = LinkTrigger.STAYED_AWAY if silent_ms >= LOST_AFTER_MS else LinkTrigger.FELL_SILENT
    link = _step_link(agent, trigger)
    return agent if link is agent.link else replace(agent, link=link)


def restarted(agent: Agent, now_ms: int) -> Agent:
    """The agent as a control plane finds it that has just started: without a session, and with full grace."""
    _step_session(agent, SessionTrigger.CONTROL_STARTED, agent)
    return replace(agent, last_sync_ms=now_ms, link=_step_link(agent, LinkTrigger.CONTROL_STARTED), session_id="")


def _heard_of(agent: Agent, now_ms: int) -> Agent:
    return replace(agent, link=_step_link(agent, LinkTrigger.HEARD), last_sync_ms=now_ms)


def _step_link(agent: Agent, trigger: LinkTrigger) -> LinkState:
    return next_state(LINK_TABLE, agent.link, trigger, f"agent {agent.agent_id} of hub {agent.hub_id}")


_SAID = {
    Code.IDENTITY_IN_USE: (
        "another machine is agent {agent} of hub {hub}",
        "Give this machine an agent_id of its own, or stop the other and wait a minute.",
        Fault.HUB,
    ),
    Code.SESSION_UNKNOWN: ("this session is not open here", "Open a session; runs go on meanwhile.", Fault.FEDERATION),
    Code.SESSION_SUPERSEDED: ("agent {agent} of hub {hub} has a newer session", "Open a session.", Fault.HUB),
}


def _step_session(agent: Agent | None, trigger: SessionTrigger, named: Agent | None) -> None:
    """Refuse what the table refuses. Where a session goes is its id, which the caller keeps."""
    state = SessionState.OPEN if agent is not None and agent.session_id else SessionState.NONE
    verdict = next_state(SESSION_TABLE, state, trigger, "a session")
    if isinstance(verdict, Code):
        message, hint, fault = _SAID[verdict]
        names = {"hub_id": named.hub_id, "agent_id": named.agent_id} if named is not None else {}
        words = message.format(agent=names.get("agent_id", ""), hub=names.get("hub_id", ""))
        raise FederationError(verdict, words, fault=fault, hint=hint, metadata=names)
