"""Runs that say RUNNING though nobody works on them any more: a process that is killed cannot end its run.

Each run carries the host, the id and the start time of its process (see `provenance.process_tags`). A run is
a ghost only when this very host knows that the process is gone. Runs of other machines are left alone.
"""

import mlflow
import psutil
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from support.tracking import provenance

# Seconds. The clock that start times are told by may be set while a process runs; process ids do not come
# round again in so short a time.
CLOCK_SLACK = 10


def lay() -> list[str]:
    """Set the ghosts that one may end to KILLED and give their run ids. Call it under the store's lock."""
    here = f"attributes.status = 'RUNNING' and tags.`process.host` = '{provenance.host()}'"
    runs = mlflow.search_runs(search_all_experiments=True, filter_string=here, output_format="list")
    ghosts = []
    for run in filter(is_ghost, runs):
        try:
            MlflowClient().set_terminated(run.info.run_id, "KILLED")
        except MlflowException as error:  # on a server, of another member who shares this machine
            if error.error_code != "PERMISSION_DENIED":
                raise
        else:
            ghosts.append(run.info.run_id)
    return ghosts


def is_ghost(run: Run) -> bool:
    """Tell whether the run's process is known to be gone."""
    return run.info.status == "RUNNING" and is_gone(run.data.tags)


def is_gone(tags: dict[str, str]) -> bool:
    """Tell whether the process of these `provenance.process_tags` was one of this host and is gone."""
    if tags.get("process.host") != provenance.host():
        return False
    return not _alive(int(tags["process.pid"]), float(tags["process.started"]))


def _alive(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - started) < CLOCK_SLACK
    except psutil.NoSuchProcess:
        return False
