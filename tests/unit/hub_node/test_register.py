"""The register of what is true at a hub: what a turn makes of it, with a real journal."""

from __future__ import annotations

from pathlib import Path

from federation.policy.share import SharePolicy
from hub_node.admission import Admission
from hub_node.agent.register import Register
from hub_node.config import AgentConfig
from hub_node.journal import Journal
from hub_node.records import Orders, Outcome, ReleaseOrder, RunState
from tests.unit.hub_node.runs import a_run


def a_register(journal: Journal) -> Register:
    """Of a hub that offers nothing."""
    config = AgentConfig("cairo", "", Path(), "main", engines=(), fake=True)
    return Register(journal, Admission(config, SharePolicy(), ()), "this-boot")


def test_what_is_released_with_the_wish_for_all_is_told_too(tmp_path: Path) -> None:
    """A restored control plane asks for everything in the answer that releases a run: that run is part of everything."""
    journal = Journal(tmp_path)
    run = a_run("job-1", state=RunState.ENDED, outcome=Outcome.SUCCEEDED)
    journal.save([run])
    register = a_register(journal)
    release = ReleaseOrder(run.lease_id, run.lease.epoch)
    register.turn([Orders(1, 1, releases=(release,), send_full=True, send_all=True)], 1)
    truth = register.truth()
    assert (dict(truth.runs), [one.lease_id for one in truth.released or ()]) == ({}, [run.lease_id])
    register.turn([Orders(1, 2)], 2)
    assert register.truth().released is None
    journal.close()


def test_whose_orders_were_carried_out_outlives_the_agent_also_without_runs(tmp_path: Path) -> None:
    """The next process drops what an older control plane orders."""
    journal = Journal(tmp_path)
    a_register(journal).turn([Orders(9, 4)], 1)
    journal.close()
    journal = Journal(tmp_path)
    assert journal.seen().incarnation == 9
    journal.close()
