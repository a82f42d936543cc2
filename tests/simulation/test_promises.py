"""Every promise holds, whatever fails: the whole federation in virtual time, two hundred seeds of it.

A seed that fails here is a mistake of the federation or of its simulator: `brhub simulate --seed N --trace FILE` tells
its story. What it shows becomes a named case beside the code that was wrong.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from federation.simulation.faults import FaultKind
from federation.simulation.federated import Scenario, simulate
from federation.simulation.seeds import run_all
from hub_node import conversation
from tests.tidy.repository import ROOT

SEEDS = 2_000 if os.environ.get("BRHUB_LONG") == "1" else 200
DIGEST = "from federation.simulation.federated import Scenario, simulate; print(simulate(Scenario(7)).digest)"


@pytest.mark.timeout(2_400)
def test_two_hundred_seeds_keep_every_promise() -> None:
    """3 hubs for 2 hours each, all kinds of fault: nothing lost, nothing twice, nothing ended for a quiet link."""
    rows = list(run_all(Scenario(0), range(1, SEEDS + 1), os.cpu_count() or 1))
    assert [(row["seed"], row["broken"]) for row in rows if row["broken"]] == []
    assert len(rows) == SEEDS
    befell = {kind for row in rows for kind in row["faults"]}
    assert befell == {kind.value for kind in FaultKind}


def test_a_seed_tells_the_same_story_in_every_process() -> None:
    """Byte for byte, whatever the process's own hashes are."""
    here = simulate(Scenario(7)).digest
    others = [
        subprocess.run(
            [sys.executable, "-c", DIGEST],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    ]
    assert others == [here, here]


def test_other_seeds_tell_other_stories() -> None:
    """A digest that never changed would say nothing."""
    assert len({simulate(Scenario(seed, hours=0.2)).digest for seed in range(5)}) == 5


def test_without_faults_everything_comes_to_its_own_end() -> None:
    """What fails then are jobs that were made to: no fault is played, and every job was settled by its own program."""
    report = simulate(Scenario(3, kinds=()), keep_trace=True)
    assert (report.broken, dict(report.faults)) == ("", {})
    assert set(report.jobs) <= {"SUCCEEDED", "FAILED", "CANCELLED"}
    assert not any("is gone" in line for line in report.trace)


def test_a_hub_that_is_cut_off_for_a_day_keeps_its_work_and_rejoins() -> None:
    """One kind of fault, 26 hours: every promise, and usage counted once, hold through partitions of an hour and more."""
    report = simulate(Scenario(11, hubs=2, hours=26, kinds=(FaultKind.PARTITION,), jobs_per_hub_hour=1))
    assert report.broken == ""
    assert report.faults[FaultKind.PARTITION] > 100


def test_what_a_restored_control_plane_is_told_in_many_parts_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """One run a message, whatever fails between two of them: nothing starts twice, every end and all use arrive."""
    monkeypatch.setattr(conversation, "TOLD_USE_MAX", 0)
    asked, remind = [], conversation.Conversation._remind

    def reminded(self: conversation.Conversation, *args: Any) -> conversation.Reminded:
        asked.append(remind(self, *args))
        return asked[-1]

    monkeypatch.setattr(conversation.Conversation, "_remind", reminded)
    assert [simulate(Scenario(seed)).broken for seed in (2, 3, 6)] == ["", "", ""]
    assert sum(not part.complete for part in asked) > 200
