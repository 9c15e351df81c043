"""What a run said of each example: logged, read back, known again by what the example holds."""

import io
import zipfile
from urllib.parse import unquote, urlsplit

import mlflow
import numpy as np
import pandas as pd
import pytest

from support.models.files import ArtifactError
from support.tracking import checksums
from support.tracking.intervals import interval, predictions_of, with_interval
from support.tracking.predictions import example_ids, log_predictions, read_predictions
from support.tracking.store import connect
from support.tracking.training_run import start_run

FRUIT = pd.DataFrame({"size": [1, 2, 3], "weight": [0.5, 1.5, np.nan], "pixels": [np.zeros(2)] * 3})
PROBABILITIES = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])


@pytest.fixture(autouse=True)
def store() -> None:
    connect()


def logged(**changed) -> mlflow.entities.Run:
    values = {
        "examples": FRUIT,
        "probabilities": PROBABILITIES,
        "targets": ["apple", "pear", "pear"],
        "predicted": ["apple", "pear", "apple"],
        "classes": ["apple", "pear"],
    }
    with start_run("own") as run:
        log_predictions("test", **values | changed)
    return mlflow.get_run(run.info.run_id)


def test_labels_come_back_as_one_column_a_class() -> None:
    found = read_predictions(logged())
    assert found.targets.tolist() == [[True, False], [False, True], [False, True]]
    assert found.predicted.tolist() == [[True, False], [False, True], [True, False]]
    assert found.probabilities == pytest.approx(PROBABILITIES)
    assert list(found.classes) == ["apple", "pear"] and list(found.ids) == example_ids(FRUIT)


def test_several_labels_an_example_come_back_as_they_were() -> None:
    targets = np.array([[1, 1], [0, 1], [0, 0]])
    assert read_predictions(logged(targets=targets)).targets.tolist() == targets.astype(bool).tolist()


def test_the_same_example_has_the_same_id_in_every_run() -> None:
    ids = example_ids(FRUIT)
    assert example_ids(FRUIT.iloc[::-1]) == ids[::-1]
    assert set(example_ids(FRUIT.assign(size=[7, 8, 9]))).isdisjoint(ids)


@pytest.mark.parametrize("part", ["probabilities", "targets", "predicted"])
def test_sizes_that_do_not_fit_are_refused(part: str) -> None:
    with pytest.raises(ValueError, match=rf"{part} is \(2, 2\), and must be \(3, 2\)"):
        logged(**{part: np.zeros((2, 2))})


def test_a_run_that_logged_none_has_none_and_a_damaged_file_is_refused() -> None:
    run = logged()
    assert read_predictions(run, "val") is None
    with open(unquote(urlsplit(run.info.artifact_uri).path) + "/predictions/test.npz", "ab") as file:
        file.write(b" ")
    with pytest.raises(ArtifactError, match=r"predictions/test\.npz is not the file that was logged"):
        read_predictions(run)


@pytest.mark.parametrize(("accuracy", "known"), [(2 / 3, True), (0.667, True), (0.5, False)])
def test_an_interval_stands_only_beside_the_figure_that_it_is_of(accuracy: float, known: bool) -> None:
    run = logged()
    mlflow.MlflowClient().log_metric(run.info.run_id, "accuracy", accuracy)
    mlflow.MlflowClient().log_metric(run.info.run_id, "loss", 2 / 3)
    run = mlflow.get_run(run.info.run_id)
    assert (predictions_of(run, "accuracy") is not None) == known
    low, high = interval(read_predictions(run), "accuracy")
    assert with_interval(run, "accuracy") == f"{accuracy:.3f}" + f" ({low:.2f} to {high:.2f})" * known
    assert with_interval(run, "loss") == "0.667"
    assert predictions_of(run, "val_accuracy") is None and predictions_of(run, "f1") is None


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=True)
    return buffer.getvalue()


GOOD = {"ids": np.array(["a", "b"]), "classes": np.array(["x", "y", "z"]), "probabilities": np.zeros((2, 3), "f4")}
GOOD |= {"targets": np.zeros((2, 3), bool), "predicted": np.zeros((2, 3), bool)}
HUGE = (
    b"\x93NUMPY\x01\x00\x76\x00"
    + b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d,), }".ljust(117) % 2**44
    + b"\n"
)


@pytest.mark.parametrize(
    "changed",
    [
        {"ids": npy(np.array([{}, {}]))},
        {"ids": npy(np.arange(2))},
        {"ids": b"no array"},
        {"classes": npy(np.array(["x"]))},
        {"probabilities": npy(np.zeros((2, 4), "f4"))},
        {"probabilities": npy(np.zeros((2, 3), "U1"))},
        {"probabilities": HUGE},
        {"predicted": npy(np.zeros(2, bool))},
        {"targets": npy(np.full((2, 3), np.nan))},
        {"probabilities": bytes(70_000_000)},
    ],
    ids=lambda changed: " ".join(f"{key} {value[-20:]}" for key, value in changed.items()),
)
def test_hostile_predictions_are_refused_without_the_memory(tmp_path, changed) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with zipfile.ZipFile(folder / "test.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in ({name: npy(array) for name, array in GOOD.items()} | changed).items():
            archive.writestr(f"{name}.npy", content)
    with start_run("hostile") as run:
        checksums.log_files(folder, "predictions")
    with pytest.raises(ArtifactError, match=r"predictions/test\.npz holds no predictions"):
        read_predictions(mlflow.get_run(run.info.run_id))
