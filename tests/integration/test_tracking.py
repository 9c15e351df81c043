"""Tracking against real SQLite stores: made once, filled in order, read again."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing, nullcontext
from dataclasses import asdict
from pathlib import Path

import mlflow
import pytest
from small import SMALL
from mlflow import MlflowClient
from mlflow.entities import Run
from sqlalchemy import event
from sqlalchemy.engine import Engine

from support.tracking import training_run as tracking
from support.tracking.store import PROJECT_DIR, plan_for_many_runs, stores_dir
from support.models.params import Params
from support.models.training import train_cnn

SMALL_PARAMS = Params(num_epochs=3, **SMALL)


@pytest.fixture
def store() -> Path:
    """Give the folder of a fresh, connected store."""
    tracking.connect()
    return stores_dir()


def run_in_store(name: str, **metrics: float) -> str:
    """Log a finished run with these metrics and give its id."""
    with tracking.start_run(name) as run:
        mlflow.log_metrics(metrics)
    return run.info.run_id


def only_run() -> Run:
    """Give the one run of the experiment."""
    [run] = MlflowClient().search_runs([tracking.set_experiment()])
    return run


def test_connect_makes_a_sqlite_store_in_the_stores_folder(tmp_path: Path) -> None:
    uri = tracking.connect(tmp_path / "elsewhere")
    assert uri == mlflow.get_tracking_uri()
    assert uri == f"sqlite:///{(tmp_path / 'elsewhere' / 'mlflow.db').as_posix()}"
    assert (tmp_path / "elsewhere" / "mlflow.db").is_file()


def test_the_environments_tracking_uri_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{(tmp_path / 'team.db').as_posix()}")
    assert tracking.connect(tmp_path / "ignored").endswith("/team.db")
    assert not (tmp_path / "ignored").exists()


def test_connect_can_go_to_another_folder_in_the_same_kernel(tmp_path: Path) -> None:
    first = tracking.connect(tmp_path / "first")
    second = tracking.connect(tmp_path / "second")
    assert first != second == mlflow.get_tracking_uri()
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_connect_turns_telemetry_off(store: Path) -> None:
    from mlflow.telemetry.client import get_telemetry_client

    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert get_telemetry_client() is None


def test_importing_support_makes_no_folder_and_sets_no_uri(tmp_path: Path) -> None:
    code = (
        "import mlflow; before = mlflow.get_tracking_uri()\n"
        "from support import data, environment, plots, tracking, training\n"
        "assert mlflow.get_tracking_uri() == before\n"
    )
    environment = {**os.environ, "STORES_DIR": str(tmp_path / "none"), "PYTHONPATH": str(PROJECT_DIR)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    assert not (tmp_path / "none").exists()
    assert [path.name for path in tmp_path.iterdir()] == []


def test_artifacts_land_in_the_store_and_not_in_the_working_folder(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with tracking.start_run("cnn") as run:
        mlflow.log_dict({"a": 1}, "a.json")
    assert (store / "artifacts" / run.info.run_id / "artifacts" / "a.json").is_file()
    assert not (tmp_path / "mlruns").exists()


def test_the_experiment_opens_in_the_training_view(store: Path) -> None:
    tracking.set_experiment()
    experiment = mlflow.get_experiment_by_name("baselines")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert tracking.set_experiment() == experiment.experiment_id


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "FINISHED"), (ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")],
)
def test_a_run_ends_as_what_it_was_and_keeps_what_was_logged(store: Path, error, status: str) -> None:
    expected = pytest.raises(error) if error else nullcontext()
    with expected, tracking.start_run("cnn"):
        mlflow.log_param("lr", 1)
        mlflow.log_metric("val_loss", 0.5, step=1)
        if error:
            raise error
    run = only_run()
    assert run.info.status == status
    assert run.data.params == {"lr": "1"}
    own = {name: value for name, value in run.data.metrics.items() if not name.startswith("system/")}
    assert own == {"val_loss": 0.5}
    assert mlflow.active_run() is None


def test_an_interrupt_while_a_database_answers_leaves_it_unlocked(store: Path) -> None:
    answers = []

    def interrupt(connection, cursor, statement, *_) -> None:
        if statement.startswith("SELECT latest_metrics"):
            answers.append(statement)
            if len(answers) == 4:  # both metrics have a row by then, and one is not fetched yet
                raise KeyboardInterrupt

    event.listen(Engine, "after_cursor_execute", interrupt)
    try:
        with pytest.raises(KeyboardInterrupt) as interrupted, tracking.start_run("cnn"):
            for step in range(9):
                mlflow.log_metrics({"train_loss": 0.5, "val_loss": 0.5}, step=step)
    finally:
        event.remove(Engine, "after_cursor_execute", interrupt)
    # While the traceback is still there, as a notebook keeps it.
    assert interrupted.tb and only_run().info.status == "KILLED"
    with closing(sqlite3.connect(store / "mlflow.db", timeout=0)) as other:
        other.execute("BEGIN EXCLUSIVE")


def test_a_loss_that_is_no_number_fails_the_run_and_keeps_its_epochs(store: Path, sample_splits) -> None:
    params = Params(**{**asdict(SMALL_PARAMS), "lr": 1e30})
    with pytest.raises(FloatingPointError, match="lr"):
        tracking.train_and_log(params, sample_splits)
    run = only_run()
    assert run.info.status == "FAILED"
    assert run.data.params["lr"] == "1e+30"
    assert MlflowClient().get_metric_history(run.info.run_id, "val_loss")


def test_a_run_holds_all_that_is_promised(store: Path, sample_splits, capsys) -> None:
    run = mlflow.get_run(tracking.train_and_log(SMALL_PARAMS, sample_splits))
    assert (run.info.run_name, run.info.status) == ("cnn", "FINISHED")
    assert run.data.params == {name: str(value) for name, value in asdict(SMALL_PARAMS).items()}
    for name in ("train_loss", "val_loss", "lr"):
        history = MlflowClient().get_metric_history(run.info.run_id, name)
        assert [metric.step for metric in history] == [1, 2, 3]
    assert {"best_val_loss", "best_epoch", "precision", "recall", "f1", "val_f1"} <= set(run.data.metrics)
    assert run.data.metrics["training_seconds"] > 0 and run.data.metrics["latency_ms"] > 0
    folder = store / "artifacts" / run.info.run_id / "artifacts"
    files = [path for path in folder.iterdir() if path.is_file()]
    assert run.data.metrics["size_bytes"] == sum(path.stat().st_size for path in files)
    assert run.data.tags["corpus"] == "sample"
    assert run.data.tags["split_seed"] == "1234"
    assert run.data.tags["torch"]
    [given] = run.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("sample", sample_splits.digest)
    artifacts = {file.path for file in mlflow.artifacts.list_artifacts(run_id=run.info.run_id)}
    assert artifacts == {
        "label_encoder.json",
        "model.pt",
        "params.json",
        "performance.json",
        "plots",
        "provenance",
        "tokenizer.json",
    }
    assert "3/3" in capsys.readouterr().out


def test_the_best_run_is_the_finished_one_with_the_highest_f1(store: Path) -> None:
    run_in_store("low", f1=0.1)
    best = run_in_store("high", f1=0.9)
    run_in_store("without a figure")
    with pytest.raises(ValueError), tracking.start_run("failed"):
        mlflow.log_metric("f1", 0.99)
        raise ValueError
    assert tracking.best_run().info.run_id == best
    table = tracking.runs_table()
    assert list(table.run) == ["high", "low"]
    assert table.index[0] == best


def test_runs_are_told_apart_by_a_last_value_that_is_not_a_number(store: Path) -> None:
    run_in_store("broken", f1=float("nan"))
    best = run_in_store("whole", f1=0.2)
    assert tracking.best_run().info.run_id == best


def test_no_run_is_a_clear_error(store: Path) -> None:
    with pytest.raises(tracking.NoRunError, match="Run notebook 01_tracked_training first"):
        tracking.best_run()
    run_in_store("cnn", f1=0.5)
    with pytest.raises(tracking.NoRunError, match="'accuracy'"):
        tracking.best_run(metric="accuracy")
    with pytest.raises(tracking.NoRunError, match="'others'"):
        tracking.runs_table(experiment="others")


def test_a_loaded_tagger_gives_the_same_probabilities(store: Path, sample_splits) -> None:
    texts = list(sample_splits.test.text)[:20]
    with tracking.start_run("cnn") as run:
        trained = train_cnn(SMALL_PARAMS, sample_splits)
        tracking.log_trained(trained, sample_splits)
    tagger = tracking.load_tagger(run.info.run_id)
    assert (tagger.predict_proba(texts) == trained.tagger.predict_proba(texts)).all()
    assert tagger.predict(texts) == trained.tagger.predict(texts)


def test_a_run_without_a_model_is_a_clear_error(store: Path) -> None:
    run_id = run_in_store("empty", f1=0.5)
    with pytest.raises(tracking.NoRunError, match=f"Run {run_id} cannot be loaded"):
        tracking.load_tagger(run_id)
    with pytest.raises(tracking.NoRunError, match="cannot be loaded"):
        tracking.load_tagger("0" * 32)


def test_ensure_run_trains_once_and_says_so(
    store: Path, sample_projects, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(tracking.data, "load_projects", lambda: sample_projects)
    monkeypatch.setattr(tracking, "Params", lambda: SMALL_PARAMS)
    first = tracking.ensure_run()
    assert "no finished run yet" in capsys.readouterr().out
    assert tracking.ensure_run().info.run_id == first.info.run_id
    assert capsys.readouterr().out == ""


def test_the_planner_knows_that_a_metric_has_many_runs(store: Path) -> None:
    run_in_store("cnn", f1=0.5)
    plan_for_many_runs(store / "mlflow.db")  # again: it must not write twice
    queries = []

    @event.listens_for(Engine, "before_cursor_execute")
    def note(_connection, _cursor, statement, parameters, *_) -> None:
        if "ORDER BY" in statement and "latest_metrics" in statement:
            queries.append((statement, parameters))

    tracking.best_run()
    event.remove(Engine, "before_cursor_execute", note)
    statement, parameters = queries[0]
    with closing(sqlite3.connect(store / "mlflow.db")) as connection:
        (rows,) = connection.execute("SELECT count(*) FROM sqlite_stat1").fetchone()
        plan = str(connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall())
    assert rows == 2
    assert "AUTOMATIC COVERING INDEX" in plan, plan
