"""One run's walk with the real staging and a real program: what of ours fails on the way, and what is told of the run."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from federation.errors import Code, Fault, FederationError
from hub_node import steady
from hub_node.agent.attempt import AttemptThread, Tools
from hub_node.agent.facts import Ended, Fact, ProgramEnded, Progressed, Started
from hub_node.data import results
from hub_node.data.staging import Staged, Staging
from hub_node.ports import Attempt, Status
from hub_node.records import Epoch, LeaseOrder, Outcome, OutputFile, Reason, Run, RunState
from hub_node.runners.command import CommandRunner
from tests.support.eventually import eventually
from tests.unit.hub_node.runs import a_run

NO_DESCRIPTOR = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
REFUSAL = FederationError(Code.TIMED_OUT, "It did not answer.", fault=Fault.HUB)
WAITS = 'while [ ! -e "$BRHUB_OUTPUT_DIR/../go" ]; do sleep 0.02; done; exit 3'
CANCELLED = Reason("CANCEL_REQUESTED", "asked to end")


class TroubledRunner(CommandRunner):
    """The first calls of some methods fail, `times` in all; `start` does so when the program has been launched."""

    def __init__(self, *methods: str, problem: Exception = NO_DESCRIPTOR, times: int = 2) -> None:
        super().__init__()
        self._methods, self._problem, self.left = methods, problem, times

    def _fail(self, method: str) -> None:
        if method in self._methods and self.left:
            self.left -= 1
            raise self._problem

    def start(self, attempt: Attempt) -> None:
        """Launch it, then fail."""
        super().start(attempt)
        self._fail("start")

    def poll(self) -> Status:
        """Fail or look."""
        self._fail("poll")
        return super().poll()

    def save_state(self) -> str:
        """Fail or say."""
        self._fail("save_state")
        return super().save_state()

    def load_state(self, text: str) -> None:
        """Fail or take up."""
        self._fail("load_state")
        super().load_state(text)

    def take_up(self, run: Run, folder: Path) -> bool:
        """Fail or look."""
        self._fail("take_up")
        return super().take_up(run, folder)


class SlowStaging(Staging):
    """The lease is renewed while it prepares, and over before it is ready."""

    __slots__ = ()

    def stage(
        self, lease: LeaseOrder, grace_ms: int, progress: Callable[[str], None], cancelled: Callable[[], bool]
    ) -> Staged:
        """Prepare until the first lease has run out."""
        progress("slowly")
        eventually(lambda: steady.now_ms() > lease.valid_until_ms)
        return super().stage(lease, grace_ms, progress, cancelled)


class TamperingLink:
    """Asks for links, and something changes the output folder before they come."""

    def __init__(self, tamper: Callable[[], object]) -> None:
        self._tamper = tamper
        self.asked = 0

    def result_links(self, _lease_id: str, _epoch: Epoch, outputs: Sequence[OutputFile]) -> tuple[str, ...]:
        """Links to where nobody listens."""
        self.asked += 1
        self._tamper()
        return tuple("http://127.0.0.1:9/x" for _ in outputs)


class Walks:
    """Threads of runs in one state folder, and what they told."""

    def __init__(self, state_dir: Path) -> None:
        self.staging = Staging(state_dir, "shenzhen", ())
        self.facts: list[Fact] = []
        self.threads: list[AttemptThread] = []

    def begin(
        self, run: Run, runner: CommandRunner, *, fresh: bool = True, staging: Staging | None = None, link: Any = None
    ) -> AttemptThread:
        """A thread that was not started yet."""
        registry = cast("Any", SimpleNamespace(runner=lambda _engine, _entrypoint: runner))
        tools = Tools(staging or self.staging, registry, link, "shenzhen", self.facts.append)
        self.threads.append(AttemptThread(run, tools, fresh))
        return self.threads[-1]

    def told(self, kind: type[Fact]) -> list[Any]:
        """Facts of a kind, in their order."""
        return [fact for fact in tuple(self.facts) if isinstance(fact, kind)]

    def file(self, run: Run, name: str) -> Path:
        """A file of the run's folder."""
        return self.staging.places(run.lease.job_id, run.lease.epoch).folder / name


@pytest.fixture
def walks(tmp_path: Path) -> Iterator[Walks]:
    """When the test ends, so do its runs."""
    made = Walks(tmp_path)
    yield made
    for thread in made.threads:
        thread.stop(CANCELLED, 0)
        thread.join(10)


def a_script(text: str, **over: Any) -> Run:
    """An accepted run of a few words of shell."""
    now_ms = steady.now_ms()
    ordinary: dict[str, Any] = {"accepted_ms": now_ms, "deadline_ms": now_ms + 3_600_000, "boot_id": steady.boot_id()}
    return a_run(entrypoint="sh", arguments=("-c", text), **{"state": RunState.ACCEPTED, **ordinary, **over})


@pytest.mark.parametrize("problem", [NO_DESCRIPTOR, REFUSAL, ValueError("a mistake")], ids=["os", "refused", "mistake"])
@pytest.mark.parametrize("method", ["poll", "save_state"])
def test_a_run_that_cannot_be_looked_at_is_looked_at_again(walks: Walks, method: str, problem: Exception) -> None:
    """What fails here for a moment ends no run on paper: it has begun once, and ended once, as its program did."""
    run, runner = a_script(WAITS), TroubledRunner(method, problem=problem)
    walks.begin(run, runner).start()
    eventually(lambda: walks.told(Started) and not runner.left)
    assert walks.told(Ended) == []
    walks.file(run, "go").touch()
    (end,) = eventually(lambda: walks.told(Ended))
    assert (end.outcome, end.reason.code, end.exit_code) == (Outcome.FAILED, "EXIT_STATUS", 3)
    assert len(walks.told(Started)) == 1


@pytest.mark.parametrize("methods", [("start",), ("start", "take_up")], ids="-".join)
def test_a_program_that_was_launched_before_a_mistake_is_the_runs(walks: Walks, methods: tuple[str, ...]) -> None:
    """What fails after the launch, in the engine's room or when it is asked whether it began, makes no run without a program."""
    run, runner = a_script(WAITS), TroubledRunner(*methods, problem=ValueError("a mistake"), times=len(methods))
    walks.begin(run, runner).start()
    eventually(lambda: walks.told(Started))
    assert walks.told(Ended) == []
    walks.file(run, "go").touch()
    (end,) = eventually(lambda: walks.told(Ended))
    assert (end.reason.code, end.exit_code) == ("EXIT_STATUS", 3)


@pytest.mark.parametrize("journalled", [True, False])
def test_a_run_that_cannot_be_taken_up_is_taken_up_later(walks: Walks, journalled: bool) -> None:
    """An agent that starts and cannot look yet waits, also where the one before could not write down that it began."""
    run = a_script(WAITS)
    first = walks.begin(run, CommandRunner())
    first.start()
    (started,) = eventually(lambda: walks.told(Started))
    eventually(walks.file(run, "guard.json").exists)
    first.leave()
    first.join(10)
    if journalled:
        run = replace(run, runner_state=started.runner_state, started_ms=started.started_ms, state=RunState.RUNNING)
    runner = TroubledRunner("load_state" if journalled else "take_up")
    walks.begin(run, runner, fresh=False).start()
    eventually(lambda: not runner.left)
    assert walks.told(Ended) == []
    walks.file(run, "go").touch()
    (end,) = eventually(lambda: walks.told(Ended))
    assert (end.reason.code, end.exit_code) == ("EXIT_STATUS", 3)
    assert len(walks.told(Started)) == (1 if journalled else 2)


def test_a_mistake_before_anything_began_ends_the_run(walks: Walks) -> None:
    """Nothing runs, so it is told at once, and whose mistake it was."""

    class NeverRunner(CommandRunner):
        def start(self, attempt: Attempt) -> None:
            self._folder = attempt.folder
            raise ValueError("a mistake")

    walks.begin(a_script(WAITS), NeverRunner()).start()
    (end,) = eventually(lambda: walks.told(Ended))
    assert (end.outcome, end.reason.code) == (Outcome.FAILED, "INTERNAL")
    assert walks.told(Started) == []


def test_a_lease_that_is_renewed_while_its_run_is_prepared_is_not_over(walks: Walks, tmp_path: Path) -> None:
    """What was granted meanwhile counts: it begins, and its guard knows the renewed end from the first moment."""
    first_ms = steady.now_ms() + 300
    run = a_script(WAITS, on_partition="rerun", valid_until_ms=first_ms, deadline_ms=first_ms)
    guards_first: list[int] = []

    class LookingRunner(CommandRunner):
        def start(self, attempt: Attempt) -> None:
            super().start(attempt)
            deadline = json.loads((attempt.folder / "deadline.json").read_text(encoding="utf-8"))
            guards_first.append(deadline["lease_boot_ms"])

    renewed_ms = first_ms + 600_000
    thread = walks.begin(run, LookingRunner(), staging=SlowStaging(tmp_path, "shenzhen", ()))
    thread.start()
    eventually(lambda: walks.told(Progressed))
    thread.extend(renewed_ms)
    eventually(lambda: walks.told(Started) or walks.told(Ended))
    assert walks.told(Ended) == []
    assert guards_first == [pytest.approx(steady.boot_time_ms(renewed_ms), abs=100)]


def test_a_run_that_is_to_end_is_asked_as_soon_as_it_is_taken_up(walks: Walks) -> None:
    """The agent before died between its journal and the guard: the program has its SIGTERM at once, not after its grace."""
    run = a_script("trap 'exit 7' TERM; touch \"$BRHUB_OUTPUT_DIR/../ready\"; while :; do sleep 0.02; done")
    first = walks.begin(run, CommandRunner())
    first.start()
    (started,) = eventually(lambda: walks.told(Started))
    eventually(walks.file(run, "ready").exists)
    first.leave()
    first.join(10)
    state = {"runner_state": started.runner_state, "started_ms": started.started_ms, "state": RunState.STOPPING}
    thread = walks.begin(replace(run, reason=CANCELLED, **state), CommandRunner(), fresh=False)
    thread.stop(CANCELLED, 3_600_000)
    thread.start()
    (end,) = eventually(lambda: walks.told(Ended), 10)
    assert (end.outcome, end.reason, end.exit_code) == (Outcome.STOPPED, CANCELLED, 7)


@pytest.mark.parametrize("tampering", ["removed", "changed"])
def test_a_result_that_is_not_whole_any_more_is_no_success(walks: Walks, tampering: str) -> None:
    """A file that cannot be read after the program's end ends the run, and says so; it is not asked for again and again."""
    run = a_script('echo one > "$BRHUB_OUTPUT_DIR/one"; echo two > "$BRHUB_OUTPUT_DIR/two"')
    file = walks.file(run, "output/one")
    tampers = {"removed": lambda: file.unlink(missing_ok=True), "changed": lambda: file.write_text("other")}
    link = TamperingLink(tampers[tampering])
    walks.begin(run, CommandRunner(), link=link).start()
    (end,) = eventually(lambda: walks.told(Ended))
    assert (end.outcome, end.reason.code, link.asked) == (Outcome.FAILED, "RESULT_UNREADABLE", 1)
    assert "the output file 'one' cannot be read at this hub" in end.reason.message
    assert "Run it again." in end.reason.message
    assert [one.path for one in walks.told(ProgramEnded)[0].outputs] == ["one", "two"]


def test_a_result_is_asked_for_again_where_no_descriptor_is_left(tmp_path: Path) -> None:
    """A shortage of the agent's own says nothing of the files: it is waited out, not told as the result's end."""
    (tmp_path / "one").write_text("one")
    present, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, most))
    try:
        with pytest.raises(FederationError) as found:
            results.collect(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (present, most))
    assert found.value.code is Code.STORE_UNAVAILABLE
    assert [one.path for one in results.collect(tmp_path)] == ["one"]
