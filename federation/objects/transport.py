"""How the adapter speaks HTTP: limits on time and retries, TLS with a private CA, and one repair.

The embedded server answers errors as `text/xml`, which the `minio` client does not take for XML: it would then hide the
S3 code ("NoSuchKey") behind an InvalidResponseError. `RepairingPool` renames the content type of error answers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import certifi
import urllib3

from federation.errors import Code, Fault, FederationError

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 60.0
RETRIES_MAX = 3
RETRY_BACKOFF_S = 0.2
CONNECTIONS_MAX = 16


class RepairingPool(urllib3.PoolManager):
    """A connection pool whose error answers say `application/xml`."""

    def urlopen(  # type: ignore[override]  # urllib3 types the answer by its base class, and the keywords are its own
        self, method: str, url: str, redirect: bool = True, **kw: Any
    ) -> urllib3.BaseHTTPResponse:
        """As urllib3's, with error answers relabelled."""
        answer = super().urlopen(method, url, redirect=redirect, **kw)
        if answer.status >= 300 and answer.headers.get("content-type", "").startswith("text/xml"):
            answer.headers["content-type"] = "application/xml"
        return answer


def pool(ca_file: Path | None) -> RepairingPool:
    """A pool that trusts `ca_file`, or the usual authorities when there is none."""
    if ca_file is not None and not ca_file.is_file():
        raise FederationError(
            Code.CONFIGURATION_INVALID,
            f"There is no CA file at {str(ca_file)!r}.",
            fault=Fault.CALLER,
            hint="Check the object store's settings.",
            metadata={"path": str(ca_file)},
        )
    return RepairingPool(
        timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S),
        maxsize=CONNECTIONS_MAX,
        cert_reqs="CERT_REQUIRED",
        ca_certs=str(ca_file) if ca_file is not None else certifi.where(),
        # Every S3 call that we make may be repeated: a PUT replaces the whole object.
        retries=urllib3.Retry(
            total=RETRIES_MAX,
            backoff_factor=RETRY_BACKOFF_S,
            backoff_jitter=RETRY_BACKOFF_S,
            status_forcelist=(500, 502, 503, 504),
            allowed_methods=None,
            raise_on_status=False,
        ),
    )
