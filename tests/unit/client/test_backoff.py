"""The one law of pauses: how they grow, and that those who lost the same link do not come back in one wave."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from federation.backoff import pause_s
from federation.client.transport import Patience
from federation.client.watching import Watch
from federation.errors import Code, Fault, FederationError
from federation.v1 import job_pb2
from hub_node.conversation import PAUSE_S_MAX
from hub_node.conversation import pause_s as agents_pause_s

AGENTS = 200


@pytest.mark.parametrize(("failures", "whole_s"), [(0, 0.1), (1, 0.1), (2, 0.2), (7, 6.4), (8, 10.0), (10**9, 10.0)])
def test_pauses_double_up_to_the_longest(failures: int, whole_s: float) -> None:
    """And chance takes up to half away, however often it failed."""
    assert pause_s(failures, 0.1, 10.0, 1.0) == pytest.approx(whole_s)
    assert pause_s(failures, 0.1, 10.0, 0.0) == pytest.approx(whole_s / 2)


def returns_s(outage_s: float, seed: int) -> list[float]:
    """When each of the agents that lost the link at 0 calls for the first time after `outage_s`."""
    chance = random.Random(seed)
    found = []
    for _ in range(AGENTS):
        at_s, failures = 0.0, 1
        while at_s < outage_s:
            at_s += agents_pause_s(Code.UNREACHABLE, failures, chance.random())
            failures += 1
        found.append(at_s - outage_s)
    return found


@pytest.mark.parametrize("outage_s", [30.0, 60.0, 600.0])
def test_a_reconnect_storm_is_spread(outage_s: float) -> None:
    """200 agents that lost one control plane: all back within the longest pause, never a third of them in one second."""
    for seed in range(20):
        back_s = returns_s(outage_s, seed)
        assert max(back_s) <= PAUSE_S_MAX
        busiest = max(Counter(int(at_s) for at_s in back_s).values())
        assert busiest <= AGENTS / 3, f"seed {seed}: {busiest} in one second"


def test_a_job_that_does_not_change_is_no_silence_of_the_link() -> None:
    """A stream that is cut after an hour without news is opened again; patience counts from the cut."""
    watch = Watch(Patience(), 0.0, None)
    away = FederationError(Code.UNREACHABLE, "cut", fault=Fault.NETWORK)
    assert watch.is_news(job_pb2.Job(id="job-1", revision=1))
    assert watch.broke(away, 3_600.0) > 0
    assert watch.broke(away, 3_610.0) > 0
    with pytest.raises(FederationError):
        watch.broke(away, 3_616.0)
