"""Exercises of the notebooks, checked against the reader's own store.

check("01a")      # "Done", or what is still missing
hint("01a"); solution("01a")

The tasks stand in the notebooks, hints and solutions in exercises.toml. A check looks at what the store holds,
whoever logged it and however: so it can be run again and again, and in a new kernel.
"""

import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import mlflow
from mlflow.entities import Run

from support.tracking.store import EXPERIMENT, find_experiment

TEXTS = Path(__file__).with_suffix(".toml")
_checks: dict[str, Callable[[], str | None]] = {}


def check(number: str) -> None:
    """Print whether the exercise is done, and if not, what is missing."""
    missing = _known(number, _checks)()
    print(f"{number}: Not yet. {missing}" if missing else f"{number}: Done. Well done!")


def hint(number: str) -> None:
    """Print a hint."""
    print(_known(number, _texts())["hint"])


def solution(number: str) -> None:
    """Print a solution: cells that do it. There are other ways."""
    print(_known(number, _texts())["solution"])


def exercise(number: str) -> Callable:
    """Register a check: a function that returns what is missing, or None when all is there."""

    def register(function: Callable[[], str | None]) -> Callable[[], str | None]:
        _checks[number] = function
        return function

    return register


def runs(name: str | None = None, experiment: str = EXPERIMENT, where: str = "") -> list[Run]:
    """Return the reader's runs of an experiment, latest first: those of a name, or all that fit a filter."""
    found = find_experiment(experiment)
    if found is None:
        return []
    wanted = " and ".join(filter(None, [f"attributes.run_name = '{name}'" if name else "", where]))
    return mlflow.search_runs([found.experiment_id], wanted, output_format="list")


@cache
def _texts() -> dict[str, dict[str, str]]:
    return tomllib.loads(TEXTS.read_text(encoding="utf-8"))


def _known(number: str, among: dict):
    if number not in among:
        raise ValueError(f"There is no exercise {number!r}. There are {', '.join(sorted(among))}.")
    return among[number]


# Notebook 00


# Notebook 01


@exercise("01a")
def _gradient_norm() -> str | None:
    for run in runs("my-gradients"):
        if len(mlflow.MlflowClient().get_metric_history(run.info.run_id, "grad_norm")) >= 2:
            return None
    return "No run `my-gradients` has a metric `grad_norm` with two steps or more."


# Notebook 02


# Notebook 03


# Notebook 04


# Notebook 05


# Notebook 06


# Notebook 07
