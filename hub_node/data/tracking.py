"""One MLflow run per attempt, through MLflow's REST API with plain HTTP: no mlflow is imported here.

Tracking never fails a job. A server that answers is given 3 s; one that is still starting, because this is the first
job that asks, is waited for up to a minute, and only by jobs that asked. What cannot be had is left out, and the program is
then given a folder of its own to write to. Deliberately not here: what the program tracks.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from hub_node.records import LeaseOrder, Outcome

log = logging.getLogger(__name__)

BUDGET_S = 3.0
START_WAIT_S = 60.0
"""MLflow takes 20 s to start on a quiet machine; Ray, which most such jobs use, as long again."""
_ASK_AGAIN_S = 0.5
_RECORD = "tracking.json"
_STATUS = {Outcome.SUCCEEDED: "FINISHED", Outcome.STOPPED: "KILLED"}


def begin(
    lease: LeaseOrder,
    hub_id: str,
    folder: Path,
    scratch: Path,
    progress: Callable[[str], None] = lambda _: None,
    called_off: Callable[[], bool] = lambda: False,
) -> dict[str, str]:
    """Variables for the program. An attempt that has its run already gets the same again.

    Blocks for at most `START_WAIT_S` + `BUDGET_S`, and no longer than until `called_off`.
    """
    known = _read(folder)
    patience = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_ENABLE_ASYNC_LOGGING": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    if not known and lease.tracking_uri:
        _await_start(lease.tracking_uri, progress, called_off)
        known = _create(lease, hub_id)
        if known:
            (folder / _RECORD).write_text(json.dumps(known), encoding="utf-8")
    if not known:
        log.warning("job %s runs without tracking: no tracking server answers", lease.job_id)
        return {**patience, "MLFLOW_TRACKING_URI": f"sqlite:///{scratch}/mlflow.db"}
    return {**patience, "MLFLOW_TRACKING_URI": known["uri"], "MLFLOW_RUN_ID": known["run_id"]}


def begun(folder: Path) -> str:
    """The id of the attempt's run, where it has one."""
    return _read(folder).get("run_id", "")


def end(folder: Path, outcome: Outcome) -> None:
    """Close the attempt's run, where it has one."""
    known = _read(folder)
    if not known:
        return
    body = {
        "run_id": known["run_id"],
        "status": _STATUS.get(outcome, "FAILED"),
        "end_time": time.time_ns() // 1_000_000,
    }
    try:
        _call(known["uri"], "runs/update", body, time.monotonic() + BUDGET_S)
    except (OSError, ValueError, HTTPException) as problem:
        log.warning("the tracking run %s could not be closed: %s", known["run_id"], problem)


def _await_start(uri: str, progress: Callable[[str], None], called_off: Callable[[], bool]) -> None:
    """While nobody listens at the address the server is starting: a minute's patience, and not a moment for anything else."""
    parts = urlsplit(uri)
    until_s, pause = time.monotonic() + START_WAIT_S, threading.Event()
    while time.monotonic() < until_s and not called_off():
        try:
            socket.create_connection((parts.hostname or "", parts.port or 80), timeout=BUDGET_S).close()
        except ConnectionRefusedError:
            progress("tracking, its server is starting")
            pause.wait(_ASK_AGAIN_S)
        except OSError:
            return
        else:
            return


def _create(lease: LeaseOrder, hub_id: str) -> dict[str, str]:
    until_s = time.monotonic() + BUDGET_S
    uri = lease.tracking_uri.rstrip("/")
    tags = {
        "mlflow.runName": f"{lease.work.name}-{lease.epoch}",
        "mlflow.user": lease.subject,
        "mlflow.source.name": lease.work.entrypoint,
        "brhub.job": lease.job_id,
        "brhub.hub": hub_id,
        "brhub.attempt": str(lease.epoch),
        "brhub.user": lease.subject,
        "brhub.home_hub": lease.home_hub,
    }
    try:
        body = {
            "experiment_id": _experiment(uri, lease.work.project, until_s),
            "start_time": time.time_ns() // 1_000_000,
            "run_name": tags["mlflow.runName"],
            "tags": [{"key": key, "value": value} for key, value in tags.items() if value],
        }
        answer = _call(uri, "runs/create", body, until_s)
        return {"uri": uri, "run_id": str(answer["run"]["info"]["run_id"])}
    except (OSError, ValueError, KeyError, TypeError, HTTPException) as problem:
        log.warning("no tracking run for job %s: %s", lease.job_id, problem)
        return {}


def _experiment(uri: str, project: str, until_s: float) -> str:
    """The experiment named like the project; made by whoever needs it first."""
    try:
        answer = _call(uri, f"experiments/get-by-name?experiment_name={quote(project)}", None, until_s)
        return str(answer["experiment"]["experiment_id"])
    except urllib.error.HTTPError as problem:
        with problem:
            if problem.code != 404:
                raise
    try:
        return str(_call(uri, "experiments/create", {"name": project}, until_s)["experiment_id"])
    except urllib.error.HTTPError as problem:
        with problem:
            if problem.code != 400:
                raise
    answer = _call(uri, f"experiments/get-by-name?experiment_name={quote(project)}", None, until_s)
    return str(answer["experiment"]["experiment_id"])  # another attempt was first


def _call(uri: str, method: str, body: Mapping[str, Any] | None, until_s: float) -> Any:
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{uri!r} is no tracking server")
    left_s = until_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("no answer within 3 s")
    handlers = [urllib.request.ProxyHandler({})] if parts.hostname in ("127.0.0.1", "::1", "localhost") else []
    request = urllib.request.Request(  # noqa: S310  # http or https, checked above
        f"{uri}/api/2.0/mlflow/{method}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.build_opener(*handlers).open(request, timeout=left_s) as answer:
        return json.load(answer)


def _read(folder: Path) -> dict[str, str]:
    try:
        known: dict[str, str] = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known
