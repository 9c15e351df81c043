"""The processes of a search: each has a worker a space, and takes what waits.

    with helpers(1, config):          # a process of its own, which takes part
        Party(splits, config).work()  # and so does this one

`config` says all that a process must know, in values that JSON can hold: parent_id, spaces, seed, patience,
storage, until. A helper reads it from its standard input, and the data from the parent run. When that input
ends, because the process that started it is done or dead, it ends after the epoch or linear model it is at.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import mlflow
import torch
from filelock import FileLock
from optuna.trial import FrozenTrial
from sqlalchemy import NullPool, create_engine

from support.dashboard.contact import tell
from support.data.corpus import Splits
from support.lineage import lineage
from support.search.space import Space
from support.search.trials import RUNNING, WAITING, Worker, is_stale, lay_ghosts, open_study, outcomes, plan
from support.tracking import training_run as tracking
from support.tracking.store import PROJECT_DIR, database_of, stores_dir

GRACE = 20  # seconds that a helper gets to come to its end


class Party:
    """What one process does in a search: a worker for each space, until the time is up or it is deserted."""

    def __init__(self, splits: Splits, config: dict, deserted: Callable[[], bool] = lambda: False) -> None:
        def stop() -> bool:
            return deserted() or time.time() > config["until"]

        parent_id, seed, patience = (config[name] for name in ("parent_id", "seed", "patience"))
        self.lock, self.patience, self.workers = search_lock(config["storage"]), patience, []
        for name, values in config["spaces"].items():
            space = Space.from_dict(values)
            with self.lock:
                study = open_study(config["storage"], f"{parent_id}/{name}")
                plan(study, space)
            self.workers.append(Worker(study, name, space, splits, parent_id, self.lock, seed, patience, stop))

    def work(self, tell: Callable[[], None] = lambda: None) -> None:
        """Try all that waits, and what dead processes left; call `tell` after each trial."""
        for worker in self.workers:
            with self.lock:
                lay_ghosts(worker.study)
            worker.work(tell)

    def is_over(self) -> bool:
        """Tell whether there is nothing left to try."""
        return not any(
            worker.study.get_trials(deepcopy=False, states=(*WAITING, *RUNNING))
            and not is_stale(worker.study, self.patience)
            for worker in self.workers
        )

    def ended(self) -> list[FrozenTrial]:
        """Give the trials of all spaces that are over."""
        return [trial for worker in self.workers for trial in outcomes(worker.study)]


@contextmanager
def helpers(count: int, config: dict) -> Iterator[list[subprocess.Popen]]:
    """Start so many processes that take part, and end them in any case."""
    environment = {"MLFLOW_TRACKING_URI": mlflow.get_tracking_uri(), "STORES_DIR": str(stores_dir())}
    with ExitStack() as stack:
        started = []
        for _ in range(count):
            log = stack.enter_context(TemporaryFile())
            helper = subprocess.Popen(
                [sys.executable, "-m", "support.search.worker"],
                cwd=PROJECT_DIR,
                env={**os.environ, **environment, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                process_group=0,  # an interrupt is for the notebook, which then ends its helpers
            )
            stack.callback(_end, helper, log)
            tell(helper, config)
            started.append(helper)
        yield started
        # What comes after this is the helpers' end.


def search_folder() -> Path:
    """Give the folder of the store, where the studies are too; stores/ for a server's."""
    database = database_of(mlflow.get_tracking_uri())
    return database.parent if database else stores_dir()


class DatabaseLock:
    """A lock that holds for all machines: PostgreSQL keeps it as long as its connection lasts."""

    def __init__(self, storage: str) -> None:
        self.engine = create_engine(storage, poolclass=NullPool)

    def __enter__(self) -> None:
        self.connection = self.engine.connect()
        self.connection.exec_driver_sql("SELECT pg_advisory_lock(hashtext('searches'))")

    def __exit__(self, *_) -> None:
        self.connection.close()


def search_lock(storage: str) -> AbstractContextManager:
    """Give what lets one process at a time change the studies: of this machine, or of all that share them."""
    if not storage.startswith("sqlite:"):
        return DatabaseLock(storage)
    folder = search_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / "searches.lock")


def _end(helper: subprocess.Popen, log: IO[bytes]) -> None:
    helper.stdin.close()
    try:
        helper.wait(GRACE)
    except subprocess.TimeoutExpired:
        helper.kill()
        helper.wait()
    if helper.returncode:
        log.seek(0)
        why = log.read().decode(errors="replace").strip().rpartition("\n")[2]
        print(f"A helper of the search ended with exit code {helper.returncode}. {why}")


def main() -> None:
    """Take part in the search that standard input tells of, until the input ends."""
    config = json.loads(sys.stdin.readline())
    deserted = threading.Event()

    def listen() -> None:
        sys.stdin.read()
        deserted.set()

    threading.Thread(target=listen, daemon=True).start()
    torch.set_num_threads(1)
    tracking.connect()
    splits = lineage.splits_of(mlflow.get_run(config["parent_id"]))
    Party(splits, config, deserted.is_set).work()


if __name__ == "__main__":
    main()
