"""Which rows of MLflow's database make up a run: what goes when it is deleted, and along when it moves.

MLflow can mark a run as deleted, but neither removes its files nor writes a run with a given id. So the rooms
that need this work on the SQLite database itself, under the store's lock.
"""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import mlflow

from support.tracking.store import StoreError, database_of, store_lock

OF_RUN = "run_uuid = :run"
OF_MODEL = "model_id IN (SELECT model_id FROM logged_models WHERE source_run_id = :run)"
OF_INPUT = ":run IN (source_id, destination_id)"
# Parents before children: a run, what it logged, what it read, the models that came of it.
ROWS = {
    "runs": OF_RUN,
    "params": OF_RUN,
    "tags": OF_RUN,
    "metrics": OF_RUN,
    "latest_metrics": OF_RUN,
    "inputs": OF_INPUT,
    "input_tags": f"input_uuid IN (SELECT input_uuid FROM inputs WHERE {OF_INPUT})",
    "logged_models": "source_run_id = :run",
    "logged_model_params": OF_MODEL,
    "logged_model_tags": OF_MODEL,
    "logged_model_metrics": f"{OF_MODEL} OR run_id = :run",
}


def path() -> Path:
    """Give the current store's database. Raises StoreError for a server, which keeps its rows to itself."""
    uri = mlflow.get_tracking_uri()
    database = database_of(uri)
    if database is None:
        raise StoreError(
            "MLFLOW_TRACKING_URI is a server, and this works on a store of one's own. There, MLflow's own "
            "client deletes a run (mlflow.delete_run), and sync.sync brings runs here and back."
        )
    return database


@contextmanager
def database() -> Iterator[sqlite3.Connection]:
    """Open the current store's database for one transaction: all of the block, or nothing of it."""
    with (
        store_lock(mlflow.get_tracking_uri()),
        closing(sqlite3.connect(path(), timeout=60)) as connection,
    ):
        connection.row_factory = sqlite3.Row
        with connection:
            yield connection


def of_run(connection: sqlite3.Connection, run_id: str) -> dict[str, list[dict]]:
    """Give the run's rows: table -> list of column -> value."""
    return {
        table: [
            dict(row) for row in connection.execute(f"SELECT * FROM {table} WHERE {mine}", {"run": run_id})
        ]
        for table, mine in ROWS.items()
    }


def delete(connection: sqlite3.Connection, run_id: str) -> None:
    """Delete the run's rows, and the datasets that no other run has read."""
    for table, mine in reversed(ROWS.items()):
        connection.execute(f"DELETE FROM {table} WHERE {mine}", {"run": run_id})
    connection.execute("DELETE FROM datasets WHERE dataset_uuid NOT IN (SELECT source_id FROM inputs)")


def folders(connection: sqlite3.Connection, run_id: str) -> dict[str, Path]:
    """Give the folders that hold the files of the run and of its models: id -> folder."""
    found = {}
    for query in (
        "SELECT run_uuid, artifact_uri FROM runs WHERE run_uuid = ?",
        "SELECT model_id, artifact_location FROM logged_models WHERE source_run_id = ?",
    ):
        for name, uri in connection.execute(query, (run_id,)):
            if urlsplit(uri).scheme != "file" or Path(url2pathname(urlsplit(uri).path)).parent.name != name:
                raise StoreError(f"{name} keeps its files in {uri}, which is no folder of its own here.")
            found[name] = Path(url2pathname(urlsplit(uri).path))
    return found


def remove_folder(folder: Path) -> None:
    """Remove the files of a run or a model, and the folder around them that bears its id."""
    if folder.parent.exists():
        shutil.rmtree(folder.parent)
