"""What the tests of sync, export, import and cleanup share: runs to copy, and all that one can ask about them."""

import atexit
import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from urllib.parse import urlsplit
from urllib.request import url2pathname

import mlflow
import pandas as pd
import requests
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, Metric
from mlflow.models import Model

from support.sync.endpoint import NOT_COPIED, ORIGIN, Endpoint
from support.sync.sync import Report
from support.tracking import training_run as tracking

NAMES = ["notes #1.md", "why?.txt", "50%25.txt", "100%.txt", "curve 12:30.txt", "опыт ü.txt", "a #b/c?d/e%20f.txt"]
# MLflow's server takes no #, and unquotes %25.
SERVED_NAMES = ["why?.txt", "100%.txt", "curve 12:30.txt", "опыт ü.txt", "a b/c?d/e f.txt"]


class Server:
    """MLflow's own server in a process of its own. It ends when this process ends."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("plain_server.py")), str(folder), str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "server.log").open("w"),
            text=True,
        )
        self.port = int(self.process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}"
        assert requests.get(f"{self.url}/health", timeout=60).ok  # it listens already, and answers in time

    def close(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


@cache
def running_server() -> Server:
    """Return the one server of all tests: each has experiments of its own."""
    folder = Path(mkdtemp())
    server = Server(folder)
    atexit.register(lambda: (server.close(), shutil.rmtree(folder)))
    return server


def new_run(name: str = "small", experiment: str = "small runs", files: list[str] | None = None, **metrics) -> str:
    """Log a small run with two files and a dataset, and return its id."""
    with tracking.start_run(name, experiment, log_system_metrics=False) as run:
        mlflow.log_params({"lr": 0.1, "name": name})
        mlflow.log_input(mlflow.data.from_pandas(pd.DataFrame({"x": [1.5]}), name="numbers"), "training")
        for step in range(3):
            mlflow.log_metrics({"loss": 1 / (step + 1), **metrics}, step=step)
        for file in files or ["note.txt", "a folder/with ü/deep.txt"]:
            mlflow.log_text(f"{file} of {name}", file)
    return run.info.run_id


def log_model(run_id: str, text: str, folder: Path) -> str:
    """Log a small model of a run and return its id."""
    client = MlflowClient()
    run = client.get_run(run_id)
    model = client.create_logged_model(run.info.experiment_id, "echo", run_id, {"by": run_id}, {"size": "3"}, "pyfunc")
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "text.txt").write_text(text)
    Model(run_id=run_id).save(folder / "MLmodel")
    client.log_model_artifacts(model.model_id, str(folder))
    client.log_batch(run_id, [Metric("score", 0.5, 1, 0, model.model_id, "data", "d1g3st", run_id)])
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 7)])
    return model.model_id


def everything(uri: str, run_id: str, ids: dict[str, str] | None = None) -> dict:
    """Return all that one can ask MLflow about a run, in words that two stores share; `ids` translates."""
    client, ids = MlflowClient(uri, uri), ids or {}
    run = client.get_run(run_id)
    info = {name: getattr(run.info, name) for name in ("run_name", "status", "start_time", "end_time", "user_id")}
    history = [
        (m.key, m.step, m.timestamp, repr(m.value))
        for name in run.data.metrics
        for m in client.get_metric_history(run_id, name)
    ]
    tags = {name: ids.get(value, value) for name, value in run.data.tags.items()}
    return {
        **info,
        "experiment": client.get_experiment(run.info.experiment_id).name,
        "tags": {name: value for name, value in tags.items() if not name.startswith(NOT_COPIED)},
        "params": run.data.params,
        "metrics": sorted(history),
        "newest": {name: repr(value) for name, value in run.data.metrics.items()},
        "inputs": sorted(json.dumps(each.to_dictionary()) for each in run.inputs.dataset_inputs),
        "outputs": len(run.outputs.model_outputs),
        "files": files_of(uri, run.info.artifact_uri),
    }


def files_of(uri: str, artifact_uri: str) -> dict[str, bytes]:
    """Return path -> content of the files under an artifact URI; a SQLite store's from the disk."""
    if artifact_uri.startswith("file:"):
        folder = Path(url2pathname(urlsplit(artifact_uri).path))
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with TemporaryDirectory() as folder:
        return {name: path.read_bytes() for name, path in Endpoint(uri).fetch(artifact_uri, Path(folder)).items()}


def assert_equal(report: Report, source: str, target: str) -> None:
    """Assert that all that was copied is the same in both stores, and there once."""
    assert not report.failed
    for run_id, copy_id in report.ids.items():
        assert everything(target, copy_id) == everything(source, run_id, report.ids)
        assert copies_of(target, run_id) == [copy_id]


def copies_of(uri: str, run_id: str) -> list[str]:
    client = MlflowClient(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return [run.info.run_id for run in client.search_runs(experiments, f"tags.`{ORIGIN}` = '{run_id}'")]


def dump(database: Path) -> list[str]:
    """Return every row of a SQLite store."""
    with closing(sqlite3.connect(database)) as connection:
        return list(connection.iterdump())
