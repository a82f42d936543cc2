"""The lab step: a student logs in at Kuala Lumpur's JupyterHub, and the lab that opens runs at Shenzhen.

What a browser does is done here with plain HTTP: log in, ask for a server, follow its progress, open a kernel's websocket
and run cells of the course's notebook.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import federation
from federation.cli import layout, processes
from federation.cli.show import state_of
from federation.cli.tour.running import StepFailed, Tour

STUDENT = "siti"
COURSE = "flights-spark"
NOTEBOOK = "late-or-not.ipynb"
FLIGHTS_OF_LGA = 104_662
START_S_MAX = 120.0
LAB_S_MAX = 180.0
CELL_S_MAX = 120.0
TASK_1 = 'total = flights.count()\ncancelled = flights.where(F.col("dep_time").isNull()).count()'
"""The student's answer to the first task."""


def run_lab(tour: Tour) -> None:
    """Log in, spawn, run the first cells and the first task, stop."""
    with jupyterhub_at(tour.folder) as (base, password):
        session = _logged_in(base, password)
        tour.say(f"{STUDENT} has logged in at {base}/hub/ and chooses {COURSE}")
        _spawn(tour, session, base)
        job = _lab_job(tour)
        tour.prove(job.hub_id == "shenzhen", "the lab runs on Shenzhen's agent, where its data is")
        printed = _work(tour, session, base)
        tour.prove("at shenzhen" in printed[0], f"the notebook's first cell says so itself: {printed[0].strip()}")
        tour.prove(
            printed[-1].strip() == str(FLIGHTS_OF_LGA), f"the first task's answer is right: {FLIGHTS_OF_LGA:,} flights"
        )
        session.delete(f"{base}/hub/api/users/{STUDENT}/server", timeout=60).raise_for_status()
        tour.follow(job.id, lambda one: state_of(one) == "CANCELLED", 60)
        tour.prove(True, "the student stopped it, and the machine is free again")


@contextlib.contextmanager
def jupyterhub_at(folder: Path) -> Iterator[tuple[str, str]]:
    """A JupyterHub of the federation in `folder`, as infra/jupyterhub configures it; (its address, everybody's password).

    Raises: StepFailed when it does not come up.
    """
    config = Path(federation.__path__[0]).parent / "infra" / "jupyterhub" / "jupyterhub_config.py"
    if not config.is_file():
        raise StepFailed("infra/jupyterhub is not here: run the tour in a checkout")
    port, password = _three_ports(), secrets.token_urlsafe(12)
    started = processes.start(
        "jupyterhub",
        [sys.executable, "-m", "jupyterhub", "-f", str(config)],
        folder,
        {
            "BRHUB_DIR": str(folder),
            "BRHUB_LAB_PASSWORD": password,
            "BRHUB_JUPYTERHUB_PORT": str(port),
            "PYTHONPATH": str(Path(federation.__path__[0]).parent),
        },
    )
    base = f"http://{layout.LOOPBACK}:{port}"
    try:
        _until_up(f"{base}/hub/login", started)
        yield base, password
    finally:
        processes.stop_one(folder, "jupyterhub")


def _three_ports() -> int:
    """A port with two free ones above it: the door, the hub's API, the proxy's API."""
    for _ in range(50):
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):  # one of the three is taken
            first = held.enter_context(socket.socket())
            first.bind((layout.LOOPBACK, 0))
            port = int(first.getsockname()[1])
            for above in (1, 2):
                held.enter_context(socket.socket()).bind((layout.LOOPBACK, port + above))
            return port
    raise StepFailed("no three free ports in a row")


def _until_up(url: str, started: processes.Started) -> None:
    import requests

    deadline_s, pause = time.monotonic() + START_S_MAX, threading.Event()
    while time.monotonic() < deadline_s and processes.is_alive(started):
        with contextlib.suppress(requests.RequestException):  # not up yet
            if requests.get(url, timeout=5).ok:
                return
        pause.wait(0.3)
    raise StepFailed(f"JupyterHub did not come up:\n{processes.log_tail(started.log)}")


def _logged_in(base: str, password: str) -> Any:
    """A session that is the student: the login form, then a token of their own for the API."""
    import requests

    session = requests.Session()
    session.get(f"{base}/hub/login", timeout=30).raise_for_status()
    form = {"username": STUDENT, "password": password, "_xsrf": session.cookies.get("_xsrf", path="/hub/")}
    session.post(f"{base}/hub/login", data=form, timeout=30).raise_for_status()
    guard = {"X-XSRFToken": str(session.cookies.get("_xsrf", path="/hub/")), "Referer": f"{base}/hub/token"}
    answer = session.post(f"{base}/hub/api/users/{STUDENT}/tokens", json={"note": "tour"}, headers=guard, timeout=30)
    answer.raise_for_status()
    plain = requests.Session()  # without cookies: a token needs no xsrf
    plain.headers["Authorization"] = f"token {answer.json()['token']}"
    return plain


def _spawn(tour: Tour, session: Any, base: str) -> None:
    """Ask for the lab and follow its progress, as the spawn page does."""
    session.post(f"{base}/hub/api/users/{STUDENT}/server", json={"course": COURSE}, timeout=60).raise_for_status()
    said = ""
    with session.get(f"{base}/hub/api/users/{STUDENT}/server/progress", stream=True, timeout=LAB_S_MAX) as progress:
        for line in progress.iter_lines():
            if not line.startswith(b"data:"):
                continue
            event = json.loads(line[5:])
            if event.get("message") and event["message"] != said:
                said = event["message"]
                tour.say(f"{event.get('progress', 0):>3} % {said}")
            if event.get("failed"):
                raise StepFailed(f"the lab did not start: {said}")
            if event.get("ready"):
                return
    raise StepFailed(f"the lab was not ready within {LAB_S_MAX:.0f} s: {said}")


def _lab_job(tour: Tour) -> Any:
    for job in tour.client.list():
        if job.spec.engine == "lab" and state_of(job) == "RUNNING":
            return job
    raise StepFailed("no lab is among the running jobs")


def _work(tour: Tour, session: Any, base: str) -> list[str]:
    """Run the notebook's first cells, the student's answer and its check; what each printed."""
    user = f"{base}/user/{STUDENT}"
    notebook = session.get(f"{user}/api/contents/{NOTEBOOK}", timeout=60).json()["content"]
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    task = next(place for place, cell in enumerate(cells) if cell.startswith("total = ..."))
    chosen = [
        cell for cell in cells[:task] if "SparkSession.builder" in cell or cell.startswith("flights = spark.read")
    ]
    kernel = session.post(f"{user}/api/kernels", json={}, timeout=60).json()["id"]
    token = session.headers["Authorization"].split()[1]
    printed = []
    with _websocket(f"{user}/api/kernels/{kernel}/channels", token) as socket_:
        for cell in [*chosen, TASK_1, cells[task + 1], "print(total)"]:
            printed.append(_run_cell(socket_, cell))
            if printed[-1].strip():
                tour.say(printed[-1].strip().splitlines()[-1][:110])
    return printed


@contextlib.contextmanager
def _websocket(url: str, token: str) -> Iterator[Any]:
    import websocket

    opened = websocket.create_connection(
        url.replace("http://", "ws://", 1), timeout=CELL_S_MAX, header=[f"Authorization: token {token}"]
    )
    try:
        yield opened
    finally:
        opened.close()


def _run_cell(opened: Any, code: str) -> str:
    """Execute one cell over the kernel's websocket; what it printed. An error in it is the step's."""
    message_id = uuid.uuid4().hex
    header = {
        "msg_id": message_id,
        "msg_type": "execute_request",
        "username": STUDENT,
        "session": "tour",
        "version": "5.3",
    }
    content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": True}
    request = {
        "header": header,
        "parent_header": {},
        "metadata": {},
        "content": content,
        "channel": "shell",
        "buffers": [],
    }
    opened.send(json.dumps(request))
    printed: list[str] = []
    while True:
        message = json.loads(opened.recv())
        if message.get("parent_header", {}).get("msg_id") != message_id:
            continue
        kind, said = message["msg_type"], message["content"]
        if kind == "stream" and said["name"] == "stdout":
            printed.append(said["text"])
        elif kind == "error":
            raise StepFailed(f"a cell failed: {said['ename']}: {said['evalue']}")
        elif kind == "status" and said["execution_state"] == "idle":
            return "".join(printed)
