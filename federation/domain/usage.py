"""Who used what: closed stretches of a lease, keyed by (lease, index), so that repeating one posts nothing."""

from __future__ import annotations

from dataclasses import dataclass

from federation.domain.ids import LeaseId


@dataclass(frozen=True, slots=True)
class UsageInterval:
    """A stretch of use of everything the lease holds."""

    lease_id: LeaseId
    index: int
    start_ms: int
    end_ms: int
