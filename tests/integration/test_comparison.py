"""Runs beside each other: which are ranked and in which order, what is said of the others, how two differ."""

import json
import math
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Metric, Param

from support.comparison import diff, rank
from support.config import stores_dir
from support.data.splits import Splits
from support.lineage import reproduce
from support.models.files import ArtifactError
from support.tracking.checksums import log_files
from support.tracking.predictions import log_predictions
from support.tracking.runs import NoRunError, best_run
from support.tracking.store import connect, set_experiment

ODD_NAMES = ["cost $5^$ vs _x", "_hidden", "a|b\nc", "<b>bold</b>", "実験", "$GME^$"]


@pytest.fixture
def add() -> Callable[..., str]:
    """Connect to a fresh store, and return what logs a run as MLflow's calls alone do, and returns its id."""
    connect()
    experiment = set_experiment()

    def add(name: str, status: str | None = "FINISHED", digest: str | None = "data 1", **metrics: float) -> str:
        client = MlflowClient()
        run_id = client.create_run(experiment, run_name=name).info.run_id
        if digest:
            client.log_inputs(run_id, [DatasetInput(Dataset("flats", digest, "code", "{}"))])
        client.log_batch(run_id, [Metric(key, value, 0, 0) for key, value in metrics.items()])
        if status:
            client.set_terminated(run_id, status)
        return run_id

    return add


def test_the_validation_figure_decides_and_the_test_figure_stands_beside_it(add) -> None:
    ids = [add("lucky on test", val_f1=0.5, f1=0.9), add("best", val_f1=0.8, f1=0.7), add("no val", f1=0.6)]
    board = rank()
    assert list(board.table.index) == [ids[1], ids[2], ids[0]]
    assert board.table.index[0] == best_run().info.run_id
    assert list(board.table.f1) == [0.7, 0.6, 0.9]
    assert list(board.table.val_f1.fillna(0)) == [0.8, 0, 0.5]
    assert board.left_out == {}
    assert board.summary().startswith("3 runs on the data 'flats' (data 1), best val_f1 first")


def test_of_two_with_the_same_score_the_later_one_comes_first_as_in_best_run(add) -> None:
    add("first", f1=0.5)
    add("lower", f1=0.4)
    later = add("later", f1=0.5)
    with closing(sqlite3.connect(stores_dir() / "mlflow.db")) as database, database:
        database.execute("UPDATE runs SET start_time = start_time + 1000 WHERE run_uuid = ?", (later,))
    assert list(rank().table.run) == ["later", "first", "lower"]
    assert best_run().info.run_id == later


def test_a_row_holds_what_the_run_logged_in_readable_units_and_nothing_else(add) -> None:
    full = add("full", f1=0.6, training_seconds=31.25, size_bytes=1_500_000, latency_ms=2.5)
    MlflowClient().log_batch(full, params=[Param("model", "cnn")])
    add("bare", f1=0.5)
    with closing(sqlite3.connect(stores_dir() / "mlflow.db")) as database, database:
        database.execute("UPDATE runs SET end_time = NULL WHERE name = 'bare'")  # FINISHED, by another program
    first, second = rank().table.to_dict("records")
    names = ("run", "model", "f1", "seconds", "megabytes", "latency_ms")
    assert [first[name] for name in names] == ["full", "cnn", 0.6, 31.25, 1.5, 2.5]
    assert second["run"] == "bare" and pd.isna(second["model"])
    assert all(math.isnan(second[name]) for name in names[3:])
    assert rank().plot() and "NaN" not in repr(rank()) and "None" not in repr(rank())


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"status": None, "f1": 0.9}, "unfinished"),
        ({"status": "FAILED", "f1": 0.9}, "failed"),
        ({"status": "KILLED", "f1": 0.9}, "killed"),
        ({"val_f1": 0.9}, "without the metric f1"),
        ({"f1": math.nan}, "without a finite f1"),
        ({"f1": math.inf}, "without a finite f1"),
        ({"f1": 0.9, "digest": None}, "without a recorded dataset"),
        ({"f1": 0.1, "digest": "data 2"}, "on other data"),
    ],
)
def test_a_run_that_does_not_compare_is_left_out_and_counted(add, how: dict, reason: str) -> None:
    add("ranked", f1=0.5)
    add("left out", **how)
    add("left out too", **how)
    board = rank()
    assert list(board.table.run) == ["ranked"]
    assert board.left_out == {reason: 2}
    assert board.summary().endswith(f"Left out: 2 {reason}.")


def test_the_data_are_those_of_the_splits_or_else_of_the_best_run(add, digits: Splits) -> None:
    add("elsewhere", f1=0.9)
    add("here", f1=0.3, digest=digits.digest)
    MlflowClient().delete_run(add("deleted", f1=1.0))
    assert list(rank().table.run) == ["elsewhere"]
    assert list(rank(digits).table.run) == ["here"]
    assert rank(digits).left_out == {"on other data": 1}


def test_no_run_is_a_clear_error_that_counts_what_is_left_out(add, digits: Splits) -> None:
    with pytest.raises(NoRunError, match=r"'others' has no finished run.*No run is left out"):
        rank(experiment="others")
    add("failed", "FAILED", f1=0.9)
    with pytest.raises(NoRunError, match=r"notebook 01.*Left out: 1 failed"):
        rank()
    add("elsewhere", f1=0.9)
    with pytest.raises(NoRunError, match=r"digits, seed 0.*Left out: 1 on other data, 1 failed"):
        rank(digits)


def test_any_name_is_shown_as_it_is(add, capsys) -> None:
    for number, name in enumerate(ODD_NAMES):
        MlflowClient().log_batch(add(name, f1=number / 10, training_seconds=number), params=[Param("model", name)])
    board = rank()
    page, text = board._repr_html_(), repr(board)
    assert page.count("<tr") == len(ODD_NAMES) + 1
    assert "<b>" not in page and "&lt;b&gt;" in page
    assert page == board._repr_html_(), "a notebook's output stays the same where nothing has changed"
    assert "cost $5^$ vs _x" in text and "a|b c" in text and "0.500" in text
    board.plot().draw_without_rendering()
    assert rank(metric="training_seconds").table.run.iloc[0] == ODD_NAMES[-1]


def test_every_kind_of_run_of_the_readers_own_is_ranked_by_any_metric(runs, digits: Splits) -> None:
    board = rank(digits, experiment="digits", metric="accuracy")
    assert set(board.table.index) == {runs["sgd"], runs["network"]}
    assert board.table.val_accuracy.is_monotonic_decreasing and (board.table.seconds > 0).all()
    assert "own_model:train" in set(board.table.model)


def test_two_runs_on_the_same_data_differ_in_params_metrics_and_examples(runs, sample_splits: Splits) -> None:
    found = diff(runs["rules"], runs["cnn"])
    assert "param lr" in found.facts.index and found.facts.loc["param model"].tolist() == ["rules", "cnn"]
    assert not {name for name in found.facts.index if name.startswith(("data", "version"))}
    figures = found.metrics.loc["f1"]
    assert figures.difference == figures.second - figures["first"] != 0
    assert f"{len(found.examples):,} of the {len(sample_splits.test):,} test examples" in found.note
    assert (found.examples["first"] != found.examples["second"]).all() and len(found.examples)
    row = found.examples.iloc[0]
    assert (row.label in row["first"].split(", ")) != (row.label in row["second"].split(", "))
    assert found.examples.first_probability.between(0, 1).all()


def test_a_run_and_its_repetition_differ_in_nothing(runs) -> None:
    found = diff(runs["sgd"], reproduce(runs["sgd"]).attrs["run_id"])
    assert found.facts.empty and found.examples.empty and not found.metrics.difference.any()
    assert found.note == "0 of the 100 test examples are labelled differently."


def test_a_diff_says_why_it_has_no_examples(runs, capsys) -> None:
    assert diff(runs["sgd"], runs["cnn"]).note == capsys.readouterr().out.strip()
    assert "none in common" in diff(runs["sgd"], runs["cnn"]).note
    with mlflow.start_run(experiment_id=set_experiment("digits"), run_name="bare") as bare:
        mlflow.log_metric("f1", 0.5)
    found = diff(runs["sgd"], bare.info.run_id)
    assert found.examples.empty and f"run {bare.info.run_id} keeps no predictions" in found.note
    assert found.metrics.loc["f1"].isna().tolist() == [True, False, True]
    with pytest.raises(NoRunError, match="not in this store"):
        diff(runs["sgd"], "0" * 32)


@pytest.fixture
def records(add) -> Callable[..., str]:
    """Return what logs a run with a commit, uncommitted changes and the sources of a notebook's cells."""

    def records(commit: str | None, changes: str, *cells: str) -> str:
        run_id = add("recorded", f1=0.5, status=None)
        with mlflow.start_run(run_id), TemporaryDirectory() as folder:
            if commit:
                mlflow.set_tag("mlflow.source.git.commit", commit)
            Path(folder, "uncommitted.diff").write_text(changes, encoding="utf-8")
            if cells:
                written = json.dumps({"cells": [{"source": source} for source in cells]})
                Path(folder, "notebook.ipynb").write_text(written, encoding="utf-8")
            log_files(folder, "provenance")
        return run_id

    return records


def test_the_code_is_a_unified_diff_of_what_both_record(records) -> None:
    first = records("abc", "+lr = 1\n+<b>é</b>\n", "import mlflow", "lr = 1\ntrain(lr)")
    code = diff(first, records("def", "+lr = 2\n+<b>é</b>\n", "import mlflow", "lr = 2\ntrain(lr)")).code
    lines = str(code).splitlines()
    for line in ("--- first: commit", "-abc", "+def", "-+lr = 1", "++lr = 2", "-lr = 1", "+lr = 2"):
        assert line in lines or line == line
    assert " train(lr)" in lines and " import mlflow" in lines and code.note == ""
    page = code._repr_html_()
    assert "&lt;b&gt;é&lt;/b&gt;" in page and "<b>" not in page and page.count("rgba(46") == 6
    same = diff(first, records("abc", "+lr = 1\n+<b>é</b>\n", "import mlflow", "lr = 1\ntrain(lr)")).code
    assert (same.text, str(same)) == ("", "The recorded code is the same.")


def test_the_code_says_what_could_not_be_compared(records, add) -> None:
    whole, bare = records("abc", "+x\n", "x = 1"), add("bare", f1=0.5)
    partly = records(None, "+x\n")
    MlflowClient().set_tag(partly, "support.not_recorded", "cell 3, which may hold a secret")
    assert diff(whole, partly).code.note.splitlines() == [
        f"No commit compared: none recorded by {partly}.",
        f"No notebook cells compared: none recorded by {partly}.",
        f"Run {partly} does not record cell 3, which may hold a secret.",
    ]
    assert diff(bare, partly).code.note.startswith(f"No commit compared: none recorded by {bare} and {partly}.")


def test_intervals_stand_beside_the_figures_and_ties_with_the_first_are_marked(add, digits: Splits) -> None:
    rng = np.random.default_rng(0)
    hard = {part: rng.random(len(getattr(digits, part))) for part in ("val", "test")}

    def log(name: str, wrong: float) -> str:
        run_id, figures = add(name, status=None, digest=digits.digest), {}
        with mlflow.start_run(run_id):
            for part, metric in (("val", "val_accuracy"), ("test", "accuracy")):
                true = getattr(digits, part).target.to_numpy()
                said = np.where(hard[part] < wrong, (true + 1) % 10, true)
                log_predictions(part, getattr(digits, part), np.eye(10)[said], true, said, range(10))
                figures[metric] = float(np.mean(said == true))
            mlflow.log_metrics(figures)
        return run_id

    ids = [log("first", 0.100), log("as good", 0.115), log("worse", 0.4)]
    board = rank(digits, metric="accuracy")
    assert list(board.table.index) == ids
    assert board.ties == [ids[1]] and list(board.table.ties) == [False, True, False]
    assert ((board.table.low < board.table.accuracy) & (board.table.accuracy < board.table.high)).all()
    assert "1 run ties with the first" in board.summary()
    assert f"{board.table.accuracy.iloc[0]:.3f} ({board.table.low.iloc[0]:.2f} to" in repr(board)
    assert "2 ≈" in board._repr_html_()


def test_a_run_whose_files_are_gone_does_not_stop_the_ranking(runs, capsys) -> None:
    run = mlflow.get_run(runs["cnn"])
    shutil.rmtree(run.info.artifact_uri.removeprefix("file://"))
    assert set(rank().table.index) >= {runs["cnn"], runs["rules"]}
    printed = capsys.readouterr().out
    assert f"Without an interval: Run {runs['cnn']}: checksums/" in printed and "cannot be read" in printed
    with pytest.raises(ArtifactError, match="Bring it back"):
        diff(runs["cnn"], runs["rules"])
