"""What all tests share: a store of their own, and the two corpora.

The lesson's corpus is found in LESSON_DATA_DIR, else in ../shared/data beside the project. The rule where
it is not found:
- SAMPLE_CORPUS_ONLY=1: tests that need it are skipped, even where it could be found.
- CI=true: they fail, since a CI that skips them without being told proves nothing.
- else: they are skipped, saying so.
"""

import hashlib
import multiprocessing
import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from hypothesis import settings
from mlflow.store.db import utils
from sqlalchemy import Engine, create_engine

# Before torch is imported: threads that wait shall sleep. Threads that spin make a training many times
# slower as soon as anything else runs on the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from support.data.corpus import LESSON_SHA256, SAMPLE_DIR, Splits, load_projects, split
from support.tracking.store import PROJECT_DIR
from support.models.training import Params, Trained, train_cnn

# Read before a test can change them.
GIVEN_DIR = os.environ.get("LESSON_DATA_DIR")
SAMPLE_ONLY = os.environ.get("SAMPLE_CORPUS_ONLY") == "1"
IN_CI = os.environ.get("CI") == "true"

# The same examples every time, and no folder of past ones.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")

# Small enough for seconds, large enough to have every part of the lesson's model.
SMALL = {"embedding_dim": 16, "num_filters": 8, "filter_sizes": [1, 2, 3], "hidden_dim": 16, "lr": 0.01}


@pytest.fixture(autouse=True)
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give every test an empty store, and nothing of the user's: no server, no token, no data folder."""
    monkeypatch.setenv("STORES_DIR", str(tmp_path / "stores"))
    for name in ("MLFLOW_TRACKING_URI", "NGROK_AUTHTOKEN", "LESSON_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    yield
    os.environ.pop("MLFLOW_TRACKING_URI", None)  # mlflow.set_tracking_uri has written it there


@pytest.fixture(scope="session", autouse=True)
def tables_made_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let this process's new SQLite stores copy MLflow's tables: to make them takes MLflow seconds.

    Other processes, among them the notebooks' kernels, make theirs as users do.
    """
    made, make = tmp_path_factory.mktemp("tables") / "mlflow.db", utils._initialize_tables

    def copy(engine: Engine) -> None:
        if engine.dialect.name != "sqlite":
            return make(engine)
        if not made.exists():
            make(create_engine(f"sqlite:///{made}"))
        source, target = sqlite3.connect(made), sqlite3.connect(engine.url.database)
        with closing(source), closing(target):
            source.backup(target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "_initialize_tables", copy)
        yield


# What PyTorch, MLflow and SQLAlchemy import when they are first used: seconds in each new process.
IMPORTED_LATE = ["torch._dynamo", "IPython.display", "alembic.command", "sqlalchemy.dialects.sqlite"]


@pytest.fixture(scope="session")
def processes() -> Iterator[Callable[..., BaseProcess]]:
    """Give a maker of processes, from a function and its arguments, that have everything imported already.

    They have the environment of the first test that asked for this, so the function is told all it needs.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["search_victims", "team_parts", "victims", *IMPORTED_LATE])
    with pytest.MonkeyPatch.context() as patch:  # the forkserver knows nothing of pytest's path
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, [Path(__file__).parent, PROJECT_DIR])))
        forkserver.ensure_running()
    started = []

    def start(target: Callable, *args, **kwargs) -> BaseProcess:
        args = tuple(str(value) if isinstance(value, Path) else value for value in args)
        started.append(context.Process(target=target, args=args, kwargs=kwargs))
        started[-1].start()
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.join()


@pytest.fixture
def stillborn(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let the process that runs a module be dead before it can be told anything."""

    def stillborn(module: str) -> None:
        class Popen(subprocess.Popen):
            def __init__(self, args: list[str], **kwargs) -> None:
                dies = args[1:] == ["-m", module]
                super().__init__([*args[:1], "-c", "exit('no memory left')"] if dies else args, **kwargs)
                if dies:
                    self.wait()

        monkeypatch.setattr(subprocess, "Popen", Popen)

    return stillborn


def holds_the_lesson(folder: Path) -> bool:
    """Tell whether both files are there and are the lesson's, byte for byte."""
    return all(
        (folder / name).is_file() and hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha256
        for name, sha256 in LESSON_SHA256.items()
    )


@pytest.fixture(scope="session")
def lesson_dir() -> Path:
    """Give the folder of the lesson's corpus; the rule where there is none stands at the top."""
    if SAMPLE_ONLY:
        pytest.skip("SAMPLE_CORPUS_ONLY=1 leaves out what needs the lesson's corpus.")
    folders = [Path(GIVEN_DIR)] if GIVEN_DIR else []
    for folder in [*folders, PROJECT_DIR.parent / "shared" / "data"]:
        if holds_the_lesson(folder):
            return folder
    reason = "The lesson's corpus is not here: set LESSON_DATA_DIR to a folder that holds it."
    if IN_CI:
        pytest.fail(f"{reason} Or set SAMPLE_CORPUS_ONLY=1 to leave it out.")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def lesson_splits(lesson_dir: Path) -> Splits:
    """Give the lesson's corpus, split with the lesson's seed."""
    return split(load_projects(lesson_dir))


@pytest.fixture(scope="session")
def sample_projects():
    """Give the sample corpus, clean and filtered."""
    return load_projects(SAMPLE_DIR)


@pytest.fixture(scope="session")
def sample_splits(sample_projects) -> Splits:
    """Give the sample corpus, split."""
    return split(sample_projects)


@pytest.fixture(scope="session")
def trained(sample_splits: Splits) -> Trained:
    """Give a small model trained for a few epochs on the sample corpus: for plumbing, not for quality."""
    return train_cnn(Params(num_epochs=3, **SMALL), sample_splits)
