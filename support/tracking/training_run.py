"""Runs in MLflow: connect to the store, log what was trained, find the best run, load it again.

tracking.connect()
run_id = tracking.train_and_log(Params(), splits)
tagger = tracking.load_tagger(tracking.best_run().info.run_id)
"""

import logging
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from tqdm import tqdm

from support.tracking import checksums as artifacts
from support.data import corpus as data
from support.tracking import orphans as ghosts
from support.models import kinds as models
from support.tracking import remote as offline
from support.tracking import once
from support import plots
from support.tracking import portable
from support.tracking import provenance
from support.tracking import vitals
from support.models.checkpoint import Checkpoint
from support.models.evaluation import latency_ms
from support.models.params import Checked, Params
from support.tracking.runs import (  # noqa: F401 - best_runs, runs_table and load_tagger for callers
    EXPERIMENT,
    NoRunError,
    best_run,
    best_runs,
    find_experiment,
    load_tagger,
    runs_table,
)
from support.sync.endpoint import ORIGIN
from support.tracking.store import check_writable, database_of, let_go, local_uri, plan_for_many_runs, store_lock
from support.tracking.store import stores_dir as resolve_stores_dir
from support.models.tagger import Tagger
from support.models.trained import Trained
from support.models.training import OnEpoch

# The machine decides about these too: a run that is done again may have others.
MEASURED = ("training_seconds", "size_bytes", "latency_ms")


def connect(stores_dir: str | os.PathLike | None = None) -> str:
    """Point MLflow at the store and give its tracking URI.

    MLFLOW_TRACKING_URI wins when it is set: a team's server. Otherwise, and while that server is away, the
    store is SQLite, `mlflow.db` in the stores folder, made on first use, once even when several processes
    start together. MLflow sends no telemetry from here on. Raises ServerRefuses where the server does not
    let this user in.

    A store that was moved is told where it is now, and runs of dead processes are set to KILLED.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    mlflow.telemetry.set_telemetry_client()
    given = os.environ.get("MLFLOW_TRACKING_URI")
    uri = offline.uri_or_local(given, local_uri(stores_dir))
    mlflow.set_tracking_uri(uri)
    # MLflow writes it there too, where the next call would take it for the user's own choice.
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    if given:
        os.environ["MLFLOW_TRACKING_URI"] = given
    database = database_of(uri)
    if database:
        check_writable(database.parent)
    with store_lock(uri):
        # A new database announces each table that it makes.
        for name in ("mlflow.store.db.utils", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        MlflowClient().search_experiments(max_results=1)
        if database:
            plan_for_many_runs(database)
            portable.repair(database)
        ghosts.lay()
        _sweep_checkpoints()
    return uri


def set_experiment(name: str = EXPERIMENT) -> str:
    """Make the experiment the current one, create it if need be, and give its id."""
    uri = mlflow.get_tracking_uri()
    with store_lock(uri):
        if find_experiment(name) is None:
            # Without a location of its own, artifacts would land in the folder that one happens to be in.
            database = database_of(uri)
            try:
                mlflow.create_experiment(
                    name,
                    artifact_location=(database.parent / "artifacts").as_uri() if database else None,
                    tags={"mlflow.experimentKind": "custom_model_development"},  # the UI's training view
                )
            except MlflowException as error:  # another member of the team was faster
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
    return mlflow.set_experiment(name).experiment_id


@contextmanager
def start_run(
    run_name: str | None = None, experiment: str = EXPERIMENT, run_id: str | None = None, **tags: str
) -> Iterator[Run]:
    """Open a run, new or (by `run_id`) an earlier one, and end it as what it was.

    FINISHED at the end of the block, FAILED after an exception, KILLED after an interrupt. What was
    logged until then stays. The machine's load is logged meanwhile.
    """
    tags |= provenance.process_tags()
    if run_id:
        mlflow.set_experiment(experiment_id=mlflow.get_run(run_id).info.experiment_id)
        begun = mlflow.start_run(run_id, run_name=run_name, tags=tags)
    else:
        begun = once.start_run(set_experiment(experiment), run_name, tags)
    with begun as run, vitals.watch(run.info.run_id):
        try:
            yield run
        except (KeyboardInterrupt, SystemExit) as interrupt:
            let_go(interrupt)
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
    mlflow.set_tags({"corpus": splits.corpus, "split_seed": splits.seed})
    provenance.record(splits)


def log_trained(trained: Trained, splits: data.Splits) -> None:
    """Log to the current run what a training gave: metrics, artifacts, figures."""
    overall = trained.performance["overall"]
    log = _Once()
    if trained.history:
        log({"best_val_loss": trained.best_val_loss, "best_epoch": trained.best_epoch})
    log({name: overall[name] for name in ("precision", "recall", "f1")} | {"val_f1": trained.val_f1})
    with TemporaryDirectory() as folder:
        trained.save(folder)
        log(costs(trained, folder, splits))
        mlflow.log_artifacts(folder)
        artifacts.sign(folder)
    for name, figure in figures(trained, splits).items():
        mlflow.log_figure(figure, f"plots/{name}.png")


def costs(trained: Trained, folder: str | Path, splits: data.Splits) -> dict[str, float]:
    """Measure what a model costs: seconds to train, bytes of its files in `folder`, milliseconds a text."""
    return {
        "training_seconds": round(trained.seconds, 3),
        "size_bytes": sum(path.stat().st_size for path in Path(folder).iterdir()),
        "latency_ms": round(latency_ms(trained.tagger, list(splits.val.text[:20])), 3),
    }


def figures(trained: Trained, splits: data.Splits) -> dict:
    """Draw a training: name -> matplotlib figure."""
    targets = trained.label_encoder.encode(splits.val.tags)
    probabilities = trained.tagger.predict_proba(list(splits.val.text))
    drawn = {}
    if trained.history:
        drawn["learning_curves"] = plots.learning_curves(trained.history, trained.best_epoch)
    return drawn | {
        "precision_recall": plots.precision_recall(targets, probabilities, trained.threshold),
        "f1_by_tag": plots.f1_by_tag(trained.performance),
    }


@contextmanager
def log_epochs(num_epochs: int) -> Iterator[OnEpoch]:
    """Give an `on_epoch` that logs each epoch's metrics to the current run and moves a progress bar.

    An epoch that the run has already is not logged again.
    """
    log = _Once()
    with tqdm(total=num_epochs, unit="epoch", file=sys.stdout) as bar:

        def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
            log(metrics, step=epoch)
            bar.set_postfix({name: f"{value:.4g}" for name, value in metrics.items()}, refresh=False)
            bar.update()

        yield on_epoch


def train_and_log(params: Checked, splits: data.Splits, run_name: str | None = None) -> str:
    """Train in a tracked run, named after its kind of model, and give its id: notebook 01 in one call.

    Where the server goes away meanwhile, the training goes on, from its last epoch, in a run on this machine.
    `sync.sync()` makes one run of the two later, with the id of the first.
    """
    run, run_name = None, run_name or params.model
    try:
        with start_run(run_name) as run:
            train_in(run, params, splits)
    except MlflowException:
        if not offline.is_away(mlflow.get_tracking_uri()) or database_of(connect()) is None:
            raise
        begun, tags = run, {ORIGIN: run.info.run_id} if run else {}
        with start_run(run_name, **tags) as run:
            if begun and (state := checkpoint_of(begun.info.run_id).path).exists():
                state.replace(checkpoint_of(run.info.run_id).path)
            train_in(run, params, splits)
    checkpoint_of(run.info.run_id).remove()
    return run.info.run_id


def train_in(run: Run, params: Checked, splits: data.Splits, start_from: Tagger | None = None) -> None:
    """Train in the current run and log all of it. What the run has already is not done again."""
    mlflow.log_params(asdict(params))
    if artifacts.digests_of(run).get(provenance.DATA) is None:
        describe_run(splits)
    with log_epochs(params.num_epochs) if params.model == "cnn" else nullcontext() as on_epoch:
        trained = models.train(params, splits, on_epoch, checkpoint_of(run.info.run_id), start_from)
    log_trained(trained, splits)


def checkpoint_of(run_id: str) -> Checkpoint:
    """Give the place of a run's state while it trains: beside the store, or in stores/ for a server's run."""
    database = database_of(mlflow.get_tracking_uri())
    folder = database.parent if database else resolve_stores_dir()
    return Checkpoint(folder / "checkpoints" / f"{run_id}.pt")


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


class _Once:
    """Logs metrics to the current run, but no step of a metric a second time, as MLflow would.

    A second value that is not the first is an error, unless it was MEASURED: then the first stays.
    """

    def __init__(self) -> None:
        client, run = MlflowClient(), mlflow.get_run(mlflow.active_run().info.run_id)
        names = [name for name in run.data.metrics if not name.startswith("system/")]
        history = {name: client.get_metric_history(run.info.run_id, name) for name in names}
        self.logged = {(m.key, m.step): m.value for metrics in history.values() for m in metrics}

    def __call__(self, metrics: dict[str, float], step: int = 0) -> None:
        for name, value in metrics.items():
            measured = name in MEASURED or not math.isfinite(value)
            if not measured and self.logged.get((name, step), value) != value:
                raise RuntimeError(
                    f"{name} of step {step} is {value!r} now, and the run has logged "
                    f"{self.logged[name, step]!r}: this is not the same training. Start a new run."
                )
        new = {name: value for name, value in metrics.items() if (name, step) not in self.logged}
        if new:
            mlflow.log_metrics(new, step=step)


def _sweep_checkpoints() -> None:
    """Remove the checkpoints of finished runs: who is killed in a run's last moment leaves one."""
    for path in checkpoint_of("*").path.parent.glob("*.pt"):
        try:
            finished = mlflow.get_run(path.stem).info.status == "FINISHED"
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED"):
                raise
            finished = False  # a run of another store, a server's say, that keeps its checkpoints here too
        if finished:
            Checkpoint(path).remove()
