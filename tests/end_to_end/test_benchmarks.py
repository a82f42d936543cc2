"""Every benchmark answers: its smallest run prints figures, and nothing else on standard output."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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
