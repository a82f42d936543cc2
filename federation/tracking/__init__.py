"""Experiment tracking for jobs that ask for it: one MLflow server for the federation, started when first wanted.

Nothing here is on the way of a job: no call blocks, and a server that is missing, slow or gone costs a job its record
at most. Deliberately not here: importing MLflow (580 MB in a process of its own is enough), writing runs (the agent
opens one for each attempt), and accounts. Read next: `mlflow_server.py`.
"""

from federation.tracking.mlflow_server import MlflowTracking, end_left_behind

__all__ = ["MlflowTracking", "end_left_behind"]
