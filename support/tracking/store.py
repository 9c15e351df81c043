"""Where runs, artifacts and data are kept: one folder, `stores/` unless told otherwise."""

import gc
import os
import shutil
import sqlite3
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from filelock import FileLock

PROJECT_DIR = Path(__file__).resolve().parents[1]
SQLITE = "sqlite:///"


LEAST_SPACE = 5_000_000  # bytes: a new database takes one million, and its journal too
ELSEWHERE = "Free some space, or set STORES_DIR to a folder elsewhere."


class StoreError(OSError):
    """The store cannot be opened or written. Says which folder and what to do."""


def stores_dir(path: str | os.PathLike | None = None) -> Path:
    """Give the absolute path of the stores folder; it need not exist yet.

    `path` wins, then the environment's STORES_DIR, then `stores/` of this project.
    """
    return Path(path or os.environ.get("STORES_DIR") or PROJECT_DIR / "stores").expanduser().resolve()


def check_writable(folder: Path) -> None:
    """Make the folder if need be. Raises StoreError where it cannot be written or has no space left."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"The stores folder {folder} cannot be made: {error}. {ELSEWHERE}") from error
    if not os.access(folder, os.W_OK):
        raise StoreError(f"The stores folder {folder} is read-only. {ELSEWHERE}")
    free = shutil.disk_usage(folder).free
    if free < LEAST_SPACE:
        raise StoreError(f"Only {free / 1e6:.1f} MB are free for the stores folder {folder}. {ELSEWHERE}")


def local_uri(path: str | os.PathLike | None = None) -> str:
    """Give the tracking URI of the store in a stores folder, found as `stores_dir` finds it."""
    return f"{SQLITE}{(stores_dir(path) / 'mlflow.db').as_posix()}"


def database_of(uri: str) -> Path | None:
    """Give the file behind a SQLite tracking URI, or None for a server."""
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


@contextmanager
def store_lock(uri: str) -> Iterator[None]:
    """Let one process at a time change a SQLite store; a server sees to that by itself."""
    database = database_of(uri)
    if database is None:
        yield
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{database}.lock"):
        yield


def let_go(interrupt: BaseException) -> None:
    """Let go of the database that an interrupt keeps locked, for all of this process and all others.

    SQLite's lock lasts as long as a cursor that has not ended, and one that was interrupted stays in the
    frames of the traceback, and in what refers to itself there.
    """
    traceback.clear_frames(interrupt.__traceback__)
    gc.collect()


def plan_for_many_runs(database: Path) -> None:
    """Tell SQLite's planner, once a store, that a metric has many runs.

    Without statistics it takes a metric for rare, and finds the best of 10,000 runs in seconds where 60 ms
    are enough. Those that ANALYZE gathers age: a store that held one run then is planned for one run.
    Source: https://sqlite.org/optoverview.html, "Manual control of query plans".
    """
    with closing(sqlite3.connect(database, timeout=20)) as connection, connection:
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_stat1'").fetchone():
            return
        connection.execute("ANALYZE latest_metrics")  # makes the table of statistics
        connection.execute("DELETE FROM sqlite_stat1 WHERE tbl = 'latest_metrics'")
        connection.executemany(
            "INSERT INTO sqlite_stat1 VALUES ('latest_metrics', ?, ?)",
            [  # for an index: rows in all, rows with the same first column, with the same first two
                ("sqlite_autoindex_latest_metrics_1", "1000000 100000 1"),  # (key, run_uuid)
                ("index_latest_metrics_run_uuid", "1000000 10"),
            ],
        )
