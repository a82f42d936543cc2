"""Spark jobs: `spark-submit` in client mode, under guard, sized by the lease.

Without a master of the hub's own, Spark runs inside the driver (`local[N]`), which needs no cluster and leaves nothing;
with one (standalone, YARN, Kubernetes) the driver still runs here, so that ending its process group ends the job.
Cluster deploy mode is deliberately absent: it refuses Python, and killing its submission orphans the driver.
What is here is a function of the attempt and the hub's settings; the process itself is `process.py`'s.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from federation.errors import Code, Fault, FederationError, invalid
from hub_node.ports import Attempt
from hub_node.runners.process import ProcessRunner, Program

MIB = 1024 * 1024
OVERHEAD_BYTES_MIN = 384 * MIB
OVERHEAD_SHARE = 0.10
HEAP_BYTES_MIN = 512 * MIB
"""Spark refuses a heap below 450 MiB; a lease with less memory is given this, and the machine's swap decides."""
RESIDENT_BYTES_MIN = 2048 * MIB
"""The memory watch allows this much even to a smaller lease: the smallest heap, the JVM around it, and Python."""
JAVA_OLDEST = 17

_LOGGING = """\
rootLogger.level = warn
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %d{HH:mm:ss} %p %c{1}: %m%n%ex
logger.loader.name = org.apache.hadoop.util.NativeCodeLoader
logger.loader.level = error
"""
"""Spark's own default tells every task at length; a person who reads a job's log wants what the job printed."""


@dataclass(frozen=True, slots=True)
class SparkSettings:
    """What this hub says about its Spark."""

    master: str = ""
    """Empty: inside the driver. Else `spark://...`, `yarn`, `k8s://...`."""
    driver_host: str = "127.0.0.1"
    """Where a cluster's executors reach the driver."""
    executor_python: str = ""
    """Python on the cluster's machines; empty: the job's own environment, on a shared folder."""
    conf: Mapping[str, str] = field(default_factory=dict)
    """Further Spark settings of the hub; they win over what follows from the lease."""


class SparkRunner(ProcessRunner):
    """A Runner (`hub_node/ports.py`) for one Spark program."""

    def __init__(self, settings: SparkSettings) -> None:
        super().__init__()
        self._settings = settings

    def program(self, attempt: Attempt) -> Program:
        """The spark-submit of this attempt."""
        return spark_submit(attempt, self._settings)

    def memory_bytes_max(self, attempt: Attempt) -> int:
        """As for any process, but never less than what Spark's smallest heap needs around it."""
        watched = super().memory_bytes_max(attempt)
        return max(watched, RESIDENT_BYTES_MIN) if watched else 0


def spark_submit(attempt: Attempt, settings: SparkSettings) -> Program:
    """How to start this attempt's Spark program; makes the scratch folders that the words name.

    Raises: FederationError INVALID_ARGUMENT (no such entrypoint, not Python or a jar), TOOL_MISSING (Spark, Java).
    """
    program = entrypoint_of(attempt)
    spark_home = find_spark(attempt.variables)
    scratch = attempt.folder / "spark"
    write_logging(scratch)
    work = attempt.run.lease.work
    conf = {**lease_conf(attempt, settings, scratch), **settings.conf}
    words = [str(spark_home / "bin" / "spark-submit"), "--master", settings.master or f"local[{cpus_of(attempt)}]"]
    words += ["--deploy-mode", "client", "--name", work.name]
    for name, text in sorted(conf.items()):
        words += ["--conf", f"{name}={text}"]
    variables = {
        **attempt.variables,
        "JAVA_HOME": str(find_java(attempt.variables)),
        "SPARK_HOME": str(spark_home),
        "SPARK_LOCAL_IP": settings.driver_host,
        "SPARK_LOCAL_DIRS": str(scratch / "local"),
        "PYSPARK_DRIVER_PYTHON": str(attempt.python),
        "PYSPARK_PYTHON": settings.executor_python or str(attempt.python),
        "PYTHONUNBUFFERED": "1",
    }
    if not settings.master:
        variables["SPARK_CONF_DIR"] = str(scratch / "conf")
    return Program((*words, str(program), *work.arguments), attempt.package, variables)


def write_logging(scratch: Path) -> None:
    """Make Spark's folders for one attempt, with a `conf` that keeps its log short."""
    for name in ("local", "conf", "warehouse"):
        (scratch / name).mkdir(parents=True, exist_ok=True)
    (scratch / "conf" / "log4j2.properties").write_text(_LOGGING, encoding="utf-8")


def cpus_of(attempt: Attempt) -> int:
    """Whole CPUs of all tasks together: the gang runs inside one process when Spark is embedded."""
    work = attempt.run.lease.work
    return max(1, math.ceil(work.cpu_milli * work.replicas / 1000))


def lease_conf(attempt: Attempt, settings: SparkSettings, scratch: Path) -> dict[str, str]:
    """Spark's settings as they follow from the lease."""
    work = attempt.run.lease.work
    conf = {
        "spark.driver.host": settings.driver_host,
        "spark.driver.bindAddress": settings.driver_host,
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.eventLog.enabled": "false",
        "spark.sql.warehouse.dir": str(scratch / "warehouse"),
    }
    java = f"-Dderby.system.home={scratch}"
    task_cpus = max(1, math.ceil(work.cpu_milli / 1000))
    if not settings.master:
        cpus = cpus_of(attempt)
        return conf | {
            "spark.driver.memory": heap(work.memory_bytes * work.replicas),
            "spark.driver.extraJavaOptions": f"{java} -XX:ActiveProcessorCount={cpus}",
            "spark.sql.shuffle.partitions": str(max(4, 2 * cpus)),
        }
    return conf | {
        "spark.driver.extraJavaOptions": java,
        "spark.executor.instances": str(work.replicas),
        "spark.executor.cores": str(task_cpus),
        "spark.cores.max": str(task_cpus * work.replicas),
        "spark.executor.memory": heap(work.memory_bytes),
        "spark.dynamicAllocation.enabled": "false",
    }


def heap(memory_bytes: int) -> str:
    """Java's heap within a memory of so many bytes, as Spark writes it: what max(384 MiB, 10 %) leaves, at least 512m.

    The rest is for the JVM's own needs and for Python, which run beside the heap.
    """
    overhead = max(OVERHEAD_BYTES_MIN, int(memory_bytes * OVERHEAD_SHARE))
    return f"{max(HEAP_BYTES_MIN, memory_bytes - overhead) // MIB}m"


def entrypoint_of(attempt: Attempt) -> Path:
    """The program in the package. Raises: FederationError INVALID_ARGUMENT."""
    name = attempt.run.lease.work.entrypoint
    program = attempt.package / name
    if not program.is_file():
        raise invalid(
            f"The package holds no file {name!r}.",
            hint="`entrypoint` is relative to the folder named by `package`.",
            entrypoint=name,
        )
    if program.suffix not in (".py", ".jar"):
        raise invalid(
            f"Spark cannot run {name!r}.",
            hint="Use a Python program (.py) or a .jar with a main class.",
            entrypoint=name,
        )
    return program


def find_spark(environ: Mapping[str, str]) -> Path:
    """Spark's folder: SPARK_HOME where the hub set it, else the installed package's. Raises: TOOL_MISSING."""
    named = environ.get("SPARK_HOME", "")
    if named and (Path(named) / "bin" / "spark-submit").is_file():
        return Path(named)
    found = importlib.util.find_spec("pyspark")
    if found is not None and found.origin is not None:
        return Path(found.origin).parent
    raise FederationError(
        Code.TOOL_MISSING,
        "This hub has no Spark.",
        fault=Fault.HUB,
        hint="The operator installs the extra `spark`, or sets SPARK_HOME for the agent.",
    )


def find_java(environ: Mapping[str, str]) -> Path:
    """A JAVA_HOME with Java 17 or newer: JAVA_HOME, the PATH's java, then the one the set-up brought. Raises: TOOL_MISSING."""
    named = environ.get("JAVA_HOME", "")
    on_path = shutil.which("java", path=environ.get("PATH", os.defpath))
    candidates = [Path(named)] if named else []
    if on_path:
        candidates.append(Path(on_path).resolve().parent.parent)
    candidates.append(Path(sys.prefix) / "java")
    for home in candidates:
        if os.access(home / "bin" / "java", os.X_OK) and java_version(home) >= JAVA_OLDEST:
            return home
    raise FederationError(
        Code.TOOL_MISSING,
        f"This hub has no Java {JAVA_OLDEST} or newer, which Spark needs.",
        fault=Fault.HUB,
        hint="The operator runs `./run setup`, or installs a Java 17 runtime.",
    )


def java_version(home: Path) -> int:
    """The feature number in a Java's `release` file; where there is none (a wrapper), it is trusted to be new enough."""
    try:
        text = (home / "release").read_text(encoding="utf-8")
    except OSError:
        return JAVA_OLDEST
    match = re.search(r'^JAVA_VERSION="(?:1\.)?(\d+)', text, re.MULTILINE)
    return int(match.group(1)) if match else JAVA_OLDEST
