"""Delete runs, after a look at what goes: rows, artifacts and checkpoints.

delete_runs(all_but_best=3)                  # the plan: which runs, how much space. Nothing is deleted yet
delete_runs(all_but_best=3, confirmed=True)  # now it is
"""

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run

from support.tracking import rows
from support.tracking import training_run as tracking


class CleanupError(ValueError):
    """These runs cannot be deleted. Says which and why."""


def delete_runs(
    run_ids: list[str] | None = None,
    where: str | None = None,
    all_but_best: int | None = None,
    experiment: str = tracking.EXPERIMENT,
    metric: str = "f1",
    confirmed: bool = False,
) -> pd.DataFrame:
    """Give the runs to delete with the space that they take, and delete them if `confirmed`.

    Name them in one of three ways: by `run_ids`; by a filter `where`, such as "params.lr = '0.1'"; or all
    finished runs but the `all_but_best` with the highest `metric`. The last two look in `experiment`.
    Raises CleanupError for a run that is running, or that a registered model comes from.
    """
    runs = _chosen(run_ids, where, all_but_best, experiment, metric)
    for run in runs:
        _refuse_if_in_use(run)
    plan = []
    with rows.database() as database:
        for run in runs:
            run_id = run.info.run_id
            files = [path for folder in rows.folders(database, run_id).values() for path in folder.rglob("*")]
            files.append(tracking.checkpoint_of(run_id).path)
            plan.append(
                {
                    "run_id": run_id,
                    "run": run.info.run_name,
                    metric: run.data.metrics.get(metric),
                    "started": pd.Timestamp(run.info.start_time, unit="ms").floor("s"),
                    "bytes": sum(path.stat().st_size for path in files if path.is_file()),
                }
            )
        if confirmed:
            _delete(database, [run.info.run_id for run in runs])
    table = pd.DataFrame(plan, columns=["run_id", "run", metric, "started", "bytes"]).set_index("run_id")
    done = "deleted" if confirmed else "to delete, with confirmed=True"
    print(f"{len(table)} runs {done}: {table.bytes.sum() / 1e6:,.1f} MB.")
    return table


def _delete(database, run_ids: list[str]) -> None:
    # Files first: who is killed in between still has the runs, and deletes them by the same call again.
    for run_id in run_ids:
        for folder in rows.folders(database, run_id).values():
            rows.remove_folder(folder)
        tracking.checkpoint_of(run_id).remove()
    for run_id in run_ids:
        rows.delete(database, run_id)


def _chosen(run_ids, where, all_but_best, experiment, metric) -> list[Run]:
    if [run_ids, where, all_but_best].count(None) != 2:
        raise CleanupError("Say which runs by one of run_ids, where and all_but_best.")
    if isinstance(run_ids, str):
        raise CleanupError("run_ids is a list, such as [run_id].")
    if run_ids is not None:
        return [mlflow.get_run(run_id) for run_id in dict.fromkeys(run_ids)]
    if all_but_best is not None and (not isinstance(all_but_best, int) or all_but_best < 0):
        raise CleanupError(f"all_but_best is a whole number from 0, and {all_but_best!r} is not.")
    found = mlflow.get_experiment_by_name(experiment)
    if found is None:
        raise CleanupError(f"There is no experiment {experiment!r}.")
    if where is not None:
        return mlflow.search_runs([found.experiment_id], where, output_format="list")
    finished = mlflow.search_runs([found.experiment_id], "attributes.status = 'FINISHED'", output_format="list")
    finished = [run for run in finished if metric in run.data.metrics]
    return sorted(finished, key=lambda run: run.data.metrics[metric], reverse=True)[all_but_best:]


def _refuse_if_in_use(run: Run) -> None:
    run_id = run.info.run_id
    if run.info.status == "RUNNING":
        raise CleanupError(f"Run {run_id} is running. Nothing was deleted.")
    versions = MlflowClient().search_model_versions(f"run_id = '{run_id}'")
    if versions:
        names = ", ".join(f"{version.name} {version.version}" for version in versions)
        raise CleanupError(f"Run {run_id} made registered models ({names}): delete those first.")
