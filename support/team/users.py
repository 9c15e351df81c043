"""Users and rights on a server with MLflow's authentication app, for whoever is logged in and may."""

import os
import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import mlflow
from mlflow.exceptions import MlflowException

from support.dashboard.checks import Secret
from support.tracking import store


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
            store.connect()
            yield
        finally:
            mlflow.set_tracking_uri(uri)
            for name in before:
                os.environ.pop(name, None)
            os.environ.update({name: value for name, value in before.items() if value is not None})


def member(url: str, name: str, password: str | None = None) -> Member:
    """Return a member with this password, or a new one. The server has to be told: see `add_user`."""
    return Member(
        name,
        {
            "MLFLOW_TRACKING_URI": url,
            "MLFLOW_TRACKING_USERNAME": name,
            "MLFLOW_TRACKING_PASSWORD": Secret(password or secrets.token_urlsafe(24)),
        },
    )


def client():
    """Return MLflow's own client of its authentication app, for the current server and login."""
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
    it: the grant is theirs, or an admin's. Raise TeamError where it is refused, and for one's own rights.
    """
    with _right(name, experiment) as (rights, what):
        try:
            rights.grant_user_permission(*what, permission)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            rights.revoke_user_permission(*what)  # there is no call that replaces a right
            rights.grant_user_permission(*what, permission)


def revoke(name: str, experiment: str) -> None:
    """Take a user's right to an experiment away again. Raise TeamError where it is refused."""
    with _right(name, experiment) as (rights, what):
        rights.revoke_user_permission(*what)


@contextmanager
def _right(name: str, experiment: str) -> Iterator[tuple]:
    """Yield MLflow's client, and what it calls this right. Raise TeamError for what it refuses."""
    if name == os.environ.get("MLFLOW_TRACKING_USERNAME"):
        raise TeamError(f"{name!r} is you: somebody else who may MANAGE {experiment!r} has to do this.")
    if (found := mlflow.get_experiment_by_name(experiment)) is None:
        raise TeamError(f"There is no experiment {experiment!r}.")
    try:
        yield client(), (name, "experiment", found.experiment_id)
    except MlflowException as error:
        raise TeamError(f"This right cannot be changed: {error.message}") from error
