"""A Ray job: tunes a support vector classifier on scikit-learn's digits; parameters and scores go to MLflow."""

import json
import os
import time
from pathlib import Path

from ray import tune
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score
from sklearn.svm import SVC


def trial(config: dict[str, float]) -> dict[str, float]:
    """Three-fold accuracy of one setting."""
    digits = load_digits()
    scores = cross_val_score(SVC(C=config["C"], gamma=config["gamma"]), digits.data, digits.target, cv=3)
    return {"accuracy": float(scores.mean())}


results = tune.Tuner(
    tune.with_resources(trial, {"cpu": 1}),
    param_space={"C": tune.grid_search([1.0, 10.0]), "gamma": tune.grid_search([0.0001, 0.001, 0.01])},
    run_config=tune.RunConfig(storage_path=os.environ["BRHUB_OUTPUT_DIR"] + "/../tune", verbose=0),
    tune_config=tune.TuneConfig(metric="accuracy", mode="max"),
).fit()
table = [{**result.config, "accuracy": result.metrics["accuracy"]} for result in results if result.metrics]
best = max(table, key=lambda row: row["accuracy"])
(Path(os.environ["BRHUB_OUTPUT_DIR"]) / "best.json").write_text(json.dumps({"best": best, "trials": table}, indent=1))
print(f"{len(table)} settings tried; best accuracy {best['accuracy']:.4f} with C={best['C']}, gamma={best['gamma']}")

if os.environ.get("MLFLOW_RUN_ID"):
    from mlflow.entities import Metric, Param
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    client, parent_id, now_ms = MlflowClient(), os.environ["MLFLOW_RUN_ID"], time.time_ns() // 1_000_000
    try:
        experiment_id = client.get_run(parent_id).info.experiment_id
        for row in table:
            run_id = client.create_run(experiment_id, tags={"mlflow.parentRunId": parent_id}).info.run_id
            settings = [Param(name, str(row[name])) for name in ("C", "gamma")]
            client.log_batch(run_id, metrics=[Metric("accuracy", row["accuracy"], now_ms, 0)], params=settings)
            client.set_terminated(run_id)
        client.log_metric(parent_id, "best_accuracy", best["accuracy"])
    except MlflowException as problem:
        print(f"tracking was cut, the result stands: {problem}")
