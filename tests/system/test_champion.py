"""The champion elsewhere: in a fresh process without the project, over HTTP, moved, promoted by two at once."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import mlflow
import own_model
import promoting_processes
import pytest
import requests
from mlflow import MlflowClient
from small import SMALL

from support.data.splits import Splits
from support.models.linear import LinearParams
from support.models.params import Params
from support.models.rules import RuleParams
from support.registry import champion, promote
from support.registry.pyfunc_model import LONGEST_TEXT
from support.tracking.runs import score
from support.tracking.store import connect
from support.tracking.training_run import load_tagger, train_and_log

TEXTS = ["transfer learning with bert", "", "Здравствуй, мир", "graph neural networks for molecules"]

# What a program elsewhere does. It counts the times it reaches for the network.
ELSEWHERE = """
import importlib.util, json, socket, sys
assert importlib.util.find_spec("support") is None, "the project can be imported"
reached = []
socket.socket.connect = lambda self, address: reached.append(address)
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
names = json.loads(sys.argv[2])
models = {name: mlflow.pyfunc.load_model(f"models:/{name}") for name in names}
tags = {name: model.predict(json.loads(sys.argv[3])) for name, model in models.items()}
from support.models import tagger
print(json.dumps({"tags": tags, "reached": reached, "code": tagger.__file__}))
"""


@pytest.fixture(scope="module")
def original(sample_splits, tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """Return a stores folder, with runs by name. Tests work on copies."""
    stores = tmp_path_factory.mktemp("original") / "stores"
    connect(stores)
    kinds = {
        "rules": RuleParams(),
        "linear": LinearParams(word_ngrams=1, char_ngrams=2),
        "cnn": Params(num_epochs=3, **SMALL),
    }
    return stores, {name: train_and_log(params, sample_splits, name) for name, params in kinds.items()}


@pytest.fixture
def here(original, tmp_path, monkeypatch) -> tuple[Path, dict[str, str]]:
    """Return a copy of the store, opened, and the runs; a model that is loaded may change sys.path."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    shutil.copytree(original[0], tmp_path / "copy")
    connect(tmp_path / "copy")
    return tmp_path / "copy", original[1]


def uri_of(stores: Path) -> str:
    return f"sqlite:///{stores / 'mlflow.db'}"


def away_from_the_project() -> dict[str, str]:
    """Return the environment of a reader's shell: the installed programs, and no way to the project."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    here = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "STORES_DIR")}
    return here | {"MLFLOW_DISABLE_TELEMETRY": "true", "PATH": programs}


def test_every_kind_of_champion_in_a_fresh_process_also_after_a_move(here, tmp_path):
    stores, runs = here
    expected = {}
    for name, run_id in runs.items():
        promote(run_id, name=name)
        expected[f"{name}@champion"] = load_tagger(run_id).predict(TEXTS)
    stores = stores.rename(tmp_path / "moved, elsewhere")
    connect(stores)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    said = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, uri_of(stores), json.dumps(list(expected)), json.dumps(TEXTS)],
        cwd=folder,
        env=away_from_the_project(),
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(said.stdout)
    assert answer["tags"] == expected
    assert answer["reached"] == []
    assert Path(answer["code"]).is_relative_to(stores / "artifacts")
    assert not list(folder.iterdir())


def test_two_promote_at_once(here, processes, tmp_path):
    stores, runs = here
    poor, *_, good = sorted(runs.values(), key=lambda run_id: score(mlflow.get_run(run_id)))
    start = tmp_path / "start"
    both = [
        processes(promoting_processes.promote_in_turn, stores, start, *run_ids) for run_ids in ([poor, good], [good])
    ]
    while len(list(tmp_path.glob("start.*"))) < 2:
        time.sleep(0.01)
    start.touch()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert champion().run_id == good
    # Whoever came first: the good run has one version, and the poor one has one only if it was earlier.
    refused = any(path.read_text() == "refused" for path in tmp_path.glob("start.*"))
    versions = MlflowClient().search_model_versions("name = 'tagger'")
    assert len(versions) == 1 + (not refused)
    assert len([version for version in versions if version.run_id == good]) == 1
    assert len(list(stores.rglob("model_card.md"))) == len(versions)


@pytest.fixture
def serve(tmp_path):
    """Return what serves a model by its name, as a reader does, and returns the address that answers."""
    served = []

    def serve(name: str, stores: Path) -> str:
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            port = free.getsockname()[1]
        command = f"-m mlflow models serve -m models:/{name}@champion --env-manager local -h 127.0.0.1 -p {port}"
        process = subprocess.Popen(
            [sys.executable, *command.split()],
            cwd=tmp_path,
            env=away_from_the_project() | {"MLFLOW_TRACKING_URI": uri_of(stores)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        served.append(process)
        deadline = time.monotonic() + 60
        while not _answers(f"http://127.0.0.1:{port}/ping"):
            assert process.poll() is None and time.monotonic() < deadline, "the server does not start"
            time.sleep(0.1)
        return f"http://127.0.0.1:{port}/invocations"

    yield serve
    for process in served:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.ConnectionError:
        return False


def ask(url: str, body, **headers) -> requests.Response:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return requests.post(url, data, headers={"Content-Type": "application/json"} | headers, timeout=60)


def test_the_champion_answers_over_http(here, serve):
    stores, runs = here
    promote(runs["cnn"])
    url, tagger = serve("tagger", stores), load_tagger(runs["cnn"])

    def answers_well() -> None:
        answer = ask(url, {"inputs": TEXTS})
        assert (answer.status_code, answer.json()) == (200, {"predictions": tagger.predict(TEXTS)})

    answers_well()
    assert ask(url, {"inputs": []}).json() == {"predictions": []}
    assert ask(url, {"inputs": [""]}).json() == {"predictions": tagger.predict([""])}
    long = "graph " * (LONGEST_TEXT // 6)
    assert ask(url, {"inputs": [long]}).json() == {"predictions": tagger.predict([long])}
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
        answer = ask(url, body)
        assert 400 <= answer.status_code < 500, (body, answer.text)
        assert why in answer.json()["message"], answer.text
        assert "Traceback" not in answer.text and ".py" not in answer.text
        assert len(answer.content) < 2000
    assert ask(url, {"inputs": TEXTS}, **{"Content-Type": "image/png"}).status_code == 415
    answers_well()


def test_a_model_of_the_readers_own_answers_over_http(here, serve, sample_splits):
    from sklearn.datasets import load_digits

    stores, _ = here
    table = load_digits(as_frame=True).frame
    splits = Splits(table[:400], table[400:500], table[500:600], corpus="digits", seed=0)
    run_id = train_and_log(own_model.OwnParams(), splits, "sgd", "digits", own_model.train)
    promote(run_id, name="digits", metric="accuracy")
    rows = splits.test.drop(columns="target")
    answer = ask(serve("digits", stores), {"dataframe_split": rows.to_dict("split")}).json()
    right = (splits.test.target.to_numpy() == answer["predictions"]).mean()
    assert right == pytest.approx(mlflow.get_run(run_id).data.metrics["accuracy"])
