"""`brhub simulate`: two files in, before and after out; `--export` writes the one, an operator the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from federation.v1 import common_pb2, job_pb2
from tests.tidy.repository import ROOT
from tests.unit.cli.conftest import Brhub
from tests.unit.client.small_federation import NOW_MS, TOKEN, SmallFederation

HISTORY: list[dict[str, Any]] = [
    {"history": 1, "begins": "2026-10-01T00:00:00Z", "ends": "2026-10-01T04:00:00Z"},
    {"hub": "cairo", "nodes": [{"node": "a", "cpus": 2}]},
    {"hub": "shenzhen", "nodes": [{"node": "b", "cpus": 2, "gpus": {"nvidia/T4": 1}}]},
    {"job": "c1", "home": "cairo", "user": "ada", "submit": "0s", "runtime": "1h", "limit": "2h", "cpus": 2},
    {"job": "s1", "home": "shenzhen", "user": "li", "submit": "0s", "runtime": "1h", "limit": "2h", "cpus": 2},
    {"job": "s2", "home": "shenzhen", "user": "li", "submit": "1m", "runtime": "1h", "limit": "2h", "cpus": 2},
    {"job": "s3", "home": "shenzhen", "user": "li", "submit": "1m", "runtime": "1h", "limit": "2h", "cpus": 2},
]  # fmt: skip


CLOSED = "hubs: {cairo: {accept: {hubs: {deny: [shenzhen]}}}}"


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """Two hubs, each with its own job at first, and two more of Shenzhen that wait for an hour."""
    return written(tmp_path / "month.jsonl", HISTORY)


def written(path: Path, lines: list[dict[str, Any]]) -> Path:
    """A history's file."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def policy_file(folder: Path, text: str) -> Path:
    """A policy's file."""
    path = folder / "policy.yaml"
    path.write_text(text)
    return path


def test_before_and_after_as_one_document(brhub: Brhub, history: Path, tmp_path: Path) -> None:
    """Cairo keeps its machine to itself: Shenzhen's people wait an hour longer, and there are no guests."""
    policy = policy_file(tmp_path, CLOSED)
    said = brhub("simulate", "--history", history, "--policy", policy, "-o", "json")
    assert (said.status, said.err) == (0, "")
    found = said.document
    cairo, shenzhen = found["hubs"]
    assert (cairo["id"], shenzhen["id"], found["jobs"]) == ("cairo", "shenzhen", 4)
    hour_ms = 3_600_000
    waits = [shenzhen[when]["longest_wait_ms"] for when in ("before", "after")]
    assert waits == [hour_ms - 60_000, 2 * hour_ms - 60_000]
    guests = [(cairo[when]["guest_cpu_h_given"], shenzhen[when]["guest_cpu_h_taken"]) for when in ("before", "after")]
    assert guests == [(2, 2), (0, 0)]
    assert (cairo["before"]["cpu_used_pct"], cairo["after"]["cpu_used_pct"]) == (50, 25)
    assert found["federation"]["before"]["cpu_used_pct"] == found["federation"]["after"]["cpu_used_pct"] == 50
    assert (found["recorded"], found["notes"], found["begins"]) == (None, [], "2026-10-01T00:00:00.000Z")


def test_tables_say_what_changes_and_what_does_not(brhub: Brhub, history: Path, tmp_path: Path) -> None:
    """Numbers stand right, differences have a sign, and a hub for which nothing changes has one line."""
    same = brhub("simulate", "--history", history, "--policy", policy_file(tmp_path, ""))
    assert (same.status, same.out.count("both"), "change" in same.out) == (0, 6, False)
    said = brhub("simulate", "--history", history, "--policy", policy_file(tmp_path, CLOSED))
    waiting, machines, words = said.out.split("\n\n")
    assert [line.split()[:2] for line in waiting.splitlines()[2:]] == [
        ["cairo", "both"], ["shenzhen", "before"], ["after", "3"], ["change", "·"],
        ["(all)", "before"], ["after", "4"], ["change", "·"],
    ]  # fmt: skip
    assert "+1h00m" in waiting.splitlines()[5]
    assert machines.splitlines()[1].split("  ")[0] == "HUB"
    assert [("-2.00" in line, "+2.00" in line) for line in machines.splitlines()[4::3]] == [(True, False)] * 3
    assert max(len(line) for line in said.out.splitlines()) <= 120
    assert "NEVER START" not in waiting
    assert "Before is everybody alike" in words


def test_jobs_that_would_never_start_are_told(brhub: Brhub, history: Path, tmp_path: Path) -> None:
    """A policy may leave somebody without a place: how many, and why."""
    shut = policy_file(tmp_path, 'hubs: {cairo: {offer: {cpus: "50%"}}, shenzhen: {offer: {cpus: "50%"}}}')
    said = brhub("simulate", "--history", history, "--policy", shut)
    assert "after: 4 jobs would never start: 4 SHAPE_NEVER_FITS\n" in said.out
    assert "NEVER START" in said.out.splitlines()[1]
    assert "note: waits are those of jobs that start, 4 before and 0 after" in said.out


def test_jobs_that_would_never_start_are_named_with_their_obstacle(brhub: Brhub, tmp_path: Path) -> None:
    """The first ten by id, at home or where they come nearest, in the table as in the document."""
    twelve = [{**HISTORY[4], "job": f"s{at:02}"} for at in reversed(range(12))]
    other = {**HISTORY[3], "job": "b", "user": "ido"}
    history = written(tmp_path / "h", [*HISTORY[:3], *twelve, other])
    quota = policy_file(tmp_path, "quotas: {users: {cairo: {default: {ido: {cpus: 1}}}}}")
    said = brhub("simulate", "--history", history, "--policy", quota, "-o", "json").document["federation"]
    assert said["before"]["never_start"] == []
    (held,) = said["after"]["never_start"]
    assert (held["id"], held["home"], held["reason"]) == ("b", "cairo", "QUOTA_NEVER_FITS")
    assert "ido" in held["message"]
    shut = policy_file(tmp_path, 'hubs: {cairo: {offer: {cpus: "50%"}}, shenzhen: {offer: {cpus: "50%"}}}')
    words = ("simulate", "--history", history, "--policy", shut)
    never = brhub(*words, "-o", "json").document["federation"]["after"]["never_start"]
    assert [job["id"] for job in never] == ["b", *(f"s{at:02}" for at in range(9))]
    assert never[1] == {
        "id": "s00", "home": "shenzhen", "reason": "SHAPE_NEVER_FITS", "hub": "shenzhen",
        "message": "needs 2 cpus on one machine; the largest here offers 1",
    }  # fmt: skip
    head, *lines = brhub(*words).out.partition("\nafter: ")[2].splitlines()
    assert head == "13 jobs would never start: 13 SHAPE_NEVER_FITS; the first 10 by id:"
    assert [line.split()[0] for line in lines] == ["JOB", *(job["id"] for job in never)]
    assert lines[2].endswith("needs 2 cpus on one machine; the largest here offers 1")


def test_the_policy_that_the_history_names_is_before(brhub: Brhub, tmp_path: Path) -> None:
    """And one that is wrong is told with its line."""
    lines = [{**HISTORY[0], "policy": {"hubs": {"cairo": {"offer": {"cpus": "0%"}}}}}, *HISTORY[1:]]
    history, policy = written(tmp_path / "h", lines), policy_file(tmp_path, "")
    found = brhub("simulate", "--history", history, "--policy", policy, "-o", "json").document
    assert (found["hubs"][0]["before"]["cpu_offered_h"], found["hubs"][0]["after"]["cpu_offered_h"]) == (0, 8)
    written(history, [{**HISTORY[0], "policy": {"hub": {}}}])
    said = brhub("simulate", "--history", history, "--policy", policy)
    assert (said.status, "line 1 of the history" in said.err, "UNKNOWN_KEY" in said.err) == (2, True, True)


def test_names_that_the_history_does_not_know_are_noted(brhub: Brhub, history: Path, tmp_path: Path) -> None:
    """A slip of the pen would else look like a policy without effect."""
    text = "order: {weights: {hubs: {cario: 2}, users: {cairo: {default: {ada: 2, ido: 2}}}}}"
    notes = brhub("simulate", "--history", history, "--policy", policy_file(tmp_path, text), "-o", "json").document[
        "notes"
    ]
    assert [("cario" in note, "cairo/default/ido" in note, "ada" in note) for note in notes] == [
        (True, False, False),
        (False, True, False),
    ]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "--history"),
        ([], "--seeds"),
        (["--policy", "p"], "--history"),
        (["--history", "h"], "--policy"),
        (["--history", "h", "--export", "e"], "--export"),
        (["--history", "none", "--policy", "none"], "none"),
        (["--seeds", "1..3", "--policy", "p"], "seeds"),
    ],
)
def test_wrong_usage_is_status_2(brhub: Brhub, words: list[str], named: str) -> None:
    """Nothing is run, and the option is named."""
    said = brhub("simulate", *words)
    assert (said.status, said.out) == (2, "")
    assert named in said.err


def test_a_bad_line_is_named(brhub: Brhub, history: Path, tmp_path: Path) -> None:
    """Status 2, the line, what to do."""
    history.write_text(history.read_text() + '{"job": "x", "home": "cairo", "submit": "1s"}\n')
    said = brhub("simulate", "--history", history, "--policy", policy_file(tmp_path, ""))
    assert said.status == 2
    assert "line 8 of the history: runtime is missing" in said.err


def test_the_same_files_give_the_same_bytes(history: Path, tmp_path: Path) -> None:
    """Whatever seed Python shuffles its sets with."""
    policy = policy_file(tmp_path, "order: {weights: {hubs: {cairo: 3}}}")
    words = ["simulate", "--history", str(history), "--policy", str(policy), "-o", "json"]
    printed = [
        subprocess.run(
            [sys.executable, "-m", "federation.cli", *words],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=True,
            timeout=100,
        ).stdout
        for seed in ("1", "2")
    ]
    assert printed[0] == printed[1]
    assert json.loads(printed[0])["id"].startswith("replay-")


# ---- export -----------------------------------------------------------------------------------------------------------
def ran_job(small: SmallFederation, job_id: str, ran_ms: int) -> None:
    """A job of Aisha's that ended at Cairo."""
    spec = job_pb2.JobSpec(
        engine="command",
        demand=job_pb2.Demand(replicas=1, per_task=[common_pb2.Resource(name="cpu", amount=1000)]),
        runtime_limit_ms=600_000,
    )
    job = small.add_job(
        job_id, "SUCCEEDED", hub_id="cairo", started_ms=NOW_MS + 1_000, ended_ms=NOW_MS + 1_000 + ran_ms
    )
    job.spec.CopyFrom(spec)


def test_an_export_can_be_replayed(brhub: Brhub, small: SmallFederation, tmp_path: Path) -> None:
    """People have pseudonyms, jobs that never ran are told, and the replay says what was waited in fact."""
    ran_job(small, "job-1", 5_000)
    small.add_job("job-2")
    file = tmp_path / "month.jsonl"
    said = brhub("simulate", "--export", file, "--since", "9999d", "-o", "json")
    assert said.document == {"id": str(file), "jobs": 1, "agents": 2, "never_ran": 1, "still_running": 0}
    assert (file.exists(), "aisha" in file.read_text(), TOKEN in file.read_text()) == (True, False, False)
    assert list(tmp_path.glob("*.new")) == []
    found = brhub("simulate", "--history", file, "--policy", policy_file(tmp_path, ""), "-o", "json").document
    assert found["recorded"]["mean_wait_ms"] == 1_000
    told = brhub("simulate", "--history", file, "--policy", policy_file(tmp_path, ""))
    assert "In fact 1 job waited 1.0s" in told.out


def test_an_export_of_one_persons_jobs_says_so(brhub: Brhub, small: SmallFederation, tmp_path: Path) -> None:
    """Who is no administrator gets only their own, and would take them for the federation's."""
    ran_job(small, "job-1", 5_000)
    ran_job(small, "job-2", 5_000)
    export = ("simulate", "--export", tmp_path / "e", "--since", "9999d", "-o", "json")
    said = brhub(*export).err
    assert (said.count("\n"), "one person's" in said) == (1, True)
    small.jobs["job-2"].owner.subject = "omar"
    assert brhub(*export).err == ""


def test_an_export_with_names_and_the_policy_in_force(brhub: Brhub, small: SmallFederation, tmp_path: Path) -> None:
    """Both are asked for; the words for people say what is in it."""
    ran_job(small, "job-1", 5_000)
    file = tmp_path / "month.jsonl"
    policy = policy_file(tmp_path, "order: {weights: {hubs: {cairo: 2}}}")
    said = brhub("simulate", "--export", file, "--since", "9999d", "--names", "--policy", policy)
    assert said.out == f"{file}: jobs 1, agents 2\n"
    first, *_, last = [json.loads(line) for line in file.read_text().splitlines()]
    assert first["policy"] == {"order": {"weights": {"hubs": {"cairo": 2}}}}
    assert last["user"] == "aisha"


def test_an_export_of_the_last_days_leaves_out_the_rest(brhub: Brhub, small: SmallFederation, tmp_path: Path) -> None:
    """By when a job came."""
    ran_job(small, "job-1", 5_000)
    said = brhub("simulate", "--export", tmp_path / "e", "--since", "1h", "-o", "json")
    assert (said.document["jobs"], said.document["never_ran"]) == (0, 0)


def test_an_export_without_a_token_makes_no_pseudonyms(
    brhub: Brhub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Names that anybody could guess back would be no protection."""
    monkeypatch.setenv("BRHUB_SERVER", "127.0.0.1:1")
    monkeypatch.delenv("BRHUB_TOKEN", raising=False)
    monkeypatch.setenv("BRHUB_DIR", str(tmp_path))
    said = brhub("simulate", "--export", tmp_path / "e")
    assert (said.status, "--names" in said.err) == (2, True)
