"""A team's MLflow server on this machine, with PostgreSQL, users and rights: as deploy/compose.yaml runs it.

    with team.open() as server, server.admin.logged_in():
        ada = team.add_user("ada")
        team.grant("ada", "baselines", "EDIT")

What a member sets is in `ada.environment`: MLFLOW_TRACKING_URI, a user and a password. `add_user`, `grant`
and `revoke` work against any server with MLflow's authentication app, for whoever is logged in and may.
What it does not do: listen to other machines. For that there is deploy/.
"""

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
import psutil
import yaml
from mlflow.exceptions import MlflowException

from support.tracking import training_run as tracking
from support.dashboard.contact import OF_ITS_OWN, ROOT, tell
from support.team.keeper import sweep
from support.tracking.remote import ServerRefuses
from support.dashboard.checks import Secret

COMPOSE = ROOT / "deploy" / "compose.yaml"
PERMISSIONS = ("READ", "EDIT", "MANAGE")
LIBPQ = {"host", "port", "user", "password", "dbname", "sslmode", "sslrootcert"}  # of the reader's own URI


class TeamError(RuntimeError):
    """The server, a user or a right cannot be had. Says why and what to do."""


@dataclass(frozen=True)
class Member:
    """A user of the server. `environment` is all that the member sets."""

    name: str
    environment: dict[str, str] = field(repr=False)

    @contextmanager
    def logged_in(self) -> Iterator[None]:
        """Be this member in this process for a block, connected to the server; then be who one was before."""
        before, uri = {name: os.environ.get(name) for name in self.environment}, mlflow.get_tracking_uri()
        os.environ.update(self.environment)
        try:
            tracking.connect()
            yield
        finally:
            mlflow.set_tracking_uri(uri)
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


class Server:
    """A running server: where it is, who may do everything there, and how to end it. Made by `open`."""

    def __init__(self, url: str, admin: Member, folder: Path, keeper: subprocess.Popen) -> None:
        self.url, self.admin, self.folder, self._keeper = url, admin, folder, keeper

    def __repr__(self) -> str:
        return f"A team's server at {self.url}, for this machine only."

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """End the server, and remove its folder with the database in it. Closing twice is fine."""
        self._keeper.stdin.close()
        self._keeper.wait()
        self._keeper.stdout.close()


def open(postgres_uri: str | None = None, artifacts: str | None = None) -> Server:
    """Start PostgreSQL and MLflow's server with its authentication app, for as long as this process lives.

    It listens to this machine only. All that it keeps goes with it, unless the database is the reader's own
    (`postgres_uri`, such as postgresql://user:password@host/name) or the artifacts are (`artifacts`, such as
    s3://bucket, with MLFLOW_S3_ENDPOINT_URL and AWS_* in the environment). The admin's password is that of
    MLFLOW_AUTH_ADMIN_PASSWORD, or made anew. Raises TeamError when the server does not start.
    """
    database = {} if postgres_uri is None else libpq(postgres_uri)
    folder = Path(tempfile.mkdtemp(prefix="team-"))
    (folder / "server").mkdir(mode=0o700)  # PostgreSQL makes a folder of its own, and opens the one above
    if postgres_uri is None:
        database = {"PGHOST": str(folder / "postgres"), "PGUSER": "postgres", "PGDATABASE": "postgres"}
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    admin = member(url, "admin", os.environ.get("MLFLOW_AUTH_ADMIN_PASSWORD"))
    command, environment = service()
    environment |= database | {
        "MLFLOW_HOST": "127.0.0.1",
        "MLFLOW_PORT": str(port),
        "MLFLOW_WORKERS": os.environ.get("MLFLOW_WORKERS", "1"),  # each takes a core, and seconds to start
        "MLFLOW_SERVER_ALLOWED_HOSTS": f"127.0.0.1:{port},localhost:{port}",
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": f"{url},http://localhost:{port}",
        "MLFLOW_ARTIFACTS_DESTINATION": artifacts or (folder / "server" / "artifacts").as_uri(),
        "MLFLOW_AUTH_CONFIG_PATH": str(COMPOSE.with_name("basic_auth.ini")),
        "MLFLOW_AUTH_ADMIN_PASSWORD": admin.environment["MLFLOW_TRACKING_PASSWORD"],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
    }
    keeper = subprocess.Popen(
        [sys.executable, "-m", "support.team.keeper"],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_TRACKING_")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        **OF_ITS_OWN,
    )
    server = Server(url, admin, folder, keeper)
    owner = {"pid": os.getpid(), "started": psutil.Process().create_time()}
    config = {"folder": str(folder), "owner": owner, "command": command, "environment": environment}
    try:
        tell(keeper, {**config, "postgres": postgres_uri is None})
        said = json.loads(keeper.stdout.readline() or '{"error": "its keeper died."}')
        if "error" in said:
            raise TeamError(f"The server cannot be started: {said['error']}")
        prove(admin)
    except BaseException:  # an interrupt too: leave nothing half open
        server.close()
        sweep(folder)  # a keeper that died at once could not
        raise
    return server


def service() -> tuple[list[str], dict[str, str]]:
    """Give the command and settings of MLflow's server in deploy/compose.yaml, less those of its place."""
    compose = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    program, *arguments = compose["services"]["mlflow"]["command"]
    settings = compose["services"]["mlflow"]["environment"]
    of_its_place = re.compile(r"(?!MLFLOW_)|MLFLOW_S3_")
    kept = {k: v for k, v in settings.items() if not of_its_place.match(k) and "$" not in v}
    return [sys.executable, "-m", program, *arguments], kept


def libpq(uri: str) -> dict[str, str]:
    """Give a PostgreSQL URI as the variables of its client library, which are on no command line.

    Raises TeamError where no database answers there; MLflow itself would ask for two minutes.
    """
    import psycopg2
    from psycopg2.extensions import parse_dsn

    try:
        parts = parse_dsn(uri)
        psycopg2.connect(uri, connect_timeout=5).close()
    except psycopg2.ProgrammingError as error:
        raise TeamError("postgres_uri is no address such as postgresql://user:password@host/name.") from error
    except psycopg2.OperationalError as error:
        raise TeamError(f"The database of postgres_uri does not answer: {error}") from error
    if unknown := sorted(set(parts) - LIBPQ):
        raise TeamError(f"postgres_uri has {', '.join(unknown)}; known are {', '.join(sorted(LIBPQ))}.")
    return {"PGDATABASE" if name == "dbname" else f"PG{name.upper()}": value for name, value in parts.items()}


def free_port() -> int:
    """Give a port of this machine that is free: any, since two that open at once would both like the same."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def member(url: str, name: str, password: str | None = None) -> Member:
    """Give a member with this password, or a new one. The server has to be told, see `add_user`."""
    return Member(
        name,
        {
            "MLFLOW_TRACKING_URI": url,
            "MLFLOW_TRACKING_USERNAME": name,
            "MLFLOW_TRACKING_PASSWORD": Secret(password or secrets.token_urlsafe(24)),
        },
    )


def prove(admin: Member) -> None:
    """Make sure that the admin may log in: a database that has users already keeps their passwords."""
    try:
        with admin.logged_in():
            pass
    except ServerRefuses as error:
        raise TeamError(
            "The database has its users already, and its admin another password. "
            "Set MLFLOW_AUTH_ADMIN_PASSWORD to that one."
        ) from error


def client():
    """Give MLflow's own client of its authentication app, for the current server and login."""
    with warnings.catch_warnings():
        # With the client MLflow imports its server, which uses a part of Starlette that will go some day.
        warnings.filterwarnings("ignore", message="starlette.middleware.wsgi is deprecated")
        from mlflow.server import get_app_client

        return get_app_client("basic-auth", mlflow.get_tracking_uri())


def add_user(name: str, password: str | None = None) -> Member:
    """Make a user who may do nothing yet but make experiments of their own. Only an admin may."""
    new = member(mlflow.get_tracking_uri(), name, password)
    try:
        client().create_user(name, new.environment["MLFLOW_TRACKING_PASSWORD"])
    except MlflowException as error:
        raise TeamError(f"The user {name!r} cannot be made: {error.message}") from error
    return new


def grant(name: str, experiment: str, permission: str) -> None:
    """Let a user READ an experiment, EDIT it (log to it too) or MANAGE it (delete, and grant rights too).

    It replaces the right that the user has. Whoever makes an experiment may MANAGE it, and nobody else sees
    it: the grant is theirs, or an admin's. Raises TeamError where it is refused, and for one's own rights.
    """
    if permission not in PERMISSIONS:
        raise TeamError(f"The permission is one of {', '.join(PERMISSIONS)}, and {permission!r} is not.")
    _change(name, experiment, permission)


def revoke(name: str, experiment: str) -> None:
    """Take a user's right to an experiment away again."""
    _change(name, experiment, None)


def _change(name: str, experiment: str, permission: str | None) -> None:
    if name == os.environ.get("MLFLOW_TRACKING_USERNAME"):
        raise TeamError(f"{name!r} is you: somebody else who may MANAGE {experiment!r} has to do this.")
    rights, what = client(), (name, "experiment", _id_of(experiment))
    try:
        if permission is None:
            return rights.revoke_user_permission(*what)
        try:
            rights.grant_user_permission(*what, permission)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            rights.revoke_user_permission(*what)  # there is no call that replaces a right
            rights.grant_user_permission(*what, permission)
    except MlflowException as error:
        raise TeamError(f"This right cannot be changed: {error.message}") from error


def _id_of(experiment: str) -> str:
    found = mlflow.get_experiment_by_name(experiment)
    if found is None:
        raise TeamError(f"There is no experiment {experiment!r}.")
    return found.experiment_id
