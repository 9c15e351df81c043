"""The store: one folder for runs, artifacts and data, or a team's server.

uri = connect()                       # points MLflow at it
experiment_id = set_experiment("baselines")
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from support import config
from support.tracking import database, orphans, remote
from support.tracking.database import SQLITE, StoreError

EXPERIMENT = "baselines"
ABOUT = "Which model tags texts best? `val_f1` chooses, and `f1` of the test split is what is reported."
LEAST_SPACE = 5_000_000  # bytes: a new database takes one million, and its journal too
ELSEWHERE = "Free some space, or set STORES_DIR to a folder elsewhere."
SCHEMES = ("http", "https", "postgresql", "mysql", "mssql", "databricks")  # beside sqlite:///
QUIET_WAIT = 2  # seconds for another process to be done with the store, before a word is said of it
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "2",  # seconds; MLflow's 10 leave a short run without any
    "MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING": "1",
}
_connected: list[str] = []  # the store that this process was connected to last


def connect(stores_dir: str | os.PathLike | None = None) -> str:
    """Point MLflow at the store and return its tracking URI.

    MLFLOW_TRACKING_URI wins when it is set: a team's server. Otherwise, and while that server is away, the
    store is SQLite, `mlflow.db` in the stores folder, made on first use, once even when several processes
    start together. A store that was moved is told where it is now, and runs of dead processes are set to
    KILLED. MLflow sends no telemetry from here on, and requests to this machine go through no proxy.
    Raise StoreError where the store cannot be opened, ServerRefuses where the server does not let this user
    in, and ValueError where a variable of the environment names no store.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    mlflow.telemetry.set_telemetry_client()
    remote.no_proxy_for_this_machine()
    given = _given_uri()
    uri = remote.uri_or_local(given, local_uri(stores_dir))
    if _connected and _connected[0] != uri:
        database.forget_experiment()
        os.environ.pop("MLFLOW_EXPERIMENT_ID", None)  # MLflow wrote it there for the other store
    _connected[:] = [uri]
    mlflow.set_tracking_uri(uri)
    # MLflow writes it there too, where the next call would take it for the user's own choice.
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    if given:
        os.environ["MLFLOW_TRACKING_URI"] = given
    path = database_of(uri)
    if path:
        _check_writable(path)
    with store_lock(uri):
        if path:
            database.prepare(path)
            database.plan_for_many_runs(path)
            if database.follow_move(path):
                database.forget(uri)
        MlflowClient().search_experiments(max_results=1)
        orphans.end_orphans()
        _remove_checkpoints_of_finished_runs()
    return uri


def set_experiment(name: str = EXPERIMENT) -> str:
    """Make the experiment the current one, create it if need be, and return its id."""
    experiment_id = experiment_id_of(name)
    mlflow.set_experiment(experiment_id=experiment_id)
    return experiment_id


def experiment_id_of(name: str) -> str:
    """Return the id of the experiment, made if need be. Raise StoreError for one that lies in the trash."""
    uri = mlflow.get_tracking_uri()
    with store_lock(uri):
        found = find_experiment(name)
        if found is None:
            try:
                return mlflow.create_experiment(
                    name,
                    artifact_location=artifact_location(uri),
                    tags={
                        "mlflow.experimentKind": "custom_model_development",  # the UI's training view
                        **({"mlflow.note.content": ABOUT} if name == EXPERIMENT else {}),
                    },
                )
            except MlflowException as error:  # another member of the team was faster
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = find_experiment(name)
    if found.lifecycle_stage == "deleted":
        raise StoreError(
            f"The experiment {name!r} was deleted. Bring it back with "
            f"mlflow.MlflowClient().restore_experiment({found.experiment_id!r}), or use another name."
        )
    return found.experiment_id


def find_experiment(name: str):
    """Return the experiment, None where there is none. Raise ServerRefuses where it is somebody else's."""
    try:
        return mlflow.get_experiment_by_name(name)
    except MlflowException as error:
        if error.error_code != "PERMISSION_DENIED":
            raise
        raise remote.ServerRefuses(
            f"The experiment {name!r} is somebody else's on this server. Use another name, or ask for the "
            "right to it: its owner calls team.grant."
        ) from error


def local_uri(path: str | os.PathLike | None = None) -> str:
    """Return the tracking URI of the store in a stores folder, found as `config.stores_dir` finds it."""
    folder = config.stores_dir(path)
    if strange := sorted(set(folder.as_posix()) & set("?#%")):
        raise StoreError(
            f"The stores folder {folder} has {' and '.join(strange)} in its name, which means something else in "
            "an address of MLflow's. Rename it, or set STORES_DIR to another folder."
        )
    return f"{SQLITE}{(folder / 'mlflow.db').as_posix()}"


def database_of(uri: str) -> Path | None:
    """Return the file behind a SQLite tracking URI, or None for a server."""
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


def connected_folder() -> Path | None:
    """Return the stores folder that this process is connected to; None before `connect`, and for a server."""
    path = database_of(_connected[0]) if _connected == [mlflow.get_tracking_uri()] else None
    return path.parent if path and path.name == "mlflow.db" else None


def artifact_location(uri: str) -> str | None:
    """Return where a new experiment keeps its files; None for a server, which decides itself.

    Without a location of its own, they would land in the folder that one happens to be in.
    """
    path = database_of(uri)
    return (path.parent / "artifacts").as_uri() if path else None


def checkpoints_folder() -> Path:
    """Return where runs keep their state while they train: beside the store, or in stores/ for a server's."""
    path = database_of(mlflow.get_tracking_uri())
    return (path.parent if path else config.stores_dir()) / "checkpoints"


@contextmanager
def store_lock(uri: str) -> Iterator[None]:
    """Let one process at a time change a SQLite store; a server sees to that by itself."""
    path = database_of(uri)
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{path}.lock", is_singleton=True)  # who has it may ask for it again
    try:
        try:
            held = lock.acquire(QUIET_WAIT)
        except Timeout:
            print(f"Another process is at work in the store {path.parent.name}/: waiting until it is done ...")
            held = lock.acquire()
    except PermissionError as error:
        raise StoreError(
            f"{path}.lock belongs to another user. Set STORES_DIR to a folder of your own, or ask its owner."
        ) from error
    with held:
        yield


def _given_uri() -> str | None:
    """Return MLFLOW_TRACKING_URI as it is meant. Raise ValueError where it, or its sibling, means nothing."""
    registry = os.environ.get("MLFLOW_REGISTRY_URI", "")
    if registry.startswith("databricks"):
        raise ValueError(
            f"MLFLOW_REGISTRY_URI is {registry!r}: models would be registered there, away from their runs. Unset it."
        )
    given = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not given:
        return None
    if given.startswith(SQLITE) and not given.endswith(":memory:"):  # it may be relative to the folder one is in
        return f"{SQLITE}{Path(given.removeprefix(SQLITE)).resolve().as_posix()}"
    scheme = urlsplit(given).scheme
    if scheme == "file" or given.startswith(("/", ".")):
        raise ValueError(
            f"MLFLOW_TRACKING_URI is {given!r}, a folder, which MLflow no longer writes to. Unset it, and set "
            "STORES_DIR to the folder instead."
        )
    if "://" not in given and given != "databricks":
        raise ValueError(
            f"MLFLOW_TRACKING_URI is {remote.without_login(given)!r}, which is no address. Write "
            f"http://{remote.without_login(given)}, or unset it to use the store on this machine."
        )
    known = given == "databricks" or scheme.partition("+")[0] in SCHEMES
    if not known or (remote.is_server(given) and not urlsplit(given).hostname):
        raise ValueError(
            f"MLFLOW_TRACKING_URI is {remote.without_login(given)!r}, which is the address of no store. Write one such "
            "as https://team.example or sqlite:///mlflow.db, or unset it to use the store on this machine."
        )
    return given


def _check_writable(path: Path) -> None:
    """Make the folder of a database if need be. Raise StoreError where it, or the file, cannot be written."""
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"The stores folder {folder} cannot be made: {error}. {ELSEWHERE}") from error
    for place in (folder, path):
        if place.exists() and not os.access(place, os.W_OK):
            raise StoreError(f"{place} is read-only. Allow writing, or set STORES_DIR to a folder elsewhere.")
    free = shutil.disk_usage(folder).free
    if free < LEAST_SPACE:
        raise StoreError(f"Only {free / 1e6:.1f} MB are free for the stores folder {folder}. {ELSEWHERE}")


def _remove_checkpoints_of_finished_runs() -> None:
    """Remove what a process leaves that is killed in a run's last moment."""
    for path in checkpoints_folder().glob("*.*"):
        try:
            finished = mlflow.get_run(path.stem).info.status == "FINISHED"
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "PERMISSION_DENIED"):
                raise
            finished = False  # a run of another store, a server's say, that keeps its checkpoints here too
        if finished:
            path.unlink(missing_ok=True)
