"""What this machine has and how busy it is, measured: cgroup limits respected, GPUs where NVIDIA's library finds any.

Deliberately not here: what the hub offers of it (`admission.py`, by policy) and what runs hold (the journal).
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil

log = logging.getLogger(__name__)

CGROUP = Path("/sys/fs/cgroup")
Resource = tuple[str, str, int]
"""(name, kind, amount) in base units."""


@dataclass(frozen=True, slots=True)
class Load:
    """How busy the machine is at the moment."""

    cpu_milli: int
    memory_available_bytes: int


def capacity(state_dir: Path, devices: tuple[tuple[str, str], ...] = (), cgroup: Path = CGROUP) -> tuple[Resource, ...]:
    """What the machine has: cpu millicores, memory and disk bytes, and of `gpus()` by kind, in thousandths."""
    found: list[Resource] = [
        ("cpu", "", cpu_milli(cgroup)),
        ("disk", "", psutil.disk_usage(str(state_dir)).total),
        ("memory", "", memory_bytes(cgroup)),
    ]
    kinds = Counter(kind for _, kind in devices)
    return tuple(sorted(found + [("gpu", kind, 1000 * count) for kind, count in kinds.items()]))


def load(cgroup: Path = CGROUP) -> Load:
    """Busy millicores since the last call, and memory that a new program could get."""
    busy = psutil.cpu_percent(interval=None) * (os.cpu_count() or 1) * 10
    available = psutil.virtual_memory().available
    used = _number(cgroup / "memory.current")
    limit = memory_bytes(cgroup)
    if used and limit < psutil.virtual_memory().total:
        available = min(available, max(0, limit - used))
    return Load(min(int(busy), cpu_milli(cgroup)), available)


def cpu_milli(cgroup: Path = CGROUP) -> int:
    """Millicores that this process may use: affinity, then the cgroup's quota."""
    milli = len(os.sched_getaffinity(0)) * 1000
    try:
        quota, period = (cgroup / "cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            milli = min(milli, int(quota) * 1000 // int(period))
    except (OSError, ValueError):
        quota_us, period_us = _number(cgroup / "cpu/cpu.cfs_quota_us"), _number(cgroup / "cpu/cpu.cfs_period_us")
        if quota_us > 0 and period_us > 0:
            milli = min(milli, quota_us * 1000 // period_us)
    return max(1, milli)


def memory_bytes(cgroup: Path = CGROUP) -> int:
    """Memory of the machine, or what the cgroup leaves of it."""
    total: int = psutil.virtual_memory().total
    limit = _number(cgroup / "memory.max") or _number(cgroup / "memory/memory.limit_in_bytes")
    return min(total, limit) if limit > 0 else total


def gpus() -> tuple[tuple[str, str], ...]:
    """Every device as (uuid, kind), kind as in "nvidia/A100-SXM4-80GB"; empty where there is no driver."""
    if not Path("/dev/nvidiactl").exists():
        return ()
    try:
        import pynvml
    except ImportError:
        log.warning("this machine has an NVIDIA device; install the extra `agent` and its GPUs are offered")
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as problem:
        log.warning("the NVIDIA driver does not answer: %s", problem)
        return ()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        found = [
            (_text(pynvml.nvmlDeviceGetUUID(one)), gpu_kind(_text(pynvml.nvmlDeviceGetName(one)))) for one in handles
        ]
        return tuple(found)
    except pynvml.NVMLError as problem:
        log.warning("the NVIDIA driver does not answer: %s", problem)
        return ()
    finally:
        pynvml.nvmlShutdown()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def gpu_kind(name: str) -> str:
    """The kind of a device by its marketing name: "NVIDIA A100-SXM4-80GB" is "nvidia/A100-SXM4-80GB"."""
    return "nvidia/" + name.strip().removeprefix("NVIDIA ").replace(" ", "-")


def _number(file: Path) -> int:
    """The integer in a file; 0 for "max" and for what is not there."""
    try:
        return int(file.read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        return 0
