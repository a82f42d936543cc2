"""What goes wrong at an object store, in our codes. The only place that knows the `minio` client's exceptions."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from federation.errors import Code, Fault, FederationError, not_found

_ABSENT = frozenset({"NoSuchKey", "NoSuchBucket", "ResourceNotFound", "NoSuchUpload", "NotFound"})
_REFUSED = frozenset(
    {"AccessDenied", "SignatureDoesNotMatch", "InvalidAccessKeyId", "ExpiredToken", "InvalidToken", "AllAccessDisabled"}
)
_NOT_READY = frozenset({500, 502, 503, 504})
_WHERE = re.compile(r"^HTTPS?Connection(Pool)?\(.*?\): ")
"""What urllib3 begins with, and our sentences say already."""
_FULL = frozenset({"XMinioStorageFull", "QuotaExceeded", "XMinioAdminBucketQuotaExceeded"})


@contextmanager
def translated(endpoint: str, key: str) -> Iterator[None]:
    """Turn whatever the client raises inside into a FederationError about `key` at `endpoint`."""
    import urllib3.exceptions
    from minio.error import MinioException, S3Error

    try:
        yield
    except S3Error as problem:
        status = problem.response.status
        raise _from_s3(str(problem.code), str(problem.message), endpoint, key, status) from problem
    except urllib3.exceptions.HTTPError as problem:
        raise unreachable(endpoint, problem) from problem
    except MinioException as problem:
        status = getattr(problem, "status_code", 0)  # of a ServerError, which alone has one
        raise _unavailable(str(problem)[:300], endpoint, key, status) from problem


def _from_s3(code: str, words: str, endpoint: str, key: str, status: int) -> FederationError:
    about = {"endpoint": endpoint, "key": key, "s3_code": code}
    if code in _ABSENT:
        return not_found(Code.OBJECT_NOT_FOUND, "object", key)
    if code in _REFUSED:
        return FederationError(
            Code.PERMISSION_DENIED,
            f"The object store at {endpoint} refused the access key ({code}).",
            fault=Fault.FEDERATION,
            hint="Check the store's access and secret key, and this machine's clock.",
            metadata=about,
        )
    if code == "InvalidRange":
        return FederationError(
            Code.OFFSET_OUT_OF_RANGE,
            f"The object {key!r} ends before the range that was asked for.",
            fault=Fault.CALLER,
            metadata=about,
        )
    if code in _FULL:
        return FederationError(
            Code.STORE_FULL,
            f"The object store at {endpoint} is full.",
            fault=Fault.FEDERATION,
            hint="Remove old results, or give the store more room.",
            metadata=about,
        )
    return _unavailable(f"{code}: {words}", endpoint, key, status)


def _unavailable(words: str, endpoint: str, key: str, status: int) -> FederationError:
    return FederationError(
        Code.STORE_UNAVAILABLE,
        f"The object store at {endpoint} could not do it ({words}).",
        fault=Fault.FEDERATION,
        hint="Try again; if it stays, look at the store's log and its disk.",
        metadata={"endpoint": endpoint, "key": key, "http_status": str(status)},
    )


def passes(error: FederationError) -> bool:
    """Whether the same call may go well later with nothing changed here: nobody answers, or a server that is not ready.

    A certificate that is not trusted, a key that is refused and a name that is taken stay so until a person acts.
    """
    if error.code is Code.UNREACHABLE:
        reason = getattr(error.__cause__, "reason", None)  # what urllib3 gave up for
        wrong = next(iter(getattr(reason, "args", ())), None)
        return not isinstance(wrong, ssl.SSLError) or isinstance(wrong, ssl.SSLEOFError)
    status = int(error.metadata.get("http_status", 0))
    return error.code is Code.STORE_UNAVAILABLE and status in _NOT_READY


def unreachable(endpoint: str, problem: BaseException) -> FederationError:
    """Nobody answers there, or not in time, or with another certificate."""
    reason = getattr(problem, "reason", None) or problem  # what urllib3 gave up for, not that it did
    words = _WHERE.sub("", str(reason))
    return FederationError(
        Code.UNREACHABLE,
        f"The object store at {endpoint} cannot be reached ({words[:300]}).",
        fault=Fault.NETWORK,
        hint="Check that it runs, its address, and its certificate.",
        metadata={"endpoint": endpoint},
    )


def awaited(endpoint: str, why: str) -> FederationError:
    """Nothing that needs the store is begun before it has answered."""
    return FederationError(
        Code.STORE_UNAVAILABLE,
        why,
        fault=Fault.FEDERATION,
        hint="Jobs without a package and without output files go on; try this again once the store is back.",
        metadata={"endpoint": endpoint},
    )


def damaged(key: str, expected: str, found: str) -> FederationError:
    """The bytes are not the ones that were promised."""
    return FederationError(
        Code.DIGEST_MISMATCH,
        f"{key!r} does not have the sha256 it should have.",
        fault=Fault.FEDERATION,
        hint="Upload it again; do not use what is there.",
        metadata={"key": key, "expected": expected, "found": found},
    )
