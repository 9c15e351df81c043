"""Whether a team's server is there. While it is away, runs go into the store on this machine, and say so.

offline.ask("https://team.example")      # None, or ServerAway, or ServerRefuses
offline.uri_or_local(given, local)       # the server's address, or, while it is away, the local store's

A server that goes away later is waited for by MLflow itself, which asks again and again, up to half a minute.
`sync.sync()` brings the runs to the server when it is back.
"""

import os
from urllib.parse import urlsplit

from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

CONNECT, ANSWER = 4, 15  # seconds: to reach the server, and for its answer to a small question
# MLflow would ask a lost server for minutes. This is 2 + 4 + 8 + 16 seconds: longer than a restart takes.
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


class ServerAway(ConnectionError):
    """The server cannot be reached, or answers that it is not well."""


class ServerRefuses(PermissionError):
    """The server is there and does not let this user in. Says what to set."""


def is_server(uri: str) -> bool:
    """Tell whether a tracking URI is a server's."""
    return urlsplit(uri).scheme in ("http", "https")


def name_of(uri: str) -> str:
    """Give a server's address without the user and the password that may be in it."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def ask(uri: str) -> None:
    """Ask a server once, as the user of the environment. Raises ServerAway, ServerRefuses or ValueError.

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
        raise ValueError(
            f"{name} answers {response.status_code}: that is no MLflow server. See MLFLOW_TRACKING_URI."
        )


def is_away(uri: str) -> bool:
    """Tell whether the URI is a server's and the server is away. Raises what `ask` raises else."""
    if not is_server(uri):
        return False
    try:
        ask(uri)
    except ServerAway:
        return True
    return False


def uri_or_local(given: str | None, local: str) -> str:
    """Give the URI to log to: `given` where one is given and not a server that is away, else `local`."""
    if not given or not is_server(given):
        return given or local
    try:
        ask(given)
    except ServerAway as error:
        print(f"{error} Runs go into the store on this machine; sync.sync() brings them to the server later.")
        return local
    return given


def server_of_environment() -> str | None:
    """Give the server that MLFLOW_TRACKING_URI names, or None."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    return uri if is_server(uri) else None
