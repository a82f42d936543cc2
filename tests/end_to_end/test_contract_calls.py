"""The calls that people and scripts make, as they are published: names, shapes and exit statuses, from outside."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from federation.cli.show import state_of
from federation.client import AsyncClient, Client
from tests.support.embedded_federation import (
    PATIENCE_S,
    EmbeddedFederation,
    brhub,
    ended,
    environment,
    when,
)
from tests.support.eventually import eventually

pytestmark = pytest.mark.timeout(300)

HUBS = ["cairo", "kuala-lumpur", "shenzhen"]
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
ESCAPE = "\x1b"

JOB_FILE = """\
version: 1
name: delays-by-carrier
project: default
engine: command
entrypoint: delays.py
package: .
arguments: ["--top", "10"]
environment: {variables: {GREETING: salam}}
resources: {replicas: 1, cpus: 1, memory: 256Mi, disk: 1Mi, gpus: 0, gpu_model: ""}
inputs: [{dataset: flights-jfk, version: "", as: flights}]
runtime_limit: 10m
priority: batch
preemptible: false
idempotent: false
on_partition: keep
tracking: false
hubs: {allow: [], deny: [], prefer: []}
"""
DELAYS = """\
import json, os, pathlib, sys
flights = pathlib.Path(os.environ["BRHUB_INPUT_FLIGHTS"], "flights.csv")
with flights.open() as file:
    header = file.readline().split(",")
    rows = sum(1 for _ in file)
told = {name: os.environ.get(name) for name in (
    "BRHUB_JOB_ID", "BRHUB_ATTEMPT", "BRHUB_HUB", "BRHUB_CHECKPOINT_DIR", "BRHUB_GRACE_S", "GREETING")}
print("counted", rows, "rows")
out = pathlib.Path(os.environ["BRHUB_OUTPUT_DIR"])
(out / "deep").mkdir()
(out / "deep" / "told.json").write_text(json.dumps({"rows": rows, "argv": sys.argv[1:], "header": header, **told}))
"""
HELLO = """\
import os, pathlib, sys
print("hello", *sys.argv[1:])
pathlib.Path(os.environ["BRHUB_OUTPUT_DIR"], "out.txt").write_text("done\\n")
"""
WAITER = """\
import os, pathlib, threading
print("waiting", flush=True)
threading.Event().wait(600)
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with a job file and programs."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "job.yaml").write_text(JOB_FILE)
    (folder / "delays.py").write_text(DELAYS)
    (folder / "hello.py").write_text(HELLO)
    (folder / "fails.py").write_text("print('about to fail')\nraise SystemExit(7)\n")
    (folder / "waits.py").write_text(WAITER)
    return folder


@pytest.fixture(scope="module")
def job_id(federation: EmbeddedFederation, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A job that has ended well."""
    folder = tmp_path_factory.mktemp("one-job")
    (folder / "hello.py").write_text(HELLO)
    words = ("--engine", "command", "--cpus", "0.5", "--memory", "128Mi", "--wait", "hello.py", "--", "there")
    said = federation.brhub("-o", "name", "submit", *words, cwd=folder)
    assert said.status == 0, said.err
    return said.out.strip()


# ---- up ---------------------------------------------------------------------------------------------------------------
def test_status_says_what_runs_and_where(federation: EmbeddedFederation, tmp_path: Path) -> None:
    """Exit 0 where a federation runs, 1 where none does; a pid and a log for each process."""
    said = brhub("up", "--dir", federation.folder, "--status", "-o", "json")
    document = said.document
    assert (said.status, document["id"], document["running"]) == (0, str(federation.folder), True)
    assert sorted(entry["id"] for entry in document["processes"]) == [
        "hub-cairo", "hub-kuala-lumpur", "hub-shenzhen", "objects", "serve",
    ]  # fmt: skip
    assert document["hubs"] == ["kuala-lumpur", "cairo", "shenzhen"]
    assert document["server"] == federation.server
    nothing = brhub("up", "--dir", tmp_path, "--status")
    assert (nothing.status, "nothing runs" in nothing.out) == (1, True)


def test_up_again_in_the_same_folder_is_refused(federation: EmbeddedFederation) -> None:
    """What runs goes on."""
    said = brhub("up", "--dir", federation.folder, "--detach", "--hubs", 3)
    assert (said.status, said.error["code"], said.error["fault"]) == (1, "ILLEGAL_TRANSITION", "caller")
    assert federation.online() == set(HUBS)


# ---- submit -----------------------------------------------------------------------------------------------------------
def test_a_job_file_runs_where_its_data_is_and_its_result_is_fetched(
    federation: EmbeddedFederation, package: Path, tmp_path: Path
) -> None:
    """Every key of job.yaml; --wait follows it to 0; the program found what it was promised; `fetch` brings its files."""
    said = federation.brhub("submit", "--wait", "job.yaml", cwd=package)
    assert said.status == 0, said.err
    job_id = said.out.strip()
    assert "SUCCEEDED at cairo" in said.err
    fetched = federation.brhub("job", "fetch", job_id, tmp_path / "result", "-o", "json")
    assert (fetched.status, [item["id"] for item in fetched.items]) == (0, ["deep/told.json"])
    told = yaml.safe_load((tmp_path / "result" / "deep" / "told.json").read_text())
    assert (told["rows"], told["argv"], told["GREETING"]) == (111_279, ["--top", "10"], "salam")
    assert (told["BRHUB_JOB_ID"], told["BRHUB_HUB"]) == (job_id, "cairo")
    assert re.fullmatch(r"\d+-\d+", told["BRHUB_ATTEMPT"])
    assert Path(told["BRHUB_CHECKPOINT_DIR"]).is_absolute()
    assert int(told["BRHUB_GRACE_S"]) >= 1
    assert federation.brhub("job", "logs", job_id).out == "counted 111279 rows\n"


def test_flags_alone_make_a_job(federation: EmbeddedFederation, package: Path) -> None:
    """The other way to submit: a script, its engine, flags, and its arguments after --."""
    said = federation.brhub(
        "submit", "--engine", "command", "--cpus", "0.5", "--memory", "128Mi", "--gpus", "0", "--replicas", "1",
        "--input", "flights-lga", "--hub", "shenzhen", "--runtime-limit", "10m", "--priority", "batch",
        "--wait", "hello.py", "--", "--from", "flags", cwd=package,
    )  # fmt: skip
    assert said.status == 0, said.err
    assert federation.brhub("job", "logs", said.out.strip()).out == "hello --from flags\n"


@pytest.mark.heavy
def test_requirements_are_built_once_per_hub(federation: EmbeddedFederation, client: Client, package: Path) -> None:
    """A program finds the packages that its requirements name; the second job finds the same environment."""
    (package / "requirements.txt").write_text("iniconfig==2.1.0\n")
    (package / "uses.py").write_text("import iniconfig, sys\nprint(sys.prefix)\n")
    flags = ("--engine", "command", "--hub", "cairo", "--requirements", "requirements.txt", "--memory", "128Mi")
    prefixes = []
    for _ in range(2):
        said = federation.brhub("submit", *flags, "--wait", "--timeout", "3m", "uses.py", cwd=package)
        assert said.status == 0, said.err + federation.brhub("job", "logs", said.out.strip()).out
        prefixes.append(b"".join(client.logs(said.out.strip())))
    assert prefixes[0] == prefixes[1]
    assert str(federation.folder / "hubs" / "cairo").encode() in prefixes[0]


def test_a_dry_run_says_where_and_why_and_submits_nothing(federation: EmbeddedFederation, package: Path) -> None:
    """One coded reason for each hub; data decides."""
    before = federation.brhub("-o", "name", "jobs").out
    document = federation.brhub("submit", "--dry-run", "job.yaml", "-o", "json", cwd=package).document
    codes = {reason["hub_id"]: reason["code"] for reason in document["reasons"] if reason["hub_id"]}
    assert sorted(codes) == HUBS
    assert [hub for hub, code in codes.items() if code == "WOULD_RUN"] == ["cairo"]
    assert document["earliest_hub_id"] == "cairo"
    assert MOMENT.fullmatch(document["earliest_start_ms"])
    assert federation.brhub("-o", "name", "jobs").out == before


# ---- shapes -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("noun", ["job", "hub", "node"])
def test_many_things_are_one_document_with_items(federation: EmbeddedFederation, job_id: str, noun: str) -> None:
    """`-o json` and `-o yaml` say the same; each item has an id; `-o name` prints the ids; a table is for people."""
    said = federation.brhub(noun, "list", "-o", "json")
    assert (said.status, bool(said.items)) == (0, True)
    ids = [item["id"] for item in said.items]
    assert all(isinstance(each, str) and each for each in ids)
    assert federation.brhub(f"{noun}s", "-o", "name").out.splitlines() == ids  # the shortcut is the same call
    as_yaml = yaml.safe_load(federation.brhub("--output", "yaml", noun, "list").out)
    assert [item["id"] for item in as_yaml["items"]] == ids
    table = federation.brhub(noun, "list", "-o", "wide").out
    assert all(each in table for each in ids)


def test_one_thing_is_an_object_and_its_times_are_rfc_3339(federation: EmbeddedFederation, job_id: str) -> None:
    """Field names as on the wire, enums in short, moments as text, moments that never were null."""
    for words in (("job", "show", job_id), ("job", "explain", job_id), ("hub", "show", "cairo"), ("top",)):
        said = federation.brhub(*words, "-o", "json")
        assert (said.status, bool(said.document["id"])) == (0, True)
    job = federation.brhub("job", "show", job_id, "-o", "json").document
    assert yaml.safe_load(federation.brhub("job", "show", job_id, "-o", "yaml").out) == job
    assert federation.brhub("-o", "name", "job", "show", job_id).out == f"{job_id}\n"
    assert (job["id"], job["state"], job["attempts"], job["exit_code"]) == (job_id, "SUCCEEDED", 1, 0)
    assert all(MOMENT.fullmatch(job[key]) for key in ("created_ms", "state_since_ms", "started_ms", "ended_ms"))
    assert job["created_ms"] <= job["started_ms"] <= job["ended_ms"]
    hub = federation.brhub("hub", "show", "cairo", "-o", "json").document
    assert (hub["link"], hub["state"], [one["id"] for one in hub["datasets"]]) == ("ONLINE", "ACTIVE", ["flights-jfk"])
    assert MOMENT.fullmatch(hub["agents"][0]["last_sync_ms"])


def test_colours_are_for_terminals_that_want_them(federation: EmbeddedFederation, job_id: str) -> None:
    """None in a pipe; none on a terminal with NO_COLOR."""
    assert ESCAPE not in federation.brhub("jobs").out
    shown = on_a_terminal(federation, "jobs", NO_COLOR="1")
    assert job_id[:12] in shown
    assert not re.search(r"\x1b\[(\d+;)*(3|4|9|10)[0-79](;\d+)*m", shown)  # bold is no colour


def on_a_terminal(federation: EmbeddedFederation, *words: str, **variables: str) -> str:
    """What `brhub WORDS` shows on a terminal of its own."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "federation.cli", *words]
    env = environment(federation.folder, {"TERM": "xterm-256color", "COLUMNS": "200", **variables})
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True)
    os.close(theirs)
    shown = b""
    try:
        while select.select([ours], [], [], PATIENCE_S)[0]:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the other side is closed
                break
            if not piece:
                break
            shown += piece
        assert process.wait(PATIENCE_S) == 0
    finally:
        os.close(ours)
        process.kill()
    return shown.decode()


# ---- jobs -------------------------------------------------------------------------------------------------------------
def test_a_log_is_followed_from_an_offset_and_ends_with_its_job(federation: EmbeddedFederation, package: Path) -> None:
    """`logs -f` before the job runs waits for it; `--from` leaves out what was read."""
    (package / "slow.py").write_text(
        "import threading\nfor n in range(3):\n    print('line', n, flush=True)\n    threading.Event().wait(0.5)\n"
    )
    said = federation.brhub("submit", "--engine", "command", "--memory", "128Mi", "slow.py", cwd=package)
    job_id = said.out.strip()
    assert federation.brhub("job", "logs", "-f", job_id).out == "line 0\nline 1\nline 2\n"
    assert federation.brhub("job", "logs", "--from", "7", job_id).out == "line 1\nline 2\n"
    assert federation.brhub("job", "logs", "-f", "--from", "14", job_id).out == "line 2\n"
    assert federation.brhub("job", "show", job_id, "-o", "json").document["state"] == "SUCCEEDED"


def test_cancel_ends_a_job_and_retry_runs_it_again(
    federation: EmbeddedFederation, client: Client, package: Path
) -> None:
    """Cancelling twice is harmless; the retried job is the same job with one attempt more."""
    flags = ("--engine", "command", "--memory", "128Mi", "--hub", "cairo")
    job_id = federation.brhub("submit", *flags, "waits.py", cwd=package).out.strip()
    when(client, job_id, "RUNNING")
    assert federation.brhub("job", "cancel", job_id, "--note", "enough").status == 0
    assert ended(client, job_id, "CANCELLED").attempts == 1
    again = federation.brhub("job", "cancel", job_id, "-o", "json")
    assert (again.status, again.document["state"]) == (0, "CANCELLED")
    assert federation.brhub("job", "retry", job_id).out == f"{job_id} QUEUED\n"
    assert when(client, job_id, "RUNNING").attempts == 2
    assert federation.brhub("job", "retry", job_id).error["code"] == "ILLEGAL_TRANSITION"
    federation.brhub("job", "cancel", job_id)
    ended(client, job_id, "CANCELLED")


def test_explain_has_one_reason_for_each_hub(federation: EmbeddedFederation, package: Path) -> None:
    """A job too big for anyone waits, and each hub says why."""
    words = ("--engine", "command", "--cpus", "640", "hello.py")
    job_id = federation.brhub("submit", *words, cwd=package).out.strip()
    document = federation.brhub("job", "explain", job_id, "-o", "json").document
    codes = {reason["hub_id"]: reason["code"] for reason in document["reasons"] if reason["hub_id"]}
    assert codes == dict.fromkeys(HUBS, "SHAPE_NEVER_FITS")
    assert (document["id"], document["job"]["state"], document["earliest_start_ms"]) == (job_id, "QUEUED", None)
    table = federation.brhub("job", "explain", job_id).out
    assert "nobody can say" in table
    assert all(hub in table for hub in HUBS)
    assert federation.brhub("job", "cancel", job_id).out == f"{job_id} CANCELLED\n"


# ---- hubs -------------------------------------------------------------------------------------------------------------
def test_a_hub_that_drains_starts_nothing_new(federation: EmbeddedFederation, client: Client, package: Path) -> None:
    """A job that may run only there waits with that reason, and runs when the drain is taken back."""
    assert federation.brhub("hub", "drain", "cairo", "--note", "new disks").out == "cairo DRAINING, 0 jobs there\n"
    try:
        words = ("--engine", "command", "--hub", "cairo", "--memory", "128Mi", "hello.py")
        job_id = federation.brhub("submit", *words, cwd=package).out.strip()
        reasons = federation.brhub("job", "explain", job_id, "-o", "json").document["reasons"]
        assert [reason["code"] for reason in reasons if reason["hub_id"] == "cairo"] == ["HUB_DRAINING"]
        assert client.get(job_id).hub_id == ""
    finally:
        undone = federation.brhub("hub", "drain", "cairo", "--undo", "-o", "json").document
    assert undone["state"] == "ACTIVE"
    assert ended(client, job_id).hub_id == "cairo"


def test_top_and_doctor_tell_how_things_are(federation: EmbeddedFederation) -> None:
    """In a pipe `top` is one look; `doctor` names each hop, and finds nothing broken."""
    said = federation.brhub("top")
    assert (said.status, said.out.startswith("3 hubs")) == (0, True)
    findings = federation.brhub("doctor", "-o", "json").items
    assert {finding["id"]: finding["level"] for finding in findings}.items() >= {
        "settings": "ok", "tcp": "ok", "token": "ok", "hubs": "ok",
    }.items()  # fmt: skip


# ---- exit statuses ----------------------------------------------------------------------------------------------------
def test_the_exit_status_says_how_it_went(federation: EmbeddedFederation, package: Path, job_id: str) -> None:
    """0 done, 1 failed over there, 2 wrong usage, 3 not found, 4 refused, 5 cannot reach, 6 timed out."""

    def call(*words: object, **variables: str) -> tuple[int, str]:
        said = federation.brhub(*words, cwd=package, env=variables, timeout_s=240)
        return said.status, said.error["code"] if "code: " in said.err else ""

    command = ("submit", "--engine", "command", "--memory", "128Mi")
    aisha = federation.token("aisha")
    assert call(*command, "--wait", "hello.py") == (0, "")
    assert call(*command, "--wait", "fails.py") == (1, "")
    assert call(*command, "--cpus", "many", "hello.py") == (2, "INVALID_ARGUMENT")
    assert call("job", "lst") == (2, "")
    assert call("job", "show", "job-nowhere") == (3, "JOB_NOT_FOUND")
    assert call("job", "show", job_id, BRHUB_TOKEN=aisha, BRHUB_SERVER=federation.server) == (3, "JOB_NOT_FOUND")
    assert call("hub", "drain", "cairo", BRHUB_TOKEN=aisha, BRHUB_SERVER=federation.server) == (4, "PERMISSION_DENIED")
    assert call("jobs", BRHUB_TOKEN="wrong", BRHUB_SERVER=federation.server) == (4, "UNAUTHENTICATED")
    assert call("--server", "127.0.0.1:9", "jobs") == (5, "UNREACHABLE")
    assert call("jobs", BRHUB_DIR=str(package)) == (5, "UNREACHABLE")
    assert call(*command, "--cpus", "640", "--wait", "--timeout", "1s", "hello.py") == (6, "TIMED_OUT")
    for waiting in federation.brhub("-o", "name", "job", "list", "--state", "QUEUED").out.split():
        assert federation.brhub("job", "cancel", waiting).status == 0


def test_a_failed_job_says_what_its_program_said(federation: EmbeddedFederation, package: Path) -> None:
    """In JSON the job as it ended is the one document, with the program's own exit status."""
    said = federation.brhub(
        "submit", "--engine", "command", "--memory", "128Mi", "--wait", "fails.py", "-o", "json", cwd=package
    )
    job = said.document
    assert (said.status, job["state"], job["exit_code"], job["reason"]["code"]) == (1, "FAILED", 7, "EXIT_STATUS")
    assert federation.brhub("job", "logs", job["id"]).out == "about to fail\n"


def test_a_user_sees_only_their_own(federation: EmbeddedFederation, package: Path, job_id: str, tmp_path: Path) -> None:
    """Another's job is neither shown nor listed nor ended; one's own is."""
    aisha = {"BRHUB_TOKEN": federation.token("aisha"), "BRHUB_SERVER": federation.server}
    for words in (("show", job_id), ("logs", job_id), ("cancel", job_id), ("fetch", job_id, tmp_path / "stolen")):
        said = federation.brhub("job", *words, env=aisha)
        assert (said.status, said.error["code"]) == (3, "JOB_NOT_FOUND")
    own = federation.brhub(
        "submit", "--engine", "command", "--memory", "128Mi", "--wait", "hello.py", cwd=package, env=aisha
    )
    assert own.status == 0, own.err
    for listing in (("jobs",), ("job", "list", "--all")):
        assert federation.brhub("-o", "name", *listing, env=aisha).out.split() == [own.out.strip()]


# ---- Python -----------------------------------------------------------------------------------------------------------
def test_the_client_has_the_verbs(
    federation: EmbeddedFederation, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A spec is the job file as a mapping, or its path; an id is a text; the same request id is the same job."""
    monkeypatch.setenv("BRHUB_DIR", str(federation.folder))
    spec = {
        "engine": "command", "entrypoint": "hello.py", "package": str(package), "resources": {"memory": "128Mi"},
    }  # fmt: skip
    with Client.from_environment() as client:
        first = client.submit(spec, request_id=f"once-{tmp_path.name}")
        assert isinstance(first, str)
        assert client.submit(spec, request_id=f"once-{tmp_path.name}") == first
        second = client.submit(package / "job.yaml")
        third, fourth = client.submit_many([spec, (spec, "another")])
        for job_id in (first, second, str(third), str(fourth)):
            assert state_of(client.wait(job_id, timeout_s=PATIENCE_S)) == "SUCCEEDED"
        assert len({first, second, third, fourth}) == 4
        assert client.get(first).id == first
        assert {job.id for job in client.list(limit=10)} >= {first, second, third, fourth}
        assert b"".join(client.logs(first, follow=True)) == b"hello\n"
        assert client.explain(first).job.id == first
        assert [path.name for path in client.fetch(first, tmp_path / "out")] == ["out.txt"]
        assert state_of(client.cancel(first)) == "SUCCEEDED"


async def test_the_async_client_has_the_same_verbs(
    federation: EmbeddedFederation, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Awaited, they answer the same."""
    monkeypatch.setenv("BRHUB_DIR", str(federation.folder))
    spec = {
        "engine": "command", "entrypoint": "hello.py", "package": str(package), "resources": {"memory": "128Mi"},
    }  # fmt: skip
    async with AsyncClient.from_environment() as client:
        job_id = await client.submit(spec)
        (other,) = await client.submit_many([spec])
        assert state_of(await client.wait(job_id, timeout_s=PATIENCE_S)) == "SUCCEEDED"
        assert state_of(await client.wait(str(other), timeout_s=PATIENCE_S)) == "SUCCEEDED"
        assert (await client.get(job_id)).id == job_id
        assert {job.id for job in await client.list(limit=5)} >= {job_id, other}
        assert b"".join([piece async for piece in client.logs(job_id, follow=True)]) == b"hello\n"
        assert (await client.explain(job_id)).job.id == job_id
        assert [path.read_text() for path in await client.fetch(job_id, tmp_path / "out")] == ["done\n"]
        assert state_of(await client.cancel(job_id)) == "SUCCEEDED"


# ---- down -------------------------------------------------------------------------------------------------------------
def test_down_leaves_no_process_and_up_again_knows_everything(
    federation: EmbeddedFederation, client: Client, package: Path, job_id: str
) -> None:
    """Also while a job runs; its data stays: ended jobs with their logs and results are there after the next `up`."""
    running = client.submit(
        {"engine": "command", "entrypoint": "waits.py", "package": str(package), "resources": {"memory": "128Mi"}}
    )
    when(client, running, "RUNNING")
    said = federation.down()
    assert "the data stays" in said.out
    assert federation.processes() == []
    assert brhub("up", "--dir", federation.folder, "--status").status == 1
    assert federation.brhub("jobs").status == 5
    assert "nothing ran" in federation.down().out
    federation.up()
    assert federation.online() == set(HUBS)
    with federation.client() as after:
        assert state_of(after.get(job_id)) == "SUCCEEDED"
        assert b"".join(after.logs(job_id)) == b"hello there\n"
        assert after.results(job_id).files[0].path == "out.txt"
        interrupted = eventually(lambda: ended_somehow(after, running), PATIENCE_S, "the interrupted job to end")
    assert interrupted in ("FAILED", "CANCELLED")


def ended_somehow(client: Client, job_id: str) -> str:
    """The job's terminal state; empty before."""
    state = state_of(client.get(job_id))
    return state if state in ("SUCCEEDED", "FAILED", "CANCELLED") else ""
