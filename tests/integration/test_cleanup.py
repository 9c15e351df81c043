"""Deleting runs: the plan, the trash and back, and the trash emptied."""

import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sync_parts import dump, log_model, new_run, running_server

from support.config import stores_dir
from support.tracking import training_run as tracking
from support.tracking.cleanup import CleanupError, delete_runs, empty_trash, restore_runs
from support.tracking.orphans import PROCESS, host
from support.tracking.runs import NoRunError
from support.tracking.store import connect, set_experiment

BASELINES = "baselines"


@pytest.fixture
def stores() -> Path:
    """Return the folder of a fresh, connected store."""
    connect()
    return stores_dir()


def baseline(name: str = "small", **metrics: float) -> str:
    return new_run(name, BASELINES, ["note.txt"], **metrics)


def in_trash(run_id: str) -> bool:
    return MlflowClient().get_run(run_id).info.lifecycle_stage == "deleted"


def test_the_plan_shows_and_deletes_nothing(stores, capsys):
    best, *others = (baseline("run", f1=score) for score in (0.9, 0.1, 0.2))
    plan = delete_runs(all_but_best=1)
    assert sorted(plan.index) == sorted(others)
    assert list(plan.columns) == ["run", "f1", "started"]
    assert plan.f1.to_dict() == dict(zip(others, (0.1, 0.2), strict=True))
    assert "To delete, with confirmed=True: 2 runs." in capsys.readouterr().out
    assert not any(map(in_trash, [best, *others]))


def test_into_the_trash_and_back(stores, capsys):
    best, *others = (baseline(f1=score) for score in (0.9, 0.1, 0.2))
    delete_runs(all_but_best=1, confirmed=True)
    assert [in_trash(run_id) for run_id in (best, *others)] == [False, True, True]
    with pytest.raises(NoRunError, match="was deleted"):
        delete_runs([others[0]], confirmed=True)
    restore_runs([best, *others])
    assert not any(map(in_trash, [best, *others]))
    delete_runs(where="metrics.f1 < 0.15", confirmed=True)
    assert [in_trash(run_id) for run_id in (best, *others)] == [False, True, False]
    assert "where restore_runs finds them" in capsys.readouterr().out


def test_best_is_chosen_on_validation(stores):
    good = baseline(val_f1=0.9, f1=0.1)
    lucky = baseline(val_f1=0.1, f1=0.9)
    assert list(delete_runs(all_but_best=1).index) == [lucky]
    assert list(delete_runs(all_but_best=2).index) == []
    assert not in_trash(good)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_run_without_a_finite_figure_is_neither_best_nor_deleted(stores, capsys, value):
    good = [baseline(f1=score) for score in (0.3, 0.2, 0.1)]
    diverged = baseline("diverged", f1=value)
    bare = MlflowClient().create_run(set_experiment(BASELINES), run_name="bare").info.run_id
    MlflowClient().set_terminated(bare)
    delete_runs(all_but_best=1, confirmed=True)
    assert [in_trash(run_id) for run_id in (*good, diverged, bare)] == [False, True, True, False, False]
    said = capsys.readouterr().out
    assert "diverged (without a finite f1)" in said
    assert "bare (without the metric f1)" in said


def test_what_is_in_use_stays_and_nothing_is_half_done(stores):
    free, made = baseline(f1=0.1), baseline(f1=0.2)
    MlflowClient().create_registered_model("tagger")
    MlflowClient().create_model_version("tagger", f"runs:/{made}", made)
    with tracking.start_run("runs", BASELINES) as run, pytest.raises(CleanupError, match="is running"):
        delete_runs([free, run.info.run_id], confirmed=True)
    for wrong in ({"run_ids": [free, made]}, {"all_but_best": 0}, {"where": "metrics.f1 > 0"}):
        with pytest.raises(CleanupError, match="tagger 1"):
            delete_runs(**wrong, confirmed=True)
    assert not in_trash(free)
    MlflowClient().delete_run(made)  # as the dashboard lets one do
    with pytest.raises(CleanupError, match="tagger 1"):
        empty_trash(confirmed=True)
    restore_runs([made])


def test_a_run_of_a_dead_process_can_be_deleted(stores):
    run = MlflowClient().create_run(set_experiment(BASELINES), tags={PROCESS: f"{host()} another-boot 1 1"})
    delete_runs([run.info.run_id], confirmed=True)
    assert in_trash(run.info.run_id)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({}, "one of run_ids, where and all_but_best"),
        ({"run_ids": [], "where": "x"}, "one of"),
        ({"all_but_best": -1}, "whole number"),
        ({"all_but_best": True}, "whole number"),
        ({"all_but_best": 1.5}, "whole number"),
        ({"run_ids": "0" * 32}, "is a list"),
        ({"where": "f1 >> 0.5"}, "filter 'f1 >> 0.5' is not"),
        ({"where": "metrics.f1 > 'high'"}, "is not"),
        ({"all_but_best": 1, "experiment": "nowhere"}, "no experiment 'nowhere'"),
    ],
)
def test_wrong_calls_are_said_in_a_sentence(stores, wrong, words):
    baseline(f1=0.1)
    with pytest.raises(CleanupError, match=words) as error:
        delete_runs(**wrong, confirmed=True)
    assert len(str(error.value)) < 400
    with pytest.raises(NoRunError, match="is not in this store"):
        delete_runs(["0" * 32])
    with pytest.raises(CleanupError, match="nor in its trash"):
        restore_runs(["0" * 32])


def test_a_deletion_that_fails_half_way_is_undone(stores, monkeypatch):
    first, second = baseline(), baseline()
    delete = MlflowClient.delete_run

    def refuse(client, run_id):
        if run_id == second:
            raise MlflowException("PERMISSION_DENIED: it is not yours\nmore")
        delete(client, run_id)

    monkeypatch.setattr(MlflowClient, "delete_run", refuse)
    with pytest.raises(CleanupError, match=r"it is not yours\. Nothing was changed\.$"):
        delete_runs([first, second], confirmed=True)
    assert not in_trash(first)


def test_the_emptied_trash_leaves_nothing(stores, tmp_path, capsys):
    kept = new_run("kept", BASELINES)
    log_model(kept, "kept", tmp_path / "kept")
    rows = dump(stores / "mlflow.db")
    files = {path for path in stores.rglob("*") if path.is_file()}
    gone = new_run("gone", BASELINES), new_run("gone", "another experiment")
    models = [log_model(run_id, "gone", tmp_path / run_id) for run_id in gone]
    checkpoint = tracking.checkpoint_of(gone[0])
    checkpoint.save({"epoch": 1})
    delete_runs([gone[0]], confirmed=True)
    MlflowClient().delete_experiment(set_experiment("another experiment"))
    plan = empty_trash()
    assert sorted(plan.index) == sorted(gone)
    assert "with confirmed=True: 2 runs, and experiments: another experiment." in capsys.readouterr().out
    assert checkpoint.path.exists()
    empty_trash(confirmed=True)
    left = [line for line in dump(stores / "mlflow.db") if any(name in line for name in (*gone, *models, "another"))]
    assert not left
    with closing(sqlite3.connect(stores / "mlflow.db")) as database:
        assert [database.execute(f"SELECT count(*) FROM {table}").fetchone() for table in ("inputs", "datasets")] == [
            (2,),
            (1,),
        ]
    assert {line for line in rows if kept in line} <= set(dump(stores / "mlflow.db"))
    assert {path for path in stores.rglob("*") if path.is_file()} == files
    assert not [path for path in stores.rglob("*") if path.name in (*gone, *models)]
    assert empty_trash(confirmed=True).empty
    assert MlflowClient().get_run(kept).info.lifecycle_stage == "active"


def test_an_emptying_that_was_cut_off_is_completed(stores, monkeypatch):
    run_id = baseline()
    delete_runs([run_id], confirmed=True)
    with monkeypatch.context() as patch:
        patch.setattr("support.tracking.cleanup._delete_inputs_without_run", cut_off)
        with pytest.raises(KeyboardInterrupt):
            empty_trash(confirmed=True)
    empty_trash(confirmed=True)
    assert not [line for line in dump(stores / "mlflow.db") if run_id in line]


def cut_off(*args, **kwargs):
    raise KeyboardInterrupt


def test_on_a_server(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", running_server().url)
    connect()
    run_id = new_run("small", "to be deleted", ["note.txt"])
    plan = delete_runs([run_id], confirmed=True)
    assert list(plan.index) == [run_id]
    assert in_trash(run_id)
    with pytest.raises(CleanupError, match="Only who runs the server"):
        empty_trash(confirmed=True)
    restore_runs([run_id])
    assert not in_trash(run_id)
    assert mlflow.get_tracking_uri() == running_server().url
