"""What a person hears about a job that waits: one reason a hub, in words, and the earliest start."""

from __future__ import annotations

from typing import Any

import pytest

from federation.domain.hub import LinkState
from federation.domain.plan import ReasonCode
from federation.domain.quantities import resources
from federation.scheduling import Delta, PlannerState, Policy, explain, plan_round
from federation.scheduling.explaining import Explanation
from federation.scheduling.rows import ClaimRow, QueuedJob
from federation.scheduling.words import worded
from tests.unit.scheduling.builders import agent, cpus, dataset, job, key_of, lease, world


def codes(found: Explanation) -> list[tuple[str, str]]:
    """(hub, code) of each reason."""
    return [(reason.hub_id, reason.code) for reason in found.reasons]


def asked(state: PlannerState, wanted: QueuedJob, now_ms: int = 50) -> Explanation:
    """The explanation at 50 ms."""
    return explain(state, Policy(), wanted, now_ms)


def test_a_machine_too_small_says_by_how_much() -> None:
    """What is short, on what, and the largest there is, in words and in numbers."""
    wanted = job("big", cpus(64, 1))
    state, _ = world(agent("cairo", cpus(16, 64), cpus(8, 64)), jobs=(wanted,))
    found = asked(state, wanted)
    (reason,) = found.reasons
    assert reason.code == ReasonCode.SHAPE_NEVER_FITS
    assert reason.message == "needs 64 cpus on one machine; the largest here offers 16"
    assert dict(reason.metadata) == {
        "resource": "cpu", "kind": "", "needed": "64000", "largest": "16000", "short_by": "48000"
    }  # fmt: skip
    assert (found.earliest_start_ms, found.earliest_hub_id) == (0, "")


def test_a_missing_device_is_named() -> None:
    """A model that nobody has is short by all of it."""
    wanted = job("gpu", cpus(1, 0, 2, "nvidia/A100"))
    state, _ = world(agent("cairo", cpus(4, 0, 1, "nvidia/T4")))
    assert asked(state, wanted).reasons[0].message == (
        "needs 2 gpus of nvidia/A100 on one machine; the largest here offers 0"
    )


def test_no_machine_with_all_of_it_together() -> None:
    """One machine has the cpus, another the memory."""
    wanted = job("wide", cpus(8, 64))
    state, _ = world(agent("cairo", cpus(8, 1), cpus(1, 64)))
    assert asked(state, wanted).reasons[0].message == (
        "no one machine here offers 8 cpus and 64 GiB of memory together"
    )


def test_a_gang_too_large_says_how_many_tasks_would_fit() -> None:
    """Tasks start together or not at all."""
    wanted = job("gang", cpus(4), replicas=5)
    state, _ = world(agent("cairo", cpus(8), cpus(6)))
    assert asked(state, wanted).reasons[0].message == (
        "its 5 tasks of 4 cpus start together; there is room for 3 here when nothing runs"
    )


def test_a_full_hub_says_what_is_short_now_and_when_it_ends() -> None:
    """Two leases end at 300 and 700 ms; both must, before eight cpus are free."""
    wanted = job("wide", cpus(8, 1))
    held = (lease("x", cpus(4), "cairo", expires_ms=300), lease("y", cpus(2), "cairo", expires_ms=700))
    state, _ = world(agent("cairo", cpus(8, 8)), jobs=(wanted,), leases=held)
    found = asked(state, wanted)
    assert codes(found) == [("cairo", "CAPACITY")]
    assert found.reasons[0].message == "needs 8 cpus on one machine; the most free here is 2"
    assert dict(found.reasons[0].metadata)["short_by"] == "6000"
    assert (found.earliest_start_ms, found.earliest_hub_id) == (700, "cairo")


def test_a_gang_that_waits_says_how_many_tasks_fit_now() -> None:
    """Each task would fit; together they do not."""
    wanted = job("gang", cpus(2), replicas=2)
    state, _ = world(agent("cairo", cpus(4)), jobs=(wanted,), leases=(lease("x", cpus(1), "cairo"),))
    assert asked(state, wanted).reasons[0].message == "its 2 tasks start together; there is room for 1 here now"


def test_the_earliest_of_several_hubs_and_never_in_the_past() -> None:
    """The hub whose work ends first; an overdue end means now."""
    wanted = job("one", cpus(4))
    held = (lease("x", cpus(4), "a", expires_ms=900), lease("y", cpus(4), "b", expires_ms=10))
    state, _ = world(agent("a", cpus(4)), agent("b", cpus(4)), jobs=(wanted,), leases=held)
    found = asked(state, wanted)
    assert (found.earliest_start_ms, found.earliest_hub_id) == (50, "b")


def test_room_that_is_claimed_is_not_there_for_the_next_when_its_victims_end() -> None:
    """The claimant has it then, for as long as it may run."""
    claimant, wanted = job("claimant", cpus(4), seq=1, runtime_limit_ms=600), job("next", cpus(4), seq=2)
    guest = lease("guest", cpus(4), "cairo", home_hub="lima", expires_ms=100)
    claim = ClaimRow("claimant", key_of("cairo"), ("n0",), ("guest",))
    delta = Delta(
        agents=(agent("cairo", cpus(4)),), queued=(claimant, wanted), leases_started=(guest,), claims_made=(claim,)
    )
    state, _ = plan_round(PlannerState(), delta, Policy(), 0)
    found = asked(state, wanted)
    assert (found.earliest_start_ms, found.earliest_hub_id) == (700, "cairo")
    state, _ = plan_round(state, Delta(leases_ended=("guest",)), Policy(), 60)
    assert asked(state, wanted, 60).earliest_start_ms == 660


def test_others_first_is_said_with_the_share() -> None:
    """There was room, and the round gave it to a hub that holds less: then it starts when that ends."""
    wanted = job("mine", cpus(4), "a", seq=1)
    first = job("theirs", cpus(4), "b", seq=9, runtime_limit_ms=600)
    state, _ = world(agent("x", cpus(8)), jobs=(wanted, first), leases=(lease("h", cpus(4), "x", home_hub="a"),))
    found = explain(state, Policy(), wanted, 50)
    assert codes(found) == [("", "FAIRNESS_TURN"), ("x", "FAIRNESS_TURN")]
    assert (
        found.reasons[0].message
        == "others with a smaller share, or before it, take the room first; a holds 50.0% of it"
    )
    assert (found.earliest_start_ms, found.earliest_hub_id) == (600, "x")


def test_a_job_about_to_start_says_where() -> None:
    """The last plan placed it: every hub with room would run it, one will."""
    wanted = job("one", cpus(4))
    state, _ = world(agent("a", cpus(4)), agent("cairo", cpus(4)), jobs=(wanted,))
    found = asked(state, wanted)
    assert codes(found) == [("a", "WOULD_RUN"), ("cairo", "WOULD_RUN")]
    assert (found.earliest_start_ms, found.earliest_hub_id) == (50, "cairo")


def test_a_job_that_was_never_submitted_is_answered_too() -> None:
    """A dry run: where it would go now, at its home before others."""
    state, _ = world(agent("a", cpus(4)), agent("cairo", cpus(4)))
    found = asked(state, job("dry", cpus(1)))
    assert (found.earliest_start_ms, found.earliest_hub_id) == (50, "cairo")
    assert len(state.queue) == 0


def test_a_job_that_runs_says_so() -> None:
    """It does not wait."""
    state, _ = world(agent("a", cpus(4)), leases=(lease("x", cpus(1), "a", started_ms=20),))
    found = asked(state, job("job-x", cpus(1)))
    assert codes(found) == [("a", "RUNNING")]
    assert (found.earliest_start_ms, found.earliest_hub_id) == (20, "a")


def test_a_dataset_that_nobody_announces_is_said_once_for_all() -> None:
    """The whole federation's reason comes first, then each hub's."""
    state, _ = world(agent("a", cpus(4), datasets=(dataset("flights"),)))
    found = asked(state, job("one", cpus(1), inputs=(("fligths", ""), ("flights", "1"))))
    assert codes(found) == [("", "UNKNOWN_DATASET"), ("a", "DATA_ELSEWHERE")]
    assert dict(found.reasons[0].metadata) == {"datasets": "fligths"}
    assert found.reasons[1].message == "fligths does not lie here, and a job runs where its data is"


def test_an_empty_federation_and_members_without_agents() -> None:
    """No agent anywhere, and hubs that the job or the caller names."""
    state = PlannerState()
    assert codes(asked(state, job("one", cpus(1)))) == [("", "NO_AGENT")]
    found = explain(state, Policy(), job("one", cpus(1), hubs_allow=("a",)), 0, hub_ids=("b",))
    assert codes(found) == [("", "NO_AGENT"), ("a", "NO_AGENT"), ("b", "NO_AGENT")]


@pytest.mark.parametrize(
    ("hub", "asked_for", "words"),
    [
        ({"engines": ("ray", "lab")}, {}, "it does not run command; it runs ray, lab"),
        ({"link": LinkState.LOST}, {}, "nothing was heard of it for minutes; it gets new work when it is back"),
        ({}, {"hubs_deny": ("a",)}, "the job's own allow and deny lists leave this hub out"),
        ({}, {"hubs_refused": ("a",)}, "this hub refused the job by its share policy"),
        (
            {"datasets": (dataset("flights", "compute-to-data"),)},
            {"inputs": (("flights", ""),)},
            "the owner of flights does not let a job of cairo read it here",
        ),
    ],
)
def test_lasting_obstacles_have_words(hub: dict[str, Any], asked_for: dict[str, Any], words: str) -> None:
    """Each says what stands in the way there."""
    state, _ = world(agent("a", cpus(4), **hub))
    assert asked(state, job("one", cpus(1), **asked_for)).reasons[-1].message == words


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        (("cpu", "", 1000), "1 cpu"),
        (("cpu", "", 500), "0.5 cpus"),
        (("gpu", "", 2000), "2 gpus"),
        (("memory", "", 2**30 * 3 // 2), "1.5 GiB of memory"),
        (("disk", "", 100), "100 bytes of disk"),
        (("fpga", "x", 2), "2 of fpga x"),
    ],
)
def test_amounts_are_worded_as_people_say_them(amount: tuple[str, str, int], words: str) -> None:
    """Units that fit the size."""
    assert worded(*resources(amount)[0]) == words
