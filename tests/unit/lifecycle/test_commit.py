"""A plan's decisions on the latest state: node by node, device by device, now and when everybody who was told to end has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from federation.domain.hub import HubState, LinkState
from federation.domain.ids import LeaseId
from federation.domain.job import Claim, Job, JobState
from federation.domain.lease import KILL_GRACE_MS, PREEMPTED, SKEW_BOUND_MS, Lease, LeaseState
from federation.domain.quantities import DevicesByTask
from federation.lifecycle.commit import Held, Place, Verdict, claimed, granted, verify, verify_preemption
from federation.lifecycle.invariants import broken
from federation.lifecycle.job import JobRecord
from federation.lifecycle.room import Hold, left_on
from tests.support.builders import NOON_MS, a_claim, a_hub, a_job, a_lease, a_node, an_agent, some_resources

A100, T4 = "nvidia/A100", "nvidia/T4"
HUB = a_hub()
GPUS = an_agent(nodes=(a_node("n1", 8, 8, 2, A100), a_node("n2", 8, 8, 1, T4)))
"""Two whole devices on n1, one on n2."""


def waiting(name: str = "wants", **spec: Any) -> Job:
    """A job that waits."""
    return a_job(name, **spec)


def running(name: str, state: LeaseState = LeaseState.ACTIVE, devices: DevicesByTask = (), **spec: Any) -> JobRecord:
    """A preemptible job that runs on n1, and its lease."""
    job = a_job(name, JobState.RUNNING, **{"preemptible": True, **spec})
    lease = a_lease(job, state, id=LeaseId(f"lease-{name}"), devices=devices)
    if state is LeaseState.REVOKING:
        lease = replace(lease, revoke_code=PREEMPTED)
    return JobRecord(job, lease)


def held(*records: JobRecord, claims: tuple[Job, ...] = ()) -> Held:
    """What is held at the agent."""
    return Held([record.lease for record in records if record.lease is not None], claims)


def gpus(milli: int, kind: str = "", cpus: float = 1) -> Any:
    """A task with so much of a device."""
    return some_resources(cpus, 1, milli / 1000, kind)


def leases(of: Held) -> list[Lease]:
    """The leases of it."""
    return list(of.leases)


@pytest.mark.parametrize(
    ("changes", "why_not"),
    [
        ({}, ""),
        ({"job": waiting(replicas=2)}, "CAPACITY"),
        ({"job": a_job(state=JobState.LEASED)}, "NOT_QUEUED"),
        ({"agent": None}, "HUB_SUSPECT"),
        ({"agent": replace(GPUS, link=LinkState.SUSPECT)}, "HUB_SUSPECT"),
        ({"hub": a_hub(state=HubState.DRAINING)}, "HUB_DRAINING"),
        ({"place": Place(("n7",))}, "CAPACITY"),
        ({"place": Place(("n1",), ((0,), (1,)))}, "CAPACITY"),
        ({"held": held(running("other", per_task=some_resources(7.5)))}, "CAPACITY"),
        ({"held": held(running("other", per_task=some_resources(7)))}, ""),
    ],
)
def test_a_placement_is_verified_on_what_is_now(changes: dict[str, Any], why_not: str) -> None:
    """Its job still waits, its agent is there and takes work, and there is still room."""
    asked = {"job": waiting(), "agent": GPUS, "hub": HUB, "place": Place(("n1",)), "held": Held(), **changes}
    assert verify(**asked).why_not == why_not


@pytest.mark.parametrize(
    ("milli", "kind", "node", "devices", "expected"),
    [
        (1_000, "", "n1", (), Verdict("", ((1,),))),  # half of the first is held
        (500, "", "n1", (), Verdict("", ((0,),))),  # the tightest
        (600, "", "n1", (), Verdict("", ((1,),))),
        (500, "", "n1", ((1,),), Verdict("", ((1,),))),  # as planned, whether tight or not
        (501, "", "n1", ((0,),), Verdict("CAPACITY")),
        (1_000, "", "n1", ((0,),), Verdict("CAPACITY")),
        (2_000, "", "n1", (), Verdict("CAPACITY")),
        (1_000, T4, "n1", (), Verdict("CAPACITY")),
        (1_000, f"{T4}|{A100}", "n1", (), Verdict("", ((1,),))),
        (1_000, T4, "n2", (), Verdict("", ((0,),))),
        (1_000, A100, "n2", ((0,),), Verdict("CAPACITY")),
        (500, "", "n1", ((2,),), Verdict("CAPACITY")),
        (500, "", "n1", ((-1,),), Verdict("CAPACITY")),
        (500, "", "n1", ((0, 1),), Verdict("CAPACITY")),
        (2_000, "", "n1", ((1, 1),), Verdict("CAPACITY")),
        (0, "", "n1", ((0,),), Verdict("")),  # a task that needs none is given none
        (0, "", "n1", (), Verdict("")),
    ],
)
def test_devices_are_verified_one_by_one_or_chosen(
    milli: int, kind: str, node: str, devices: DevicesByTask, expected: Verdict
) -> None:
    """Sums would fit where no device does; a plan that names none gets the tightest that do."""
    others = held(running("half", devices=((0,),), per_task=gpus(500)))
    assert verify(waiting(per_task=gpus(milli, kind)), GPUS, HUB, Place((node,), devices), others) == expected


def test_a_gangs_tasks_lie_beside_each_other() -> None:
    """Three halves on two devices, then no whole one is left."""
    job = waiting(per_task=gpus(500), replicas=3)
    assert verify(job, GPUS, HUB, Place(("n1",) * 3), Held()).devices == ((0,), (0,), (1,))
    whole = waiting(per_task=gpus(1_000), replicas=3)
    assert verify(whole, GPUS, HUB, Place(("n1", "n2", "n1")), Held()).devices == ((0,), (0,), (1,))
    assert verify(whole, GPUS, HUB, Place(("n1",) * 3), Held()).why_not == "CAPACITY"


def test_leases_of_before_hold_a_device_though_nobody_knows_which() -> None:
    """They are laid where they fit, after those that are known."""
    old, known = running("old", per_task=gpus(1_000)), running("known", devices=((0,),), per_task=gpus(1_000))
    assert verify(waiting(per_task=gpus(1_000)), GPUS, HUB, Place(("n1",)), held(old)).devices == ((1,),)
    assert verify(waiting(per_task=gpus(1_000)), GPUS, HUB, Place(("n1",)), held(old, known)).why_not == "CAPACITY"


# ---- claims ---------------------------------------------------------------------------------------------------------
GUEST = running("guest", per_task=some_resources(6))
ENDING = running("guest", LeaseState.REVOKING, per_task=some_resources(6))


def test_a_claim_must_fit_when_its_victims_have_gone() -> None:
    """Beside everything that stays, on each node."""
    owner, stays = waiting(per_task=some_resources(6)), running("stays", per_task=some_resources(2))
    place = Place(("n1",))
    assert verify_preemption(owner, GPUS, HUB, place, [GUEST], held(GUEST, stays)).why_not == ""
    more = running("stays", per_task=some_resources(2.1))
    assert verify_preemption(owner, GPUS, HUB, place, [GUEST], held(GUEST, more)).why_not == "CAPACITY"


@pytest.mark.parametrize(
    ("victims", "why_not"),
    [
        ([GUEST], ""),
        ([ENDING], ""),
        ([], "NO_VICTIM"),
        ([running("own", preemptible=False)], "NO_VICTIM"),
        ([JobRecord(replace(GUEST.job, state=JobState.UNKNOWN), GUEST.lease)], "NO_VICTIM"),
        ([JobRecord(replace(GUEST.job, state=JobState.CANCELLING), GUEST.lease)], "NO_VICTIM"),
        ([JobRecord(GUEST.job, None)], "NO_VICTIM"),
        ([GUEST, running("own", preemptible=False)], "NO_VICTIM"),
    ],
)
def test_only_preemptible_jobs_that_run_here_are_victims(victims: list[JobRecord], why_not: str) -> None:
    """Neither what did not say so, nor what is silent, nor what has ended or is being cancelled."""
    verdict = verify_preemption(waiting(per_task=some_resources(6)), GPUS, HUB, Place(("n1",)), victims, held(*victims))
    assert verdict.why_not == why_not


def test_victims_are_at_the_agent_of_the_claim() -> None:
    """Ending somebody elsewhere makes no room here."""
    assert GUEST.lease is not None
    elsewhere = JobRecord(GUEST.job, replace(GUEST.lease, agent_id="spare"))  # type: ignore[arg-type]
    assert verify_preemption(waiting(), GPUS, HUB, Place(("n1",)), [elsewhere], Held()).why_not == "NO_VICTIM"


def test_a_job_holds_one_claim() -> None:
    """Until it is dropped."""
    job = replace(waiting(), claim=a_claim())
    assert verify_preemption(job, GPUS, HUB, Place(("n1",)), [GUEST], held(GUEST)).why_not == "HAS_A_CLAIM"


def claiming(name: str = "owner", devices: DevicesByTask = (), **spec: Any) -> Job:
    """A job with a claim on n1."""
    return replace(waiting(name, **spec), claim=a_claim(devices=devices))


def test_claimed_room_is_for_its_job_and_for_nobody_else() -> None:
    """Before its victim has ended nobody fits; afterwards its own job does, and another only beside it."""
    owner = claiming(per_task=some_resources(6))
    now, then = held(ENDING, claims=(owner,)), held(claims=(owner,))
    other = waiting("other", per_task=some_resources(2.5))
    small = waiting("small", per_task=some_resources(2))
    place = Place(("n1",))
    assert [verify(job, GPUS, HUB, place, now).why_not for job in (owner, other, small)] == ["CAPACITY", "CAPACITY", ""]
    assert [verify(job, GPUS, HUB, place, then).why_not for job in (owner, other, small)] == ["", "CAPACITY", ""]


def test_what_is_ending_makes_room_afterwards_and_not_before() -> None:
    """A second claim may count on room that the first one's victim leaves over; a placement may not."""
    owner = claiming(per_task=some_resources(2))
    place, second = Place(("n1",)), waiting("second", per_task=some_resources(4))
    there = held(ENDING, running("small", per_task=some_resources(1)), claims=(owner,))
    small = running("small", per_task=some_resources(1))
    assert verify(second, GPUS, HUB, place, there).why_not == "CAPACITY"
    assert verify_preemption(second, GPUS, HUB, place, [small], there).why_not == ""
    third = waiting("third", per_task=some_resources(6.5))
    assert verify_preemption(third, GPUS, HUB, place, [small], there).why_not == "CAPACITY"


def test_a_claimed_job_gets_its_claimed_devices_where_the_plan_names_none() -> None:
    """They were kept for it; another is given the others."""
    owner = claiming(devices=((1,),), per_task=gpus(500))
    there = held(running("half", devices=((0,),), per_task=gpus(500)), claims=(owner,))
    assert verify(owner, GPUS, HUB, Place(("n1",)), there).devices == ((1,),)
    assert verify(waiting(per_task=gpus(500)), GPUS, HUB, Place(("n1",)), there).devices == ((0,),)
    assert verify(waiting(per_task=gpus(1_000)), GPUS, HUB, Place(("n1",)), there).why_not == "CAPACITY"
    taken = held(running("all", devices=((1,),), per_task=gpus(1_000)), claims=(owner,))
    assert verify(owner, GPUS, HUB, Place(("n1",)), taken).devices == ((0,),)


@pytest.mark.parametrize("place", [-1, -3, 2])
def test_a_lease_on_devices_that_are_not_there_is_astray(place: int) -> None:
    """It is counted, on none of the node's devices."""
    left = left_on(GPUS.nodes[0].offered, [Hold(gpus(1_000), (place,))])
    assert (left.astray, left.free, left.over_full) == (1, [1_000, 1_000], True)


def test_what_is_accepted_becomes_a_lease_or_a_claim() -> None:
    """With the devices of the verdict; a claim is given up after reclaim, kill grace and skew."""
    job, place = waiting(per_task=gpus(500)), Place(("n1",), ((1,),))
    lease = granted(job, GPUS, place, LeaseId("lease-1"), 1, NOON_MS)
    assert (lease.nodes, lease.devices, str(lease.epoch)) == (("n1",), ((1,),), "1-1")
    agent = replace(GPUS, reclaim_ms=5_000)
    claim = claimed(agent, place, (LeaseId("lease-2"),), 77, NOON_MS)
    until_ms = NOON_MS + 5_000 + KILL_GRACE_MS + SKEW_BOUND_MS
    assert claim == Claim(agent.hub_id, agent.agent_id, ("n1",), ((1,),), (LeaseId("lease-2"),), NOON_MS, until_ms, 77)


# ---- the promises ---------------------------------------------------------------------------------------------------
def jobs_of(*records: JobRecord, claims: tuple[Job, ...] = ()) -> list[Job]:
    """All jobs of a state."""
    return [*(record.job for record in records), *claims]


def epoched(record: JobRecord) -> JobRecord:
    """With the attempt that its lease has."""
    assert record.lease is not None
    return replace(record, job=replace(record.job, epoch=record.lease.epoch))


@pytest.mark.parametrize(
    ("records", "claims", "sentence"),
    [
        ([running("a", devices=((0,),), per_task=gpus(500)), running("b", devices=((0,),), per_task=gpus(500))], (), ""),
        ([running("a", devices=((0,),), per_task=gpus(500)), running("b", devices=((0,),), per_task=gpus(600))], (),
         "holds more than it offers"),
        ([running("a", devices=((2,),), per_task=gpus(500))], (), "holds more than it offers"),
        ([ENDING], (claiming(per_task=some_resources(8)),), ""),
        ([ENDING], (claiming(per_task=some_resources(8)), claiming("second")), "with its claims, than it offers"),
        ([GUEST], (claiming(per_task=some_resources(8)),), "with its claims, than it offers"),
        ([running("rude", LeaseState.REVOKING, preemptible=False)], (), "never said that it may be"),
        ([], (replace(claiming(), state=JobState.LEASED),), "and holds a claim"),
        ([running("of-a-guest")], (claiming(),), "goes on and is a victim"),
    ],
)  # fmt: skip
def test_broken_promises_are_told(records: list[JobRecord], claims: tuple[Job, ...], sentence: str) -> None:
    """Devices, claims beside what stays, and victims that may be."""
    found = broken(jobs_of(*map(epoched, records), claims=claims), leases(held(*records)), {GPUS.key: GPUS})
    assert found == [] if not sentence else any(sentence in one for one in found)
