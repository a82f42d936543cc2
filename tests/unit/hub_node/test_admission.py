"""The hub's last word: every no has a code, and room is counted by what runs here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from federation.policy.share import SharePolicy, share_policy
from hub_node.admission import Admission, offered
from hub_node.config import AgentConfig, DatasetConfig, Offer
from hub_node.records import RunState
from tests.unit.hub_node.runs import a_lease, a_run

GIB = 1024**3


def admission(policy: SharePolicy | None = None, **over: Any) -> Admission:
    """An agent of two CPUs, 4 GiB and one GPU that holds one dataset."""
    datasets = (
        DatasetConfig("flights", Path("/"), "1", "hubs", readers=("cairo",)),
        DatasetConfig("flights", Path("/"), "2", "compute-to-data"),
        DatasetConfig("weather", Path("/"), "1", "open"),
    )
    config = AgentConfig("shenzhen", "127.0.0.1:1", Path("/"), "one", engines=("command", "spark"), datasets=datasets)
    offer = (("cpu", "", 2_000), ("gpu", "nvidia/A100", 1_000), ("memory", "", 4 * GIB))
    return Admission(config, policy or SharePolicy(), over.get("offered", offer))


def code_of(asked: Admission, *live: Any, **over: Any) -> str:
    """The code of the refusal, or YES."""
    reason = asked.refusal(a_lease(**over), live)
    return "YES" if reason is None else reason.code


@pytest.mark.parametrize(
    ("over", "code"),
    [
        ({}, "YES"),
        ({"engine": "ray"}, "ENGINE_MISSING"),
        ({"nodes": ("one",)}, "YES"),
        ({"nodes": ("two",)}, "UNKNOWN_NODE"),
        ({"inputs": (("weather", "", "w"),)}, "YES"),
        ({"inputs": (("trains", "", "t"),)}, "DATA_ELSEWHERE"),
        ({"inputs": (("flights", "7", "f"),)}, "DATA_ELSEWHERE"),
        ({"inputs": (("flights", "1", "f"),)}, "YES"),
        ({"inputs": (("flights", "1", "f"),), "home_hub": "lima"}, "DATA_POLICY"),
        ({"inputs": (("flights", "", "f"),)}, "DATA_POLICY"),
        ({"inputs": (("flights", "", "f"),), "home_hub": "shenzhen"}, "YES"),
        ({"cpu_milli": 2_000}, "YES"),
        ({"cpu_milli": 2_001}, "ROOM_TAKEN"),
        ({"cpu_milli": 1_000, "replicas": 2}, "YES"),
        ({"cpu_milli": 1_000, "replicas": 3}, "ROOM_TAKEN"),
        ({"gpu_milli": 1_000}, "YES"),
        ({"gpu_milli": 1_000, "gpu_kind": "nvidia/A100"}, "YES"),
        ({"gpu_milli": 1_000, "gpu_kind": "nvidia/H100"}, "ROOM_TAKEN"),
        ({"gpu_milli": 500}, "SHARE_POLICY"),
        ({"disk_bytes": 1}, "ROOM_TAKEN"),
    ],
)
def test_each_rule_has_its_code(over: dict[str, Any], code: str) -> None:
    """What an agent cannot, does not want, may not and has no room for, each by its own code."""
    assert code_of(admission(), **over) == code


def test_room_is_what_runs_here_leave() -> None:
    """Live runs hold what they asked for; ended ones hold nothing."""
    held = a_run("job-2", cpu_milli=1_500)
    over = a_run("job-3", cpu_milli=2_000, state=RunState.ENDED)
    assert code_of(admission(), held, over, cpu_milli=500) == "YES"
    reason = admission().refusal(a_lease(cpu_milli=501), [held, over])
    assert reason is not None
    assert reason.metadata == {"resource": "cpu", "wanted": "501", "held": "1500", "offered": "2000"}


def test_gpu_of_any_kind_counts_against_every_kind() -> None:
    """A run that asked for any GPU holds one of those that are here."""
    any_kind = a_run("job-2", gpu_milli=1_000)
    assert code_of(admission(), any_kind, gpu_milli=1_000, gpu_kind="nvidia/A100") == "ROOM_TAKEN"


MACHINE = (("gpu-c", "nvidia/T4"), ("gpu-a", "nvidia/A100"), ("gpu-b", "nvidia/A100"))
"""By place, once kinds are in order: gpu-a, gpu-b, gpu-c."""
OFFER = (("cpu", "", 8_000), ("gpu", "nvidia/A100", 2_000), ("gpu", "nvidia/T4", 1_000))
FRACTIONS = share_policy({"accept": {"gpu_fractions": True}})


def test_gpus_are_given_out_one_by_one() -> None:
    """Whole devices to one run each; parts share the fullest device that has room; ended runs give theirs back."""
    asked = replace(admission(offered=OFFER), devices=MACHINE)
    whole = a_run("job-1", gpu_milli=1_000, devices=("gpu-a",))
    part = a_run("job-2", gpu_milli=300, devices=("gpu-c",))
    over = a_run("job-3", gpu_milli=1_000, devices=("gpu-b",), state=RunState.ENDED)
    runs = [whole, part, over]

    def given(gpu_milli: int, replicas: int = 1, kind: str = "") -> tuple[str, ...]:
        return asked.devices_for(a_lease(gpu_milli=gpu_milli, replicas=replicas, gpu_kind=kind), runs)

    assert given(1_000) == ("gpu-b",)
    assert given(2_000) == ()
    assert given(1_000, kind="nvidia/T4") == ()
    assert given(1_000, kind="nvidia/T4|nvidia/A100") == ("gpu-b",)
    assert given(500) == ("gpu-c",)
    assert given(700, replicas=2) == ("gpu-c", "gpu-b")
    assert given(800, replicas=2) == ()
    assert given(300, kind="nvidia/A100") == ("gpu-b",)


@pytest.mark.parametrize(
    ("gpu_milli", "replicas", "places", "expected"),
    [
        (1_000, 1, ((1,),), ("gpu-b",)),
        (1_000, 1, ((0,),), ()),  # held whole
        (700, 1, ((2,),), ("gpu-c",)),
        (701, 1, ((2,),), ()),  # 300 of it are held
        (300, 2, ((2,), (2,)), ("gpu-c", "gpu-c")),
        (400, 2, ((2,), (2,)), ()),  # together too much
        (400, 2, ((2,), (1,)), ("gpu-c", "gpu-b")),
        (2_000, 1, ((1, 2),), ()),
        (1_000, 1, ((1, 2),), ()),  # more devices than it asked for
        (2_000, 1, ((1, 1),), ()),  # one device twice
        (300, 2, ((2,),), ()),  # one task without
        (1_000, 1, ((3,),), ()),  # there is none
        (1_000, 1, ((-1,),), ()),
    ],
)
def test_the_devices_that_a_lease_names_are_taken_or_it_is_refused(
    gpu_milli: int, replicas: int, places: tuple[tuple[int, ...], ...], expected: tuple[str, ...]
) -> None:
    """Places are those of the offer, kinds in order; what is not free here is ROOM_TAKEN."""
    asked = replace(admission(FRACTIONS, offered=OFFER), devices=MACHINE)
    runs = [a_run("job-1", gpu_milli=1_000, devices=("gpu-a",)), a_run("job-2", gpu_milli=300, devices=("gpu-c",))]
    lease = a_lease(cpu_milli=1, gpu_milli=gpu_milli, replicas=replicas, devices=places)
    assert asked.devices_for(lease, runs) == expected
    reason = asked.refusal(lease, runs)
    assert (reason.code if reason else "YES") == ("YES" if expected else "ROOM_TAKEN")


def test_parts_of_devices_are_given_only_where_the_policy_says_so() -> None:
    """Whatever the control plane planned."""
    lease = a_lease(cpu_milli=1, gpu_milli=500, devices=((1,),))
    policies = (SharePolicy(), FRACTIONS)
    found = [replace(admission(policy, offered=OFFER), devices=MACHINE).refusal(lease, []) for policy in policies]
    assert [reason.code if reason else "YES" for reason in found] == ["SHARE_POLICY", "YES"]


def test_the_home_share_keeps_its_devices() -> None:
    """Half of four: the first two of the machine are offered, and no lease gets another; half a device stays half."""
    four = tuple((f"gpu-{number}", "nvidia/T4") for number in range(4))
    asked = replace(admission(FRACTIONS, offered=(("cpu", "", 8_000), ("gpu", "nvidia/T4", 1_500))), devices=four)
    assert [name for name, _ in asked.seats] == ["gpu-0", "gpu-1"]
    assert asked.devices_for(a_lease(gpu_milli=1_000), []) == ("gpu-0",)
    assert asked.devices_for(a_lease(gpu_milli=1_000, devices=((1,),)), []) == ()
    assert asked.devices_for(a_lease(gpu_milli=500), []) == ("gpu-1",)
    assert asked.devices_for(a_lease(gpu_milli=1_000, replicas=2), []) == ()


def test_devices_without_a_uuid_go_by_their_place() -> None:
    """Where the driver's library does not tell them, programs are given indexes."""
    asked = admission(offered=(("cpu", "", 8_000), ("gpu", "nvidia/T4", 2_000)))
    assert asked.devices_for(a_lease(gpu_milli=1_000, replicas=2), []) == ("0", "1")


def test_runs_of_before_hold_devices_though_nobody_wrote_down_which() -> None:
    """They lie where they fit, after those that are known."""
    asked = replace(admission(FRACTIONS, offered=OFFER), devices=MACHINE)
    old = a_run("job-1", gpu_milli=1_000, gpu_kind="nvidia/A100")
    known = a_run("job-2", gpu_milli=1_000, devices=("gpu-a",))
    assert asked.devices_for(a_lease(gpu_milli=1_000, gpu_kind="nvidia/A100"), [old, known]) == ()
    assert asked.devices_for(a_lease(gpu_milli=1_000), [old, known]) == ("gpu-c",)


def test_share_policy_is_asked_and_named() -> None:
    """What the operator's file denies is refused as SHARE_POLICY, with the rule."""
    policy = share_policy({"accept": {"hubs": {"deny": ["cairo"]}}})
    reason = admission(policy).refusal(a_lease(), [])
    assert reason is not None
    assert (reason.code, reason.metadata["rule"]) == ("SHARE_POLICY", "HUB_DENIED")


def test_offer_is_the_policys_share_unless_the_file_says_an_amount() -> None:
    """Half by policy; an amount in the agent's file wins over it."""
    capacity = (("cpu", "", 8_000), ("memory", "", 16 * GIB))
    policy = share_policy({"offer": {"cpus": "50%", "memory": "50%"}})
    assert offered(policy, capacity, Offer()) == (("cpu", "", 4_000), ("memory", "", 8 * GIB))
    assert offered(policy, capacity, Offer(cpu_milli=1_000)) == (("cpu", "", 1_000), ("memory", "", 8 * GIB))
