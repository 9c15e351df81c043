"""The leaderboard: who is on it, in which order, and what it says of the others."""

import math
import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from conftest import SMALL
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag

from benchmarks.store import fill
from support.comparison import leaderboard
from support.data.corpus import split
from support.lineage.lineage import STARTED_FROM
from support.models.files import ArtifactError
from support.models.training import Params
from support.tracking import training_run as tracking
from support.tracking.store import stores_dir

DATA = {"digest": "data 1", "source": "corpus 1", "seed": 1234}
PARENT = "mlflow.parentRunId"


@pytest.fixture(autouse=True)
def store() -> Path:
    """Connect to a fresh store and give its folder."""
    tracking.connect()
    return stores_dir()


def add(
    name: str,
    f1: float | None = None,
    status: str | None = "FINISHED",
    model: str | None = None,
    data: dict | None = DATA,
    tags: dict | None = None,
    **metrics: float,
) -> str:
    """Log a run as `tracking` does, and give its id. Without a status it goes on running."""
    client = MlflowClient()
    run_id = client.create_run(tracking.set_experiment(), run_name=name).info.run_id
    metrics |= {} if f1 is None else {"f1": f1}
    tags = dict(tags or {})
    if data:
        tags |= {"corpus": "lesson", "corpus.digest": data["source"], "split_seed": str(data["seed"])}
        dataset = Dataset("lesson", data["digest"], "code", "{}")
        client.log_inputs(run_id, [DatasetInput(dataset)])
    client.log_batch(
        run_id,
        [Metric(key, value, 0, 0) for key, value in metrics.items()],
        [Param("model", model)] if model else [],
        [RunTag(key, value) for key, value in tags.items()],
    )
    if status:
        client.set_terminated(run_id, status)
    return run_id


def test_the_best_f1_comes_first() -> None:
    ids = {name: add(name, f1) for name, f1 in (("b", 0.5), ("a", 0.9), ("c", 0.1))}
    board = leaderboard.rank()
    assert list(board.table.run) == ["a", "b", "c"]
    assert list(board.table.index) == [ids["a"], ids["b"], ids["c"]]
    assert board.table.index[0] == tracking.best_run().info.run_id
    assert board.left_out == {}
    assert str(board) == ("3 runs on the corpus 'lesson', split seed 1234, best F1 first. No run is left out.")


def test_of_two_with_the_same_f1_the_later_one_comes_first_as_in_best_run() -> None:
    add("first", 0.5)
    add("lower", 0.4)
    later = add("later", 0.5)
    with closing(sqlite3.connect(stores_dir() / "mlflow.db")) as database, database:
        database.execute("UPDATE runs SET start_time = start_time + 1000 WHERE run_uuid = ?", (later,))
    assert list(leaderboard.rank().table.run) == ["later", "first", "lower"]
    assert tracking.best_run().info.run_id == later


def test_a_row_holds_what_the_run_logged_in_readable_units() -> None:
    logged = {"precision": 0.7, "recall": 0.6, "training_seconds": 31.25}
    add("cnn", 0.65, model="cnn", size_bytes=1_500_000, latency_ms=2.5, **logged)
    [row] = leaderboard.rank().table.to_dict("records")
    assert row == {
        "run": "cnn",
        "model": "cnn",
        "f1": 0.65,
        "precision": 0.7,
        "recall": 0.6,
        "seconds": 31.25,
        "megabytes": 1.5,
        "latency_ms": 2.5,
        "corpus": "lesson",
    }


def test_what_a_run_has_not_logged_is_missing_and_not_zero() -> None:
    add("old", 0.6)
    add("new", 0.5, model="rules", training_seconds=0.0, size_bytes=0, latency_ms=0.0)
    old, new = (row for _, row in leaderboard.rank().table.iterrows())
    lacking = ["model", "precision", "recall", "seconds", "megabytes", "latency_ms"]
    assert old[lacking].isna().all()
    assert list(new[["seconds", "megabytes", "latency_ms"]]) == [0, 0, 0]


def test_a_column_that_no_run_has_logged_is_still_there() -> None:
    add("old", 0.6)
    board = leaderboard.rank()
    assert list(board.table) == list(leaderboard.COLUMNS)
    assert "NaN" not in repr(board) and "None" not in repr(board)
    assert len(board.plot().axes) == 1


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"status": None, "f1": 0.9}, "unfinished"),
        ({"status": "FAILED", "f1": 0.9}, "failed"),
        ({"status": "KILLED", "f1": 0.9}, "killed"),
        ({}, "without an F1"),
        ({"f1": math.nan}, "without an F1"),
        ({"val_f1": 0.9}, "without an F1"),
        ({"f1": 0.1, "data": None}, "without a recorded dataset"),
        ({"f1": 0.1, "data": DATA | {"digest": "data 2", "source": "corpus 2"}}, "on other data"),
        ({"f1": 0.1, "data": DATA | {"digest": "data 2"}}, "on other data"),
        ({"f1": 0.1, "data": DATA | {"digest": "data 2", "seed": 1}}, "on another split seed"),
        ({"val_f1": 0.9, "tags": {PARENT: "0" * 32}}, "part of a search"),
        ({"val_f1": 0.9, "tags": {PARENT: "0" * 32}, "status": "KILLED"}, "part of a search"),
        ({"tags": {PARENT: "0" * 32}, "status": None}, "part of a search"),
        ({"tags": {PARENT: "0" * 32, STARTED_FROM: "0" * 32}, "status": "FAILED"}, "failed"),
    ],
)
def test_a_run_that_does_not_compare_is_left_out_and_counted(how: dict, reason: str) -> None:
    add("ranked", 0.5)
    add("left out", **how)
    board = leaderboard.rank()
    assert list(board.table.run) == ["ranked"]
    assert board.left_out == {reason: 1}
    assert str(board).endswith(f"Left out: 1 {reason}.")


def test_each_reason_is_counted_the_most_frequent_first() -> None:
    add("ranked", 0.5)
    for _ in range(3):
        add("crashed", status="FAILED")
    add("going on", status=None)
    add("measured elsewhere", 0.3, data=DATA | {"digest": "other", "seed": 7})
    add("measured elsewhere", 0.2, data=DATA | {"digest": "other", "seed": 7})
    board = leaderboard.rank()
    assert str(board) == (
        "1 run on the corpus 'lesson', split seed 1234, best F1 first. "
        "Left out: 3 failed, 2 on another split seed, 1 unfinished."
    )


def test_a_search_is_counted_with_its_parent_and_a_trial_with_a_test_f1_is_ranked() -> None:
    search = add("search")
    for _ in range(2):
        add("trial", val_f1=0.9, tags={PARENT: search})
    add("winner", 0.7, tags={PARENT: search})
    board = leaderboard.rank()
    assert list(board.table.run) == ["winner"]
    assert board.left_out == {"part of a search": 3}


def test_a_retrained_run_is_ranked_and_its_parent_is_no_search() -> None:
    parent = add("cut off", status="KILLED")
    add("retrained", 0.7, tags={PARENT: parent, STARTED_FROM: parent})
    board = leaderboard.rank()
    assert list(board.table.run) == ["retrained"]
    assert board.left_out == {"killed": 1}


def test_a_deleted_run_is_gone_and_not_counted() -> None:
    add("kept", 0.5)
    MlflowClient().delete_run(add("deleted", 0.9))
    board = leaderboard.rank()
    assert list(board.table.run) == ["kept"]
    assert board.left_out == {}


def test_the_best_run_decides_on_the_data_unless_splits_are_given(sample_projects) -> None:
    splits = split(sample_projects, seed=2)
    here = {"digest": splits.digest, "source": splits.source_digest, "seed": 2}
    add("on the lesson", 0.9)
    add("on the sample", 0.3, data=here)
    add("on the sample, other seed", 0.4, data=here | {"digest": "another", "seed": 3})
    assert list(leaderboard.rank().table.run) == ["on the lesson"]
    assert leaderboard.rank().left_out == {"on other data": 2}
    board = leaderboard.rank(splits)
    assert list(board.table.run) == ["on the sample"]
    assert board.left_out == {"on another split seed": 1, "on other data": 1}


def test_no_run_is_a_clear_error(sample_splits) -> None:
    with pytest.raises(tracking.NoRunError, match=r"'others' has no finished run.*No run is left out"):
        leaderboard.rank(experiment="others")
    tracking.set_experiment()
    with pytest.raises(tracking.NoRunError, match=r"'baselines' has no finished run .*notebook 01"):
        leaderboard.rank()
    add("failed", 0.9, status="FAILED")
    with pytest.raises(tracking.NoRunError, match="Left out: 1 failed"):
        leaderboard.rank()
    add("elsewhere", 0.9)
    with pytest.raises(tracking.NoRunError, match=r"'sample' with split seed 1234.*on other data"):
        leaderboard.rank(sample_splits)


def test_it_reads_well_in_a_notebook_and_as_text() -> None:
    add("<b>bold</b>", 0.65432, size_bytes=1_234_567)
    add("second", 0.5, training_seconds=1234.56)
    board = leaderboard.rank()
    page, text = board._repr_html_(), repr(board)
    assert "<b>" not in page and "&lt;b&gt;" in page
    assert page == board._repr_html_(), "a notebook's output stays the same where nothing has changed"
    assert page.count("<tr>") == 3
    for heading in ("F1", "training (s)", "size (MB)", "latency (ms)"):
        assert heading in page and heading in text
    assert "0.654" in text and "0.65432" not in text and "1,234.6" in text and "1.23" in text
    assert text.startswith("2 runs on the corpus 'lesson'")


def test_plots_of_a_real_run_show_its_figures(sample_splits, tmp_path: Path, capsys) -> None:
    best = tracking.train_and_log(Params(num_epochs=3, **SMALL), sample_splits)
    performance = mlflow.artifacts.load_dict(f"runs:/{best}/performance.json")
    digest = {"digest": sample_splits.digest, "source": sample_splits.source_digest, "seed": 1234}
    add("without files", performance["overall"]["f1"] / 2, data=digest)
    board = leaderboard.rank(sample_splits)
    assert board.table.index[0] == best and len(board.table) == 2
    [axes] = board.plot_tags().axes
    [first] = [dots for dots in axes.collections if dots.get_label() == "1 cnn"]
    shown = dict(zip([t.get_text() for t in axes.get_yticklabels()], first.get_offsets()[:, 0], strict=True))
    assert shown == pytest.approx({tag: of["f1"] for tag, of in performance["class"].items()})
    assert "2 without files (keeps no F1 by tag)" in [dots.get_label() for dots in axes.collections]

    [kept] = (stores_dir() / "artifacts").rglob(f"{best}/artifacts/performance.json")
    kept.write_text("{")
    with pytest.raises(ArtifactError, match=r"performance\.json"):
        board.plot_tags()
    kept.unlink()
    with pytest.raises(tracking.NoRunError, match="None of the best 4 runs keeps a performance"):
        board.plot_tags()


@pytest.mark.once
def test_ten_thousand_runs_are_ranked_and_counted(store: Path) -> None:
    experiment_id = tracking.set_experiment()
    template = add("template", 0.0)
    best = fill(store / "mlflow.db", experiment_id, 10_000)
    with closing(sqlite3.connect(store / "mlflow.db")) as database, database:
        # Give every second run the data of the first; the others have none recorded.
        database.execute(
            "INSERT INTO inputs (input_uuid, source_type, source_id, destination_type, destination_id) "
            "SELECT 'input ' || r.rowid, i.source_type, i.source_id, i.destination_type, r.run_uuid "
            "FROM runs r, inputs i WHERE i.destination_id = ? AND (r.rowid % 2 = 0 OR r.run_uuid = ?) "
            "AND r.run_uuid != ?",
            (template, best, template),
        )
        (ranked,) = database.execute("SELECT count(*) FROM inputs").fetchone()
    board = leaderboard.rank()
    assert len(board.table) == ranked and board.table.index.is_unique
    assert board.table.index[0] == best and board.table.f1.is_monotonic_decreasing
    assert board.left_out == {"without a recorded dataset": 10_001 - ranked}
    assert board._repr_html_().count("<tr>") == leaderboard.SHOWN + 1
