"""The trials of a search: a worker tries what waits in a study, and is one among any number.

    plan(study, space)
    Worker(study, "cnn", space, ...).work()

A space has an Optuna study of its own, since figures of a linear model say nothing about a CNN's params. All
of its trials wait in the study from the start, and each worker takes the next one. So their number is exact,
whoever works and whoever dies: a trial that was cut off waits again, with the same params.

A trial is a child run in MLflow. FINISHED: it was measured, as `val_f1`. KILLED with the tag `pruned`: it was
given up early. FAILED: its training raised an error. KILLED otherwise: it was cut off, and waits again.

Its params come from Optuna's TPE sampler, seeded with the search's seed and the trial's number. So one worker
finds the same each time, and several do not try the same. The pruner compares validation losses, epoch by
epoch, with the median of the finished trials.
"""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace

import mlflow
import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from support.data.corpus import Splits
from support.models import kinds as models
from support.search.space import Space
from support.tracking import orphans as ghosts
from support.tracking import provenance
from support.tracking.store import let_go

# What bad params can do to a training. Anything else, such as a lost store, ends the search.
FAILURES = (ArithmeticError, ValueError, RuntimeError, MemoryError)
MOST_TRIES = 3  # of a trial whose process dies: it may be the trial that kills it
WAITING, RUNNING = (TrialState.WAITING,), (TrialState.RUNNING,)
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


class Stopped(Exception):
    """The search's time is up, or the process that it belongs to is gone."""


@dataclass(frozen=True)
class Worker:
    """Tries what waits in the study of one space, until `stop` says that the search's time is up."""

    study: optuna.Study
    name: str
    space: Space
    splits: Splits
    parent_id: str
    lock: AbstractContextManager
    seed: int
    patience: int
    stop: Callable[[], bool]

    def work(self, tell: Callable[[], None]) -> None:
        """Try until nothing waits, nothing better comes, or `stop` says so; call `tell` after each trial."""
        while not self.stop() and (trial := self.claim()):
            try:
                self.run(trial)
            except Stopped:
                return
            tell()

    def claim(self) -> Trial | None:
        """Take the next trial that waits, and sign it with this process."""
        with self.lock:  # without it, two could take the same trial, or one too many
            if not self.study.get_trials(deepcopy=False, states=WAITING) or is_stale(self.study, self.patience):
                return None
            trial = self.study.ask()
            for name, value in provenance.process_tags().items():
                trial.set_user_attr(name, value)
        seed = np.random.SeedSequence([self.seed, trial.number]).generate_state(1)[0]
        self.study.sampler = optuna.samplers.TPESampler(seed=int(seed))
        return trial

    def run(self, trial: Trial) -> None:
        """Train and measure in a child run, and tell the study what came of it."""
        experiment_id = mlflow.get_run(self.parent_id).info.experiment_id
        state, value = TrialState.FAIL, None
        try:
            with mlflow.start_run(
                experiment_id=experiment_id,
                run_name=f"{self.name}-{trial.number}",
                nested=True,
                parent_run_id=self.parent_id,
                tags={"space": self.name, "trial": str(trial.number), **provenance.process_tags()},
            ) as run:
                trial.set_user_attr("run_id", run.info.run_id)
                try:
                    state, value = TrialState.COMPLETE, self.measure(trial)
                except optuna.TrialPruned:
                    state = TrialState.PRUNED
                    mlflow.set_tag("pruned", "true")
                    mlflow.end_run("KILLED")
                except FAILURES as error:
                    mlflow.set_tag("error", f"{type(error).__name__}: {error}"[:500])
                    mlflow.end_run("FAILED")
                except (KeyboardInterrupt, SystemExit, Stopped) as interrupt:
                    let_go(interrupt)
                    mlflow.end_run("KILLED")
                    raise
        except BaseException:
            put_back(self.study, trial.number)
            raise
        self.study.tell(trial, value, state)

    def measure(self, trial: Trial) -> float:
        """Give the F1 on the validation split of a model trained with the trial's params."""
        params = self.space.suggest(trial)
        mlflow.log_params(asdict(params))
        # The test split is not there to be seen: what measures on it measures on the validation split.
        splits = replace(self.splits, test=self.splits.val)
        mlflow.set_tags({"corpus": splits.corpus, "split_seed": splits.seed, "split_digest": self.splits.digest})

        def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
            value = -metrics["val_loss"]  # the study maximises
            mlflow.log_metrics({**metrics, "pruning_value": value}, step=epoch)
            if self.stop():
                raise Stopped
            if math.isfinite(value):  # else the training raises an error of its own
                trial.report(value, epoch)
                if trial.should_prune():
                    raise optuna.TrialPruned

        started = time.monotonic()
        trained = models.train(params, splits, on_epoch)
        mlflow.set_tag("training_seconds", round(time.monotonic() - started, 1))
        overall = trained.performance["overall"]
        mlflow.log_metrics({f"val_{name}": overall[name] for name in ("precision", "recall", "f1")})
        return overall["f1"]


def open_study(storage: str, name: str) -> optuna.Study:
    """Give the study of that name, new or not. `storage` is a database's URL. Call it under the lock."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it announces each trial
    patient = {"connect_args": {"timeout": 60}} if storage.startswith("sqlite") else {}
    return optuna.create_study(
        storage=optuna.storages.RDBStorage(storage, engine_kwargs=patient),
        study_name=name,
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=3),
        load_if_exists=True,
    )


def plan(study: optuna.Study, space: Space) -> None:
    """Let all trials wait that the study does not have yet. Call it under the lock."""
    there = [trial for trial in study.get_trials(deepcopy=False) if "again" not in trial.user_attrs]
    for number in range(len(there), space.trials):
        study.enqueue_trial(space.first() if number == 0 else {})


def lay_ghosts(study: optuna.Study) -> None:
    """Let the trials of dead processes wait again. Call it under the lock and between trials."""
    mine = provenance.process_tags()
    for trial in study.get_trials(deepcopy=False, states=RUNNING):
        owner = {name: trial.user_attrs.get(name) for name in mine}
        # This process is between trials. And who signs does so under the lock, before another can look.
        if owner != mine and all(owner.values()) and not ghosts.is_gone(owner):
            continue
        run = mlflow.get_run(trial.user_attrs["run_id"]) if "run_id" in trial.user_attrs else None
        if run and run.info.status == "FINISHED":  # it had only not told the study yet
            study.tell(trial.number, run.data.metrics["val_f1"])
        elif run and run.data.tags.get("pruned"):
            study.tell(trial.number, state=TrialState.PRUNED)
        elif run and run.info.status == "FAILED":
            study.tell(trial.number, state=TrialState.FAIL)
        else:
            if run and run.info.status == "RUNNING":
                mlflow.MlflowClient().set_terminated(run.info.run_id, "KILLED")
            put_back(study, trial.number, died=True)


def put_back(study: optuna.Study, number: int, died: bool = False) -> None:
    """Let a trial that was cut off wait again, with the same params, as a new trial; the old one failed."""
    trials = study.get_trials(deepcopy=False)
    deaths = trials[number].user_attrs.get("deaths", 0) + died
    done = any(trial.user_attrs.get("again") == number for trial in trials)  # and then cut off itself
    if deaths < MOST_TRIES and not done:
        params = trials[number].system_attrs.get("fixed_params", {}) | trials[number].params
        study.enqueue_trial(params, {"again": number, "deaths": deaths})
    study.tell(number, state=TrialState.FAIL)


def is_stale(study: optuna.Study, patience: int) -> bool:
    """Tell whether the last `patience` trials brought nothing better."""
    ended = sorted(study.get_trials(deepcopy=False, states=ENDED), key=lambda t: t.datetime_complete)
    values = [trial.value if trial.state == TrialState.COMPLETE else -math.inf for trial in ended]
    return len(values) > patience and max(values[-patience:]) <= max(values[:-patience])


def outcomes(study: optuna.Study) -> list[FrozenTrial]:
    """Give the trials that are over, without those that were cut off."""
    trials = study.get_trials(deepcopy=False)
    cut_off = {trial.user_attrs.get("again") for trial in trials}
    return [trial for trial in trials if trial.state.is_finished() and trial.number not in cut_off]
