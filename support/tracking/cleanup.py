"""Delete runs, after a look at what goes: first into MLflow's trash, and from there for good.

delete_runs(all_but_best=3)                  # the plan: which runs. Nothing is deleted yet
delete_runs(all_but_best=3, confirmed=True)  # now they are in the trash, as after a deletion in the dashboard
restore_runs([run_id])                       # and back
empty_trash(confirmed=True)                  # what is in the trash is gone: rows, files and checkpoints
"""

import io
import sqlite3
from collections.abc import Callable
from contextlib import closing, redirect_stdout, suppress
from pathlib import Path

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException

from support.tracking.orphans import is_orphan
from support.tracking.runs import get_run, score, why_left_out
from support.tracking.store import EXPERIMENT, checkpoints_folder, database_of, find_experiment, store_lock

NAMED = 5  # so many of what is counted are named, too


class CleanupError(ValueError):
    """These runs cannot be deleted or restored. Says which and why. Nothing was changed."""


def delete_runs(
    run_ids: list[str] | None = None,
    where: str | None = None,
    all_but_best: int | None = None,
    experiment: str = EXPERIMENT,
    metric: str = "f1",
    confirmed: bool = False,
) -> pd.DataFrame:
    """Return the runs to delete, by run id; if `confirmed`, move them to MLflow's trash.

    Name them in one of three ways: by `run_ids`; by a filter `where`, such as "params.lr = '0.1'"; or all that
    may be compared but the `all_but_best` best ones by `metric`, as best_run ranks. The last two look in
    `experiment`. Raise NoRunError for a run that is not there, CleanupError for one that is running or that a
    registered model comes from.
    """
    runs = _chosen(run_ids, where, all_but_best, experiment, metric)
    for run in runs:
        if run.info.status == "RUNNING" and not is_orphan(run):
            raise CleanupError(f"Run {run.info.run_id} is running. Wait for its end. Nothing was deleted.")
    _refuse_registered(runs)
    if confirmed:
        _all_or_none(runs, MlflowClient().delete_run, MlflowClient().restore_run)
    done = "Now in the trash, where restore_runs finds them" if confirmed else "To delete, with confirmed=True"
    print(f"{done}: {_counted(runs)}.")
    return _table(runs, metric)


def restore_runs(run_ids: list[str]) -> None:
    """Bring runs back from the trash. Raise CleanupError where one is not in the store any more."""
    runs = []
    for run_id in _listed(run_ids):
        try:
            runs.append(mlflow.get_run(run_id))
        except MlflowException as error:
            raise CleanupError(f"Run {run_id} is not in this store, nor in its trash.") from error
    deleted = [run for run in runs if run.info.lifecycle_stage == "deleted"]
    _all_or_none(deleted, MlflowClient().restore_run, MlflowClient().delete_run)
    print(f"Restored: {_counted(deleted)}.")


def empty_trash(confirmed: bool = False) -> pd.DataFrame:
    """Return the runs in the trash, by run id; if `confirmed`, delete them for good.

    This is `mlflow gc` and what that leaves: logged models, checkpoints, folders, rows of inputs. Deleted
    experiments go too. A call that was cut off is completed by the next. Raise CleanupError on a server, and
    for a run that a registered model comes from.
    """
    from mlflow.cli import gc  # MLflow's command; the import takes a second

    uri = mlflow.get_tracking_uri()
    if (database := database_of(uri)) is None:
        raise CleanupError("Only who runs the server can empty its trash: mlflow gc --backend-store-uri ...")
    experiments = mlflow.search_experiments(view_type=ViewType.ALL)
    ids = [found.experiment_id for found in experiments]
    runs = mlflow.search_runs(ids, run_view_type=ViewType.DELETED_ONLY, output_format="list")
    _refuse_registered(runs)
    if confirmed:
        with store_lock(uri):
            gone = {run.info.run_id for run in runs}
            for model in mlflow.search_logged_models(ids, output_format="list"):
                if model.source_run_id in gone:
                    gone.add(model.model_id)
                    MlflowClient().delete_logged_model(model.model_id)  # gc deletes those in the trash
            with redirect_stdout(io.StringIO()):  # it names each run
                gc.main(["--backend-store-uri", uri, "--tracking-uri", uri], standalone_mode=False)
            _delete_inputs_without_run(database)
        for path in [*(database.parent / "artifacts").rglob("*")]:
            if path.name in gone:
                with suppress(OSError):  # not empty
                    path.rmdir()
        for path in checkpoints_folder().glob("*.*"):
            if path.stem in gone:
                path.unlink()
    names = [found.name for found in experiments if found.lifecycle_stage == "deleted"]
    more = f", and experiments: {', '.join(names[:NAMED])}" if names else ""
    done = "Deleted for good" if confirmed else "In the trash, to delete for good with confirmed=True"
    print(f"{done}: {_counted(runs)}{more}.")
    return _table(runs, "f1")


def _chosen(run_ids, where, all_but_best, experiment: str, metric: str) -> list[Run]:
    if [run_ids, where, all_but_best].count(None) != 2:
        raise CleanupError("Say which runs by one of run_ids, where and all_but_best.")
    if run_ids is not None:
        return [get_run(run_id) for run_id in _listed(run_ids)]
    if where is None and (type(all_but_best) is not int or all_but_best < 0):
        raise CleanupError(f"all_but_best is a whole number from 0, and {all_but_best!r} is not.")
    if (found := find_experiment(experiment)) is None:
        raise CleanupError(f"There is no experiment {experiment!r}.")
    try:
        runs = mlflow.search_runs([found.experiment_id], where or "", output_format="list")
    except MlflowException as error:
        raise CleanupError(f"The filter {where!r} is not one of MLflow's ({_reason(error)}).") from error
    if where is not None:
        return runs
    ranked, left_out = [], []
    for run in runs:
        if why := why_left_out(run, metric):
            left_out.append(f"{run.info.run_name} ({why})")
        else:
            ranked.append(run)
    if left_out:
        print(f"{_counted(left_out)} stay, not to be compared: {', '.join(left_out[:NAMED])}.")
    ranked.sort(key=lambda run: (score(run, metric), run.info.start_time), reverse=True)
    return ranked[all_but_best:]


def _counted(runs: list) -> str:
    return "1 run" if len(runs) == 1 else f"{len(runs)} runs"


def _listed(run_ids: list[str]) -> list[str]:
    if isinstance(run_ids, str):
        raise CleanupError("run_ids is a list, such as [run_id].")
    return list(dict.fromkeys(run_ids))


def _refuse_registered(runs: list[Run]) -> None:
    versions = {version.run_id: version for version in mlflow.search_model_versions()}
    for run in runs:
        if version := versions.get(run.info.run_id):
            raise CleanupError(
                f"The registered model {version.name} {version.version} comes from run {run.info.run_id}. Delete "
                "that first, or leave the run. Nothing was deleted."
            )


def _table(runs: list[Run], metric: str) -> pd.DataFrame:
    rows = {
        "run": [run.info.run_name for run in runs],
        metric: [run.data.metrics.get(metric) for run in runs],
        "started": [pd.to_datetime(run.info.start_time, unit="ms").floor("s") for run in runs],
    }
    return pd.DataFrame(rows, pd.Index([run.info.run_id for run in runs], name="run_id"))


def _all_or_none(runs: list[Run], do: Callable, undo: Callable) -> None:
    done = []
    try:
        for run in runs:
            do(run.info.run_id)
            done.append(run)
    except MlflowException as error:
        for run in done:
            undo(run.info.run_id)
        raise CleanupError(f"Run {run.info.run_id}: {_reason(error)}. Nothing was changed.") from error


def _reason(error: MlflowException) -> str:
    return str(error.message).partition("\n")[0].rstrip(".")[:200]


def _delete_inputs_without_run(database: Path) -> None:
    """Delete what says which data a run read, for runs that are no more. Checked against mlflow 3.17."""
    runs = "(SELECT run_uuid FROM runs)"
    gone = (
        f"destination_type = 'RUN' AND destination_id NOT IN {runs} "
        f"OR source_type = 'RUN_OUTPUT' AND source_id NOT IN {runs}"
    )
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        connection.execute(f"DELETE FROM input_tags WHERE input_uuid IN (SELECT input_uuid FROM inputs WHERE {gone})")
        connection.execute(f"DELETE FROM inputs WHERE {gone}")
        connection.execute("DELETE FROM datasets WHERE dataset_uuid NOT IN (SELECT source_id FROM inputs)")
