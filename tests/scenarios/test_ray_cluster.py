"""An agent in front of a Ray cluster of its hub's own: what runs there goes on while the agent's machine is away."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from federation.v1 import hub_pb2
from hub_node import steady
from hub_node.app import Parts, connect
from hub_node.config import load
from hub_node.journal import Journal
from hub_node.records import Run
from hub_node.runners import ray_api
from tests.support import small_ray
from tests.support.eventually import eventually
from tests.support.small_ray import SmallRay
from tests.unit.hub_node.runs import a_run
from tests.unit.hub_node.scripted import ScriptedControl, serving, write_config

REFUSED, FAILED = hub_pb2.OUTCOME_REFUSED, hub_pb2.OUTCOME_FAILED


@pytest.fixture
def ray() -> Iterator[SmallRay]:
    """The cluster."""
    with small_ray.serving() as made:
        yield made


@contextmanager
def agent_with(folder: Path, ray: SmallRay, *runs: Run) -> Iterator[ScriptedControl]:
    """An agent of this process whose journal holds `runs`; what its control plane is told."""
    control = ScriptedControl()
    with serving(control) as address:
        file = write_config(folder, address, more=f'[ray]\naddress = "{ray.url}"\ntoken = "{small_ray.TOKEN}"\n')
        file.write_text(file.read_text().replace('["command"]', '["command", "ray"]'))
        config = load(file, {})
        for run in runs:
            for name in ("output", "checkpoint"):
                folder = config.state_dir / "attempts" / run.lease.job_id / str(run.lease.epoch) / name
                folder.mkdir(parents=True)
        journal = Journal(config.state_dir)
        journal.save(runs)
        journal.close()
        ready = threading.Event()
        parts: list[Parts] = []

        def serve() -> None:
            parts.append(connect(config))  # SQLite wants one thread for its connection
            ready.set()
            parts[0].serve()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            assert ready.wait(20)
            control.wait(lambda: control.told.syncs)
            yield control
        finally:
            parts[0].state.quit()
            thread.join(30)
            assert not thread.is_alive()


def of_another_boot(runner_state: str, on_partition: str = "rerun", left_ms: int = 600_000) -> Run:
    """A run that the cluster was given before the agent's machine restarted."""
    return a_run(
        engine="ray",
        on_partition=on_partition,
        boot_id="the-boot-before",
        runner_state=runner_state,
        accepted_ms=steady.now_ms(),
        started_ms=steady.now_ms(),
        deadline_ms=steady.now_ms() + left_ms,
    )


KNOWN = json.dumps({"submission_id": "job-1-1-1", "deadline_ms": 10**15})


@pytest.mark.parametrize("runner_state", [KNOWN, ""], ids=["written-down", "begun-but-not-written-down"])
def test_a_cluster_that_cannot_be_asked_after_a_restart_keeps_its_run(
    tmp_path: Path, ray: SmallRay, runner_state: str
) -> None:
    """It may still run there, so a `rerun` job waits again only once Ray, asked to end it, says that it has."""
    ray.away, ray.jobs = True, {"job-1-1-1": {"status": "RUNNING"}}
    with agent_with(tmp_path, ray, of_another_boot(runner_state)) as control:
        assert [run.state for run in control.told.sessions[0].runs] != [hub_pb2.RUN_STATE_ENDED]
        ray.away = False
        eventually(lambda: ray.stopped, 20, "the cluster is asked to end it")
        assert control.ended("job-1") is None
        ray.jobs["job-1-1-1"]["status"] = "STOPPED"
        end = control.wait(lambda: control.ended("job-1"))
    assert (end.outcome, end.reason.code) == (REFUSED, "REBOOTED")


@pytest.mark.parametrize(("on_partition", "outcome"), [("rerun", REFUSED), ("keep", FAILED)])
def test_a_cluster_that_lost_a_run_with_the_agents_machine_ends_it_as_rebooted(
    tmp_path: Path, ray: SmallRay, on_partition: str, outcome: int
) -> None:
    """The power of both was cut: Ray has never heard of it, and that is an answer."""
    with agent_with(tmp_path, ray, of_another_boot(KNOWN, on_partition)) as control:
        end = control.wait(lambda: control.ended("job-1"))
    assert (end.outcome, end.reason.code) == (outcome, "REBOOTED")


def test_what_a_cluster_finished_while_the_agents_machine_was_away_has_succeeded(tmp_path: Path, ray: SmallRay) -> None:
    """Ray's word counts, not the restart of a machine that had no part in it."""
    ray.jobs = {"job-1-1-1": {"status": "SUCCEEDED"}}
    with agent_with(tmp_path, ray, of_another_boot(KNOWN)) as control:
        end = control.wait(lambda: control.ended("job-1"))
    assert end.outcome == hub_pb2.OUTCOME_SUCCEEDED


def test_a_lease_that_ran_out_by_the_clock_of_another_boot_blames_nobody(tmp_path: Path, ray: SmallRay) -> None:
    """The agent ends it at once, as late, and its job waits again all the same."""
    ray.jobs = {"job-1-1-1": {"status": "RUNNING"}}
    with agent_with(tmp_path, ray, of_another_boot(KNOWN, left_ms=-600_000)) as control:
        eventually(lambda: ray.stopped, 20, "the cluster is asked to end it")
        ray.jobs["job-1-1-1"]["status"] = "STOPPED"
        end = control.wait(lambda: control.ended("job-1"))
    assert (end.outcome, end.reason.code) == (REFUSED, "REBOOTED")


def test_a_cluster_that_hangs_while_it_is_asked_to_end_a_run_holds_up_nobody_else(
    tmp_path: Path, ray: SmallRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent's one thread needs no more of that run than it can have at once: here it leaves, and is gone."""
    monkeypatch.setattr(ray_api, "_CALL_S", 600.0)
    ray.jobs = {"job-1-1-1": {"status": "RUNNING"}}
    ray.stops_answered.clear()
    with agent_with(tmp_path, ray, of_another_boot(KNOWN)):
        eventually(lambda: ray.stopped, 20, "the cluster is asked to end it")
    assert not ray.stops_answered.is_set()
