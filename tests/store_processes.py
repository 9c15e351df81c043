"""What the processes of test_first_use.py do: open a store that may not be there yet, and log to it."""

import os

import mlflow

from support.tracking.store import connect, set_experiment
from support.tracking.training_run import start_run


def first_use(stores: str, runs: int = 1) -> None:
    """Open the store and log so many runs, each with a metric and a file."""
    os.environ["STORES_DIR"] = stores
    connect()
    set_experiment("first use")
    for number in range(runs):
        with start_run(f"{os.getpid()}-{number}"):
            mlflow.log_metric("f1", 0.5)
            mlflow.log_text("here", "notes.txt")


def connect_only(stores: str) -> None:
    """Open the store."""
    os.environ["STORES_DIR"] = stores
    connect()
