"""The steps. A step's first line is what people read; what it proves it says itself."""

from __future__ import annotations

import csv
import json
import os
import signal
import urllib.request
from collections.abc import Callable
from typing import Any

import psutil

from federation.cli import embedded, processes
from federation.cli.show import state_of
from federation.cli.tour.lab import run_lab
from federation.cli.tour.running import Tour

Step = Callable[[Tour], None]
HUBS = ("cairo", "kuala-lumpur", "shenzhen")


def look_around(tour: Tour) -> None:
    """Three hubs, each with a machine and the flights of one New York airport."""
    tour.show("hub", "list")
    tour.show("node", "list")
    hubs = {hub.id: hub for hub in tour.client.list_hubs()}
    tour.prove(tuple(sorted(hubs)) == HUBS, "three hubs have joined")
    datasets = {hub_id: [one.name for one in hub.datasets] for hub_id, hub in hubs.items()}
    tour.prove(
        datasets == {"kuala-lumpur": ["flights-ewr"], "cairo": ["flights-jfk"], "shenzhen": ["flights-lga"]},
        "each holds its own airport's flights and nobody else's",
    )


def spark_goes_to_the_data(tour: Tour) -> None:
    """A Spark job submitted at Kuala Lumpur over Cairo's data runs in Cairo."""
    job_id = tour.submit(
        "delays-by-carrier",
        "delays.py",
        inputs=[{"dataset": "flights-jfk", "as": "flights"}],
        resources={"cpus": 2, "memory": "2Gi"},
    )
    job = tour.succeeded(job_id)
    tour.prove(job.hub_id == "cairo", "it ran in Cairo, where its data is")
    tour.prove(job.owner.home_hub == "kuala-lumpur", "it is counted to Kuala Lumpur, which submitted it")
    (result,) = tour.client.fetch(job_id, tour.scratch / "delays")
    with result.open(newline="") as file:
        table = {row["carrier"]: (int(row["flights"]), float(row["mean_delay_min"])) for row in csv.DictReader(file)}
    expected = _delays(tour)
    close = table.keys() == expected.keys() and all(
        table[carrier][0] == count and abs(table[carrier][1] - mean) < 1e-5
        for carrier, (count, mean) in expected.items()
    )
    for carrier, (count, mean) in sorted(table.items(), key=lambda entry: -entry[1][1])[:3]:
        tour.say(f"{carrier}: {count:>6,} flights, {mean:5.1f} min late on average")
    tour.prove(close, f"its {len(table)} rows equal a table computed without Spark")


def _delays(tour: Tour) -> dict[str, tuple[int, float]]:
    """The same table by plain reading: carrier -> (arrivals, mean delay in minutes)."""
    sums: dict[str, list[float]] = {}
    with (tour.folder / "datasets" / "flights-jfk" / "flights.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["arr_delay"] not in ("", "NA"):
                entry = sums.setdefault(row["carrier"], [0, 0.0])
                entry[0] += 1
                entry[1] += float(row["arr_delay"])
    return {carrier: (int(count), total / count) for carrier, (count, total) in sums.items()}


def ray_tunes(tour: Tour) -> None:
    """A Ray job tunes a classifier on whichever hub is free; its runs are visible in MLflow."""
    job_id = tour.submit("tune-digits", "tune_digits.py", engine="ray", resources={"cpus": 2, "memory": "3Gi"})
    job = tour.succeeded(job_id, 600)
    (result,) = tour.client.fetch(job_id, tour.scratch / "tune")
    best = json.loads(result.read_text())
    tour.say(f"{len(best['trials'])} settings tried at {job.hub_id}; best accuracy {best['best']['accuracy']:.4f}")
    tour.prove(best["best"]["accuracy"] > 0.95, "the tuned classifier reads more than 95 % of the digits")
    runs = _tracked(tour, job_id)
    tour.prove([run["info"]["run_id"] for run in runs] == [job.tracking_run_id], "the job names its run in MLflow")
    tags = {entry["key"]: entry["value"] for entry in runs[0]["data"]["tags"]} if runs else {}
    tour.prove(tags.get("brhub.hub") == job.hub_id, f"tagged with job, hub {tags.get('brhub.hub')}, attempt and user")
    children = _tracked_children(tour, runs[0]["info"]["run_id"])
    tour.prove(len(children) == len(best["trials"]), f"and below it the {len(children)} settings with their scores")


def _mlflow(tour: Tour, filter_string: str) -> list[Any]:
    address = json.loads((tour.folder / "data" / "mlflow" / "server.json").read_text())
    base = f"http://127.0.0.1:{address['port']}/api/2.0/mlflow"

    def post(path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(  # noqa: S310 - our own loopback address
            f"{base}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - as above
            return json.loads(answer.read())

    experiments = post("experiments/search", {"max_results": 100}).get("experiments", [])
    ids = [entry["experiment_id"] for entry in experiments]
    found = post("runs/search", {"experiment_ids": ids, "filter": filter_string, "max_results": 100})
    return list(found.get("runs", []))


def _tracked(tour: Tour, job_id: str) -> list[Any]:
    return _mlflow(tour, f"tags.`brhub.job` = '{job_id}'")


def _tracked_children(tour: Tour, run_id: str) -> list[Any]:
    return _mlflow(tour, f"tags.`mlflow.parentRunId` = '{run_id}'")


def too_big_waits(tour: Tour) -> None:
    """A job too big for anyone waits, and says why, hub by hub."""
    job_id = tour.submit(
        "too-big", "count.py", engine="command", arguments=["1"], resources={"cpus": 640, "memory": "1Gi"}
    )
    tour.show("job", "explain", job_id)
    explanation = tour.client.explain(job_id)
    codes = {reason.hub_id: reason.code for reason in explanation.reasons if reason.hub_id}
    tour.prove(codes == dict.fromkeys(HUBS, "SHAPE_NEVER_FITS"), "every hub says that it never fits there")
    tour.prove(state_of(tour.client.get(job_id)) == "QUEUED", "it waits rather than fail")
    tour.client.cancel(job_id)


def agent_dies(tour: Tour) -> None:
    """An agent is killed with SIGKILL in the middle of a job and comes back; the job ends once."""
    job_id = tour.submit(
        "count-seconds",
        "count.py",
        engine="command",
        arguments=["12"],
        hubs={"allow": ["shenzhen"]},
        resources={"cpus": 1, "memory": "256Mi"},
    )
    tour.follow(job_id, lambda job: state_of(job) == "RUNNING", 60)
    (agent,) = [one for one in processes.noted(tour.folder) if one.name == "hub-shenzhen"]
    os.kill(agent.pid, signal.SIGKILL)
    tour.say(f"killed shenzhen's agent (pid {agent.pid})")
    embedded.start_agent(tour.folder, "shenzhen")
    tour.say("started it again")
    job = tour.succeeded(job_id, 120)
    fetched = {path.name: path for path in tour.client.fetch(job_id, tour.scratch / "count")}
    tour.prove(job.attempts == 1, "one attempt: the agent found its run and adopted it")
    tour.prove(fetched["starts.txt"].read_text().count("\n") == 1, "the program was started once")
    tour.prove(fetched["total.txt"].read_text() == "12\n", "and its one result is there")


def cancel_leaves_nothing(tour: Tour) -> None:
    """Cancel ends a Spark job and leaves no process."""
    job_id = tour.submit("linger", "linger.py", resources={"cpus": 2, "memory": "2Gi"})
    tour.follow(job_id, lambda job: state_of(job) == "RUNNING", 120)
    for chunk in tour.client.logs(job_id, follow=True):
        if b"lingering" in chunk:
            break
    before = _processes_of(job_id)
    tour.prove(len(before) >= 2, f"{len(before)} processes work for it")
    tour.client.cancel(job_id, "shown enough")
    tour.follow(job_id, lambda job: state_of(job) == "CANCELLED", 60)
    left = _processes_of(job_id)
    tour.prove(not left, "cancelled, and no process of it is left")


def _processes_of(job_id: str) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("BRHUB_JOB_ID") == job_id:
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue  # gone meanwhile, or another user's: not ours
    return found


def a_students_lab(tour: Tour) -> None:
    """A student's lab, asked for at Kuala Lumpur's JupyterHub, runs at Shenzhen."""
    run_lab(tour)


CORE: tuple[Step, ...] = (
    look_around,
    spark_goes_to_the_data,
    too_big_waits,
    agent_dies,
    cancel_leaves_nothing,
)
FULL: tuple[Step, ...] = (
    look_around,
    spark_goes_to_the_data,
    ray_tunes,
    too_big_waits,
    agent_dies,
    cancel_leaves_nothing,
    a_students_lab,
)
