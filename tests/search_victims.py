"""Searches to be killed: what the processes of test_search.py run."""

import os
import signal

import mlflow.store.tracking.sqlalchemy_store
import optuna
import torch
from conftest import SMALL
from optuna.distributions import FloatDistribution, IntDistribution

from support.data.corpus import SAMPLE_DIR, load_projects, split
from support.models import kinds as models
from support.models.params import Params
from support.search import search
from support.search.space import Space
from support.tracking import training_run as tracking

SPACES = {
    "cnn": Space(
        Params(num_epochs=3, **SMALL),
        {"lr": FloatDistribution(1e-3, 1e-1, log=True), "num_filters": IntDistribution(4, 12)},
        trials=4,
    )
}
# It lasts until it is killed, however long its helper takes to come.
LONG = {"cnn": Space(Params(num_epochs=10_000, patience=10_000, **SMALL), SPACES["cnn"].ranges, trials=4)}


def run(stores: str, moment: str | None = None, **how) -> None:
    """Search in the sample corpus, and die at `moment`, if one is named."""
    torch.set_num_threads(1)
    os.environ["STORES_DIR"] = stores
    tracking.connect()
    if moment:
        MOMENTS[moment]()
    search.search(split(load_projects(SAMPLE_DIR)), **{"spaces": SPACES, **how})


def _at(owner: object, name: str, nth: int = 1, after: bool = False) -> None:
    """Die when `owner.name` is called for the nth time: before it does anything, or after it is done."""
    original, calls = getattr(owner, name), []

    def replacement(*args, **kwargs):
        calls.append(args)
        if len(calls) == nth and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if len(calls) == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, replacement)


# Each that hits a trial hits the second.
MOMENTS = {
    "while the trials are planned": lambda: _at(optuna.Study, "enqueue_trial", nth=3),
    "before a trial is signed": lambda: _at(optuna.Study, "ask", nth=2, after=True),
    "before a trial has a run": lambda: _at(mlflow, "start_run", nth=4),
    "before a trial knows its run": lambda: _at(mlflow, "start_run", nth=4, after=True),
    "before a trial trains": lambda: _at(models, "train", nth=2),
    "in an epoch": lambda: _at(mlflow, "log_metrics", nth=6, after=True),
    "before a trial's run is ended": lambda: _at(models, "train", nth=2, after=True),
    "before the study is told": lambda: _at(optuna.Study, "tell", nth=2),
    "after the study is told": lambda: _at(optuna.Study, "tell", nth=2, after=True),
    "before the only trial trains": lambda: _at(models, "train"),
    "before the plots": lambda: _at(search, "_summarise"),
}
