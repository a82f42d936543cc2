"""MLflow itself, as the federation starts it."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from federation.tracking import MlflowTracking
from tests.support.eventually import eventually


@pytest.mark.heavy
@pytest.mark.timeout(300)
def test_the_real_server_keeps_a_run(tmp_path: Path) -> None:
    """MLflow itself: up, an experiment made over REST, found again after a restart on the same database."""
    folder = tmp_path / "mlflow"
    tracking = MlflowTracking(folder)
    tracking.wanted()
    try:
        uri = eventually(lambda: tracking.uri() if tracking.up() else "", 200)
        body = json.dumps({"name": "delays"}).encode()
        address = f"{uri}/api/2.0/mlflow/experiments/create"
        request = urllib.request.Request(address, data=body, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert json.load(answer)["experiment_id"]
        assert (folder / "mlflow.db").is_file()
    finally:
        tracking.close()
