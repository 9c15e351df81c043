"""A training as a run: begun as a new run, logged whole, ended as what it was, loaded again."""

import io
import os
import re
import sqlite3
from contextlib import closing, nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from sklearn.metrics import f1_score
from small import SMALL
from sqlalchemy import event
from sqlalchemy.engine import Engine

from support.models.evaluation import measure
from support.models.linear import LinearParams
from support.models.params import Params
from support.models.rules import RuleParams
from support.models.training import train_cnn
from support.tracking import database, live
from support.tracking.intervals import with_interval
from support.tracking.live import log_epochs
from support.tracking.predictions import read_predictions
from support.tracking.results import SLICES
from support.tracking.runs import NoRunError, get_run
from support.tracking.store import connect, set_experiment
from support.tracking.training_run import (
    checkpoint_of,
    ensure_run,
    load_tagger,
    log_trained,
    start_run,
    train_and_log,
    train_in,
)

PARAMS = Params(num_epochs=3, **SMALL)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return the folder of a fresh, connected store with a current experiment."""
    connect()
    set_experiment()
    return tmp_path / "stores"


def only_run() -> Run:
    """Return the one run of `baselines`."""
    [run] = mlflow.search_runs(experiment_names=["baselines"], output_format="list")
    return run


def own_metrics(run: Run) -> dict[str, float]:
    return {name: value for name, value in run.data.metrics.items() if not name.startswith("system/")}


# A run begins


def test_without_an_experiment_a_run_is_in_the_current_one(store) -> None:
    with start_run("one") as one, start_run("two", experiment="others", nested=True) as two:
        pass
    names = [MlflowClient().get_experiment(run.info.experiment_id).name for run in (one, two)]
    assert names == ["baselines", "others"]


def test_what_mlflow_means_is_passed_on(store) -> None:
    described = start_run("parent", description="why", tags={"mine": "1"})
    with described as parent, start_run("child", nested=True) as child:
        pass
    with start_run("later child", parent_run_id=parent.info.run_id) as later:
        pass
    parent, child, later = (mlflow.get_run(run.info.run_id) for run in (parent, child, later))
    assert parent.data.tags["mlflow.note.content"] == "why" and parent.data.tags["mine"] == "1"
    assert child.data.tags["mlflow.parentRunId"] == later.data.tags["mlflow.parentRunId"] == parent.info.run_id


def test_a_run_that_the_environment_names_stays_as_it_is(store, monkeypatch, capsys) -> None:
    with start_run("old") as old:
        mlflow.log_metric("f1", 0.5)
    before = mlflow.get_run(old.info.run_id)
    monkeypatch.setenv("MLFLOW_RUN_ID", old.info.run_id)
    with pytest.raises(ValueError), start_run("new") as new:
        raise ValueError
    assert f"MLFLOW_RUN_ID names the run {old.info.run_id}" in capsys.readouterr().out
    assert new.info.run_id != old.info.run_id and mlflow.get_run(new.info.run_id).info.status == "FAILED"
    after = mlflow.get_run(old.info.run_id)
    assert (after.info.run_name, after.info.status) == ("old", "FINISHED")
    assert own_metrics(after) == own_metrics(before)


def test_an_experiment_that_the_environment_names_keeps_its_files_in_the_store(store, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "named there")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
    database.forget_experiment()  # one that was set wins
    with start_run("own") as run:
        mlflow.log_text("x", "x.txt")
    assert mlflow.get_experiment(run.info.experiment_id).name == "named there"
    assert not (tmp_path / "mlruns").exists()


def test_a_run_left_open_by_an_earlier_cell_is_named_and_stays_as_it_is(store) -> None:
    with mlflow.start_run(run_name="left open") as left:
        with (
            pytest.raises(RuntimeError, match=r"'left open' is still open.*mlflow\.end_run\(\).*nested=True"),
            start_run("new"),
        ):
            pass
        assert mlflow.active_run().info.run_id == left.info.run_id
    assert only_run().info.status == "FINISHED"


def test_an_earlier_run_is_opened_by_its_id(store) -> None:
    with pytest.raises(KeyboardInterrupt), start_run("cut off", experiment="others") as run:
        raise KeyboardInterrupt
    with start_run(run_id=run.info.run_id) as again:
        mlflow.log_metric("f1", 0.5)
    run = mlflow.get_run(run.info.run_id)
    assert again.info.run_id == run.info.run_id
    assert (run.info.run_name, run.info.status, run.data.metrics["f1"]) == ("cut off", "FINISHED", 0.5)


# A run ends


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "FINISHED"), (ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")],
)
def test_a_run_ends_as_what_it_was_and_keeps_what_was_logged(store, error, status: str) -> None:
    expected = pytest.raises(error) if error else nullcontext()
    with expected, start_run("cnn"):
        mlflow.log_param("lr", 1)
        mlflow.log_metric("val_loss", 0.5, step=1)
        if error:
            raise error
    run = only_run()
    assert run.info.status == status
    assert run.data.params == {"lr": "1"} and own_metrics(run) == {"val_loss": 0.5}
    assert mlflow.active_run() is None


def test_an_interrupt_while_a_database_answers_leaves_it_unlocked(store) -> None:
    answers = []

    def interrupt(connection, cursor, statement, *_) -> None:
        if statement.startswith("SELECT latest_metrics"):
            answers.append(statement)
            if len(answers) == 4:  # both metrics have a row by then, and one is not fetched yet
                raise KeyboardInterrupt

    event.listen(Engine, "after_cursor_execute", interrupt)
    try:
        with pytest.raises(KeyboardInterrupt) as interrupted, start_run("cnn"):
            for step in range(9):
                mlflow.log_metrics({"train_loss": 0.5, "val_loss": 0.5}, step=step)
    finally:
        event.remove(Engine, "after_cursor_execute", interrupt)
    # While the traceback is still there, as a notebook keeps it.
    assert interrupted.tb and only_run().info.status == "KILLED"
    with closing(sqlite3.connect(store / "mlflow.db", timeout=0)) as other:
        other.execute("BEGIN EXCLUSIVE")


def test_a_loss_that_is_no_number_fails_the_run_and_keeps_its_epochs(store, sample_splits) -> None:
    params = Params(**{**asdict(PARAMS), "lr": 1e30})
    with pytest.raises(FloatingPointError, match="lr"):
        train_and_log(params, sample_splits)
    run = only_run()
    assert run.info.status == "FAILED" and run.data.params["lr"] == "1e+30"
    assert MlflowClient().get_metric_history(run.info.run_id, "val_loss")


# A training is logged


ARTIFACTS = {"label_encoder.json", "model.pt", "params.json", "performance.json", "tokenizer.json"}
FOLDERS = {"plots", "predictions", "provenance"}


def test_a_run_holds_all_that_is_promised(store, sample_splits, capsys) -> None:
    run = mlflow.get_run(train_and_log(PARAMS, sample_splits))
    assert (run.info.run_name, run.info.status) == ("cnn", "FINISHED")
    assert run.data.params == {name: str(value) for name, value in asdict(PARAMS).items()}
    for name in ("train_loss", "val_loss", "lr"):
        history = MlflowClient().get_metric_history(run.info.run_id, name)
        assert [metric.step for metric in history] == [1, 2, 3]
    assert {"best_val_loss", "best_epoch", "precision", "recall", "f1", "val_f1"} <= set(run.data.metrics)
    assert run.data.metrics["training_seconds"] > 0 and run.data.metrics["latency_ms"] > 0
    found = {file.path for file in mlflow.artifacts.list_artifacts(run_id=run.info.run_id)}
    assert found == ARTIFACTS | FOLDERS | {"checksums"}
    folder = store / "artifacts" / run.info.run_id / "artifacts"
    assert run.data.metrics["size_bytes"] == sum((folder / name).stat().st_size for name in ARTIFACTS)
    assert run.data.tags["support.train"] == "support.models.training:train_cnn"
    assert not checkpoint_of(run.info.run_id).path.exists()
    shown = capsys.readouterr().out
    assert "3/3" in shown
    note = run.data.tags["mlflow.note.content"]
    assert f"with 95 % intervals: f1 {with_interval(run, 'f1')}, val_f1 {with_interval(run, 'val_f1')}." in note


def test_f1_is_logged_by_tag_frequency_and_text_length(store, sample_splits) -> None:
    run = mlflow.get_run(train_and_log(RuleParams(), sample_splits))
    table = pd.read_csv(io.StringIO(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/{SLICES}")))
    assert table.slice[0] == "all" and table.f1[0] == pytest.approx(run.data.metrics["f1"], abs=1e-4)
    said, lengths = read_predictions(run), sample_splits.test.text.str.len().to_numpy()
    for row in table[table.slice.str.startswith("texts")].itertuples():
        low, high = map(int, re.findall(r"\d+", row.slice))
        rows = (lengths >= low) & (lengths <= high)
        wanted = f1_score(said.targets[rows], said.predicted[rows], average="weighted", zero_division=0)
        assert row.f1 == pytest.approx(wanted, abs=1e-4)
        assert row.texts <= rows.sum()
    by_tag = table[table.slice.str.startswith("tags")]
    counts = sample_splits.train.tags.explode().value_counts().reindex(said.classes).to_numpy()
    for row in by_tag.itertuples():
        low, high = map(int, re.findall(r"\d+", row.slice))
        tags = (counts >= low) & (counts <= high)
        wanted = f1_score(said.targets[:, tags], said.predicted[:, tags], average="weighted", zero_division=0)
        assert row.f1 == pytest.approx(wanted, abs=1e-4)
        assert row.texts == said.targets[:, tags].any(axis=1).sum()


def test_a_bar_ends_at_its_end_where_the_training_stopped_early(store, sample_splits, capsys) -> None:
    def stops_early(params, splits, on_epoch=None, checkpoint=None) -> dict:
        for epoch in (1, 2):
            on_epoch(epoch, {"loss": 1 / epoch})
        return {"f1": 0.5}

    train_and_log({"num_epochs": 9}, sample_splits, "short", train=stops_early)
    last = capsys.readouterr().out.rstrip("\n").rpartition("\r")[2]
    assert "2/2" in last and "100%" in last and "stopped early" in last


def test_the_curve_of_a_resumed_run_begins_with_what_was_logged_before(store, monkeypatch) -> None:
    drawn, draw = [], live.plots.learning_curves
    monkeypatch.setattr(live, "_in_notebook", lambda: True)
    monkeypatch.setattr(live.plots, "learning_curves", lambda *given: drawn.append(given) or draw(*given))
    with start_run("own") as run, log_epochs(num_epochs=3) as on_epoch:
        for epoch in (1, 2):
            on_epoch(epoch, {"val_loss": 1 / epoch})
    assert "epoch 1 of at most 3, at most" in drawn[0][2]
    assert "stopped at 2, best 2" in drawn[-1][2]
    with start_run(run_id=run.info.run_id), log_epochs(num_epochs=3) as on_epoch:
        on_epoch(3, {"val_loss": 1 / 3})
    history, best_epoch, title, _ = drawn[-1]
    assert [epoch["val_loss"] for epoch in history] == [1, 1 / 2, 1 / 3]
    assert "own: epoch 3, best 3" in title and best_epoch == 3


@pytest.mark.parametrize("params", [RuleParams(), LinearParams(char_ngrams=2, word_ngrams=1)])
def test_a_run_of_any_kind_holds_the_same(store, params, sample_splits) -> None:
    run = mlflow.get_run(train_and_log(params, sample_splits))
    assert run.info.run_name == run.data.params["model"] == params.model
    wanted = {"precision", "recall", "f1", "val_f1", "training_seconds", "size_bytes", "latency_ms"}
    assert wanted <= run.data.metrics.keys()
    plots = {Path(file.path).stem for file in mlflow.artifacts.list_artifacts(f"{run.info.artifact_uri}/plots")}
    assert plots == {"precision_recall", "f1_by_tag"}
    tagger = load_tagger(run.info.run_id)
    assert measure(tagger, sample_splits.test)["overall"]["f1"] == run.data.metrics["f1"]


def test_what_is_there_is_kept_and_another_value_is_an_error(store, trained, sample_splits) -> None:
    with start_run("cnn") as run:
        log_trained(trained, sample_splits)
    before = mlflow.get_run(run.info.run_id).data.metrics["training_seconds"]
    with start_run(run_id=run.info.run_id):
        log_trained(replace(trained, seconds=1e6), sample_splits)
    history = MlflowClient().get_metric_history(run.info.run_id, "training_seconds")
    assert [metric.value for metric in history] == [before], "the machine decides: the first one stays"
    with (
        pytest.raises(RuntimeError, match=r"val_f1 of step 0 is 0\.5 now"),
        start_run(run_id=run.info.run_id),
    ):
        log_trained(replace(trained, val_f1=0.5), sample_splits)


def test_a_function_that_returns_something_else_fails_its_run(store, sample_splits) -> None:
    def returns_a_text(params, splits, on_epoch=None, checkpoint=None):
        return "done"

    with pytest.raises(TypeError, match="returned a str"):
        train_and_log({"a": 1}, sample_splits, "own", train=returns_a_text)
    assert only_run().info.status == "FAILED"


def test_params_that_name_no_function_are_refused_before_a_run_is_there(store, sample_splits) -> None:
    with pytest.raises(ValueError, match="do not say which function trains by them"):
        train_and_log({"a": 1}, sample_splits)
    assert not mlflow.search_runs(experiment_names=["baselines"], output_format="list")


def test_a_function_of_a_notebook_trains_and_says_what_it_cannot(store, sample_splits, capsys) -> None:
    train_and_log({"a": 1}, sample_splits, "own", train=lambda params, splits, **_: {"f1": 0.5})
    assert "cannot be resumed or reproduced" in capsys.readouterr().out
    run = only_run()
    assert run.info.status == "FINISHED" and "support.train" not in run.data.tags


def test_train_in_trains_in_the_open_run(store, sample_splits) -> None:
    with start_run("mine", experiment="others") as run:
        train_in(run, RuleParams(), sample_splits)
    run = mlflow.get_run(run.info.run_id)
    assert run.info.run_name == "mine" and run.data.metrics["f1"] > 0


# A model is loaded


def test_a_loaded_tagger_gives_the_same_probabilities(store, sample_splits) -> None:
    texts = list(sample_splits.test.text)[:20]
    with start_run("cnn") as run:
        trained = train_cnn(PARAMS, sample_splits)
        log_trained(trained, sample_splits)
    tagger = load_tagger(run.info.run_id)
    assert (tagger.predict_proba(texts) == trained.tagger.predict_proba(texts)).all()
    assert tagger.predict(texts) == trained.tagger.predict(texts)


def test_a_run_without_a_tagger_is_a_clear_error(store, sample_splits) -> None:
    with start_run("empty") as run:
        pass
    with pytest.raises(NoRunError, match=rf"Run {run.info.run_id} has not all files of a tagger"):
        load_tagger(run.info.run_id)
    with pytest.raises(NoRunError, match="is not in this store"):
        load_tagger("0" * 32)


def test_ensure_run_trains_once_and_takes_no_other_model(store, sample_splits, monkeypatch, capsys) -> None:
    from support.tracking import training_run

    monkeypatch.setattr(training_run, "Params", lambda: PARAMS)
    train_and_log(RuleParams(), sample_splits)
    capsys.readouterr()
    first = ensure_run(sample_splits)
    assert "There is no finished run `cnn` yet" in capsys.readouterr().out
    assert first.data.params["model"] == "cnn"
    assert ensure_run(sample_splits).info.run_id == first.info.run_id
    assert get_run(first.info.run_id).info.status == "FINISHED"
    assert "trained now" not in capsys.readouterr().out


def test_no_variable_of_the_environment_is_left_changed(store, sample_splits) -> None:
    before = set(os.environ)
    train_and_log(RuleParams(), sample_splits)
    assert set(os.environ) - before <= {"MLFLOW_EXPERIMENT_ID"}
