"""The guard ends what it guards, all of it, with or without an agent; real processes, no fakes."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from federation.errors import FederationError
from hub_node import steady
from hub_node.ports import Phase, Status
from hub_node.runners import guard
from hub_node.runners.command import CommandRunner
from hub_node.runners.process import Identity, stat_of
from hub_node.steady import boot_id
from tests.support.descriptors import no_descriptor
from tests.support.eventually import eventually
from tests.unit.hub_node.runs import an_attempt


@pytest.fixture
def runner() -> Iterator[CommandRunner]:
    """A runner whose run is over when the test is."""
    one = CommandRunner()
    yield one
    one.stop(0)


def ended(runner: CommandRunner, timeout_s: float = 20.0) -> Status:
    """The status once it is over."""

    def over() -> Status | None:
        status = runner.poll()
        return status if status.phase is Phase.ENDED else None

    found = eventually(over, timeout_s, "the run's end")
    assert found is not None
    return found


def script(folder: Path, text: str) -> str:
    """A Python program in the package; its name."""
    (folder / "package").mkdir(parents=True, exist_ok=True)
    (folder / "package" / "main.py").write_text(textwrap.dedent(text), encoding="utf-8")
    return "main.py"


def pids_in(file: Path, count: int) -> list[int]:
    """The pids that a program wrote down, once there are so many."""

    def written() -> list[int]:
        words = file.read_text(encoding="utf-8").split() if file.exists() else []
        return [int(word) for word in words] if len(words) == count else []

    return eventually(written)


def gone(pid: int) -> bool:
    """Whether a process is no more; a zombie is not."""
    found = stat_of(pid)
    return found is None or found[0] in "ZX"


FAMILY = """
    import os, signal, subprocess, sys, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 600 & wait"])
    apart = subprocess.Popen(["sleep", "600"], start_new_session=True)
    twice = subprocess.Popen(
        [sys.executable, "-c", "import os,time\\nos.fork() and os._exit(0)\\nos.setsid()\\nos.fork() and os._exit(0)\\n"
         "open('orphan','w').write(str(os.getpid()))\\ntime.sleep(600)"])
    twice.wait()
    while not os.path.exists("orphan") or not open("orphan").read():
        time.sleep(0.01)
    open("pids", "w").write(f"{os.getpid()} {child.pid} {apart.pid} {open('orphan').read()}")
    time.sleep(600)
"""


def test_exit_status_and_log_are_the_programs_own(tmp_path: Path, runner: CommandRunner) -> None:
    """A program's status and its words, from both of its streams, are kept as they were."""
    name = script(tmp_path, "import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)")
    runner.start(an_attempt(tmp_path, name))
    assert ended(runner) == Status(Phase.ENDED, 7)
    assert (tmp_path / "log").read_text() == "out\nerr\n"


def test_deadline_ends_the_whole_family_also_those_who_left_the_group(tmp_path: Path, runner: CommandRunner) -> None:
    """At the runtime limit nothing is left: not a child that ignores SIGTERM, not a grandchild with its own session."""
    runner.start(an_attempt(tmp_path, script(tmp_path, FAMILY), limit_ms=2_500))
    pids = pids_in(tmp_path / "package" / "pids", 4)
    status = ended(runner)
    assert status.code == "RUNTIME_LIMIT"
    eventually(lambda: all(map(gone, pids)), 5)


def test_stop_is_a_request_then_an_order(tmp_path: Path, runner: CommandRunner) -> None:
    """A program that ignores SIGTERM has its grace and no more; one that listens ends with a word of its own."""
    runner.start(an_attempt(tmp_path, script(tmp_path, FAMILY)))
    pids = pids_in(tmp_path / "package" / "pids", 4)
    runner.stop(200)
    assert ended(runner).code == "STOPPED"
    eventually(lambda: all(map(gone, pids)), 5)


def test_program_that_listens_to_sigterm_can_save_its_work(tmp_path: Path, runner: CommandRunner) -> None:
    """SIGTERM comes first, and a program that ends itself in time is not killed."""
    name = script(
        tmp_path,
        """
        import signal, sys, time
        def save(*_):
            open("saved", "w").write("yes")
            sys.exit(0)
        signal.signal(signal.SIGTERM, save)
        open("ready", "w").close()
        time.sleep(600)
        """,
    )
    runner.start(an_attempt(tmp_path, name))
    eventually((tmp_path / "package" / "ready").exists)
    runner.stop(10_000)
    assert ended(runner) == Status(Phase.ENDED, 0, "STOPPED", "It was asked to end.")
    assert (tmp_path / "package" / "saved").read_text() == "yes"


def test_stop_right_after_start_is_heard(tmp_path: Path, runner: CommandRunner) -> None:
    """A stop that comes while the guard's interpreter still starts is not lost and does not kill the guard."""
    (tmp_path / "package").mkdir()
    runner.start(an_attempt(tmp_path, "sleep", "600"))
    runner.stop(100)
    assert ended(runner).code == "STOPPED"


def test_what_a_finished_program_left_behind_ends_too(tmp_path: Path, runner: CommandRunner) -> None:
    """A program that ends well leaves no process behind, and its status stays its own."""
    name = script(
        tmp_path,
        """
        import subprocess
        left = subprocess.Popen(["sleep", "600"], start_new_session=True)
        open("pids", "w").write(str(left.pid))
        """,
    )
    runner.start(an_attempt(tmp_path, name))
    assert ended(runner) == Status(Phase.ENDED, 0)
    assert gone(pids_in(tmp_path / "package" / "pids", 1)[0])


def test_deadline_holds_while_no_agent_lives(tmp_path: Path) -> None:
    """The agent's process is killed; the guard ends the run at its limit, and says so to the next agent."""
    script(tmp_path, "import time; time.sleep(600)")
    starter = textwrap.dedent(
        f"""
        import pathlib
        from hub_node.runners.command import CommandRunner
        from tests.unit.hub_node.runs import an_attempt
        runner = CommandRunner()
        runner.start(an_attempt(pathlib.Path({str(tmp_path)!r}), "main.py", limit_ms=1500))
        print(runner.save_state(), flush=True)
        input()
        """
    )
    agent = subprocess.Popen(
        [sys.executable, "-c", starter], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    with agent:
        assert agent.stdout is not None
        state = agent.stdout.readline()
        agent.kill()
    after = CommandRunner()
    after.load_state(state)
    assert after.poll().phase is Phase.RUNNING
    assert ended(after).code == "RUNTIME_LIMIT"


def test_renewed_lease_moves_the_guards_deadline(tmp_path: Path, runner: CommandRunner) -> None:
    """A short lease that is renewed in time does not end the run; one that is not ends it with LEASE_RAN_OUT."""
    name = script(tmp_path, "import time; time.sleep(600)")
    attempt = an_attempt(tmp_path, name)
    now_ms = time.time_ns() // 1_000_000
    lease = replace(attempt.run.lease, valid_until_ms=now_ms + 1_500)
    runner.start(replace(attempt, run=replace(attempt.run, lease=lease)))
    runner.extend(0, now_ms + 3_000)
    status = ended(runner)
    assert status.code == "LEASE_RAN_OUT"
    said = json.loads((tmp_path / "exit.json").read_text())
    assert said["ended_wall_ms"] >= now_ms + 2_900


def test_runtime_limit_never_moves_on(tmp_path: Path, runner: CommandRunner) -> None:
    """An agent that restarted may believe that the run began later: the guard keeps what it was told first."""
    name = script(tmp_path, "import time; time.sleep(600)")
    now_ms = time.time_ns() // 1_000_000
    runner.start(replace(an_attempt(tmp_path, name), deadline_ms=now_ms + 1_500))
    runner.extend(now_ms + 600_000, now_ms + 600_000)
    assert ended(runner).code == "RUNTIME_LIMIT"


def test_program_that_eats_far_more_memory_than_leased_is_ended(tmp_path: Path, runner: CommandRunner) -> None:
    """Past one and a half times its memory and the slack a run ends as OUT_OF_MEMORY, not the whole machine."""
    name = script(tmp_path, "import time; held = bytearray(700 * 1024**2); time.sleep(600)")
    runner.start(an_attempt(tmp_path, name, memory_bytes=1024**2))
    assert ended(runner, 30).code == "OUT_OF_MEMORY"


def test_missing_program_is_an_end_with_words(tmp_path: Path, runner: CommandRunner) -> None:
    """What the system cannot start ends as FAILED_TO_START and names the program."""
    (tmp_path / "package").mkdir()
    broken = tmp_path / "package" / "tool"
    broken.write_text("#!/no/such/interpreter\n", encoding="utf-8")
    broken.chmod(0o755)
    runner.start(an_attempt(tmp_path, "tool"))
    status = ended(runner)
    assert (status.code, status.exit_code) == ("FAILED_TO_START", 127)
    assert "tool" in status.message


def test_starting_the_same_attempt_twice_runs_it_once(tmp_path: Path, runner: CommandRunner) -> None:
    """An agent that forgot that it had started a run, and starts it again, finds the first."""
    name = script(tmp_path, "import time; open('starts', 'a').write('x'); time.sleep(600)")
    attempt = an_attempt(tmp_path, name)
    runner.start(attempt)
    second = CommandRunner()
    second.start(attempt)  # perhaps before the first guard has said a word
    eventually((tmp_path / "package" / "starts").exists)
    second.stop(100)
    assert ended(second).code == "STOPPED"
    assert ended(runner).code == "STOPPED"
    assert (tmp_path / "package" / "starts").read_text() == "x"


def test_killed_guard_is_noticed_and_its_program_ended(tmp_path: Path, runner: CommandRunner) -> None:
    """Somebody kills the guard itself: the program and what left its session end, and the run says GUARD_LOST."""
    runner.start(an_attempt(tmp_path, script(tmp_path, FAMILY)))
    pids = pids_in(tmp_path / "package" / "pids", 4)
    pid = json.loads((tmp_path / "guard.json").read_text())["pid"]
    os.kill(pid, signal.SIGKILL)
    assert ended(runner).code == "GUARD_LOST"
    eventually(lambda: all(map(gone, pids)), 5)


def test_reused_pid_is_not_mistaken_for_the_guard() -> None:
    """A process of the same number, started at another time or in another boot, is somebody else."""
    found = stat_of(os.getpid())
    assert found is not None
    assert Identity(os.getpid(), found[1], boot_id()).alive()
    assert not Identity(os.getpid(), found[1] + 1, boot_id()).alive()
    assert not Identity(os.getpid(), found[1], "another-boot").alive()


def test_run_of_another_boot_says_rebooted(tmp_path: Path, runner: CommandRunner) -> None:
    """A machine that restarted has ended its runs: said as REBOOTED, not as a loss of the guard."""
    mine = {"pid": os.getpid(), "start_ticks": 1, "boot_id": "another-boot"}
    (tmp_path / "guard.json").write_text(json.dumps(mine), encoding="utf-8")
    runner.load_state(json.dumps({"folder": str(tmp_path), "job": ["job-1", "1-1"]}))
    assert runner.poll().code == "REBOOTED"


def test_secrets_do_not_stay_on_the_disk(tmp_path: Path, runner: CommandRunner) -> None:
    """The guard's spec holds the environment with its secrets: it is removed as soon as it was read."""
    name = script(tmp_path, "import os; print(os.environ['PASSWORD'])")
    attempt = an_attempt(tmp_path, name)
    runner.start(replace(attempt, variables={**attempt.variables, "PASSWORD": "tell-nobody"}))
    ended(runner)
    kept = {file.name for file in tmp_path.iterdir() if file.is_file() and "tell-nobody" in file.read_text()}
    assert kept == {"log"}, "only where the program itself said it"


def test_command_runs_scripts_programs_and_names(tmp_path: Path) -> None:
    """A .py file, a .sh file without a mode, an executable, a bare name on the PATH: each starts as one would expect."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "hi.sh").write_text("echo sh\n", encoding="utf-8")
    (package / "hi").write_text("#!/bin/sh\necho program\n", encoding="utf-8")
    (package / "hi").chmod(0o755)
    (package / "hi.py").write_text("print('python')\n", encoding="utf-8")
    said = []
    for entrypoint, arguments in (("hi.sh", ()), ("hi", ()), ("hi.py", ()), ("echo", ("name",))):
        folder = tmp_path / f"attempt-{entrypoint}"
        one = CommandRunner()
        one.start(replace(an_attempt(folder, entrypoint, *arguments), package=package))
        assert ended(one).exit_code == 0
        said.append((folder / "log").read_text().strip())
    assert said == ["sh", "program", "python", "name"]


@pytest.mark.parametrize("entrypoint", ["data.csv", "no-such-program-anywhere", "no/such/file.py"])
def test_command_refuses_what_is_no_program(tmp_path: Path, runner: CommandRunner, entrypoint: str) -> None:
    """A file that is no program, and a program that is not there, are the caller's to change, and said before a start."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "data.csv").write_text("1,2\n", encoding="utf-8")
    with pytest.raises(FederationError) as caught:
        runner.start(an_attempt(tmp_path, entrypoint))
    assert caught.value.metadata["entrypoint"] == entrypoint
    assert not (tmp_path / "guard-spec.json").exists()


def test_a_long_grace_is_no_right_to_run_past_a_deadline(tmp_path: Path, runner: CommandRunner) -> None:
    """Told to end within ten minutes shortly before its lease is over: it has the guard's own grace after that, no more."""
    name = script(
        tmp_path,
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)",
    )
    attempt = an_attempt(tmp_path, name)
    now_ms = time.time_ns() // 1_000_000
    lease = replace(attempt.run.lease, valid_until_ms=now_ms + 3_000)
    runner.start(replace(attempt, run=replace(attempt.run, lease=lease), grace_ms=500))
    log = tmp_path / "log"
    eventually(lambda: log.exists() and log.read_text() != "", 10)
    runner.stop(600_000)
    ended(runner, 20)
    said = json.loads((tmp_path / "exit.json").read_text())
    assert now_ms + 2_900 <= said["ended_wall_ms"] <= now_ms + 12_000


def test_guard_waits_for_room_for_its_last_word(tmp_path: Path, runner: CommandRunner) -> None:
    """On a full disk it cannot even complain; once there is room it says how the program ended."""
    attempt = an_attempt(tmp_path, script(tmp_path, "open('ended', 'w').write('1')"))
    (attempt.folder / "guard.err").symlink_to("/dev/full")
    (attempt.folder / "exit.json.partial").mkdir()
    runner.start(attempt)
    eventually((attempt.package / "ended").exists)
    until_s = time.monotonic() + 1.5
    eventually(lambda: time.monotonic() > until_s, 5)
    assert runner.poll().phase is Phase.RUNNING
    (attempt.folder / "exit.json.partial").rmdir()
    assert ended(runner) == Status(Phase.ENDED, 0)


@pytest.fixture
def careless_parent() -> Iterator[None]:
    """What starts the guard ignores its children and hang-ups, as `trap '' CHLD HUP` does."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGCHLD, signal.SIGHUP)}
    yield
    for number, action in before.items():
        signal.signal(number, action)


@pytest.mark.usefixtures("careless_parent")
def test_status_is_known_though_a_parent_ignored_its_children(tmp_path: Path, runner: CommandRunner) -> None:
    """An ignored SIGCHLD comes down through exec: a program that fails has failed, and itself ignores nothing."""
    text = "sed -n 's/^SigIgn:[[:space:]]*//p' /proc/self/status; exit 3"
    runner.start(an_attempt(tmp_path, "sh", "-c", text))
    assert ended(runner) == Status(Phase.ENDED, 3)
    the_c_librarys_own = 0b11 << 31
    assert int((tmp_path / "log").read_text(), 16) & ~the_c_librarys_own == 0


def test_end_that_nobody_saw_is_no_success(tmp_path: Path, runner: CommandRunner) -> None:
    """A guard whose child is gone without a status says GUARD_LOST."""
    spec = {"folder": str(tmp_path), "log": str(tmp_path / "log")}
    text = f"from hub_node.runners import guard; one = guard.Guard({spec!r}); one.child = 2**30; one.run()"
    subprocess.run([sys.executable, "-c", text], check=True, timeout=20)
    runner.load_state(json.dumps({"folder": str(tmp_path), "job": ["job-1", "1-1"]}))
    status = runner.poll()
    assert (status.phase, status.code, status.exit_code) == (Phase.ENDED, "GUARD_LOST", 137)


def test_what_cannot_be_looked_at_is_unknown(tmp_path: Path, runner: CommandRunner) -> None:
    """An agent without a descriptor left ends no run, neither one that goes on nor one that ended well meanwhile."""
    runner.start(an_attempt(tmp_path, "sh", "-c", "until test -e go; do sleep 0.05; done"))
    eventually((tmp_path / "log").exists)
    with no_descriptor():
        assert runner.poll() == Status(Phase.UNKNOWN)
        runner.stop(0)
    assert runner.poll() == Status(Phase.RUNNING)
    (tmp_path / "package" / "go").touch()
    eventually((tmp_path / "exit.json").exists)
    with no_descriptor():
        assert runner.poll() == Status(Phase.UNKNOWN)
    assert ended(runner) == Status(Phase.ENDED, 0)


def test_start_is_not_taken_back_by_what_fails_after_it(
    tmp_path: Path, runner: CommandRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last descriptor goes the moment the guard was started: the run is begun, and is found."""
    steady.boot_id.cache_clear()
    spawn, none_left = os.posix_spawn, no_descriptor()

    def then_none_left(*words: object, **how: object) -> int:
        pid = spawn(*words, **how)  # type: ignore[arg-type]  # whatever it is called with
        none_left.__enter__()
        return pid

    attempt = an_attempt(tmp_path, "sleep", "600")
    monkeypatch.setattr(os, "posix_spawn", then_none_left)
    try:
        runner.start(attempt)
        assert runner.poll() == Status(Phase.UNKNOWN)
    finally:
        none_left.__exit__(None, None, None)
    assert runner.poll() == Status(Phase.RUNNING)
    eventually((tmp_path / "guard.json").exists)
    runner.stop(100)
    assert ended(runner).code == "STOPPED"


def test_begun_or_not_is_asked_until_it_is_known(
    tmp_path: Path, runner: CommandRunner, caplog: pytest.LogCaptureFixture
) -> None:
    """An agent that takes up a run and has no descriptor for looking waits with its answer."""
    attempt = an_attempt(tmp_path, "sleep", "600")
    runner.start(attempt)
    eventually((tmp_path / "guard.json").exists)
    after, said = CommandRunner(), list[bool]()
    asking = threading.Thread(target=lambda: said.append(after.take_up(attempt.run, tmp_path)))
    with caplog.at_level(logging.WARNING), no_descriptor():
        asking.start()
        eventually(lambda: "nobody can say whether job job-1 was begun" in caplog.text)
        assert said == []
    asking.join(10)
    assert said == [True]


def test_session_of_a_reused_number_is_left_alone(tmp_path: Path, runner: CommandRunner) -> None:
    """The lost guard's number leads another's session by now: nothing of that is ended."""
    with subprocess.Popen("cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as stranger:
        found = stat_of(stranger.pid)
        assert found is not None
        lost = [stranger.pid, found[1] - 1, boot_id()]
        runner.load_state(json.dumps({"folder": str(tmp_path), "job": ["job-9", "1-1"], "guard": lost}))
        assert runner.poll().code == "GUARD_LOST"
        assert stranger.communicate(b"here", 20)[0] == b"here"


def test_deadline_that_could_not_be_read_is_read_again(tmp_path: Path) -> None:
    """A guard whose machine has no descriptor for it knows its deadline a look later."""
    one = guard.Guard({"folder": str(tmp_path), "log": str(tmp_path / "log")})
    guard.write_json(one.path("deadline.json"), {"runtime_boot_ms": 5, "lease_boot_ms": 0})
    with no_descriptor():
        one.read_deadline()
    one.read_deadline()
    assert one.next_due_ms() == 5


def test_deadline_holds_while_the_disk_hangs(tmp_path: Path, runner: CommandRunner) -> None:
    """A guard that is caught in a read that never returns ends its run all the same, and says why when it can."""
    runner.start(an_attempt(tmp_path, script(tmp_path, FAMILY)))
    pids = pids_in(tmp_path / "package" / "pids", 4)
    os.mkfifo(tmp_path / "hangs")
    os.utime(
        tmp_path / "hangs", (0, 0)
    )  # what is written below changes that, so it is read again, and there is no more
    (tmp_path / "hangs").rename(tmp_path / "deadline.json")
    with (tmp_path / "deadline.json").open("w") as told:
        json.dump({"runtime_boot_ms": guard.boot_ms() + 200, "lease_boot_ms": 0}, told)
    eventually(lambda: all(map(gone, pids)), 20)
    assert runner.poll().phase is Phase.RUNNING
    os.close(os.open(tmp_path / "deadline.json", os.O_WRONLY | os.O_NONBLOCK))
    assert ended(runner).code == "RUNTIME_LIMIT"


def test_claim_is_on_the_disk_before_anything_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder that holds guard.json is synced with it: after a power cut nobody thinks that the run had not begun."""
    synced, sync = list[tuple[bool, bool]](), os.fsync

    def noted(descriptor: int) -> None:
        whole_folder = os.fstat(descriptor).st_ino == tmp_path.stat().st_ino
        synced.append((whole_folder, (tmp_path / "guard.json").exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    assert guard.claim(str(tmp_path), os.getpid())
    assert synced[-1] == (True, True)


def test_agent_opens_what_it_may_and_its_programs_what_they_always_could(tmp_path: Path) -> None:
    """An agent begun with 256 open files has more; its program has 256."""
    (tmp_path / "package").mkdir()
    agent = f"""
        import pathlib, resource
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        from hub_node.runners import process
        from hub_node.runners.command import CommandRunner
        from tests.support.eventually import eventually
        from tests.unit.hub_node.runs import an_attempt
        process.raise_open_files()
        runner = CommandRunner()
        runner.start(an_attempt(pathlib.Path({str(tmp_path)!r}), "sh", "-c", "ulimit -Sn"))
        eventually(lambda: runner.poll().phase.value == "ENDED")
        print(resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(hard, process.OPEN_FILES_MAX) > 256)
    """
    said = subprocess.run([sys.executable, "-c", textwrap.dedent(agent)], check=True, capture_output=True, text=True)
    assert said.stdout == "True\n"
    assert (tmp_path / "log").read_text() == "256\n"
