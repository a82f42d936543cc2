"""A guard that comes when its run was given up begins nothing; one that came just before is the run's. Real processes."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hub_node.agent import attempt as attempt_module
from hub_node.agent.attempt import AttemptThread, Tools
from hub_node.agent.facts import Ended, Fact, Started
from hub_node.data.staging import Staging
from hub_node.ports import Phase
from hub_node.records import Outcome, Reason, Run, RunState
from hub_node.runners import process
from hub_node.runners.command import CommandRunner
from tests.support.eventually import eventually
from tests.unit.hub_node.runs import a_run, an_attempt


class LateRunner(CommandRunner):
    """Its guard is launched by the test, when it likes."""

    def _launch(self, folder: Path) -> None:
        del folder

    def come(self) -> None:
        """Launch it, and wait until it has the folder or has left."""
        super()._launch(self.folder)
        known = self._guard
        assert known is not None
        eventually(lambda: self._claimed() or not known.alive())


class Given:
    """A run whose agent died between the guard's spec and its start, taken up by the next agent."""

    def __init__(self, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(process, "GUARD_CLAIMS_WITHIN_S", 0.0)
        staging = Staging(state, "cairo", ())
        self.run: Run = a_run(state=RunState.STOPPING, deadline_ms=0, entrypoint="touch", arguments=("begun",))
        self.folder = staging.places(self.run.lease.job_id, self.run.lease.epoch).folder
        self.late = LateRunner()
        self.late.start(an_attempt(self.folder, "touch", "begun"))
        self.facts: list[Fact] = []
        registry: Any = SimpleNamespace(runner=lambda _engine, _program: CommandRunner())
        tools = Tools(staging, registry, cast("Any", None), "cairo", self.facts.append)
        self.thread = AttemptThread(self.run, tools, fresh=False)

    def stopped(self) -> Ended:
        """Ask it to end, and walk to that end."""
        self.thread.stop(Reason("CANCEL_REQUESTED", "enough"), 1_000)
        self.thread.start()
        self.thread.join(20)
        end = self.facts[-1]
        assert isinstance(end, Ended)
        return end

    def begun(self) -> bool:
        """Whether the program ran."""
        return (self.folder / "package" / "begun").exists()


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Given:
    """The story's beginning."""
    return Given(tmp_path, monkeypatch)


def test_guard_that_comes_after_the_end_was_told_leaves(given: Given) -> None:
    """Told STOPPED, nothing having begun: the guard that comes then begins nothing, and the secrets of its spec are gone."""
    spec = (given.folder / "guard-spec.json").read_bytes()
    assert given.stopped().outcome is Outcome.STOPPED
    assert (given.folder / "guard-spec.json").read_bytes() == b""
    (given.folder / "guard-spec.json").write_bytes(spec)  # it had read that before
    given.late.come()
    assert given.late.poll().phase is Phase.ENDED
    assert not given.begun()


def test_guard_that_comes_just_before_the_end_is_told_is_the_runs(
    given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody had it a moment ago, and somebody has now: what it comes to is told, after its start."""

    def after_it_came(folder: Path) -> bool:
        given.late.come()
        return process.withdraw(folder)

    monkeypatch.setattr(attempt_module, "withdraw", after_it_came)
    given.stopped()
    assert isinstance(given.facts[0], Started)
    assert [fact for fact in given.facts if isinstance(fact, Ended)] == given.facts[-1:]


def test_end_waits_until_nothing_can_begin(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes no claim keeps the end from being told; the next try tells it."""
    asked = []

    def at_the_second(folder: Path) -> bool:
        asked.append(folder)
        if len(asked) == 1:
            raise OSError(28, os.strerror(28))
        return process.withdraw(folder)

    monkeypatch.setattr(attempt_module, "SEND_AGAIN_S", 0.0)
    monkeypatch.setattr(attempt_module, "withdraw", at_the_second)
    assert given.stopped().outcome is Outcome.STOPPED
    assert len(asked) == 2


def test_what_was_withdrawn_and_told_to_nobody_may_be_started(given: Given) -> None:
    """The agent died before it could tell the end, and the next one starts the run: it runs."""
    assert process.withdraw(given.folder)
    assert process.withdraw(given.folder)
    one = CommandRunner()
    assert not one.take_up(given.run, given.folder)
    assert not (given.folder / "guard.json").exists()  # nor does it look begun to whoever fetches its checkpoint
    one.start(an_attempt(given.folder, "touch", "begun"))
    eventually(lambda: one.poll().phase is Phase.ENDED)
    assert given.begun()
    assert not process.withdraw(given.folder)
