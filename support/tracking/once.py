"""Begin a run once, also where a server's answer gets lost on its way.

    with once.start_run(experiment_id, "cnn", tags) as run:

MLflow's client asks again when no answer comes. For metrics, params and tags that is right: what is there
already stays as it is. For a new run it is not: the server may have made one, and makes another
(github.com/mlflow/mlflow/issues/8238). So a new run carries a name of its own, and before a second one is
asked for, the server is asked for the run of that name.
"""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import mlflow
from mlflow import ActiveRun, MlflowClient
from mlflow.exceptions import MlflowException

from support.tracking.store import database_of

START = "process.start"  # the tag with that name
RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"


def start_run(experiment_id: str, run_name: str | None, tags: dict[str, str]) -> ActiveRun:
    """Do what mlflow.start_run does for a new run, and make no more than one."""
    if database_of(mlflow.get_tracking_uri()):
        return mlflow.start_run(experiment_id=experiment_id, run_name=run_name, tags=tags)
    tags = tags | {START: uuid.uuid4().hex}
    try:
        with _asking_once():
            return mlflow.start_run(experiment_id=experiment_id, run_name=run_name, tags=tags)
    except MlflowException:
        # From here on MLflow asks again and again, as always, until the server is back or patience ends.
        made = MlflowClient().search_runs([experiment_id], f"tags.`{START}` = '{tags[START]}'")
        if made:
            return mlflow.start_run(made[0].info.run_id)
        return mlflow.start_run(experiment_id=experiment_id, run_name=run_name, tags=tags)


@contextmanager
def _asking_once() -> Iterator[None]:
    before = os.environ.get(RETRIES)
    os.environ[RETRIES] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[RETRIES]
        else:
            os.environ[RETRIES] = before
