"""The exercises: each says what is missing, and its solution does it, in any order and a second time."""

import contextlib
import io
import tomllib
from pathlib import Path

import mlflow
import pytest
from small import SMALL

from support import exercises
from support.data import corpus
from support.models.params import Params
from support.tracking import training_run
from support.tracking.store import connect

TEXTS = tomllib.loads(exercises.TEXTS.read_text(encoding="utf-8"))
IMPORTS = """
import mlflow, torch
from support import comparison, data, lineage, models, registry, search, sync, tracking
from support.models import *
"""


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("stores")


@pytest.fixture(autouse=True)
def a_reader(stores: Path, monkeypatch) -> None:
    """Let a reader with the sample corpus, and a small network, be at work in one store."""
    monkeypatch.setenv("STORES_DIR", str(stores))
    monkeypatch.setenv("LESSON_DATA_DIR", str(corpus.SAMPLE_DIR))
    monkeypatch.setattr(training_run, "Params", lambda: Params(num_epochs=2, **SMALL))
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


@pytest.mark.parametrize("number", TEXTS)
def test_a_solution_does_what_its_check_asks_for(number: str) -> None:
    assert said(number).startswith(f"{number}: Not yet. ")
    for _ in range(2):
        exec(IMPORTS + TEXTS[number]["solution"], {"__name__": "__main__"})
        assert said(number) == f"{number}: Done. Well done!\n"
    assert mlflow.active_run() is None
