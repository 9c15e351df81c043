"""One process of a search: Optuna's `study.optimize` on a study a space, and a child run of MLflow a trial.

Any number of processes share the studies. Optuna suggests params (TPE), prunes, and retries a dead process's trial.

A child run ends FINISHED with the tag `outcome`: measured, or pruned (given up early). FAILED: its training raised
the `error`; Optuna takes it for pruned, and avoids its like. KILLED: it was cut off, and another takes its place.
"""

import json
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from tempfile import TemporaryFile
from typing import Any
from warnings import catch_warnings

import mlflow
import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import NullPool, create_engine

from support.config import PROJECT_DIR
from support.data.splits import Splits
from support.models.params import name_of, resolve
from support.search.space import Space
from support.tracking import orphans, provenance, remote, runs, store
from support.tracking.results import log_tags
from support.tracking.training_run import start_run

HEARTBEAT, GRACE = 5, 30  # seconds between two heartbeats, and from the last one until a trial counts as lost
RETRY = optuna.storages.RetryHeartbeatStaleTrialCallback
ENDED, RUNNING = (TrialState.COMPLETE, TrialState.PRUNED), (TrialState.RUNNING,)


class CutOff(KeyboardInterrupt):
    """The time is up, or the search is gone. An interrupt, which no training catches by mistake."""


@dataclass(frozen=True)
class Worker:
    """One process's part in the search of one space. `config` is what `search` tells all processes."""

    name: str
    space: Space
    storage: optuna.storages.RDBStorage
    study: optuna.Study
    splits: Splits
    config: dict[str, Any]

    def stop(self) -> bool:
        """Return whether the time is up, or the process that this one helps is gone."""
        return time.monotonic() > self.config["until"] or orphans.is_gone(self.config["owner"])

    def ended(self) -> list[FrozenTrial]:
        """Return the trials that were measured, pruned or failed."""
        return self.study.get_trials(deepcopy=False, states=ENDED)

    def has_room(self) -> bool:
        """Return whether there is a trial to begin: some are left, and the last ones brought something."""
        values = [t.value if t.state == TrialState.COMPLETE else -math.inf for t in self.ended()]
        patient = not values or len(values) - 1 - values.index(max(values)) < self.config["patience"]
        return patient and len(self.study.get_trials(deepcopy=False, states=ENDED + RUNNING)) < self.space.trials

    def is_over(self) -> bool:
        """Return whether there is no trial to begin, and no process works on one."""
        return not self.has_room() and not self.study.get_trials(deepcopy=False, states=RUNNING)

    def objective(self, trial: Trial) -> float:
        """Return the metric on the validation split for params that Optuna suggests, from a child run."""
        trial.set_user_attr("process", orphans.this_process())
        numbers = [t.number for t in self.study.get_trials(deepcopy=False, states=ENDED + RUNNING)]
        if self.stop() or sum(n < trial.number for n in numbers) >= self.space.trials:  # another took the last one
            raise CutOff
        # The params follow from the seed and the trials before, those of a retry too, however often it is resumed.
        first = RETRY.retried_trial_number(self.study.get_trials(deepcopy=False)[trial.number])
        place = sum(n < (trial.number if first is None else first) for n in numbers)
        seed = random.Random(f"{self.config['seed']} {place}").getrandbits(32)
        self.study.sampler = optuna.samplers.TPESampler(seed=seed)
        tags = {"space": self.name, "corpus": self.splits.corpus, "split_seed": self.splits.seed}
        how = {"nested": True, "parent_run_id": self.config["parent_id"], "log_system_metrics": False}
        with start_run(f"{self.name}-{trial.number}", tags=tags, **how) as run:
            trial.set_user_attr("run_id", run.info.run_id)
            try:
                value = self.measure(trial)
                trial.set_user_attr("value", value)
                mlflow.set_tag("outcome", "measured")
                return value
            except optuna.TrialPruned:
                mlflow.set_tag("outcome", "pruned")
            except (mlflow.MlflowException, StorageInternalError):  # a store is gone, which ends the search
                raise
            except Exception as error:  # noqa: BLE001 - whatever a training raises, the search goes on
                mlflow.set_tag("error", f"{type(error).__name__}: {error}"[:500])
                mlflow.end_run("FAILED")
        raise optuna.TrialPruned

    def measure(self, trial: Trial) -> float:
        """Train, log the metrics of the validation split, and return the one that is sought."""
        params, metric = self.space.suggest(trial), self.config["metric"]
        mlflow.set_tags({runs.TRAIN: params.trained_by, runs.PARAMS_TYPE: name_of(type(params))})
        mlflow.log_params(asdict(params))
        mlflow.log_dict(asdict(params), runs.PARAMS)

        def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
            mlflow.log_metrics(metrics, step=epoch)
            if self.stop():
                raise CutOff
            value = metrics.get(f"val_{metric}", -metrics.get("val_loss", math.nan))  # the study maximises
            if math.isfinite(value):
                trial.report(value, epoch)
                if trial.should_prune():
                    raise optuna.TrialPruned

        # No trial sees the test split: what is measured on it is measured on the validation split.
        result = resolve(params.trained_by)(params, replace(self.splits, test=self.splits.val), on_epoch=on_epoch)
        given = result if isinstance(result, dict) else result.performance["overall"]
        if given is not result:  # a train function that returns a dict logs what it likes
            log_tags("val", self.splits.val, result.tagger)
        metrics = {f"val_{name}": given[name] for name in (metric, "precision", "recall") if name in given}
        metrics |= {name: value for name, value in given.items() if name.startswith("val_")}
        value = float(metrics.get(f"val_{metric}", math.nan))
        if not math.isfinite(value):
            raise ValueError(f"{params.trained_by} gave {value} as val_{metric}, which is no finite number.")
        mlflow.log_metrics(metrics)
        return value


def open_workers(config: dict[str, Any], splits: Splits) -> list[Worker]:
    """Return a worker for each space, whose study is made if need be. Call it under `search_lock`."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # it announces each trial
    storage = optuna.storages.RDBStorage(
        config["storage"],
        engine_kwargs={"connect_args": {"timeout": 60}} if config["storage"].startswith("sqlite") else {},
        heartbeat_interval=HEARTBEAT,
        grace_period=GRACE,
        heartbeat_stale_trial_callback=take_over,
    )
    workers, how = [], {"storage": storage, "direction": "maximize", "load_if_exists": True}
    for name, values in config["spaces"].items():
        pruner = optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=3)
        study = optuna.create_study(study_name=f"{config['parent_id']}/{name}", pruner=pruner, **how)
        workers.append(Worker(name, Space.from_dict(values), storage, study, splits, config))
        alive = study.get_trials(deepcopy=False, states=(*ENDED, *RUNNING, TrialState.WAITING))
        if not any("fixed_params" in trial.system_attrs for trial in alive):
            study.enqueue_trial(workers[-1].space.first())
    return workers


def work(workers: list[Worker], tell: Callable[[], None] = lambda: None) -> None:
    """Try what there is to try until all is over or the time is up; call `tell` after each trial.

    A process that finds nothing to begin waits for the others, and takes over what they leave by dying.
    """
    while left := [worker for worker in workers if not (worker.stop() or worker.is_over())]:
        end_lost(left)
        if ready := next((worker for worker in left if worker.has_room()), None):
            try:
                ready.study.optimize(ready.objective, n_trials=1, catch=(CutOff,))
            except ValueError as error:
                # This process slept, as laptops do. Its trial counts as lost and is tried again.
                if "Cannot tell a FAIL trial" not in str(error):
                    raise
        else:
            time.sleep(0.5)
        tell()


def end_lost(workers: list[Worker]) -> None:
    """Take over the trials of dead processes: those of this machine at once, of others when they count as lost."""
    for study, storage in [(worker.study, worker.storage) for worker in workers]:
        optuna.storages.fail_stale_trials(study)
        for trial in study.get_trials(states=RUNNING):
            gone = orphans.is_gone(trial.user_attrs.get("process", ""))
            try:
                if gone:
                    study.tell(trial.number, state=TrialState.FAIL)
                elif "process" not in trial.user_attrs:  # it has just begun; or its process died before any heartbeat
                    study_id = storage.get_study_id_from_name(study.study_name)
                    trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
                    storage.record_heartbeat(trial_id)  # the one that it will be missed by
                    storage.set_trial_user_attr(trial_id, "process", "")
            except (ValueError, UpdateFinishedTrialError):  # another process was faster
                continue
            if gone:
                take_over(study, trial)


def take_over(study: optuna.Study, trial: FrozenTrial) -> None:
    """Try the trial of a dead process again. Where its run has ended, only tell the study what came of it."""
    found, trial.user_attrs = trial.user_attrs, {}  # the next try has another process and run
    run = mlflow.get_run(found["run_id"]) if "run_id" in found else None
    done = run and run.info.status in ("FINISHED", "FAILED")
    if run and not done:
        mlflow.MlflowClient().set_terminated(run.info.run_id, "KILLED")
    if done or len(RETRY.retry_history(trial)) == 3:  # it may be what kills its process: then it counts as tried
        value = found.get("value") if done else None
        state = TrialState.PRUNED if value is None else TrialState.COMPLETE
        how = {"params": trial.params, "distributions": trial.distributions}
        study.add_trial(optuna.create_trial(state=state, value=value, **how))
    else:
        RETRY()(study, trial)


@contextmanager
def search_lock(storage: str) -> Iterator[None]:
    """Let one process at a time make runs and studies: of this machine, or of all that share PostgreSQL."""
    local = storage.startswith("sqlite")
    with store.store_lock(storage) if local else create_engine(storage, poolclass=NullPool).connect() as connection:
        if not local:  # the lock ends with the connection
            connection.exec_driver_sql("SELECT pg_advisory_lock(hashtext('support.search'))")
        yield


@contextmanager
def helpers(count: int, workers: list[Worker]) -> Iterator[None]:
    """Start so many processes that take part, and end them in any case. When this process dies, they end after the
    epoch or model that they are at. The config may hold a password: it goes through their standard input."""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri(), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "from support.search.worker import take_part; take_part()"]
    how = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "cwd": PROJECT_DIR, "env": environment}
    told, started = json.dumps({**workers[0].config, "path": sys.path}).encode() + b"\n", []
    with TemporaryFile() as log:
        try:
            for _ in range(count):
                # In a group of its own: an interrupt is for the notebook, which then ends its helpers.
                started.append(subprocess.Popen(command, bufsize=0, stderr=log, process_group=0, **how))
                with suppress(BrokenPipeError):  # it died at once
                    started[-1].stdin.write(told)
            yield
        finally:
            for helper in started:
                if code := helper.poll():
                    log.seek(0)
                    why = log.read().decode(errors="replace").strip().rpartition("\n")[2]
                    print(f"A helper of the search ended with exit code {code}. {remote.without_login(why)}")
                helper.kill()  # nothing is lost by that: what it was at is tried again
                helper.wait()
            end_lost(workers)


def take_part() -> None:
    """Take part in the search that the first line of standard input tells of."""
    config = json.loads(sys.stdin.readline())
    sys.path[:] = config["path"]  # it imports what the notebook can import
    store.connect()
    parent = mlflow.get_run(config["parent_id"])
    mlflow.set_experiment(experiment_id=parent.info.experiment_id)
    with catch_warnings(action="ignore", category=ExperimentalWarning):
        with search_lock(config["storage"]):
            workers = open_workers(config, provenance.splits_of(parent))
        work(workers)
