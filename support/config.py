"""Where things are: the project, and the folder for all that runs leave behind."""

import os
from pathlib import Path

PROJECT_DIR = Path(__file__).resolve().parents[1]


def stores_dir(path: str | os.PathLike | None = None) -> Path:
    """Return the absolute path of the stores folder; it need not exist yet.

    `path` wins, then the environment's STORES_DIR, then `stores/` of this project. A relative STORES_DIR is
    relative to the project: it names the same folder whichever folder a notebook runs in. Where `support` is
    installed as a package, the project is the folder in which Python runs.
    """
    if path:
        return Path(path).expanduser().resolve()
    project = PROJECT_DIR if (PROJECT_DIR / "notebooks").is_dir() else Path.cwd()
    return (project / Path(os.environ.get("STORES_DIR") or "stores").expanduser()).resolve()
