"""The exercises: each says what is missing, and its solution, run after the notebook's imports, does it."""

import contextlib
import io
import subprocess
import sys
import tomllib
from pathlib import Path

import mlflow
import nbformat
import pytest
from small import SMALL

from support import exercises
from support.config import PROJECT_DIR
from support.data import corpus
from support.exercises import checking
from support.models.params import Params
from support.tracking import training_run
from support.tracking.store import connect, set_experiment

TEXTS = tomllib.loads(checking.TEXTS.read_text(encoding="utf-8"))
# What a notebook has done when a reader comes to its exercises, as far as they build on it: cells by a part of them.
DONE_BEFORE = {"06": ['"on the train"'], "07": ["load_digits(", 'run_name="logistic"', "%%writefile"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return the folder of the reader's store, and of the files that the notebooks write."""
    return tmp_path_factory.mktemp("reader")


@pytest.fixture(scope="module")
def kernels() -> dict[str, dict]:
    """Return the names of each notebook's kernel, by its number."""
    return {}


@pytest.fixture(autouse=True)
def a_reader(folder: Path, monkeypatch) -> None:
    """Let a reader with the sample corpus, and a small network, be at work in one store."""
    monkeypatch.setenv("STORES_DIR", str(folder / "stores"))
    monkeypatch.setenv("LESSON_DATA_DIR", str(corpus.SAMPLE_DIR))
    monkeypatch.setattr(training_run, "Params", lambda: small(num_epochs=2))  # what ensure_run trains
    monkeypatch.syspath_prepend(folder)
    connect()


def small(**given) -> Params:
    return Params(**{**SMALL, **given})


def kernel_of(number: str, folder: Path) -> dict:
    """Return the names that a reader has at the end of the notebook, with a network that trains in no time."""
    names = {"subprocess": subprocess, "sys": sys, "Path": Path, "root": PROJECT_DIR, "__name__": "__main__"}
    [path] = (PROJECT_DIR / "notebooks").glob(f"{number}_*.ipynb")
    cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    for cell in [cells[1], *(cell for cell in cells[2:] if any(part in cell for part in DONE_BEFORE.get(number, [])))]:
        if cell.startswith("%%writefile"):
            magic, _, text = cell.partition("\n")
            with (folder / magic.split()[-1]).open("a" if "-a" in magic else "w") as file:
                file.write(f"{text}\n")
        else:
            exec(cell, names)
    return names | ({"Params": small} if names.get("Params") is Params else {})


def said(number: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exercises.check(number)
    return output.getvalue()


def test_each_exercise_has_a_check_a_hint_and_a_solution() -> None:
    assert TEXTS.keys() == checking.checks.keys()
    assert all(text.keys() == {"hint", "solution"} for text in TEXTS.values())
    with pytest.raises(ValueError, match="There is no exercise '99z'"):
        exercises.hint("99z")


def test_a_filter_needs_a_run_that_it_finds() -> None:
    """A small network is not good enough for exercise 02b, so a run is."""
    assert "train one" in said("02b")
    set_experiment("baselines")
    with mlflow.start_run(run_name="good"):
        mlflow.log_param("lr", 0.0002)
        mlflow.log_metric("f1", 0.7)
    assert "Runs that have the tag wrongly, or lack it: 1" in said("02b")


@pytest.mark.parametrize("number", TEXTS)
def test_a_solution_does_what_its_check_asks_for(number: str, folder: Path, kernels: dict[str, dict]) -> None:
    notebook = number[:2]
    if notebook not in kernels:
        kernels[notebook] = kernel_of(notebook, folder)
    assert said(number).startswith(f"{number}: Not yet. ")
    exec(TEXTS[number]["solution"], kernels[notebook])
    assert said(number) == f"{number}: Done. Well done!\n"
    assert mlflow.active_run() is None
