"""Spark's command line as it follows from the lease; nothing here starts Spark (see tests/end_to_end/test_engines.py)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from federation.errors import Code, Fault, FederationError
from hub_node.runners.spark import MIB, SparkSettings, find_java, find_spark, heap, java_version, spark_submit
from tests.support.engine_attempts import GIB, attempt, work

PROGRAM = {"main.py": "print('hello')"}


def java_home(folder: Path, version: str) -> Path:
    """A Java as far as we look at it."""
    (folder / "bin").mkdir(parents=True)
    program = folder / "bin" / "java"
    program.write_text("#!/bin/sh\n", encoding="utf-8")
    program.chmod(0o755)
    if version:
        (folder / "release").write_text(f'IMPLEMENTOR="x"\nJAVA_VERSION="{version}"\n', encoding="utf-8")
    return folder


def conf_of(argv: tuple[str, ...]) -> dict[str, str]:
    """The --conf pairs."""
    pairs = [argv[at + 1] for at, word in enumerate(argv) if word == "--conf"]
    return dict(pair.split("=", 1) for pair in pairs)


@pytest.mark.parametrize(
    ("memory_bytes", "expected"),
    [
        (0, "512m"),
        (GIB // 2, "512m"),
        (GIB, "640m"),  # 1024 - 384
        (2 * GIB, "1664m"),  # 384 MiB is more than 10 %
        (16 * GIB, "14745m"),  # 10 % is more than 384 MiB
    ],
)
def test_the_heap_is_the_lease_less_its_overhead(memory_bytes: int, expected: str) -> None:
    """Heap = memory - max(384 MiB, 10 %), and never below what Spark accepts."""
    assert heap(memory_bytes) == expected


def test_an_embedded_gang_runs_inside_one_process(tmp_path: Path) -> None:
    """`local[N]`: N and the heap are those of all tasks together; everything stays on loopback and in the scratch."""
    wanted = work(engine="spark", cpu_milli=1_500, replicas=2, memory_bytes=2 * GIB, arguments=("--top", "10"))
    program = spark_submit(attempt(tmp_path, wanted, PROGRAM), SparkSettings())
    conf = conf_of(program.argv)
    assert program.argv[1:5] == ("--master", "local[3]", "--deploy-mode", "client")
    assert program.argv[-3:] == (str(tmp_path / "package" / "main.py"), "--top", "10")
    assert conf["spark.driver.memory"] == heap(4 * GIB)
    assert conf["spark.driver.host"] == conf["spark.driver.bindAddress"] == "127.0.0.1"
    assert "-XX:ActiveProcessorCount=3" in conf["spark.driver.extraJavaOptions"]
    assert conf["spark.ui.enabled"] == conf["spark.eventLog.enabled"] == "false"
    assert program.env["SPARK_LOCAL_IP"] == "127.0.0.1"
    assert program.env["SPARK_LOCAL_DIRS"].startswith(str(tmp_path))
    assert program.env["PYSPARK_PYTHON"] == program.env["PYSPARK_DRIVER_PYTHON"] == sys.executable
    assert program.cwd == tmp_path / "package"


def test_a_cluster_gets_one_executor_for_each_task(tmp_path: Path) -> None:
    """With a master of the hub's own, tasks become executors, and the hub's own settings win."""
    wanted = work(engine="spark", cpu_milli=2_000, replicas=3, memory_bytes=4 * GIB)
    settings = SparkSettings(master="spark://10.0.0.1:7077", driver_host="10.0.0.9", conf={"spark.ui.enabled": "true"})
    program = spark_submit(attempt(tmp_path, wanted, PROGRAM), settings)
    conf = conf_of(program.argv)
    assert program.argv[2] == "spark://10.0.0.1:7077"
    assert (conf["spark.executor.instances"], conf["spark.executor.cores"], conf["spark.cores.max"]) == ("3", "2", "6")
    assert conf["spark.executor.memory"] == heap(4 * GIB)
    assert conf["spark.driver.host"] == program.env["SPARK_LOCAL_IP"] == "10.0.0.9"
    assert conf["spark.ui.enabled"] == "true"
    assert "SPARK_CONF_DIR" not in program.env


@pytest.mark.parametrize("name", ["missing.py", "notes.txt"])
def test_a_program_that_spark_cannot_run_is_the_callers_to_correct(tmp_path: Path, name: str) -> None:
    """A missing entrypoint and one of another kind are refused by name before anything starts."""
    made = attempt(tmp_path, work(engine="spark", entrypoint=name), {"notes.txt": "x"})
    with pytest.raises(FederationError) as caught:
        spark_submit(made, SparkSettings())
    assert (caught.value.code, caught.value.fault) == (Code.INVALID_ARGUMENT, Fault.CALLER)
    assert name in caught.value.message


@pytest.mark.parametrize(("said", "expected"), [("17.0.15", 17), ("1.8.0_392", 8), ("21", 21), ("", 17)])
def test_a_java_is_known_by_its_release_file(tmp_path: Path, said: str, expected: int) -> None:
    """The feature number; a wrapper without the file is trusted."""
    assert java_version(java_home(tmp_path / "java", said)) == expected


def test_java_is_looked_for_in_order_and_old_ones_are_passed_over(tmp_path: Path) -> None:
    """JAVA_HOME counts only when it is new enough; then the PATH's."""
    old, young = java_home(tmp_path / "old", "11.0.2"), java_home(tmp_path / "young", "21.0.1")
    assert find_java({"JAVA_HOME": str(old), "PATH": str(young / "bin")}) == young
    assert find_java({"JAVA_HOME": str(young), "PATH": ""}) == young


def test_no_java_is_the_hubs_to_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing anywhere: TOOL_MISSING, with what the operator does."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    with pytest.raises(FederationError) as caught:
        find_java({"PATH": str(tmp_path)})
    assert (caught.value.code, caught.value.fault) == (Code.TOOL_MISSING, Fault.HUB)


def test_a_spark_of_the_hubs_own_is_preferred(tmp_path: Path) -> None:
    """SPARK_HOME counts when there is a spark-submit in it; else the package's."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "spark-submit").touch()
    assert find_spark({"SPARK_HOME": str(tmp_path)}) == tmp_path
    assert find_spark({"SPARK_HOME": str(tmp_path / "nowhere")}).name == "pyspark"


def test_a_small_lease_is_watched_by_what_spark_needs_at_least(tmp_path: Path) -> None:
    """The memory watch never goes below the smallest heap and what stands around it."""
    from hub_node.runners.spark import RESIDENT_BYTES_MIN, SparkRunner

    small = attempt(tmp_path / "small", work(engine="spark", memory_bytes=256 * MIB), PROGRAM)
    large = attempt(tmp_path / "large", work(engine="spark", memory_bytes=8 * GIB), PROGRAM)
    runner = SparkRunner(SparkSettings())
    assert runner.memory_bytes_max(small) == RESIDENT_BYTES_MIN
    assert runner.memory_bytes_max(large) > 8 * GIB
