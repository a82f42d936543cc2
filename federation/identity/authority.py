"""The authority table: who may call what, for every gRPC method and every HTTP route. What has no row is refused.

A row says for each kind of principal how far it reaches (`Scope`); the service then asks `owns` or `speaks_for` about the
one thing at hand. A test compares this table with the descriptors, and the console's with its routes.
Deliberately not here: what a hub offers to whom (`federation/policy`), and quotas.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from federation.errors import Code, Fault, FederationError
from federation.identity.principal import OPERATOR, Principal, PrincipalKind


class Scope(enum.StrEnum):
    """How far a right reaches."""

    PUBLIC = "public"  # nobody is asked who they are
    ANY = "any"  # whatever the caller names
    OWN = "own"  # what the caller owns
    HUB_SELF = "hub-self"  # what belongs to the hub that the caller is a program of
    HUB_OPERATED = "hub-operated"  # the caller's home hub, where the caller has the role `operator`


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: the reach of each kind of principal. A kind that is not named may not call."""

    reach: Mapping[PrincipalKind, Scope] = field(default_factory=dict)
    public: bool = False


USER, HUB, ADMIN = PrincipalKind.USER, PrincipalKind.HUB, PrincipalKind.ADMIN
PUBLIC = Rule(public=True)
OWNERS = Rule({USER: Scope.OWN, ADMIN: Scope.ANY})
AGENTS = Rule({HUB: Scope.HUB_SELF})
MEMBERS = Rule({USER: Scope.ANY, HUB: Scope.ANY, ADMIN: Scope.ANY})
OPERATORS = Rule({USER: Scope.HUB_OPERATED, ADMIN: Scope.ANY})
JOBS, HUBS = "/federation.v1.JobService/", "/federation.v1.HubService/"

GRPC_RULES: Mapping[str, Rule] = {
    JOBS + "SubmitJobs": OWNERS,
    JOBS + "GetJob": OWNERS,
    JOBS + "ListJobs": OWNERS,
    JOBS + "WatchJobs": OWNERS,
    JOBS + "CancelJob": OWNERS,
    JOBS + "RetryJob": OWNERS,
    JOBS + "ReleaseJob": OPERATORS,
    JOBS + "ExplainJob": OWNERS,
    JOBS + "CreateUpload": OWNERS,
    JOBS + "ReadLogs": OWNERS,
    JOBS + "ListResults": OWNERS,
    HUBS + "OpenSession": AGENTS,
    HUBS + "SyncHub": AGENTS,
    HUBS + "PutLogChunk": AGENTS,
    HUBS + "CreateResultUpload": AGENTS,
    HUBS + "CreateCheckpointUpload": AGENTS,
    HUBS + "CommitCheckpoint": AGENTS,
    HUBS + "FindCheckpoints": AGENTS,
    HUBS + "ListHubs": MEMBERS,
    HUBS + "GetHub": MEMBERS,
    HUBS + "DrainHub": OPERATORS,
    HUBS + "GetPolicy": OWNERS,
    # Whoever looks for what is wrong may have no token, or the wrong one. Tells versions and the time, nothing of members.
    HUBS + "GetServerInfo": PUBLIC,
    HUBS + "WhoAmI": MEMBERS,
    # Whether we serve is asked by supervisors that have no token, and tells nothing else.
    "/grpc.health.v1.Health/Check": PUBLIC,
    "/grpc.health.v1.Health/Watch": PUBLIC,
    "/grpc.health.v1.Health/List": PUBLIC,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": MEMBERS,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": MEMBERS,
}

HTTP_RULES: Mapping[str, Rule] = {
    "GET /": OWNERS,
    "GET /hubs/{hub_id}": MEMBERS,
    "GET /jobs/{job_id}": OWNERS,
    "POST /jobs/{job_id}/cancel": OWNERS,
    "GET /jobs/{job_id}/results/{path:path}": OWNERS,
    "POST /hubs/{hub_id}/drain": OPERATORS,
    "GET /policy": OWNERS,
    "GET /events": OWNERS,
    "GET /metrics": MEMBERS,
    "GET /healthz": PUBLIC,
    "GET /login": PUBLIC,
    "POST /login": PUBLIC,
    "POST /logout": OWNERS,
    "GET /static": PUBLIC,
}


def rule_of(call: str) -> Rule:
    """The row of a method ("/federation.v1.JobService/GetJob") or a route ("GET /jobs/{job_id}"); an empty one if none."""
    return GRPC_RULES.get(call) or HTTP_RULES.get(call) or Rule()


def authorise(call: str, principal: Principal | None) -> Scope:
    """How far the caller reaches in this call; `principal` is None for somebody without a known token.

    Raises: FederationError UNAUTHENTICATED (who are you?), PERMISSION_DENIED (you may not; also for unknown calls).
    """
    rule = rule_of(call)
    if rule.public:
        return Scope.PUBLIC
    if principal is None:
        raise FederationError(
            Code.UNAUTHENTICATED,
            f"To {_in_words(call)}, a token is needed.",
            fault=Fault.CALLER,
            hint="Set BRHUB_TOKEN, or ask your hub's operator for a token.",
            metadata={"call": call},
        )
    scope = rule.reach.get(principal.kind)
    if scope is None or (scope is Scope.HUB_OPERATED and OPERATOR not in principal.roles):
        raise denied(principal, _in_words(call), call)
    return scope


def _in_words(call: str) -> str:
    """A method's name as a person says it ("drain hub"); a route stays as it is."""
    if not call.startswith("/"):
        return call
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", call.rpartition("/")[2]).lower()


def owns(scope: Scope, principal: Principal, *, issuer: str, subject: str) -> bool:
    """Whether a thing owned by (issuer, subject) is within the caller's reach.

    Where it is not, reading answers as if the thing did not exist.
    """
    if scope is Scope.ANY:
        return True
    return scope is Scope.OWN and (principal.issuer, principal.subject) == (issuer, subject)


def speaks_for(scope: Scope, principal: Principal, hub_id: str) -> bool:
    """Whether the caller may act on or as this hub."""
    if scope is Scope.ANY:
        return True
    return scope in (Scope.HUB_SELF, Scope.HUB_OPERATED) and bool(hub_id) and principal.home_hub == hub_id


def may_charge(principal: Principal, project: str) -> bool:
    """Whether the caller's work may be counted to this project."""
    return principal.kind is ADMIN or project in (principal.projects or ("default",))


def denied(principal: Principal, what: str, call: str = "") -> FederationError:
    """The refusal itself, for those who ask `speaks_for` and hear no; `call` is what was asked, where `what` is words."""
    return FederationError(
        Code.PERMISSION_DENIED,
        f"{principal.name} may not: {what}.",
        fault=Fault.POLICY,
        hint="Ask an operator of the hub or of the federation.",
        metadata={"principal": principal.name, "call": call or what},
    )
