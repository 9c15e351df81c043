"""Start a team's server for as long as this notebook lives: PostgreSQL, and MLflow as deploy/compose.yaml runs it.

A process of its own, `support.team.processes`, runs both and ends them when the notebook's lease is over. If
that one is killed, this process cleans up in its place; if both are, the next `open` removes what is left.
"""

import os
import re
import secrets
import subprocess
import sys
import tempfile
import threading
from contextlib import AbstractContextManager
from pathlib import Path

import yaml

from support.config import PROJECT_DIR
from support.dashboard import launch, lease
from support.team.processes import START_TIMEOUT, remove
from support.team.users import Member, TeamError, member
from support.tracking import orphans, remote

COMPOSE = PROJECT_DIR / "deploy" / "compose.yaml"
LIBPQ = {"host", "port", "user", "password", "dbname", "sslmode", "sslrootcert"}  # of the reader's own URI


class Server(AbstractContextManager):
    """A running server: where it is, who may do everything there, and how to end it. Made by `open`."""

    def __init__(self, url: str, admin: Member, folder: Path, process: subprocess.Popen) -> None:
        self.url, self.admin, self.folder, self._process = url, admin, folder, process
        self._end = threading.Thread(target=self._clean_up, daemon=True)
        self._end.start()

    def __repr__(self) -> str:
        return f"A team's server at {self.url}, for this machine only."

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """End the server, and remove its folder with the database in it. Closing twice is fine."""
        if self.folder.exists():
            lease.write(self.folder / "server" / "leases", seconds=0)
        self._end.join()

    def _clean_up(self) -> None:
        self._process.wait()
        remove(self.folder)  # as the process did, unless it was killed


def open(postgres_uri: str | None = None, artifacts: str | None = None) -> Server:
    """Start PostgreSQL and MLflow's server with its authentication app, and return the server.

    It listens to this machine only. All that it keeps goes with it, unless the database is the reader's own
    (`postgres_uri`, such as postgresql://user:password@host/name) or the artifacts are (`artifacts`, such as
    s3://bucket, with MLFLOW_S3_ENDPOINT_URL and AWS_* in the environment). The admin's password is that of
    MLFLOW_AUTH_ADMIN_PASSWORD, or made anew. Raise TeamError when the server does not start.
    """
    remote.no_proxy_for_this_machine()
    remove_leftovers()
    command, settings = service()
    database = {} if postgres_uri is None else libpq(postgres_uri)
    folder = Path(tempfile.mkdtemp(prefix="team-"))
    (folder / "server").mkdir(mode=0o700)  # PostgreSQL makes a folder of its own, and opens the one above
    if postgres_uri is None:
        database = {"PGHOST": str(folder / "postgres"), "PGUSER": "postgres", "PGDATABASE": "postgres"}
    port = launch.free_port()
    url = f"http://127.0.0.1:{port}"
    admin = member(url, "admin", os.environ.get("MLFLOW_AUTH_ADMIN_PASSWORD"))
    settings |= database | {
        "MLFLOW_HOST": "127.0.0.1",
        "MLFLOW_PORT": str(port),
        "MLFLOW_WORKERS": os.environ.get("MLFLOW_WORKERS", "1"),  # each takes a core, and seconds to start
        "MLFLOW_SERVER_ALLOWED_HOSTS": f"127.0.0.1:{port},localhost:{port}",
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": f"{url},http://localhost:{port}",
        "MLFLOW_ARTIFACTS_DESTINATION": artifacts or (folder / "server" / "artifacts").as_uri(),
        "MLFLOW_AUTH_CONFIG_PATH": str(COMPOSE.with_name("basic_auth.ini")),
        "MLFLOW_AUTH_ADMIN_PASSWORD": admin.environment["MLFLOW_TRACKING_PASSWORD"],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(COMPOSE.parent), os.environ.get("PYTHONPATH")])),
    }
    told = {"folder": str(folder), "notebook": orphans.this_process(), "command": command, "settings": settings}
    own = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_TRACKING_")}
    watch, log = [sys.executable, "-m", "support.team.processes"], folder / "server" / "server.log"
    lease.write(folder / "server" / "leases")
    try:
        told["postgres"] = postgres_uri is None
        process, _ = launch.start_process(watch, told, log, START_TIMEOUT, own)
    except BaseException as error:  # an interrupt too: leave nothing half open
        remove(folder)
        if isinstance(error, launch.DashboardError):
            raise TeamError(str(error)) from error
        raise
    server = Server(url, admin, folder, process)
    try:
        with admin.logged_in():
            return server
    except BaseException as error:
        server.close()
        if isinstance(error, remote.ServerRefuses):
            raise TeamError(
                "The database has its users already, and its admin another password. "
                "Set MLFLOW_AUTH_ADMIN_PASSWORD to that one."
            ) from error
        raise


def remove_leftovers() -> None:
    """Remove the folders of notebooks that were killed together with their server's process."""
    for path in Path(tempfile.gettempdir()).glob("team-*/server/leases/*.json"):
        if os.access(path, os.R_OK) and orphans.is_gone(str(lease.read(path).get("process"))):
            remove(path.parents[2])


def service() -> tuple[list[str], dict[str, str]]:
    """Return the command and settings of MLflow's server in deploy/compose.yaml, less those of its place."""
    if not COMPOSE.exists():
        raise TeamError("A team's server needs deploy/, which only the project's folder has: clone it, and work there.")
    compose = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    program, *arguments = compose["services"]["mlflow"]["command"]
    settings = compose["services"]["mlflow"]["environment"]
    of_its_place = re.compile(r"(?!MLFLOW_)|MLFLOW_S3_")
    kept = {k: v for k, v in settings.items() if not of_its_place.match(k) and "$" not in v}
    return [sys.executable, "-m", program, *arguments], kept


def libpq(uri: str) -> dict[str, str]:
    """Return a PostgreSQL URI as the variables of its client library, which are on no command line.

    Raise TeamError where no database answers there; MLflow itself would ask for two minutes.
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
