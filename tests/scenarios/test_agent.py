"""The agent as a process of its own, against a control plane that follows a script, over real sockets.

Killed, stopped, cut off, misled: each run ends once, and the control plane hears of it once it can.
"""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from federation.archive import pack
from federation.v1 import common_pb2, hub_pb2, job_pb2
from hub_node.journal import Journal
from hub_node.records import Reason, Run, RunState
from hub_node.runners.process import stat_of
from tests.support.eventually import eventually
from tests.unit.hub_node.scripted import ScriptedControl, serving, spec_of, write_config

RUNNING, STAGING, ENDED = hub_pb2.RUN_STATE_RUNNING, hub_pb2.RUN_STATE_STAGING, hub_pb2.RUN_STATE_ENDED
SUCCEEDED, FAILED = hub_pb2.OUTCOME_SUCCEEDED, hub_pb2.OUTCOME_FAILED
STOPPED, REFUSED = hub_pb2.OUTCOME_STOPPED, hub_pb2.OUTCOME_REFUSED
PROGRAM = "import sys; from hub_node.app import agent_main; sys.exit(agent_main(sys.argv[1]))"


class AgentProcess:
    """`brhub agent` in a folder; started and ended as often as a test wants."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "agent.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        assert self._process is None or self._process.poll() is not None
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(self.folder / "agent.toml")], stdout=out, stderr=out, cwd=Path.cwd()
            )

    def end(self, by: int = signal.SIGTERM) -> int:
        """Signal it, and wait; its exit status."""
        assert self._process is not None
        self._process.send_signal(by)
        return self._process.wait(30)

    def running(self) -> bool:
        """Whether it lives."""
        return self._process is not None and self._process.poll() is None


@pytest.fixture
def control() -> ScriptedControl:
    """The script."""
    return ScriptedControl()


@pytest.fixture
def served(control: ScriptedControl) -> Iterator[str]:
    """Its address."""
    with serving(control) as address:
        yield address


@pytest.fixture
def agent(tmp_path: Path, served: str, control: ScriptedControl) -> Iterator[AgentProcess]:
    """A running agent; when the test ends, its runs end with it."""
    write_config(tmp_path, served)
    one = AgentProcess(tmp_path)
    one.start()
    try:
        control.wait(lambda: control.told.syncs)
        yield one
    finally:
        if not one.running():
            one.start()
            control.wait(lambda: control.told.syncs)
        one.end(signal.SIGUSR1)


def program(text: str, **over: Any) -> job_pb2.JobSpec:
    """A job of a few lines of Python."""
    return spec_of("python3", "command", arguments=("-c", textwrap.dedent(text)), **over)


def in_state(control: ScriptedControl, job_id: str, state: int) -> Callable[[], hub_pb2.RunReport | None]:
    """A check: the job's newest report says this state."""

    def check() -> hub_pb2.RunReport | None:
        reports = control.reports_of(job_id)
        return reports[-1] if reports and reports[-1].state == state else None

    return check


def ends_of(control: ScriptedControl, job_id: str) -> set[bytes]:
    """Different things that were said of a job's end; a repeat is the same."""
    return {
        report.SerializeToString(deterministic=True) for report in control.reports_of(job_id) if report.state == ENDED
    }


def test_lease_runs_to_its_end_and_is_forgotten_when_released(agent: AgentProcess, control: ScriptedControl) -> None:
    """Accepted, ended, counted, released: the journal is empty again and the log stays."""
    control.start("job-1", program("print('hello')"))
    end = control.wait(lambda: control.ended("job-1"))
    assert (end.outcome, end.exit_code) == (SUCCEEDED, 0)
    assert [usage.index for usage in end.usage] == [0]
    assert end.usage[0].end_ms == end.ended_ms
    control.wait(lambda: control.told.syncs[-1].runs_digest == _digest_of_nothing())
    log = agent.folder / "state/attempts/job-1/1-1/log"
    assert log.read_text() == "hello\n"
    eventually(lambda: {entry.name for entry in log.parent.iterdir()} == {"log"}, 5)


def _digest_of_nothing() -> str:
    return "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize(
    ("entrypoint", "outcome", "code"),
    [
        ("succeeds", SUCCEEDED, ""),
        ("exits-3", FAILED, "EXIT_STATUS"),
        ("fails-to-start", FAILED, "ENGINE_UNAVAILABLE"),
        ("dies-silently", FAILED, "ENGINE_UNAVAILABLE"),
        ("no-such-fake", FAILED, "INVALID_ARGUMENT"),
    ],
)
def test_every_failure_of_an_engine_is_an_end_with_a_reason(
    agent: AgentProcess, control: ScriptedControl, entrypoint: str, outcome: int, code: str
) -> None:
    """Whatever an engine does, the run ends once and says why."""
    control.start("job-1", spec_of(entrypoint))
    end = control.wait(lambda: control.ended("job-1"))
    assert (end.outcome, end.reason.code) == (outcome, code)
    assert agent.running()


def test_agent_killed_in_the_middle_adopts_its_run(agent: AgentProcess, control: ScriptedControl) -> None:
    """SIGKILL, and a new process: the program was never started twice, never ended, and its end is told once."""
    text = """
        import os, time
        open(os.environ["BRHUB_OUTPUT_DIR"] + "/../starts", "a").write("x")
        while not os.path.exists(os.environ["BRHUB_OUTPUT_DIR"] + "/../go"):
            time.sleep(0.02)
        print("done")
    """
    control.start("job-1", program(text))
    control.wait(in_state(control, "job-1", RUNNING))
    folder = agent.folder / "state/attempts/job-1/1-1"
    eventually((folder / "starts").exists)
    agent.end(signal.SIGKILL)
    agent.start()
    control.wait(lambda: len(control.told.sessions) == 2)
    assert [run.state for run in control.told.sessions[1].runs] == [RUNNING]
    assert control.told.sessions[0].instance_id == control.told.sessions[1].instance_id
    starts = (folder / "starts").read_text()
    (folder / "go").touch()
    end = control.wait(lambda: control.ended("job-1"))
    assert (end.outcome, starts) == (SUCCEEDED, "x")
    assert len(ends_of(control, "job-1")) == 1


def test_start_that_no_agent_could_write_down_is_found_and_ended(agent: AgentProcess, control: ScriptedControl) -> None:
    """An agent died between a program's start and its journal, and meanwhile the job was cancelled: the program ends."""
    lease_id = control.start("job-1", program("import time; time.sleep(600)"))
    control.wait(in_state(control, "job-1", RUNNING))
    agent.end(signal.SIGKILL)
    folder = agent.folder / "state/attempts/job-1/1-1"
    eventually((folder / "guard.json").exists)
    guard = json.loads((folder / "guard.json").read_text())["pid"]
    journal = Journal(agent.folder / "state")
    (run,) = journal.load().values()
    asked = Reason("CANCEL_REQUESTED", "enough")
    journal.save([replace(run, state=RunState.STOPPING, reason=asked, runner_state="", started_ms=0, boot_id="")])
    journal.close()
    agent.start()
    end = control.wait(lambda: control.ended("job-1"))
    assert (end.lease_id, end.outcome, end.reason.code) == (lease_id, STOPPED, "CANCEL_REQUESTED")
    assert (stat_of(guard) or ("Z",))[0] in "ZX"


def test_run_that_ended_while_no_agent_lived_is_told_by_the_next(agent: AgentProcess, control: ScriptedControl) -> None:
    """The limit passes with the agent dead: the guard ended the run, the next agent says so."""
    control.start("job-1", program("import time; time.sleep(600)", runtime_limit_ms=2_000))
    control.wait(in_state(control, "job-1", RUNNING))
    agent.end(signal.SIGKILL)
    folder = agent.folder / "state/attempts/job-1/1-1"
    eventually((folder / "guard.json").exists)
    guard = json.loads((folder / "guard.json").read_text())["pid"]
    eventually(lambda: (stat_of(guard) or ("Z",))[0] in "ZX", 20, "the guard's end")
    agent.start()
    end = control.wait(lambda: control.ended("job-1"))
    assert (end.outcome, end.reason.code) == (FAILED, "RUNTIME_LIMIT")


def test_preempted_run_has_the_grace_that_it_was_given(agent: AgentProcess, control: ScriptedControl) -> None:
    """SIGTERM at once, SIGKILL when the grace is over, also when the agent is a new one by then; the report says stopped."""
    text = """
        import os, signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: print("told", flush=True))
        print("began", os.environ["BRHUB_GRACE_S"], os.path.isdir(os.environ["BRHUB_CHECKPOINT_DIR"]), flush=True)
        while True:
            time.sleep(0.02)
    """
    lease_id = control.start("job-1", program(text, preemptible=True))
    log = agent.folder / "state/attempts/job-1/1-1/log"
    eventually(lambda: log.exists() and log.read_text() == "began 60 True\n", 20)
    began_s = time.monotonic()
    control.revoke(lease_id, grace_ms=8_000, code="PREEMPTED")
    eventually(lambda: "told" in log.read_text(), 20)
    agent.end(signal.SIGKILL)
    agent.start()
    end = control.wait(lambda: control.ended("job-1"))
    assert (end.outcome, end.reason.code, end.exit_code) == (STOPPED, "PREEMPTED", 137)
    assert time.monotonic() - began_s >= 7.5
    assert log.read_text() == "began 60 True\ntold\n"


def test_ordered_end_of_the_agent_leaves_its_runs(agent: AgentProcess, control: ScriptedControl) -> None:
    """SIGTERM ends the agent alone, with status 0 and a word about what goes on; the next one takes it up."""
    control.start("job-1", program("import time; time.sleep(600)"))
    control.wait(in_state(control, "job-1", RUNNING))
    assert agent.end(signal.SIGTERM) == 0
    assert "1 runs go on" in agent.log.read_text()
    assert control.ended("job-1") is None
    agent.start()
    control.wait(lambda: len(control.told.sessions) == 2)
    lease_id = control.told.sessions[1].runs[0].lease_id
    control.revoke(lease_id)
    end = control.wait(lambda: control.ended("job-1"))
    assert (end.outcome, end.reason.code) == (STOPPED, "CANCEL_REQUESTED")


def test_end_with_runs_leaves_no_process(agent: AgentProcess, control: ScriptedControl) -> None:
    """SIGUSR1 ends every run first, tells how, and only then the agent."""
    control.start("job-1", program("import os, time; print(os.getpid(), flush=True); time.sleep(600)"))
    control.wait(in_state(control, "job-1", RUNNING))
    log = agent.folder / "state/attempts/job-1/1-1/log"
    pid = int(eventually(lambda: log.exists() and log.read_text().strip()))
    assert agent.end(signal.SIGUSR1) == 0
    assert (stat_of(pid) or ("Z",))[0] in "ZX"
    end = control.ended("job-1")
    assert end is None or end.outcome == STOPPED


def test_engine_that_does_not_hear_is_asked_again(agent: AgentProcess, control: ScriptedControl) -> None:
    """A run whose engine missed the first request to end is asked again, and ends as stopped."""
    lease_id = control.start("job-1", spec_of("hangs-on-stop"))
    control.wait(in_state(control, "job-1", RUNNING))
    control.revoke(lease_id, grace_ms=100)
    assert control.wait(in_state(control, "job-1", hub_pb2.RUN_STATE_STOPPING))
    end = control.wait(lambda: control.ended("job-1"), 30)
    assert end.outcome == STOPPED


def test_revoke_of_another_epoch_is_not_ours(agent: AgentProcess, control: ScriptedControl) -> None:
    """A late order about an older attempt does not touch the run; the right one ends it."""
    lease_id = control.start("job-1", spec_of("never-ends"), n=2)
    control.wait(in_state(control, "job-1", RUNNING))
    syncs = len(control.told.syncs)
    control.revoke(lease_id, n=1)
    control.start("job-2", spec_of("succeeds"))
    control.wait(lambda: control.ended("job-2") and len(control.told.syncs) > syncs)
    assert control.ended("job-1") is None
    control.revoke(lease_id, n=2)
    assert control.wait(lambda: control.ended("job-1")).outcome == STOPPED


def test_forgotten_session_is_opened_again_with_everything(agent: AgentProcess, control: ScriptedControl) -> None:
    """A control plane that lost its sessions is given the full list, and the run never noticed."""
    control.start("job-1", spec_of("never-ends"))
    control.wait(in_state(control, "job-1", RUNNING))
    control.forget_sessions()
    control.start("job-2", spec_of("succeeds"))
    control.wait(lambda: len(control.told.sessions) == 2)
    assert "job-1" in {run.job_id for run in control.told.sessions[1].runs}
    control.wait(lambda: control.ended("job-2"))
    assert control.ended("job-1") is None


def test_cut_off_agent_finishes_its_work_and_tells_it_later(tmp_path: Path, control: ScriptedControl) -> None:
    """While the control plane is away a run goes on and ends; the end is told when it is back."""
    agent = AgentProcess(tmp_path)
    try:
        with serving(control) as address:
            write_config(tmp_path, address)
            agent.start()
            control.start("job-1", program("import time; time.sleep(1)"))
            control.wait(in_state(control, "job-1", RUNNING))
        eventually(lambda: "job-1/1-1 ended" in agent.log.read_text())
        assert control.ended("job-1") is None
        with serving(control, int(address.rpartition(":")[2])):
            assert control.wait(lambda: control.ended("job-1"), 30).outcome == SUCCEEDED
            agent.end(signal.SIGUSR1)
    finally:
        if agent.running():
            agent.end(signal.SIGKILL)
    assert agent.log.read_text().count("cannot be reached") == 1, "said once, not at every attempt"


def test_short_lease_that_is_not_renewed_ends_the_run(agent: AgentProcess, control: ScriptedControl) -> None:
    """`stop`: without renewal the hub ends the run itself; with one it lives on."""
    text, stop = "import time; time.sleep(600)", common_pb2.ON_PARTITION_STOP
    control.start("job-1", program(text, on_partition=stop), valid_for_ms=1_500)
    renewed = control.start("job-2", program(text, on_partition=stop), valid_for_ms=1_500)
    control.wait(in_state(control, "job-2", RUNNING))
    control.renew(renewed, 600_000)
    end = control.wait(lambda: control.ended("job-1"))
    assert (end.outcome, end.reason.code) == (FAILED, "LEASE_RAN_OUT")
    assert control.ended("job-2") is None


def test_renewal_that_only_the_journal_knows_reaches_the_guard(agent: AgentProcess, control: ScriptedControl) -> None:
    """An agent died between writing a renewal down and telling the guard: the next one tells it, unasked."""
    stop = common_pb2.ON_PARTITION_STOP
    sleeps = program("import time; time.sleep(600)", on_partition=stop)
    control.start("job-1", sleeps, valid_for_ms=60_000)
    control.wait(in_state(control, "job-1", RUNNING))
    agent.end(signal.SIGKILL)
    deadline = agent.folder / "state/attempts/job-1/1-1/deadline.json"
    before_ms = json.loads(deadline.read_text())["lease_boot_ms"]
    journal = Journal(agent.folder / "state")
    (run,) = journal.load().values()
    longer_ms = run.deadline_ms + 600_000
    journal.save([replace(run, deadline_ms=longer_ms, lease=replace(run.lease, valid_until_ms=longer_ms))])
    journal.close()
    agent.start()
    eventually(lambda: json.loads(deadline.read_text())["lease_boot_ms"] >= before_ms + 590_000, 20, "the guard's word")


def test_machine_that_restarted_ends_its_runs_before_it_speaks(agent: AgentProcess, control: ScriptedControl) -> None:
    """Another boot in the journal: the run ended with the machine; `rerun` goes back to the queue without blame."""
    control.start("job-1", spec_of("never-ends"))
    rerun = common_pb2.ON_PARTITION_RERUN
    control.start("job-2", spec_of("never-ends", on_partition=rerun), valid_for_ms=600_000)
    control.wait(lambda: in_state(control, "job-1", RUNNING)() and in_state(control, "job-2", RUNNING)())
    agent.end(signal.SIGKILL)
    journal = Journal(agent.folder / "state")
    journal.save([replace(run, boot_id="the-boot-before") for run in journal.load().values()])
    journal.close()
    agent.start()
    control.wait(lambda: len(control.told.sessions) == 2)
    told = {run.job_id: (run.outcome, run.reason.code) for run in control.told.sessions[1].runs}
    assert told == {"job-1": (FAILED, "REBOOTED"), "job-2": (REFUSED, "REBOOTED")}


def test_what_had_ended_when_its_machine_lost_its_power_ended_as_it_did(
    agent: AgentProcess, control: ScriptedControl
) -> None:
    """Nobody had looked at it yet: the guard wrote how, and the next boot reads that."""
    control.start("job-1", program("import pathlib, time\nwhile not pathlib.Path('bell').exists(): time.sleep(0.02)"))
    control.wait(in_state(control, "job-1", RUNNING))
    agent.end(signal.SIGKILL)
    attempt = agent.folder / "state/attempts/job-1/1-1"
    (attempt / "package" / "bell").touch()
    eventually((attempt / "exit.json").exists, 20, "the guard's last word")
    journal = Journal(agent.folder / "state")
    journal.save([replace(run, boot_id="the-boot-before") for run in journal.load().values()])
    journal.close()
    agent.start()
    assert control.wait(lambda: control.ended("job-1")).outcome == SUCCEEDED


def test_what_had_not_begun_when_its_machine_restarted_does_not_begin(
    agent: AgentProcess, control: ScriptedControl
) -> None:
    """Its lease was counted by the clock of another boot, and may be over: it goes back to the queue without blame."""
    control.start("job-1", spec_of("never-ends"))
    control.wait(in_state(control, "job-1", RUNNING))
    agent.end(signal.SIGKILL)
    journal = Journal(agent.folder / "state")
    (run,) = journal.load().values()
    journal.save([Run(run.lease, RunState.ACCEPTED, deadline_ms=run.deadline_ms, boot_id="the-boot-before")])
    journal.close()
    agent.start()
    end = control.wait(lambda: control.ended("job-1"))
    assert (end.outcome, end.reason.code) == (REFUSED, "REBOOTED")


def test_what_the_hub_refuses_never_runs(agent: AgentProcess, control: ScriptedControl) -> None:
    """An engine that it lacks, data that lies elsewhere, room that is taken: each a coded no, and nothing started."""
    control.start("job-engine", spec_of("main.py", "spark"))
    control.start("job-data", spec_of("succeeds", inputs=[job_pb2.Input(dataset="flights-jfk")]))
    control.start("job-room", spec_of("succeeds", cpu_milli=10_000_000))
    codes = {}
    for job_id in ("job-engine", "job-data", "job-room"):
        end = control.wait(partial(control.ended, job_id))
        codes[job_id] = (end.outcome, end.reason.code)
    assert codes == {
        "job-engine": (REFUSED, "ENGINE_MISSING"),
        "job-data": (REFUSED, "DATA_ELSEWHERE"),
        "job-room": (REFUSED, "ROOM_TAKEN"),
    }
    assert not (agent.folder / "state/attempts").exists()


def test_log_is_read_by_ranges_and_never_past_its_end(agent: AgentProcess, control: ScriptedControl) -> None:
    """A range, the end, past the end, an attempt that never was, a path that is no name: each its own answer."""
    control.start("job-1", program("print('0123456789')"))
    control.wait(lambda: control.ended("job-1"))
    orders = {
        "range": ("job-1", 2, 3),
        "rest": ("job-1", 5, 0),
        "end": ("job-1", 11, 0),
        "past": ("job-1", 12, 0),
        "nobody": ("job-9", 0, 0),
        "outside": ("../../journal.db", 0, 0),
    }
    for read_id, (job_id, offset, limit_bytes) in orders.items():
        control.read_log(read_id, job_id, offset, limit_bytes)
    control.wait(lambda: len(control.told.chunks) == len(orders))
    said = {one.read_id: (one.data, one.complete, one.problem.code) for one in control.told.chunks}
    assert said == {
        "range": (b"234", False, ""),
        "rest": (b"56789\n", True, ""),
        "end": (b"", True, ""),
        "past": (b"", True, "OFFSET_OUT_OF_RANGE"),
        "nobody": (b"", True, "LOGS_UNAVAILABLE"),
        "outside": (b"", True, "INVALID_ARGUMENT"),
    }
    assert {one.size_bytes for one in control.told.chunks if one.read_id in ("range", "rest", "end")} == {11}


class _Store(http.server.BaseHTTPRequestHandler):
    """Takes PUTs and gives GETs; refuses as often as it is told to."""

    kept: dict[str, bytes]
    refusals: list[int]

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.refusals.pop() if self.refusals else 200
        if status == 200:
            self.kept[self.path] = body
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        body = self.kept.get(self.path, b"")
        self.send_response(200 if body else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Quiet."""


@pytest.fixture
def store() -> Iterator[tuple[str, type[_Store]]]:
    """An object store: (address, its content)."""

    class Store(_Store):
        kept: dict[str, bytes] = {}  # noqa: RUF012  # one a test
        refusals: list[int] = []  # noqa: RUF012

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Store)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", Store
    server.shutdown()
    server.server_close()
    thread.join(5)


def test_package_comes_in_and_result_goes_out(
    agent: AgentProcess, control: ScriptedControl, store: tuple[str, type[_Store]], tmp_path: Path
) -> None:
    """The package is fetched by its link and checked; what the program leaves is sent, though the store refuses at first."""
    address, content = store
    source = tmp_path / "source"
    source.mkdir()
    (source / "main.py").write_text(
        textwrap.dedent(
            """
            import json, os, pathlib, sys
            out = pathlib.Path(os.environ["BRHUB_OUTPUT_DIR"])
            (out / "sub").mkdir()
            (out / "sub" / "answer.txt").write_text(sys.argv[1])
            seen = {name: text for name, text in os.environ.items()}
            (out / "environ.json").write_text(json.dumps(seen))
            """
        ),
        encoding="utf-8",
    )
    packed = pack(source)
    content.kept["/package"] = packed.data
    content.refusals[:] = [403]
    control.put_url = f"{address}/results"
    spec = spec_of(
        "main.py",
        "command",
        arguments=("42",),
        package_digest=packed.digest,
        variables={"COLOUR": "blue"},
        secret_variables={"PASSWORD": "tell-nobody"},
    )
    control.start("job-1", spec, url=f"{address}/package")
    end = control.wait(lambda: control.ended("job-1"), 30)
    assert (end.outcome, end.reason.message) == (SUCCEEDED, "")
    assert [one.path for one in end.outputs] == ["environ.json", "sub/answer.txt"]
    assert content.kept["/results/sub/answer.txt"] == b"42"
    seen = json.loads(content.kept["/results/environ.json"])
    assert (seen["COLOUR"], seen["PASSWORD"]) == ("blue", "tell-nobody")
    assert (seen["BRHUB_JOB_ID"], seen["BRHUB_ATTEMPT"], seen["BRHUB_HUB"]) == ("job-1", "1-1", "shenzhen")
    assert not any("a-token-of-the-test" in text for text in seen.values()), "the hub's token is not the job's"
    assert any(report.state == STAGING for report in control.reports_of("job-1"))


def test_tampered_package_never_runs(
    agent: AgentProcess, control: ScriptedControl, store: tuple[str, type[_Store]]
) -> None:
    """Bytes that are not what the submitter signed for end the run with DIGEST_MISMATCH."""
    address, content = store
    content.kept["/package"] = b"something else"
    control.start("job-1", spec_of("main.py", "command", package_digest="0" * 64), url=f"{address}/package")
    end = control.wait(lambda: control.ended("job-1"))
    assert (end.outcome, end.reason.code) == (FAILED, "DIGEST_MISMATCH")


def test_result_past_its_limit_fails_the_job_in_words(agent: AgentProcess, control: ScriptedControl) -> None:
    """65 MiB of output is no result: LIMIT_EXCEEDED, with the sizes; and links in it are UNSAFE_ARCHIVE."""
    big = "import os; open(os.environ['BRHUB_OUTPUT_DIR'] + '/big', 'wb').truncate(65 * 1024**2)"
    control.start("job-big", program(big))
    linked = "import os; os.symlink('/etc/passwd', os.environ['BRHUB_OUTPUT_DIR'] + '/link')"
    control.start("job-link", program(linked))
    assert control.wait(lambda: control.ended("job-big")).reason.code == "LIMIT_EXCEEDED"
    assert control.wait(lambda: control.ended("job-link")).reason.code == "UNSAFE_ARCHIVE"


def test_wrong_files_end_the_agent_with_a_word(tmp_path: Path) -> None:
    """An unknown key, a second agent on the folder: exit status 2 and one sentence, no traceback."""
    write_config(tmp_path, "127.0.0.1:9", more="surprise = 1\n")
    agent = AgentProcess(tmp_path)
    agent.start()
    assert agent._process is not None
    assert agent._process.wait(30) == 2
    said = agent.log.read_text()
    assert "surprise" in said
    assert "Traceback" not in said


def test_agent_stays_small(agent: AgentProcess, control: ScriptedControl) -> None:
    """After a few dozen runs an agent holds less than 100 MB."""
    for number in range(30):
        control.start(f"job-{number}", spec_of("succeeds"))
    control.wait(lambda: all(control.ended(f"job-{number}") for number in range(30)))
    assert agent._process is not None
    pages = int(Path(f"/proc/{agent._process.pid}/statm").read_text().split()[1])
    assert pages * os.sysconf("SC_PAGE_SIZE") < 100 * 1024**2
