"""The agent's state thread with its real rooms, in this process: a full disk, misleading answers, a refusal of its name."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.errors import Code, Fault, FederationError
from federation.v1 import hub_pb2, job_pb2
from hub_node import conversation as conversation_module
from hub_node import probe
from hub_node.app import Parts, connect
from hub_node.config import load
from hub_node.records import RunState
from tests.support.eventually import eventually
from tests.unit.hub_node.scripted import ScriptedControl, serving, spec_of, write_config

RUNNING = hub_pb2.RUN_STATE_RUNNING


@pytest.fixture
def control() -> ScriptedControl:
    """The script."""
    return ScriptedControl()


@pytest.fixture
def served(control: ScriptedControl) -> Iterator[str]:
    """Its address."""
    with serving(control) as address:
        yield address


class Inside:
    """A connected agent that serves on a thread."""

    def __init__(self, folder: Path, address: str) -> None:
        self._ready = threading.Event()
        self._config = load(write_config(folder, address), {})
        self.parts: Parts | None = None
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        assert self._ready.wait(20)

    def _serve(self) -> None:
        self.parts = connect(self._config)  # SQLite wants one thread for its connection
        self._ready.set()
        self.parts.serve()

    @property
    def state(self):  # type: ignore[no-untyped-def]  # a test's shortcut
        """The state thread's own."""
        assert self.parts is not None
        return self.parts.state

    def end(self) -> None:
        """End it with its runs."""
        self.state.quit(end_runs=True)
        self._thread.join(30)
        assert not self._thread.is_alive()


@pytest.fixture
def inside(tmp_path: Path, served: str, control: ScriptedControl) -> Iterator[Inside]:
    """A serving agent."""
    one = Inside(tmp_path, served)
    control.wait(lambda: control.told.syncs)
    yield one
    one.end()


def test_a_run_sees_its_own_gpus_and_no_others(
    tmp_path: Path, served: str, control: ScriptedControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The devices that its lease names, by uuid; nothing for a job without; what is held by another is refused."""
    machine = (("GPU-t4", "nvidia/T4"), ("GPU-a0", "nvidia/A100"), ("GPU-a1", "nvidia/A100"))
    monkeypatch.setattr(probe, "gpus", lambda: machine)
    text = "import os; print(repr(os.environ['CUDA_VISIBLE_DEVICES']), flush=True); import time; time.sleep(600)"

    def spec(gpu_milli: int) -> job_pb2.JobSpec:
        return spec_of("python3", "command", arguments=("-c", text), gpu_milli=gpu_milli)

    def says(job_id: str, seen: str) -> None:
        log = tmp_path / "state" / "attempts" / job_id / "1-1" / "log"
        eventually(lambda: log.exists() and log.read_text() == seen, 20, job_id)

    one = Inside(tmp_path, served)
    try:
        control.wait(lambda: control.told.sessions)
        offered = {(each.kind, each.amount) for each in control.told.sessions[0].nodes[0].offered if each.name == "gpu"}
        assert offered == {("nvidia/A100", 2_000), ("nvidia/T4", 1_000)}
        assert control.told.sessions[0].reclaim_ms == 60_000
        control.start("job-1", spec(2_000), devices=((1, 2),))
        control.start("job-2", spec(0))
        says("job-1", "'GPU-a1,GPU-t4'\n")
        says("job-2", "''\n")
        control.start("job-3", spec(1_000), devices=((1,),))
        control.start("job-4", spec(1_000))
        end = control.wait(lambda: control.ended("job-3"))
        assert (end.outcome, end.reason.code) == (hub_pb2.OUTCOME_REFUSED, "ROOM_TAKEN")
        says("job-4", "'GPU-a0'\n")
    finally:
        one.end()


def test_full_disk_starts_nothing_and_loses_nothing(
    inside: Inside, control: ScriptedControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the journal has no room no lease is taken and no end is told; with room again both happen, once."""
    control.start("job-1", spec_of("succeeds-after-300"))
    control.wait(lambda: [one for one in control.reports_of("job-1") if one.state == RUNNING])
    assert inside.parts is not None
    journal = inside.parts.journal
    tried = threading.Event()

    def full(*_args: object, **_kwargs: object) -> None:
        tried.set()
        raise FederationError(Code.STORE_FULL, "no room", fault=Fault.HUB)

    with monkeypatch.context() as patch:
        patch.setattr(journal, "save", full)
        control.start("job-2", spec_of("succeeds"))
        assert tried.wait(10)
        tried.clear()
        assert tried.wait(10), "tried again"
        assert control.ended("job-1") is None
        assert control.reports_of("job-2") == []
    for job_id in ("job-1", "job-2"):
        end = control.wait(lambda job_id=job_id: control.ended(job_id))  # type: ignore[misc]
        assert end.outcome == hub_pb2.OUTCOME_SUCCEEDED


def test_answer_from_before_changes_nothing(inside: Inside, control: ScriptedControl) -> None:
    """Within a session a lower revision, or a lower incarnation, is a late word: its lease never starts."""
    control.revision = 50
    control.start("job-1", spec_of("succeeds"))
    control.wait(lambda: control.ended("job-1"))
    control.revision = 10
    control.start("job-late", spec_of("succeeds"))
    syncs = len(control.told.syncs)
    control.wait(lambda: len(control.told.syncs) >= syncs + 3)
    assert control.reports_of("job-late") == []
    control.revision = 90
    control.start("job-3", spec_of("succeeds"))
    control.wait(lambda: control.ended("job-3") and control.ended("job-late"))


def test_control_plane_that_forgets_to_acknowledge_gets_one_run(
    inside: Inside, control: ScriptedControl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same lease in answer after answer is one start."""
    trace = tmp_path / "trace"
    monkeypatch.setenv("BRHUB_FAKE_TRACE", str(trace))
    control.start("job-1", spec_of("never-ends"))
    again = dict(control._starts)
    control.wait(lambda: control.reports_of("job-1"))
    for _ in range(3):
        syncs = len(control.told.syncs)
        control._starts.update(again)
        with control._changed:
            control._changed.notify_all()
        control.read_log(f"read-{syncs}", "job-1", 0)
        control.wait(lambda syncs=syncs: len(control.told.syncs) > syncs)  # type: ignore[misc]
    eventually(trace.exists)
    assert trace.read_text().count("job-1") == 1
    assert [run.state for run in inside.state.truth().runs.values()] == [RunState.RUNNING]


@pytest.mark.parametrize("code", [Code.IDENTITY_IN_USE, Code.UNAUTHENTICATED, Code.PROTOCOL_UNSUPPORTED])
def test_refused_name_is_said_once_and_tried_slowly(
    tmp_path: Path,
    served: str,
    control: ScriptedControl,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    code: Code,
) -> None:
    """What a person must mend is an error in the log with what to do; the agent stays, and comes in when it is mended."""
    monkeypatch.setattr(conversation_module, "PAUSE_S_SLOW", 0.3)
    control.refuse_open = FederationError(code, "Not you.", fault=Fault.HUB, hint="Do this.")
    with caplog.at_level(logging.WARNING):
        one = Inside(tmp_path, served)
        try:
            eventually(lambda: "Do this." in caplog.text)
            assert control.told.sessions == []
            control.refuse_open = None
            control.wait(lambda: control.told.syncs)
        finally:
            one.end()
    assert [record.levelname for record in caplog.records if "Not you." in record.message] == ["ERROR"]
