"""The store: made once and whole, opened as what it is, moved, and never half upgraded."""

import fcntl
import os
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.store.db import utils
from sqlalchemy import event
from sqlalchemy.engine import Engine

from support.config import stores_dir
from support.tracking import store
from support.tracking.runs import best_run
from support.tracking.store import StoreError, connect, database_of, local_uri, set_experiment
from support.tracking.training_run import start_run


def log_a_run(name: str = "cnn") -> str:
    """Log a run with a file to the current store, and return its id."""
    with start_run(name, experiment="baselines") as run:
        mlflow.log_dict({"name": name}, "a.json")
    return run.info.run_id


def names_of_runs() -> list[str]:
    return sorted(run.info.run_name for run in mlflow.search_runs(["1"], output_format="list"))


# Where it is


def test_connect_makes_a_sqlite_store_in_the_stores_folder(tmp_path: Path) -> None:
    uri = connect(tmp_path / "elsewhere")
    assert uri == mlflow.get_tracking_uri()
    assert uri == f"sqlite:///{(tmp_path / 'elsewhere' / 'mlflow.db').as_posix()}"
    assert database_of(uri).is_file()


def test_the_environment_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert connect() == local_uri(tmp_path / "stores")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{(tmp_path / 'team.db').as_posix()}")
    assert connect(tmp_path / "ignored").endswith("/team.db")
    assert not (tmp_path / "ignored").exists()


def test_a_relative_folder_is_the_same_whatever_folder_one_is_in(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("STORES_DIR", "stores/of-a-test")
    before = local_uri()
    monkeypatch.chdir(tmp_path)
    assert local_uri() == before and stores_dir().is_absolute()


def test_a_relative_tracking_uri_stays_the_same_file_when_the_folder_changes(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")  # MLflow's own default
    assert database_of(connect()) == tmp_path / "mlflow.db"
    log_a_run()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert names_of_runs() == ["cnn"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MLFLOW_TRACKING_URI", "127.0.0.1:5000"),
        ("MLFLOW_TRACKING_URI", "team.example"),
        ("MLFLOW_TRACKING_URI", "file:///tmp/mlruns"),
        ("MLFLOW_TRACKING_URI", "./mlruns"),
        ("MLFLOW_TRACKING_URI", "http://"),
        ("MLFLOW_TRACKING_URI", "ftp://team.example"),
        ("MLFLOW_TRACKING_URI", "sqlite://"),
        ("MLFLOW_TRACKING_URI", "sqlite:///:memory:"),
        ("MLFLOW_REGISTRY_URI", "databricks-uc"),
    ],
)
def test_a_variable_that_names_no_store_is_refused_by_its_name(monkeypatch, variable, value) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=variable):
        connect()


@pytest.mark.parametrize("name", ["C++ (new) [1]", "Опыты", "実験 & more", "a b"])
def test_a_stores_folder_of_any_name_works(tmp_path: Path, name: str) -> None:
    connect(tmp_path / name)
    run_id = log_a_run()
    assert (tmp_path / name / "artifacts" / run_id / "artifacts" / "a.json").is_file()
    assert mlflow.artifacts.load_dict(f"runs:/{run_id}/a.json") == {"name": "cnn"}
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["why?", "a%20b", "Опыты 50%", "#1"])
def test_a_name_that_means_something_else_in_an_address_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="Rename it, or set STORES_DIR"):
        connect(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_requests_to_this_machine_go_through_no_proxy(monkeypatch) -> None:
    connect()
    assert "NO_PROXY" not in os.environ
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "intern.example")
    connect()
    assert set(os.environ["NO_PROXY"].split(",")) == {"intern.example", "127.0.0.1", "localhost"}


def test_connect_turns_telemetry_off() -> None:
    from mlflow.telemetry.client import get_telemetry_client

    connect()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert get_telemetry_client() is None


# Two stores in one kernel


def test_connect_goes_to_another_folder_and_leaves_the_first_ones_experiment(tmp_path: Path) -> None:
    first = connect(tmp_path / "first")
    set_experiment("only in the first")
    second = connect(tmp_path / "second")
    assert first != second == mlflow.get_tracking_uri()
    assert "MLFLOW_TRACKING_URI" not in os.environ and "MLFLOW_EXPERIMENT_ID" not in os.environ
    with mlflow.start_run() as run:
        assert run.info.experiment_id == "0"


def test_a_folder_that_is_removed_and_made_again_works_in_the_same_kernel(tmp_path: Path) -> None:
    connect()
    log_a_run("before")
    shutil.rmtree(tmp_path / "stores")
    connect()
    log_a_run("after")
    assert names_of_runs() == ["after"]


# Experiments


def test_artifacts_land_in_the_store_and_not_in_the_working_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    connect()
    run_id = log_a_run()
    assert (tmp_path / "stores" / "artifacts" / run_id / "artifacts" / "a.json").is_file()
    assert not (tmp_path / "mlruns").exists()


def test_an_experiment_opens_in_the_training_view() -> None:
    connect()
    experiment_id = set_experiment()
    experiment = mlflow.get_experiment_by_name("baselines")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert set_experiment() == experiment.experiment_id == experiment_id


def test_an_experiment_in_the_trash_is_refused_with_the_way_out() -> None:
    connect()
    MlflowClient().delete_experiment(set_experiment("old"))
    for call in (lambda: set_experiment("old"), lambda: best_run("old")):
        with pytest.raises((StoreError, LookupError), match=r"was deleted\. Bring it back with mlflow\."):
            call()


@pytest.mark.parametrize("name", ["опыты", "実験", "t t", "50%25", "$x^$", "a'b", 'a"b', "a/b"])
def test_an_experiment_of_any_name_takes_runs(name: str) -> None:
    connect()
    with start_run("cost $5^$ vs _x", experiment=name, tags={"mine": "|"}) as run:
        mlflow.log_metric("f1", 0.5)
        mlflow.log_input(mlflow.data.from_pandas(pd.DataFrame({"a": [1.0]}), name="d"))
    assert best_run(name).info.run_id == run.info.run_id


# Files that are no store


def a_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE runs (mine TEXT)")


def a_text(path: Path) -> None:
    path.write_text("notes of mine\n" * 100)


def a_half(path: Path) -> None:
    connect()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def a_newer_one(path: Path) -> None:
    connect()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'of the future'")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (a_text, r"mlflow\.db is no SQLite database.* move the file away"),
        (a_database, r"mlflow\.db is the database of another program"),
        (a_half, r"mlflow\.db is cut off"),
        (a_newer_one, r"mlflow\.db was written by a newer MLflow than the installed .*pip install --upgrade"),
    ],
)
def test_a_file_that_is_no_store_is_refused_and_stays_as_it_is(tmp_path, make, message) -> None:
    path = tmp_path / "stores" / "mlflow.db"
    path.parent.mkdir()
    make(path)
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(StoreError, match=message):
            connect()
    assert path.read_bytes() == before


def test_an_empty_file_is_no_store_either(tmp_path) -> None:
    path = tmp_path / "stores" / "mlflow.db"
    path.parent.mkdir()
    path.touch()
    with pytest.raises(StoreError, match=r"mlflow\.db"):
        connect()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_store_is_refused_by_name(tmp_path) -> None:
    connect()
    (tmp_path / "stores" / "mlflow.db").chmod(0o400)
    with pytest.raises(StoreError, match=r"mlflow\.db is read-only"):
        connect()


# Whole, or not at all


def test_a_store_whose_making_is_cut_off_is_made_by_the_next_call(tmp_path, monkeypatch) -> None:
    def cut_off(engine) -> None:
        utils.InitialBase.metadata.create_all(engine)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(utils, "_initialize_tables", cut_off)
        with pytest.raises(KeyboardInterrupt):
            connect()
    assert not (tmp_path / "stores" / "mlflow.db").exists()
    connect()
    log_a_run()
    assert not list((tmp_path / "stores").glob("*.new*"))


def test_an_upgrade_works_on_a_copy_and_goes_on_after_it_was_cut_off(tmp_path, monkeypatch, capsys) -> None:
    path = tmp_path / "stores" / "mlflow.db"
    connect()
    run_id = log_a_run()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    newest = utils._get_latest_schema_revision()
    script = utils.ScriptDirectory.from_config(utils._get_alembic_config(""))
    older = script.get_revision(newest).down_revision
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", [older])
    before = path.read_bytes()

    def cut_off(engine) -> None:
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE params")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(utils, "_upgrade_db", cut_off)
        with pytest.raises(KeyboardInterrupt):
            connect()
    assert path.read_bytes() == before

    def upgrade(engine) -> None:  # the last step alone, which is there already
        with engine.begin() as connection:
            connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{newest}'")

    monkeypatch.setattr(utils, "_upgrade_db", upgrade)
    capsys.readouterr()
    connect()
    assert "written by an older MLflow and is brought up to" in capsys.readouterr().out
    assert mlflow.get_run(run_id).info.status == "FINISHED"


def test_connect_says_what_it_waits_for(tmp_path, monkeypatch, capsys) -> None:
    connect()
    monkeypatch.setattr(store, "QUIET_WAIT", 0.05)
    other = (tmp_path / "stores" / "mlflow.db.lock").open("w")
    fcntl.flock(other, fcntl.LOCK_EX)
    threading.Timer(0.3, other.close).start()
    connect()
    assert "Another process is at work in the store stores/" in capsys.readouterr().out


# A folder that moves


@pytest.mark.parametrize("name", ["moved", "Опыты (2)"])
@pytest.mark.parametrize("copied", [False, True])
def test_a_store_that_was_moved_or_copied_finds_its_files(tmp_path, name, copied) -> None:
    connect(tmp_path / "here")
    run_id = log_a_run()
    (shutil.copytree if copied else shutil.move)(tmp_path / "here", tmp_path / name)
    connect(tmp_path / name)
    assert mlflow.artifacts.load_dict(f"runs:/{run_id}/a.json") == {"name": "cnn"}
    newer = log_a_run("newer")
    assert (tmp_path / name / "artifacts" / newer).is_dir()
    if copied:
        connect(tmp_path / "here")
        assert names_of_runs() == ["cnn"]
        assert mlflow.get_run(run_id).info.artifact_uri.startswith((tmp_path / "here").as_uri())


def test_files_that_are_kept_elsewhere_stay_there(tmp_path) -> None:
    connect(tmp_path / "here")
    elsewhere = (tmp_path / "elsewhere").as_uri()
    experiment_id = mlflow.create_experiment("elsewhere", artifact_location=elsewhere)
    shutil.move(tmp_path / "here", tmp_path / "there")
    connect(tmp_path / "there")
    assert mlflow.get_experiment(experiment_id).artifact_location == elsewhere


# Many runs


def test_the_planner_knows_that_a_metric_has_many_runs(tmp_path) -> None:
    connect()
    connect()  # it must not write twice
    with start_run("cnn", experiment="baselines"):
        mlflow.log_metric("f1", 0.5)
    queries = []

    def note(_connection, _cursor, statement, parameters, *_) -> None:
        if "ORDER BY" in statement and "latest_metrics" in statement:
            queries.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        mlflow.search_runs(["1"], order_by=["metrics.f1 DESC"], output_format="list")
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    statement, parameters = queries[0]
    with closing(sqlite3.connect(tmp_path / "stores" / "mlflow.db")) as connection:
        (rows,) = connection.execute("SELECT count(*) FROM sqlite_stat1").fetchone()
        plan = str(connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall())
    assert rows == 2
    assert "AUTOMATIC COVERING INDEX" in plan, plan
