"""What `brhub` says when something is wrong, waits or has ended: in words, short, with what to do next."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from federation.client import Patience, transport
from federation.errors import Code, Fault, FederationError
from federation.v1 import common_pb2, job_pb2
from tests.support.eventually import eventually
from tests.unit.cli.conftest import Brhub
from tests.unit.client.small_federation import SmallFederation


def test_a_place_that_cannot_be_written_is_named_without_a_traceback(
    brhub: Brhub, small: SmallFederation, tmp_path: Path
) -> None:
    """A file where a folder is wanted, or a folder that nobody may make, is the caller's to change."""
    small.add_job("job-1", "SUCCEEDED", attempt="1-1")
    small.results["job-1"] = {"table.csv": b"a,b\n"}
    taken = tmp_path / "my_job.py"
    taken.write_text("print(1)\n")
    said = brhub("job", "fetch", "job-1", taken)
    assert (said.status, said.out) == (2, "")
    assert f"error: {str(taken)!r} is a file, not a folder\n" in said.err
    assert "fault: caller; do: Name a folder that may be created.\n" in said.err
    said = brhub("job", "fetch", "job-1", "/proc/nope")
    assert (said.status, said.out) == (2, "")
    assert "cannot be written" in said.err
    assert "Traceback" not in said.err


def test_wrong_usage_names_the_help_of_the_command(brhub: Brhub) -> None:
    """And says nothing of the library that found it."""
    assert "do: see `brhub submit --help`" in brhub("submit").err
    assert "do: see `brhub job fetch --help`" in brhub("job", "fetch").err
    assert "Value error" not in brhub("-o", "yml", "jobs").err


def test_no_line_of_a_table_ends_in_blanks_in_a_pipe(brhub: Brhub, small: SmallFederation) -> None:
    """So that a diff of two looks shows what has changed."""
    small.add_job("job-1", "RUNNING")
    for words in (["jobs"], ["hubs"], ["nodes"], ["job", "show", "job-1"], ["hub", "show", "cairo"]):
        out = brhub(*words).out
        assert out.endswith("\n")
        assert [line for line in out.splitlines() if line != line.rstrip()] == []


def test_what_a_job_would_go_on_from_is_shown(brhub: Brhub, small: SmallFederation) -> None:
    """Its newest checkpoint: which, how old, how large; no such line where none is known."""
    small.add_job("job-1", "RUNNING")
    assert "checkpoint" not in brhub("job", "show", "job-1").out
    saved_ms = time.time_ns() // 1_000_000 - 125_000
    saved = job_pb2.SavedCheckpoint(checkpoint_id="1-1/12", saved_ms=saved_ms, size_bytes=3 << 20, files=2)
    small.jobs["job-1"].checkpoint.CopyFrom(saved)
    assert re.search(r"^checkpoint +1-1/12, saved 2m\d\ds ago, 3Mi$", brhub("job", "show", "job-1").out, re.MULTILINE)
    assert brhub("-o", "json", "job", "show", "job-1").document["checkpoint"]["checkpoint_id"] == "1-1/12"


def _when_submitted(small: SmallFederation, then: Callable[[], None]) -> threading.Thread:
    def live() -> None:
        with small.lock:
            small.lock.wait_for(lambda: "job-1" in small.jobs, 10)
        then()

    thread = threading.Thread(target=live)
    thread.start()
    return thread


def test_wait_shows_the_end_of_the_log_of_a_job_that_fails(brhub: Brhub, small: SmallFederation) -> None:
    """Ten lines at most, harmless to a terminal, then where the rest is; the exit status is said once."""
    small.logs["job-1", "1-1"] = b"".join(b"line %d\n" % n for n in range(30)) + b"\x1b[31mlast"
    small.complete.add(("job-1", "1-1"))
    reason = common_pb2.Reason(code="EXIT_STATUS", message="It ended with exit status 3.")

    def fails() -> None:
        small.set_state("job-1", "FAILED", attempt="1-1", hub_id="cairo", exit_code=3, reason=reason)

    thread = _when_submitted(small, fails)
    said = brhub("submit", "--engine", "command", "--wait", "true")
    thread.join()
    assert said.status == 1
    assert said.err.splitlines()[-11:] == [
        *(f"  line {n}" for n in range(21, 30)),
        "   [31mlast",
        "do: brhub job logs job-1",
    ]
    assert said.err.count("exit status 3") == 1


def test_wait_says_once_and_soon_why_a_job_waits(brhub: Brhub, small: SmallFederation) -> None:
    """A job that fits nowhere is not waited for in silence."""
    message = "needs 64 cpus on one machine; the largest here offers 2"
    small.reasons = [
        common_pb2.Reason(code="SHAPE_NEVER_FITS", hub_id=hub, message=message) for hub in ("cairo", "shenzhen")
    ]
    said = brhub("submit", "--engine", "command", "--wait", "--timeout", "3s", "true")
    assert said.status == 6
    assert said.err.count(f"QUEUED: fits at no hub ({message}); brhub job explain job-1\n") == 1


def test_ctrl_c_while_waiting_says_that_the_job_goes_on(brhub: Brhub, small: SmallFederation) -> None:
    """With how to look at it and how to end it; 130 as every interrupted program."""

    def interrupt() -> None:
        eventually(lambda: small.streamed >= 1)
        signal.raise_signal(signal.SIGINT)

    # a suite that was started in the background inherits a SIGINT that is ignored; a person at a terminal has this one
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        thread = _when_submitted(small, interrupt)
        said = brhub("submit", "--engine", "command", "--wait", "--timeout", "30s", "true")
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert (said.status, said.out) == (130, "job-1\n")
    assert "It goes on: brhub job show job-1, or end it with brhub job cancel job-1\n" in said.err


def test_the_log_of_a_job_that_waits_again_has_a_heading(brhub: Brhub, small: SmallFederation) -> None:
    """On standard error: what is printed is the log of the attempt that ended, as it was written."""
    small.add_job("job-1", "QUEUED", attempt="1-1")
    small.logs["job-1", "1-1"] = b"made room\n"
    said = brhub("job", "logs", "job-1")
    assert (said.status, said.out) == (0, "made room\n")
    assert said.err == "attempt 1-1, ended; the job waits to run again\n"
    assert brhub("job", "logs", "job-1", "--attempt", "1-1").err == ""


def test_an_ended_job_is_explained_in_one_line(brhub: Brhub, small: SmallFederation) -> None:
    """Why it ended and where its words are; no table of hubs that have nothing to say."""
    small.add_job("job-1", "FAILED").reason.CopyFrom(common_pb2.Reason(code="X", message="It ended."))
    said = brhub("job", "explain", "job-1")
    assert (said.status, said.out) == (0, "job-1 is FAILED: It ended; see brhub job logs job-1\n")


def test_what_ended_is_not_cancelled_again(brhub: Brhub, small: SmallFederation) -> None:
    """It says how it had ended, and that is no error."""
    small.add_job("job-1", "SUCCEEDED")
    assert brhub("job", "cancel", "job-1")[:2] == (0, "job-1 had already SUCCEEDED; nothing to cancel\n")


def test_a_failed_job_has_no_result_but_a_log(brhub: Brhub, small: SmallFederation, tmp_path: Path) -> None:
    """Its state is in the error, and the hint leads to the log."""
    small.add_job("job-1", "FAILED")
    metadata = {"job_id": "job-1", "state": "FAILED"}
    message = "job job-1 is FAILED and has no result"
    small.fail_next(
        "ListResults", FederationError(Code.OBJECT_NOT_FOUND, message, fault=Fault.CALLER, metadata=metadata)
    )
    said = brhub("job", "fetch", "job-1", tmp_path / "out")
    assert (said.status, said.out) == (3, "")
    assert f"error: {message}\nfault: caller; do: See `brhub job logs job-1`.\n" in said.err


def test_mistakes_of_a_job_file_name_the_file_and_what_to_write(
    brhub: Brhub, small: SmallFederation, tmp_path: Path
) -> None:
    """Neither the parser's own name for a text nor a hint that fits everything."""
    file = tmp_path / "job.yaml"
    file.write_text("engine: [\nx: : y\n")
    err = brhub("submit", file).err
    assert f"{str(file)!r} is not YAML: " in err
    assert "line 2" in err
    assert "unicode string" not in err
    file.write_text("engine: command\nentrypoint: 'true'\ninputs: flights-jfk\n")
    assert "do: Write inputs: [{dataset: flights-jfk}]\n" in brhub("submit", file).err


def test_a_server_that_is_silent_is_named_while_it_is_tried(brhub: Brhub, monkeypatch: pytest.MonkeyPatch) -> None:
    """On standard error, once; then the reason in words."""
    monkeypatch.setattr(transport, "SILENCE_S", 0.2)
    monkeypatch.setattr("federation.client.blocking.Patience", lambda: Patience(retry_s=1.0))
    said = brhub("--server", "127.0.0.1:1", "jobs", "-o", "json")
    assert (said.status, said.out) == (5, "")
    assert said.err.count("127.0.0.1:1 does not answer; trying for 1 s more\n") == 1
    assert "error: 127.0.0.1:1 refuses the connection\n" in said.err


def test_a_server_that_answers_is_not_said_to_be_silent(
    brhub: Brhub, small: SmallFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that may go better later is tried again, and what is away is named in the server's words."""
    monkeypatch.setattr(transport, "SILENCE_S", 0.2)
    away = FederationError(Code.STORE_UNAVAILABLE, "The object store is away.", fault=Fault.FEDERATION)
    small.failures["ListJobs"] = [away] * 4
    said = brhub("jobs", "-o", "json")
    assert (said.status, said.err.count("The object store is away; trying for ")) == (0, 1)
    assert "does not answer" not in said.err


def test_what_nobody_foresaw_of_this_machines_files_is_an_error_without_a_traceback(
    brhub: Brhub, small: SmallFederation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a folder that was removed under the one who stands in it."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    said = brhub("doctor")
    assert said.status == 1
    assert "error: [Errno 2] No such file or directory\nfault: caller; do: " in said.err
    assert "Traceback" not in said.err
    assert brhub("jobs").status == 0


def test_folders_are_printed_so_that_they_work_from_elsewhere(
    brhub: Brhub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the default, which is relative to where the command ran."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BRHUB_DIR", raising=False)
    folder = tmp_path / ".brhub"
    assert brhub("up", "--status").out == f"nothing runs in {folder}\n"
    assert brhub("down").out == f"nothing ran in {folder}\n"
    value = {"server": "s", "sign_in": "w", "objects": "o", "hubs": ["cairo"]}
    gone = {"id": "hub-cairo", "log": "/there/hub-cairo.log"}
    running = {"id": str(folder), "running": True, "processes": [], "ended": [gone], **value}
    monkeypatch.setattr("federation.cli.embedded.status", lambda _: running)
    out = brhub("up", "--status").out
    assert f"BRHUB_DIR={folder} finds it" in out
    assert f"brhub down --dir {folder}\n" in out
    assert out.splitlines()[-1].split(maxsplit=1) == [
        "hub-cairo",
        "does not run any more; its log: /there/hub-cairo.log",
    ]


def test_what_waits_without_a_word_is_told_where_the_reasons_are(brhub: Brhub, small: SmallFederation) -> None:
    """In a list, in a look at the queue, and where its log is asked for; never among what was asked for."""
    assert "explain" not in brhub("jobs").err
    small.add_job("job-1", "QUEUED")
    for words in (["jobs"], ["top"]):
        said = brhub(*words)
        assert (said.status, said.err) == (0, "why a job waits: brhub job explain ID\n")
    said = brhub("job", "logs", "job-1")
    assert said.err == "nothing has run yet; why it waits: brhub job explain job-1\n"
