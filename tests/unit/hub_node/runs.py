"""Builders of leases, runs and attempts: what a test does not name is ordinary."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from hub_node.ports import Attempt
from hub_node.records import Epoch, LeaseOrder, Run, RunState, Work

WORK = Work(
    name="a-job",
    project="default",
    engine="command",
    entrypoint="main.py",
    arguments=(),
    requirements="",
    variables={},
    secret_variables={},
    package_digest="",
    inputs=(),
    replicas=1,
    cpu_milli=1_000,
    memory_bytes=0,
    disk_bytes=0,
    gpu_milli=0,
    gpu_kind="",
    runtime_limit_ms=600_000,
    priority="batch",
    preemptible=False,
    on_partition="keep",
    tracking=False,
)


def a_lease(job_id: str = "job-1", n: int = 1, *, incarnation: int = 1, lease_id: str = "", **over: Any) -> LeaseOrder:
    """A lease; keywords of Work change its work, those of LeaseOrder the lease."""
    of_lease = {key: over.pop(key) for key in list(over) if key in LeaseOrder.__dataclass_fields__}
    lease = LeaseOrder(
        lease_id=lease_id or f"lease-{job_id}-{n}",
        job_id=job_id,
        epoch=Epoch(incarnation, n),
        work=replace(WORK, **over),
        spec_bytes=b"\x08\x01",
        home_hub="cairo",
        issuer="local",
        subject="amina",
        nodes=(),
        valid_until_ms=0,
        package_url="",
        tracking_uri="",
    )
    return replace(lease, **of_lease)


def a_run(job_id: str = "job-1", n: int = 1, *, state: RunState = RunState.RUNNING, **over: Any) -> Run:
    """A run; keywords of Run change the run, others its lease."""
    of_run = {key: over.pop(key) for key in list(over) if key in Run.__dataclass_fields__}
    return replace(Run(a_lease(job_id, n, **over), state, accepted_ms=1_000, deadline_ms=10_000_000), **of_run)


def an_attempt(folder: Path, entrypoint: str, *arguments: str, limit_ms: int = 0, **over: Any) -> Attempt:
    """An attempt in `folder`, whose package folder is `folder/package`. `limit_ms` 0 means no deadline."""
    for name in ("package", "output", "checkpoint"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    of_attempt = {key: over.pop(key) for key in list(over) if key in Attempt.__dataclass_fields__}
    run = a_run(entrypoint=entrypoint, arguments=arguments, **over)
    attempt = Attempt(
        run=run,
        folder=folder,
        package=folder / "package",
        output=folder / "output",
        checkpoint=folder / "checkpoint",
        log=folder / "log",
        python=Path(sys.executable),
        variables={
            "PATH": os.environ["PATH"],
            "BRHUB_JOB_ID": run.lease.job_id,
            "BRHUB_ATTEMPT": str(run.lease.epoch),
            "BRHUB_OUTPUT_DIR": str(folder / "output"),
        },
        deadline_ms=time.time_ns() // 1_000_000 + limit_ms if limit_ms else 0,
        grace_ms=300,
    )
    return replace(attempt, **of_attempt)
