"""Names and ids. Ids are made at the edge (`ports.IdSource`) and arrive here as arguments; this module checks them."""

from __future__ import annotations

import re
from typing import NewType

from federation.errors import invalid

JobId = NewType("JobId", str)
HubId = NewType("HubId", str)
AgentId = NewType("AgentId", str)
LeaseId = NewType("LeaseId", str)
AgentKey = tuple[HubId, AgentId]
"""An agent in the federation: its name is unique within its hub only."""

NAME_LENGTH_MAX = 63
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_ID = re.compile(r"[a-z]{1,16}-[A-Za-z0-9]{1,64}")
_REQUEST_ID_LENGTH_MAX = 128


def checked_name(what: str, text: str) -> str:
    """`text` when it is a name of lower-case letters, digits and dashes, 1 to 63 long; else an error naming `what`."""
    if not _NAME.fullmatch(text):
        raise invalid(
            f"{what} {text[:80]!r} is not a name",
            hint=f"Use 1 to {NAME_LENGTH_MAX} lower-case letters, digits and dashes, not at either end.",
            field=what,
        )
    return text


def is_id(text: str) -> bool:
    """Whether `text` has the shape of an id as we make them: "job-01K3Z", "lease-01K3Z"."""
    return _ID.fullmatch(text) is not None


def checked_request_id(text: str) -> str:
    """`text` when it can be a request id: 1 to 128 printable ASCII characters without blanks."""
    if not 0 < len(text) <= _REQUEST_ID_LENGTH_MAX or not text.isascii() or not text.isprintable() or " " in text:
        raise invalid(
            "the request id is empty, too long or not plain text",
            hint=f"Use 1 to {_REQUEST_ID_LENGTH_MAX} printable ASCII characters without blanks, a new one per job.",
            field="request_id",
        )
    return text
