"""The two stores of a sync: their clients, and the ids that a run or a model has in each of them.

source, target = Side("sqlite:///mlflow.db"), Side("https://team.example")
target.know(origin_of(run), copy_id)     # target.ids: origin -> id there; target.origins: and back

What a run was called first, its origin, a copy keeps in a tag. So a copy of a copy is known again.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Run
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from support.tracking import remote as offline
from support.tracking import provenance

ORIGIN, MARK = "sync.origin", "sync.digest"
# Tags that no copy takes over: those of copying itself, and of the process that works on a run, which makes
# `support.tracking.orphans` look after it. Nobody works on a copy.
OURS = ("sync.", "process.")
THREADS = 4


class CopyError(RuntimeError):
    """A copy cannot be made, or is not what its run is. Says in what."""


ERRORS = (MlflowException, requests.RequestException, OSError, ValueError, CopyError)


class Side:
    """One of the two stores: its client, and how its ids and those of the origins translate."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.client = MlflowClient(uri, uri)
        self.origins: dict[str, str] = {}  # id here -> id of the origin, of runs and models
        self.ids: dict[str, str] = {}  # and back

    def know(self, origin: str, here: str) -> None:
        """Keep that `here` is this store's id of what is called `origin`."""
        self.origins[here], self.ids[origin] = origin, here

    def repository(self, artifact_uri: str):
        """Give MLflow's access to the files under an artifact URI of this store."""
        logging.getLogger("mlflow.store.artifact.artifact_repo").setLevel(logging.WARNING)
        return get_artifact_repository(artifact_uri, self.uri)

    def fetch(self, artifact_uri: str, folder: Path) -> Path:
        """Give a folder with all files under an artifact URI: the very one, or, of a server, `folder`."""
        repository = self.repository(artifact_uri)
        if isinstance(repository, LocalArtifactRepository):
            return Path(repository.artifact_dir)
        if not folder.exists():
            folder.mkdir(parents=True)
            repository.download_artifacts("", str(folder))
        return folder

    def models(self, run: Run) -> list[LoggedModel]:
        """Give the models that the run logged, and learn their origins."""
        where = f"source_run_id = '{run.info.run_id}'"
        found: dict[str, LoggedModel] = {}
        for model in pages(self.client.search_logged_models, [run.info.experiment_id], where):
            first = found.setdefault(model.tags.get(ORIGIN, model.model_id), model)
            if first is not model:  # a request whose answer was lost was sent again
                self.client.delete_logged_model(model.model_id)
        for origin, model in found.items():
            self.know(origin, model.model_id)
        return list(found.values())


def pages(search, *what, **how):
    """Give all that one of MLflow's searches finds, page after page."""
    page = search(*what, **how)
    yield from page
    while page.token:
        page = search(*what, **how, page_token=page.token)
        yield from page


def origin_of(run: Run) -> str:
    """Give the id that the run had first."""
    return run.data.tags.get(ORIGIN, run.info.run_id)


def away(sides: tuple[Side, Side]) -> offline.ServerAway | None:
    """Ask those of the sides that are servers, and give what says that one is away."""
    try:
        for uri in filter(offline.is_server, (side.uri for side in sides)):
            offline.ask(uri)
    except offline.ServerAway as gone:
        return gone
    return None


def each(sides: tuple[Side, Side], entries: dict, work: Callable, failed: dict[str, str]) -> Iterator[tuple]:
    """Do the work on each entry, a few at a time, and give (its name, result). What fails goes into `failed`.

    Raises ServerAway where that is why.
    """
    stop = threading.Event()

    def attempt(entry):
        if stop.is_set():
            return None, None
        try:
            return work(entry), None
        except ERRORS as error:
            if gone := away(sides):
                stop.set()
                raise gone from error
            return None, error

    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for name, (result, error) in zip(entries, pool.map(attempt, entries.values()), strict=True):
                if error:
                    failed[name] = provenance.mask(f"{error}".partition("\n")[0])
                elif not stop.is_set():
                    yield name, result
        finally:
            stop.set()  # also where whoever asked for the results goes no further
