"""Every error that a person may see: one base class, a closed list of codes, one mapping to gRPC and HTTP.

An error says whose fault it is, what to do now, and a code. A job that waits is not an error: it is an answer with a
Reason. Assertions are for our own mistakes and stay on. Nothing here formats for a terminal; see `federation/cli`.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:  # grpc costs a quarter of a second: `brhub --help` and the pure floors must not pay it
    import grpc
    from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # ships no stubs

DOMAIN = "federation"


class Fault(enum.StrEnum):
    """Whose mistake it is, in words that a person can act on."""

    CALLER = "caller"  # the request is wrong: change it
    POLICY = "policy"  # somebody who may decide has decided against it
    HUB = "hub"  # a member hub cannot do what was asked
    FEDERATION = "federation"  # the control plane or its stores
    NETWORK = "network"  # the way between two of us


class Code(enum.StrEnum):
    """The closed list. A new member also needs a row in `KINDS`."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    UNKNOWN_KEY = "UNKNOWN_KEY"
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    JOB_NOT_FOUND = "JOB_NOT_FOUND"
    HUB_NOT_FOUND = "HUB_NOT_FOUND"
    DATASET_NOT_FOUND = "DATASET_NOT_FOUND"
    OBJECT_NOT_FOUND = "OBJECT_NOT_FOUND"
    UPLOAD_NOT_FOUND = "UPLOAD_NOT_FOUND"
    COURSE_NOT_FOUND = "COURSE_NOT_FOUND"
    PRINCIPAL_NOT_FOUND = "PRINCIPAL_NOT_FOUND"
    ILLEGAL_TRANSITION = "ILLEGAL_TRANSITION"
    OFFSET_OUT_OF_RANGE = "OFFSET_OUT_OF_RANGE"
    LOGS_UNAVAILABLE = "LOGS_UNAVAILABLE"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    REFUSED_BY_POLICY = "REFUSED_BY_POLICY"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    IDENTITY_IN_USE = "IDENTITY_IN_USE"
    ANOTHER_STORE = "ANOTHER_STORE"
    SESSION_SUPERSEDED = "SESSION_SUPERSEDED"
    SESSION_UNKNOWN = "SESSION_UNKNOWN"
    PROTOCOL_UNSUPPORTED = "PROTOCOL_UNSUPPORTED"
    STALE_EPOCH = "STALE_EPOCH"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    STORE_FULL = "STORE_FULL"
    OVERLOADED = "OVERLOADED"
    UNREACHABLE = "UNREACHABLE"
    TIMED_OUT = "TIMED_OUT"
    UNSAFE_ARCHIVE = "UNSAFE_ARCHIVE"
    DIGEST_MISMATCH = "DIGEST_MISMATCH"
    RESULT_UNREADABLE = "RESULT_UNREADABLE"
    CONFIGURATION_INVALID = "CONFIGURATION_INVALID"
    CLOCK_UNSET = "CLOCK_UNSET"
    TLS_REQUIRED = "TLS_REQUIRED"
    ROOM_TAKEN = "ROOM_TAKEN"
    ENGINE_UNAVAILABLE = "ENGINE_UNAVAILABLE"
    ENVIRONMENT_FAILED = "ENVIRONMENT_FAILED"
    TOOL_MISSING = "TOOL_MISSING"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True)
class Kind:
    """How a code looks outside: the gRPC status name, the HTTP status and the exit status of `brhub`."""

    grpc: str
    http: int
    exit: int


_INVALID = Kind("INVALID_ARGUMENT", 400, 2)
_MISSING = Kind("NOT_FOUND", 404, 3)
_REFUSED = Kind("PERMISSION_DENIED", 403, 4)
_CONFLICT = Kind("FAILED_PRECONDITION", 409, 1)
_AWAY = Kind("UNAVAILABLE", 503, 5)

KINDS: Mapping[Code, Kind] = {
    Code.INVALID_ARGUMENT: _INVALID,
    Code.UNKNOWN_KEY: _INVALID,
    Code.LIMIT_EXCEEDED: _INVALID,
    Code.REQUEST_ID_REUSED: Kind("ALREADY_EXISTS", 409, 2),
    Code.JOB_NOT_FOUND: _MISSING,
    Code.HUB_NOT_FOUND: _MISSING,
    Code.DATASET_NOT_FOUND: _MISSING,
    Code.OBJECT_NOT_FOUND: _MISSING,
    Code.UPLOAD_NOT_FOUND: _MISSING,
    Code.COURSE_NOT_FOUND: _MISSING,
    Code.PRINCIPAL_NOT_FOUND: _MISSING,
    Code.ILLEGAL_TRANSITION: _CONFLICT,
    Code.OFFSET_OUT_OF_RANGE: Kind("OUT_OF_RANGE", 416, 2),
    Code.LOGS_UNAVAILABLE: _AWAY,
    Code.UNAUTHENTICATED: Kind("UNAUTHENTICATED", 401, 4),
    Code.PERMISSION_DENIED: _REFUSED,
    Code.REFUSED_BY_POLICY: _REFUSED,
    Code.QUOTA_EXCEEDED: Kind("RESOURCE_EXHAUSTED", 429, 4),
    Code.IDENTITY_IN_USE: _CONFLICT,
    Code.ANOTHER_STORE: _CONFLICT,
    Code.SESSION_SUPERSEDED: Kind("ABORTED", 409, 1),
    Code.SESSION_UNKNOWN: _CONFLICT,
    Code.PROTOCOL_UNSUPPORTED: _CONFLICT,
    Code.STALE_EPOCH: _CONFLICT,
    Code.STORE_UNAVAILABLE: _AWAY,
    Code.STORE_FULL: Kind("RESOURCE_EXHAUSTED", 507, 5),
    Code.OVERLOADED: Kind("RESOURCE_EXHAUSTED", 429, 5),
    Code.UNREACHABLE: _AWAY,
    Code.TIMED_OUT: Kind("DEADLINE_EXCEEDED", 504, 6),
    Code.UNSAFE_ARCHIVE: _INVALID,
    Code.DIGEST_MISMATCH: Kind("DATA_LOSS", 422, 1),
    Code.RESULT_UNREADABLE: Kind("DATA_LOSS", 422, 1),
    Code.CONFIGURATION_INVALID: _INVALID,
    Code.CLOCK_UNSET: _CONFLICT,
    Code.TLS_REQUIRED: _INVALID,
    Code.ROOM_TAKEN: _CONFLICT,
    Code.ENGINE_UNAVAILABLE: _CONFLICT,
    Code.ENVIRONMENT_FAILED: _CONFLICT,
    Code.TOOL_MISSING: _CONFLICT,
    Code.INTERNAL: Kind("INTERNAL", 500, 1),
}


class FederationError(Exception):
    """The one base class. `message` is one sentence for a person; `hint` says what to do now.

    `metadata` carries every variable part of the message as text, so that a program needs not parse the sentence.
    """

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        fault: Fault,
        hint: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.fault = fault
        self.hint = hint
        self.metadata: dict[str, str] = dict(metadata or {})

    @property
    def kind(self) -> Kind:
        """How this error looks to gRPC, HTTP and a shell."""
        return KINDS[self.code]

    def __str__(self) -> str:
        end = "" if self.message.endswith((".", "!", "?", ":", ";")) else "."
        hint = f"{end} {self.hint}" if self.hint else ""
        return f"{self.message}{hint} [{self.code}]"

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling: process pools and test runners carry errors between processes."""
        return (_rebuild, (self.code, self.message, self.fault, self.hint, self.metadata))


def _rebuild(code: Code, message: str, fault: Fault, hint: str, metadata: dict[str, str]) -> FederationError:
    return FederationError(code, message, fault=fault, hint=hint, metadata=metadata)


def invalid(message: str, *, hint: str = "", code: Code = Code.INVALID_ARGUMENT, **metadata: str) -> FederationError:
    """An error in what the caller sent; every keyword becomes metadata."""
    return FederationError(code, message, fault=Fault.CALLER, hint=hint, metadata=metadata)


def not_found(code: Code, what: str, name: str, *, hint: str = "") -> FederationError:
    """Something named does not exist, or is not the caller's to see: the answer is the same on purpose."""
    return FederationError(code, f"there is no {what} {name!r}", fault=Fault.CALLER, hint=hint, metadata={what: name})


# ---- the wire: google.rpc.ErrorInfo both ways -----------------------------------------------------------------------
# Trailing metadata travels in HTTP/2 headers, which peers limit to 8 KiB: long texts are cut rather than lost whole.
_TEXT_CHARACTERS_MAX = 600
_ENTRIES_MAX = 24
# How gRPC's own core words three common troubles; where a release words them otherwise, its text is shown as it is.
_REFUSED_BY = re.compile(r"ipv[46]:(\S+?): .*Connection refused")
_NO_ADDRESS = re.compile(r"(?:DNS resolution|Domain name not found|resolution) failed for ([\w.-]+)")
_LATE = re.compile(r"deadline exceeded", re.IGNORECASE)
_TOO_LARGE = re.compile(r"(Received|Sent) message larger than max \((\d+) vs\.? (\d+)\)")

_BY_STATUS: Mapping[str, tuple[Code, Fault]] = {
    "INVALID_ARGUMENT": (Code.INVALID_ARGUMENT, Fault.CALLER),
    "NOT_FOUND": (Code.OBJECT_NOT_FOUND, Fault.CALLER),
    "ALREADY_EXISTS": (Code.REQUEST_ID_REUSED, Fault.CALLER),
    "OUT_OF_RANGE": (Code.OFFSET_OUT_OF_RANGE, Fault.CALLER),
    "UNAUTHENTICATED": (Code.UNAUTHENTICATED, Fault.CALLER),
    "PERMISSION_DENIED": (Code.PERMISSION_DENIED, Fault.POLICY),
    "FAILED_PRECONDITION": (Code.ILLEGAL_TRANSITION, Fault.CALLER),
    "ABORTED": (Code.SESSION_SUPERSEDED, Fault.FEDERATION),
    "RESOURCE_EXHAUSTED": (Code.LIMIT_EXCEEDED, Fault.CALLER),
    "UNIMPLEMENTED": (Code.PROTOCOL_UNSUPPORTED, Fault.FEDERATION),
    "UNAVAILABLE": (Code.UNREACHABLE, Fault.NETWORK),
    "CANCELLED": (Code.UNREACHABLE, Fault.NETWORK),
    "DEADLINE_EXCEEDED": (Code.TIMED_OUT, Fault.NETWORK),
    "DATA_LOSS": (Code.DIGEST_MISMATCH, Fault.FEDERATION),
}
"""What a bare gRPC status means when the other side, or something between us, sent no ErrorInfo."""


def from_parts(code: str, message: str, fault: str, hint: str, metadata: Mapping[str, str]) -> FederationError:
    """An error rebuilt from the texts of a `Problem` or an ErrorInfo; a code of a newer peer becomes INTERNAL."""
    known = code in Code.__members__
    return FederationError(
        Code(code) if known else Code.INTERNAL,
        message,
        fault=Fault(fault) if fault in {each.value for each in Fault} else Fault.FEDERATION,
        hint=hint,
        metadata=dict(metadata) if known else {**metadata, "reason": code},
    )


def to_grpc_status(error: FederationError) -> grpc.Status:
    """`error` as a grpc.Status: `code`, `details` and `trailing_metadata` with google.rpc.Status and ErrorInfo.

    In a grpc.aio servicer: `await context.abort(status.code, status.details, status.trailing_metadata)`.
    """
    from google.protobuf import any_pb2
    from google.rpc import error_details_pb2, status_pb2
    from grpc import StatusCode
    from grpc_status import rpc_status

    entries = {**dict(list(error.metadata.items())[:_ENTRIES_MAX]), "fault": str(error.fault), "hint": error.hint}
    info = error_details_pb2.ErrorInfo(
        reason=error.code.value,
        domain=DOMAIN,
        metadata={name[:64]: text[:_TEXT_CHARACTERS_MAX] for name, text in entries.items()},
    )
    packed = any_pb2.Any()
    packed.Pack(info)
    number: int = StatusCode[error.kind.grpc].value[0]
    return rpc_status.to_status(
        status_pb2.Status(code=number, message=error.message[:_TEXT_CHARACTERS_MAX], details=[packed])
    )


def from_rpc_error(rpc_error: grpc.RpcError) -> FederationError:
    """The FederationError that a failed call carries; without ErrorInfo, the nearest that its status allows."""
    status = getattr(rpc_error, "code", lambda: None)()
    details = getattr(rpc_error, "details", lambda: "")() or ""
    name = status.name if status is not None else "UNKNOWN"
    info = _error_info(rpc_error)
    if info is not None:
        metadata = dict(info.metadata)
        fault, hint = metadata.pop("fault", ""), metadata.pop("hint", "")
        return from_parts(info.reason, details, fault, hint, metadata)
    code, fault_of_status = _BY_STATUS.get(name, (Code.INTERNAL, Fault.FEDERATION))
    hint = "Run `brhub doctor`: it names the hop that breaks." if fault_of_status is Fault.NETWORK else ""
    if _TOO_LARGE.search(details):
        hint = "Send less at once: large data travels as packages, results and datasets."
    return FederationError(
        code,
        _way_in_words(details) or details or name,
        fault=fault_of_status,
        hint=hint,
        metadata={"grpc_status": name, "grpc_details": details},
    )


def _way_in_words(details: str) -> str:
    """What gRPC says of a way or a message that does not work, for a person; empty where it says something else."""
    large = _TOO_LARGE.search(details)
    if large:
        return f"a message has {int(large[2]):,} bytes; at most {int(large[3]):,} are taken"
    refused = _REFUSED_BY.search(details)
    if refused:
        return f"{unquote(refused[1])} refuses the connection"
    unnamed = _NO_ADDRESS.search(details)
    if unnamed:
        return f"the name {unnamed[1]!r} has no address"
    return "no answer came in time" if _LATE.search(details) else ""


def _error_info(rpc_error: grpc.RpcError) -> error_details_pb2.ErrorInfo | None:
    from google.protobuf.message import DecodeError
    from google.rpc import error_details_pb2, status_pb2

    for key, value in getattr(rpc_error, "trailing_metadata", lambda: None)() or ():
        if key != "grpc-status-details-bin":
            continue
        info = error_details_pb2.ErrorInfo()
        try:
            rich = status_pb2.Status.FromString(value)
            for detail in rich.details:
                if detail.Is(info.DESCRIPTOR) and detail.Unpack(info) and info.domain == DOMAIN:
                    return info
        except DecodeError:
            return None  # something between us garbled it; the bare status still says enough
    return None
