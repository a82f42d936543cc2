"""What is wrong with what was written down: of one job's life, and of one lease's use."""

from __future__ import annotations

import pytest

from federation.domain.ids import LeaseId
from federation.domain.usage import UsageInterval
from federation.lifecycle.invariants import broken_history, miscounted

Fact = tuple[str, dict[str, object]]


def fact(kind: str, before: str, after: str, attempt: str = "1-1") -> Fact:
    """One fact, as the store keeps it."""
    return kind, {"from": before, "to": after, "attempt": attempt}


LIFE = [
    ("JobSubmitted", {"name": "one"}),
    fact("LeaseGranted", "QUEUED", "LEASED"),
    fact("RunStarted", "LEASED", "RUNNING"),
    fact("RunFailed", "RUNNING", "FAILED"),
]
AGAIN = [*LIFE, fact("RetryRequested", "FAILED", "QUEUED")]


@pytest.mark.parametrize(
    ("facts", "sentences"),
    [
        (LIFE, []),
        ([*AGAIN, fact("LeaseGranted", "QUEUED", "LEASED", "1-2")], []),
        ([*AGAIN, fact("LeaseGranted", "QUEUED", "LEASED", "1-1")], ["job j went from attempt 1-1 to 1-1"]),
        (
            [*LIFE, fact("RunSucceeded", "FAILED", "SUCCEEDED")],
            ["job j had ended as FAILED, and RunSucceeded made it SUCCEEDED"],
        ),
        ([*LIFE, fact("CancelRequested", "FAILED", "FAILED")], []),
        ([*LIFE[:2], LIFE[3]], ["job j was LEASED, and RunFailed found it RUNNING"]),
    ],
)
def test_a_jobs_facts_make_one_life(facts: list[Fact], sentences: list[str]) -> None:
    """Each goes on where the one before ended, an end is final, and attempts only grow."""
    assert broken_history("j", facts) == sentences


@pytest.mark.parametrize(
    ("stretches", "sentences"),
    [
        ([(0, 10, 20), (1, 20, 30)], []),
        ([(1, 20, 30)], ["lease l has use [1]"]),
        ([(0, 10, 20), (1, 19, 30)], ["lease l has use 0 until 20 and 1 from 19"]),
    ],
)
def test_use_is_counted_whole_and_once(stretches: list[tuple[int, int, int]], sentences: list[str]) -> None:
    """No stretch is missing, and no moment counts twice."""
    assert miscounted("l", [UsageInterval(LeaseId("l"), *stretch) for stretch in stretches]) == sentences
