"""Between wire and nouns: devices, kinds, reclaim times and claims, and what cannot be said is refused by field."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.api.translate import (
    PLACES_MAX,
    agent_in,
    claim_out,
    hub_out,
    job_out,
    node_in,
    policy_out,
    spec_in,
    told_in,
)
from federation.domain.hub import HUB_AMOUNT_MAX, RECLAIM_MS_DEFAULT, RECLAIM_MS_MAX
from federation.domain.job import Job, JobState, Reason
from federation.domain.lease import ENDS_BY, KILL_GRACE_MS, PREEMPTED, SKEW_BOUND_MS, STOP_GRACE_MS, LeaseState
from federation.domain.quantities import resources
from federation.errors import Code, FederationError
from federation.scheduling.checks import DEVICES_PER_NODE_MAX
from federation.scheduling.policy import Order, Policy
from federation.service import policies
from federation.service.hubs import HubView
from federation.v1 import common_pb2, hub_pb2, job_pb2
from tests.support.builders import NOON_MS, a_claim, a_hub, a_job, a_lease, an_agent


def a_spec(placement: int = job_pb2.PLACEMENT_UNSPECIFIED, *per_task: tuple[str, str, int]) -> job_pb2.JobSpec:
    """A spec of one cpu and these."""
    spec = job_pb2.JobSpec(version=1, name="a-job", engine="command", entrypoint="run.py")
    spec.demand.placement = placement  # type: ignore[assignment]
    for name, kind, amount in (("cpu", "", 1_000), *per_task):
        spec.demand.per_task.add(name=name, kind=kind, amount=amount)
    return spec


def an_introduction(**changes: Any) -> hub_pb2.OpenSessionRequest:
    """An agent with one node."""
    nodes = [hub_pb2.Node(name="n1")]
    return hub_pb2.OpenSessionRequest(hub_id="cairo", agent_id="main", instance_id="i", nodes=nodes, **changes)


def refused(call: Any) -> tuple[Code, str]:
    """With which code and by which field."""
    with pytest.raises(FederationError) as caught:
        call()
    return caught.value.code, caught.value.metadata["field"]


def test_tasks_are_spread_where_the_spec_says_so() -> None:
    """Packed is the default and can be said; what is of tomorrow is refused."""
    styles = (job_pb2.PLACEMENT_UNSPECIFIED, job_pb2.PLACEMENT_PACK, job_pb2.PLACEMENT_SPREAD)
    assert [spec_in(a_spec(style)).spread for style in styles] == [False, False, True]
    assert refused(lambda: spec_in(a_spec(9))) == (Code.INVALID_ARGUMENT, "demand.placement")


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (("gpu", "", 1_500), "resources.gpus"),
        (("gpu", "a|", 500), "resources.gpu_model"),
        (("memory", "ddr5", 1), "resources"),
    ],
)
def test_a_spec_that_no_machine_could_take_is_refused(asked: tuple[str, str, int], field: str) -> None:
    """Whatever program sent it: the client's own checks can be got around."""
    assert refused(lambda: spec_in(a_spec(0, asked))) == (Code.INVALID_ARGUMENT, field)


def test_kinds_of_what_has_none_are_added_up() -> None:
    """A hub that tells its memory apart offers the sum; a gpu's kind may not read as two."""
    told = [("memory", "ddr4", 3), ("memory", "ddr5", 4), ("gpu", "a", 500), ("gpu", "b", 1_000), ("cpu", "big", 8)]
    offered = [common_pb2.Resource(name=name, kind=kind, amount=amount) for name, kind, amount in told]
    node = node_in(hub_pb2.Node(name="n1", offered=offered, capacity=offered))
    assert node.offered == node.capacity == resources(
        ("cpu", "", 8), ("gpu", "a", 500), ("gpu", "b", 1_000), ("memory", "", 7)
    )  # fmt: skip
    both = hub_pb2.Node(name="n1", offered=[common_pb2.Resource(name="gpu", kind="a|b", amount=1_000)])
    assert refused(lambda: node_in(both)) == (Code.INVALID_ARGUMENT, "nodes.offered")


@pytest.mark.parametrize(
    ("said", "expected"), [({}, RECLAIM_MS_DEFAULT), ({"reclaim_ms": 0}, 0), ({"reclaim_ms": 5_000}, 5_000)]
)
def test_a_hub_says_how_fast_it_takes_its_machines_back(said: dict[str, int], expected: int) -> None:
    """At once is something else than nothing said: agents of before get the default."""
    assert agent_in(an_introduction(**said), "s").reclaim_ms == expected


@pytest.mark.parametrize("reclaim_ms", [-1, RECLAIM_MS_MAX + 1])
def test_a_reclaim_time_out_of_range_is_refused(reclaim_ms: int) -> None:
    """By field."""
    told = an_introduction(reclaim_ms=reclaim_ms)
    assert refused(lambda: agent_in(told, "s")) == (Code.INVALID_ARGUMENT, "reclaim_ms")


def test_a_claim_is_shown_with_its_job() -> None:
    """While it has one."""
    claim = a_claim(devices=((0, 2), ()))
    job = a_job()
    spec = replace(job, spec_bytes=a_spec().SerializeToString())
    assert not job_out(spec).HasField("claim")
    shown = job_out(replace(spec, claim=claim)).claim
    assert shown == claim_out(claim)
    assert [list(one.places) for one in shown.devices] == [[0, 2], []]
    assert (shown.hub_id, list(shown.victims), shown.made_ms, shown.lost_ms) == (
        "cairo", ["lease-of-a-guest"], NOON_MS, 5_000,
    )  # fmt: skip
    assert shown.expected_ms == claim.until_ms - KILL_GRACE_MS - SKEW_BOUND_MS


TOLD = Reason(PREEMPTED, "being ended", "cairo", ((ENDS_BY, str(NOON_MS + 60_000)),))


@pytest.mark.parametrize(
    ("job", "expected_ms"),
    [
        (a_job(state=JobState.RUNNING), 0),
        (a_job(state=JobState.RUNNING, reason=TOLD), NOON_MS + 60_000),
        (a_job(state=JobState.STAGING, reason=TOLD), NOON_MS + 60_000),
        (a_job(state=JobState.RUNNING, reason=replace(TOLD, metadata=())), 0),
        (a_job(state=JobState.UNKNOWN, reason=TOLD), 0),
        (a_job(state=JobState.QUEUED, reason=TOLD), 0),
        (a_job(state=JobState.CANCELLING, state_since_ms=NOON_MS), NOON_MS + STOP_GRACE_MS),
        (a_job(state=JobState.CANCELLED, state_since_ms=NOON_MS), 0),
    ],
)
def test_a_job_that_was_told_to_end_says_by_when(job: Job, expected_ms: int) -> None:
    """Preempted, within its hub's grace; cancelled, within a cancel's; of a silent or an ended run nothing is said."""
    assert job_out(replace(job, spec_bytes=a_spec().SerializeToString())).ends_by_ms == expected_ms


def test_a_hub_counts_what_was_told_to_end() -> None:
    """Beside its leases, of which they are a part."""
    leases = (a_lease(a_job()), a_lease(a_job("job-2"), LeaseState.REVOKING))
    shown = hub_out(HubView(a_hub(), (an_agent(),), leases))
    assert (shown.leases, shown.ending) == (2, 1)


def test_the_policy_in_force_is_shown_and_of_people_only_the_one_who_asks() -> None:
    """Terms as the planner has them; weights and quotas by level; "*" is everybody's; an administrator sees all."""
    policy = Policy(
        hub_weights={"cairo": 2.0},
        user_weights={("cairo", "vision", "amina"): 3.0, ("cairo", "vision", "omar"): 4.0},
        order=Order.SHORT_FIRST,
        quotas={
            ("*", "*", "*"): {"cpu": 64_000},
            ("cairo", "vision"): {"gpu": 8_000},
            ("lima", "x", "amina"): {"cpu": 1},
        },
    )
    shown = policy_out(policies.view(policy, ("cairo", "amina")))
    assert (shown.within_user, shown.backfill, shown.reservations, shown.promise_after_ms) == (
        "short_first",
        "easy",
        1,
        0,
    )
    assert (shown.half_life_ms, shown.placements_max, shown.shipped) == (7 * 86_400_000, 10_000, False)
    assert [(one.hub, one.project, one.user, one.weight) for one in shown.weights] == [
        ("cairo", "", "", 2.0), ("cairo", "vision", "amina", 3.0),
    ]  # fmt: skip
    assert [(one.hub, one.project, one.user, one.most[0].name, one.most[0].amount) for one in shown.quotas] == [
        ("*", "*", "*", "cpu", 64_000), ("cairo", "vision", "", "gpu", 8_000),
    ]  # fmt: skip
    everything = policy_out(policies.view(policy, None))
    assert (len(everything.weights), len(everything.quotas)) == (3, 3)
    shipped = policy_out(policies.view(Policy(), None))
    assert (shipped.backfill, shipped.shipped, list(shipped.quotas)) == ("conservative", True, [])
    assert policy_out(policies.view(Policy(reservations=0), None)).backfill == "none"


def test_an_agent_that_offers_more_than_a_hub_may_is_refused() -> None:
    """At the limit it is taken, one byte more is not: the planner adds up what all hubs offer."""

    def offers(*memory: int) -> hub_pb2.OpenSessionRequest:
        amounts = [[common_pb2.Resource(name="memory", amount=amount)] for amount in memory]
        nodes = [hub_pb2.Node(name=f"n{at}", offered=offered) for at, offered in enumerate(amounts)]
        return hub_pb2.OpenSessionRequest(hub_id="cairo", agent_id="main", instance_id="i", nodes=nodes)

    assert len(agent_in(offers(HUB_AMOUNT_MAX - 1, 1), "s").nodes) == 2
    assert refused(lambda: agent_in(offers(HUB_AMOUNT_MAX, 1), "s")) == (Code.LIMIT_EXCEEDED, "nodes.offered")


def test_both_sides_know_how_many_devices_a_node_may_have() -> None:
    """What is believed here, the planner can count."""
    assert PLACES_MAX == DEVICES_PER_NODE_MAX


@given(st.lists(st.lists(st.integers(-(2**31), 2**31 - 1) | st.integers(-1, PLACES_MAX), max_size=4), max_size=4))
def test_devices_that_can_be_nowhere_are_not_believed(said: list[list[int]]) -> None:
    """What a hub's journal says of a lease: its devices task by task, none where one of them is no place in a node, or twice."""
    devices = [common_pb2.TaskDevices(places=places) for places in said]
    told = told_in(hub_pb2.RunReport(lease=hub_pb2.Lease(devices=devices)))
    there = all({*places} <= {*range(PLACES_MAX)} and len({*places}) == len(places) for places in said)
    assert told.devices == (tuple(map(tuple, said)) if there else ())
