"""Each command of `brhub` against a real server: what it prints, in which form, and its exit status."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest
import yaml

from federation.archive import unpack
from federation.cli.session import now_ms
from federation.errors import Code, Fault, FederationError
from federation.v1 import common_pb2, job_pb2
from tests.support.eventually import eventually
from tests.unit.cli.conftest import Brhub
from tests.unit.client.small_federation import SmallFederation


def test_a_job_that_others_make_room_for_says_so(brhub: Brhub, small: SmallFederation) -> None:
    """A line of its own for people, in lists too; for programs the whole claim, with moments as moments."""
    claim = job_pb2.Claim(hub_id="cairo", agent_id="main", nodes=["n1"], victims=["lease-1", "lease-2"], made_ms=1)
    claim.until_ms, claim.expected_ms = now_ms() + 150_500, now_ms() + 60_500
    small.add_job("job-1", "QUEUED").claim.CopyFrom(claim)
    said = brhub("job", "show", "job-1").out
    assert re.search(
        r"claim +cairo n1: freed for it in (1m00|59)s \(2 guests there ending\), given up in 2m(30|29)s", said
    )
    shown = yaml.safe_load(brhub("-o", "json", "job", "show", "job-1").out)["claim"]
    assert (shown["victims"], shown["made_ms"]) == (["lease-1", "lease-2"], "1970-01-01T00:00:00.001Z")
    assert shown["until_ms"].endswith("Z")
    assert shown["expected_ms"].endswith("Z")
    for words in (["jobs"], ["top"]):
        assert re.search(r"job-1 .* room in (1m00|59)s: machines of cairo are being freed for it\n", brhub(*words).out)
    assert "; machines being freed for 1\n" in brhub("top").out
    assert brhub("top", "-o", "json").document["jobs"][0]["claim"]["hub_id"] == "cairo"
    small.add_job("job-2", "QUEUED")
    assert "claim" not in brhub("job", "show", "job-2").out


def test_a_job_that_is_being_ended_says_so(brhub: Brhub, small: SmallFederation) -> None:
    """Until when and for whom in lists, by itself in its own table, as a mark at its hub, as a moment for programs."""
    reason = common_pb2.Reason(code="PREEMPTED", hub_id="cairo", message="being ended by 14:03:20 UTC so that ...")
    job = small.add_job("job-1", "RUNNING", hub_id="cairo", ends_by_ms=now_ms() + 42_500)
    job.reason.CopyFrom(reason)
    small.add_job("job-2", "CANCELLING", ends_by_ms=now_ms() - 5).reason.message = "not needed"
    small.hubs["cairo"].ending = 1
    for words in (["jobs"], ["top"]):
        said = brhub(*words).out
        assert re.search(r"job-1 .* RUNNING .* ends within 4[12]s: room for cairo's own users\n", said)
        assert re.search(r"job-2 .* ends within moments: not needed\n", said)
    assert "; 1 being ended\n" in brhub("top").out
    assert re.search(r"cairo +ACTIVE .* 1 \(1 ending\)\n", brhub("hubs").out)
    assert re.search(r"ends +within 4[12]s, by \d{4}-\d\d-\d\dT", brhub("job", "show", "job-1").out)
    assert brhub("jobs", "-o", "json").document["items"][0]["ends_by_ms"].endswith("Z")
    assert brhub("top", "-o", "json").document["jobs"][0]["ends_by_ms"].endswith("Z")


def test_where_a_waiting_job_ran_before_is_not_told_as_where_it_is(brhub: Brhub, small: SmallFederation) -> None:
    """The list has no hub for it; its own table says that it ran there."""
    small.add_job("job-1", "QUEUED", hub_id="cairo", attempt="1-1", attempts=1).nodes.extend(["n1", "n1", "n2"])
    assert "cairo" not in brhub("jobs").out
    assert re.search(r"ran at +cairo n1, n2\n", brhub("job", "show", "job-1").out)


def test_a_quota_that_never_admits_is_no_matter_of_time(brhub: Brhub, small: SmallFederation) -> None:
    """The line below the reasons does not say that nobody knows."""
    small.add_job("job-1", "QUEUED")
    small.reasons = [common_pb2.Reason(code="QUOTA_NEVER_FITS", message="it never starts under this quota: ...")]
    said = brhub("job", "explain", "job-1").out
    assert "it never starts under this quota" in said
    assert said.endswith("earliest start: never, under this quota\n")


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A program, with something beside it."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "delays.py").write_text("print(1)\n")
    (tmp_path / "work" / "helper.py").write_text("print(2)\n")
    return tmp_path / "work" / "delays.py"


def test_a_script_with_flags_becomes_a_job(brhub: Brhub, small: SmallFederation, script: Path, tmp_path: Path) -> None:
    """Every flag of the contract arrives; what follows `--` are the program's arguments."""
    (tmp_path / "req.txt").write_text("pandas\n")
    said = brhub(
        "submit", "--engine", "spark", "--cpus", "0.5", "--memory", "2Gi", "--gpus", "1", "--replicas", "2",
        "--input", "flights=flights-jfk@1", "--hub", "cairo", "--runtime-limit", "1h", "--priority", "scavenger",
        "--requirements", tmp_path / "req.txt", "--env", "A=b=c", script, "--", "--top", "10", "-o", "x",
    )  # fmt: skip
    assert (said.status, said.out) == (0, "job-1\n")
    spec = small.jobs["job-1"].spec
    assert list(spec.arguments) == ["--top", "10", "-o", "x"]
    assert [(entry.name, entry.amount) for entry in spec.demand.per_task] == [
        ("cpu", 500), ("memory", 2 * 2**30), ("gpu", 1000),
    ]  # fmt: skip
    assert (spec.demand.replicas, spec.runtime_limit_ms, spec.priority) == (2, 3_600_000, 4)
    assert (spec.inputs[0].dataset, spec.inputs[0].version, getattr(spec.inputs[0], "as")) == (
        "flights-jfk",
        "1",
        "flights",
    )
    assert (list(spec.hubs.allow), spec.environment.requirements, spec.environment.variables["A"]) == (
        ["cairo"], "pandas\n", "b=c",
    )  # fmt: skip


def test_a_script_goes_alone_or_with_its_package(
    brhub: Brhub, small: SmallFederation, script: Path, tmp_path: Path
) -> None:
    """Without --package nothing else of its folder is sent."""
    brhub("submit", "--engine", "ray", script)
    brhub("submit", "--engine", "ray", "--package", script.parent, script)
    found = []
    for n, job_id in enumerate(("job-1", "job-2")):
        packed = tmp_path / f"{n}.tar.gz"
        packed.write_bytes(small.uploads[small.jobs[job_id].spec.package_digest])
        found.append(unpack(packed, tmp_path / f"out-{n}"))
    assert found == [("delays.py",), ("delays.py", "helper.py")]


def test_flags_overlay_a_job_file(brhub: Brhub, small: SmallFederation, script: Path) -> None:
    """The rest of the file stays."""
    (script.parent / "job.yaml").write_text(
        "engine: spark\nentrypoint: delays.py\npackage: .\nresources: {cpus: 4, memory: 3Gi}\n"
    )
    said = brhub("--project", "physics", "submit", script.parent / "job.yaml", "--cpus", "1")
    spec = small.jobs[said.out.strip()].spec
    assert [entry.amount for entry in spec.demand.per_task] == [1000, 3 * 2**30]
    assert spec.project == "physics"


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (["submit", "delays.py"], "engine"),
        (["submit", "--engine", "spark", "nowhere.py"], "nowhere.py"),
        (["submit", "--engine", "command", "nowhere.sh"], "nowhere.sh"),
        (["submit", "--engine", "command", "--dry-run", "nowhere.py"], "nowhere.py"),
        (["submit", "nowhere.yaml"], "nowhere.yaml"),
        (["submit", "--engine", "hadoop", "work/delays.py"], "hadoop"),
        (["submit", "--engine", "command", "--cpus", "many", "true"], "cpus"),
        (["submit", "--engine", "command", "--env", "A", "true"], "--env"),
        (["submit", "--engine", "command", "--input", "", "true"], "dataset"),
        (["submit"], "Missing"),
        (["job", "lst"], "lst"),
        (["--output", "xml", "jobs"], "xml"),
        (["job", "list", "--limit", "0"], "limit"),
        (["job", "list", "--state", "DONE"], "DONE"),
    ],
)
def test_wrong_usage_is_2_and_says_what(
    brhub: Brhub, small: SmallFederation, script: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], word: str
) -> None:
    """On standard error, with whose fault and what to do; nothing on standard output; no job."""
    monkeypatch.chdir(script.parents[1])
    said = brhub(*words)
    assert (said.status, said.out, small.jobs) == (2, "", {})
    assert word in said.err
    assert "error: " in said.err
    assert "fault: caller; do: " in said.err


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (FederationError(Code.PERMISSION_DENIED, "not yours", fault=Fault.POLICY), 4),
        (FederationError(Code.QUOTA_EXCEEDED, "too much", fault=Fault.POLICY), 4),
        (FederationError(Code.INTERNAL, "our mistake", fault=Fault.FEDERATION), 1),
        (FederationError(Code.ILLEGAL_TRANSITION, "it has ended", fault=Fault.CALLER), 1),
        (FederationError(Code.JOB_NOT_FOUND, "no such job", fault=Fault.CALLER), 3),
        (FederationError(Code.TIMED_OUT, "too slow", fault=Fault.NETWORK), 6),
    ],
)
def test_exit_statuses_are_the_contracts(
    brhub: Brhub, small: SmallFederation, error: FederationError, status: int
) -> None:
    """Each kind of error has its number, and its code is printed."""
    small.fail_next("GetJob", error)
    said = brhub("job", "show", "job-1")
    assert (said.status, said.out) == (status, "")
    assert f"error: {error.message}" in said.err
    assert f"code: {error.code}" in said.err


def test_nobody_there_is_5(brhub: Brhub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also when no federation is named at all."""
    monkeypatch.delenv("BRHUB_SERVER", raising=False)
    monkeypatch.setenv("BRHUB_DIR", str(tmp_path))
    said = brhub("jobs")
    assert said.status == 5
    assert "brhub up" in said.err


def test_json_of_many_is_one_document_with_items(brhub: Brhub, small: SmallFederation) -> None:
    """Field names as on the wire, short enums, RFC 3339, an id in everything; the option may stand anywhere."""
    small.add_job("job-1", "RUNNING", hub_id="cairo")
    before, after = brhub("-o", "json", "job", "list"), brhub("jobs", "--output=json")
    assert before == after
    (item,) = before.document["items"]
    assert {key: item[key] for key in ("id", "state", "hub_id", "created_ms", "started_ms", "attempts", "reason")} == {
        "id": "job-1", "state": "RUNNING", "hub_id": "cairo", "created_ms": "2025-10-09T08:53:20.000Z",
        "started_ms": None, "attempts": 0, "reason": None,
    }  # fmt: skip


def test_one_thing_is_an_object_in_json_and_yaml_and_its_id_by_name(brhub: Brhub, small: SmallFederation) -> None:
    """The same document in both."""
    small.add_job()
    document = brhub("job", "show", "job-1", "-o", "json").document
    assert document["id"] == "job-1"
    assert yaml.safe_load(brhub("job", "show", "job-1", "-o", "yaml").out) == document
    assert brhub("job", "show", "job-1", "-o", "name").out == "job-1\n"
    assert brhub("job", "cancel", "job-1", "-o", "json").document["state"] == "CANCELLED"
    assert brhub("job", "retry", "job-1").out == "job-1 QUEUED\n"


def test_hubs_and_nodes_have_ids(brhub: Brhub, small: SmallFederation) -> None:
    """A node is hub/name."""
    assert brhub("hub", "list", "-o", "name").out == "cairo\nshenzhen\n"
    assert brhub("node", "list", "-o", "name").out == "cairo/main\nshenzhen/main\n"
    hub = brhub("hub", "show", "cairo", "-o", "json").document
    assert (hub["id"], hub["link"], hub["agents"][0]["id"], hub["datasets"][0]["id"]) == (
        "cairo", "ONLINE", "cairo/main", "flights-cai",
    )  # fmt: skip
    node = brhub("nodes", "-o", "json").document["items"][0]
    assert (node["id"], node["hub_id"], node["offered"][0]) == (
        "cairo/main", "cairo", {"name": "cpu", "kind": "", "amount": 4000},
    )  # fmt: skip


def test_tables_show_what_is_free_and_lose_nothing_in_a_pipe(brhub: Brhub, small: SmallFederation) -> None:
    """Amounts with units; ids whole; no colours; no wrapping."""
    hubs = brhub("hubs").out
    assert "2.5 of 4" in hubs
    assert "8Gi of 8Gi" in hubs
    long = "job-" + "x" * 150
    small.add_job(long, "RUNNING")
    small.jobs[long].reason.CopyFrom(common_pb2.Reason(code="X", message="because"))
    jobs = brhub("jobs").out
    assert long in jobs
    assert "\x1b" not in jobs
    assert len(jobs.splitlines()) == 2
    for words in (
        ["nodes"],
        ["hub", "show", "cairo"],
        ["-o", "wide", "hubs"],
        ["-o", "wide", "nodes"],
        ["job", "show", long],
    ):
        said = brhub(*words)
        assert (said.status, "\x1b" in said.out, bool(said.out)) == (0, False, True)


def test_a_hostile_name_cannot_paint_the_screen(brhub: Brhub, small: SmallFederation) -> None:
    """Neither escape sequences nor markup get through."""
    small.add_job()
    small.jobs["job-1"].spec.name = "\x1b[31m[bold]x[/bold]"
    out = brhub("jobs").out
    assert "\x1b" not in out
    assert "[bold]x[/bold]" in out


def test_wait_follows_to_success(brhub: Brhub, small: SmallFederation, script: Path) -> None:
    """The id on standard output; a line a state on standard error, with what preparation does."""

    def live() -> None:
        with small.lock:
            small.lock.wait_for(lambda: "job-1" in small.jobs, 10)
        small.set_state("job-1", "STAGING", hub_id="cairo", progress="environment, 212 MB")
        eventually(lambda: small.streamed >= 1)
        small.set_state("job-1", "SUCCEEDED")

    thread = threading.Thread(target=live)
    thread.start()
    said = brhub("submit", "--engine", "ray", "--wait", script)
    thread.join()
    assert (said.status, said.out) == (0, "job-1\n")
    assert "SUCCEEDED at cairo" in said.err
    assert "STAGING at cairo: environment, 212 MB" in said.err


def test_wait_ends_with_1_when_the_job_fails(brhub: Brhub, small: SmallFederation) -> None:
    """And says why; in JSON the job as it ended is the one document."""
    reason = common_pb2.Reason(code="EXITED", message="the program ended with status 3")

    def live() -> None:
        with small.lock:
            small.lock.wait_for(lambda: "job-1" in small.jobs, 10)
        small.set_state("job-1", "FAILED", hub_id="cairo", exit_code=3, reason=reason)

    thread = threading.Thread(target=live)
    thread.start()
    said = brhub("submit", "--engine", "command", "--wait", "true", "-o", "json")
    thread.join()
    assert (said.status, said.document["state"], said.document["exit_code"]) == (1, "FAILED", 3)
    assert "the program ended with status 3 [EXITED]" in said.err


def test_wait_ends_with_6_when_its_time_is_over_and_says_why_it_waits(brhub: Brhub, small: SmallFederation) -> None:
    """The job goes on; its id was printed."""
    small.reasons = [common_pb2.Reason(code="CAPACITY", hub_id="cairo", message="all is taken")]
    said = brhub("submit", "--engine", "command", "--wait", "--timeout", "300ms", "true")
    assert (said.status, said.out) == (6, "job-1\n")
    assert "brhub job show job-1" in said.err


def test_a_dry_run_submits_nothing(brhub: Brhub, small: SmallFederation, script: Path) -> None:
    """It says where and why, hub by hub, in a table or as one document."""
    small.reasons = [
        common_pb2.Reason(code="WOULD_RUN", hub_id="cairo", message="it fits"),
        common_pb2.Reason(code="CAPACITY", hub_id="shenzhen", message="all is taken"),
    ]
    said = brhub("submit", "--engine", "spark", "--dry-run", script)
    assert (said.status, small.jobs, small.uploads) == (0, {}, {})
    assert "WOULD_RUN" in said.out
    assert "earliest start: now at cairo" in said.out
    document = brhub("submit", "--engine", "spark", "--dry-run", script, "-o", "json").document
    assert [reason["code"] for reason in document["reasons"]] == ["WOULD_RUN", "CAPACITY"]
    small.add_job()
    assert brhub("job", "explain", "job-1", "-o", "json").document["id"] == "job-1"
    assert "job-1 is QUEUED" in brhub("job", "explain", "job-1").out


def test_logs_and_results(brhub: Brhub, small: SmallFederation, tmp_path: Path) -> None:
    """Logs as bytes from an offset; results as checked files."""
    small.add_job("job-1", "SUCCEEDED", attempt="1-1")
    small.logs["job-1", "1-1"] = b"one\ntwo\n"
    small.complete.add(("job-1", "1-1"))
    small.results["job-1"] = {"sub/table.csv": b"a,b\n"}
    assert brhub("job", "logs", "job-1").out == "one\ntwo\n"
    assert brhub("job", "logs", "-f", "--from", "4", "job-1").out == "two\n"
    said = brhub("job", "fetch", "job-1", tmp_path / "out", "-o", "json")
    assert [(item["id"], item["size_bytes"]) for item in said.document["items"]] == [("sub/table.csv", 4)]
    assert (tmp_path / "out" / "sub" / "table.csv").read_bytes() == b"a,b\n"


def test_drain_and_back(brhub: Brhub, small: SmallFederation) -> None:
    """A hub that drains says so."""
    assert brhub("hub", "drain", "cairo").out == "cairo DRAINING, 1 jobs there\n"
    assert brhub("hub", "drain", "cairo", "--undo", "-o", "json").document["state"] == "ACTIVE"
    assert brhub("hub", "show", "nowhere").status == 3


def test_top_in_a_pipe_is_one_look(brhub: Brhub, small: SmallFederation) -> None:
    """Hubs above, live jobs below."""
    small.add_job("job-1", "RUNNING")
    small.add_job("job-2", "FAILED")
    said = brhub("top")
    assert said.out.startswith("2 hubs; 1 RUNNING\n")
    assert "job-2" not in said.out
    assert brhub("top", "-o", "json").document["jobs"][0]["id"] == "job-1"


def test_release_by_force(brhub: Brhub, small: SmallFederation) -> None:
    """Without --force the risk is said and nothing is done; a reason must be given; what is done says what became of it."""
    small.add_job("job-1", "UNKNOWN")
    assert brhub("job", "release", "job-1", "--force").status == 2
    said = brhub("job", "release", "job-1", "--reason", "it burnt down")
    assert (said.status, "it may run" in said.err, small.jobs["job-1"].state) == (2, True, common_pb2.JOB_STATE_UNKNOWN)
    said = brhub("job", "release", "job-1", "--force", "--reason", "it burnt down")
    assert (said.status, said.out, said.err) == (0, "job-1 FAILED\n", "released by force: it burnt down\n")
