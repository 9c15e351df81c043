"""A training as a run: begun, logged and ended as what it was; and its model loaded again.

with start_run("my-model"):           # mlflow.start_run, and the run's process is known
    ...
run_id = train_and_log(Params(), splits)
tagger = load_tagger(run_id)
"""

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from support.data.corpus import about, load_projects
from support.data.splits import Splits, split
from support.environment import let_go
from support.models.checkpoint import Checkpoint
from support.models.params import Params, name_of, resolve
from support.models.tagger import Tagger, TextTagger, Trained, tagger_files
from support.tracking import alerting, checksums, provenance, remote
from support.tracking.live import NewMetrics, log_epochs
from support.tracking.orphans import PROCESS, this_process
from support.tracking.results import describe, log_trained
from support.tracking.runs import DATA, ORIGIN, PARAMS, PARAMS_TYPE, TRAIN, NoRunError, find_run, get_run, params_of
from support.tracking.store import EXPERIMENT, checkpoints_folder, connect, database_of, experiment_id_of


@contextmanager
def start_run(
    run_name: str | None = None,
    experiment: str | None = None,
    run_id: str | None = None,
    tags: dict[str, Any] | None = None,
    **given: Any,
) -> Iterator[Run]:
    """Open a run, new or (by `run_id`) an earlier one, and end it as what it was.

    FINISHED at the end of the block, FAILED after an exception, KILLED after an interrupt. What was logged
    until then stays, and so does the state of a training that was cut off. Without `experiment` it is in the
    current one. All else is passed on to mlflow.start_run: `nested`, `description`, `parent_run_id`. MLflow logs
    the machine's load meanwhile. Raise RuntimeError where another run is open and this one is not `nested`.
    """
    if (active := mlflow.active_run()) and not given.get("nested"):
        raise RuntimeError(
            f"The run {active.info.run_name!r} is still open, from an earlier cell perhaps. End it with "
            "mlflow.end_run(), or start this one in it with nested=True."
        )
    if other := os.environ.pop("MLFLOW_RUN_ID", None):
        print(f"MLFLOW_RUN_ID names the run {other}. It stays as it is: this is another run.")
    logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)  # it announces its start and end
    tags = {name: str(value) for name, value in (tags or {}).items()}  # as MLflow's REST client wants them
    given = {"log_system_metrics": True, **given, "tags": {**tags, **alerting.tags(), PROCESS: this_process()}}
    if run_id:
        mlflow.set_experiment(experiment_id=mlflow.get_run(run_id).info.experiment_id)
        begun = mlflow.start_run(run_id, run_name=run_name, **given)
    else:
        if named := os.environ.get("MLFLOW_EXPERIMENT_NAME"):
            experiment_id_of(named)  # MLflow would make it with its files in the folder that one is in
        place = experiment_id_of(experiment) if experiment else given.pop("experiment_id", None)
        begun = remote.start_run(run_name=run_name, experiment_id=place, **given)
    status = "FAILED"
    try:
        with begun as run:
            try:
                yield run
            except (KeyboardInterrupt, SystemExit) as interrupt:
                let_go(interrupt)
                status = "KILLED"
                mlflow.end_run(status)
                raise
            # Who ended it in the block has ended it as something else.
            status = "FINISHED" if mlflow.active_run() else "KILLED"
    finally:
        alerting.at_end(run, status)
    if status == "FINISHED":
        checkpoint_of(run.info.run_id).remove()


def train_and_log(
    params: Any,
    splits: Splits,
    run_name: str | None = None,
    experiment: str | None = None,
    train: Callable | None = None,
) -> str:
    """Train in a tracked run and return its id: notebook 01 in one call.

    `train(params, splits, on_epoch=None, checkpoint=None)` is the function that the params name as
    `trained_by`, unless another is given. It returns a Trained, or a dict of metrics after it has logged its
    model by MLflow's own call. Without `experiment` it is the one that was set (mlflow.set_experiment), else
    `baselines`. The run is named after its model.

    Where the server goes away meanwhile, the training goes on, from its last epoch, in a run on this machine.
    `sync.sync()` makes one run of the two later, with the id of the first.
    """
    train = train or _train_function(params)
    if experiment is None and not any(os.environ.get(f"MLFLOW_EXPERIMENT_{part}") for part in ("ID", "NAME")):
        experiment = EXPERIMENT
    run, run_name = None, run_name or getattr(params, "model", None) or train.__name__
    try:
        with start_run(run_name, experiment) as run:
            train_in(run, params, splits, train)
    except MlflowException:
        if not remote.is_away(mlflow.get_tracking_uri()) or database_of(connect()) is None:
            raise
        begun = run
        with start_run(run_name, experiment, tags={ORIGIN: begun.info.run_id} if begun else {}) as run:
            if begun and (state := checkpoint_of(begun.info.run_id).path).exists():
                state.replace(checkpoint_of(run.info.run_id).path)
            train_in(run, params, splits, train)
    return run.info.run_id


def train_in(run: Run, params: Any, splits: Splits, train: Callable | None = None, **more: Any) -> None:
    """Train in the current run and log all of it. What the run has already is not done again.

    `more` goes to the train function, such as `start_from`.
    """
    train = train or _train_function(params)
    values = asdict(params) if is_dataclass(params) else dict(params)
    try:
        names = {TRAIN: name_of(train)}
        mlflow.set_tags(names | ({PARAMS_TYPE: name_of(type(params))} if is_dataclass(params) else {}))
    except ValueError as error:
        print(f"This run cannot be resumed or reproduced. {error}")
        train_source = None
    else:
        train_source = train
    mlflow.log_params(values)  # first: a run that fails says what it tried
    known = checksums.checksums_of(run)
    if PARAMS not in known:
        with TemporaryDirectory() as folder:
            Path(folder, PARAMS).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
            checksums.log_files(folder)
    if DATA not in known:
        provenance.log_context(splits, train_source)
    checkpoint = checkpoint_of(run.info.run_id)
    with log_epochs(values.get("num_epochs"), checkpoint=checkpoint) as on_epoch:
        result = train(params, splits, on_epoch=on_epoch, checkpoint=checkpoint, **more)
    if isinstance(result, Trained) and result.interrupted:
        with TemporaryDirectory() as folder:  # its figures follow when it comes to its end
            result.save(folder)
            checksums.log_files(folder)
        mlflow.end_run("KILLED")
        print(
            f"Stopped after epoch {len(result.history)}, with the best weights so far. To go on from here:\n"
            f"lineage.resume({run.info.run_id!r})"
        )
    elif isinstance(result, Trained):
        log_trained(result, splits)
        describe(run, splits)
    elif isinstance(result, dict):
        NewMetrics()(result)
        describe(run, splits)
    elif result is not None:
        raise TypeError(f"{train.__name__} returned a {type(result).__name__}. Return a dict of metrics, or nothing.")


def load_tagger(run_id: str) -> TextTagger:
    """Return the model of a run, rebuilt from its artifacts, if they are the bytes that were logged.

    Raise NoRunError where the run is missing or has none, ArtifactError where they are damaged or gone.
    """
    run = get_run(run_id)
    with TemporaryDirectory() as folder:
        kind = tagger_type_of(run)
        try:
            checksums.fetch(run, tagger_files(kind), folder)
        except (MlflowException, OSError) as error:
            raise NoRunError(
                f"Run {run_id} has not all files of a tagger ({error}). If it logged a model with MLflow, load "
                "that: mlflow.pyfunc.load_model."
            ) from error
        return kind.load(folder)


def tagger_type_of(run: Run) -> type[TextTagger]:
    """Return the class that loads the run's tagger. A run that names no train function is the lesson's CNN."""
    if TRAIN not in run.data.tags:
        return Tagger
    loader = getattr(params_of(run), "loaded_by", None)
    if loader is None:
        raise NoRunError(
            f"Run {run.info.run_id} holds no tagger. Load the model that it logged: mlflow.pyfunc.load_model."
        )
    return resolve(loader)


def checkpoint_of(run_id: str) -> Checkpoint:
    """Return the place of a run's state while it trains."""
    return Checkpoint(checkpoints_folder() / f"{run_id}.pt")


def ensure_run(splits: Splits | None = None) -> Run:
    """Return the latest run `cnn` with the lesson's params; where there is none yet, train it, and say so."""
    projects = None if splits else load_projects()
    splits = splits or split(projects)
    if found := find_run("cnn", Params(), splits):
        return found
    print("There is no finished run `cnn` yet, so it is trained now, as notebook 01 does.")
    if projects is not None:
        print(about(projects))
    return get_run(train_and_log(Params(), splits, "cnn", EXPERIMENT))


def _train_function(params: Any) -> Callable:
    name = getattr(params, "trained_by", None)
    if name is None:
        raise ValueError(
            "These params do not say which function trains by them. Name it: "
            "train_and_log(params, splits, train=my_model.train)."
        )
    return resolve(name)
