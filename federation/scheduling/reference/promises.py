"""The twin's memory of promises: which first promised starts still hold after a delta."""

from __future__ import annotations

from collections.abc import Mapping

from federation.scheduling.rows import Delta


def kept_slowly(promised: Mapping[str, int], before: Delta, delta: Delta) -> dict[str, int]:
    """Those of who waits on, and asks for the same room for as long if it was put again.

    `promised` is by job, `before` everything as it was when `delta` came.
    """
    waited = {job.job_id: job for job in before.queued}
    gone = {*delta.dequeued, *(lease.job_id for lease in delta.leases_started)}
    for job in delta.queued:
        old = waited.get(job.job_id, job)
        if (old.per_task, old.replicas, old.runtime_limit_ms) != (job.per_task, job.replicas, job.runtime_limit_ms):
            gone.add(job.job_id)
    return {job_id: start_ms for job_id, start_ms in promised.items() if job_id not in gone}
