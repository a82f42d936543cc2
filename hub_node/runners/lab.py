"""Course labs: a student's own Jupyter server under guard, sized by the lease, on loopback.

The server asks the student's JupyterHub who may come in: its address and token arrive as secret variables
(`JUPYTERHUB_*`, as the spawner made them) and only where it listens is decided here. The package is the student's folder. Spark in a
notebook follows the lease too, without a word in the notebook. Not here: the way from another campus to this port (a later
tunnel), and keeping the student's work after the lab (a later store). Read next: `courses/spawner.py`, the other end.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import shlex
import socket
import sys

from federation.errors import Code, Fault, FederationError, invalid
from hub_node.ports import Attempt
from hub_node.runners import guard
from hub_node.runners.process import ProcessRunner, Program
from hub_node.runners.spark import MIB, SparkSettings, cpus_of, find_java, find_spark, heap, lease_conf, write_logging

HOST = "127.0.0.1"
SERVER_BYTES = 512 * MIB
"""What the Jupyter server and a kernel take of the lease before Spark gets its heap."""
ASK_S = 0.5
_WITHOUT = {"@jupyterlab/apputils-extension:announcements": True}
"""It asks every student about news, and looks for releases on servers that a campus may not reach."""
_NEEDED = ("JUPYTERHUB_API_URL", "JUPYTERHUB_API_TOKEN", "JUPYTERHUB_SERVICE_PREFIX")

_RECORD = "lab.json"


class LabRunner(ProcessRunner):
    """A Runner (`hub_node/ports.py`) for one student's lab. `default_url` is where the browser lands."""

    def __init__(self, default_url: str = "/lab") -> None:
        super().__init__()
        self._default_url = default_url
        self._url = ""
        self._answered = False

    def program(self, attempt: Attempt) -> Program:
        """`jupyterhub-singleuser` for this attempt. Raises: FederationError INVALID_ARGUMENT, TOOL_MISSING."""
        missing = [name for name in _NEEDED if not attempt.variables.get(name)]
        if missing:
            raise invalid(
                f"The lab was not told its JupyterHub: {', '.join(missing)} is missing.",
                hint="Labs are started by a JupyterHub with courses.spawner:FederationSpawner.",
                field="environment.secret_variables",
            )
        if importlib.util.find_spec("jupyterhub") is None or importlib.util.find_spec("jupyterlab") is None:
            hint = "The operator installs the extra `labs`."
            raise FederationError(Code.TOOL_MISSING, "This hub has no Jupyter.", fault=Fault.HUB, hint=hint)
        prefix = attempt.variables["JUPYTERHUB_SERVICE_PREFIX"]
        port = _free_port()
        self._url = f"http://{HOST}:{port}{prefix}"
        guard.write_json(str(attempt.folder / _RECORD), {"url": self._url})
        work = attempt.run.lease.work
        course = attempt.package / work.entrypoint
        words = [sys.executable, "-m", "jupyterhub.singleuser", f"--ip={HOST}", f"--port={port}"]
        words += [f"--ServerApp.root_dir={course if course.is_dir() else attempt.package}"]
        words += [
            "--ServerApp.open_browser=False",
            "--ServerApp.port_retries=0",
            "--ServerApp.allow_remote_access=True",
        ]
        if os.geteuid() == 0:
            words.append("--allow-root")
        variables = lab_variables(attempt) | {
            "JUPYTERHUB_SERVICE_URL": self._url,
            "JUPYTERHUB_DEFAULT_URL": attempt.variables.get("JUPYTERHUB_DEFAULT_URL") or self._default_url,
        }
        return Program((*words, *work.arguments), attempt.package, variables)

    def address(self) -> str:
        """The lab's address, once something answers there. Raises: OSError where what was written down cannot be read."""
        if not self._url:  # an agent died between the start and writing that down
            self._url = str(guard.read_json(str(self.folder / _RECORD)).get("url", ""))
        if not self._answered:
            self._answered = bool(self._url) and _answers(self._url)
        return self._url if self._answered else ""

    def save_state(self) -> str:
        """The process, and its address."""
        return json.dumps({**json.loads(super().save_state()), "url": self._url})

    def load_state(self, text: str) -> None:
        """Find both."""
        super().load_state(text)
        self._url = str(json.loads(text).get("url", ""))


def lab_variables(attempt: Attempt) -> dict[str, str]:
    """The lab's environment: a home of its own, the job's Python as its kernel, and Spark sized by the lease."""
    home = attempt.folder / "home"
    kernel = attempt.folder / "jupyter" / "kernels" / "python3"
    home.mkdir(parents=True, exist_ok=True)
    kernel.mkdir(parents=True, exist_ok=True)
    command = [str(attempt.python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    labconfig = home / ".jupyter" / "labconfig"
    labconfig.mkdir(parents=True, exist_ok=True)
    (labconfig / "page_config.json").write_text(json.dumps({"disabledExtensions": _WITHOUT}), encoding="utf-8")
    content = {"argv": command, "display_name": "Python 3", "language": "python", "metadata": {"debugger": True}}
    (kernel / "kernel.json").write_text(json.dumps(content), encoding="utf-8")
    return {
        **attempt.variables,
        "HOME": str(home),
        "JUPYTER_PATH": str(attempt.folder / "jupyter"),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "PYTHONUNBUFFERED": "1",
        **_spark_variables(attempt),
    }


def _spark_variables(attempt: Attempt) -> dict[str, str]:
    """What makes `SparkSession.builder.getOrCreate()` in a cell take the lease's share; empty where there is no Spark."""
    try:
        spark_home, java_home = find_spark(attempt.variables), find_java(attempt.variables)
    except FederationError:
        return {}  # a course that needs Spark then says so in its first cell; another course needs none
    scratch = attempt.folder / "spark"
    write_logging(scratch)
    work = attempt.run.lease.work
    conf = lease_conf(attempt, SparkSettings(), scratch)
    conf["spark.driver.memory"] = heap(max(0, work.memory_bytes * work.replicas - SERVER_BYTES))
    words = ["--master", f"local[{cpus_of(attempt)}]"]
    for name, text in sorted(conf.items()):
        words += ["--conf", f"{name}={text}"]
    return {
        "JAVA_HOME": str(java_home),
        "SPARK_HOME": str(spark_home),
        "SPARK_CONF_DIR": str(scratch / "conf"),
        "SPARK_LOCAL_IP": HOST,
        "SPARK_LOCAL_DIRS": str(scratch / "local"),
        "PYSPARK_PYTHON": str(attempt.python),
        "PYSPARK_DRIVER_PYTHON": str(attempt.python),
        "PYSPARK_SUBMIT_ARGS": shlex.join([*words, "pyspark-shell"]),
    }


def _answers(url: str) -> bool:
    """Whether an HTTP server answers at `url`, whatever it says."""
    address, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(address, timeout=ASK_S)
    try:
        connection.request("GET", f"/{path}api")
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
