"""Runs that say RUNNING though nobody works on them any more: a process that is killed cannot end its run.

Each run carries the host, the id and the start time of its process (see `provenance.process_tags`). A run is
a ghost only when this very host knows that the process is gone. Runs of other machines are left alone.
"""

import mlflow
import psutil
from mlflow import MlflowClient
from mlflow.entities import Run

from support import provenance

# Seconds. The clock that start times are told by may be set while a process runs; process ids do not come
# round again in so short a time.
CLOCK_SLACK = 10


def lay() -> list[str]:
    """Set the ghosts in the store to KILLED and give their run ids. Call it under the store's lock."""
    client = MlflowClient()
    experiments = [experiment.experiment_id for experiment in mlflow.search_experiments()]
    here = f"attributes.status = 'RUNNING' and tags.`process.host` = '{provenance.host()}'"
    page = client.search_runs(experiments, here)
    runs = list(page)
    while page.token:
        page = client.search_runs(experiments, here, page_token=page.token)
        runs += page
    ghosts = [run.info.run_id for run in runs if is_ghost(run)]
    for run_id in ghosts:
        client.set_terminated(run_id, "KILLED")
    return ghosts


def is_ghost(run: Run) -> bool:
    """Tell whether the run's process is known to be gone."""
    tags = run.data.tags
    if run.info.status != "RUNNING" or tags.get("process.host") != provenance.host():
        return False
    return not _alive(int(tags["process.pid"]), float(tags["process.started"]))


def _alive(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - started) < CLOCK_SLACK
    except psutil.NoSuchProcess:
        return False
