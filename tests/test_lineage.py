"""Runs that come of runs: repeated, trained further, compared; and what a run records about itself."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch
from test_safe import SMALL

from support.comparison import diff as compare
from support.data.corpus import DataError, Splits
from support.lineage import lineage
from support.models.training import Trainer, train_cnn
from support.tracking import checksums as artifacts
from support.tracking import provenance, vitals
from support.tracking import store as stores
from support.tracking import training_run as tracking
from support.tracking.store import StoreError, stores_dir

pytestmark = pytest.mark.once

PARAMS = replace(SMALL, num_epochs=3, lr=0.01)


@pytest.fixture(scope="module")
def first(sample_splits, tmp_path_factory) -> str:
    """Give a run's id; its store is the current one for all tests here."""
    tracking.connect(tmp_path_factory.mktemp("stores"))
    return tracking.train_and_log(PARAMS, sample_splits)


def without_first_text(splits: Splits) -> Splits:
    return replace(splits, train=splits.train.iloc[1:].reset_index(drop=True))


def test_reproduce_gives_the_same_to_the_last_digit(first, capsys):
    table = lineage.reproduce(first)
    assert "as they were" in capsys.readouterr().out
    assert set(table.verdict) == {"equal"}
    assert (table.difference == 0).all()
    assert {"f1", "val_loss", "best_epoch"} <= set(table.index)
    again = mlflow.get_run(table.attrs["run_id"])
    assert again.info.run_id != first
    assert again.data.tags[lineage.REPRODUCES] == first
    pairs = zip(*(tracking.load_tagger(run).model.parameters() for run in (first, again.info.run_id)), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)


def test_reproduce_says_what_is_not_as_it_was(first, sample_splits, capsys):
    before = mlflow.get_run(first).data.tags
    mlflow.MlflowClient().set_tag(first, "torch", "1.0")
    try:
        table = lineage.reproduce(first, without_first_text(sample_splits))
    finally:
        mlflow.MlflowClient().set_tag(first, "torch", before["torch"])
    out = capsys.readouterr().out
    said = out[: out.index("epoch/s")]  # before it starts
    assert "torch: 1.0 there" in said
    assert f"{len(sample_splits.train)} texts there, {len(sample_splits.train) - 1} texts here" in said
    assert "texts of its own: 1 there, 0 here" in said
    assert table.verdict["val_loss"] == "differs"
    assert table.verdict["lr"] == "equal"


def test_retrain_starts_from_the_weights(first, sample_splits):
    tagger = tracking.load_tagger(first)
    child = mlflow.get_run(lineage.retrain(first, replace(PARAMS, lr=1e-12, num_epochs=1)))
    assert child.data.tags["mlflow.parentRunId"] == first
    begun = tracking.load_tagger(child.info.run_id).model.state_dict()
    for name, weights in tagger.model.state_dict().items():
        assert torch.allclose(weights, begun[name], atol=1e-9), name
    table = lineage.reproduce(child.info.run_id)  # starts from the same weights too
    assert set(table.verdict) == {"equal"}


def test_retrain_takes_new_tags_and_characters(first, sample_splits, capsys):
    more = pd.DataFrame({"text": ["été graphs"] * 3, "tags": [["brand-new"]] * 3})
    parts = {
        name: pd.concat([getattr(sample_splits, name), more], ignore_index=True) for name in ("train", "val", "test")
    }
    child = lineage.retrain(first, replace(PARAMS, lr=1e-12, num_epochs=1), replace(sample_splits, **parts))
    out = capsys.readouterr().out
    assert "New tags: brand-new" in out
    assert "New tokens: é" in out
    tagger, old = tracking.load_tagger(child), tracking.load_tagger(first)
    assert tagger.label_encoder.classes == sorted([*old.label_encoder.classes, "brand-new"])
    known = [tagger.label_encoder.classes.index(name) for name in old.label_encoder.classes]
    texts = list(sample_splits.test.text)
    assert abs(tagger.predict_proba(texts)[:, known] - old.predict_proba(texts)).max() < 1e-5


def test_retrain_refuses_other_sizes(first):
    with pytest.raises(lineage.LineageError, match="num_filters: 8 there, 9 here"):
        lineage.retrain(first, replace(PARAMS, num_filters=9))


def test_diff(first, sample_splits):
    other = lineage.reproduce(first, without_first_text(sample_splits)).attrs["run_id"]
    found = compare.diff(first, other)
    assert set(found.facts.index) == {"data split_digest"}
    assert found.metrics.difference["val_loss"] != 0
    texts = list(sample_splits.test.text)
    tags = [tracking.load_tagger(run).predict(texts) for run in (first, other)]
    assert list(found.texts.index) == [t for t, a, b in zip(texts, *tags, strict=True) if a != b]
    same = compare.diff(first, first)
    assert same.facts.empty and same.texts.empty and not same.metrics.difference.any()
    longer = lineage.retrain(first, replace(PARAMS, num_epochs=1))
    assert "param num_epochs" in compare.diff(first, longer).facts.index


def test_a_training_that_is_saved_is_the_same_training(sample_splits, tmp_path):
    states = []

    class Keep:
        def load(self):
            return None

        def save(self, state):
            states.append({name: json.dumps(value) if name == "history" else "" for name, value in state.items()})

    plain, saved = train_cnn(PARAMS, sample_splits), train_cnn(PARAMS, sample_splits, None, Keep())
    assert plain.history == saved.history and len(states) == len(saved.history)
    assert plain.performance == saved.performance


def test_what_a_run_records(first, sample_splits, tmp_path):
    run = mlflow.get_run(first)
    tags = run.data.tags
    assert tags["corpus.source"] == "support/sample"
    assert tags["split_digest"] == sample_splits.digest
    assert {"python", "torch", "mlflow", "platform", "device", "threads", "code"} <= set(tags)
    assert lineage.params_of(run) == PARAMS
    assert lineage.splits_of(run).digest == sample_splits.digest
    folder = artifacts.fetch(run, ["provenance/pip-freeze.txt", "provenance/uncommitted.diff"], tmp_path)
    assert f"torch=={torch.__version__}" in (folder / "pip-freeze.txt").read_text()
    assert any(name.startswith("system/cpu") for name in run.data.metrics)
    assert not any(os.uname().nodename in value for name, value in tags.items() if name != "mlflow.source.name")


def test_bad_splits_are_refused(sample_splits, tmp_path):
    path = tmp_path / "data.json"
    sample_splits.save(path)
    assert Splits.load(path).digest == sample_splits.digest
    values = json.loads(path.read_text())
    for bad in (
        "",
        "[]",
        "1",
        path.read_text()[:-9],
        json.dumps(values | {"train": 1}),
        json.dumps(values | {"x": 1}),
    ):
        path.write_text(bad)
        with pytest.raises(DataError, match=r"data\.json"):
            Splits.load(path)


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ('token = "abcd1234"', "abcd1234"),
        ("os.environ['NGROK_AUTHTOKEN'] = 'xyz987'", "xyz987"),
        ('login(password="hunter22")', "hunter22"),
        ('{"api_key": "k-1"}', "k-1"),
        ("https://me:s3cret@host/x", "s3cret"),
        ("use ghp_0123456789abcdef", "ghp_0123456789abcdef"),
        ("it is value-of-variable", "value-of-variable"),
    ],
)
def test_secrets_are_masked(monkeypatch, text, secret):
    monkeypatch.setenv("MY_SECRET", "value-of-variable")
    masked = provenance.mask(text)
    assert secret not in masked and provenance.MASK in masked
    assert provenance.mask("tokens = tokenizer.encode(['graphs'])") == "tokens = tokenizer.encode(['graphs'])"


def test_cells_are_recorded_without_outputs_and_secrets():
    code = (
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance()\n"
        "shell.run_cell('password = \"hunter22\"\\n1 + 1', store_history=True)\n"
        "from support import provenance\n"
        "print('JSON' + provenance.executed_cells().replace('\\n', ''))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=stores.PROJECT_DIR, capture_output=True, text=True, check=True
    )
    notebook = json.loads(done.stdout[done.stdout.index("JSON") + 4 :])
    [cell] = notebook["cells"]
    assert cell["source"] == f'password = "{provenance.MASK}"\n1 + 1'
    assert cell["outputs"] == [] and cell["execution_count"] == 1
    assert provenance.executed_cells() == ""  # here is no notebook


@pytest.mark.skipif(not shutil.which("git"), reason="There is no git here.")
def test_the_diff_holds_changes_and_new_files_and_applies(tmp_path, monkeypatch):
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    git("init", "-q")
    (tmp_path / "kept.py").write_text("one\ntwo\n")
    (tmp_path / "gone.py").write_text("x\n")
    git("add", "-A")
    git("commit", "-qm", "first")
    (tmp_path / "kept.py").write_text("one\nthree\n")
    (tmp_path / "new file.py").write_text('token = "abcd1234"\n')
    (tmp_path / "big.bin").write_bytes(b"0" * 1_000_000)
    (tmp_path / "outputs.ipynb").write_text("{}")
    (tmp_path / "gone.py").unlink()
    before = git("status", "--porcelain"), git("count-objects")
    monkeypatch.setattr(provenance, "PROJECT_DIR", tmp_path)
    commit, changes = provenance.code_state()
    assert commit == git("rev-parse", "HEAD").strip()
    assert "abcd1234" not in changes and "big.bin" not in changes and "outputs" not in changes
    assert (git("status", "--porcelain"), git("count-objects")) == before  # git's own state is as it was
    (tmp_path / "changes.diff").write_text(changes)
    git("stash", "-qu", "--", "kept.py", "new file.py", "gone.py")
    git("apply", "changes.diff")
    assert (tmp_path / "kept.py").read_text() == "one\nthree\n"
    assert (tmp_path / "new file.py").exists() and not (tmp_path / "gone.py").exists()


CHILD = """
from support.data import corpus as data
from support.lineage import lineage
from support.tracking import training_run as tracking
from support.models.training import Params
tracking.connect()
params = Params(num_epochs=2, embedding_dim=16, num_filters=8, filter_sizes=[1, 2], hidden_dim=16)
splits = data.split(data.load_projects(data.SAMPLE_DIR))
"""


@pytest.mark.once
@pytest.mark.skipif(not shutil.which("git"), reason="There is no git here.")
def test_reproduce_with_the_code_of_then(tmp_path):
    project, support = tmp_path / "project", tmp_path / "project" / "support"
    shutil.copytree(stores.PROJECT_DIR / "support", support, ignore=shutil.ignore_patterns("__pycache__"))

    def git(*arguments: str) -> None:
        command = ["git", "-C", str(project), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        subprocess.run(command, check=True)

    def python(code: str) -> str:
        variables = os.environ | {"PYTHONPATH": str(project), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-c", CHILD + code]
        answer = subprocess.run(command, cwd=project, env=variables, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "first")
    training = support / "training.py"
    code = training.read_text()
    training.write_text(code.replace("patience=5", "patience=4"))  # never committed, but in the run's diff
    run_id = python("print(tracking.train_and_log(params, splits))").split()[-1]
    training.write_text(code.replace("torch.manual_seed(params.seed)", "torch.manual_seed(params.seed + 1)"))
    git("commit", "-qam", "second")
    out = python(f"print(lineage.reproduce({run_id!r}).verdict.to_json())")
    assert "that of then is rebuilt" in out
    assert set(json.loads(out.strip().splitlines()[-1]).values()) == {"equal"}


def test_samples_grow_apart(monkeypatch):
    monitor = vitals._Monitor("0" * 32, sampling_interval=1.0)
    assert monitor.sampling_interval == 1
    monitor._began -= 3600
    assert 170 < monitor.sampling_interval < 190


@pytest.fixture
def small_disk(tmp_path):
    """Give an empty disk of 8 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("A small tmpfs cannot be mounted here: that takes root.")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_is_a_clear_error_and_harms_nothing(small_disk, sample_splits):
    tracking.connect(small_disk / "stores")
    filler = small_disk / "filler"

    def fill_up(epoch: int, metrics: dict) -> None:
        if epoch == 2:
            filler.write_bytes(b"0" * (shutil.disk_usage(small_disk).free // 4096 * 4096))

    train_step = Trainer.train_step

    def then_fill(trainer, examples):
        if len(trainer.history) == 1:
            fill_up(2, {})
        return train_step(trainer, examples)

    Trainer.train_step = then_fill
    try:
        with pytest.raises((OSError, mlflow.MlflowException), match=r"No space left|disk is full"):
            tracking.train_and_log(PARAMS, sample_splits)
    finally:
        Trainer.train_step = train_step
    while mlflow.active_run():
        mlflow.end_run("FAILED")
    with pytest.raises(StoreError, match=r"Only 0\.\d MB are free"):
        tracking.connect(small_disk / "stores")
    filler.unlink()
    tracking.connect(small_disk / "stores")
    [run] = mlflow.search_runs(experiment_names=["baselines"], output_format="list")
    assert list(lineage.histories(run.info.run_id)["val_loss"]) == [1]
    lineage.resume(run.info.run_id)
    assert list(lineage.histories(run.info.run_id)["val_loss"]) == [1, 2, 3]


def test_a_store_that_cannot_be_written_is_a_clear_error(small_disk):
    tracking.connect(small_disk.parent / "stores")
    shutil.copytree(small_disk.parent / "stores", small_disk / "stores")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StoreError, match="is read-only"):
        tracking.connect(small_disk / "stores")
    with pytest.raises(StoreError, match="cannot be made"):
        tracking.connect(small_disk / "new")
    (small_disk.parent / "file").touch()
    with pytest.raises(StoreError, match="cannot be made"):
        tracking.connect(small_disk.parent / "file")


def test_a_server_keeps_its_rows(monkeypatch):
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "http://localhost:1")
    from support.tracking import rows

    with pytest.raises(StoreError, match="is a server"):
        rows.path()
    assert Path(stores_dir()).name == "stores"
