"""Sync between two stores, with a real server: all of a run goes over, once, however often it is cut off."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import numpy as np
import pytest
import requests
import team_parts
from conftest import SMALL
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, Metric
from mlflow.models import Model
from test_team import database_of, kill_the_server, restart_postgres, rows_of

from support.lineage import lineage
from support.models.params import Params
from support.sync import endpoint as sides
from support.sync import sync
from support.team import server as team
from support.tracking import checksums as artifacts
from support.tracking import remote as offline
from support.tracking import training_run as tracking
from support.tracking.store import PROJECT_DIR, stores_dir

pytestmark = pytest.mark.once
PARAMS = Params(num_epochs=3, **SMALL)
TEXTS = ["transfer learning with bert", "a library for reinforcement learning"]


class Server:
    """MLflow's own server in one process, on a store of its own. It ends when this process ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "support.dashboard.server"],
            cwd=PROJECT_DIR,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "server.log").open("w"),
            text=True,
        )
        store, no_tunnel = f"sqlite:///{folder}/mlflow.db", str(folder / "none.yml")
        config = {"port": 0, "only_this": False, "store": store, "ngrok_config": no_tunnel}
        self.say({**config, "artifacts": str(folder / "files")})
        self.port = json.loads(self.process.stdout.readline())["port"]
        self.url = f"http://127.0.0.1:{self.port}"
        self.say({"hosts": ["http://127.0.0.1:*"]})
        assert requests.get(f"{self.url}/health", timeout=60).ok  # it listens already, and answers in time

    def say(self, line: dict | str) -> None:
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()

    def close(self) -> None:
        self.say("goodbye")
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


@pytest.fixture(scope="module")
def server(empty, tmp_path_factory):
    """Give one server for all tests: each test has runs of its own."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty / "mlflow.db", folder)
    running = Server(folder)
    yield running
    running.close()


@pytest.fixture(autouse=True)
def little_patience(monkeypatch):
    """Let MLflow give up sooner than a user would want."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")


@pytest.fixture(scope="module")
def empty(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("empty")
    tracking.connect(folder)
    return folder


@pytest.fixture
def laptop(empty) -> Path:
    """Give the folder of a fresh, connected store."""
    return open_store(empty, stores_dir())


def open_store(empty: Path, folder: Path) -> Path:
    shutil.copytree(empty, folder)
    tracking.connect(folder)
    return folder


def new_run(name: str = "small", experiment: str = "small runs", **metrics: float) -> str:
    """Log a small run with two files and give its id."""
    with tracking.start_run(name, experiment) as run:
        mlflow.log_params({"lr": 0.1, "name": name})
        for step in range(3):
            mlflow.log_metrics({"loss": 1 / (step + 1), **metrics}, step=step)
        mlflow.log_text(f"note of {name}", "note.txt")
        mlflow.log_text("deeper", "a folder/with ü/deep.txt")
    return run.info.run_id


def everything(uri: str, run_id: str, ids: dict[str, str] | None = None) -> dict:
    """Give all that one can ask MLflow about a run, in words that two stores share; `ids` translates."""
    client, ids = MlflowClient(uri, uri), ids or {}
    run = client.get_run(run_id)
    info = {name: getattr(run.info, name) for name in ("run_name", "status", "start_time", "end_time", "user_id")}
    tags = {name: ids.get(value, value) for name, value in run.data.tags.items()}
    history = [
        (m.key, m.step, m.timestamp, repr(m.value))
        for name in run.data.metrics
        for m in client.get_metric_history(run_id, name)
    ]
    files = {}
    if client.list_artifacts(run_id):
        folder = Path(mlflow.artifacts.download_artifacts(run.info.artifact_uri, tracking_uri=uri))
        paths = [path for path in folder.rglob("*") if path.is_file()]
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    return {
        **info,
        "experiment": client.get_experiment(run.info.experiment_id).name,
        "tags": {k: v for k, v in tags.items() if not k.startswith(sides.OURS)},
        "params": run.data.params,
        "metrics": sorted(history),
        "newest": {name: repr(value) for name, value in run.data.metrics.items()},
        "inputs": sorted(json.dumps(each.to_dictionary()) for each in run.inputs.dataset_inputs),
        "outputs": len(run.outputs.model_outputs),
        "files": files,
    }


def here() -> str:
    return mlflow.get_tracking_uri()


def assert_equal(report: sync.Report, url: str) -> None:
    """All that was synced is the same on both sides, and there once."""
    assert not report.failed
    for run_id, copy_id in report.ids.items():
        assert everything(url, copy_id) == everything(here(), run_id, report.ids)
        assert copies_of(url, run_id) == [copy_id]


def copies_of(url: str, run_id: str) -> list[str]:
    client = MlflowClient(url)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments, f"tags.`{sides.ORIGIN}` = '{run_id}'")
    return [run.info.run_id for run in found]


def state(server: Server) -> list[str]:
    """Give every row of the server's database."""
    with closing(sqlite3.connect(server.folder / "mlflow.db")) as database:
        return list(database.iterdump())


def a_run_of_everything() -> str:
    """Log what is hard to copy: limits, odd values, links and inputs."""
    with tracking.start_run("sweep") as parent:
        mlflow.set_tag("mlflow.note.content", "x" * 8000)
        mlflow.log_params({f"p{i}": "ü" * 6000 if i < 30 else i for i in range(230)})
        mlflow.set_tags({f"t{i}": "ö" * 8000 if i < 30 else i for i in range(230)})
        client = MlflowClient()
        metrics = [Metric("long", step / 7, 1_700_000_000_000 + step, step) for step in range(2500)]
        for start in range(0, 2500, 1000):
            client.log_batch(parent.info.run_id, metrics[start : start + 1000])
        odd = [float("nan"), float("inf"), -float("inf"), 0.1 + 0.2, 1e-300, -0.0, 3]
        client.log_batch(parent.info.run_id, [Metric("odd", v, 5, 0) for v in odd])
        client.log_batch(parent.info.run_id, [Metric("again", 1.0, time_, 0) for time_ in range(5)])
        client.log_batch(parent.info.run_id, [Metric("nan/metric name", float("nan"), 5, -3)])
        dataset = mlflow.data.from_numpy(np.arange(10), name="numbers")
        mlflow.log_input(dataset, "training")
        Path("empty").write_bytes(b"")
        mlflow.log_artifact("empty")
        Path("large").write_bytes(os.urandom(12_000_000))
        mlflow.log_artifact("large", "deep/er")
        for number in range(2):
            with mlflow.start_run(run_name=f"child {number}", nested=True):
                mlflow.log_metric("f1", number)
                with mlflow.start_run(run_name="grandchild", nested=True) as grandchild:
                    mlflow.set_tag("started_from", parent.info.run_id)
    client.set_terminated(grandchild.info.run_id, "FAILED", 1_800_000_000_000)
    return parent.info.run_id


def test_all_of_a_run_is_copied_and_copied_once(laptop, server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parent = a_run_of_everything()
    new_run("other", "another experiment")
    MlflowClient().set_experiment_tag(tracking.set_experiment("another experiment"), "about", "it")
    deleted = new_run("deleted")
    MlflowClient().delete_run(deleted)
    report = sync.sync(to=server.url)
    assert len(report.copied) == 6
    assert_equal(report, server.url)
    assert deleted not in report.ids
    copies = [MlflowClient(server.url).get_run(each) for each in report.ids.values()]
    assert {run.data.tags["mlflow.parentRunId"] for run in copies if run.info.run_name.startswith("child")} == {
        report.ids[parent]
    }
    found = MlflowClient(server.url).get_experiment_by_name("another experiment")
    assert found.tags["about"] == "it"
    before = state(server)
    again = sync.sync(to=server.url)
    assert len(again.there) == 6
    assert again.ids == report.ids
    assert "6 there already" in str(again)
    assert state(server) == before  # and nothing was written


def test_what_changes_later_is_brought_and_what_colleagues_add_stays(laptop, server):
    run_id = new_run(experiment="changed")
    copy = sync.sync(to=server.url).ids[run_id]
    there, local = MlflowClient(server.url), MlflowClient()
    there.set_tag(copy, "reviewed", "by Ada")
    local.set_tag(run_id, "note", "longer")
    with tracking.start_run(run_id=run_id):
        mlflow.log_metric("loss", 0.01, step=3)
        mlflow.log_text("more", "more.txt")
    assert sync.sync(to=server.url).changed == [run_id]
    one, other = everything(here(), run_id), everything(server.url, copy)
    assert other["tags"].pop("reviewed") == "by Ada"
    assert one == other
    assert sync.sync(to=server.url).there == [run_id]
    mlflow.log_text("and more", "even later.txt", run_id=run_id)  # a file alone, in a finished run
    assert sync.sync(to=server.url).changed == [run_id]
    assert "even later.txt" in everything(server.url, copy)["files"]

    back = sync.sync(source=server.url, experiments=["changed"])
    assert run_id in back.ids.values()
    assert local.get_run(run_id).data.tags["reviewed"] == "by Ada"
    local.set_tag(run_id, "note", "newest")
    sync.sync(source=server.url, experiments=["changed"])
    assert local.get_run(run_id).data.tags["note"] == "newest"  # an old copy takes nothing back
    assert sync.sync(to=server.url).changed == [run_id]
    assert there.get_run(copy).data.tags["note"] == "newest"


def test_a_running_run_is_copied_as_far_as_it_is_and_completed_later(laptop, server):
    with tracking.start_run("parent") as run:
        run_id = run.info.run_id
        mlflow.log_metric("loss", 1.0, step=0)
        with mlflow.start_run(run_name="child", nested=True) as child:
            mlflow.log_metric("f1", 0.5)
        report = sync.sync(to=server.url)
        assert (report.running, report.copied) == ([run_id], [child.info.run_id])
        copy = MlflowClient(server.url).get_run(report.ids[run_id])
        assert copy.info.status == "RUNNING"
        assert copy.data.metrics["loss"] == 1.0
        mlflow.log_metric("loss", 0.5, step=1)
    report = sync.sync(to=server.url)
    assert report.copied == [run_id]
    assert_equal(report, server.url)


def test_what_was_deleted_there_is_not_brought_back(laptop, server):
    run_id = new_run()
    copy = sync.sync(to=server.url).ids[run_id]
    MlflowClient(server.url).delete_run(copy)
    report = sync.sync(to=server.url)
    assert report.deleted == [run_id]
    assert "1 deleted there" in str(report)
    assert copies_of(server.url, run_id) == []


def test_there_and_back_and_to_a_third_store(laptop, server, empty, tmp_path, sample_splits):
    run_id = tracking.train_and_log(PARAMS, sample_splits)
    mlflow.log_text("", "empty.txt", run_id=run_id)  # such as the changes of a clean clone
    first, laptop = tracking.load_tagger(run_id).predict_proba(TEXTS), here()
    copy = sync.sync(to=server.url).ids[run_id]
    before = everything(laptop, run_id)
    assert before == everything(server.url, copy)
    back = sync.sync(source=server.url, experiments=["baselines"])
    assert back.ids[copy] == run_id
    assert copy in back.there
    assert len([r for r in MlflowClient().search_runs([tracking.set_experiment()]) if r.info.run_id == run_id]) == 1
    assert everything(laptop, run_id) == before

    open_store(empty, tmp_path / "third")
    third = sync.sync(source=server.url, experiments=["baselines"]).ids[copy]
    assert third not in (copy, run_id)
    assert everything(here(), third) == before
    for uri, each in ((server.url, copy), (here(), third)):
        mlflow.set_tracking_uri(uri)
        run = mlflow.get_run(each)
        assert (tracking.load_tagger(each).predict_proba(TEXTS) == first).all()
        assert lineage.splits_of(run).digest == sample_splits.digest
        assert set(artifacts.digests_of(run)) <= set(before["files"])
    table = lineage.reproduce(third)
    assert set(table.verdict) == {"equal"}
    assert sync.sync(to=server.url).ids[third] == copy
    assert sync.sync(to=laptop).ids[third] == run_id


def log_model(run_id: str, text: str) -> str:
    """Log a small model of a run, register it, and give the id of the logged model."""
    client = MlflowClient()
    run = client.get_run(run_id)
    model = client.create_logged_model(run.info.experiment_id, "echo", run_id, {"by": run_id}, {"size": "3"}, "pyfunc")
    folder = stores_dir() / f"model-{model.model_id}"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "text.txt").write_text(text)
    Model(run_id=run_id).save(folder / "MLmodel")
    client.log_model_artifacts(model.model_id, str(folder))
    client.log_batch(run_id, [Metric("score", 0.5, 1, 0, model.model_id, "data", "d1g3st", run_id)])
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 7)])
    return model.model_id


def test_registered_versions_go_along_with_models_and_aliases(laptop, server):
    name = f"echo-{os.getpid()}"
    local, there = MlflowClient(), MlflowClient(server.url)
    there.create_registered_model(name)  # the team has one already
    theirs = there.create_run("0").info
    there.create_model_version(name, theirs.artifact_uri, theirs.run_id)
    there.set_registered_model_alias(name, "champion", "1")
    first, second = new_run("first"), new_run("second")
    model_id = log_model(first, "one")
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
    report = sync.sync(to=server.url)
    assert_equal(report, server.url)
    assert report.versions == [f"{name} 2", f"{name} 3", f"{name} 4"]
    copy = there.get_model_version(name, "2")
    assert copy.tags["f1"] == "0.5"
    assert copy.description == "A version"
    assert copy.run_id == report.ids[first]
    model = there.get_logged_model(copy.source.removeprefix("models:/"))
    assert (model.name, model.params, model.status.value) == ("echo", {"size": "3"}, "READY")
    assert model.tags["by"] == report.ids[first]
    [metric] = model.metrics
    assert (metric.key, metric.value, metric.dataset_digest, metric.run_id) == (
        "score",
        0.5,
        "d1g3st",
        copy.run_id,
    )
    [output] = there.get_run(copy.run_id).outputs.model_outputs
    assert (output.model_id, output.step) == (model.model_id, 7)
    mlflow.set_tracking_uri(server.url)
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{name}/2"))
    assert (folder / "inner" / "text.txt").read_text() == "one"
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{name}@newest"))
    assert (folder / "with ü" / "deep.txt").read_text() == "deeper"
    aliases = there.get_registered_model(name).aliases
    assert aliases == {"champion": "1", "newest": "3"}  # the team's champion stays
    tracking.connect()
    before = state(server)
    assert sync.sync(to=server.url).versions == []
    assert state(server) == before
    local.set_registered_model_alias(name, "newest", "3")
    local.set_model_version_tag(name, "1", "checked", "yes")
    sync.sync(to=server.url)
    assert there.get_registered_model(name).aliases["newest"] == "4"
    assert there.get_model_version(name, "2").tags["checked"] == "yes"
    sync.sync(source=server.url, experiments=["small runs"])
    assert len(local.search_model_versions(f"name = '{name}'")) == 3


def test_the_run_that_fails_is_named_and_the_others_go_on(laptop, server):
    good, bad = new_run("good"), new_run("bad")
    lost = stores_dir() / "artifacts" / bad / "artifacts" / "note.txt"
    copies = sync.sync(to=server.url).ids
    MlflowClient().set_tag(bad, "more", "1")
    MlflowClient(server.url).set_tag(copies[good], "any", "1")
    lost.chmod(0)
    lost.rename(lost.with_name("note #1?.txt"))  # MLflow's own upload loses what follows the #
    third = new_run("third")
    report = sync.sync(to=server.url)
    assert report.copied == [third]
    assert report.there == [good]
    assert list(report.failed) == [bad]
    assert f"Failed: {bad}: " in str(report)
    assert "note #1?.txt" in str(report) or "404" in str(report)


class Cable:
    """An address that leads to a server, until `pieces` pieces of requests were sent or it is pulled."""

    def __init__(self, server: Server, pieces: int = 10**9) -> None:
        self.port, self.pieces = server.port, pieces
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


def test_cut_off_at_any_request_and_nothing_is_lost_or_doubled(laptop, server):
    runs = [new_run(f"run {number}") for number in range(2)]
    name = f"cut-{os.getpid()}"
    MlflowClient().create_registered_model(name)
    model_id = log_model(runs[0], "one")
    MlflowClient().create_model_version(name, f"models:/{model_id}", runs[0], model_id=model_id)
    cut = 0
    for pieces in (4 * 5**step // 4**step for step in range(30)):
        cable = Cable(server, pieces)
        try:
            sync.sync(to=cable.url)
            break
        except sync.SyncError as error:
            cut += 1
            assert "away" in str(error)
        finally:
            cable.pull()
        half = MlflowClient(server.url).search_runs(
            [e.experiment_id for e in MlflowClient(server.url).search_experiments()],
            f"tags.`{sides.ORIGIN}` = '{runs[0]}' and attributes.status = 'FINISHED'",
        )
        if half:  # finished there means whole there
            assert everything(server.url, half[0].info.run_id) == everything(here(), runs[0])
    assert cut > 3
    assert_equal(sync.sync(to=server.url), server.url)
    assert len(MlflowClient(server.url).search_model_versions(f"name = '{name}'")) == 1


def test_lost_answers_double_nothing(laptop, server, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")
    for number in range(3):
        new_run(f"run {number}")
    with team_parts.lossy_network(server.url) as (url, asked):
        report = sync.sync(to=url)
    assert sum(asked.values()) > 20
    assert_equal(report, server.url)
    assert len(report.copied) == 3


class Flipping(team_parts.Relay):
    """A network that changes one bit of every note."""

    def body(self) -> bytes:
        body = bytearray(super().body())
        if self.path.endswith("note.txt") and body:
            body[-1] ^= 1
        return bytes(body)


def test_a_copy_that_differs_is_found_and_stays_unfinished(laptop, server, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")
    run_id = new_run()
    monkeypatch.setattr(team_parts, "Relay", Flipping)
    with team_parts.lossy_network(server.url) as (url, _):
        report = sync.sync(to=url)
    assert list(report.failed) == [run_id]
    assert "differs in file note.txt" in report.failed[run_id]
    [copy] = copies_of(server.url, run_id)
    assert MlflowClient(server.url).get_run(copy).info.status == "RUNNING"
    assert_equal(sync.sync(to=server.url), server.url)


def test_two_syncs_at_once_copy_once(laptop, server):
    for number in range(5):
        new_run(f"run {number}")
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(lambda _: sync.sync(to=server.url), range(2)))
    report = sync.sync(to=server.url)
    assert len(report.there) == 5, reports
    assert_equal(report, server.url)


def test_killed_while_it_syncs(laptop, server, processes):
    runs = [new_run(f"run {number}") for number in range(12)]
    killed = 0
    for so_far in (0, 1, 4):
        process = processes(sync.sync, to=server.url, source=here())
        while finished_copies(server.url, runs) <= so_far and process.is_alive():
            time.sleep(0.02)
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
    assert killed
    assert finished_copies(server.url, runs) < len(runs)
    report = sync.sync(to=server.url)
    assert_equal(report, server.url)
    assert set(report.ids) == set(runs)


def finished_copies(url: str, runs: list[str]) -> int:
    """Count the copies of these runs that are complete on the server."""
    client = MlflowClient(url)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments, "attributes.status = 'FINISHED'")
    return len({run.data.tags.get(sides.ORIGIN) for run in found} & set(runs))


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
    """Give the address of what answers every request with this status."""
    handler = type("Handler", (Refusing,), {"status": status})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as stand_in:
        threading.Thread(target=stand_in.serve_forever, daemon=True).start()
        yield f"http://ada:secret@127.0.0.1:{stand_in.server_port}"
        stand_in.shutdown()


def test_refused_is_not_away(laptop, monkeypatch, capsys):
    new_run()
    for status in (401, 403):
        with answering(status) as url:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
            for call in (tracking.connect, sync.sync):
                with pytest.raises(offline.ServerRefuses, match="MLFLOW_TRACKING_USERNAME") as refused:
                    call()
                assert "secret" not in str(refused.value)
            assert os.environ["MLFLOW_TRACKING_URI"] == url
    with answering(404) as url, pytest.raises(ValueError, match="no MLflow server"):
        sync.sync(to=url)
    with answering(503) as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        assert tracking.connect().startswith("sqlite:")
        said = capsys.readouterr().out
        assert "is away: it answers 503" in said
        assert "secret" not in said


def test_wrong_calls_are_clear_errors(laptop, empty, tmp_path):
    shutil.copy(empty / "mlflow.db", tmp_path)
    new_run()
    with pytest.raises(sync.SyncError, match="Say where to"):
        sync.sync()
    with pytest.raises(sync.SyncError, match="same store"):
        sync.sync(to=here())
    with pytest.raises(sync.SyncError, match="no experiment nowhere"):
        sync.sync(to=f"sqlite:///{tmp_path}/mlflow.db", experiments=["nowhere"])
    with pytest.raises(sync.SyncError, match=r"away.*Nothing was copied"):
        sync.sync(to="http://127.0.0.1:1")
    with pytest.raises(sync.SyncError, match="nothing was logged here"):
        sync.sync(to=here(), source=f"sqlite:///{tmp_path}/none/mlflow.db")


def test_a_server_that_is_away_at_the_start(empty, server, monkeypatch, capsys):
    shutil.copytree(empty, stores_dir())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert tracking.connect().startswith("sqlite:")
    assert "is away: nothing answers there. Runs go into the store on this machine" in capsys.readouterr().out
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:1"
    run_id = new_run()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    assert tracking.connect() == server.url
    report = sync.sync()  # from here to the server, though the server is the current store now
    assert report.copied == [run_id]
    tracking.connect(), mlflow.set_tracking_uri(f"sqlite:///{stores_dir()}/mlflow.db")
    assert_equal(report, server.url)


def test_a_server_that_goes_away_while_it_trains(empty, server, sample_splits, monkeypatch, capsys):
    shutil.copytree(empty, stores_dir())
    cable, log_metrics = Cable(server), mlflow.log_metrics

    def log(metrics, step=None, **more):
        if step == 2:
            cable.pull()
        return log_metrics(metrics, step=step, **more)

    monkeypatch.setattr(mlflow, "log_metrics", log)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", cable.url)
    tracking.connect()
    local = tracking.train_and_log(PARAMS, sample_splits)
    assert "is away" in capsys.readouterr().out
    assert here().startswith("sqlite:")
    first = mlflow.get_run(local).data.tags[sides.ORIGIN]
    there = MlflowClient(server.url)
    assert there.get_run(first).info.status == "RUNNING"
    assert list(lineage.histories(local)["val_loss"]) == [1, 2, 3]
    assert not list((stores_dir() / "checkpoints").glob("*"))
    report = sync.sync(to=server.url)
    assert (report.ids, report.failed) == ({local: first}, {})
    whole = there.get_run(first)
    assert whole.info.status == "FINISHED"
    assert [m.step for m in there.get_metric_history(first, "val_loss")] == [1, 2, 3]
    expected = tracking.load_tagger(local).predict_proba(TEXTS)
    mlflow.set_tracking_uri(server.url)
    assert (tracking.load_tagger(first).predict_proba(TEXTS) == expected).all()
    assert sync.sync(to=server.url).there == [local]


@pytest.fixture(scope="module")
def team_server():
    """Give a team's server, on PostgreSQL and with users."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with team.open() as running:
            yield running


def test_outages_of_a_team_s_server_while_it_syncs(laptop, team_server, monkeypatch):
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES")  # as users have it
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR")
    for number in range(20):
        new_run(f"run {number}", f=number)
    rows, finished = database_of(team_server), "SELECT count(*) FROM runs WHERE status = 'FINISHED'"
    local, url = here(), team_server.url
    with team_server.admin.logged_in():
        ada, bob = team.add_user("ada"), team.add_user("bob")
    with ada.logged_in(), ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(sync_until_through)
        for outage, so_far in ((kill_the_server, 4), (restart_postgres, 9)):
            while rows_of(rows, finished)[0][0] < so_far:
                assert not under_way.done(), under_way.result()
                time.sleep(0.05)
            outage(team_server)
        under_way.result()
        report = sync.sync()
        mlflow.set_tracking_uri(local)
        assert_equal(report, url)
        assert len(report.ids) == 20
    with bob.logged_in():
        report = sync.sync()
        assert list(report.failed) == ["experiment small runs"]
        assert not report.ids


def sync_until_through() -> sync.Report:
    """Sync again whenever the server was away for longer than MLflow waits."""
    while True:
        try:
            return sync.sync()
        except sync.SyncError:
            time.sleep(1)
