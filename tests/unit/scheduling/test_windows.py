"""Capacity promised to a class: who goes round it, who takes its seats, and when it is given up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from federation.domain.plan import ReasonCode
from federation.errors import FederationError
from federation.scheduling import Delta, Plan, PlannerState, Policy, explain, plan_round
from federation.scheduling.checks import WINDOWS_PER_AGENT_MAX
from federation.scheduling.kernels.room import Int64
from federation.scheduling.offering import extend, offer
from federation.scheduling.rows import AgentRow, DeltaCollector, LeaseRow, QueuedJob, WindowRow
from federation.scheduling.windows import FOREVER_MS, Course
from tests.unit.scheduling.builders import agent, cpus, job, key_of, lease, where

MINUTE_MS = 60_000
CAIRO = agent("cairo", cpus(4))
LESSON = WindowRow("lesson", key_of("cairo"), cpus(1), ("n0",) * 3, 60 * MINUTE_MS, 120 * MINUTE_MS, 75 * MINUTE_MS)


def task(name: str, minutes: int, count: float = 1, **changes: Any) -> QueuedJob:
    """A job of `count` cpus that may run so long."""
    return job(name, cpus(count), runtime_limit_ms=minutes * MINUTE_MS, **changes)


def student(name: str, minutes: int = 30, count: float = 1, **changes: Any) -> QueuedJob:
    """A job of the class."""
    return task(name, minutes, count, window="lesson", **changes)


def seated(name: str, until_min: int, count: float = 1) -> LeaseRow:
    """A student's job that runs."""
    return lease(name, cpus(count), "cairo", window="lesson", expires_ms=until_min * MINUTE_MS)


def planned(
    *jobs: QueuedJob,
    at_min: int = 0,
    window: WindowRow = LESSON,
    leases: tuple[LeaseRow, ...] = (),
    agents: tuple[AgentRow, ...] = (CAIRO,),
    **policy: Any,
) -> tuple[PlannerState, Plan]:
    """One round beside the class's window."""
    queued = tuple(replace(one, seq=at) for at, one in enumerate(jobs))
    delta = Delta(agents=agents, queued=queued, leases_started=leases, windows=(window,))
    return plan_round(PlannerState(), delta, Policy(**{"promise_after_ms": 0, **policy}), at_min * MINUTE_MS)


def started(*jobs: QueuedJob, **around: Any) -> set[str]:
    """Who starts in that round."""
    return set(where(planned(*jobs, **around)[1]))


def test_what_would_run_into_the_class_leaves_its_room() -> None:
    """Four cpus, three of them promised in an hour: long jobs share the fourth, and one that is over by then has all."""
    assert started(task("long", 61), task("longer", 600)) == {"long"}
    assert started(task("in-time", 60, 4)) == {"in-time"}
    assert started(task("too-late", 61, 2)) == set()


def test_a_class_without_a_lesson_holds_nothing() -> None:
    """It is over; or it was called off."""
    assert started(task("long", 600, 4), at_min=120) == {"long"}
    state, _ = planned()
    state, plan = plan_round(state, Delta(queued=(task("long", 600, 4),), windows_ended=("lesson",)), Policy(), 0)
    assert set(where(plan)) == {"long"}


def test_a_student_takes_a_seat_and_nobody_else_does() -> None:
    """During the lesson three seats are free for students, and one cpu for anybody: also for a fourth student."""
    assert started(task("guest", 10, 2), at_min=70) == set()
    students = [student(name) for name in ("ada", "bo", "cy", "di", "ed")]
    assert len(started(*students, at_min=70)) == 4


def test_a_student_may_come_early_where_there_is_room_now() -> None:
    """The job runs from before the lesson into it, and its seat is its own meanwhile."""
    assert len(started(*[student(f"s{at}", 90) for at in range(4)])) == 4
    held = lease("guest", cpus(4), "cairo", expires_ms=60 * MINUTE_MS)
    assert started(student("ada", 90), at_min=59, leases=(held,)) == set()


def test_a_taken_seat_is_not_held_twice() -> None:
    """Two of three seats are taken: of four cpus one is held still, and one is anybody's."""
    two = (seated("a", 110), seated("b", 110))
    assert started(task("guest", 10), task("other", 10), at_min=70, leases=two) == {"guest"}


def test_a_job_larger_than_a_seat_has_none() -> None:
    """Its class's window is in its way as anybody's."""
    assert started(student("big", 30, 2), at_min=70) == set()


def test_seats_that_nobody_took_are_given_up() -> None:
    """A quarter of an hour into the lesson: three of four cpus again are anybody's, less the seats that were ever taken."""
    assert started(task("guest", 10, 4), at_min=74) == set()
    assert started(task("guest", 10, 4), at_min=75) == {"guest"}
    assert started(task("guest", 10, 3), at_min=75, window=replace(LESSON, taken=1)) == {"guest"}
    assert started(task("guest", 10, 4), at_min=75, window=replace(LESSON, taken=1)) == set()
    assert started(task("guest", 10, 4), at_min=90, window=replace(LESSON, no_show_ms=LESSON.end_ms)) == set()


def test_the_planner_remembers_that_a_seat_was_taken() -> None:
    """A student starts, and has ended before the others are given up: one seat is kept for who may come back."""
    state, _ = planned(at_min=62, leases=(seated("a", 110),))
    state.apply(Delta(leases_ended=("a",)))
    state, plan = plan_round(state, Delta(queued=(task("guest", 10, 4),)), Policy(), 80 * MINUTE_MS)
    assert plan.placements == ()
    assert state.full().windows[0].taken == 1


def test_rounds_are_wanted_when_a_lesson_begins_gives_up_seats_and_ends() -> None:
    """Nothing else need happen for somebody to start then."""
    state, plan = planned()
    assert plan.wake_ms == 60 * MINUTE_MS
    for at_min, then in ((60, 75), (75, 120), (120, None)):
        state, plan = plan_round(state, Delta(), Policy(), at_min * MINUTE_MS)
        assert plan.wake_ms == (then and then * MINUTE_MS)


def test_a_promise_goes_round_the_lesson() -> None:
    """Four cpus for two hours: not before the lesson is over."""
    wide = task("wide", 120, 4)
    state, plan = planned(wide)
    assert plan.placements == ()
    assert explain(state, Policy(), wide, 0).earliest_start_ms == 120 * MINUTE_MS


def test_the_reason_says_which_class_and_when() -> None:
    """It would fit, but the room is promised to a class."""
    late = task("too-late", 61, 2)
    state, plan = planned(late, promise_after_ms=10**9)
    assert plan.waiting[0].overall is ReasonCode.RESERVATION_AHEAD
    (told,) = explain(state, Policy(), late, 0).reasons
    assert told.code == ReasonCode.RESERVATION_AHEAD
    assert "3 seats of 1 cpu" in told.message
    assert "1970-01-01 01:00 UTC" in told.message
    assert "02:00 UTC" in told.message
    assert dict(told.metadata)["window"] == "lesson"


def test_an_owner_ends_no_guest_for_room_that_a_class_holds() -> None:
    """The guest's cpu is all that is not promised: the owner gets that, and no more."""
    guest = lease("guest", cpus(1), "cairo", home_hub="lima", preemptible=True, expires_ms=600 * MINUTE_MS)
    _, plan = planned(task("owner", 90, 1), at_min=70, leases=(guest,))
    assert [claim.victims for claim in plan.preemptions] == [("guest",)]
    _, plan = planned(task("owner", 90, 2), at_min=70, leases=(guest,))
    assert plan.preemptions == ()


def test_taking_back_beside_a_class_looks_at_what_runs_a_few_times_not_once_a_guest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An owner needs two of two hundred guests' machines: what windows leave is found out for questions, not for moves."""
    looks: list[int] = []
    plain = Course.open

    def counted(course: Course, from_ms: int, until_ms: int = FOREVER_MS) -> Int64:
        looks.append(from_ms)
        return plain(course, from_ms, until_ms)

    monkeypatch.setattr(Course, "open", counted)
    guests = tuple(
        lease(f"guest-{at}", cpus(1), "cairo", home_hub="lima", preemptible=True, started_ms=1, expires_ms=10**9 + at)
        for at in range(200)
    )
    _, plan = planned(task("owner", 90, 2), at_min=70, leases=guests, agents=(agent("cairo", cpus(203)),))
    assert [len(claim.victims) for claim in plan.preemptions] == [2]
    assert len(looks) < 40


def test_a_hub_that_shrank_has_no_seats_to_give() -> None:
    """Of three promised cpus one is left: one student runs, nobody else, and the plan is not over capacity."""
    small = agent("cairo", cpus(1))
    assert len(started(*[student(name) for name in ("ada", "bo")], at_min=70, agents=(small,))) == 1
    assert started(task("guest", 10), at_min=70, agents=(small,)) == set()


@pytest.mark.parametrize(
    "changed",
    [
        {"window_id": ""},
        {"per_task": ()},
        {"per_task": cpus(1) + cpus(1)},
        {"per_task": cpus(2**43)},
        {"nodes": ()},
        {"nodes": ("n0",) * 1_001},
        {"nodes": ("",)},
        {"devices": ((0,),)},
        {"start_ms": -1},
        {"start_ms": 0.5},
        {"end_ms": LESSON.start_ms},
        {"end_ms": 2**53 + 1},
        {"no_show_ms": LESSON.start_ms - 1},
        {"no_show_ms": LESSON.end_ms + 1},
        {"taken": -1},
    ],
    ids=str,
)
def test_a_window_that_makes_no_sense_is_refused(changed: dict[str, Any]) -> None:
    """With its place, and nothing of the delta applied."""
    state, _ = planned()
    before = state.full()
    with pytest.raises(FederationError) as caught:
        state.apply(Delta(windows=(replace(LESSON, window_id="good"), replace(LESSON, **changed))))
    assert (caught.value.metadata["field"], caught.value.metadata["index"]) == ("windows", "1")
    assert state.full() == before


def test_an_agent_has_no_more_windows_than_can_be_added_up() -> None:
    """Nor is one both put and ended; a job's window is a name."""
    state, _ = planned()
    many = tuple(replace(LESSON, window_id=f"w{at}") for at in range(WINDOWS_PER_AGENT_MAX))
    for delta in (
        Delta(windows=many),
        Delta(windows=(LESSON,), windows_ended=("lesson",)),
        Delta(queued=(replace(task("odd", 1), window=None),)),  # type: ignore[arg-type]
    ):
        with pytest.raises(FederationError):
            state.apply(delta)
    state.apply(Delta(windows=many[1:]))
    state.apply(Delta(windows=many[1:]))
    assert len(state.full().windows) == WINDOWS_PER_AGENT_MAX


def test_windows_travel_with_the_other_changes() -> None:
    """The last word on each counts."""
    gathered = DeltaCollector()
    gathered.window(LESSON)
    gathered.window(replace(LESSON, end_ms=LESSON.end_ms + 1))
    gathered.window_ended("other")
    assert gathered
    delta = gathered.take()
    assert (delta.windows[0].end_ms, delta.windows_ended) == (LESSON.end_ms + 1, ("other",))


# -- offers -----------------------------------------------------------------------------------------------------------
HOUR_MS = 60 * MINUTE_MS


def test_a_class_is_offered_its_home_first() -> None:
    """Two hubs have room; a third is too small."""
    state, _ = plan_round(
        PlannerState(), Delta(agents=(CAIRO, agent("lima", cpus(2), cpus(2)), agent("oslo", cpus(2)))), Policy(), 0
    )
    found = offer(state, task("student", 60, home="lima"), 4, HOUR_MS, 2 * HOUR_MS, 0)
    assert [place.key[0] for place in found.places] == ["lima", "cairo"]
    assert sorted(found.places[0].nodes) == ["n0", "n0", "n1", "n1"]
    (refused,) = found.reasons
    assert (refused.code, refused.hub_id) == (ReasonCode.SHAPE_NEVER_FITS, "oslo")


def test_a_second_class_gets_what_the_first_left() -> None:
    """One seat more beside the lesson, not two; and both after it."""
    state, _ = planned()
    one = task("student", 60)
    assert len(offer(state, one, 1, HOUR_MS, 2 * HOUR_MS, 0).places) == 1
    refused = offer(state, one, 2, HOUR_MS, 2 * HOUR_MS, 0)
    assert refused.places == ()
    assert refused.reasons[0].code == ReasonCode.RESERVATION_AHEAD
    assert "1 of 2 seats" in refused.reasons[0].message
    assert (refused.earliest_ms, refused.earliest_hub_id) == (2 * HOUR_MS, "cairo")


def test_what_runs_past_the_bell_is_in_the_way() -> None:
    """A job holds two cpus until half past."""
    held = lease("long", cpus(2), "cairo", expires_ms=90 * MINUTE_MS)
    state, _ = plan_round(PlannerState(), Delta(agents=(CAIRO,), leases_started=(held,)), Policy(), 0)
    refused = offer(state, task("student", 60), 3, HOUR_MS, 2 * HOUR_MS, 0)
    assert refused.reasons[0].code == ReasonCode.CAPACITY
    assert dict(refused.reasons[0].metadata)["leases"] == "long"
    assert refused.earliest_ms == 90 * MINUTE_MS


def test_a_lesson_is_longer_until_the_next_one_begins() -> None:
    """The next class needs two of the same cpus at three."""
    state, _ = planned()
    after = WindowRow("after", key_of("cairo"), cpus(1), ("n0",) * 2, 3 * HOUR_MS, 4 * HOUR_MS, 4 * HOUR_MS)
    state.apply(Delta(windows=(after,)))
    longer = extend(state, "lesson", 3 * HOUR_MS, 0)
    assert longer.row is not None
    assert longer.row.end_ms == 3 * HOUR_MS
    refused = extend(state, "lesson", 3 * HOUR_MS + 1, 0)
    assert (refused.row, refused.until_ms) == (None, 3 * HOUR_MS)
    assert refused.reasons[0].code == ReasonCode.RESERVATION_AHEAD


@pytest.mark.parametrize(
    ("seats", "start_ms", "end_ms"),
    [(0, 1, 2), (1_001, 1, 2), (1, 2, 2), (1, 0, 0)],
    ids=["none", "many", "no", "past"],
)
def test_an_offer_needs_seats_and_a_time_to_come(seats: int, start_ms: int, end_ms: int) -> None:
    """Else it is refused with what would do."""
    with pytest.raises(FederationError):
        offer(PlannerState(), task("student", 60), seats, start_ms, end_ms, 0)


@pytest.mark.parametrize("window_id", ["nobodys", "lesson"])
def test_what_is_over_cannot_be_longer(window_id: str) -> None:
    """Nor what never was."""
    state, _ = planned(at_min=120)
    with pytest.raises(FederationError):
        extend(state, window_id, 10 * HOUR_MS, 120 * MINUTE_MS)
