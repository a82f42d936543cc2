"""Every benchmark answers: its smallest run prints figures, and nothing else on standard output."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.apparatus.filling import filled
from benchmarks.apparatus.people import checked
from benchmarks.submit import both_stores, hundred, single

ROOT = Path(__file__).resolve().parents[2]


def figures_of(*words: str) -> list[dict[str, Any]]:
    """What `python -m benchmarks WORDS` prints."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_submit_measures_every_side(tmp_path: Path) -> None:
    """One short round of each: jobs are accepted, the raw rows are the store's, and all rates are above zero."""
    with both_stores(tmp_path) as planes:
        found = {1: single(planes, 1, 0.2), 100: hundred(planes, tmp_path, 1, 0.2)}
    for batch, figures in found.items():
        for store, figure in zip(("sqlite", "postgresql"), figures, strict=True):
            line = json.loads(figure.line())
            assert (line["metric"], line["config"]["batch"], line["config"]["store"]) == ("submits_per_s", batch, store)
            assert line["value"] > 0
            assert line["ratio"] == pytest.approx(line["value"] / line["baseline"]["value"], rel=0.01)


def test_dispatch_measures_a_real_agent() -> None:
    """A few jobs through control plane and agent: p50 is below p99, both above the bare round trip."""
    p50, p99 = figures_of("dispatch", "--jobs", "4")
    assert (p50["metric"], p99["metric"]) == ("submit_to_start_p50_ms", "submit_to_start_p99_ms")
    assert 0 < p50["value"] <= p99["value"]
    assert p50["ratio"] > 1


def test_footprint_weighs_running_processes() -> None:
    """Three figures; a control plane weighs more than the bare server beside it."""
    found = {line["metric"]: line for line in figures_of("footprint", "--quick", "--queued", "200")}
    assert set(found) == {"control_rss_mb", "agent_rss_mb", "help_s"}
    assert all(line["ratio"] > 1 for line in found.values())


def test_recovery_starts_a_killed_control_plane_again() -> None:
    """From exec to the first acknowledged submit takes longer than a bare server's start; the queue is counted."""
    first, then = figures_of("recovery", "--quick", "--only", "start", "--store", "sqlite", "--queued", "300")
    assert (first["metric"], then["metric"]) == ("serving_again_s", "slowest_submit_then_s")
    assert (first["config"]["store"], first["config"]["queued"]) == ("sqlite", 300)
    assert first["ratio"] > 1
    assert 0 < then["value"] < 30


def test_recovery_loses_nothing_over_kills() -> None:
    """Every acknowledged job is in the store, every one was started, none twice; what nobody stored would count as lost."""
    lost, twice = figures_of("recovery", "--only", "kills", "--submits", "60", "--kills", "1")
    assert (lost["metric"], lost["value"], lost["config"]["acknowledged"]) == ("lost_pct", 0, 60)
    assert (twice["metric"], twice["value"], twice["config"]["started"]) == ("started_twice", 0, 60)


def test_what_is_not_stored_counts_as_lost(tmp_path: Path) -> None:
    """An answer that the store does not know under its request id."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    filled(url, 1, 1)
    assert checked(url, {"filled-0": "job-of-nobody"}) == ["job-of-nobody"]


def test_agents_come_back_through_the_door() -> None:
    """A few agents run leases, lose their links and come back; the load of that is counted."""
    cpu, back, busiest = figures_of("agents", "--quick", "--agents", "4", "--leases", "8", "--outage", "2")
    assert [one["metric"] for one in (cpu, back, busiest)] == [
        "control_cpu_cores",
        "all_back_s",
        "busiest_second_after",
    ]
    assert cpu["config"]["leases_per_s"] > 1
    assert cpu["value"] > 0
    assert 0 < back["value"] < 60
    assert busiest["value"] >= 8  # each of four opens a session and syncs, whatever else
