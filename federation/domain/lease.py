"""A lease: the right of one agent to run one attempt of a job until a moment. A claim: room that is being made for one."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from federation.domain.ids import AgentId, AgentKey, HubId, JobId, LeaseId
from federation.domain.job import Claim, Epoch, Job, JobState, OnPartition
from federation.domain.quantities import DevicesByTask, Resources

LEASE_MS_BATCH = 40 * 60_000
LEASE_MS_LAB = 15 * 60_000
KILL_GRACE_MS = 60_000
SKEW_BOUND_MS = 30_000
"""Nobody else starts a job before its lease's end + kill grace + skew bound."""
SKEW_PPM = 400
"""How fast the clocks of two machines part: 200 ppm each (`federation/clocks.py`). Over 21 h that is past the skew bound."""
STOP_GRACE_MS = 10_000
"""Between SIGTERM and SIGKILL of what was cancelled or given up; what is preempted has its hub's reclaim time."""
ANOTHER_MACHINE = "ANOTHER_MACHINE"
"""Why a run is absent that may go on all the same: its agent's name is another machine's now."""
CANCEL_REQUESTED = "CANCEL_REQUESTED"
"""Why a lease is to end: its job's owner said so."""
PREEMPTED = "PREEMPTED"
"""Why a lease is revoked whose job makes room for another and then waits again."""

LEASE_RAN_OUT = "LEASE_RAN_OUT"
"""Why a job is UNKNOWN, has failed or waits again: nobody said how its run ended, and it is over for certain."""

RELEASED = "RELEASED_BY_FORCE"
"""Why a lease ended, and its job failed, was cancelled or waits again, on an operator's word: nobody could ask its hub."""


class LeaseState(enum.StrEnum):
    """GRANTED: the agent has not yet said that it has it. REVOKING: it was told to end. ENDED: it said that it has."""

    GRANTED = "GRANTED"
    ACTIVE = "ACTIVE"
    REVOKING = "REVOKING"
    ENDED = "ENDED"


@dataclass(frozen=True, slots=True)
class Lease:
    """One attempt's right. `expires_ms` is renewed by sync for `stop` and `rerun`; for `keep` it is `run_until`."""

    id: LeaseId
    job_id: JobId
    epoch: Epoch
    hub_id: HubId
    agent_id: AgentId
    nodes: tuple[str, ...]
    """The node of each task, in order; length is the job's replicas."""
    per_task: Resources
    state: LeaseState
    on_partition: OnPartition
    granted_ms: int
    expires_ms: int
    revoke_code: str = ""
    revoke_message: str = ""
    usage_stored: int = -1
    """Usage intervals are stored up to and with this index."""
    devices: DevicesByTask = ()
    """Which GPUs each task holds; empty for jobs without, and for leases of before they were written down."""

    @property
    def agent_key(self) -> AgentKey:
        """Whose lease it is."""
        return (self.hub_id, self.agent_id)

    @property
    def live(self) -> bool:
        """Whether it holds capacity."""
        return self.state is not LeaseState.ENDED

    @property
    def over_ms(self) -> int:
        """From when on its run has ended for certain: its guard's deadline, kill grace and skew are past."""
        keeps = self.on_partition is OnPartition.KEEP  # the others' length is counted anew at every renewal
        return self.expires_ms + over_after_ms(self.expires_ms - self.granted_ms if keeps else 0)

    @property
    def preempted(self) -> bool:
        """Whether it was told to end for somebody with a better right: its job waits again afterwards."""
        return self.state is LeaseState.REVOKING and self.revoke_code == PREEMPTED


def over_after_ms(length_ms: int) -> int:
    """How long after its end a run under a lease of that length is over for certain: kill grace, and what clocks part in it."""
    return KILL_GRACE_MS + max(SKEW_BOUND_MS, length_ms * SKEW_PPM // 1_000_000)


ENDS_BY = "ends_by_ms"
"""What a preempted job's reason says beside its words: when the grace that its hub gives is over."""
_RUNS = frozenset({JobState.LEASED, JobState.STAGING, JobState.RUNNING})


def ends_by_ms(job: Job) -> int:
    """When a job that was told to end has ended at the latest, as far as its hub can be reached; 0: nobody told it to.

    Of a silent run (UNKNOWN) nobody can say.
    """
    if job.state is JobState.CANCELLING:
        return job.state_since_ms + STOP_GRACE_MS
    if job.state not in _RUNS or job.reason is None or job.reason.code != PREEMPTED:
        return 0
    return int(dict(job.reason.metadata).get(ENDS_BY, "0"))


def room_expected_ms(claim: Claim) -> int:
    """When its victims should have ended: the time that their hub gives them is over."""
    return claim.until_ms - KILL_GRACE_MS - SKEW_BOUND_MS


NO_REFUSALS = frozenset({LEASE_RAN_OUT, "RESTORED", PREEMPTED, RELEASED})
"""Why a job waits again though its hub did not say no: it was cut off, or the job made room for another."""
