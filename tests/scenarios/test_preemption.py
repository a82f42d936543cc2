"""Making room: a claim for one, an end in good order for another, and everybody's rights meanwhile.

Plans are the tests' own here: what is on trial is what becomes of a decision, not who takes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from federation.domain.ids import AgentId, AgentKey, HubId, LeaseId
from federation.domain.job import JobState, Reason
from federation.domain.lease import KILL_GRACE_MS, PREEMPTED, SKEW_BOUND_MS, STOP_GRACE_MS, LeaseState, ends_by_ms
from federation.domain.plan import ReasonCode
from federation.errors import FederationError
from federation.lifecycle.job import Trigger
from federation.scheduling.explaining import Explanation
from federation.scheduling.plan import Placement, Preemption
from federation.service import hubs
from federation.service.desk import with_claim
from federation.service.jobs import cancel, find
from tests.support.builders import a_node, an_agent, some_resources
from tests.support.world import ControlUnderTest

CAIRO: AgentKey = (HubId("cairo"), AgentId("main"))
RECLAIM_MS = 5_000
IN_TIME_MS = RECLAIM_MS + KILL_GRACE_MS + SKEW_BOUND_MS
WHOLE, SOME = some_resources(cpus=4), some_resources(cpus=2)


@pytest.fixture
def control() -> Iterator[ControlUnderTest]:
    """A control plane with one hub of four cpus and two GPUs; when the test ends, every promise must hold."""
    under_test = ControlUnderTest()
    node = a_node(cpus=4, gpus=2, gpu_kind="nvidia/T4")
    under_test.join(replace(an_agent(), nodes=(node,), reclaim_ms=RECLAIM_MS))
    yield under_test
    under_test.check()


def a_guest(control: ControlUnderTest, request_id: str = "guest", **spec: Any) -> str:
    """A preemptible job of all four cpus that runs at cairo."""
    job_id = control.submit(request_id, **{"name": request_id, "preemptible": True, "per_task": WHOLE, **spec})
    assert control.round() == 1
    control.sync(control.report(job_id, Trigger.RUN_STARTED, started_ms=control.clock.at_ms))
    return job_id


def an_owner(control: ControlUnderTest, request_id: str = "owner", **spec: Any) -> str:
    """A job that waits, and should not."""
    return control.submit(request_id, **{"name": request_id, "per_task": WHOLE, **spec})


def room_for(control: ControlUnderTest, job_id: str, *guests: str, **more: Any) -> Preemption:
    """End these guests for that job."""
    leases = tuple(control.lease_of(guest).id for guest in guests)
    values = {"nodes": ("n1",), "victims": leases, "lost_ms": 1_234, **more}
    return Preemption(job_id, CAIRO, **values)


def starts(control: ControlUnderTest, job_id: str) -> bool:
    """Whether a plan that starts it at cairo is accepted."""
    return control.commit(Placement(job_id, CAIRO, ("n1",))).placements == 1


def test_a_decision_that_fails_takes_no_other_with_it(control: ControlUnderTest) -> None:
    """What it had put is undone, and it alone: the placement of the same plan is granted."""
    most = some_resources(cpus=3)
    guest, owner = a_guest(control, per_task=most), an_owner(control, per_task=most)
    innocent = control.submit("innocent", per_task=some_resources(cpus=1))
    spoiled = room_for(control, owner, guest, lost_ms=object())  # no fact can be written of it
    accepted = control.commit(Placement(innocent, CAIRO, ("n1",)), spoiled)
    assert (accepted.placements, accepted.preemptions) == (1, 0)
    assert (control.job(innocent).state, control.job(owner).claim) == (JobState.LEASED, None)
    assert control.lease_of(guest).state is LeaseState.ACTIVE


def stopped(control: ControlUnderTest, job_id: str) -> None:
    """The guest's hub says that its run has ended as it was told to."""
    reason = Reason(PREEMPTED, "it makes room", "cairo")
    control.sync(control.report(job_id, Trigger.RUN_STOPPED, reason=reason, exit_code=143))


def facts_of(control: ControlUnderTest, job_id: str) -> list[str]:
    """What happened to a job."""
    return [event.type for event in control.store.events_of("job", job_id, 100)]


def test_a_guest_makes_room_and_runs_again(control: ControlUnderTest) -> None:
    """Told to end with the hub's own grace, queued again without blame, and started anew when there is room."""
    guest, owner = a_guest(control), an_owner(control)
    accepted = control.commit(room_for(control, owner, guest))
    assert (accepted.preemptions, control.rounds.figures.preemptions) == (1, 1)
    claim = control.job(owner).claim
    assert claim is not None
    assert (claim.victims, claim.lost_ms, claim.until_ms) == (
        (control.lease_of(guest).id,), 1_234, control.clock.at_ms + IN_TIME_MS,
    )  # fmt: skip
    assert (control.job(guest).state, control.lease_of(guest).state) == (JobState.RUNNING, LeaseState.REVOKING)
    told = control.job(guest).reason
    assert told is not None
    assert told.message == (
        "being ended by 08:53:25 UTC so that cairo's own users get their machines back; it will be queued again"
    )
    assert ends_by_ms(control.job(guest)) == control.clock.at_ms + RECLAIM_MS
    (revoke,) = control.sync().revokes
    assert (revoke.reason.code, revoke.grace_ms) == (PREEMPTED, RECLAIM_MS)

    control.sync(control.report(guest, Trigger.RUN_STOPPING))
    control.check()
    stopped(control, guest)
    waiting = control.job(guest)
    assert waiting.reason is not None
    assert (waiting.state, waiting.attempts, waiting.reason.code) == (JobState.QUEUED, 1, PREEMPTED)
    assert waiting.reason.message == "made room for cairo's own users; waits to run again"
    assert control.rounds.refusal_of(waiting.id, "cairo") == ""

    assert not starts(control, guest)
    assert starts(control, owner)
    assert (control.job(owner).state, control.job(owner).claim) == (JobState.LEASED, None)
    control.sync(control.report(owner, Trigger.RUN_SUCCEEDED))
    assert control.round() == 1
    assert (control.job(guest).state, str(control.job(guest).epoch)) == (JobState.LEASED, "1-2")
    assert facts_of(control, guest) == [
        "JobSubmitted", "LeaseGranted", "RunStarted", "PreemptRequested", "RunStopped", "LeaseGranted",
    ]  # fmt: skip
    assert facts_of(control, owner) == ["JobSubmitted", "ClaimMade", "LeaseGranted", "RunSucceeded"]


def test_a_claim_survives_a_restart(control: ControlUnderTest) -> None:
    """It is in the store with its job, and the planner hears of it again."""
    guest, owner = a_guest(control), an_owner(control)
    control.commit(room_for(control, owner, guest))
    claim = control.job(owner).claim
    control.boot()
    assert control.job(owner).claim == claim
    assert [job.id for job in control.world.claimed_at(CAIRO)] == [owner]
    told = control.rounds._gathered.take()
    assert [(row.job_id, row.victims) for row in told.claims_made] == [(owner, (control.lease_of(guest).id,))]
    assert [row.preemptible for row in told.leases_started] == [False]


def test_a_guest_that_ends_well_meanwhile_has_ended_well(control: ControlUnderTest) -> None:
    """Its result counts, and the room is there."""
    guest, owner = a_guest(control), an_owner(control)
    control.commit(room_for(control, owner, guest))
    control.sync(control.report(guest, Trigger.RUN_SUCCEEDED))
    assert control.job(guest).state is JobState.SUCCEEDED
    assert control.round() == 1
    assert control.job(owner).state is JobState.LEASED


def test_a_cancel_is_the_stronger_wish(control: ControlUnderTest) -> None:
    """A guest that its owner ends while it makes room is not queued again."""
    guest, owner = a_guest(control), an_owner(control)
    control.commit(room_for(control, owner, guest))
    control.run(lambda unit: cancel(unit, find(unit, control.store, guest), "", "test"))
    (revoke,) = control.sync().revokes
    assert (revoke.reason.code, revoke.grace_ms) == ("CANCEL_REQUESTED", STOP_GRACE_MS)
    stopped(control, guest)
    assert control.job(guest).state is JobState.CANCELLED


def test_a_claim_ends_with_its_jobs_wish(control: ControlUnderTest) -> None:
    """The job is cancelled: its claim is gone; the guest ends all the same, and comes back."""
    guest, owner = a_guest(control), an_owner(control)
    control.commit(room_for(control, owner, guest))
    control.run(lambda unit: cancel(unit, find(unit, control.store, owner), "", "test"))
    assert control.world.claims_of_agent == {}
    stopped(control, guest)
    assert control.round() == 1
    assert control.job(guest).state is JobState.LEASED


def test_a_drained_hub_gives_its_claims_up(control: ControlUnderTest) -> None:
    """Nothing new starts there: the job is planned anew."""
    guest, owner = a_guest(control), an_owner(control)
    control.commit(room_for(control, owner, guest))
    control.run(lambda unit: hubs.drain(unit, "cairo", "", "test"))
    assert (control.job(owner).state, control.job(owner).claim) == (JobState.QUEUED, None)
    assert facts_of(control, owner)[-1] == "ClaimDropped"


def test_a_claim_in_vain_is_given_up(control: ControlUnderTest) -> None:
    """A hub that does not end its guest in time, grace and skew included: the job is planned anew, the guest stays told."""
    guest, owner = a_guest(control), an_owner(control)
    control.commit(room_for(control, owner, guest))
    control.pass_time(IN_TIME_MS - 1)
    control.sync()
    assert control.job(owner).claim is not None
    control.pass_time(1)
    assert control.job(owner).claim is None
    assert '"code":"CLAIM_RAN_OUT"' in control.store.events_of("job", owner, 100)[-1].payload
    assert control.lease_of(guest).preempted
    assert control.commit(room_for(control, owner, guest)).preemptions == 1, (
        "it is ending, so it may be counted on again"
    )


def test_a_guest_that_never_started_waits_again(control: ControlUnderTest) -> None:
    """The order to start it had not arrived: the hub's full list without it says that it did not run."""
    guest = control.submit("guest", preemptible=True, per_task=WHOLE)
    control.round()
    owner = an_owner(control)
    control.commit(room_for(control, owner, guest))
    orders = control.sync()
    assert (orders.starts, len(orders.revokes), orders.send_full) == ([], 1, True)
    control.sync(full=True)
    assert (control.job(guest).state, control.world.lease_for(control.job(guest).id)) == (JobState.QUEUED, None)
    assert starts(control, owner)


def test_room_that_is_kept_is_given_to_nobody_else(control: ControlUnderTest) -> None:
    """Not before the guest has ended, not after; beside it there is place for others."""
    guest, owner = a_guest(control), an_owner(control, per_task=SOME)
    control.commit(room_for(control, owner, guest))
    large, small = an_owner(control, "large", per_task=some_resources(3)), an_owner(control, "small", per_task=SOME)
    stopped(control, guest)
    assert [starts(control, job_id) for job_id in (large, small, guest, owner)] == [False, True, False, True]


def test_a_needless_preemption_is_a_placement(control: ControlUnderTest) -> None:
    """The guest ended since the plan was made, or others did: nobody is told to end."""
    guest, owner = a_guest(control, per_task=SOME), an_owner(control, per_task=SOME)
    accepted = control.commit(room_for(control, owner, guest))
    assert (accepted.placements, accepted.preemptions) == (1, 0)
    assert not control.lease_of(guest).preempted
    late = room_for(control, an_owner(control, "second", per_task=SOME), guest)
    stopped(control, guest)
    assert control.commit(late).placements == 1


@pytest.mark.parametrize("wrong", ["not preemptible", "no such lease", "no victims", "no room even then", "draining"])
def test_what_no_longer_holds_is_left_as_it_is(control: ControlUnderTest, wrong: str) -> None:
    """Nobody is told to end for a claim that would not be one."""
    guest = a_guest(control, preemptible=wrong != "not preemptible")
    owner = an_owner(control, replicas=2 if wrong == "no room even then" else 1)
    planned = room_for(control, owner, guest)
    if wrong == "no room even then":
        planned = replace(planned, nodes=("n1", "n1"))
    elif wrong == "draining":
        control.run(lambda unit: hubs.drain(unit, "cairo", "", "test"))
    elif wrong in ("no such lease", "no victims"):
        planned = replace(planned, victims=(LeaseId("lease-of-nobody"),) if "such" in wrong else ())
    before = control.world.last_seq
    accepted = control.commit(planned)
    assert (accepted.placements, accepted.preemptions, control.world.last_seq) == (0, 0, before)
    assert control.lease_of(guest).state is LeaseState.ACTIVE


def test_devices_are_kept_one_by_one(control: ControlUnderTest) -> None:
    """A guest's device goes to the claim that waits for it; another job gets the other, in parts too."""
    guest = a_guest(control, per_task=some_resources(1, gpus=1))
    assert control.lease_of(guest).devices == ((0,),)
    owner = an_owner(control, per_task=some_resources(1, gpus=2))
    control.commit(room_for(control, owner, guest, devices=((0, 1),)))
    other = an_owner(control, "other", per_task=some_resources(1, gpus=0.5))
    assert control.commit(Placement(other, CAIRO, ("n1",), ((1,),))).placements == 0
    stopped(control, guest)
    assert not starts(control, other)
    assert starts(control, owner)
    assert control.lease_of(owner).devices == ((0, 1),)
    control.sync(control.report(owner, Trigger.RUN_SUCCEEDED))
    assert control.commit(Placement(other, CAIRO, ("n1",), ((1,),))).placements == 1
    assert starts(control, guest)
    assert (control.lease_of(other).devices, control.lease_of(guest).devices) == (((1,),), ((0,),))


def test_use_is_told_to_the_planner_once(control: ControlUnderTest) -> None:
    """Also the last stretch of a run that has ended, with its end and whose machines they were."""
    guest = a_guest(control)
    lease, at_ms = control.lease_of(guest), control.clock.at_ms
    control.rounds._gathered.take()
    control.clock.at_ms += 20
    first = control.report(guest, Trigger.RUN_STARTED, started_ms=at_ms, usage=((0, at_ms, at_ms + 10),))
    control.sync(first)
    control.sync(first)
    last = replace(first, trigger=Trigger.RUN_SUCCEEDED, usage=((1, at_ms + 10, at_ms + 15),))
    control.sync(last)
    late = replace(last, usage=((2, at_ms + 15, at_ms + 16),))
    control.sync(late)
    told = control.rounds._gathered.take().usage
    assert [(row.user, row.host_hub, row.end_ms - at_ms, dict(row.used)["cpu"]) for row in told] == [
        ("aisha", "cairo", 10, 40_000), ("aisha", "cairo", 15, 20_000), ("aisha", "cairo", 16, 4_000),
    ]  # fmt: skip
    assert [one.index for one in control.store.usage_of(lease.id)] == [0, 1, 2]


def test_use_is_not_forgotten_by_a_restart(control: ControlUnderTest) -> None:
    """What was used before counts once, as before: fairness does not begin anew."""
    guest, at_ms = a_guest(control), control.clock.at_ms
    control.clock.at_ms += 60_000
    report = control.report(guest, Trigger.RUN_SUCCEEDED, usage=((0, at_ms, at_ms + 10), (1, at_ms + 10, at_ms + 15)))
    control.sync(report)
    before = control.rounds._gathered.take().usage
    control.boot()
    (told,) = control.rounds._gathered.take().usage
    assert dict(told.used)["cpu"] == sum(dict(row.used)["cpu"] for row in before) == 15 * 4_000
    assert (told.owner, told.host_hub, told.end_ms) == (before[-1].owner, "cairo", at_ms + 15)


def test_a_hubs_wrong_clock_does_not_move_its_use(control: ControlUnderTest) -> None:
    """What is told to have been used in a million years, or in the year of the moon landing, was used just now."""
    guest, at_ms = a_guest(control), control.clock.at_ms
    control.clock.at_ms += 60_000
    for index, start_ms in enumerate((2**60, 0, at_ms + 10_000)):
        usage = ((index, start_ms, start_ms + 20_000),)
        control.sync(control.report(guest, Trigger.RUN_STARTED, started_ms=at_ms, usage=usage))
    told = control.rounds._gathered.take().usage
    assert [row.end_ms - at_ms for row in told] == [60_000, 20_000, 30_000]


def test_a_claimed_job_is_told_what_it_waits_for(control: ControlUnderTest) -> None:
    """One reason for its hub, with the moment at which the guests have ended; others keep theirs."""
    guest, owner = a_guest(control), an_owner(control)
    control.commit(room_for(control, owner, guest))
    claim = control.job(owner).claim
    assert claim is not None
    others = (
        Reason("FAIRNESS_TURN", "others"),
        Reason("CAPACITY", "full", "cairo"),
        Reason("CAPACITY", "full", "lima"),
    )
    told = with_claim(Explanation(others), claim, control.clock.at_ms)
    assert [(reason.code, reason.hub_id) for reason in told.reasons] == [
        (ReasonCode.CLAIM_HELD, "cairo"), ("CAPACITY", "lima"),
    ]  # fmt: skip
    assert told.reasons[0].message == (
        "machines of cairo are being freed for it and kept for it alone, expected by 08:53:25 UTC: 1 guest there is ending"
    )
    late = with_claim(Explanation(others), replace(claim, victims=claim.victims * 2), control.clock.at_ms + RECLAIM_MS)
    assert late.reasons[0].message.endswith("expected any moment, given up at 08:54:55 UTC: 2 guests there are ending")
    assert (told.earliest_start_ms, told.earliest_hub_id) == (control.clock.at_ms + RECLAIM_MS, "cairo")


def test_nobody_is_preempted_by_a_persons_mistake(control: ControlUnderTest) -> None:
    """A failed commit takes the claim and every order back."""
    guest, owner = a_guest(control), an_owner(control)

    def broken_half_way(unit: object) -> None:
        from federation.scheduling.plan import Plan
        from federation.service.committing import commit_plan

        commit_plan(unit, Plan(0, preemptions=(room_for(control, owner, guest),)), control.ids)  # type: ignore[arg-type]
        raise FederationError("INTERNAL", "no", fault="federation")  # type: ignore[arg-type]

    with pytest.raises(FederationError):
        control.run(broken_half_way)
    assert (control.job(owner).claim, control.world.claims_of_agent) == (None, {})
    assert control.lease_of(guest).state is LeaseState.ACTIVE
