"""A stores folder may be moved, renamed or unpacked elsewhere: its database is told where it is now.

MLflow writes absolute locations, for experiments, runs and models, and takes relative ones as relative to
the folder one happens to be in. So they are rewritten when the store is opened at another place. Where it
was before, the database itself says: the experiment with the id 0 always keeps its files in
`artifacts/0`, and is rewritten in the same transaction as all others.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlflow.tracking._tracking_service import utils as tracking_service

LOCATIONS = [
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("trace_tags", "value"),
]
HOME = "artifacts/0"


def repair(database: Path) -> bool:
    """Make all locations in a SQLite store follow its folder; tell whether any had to. Needs its lock.

    Only what lay in the folder follows it: an experiment that keeps its files elsewhere goes on doing so.
    """
    folder = database.parent
    now = folder.as_uri()
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        home = connection.execute(
            "SELECT artifact_location FROM experiments WHERE experiment_id = 0"
        ).fetchone()
        if home is None or home[0] == f"{now}/{HOME}":
            return False
        if not home[0].endswith(f"/{HOME}"):  # a new store: MLflow puts it into ./mlruns
            connection.execute(
                "UPDATE experiments SET artifact_location = ? WHERE experiment_id = 0", (f"{now}/{HOME}",)
            )
            return False
        before = home[0].removesuffix(f"/{HOME}")
        for old, new in ((before, now), (_path(before), str(folder))):
            for table, column in LOCATIONS:
                connection.execute(
                    f"UPDATE {table} SET {column} = :new || substr({column}, :size) "
                    f"WHERE substr({column}, 1, :size) = :old || '/'",
                    {"old": old, "new": new, "size": len(old) + 1},
                )
    tracking_service._artifact_repos_cache.clear()  # else this process goes on writing to the old place
    return True


def _path(uri: str) -> str:
    """Give the plain path that a file URI stands for: some of MLflow's columns hold that."""
    return str(Path(unquote(urlsplit(uri).path)))
