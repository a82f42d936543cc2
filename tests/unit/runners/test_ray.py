"""Ray without Ray: the Jobs API against a small HTTP server, the driver under guard, and what follows from the lease."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from federation.errors import Code, FederationError
from hub_node import steady
from hub_node.ports import Phase, Status
from hub_node.runners import guard, ray_cluster, ray_deadline, ray_driver
from hub_node.runners import ray as ray_runner
from hub_node.runners.process import stat_of
from hub_node.runners.ray import RayRunner, driver_words, runtime_env_of, shape_of
from hub_node.runners.ray_api import RayApi, RayRefusedError, RaySilentError
from hub_node.runners.ray_cluster import RayClusterRunner, RayClusterSettings
from hub_node.runners.ray_head import RayHeads, free_ports
from tests.support.descriptors import no_descriptor
from tests.support.engine_attempts import attempt, work
from tests.support.eventually import eventually
from tests.support.small_ray import TOKEN, SmallRay, serving

PROGRAM = {"main.py": "print('hello')"}


@pytest.fixture
def ray() -> Iterator[SmallRay]:
    """One for each test."""
    with serving() as made:
        yield made


def test_a_head_that_has_no_agent_yet_is_asked_again(ray: SmallRay) -> None:
    """Just after its start Ray refuses for a while; the submit goes through all the same."""
    ray.submits_refused = 2
    RayApi(ray.url, TOKEN).submit("job-1-1-1", "true", {}, 20, lambda: False)
    assert list(ray.jobs) == ["job-1-1-1"]


def test_a_submit_that_is_repeated_finds_the_first(ray: SmallRay) -> None:
    """The submission id is the attempt's: the second call starts nothing."""
    api = RayApi(ray.url, TOKEN)
    api.submit("job-1-1-1", "true", {}, 5, lambda: False)
    api.submit("job-1-1-1", "true", {}, 5, lambda: False)
    assert len(ray.jobs) == 1


def test_a_refusal_for_good_is_told_at_once(ray: SmallRay) -> None:
    """A wrong token is not tried again."""
    with pytest.raises(RayRefusedError) as caught:
        RayApi(ray.url, "another").job("job-1")
    assert caught.value.status == 401


def test_silence_is_no_answer() -> None:
    """A head that is not there raises RaySilentError, and is not ready."""
    port = free_ports(("one",))["one"]
    api = RayApi(f"http://127.0.0.1:{port}", TOKEN)
    with pytest.raises(RaySilentError):
        api.job("job-1")
    assert not api.ready()


def test_an_unknown_job_is_none_and_its_stop_harmless(ray: SmallRay) -> None:
    """404 is an answer."""
    api = RayApi(ray.url, TOKEN)
    assert api.job("nobody") is None
    api.stop("nobody")
    assert api.ready()
    assert not api.busy()


def test_a_head_is_busy_until_its_jobs_have_ended(ray: SmallRay) -> None:
    """What decides whether an idle-looking head may be ended."""
    ray.jobs = {"one": {"status": "SUCCEEDED"}, "two": {"status": "RUNNING"}}
    assert RayApi(ray.url, TOKEN).busy()
    ray.jobs["two"]["status"] = "STOPPED"
    assert not RayApi(ray.url, TOKEN).busy()


@pytest.mark.parametrize(
    ("job", "phase", "exit_code", "code"),
    [
        ({"status": "PENDING"}, Phase.RUNNING, 0, ""),
        ({"status": "RUNNING"}, Phase.RUNNING, 0, ""),
        ({"status": "SUCCEEDED"}, Phase.ENDED, 0, ""),
        ({"status": "FAILED", "driver_exit_code": 3}, Phase.ENDED, 3, ""),
        ({"status": "FAILED", "driver_exit_code": None, "message": "no such thing"}, Phase.ENDED, 1, ""),
        ({"status": "STOPPED"}, Phase.ENDED, 143, "STOPPED"),
    ],
)
def test_what_ray_says_of_a_clusters_job(
    ray: SmallRay, tmp_path: Path, job: dict[str, Any], phase: Phase, exit_code: int, code: str
) -> None:
    """Each of Ray's states as a runner's answer."""
    runner = RayClusterRunner(RayClusterSettings(ray.url, TOKEN))
    runner.start(attempt(tmp_path, work(engine="ray"), PROGRAM))
    ray.jobs["job-1-1-1"].update(job)
    status = runner.poll()
    assert (status.phase, status.exit_code, status.code) == (phase, exit_code, code)


FAR_MS = 10**13


@pytest.mark.parametrize(
    ("limit_ms", "lease_ms", "code"), [(1, 0, "RUNTIME_LIMIT"), (FAR_MS, 1, "LEASE_RAN_OUT")], ids=["limit", "lease"]
)
def test_a_clusters_job_is_found_again_and_ended_at_its_deadline(
    ray: SmallRay, tmp_path: Path, limit_ms: int, lease_ms: int, code: str
) -> None:
    """A new process of the agent takes it up, and holds the deadline that no guard can hold there."""
    first = RayClusterRunner(RayClusterSettings(ray.url, TOKEN))
    first.start(attempt(tmp_path, work(engine="ray"), PROGRAM))
    second = RayClusterRunner(RayClusterSettings(ray.url, TOKEN))
    second.load_state(first.save_state())
    assert second.poll().phase is Phase.RUNNING
    second.extend(limit_ms, lease_ms)
    second.poll()
    assert ray.stopped == ["job-1-1-1"]
    ray.jobs["job-1-1-1"]["status"] = "STOPPED"
    assert second.poll().code == code


def test_the_lease_of_a_clusters_job_moves_on_and_its_limit_only_comes_nearer(ray: SmallRay, tmp_path: Path) -> None:
    """As under a guard: an agent that restarted may believe that the run began later than it did."""
    runner = RayClusterRunner(RayClusterSettings(ray.url, TOKEN))
    made = attempt(tmp_path, work(engine="ray"), PROGRAM)
    runner.start(made)
    before = guard.read_json(str(tmp_path / "deadline.json"))
    runner.extend(made.deadline_ms + 600_000, FAR_MS)
    runner.extend(made.deadline_ms + 600_000, FAR_MS + 600_000)
    after = guard.read_json(str(tmp_path / "deadline.json"))
    assert before["lease_wall_ms"] == 0
    assert abs(guard.number(after, "lease_wall_ms") - FAR_MS - 600_000) < 60_000
    assert abs(guard.number(after, "runtime_wall_ms") - guard.number(before, "runtime_wall_ms")) < 60_000


def test_the_limit_of_a_clusters_job_that_was_taken_up_is_that_of_its_beginning(ray: SmallRay, tmp_path: Path) -> None:
    """Its agent died before it could say that it had begun; the next one knows no better than what that wrote down."""
    made = replace(attempt(tmp_path, work(engine="ray"), PROGRAM), deadline_ms=steady.now_ms() + 60_000)
    RayClusterRunner(RayClusterSettings(ray.url, TOKEN)).start(made)
    after = RayClusterRunner(RayClusterSettings(ray.url, TOKEN))
    assert after.take_up(made.run, tmp_path)
    after.extend(FAR_MS, 0)
    written_ms = guard.number(guard.read_json(str(tmp_path / "deadline.json")), "runtime_wall_ms")
    assert written_ms <= time.time_ns() // 1_000_000 + 70_000


Begin = Callable[..., tuple[RayClusterRunner, subprocess.Popen[bytes]]]


@pytest.fixture
def begin(ray: SmallRay, tmp_path: Path) -> Iterator[Begin]:
    """A run of a cluster, and its entrypoint, begun as Ray begins it; the program has said that it is there."""
    begun: list[subprocess.Popen[bytes]] = []

    def begin_one(program: str, **changed: Any) -> tuple[RayClusterRunner, subprocess.Popen[bytes]]:
        runner = RayClusterRunner(RayClusterSettings(ray.url, TOKEN))
        made = attempt(tmp_path, work(engine="ray"), {"main.py": program + "\nopen('there', 'w').close()\n" + STAYS})
        runner.start(replace(made, **changed))
        process = subprocess.Popen(ray.jobs["job-1-1-1"]["entrypoint"], shell=True, start_new_session=True)
        begun.append(process)
        eventually((tmp_path / "package" / "there").exists, 30)
        return runner, process

    yield begin_one
    for process in begun:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


STAYS = "import time\ntime.sleep(600)"
DEAF = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)"
LEAVES_ANOTHER = """
import subprocess
other = subprocess.Popen(["/bin/sh", "-c", "trap '' TERM; echo deaf; sleep 600"], stdout=subprocess.PIPE)
other.stdout.readline()
open("other", "w").write(str(other.pid))
"""


@pytest.mark.parametrize("program", ["", DEAF, LEAVES_ANOTHER], ids=["hears", "deaf", "leaves-another"])
@pytest.mark.parametrize(("limit_ms", "lease_ms", "code"), [(1, FAR_MS, "RUNTIME_LIMIT"), (FAR_MS, 1, "LEASE_RAN_OUT")])
def test_a_driver_of_a_cluster_ends_at_its_deadline_without_any_agent(
    begin: Begin, ray: SmallRay, tmp_path: Path, program: str, limit_ms: int, lease_ms: int, code: str
) -> None:
    """The last that its agent did was to write down when; nobody asks Ray. The next agent learns why it ended."""
    runner, process = begin(program, grace_ms=200)
    runner.extend(limit_ms, lease_ms)
    status = process.wait(60)
    assert status == -signal.SIGKILL
    if program == LEAVES_ANOTHER:
        other = int((tmp_path / "package" / "other").read_text(encoding="utf-8"))
        eventually(lambda: (found := stat_of(other)) is None or found[0] in "ZX", 20)
    ray.jobs["job-1-1-1"] |= {"status": "FAILED", "driver_exit_code": status}
    after = next_agents(runner, ray)
    said = after.poll()
    assert (said.phase, said.exit_code, said.code) == (Phase.ENDED, 143, code)


def test_a_driver_that_comes_after_its_deadline_does_not_begin(ray: SmallRay, tmp_path: Path) -> None:
    """Ray may take a job late."""
    runner = RayClusterRunner(RayClusterSettings(ray.url, TOKEN))
    runner.start(attempt(tmp_path, work(engine="ray"), {"main.py": "open('it-ran', 'w').close()"}))
    runner.extend(1, 0)
    status = subprocess.run(ray.jobs["job-1-1-1"]["entrypoint"], shell=True, timeout=60, check=False).returncode
    assert status == 143
    assert not (tmp_path / "package" / "it-ran").exists()


def test_a_driver_that_ray_asks_to_end_has_its_last_word(begin: Begin) -> None:
    """Ray asks every process of the job, and what holds the deadlines waits for the driver."""
    hears = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: exit(5))"
    _, process = begin(hears)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(60) == 5


def test_a_deadline_that_was_read_is_not_moved_by_setting_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the wall clock's until it is read, and the boot clock's from then on; what is torn changes nothing."""
    file = tmp_path / "deadline.json"
    wall_ms = time.time_ns() // 1_000_000
    content: guard.Json = {"runtime_wall_ms": wall_ms + 600_000, "lease_wall_ms": 0, "grace_ms": 1}
    guard.write_json(str(file), content)
    held = ray_deadline.Deadlines(tmp_path)
    held.read()
    monkeypatch.setattr(time, "time_ns", lambda: (wall_ms + 3_600_000) * 1_000_000)
    held.read()
    assert held.passed() == ""
    file.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="Expecting"):
        held.read()
    assert held.passed() == ""
    guard.write_json(str(file), content | {"lease_wall_ms": 1})
    held.read()
    assert held.passed() == "LEASE_RAN_OUT"


def test_a_silent_cluster_leaves_a_job_unknown(tmp_path: Path) -> None:
    """Unknown is not dead."""
    with serving() as ray:
        runner = RayClusterRunner(RayClusterSettings(ray.url, TOKEN))
        runner.start(attempt(tmp_path, work(engine="ray"), PROGRAM))
    assert runner.poll().phase is Phase.UNKNOWN


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A submission is tried once."""
    monkeypatch.setattr(ray_cluster, "SUBMIT_S_MAX", 0.0)


def next_agents(runner: RayClusterRunner, ray: SmallRay) -> RayClusterRunner:
    """The same run in the hands of the agent's next process."""
    after = RayClusterRunner(RayClusterSettings(ray.url, TOKEN))
    after.load_state(runner.save_state())
    return after


@pytest.mark.usefixtures("impatient")
def test_a_submission_whose_answer_is_lost_counts_as_begun(ray: SmallRay, tmp_path: Path) -> None:
    """Ray has it, and said so to nobody: unknown until it speaks, then what it says; an end that was asked for is asked again."""
    ray.goes_away_after = True
    runner = RayClusterRunner(RayClusterSettings(ray.url, TOKEN))
    runner.start(attempt(tmp_path, work(engine="ray"), PROGRAM))
    assert runner.poll().phase is Phase.UNKNOWN
    runner.stop(0)
    ray.away = False
    assert runner.poll().phase is Phase.RUNNING
    assert ray.stopped == ["job-1-1-1"]
    ray.jobs["job-1-1-1"]["status"] = "STOPPED"
    assert next_agents(runner, ray).poll().code == "STOPPED"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("stopped", "code"), [(False, "ENGINE_UNAVAILABLE"), (True, "STOPPED")])
def test_a_submission_that_ray_does_not_know_ends_before_it_can_begin(
    ray: SmallRay, tmp_path: Path, stopped: bool, code: str
) -> None:
    """It was on its way when Ray fell silent, and comes after the run was told to be over: its driver does not begin."""
    ray.goes_away_before = True
    runner = RayClusterRunner(RayClusterSettings(ray.url, TOKEN))
    runner.start(attempt(tmp_path, work(engine="ray"), {"main.py": "open('it-ran', 'w').close()"}))
    if stopped:
        runner.stop(0)
    ray.away = False
    runner = next_agents(runner, ray) if not stopped else runner
    assert runner.poll().code == code
    late = subprocess.run(["/bin/sh", "-c", ray.submits_lost[0]["entrypoint"]], timeout=60, check=False)
    assert late.returncode != 0
    assert not (tmp_path / "package" / "it-ran").exists()


@pytest.mark.usefixtures("impatient")
def test_a_submission_that_comes_while_ray_is_asked_goes_on(ray: SmallRay, tmp_path: Path) -> None:
    """Ray did not know it a moment ago, but its driver has begun: it is not over."""
    ray.goes_away_before = True
    runner = RayClusterRunner(RayClusterSettings(ray.url, TOKEN))
    runner.start(attempt(tmp_path, work(engine="ray"), {"main.py": "open('it-ran', 'w').close()"}))
    subprocess.run(["/bin/sh", "-c", ray.submits_lost[0]["entrypoint"]], timeout=60, check=True)
    ray.away = False
    assert runner.poll().phase is Phase.RUNNING
    ray.jobs["job-1-1-1"] = {"status": "SUCCEEDED"}
    assert runner.poll() == Status(Phase.ENDED, 0)
    assert (tmp_path / "package" / "it-ran").exists()


@pytest.mark.usefixtures("impatient")
def test_a_proxys_word_is_no_answer_of_rays(ray: SmallRay, tmp_path: Path) -> None:
    """It gave up waiting, and Ray may have the job."""
    ray.submits_refused, ray.refusal = 1, (504, "Gateway Timeout")
    runner = RayClusterRunner(RayClusterSettings(ray.url, TOKEN))
    runner.start(attempt(tmp_path, work(engine="ray"), PROGRAM))
    ray.jobs["job-1-1-1"] = {"status": "RUNNING"}
    assert runner.poll().phase is Phase.RUNNING


@pytest.mark.usefixtures("impatient")
def test_a_cluster_that_is_not_there_takes_nothing(tmp_path: Path) -> None:
    """Nothing was sent, so nothing can run: its job need not wait for Ray's word."""
    port = free_ports(("one",))["one"]
    runner = RayClusterRunner(RayClusterSettings(f"http://127.0.0.1:{port}", TOKEN))
    with pytest.raises(FederationError) as caught:
        runner.start(attempt(tmp_path, work(engine="ray"), PROGRAM))
    assert caught.value.code is Code.ENGINE_UNAVAILABLE


@pytest.mark.parametrize("why", ["asked", "deadline"])
def test_a_submission_that_is_tried_again_and_again_hears_that_it_is_to_end(
    ray: SmallRay, tmp_path: Path, why: str
) -> None:
    """It would go on for two minutes."""
    ray.submits_refused = 1_000_000
    runner = RayClusterRunner(RayClusterSettings(ray.url, TOKEN))
    made = attempt(tmp_path, work(engine="ray"), PROGRAM)
    if why == "asked":
        runner.stop(0)  # before it began: that is not forgotten
    else:
        made = replace(made, deadline_ms=1)
    with pytest.raises(FederationError):
        runner.start(made)
    assert ray.submits_refused == 999_999


@pytest.mark.parametrize(("address", "token"), [("ray-head:8265", "t"), ("http://ray-head:8265", "")])
def test_a_cluster_without_an_address_or_a_token_is_refused(address: str, token: str) -> None:
    """An open Jobs API is everybody's shell."""
    with pytest.raises(FederationError) as caught:
        RayClusterSettings(address, token)
    assert caught.value.code is Code.CONFIGURATION_INVALID


def test_workers_get_the_jobs_variables_and_not_the_machines(tmp_path: Path) -> None:
    """Ray's workers do not inherit from the driver: what is the job's goes into its runtime environment."""
    made = attempt(tmp_path, work(engine="ray", variables={"COLOUR": "red"}, secret_variables={"KEY": "s"}), PROGRAM)
    environment = runtime_env_of(made)
    variables = environment["env_vars"]
    assert isinstance(variables, dict)
    assert (variables["COLOUR"], variables["KEY"], variables["BRHUB_JOB_ID"]) == ("red", "s", "job-1")
    assert not {"PATH", "HOME"} & set(variables)
    assert "py_executable" not in environment  # it runs in the hub's own Python


def test_a_head_is_of_one_person_and_as_large_as_the_lease(tmp_path: Path) -> None:
    """Whole CPUs of all tasks; another person's head never has the same shape."""
    wanted = work(engine="ray", cpu_milli=1_500, replicas=2)
    amina = shape_of(attempt(tmp_path / "a", wanted, PROGRAM, subject="amina"))
    bruno = shape_of(attempt(tmp_path / "b", wanted, PROGRAM, subject="bruno"))
    assert (amina.cpus, amina.gpus, amina.devices) == (3, 0, "")
    assert amina != bruno


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    """Before a head is started for nothing."""
    with pytest.raises(FederationError, match=r"holds no Python program 'train\.py'"):
        driver_words(attempt(tmp_path, work(engine="ray", entrypoint="train.py"), PROGRAM))


def test_ports_of_a_head_are_all_different() -> None:
    """They are held open together while they are chosen."""
    ports = free_ports(tuple("abcdefghij"))
    assert len(set(ports.values())) == 10


def test_heads_of_an_agent_that_died_with_them_are_cleared_away(tmp_path: Path) -> None:
    """A record whose process is gone, or that is torn, leaves nothing behind."""
    sockets = tmp_path / "sockets"
    sockets.mkdir()
    dead, torn = tmp_path / "heads" / "dead", tmp_path / "heads" / "torn"
    dead.mkdir(parents=True)
    torn.mkdir()
    shape = {"issuer": "cairo", "subject": "amina", "cpus": 1, "gpus": 0, "devices": ""}
    said = {"shape": shape, "token": "t", "url": "http://127.0.0.2:1", "sockets": str(sockets), "ports": {}}
    (dead / "head.json").write_text(json.dumps(said), encoding="utf-8")
    guard.write_json(str(dead / "exit.json"), {"exit_code": 0, "cause": "exited"})
    (torn / "head.json").write_text("{", encoding="utf-8")
    RayHeads(tmp_path / "heads")
    assert list((tmp_path / "heads").iterdir()) == []
    assert not sockets.exists()


def test_a_record_that_cannot_be_read_now_is_left_for_the_next_start(tmp_path: Path) -> None:
    """Its head may live, and nobody would ever end it."""
    record = tmp_path / "heads" / "busy" / "head.json"
    record.mkdir(parents=True)  # no file: to read it is an error of the system, not of what was written
    RayHeads(tmp_path / "heads")
    assert record.exists()


def test_the_driver_runs_under_guard_in_rays_environment(tmp_path: Path) -> None:
    """Ray's entrypoint completes the guard's spec by RAY_* and becomes the guard: log, exit status, secrets removed."""
    log = tmp_path / "attempt.log"
    words = [
        sys.executable,
        "-c",
        "import os; print(os.environ['RAY_ADDRESS'], os.environ['COLOUR']); raise SystemExit(4)",
    ]
    spec: guard.Json = {
        "folder": str(tmp_path), "argv": words, "cwd": str(tmp_path), "env": {"COLOUR": "red"}, "log": str(log),
        "grace_ms": 1000, "memory_bytes_max": 0, "log_bytes_max": 0,
    }  # fmt: skip
    guard.write_json(str(tmp_path / "guard-spec.json"), spec)
    entrypoint = [sys.executable, "-I", "-S", ray_driver.__file__, str(tmp_path)]
    subprocess.run(entrypoint, env={**os.environ, "RAY_ADDRESS": "10.0.0.1:6379"}, check=True, timeout=60)
    said = eventually(lambda: guard.read_json(str(tmp_path / "exit.json")), 30)
    assert (said["exit_code"], said["cause"]) == (4, "exited")
    assert log.read_text(encoding="utf-8") == "10.0.0.1:6379 red\n"
    assert not (tmp_path / "guard-spec.json").exists()
    subprocess.run(entrypoint, check=True, timeout=60)  # a second start finds the attempt taken
    assert log.read_text(encoding="utf-8").count("\n") == 1


class OneHead:
    """The heads of an agent that has one, which is always there."""

    name = "the-head"

    def __init__(self, url: str, comes: Callable[[], object] = bool) -> None:
        self.api = RayApi(url, TOKEN)
        self.comes = comes

    def acquire(self, *_asked: object) -> OneHead:
        """It, for whoever asks."""
        return self

    def live_until(self, _moment_ms: int) -> None:
        """What happens between a submission and its answer."""
        self.comes()

    def release(self, _name: str, _user: str) -> None:
        """It stays."""

    def find(self, name: str) -> OneHead | None:
        """It, by its name."""
        return self if name == "the-head" else None

    def claim(self, name: str, _user: str) -> OneHead | None:
        """The same."""
        return self.find(name)


def test_head_that_cannot_be_looked_up_is_not_gone(tmp_path: Path, ray: SmallRay) -> None:
    """An agent that takes up a job and can open nothing for a moment ends nothing; then it asks, and stops, the job's head."""
    ray.jobs["job-1-1-1"] = {"status": "RUNNING"}
    guard.write_json(str(tmp_path / "ray.json"), {"head": "the-head"})
    heads: Any = OneHead(ray.url)
    one = RayRunner(heads)
    with no_descriptor():
        one.load_state(json.dumps({"folder": str(tmp_path), "job": ["job-1", "1-1"]}))
        assert one.poll() == Status(Phase.UNKNOWN)
        one.stop(0)
    assert one.poll() == Status(Phase.RUNNING)
    one.stop(0)
    assert ray.stopped == ["job-1-1-1"]


@pytest.mark.parametrize("came", [True, False])
def test_a_submission_that_a_head_did_not_answer_is_over_only_where_it_cannot_begin(
    tmp_path: Path, ray: SmallRay, monkeypatch: pytest.MonkeyPatch, came: bool
) -> None:
    """Where its driver has come the run goes on; where it has not, one that comes late does not begin."""
    monkeypatch.setattr(ray_runner, "SUBMIT_S_MAX", 0.0)
    ray.goes_away_before = True
    heads: Any = OneHead(ray.url, lambda: came and guard.claim(str(tmp_path), os.getpid()))
    runner = RayRunner(heads)
    made = attempt(tmp_path, work(engine="ray"), {"main.py": "open('it-ran', 'w').close()"})
    if came:
        runner.start(made)
        assert runner.poll() == Status(Phase.RUNNING)
        return
    with pytest.raises(FederationError):
        runner.start(made)
    subprocess.run(ray.submits_lost[0]["entrypoint"], shell=True, timeout=60, check=False)
    assert guard.read_json(str(tmp_path / "guard.json"))["pid"] == 0
    assert not (tmp_path / "package" / "it-ran").exists()
