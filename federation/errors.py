"""Every error that a person may see: one base class, a closed list of codes, one mapping to gRPC and HTTP.

An error says whose fault it is, what to do now, and a code. A job that waits is not an error: it is an answer with a
Reason. Assertions are for our own mistakes and stay on. Nothing here formats for a terminal; see `federation/cli`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

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
    ILLEGAL_TRANSITION = "ILLEGAL_TRANSITION"
    OFFSET_OUT_OF_RANGE = "OFFSET_OUT_OF_RANGE"
    LOGS_UNAVAILABLE = "LOGS_UNAVAILABLE"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    REFUSED_BY_POLICY = "REFUSED_BY_POLICY"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    IDENTITY_IN_USE = "IDENTITY_IN_USE"
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
    CONFIGURATION_INVALID = "CONFIGURATION_INVALID"
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
    Code.ILLEGAL_TRANSITION: _CONFLICT,
    Code.OFFSET_OUT_OF_RANGE: Kind("OUT_OF_RANGE", 416, 2),
    Code.LOGS_UNAVAILABLE: _AWAY,
    Code.UNAUTHENTICATED: Kind("UNAUTHENTICATED", 401, 4),
    Code.PERMISSION_DENIED: _REFUSED,
    Code.REFUSED_BY_POLICY: _REFUSED,
    Code.QUOTA_EXCEEDED: Kind("RESOURCE_EXHAUSTED", 429, 4),
    Code.IDENTITY_IN_USE: _CONFLICT,
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
    Code.CONFIGURATION_INVALID: _INVALID,
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
        hint = f" {self.hint}" if self.hint else ""
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
