"""MLflow's SQLite database, where MLflow itself has no public call: this module is the only one that knows it.

MLflow makes its tables in many steps, and a process that dies between two of them leaves a database that no
call repairs. Here a new database is made aside and renamed into place, and so is an upgraded one. Checked
against MLflow 3.16 to 3.18; tests/integration/test_store.py fails when MLflow changes what is used.
"""

import logging
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

import mlflow
from alembic.script import ScriptDirectory
from mlflow.store.db import utils
from mlflow.tracking import fluent
from mlflow.tracking._model_registry import utils as registry_service
from mlflow.tracking._tracking_service import utils as tracking_service
from sqlalchemy import create_engine

SQLITE = "sqlite:///"
MAGIC = b"SQLite format 3\0"
# What holds locations of files: columns, or values of tags.
LOCATIONS = [
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("trace_tags", "value"),
]
HOME = "artifacts/0"  # of the experiment with the id 0, beside the database


class StoreError(OSError):
    """The store cannot be opened or written. The message says which file or folder, and what to do."""


def prepare(path: Path) -> None:
    """Make the database, or bring it up to date, so that MLflow finds it as it expects it. Needs the lock.

    Raise StoreError where the file is not MLflow's, is damaged, or is newer than the installed MLflow. It
    stays as it is then.
    """
    for name in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)  # each table that is made is announced
    if not path.exists():
        _replace(path, lambda aside: utils._initialize_tables(create_engine(f"{SQLITE}{aside}")))
        return
    version, newest = _version(path), utils._get_latest_schema_revision()
    if version == newest:
        return
    script = ScriptDirectory.from_config(utils._get_alembic_config(""))
    if version not in {revision.revision for revision in script.walk_revisions()}:
        raise StoreError(
            f"{path} was written by a newer MLflow than the installed {mlflow.__version__}. Install the newer one "
            "(pip install --upgrade mlflow), or set STORES_DIR to another folder."
        )
    print(f"The store was written by an older MLflow and is brought up to {mlflow.__version__}.")

    def upgrade(aside: Path) -> None:
        shutil.copyfile(path, aside)
        utils._upgrade_db(create_engine(f"{SQLITE}{aside}"))

    _replace(path, upgrade)


def forget(uri: str) -> None:
    """Let this process's MLflow read a database anew: another file lies at its place, or its files moved."""
    for service in (tracking_service, registry_service):
        engine = getattr(service._get_store(uri), "engine", None)
        if engine is not None:
            engine.dispose()
    tracking_service._artifact_repos_cache.clear()


def forget_experiment() -> None:
    """Let MLflow have no current experiment: that of another store means nothing in this one."""
    fluent._active_experiment_id = None


def follow_move(path: Path) -> bool:
    """Make all locations of files follow the database's folder; return whether any had to. Needs the lock.

    MLflow writes absolute locations, and a stores folder may be moved, renamed or unpacked elsewhere. Where it
    was before, the database says: the experiment with the id 0 always keeps its files in `artifacts/0`, and is
    rewritten in the same transaction as all others. What lies elsewhere stays there.
    """
    now = path.parent.as_uri()
    with closing(sqlite3.connect(path, timeout=60)) as connection, connection:
        query = "SELECT artifact_location FROM experiments WHERE experiment_id = 0"
        home = connection.execute(query).fetchone()
        if home is None or home[0] == f"{now}/{HOME}":
            return False
        if not home[0].endswith(f"/{HOME}"):  # a new store: MLflow puts it into ./mlruns
            update = "UPDATE experiments SET artifact_location = ? WHERE experiment_id = 0"
            connection.execute(update, (f"{now}/{HOME}",))
            return False
        before = home[0].removesuffix(f"/{HOME}")
        # Some columns hold the plain path that a file URI stands for.
        paths = str(Path(unquote(urlsplit(before).path))), str(path.parent)
        for old, new in ((before, now), paths):
            for table, column in LOCATIONS:
                connection.execute(
                    f"UPDATE {table} SET {column} = :new || substr({column}, :size) "
                    f"WHERE substr({column}, 1, :size) = :old || '/'",
                    {"old": old, "new": new, "size": len(old) + 1},
                )
    return True


def plan_for_many_runs(path: Path) -> None:
    """Tell SQLite's planner, once a store, that a metric has many runs.

    Without statistics it takes a metric for rare, and finds the best of 10,000 runs in seconds where 60 ms
    are enough. Those that ANALYZE gathers age: a store that held one run then is planned for one run.
    Source: https://sqlite.org/optoverview.html, "Manual control of query plans".
    """
    with closing(sqlite3.connect(path, timeout=60)) as connection, connection:
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


def _replace(path: Path, make) -> None:
    """Let `make` write a database aside, and put it whole into the place of `path`."""
    aside = path.with_name(f"{path.name}.new")
    for left in (aside, aside.with_name(f"{aside.name}-journal")):  # by a process that was killed
        left.unlink(missing_ok=True)
    make(aside)
    aside.replace(path)
    forget(f"{SQLITE}{path.as_posix()}")


def _version(path: Path) -> str:
    """Return the version of the database's tables. Raise StoreError for a file that is not MLflow's."""
    remedy = "Bring a backup back, move the file away to begin a new store, or set STORES_DIR to another folder."
    with path.open("rb") as file:
        head = file.read(100)
    if head[:16] != MAGIC:
        raise StoreError(f"{path} is no SQLite database: it is damaged, or another program's. {remedy}")
    page_size = int.from_bytes(head[16:18], "big")
    if path.stat().st_size < int.from_bytes(head[28:32], "big") * (65536 if page_size == 1 else page_size):
        raise StoreError(f"{path} is cut off: a part of it is missing. {remedy}")
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=60)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not {"alembic_version", "experiments", "runs"} <= tables:
                raise StoreError(f"{path} is the database of another program. {remedy}")
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.DatabaseError as error:
        raise StoreError(f"{path} cannot be read ({error}). {remedy}") from error
    return row[0] if row else ""
