"""The real engines, each under a real guard, without a control plane. One Ray head serves all tests of this file.

Among them programs that were not written for us, run unchanged from the installed packages.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hub_node.data.environments import build
from hub_node.ports import Phase
from hub_node.runners.ray import RayRunner, shape_of
from hub_node.runners.ray_cluster import RayClusterRunner, RayClusterSettings
from hub_node.runners.ray_head import RayHeads
from hub_node.runners.spark import SparkRunner, SparkSettings
from tests.support.engine_attempts import attempt, ended, work
from tests.support.eventually import eventually
from tests.support.local_wheels import wheel

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(400)]

RAY_PROGRAM = """
import os, sys
import ray
import beside  # a module of the package, in the driver and in the workers

@ray.remote
def square(number):
    return number * number + beside.ZERO, os.environ["BRHUB_JOB_ID"]

ray.init()
found = ray.get([square.remote(number) for number in range(4)])
print("squares", found, "cpus", int(ray.cluster_resources()["CPU"]), flush=True)
with open(os.path.join(os.environ["BRHUB_OUTPUT_DIR"], "squares.txt"), "w") as out:
    out.write(str(found))
sys.exit(int(sys.argv[1]))
"""
SPARK_FOREVER = """
import time
from pyspark.sql import SparkSession
spark = SparkSession.builder.getOrCreate()
spark.range(2).rdd.map(lambda n: (print("working", flush=True), time.sleep(600))).count()
"""


def folder_of(package: str, *below: str) -> Path:
    """A folder of an installed package."""
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent.joinpath(*below)


def processes_below(folder: Path) -> list[str]:
    """Processes that carry this attempt's output folder in their environment or their words."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            if str(folder) in " ".join(process.cmdline()) or str(folder / "output") in process.environ().values():
                found.append(" ".join(process.cmdline())[:100])
        except psutil.Error:
            continue
    return found


# ---- Spark ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "arguments", "files", "expected"),
    [
        ("pi.py", ("2",), {}, r"Pi is roughly 3\.1\d+"),
        (
            "wordcount.py",
            ("words.txt",),
            {"words.txt": "late late early\nlate\n"},
            r"(?s)late: 3.*early: 1|early: 1.*late: 3",
        ),
        ("sort.py", ("numbers.txt",), {"numbers.txt": "3 1\n2\n"}, r"(?m)^1\n2\n3$"),
    ],
)
def test_pysparks_own_examples_run_unchanged(
    tmp_path: Path, name: str, arguments: tuple[str, ...], files: dict[str, str], expected: str
) -> None:
    """pi, wordcount and sort from the installed package."""
    source = folder_of("pyspark", "examples", "src", "main", "python") / name
    made = attempt(
        tmp_path,
        work(engine="spark", entrypoint=name, arguments=arguments),
        {name: source.read_text(encoding="utf-8"), **files},
    )
    runner = SparkRunner(SparkSettings())
    runner.start(made)
    status = ended(runner)
    log = made.log.read_text(encoding="utf-8")
    assert (status.exit_code, status.code) == (0, ""), log
    assert re.search(expected, log), log


def test_a_stopped_spark_job_leaves_no_process(tmp_path: Path) -> None:
    """Java, the driver and Python's workers end together, also for an agent that found the run again."""
    made = attempt(tmp_path, work(engine="spark"), {"main.py": SPARK_FOREVER})
    first = SparkRunner(SparkSettings())
    first.start(made)
    eventually(lambda: made.log.exists() and "working" in made.log.read_text(encoding="utf-8"), 120)
    assert len(processes_below(tmp_path)) >= 3
    second = SparkRunner(SparkSettings())
    second.load_state(first.save_state())
    assert second.poll().phase is Phase.RUNNING
    second.stop(5_000)
    assert ended(second).code == "STOPPED"
    assert processes_below(tmp_path) == []


# ---- Ray --------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHeads]:
    """The agent's heads; all of them end with this file."""
    folder = tmp_path_factory.mktemp("heads")
    made = RayHeads(folder)
    yield made
    made.close()
    assert list(folder.iterdir()) == []
    assert processes_below(folder) == []


def run_ray(heads: RayHeads, folder: Path, exit_code: int, job_id: str) -> tuple[int, str, str]:
    """Run RAY_PROGRAM; (exit status, log, name of the head it had)."""
    wanted = work(engine="ray", arguments=(str(exit_code),), cpu_milli=1_500)
    made = attempt(folder, wanted, {"main.py": RAY_PROGRAM, "beside.py": "ZERO = 0\n"}, job_id=job_id)
    runner = RayRunner(heads)
    runner.start(made)
    status = ended(runner, 200)
    return status.exit_code, made.log.read_text(encoding="utf-8"), runner._head_name


def test_ray_jobs_of_one_person_share_a_warm_head(heads: RayHeads, tmp_path: Path) -> None:
    """The second job finds the head of the first; workers see the package and the variables; exit status and log are the driver's."""
    code, log, first = run_ray(heads, tmp_path / "one", 0, "job-one")
    assert code == 0, log
    assert "squares [(0, 'job-one'), (1, 'job-one'), (4, 'job-one'), (9, 'job-one')] cpus 2" in log
    assert (tmp_path / "one" / "output" / "squares.txt").exists()
    code, log, second = run_ray(heads, tmp_path / "two", 3, "job-two")
    assert code == 3, log
    assert "(9, 'job-two')" in log
    assert first == second


def test_a_head_is_found_again_by_the_agents_next_process(heads: RayHeads, tmp_path: Path) -> None:
    """A restart of the agent costs no head and no run."""
    wanted = work(engine="ray", cpu_milli=1_500)
    text = "import ray, time\nray.init()\nprint('up', flush=True)\ntime.sleep(600)\n"
    made = attempt(tmp_path, wanted, {"main.py": text}, job_id="job-long")
    first = RayRunner(heads)
    first.start(made)
    eventually(lambda: made.log.exists() and "up" in made.log.read_text(encoding="utf-8"), 120)
    restarted = RayHeads(heads._folder)
    second = RayRunner(restarted)
    second.load_state(first.save_state())
    assert second.poll().phase is Phase.RUNNING
    assert restarted.find(second._head_name) is not None
    second.stop(5_000)
    assert ended(second).code == "STOPPED"
    assert ended(first).code == "STOPPED"
    restarted._closing.set()  # its thread looks no more; the head stays with `heads`


def test_a_hubs_own_cluster_runs_a_job_and_ends_one_at_its_deadline_without_an_agent(
    heads: RayHeads, tmp_path: Path
) -> None:
    """Exit status and log are the driver's; nobody looks at the second, whose agent wrote its deadline down and is no more."""
    wanted = work(engine="ray", arguments=("3",), cpu_milli=1_500)
    made = attempt(tmp_path / "one", wanted, {"main.py": RAY_PROGRAM, "beside.py": "ZERO = 0\n"}, job_id="job-three")
    head = heads.acquire(shape_of(made), "the-cluster")
    settings = RayClusterSettings(head.api.url, head.token)
    runner = RayClusterRunner(settings)
    runner.start(made)
    status = ended(runner, 200)
    log = made.log.read_text(encoding="utf-8")
    assert status.exit_code == 3, log
    assert "(9, 'job-three')" in log

    text = "import ray, time\nray.init()\nprint('up', flush=True)\ntime.sleep(600)\n"
    made = attempt(tmp_path / "two", wanted, {"main.py": text}, job_id="job-four")
    runner = RayClusterRunner(settings)
    runner.start(made)
    eventually(lambda: made.log.exists() and "up" in made.log.read_text(encoding="utf-8"), 120)
    runner.extend(1, 0)
    eventually(lambda: (head.api.job("job-four-1-1") or {}).get("status") == "FAILED", 60)
    after = RayClusterRunner(settings)
    after.load_state(runner.save_state())
    assert after.poll().code == "RUNTIME_LIMIT"
    eventually(lambda: not processes_below(tmp_path / "two"), 60)
    heads.release(head.name, "the-cluster")


def test_workers_run_in_the_jobs_environment(heads: RayHeads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a job's requirements bring is there in the driver and in the workers, over the hub's own Ray."""
    index = tmp_path / "index"
    index.mkdir()
    wheel(index, "greeting", "1.0")
    monkeypatch.setenv("UV_FIND_LINKS", str(index))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    python = build("greeting==1.0", tmp_path / "cache", lambda _: None)
    text = (
        "import ray, greeting\nray.init()\n@ray.remote\ndef version():\n    import greeting\n    return greeting.VERSION\n"
        "print('worker', ray.get(version.remote()), 'driver', greeting.VERSION)\n"
    )
    made = attempt(tmp_path / "a", work(engine="ray", cpu_milli=1_500), {"main.py": text}, job_id="job-environment")
    runner = RayRunner(heads)
    runner.start(dataclasses.replace(made, python=python))
    status = ended(runner, 200)
    log = made.log.read_text(encoding="utf-8")
    assert status.exit_code == 0, log
    assert "worker 1.0 driver 1.0" in log


def test_rays_own_tune_example_runs_unchanged(heads: RayHeads, tmp_path: Path) -> None:
    """`ray/tune/examples/tune_basic_example.py` from the installed package, its results below the attempt."""
    name = "tune_basic_example.py"
    source = folder_of("ray", "tune", "examples") / name
    wanted = work(engine="ray", entrypoint=name, arguments=("--smoke-test",), cpu_milli=1_500)
    made = attempt(tmp_path, wanted, {name: source.read_text(encoding="utf-8")}, job_id="job-tune")
    made = dataclasses.replace(made, variables={**made.variables, "HOME": str(tmp_path)})
    runner = RayRunner(heads)
    runner.start(made)
    status = ended(runner, 300)
    log = made.log.read_text(encoding="utf-8")
    assert (status.exit_code, status.code) == (0, ""), log[-3000:]
    assert "Best hyperparameters found were:" in log
