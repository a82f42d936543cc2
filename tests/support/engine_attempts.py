"""Attempts for tests of engines: a package, its folders and a lease, as the agent would have prepared them."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from hub_node.ports import Attempt, Phase, Runner, Status
from hub_node.records import Epoch, LeaseOrder, Run, RunState, Work
from tests.support.eventually import eventually

GIB = 1024**3


def work(**changed: object) -> Work:
    """A job of one CPU and 1 GiB that nothing else is said about."""
    said: dict[str, object] = {
        "name": "a-job", "project": "default", "engine": "command", "entrypoint": "main.py", "arguments": (),
        "requirements": "", "variables": {}, "secret_variables": {}, "package_digest": "", "inputs": (), "replicas": 1,
        "cpu_milli": 1000, "memory_bytes": GIB, "disk_bytes": 0, "gpu_milli": 0, "gpu_kind": "",
        "runtime_limit_ms": 600_000, "priority": "batch", "preemptible": False, "on_partition": "keep", "tracking": False,
    }  # fmt: skip
    return Work(**(said | changed))  # type: ignore[arg-type]  # a builder: the fields are named by the tests


def attempt(
    folder: Path, wanted: Work, files: Mapping[str, str] | Path, *, subject: str = "amina", job_id: str = "job-1"
) -> Attempt:
    """An attempt in `folder` whose package holds `files` (texts by path, or a folder to copy)."""
    for name in ("package", "output", "checkpoint"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    if isinstance(files, Path):
        shutil.copytree(files, folder / "package", dirs_exist_ok=True)
    else:
        for path, text in files.items():
            (folder / "package" / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / "package" / path).write_text(text, encoding="utf-8")
    lease = LeaseOrder(
        lease_id=f"lease-{job_id}", job_id=job_id, epoch=Epoch(1, 1), work=wanted, spec_bytes=b"", home_hub="cairo",
        issuer="cairo", subject=subject, nodes=("node-1",), valid_until_ms=0, package_url="", tracking_uri="",
    )  # fmt: skip
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "JAVA_HOME", "TMPDIR") if name in os.environ}
    ours = {
        "BRHUB_JOB_ID": job_id, "BRHUB_ATTEMPT": "1-1", "BRHUB_HUB": "cairo", "BRHUB_GRACE_S": "5",
        "BRHUB_OUTPUT_DIR": str(folder / "output"), "BRHUB_CHECKPOINT_DIR": str(folder / "checkpoint"),
    }  # fmt: skip
    return Attempt(
        run=Run(lease=lease, state=RunState.ACCEPTED), folder=folder, package=folder / "package",
        output=folder / "output", checkpoint=folder / "checkpoint", log=folder / "attempt.log",
        python=Path(sys.executable), variables={**kept, **ours, **wanted.variables, **wanted.secret_variables},
        deadline_ms=int(time.time() * 1000) + wanted.runtime_limit_ms, grace_ms=5_000,
    )  # fmt: skip


def ended(runner: Runner, timeout_s: float = 120.0) -> Status:
    """How the run ended, once it has."""
    return eventually(lambda: status if (status := runner.poll()).phase is Phase.ENDED else None, timeout_s)  # type: ignore[return-value]  # eventually returns only what is true
