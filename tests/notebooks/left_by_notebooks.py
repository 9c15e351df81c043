"""What the notebooks leave in the store. tools/test.py runs this after nbval, one test a store.

The name keeps it out of the other tests, since it needs a store that notebooks have filled.
"""

import os
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from readers_own import EXPERIMENT, RUNS

from support.data import load_projects, split
from support.models import Params
from support.tracking import connect, histories, load_tagger, splits_of, why_left_out

STORES = Path(os.environ["STORES_DIR"]).resolve()  # read before the fixtures give each test its own
GIVEN_DATA = os.environ.get("LESSON_DATA_DIR")
TEXT = "Transfer learning with BERT for self-supervised learning"
ARTIFACTS = {"label_encoder.json", "model.pt", "params.json", "performance.json", "tokenizer.json"}
PLOTS = {"f1_by_tag", "learning_curves", "precision_recall"}
# The runs of `baselines`, but for a search's trials. Each notebook makes what it needs in an empty store.
LEFT = {
    "00_setup": set(),
    "01_tracked_training": {"by-hand", "cnn"},
    "02_dashboard": {"cnn", "cnn-20-epochs"},
    "03_best_run": {"cnn"},
    "04_reproduce_and_resume": {"cut-off", "cut-off retrained"},
    "05_search_and_promote": {"cnn", "cnn-words", "rules", "search", "tfidf", "tfidf-searched"},
    "06_team_server": set(),
    "07_your_own_model": set(),
}
LEFT["series"] = LEFT["readers"] = set().union(*LEFT.values())
# What a second run of a notebook, or another notebook, finds and keeps.
ONCE = LEFT["02_dashboard"] | LEFT["04_reproduce_and_resume"] | LEFT["05_search_and_promote"]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Return the runs of `baselines` but for a search's trials, with the notebooks' data and store in place."""
    assert (STORES / "mlflow.db").is_file(), "The notebooks left no database."
    monkeypatch.setenv("STORES_DIR", str(STORES))
    if GIVEN_DATA:
        monkeypatch.setenv("LESSON_DATA_DIR", GIVEN_DATA)
    connect()
    baselines = mlflow.get_experiment_by_name("baselines")
    found = mlflow.search_runs([baselines.experiment_id], output_format="list") if baselines else []
    trials = [run for run in found if "space" in run.data.tags]
    assert {run.info.status for run in trials} <= {"FINISHED", "KILLED"}
    return [run for run in found if run not in trials]


def assert_is_whole(run: Run) -> None:
    """Check that a run `cnn` holds all that the series promises."""
    assert run.data.params == {name: str(value) for name, value in asdict(Params()).items()}
    epochs = {name: histories(run.info.run_id)[name] for name in ("train_loss", "val_loss", "lr")}
    steps = list(epochs["val_loss"])
    assert steps == list(range(1, len(steps) + 1))
    assert all(list(history) == steps for history in epochs.values())
    best_epoch = int(run.data.metrics["best_epoch"])
    assert len(steps) == min(best_epoch + Params().patience, Params().num_epochs)
    assert run.data.metrics["best_val_loss"] == min(epochs["val_loss"].values())
    assert epochs["train_loss"][steps[-1]] < epochs["train_loss"][1] / 2

    folder = STORES / "artifacts" / run.info.run_id / "artifacts"
    assert {path.name for path in folder.iterdir() if path.is_file()} == ARTIFACTS
    assert {path.stem for path in (folder / "plots").iterdir()} == PLOTS
    splits = split(load_projects())
    assert why_left_out(run, digest=splits.digest) is None
    assert run.data.tags["corpus"] == splits.corpus and splits_of(run).digest == splits.digest
    assert "natural-language-processing" in load_tagger(run.info.run_id).predict([TEXT])[0]
    assert 0.2 < run.data.metrics["f1"] < 1


def assert_is_searched_and_promoted(search_run: Run) -> None:
    """Check that a search has measured trials, and that the champion loads by its name and tags a text."""
    assert search_run.data.metrics["trials_measured"] >= 2
    versions = MlflowClient().search_model_versions("name = 'tagger'")
    assert len({version.run_id for version in versions}) == len(versions) <= 2, "a run was promoted twice"
    champion = mlflow.pyfunc.load_model("models:/tagger@champion")
    assert "natural-language-processing" in champion.predict([TEXT])[0]


@pytest.mark.parametrize("notebook", LEFT)
def test_left(runs: list[Run], notebook: str) -> None:
    """Each notebook makes what it needs in an empty store, and finds it in one that others have filled."""
    if notebook == "readers":
        own = [(experiment.name, run) for experiment in mlflow.search_experiments() for run in readers_runs(experiment)]
        assert sorted((name, run.info.run_name, run.data.metrics["f1"]) for name, run in own) == sorted(RUNS)
        ids = {run.info.run_id for _, run in own}
        runs = [run for run in runs if run.info.run_id not in ids]
    names = Counter(run.info.run_name for run in runs)
    assert set(names) == LEFT[notebook]
    assert {name for name in ONCE if names[name] > 1} == set()
    assert {run.info.status for run in runs} <= {"FINISHED"}
    for run in runs:
        if run.info.run_name == "cnn":
            assert_is_whole(run)
        if run.info.run_name == "search":
            assert_is_searched_and_promoted(run)


def readers_runs(experiment) -> list[Run]:
    """Return the runs of an experiment that the reader has logged: no notebook logs a depth."""
    found = mlflow.search_runs([experiment.experiment_id], "params.depth = '3'", output_format="list")
    assert experiment.name in ("baselines", EXPERIMENT) or not found
    return found
