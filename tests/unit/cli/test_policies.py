"""`brhub policy show` and `brhub hub policy`: the rules in force in words, and whole for programs."""

from __future__ import annotations

import re

from federation.v1 import common_pb2
from tests.unit.cli.conftest import Brhub
from tests.unit.client.small_federation import SmallFederation


def test_the_policy_in_force_is_shown(brhub: Brhub, small: SmallFederation) -> None:
    """Every rule with its value and what that means; that nothing was changed, and where it would be."""
    assert small.policy.shipped
    said = brhub("policy", "show")
    assert re.search(r"within a user +age +first come, first served\n", said.out)
    assert re.search(r"backfill +conservative +nobody who was promised", said.out)
    assert re.search(r"promised starts +after 4h00m +.*; at most 1000 at each agent\n", said.out)
    assert re.search(r"half-life +7d0h +use of the past", said.out)
    for words in ("no quotas", "as shipped; [scheduling] policy", "brhub hub policy"):
        assert words in said.err


def test_weights_and_quotas_have_tables_of_their_own(brhub: Brhub, small: SmallFederation) -> None:
    """Whose they are by level; amounts as people write them."""
    policy = small.policy
    policy.shipped, policy.promise_after_ms, policy.within_user = False, 0, "short_first"
    policy.weights.add(hub="cairo", weight=2.5)
    most = [common_pb2.Resource(name="cpu", amount=64_000), common_pb2.Resource(name="memory", amount=256 << 30)]
    policy.quotas.add(hub="*", project="*", user="*", most=most)
    said = brhub("policy", "show")
    assert re.search(r"promised starts +at once ", said.out)
    assert re.search(r"cairo +- +- +2\.5\n", said.out)
    assert re.search(r"\* +\* +\* +64 cpu, 256Gi memory\n", said.out)
    assert "shipped" not in said.err
    assert "no quotas" not in said.err


def test_programs_get_the_policy_whole(brhub: Brhub, small: SmallFederation) -> None:
    """One document with an id, durations as numbers."""
    shown = brhub("policy", "show", "-o", "json").document
    assert (shown["id"], shown["half_life_ms"], shown["quotas"]) == ("policy", small.policy.half_life_ms, [])
    assert shown["shipped"] is True


def test_what_hubs_give_is_shown_by_agent(brhub: Brhub, small: SmallFederation) -> None:
    """All hubs or one: what is offered of what there is, how fast guests end, whether long ones must be preemptible."""
    agent = small.hubs["cairo"].agents[0]
    agent.reclaim_ms, agent.takes_back = 90_000, True
    small.hubs["lima"] = type(small.hubs["cairo"])(id="lima")
    said = brhub("hub", "policy")
    assert re.search(r"cairo +main +4 of 4 +- +- +1m30s +only preemptible +spark, command\n", said.out)
    assert re.search(r"shenzhen +main .* yes +spark, command\n", said.out)
    assert re.search(r"lima( +-){7}\n", said.out)
    assert "shenzhen" not in brhub("hub", "policy", "cairo").out
    shown = brhub("hub", "policy", "cairo", "-o", "json").document
    assert (shown["id"], shown["agents"][0]["offered"]["cpu"], shown["agents"][0]["takes_back"]) == (
        "cairo",
        4_000,
        True,
    )
    assert [one["id"] for one in brhub("hub", "policy", "-o", "json").document["items"]] == [
        "cairo",
        "shenzhen",
        "lima",
    ]
    assert brhub("hub", "policy", "nowhere").status == 3
