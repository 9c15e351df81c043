"""Promotion, and the champion elsewhere: in a fresh process, over HTTP, in two processes at once."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import mlflow
import pytest
import requests
from mlflow import MlflowClient

from support.data.corpus import split
from support.models import kinds as models
from support.models.linear import LinearParams
from support.models.rules import RuleParams
from support.models.training import train_cnn
from support.registry import promote as registry
from support.registry import pyfunc_model as served
from support.sync import archive as transfer
from support.tracking import cleanup
from support.tracking import training_run as tracking

TEXTS = ["transfer learning with bert", "", "Здравствуй, мир", "graph neural networks for molecules"]

# What a program elsewhere does. It counts the times it reaches for the network.
ELSEWHERE = """
import importlib.util, json, socket, sys
assert importlib.util.find_spec("support") is None, "the project can be imported"
reached = []
socket.socket.connect = lambda self, address: reached.append(address)
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
names = ["tagger@champion", *(f"tagger/{version}" for version in (1, 2, 3))]
models = {name: mlflow.pyfunc.load_model(f"models:/{name}") for name in names}
tags = {name: model.predict(json.loads(sys.argv[2])) for name, model in models.items()}
from support.models import tagger
print(json.dumps({"tags": tags, "reached": reached, "code": tagger.__file__}))
"""
# What one of two processes does that promote at once: when both are ready, each of the runs in turn.
PROMOTE = """
import sys
from support.registry import promote as registry
from support.tracking import training_run as tracking
tracking.connect(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for run_id in sys.argv[2:]:
    try:
        registry.promote(run_id)
    except registry.PromotionError as error:
        print("refused:", error)
"""


def log_run(trained, splits, f1: float) -> str:
    """Log a trained model as a run that is said to have this F1, and give its id."""
    performance = {**trained.performance, "overall": {**trained.performance["overall"], "f1": f1}}
    with tracking.start_run(f"cnn {f1}") as run:
        mlflow.log_params(asdict(trained.params))
        tracking.describe_run(splits)
        tracking.log_trained(replace(trained, performance=performance), splits)
    return run.info.run_id


@pytest.fixture(scope="module")
def original(trained, sample_splits, sample_projects, tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """Give a store with runs by name. Tests work on copies."""
    stores = tmp_path_factory.mktemp("original") / "stores"
    tracking.connect(stores)
    other = split(sample_projects, seed=1)
    runs = {"poor": log_run(trained, sample_splits, 0.3), "good": log_run(trained, sample_splits, 0.5)}
    runs["elsewhere"] = log_run(train_cnn(replace(trained.params, num_epochs=1), other), other, 0.9)
    return stores, runs


@pytest.fixture
def here(original, tmp_path, monkeypatch) -> tuple[Path, dict[str, str]]:
    """Give a copy of the store, opened, and the runs; a model that is loaded may change sys.path."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    shutil.copytree(original[0], tmp_path / "copy")
    tracking.connect(tmp_path / "copy")
    return tmp_path / "copy", original[1]


def dump(stores: Path) -> list[str]:
    with closing(sqlite3.connect(stores / "mlflow.db")) as database:
        return list(database.iterdump())


def uri_of(stores: Path) -> str:
    return f"sqlite:///{stores / 'mlflow.db'}"


def model_folder(stores: Path) -> Path:
    return stores / "artifacts" / "models" / registry.champion().source.removeprefix("models:/") / "artifacts"


def away_from_the_project() -> dict[str, str]:
    """Give the environment of a reader's shell: the installed programs, and no way to the project."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    here = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "STORES_DIR")}
    return here | {"MLFLOW_DISABLE_TELEMETRY": "true", "PATH": programs}


def test_a_better_run_becomes_the_champion(here, capsys):
    stores, runs = here
    assert registry.champion() is None
    registry.promote(runs["poor"])
    first = registry.champion()
    assert (first.version, first.run_id, first.aliases) == (1, runs["poor"], ["champion"])
    registry.promote(runs["good"])
    assert (registry.champion().version, registry.champion().run_id) == (2, runs["good"])
    rows = dump(stores)
    capsys.readouterr()
    assert registry.promote(runs["good"]).version == 2  # again: nothing happens, and it says so
    assert "is the champion already: version 2" in capsys.readouterr().out
    assert dump(stores) == rows


def test_the_best_run_is_promoted_unless_one_is_named(here):
    _, runs = here
    assert registry.promote().run_id == runs["elsewhere"]


def test_a_run_that_is_not_better_is_refused(here):
    stores, runs = here
    registry.promote(runs["good"])
    rows = dump(stores)
    with pytest.raises(registry.PromotionError, match=r"F1 0\.3000\) does not beat the champion, version 1"):
        registry.promote(runs["poor"])
    assert dump(stores) == rows


def test_a_run_on_other_data_is_refused(here):
    stores, runs = here
    registry.promote(runs["good"])
    rows = dump(stores)
    with pytest.raises(registry.PromotionError, match=r"cannot be compared .* its split_seed is 1, .* 1234"):
        registry.promote(runs["elsewhere"])
    assert dump(stores) == rows
    MlflowClient().delete_registered_model_alias("tagger", "champion")  # as the message says
    assert registry.promote(runs["elsewhere"]).version == 2


def test_a_run_that_cannot_be_promoted_is_refused(here):
    stores, runs = here
    with tracking.start_run("no data"):
        mlflow.log_metric("f1", 1.0)
        unrecorded = mlflow.active_run().info.run_id
    with tracking.start_run("no metric"):
        mlflow.log_metric("f2", 1.0)
        unmeasured = mlflow.active_run().info.run_id
    with tracking.start_run("no number"):
        mlflow.log_metric("f1", float("nan"))
        undefined = mlflow.active_run().info.run_id
    shutil.rmtree(stores / "artifacts" / runs["poor"])
    rows = dump(stores)
    with pytest.raises(registry.PromotionError, match="no record of its data"):
        registry.promote(unrecorded)
    for run_id in (unmeasured, undefined):
        with pytest.raises(registry.PromotionError, match="no metric f1"):
            registry.promote(run_id)
    with pytest.raises(tracking.NoRunError, match="not in this store"):
        registry.promote("0" * 32)
    with pytest.raises(tracking.NoRunError, match="cannot be loaded"):
        registry.promote(runs["poor"])
    assert dump(stores) == rows


def test_a_promotion_that_was_cut_off_is_finished_by_the_next(here, monkeypatch):
    _, runs = here
    with monkeypatch.context() as cut:
        cut.delattr(MlflowClient, "set_registered_model_alias")
        with pytest.raises(AttributeError):
            registry.promote(runs["good"])
    assert registry.champion() is None
    assert registry.promote(runs["good"]).version == 1
    assert len(MlflowClient().search_model_versions("name = 'tagger'")) == 1


def test_a_version_says_what_it_is(here):
    stores, runs = here
    before = mlflow.get_run(runs["good"])
    version = registry.promote(runs["good"])
    after = mlflow.get_run(runs["good"])
    assert dict(after.info) == dict(before.info)
    assert after.data.to_dictionary() == before.data.to_dictionary()
    model_ids = [output.model_id for output in after.outputs.model_outputs]
    assert model_ids == [version.source.removeprefix("models:/")]
    for name in ("precision", "recall", "f1"):
        assert len(MlflowClient().get_metric_history(runs["good"], name)) == 1
    assert version.tags == {"corpus": "sample", "split_seed": "1234", "f1": "0.5000"} | {
        "split_digest": before.data.tags["split_digest"]
    }
    card = (model_folder(stores) / "model_card.md").read_text(encoding="utf-8")
    assert version.description == card.partition("\n\n")[2]
    for fact in ("MIT", before.data.tags["split_digest"], "0.500", "| attention"):
        assert fact in card
    assert MlflowClient().get_registered_model("tagger").description
    model = mlflow.models.get_model_info("models:/tagger@champion")
    assert model.signature.inputs.to_dict() == [{"type": "string", "required": True}]
    assert model.signature.outputs.to_dict()[0]["items"] == {"type": "string"}
    logged = mlflow.get_logged_model(model.model_id)
    assert {metric.key: metric.value for metric in logged.metrics}["f1"] == 0.5
    assert logged.params == before.data.params
    assert json.loads(logged.tags["mlflow.modelVersions"]) == [{"name": "tagger", "version": version.version}]


def test_a_version_holds_what_it_needs_and_no_path_of_this_machine(here):
    stores, runs = here
    registry.promote(runs["good"])
    folder = model_folder(stores)
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    code = {name for name in files if name.startswith("code/")}
    assert {"code/support/tagger.py", "code/support/cnn.py"} <= code
    assert not {name for name in files if "sample" in name or "__pycache__" in name or name.endswith(".pkl")}
    assert "code/support/dashboard.py" not in code
    assert sum(files[name].stat().st_size for name in code) < 100_000
    for name in ("MLmodel", "model_card.md", "requirements.txt", "conda.yaml", "input_example.json"):
        text = files[name].read_text(encoding="utf-8")
        assert not [path for path in (str(stores.parent), os.getcwd(), "/tmp", "file:") if path in text], name
    assert "torch==" in files["requirements.txt"].read_text()


def test_the_champions_run_cannot_be_deleted(here):
    _, runs = here
    registry.promote(runs["good"])
    with pytest.raises(cleanup.CleanupError, match="tagger 1"):
        cleanup.delete_runs([runs["good"]], confirmed=True)


def test_a_promoted_run_goes_to_another_store_and_is_promoted_there(here, tmp_path):
    _, runs = here
    registry.promote(runs["good"])
    path = transfer.export_run(runs["good"], tmp_path / "run.zip")
    tracking.connect(tmp_path / "other")
    transfer.import_runs(path)
    registry.promote()
    model = mlflow.pyfunc.load_model("models:/tagger@champion")
    assert model.predict(TEXTS) == tracking.load_tagger(runs["good"]).predict(TEXTS)


@pytest.mark.once
def test_every_kind_of_champion_in_a_fresh_process(here, sample_splits, tmp_path):
    stores, runs = here
    expected = {}
    for params, f1 in ((RuleParams(), 0.1), (LinearParams(word_ngrams=1, char_ngrams=2), 0.2), (None, 0.5)):
        run_id = log_run(models.train(params, sample_splits), sample_splits, f1) if params else runs["good"]
        tags = tracking.load_tagger(run_id).predict(TEXTS)
        expected |= {f"tagger/{registry.promote(run_id).version}": tags, "tagger@champion": tags}
    rows, folder = dump(stores), tmp_path / "elsewhere"
    folder.mkdir()
    said = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, uri_of(stores), json.dumps(TEXTS)],
        cwd=folder,
        env=away_from_the_project(),
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(said.stdout)
    assert answer["tags"] == expected
    assert answer["reached"] == []
    assert Path(answer["code"]).is_relative_to(stores / "artifacts" / "models")
    assert dump(stores) == rows
    assert not list(folder.iterdir())


@pytest.mark.once
def test_two_promote_at_once(here):
    stores, runs = here
    both = [
        subprocess.Popen(
            [sys.executable, "-c", PROMOTE, str(stores), *(runs[name] for name in names)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for names in (["poor", "good"], ["good"])
    ]
    assert [process.stdout.readline() for process in both] == ["ready\n", "ready\n"]
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert registry.champion().run_id == runs["good"]
    # Whoever came first: the good run has one version, and the poor one has one only if it was earlier.
    versions = MlflowClient().search_model_versions("name = 'tagger'")
    assert len(versions) == 1 + (not said[0].startswith("refused"))
    assert len([version for version in versions if version.run_id == runs["good"]]) == 1
    assert len(list((stores / "artifacts" / "models").iterdir())) == len(versions)
    assert sum("already" in text for text in said) == 1


@pytest.fixture
def server(here):
    """Serve the champion as a reader does, and give the address that answers."""
    stores, runs = here
    registry.promote(runs["good"])
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    command = "-m mlflow models serve -m models:/tagger@champion --env-manager local -h 127.0.0.1 -p"
    process = subprocess.Popen(
        [sys.executable, *command.split(), str(port)],
        cwd=stores.parent,
        env=away_from_the_project() | {"MLFLOW_TRACKING_URI": uri_of(stores)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while not _answers(f"{url}/ping"):
            assert process.poll() is None and time.monotonic() < deadline, "the server does not start"
            time.sleep(0.1)
        yield f"{url}/invocations", tracking.load_tagger(runs["good"])
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.ConnectionError:
        return False


@pytest.mark.once
def test_the_champion_answers_over_http(server):
    url, tagger = server

    def ask(body, **headers) -> requests.Response:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return requests.post(url, data, headers={"Content-Type": "application/json"} | headers, timeout=60)

    def answers_well() -> None:
        answer = ask({"inputs": TEXTS})
        assert (answer.status_code, answer.json()) == (200, {"predictions": tagger.predict(TEXTS)})

    answers_well()
    assert ask({"inputs": []}).json() == {"predictions": []}
    assert ask({"inputs": [""]}).json() == {"predictions": tagger.predict([""])}
    long = "graph " * (served.LONGEST_TEXT // 6)
    assert ask({"inputs": [long]}).json() == {"predictions": tagger.predict([long])}
    for body, why in [
        ({"inputs": ["a" * 1_000_000]}, "text of 1,000,000 characters is too large: at most 10,000"),
        ({"inputs": [""] * 10_001}, "request of 10,001 texts is too large"),
        ({"inputs": ["a" * 9_999] * 101}, "request of 1,009,899 characters is too large"),
        (b"no JSON", "valid JSON"),
        (b"", "valid JSON"),
        (b"\xff\xfe", "valid JSON"),
        ({"texts": TEXTS}, "'inputs'"),
        ({}, "'inputs'"),
        ([], "list"),
        (None, "NoneType"),
        ({"inputs": None}, "got NoneType"),
        ({"inputs": "one text"}, "Expected list"),
        ({"inputs": [1, 2.5]}, "Expected type str, but got int"),
        ({"inputs": ["text", None]}, "Expected type str, but got NoneType"),
        ({"inputs": [["text"]]}, "Expected type str, but got list"),
        ({"inputs": {"text": "text"}}, "Expected list"),
    ]:
        answer = ask(body)
        assert 400 <= answer.status_code < 500, (body, answer.text)
        assert why in answer.json()["message"], answer.text
        assert "Traceback" not in answer.text and ".py" not in answer.text
        assert len(answer.content) < 2000
    assert ask({"inputs": TEXTS}, **{"Content-Type": "image/png"}).status_code == 415
    answers_well()
