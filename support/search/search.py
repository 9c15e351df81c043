"""Search for good params with Optuna: a parent run, a child run a trial, as many processes as one likes.

A metric on the validation split is sought; no trial sees the test split. The same call goes on where the
search was killed, interrupted or out of time, and returns the same run at once when all is tried. On another
machine, with the same MLFLOW_TRACKING_URI and `storage`, the same call takes part.

Optuna's studies are in a SQLite file beside the store, unless `storage` names a PostgreSQL database. That is
another one than MLflow's, since both keep their version in a table of the same name.
"""

import hashlib
import json
import os
import re
import sys
import time
from dataclasses import asdict
from typing import Any
from warnings import catch_warnings

import mlflow
import pandas as pd
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE
from optuna.distributions import FloatDistribution as Float
from optuna.distributions import IntDistribution as Int
from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState
from sqlalchemy import NullPool, create_engine
from sqlalchemy.exc import SQLAlchemyError
from tqdm import tqdm

from support.comparison.paired import paired
from support.config import stores_dir
from support.data.splits import Splits
from support.models.linear import LinearParams
from support.models.params import Params
from support.search import plots
from support.search.space import Space
from support.search.worker import Worker, helpers, open_workers, search_lock, work
from support.tracking.intervals import predictions_of
from support.tracking.orphans import this_process
from support.tracking.provenance import log_context
from support.tracking.runs import params_of
from support.tracking.store import EXPERIMENT, database_of, set_experiment
from support.tracking.training_run import start_run

KEY = "support.search"  # the tag by which the same call finds its parent run again
# On one core a linear trial takes about 3 s, a CNN's about 7: less than a minute in all for two workers.
SPACES = {
    "linear": Space(
        LinearParams(),
        {"C": Float(0.3, 100, log=True), "word_ngrams": Int(1, 3), "char_ngrams": Int(3, 6)},
        trials=12,
    ),
    "cnn": Space(
        Params(lr=1e-3, num_epochs=20, patience=5),
        {"lr": Float(3e-4, 5e-3, log=True), "dropout_p": Float(0.2, 0.7), "num_filters": Int(64, 256, step=64)},
        trials=4,
    ),
}


class SearchError(RuntimeError):
    """The search has measured nothing. Says why."""


def search(
    splits: Splits,
    spaces: dict[str, Space] = SPACES,
    workers: int = 1,
    seconds: float = 300,
    patience: int = 20,
    seed: int = 1234,
    name: str = "search",
    storage: str | None = None,
    experiment: str | None = None,
    metric: str = "f1",
) -> str:
    """Try what `spaces` hold, one space after the other, and return the parent run's id.

    The best has the highest `metric` on the validation split. A space is left early when `patience` trials
    brought nothing better, and all of it after so many seconds. This process is the first worker; the others
    are processes of their own. One worker finds the same every time, as far as the seconds suffice. Without
    `experiment` it is the one that was set, else `baselines`. Raise SearchError when no trial was measured.
    """
    if workers < 1 or seconds <= 0 or patience < 1 or not spaces:
        raise ValueError("A search needs a worker or more, some seconds, some patience and a space.")
    config = {
        "spaces": {space_name: space.to_dict() for space_name, space in spaces.items()},
        "seed": seed,
        "patience": patience,
        "metric": metric,
        "storage": _storage(storage),
        "until": time.monotonic() + seconds,  # the same clock in all processes of a machine
        "owner": this_process(),
    }
    if experiment or not (os.environ.get("MLFLOW_EXPERIMENT_ID") or os.environ.get("MLFLOW_EXPERIMENT_NAME")):
        set_experiment(experiment or EXPERIMENT)
    with catch_warnings(action="ignore", category=ExperimentalWarning):
        with search_lock(config["storage"]):
            config["parent_id"] = run_id = _parent(splits, config, name)
            own = open_workers(config, splits)
        if mlflow.get_run(run_id).info.status == "FINISHED" and all(worker.is_over() for worker in own):
            print("This search is over already.")
            return run_id
        total = sum(space.trials for space in spaces.values())
        with start_run(run_id=run_id), tqdm(total=total, unit="trial", file=sys.stdout) as bar:

            def tell() -> None:
                ended = [trial for worker in own for trial in worker.ended()]
                values = [trial.value for trial in ended if trial.state == TrialState.COMPLETE]
                if values and len(ended) > bar.n:
                    bar.set_postfix({f"best val_{metric}": f"{max(values):.3f}"}, refresh=False)
                    mlflow.log_metric(f"best_val_{metric}", max(values), step=len(ended))
                bar.update(len(ended) - bar.n)

            with helpers(workers - 1, own):
                work(own, tell)
            _summarise(own, splits, run_id, metric)
    return run_id


def trials(run_id: str) -> pd.DataFrame:
    """Return the trials of a search, best first: a row each, indexed by the child's run id.

    `outcome` is measured, pruned, failed, cut off, or running. Params that a trial does not have are missing.
    """
    parent = mlflow.get_run(run_id)
    children = mlflow.search_runs(
        [parent.info.experiment_id],
        f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{run_id}'",
        order_by=["attributes.start_time ASC"],
        output_format="list",
    )
    sought = f"val_{parent.data.params['metric']}"
    figures = list(dict.fromkeys([sought, "val_precision", "val_recall"]))
    rows = []
    for run in children:
        row = {"run_id": run.info.run_id, "trial": run.info.run_name, "space": run.data.tags.get("space")}
        ended = {"FINISHED": run.data.tags.get("outcome"), "FAILED": "failed", "KILLED": "cut off"}
        row["outcome"] = ended.get(run.info.status, "running")
        row |= {name: run.data.metrics.get(name) if row["outcome"] == "measured" else None for name in figures}
        row["seconds"] = (run.info.end_time - run.info.start_time) / 1000 if run.info.end_time else None
        rows.append(row | run.data.params)
    columns = None if rows else ["run_id", "trial", "space", "outcome", *figures, "seconds"]
    table = pd.DataFrame(rows, columns=columns).set_index("run_id")
    return table.sort_values(sought, ascending=False, kind="stable")


def best_params(run_id: str, space: str | None = None) -> Any:
    """Return the params with the highest metric on the validation split, of one space or of all.

    Raise SearchError where no trial was measured.
    """
    table = trials(run_id)
    measured = table[(table.outcome == "measured") & (table.space == (space or table.space))]
    if measured.empty:
        where = f" in the space {space!r}" if space else ""
        raise SearchError(f"The search {run_id} has measured no trial{where}.")
    return params_of(mlflow.get_run(measured.index[0]))


def verdict(run_id: str) -> str:
    """Return, a line a space, its best trial, the spread of all, and whether the best one beats the default.

    Both are compared on the same validation examples. These have chosen the best trial too: of many that are
    equally good, the luckiest is first, so only a clear win counts.
    """
    run, table, lines = mlflow.get_run(run_id), trials(run_id), []
    metric = run.data.params["metric"]
    for name, written in mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/spaces.json").items():
        measured = table[(table.outcome == "measured") & (table.space == name)]
        if measured.empty:
            continue
        figures, base = measured[f"val_{metric}"], asdict(Space.from_dict(written).base)
        is_default = (measured[list(base)] == [str(value) for value in base.values()]).all(axis=1)
        lines.append(
            f"{name}: the best of {len(figures)} measured trials is {measured.trial.iloc[0]}, val_{metric} "
            f"{figures.iloc[0]:.3f} (lowest {figures.min():.3f}, median {figures.median():.3f}). "
            + _against_default(measured.index[0], measured.index[is_default], metric)
        )
    return "\n".join(lines)


def _against_default(best: str, default: pd.Index, metric: str) -> str:
    if default.empty:
        return "The default was not measured."
    if best == default[0]:
        return "It is the default: nothing better was found."
    first, second = (predictions_of(mlflow.get_run(run_id), f"val_{metric}") for run_id in (default[0], best))
    if first is None or second is None:
        return "Whether it beats the default by more than chance is not known: not both keep their predictions."
    return f"Against the default: {paired(first, second, metric)}."


def _storage(url: str | None) -> str:
    """Return the URL of the studies' database. Raise ValueError for one that cannot be used."""
    if url is None:
        database = database_of(mlflow.get_tracking_uri())
        folder = database.parent if database else stores_dir()
        folder.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{(folder / 'searches.db').as_posix()}"
    if not url.startswith(("sqlite:", "postgresql")):
        raise ValueError("The storage is the URL of a SQLite or PostgreSQL database.")
    # Without a driver's name SQLAlchemy would look for another than the one that is installed.
    url = re.sub("^postgresql:", "postgresql+psycopg2:", url)
    try:
        create_engine(url, poolclass=NullPool).connect().close()
    except SQLAlchemyError as error:
        raise ValueError(f"The storage cannot be opened: {error.args[0]} Check its address and its login.") from None
    return url


def _parent(splits: Splits, config: dict[str, Any], name: str) -> str:
    """Return the id of the parent run: that of the same call before, or a new one. Call it under the lock."""
    spaces = {space: {**values, "trials": None} for space, values in config["spaces"].items()}
    call = json.dumps([name, splits.digest, config["seed"], config["metric"], spaces], sort_keys=True)
    key = hashlib.sha256(call.encode()).hexdigest()[:16]
    found = mlflow.search_runs(filter_string=f"tags.`{KEY}` = '{key}'", output_format="list")
    if found:
        return found[0].info.run_id
    with start_run(name) as run:
        log_context(splits)
        mlflow.log_params({"seed": config["seed"], "metric": config["metric"]})
        mlflow.log_dict(config["spaces"], "spaces.json")
        mlflow.set_tag(KEY, key)  # last: whoever finds the run finds all of this
    return run.info.run_id


def _summarise(workers: list[Worker], splits: Splits, run_id: str, metric: str) -> None:
    """Log to the parent run how the trials ended, and the pictures. Raise SearchError for no value."""
    table = trials(run_id)
    outcomes = dict(table.outcome.value_counts())
    mlflow.log_metrics({f"trials_{name.replace(' ', '_')}": count for name, count in outcomes.items()})
    counted = ", ".join(f"{count} {name}" for name, count in outcomes.items()) or "none begun"
    if "measured" not in outcomes:
        failed = table.index[table.outcome == "failed"]
        error = mlflow.get_run(failed[0]).data.tags.get("error") if len(failed) else None
        why = f"The first error is {error}" if error else "Give it more seconds"
        raise SearchError(f"The search {run_id} has measured no trial ({counted}). {why}.")
    best = f"Best val_{metric}: {table[f'val_{metric}'].iloc[0]:.3f}, {table.trial.iloc[0]}."
    mlflow.set_tag(MLFLOW_RUN_NOTE, f"A search on the {splits.corpus} corpus. Trials: {counted}. {best}")
    for worker in workers:
        for picture, figure in plots.draw(worker.study, worker.name, f"val_{metric}").items():
            path = f"plots/{worker.name}-{picture}.png"
            mlflow.log_figure(figure, path, save_kwargs={"bbox_inches": "tight"})
