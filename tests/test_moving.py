"""Stores that move, runs that change stores, and runs that are deleted."""

import json
import shutil
import sqlite3
import sys
import zipfile
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from test_safe import SMALL

from support.lineage import lineage
from support.registry import promote as registry
from support.sync import archive as transfer
from support.tracking import checksums as artifacts
from support.tracking import cleanup, portable
from support.tracking import training_run as tracking

pytestmark = pytest.mark.once

TEXTS = ["transfer learning with bert"]


@pytest.fixture(scope="module")
def original(sample_splits, tmp_path_factory) -> tuple[Path, str]:
    """Give a store with one trained run, and the run's id. Tests work on copies."""
    stores = tmp_path_factory.mktemp("original") / "my stores"
    tracking.connect(stores)
    return stores, tracking.train_and_log(SMALL, sample_splits)


@pytest.fixture
def here(original, tmp_path) -> tuple[Path, str]:
    """Give a copy of the store, opened, and the run's id."""
    shutil.copytree(original[0], tmp_path / "copy")
    tracking.connect(tmp_path / "copy")
    return tmp_path / "copy", original[1]


def dump(stores: Path) -> list[str]:
    with closing(sqlite3.connect(stores / "mlflow.db")) as database:
        return list(database.iterdump())


def files(stores: Path) -> set[str]:
    return {path.relative_to(stores).as_posix() for path in (stores / "artifacts").rglob("*") if path.is_file()}


def every_file(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def new_run(**metrics: float) -> str:
    """Log a small run with an artifact and give its id."""
    with tracking.start_run("small") as run:
        mlflow.log_metrics(metrics)
        mlflow.log_text("text", "note.txt")
    return run.info.run_id


def moved(stores: Path, to: Path) -> None:
    shutil.move(stores, to)


def zipped(stores: Path, to: Path) -> None:
    shutil.make_archive(str(to.parent / "archive"), "zip", stores)
    shutil.rmtree(stores)
    shutil.unpack_archive(to.parent / "archive.zip", to)


def renamed(stores: Path, to: Path) -> None:
    stores.rename(to)


@pytest.mark.parametrize("move", [moved, zipped, renamed])
@pytest.mark.parametrize("name", ["other", "with a space and ü", "copy/inside"])
def test_a_store_that_moved(here, tmp_path, move, name):
    stores, run_id = here
    other = tmp_path / name
    if name == "copy/inside":  # the new place begins with the old one
        stores.rename(tmp_path / "first")
        stores, _ = tmp_path / "first", stores.mkdir()
    registered = MlflowClient()
    registered.create_registered_model("tagger")
    registered.create_model_version("tagger", (here[0] / "artifacts" / run_id).as_uri(), run_id)
    before = dump(stores)
    move(stores, other)
    tracking.connect(other)
    after = dump(other)
    assert not [line for line in after if f"{here[0].as_uri()}/artifacts" in line and name != "copy/inside"]
    assert len(after) == len(before)
    assert tracking.load_tagger(run_id).predict_proba(TEXTS).shape[0] == 1
    assert lineage.splits_of(mlflow.get_run(run_id)).corpus == "sample"
    new_run(f1=0.1)
    assert len([name for name in files(other) if name.endswith("note.txt")]) == 1
    assert not (here[0] / "artifacts").exists()
    now = dump(other)
    assert not portable.repair(other / "mlflow.db")  # again, and nothing changes
    assert dump(other) == now


def test_a_champion_moves_with_its_store(here, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", list(sys.path))  # a model that is loaded changes it
    stores, run_id = here
    version = registry.promote(run_id)
    model_id = version.source.removeprefix("models:/")
    other = tmp_path / "with a space and ü"
    moved(stores, other)
    tracking.connect(other)
    assert not [line for line in dump(other) if str(stores) in line or stores.as_uri() in line]
    assert mlflow.get_logged_model(model_id).artifact_location.startswith(f"{other.as_uri()}/")
    for name in ("tagger@champion", f"tagger/{version.version}", model_id):
        model = mlflow.pyfunc.load_model(f"models:/{name}")
        assert model.predict(TEXTS) == tracking.load_tagger(run_id).predict(TEXTS)
    assert registry.promote(run_id).version == version.version
    assert not stores.exists()


def test_files_kept_elsewhere_stay_there(here, tmp_path):
    stores, _ = here
    mlflow.create_experiment("elsewhere", artifact_location=(tmp_path / "copy of files").as_uri())
    moved(stores, tmp_path / "other")
    tracking.connect(tmp_path / "other")
    location = mlflow.get_experiment_by_name("elsewhere").artifact_location
    assert location == (tmp_path / "copy of files").as_uri()


def test_a_copy_leaves_the_first_alone(here, original):
    stores, run_id = here
    tracking.load_tagger(run_id)
    assert files(stores) == files(original[0])
    tracking.connect(original[0])
    assert f"{original[0].as_uri()}/" in mlflow.get_run(run_id).info.artifact_uri


def test_delete_shows_first_and_then_deletes(here):
    stores, run_id = here
    rows, kept = dump(stores), files(stores)
    extra = [new_run(f1=score) for score in (2, 0.0001, 0.0002)]
    mlflow.set_experiment("other")
    plan = cleanup.delete_runs(all_but_best=2)
    assert sorted(plan.index) == sorted(extra[1:])
    assert plan.bytes.sum() == 8
    assert all(mlflow.get_run(each) for each in extra)  # the plan alone deletes nothing
    cleanup.delete_runs(all_but_best=2, confirmed=True)
    cleanup.delete_runs(where="metrics.f1 > 1", confirmed=True)
    assert files(stores) == kept
    remaining = dump(stores)
    assert not [line for line in remaining if any(each in line for each in extra)]
    assert {line for line in rows if run_id in line} == {line for line in remaining if run_id in line}
    assert tracking.load_tagger(run_id).predict_proba(TEXTS).shape[0] == 1
    cleanup.delete_runs([run_id], confirmed=True)
    assert files(stores) == set()
    assert not list((stores / "artifacts").iterdir())
    with pytest.raises(tracking.NoRunError):
        tracking.load_tagger(run_id)


def test_delete_refuses_what_is_in_use(here):
    _, run_id = here
    with tracking.start_run("runs"), pytest.raises(cleanup.CleanupError, match="is running"):
        cleanup.delete_runs([run_id, mlflow.active_run().info.run_id], confirmed=True)
    MlflowClient().create_registered_model("tagger")
    MlflowClient().create_model_version("tagger", f"runs:/{run_id}", run_id)
    with pytest.raises(cleanup.CleanupError, match="tagger 1"):
        cleanup.delete_runs([run_id], confirmed=True)
    for wrong in ({}, {"run_ids": [run_id], "where": "x"}, {"all_but_best": -1}, {"run_ids": run_id}):
        with pytest.raises(cleanup.CleanupError):
            cleanup.delete_runs(**wrong, confirmed=True)
    assert tracking.load_tagger(run_id)


def test_export_and_import(here, tmp_path):
    stores, run_id = here
    extra = new_run(f1=0.5)
    path = transfer.export_experiment("baselines", tmp_path / "all.zip")
    one = transfer.export_run(run_id, tmp_path / "one.zip")
    before = {each: record(each) for each in (run_id, extra)}
    other = tmp_path / "other"
    tracking.connect(other)
    new_run(f1=0.1)  # so that ids of experiments and datasets differ
    assert transfer.import_runs(one) == [run_id]
    with pytest.raises(transfer.TransferError, match="there already"):
        transfer.import_runs(path)
    cleanup.delete_runs([run_id], confirmed=True)
    assert sorted(transfer.import_runs(path)) == sorted([run_id, extra])
    assert {each: record(each) for each in (run_id, extra)} == before
    assert {name for name in files(stores) if run_id in name} == {name for name in files(other) if run_id in name}
    assert tracking.load_tagger(run_id).predict_proba(TEXTS).shape[0] == 1
    assert mlflow.get_run(run_id).info.artifact_uri.startswith(other.as_uri())


def record(run_id: str) -> dict:
    """Give all that one can ask MLflow about a run, but for its place."""
    run = mlflow.get_run(run_id)
    found = run.to_dictionary()
    del found["info"]["artifact_uri"], found["info"]["experiment_id"]
    history = [
        [metric.to_dictionary() for metric in MlflowClient().get_metric_history(run_id, name)]
        for name in sorted(run.data.metrics)
    ]
    return found | {"history": history, "inputs": [i.to_dictionary() for i in run.inputs.dataset_inputs]}


def rewritten(path: Path, change) -> Path:
    """Give a copy of a zip after `change(names to contents, manifest)`."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(contents.pop(transfer.MANIFEST))
    change(contents, manifest)
    bad = path.with_name("bad.zip")
    with zipfile.ZipFile(bad, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
        archive.writestr(transfer.MANIFEST, json.dumps(manifest))
    return bad


def add(name: str, listed: bool = True):
    def change(contents, manifest):
        contents[name] = b"hostile"
        if listed:
            manifest["files"][name] = artifacts.hashlib.sha256(b"hostile").hexdigest()

    return change


def outside(contents, manifest):
    add(f"{manifest['runs'][0]['run_id']}/../../../outside.txt")(contents, manifest)


def link(contents, manifest):
    entry = zipfile.ZipInfo(f"{manifest['runs'][0]['run_id']}/link")
    entry.external_attr = 0o120777 << 16
    contents[entry] = b"/etc/passwd"
    manifest["files"][entry.filename] = artifacts.hashlib.sha256(b"/etc/passwd").hexdigest()


def flipped(contents, manifest):
    name = next(iter(contents))
    contents[name] = contents[name][:-1] + bytes([contents[name][-1] ^ 1])


def sql(contents, manifest):
    manifest["runs"][0]["tables"]["tags"][0]["key) VALUES (1); DROP TABLE runs; --"] = "x"


def other_id(contents, manifest):
    manifest["runs"][0]["run_id"] = "../outside"


@pytest.mark.parametrize(
    "change",
    [
        add("../outside.txt"),
        add("/outside.txt"),
        add("unlisted.txt", listed=False),
        add("C:\\outside.txt"),
        outside,
        link,
        flipped,
        sql,
        other_id,
        lambda contents, manifest: contents.popitem(),
        lambda contents, manifest: manifest.pop("runs"),
        lambda contents, manifest: manifest.update(schema="older"),
        lambda contents, manifest: manifest["runs"][0]["tables"].pop("metrics"),
        lambda contents, manifest: manifest["runs"][0]["tables"]["runs"][0].update(name={"a": 1}),
        lambda contents, manifest: manifest["runs"][0].update(tables=[]),
        lambda contents, manifest: manifest["runs"].append(manifest["runs"][0]),
    ],
)
def test_bad_zips_are_refused(here, tmp_path, change):
    path = transfer.export_run(here[1], tmp_path / "one.zip")
    bad = rewritten(path, change)
    tracking.connect(tmp_path / "other")
    tracking.set_experiment()
    before = dump(tmp_path / "other"), every_file(tmp_path)
    with pytest.raises(transfer.TransferError, match=r"bad\.zip was not imported"):
        transfer.import_runs(bad)
    assert (dump(tmp_path / "other"), every_file(tmp_path)) == before


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04"])
def test_no_zip(here, tmp_path, content):
    (tmp_path / "bad.zip").write_bytes(content)
    with pytest.raises(transfer.TransferError, match=r"bad\.zip was not imported"):
        transfer.import_runs(tmp_path / "bad.zip")
    with pytest.raises(transfer.TransferError, match="not imported"):
        transfer.import_runs(tmp_path / "none.zip")
