"""`brhub` with its waits shortened, for tests with real processes: leases, their graces, links and held calls.

Run as `python -m tests.support.shortened serve --config FILE`. Everything else is as shipped: the lengths are the control
plane's own, and agents and guards take them from its answers. As shipped a lease would have to be waited out for 40 min.
"""

from __future__ import annotations

import sys

LEASE_MS = 20_000
"""Of `stop` and `rerun`; renewed when half of it is left."""
KILL_GRACE_MS = 13_000
"""A guard gives 10 s between SIGTERM and SIGKILL."""
SKEW_BOUND_MS = 3_000
SUSPECT_AFTER_MS, LOST_AFTER_MS = 8_000, 30_000
HOLD_MS = 3_000


def main() -> int:
    """The command line, with those lengths."""
    from federation.domain import hub, lease

    lease.LEASE_MS_BATCH = LEASE_MS
    lease.KILL_GRACE_MS = KILL_GRACE_MS
    lease.SKEW_BOUND_MS = SKEW_BOUND_MS
    hub.SUSPECT_AFTER_MS, hub.LOST_AFTER_MS = SUSPECT_AFTER_MS, LOST_AFTER_MS
    from federation.api import hubs  # after the above: what imports those names takes them as they are then

    hubs.HOLD_MS_MAX = HOLD_MS
    from federation.cli.main import main as brhub

    return brhub()


if __name__ == "__main__":
    sys.exit(main())
