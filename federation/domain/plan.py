"""Why a job is not running yet: the closed list of reason codes. The Plan itself is arrays: `federation/scheduling`."""

from __future__ import annotations

import enum


class ReasonCode(enum.StrEnum):
    """One a (job shape, owner class, hub), or one for the whole federation."""

    WOULD_RUN = "WOULD_RUN"  # it fits there now; it waits only for the next round
    RESERVATION_AHEAD = "RESERVATION_AHEAD"  # it would fit, but would delay a start that was promised to others
    DATA_TO_MOVE = (
        "DATA_TO_MOVE"  # it would fit, but its data must come first, and it has not waited as long as that takes
    )
    CAPACITY = "CAPACITY"  # it would fit there if less were running
    QUOTA = "QUOTA"  # its user, project or hub would hold more than they may at once
    QUOTA_NEVER_FITS = "QUOTA_NEVER_FITS"  # it asks for more than its user, project or hub may ever hold
    SHAPE_NEVER_FITS = "SHAPE_NEVER_FITS"  # it does not fit even there when all is idle
    ENGINE_MISSING = "ENGINE_MISSING"  # the hub does not run this engine
    HUB_EXCLUDED = "HUB_EXCLUDED"  # the job's own allow and deny lists
    HUB_SUSPECT = "HUB_SUSPECT"  # not heard of for 60 s
    HUB_DRAINING = "HUB_DRAINING"  # its operator takes no new work
    NO_AGENT = "NO_AGENT"  # the hub has no agent yet
    DATA_ELSEWHERE = "DATA_ELSEWHERE"  # an input does not lie there, and cannot come
    DATA_POLICY = "DATA_POLICY"  # its owner does not let this job read it
    TAKES_BACK = "TAKES_BACK"  # its owners get their machines back sooner than this job ends, and it is not preemptible
    SHARE_POLICY = "SHARE_POLICY"  # the hub refused this job
    FAIRNESS_TURN = "FAIRNESS_TURN"  # others are first
    UNKNOWN_DATASET = "UNKNOWN_DATASET"  # no hub announces it
    CLAIM_HELD = "CLAIM_HELD"  # others are ending there to make room for it
    RESTORED = "RESTORED"  # it may run already: it may have been started since the backup that was restored
    RUNNING = "RUNNING"  # it does not wait: it runs there
