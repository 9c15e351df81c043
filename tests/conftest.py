"""What all tiers share: an environment and a store of their own, the two corpora, one small trained model.

The folder decides a test's tier: unit, integration, system, notebooks. What a tier alone needs is in its
conftest.py. Imports of support, torch and mlflow stand in the fixtures: a unit test pays for what it uses.

The lesson's corpus is found in LESSON_DATA_DIR, else in ../shared/data beside the project. Where it is not
found, tests that need it are skipped and say so; with CI=true they fail, unless SAMPLE_CORPUS_ONLY=1.
"""

import hashlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from small import SMALL

if TYPE_CHECKING:
    import pandas as pd

    from support.data.splits import Splits
    from support.models.tagger import Trained

TESTS = Path(__file__).parent
ROOT = TESTS.parent

# Before torch is imported: threads that wait by spinning slow down all that runs beside them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# What a shell runs in the background ignores Ctrl-C, and the tests interrupt trainings.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Read before a test can change them.
GIVEN_DIR = os.environ.get("LESSON_DATA_DIR")
SAMPLE_ONLY = os.environ.get("SAMPLE_CORPUS_ONLY") == "1"
IN_CI = os.environ.get("CI") == "true"

# What a user's shell may hold and what a test must not see.
USERS_OWN = [
    "LESSON_DATA_DIR",
    "NGROK_AUTHTOKEN",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_REGISTRY_URI",
    "MLFLOW_RUN_ID",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_EXPERIMENT_NAME",
    *("CODESPACE_NAME", "JUPYTERHUB_SERVICE_PREFIX", "KAGGLE_KERNEL_RUN_TYPE", "LIGHTNING_CLOUDSPACE_HOST"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
]

# The same examples every time, and no folder of past ones.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def own_environment(tmp_path: Path) -> Iterator[None]:
    """Run each test with an empty store and nothing of the user's: no server, token, proxy or run.

    What the test changes is put back, also what MLflow remembers: its store and its current experiment. A
    store that a module's fixture has connected stays connected in all tests of the module.
    """
    before = dict(os.environ)
    for name in USERS_OWN:
        os.environ.pop(name, None)
    os.environ["STORES_DIR"] = str(tmp_path / "stores")
    uri, experiment_id = _remembered_by_mlflow()
    yield
    os.environ.clear()
    os.environ.update(before)
    if "mlflow" in sys.modules:
        import mlflow
        from mlflow.tracking import fluent

        while mlflow.active_run():
            mlflow.end_run("KILLED")
        mlflow.set_tracking_uri(uri)
        os.environ.pop("MLFLOW_TRACKING_URI", None)  # where MLflow has just written it
        fluent._active_experiment_id = experiment_id  # MLflow has no call that forgets it: 3.16 to 3.18


def _remembered_by_mlflow() -> tuple[str | None, str | None]:
    if "mlflow" not in sys.modules:
        return None, None
    import mlflow
    from mlflow.tracking import fluent

    uri = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    return uri, fluent._active_experiment_id


@pytest.fixture(scope="session")
def tables_made_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let new SQLite stores of this process copy MLflow's tables: to make them takes MLflow 2 s.

    Other processes, among them the notebooks' kernels, make theirs as users do.
    """
    import sqlite3
    from contextlib import closing

    from mlflow.store.db import utils
    from sqlalchemy import create_engine

    template, make = tmp_path_factory.mktemp("tables") / "mlflow.db", utils._initialize_tables

    def copy(engine) -> None:
        if engine.dialect.name != "sqlite":
            return make(engine)
        if not template.exists():
            make(create_engine(f"sqlite:///{template}"))
        source, target = sqlite3.connect(template), sqlite3.connect(engine.url.database)
        with closing(source), closing(target):
            source.backup(target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "_initialize_tables", copy)
        yield


# What PyTorch, MLflow and SQLAlchemy import when they are first used: seconds in each new process.
IMPORTED_LATE = [
    "mlflow",
    "mlflow.store.tracking.sqlalchemy_store",
    "torch._dynamo",
    "IPython.display",
    "alembic.command",
    "sqlalchemy.dialects.sqlite",
]


@pytest.fixture(scope="session")
def processes() -> Iterator[Callable[..., BaseProcess]]:
    """Return start(function, *args, **kwargs) -> process, for processes that have all imported already.

    The functions live in modules of tests/ named *_processes.py. Their process has the environment of the
    first test that asked for this fixture, so pass a function all it needs. Paths arrive as str.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*sorted(path.stem for path in TESTS.glob("*_processes.py")), *IMPORTED_LATE])
    with pytest.MonkeyPatch.context() as patch:  # the forkserver knows nothing of pytest's path
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, [TESTS, ROOT])))
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


def holds_the_lesson(folder: Path) -> bool:
    """Return whether both files are there and are the lesson's, byte for byte."""
    from support.data.corpus import LESSON_SHA256

    return all(
        (folder / name).is_file() and hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha256
        for name, sha256 in LESSON_SHA256.items()
    )


@pytest.fixture(scope="session")
def lesson_dir() -> Path:
    """Return the folder of the lesson's corpus; the rule where there is none stands at the top."""
    if SAMPLE_ONLY:
        pytest.skip("SAMPLE_CORPUS_ONLY=1 leaves out what needs the lesson's corpus.")
    for folder in [*([Path(GIVEN_DIR)] if GIVEN_DIR else []), ROOT.parent / "shared" / "data"]:
        if holds_the_lesson(folder):
            return folder
    reason = "The lesson's corpus is not here: set LESSON_DATA_DIR to a folder that holds it."
    if IN_CI:
        pytest.fail(f"{reason} Or set SAMPLE_CORPUS_ONLY=1 to leave it out.")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def lesson_splits(lesson_dir: Path) -> "Splits":
    """Return the lesson's corpus, split with the lesson's seed."""
    from support.data.corpus import load_projects
    from support.data.splits import split

    return split(load_projects(lesson_dir))


@pytest.fixture(scope="session")
def sample_projects() -> "pd.DataFrame":
    """Return the sample corpus, clean and filtered."""
    from support.data.corpus import SAMPLE_DIR, load_projects

    return load_projects(SAMPLE_DIR)


@pytest.fixture(scope="session")
def sample_splits(sample_projects: "pd.DataFrame") -> "Splits":
    """Return the sample corpus, split."""
    from support.data.splits import split

    return split(sample_projects)


@pytest.fixture(scope="session")
def trained(sample_splits: "Splits") -> "Trained":
    """Return a small model trained for 3 epochs on the sample corpus: for plumbing, not for quality."""
    from support.models.params import Params
    from support.models.training import train_cnn

    return train_cnn(Params(num_epochs=3, **SMALL), sample_splits)
