"""The control plane goes by the policy file that its settings name."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from federation.app.serving import ControlPlane
from federation.app.settings import Scheduling, Server, Settings
from federation.errors import FederationError
from federation.identity.tokens import TokenFile
from federation.scheduling import Policy
from tests.tidy.repository import ROOT


def plane_with(folder: Path, policy: str) -> ControlPlane:
    """A control plane that was built and not started."""
    TokenFile.create(folder / "tokens.json")
    server = Server(data_dir=str(folder), tokens_file=str(folder / "tokens.json"))
    return ControlPlane(Settings(server=server, scheduling=Scheduling(policy=policy)))


def policy_of(plane: ControlPlane) -> Policy:
    """What its rounds go by."""
    plane.desk.store.close()
    return plane.desk.policy


def test_the_file_that_was_tried_is_the_file_in_force(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its order holds; that its hubs have no effect here is said aloud."""
    with caplog.at_level(logging.WARNING):
        policy = policy_of(plane_with(tmp_path, str(ROOT / "infra" / "policy.example.yaml")))
    assert (policy.hub_weights, policy.fairness.half_life_ms) == ({"cairo": 2.0}, 7 * 86_400_000)
    assert "`hubs` (cairo) has no effect here" in caplog.text


def test_without_a_file_everybody_is_alike(tmp_path: Path) -> None:
    """The planner's own settings."""
    assert policy_of(plane_with(tmp_path, "")) == Policy()


def test_a_wrong_file_is_told_before_anything_starts(tmp_path: Path) -> None:
    """With the file and the place in it; nothing was written."""
    file = tmp_path / "policy.yaml"
    file.write_text("order: {weights: {hubs: {cairo: much}}}\n")
    with pytest.raises(FederationError, match=r"order\.weights\.hubs\.cairo") as caught:
        plane_with(tmp_path, str(file))
    assert caught.value.message.startswith(f"[scheduling] policy: {str(file)!r}: ")
    assert not (tmp_path / "federation.db").exists()


def test_a_missing_file_is_told_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And by the key that names it."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FederationError, match=r"\[scheduling\] policy: No such file: ") as caught:
        plane_with(tmp_path, "nowhere.yaml")
    assert repr(str(tmp_path / "nowhere.yaml")) in caught.value.message
    assert "infra/policy.example.yaml" in caught.value.hint
