"""Where runs, artifacts and data are kept: one folder, `stores/` unless told otherwise."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

PROJECT_DIR = Path(__file__).resolve().parents[1]
SQLITE = "sqlite:///"


class StoreError(OSError):
    """The store cannot be opened or written. Says which folder and what to do."""


def stores_dir(path: str | os.PathLike | None = None) -> Path:
    """Give the absolute path of the stores folder; it need not exist yet.

    `path` wins, then the environment's STORES_DIR, then `stores/` of this project.
    """
    return Path(path or os.environ.get("STORES_DIR") or PROJECT_DIR / "stores").expanduser().resolve()


def sqlite_folder(uri: str) -> Path | None:
    """Give the folder of a SQLite store, or None for a server."""
    return Path(uri.removeprefix(SQLITE)).parent if uri.startswith(SQLITE) else None


@contextmanager
def store_lock(uri: str) -> Iterator[None]:
    """Let one process at a time change a SQLite store; a server sees to that by itself."""
    folder = sqlite_folder(uri)
    if folder is None:
        yield
        return
    with FileLock(folder / "mlflow.db.lock"):
        yield
