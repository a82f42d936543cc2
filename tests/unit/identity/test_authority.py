"""The authority table: a row for every method there is, and nothing for what is not there."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

import federation.v1
from federation.errors import Code, FederationError
from federation.identity.authority import (
    GRPC_RULES,
    HTTP_RULES,
    Scope,
    authorise,
    may_charge,
    owns,
    rule_of,
    speaks_for,
)
from federation.identity.principal import OPERATOR, Principal, PrincipalKind

USER = Principal(PrincipalKind.USER, "local", "aisha", "cairo", ("delays",))
OPERATOR_OF_CAIRO = Principal(PrincipalKind.USER, "local", "omar", "cairo", roles=(OPERATOR,))
AGENT = Principal(PrincipalKind.HUB, "local", "agent", "cairo")
ADMIN = Principal(PrincipalKind.ADMIN, "local", "root", "")
EVERYBODY = [None, USER, OPERATOR_OF_CAIRO, AGENT, ADMIN]


def described_methods() -> set[str]:
    """Every method of every service whose descriptor we compiled or serve."""
    names = sorted(path.stem for path in Path(federation.v1.__path__[0]).glob("*_pb2.py"))
    assert "job_pb2" in names
    modules = [importlib.import_module(f"federation.v1.{name}") for name in names]
    return {
        f"/{service.full_name}/{method.name}"
        for module in [*modules, health_pb2, reflection_pb2]
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


def answer(call: str, principal: Principal | None) -> Scope | Code:
    """The scope, or the code of the refusal."""
    try:
        return authorise(call, principal)
    except FederationError as problem:
        return problem.code


def test_every_method_has_a_row() -> None:
    """A method without a row could be called by nobody: its author has to decide."""
    assert described_methods() - set(GRPC_RULES) == set()


def test_every_row_of_ours_has_a_method() -> None:
    """A row for a method that is gone would mislead its reader."""
    assert {call for call in GRPC_RULES if call.startswith("/federation.")} - described_methods() == set()


@pytest.mark.parametrize(
    "call", ["", "/federation.v1.JobService/Nothing", "/federation.v1.jobservice/GetJob", "GET /x"]
)
def test_what_has_no_row_is_refused(call: str) -> None:
    """To everybody, the admin too."""
    assert [answer(call, who) for who in EVERYBODY] == [Code.UNAUTHENTICATED] + [Code.PERMISSION_DENIED] * 4


def test_only_what_must_be_is_public() -> None:
    """A stranger learns whether we serve, and finds the login."""
    public = {call for call in [*GRPC_RULES, *HTTP_RULES] if rule_of(call).public}
    ours = {call for call in public if not call.startswith("/grpc.health")}
    assert ours == {
            "GET /healthz", "GET /login", "POST /login", "GET /static", "/federation.v1.HubService/GetServerInfo",
        }  # fmt: skip
    for call in [*GRPC_RULES, *HTTP_RULES]:
        assert answer(call, None) is (Scope.PUBLIC if call in public else Code.UNAUTHENTICATED)


def test_the_table_in_short() -> None:
    """Users own jobs, agents speak for their hub, operators drain theirs, admins reach all of it."""
    no = Code.PERMISSION_DENIED
    rows = {
        "/federation.v1.JobService/GetJob": [Scope.OWN, Scope.OWN, no, Scope.ANY],
        "/federation.v1.HubService/SyncHub": [no, no, Scope.HUB_SELF, no],
        "/federation.v1.HubService/DrainHub": [no, Scope.HUB_OPERATED, no, Scope.ANY],
        "/federation.v1.HubService/ListHubs": [Scope.ANY] * 4,
    }
    assert {call: [answer(call, who) for who in EVERYBODY[1:]] for call in rows} == rows


def test_owning_is_by_issuer_and_subject() -> None:
    """The same name from another issuer is another person; no other scope owns."""
    assert owns(Scope.OWN, USER, issuer="local", subject="aisha")
    assert not owns(Scope.OWN, USER, issuer="elsewhere", subject="aisha")
    assert not owns(Scope.OWN, USER, issuer="local", subject="omar")
    assert owns(Scope.ANY, ADMIN, issuer="local", subject="aisha")
    assert not owns(Scope.HUB_SELF, AGENT, issuer="local", subject="agent")
    assert not owns(Scope.PUBLIC, USER, issuer="local", subject="aisha")


def test_a_hub_speaks_for_itself_only() -> None:
    """And nobody for a hub without a name."""
    assert speaks_for(Scope.HUB_SELF, AGENT, "cairo")
    assert not speaks_for(Scope.HUB_SELF, AGENT, "shenzhen")
    assert speaks_for(Scope.HUB_OPERATED, OPERATOR_OF_CAIRO, "cairo")
    assert not speaks_for(Scope.HUB_OPERATED, OPERATOR_OF_CAIRO, "shenzhen")
    assert not speaks_for(Scope.OWN, USER, "cairo")
    assert not speaks_for(Scope.HUB_SELF, ADMIN, "")
    assert speaks_for(Scope.ANY, ADMIN, "cairo")


def test_work_is_counted_to_projects_of_the_caller() -> None:
    """Those named for them; `default` where none are; an admin's may go anywhere."""
    assert may_charge(USER, "delays")
    assert not may_charge(USER, "default")
    assert may_charge(OPERATOR_OF_CAIRO, "default")
    assert not may_charge(OPERATOR_OF_CAIRO, "delays")
    assert may_charge(ADMIN, "anything")


def test_a_refusal_says_in_words_what_was_asked() -> None:
    """A person knows "drain hub", not a method's path; programs find that in the metadata."""
    call = "/federation.v1.HubService/DrainHub"
    with pytest.raises(FederationError, match=r"may not: drain hub\.") as caught:
        authorise(call, AGENT)
    assert caught.value.metadata["call"] == call
    with pytest.raises(FederationError, match=r"^To get job, a token is needed\.") as unknown:
        authorise("/federation.v1.JobService/GetJob", None)
    assert unknown.value.metadata["call"].endswith("/GetJob")
