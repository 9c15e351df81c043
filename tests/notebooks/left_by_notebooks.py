"""What the notebooks leave in the store. `make test` runs this after nbval, one test a run of nbval.

The name keeps it out of the unit tests, since it needs a store that notebooks have filled.
"""

import os
from dataclasses import asdict
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from support.data.corpus import load_projects, split
from support.models.tagger import Tagger
from support.models.training import Params
from support.tracking import training_run as tracking

STORES = Path(os.environ["STORES_DIR"]).resolve()  # read before the fixtures give each test its own
GIVEN_DATA = os.environ.get("LESSON_DATA_DIR")
ARTIFACTS = {"label_encoder.json", "model.pt", "params.json", "performance.json", "tokenizer.json"}
PLOTS = {"f1_by_tag.png", "learning_curves.png", "precision_recall.png"}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Give the runs of `baselines` but for a search's trials, with the notebooks' data and store in place."""
    assert (STORES / "mlflow.db").is_file(), "The notebooks left no database."
    monkeypatch.setenv("STORES_DIR", str(STORES))
    if GIVEN_DATA:
        monkeypatch.setenv("LESSON_DATA_DIR", GIVEN_DATA)
    tracking.connect()
    experiment = mlflow.get_experiment_by_name("baselines")
    if experiment is None:
        return []
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    runs = MlflowClient().search_runs([experiment.experiment_id])
    trials = [run for run in runs if "space" in run.data.tags]
    assert {run.info.status for run in trials} <= {"FINISHED", "KILLED"}
    return [run for run in runs if run not in trials]


def assert_is_whole(run: Run) -> None:
    """Check that a run `cnn` holds all that the series promises."""
    assert (run.info.run_name, run.info.status) == ("cnn", "FINISHED")
    assert run.data.params == {name: str(value) for name, value in asdict(Params()).items()}

    client = MlflowClient()
    epochs = {
        name: client.get_metric_history(run.info.run_id, name) for name in ("train_loss", "val_loss", "lr")
    }
    steps = [metric.step for metric in epochs["val_loss"]]
    assert steps == list(range(1, len(steps) + 1))
    assert all([metric.step for metric in history] == steps for history in epochs.values())
    best_epoch = int(run.data.metrics["best_epoch"])
    assert len(steps) == min(best_epoch + Params().patience, Params().num_epochs)
    assert run.data.metrics["best_val_loss"] == min(metric.value for metric in epochs["val_loss"])
    assert epochs["train_loss"][-1].value < epochs["train_loss"][0].value / 2

    folder = STORES / "artifacts" / run.info.run_id / "artifacts"
    assert {path.name for path in folder.iterdir() if path.is_file()} == ARTIFACTS
    assert {path.name for path in (folder / "plots").iterdir()} == PLOTS
    assert all((folder / "plots" / name).read_bytes().startswith(b"\x89PNG") for name in PLOTS)

    splits = split(load_projects())
    assert run.data.tags["corpus"] == splits.corpus
    assert run.inputs.dataset_inputs[0].dataset.digest == splits.digest
    tags = Tagger.load(folder).predict(["Transfer learning with BERT for self-supervised learning"])[0]
    assert "natural-language-processing" in tags
    assert 0.2 < run.data.metrics["f1"] < 1


def assert_is_searched_and_promoted(search_run: Run) -> None:
    """Check that a search has measured trials, and that the champion loads by its name and tags a text."""
    assert search_run.data.metrics["trials_complete"] >= 2
    champion = mlflow.pyfunc.load_model("models:/tagger@champion")
    tags = champion.predict(["Transfer learning with BERT for self-supervised learning"])[0]
    assert "natural-language-processing" in tags


# Notebook 02 compares runs: where there is one alone, it trains a shorter one beside it.
LEFT = {
    "00_setup": [],
    "01_tracked_training": ["cnn"],
    "02_dashboard": ["cnn", "cnn-20-epochs"],
    "03_best_run": ["cnn"],
    "04_reproduce_and_resume": ["cut-off", "cut-off retrained"],
    "05_search_and_promote": ["cnn", "cnn-words", "rules", "search", "tfidf", "tfidf-searched"],
    "06_team_server": [],
}
LEFT["series"] = sorted({name for names in LEFT.values() for name in names})


@pytest.mark.parametrize("notebook", LEFT)
def test_left(runs: list[Run], notebook: str) -> None:
    """Each notebook makes what it needs in an empty store, and finds it in one that others have filled."""
    assert sorted(run.info.run_name for run in runs) == LEFT[notebook]
    assert {run.info.status for run in runs} <= {"FINISHED"}
    for run in runs:
        if run.info.run_name == "cnn":
            assert_is_whole(run)
        if run.info.run_name == "search":
            assert_is_searched_and_promoted(run)
