"""Trainings to be killed: what the processes of the system tier run."""

import os
import shutil
import signal
import time
from pathlib import Path

import mlflow
import sqlalchemy
import torch
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from small import SMALL

from support.data.corpus import SAMPLE_DIR, load_projects
from support.data.splits import Splits, split
from support.lineage.resume import resume
from support.models import training
from support.models.checkpoint import Checkpoint
from support.models.params import Params
from support.tracking import provenance
from support.tracking.live import NewMetrics
from support.tracking.store import connect, set_experiment
from support.tracking.training_run import start_run, train_and_log

PARAMS = Params(num_epochs=6, **SMALL)


def sample_splits() -> Splits:
    """Return the sample corpus, split."""
    return split(load_projects(SAMPLE_DIR))


def train(stores: str, moment: str | None = None) -> None:
    """Train in a tracked run and die at `moment`, if one is named."""
    _begin(stores, moment)
    train_and_log(PARAMS, sample_splits(), experiment="baselines")


def resume_run(stores: str, run_id: str, named: bool = False, moment: str | None = None) -> None:
    """Resume a run, with its params and data passed or without, and die at `moment`, if one is named."""
    _begin(stores, moment)
    resume(run_id, PARAMS if named else None, sample_splits() if named else None)


def log_runs(stores: str, count: int) -> None:
    """Open a store that may not exist yet, and log so many small runs."""
    _begin(stores, None)
    client, experiment = MlflowClient(), set_experiment("many")
    for number in range(count):
        run_id = client.create_run(experiment, run_name=f"{os.getpid()}-{number}").info.run_id
        client.log_batch(run_id, [Metric("loss", 1.0, 0, 1)], [Param("number", str(number))])
        client.set_terminated(run_id)


def wait_in_run(stores: str) -> None:
    """Open a run and stay in it."""
    _begin(stores, None)
    with start_run("waits", "baselines"):
        (Path(stores) / "waiting").touch()
        time.sleep(600)


def _begin(stores: str, moment: str | None) -> None:
    torch.set_num_threads(1)
    os.environ["STORES_DIR"] = stores
    connect()
    if moment:
        if moment != BETWEEN:
            Checkpoint.EVERY = 0.0  # after each epoch
        MOMENTS[moment]()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _at(owner: object, name: str, nth: int = 1, after: bool = False) -> None:
    """Die when `owner.name` is called for the nth time: before it does anything, or after it is done."""
    original, calls = getattr(owner, name), []

    def replacement(*args, **kwargs):
        calls.append(args)
        if len(calls) == nth and not after:
            _die()
        result = original(*args, **kwargs)
        if len(calls) == nth:
            _die()
        return result

    setattr(owner, name, replacement)


def _half_a_checkpoint() -> None:
    original, written = Path.replace, []

    def replace(path: Path, target: Path) -> Path:
        if path.suffix == ".half":
            written.append(path)
        if len(written) == 3:
            os.truncate(path, path.stat().st_size // 2)
            _die()
        return original(path, target)

    Path.replace = replace


def _half_a_model() -> None:
    original = shutil.copyfile

    def copyfile(source, target, **kwargs):
        if Path(source).name == "model.pt":
            content = Path(source).read_bytes()
            Path(target).write_bytes(content[: len(content) // 2])
            _die()
        return original(source, target, **kwargs)

    shutil.copyfile = copyfile


def _between_insert_and_commit() -> None:
    inserts = []

    @sqlalchemy.event.listens_for(sqlalchemy.Engine, "after_cursor_execute")
    def executed(connection, cursor, statement, parameters, context, many):
        if statement.startswith("INSERT INTO metrics") and "system" not in str(parameters):
            inserts.append(statement)
            if len(inserts) == 4:
                _die()


BETWEEN = "epochs after the last checkpoint"
MOMENTS = {
    BETWEEN: lambda: _at(NewMetrics, "__call__", nth=5, after=True),
    "before the data is recorded": lambda: _at(provenance, "log_context"),
    "before the first epoch": lambda: _at(training.Trainer, "train"),
    "with half a checkpoint written": _half_a_checkpoint,
    "before an epoch's metrics": lambda: _at(NewMetrics, "flush", nth=3),  # two an epoch, one of them by the save
    "between metrics and checkpoint": lambda: _at(NewMetrics, "flush", nth=4, after=True),
    "between insert and commit": _between_insert_and_commit,
    "between the last metrics": lambda: _at(NewMetrics, "__call__", nth=PARAMS.num_epochs + 1, after=True),
    "with half a model written": _half_a_model,
    "while figures are drawn": lambda: _at(mlflow, "log_figure", nth=2),
    "before the run is ended": lambda: _at(MlflowClient, "set_terminated"),
}
