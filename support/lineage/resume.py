"""Finish a run that was cut off, to the same end as if nothing had happened.

resume(run_id)
"""

from collections.abc import Callable
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run

from support.data.splits import Splits
from support.lineage.shared import STARTED_FROM, LineageError, changes, data_changes, listed, start_of
from support.tracking import provenance
from support.tracking.orphans import PROCESS, is_orphan, this_process
from support.tracking.runs import TRAIN, RecordError, get_run, histories, params_of, train_function_of
from support.tracking.store import store_lock
from support.tracking.training_run import checkpoint_of, start_run, train_in


def resume(run_id: str, params: Any = None, splits: Splits | None = None) -> str:
    """Finish a run that was cut off, from its last checkpoint, and return its id.

    Its params and data come from the run itself; those that are passed must be the same. A run that was cut
    off before it had logged them needs them passed. Raise LineageError, NoRunError or RecordError where it
    cannot be resumed, CheckpointError where its checkpoint is damaged; the run stays as it is then.
    """
    if active := mlflow.active_run():
        raise LineageError(
            f"Run {active.info.run_id} is still open here, from an earlier cell. End it first: "
            "mlflow.end_run(), or mlflow.end_run('KILLED') where that is the run to resume."
        )
    with store_lock(mlflow.get_tracking_uri()):
        run = get_run(run_id)
        _refuse_unless_cut_off(run)
        train = train_function_of(run) if TRAIN in run.data.tags or params is None else None  # else the params'
        params = _agreed(run, params, params_of, changes, "params")
        splits = _agreed(run, splits, provenance.splits_of, data_changes, "data")
        start = run.data.tags.get(STARTED_FROM)
        more = {"start_from": start_of(start)} if start else {}
        saved, different = checkpoint_of(run_id).load(), provenance.differences(run, train)
        epochs = max((step for steps in histories(run_id).values() for step in steps), default=0)
        # From here on it is this process's run, for everyone who opens the store.
        MlflowClient().set_tag(run_id, PROCESS, this_process())
        MlflowClient().update_run(run_id, "RUNNING")
    if different:
        print(f"Not as when the run began, so the last digits may differ:\n{listed(different)}")
    print(f"Goes on from epoch {epochs + 1}." if saved else "There is no checkpoint: it goes on from the start.")
    with start_run(run_id=run_id) as run:
        train_in(run, params, splits, train, **more)
    return run_id


def _refuse_unless_cut_off(run: Run) -> None:
    status, run_id = run.info.status, run.info.run_id
    if status == "FINISHED":
        raise LineageError(f"Run {run_id} is finished: there is nothing to resume.")
    # A run that this process could not end, for want of space say, says RUNNING and is nobody's.
    own = run.data.tags.get(PROCESS) == this_process()
    if status == "RUNNING" and not own and not is_orphan(run):
        raise LineageError(
            f"Run {run_id} is running, here or on another machine. If you know that it is not, end it first: "
            f"mlflow.MlflowClient().set_terminated({run_id!r}, 'KILLED')"
        )


def _agreed(run: Run, passed: Any, read: Callable[[Run], Any], changes: Callable[..., dict], what: str) -> Any:
    """Return what the run records, or what was passed where it was cut off before it did.

    Raise LineageError where it records something else than what was passed.
    """
    try:
        recorded = read(run)
    except RecordError:
        if passed is None:
            raise
        return passed
    if passed is not None and (different := changes(recorded, passed)):
        raise LineageError(f"Run {run.info.run_id} began with other {what}:\n{listed(different)}")
    return recorded
