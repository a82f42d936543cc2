"""FederationError to gRPC and back: nothing that a person needs is lost, nothing that a stranger sends breaks us."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.cli.following import in_short
from federation.errors import KINDS, Code, Fault, FederationError, from_rpc_error, to_grpc_status
from federation.v1 import common_pb2, job_pb2


class Answer(grpc.RpcError):
    """A failed call with this status and these trailers."""

    def __init__(self, status: grpc.StatusCode, details: str = "", trailers: Any = ()) -> None:
        super().__init__()
        self._parts = (status, details, trailers)

    def code(self) -> grpc.StatusCode:
        return self._parts[0]

    def details(self) -> str:
        return self._parts[1]

    def trailing_metadata(self) -> Any:
        return self._parts[2]


def there_and_back(error: FederationError) -> FederationError:
    """What the other side makes of it."""
    status = to_grpc_status(error)
    return from_rpc_error(Answer(status.code, status.details, status.trailing_metadata))


@pytest.mark.parametrize("code", list(Code))
def test_every_code_comes_back_as_itself_with_its_status(code: Code) -> None:
    """Code, message, fault, hint and metadata; the status is the table's."""
    error = FederationError(code, "the message", fault=Fault.HUB, hint="the hint", metadata={"job": "j-1"})
    back = there_and_back(error)
    assert (back.code, back.message, back.fault, back.hint, back.metadata) == (
        code, "the message", Fault.HUB, "the hint", {"job": "j-1"},
    )  # fmt: skip
    assert to_grpc_status(error).code.name == KINDS[code].grpc


@given(st.text(alphabet=st.characters(codec="utf-8")), st.text(alphabet=st.characters(codec="utf-8")))
def test_any_text_travels_up_to_its_limit(message: str, hint: str) -> None:
    """Other scripts too; a long one is cut so that the headers still fit."""
    back = there_and_back(FederationError(Code.INTERNAL, message, fault=Fault.POLICY, hint=hint))
    assert back.hint == hint[:600]
    assert len(to_grpc_status(FederationError(Code.INTERNAL, message * 100, fault=Fault.POLICY)).details) <= 600


@pytest.mark.parametrize("status", list(grpc.StatusCode))
def test_a_bare_status_becomes_the_nearest_error(status: grpc.StatusCode) -> None:
    """Proxies and older servers send no ErrorInfo; garbled details count as none."""
    bare = from_rpc_error(Answer(status, "words"))
    garbled = from_rpc_error(Answer(status, "words", [("grpc-status-details-bin", b"\xff\xff\xff")]))
    assert (bare.code, bare.message, bare.metadata) == (garbled.code, garbled.message, garbled.metadata)
    if status is grpc.StatusCode.UNAVAILABLE:
        assert (bare.code, bare.fault) == (Code.UNREACHABLE, Fault.NETWORK)


def test_a_code_of_a_newer_server_is_kept_as_a_reason() -> None:
    """It becomes INTERNAL here, and says what it was."""
    status = to_grpc_status(FederationError(Code.JOB_NOT_FOUND, "m", fault=Fault.CALLER))
    ((name, data),) = status.trailing_metadata
    assert isinstance(data, bytes)
    newer = [(name, data.replace(b"JOB_NOT_FOUND", b"JOB_TOO_MODERN"[:13]))]
    back = from_rpc_error(Answer(status.code, "m", newer))
    assert (back.code, back.metadata["reason"]) == (Code.INTERNAL, "JOB_TOO_MODER")


def test_a_port_that_refuses_is_said_in_words() -> None:
    """The text of gRPC's core is kept beside the sentence; other texts stay as they are."""
    raw = "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: connect: Connection refused (111)"
    error = from_rpc_error(Answer(grpc.StatusCode.UNAVAILABLE, raw))
    assert (error.message, error.metadata["grpc_details"]) == ("127.0.0.1:1 refuses the connection", raw)
    sixth = raw.replace("ipv4:127.0.0.1:1", "ipv6:%5B::1%5D:1")
    assert from_rpc_error(Answer(grpc.StatusCode.UNAVAILABLE, sixth)).message == "[::1]:1 refuses the connection"
    assert from_rpc_error(Answer(grpc.StatusCode.UNAVAILABLE, "odd")).message == "odd"


@pytest.mark.parametrize("raw", ["Deadline Exceeded", "Stream removed (Deadline Exceeded)"])
def test_an_answer_that_is_late_is_said_in_words(raw: str) -> None:
    """Whichever way gRPC's core words it."""
    error = from_rpc_error(Answer(grpc.StatusCode.DEADLINE_EXCEEDED, raw))
    assert (error.code, error.message) == (Code.TIMED_OUT, "no answer came in time")


@pytest.mark.parametrize(("message", "joined"), [("it is gone", "it is gone. Look."), ("Is it?", "Is it? Look.")])
def test_an_error_as_text_is_two_sentences(message: str, joined: str) -> None:
    """What went wrong, then what to do, then the code."""
    assert str(FederationError(Code.INTERNAL, message, fault=Fault.HUB, hint="Look.")) == f"{joined} [INTERNAL]"


def test_why_a_job_waits_is_one_short_line() -> None:
    """The hub that may be first speaks; without one, what most hubs say; the federation's own reason first; all of the same size is said as that."""
    reasons = [common_pb2.Reason(code="CAPACITY", hub_id=f"hub-{n}", message="all is taken") for n in range(1, 200)]
    reasons.insert(0, common_pb2.Reason(code="HUB_SUSPECT", hub_id="cairo", message="not heard of"))
    assert in_short(job_pb2.ExplainJobResponse(reasons=reasons)) == "hub-1: all is taken"
    nearest = job_pb2.ExplainJobResponse(reasons=reasons, earliest_hub_id="cairo")
    assert in_short(nearest) == "cairo: not heard of"
    large = [common_pb2.Reason(code="SHAPE_NEVER_FITS", hub_id=hub, message="needs 64 cpus") for hub in ("a", "b")]
    assert in_short(job_pb2.ExplainJobResponse(reasons=large)) == "fits at no hub (needs 64 cpus)"
    assert in_short(job_pb2.ExplainJobResponse()) == ""
    quota = common_pb2.Reason(code="QUOTA", message="cairo holds 8 of its 8 gpus")
    held = job_pb2.ExplainJobResponse(reasons=[*reasons, quota], earliest_hub_id="cairo")
    assert in_short(held) == "cairo holds 8 of its 8 gpus"
