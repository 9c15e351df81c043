"""A run's files are known again: what was changed since is not read."""

from pathlib import Path
from unittest.mock import Mock

import mlflow
import pytest
from small import SMALL

from support.models.files import ArtifactError
from support.models.params import Params
from support.models.tagger import Tagger, tagger_files
from support.tracking.checksums import TAG, checksums_of, fetch, log_files
from support.tracking.store import connect
from support.tracking.training_run import load_tagger, start_run, train_and_log

FILES = tagger_files(Tagger)
TEXTS = ["transfer learning with bert"]


@pytest.fixture(scope="module")
def run_ids(sample_splits, tmp_path_factory) -> list[str]:
    """Return the ids of two runs of one store."""
    connect(tmp_path_factory.mktemp("stores"))
    params = [Params(num_epochs=1, seed=seed, **SMALL) for seed in (1, 2)]
    return [train_and_log(each, sample_splits) for each in params]


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_of_a_run_is_found(run_ids, name):
    path = path_of(run_ids[0], name)
    content = path.read_bytes()
    flipped = bytes([content[0] ^ 1]) + content[1:]
    with_space = content + b" "  # loads as well as before, and yet is not what was logged
    swapped = path_of(run_ids[1], name).read_bytes() + (b"" if name in ("params.json", "model.pt") else b" ")
    try:
        for bad in (flipped, content[:-1], with_space, swapped, b""):
            path.write_bytes(bad)
            with pytest.raises(ArtifactError, match=rf"{run_ids[0]}: {name} is not the file that was logged"):
                load_tagger(run_ids[0])
        path.unlink()
        with pytest.raises(ArtifactError, match=f"{name} was logged, and cannot be read"):
            load_tagger(run_ids[0])
    finally:
        path.write_bytes(content)
    assert load_tagger(run_ids[0]).predict_proba(TEXTS).shape[0] == 1


@pytest.mark.parametrize("content", [b"[]", b"{", b'{"model.pt": "00"}', b"null", b""])
def test_checksums_that_were_exchanged_are_refused(run_ids, content):
    path = next(path_of(run_ids[0], "checksums").glob(f"{mlflow.get_run(run_ids[0]).data.tags[TAG]}.json"))
    before = path.read_bytes()
    try:
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match=rf"{run_ids[0]}: its checksums/.*json was damaged or exchanged"):
            load_tagger(run_ids[0])
    finally:
        path.write_bytes(before)


def test_whoever_is_killed_before_the_tag_is_set_leaves_the_checksums_of_before(run_ids, tmp_path, monkeypatch):
    (tmp_path / "first.txt").write_text("first")
    with mlflow.start_run() as run:
        log_files(tmp_path)
        (tmp_path / "second.txt").write_text("second")
        monkeypatch.setattr(mlflow, "set_tag", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            log_files(tmp_path)
    assert checksums_of(mlflow.get_run(run.info.run_id)).keys() == {"first.txt"}


def test_files_of_any_number_name_and_depth_are_checked(run_ids, tmp_path):
    names = ["notes #1.md", "why?.txt", "50%25.txt", "curve 12:30.txt", "опыт.txt", "a b/c+d/e&f.txt", "$x^$"]
    names += [f"deep/er/{number:03}.txt" for number in range(200)]
    for name in names:
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    with start_run("many files") as run:
        log_files(tmp_path / "folder", "kept")
        log_files(tmp_path / "folder" / "deep", "twice")
    run = mlflow.get_run(run.info.run_id)
    assert checksums_of(run).keys() >= {f"kept/{name}" for name in names} | {"twice/er/199.txt"}
    assert max(map(len, run.data.tags.values())) < 1000, "no bookkeeping in a tag"
    for name in names[:7]:
        fetch(run, [f"kept/{name}"], tmp_path / "back")
        assert (tmp_path / "back" / Path(name).name).read_text() == name
    path_of(run.info.run_id, "kept/deep/er/007.txt").write_text("changed")
    with pytest.raises(ArtifactError, match=r"kept/deep/er/007\.txt is not the file that was logged"):
        fetch(run, ["kept/deep/er/007.txt"], tmp_path / "back")


def test_a_file_without_a_checksum_is_taken_as_it_is(run_ids, tmp_path):
    with start_run("of mlflow's calls") as run:
        mlflow.log_text("mine", "notes.txt")
    run = mlflow.get_run(run.info.run_id)
    assert checksums_of(run) == {}
    assert (fetch(run, ["notes.txt"], tmp_path) / "notes.txt").read_text() == "mine"


def path_of(run_id: str, name: str) -> Path:
    uri = mlflow.get_run(run_id).info.artifact_uri
    return Path(uri.removeprefix("file://")) / name
