"""Programs that were not written for this, from the installed packages, unchanged, as ordinary jobs of the federation."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from federation.client import Client
from tests.support.embedded_federation import EmbeddedFederation, ended

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]

LATE_S = 400.0


def folder_of(package: str, *below: str) -> Path:
    """A folder of an installed package."""
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent.joinpath(*below)


def log_of(client: Client, job_id: str) -> str:
    """The job's whole log, once it has ended well."""
    ended(client, job_id, timeout_s=LATE_S)
    return b"".join(client.logs(job_id)).decode()


def test_pysparks_own_examples_run_as_they_are(federation: EmbeddedFederation, client: Client, tmp_path: Path) -> None:
    """pi, wordcount and sort, with the folder of all examples as their package; each answer is checked."""
    package = tmp_path / "examples"
    shutil.copytree(folder_of("pyspark", "examples", "src", "main", "python"), package)
    (package / "words.txt").write_text("late late early\nlate\n")
    (package / "numbers.txt").write_text("30 4\n-5\n4\n")
    common: dict[str, Any] = {
        "engine": "spark", "package": str(package), "resources": {"cpus": 2, "memory": "2Gi"}, "tracking": False,
    }  # fmt: skip
    pi = client.submit({**common, "entrypoint": "pi.py", "arguments": [4]})
    wordcount = client.submit({**common, "entrypoint": "wordcount.py", "arguments": ["words.txt"]})
    sort = client.submit({**common, "entrypoint": "sort.py", "arguments": ["numbers.txt"]})
    found = re.search(r"Pi is roughly (\d\.\d+)", log_of(client, pi))
    assert found is not None
    assert abs(float(found[1]) - 3.1416) < 0.05
    counts = dict(re.findall(r"^(late|early): (\d+)$", log_of(client, wordcount), re.MULTILINE))
    assert counts == {"late": "3", "early": "1"}
    numbers = [line for line in log_of(client, sort).splitlines() if re.fullmatch(r"-?\d+", line)]
    assert numbers == ["-5", "4", "4", "30"]


def test_an_example_of_ray_tune_runs_as_it_is(federation: EmbeddedFederation, client: Client, tmp_path: Path) -> None:
    """Random and grid search, twice five trials, in its own smoke-test size; it names its best setting."""
    source = folder_of("ray", "tune", "examples") / "tune_basic_example.py"
    shutil.copy(source, tmp_path / source.name)
    job_id = client.submit(
        {
            "engine": "ray",
            "entrypoint": source.name,
            "package": str(tmp_path),
            "arguments": ["--smoke-test"],
            "resources": {"cpus": 2, "memory": "3Gi"},
            "runtime_limit": "15m",
            "tracking": False,
        }
    )
    log = log_of(client, job_id)
    best = re.search(r"Best hyperparameters found were: +(\{.*\})", log)
    assert best is not None, log[-2000:]
    assert "'activation': 'relu'" in best[1] or "'activation': 'tanh'" in best[1]
