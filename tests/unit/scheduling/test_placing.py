"""Where a gang goes: whole, within one agent, best fit, and only where it may."""

from __future__ import annotations

from typing import Any

import pytest

from federation.domain.hub import HubState, LinkState
from federation.domain.plan import ReasonCode
from federation.domain.quantities import resources
from federation.scheduling.plan import LADDER
from tests.unit.scheduling.builders import agent, cpus, dataset, job, lease, planned, where


def test_a_gang_starts_whole_or_not_at_all() -> None:
    """Four tasks, room for three: none starts."""
    plan = planned(agent("cairo", cpus(1), cpus(2)), jobs=(job("gang", cpus(1), replicas=4),))
    assert plan.placements == ()


def test_a_spread_gang_goes_round_the_machines_until_each_is_full() -> None:
    """Fewest tasks first, then the best score, then the first: the small machine is the best, and takes one only."""
    plan = planned(agent("cairo", cpus(8), cpus(1), cpus(8)), jobs=(job("gang", cpus(1), replicas=7, spread=True),))
    assert plan.placements[0].nodes == ("n1", "n0", "n2", "n0", "n2", "n0", "n2")


def test_a_gang_does_not_span_agents() -> None:
    """Two machines of two agents of one hub are not one place."""
    agents = (agent("cairo", cpus(1), name="a"), agent("cairo", cpus(1), name="b"))
    assert where(planned(*agents, jobs=(job("gang", cpus(1), replicas=2),))) == {}


def test_a_gang_spreads_over_nodes_fullest_first() -> None:
    """Each task goes where it leaves least: the small machine fills first, then the larger one."""
    plan = planned(agent("cairo", cpus(8), cpus(2)), jobs=(job("gang", cpus(1), replicas=3),))
    assert plan.placements[0].nodes == ("n1", "n1", "n0")


def test_equal_nodes_go_in_the_agents_own_order() -> None:
    """Ties break by node order, never by chance."""
    plan = planned(agent("cairo", cpus(2), cpus(2)), jobs=(job("one", cpus(1)),))
    assert plan.placements[0].nodes == ("n0",)


def test_work_without_gpus_leaves_the_gpu_machine_free() -> None:
    """A machine whose devices the job does not ask for comes last, even where it fits best."""
    plan = planned(agent("cairo", cpus(2, 0, 4), cpus(16)), jobs=(job("plain", cpus(2)),))
    assert plan.placements[0].nodes == ("n1",)


def test_preferred_hubs_then_home_then_the_least_loaded_then_the_name() -> None:
    """The four steps of liking, one by one."""
    held = lease("old", cpus(1), "aswan", "n0")
    agents = tuple(agent(hub, cpus(4)) for hub in ("aswan", "basra", "cairo", "dakar"))

    def goes_to(**changes: Any) -> str:
        return where(planned(*agents, jobs=(job("one", cpus(1), **changes),), leases=(held,)))["one"]

    assert goes_to(hubs_prefer=("dakar", "basra")) == "dakar"
    assert goes_to() == "cairo"
    assert goes_to(home="elsewhere") == "basra"
    assert goes_to(home="aswan") == "aswan"


def test_a_gpu_of_any_model_or_of_one() -> None:
    """An empty kind takes any model; a named one only its own."""
    agents = (agent("a", cpus(4, 0, 1, "nvidia/T4")), agent("b", cpus(4, 0, 1, "nvidia/A100")))
    jobs = (job("any", cpus(1, 0, 1), home="a"), job("exact", cpus(1, 0, 1, "nvidia/A100"), home="a"))
    assert where(planned(*agents, jobs=jobs)) == {"any": "a", "exact": "b"}


def test_a_lease_that_names_no_device_may_have_any() -> None:
    """Which device it got, nobody wrote down: so neither is promised. One that names its device leaves the other."""
    mixed = resources(("cpu", "", 9000), ("gpu", "nvidia/A100", 1000), ("gpu", "nvidia/T4", 1000))
    held = lease("old", cpus(1, 0, 1), "a", "n0")
    named = lease("old", cpus(1, 0, 1), "a", "n0", devices=((0,),))
    exact, anyone = job("exact", cpus(1, 0, 1, "nvidia/T4"), home="a"), job("any", cpus(1, 0, 1), home="a")
    assert where(planned(agent("a", mixed), jobs=(exact, anyone), leases=(held,))) == {}
    assert where(planned(agent("a", mixed), jobs=(exact,), leases=(named,))) == {"exact": "a"}
    assert planned(agent("a", mixed), jobs=(anyone,), leases=(named,)).placements[0].devices == ((1,),)


def test_leases_hold_room_and_nodes_that_shrank_take_nothing() -> None:
    """More is leased than is offered now: what is free is below zero, and nothing is placed."""
    held = lease("old", cpus(8), "cairo", "n0")
    assert where(planned(agent("cairo", cpus(4)), jobs=(job("one", cpus(1)),), leases=(held,))) == {}


def test_an_agent_without_machines_takes_nothing() -> None:
    """It is there, between others, and its empty row of nodes is nobody else's."""
    agents = (agent("a"), agent("b", cpus(2)), agent("c"))
    assert where(planned(*agents, jobs=(job("one", cpus(1), home="a"),))) == {"one": "b"}


WITH_DATA: dict[str, Any] = {"inputs": (("flights", ""),)}


@pytest.mark.parametrize(
    ("at_hub", "asked", "code"),
    [
        ({}, {}, ReasonCode.WOULD_RUN),
        ({"engines": ("spark",)}, {}, ReasonCode.ENGINE_MISSING),
        ({"hub_state": HubState.DRAINING}, {}, ReasonCode.HUB_DRAINING),
        ({"link": LinkState.SUSPECT}, {}, ReasonCode.HUB_SUSPECT),
        ({"link": LinkState.LOST}, {}, ReasonCode.HUB_SUSPECT),
        ({"link": LinkState.LOST, "engines": ()}, {}, ReasonCode.ENGINE_MISSING),
        ({}, {"hubs_allow": ("accra", "here")}, ReasonCode.WOULD_RUN),
        ({}, {"hubs_allow": ("accra",)}, ReasonCode.HUB_EXCLUDED),
        ({}, {"hubs_deny": ("here",)}, ReasonCode.HUB_EXCLUDED),
        ({}, {"hubs_refused": ("here",)}, ReasonCode.SHARE_POLICY),
        ({}, {"replicas": 5}, ReasonCode.SHAPE_NEVER_FITS),
        ({"datasets": (dataset("flights"),)}, WITH_DATA, ReasonCode.WOULD_RUN),
        ({"datasets": (dataset("flights", version="2"),)}, {"inputs": (("flights", "1"),)}, ReasonCode.UNKNOWN_DATASET),
        ({"datasets": (dataset("flights", "members"),)}, WITH_DATA, ReasonCode.WOULD_RUN),
        ({"datasets": (dataset("flights", "hubs", readers=("cairo",)),)}, WITH_DATA, ReasonCode.WOULD_RUN),
        ({"datasets": (dataset("flights", "hubs", readers=("accra",)),)}, WITH_DATA, ReasonCode.DATA_POLICY),
        ({"datasets": (dataset("flights", "compute-to-data"),)}, WITH_DATA, ReasonCode.DATA_POLICY),
        ({"datasets": (dataset("flights", "compute-to-data"),)}, WITH_DATA | {"home": "here"}, ReasonCode.WOULD_RUN),
        ({"datasets": (dataset("flights", "from-the-future"),)}, WITH_DATA, ReasonCode.DATA_POLICY),
        ({"datasets": (dataset("flights", "compute-to-data"), dataset("flights", version="2"))}, WITH_DATA,
         ReasonCode.WOULD_RUN),
    ],
)  # fmt: skip
def test_a_hub_takes_a_job_only_where_every_rule_says_yes(at_hub: Any, asked: Any, code: ReasonCode) -> None:
    """Each rule says no by its own code; a lasting obstacle is named before a passing one."""
    plan = planned(agent("here", cpus(4), **at_hub), jobs=(job("one", cpus(1), **asked),))
    found = plan.waiting[0].overall if plan.waiting else ReasonCode.WOULD_RUN
    assert found == code


def test_data_elsewhere_keeps_a_job_from_a_hub() -> None:
    """It runs where its data is, though its home is free."""
    agents = (agent("cairo", cpus(4)), agent("accra", cpus(4), datasets=(dataset("flights"),)))
    assert where(planned(*agents, jobs=(job("one", cpus(1), **WITH_DATA),))) == {"one": "accra"}


def test_a_hub_speaks_through_its_best_agent() -> None:
    """One agent lacks the engine, the other is full: the hub says that it is full."""
    agents = (agent("a", cpus(4), name="x", engines=()), agent("a", cpus(4), name="y"))
    held = lease("old", cpus(4), "a", "n0", key=agents[1].key)
    plan = planned(*agents, jobs=(job("one", cpus(1)),), leases=(held,))
    assert [LADDER[step] for step in plan.waiting[0].steps] == [ReasonCode.CAPACITY]
