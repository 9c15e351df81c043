"""Runs in MLflow: connect to the store, log what was trained, find the best run, load it again.

tracking.connect()
run_id = tracking.train_and_log(Params(), splits)
tagger = tracking.load_tagger(tracking.best_run().info.run_id)
"""

import logging
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from tempfile import TemporaryDirectory

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from tqdm import tqdm

from support import data, plots
from support.stores import PROJECT_DIR, SQLITE, database_of, plan_for_many_runs, store_lock
from support.stores import stores_dir as resolve_stores_dir
from support.tagger import Tagger
from support.training import OnEpoch, Params, Trained, train_cnn

EXPERIMENT = "baselines"


class NoRunError(LookupError):
    """The store holds no run that fits what was asked for."""


def connect(stores_dir: str | os.PathLike | None = None) -> str:
    """Point MLflow at the store and give its tracking URI.

    MLFLOW_TRACKING_URI wins when it is set: a team's server. Otherwise the store is SQLite,
    `mlflow.db` in the stores folder, made on first use, once even when several processes start
    together. MLflow sends no telemetry from here on.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    mlflow.telemetry.set_telemetry_client()
    given = os.environ.get("MLFLOW_TRACKING_URI")
    uri = given or f"{SQLITE}{(resolve_stores_dir(stores_dir) / 'mlflow.db').as_posix()}"
    mlflow.set_tracking_uri(uri)
    if not given:
        # MLflow writes it there too, where the next call would take it for the user's own choice.
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    with store_lock(uri):
        # A new database announces each table that it makes.
        for name in ("mlflow.store.db.utils", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        MlflowClient().search_experiments(max_results=1)
        if database := database_of(uri):
            plan_for_many_runs(database)
    return uri


def set_experiment(name: str = EXPERIMENT) -> str:
    """Make the experiment the current one, create it if need be, and give its id."""
    uri = mlflow.get_tracking_uri()
    with store_lock(uri):
        experiment = mlflow.get_experiment_by_name(name)
        if experiment is None:
            # Without a location of its own, artifacts would land in the folder that one happens to be in.
            database = database_of(uri)
            mlflow.create_experiment(
                name,
                artifact_location=(database.parent / "artifacts").as_uri() if database else None,
                tags={"mlflow.experimentKind": "custom_model_development"},  # the UI's training view
            )
    return mlflow.set_experiment(name).experiment_id


@contextmanager
def start_run(run_name: str, experiment: str = EXPERIMENT) -> Iterator[Run]:
    """Open a run, as mlflow.start_run does, and end it as what it was.

    FINISHED at the end of the block, FAILED after an exception, KILLED after an interrupt. What was
    logged until then stays.
    """
    set_experiment(experiment)
    with mlflow.start_run(run_name=run_name) as run:
        try:
            yield run
        except (KeyboardInterrupt, SystemExit):
            mlflow.end_run("KILLED")
            raise


def describe_run(splits: data.Splits) -> None:
    """Log what the current run starts from: the dataset with its digest, the code, the versions."""
    everything = pd.concat([splits.train, splits.val, splits.test])
    dataset = mlflow.data.from_pandas(
        everything.assign(tags=everything.tags.str.join(" ")),
        source=data.LESSON_URL if splits.corpus == "lesson" else None,
        name=splits.corpus,
        digest=splits.digest,
    )
    mlflow.log_input(dataset, context="training, validation and test")
    mlflow.set_tags(
        {
            "corpus": splits.corpus,
            "split_seed": splits.seed,
            "python": platform.python_version(),
            **{name: version(name) for name in ("mlflow", "torch", "numpy", "pandas", "scikit-learn")},
        }
    )
    if commit := _git_commit():
        mlflow.set_tag("mlflow.source.git.commit", commit)


def log_trained(trained: Trained, splits: data.Splits) -> None:
    """Log to the current run what a training gave: metrics, the five artifacts, the figures."""
    overall = trained.performance["overall"]
    mlflow.log_metrics({"best_val_loss": trained.best_val_loss, "best_epoch": trained.best_epoch})
    mlflow.log_metrics({name: overall[name] for name in ("precision", "recall", "f1")})
    with TemporaryDirectory() as folder:
        trained.save(folder)
        mlflow.log_artifacts(folder)
    for name, figure in figures(trained, splits).items():
        mlflow.log_figure(figure, f"plots/{name}.png")


def figures(trained: Trained, splits: data.Splits) -> dict:
    """Draw a training: name -> matplotlib figure."""
    targets = trained.label_encoder.encode(splits.val.tags)
    probabilities = trained.tagger.predict_proba(list(splits.val.text))
    return {
        "learning_curves": plots.learning_curves(trained.history, trained.best_epoch),
        "precision_recall": plots.precision_recall(targets, probabilities, trained.threshold),
        "f1_by_tag": plots.f1_by_tag(trained.performance),
    }


@contextmanager
def log_epochs(num_epochs: int) -> Iterator[OnEpoch]:
    """Give an `on_epoch` that logs each epoch's metrics to the current run and moves a progress bar."""
    with tqdm(total=num_epochs, unit="epoch", file=sys.stdout) as bar:

        def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
            mlflow.log_metrics(metrics, step=epoch)
            bar.set_postfix({name: f"{value:.4g}" for name, value in metrics.items()}, refresh=False)
            bar.update()

        yield on_epoch


def train_and_log(params: Params, splits: data.Splits, run_name: str = "cnn") -> str:
    """Train in a tracked run and give its id: the lines of notebook 01 in one call."""
    with start_run(run_name) as run:
        mlflow.log_params(asdict(params))
        describe_run(splits)
        with log_epochs(params.num_epochs) as on_epoch:
            trained = train_cnn(params, splits, on_epoch)
        log_trained(trained, splits)
    return run.info.run_id


def ensure_run() -> Run:
    """Give the best run; where there is none yet, train one with the lesson's params, and say so."""
    try:
        return best_run()
    except NoRunError:
        print("There is no finished run yet, so one is trained now, as notebook 01 does.")
        projects = data.load_projects()
        print(data.about(projects))
        train_and_log(Params(), data.split(projects))
        return best_run()


def best_run(experiment: str = EXPERIMENT, metric: str = "f1") -> Run:
    """Give the finished run with the highest `metric`. Raises NoRunError where there is none."""
    return _search(experiment, metric, max_results=1)[0]


def runs_table(experiment: str = EXPERIMENT, metric: str = "f1", max_results: int = 10) -> pd.DataFrame:
    """Give the best finished runs, best first: one row a run, indexed by run id."""
    runs = _search(experiment, metric, max_results)
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


def load_tagger(run_id: str) -> Tagger:
    """Rebuild the model of a run from its artifacts. Raises NoRunError where the run or they are missing."""
    with TemporaryDirectory() as folder:
        try:
            mlflow.artifacts.download_artifacts(run_id=run_id, dst_path=folder)
            return Tagger.load(folder)
        except (MlflowException, FileNotFoundError) as error:
            raise NoRunError(f"Run {run_id} cannot be loaded: {error}") from error


def _search(experiment: str, metric: str, max_results: int) -> list[Run]:
    found = mlflow.get_experiment_by_name(experiment)
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


def _git_commit() -> str | None:
    """Give the commit of the project's code, or None outside a git checkout."""
    try:
        command = ["git", "-C", str(PROJECT_DIR), "rev-parse", "HEAD"]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()
