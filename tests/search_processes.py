"""A training that takes no time, and what the processes of the search's tests run."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import mlflow
import optuna
import pandas as pd
from optuna.distributions import FloatDistribution
from optuna.study import _optimize

from support.data.splits import Splits
from support.search import plots
from support.search.search import search
from support.search.space import Space
from support.tracking.store import connect


@dataclass(frozen=True)
class Point:
    """Params of one's own: the best `x` is 0.3."""

    x: float = 0.5
    epochs: int = 3
    seconds: float = 0.0

    trained_by: ClassVar[str] = "search_processes:train"


# What the next trainings do, in place of `measure`; each is taken once.
script: list[Callable] = []


def train(params: Point, splits: Splits, on_epoch=None, checkpoint=None) -> dict[str, float]:
    """Return a dict of metrics, as a training of one's own does."""
    return (script.pop(0) if script else measure)(params, splits, on_epoch)


def measure(params: Point, splits: Splits, on_epoch: Callable) -> dict[str, float]:
    """Return metrics that tell how near `x` is to the best one."""
    for epoch in range(1, params.epochs + 1):
        time.sleep(params.seconds)
        on_epoch(epoch, {"val_loss": 1 / epoch})
    return {"f1": 1 - (params.x - 0.3) ** 2, "accuracy": params.x, "val_loss": 1 / params.epochs}


def numbers() -> Splits:
    """Return splits that are not texts."""
    parts = (pd.DataFrame({"x": [number, 2.0], "label": [0, 1]}) for number in (1.0, 2.0, 3.0))
    return Splits(*parts, corpus="numbers", seed=0)


def space(trials: int, **params) -> dict[str, Space]:
    return {"point": Space(Point(**params), {"x": FloatDistribution(0, 1)}, trials)}


def run(stores: str, moment: str | None = None, trials: int = 4, params: dict | None = None, **how) -> None:
    """Search, and die at `moment`, if one is named."""
    os.environ["STORES_DIR"] = stores
    connect()
    if moment:
        owner, name, nth, after = MOMENTS[moment]
        _die(owner, name, nth, after)
    search(numbers(), space(trials, **(params or {})), **how)


def _die(owner: object, name: str, nth: int, after: bool) -> None:
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


# Each that hits a trial hits the second, if it does not say so.
MOMENTS = {
    "before the parent is known by its tag": (mlflow, "log_dict", 1, True),
    "before the first params wait": (optuna.Study, "enqueue_trial", 1, False),
    "before a trial is signed": (optuna.Study, "ask", 2, True),
    "before a trial knows its run": (mlflow, "start_run", 4, True),
    "in the first epoch": (mlflow, "log_metrics", 1, False),
    "in an epoch": (mlflow, "log_metrics", 6, True),
    "before the study is told": (_optimize, "_tell_with_warning", 2, False),
    "after the study is told": (_optimize, "_tell_with_warning", 2, True),
    "before the pictures": (plots, "draw", 1, False),
}
