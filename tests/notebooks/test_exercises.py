"""The exercises: each says what is missing, and its solution does it, also a second time."""

import contextlib
import io
import tomllib
from pathlib import Path

import mlflow
import nbformat
import pytest
from small import SMALL

from support import exercises
from support.config import PROJECT_DIR
from support.data import corpus
from support.models.params import Params
from support.tracking import training_run
from support.tracking.store import connect, set_experiment

TEXTS = tomllib.loads(exercises.TEXTS.read_text(encoding="utf-8"))
IMPORTS = """
import mlflow, torch
from support import comparison, dashboard, data, lineage, models, registry, search, sync, tracking
from support.models import *
"""


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> Path:
    """Return a stores folder with the runs that the notebooks have left when their exercises come."""
    stores = tmp_path_factory.mktemp("stores")
    connect(stores)
    for experiment, name, metrics in (
        ("baselines", "cnn of the lesson", {"f1": 0.7, "training_seconds": 100}),
        ("digits", "logistic", {"val_accuracy": 0.5}),
    ):
        set_experiment(experiment)
        with mlflow.start_run(run_name=name):
            mlflow.log_param("lr", 0.0002)
            mlflow.log_metrics(metrics)
    return stores


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """Return a folder with the files that the notebooks' cells write."""
    folder = tmp_path_factory.mktemp("written")
    for path in sorted((PROJECT_DIR / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            first, _, rest = cell.source.partition("\n")
            if first.startswith("%%writefile"):  # with -a it adds to what an earlier cell has written
                with (folder / first.split()[-1]).open("a" if "-a" in first.split() else "w") as file:
                    file.write(f"{rest}\n")
    return folder


@pytest.fixture(autouse=True)
def a_reader(stores: Path, written: Path, monkeypatch) -> None:
    """Let a reader with the sample corpus, and a small network, be at work in one store."""
    monkeypatch.setenv("STORES_DIR", str(stores))
    monkeypatch.setenv("LESSON_DATA_DIR", str(corpus.SAMPLE_DIR))
    monkeypatch.setattr(training_run, "Params", lambda: Params(num_epochs=2, **SMALL))
    monkeypatch.syspath_prepend(written)
    connect()


def said(number: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exercises.check(number)
    return output.getvalue()


def test_each_exercise_has_a_check_a_hint_and_a_solution() -> None:
    assert TEXTS.keys() == exercises._checks.keys()
    assert all(text.keys() == {"hint", "solution"} for text in TEXTS.values())
    with pytest.raises(ValueError, match="There is no exercise '99z'"):
        exercises.hint("99z")


@pytest.fixture(scope="module")
def kernels() -> dict[str, dict]:
    """Return the names that each notebook's kernel knows, by the notebook's number."""
    return {}


@pytest.mark.parametrize("number", TEXTS)
def test_a_solution_does_what_its_check_asks_for(kernels: dict, number: str) -> None:
    solution = TEXTS[number]["solution"]
    if all(line.startswith("#") for line in solution.split("\n") if line):
        assert "The solution of" in solution, "an earlier solution has done it"
    else:
        assert said(number).startswith(f"{number}: Not yet. ")
    for _ in range(2):
        exec(IMPORTS + solution, kernels.setdefault(number[:2], {"__name__": "__main__"}))
        assert said(number) == f"{number}: Done. Well done!\n"
    assert mlflow.active_run() is None
