"""What is in place before a program starts, and what it may see."""

from __future__ import annotations

import http.server
import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from federation.errors import Code, FederationError
from hub_node.agent.logs import sweep
from hub_node.config import DatasetConfig
from hub_node.data import tracking
from hub_node.data.staging import Staging, trim, variable_name
from hub_node.records import Epoch, LeaseOrder, Outcome
from tests.unit.hub_node.runs import a_lease


def staging(state_dir: Path, *datasets: DatasetConfig) -> Staging:
    """An agent's folders."""
    return Staging(state_dir, "shenzhen", datasets)


def staged(state_dir: Path, lease: LeaseOrder, *datasets: DatasetConfig) -> dict[str, str]:
    """The variables of a staged attempt."""
    return dict(staging(state_dir, *datasets).stage(lease, 10_000, lambda _: None, lambda: False).variables)


def test_program_that_may_be_preempted_is_told_the_hubs_reclaim_time(tmp_path: Path) -> None:
    """Others are told what a cancel gives them."""
    at = Staging(tmp_path, "shenzhen", (), reclaim_s=90)
    graces = []
    for preemptible in (True, False):
        lease = a_lease(f"job-{preemptible}", preemptible=preemptible)
        graces.append(at.stage(lease, 10_000, lambda _: None, lambda: False).variables["BRHUB_GRACE_S"])
    assert graces == ["90", "10"]


def test_program_sees_its_own_variables_and_nothing_of_the_agents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clean environment: the machine's few, the job's own, ours; not the agent's tokens, whatever they are called."""
    monkeypatch.setenv("BRHUB_AGENT_TOKEN", "the-hubs")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the-hubs")
    monkeypatch.setenv("BRHUB_FEDERATION_DIR", "/a/folder")
    seen = staged(tmp_path, a_lease(variables={"A": "1", "LANG": "zh_CN.UTF-8"}, secret_variables={"B": "2"}))
    assert "the-hubs" not in seen.values()
    assert (seen["A"], seen["B"], seen["LANG"]) == ("1", "2", "zh_CN.UTF-8")
    assert seen["BRHUB_FEDERATION_DIR"] == "/a/folder"
    assert (seen["BRHUB_GRACE_S"], seen["BRHUB_ATTEMPT"]) == ("10", "1-1")
    assert Path(seen["BRHUB_OUTPUT_DIR"]).is_dir()
    assert Path(seen["BRHUB_CHECKPOINT_DIR"]).is_dir()


def test_input_arrives_by_its_alias(tmp_path: Path) -> None:
    """The dataset's folder, by the name that the job gave it; the newest version when it named none."""
    older, newer = tmp_path / "v1", tmp_path / "v2"
    older.mkdir()
    newer.mkdir()
    datasets = (DatasetConfig("flights", older, "1"), DatasetConfig("flights", newer, "2"))
    seen = staged(tmp_path, a_lease(inputs=(("flights", "", "my-flights"), ("flights", "1", "old"))), *datasets)
    assert seen["BRHUB_INPUT_MY_FLIGHTS"] == str(newer)
    assert seen["BRHUB_INPUT_OLD"] == str(older)
    assert variable_name("flights-jfk") == "BRHUB_INPUT_FLIGHTS_JFK"


def test_dataset_that_vanished_is_the_hubs_fault(tmp_path: Path) -> None:
    """The file says that it is there and it is not: DATASET_NOT_FOUND, and whose it is to mend."""
    with pytest.raises(FederationError) as caught:
        staged(tmp_path, a_lease(inputs=(("flights", "", "f"),)), DatasetConfig("flights", tmp_path / "gone"))
    assert (caught.value.code, caught.value.fault) == (Code.DATASET_NOT_FOUND, "hub")


def test_staging_again_leaves_a_running_program_its_package(tmp_path: Path) -> None:
    """A restarted agent that stages once more does not touch what is there."""
    lease = a_lease()
    staged(tmp_path, lease)
    file = staging(tmp_path).places(lease.job_id, lease.epoch).package / "made-by-the-program"
    file.write_text("x", encoding="utf-8")
    staged(tmp_path, lease)
    assert file.exists()


@pytest.mark.parametrize("job_id", ["", "..", "../../etc", "a/b", "a" * 129])
def test_job_id_is_never_a_path(tmp_path: Path, job_id: str) -> None:
    """An id that could lead out of the folder is refused before any folder is made."""
    with pytest.raises(FederationError):
        staging(tmp_path).places(job_id, Epoch(1, 1))


def test_package_cache_lets_go_of_the_longest_unused(tmp_path: Path) -> None:
    """Over its limit the cache gives up old packages, never the one that was just fetched."""
    files = [tmp_path / name for name in ("old", "middle", "new")]
    for age, file in enumerate(files):
        file.write_bytes(b"x" * 100)

        os.utime(file, (1_000 + age, 1_000 + age))
    trim(tmp_path, keep=files[0], limit_bytes=200)
    assert [file.exists() for file in files] == [True, False, True]


def test_package_cache_leaves_alone_what_another_run_is_fetching(tmp_path: Path) -> None:
    """It is neither thrown away nor missed when it is done; what a killed agent left half fetched goes."""
    coming, left = tmp_path / ".fetch-coming", tmp_path / ".fetch-left"
    for file in (coming, left):
        file.write_bytes(b"x")
    os.utime(left, (1_000, 1_000))
    trim(tmp_path, keep=tmp_path / "kept", limit_bytes=0)
    assert (coming.exists(), left.exists()) == (True, False)


def test_package_caches_are_trimmed_while_others_fetch(tmp_path: Path) -> None:
    """Files come and go under its eyes, and it looks away from none of them with an error."""
    done = threading.Event()

    def fetch() -> None:
        while not done.is_set():
            for number in range(20):
                (tmp_path / f".fetch-{number}").write_bytes(b"x")
            for number in range(20):
                (tmp_path / f".fetch-{number}").replace(tmp_path / "whole")

    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(fetch)
        try:
            for _ in range(500):
                trim(tmp_path, keep=tmp_path / "whole", limit_bytes=0)
        finally:
            done.set()
        fetching.result(10)
    assert [file.name for file in tmp_path.iterdir()] == ["whole"]


def test_old_logs_go_and_live_attempts_stay(tmp_path: Path) -> None:
    """After 30 days an ended attempt's log is removed with its job's empty folder; a live one never is."""
    for job_id in ("job-old", "job-live"):
        (tmp_path / job_id / "1-1").mkdir(parents=True)
    in_31_days_ms = int((tmp_path / "job-old/1-1").stat().st_mtime * 1000) + 31 * 86_400_000
    assert sweep(tmp_path, {tmp_path / "job-live/1-1"}, in_31_days_ms) == 1
    assert [folder.name for folder in tmp_path.iterdir()] == ["job-live"]


class _MlflowLike(http.server.BaseHTTPRequestHandler):
    """Answers as MLflow's REST API does, and remembers."""

    asked: list[tuple[str, dict[str, Any]]]
    experiments: dict[str, str]

    def do_GET(self) -> None:
        name = self.path.rpartition("=")[2]
        if name in self.experiments:
            self._answer(200, {"experiment": {"experiment_id": self.experiments[name]}})
        else:
            self._answer(404, {"error_code": "RESOURCE_DOES_NOT_EXIST"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        method = self.path.removeprefix("/api/2.0/mlflow/")
        self.asked.append((method, body))
        if method == "experiments/create":
            self.experiments[body["name"]] = "7"
            self._answer(200, {"experiment_id": "7"})
        else:
            self._answer(200, {"run": {"info": {"run_id": "run-1"}}})

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Quiet."""


@pytest.fixture
def mlflow_like() -> Iterator[tuple[str, list[tuple[str, dict[str, Any]]]]]:
    """(address, what it was asked)."""

    class Handler(_MlflowLike):
        asked: list[tuple[str, dict[str, Any]]] = []  # noqa: RUF012  # one a test
        experiments: dict[str, str] = {}  # noqa: RUF012

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", Handler.asked
    server.shutdown()
    server.server_close()
    thread.join(5)


def test_tracked_attempt_has_one_run_with_its_tags(
    tmp_path: Path, mlflow_like: tuple[str, list[tuple[str, dict[str, Any]]]]
) -> None:
    """An experiment named like the project, one run an attempt, also when it is begun twice, closed with its outcome."""
    uri, asked = mlflow_like
    lease = replace(a_lease(tracking=True), tracking_uri=uri)
    seen = tracking.begin(lease, "shenzhen", tmp_path, tmp_path)
    again = tracking.begin(lease, "shenzhen", tmp_path, tmp_path)
    tracking.end(tmp_path, Outcome.SUCCEEDED)
    assert (seen["MLFLOW_TRACKING_URI"], seen["MLFLOW_RUN_ID"]) == (uri, "run-1")
    assert again == seen
    assert [method for method, _ in asked] == ["experiments/create", "runs/create", "runs/update"]
    tags = {tag["key"]: tag["value"] for tag in asked[1][1]["tags"]}
    assert {"brhub.job": "job-1", "brhub.hub": "shenzhen", "brhub.attempt": "1-1", "brhub.user": "amina"}.items() <= (
        tags.items()
    )
    assert asked[2][1]["status"] == "FINISHED"


@pytest.mark.parametrize("uri", ["", "http://127.0.0.1:1", "ftp://nowhere", "nonsense"])
def test_cut_tracking_never_fails_a_job(tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a tracking server the program is given a place of its own, and nothing is raised."""
    monkeypatch.setattr(tracking, "START_WAIT_S", 0.2)
    lease = replace(a_lease(tracking=True), tracking_uri=uri)
    seen = tracking.begin(lease, "shenzhen", tmp_path, tmp_path)
    assert seen["MLFLOW_TRACKING_URI"].startswith("sqlite:///")
    assert "MLFLOW_RUN_ID" not in seen
    tracking.end(tmp_path, Outcome.FAILED)


def test_staging_that_is_called_off_stops_trying(tmp_path: Path) -> None:
    """A package whose store is away is not waited for once the run was asked to end."""
    lease = replace(a_lease(package_digest="0" * 64), package_url="http://127.0.0.1:1/package")
    asked: list[str] = []
    called_off: Callable[[], bool] = lambda: len(asked) > 0  # noqa: E731
    with pytest.raises(FederationError) as caught:
        staging(tmp_path).stage(lease, 10_000, asked.append, called_off)
    assert caught.value.code is Code.TIMED_OUT
