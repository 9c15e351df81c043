"""Members as processes of their own."""

import os
import signal
import time

import mlflow
import torch
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from small import SMALL

from support import tracking
from support.data.corpus import SAMPLE_DIR, load_projects
from support.data.splits import split
from support.models.params import Params
from support.tracking.live import NewMetrics

PARAMS = Params(num_epochs=4, **SMALL)
METRICS = ("train_loss", "val_loss")


def begin(environment: dict[str, str], stores: str) -> None:
    """Become a member in this process."""
    torch.set_num_threads(1)
    os.environ.update(environment, STORES_DIR=stores)
    tracking.connect()


def log_runs(environment: dict[str, str], stores: str, experiment: str, count: int) -> None:
    """Log so many small runs, each whole: a param, metrics, an end."""
    begin(environment, stores)
    client, experiment_id = MlflowClient(), tracking.set_experiment(experiment)
    for number in range(count):
        run_id = client.create_run(experiment_id, run_name=f"{os.getpid()}-{number}").info.run_id
        metrics = [Metric(name, number / 1000, 0, step) for name in METRICS for step in range(5)]
        client.log_batch(run_id, metrics, [Param("number", str(number))])
        client.set_terminated(run_id)


def log_steps(environment: dict[str, str], stores: str, experiment: str, steps: int) -> None:
    """Log one run after the other, some steps each, as a training does."""
    begin(environment, stores)
    for number in range(steps // 10):
        with tracking.start_run(f"{os.getpid()}-{number}", experiment):
            for step in range(10):
                mlflow.log_metrics({name: step / 10 for name in METRICS}, step=step)
                time.sleep(0.05)


def train_and_die(environment: dict[str, str], stores: str) -> None:
    """Train until the third epoch, and be killed."""
    begin(environment, stores)
    call, calls = NewMetrics.__call__, []

    def dying(*args):
        calls.append(args)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args)

    NewMetrics.__call__ = dying
    tracking.train_and_log(PARAMS, split(load_projects(SAMPLE_DIR)), "killed")
