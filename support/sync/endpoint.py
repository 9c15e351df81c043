"""The two stores of a sync: MLflow's client of each, the ids that runs and models have in it, and its files.

source, target = Endpoint("sqlite:////home/ada/stores/mlflow.db"), Endpoint("https://team.example")

The id that a run or a model had first is its origin. A copy keeps it in a tag: a copy of a copy is known again.
"""

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote, unquote

import requests
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Run
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from support.tracking import database, remote
from support.tracking.orphans import PROCESS, host
from support.tracking.runs import ORIGIN
from support.tracking.store import database_of, store_lock

FROM = "support.sync.from"  # the store that the copy was made from
DIGEST = "support.sync.digest"  # of the run when its copy was complete; a copy without it is not
NOT_COPIED = ("support.sync.", PROCESS, remote.START)  # nobody works on a copy
THREADS = 4


class CopyError(RuntimeError):
    """A copy cannot be made, or is not equal to its run. Says in what."""


ERRORS = (MlflowException, requests.RequestException, OSError, ValueError, CopyError)


class Endpoint:
    """A store: its client, its files, and how its ids and those of the origins translate.

    `name` tells this store from others. `moved` are two URIs: of the folder that holds its files, as the store
    recorded it, and of the folder that holds them now.
    """

    def __init__(self, uri: str, name: str | None = None, moved: tuple[str, str] | None = None) -> None:
        self.uri, self.moved = uri, moved
        self.name = name or hashlib.sha256(f"{host()} {remote.without_login(uri)}".encode()).hexdigest()[:16]
        self.client = MlflowClient(uri, uri)
        self.lock = threading.Lock()  # for what MLflow cannot do twice at once
        self.origins: dict[str, str] = {}  # id here -> id of the origin, of runs and models
        self.ids: dict[str, str] = {}  # and back

    def learn(self, origin: str, here: str) -> None:
        """Keep that `here` is this store's id of what is called `origin`."""
        self.origins[here], self.ids[origin] = origin, here

    def models(self, run: Run) -> dict[str, list[LoggedModel]]:
        """Return origin -> models of that origin that the run logged, the one that counts first. Learn ids."""
        found: dict[str, list[LoggedModel]] = {}
        where = f"source_run_id = '{run.info.run_id}'"
        for model in pages(self.client.search_logged_models, [run.info.experiment_id], where):
            found.setdefault(model.tags.get(ORIGIN, model.model_id), []).append(model)
        for origin, same in found.items():
            same.sort(key=lambda model: (model.creation_timestamp, model.model_id))
            self.learn(origin, same[0].model_id)
        return found

    def sizes(self, artifact_uri: str, folder: str | None = None) -> dict[str, int]:
        """Return path -> bytes for the files under an artifact URI of this store, or in one of its folders."""
        found = {}
        for entry in self._repository(artifact_uri).list_artifacts(folder):
            # A server does not say of a file that it has 0 bytes.
            found |= self.sizes(artifact_uri, entry.path) if entry.is_dir else {entry.path: entry.file_size or 0}
        return found

    def fetch(self, artifact_uri: str, folder: Path) -> dict[str, Path]:
        """Return path -> local file for the files under an artifact URI; a server's come into `folder`."""
        repository, names = self._repository(artifact_uri), self.sizes(artifact_uri)
        if isinstance(repository, LocalArtifactRepository):
            return {name: Path(repository.artifact_dir, name) for name in names}
        files = {name: folder / name for name in names}
        for name, file in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            served = quote(name) if isinstance(repository, HttpArtifactRepository) else name
            Path(repository.download_artifacts(served, str(folder))).replace(file)
        return files

    def upload(self, artifact_uri: str, files: dict[str, Path]) -> None:
        """Write files, path -> local file. Raise CopyError for a name that the store cannot keep."""
        repository = self._repository(artifact_uri)
        served = isinstance(repository, HttpArtifactRepository)
        for name, file in files.items():
            folder, base = os.path.split(name)
            if served and ("#" in name or unquote(name) != name):  # MLflow 3.17 refuses the one, unquotes the other
                raise CopyError(f"an MLflow server keeps no file named {name!r}: rename it, without # and %")
            with TemporaryDirectory() as aside:
                if served and "?" in name:  # its client asks for names as they are, and this would end the path
                    folder, link = quote(folder), Path(aside, quote(base))
                    link.symlink_to(file.absolute())
                    file = link
                repository.log_artifact(str(file), folder or None)

    def _repository(self, artifact_uri: str):
        logging.getLogger("mlflow.store.artifact.artifact_repo").setLevel(logging.WARNING)
        if self.moved:
            artifact_uri = self.moved[1] + artifact_uri.removeprefix(self.moved[0])
        return get_artifact_repository(artifact_uri, self.uri)


def open_store(uri: str) -> Endpoint:
    """Return the endpoint of a store. One that is SQLite is made first, or brought up to date."""
    path = database_of(uri)
    with store_lock(uri):
        if path:
            database.prepare(path)
        endpoint = Endpoint(uri)
        if path:
            database.follow_move(path)  # a new store's first experiment would keep its files elsewhere
    return endpoint


def pages(search: Callable, *args, **kwargs) -> Iterator:
    """Yield all that one of MLflow's searches finds, page after page."""
    page = search(*args, **kwargs)
    yield from page
    while page.token:
        page = search(*args, **kwargs, page_token=page.token)
        yield from page


def origin_of(run: Run) -> str:
    """Return the id that the run had first."""
    return run.data.tags.get(ORIGIN, run.info.run_id)


def reason(error: Exception) -> str:
    """Return an error's first line, at most 300 characters of it, without a password."""
    return remote.without_login(str(error).partition("\n")[0])[:300]


def server_away(endpoints: Iterable[Endpoint]) -> remote.ServerAway | None:
    """Ask those of the endpoints that are servers. Return what says that one is away, or None."""
    try:
        for endpoint in endpoints:
            if remote.is_server(endpoint.uri):
                remote.ask(endpoint.uri)
    except remote.ServerAway as away:
        return away


def each(endpoints: Iterable[Endpoint], entries: dict, work: Callable, failed: dict[str, str]) -> Iterator[tuple]:
    """Do the work on each entry, a few at a time, and yield (its name, the result).

    What fails goes into `failed`, with its reason. Raise ServerAway where that is why. A server is waited for
    most of the time: four threads copy to it in less than half the time of one.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        results = {name: pool.submit(work, entry) for name, entry in entries.items()}
        try:
            for name, result in results.items():
                try:
                    yield name, result.result()
                except ERRORS as error:
                    if away := server_away(endpoints):
                        raise away from None
                    failed[name] = reason(error)
        finally:
            pool.shutdown(cancel_futures=True)  # also where whoever asked for the results goes no further
