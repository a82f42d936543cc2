"""The example configurations are what the programs accept."""

from __future__ import annotations

from federation.app.policyfile import load_policy
from federation.app.settings import read_settings
from federation.policy.share import load_share_policy
from hub_node.config import load
from tests.tidy.repository import ROOT


def test_the_example_configurations_are_accepted() -> None:
    """An operator who copies them and fills in the blanks has a file that starts."""
    assert load(ROOT / "infra" / "agent.example.toml", {}).hub_id == "cairo"
    assert read_settings(ROOT / "infra" / "control.example.toml", {}).server.listen == "127.0.0.1:7460"
    assert load_share_policy(ROOT / "infra" / "share-policy.example.yaml").reclaim_s == 60
    policy = load_policy(ROOT / "infra" / "policy.example.yaml")
    assert (policy.order.hub_weights, policy.hubs["cairo"].reclaim_s) == ({"cairo": 2.0}, 60)
