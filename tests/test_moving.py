"""Stores that move."""

import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from test_safe import SMALL

from support.lineage import lineage
from support.registry import promote as registry
from support.tracking import portable
from support.tracking import training_run as tracking

pytestmark = pytest.mark.once

TEXTS = ["transfer learning with bert"]


@pytest.fixture(scope="module")
def original(sample_splits, tmp_path_factory) -> tuple[Path, str]:
    """Give a store with one trained run, and the run's id. Tests work on copies."""
    stores = tmp_path_factory.mktemp("original") / "my stores"
    tracking.connect(stores)
    return stores, tracking.train_and_log(SMALL, sample_splits)


@pytest.fixture
def here(original, tmp_path) -> tuple[Path, str]:
    """Give a copy of the store, opened, and the run's id."""
    shutil.copytree(original[0], tmp_path / "copy")
    tracking.connect(tmp_path / "copy")
    return tmp_path / "copy", original[1]


def dump(stores: Path) -> list[str]:
    with closing(sqlite3.connect(stores / "mlflow.db")) as database:
        return list(database.iterdump())


def files(stores: Path) -> set[str]:
    return {path.relative_to(stores).as_posix() for path in (stores / "artifacts").rglob("*") if path.is_file()}


def every_file(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def new_run(**metrics: float) -> str:
    """Log a small run with an artifact and give its id."""
    with tracking.start_run("small") as run:
        mlflow.log_metrics(metrics)
        mlflow.log_text("text", "note.txt")
    return run.info.run_id


def moved(stores: Path, to: Path) -> None:
    shutil.move(stores, to)


def zipped(stores: Path, to: Path) -> None:
    shutil.make_archive(str(to.parent / "archive"), "zip", stores)
    shutil.rmtree(stores)
    shutil.unpack_archive(to.parent / "archive.zip", to)


def renamed(stores: Path, to: Path) -> None:
    stores.rename(to)


@pytest.mark.parametrize("move", [moved, zipped, renamed])
@pytest.mark.parametrize("name", ["other", "with a space and ü", "copy/inside"])
def test_a_store_that_moved(here, tmp_path, move, name):
    stores, run_id = here
    other = tmp_path / name
    if name == "copy/inside":  # the new place begins with the old one
        stores.rename(tmp_path / "first")
        stores, _ = tmp_path / "first", stores.mkdir()
    registered = MlflowClient()
    registered.create_registered_model("tagger")
    registered.create_model_version("tagger", (here[0] / "artifacts" / run_id).as_uri(), run_id)
    before = dump(stores)
    move(stores, other)
    tracking.connect(other)
    after = dump(other)
    assert not [line for line in after if f"{here[0].as_uri()}/artifacts" in line and name != "copy/inside"]
    assert len(after) == len(before)
    assert tracking.load_tagger(run_id).predict_proba(TEXTS).shape[0] == 1
    assert lineage.splits_of(mlflow.get_run(run_id)).corpus == "sample"
    new_run(f1=0.1)
    assert len([name for name in files(other) if name.endswith("note.txt")]) == 1
    assert not (here[0] / "artifacts").exists()
    now = dump(other)
    assert not portable.repair(other / "mlflow.db")  # again, and nothing changes
    assert dump(other) == now


def test_a_champion_moves_with_its_store(here, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", list(sys.path))  # a model that is loaded changes it
    stores, run_id = here
    version = registry.promote(run_id)
    model_id = version.source.removeprefix("models:/")
    other = tmp_path / "with a space and ü"
    moved(stores, other)
    tracking.connect(other)
    assert not [line for line in dump(other) if str(stores) in line or stores.as_uri() in line]
    assert mlflow.get_logged_model(model_id).artifact_location.startswith(f"{other.as_uri()}/")
    for name in ("tagger@champion", f"tagger/{version.version}", model_id):
        model = mlflow.pyfunc.load_model(f"models:/{name}")
        assert model.predict(TEXTS) == tracking.load_tagger(run_id).predict(TEXTS)
    assert registry.promote(run_id).version == version.version
    assert not stores.exists()


def test_files_kept_elsewhere_stay_there(here, tmp_path):
    stores, _ = here
    mlflow.create_experiment("elsewhere", artifact_location=(tmp_path / "copy of files").as_uri())
    moved(stores, tmp_path / "other")
    tracking.connect(tmp_path / "other")
    location = mlflow.get_experiment_by_name("elsewhere").artifact_location
    assert location == (tmp_path / "copy of files").as_uri()


def test_a_copy_leaves_the_first_alone(here, original):
    stores, run_id = here
    tracking.load_tagger(run_id)
    assert files(stores) == files(original[0])
    tracking.connect(original[0])
    assert f"{original[0].as_uri()}/" in mlflow.get_run(run_id).info.artifact_uri
