"""Runs in MLflow: connect to the store, log what was trained, find the best run, load it again."""

import os
from pathlib import Path

import mlflow
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Run

from support.stores import stores_dir as resolve_stores_dir

EXPERIMENT = "baselines"


class NoRunError(LookupError):
    """No finished run fits what was asked for."""


def connect(stores_dir: str | os.PathLike | None = None) -> str:
    """Point MLflow at the store and give its tracking URI.

    MLFLOW_TRACKING_URI wins when it is set: a team's server. Otherwise the store is SQLite,
    `mlflow.db` in the stores folder, made on first use, once even when several processes start
    together. MLflow sends no telemetry from here on.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow.telemetry.set_telemetry_client()
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        folder = resolve_stores_dir(stores_dir)
        folder.mkdir(parents=True, exist_ok=True)
        uri = f"sqlite:///{(folder / 'mlflow.db').as_posix()}"
        with FileLock(folder / "mlflow.db.lock"):
            mlflow.set_tracking_uri(uri)
            MlflowClient().search_experiments(max_results=1)
    mlflow.set_tracking_uri(uri)
    return uri
