"""What a run said of each example: so that two runs can be compared without loading their models.

log_predictions("test", splits.test, probabilities, targets, predicted, classes)   # to the current run
read_predictions(run, "test").predicted

One compressed file a part, `predictions/<part>.npz`, of plain arrays: nothing in it is pickled.
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from mlflow.entities import Run

from support.models.files import ArtifactError, need, need_small
from support.tracking import checksums

FOLDER = "predictions"
# What NumPy raises for bytes that hold something else.
DAMAGED = (ValueError, LookupError, TypeError, AttributeError, EOFError, OSError, RuntimeError, MemoryError)
DAMAGED += (zlib.error, zipfile.BadZipFile)


@dataclass(frozen=True)
class Predictions:
    """Arrays of N examples and C classes.

    ids: str (N,), a digest of each example; probabilities: float32 (N, C); predicted and targets: bool (N, C),
    one True a row where there is one label; classes: str (C,).
    """

    ids: np.ndarray
    probabilities: np.ndarray
    predicted: np.ndarray
    targets: np.ndarray
    classes: np.ndarray


def log_predictions(
    part: str,
    examples: pd.DataFrame,
    probabilities: np.ndarray,
    targets: np.ndarray,
    predicted: np.ndarray,
    classes: Sequence,
) -> None:
    """Log to the current run what it says of the examples of a part, such as "val" or "test".

    probabilities: (N, C). targets and predicted: (N, C) of zeros and ones, or (N,) of labels, each one of
    `classes`. Raise ValueError where the sizes do not fit.
    """
    classes = np.array([str(name) for name in classes], dtype=str)
    arrays = {
        "ids": np.array(example_ids(examples), dtype=str),
        "probabilities": np.asarray(probabilities, dtype=np.float32),
        "predicted": _one_hot(predicted, classes),
        "targets": _one_hot(targets, classes),
        "classes": classes,
    }
    size = (len(examples), len(classes))
    for name in ("probabilities", "predicted", "targets"):
        if arrays[name].shape != size:
            raise ValueError(f"{name} is {arrays[name].shape}, and must be {size}: examples by classes.")
    with TemporaryDirectory() as folder:
        np.savez_compressed(Path(folder) / f"{part}.npz", **arrays)
        checksums.log_files(folder, FOLDER)


def read_predictions(run: Run, part: str = "test") -> Predictions | None:
    """Return what the run said of a part's examples, None where it has not logged it.

    Raise ArtifactError where the file is damaged or hostile: sizes and types are checked.
    """
    name = f"{FOLDER}/{part}.npz"
    if name not in checksums.checksums_of(run):
        return None
    with TemporaryDirectory() as folder:
        checksums.fetch(run, [name], folder)
        try:
            need_small(Path(folder) / f"{part}.npz")
            with np.load(Path(folder) / f"{part}.npz", allow_pickle=False) as arrays:
                found = {key: arrays[key] for key in Predictions.__dataclass_fields__}
            rows, columns = len(found["ids"]), len(found["classes"])
            types = {"ids": ("U", (rows,)), "classes": ("U", (columns,)), "probabilities": ("f", (rows, columns))}
            for key, array in found.items():
                kind, shape = types.get(key, ("b", (rows, columns)))
                need(array.shape == shape and array.dtype.kind == kind, f"its {key} are of another size or type")
            return Predictions(**found)
        except DAMAGED as error:
            raise ArtifactError(f"Run {run.info.run_id}: {name} holds no predictions: {error}.") from error


def example_ids(examples: pd.DataFrame) -> list[str]:
    """Return 16 hex digits for each row, from its values: the same example has the same id in every run."""
    columns = [examples[name].tolist() for name in examples.columns]
    rows = (json.dumps(row, default=lambda value: np.asarray(value).tolist()) for row in zip(*columns, strict=True))
    return [hashlib.sha256(row.encode()).hexdigest()[:16] for row in rows]


def _one_hot(labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim == 1:
        return labels.astype(str)[:, None] == classes[None, :]
    return labels.astype(bool)
