"""Where runs, artifacts and data are kept: one folder, `stores/` unless told otherwise."""

import os
from pathlib import Path

PROJECT_DIR = Path(__file__).resolve().parents[1]


def stores_dir(path: str | os.PathLike | None = None) -> Path:
    """Give the absolute path of the stores folder; it need not exist yet.

    `path` wins, then the environment's STORES_DIR, then `stores/` of this project.
    """
    return Path(path or os.environ.get("STORES_DIR") or PROJECT_DIR / "stores").expanduser().resolve()
