"""A lab's command and environment; the server itself runs in the end-to-end tests."""

from __future__ import annotations

import json
import shlex
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from federation.errors import Code, FederationError
from hub_node.runners.lab import LabRunner, lab_variables
from hub_node.runners.spark import MIB, heap
from tests.support.engine_attempts import GIB, attempt, work

HUB = {
    "JUPYTERHUB_API_URL": "http://127.0.0.1:8081/hub/api",
    "JUPYTERHUB_API_TOKEN": "student-token",
    "JUPYTERHUB_SERVICE_PREFIX": "/user/amina/",
}


def lab(**changed: object) -> object:
    """A lab of one course."""
    return work(engine="lab", entrypoint="flights-spark", secret_variables=HUB, memory_bytes=2 * GIB, **changed)


def test_a_lab_listens_where_the_agent_says(tmp_path: Path) -> None:
    """Loopback, a free port, the prefix of its JupyterHub: address and JUPYTERHUB_SERVICE_URL agree."""
    program = LabRunner().program(attempt(tmp_path, lab(), {"late-or-not.ipynb": "{}"}))  # type: ignore[arg-type]  # a builder
    url = program.env["JUPYTERHUB_SERVICE_URL"]
    port = next(word.split("=")[1] for word in program.argv if word.startswith("--port="))
    assert url == f"http://127.0.0.1:{port}/user/amina/"
    assert "--ip=127.0.0.1" in program.argv
    assert f"--ServerApp.root_dir={tmp_path / 'package'}" in program.argv
    assert program.argv[:3] == (sys.executable, "-m", "jupyterhub.singleuser")


def test_a_course_folder_inside_the_package_is_the_students(tmp_path: Path) -> None:
    """A package that holds the course as a folder opens there."""
    program = LabRunner().program(attempt(tmp_path, lab(), {"flights-spark/a.ipynb": "{}"}))  # type: ignore[arg-type]  # a builder
    assert f"--ServerApp.root_dir={tmp_path / 'package' / 'flights-spark'}" in program.argv


def test_a_lab_has_a_home_a_kernel_and_a_spark_of_its_own(tmp_path: Path) -> None:
    """The student's files stay in the attempt; a notebook's Spark takes what the lease leaves beside the server."""
    variables = lab_variables(attempt(tmp_path, lab(), {"a.ipynb": "{}"}))  # type: ignore[arg-type]  # a builder
    kernel = json.loads((tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json").read_text(encoding="utf-8"))
    words = shlex.split(variables["PYSPARK_SUBMIT_ARGS"])
    assert variables["HOME"] == str(tmp_path / "home")
    assert (tmp_path / "home" / ".jupyter" / "labconfig" / "page_config.json").is_file()
    assert kernel["argv"][0] == sys.executable
    assert words[:2] == ["--master", "local[1]"]
    assert words[-1] == "pyspark-shell"
    assert f"spark.driver.memory={heap(2 * GIB - 512 * MIB)}" in words


def test_a_lab_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    """Without its JupyterHub's variables anybody could come in: nothing is started."""
    made = attempt(tmp_path, work(engine="lab", entrypoint="flights-spark"), {"a.ipynb": "{}"})
    with pytest.raises(FederationError) as caught:
        LabRunner().program(made)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert "JUPYTERHUB_API_TOKEN" in caught.value.message


def test_the_address_appears_once_something_answers_and_survives_the_agent(tmp_path: Path) -> None:
    """Nobody is sent to a port that does not answer yet; a new process of the agent knows the address."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            """Quiet."""

        def do_GET(self) -> None:
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()

    first = LabRunner()
    made = attempt(tmp_path, lab(), {"a.ipynb": "{}"})  # type: ignore[arg-type]  # a builder
    program = first.program(made)
    first._folder = tmp_path
    assert first.address() == ""
    port = int(program.env["JUPYTERHUB_SERVICE_URL"].split(":")[2].split("/")[0])
    server = HTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        second = LabRunner()
        second.load_state(first.save_state())
        assert second.address() == first.address() == program.env["JUPYTERHUB_SERVICE_URL"]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
