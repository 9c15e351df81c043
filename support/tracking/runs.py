"""Finding runs, and loading their models.

tagger = load_tagger(best_run().info.run_id)
"""

from tempfile import TemporaryDirectory

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException

from support.tracking import checksums as artifacts
from support.models import kinds as models
from support.tracking import remote as offline
from support.models.tagger import TextTagger

EXPERIMENT = "baselines"


class NoRunError(LookupError):
    """The store holds no run that fits what was asked for."""


def find_experiment(name: str) -> Experiment | None:
    """Give the experiment, None where there is none. Raises ServerRefuses where it is somebody else's."""
    try:
        return mlflow.get_experiment_by_name(name)
    except MlflowException as error:
        if error.error_code != "PERMISSION_DENIED":
            raise
        raise offline.ServerRefuses(
            f"The experiment {name!r} is somebody else's on this server. Use another name, or ask for the "
            "right to it: its owner calls team.grant."
        ) from error


def best_run(experiment: str = EXPERIMENT, metric: str = "f1") -> Run:
    """Give the finished run with the highest `metric`. Raises NoRunError where there is none."""
    return best_runs(experiment, metric, max_results=1)[0]


def best_runs(experiment: str = EXPERIMENT, metric: str = "f1", max_results: int = 10) -> list[Run]:
    """Give the finished runs that have the `metric`, best first. Raises NoRunError where there is none."""
    found = find_experiment(experiment)
    runs = []
    if found:
        runs = MlflowClient().search_runs(
            [found.experiment_id],
            filter_string="attributes.status = 'FINISHED'",
            order_by=[f"metrics.`{metric}` DESC"],
            max_results=max_results,
        )
    runs = [run for run in runs if metric in run.data.metrics]
    if not runs:
        raise NoRunError(
            f"The experiment {experiment!r} has no finished run with the metric {metric!r}. "
            f"Run notebook 01_tracked_training first."
        )
    return runs


def runs_table(experiment: str = EXPERIMENT, metric: str = "f1", max_results: int = 10) -> pd.DataFrame:
    """Give the best finished runs, best first: one row a run, indexed by run id."""
    runs = best_runs(experiment, metric, max_results)
    rows = [
        {
            "run": run.info.run_name,
            **{name: run.data.metrics.get(name) for name in dict.fromkeys([metric, "precision", "recall"])},
            "best_val_loss": run.data.metrics.get("best_val_loss"),
            "corpus": run.data.tags.get("corpus"),
            "seconds": (run.info.end_time - run.info.start_time) / 1000,
        }
        for run in runs
    ]
    return pd.DataFrame(rows, index=pd.Index([run.info.run_id for run in runs], name="run_id"))


def load_tagger(run_id: str) -> TextTagger:
    """Rebuild the model of a run from its artifacts, if they are the bytes that were logged.

    Raises NoRunError where the run or they are missing, ArtifactError where they are damaged.
    """
    with TemporaryDirectory() as folder:
        try:
            run = mlflow.get_run(run_id)
            artifacts.fetch(run, ["params.json"], folder)
            artifacts.fetch(run, models.files_of(folder), folder)
        except (MlflowException, FileNotFoundError) as error:
            raise NoRunError(f"Run {run_id} cannot be loaded: {error}") from error
        return models.load(folder)
