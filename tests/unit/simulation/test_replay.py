"""A replay gives the real planner a history, event by event, as the live federation would."""

from __future__ import annotations

from dataclasses import replace

import pytest

from federation.domain.plan import ReasonCode
from federation.errors import Code, FederationError
from federation.scheduling import Delta, Plan, PlannerState, Policy, plan_round
from federation.scheduling.plan import Placement, Preemption
from federation.scheduling.prediction import Runtimes
from federation.scheduling.rows import LeaseRow, QueuedJob, WindowRow
from federation.simulation import Outcome, Replay, Run
from federation.simulation import replay as replay_module
from tests.unit.simulation.builders import HOUR, MINUTE, SECOND, agent, by_name, cpus, job, replayed, times


def test_a_job_runs_for_its_runtime_and_the_next_one_follows() -> None:
    """The planner sees the limit of ten hours; the room is free again when the job has really ended."""
    outcome = replayed([agent("cairo", cpus(1))], [job("a", 0, 5 * MINUTE), job("b", 60_000, 1 * MINUTE)])
    assert times(outcome) == {"a": (0, 5 * MINUTE), "b": (5 * MINUTE, 6 * MINUTE)}
    assert by_name(outcome)["b"].wait_ms == 4 * MINUTE
    assert (outcome.placements, outcome.preemptions, outcome.ended_ms) == (2, 0, 6 * MINUTE)


def test_all_of_one_instant_is_decided_together() -> None:
    """A job that ends and one that comes at the same moment are one round: the newcomer gets the room at once."""
    outcome = replayed([agent("cairo", cpus(1))], [job("a", 0, MINUTE), job("b", MINUTE, MINUTE)])
    assert by_name(outcome)["b"].wait_ms == 0


def test_rounds_go_on_until_one_places_nothing_new() -> None:
    """A round that may place only one job at a time still fills the hub at once."""
    jobs = [job(name, 0, MINUTE) for name in "abc"]
    outcome = replayed([agent("cairo", cpus(4))], jobs, placements_max=1)
    assert [one.start_ms for one in outcome.jobs] == [0, 0, 0]


def test_an_end_posts_its_use_so_that_who_used_less_goes_first() -> None:
    """Ada ran for an hour, Bo for nothing: of two that wait for one place, Bo's goes first."""
    jobs = [
        job("a1", 0, HOUR),
        job("a2", 1, MINUTE, user="ada", seq=1),
        job("b1", 2, MINUTE, user="bo", seq=2),
    ]
    outcome = replayed([agent("cairo", cpus(1))], jobs)
    assert times(outcome)["b1"] == (HOUR, HOUR + MINUTE)
    assert times(outcome)["a2"] == (HOUR + MINUTE, HOUR + 2 * MINUTE)


def test_weights_change_who_goes_first() -> None:
    """The policy is what the planner goes by."""
    jobs = [
        job("a1", 0, HOUR),
        job("b1", 0, HOUR, home_hub="kuala-lumpur"),
        job("a2", 1, MINUTE, cpus(2)),
        job("b2", 2, MINUTE, cpus(2), home_hub="kuala-lumpur"),
    ]
    machines = [agent("shenzhen", cpus(2))]
    plain, weighed = replayed(machines, jobs), replayed(machines, jobs, hub_weights={"kuala-lumpur": 9.0})
    assert (times(plain)["a2"][0], times(plain)["b2"][0]) == (HOUR, HOUR + MINUTE)
    assert (times(weighed)["b2"][0], times(weighed)["a2"][0]) == (HOUR, HOUR + MINUTE)


def test_what_never_starts_says_why() -> None:
    """A job too big for every machine, and one whose dataset nobody has."""
    jobs = [job("big", 0, MINUTE, cpus(64)), job("lost", 0, MINUTE, inputs=(("gone", ""),)), job("fine", 0, MINUTE)]
    found = by_name(replayed([agent("cairo", cpus(1))], jobs))
    assert (found["big"].reason, found["big"].end_ms, found["big"].attempts) == (ReasonCode.SHAPE_NEVER_FITS, None, 0)
    assert found["lost"].reason is ReasonCode.UNKNOWN_DATASET
    assert (found["fine"].reason, found["fine"].hub_id) == (None, "cairo")


def test_without_machines_everybody_waits() -> None:
    """An empty federation is an answer, not an error."""
    assert by_name(replayed([], [job("a", 0, 1)]))["a"].reason is ReasonCode.NO_AGENT
    assert replayed([agent("cairo", cpus(1))], []).jobs == ()


def test_a_replay_can_run_again() -> None:
    """Each run begins anew: idle machines, no memory."""
    replay = Replay([agent("cairo", cpus(1))], Policy())
    jobs = [job("a", 0, MINUTE), job("b", 0, MINUTE)]
    assert replay.run(jobs) == replay.run(jobs)


def test_an_id_twice_is_refused() -> None:
    """The outcome goes by id."""
    with pytest.raises(FederationError) as caught:
        replayed([agent("cairo", cpus(1))], [job("a", 0, 1), job("a", 5, 1)])
    assert (caught.value.code, "twice" in caught.value.message) == (Code.INVALID_ARGUMENT, True)


@pytest.mark.parametrize("runtime_ms", [0, 10 * HOUR + 1])
def test_a_runtime_is_within_the_limit(runtime_ms: int) -> None:
    """Its hub would have ended it."""
    with pytest.raises(FederationError) as caught:
        job("a", 0, runtime_ms)
    assert caught.value.metadata["field"] == "runtime_ms"


def test_progress_is_told_now_and_then() -> None:
    """Long replays say how far they are."""
    told: list[tuple[int, int]] = []
    jobs = [job(f"j{at:04d}", at * MINUTE, SECOND) for at in range(1200)]
    Replay([agent("cairo", cpus(1))], Policy(), progress=lambda done, of: told.append((done, of))).run(jobs)
    assert told == [(500, 1200), (1000, 1200)]


class _LastRun:
    """Guesses that a job takes as long as the last one did."""

    def __init__(self) -> None:
        self.last_ms = 0

    def expected_ms(self, job: QueuedJob) -> int:
        return self.last_ms

    def ran(self, job: QueuedJob, runtime_ms: int) -> None:
        self.last_ms = runtime_ms


def test_a_predictor_is_told_of_ends_and_asked_at_arrivals(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planner sees its guess, never above the job's limit; each run has a fresh one."""
    seen: dict[str, int] = {}

    def watching(state: PlannerState, delta: Delta, policy: Policy, now_ms: int) -> tuple[PlannerState, Plan]:
        seen.update({row.job_id: row.expected_ms for row in delta.queued})
        return plan_round(state, delta, policy, now_ms)

    monkeypatch.setattr(replay_module, "plan_round", watching)
    jobs = [job("a", 0, 5 * MINUTE), job("b", HOUR + 1, 1), job("c", HOUR - 1, 1, runtime_limit_ms=MINUTE)]
    replay = Replay([agent("cairo", cpus(1))], Policy(), predictor=_LastRun)
    for _ in range(2):
        replay.run(jobs)
        assert seen == {"a": 0, "b": 1, "c": MINUTE}


def test_expected_runtimes_come_from_what_ended_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planner's own prediction is such a predictor: the mean of the user's last two of the sort."""
    seen: dict[str, int] = {}

    def watching(state: PlannerState, delta: Delta, policy: Policy, now_ms: int) -> tuple[PlannerState, Plan]:
        seen.update({row.job_id: row.expected_ms for row in delta.queued})
        return plan_round(state, delta, policy, now_ms)

    monkeypatch.setattr(replay_module, "plan_round", watching)
    jobs = [job("a", 0, MINUTE), job("b", HOUR, 3 * MINUTE), job("c", 2 * HOUR, 1), job("bos", 2 * HOUR, 1, user="bo")]
    Replay([agent("cairo", cpus(1))], Policy(), predictor=Runtimes).run(jobs)
    assert seen == {"a": 0, "b": MINUTE, "c": 2 * MINUTE, "bos": 0}


class _PushyPlanner:
    """Has one machine for one job at a time, and lets whoever waits push out whoever runs and is preemptible."""

    def __init__(self) -> None:
        self.claims: list[str] = []
        self.waiting: dict[str, QueuedJob] = {}
        self.running: dict[str, LeaseRow] = {}
        self.deltas: list[Delta] = []

    def __call__(self, state: PlannerState, delta: Delta, policy: Policy, now_ms: int) -> tuple[PlannerState, Plan]:
        self.deltas.append(delta)
        key = agent("cairo").key
        for lease_id in delta.leases_ended:
            self.running.pop(lease_id, None)
        for job_id in delta.dequeued:
            self.waiting.pop(job_id, None)
        self.waiting |= {row.job_id: row for row in delta.queued}
        self.running |= {row.lease_id: row for row in delta.leases_started}
        self.claims = [name for name in self.claims if name not in delta.claims_ended]
        self.claims += [claim.job_id for claim in delta.claims_made]
        if not self.waiting:
            return state, Plan(now_ms)
        job_id = next(iter(self.claims), min(self.waiting))
        victims = tuple(sorted(lease_id for lease_id, row in self.running.items() if row.preemptible))
        if not self.running:
            return state, Plan(now_ms, placements=(Placement(job_id, key, ("n0",)),))
        return state, Plan(now_ms, preemptions=(Preemption(job_id, key, ("n0",), victims, 1),) if victims else ())


def pushed(monkeypatch: pytest.MonkeyPatch, grace_ms: int, runtime_ms: int) -> tuple[_PushyPlanner, Outcome]:
    """A preemptible guest of `runtime_ms` from 0 on, and an owner's job of a minute that comes after ten."""
    planner = _PushyPlanner()
    monkeypatch.setattr(replay_module, "plan_round", planner)
    jobs = [job("guest", 0, runtime_ms, preemptible=True), job("owner", 10 * MINUTE, MINUTE)]
    return planner, replayed([agent("cairo", cpus(1), reclaim_ms=grace_ms)], jobs)


def test_a_preempted_job_ends_after_its_grace_and_runs_again_from_its_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its work is lost and counted; the room is claimed until then, and the claim ends when the job starts."""
    planner, outcome = pushed(monkeypatch, grace_ms=30_000, runtime_ms=HOUR)
    start_ms = 10 * MINUTE + 30_000
    key = agent("cairo").key
    assert outcome.runs == (
        Run("guest", key, ("n0",), 0, start_ms, False),
        Run("owner", key, ("n0",), start_ms, start_ms + MINUTE, True),
        Run("guest", key, ("n0",), start_ms + MINUTE, start_ms + MINUTE + HOUR, True),
    )
    assert (outcome.preemptions, outcome.lost_ms) == (1, start_ms)
    guest = by_name(outcome)["guest"]
    assert (guest.attempts, guest.wait_ms, guest.lost_ms) == (2, MINUTE, start_ms)
    assert guest.bounded_slowdown == (start_ms + MINUTE + HOUR) / HOUR
    claims = [(delta.claims_made, delta.claims_ended) for delta in planner.deltas]
    made = [[(claim.job_id, claim.victims) for claim in rows] for rows, _ in claims if rows]
    assert made == [[("owner", ("guest/1",))]]
    assert [names for _, names in claims if names] == [("owner",)]


def test_a_victim_that_is_told_to_end_is_not_preemptible_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the live federation, so that nobody else counts on its room."""
    planner, _ = pushed(monkeypatch, grace_ms=30_000, runtime_ms=HOUR)
    told = [row for delta in planner.deltas for row in delta.leases_started if row.lease_id == "guest/1"]
    assert [row.preemptible for row in told] == [True, False]
    assert replace(told[1], preemptible=True) == told[0]


def test_a_victim_that_is_done_within_its_grace_has_lost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ended well; nobody was preempted."""
    _, outcome = pushed(monkeypatch, grace_ms=2 * MINUTE, runtime_ms=11 * MINUTE)
    assert [(run.job_id, run.end_ms, run.completed) for run in outcome.runs] == [
        ("guest", 11 * MINUTE, True),
        ("owner", 12 * MINUTE, True),
    ]
    assert (outcome.preemptions, outcome.lost_ms) == (0, 0)


def test_without_grace_the_room_is_there_at_the_same_instant(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reclaim time of 0 ends the victim at once."""
    _, outcome = pushed(monkeypatch, grace_ms=0, runtime_ms=HOUR)
    assert times(outcome)["owner"] == (10 * MINUTE, 11 * MINUTE)


def test_a_planner_that_goes_round_in_circles_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two jobs that push each other out for ever are an error of ours, not an endless replay."""
    monkeypatch.setattr(replay_module, "plan_round", _PushyPlanner())
    monkeypatch.setattr(replay_module, "ATTEMPTS_MAX", 10)
    jobs = [job(name, 0, HOUR, preemptible=True, seq=at) for at, name in enumerate("ab")]
    with pytest.raises(FederationError) as caught:
        replayed([agent("cairo", cpus(1), reclaim_ms=0)], jobs)
    assert caught.value.code is Code.INTERNAL


def test_owners_get_their_machine_back_from_a_guest_that_may_be_ended() -> None:
    """The real planner: the guest ends after the hub's grace, the owner's job has its room, and the guest runs anew."""
    machines = [agent("cairo", cpus(2), reclaim_ms=30 * SECOND)]
    jobs = [
        job("guest", 0, HOUR, cpus(2), home_hub="shenzhen", preemptible=True),
        job("owner", 10 * MINUTE, MINUTE, cpus(2)),
    ]
    outcome = replayed(machines, jobs)
    start_ms = 10 * MINUTE + 30 * SECOND
    assert times(outcome) == {
        "owner": (start_ms, start_ms + MINUTE),
        "guest": (start_ms + MINUTE, start_ms + MINUTE + HOUR),
    }
    assert (outcome.preemptions, outcome.lost_ms) == (1, start_ms)


def test_a_guest_that_may_not_be_ended_is_left_alone() -> None:
    """The owner waits: only preemptible jobs are preempted."""
    machines = [agent("cairo", cpus(2))]
    jobs = [job("guest", 0, HOUR, cpus(2), home_hub="shenzhen"), job("owner", 10 * MINUTE, MINUTE, cpus(2))]
    outcome = replayed(machines, jobs)
    assert (times(outcome)["owner"], outcome.preemptions) == ((HOUR, HOUR + MINUTE), 0)


def test_there_is_a_round_at_the_instant_that_a_plan_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planner wants to decide anew at ten minutes, when nothing comes and nothing ends."""
    held: list[int] = []

    def plan(state: PlannerState, delta: Delta, policy: Policy, now_ms: int) -> tuple[PlannerState, Plan]:
        held.append(now_ms)
        state, made = plan_round(state, delta, policy, now_ms)
        return state, replace(made, wake_ms=10 * MINUTE if now_ms < 10 * MINUTE else None)

    monkeypatch.setattr(replay_module, "plan_round", plan)
    replayed([agent("cairo", cpus(1))], [job("a", 0, HOUR), job("b", MINUTE, MINUTE)])
    assert held == [0, MINUTE, 10 * MINUTE, HOUR]


def test_a_class_has_its_seats_in_a_replay_and_others_start_when_it_is_over() -> None:
    """Nothing ends at the bell, or when the lesson is over: the replay holds a round at both."""
    hub = agent("cairo", cpus(2))
    lesson = WindowRow("lesson", hub.key, cpus(1), ("n0", "n0"), HOUR, 2 * HOUR, 2 * HOUR)
    jobs = [
        job("guest", 1, 50 * MINUTE, cpus(2), runtime_limit_ms=HOUR - 2),
        job("late", 2, HOUR, cpus(2), runtime_limit_ms=HOUR),
        job("ada", 30 * MINUTE, 20 * MINUTE, window="lesson", runtime_limit_ms=HOUR),
    ]
    replay = Replay([hub], Policy(), windows=[lesson])
    assert times(replay.run(jobs)) == {
        "guest": (1, 50 * MINUTE + 1),
        "ada": (50 * MINUTE + 1, 70 * MINUTE + 1),
        "late": (2 * HOUR, 3 * HOUR),
    }
