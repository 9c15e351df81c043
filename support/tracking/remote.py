"""A team's server: whether it is there, and a run begun once. While it is away, runs go into the store here.

remote.ask("https://team.example")      # None, or ServerAway, or ServerRefuses
remote.uri_or_local(given, local)       # the server's address, or, while it is away, the local store's

A server that goes away later is waited for by MLflow itself, which asks again and again, up to half a minute.
`sync.sync()` brings the runs to the server when it is back.
"""

import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import mlflow
from mlflow import ActiveRun, MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

CONNECT, ANSWER = 4, 15  # seconds: to reach the server, and for its answer to a small question
RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
# MLflow would ask a lost server for minutes. This is 2 + 4 + 8 + 16 seconds: longer than a restart takes.
PATIENCE = {RETRIES: "5", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
START = "support.start"  # the tag by which a new run is known, see start_run
LOOPBACK = ("127.0.0.1", "localhost")


class ServerAway(ConnectionError):
    """The server cannot be reached, or answers that it is not well."""


class ServerRefuses(PermissionError):
    """The server is there and does not let this user in. Says what to set."""


def is_server(uri: str) -> bool:
    """Return whether a tracking URI is a server's."""
    return urlsplit(uri).scheme in ("http", "https")


def name_of(uri: str) -> str:
    """Return a server's address without the user and the password that may be in it."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def ask(uri: str) -> None:
    """Ask a server once, as the user of the environment. Raise ServerAway, ServerRefuses or ValueError.

    The user is MLflow's: MLFLOW_TRACKING_USERNAME with MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN.
    """
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    name = name_of(uri)
    try:
        response = http_request(
            get_default_host_creds(uri),
            "/api/2.0/mlflow/experiments/search",
            "POST",
            json={"max_results": 1},
            max_retries=0,
            timeout=(CONNECT, ANSWER),
            raise_on_status=False,
        )
    except MlflowException as error:
        raise ServerAway(f"The server {name} is away: nothing answers there.") from error
    if response.status_code in (401, 403):
        raise ServerRefuses(
            f"The server {name} answers {response.status_code}: it does not know this user. Set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN."
        )
    if response.status_code >= 500:
        raise ServerAway(f"The server {name} is away: it answers {response.status_code}.")
    if response.status_code != 200:
        raise ValueError(f"{name} answers {response.status_code}: that is no MLflow server. See MLFLOW_TRACKING_URI.")


def is_away(uri: str) -> bool:
    """Return whether the URI is a server's and the server is away. Raise what `ask` raises else."""
    if not is_server(uri):
        return False
    try:
        ask(uri)
    except ServerAway:
        return True
    return False


def uri_or_local(given: str | None, local: str) -> str:
    """Return the URI to log to: `given` where one is given and not a server that is away, else `local`."""
    if not given or not is_server(given):
        return given or local
    try:
        ask(given)
    except ServerAway as error:
        print(f"{error} Runs go into the store on this machine; sync.sync() brings them to the server later.")
        return local
    return given


def server_of_environment() -> str | None:
    """Return the server that MLFLOW_TRACKING_URI names, or None."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    return uri if is_server(uri) else None


def without_login(text: str) -> str:
    """Return the text without the user and password that an address in it may hold."""
    return re.sub(r"(?<=://)[^\s/]+@", "", text)


def no_proxy_for_this_machine() -> None:
    """Let requests to this machine go through no proxy: it would look for the server on itself."""
    if not any(os.environ.get(name) for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")):
        return
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join(dict.fromkeys([*hosts, *LOOPBACK]))


def start_run(**given) -> ActiveRun:
    """Return what mlflow.start_run returns for a new run, and make no more than one.

    MLflow's client asks again when no answer comes. For metrics, params and tags that is right: what is there
    already stays as it is. For a new run it is not: the server may have made one, and makes another
    (github.com/mlflow/mlflow/issues/8238). So a new run carries a tag of its own, and before a second one is
    asked for, the server is asked for the run with that tag.
    """
    if not is_server(mlflow.get_tracking_uri()):
        return mlflow.start_run(**given)
    begun = uuid.uuid4().hex
    given["tags"] = {**given.get("tags", {}), START: begun}
    try:
        with _asking_once():
            return mlflow.start_run(**given)
    except MlflowException:
        # From here on MLflow asks again and again, as always, until the server is back or patience ends.
        experiment_id = given.get("experiment_id")
        places = [experiment_id] if experiment_id else [e.experiment_id for e in mlflow.search_experiments()]
        made = MlflowClient().search_runs(places, f"tags.`{START}` = '{begun}'")
        return mlflow.start_run(made[0].info.run_id) if made else mlflow.start_run(**given)


def log_dataset(log: Callable[[], None]) -> None:
    """Log a dataset by this call, and again where another process has just logged the same one.

    MLflow (3.17) looks for a dataset and inserts it when there is none: of two that do so at once, one breaks the
    UNIQUE constraint. Who tries again finds the dataset.
    """
    for last in (False, False, True):
        try:
            return log()
        except MlflowException as error:
            if last or not re.search("unique|duplicate", str(error), re.IGNORECASE):
                raise


@contextmanager
def _asking_once() -> Iterator[None]:
    before, os.environ[RETRIES] = os.environ.get(RETRIES), "0"
    try:
        yield
    finally:
        del os.environ[RETRIES]
        os.environ.update({RETRIES: before} if before else {})
