"""Fill a SQLite store of MLflow with finished runs, by its tables: 10,000 runs in seconds, not in minutes.

The rows are what tracking.train_and_log leaves in the tables that a search reads. The history of a metric,
which no search reads, has `epochs` rows a metric.
"""

import sqlite3
import uuid
from dataclasses import asdict
from pathlib import Path

import numpy as np

from support.models.params import Params

SUMMARY = ("best_epoch", "best_val_loss", "f1", "lr", "precision", "recall", "train_loss", "val_f1", "val_loss")
EPOCH = ("lr", "train_loss", "val_loss")
TAGS = ("corpus", "mlflow", "mlflow.runName", "mlflow.source.name", "mlflow.source.type", "mlflow.user")
TAGS += ("numpy", "pandas", "python", "scikit-learn", "split_seed", "torch")
START = 1_700_000_000_000  # milliseconds since 1970


def fill(database: Path, experiment_id: str, count: int, epochs: int = 0, seed: int = 0) -> str:
    """Add `count` runs to the experiment and give the id of the one with the highest val_f1."""
    rng = np.random.default_rng(seed)
    values = rng.random((count, len(SUMMARY))).tolist()
    ids = [uuid.UUID(bytes=rng.bytes(16)).hex for _ in range(count)]
    params = [(key, str(value)) for key, value in asdict(Params()).items()]
    with sqlite3.connect(database) as db:
        db.execute("PRAGMA cache_size = -1000000")  # a GB: the random ids of 100,000 runs meet no disk
        db.executemany(
            "INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, "
            "start_time, end_time, source_version, lifecycle_stage, artifact_uri, experiment_id) VALUES "
            "(?, 'cnn', 'UNKNOWN', '', '', 'reader', 'FINISHED', ?, ?, '', 'active', ?, ?)",
            (
                (run, START + i, START + i + 15_000, f"file:///artifacts/{run}", int(experiment_id))
                for i, run in enumerate(ids)
            ),
        )
        db.executemany(
            "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES (?, ?, ?, 0, 0, ?)",
            (
                (k, v, START, run)
                for run, row in zip(ids, values, strict=True)
                for k, v in zip(SUMMARY, row, strict=True)
            ),
        )
        db.executemany(
            "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, ?, ?, ?, 0)",
            ((k, 0.5, START + step, run, step) for run in ids for step in range(epochs) for k in EPOCH),
        )
        data = uuid.UUID(bytes=rng.bytes(16)).hex
        db.execute(
            "INSERT INTO datasets (dataset_uuid, experiment_id, name, digest, dataset_source_type, dataset_source) "
            "VALUES (?, ?, 'corpus', '0123456789abcdef', 'code', '{}')",
            (data, int(experiment_id)),
        )
        db.executemany(
            "INSERT INTO inputs (input_uuid, source_type, source_id, destination_type, destination_id) "
            "VALUES (?, 'DATASET', ?, 'RUN', ?)",
            ((f"{run}-0", data, run) for run in ids),
        )
        for table, pairs in (("params", params), ("tags", [(key, "a value") for key in TAGS])):
            db.executemany(
                f"INSERT INTO {table} (key, value, run_uuid) VALUES (?, ?, ?)",
                ((key, value, run) for run in ids for key, value in pairs),
            )
    db.close()
    return ids[max(range(count), key=lambda i: values[i][SUMMARY.index("val_f1")])]
