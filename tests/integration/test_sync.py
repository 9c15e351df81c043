"""Sync between two SQLite stores, and with MLflow's own server: all of a run goes over, once."""

import os
import threading
import traceback
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sync_parts import (
    NAMES,
    SERVED_NAMES,
    assert_equal,
    copies_of,
    dump,
    everything,
    files_of,
    log_model,
    new_run,
    running_server,
)

import support.sync
from support.sync.copying import DIGEST
from support.sync.endpoint import ORIGIN, Endpoint
from support.sync.sync import Report, SyncError, sync
from support.tracking import training_run as tracking
from support.tracking.orphans import PROCESS
from support.tracking.remote import ServerRefuses
from support.tracking.store import connect, local_uri, set_experiment


@pytest.fixture
def server():
    return running_server()


@pytest.fixture(autouse=True)
def little_patience(monkeypatch):
    """Let MLflow give up sooner than a user would want."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")


@pytest.fixture
def here() -> str:
    """Return the URI of a fresh, connected store."""
    return connect()


@pytest.fixture
def other(here, tmp_path) -> str:
    """Return the URI of a store that is not there yet."""
    return f"sqlite:///{tmp_path / 'other' / 'mlflow.db'}"


@pytest.fixture(params=["sqlite", "server"])
def there(request, here, other) -> str:
    return other if request.param == "sqlite" else running_server().url


def test_the_package_exports_the_function():
    assert callable(support.sync.sync)
    assert {"sync", "export_runs", "import_runs", "ArchiveError"} <= set(support.sync.__all__)


def a_run_of_everything(experiment: str) -> str:
    """Log what is hard to copy: limits, odd values, links and inputs."""
    set_experiment(experiment)
    with tracking.start_run("sweep") as parent:
        mlflow.set_tag("mlflow.note.content", "x" * 8000)
        mlflow.log_params({f"p{i}": "ü" * 6000 if i < 30 else i for i in range(130)})
        mlflow.set_tags({f"t{i}": "ö" * 8000 if i < 30 else i for i in range(130)})
        client = MlflowClient()
        metrics = [Metric("long", step / 7, 1_700_000_000_000 + step, step) for step in range(1200)]
        for start in range(0, 1200, 1000):
            client.log_batch(parent.info.run_id, metrics[start : start + 1000])
        odd = [float("nan"), float("inf"), -float("inf"), 0.1 + 0.2, 1e-300, -0.0, 3]
        client.log_batch(parent.info.run_id, [Metric("odd", v, 5, 0) for v in odd])
        client.log_batch(parent.info.run_id, [Metric("again", 1.0, time_, 0) for time_ in range(5)])
        client.log_batch(parent.info.run_id, [Metric("nan/metric name", float("nan"), 5, -3)])
        mlflow.log_input(mlflow.data.from_numpy(np.arange(10), name="numbers"), "training")
        Path("empty").write_bytes(b"")
        mlflow.log_artifact("empty")
        Path("large").write_bytes(os.urandom(3_000_000))
        mlflow.log_artifact("large", "deep/er")
        with mlflow.start_run(run_name="child", nested=True):
            mlflow.log_metric("f1", 1)
            with mlflow.start_run(run_name="grandchild", nested=True) as grandchild:
                mlflow.set_tag("started_from", parent.info.run_id)
    client.set_terminated(grandchild.info.run_id, "FAILED", 1_800_000_000_000)
    return parent.info.run_id


def test_all_of_a_run_is_copied_and_copied_once(here, there, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = f"everything {os.getpid()}"
    parent = a_run_of_everything(name)
    MlflowClient().set_experiment_tag(set_experiment(name), "about", "it")
    deleted = new_run("deleted", name)
    MlflowClient().delete_run(deleted)
    new_run("of no interest", "not asked for")
    report = sync(to=there, experiments=[name])
    assert len(report.copied) == 3
    assert_equal(report, here, there)
    assert deleted not in report.ids
    copies = [MlflowClient(there).get_run(copy) for copy in report.ids.values()]
    [child] = [run for run in copies if run.info.run_name == "child"]
    assert child.data.tags["mlflow.parentRunId"] == report.ids[parent]
    assert not any(tag == PROCESS for run in copies for tag in run.data.tags)
    assert MlflowClient(there).get_experiment_by_name(name).tags["about"] == "it"
    again = sync(to=there, experiments=[name])
    assert sorted(again.there) == sorted(report.copied)
    assert again.ids == report.ids
    assert "3 there already" in str(again)
    assert not list(tmp_path.glob("mlruns"))


def test_a_sync_without_news_writes_nothing(here, other):
    new_run()
    sync(to=other)
    database = Path(other.removeprefix("sqlite:///"))
    before = dump(database)
    assert sync(to=other).there
    assert dump(database) == before


def test_one_dataset_in_many_runs_arrives_at_the_first_sync(here, other, monkeypatch):
    """MLflow looks whether it has a dataset and then inserts it: two that do so at once break its constraint."""
    runs = [new_run(f"run {number}") for number in range(4)]
    under_way, most, log_inputs = set(), [], SqlAlchemyStore._log_inputs_impl
    meeting = threading.Barrier(2)

    def slow(self, experiment_id, run_id, *args, **kwargs):
        under_way.add(run_id)
        with suppress(threading.BrokenBarrierError):
            meeting.wait(0.3)  # two threads that may be here together are
        most.append(len(under_way))
        try:
            return log_inputs(self, experiment_id, run_id, *args, **kwargs)
        finally:
            under_way.discard(run_id)

    monkeypatch.setattr(SqlAlchemyStore, "_log_inputs_impl", slow)
    report = sync(to=other)
    assert sorted(report.copied) == sorted(runs)
    assert most == [1] * 4
    assert_equal(report, here, other)


def test_a_dataset_that_another_process_logs_at_the_same_time(here, other, monkeypatch):
    new_run()
    log_inputs, failures = SqlAlchemyStore._log_inputs_impl, iter([True, False])

    def fails_once(*args, **kwargs):
        if next(failures):
            raise MlflowException("(sqlite3.IntegrityError) UNIQUE constraint failed: datasets.experiment_id")
        return log_inputs(*args, **kwargs)

    monkeypatch.setattr(SqlAlchemyStore, "_log_inputs_impl", fails_once)
    assert_equal(sync(to=other), here, other)


def test_names_of_files_stay_as_they_are(here, other, server, tmp_path):
    run_id = new_run(experiment=f"names {os.getpid()}", files=NAMES)
    report = sync(to=other)
    assert_equal(report, here, other)
    assert set(everything(other, report.ids[run_id])["files"]) == set(NAMES)
    MlflowClient().delete_run(run_id)
    served = new_run(experiment=f"names {os.getpid()}", files=SERVED_NAMES)
    report = sync(to=server.url)
    assert_equal(report, here, server.url)
    assert set(everything(server.url, report.ids[served])["files"]) == set(SERVED_NAMES)
    back = sync(source=server.url, to=other, experiments=[f"names {os.getpid()}"])
    assert set(everything(other, back.ids[report.ids[served]])["files"]) == set(SERVED_NAMES)


def test_a_name_that_a_server_cannot_keep_is_said_and_the_others_go_on(here, server):
    good, *bad = (new_run(name, f"bad names {os.getpid()}", [name]) for name in ("note.txt", "#1.md", "50%25.txt"))
    report = sync(to=server.url, experiments=[f"bad names {os.getpid()}"])
    assert report.copied == [good]
    assert sorted(report.failed) == sorted(bad)
    assert "'#1.md': rename it" in str(report)
    assert "'50%25.txt': rename it" in str(report)


def test_what_changes_later_is_brought_and_what_colleagues_add_stays(here, other):
    there, name = other, "changed"
    run_id = new_run(experiment=name)
    copy = sync(to=there, experiments=[name]).ids[run_id]
    colleague, local = MlflowClient(there), MlflowClient()
    colleague.set_tag(copy, "reviewed", "by Ada")
    local.set_tag(run_id, "note", "longer")
    with tracking.start_run(run_id=run_id, log_system_metrics=False):
        mlflow.log_metric("loss", 0.01, step=3)
        mlflow.log_text("more", "more.txt")
    assert sync(to=there, experiments=[name]).updated == [run_id]
    one, two = everything(here, run_id), everything(there, copy)
    assert two["tags"].pop("reviewed") == "by Ada"
    assert one == two
    assert sync(to=there, experiments=[name]).there == [run_id]
    mlflow.log_text("and more", "even later.txt", run_id=run_id)  # a file alone, in a finished run
    assert sync(to=there, experiments=[name]).updated == [run_id]
    assert "even later.txt" in everything(there, copy)["files"]

    back = sync(source=there, to=here, experiments=[name])
    assert back.ids == {copy: run_id}
    assert local.get_run(run_id).data.tags["reviewed"] == "by Ada"
    local.set_tag(run_id, "note", "newest")
    sync(source=there, to=here, experiments=[name])
    assert local.get_run(run_id).data.tags["note"] == "newest"  # an old copy takes nothing back
    assert sync(to=there, experiments=[name]).updated == [run_id]
    assert colleague.get_run(copy).data.tags["note"] == "newest"


def test_a_running_run_is_copied_as_far_as_it_is_and_completed_later(here, other):
    set_experiment("running")
    with tracking.start_run("parent") as run:
        run_id = run.info.run_id
        mlflow.log_metric("loss", 1.0, step=0)
        with mlflow.start_run(run_name="child", nested=True) as child:
            mlflow.log_metric("f1", 0.5)
        report = sync(to=other)
        assert (report.running, report.copied) == ([run_id], [child.info.run_id])
        copy = MlflowClient(other).get_run(report.ids[run_id])
        assert copy.info.status == "RUNNING"
        assert copy.data.metrics["loss"] == 1.0
        assert PROCESS not in copy.data.tags  # nobody works on the copy
        mlflow.log_metric("loss", 0.5, step=1)
    report = sync(to=other)
    assert report.copied == [run_id]
    assert_equal(report, here, other)


def test_what_was_deleted_there_is_not_brought_back(here, other):
    run_id = new_run()
    copy = sync(to=other).ids[run_id]
    MlflowClient(other).delete_run(copy)
    report = sync(to=other)
    assert report.deleted == [run_id]
    assert "1 deleted there" in str(report)
    assert copies_of(other, run_id) == []


def test_there_and_back_and_to_a_third_store(here, other, tmp_path):
    run_id = new_run(f1=0.5)
    third = f"sqlite:///{tmp_path / 'third' / 'mlflow.db'}"
    before = everything(here, run_id)
    copy = sync(to=other).ids[run_id]
    assert sync(source=other, to=here).ids == {copy: run_id}
    copy_of_copy = sync(source=other, to=third).ids[copy]
    assert copy_of_copy not in (copy, run_id)
    assert everything(third, copy_of_copy) == everything(other, copy) == everything(here, run_id) == before
    assert sync(source=third, to=other).ids == {copy_of_copy: copy}
    assert sync(source=third, to=here).ids == {copy_of_copy: run_id}
    runs = MlflowClient().search_runs([set_experiment("small runs")])
    assert [run.info.run_id for run in runs] == [run_id]


def test_registered_versions_arrive_with_models_and_aliases(here, other, tmp_path):
    there, name, experiment = other, "echo", "models"
    local, team = MlflowClient(), MlflowClient(there, there)
    first, second = new_run("first", experiment), new_run("second", experiment)
    model_id = log_model(first, "one", tmp_path / "model")
    team_run = Endpoint(there).client.create_run("0").info
    team.create_registered_model(name)  # the team has one already
    team.create_model_version(name, team_run.artifact_uri, team_run.run_id)
    team.set_registered_model_alias(name, "champion", "1")
    local.create_registered_model(name, {"task": "echo"}, "About it")
    uri = local.get_run(second).info.artifact_uri
    for tags, source, run_id, model in (
        ({"f1": "0.5"}, f"models:/{model_id}", first, model_id),
        ({}, f"{uri}/a folder", second, None),
        ({}, f"runs:/{second}/a folder", second, None),
    ):
        local.create_model_version(name, source, run_id, tags, None, "A version", model_id=model)
    local.set_registered_model_alias(name, "champion", "1")
    local.set_registered_model_alias(name, "newest", "2")
    given = os.environ.get("MLFLOW_TRACKING_URI")
    report = sync(to=there, experiments=[experiment])
    assert (mlflow.get_tracking_uri(), os.environ.get("MLFLOW_TRACKING_URI")) == (here, given)
    assert_equal(report, here, there)
    assert report.versions == [f"{name} 2", f"{name} 3", f"{name} 4"]
    copy = team.get_model_version(name, "2")
    assert (copy.tags["f1"], copy.description, copy.run_id) == ("0.5", "A version", report.ids[first])
    model = team.get_logged_model(copy.source.removeprefix("models:/"))
    assert (model.name, model.params, model.status.value) == ("echo", {"size": "3"}, "READY")
    assert (model.tags["by"], model.tags[ORIGIN]) == (report.ids[first], model_id)
    [output] = team.get_run(copy.run_id).outputs.model_outputs
    assert (output.model_id, output.step) == (model.model_id, 7)
    assert files_of(there, model.artifact_location)["inner/text.txt"] == b"one"
    mlflow.set_tracking_uri(there)
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{name}/2"))
    assert (folder / "inner" / "text.txt").read_text() == "one"
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{name}@newest"))
    assert (folder / "with ü" / "deep.txt").is_file()
    mlflow.set_tracking_uri(here)
    aliases = team.get_registered_model(name).aliases
    assert {alias: int(number) for alias, number in aliases.items()} == {"champion": 1, "newest": 3}  # theirs stays
    assert sync(to=there, experiments=[experiment]).versions == []
    local.set_registered_model_alias(name, "newest", "3")
    local.set_model_version_tag(name, "1", "checked", "yes")
    sync(to=there, experiments=[experiment])
    assert int(team.get_registered_model(name).aliases["newest"]) == 4
    assert team.get_model_version(name, "2").tags["checked"] == "yes"
    sync(source=there, to=here, experiments=[experiment])
    assert len(local.search_model_versions(f"name = '{name}'")) == 3


def test_a_sync_that_was_cut_off_goes_on(here, other, monkeypatch):
    """At each write in turn: nothing is lost, nothing is there twice, and a finished copy is whole."""
    run_id = new_run(files=["note.txt", "two.txt"])
    writes = ["create_run", "log_batch", "log_inputs", "set_terminated", "set_tag"]
    for write in writes:
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, write, cut_off)
            with pytest.raises(KeyboardInterrupt):
                sync(to=other)
        for copy in copies_of(other, run_id):
            copied = MlflowClient(other).get_run(copy)
            if copied.info.status == "FINISHED":
                assert everything(other, copy) == everything(here, run_id)
            assert DIGEST not in copied.data.tags
    assert_equal(sync(to=other), here, other)


def cut_off(*args, **kwargs):
    raise KeyboardInterrupt


def test_a_copy_that_differs_is_found_and_stays_unfinished(here, other, tmp_path, monkeypatch):
    run_id = new_run(files=["note.txt"])
    (tmp_path / "note.txt").write_text("damaged")
    upload = Endpoint.upload

    def damaged(self, uri, files):
        upload(self, uri, {"note.txt": tmp_path / "note.txt"})

    with monkeypatch.context() as patch:
        patch.setattr(Endpoint, "upload", damaged)
        report = sync(to=other)
    assert "differs in file note.txt" in report.failed[run_id]
    [copy] = copies_of(other, run_id)
    assert MlflowClient(other).get_run(copy).info.status == "RUNNING"
    assert_equal(sync(to=other), here, other)


class Refusing(BaseHTTPRequestHandler):
    status = 401

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_) -> None:
        pass


@contextmanager
def answering(status: int):
    """Yield the address of what answers every request with this status."""
    handler = type("Handler", (Refusing,), {"status": status})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as stand_in:
        threading.Thread(target=stand_in.serve_forever, daemon=True).start()
        yield f"http://ada:secret@127.0.0.1:{stand_in.server_port}"
        stand_in.shutdown()


def test_refused_is_not_away_and_no_message_holds_a_password(here, monkeypatch):
    new_run()
    for status, kind, words in (
        (401, ServerRefuses, "MLFLOW_TRACKING_USERNAME"),
        (403, ServerRefuses, "MLFLOW_TRACKING_USERNAME"),
        (404, ValueError, "no MLflow server"),
        (503, SyncError, "away.*Nothing was copied"),
    ):
        with answering(status) as url:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
            with pytest.raises(kind, match=words) as refused:
                sync()
            assert "secret" not in str(refused.value)


def test_a_store_may_be_named_by_a_relative_path(here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    new_run()
    report = sync(to="sqlite:///other/mlflow.db")
    assert_equal(report, here, f"sqlite:///{tmp_path}/other/mlflow.db")
    with pytest.raises(SyncError, match="same store"):
        sync(to="sqlite:///other/mlflow.db", source=f"sqlite:///{tmp_path}/other/mlflow.db")


def test_a_password_in_an_address_is_in_no_report(here, server):
    new_run(experiment=f"login {os.getpid()}")
    url = server.url.replace("http://", "http://ada:secret@")
    report = sync(to=url, experiments=[f"login {os.getpid()}"])
    assert report.copied
    assert "secret" not in repr(report)
    report = Report("x", failed={})
    MlflowClient().set_tag(new_run(experiment=f"login {os.getpid()}", files=["#"]), "any", "1")
    assert "secret" not in str(sync(to=url, experiments=[f"login {os.getpid()}"]))


def test_wrong_calls_are_clear_errors(here, other, tmp_path):
    new_run()
    with pytest.raises(SyncError, match="Say where to"):
        sync()
    with pytest.raises(SyncError, match="same store"):
        sync(to=here)
    with pytest.raises(SyncError, match="no experiment nowhere"):
        sync(to=other, experiments=["nowhere"])
    with pytest.raises(SyncError, match=r"away.*Nothing was copied"):
        sync(to="http://127.0.0.1:1")
    for no_store in ("127.0.0.1:5000", "somewhere", "ftp://ada:secret@example"):
        with pytest.raises(SyncError, match="Nothing was copied") as refused:
            sync(to=no_store)
        assert "secret" not in "".join(traceback.format_exception(refused.value))
    with pytest.raises(SyncError, match="nothing was logged here"):
        sync(to=here, source=f"sqlite:///{tmp_path}/none/mlflow.db")


def test_a_run_of_mlflows_first_experiment_keeps_its_files_in_the_store(here, other, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    connect()  # again: the store's own first experiment has its place then
    run_id = MlflowClient().create_run("0").info.run_id
    mlflow.log_text("text", "note.txt", run_id=run_id)
    MlflowClient().set_terminated(run_id)
    report = sync(to=other)
    assert_equal(report, here, other)
    uri = MlflowClient(other).get_run(report.ids[run_id]).info.artifact_uri
    assert uri.startswith((tmp_path / "other").as_uri())


def test_the_server_is_the_current_store_and_the_runs_are_on_this_machine(server, monkeypatch):
    connect()
    run_id = new_run(experiment=f"trip {os.getpid()}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    assert connect() == server.url
    report = sync()
    assert report.copied == [run_id]
    assert_equal(report, local_uri(), server.url)
