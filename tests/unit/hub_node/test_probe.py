"""What a machine has, where a cgroup says less than the machine does."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from hub_node import probe

CPUS_MILLI = len(os.sched_getaffinity(0)) * 1_000


@pytest.mark.parametrize(
    ("cpu_max", "expected"),
    [("max 100000", CPUS_MILLI), ("50000 100000", 500), ("100000000 100000", CPUS_MILLI), ("nonsense", CPUS_MILLI)],
)
def test_cpus_are_what_quota_and_affinity_leave(tmp_path: Path, cpu_max: str, expected: int) -> None:
    """The smaller of the two counts; a file that cannot be read counts as no limit."""
    (tmp_path / "cpu.max").write_text(cpu_max, encoding="ascii")
    assert probe.cpu_milli(tmp_path) == expected


def test_older_cgroups_count_too(tmp_path: Path) -> None:
    """The first version of cgroups has other files and the same meaning."""
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("150000", encoding="ascii")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000", encoding="ascii")
    assert probe.cpu_milli(tmp_path) == min(1_500, CPUS_MILLI)


@pytest.mark.parametrize(("text", "limited"), [("1073741824", True), ("max", False), ("9223372036854771712", False)])
def test_memory_is_what_the_cgroup_leaves(tmp_path: Path, text: str, limited: bool) -> None:
    """A limit below the machine's memory counts; none, or an absurd one, does not."""
    (tmp_path / "memory.max").write_text(text, encoding="ascii")
    assert probe.memory_bytes(tmp_path) == (1024**3 if limited else psutil.virtual_memory().total)


def test_free_memory_is_never_more_than_the_cgroup_leaves(tmp_path: Path) -> None:
    """A container of 1 GiB that uses 900 MiB has 124 MiB, however much the machine has free."""
    (tmp_path / "memory.max").write_text(str(1024**3), encoding="ascii")
    (tmp_path / "memory.current").write_text(str(900 * 1024**2), encoding="ascii")
    assert probe.load(tmp_path).memory_available_bytes == 124 * 1024**2


def test_capacity_of_this_machine_is_sane(tmp_path: Path) -> None:
    """Cpu, disk and memory are there, sorted, above zero."""
    found = {name: amount for name, _, amount in probe.capacity(tmp_path)}
    assert {"cpu", "disk", "memory"} <= set(found)
    assert all(amount > 0 for amount in found.values())


def test_gpu_kind_reads_like_a_model() -> None:
    """The vendor once, no blanks."""
    assert probe.gpu_kind("NVIDIA A100-SXM4-80GB") == "nvidia/A100-SXM4-80GB"
    assert probe.gpu_kind("Tesla T4") == "nvidia/Tesla-T4"
